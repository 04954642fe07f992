"""Hostile ONNX files, made from an honest little one."""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from conftest import tiny_config
from onnx import TensorProto as T
from onnx import helper, numpy_helper

CONFIG = tiny_config(bounded=True)
SIDE = CONFIG.transform.crop
MANY = 1 << 40


def model(
    nodes: list[Any] | None = None,
    constants: dict[str, Any] | None = None,
    inputs: Any = (("generated", T.UINT8, ["N", 3, SIDE, SIDE]),),
    outputs: Any = (("scores", T.FLOAT, ["N", 2]),),
    config: Any = CONFIG,
    **options: Any,
) -> onnx.ModelProto:
    """Brightness as two scores from 0 to 5; `nodes` come before the output, as the tensor "mean" of shape (N, 1)."""
    values = {"axes": np.array([1, 2, 3]), "one": np.array([1]), "scale": np.array([5, 4], np.float32) / 255}
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (values | (constants or {})).items()]
    begin = [
        helper.make_node("Cast", ["generated"], ["float"], to=T.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("Unsqueeze", ["means", "one"], ["mean"]),
    ]
    end = [] if nodes is not None else [helper.make_node("Mul", ["mean", "scale"], ["scores"])]
    graph = helper.make_graph(
        begin + (nodes or []) + end,
        "graph",
        [helper.make_tensor_value_info(*x) for x in inputs],
        [helper.make_tensor_value_info(*x) for x in outputs],
        tensors,
    )
    options = {"ir_version": 8, "opset_imports": [helper.make_opsetid("", 18)]} | options
    made = helper.make_model(graph, **options)
    text = config if isinstance(config, str) else config.to_json()
    helper.set_model_props(made, {"aigciqa.config": text})
    return made


def scored(*nodes: Any, of: str = "other", **constants: Any) -> onnx.ModelProto:
    """A model whose score is the honest one plus the sum of the tensor `of`."""
    return model(
        [
            *nodes,
            helper.make_node("Cast", [of], ["asfloat"], to=T.FLOAT),
            helper.make_node("ReduceSum", ["asfloat"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["honest"]),
            helper.make_node("Add", ["honest", "sum"], ["scores"]),
        ],
        constants,
    )


def _edited(edit: Callable[[Any], Any]) -> onnx.ModelProto:
    made = copy.deepcopy(model())
    edit(made)
    return made


def _loop() -> Any:
    """`while True`, with one value that is carried."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", T.INT64, []),
            helper.make_tensor_value_info("go", T.BOOL, []),
            helper.make_tensor_value_info("a", T.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", T.BOOL, []), helper.make_tensor_value_info("b", T.FLOAT, None)],
    )
    return helper.make_node("Loop", ["", "true", "scale"], ["other"], body=body)


def _if(depth: int) -> Any:
    def branch(name: str) -> Any:
        inner = _if(depth - 1) if depth else helper.make_node("Identity", ["scale"], ["other"])
        return helper.make_graph([inner], name, [], [helper.make_tensor_value_info("other", T.FLOAT, [2])])

    return helper.make_node("If", ["true"], ["other"], then_branch=branch("a"), else_branch=branch("b"))


def _function(model: Any) -> None:
    """A function that calls itself, beside an operator that is it."""
    inner = helper.make_node("Again", ["x"], ["y"], domain="ours")
    ours = [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)]
    model.functions.append(helper.make_function("ours", "Again", ["x"], ["y"], [inner], ours))
    model.opset_import.append(ours[1])


def _elsewhere(tensor: Any, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)


def _external_constant() -> Any:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    _elsewhere(tensor, "../../../../etc/passwd")
    return helper.make_node("Constant", [], ["other"], value=tensor)


def _sparse() -> Any:
    one = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    where = numpy_helper.from_array(np.zeros(1, np.int64), "where")
    return helper.make_sparse_tensor(one, where, [MANY])


def _huge(model: Any) -> None:
    model.graph.initializer[2].dims[:] = [MANY]


def refused() -> Iterator[tuple[str, onnx.ModelProto, str]]:
    """Models that must not be opened, and what the message must say."""
    true = np.array(True)
    node = helper.make_node
    yield "loop", scored(_loop(), true=true), "control flow .'Loop'"
    yield "if", scored(_if(0), true=true), "control flow .'If'"
    yield "if-in-if", scored(_if(3), true=true), "control flow .'If'"
    yield "function", _edited(_function), "holds functions"
    custom = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    gelu = node("Gelu", ["scale"], ["other"], domain="com.microsoft")
    yield "microsoft", _with(scored(gelu), opset=custom), "'Gelu' of 'com.microsoft'"
    yield "custom", scored(node("Run", ["scale"], ["other"], domain="evil\x1b[2J")), r"'Run' of 'evil\\x1b"
    yield "operator", scored(node("Nothing", ["scale"], ["other"])), "onnxruntime .* cannot open it"
    for random in ("RandomNormalLike", "RandomUniformLike", "Bernoulli"):
        yield random, scored(node(random, ["scale"], ["other"])), "draws random numbers"
    yield "external", _edited(lambda m: _elsewhere(m.graph.initializer[2], "/etc/passwd")), "from other files"
    yield "external-up", scored(_external_constant()), "from other files"
    sparse = scored(node("Identity", ["sparse"], ["other"]))
    sparse.graph.sparse_initializer.append(_sparse())
    yield "sparse", sparse, "sparse weights"
    yield "sparse-constant", scored(node("Constant", [], ["other"], sparse_value=_sparse())), "sparse weights"
    yield "huge", _edited(_huge), "onnxruntime .* cannot open it"
    yield "negative", _edited(lambda m: m.graph.initializer[2].dims.append(-3)), "cannot open it"
    yield "cycle", scored(node("Add", ["other", "scale"], ["other"])), "cannot open it"
    yield "missing", scored(node("Add", ["nothing", "scale"], ["other"])), "cannot open it"
    yield "no-graph", _edited(lambda m: m.ClearField("graph")), "cannot open it"
    yield "opset", _with(model(), opset=[helper.make_opsetid("", 9999)]), "cannot open it"
    yield "no-opset", _edited(lambda m: m.ClearField("opset_import")), "cannot open it"
    yield "ir", model(ir_version=9999), "cannot open it"

    views = ("generated", T.UINT8, ["N", 3, SIDE, SIDE])
    two = (views, ("reference", T.UINT8, ["N", 3, SIDE, SIDE]))
    for name, inputs, says in (
        ("two-inputs", two, "its inputs are generated, reference, not generated"),
        (
            "float-input",
            (("generated", T.FLOAT, ["N", 3, SIDE, SIDE]),),
            "generated is tensor.float. of shape",
        ),
        (
            "small-input",
            (("generated", T.UINT8, ["N", 3, 32, 32]),),
            r"\['N', 3, 32, 32\], not tensor.uint8.",
        ),
        (
            "free-input",
            (("generated", T.UINT8, ["N", "C", "H", "W"]),),
            "generated is tensor.uint8. of shape",
        ),
        ("one-image", (("generated", T.UINT8, [1, 3, SIDE, SIDE]),), "for any N"),
        ("views", (("generated", T.UINT8, ["N", 5, 3, SIDE, SIDE]),), "generated is|cannot open it"),
        ("no-shape", (("generated", T.UINT8, None),), "generated is|cannot open it"),
    ):
        yield name, model(inputs=inputs), says
    renamed = _edited(lambda m: setattr(m.graph.input[0], "name", "image"))
    renamed.graph.node[0].input[0] = "image"
    yield "renamed-input", renamed, "its inputs are image, not generated"
    yield "no-input", model([node("Identity", ["fixed"], ["scores"])], {"fixed": np.ones((3, 2), np.float32)},
                            inputs=()), "its inputs are none|cannot open it"  # fmt: skip
    full = CONFIG.with_(reference="full")
    yield "no-reference", model(config=full), "its inputs are generated, not generated, reference"
    for name, kind in (("half", T.FLOAT16), ("double", T.DOUBLE), ("integer", T.INT64), ("text", T.STRING)):
        nodes = [node("Mul", ["mean", "scale"], ["honest"]), node("Cast", ["honest"], ["scores"], to=kind)]
        yield name, model(nodes, outputs=(("scores", kind, ["N", 2]),)), "scores is tensor"
    three = {"scale": np.ones(3, np.float32)}
    yield "three", _with(model(outputs=(("scores", T.FLOAT, ["N", 3]),)), constants=three), "scores is tensor"
    yield (
        "flat",
        model([node("Identity", ["means"], ["scores"])], outputs=(("scores", T.FLOAT, ["N"]),)),
        "scores",
    )
    deep = [node("Mul", ["mean", "scale"], ["honest"]), node("Unsqueeze", ["honest", "one"], ["scores"])]
    yield "deep", model(deep, outputs=(("scores", T.FLOAT, ["N", 1, 2]),)), "scores is tensor"
    fixed = [node("Identity", ["fixed"], ["scores"])]
    constant = {"fixed": np.ones((1, 2), np.float32)}
    yield "fixed", model(fixed, constant, outputs=(("scores", T.FLOAT, [1, 2]),)), "for any N"
    split = [node("Mul", ["mean", "scale"], ["scores"]), node("Identity", ["mean"], ["more"])]
    outputs = (("scores", T.FLOAT, ["N", 2]), ("more", T.FLOAT, ["N", 1]))
    yield "two-outputs", model(split, outputs=outputs), "its outputs are scores, more, not scores"
    named = model([node("Mul", ["mean", "scale"], ["score"])], outputs=(("score", T.FLOAT, ["N", 2]),))
    yield "renamed-output", named, "its outputs are score, not scores"
    yield "no-output", _edited(lambda m: m.graph.ClearField("output")), "its outputs are none|cannot open it"
    sequence = scored(node("Identity", ["scale"], ["other"]))
    sequence.graph.node[-1].output[0] = "found"
    sequence.graph.node.append(node("SequenceConstruct", ["found"], ["scores"]))
    sequence.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("scores", T.FLOAT, ["N", 2]))
    yield "sequence", sequence, "scores is seq.tensor.float.."

    text = CONFIG.to_json()
    for name, config, says in (
        ("no-json", "{", "not readable as JSON"),
        ("nested", "[" * 100_000, "not readable as JSON"),
        ("large", text + " " * (1 << 20), "so it is no config"),
        ("other-json", "[]", "not an aigciqa config"),
        ("unknown-key", text.replace('"cells"', '"cell"'), "unknown keys"),
        ("partial", CONFIG.with_(reference="partial"), "partial reference"),
        ("nan-range", text.replace("5.0", "NaN"), "score_range has the wrong type"),
        ("name", text.replace("tiny-none", "\\u001b[2J"), "name must be"),
    ):
        yield name, model(config=config), says
    yield "no-config", _edited(lambda m: m.ClearField("metadata_props")), "no 'aigciqa.config'"
    yield "config-twice", _edited(lambda m: m.metadata_props.append(m.metadata_props[0])), "a key twice"
    more = CONFIG.with_(dimensions=("quality", "authenticity", "beauty"))
    yield "more-dimensions", model(config=more), "scores is tensor"


def _with(made: Any, opset: Any = None, constants: Any = None) -> Any:
    if opset:
        made.ClearField("opset_import")
        made.opset_import.extend(opset)
    for tensor in made.graph.initializer:
        if constants and tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return made


def failing() -> Iterator[tuple[str, onnx.ModelProto, str]]:
    """Models that can be opened, perhaps, but must not score; and what the message must say."""
    node = helper.make_node

    def always(value: float) -> onnx.ModelProto:
        return scored(node("Identity", ["added"], ["other"]), added=np.array([value], np.float32))

    yield "99", always(99), "gives a score of 99 on a scale of 0 to 5"
    yield "below", always(-2), "gives a score of -2 on a scale of 0 to 5, which its config says"
    far = always(99)
    helper.set_model_props(far, {"aigciqa.config": CONFIG.with_(bounded=False).to_json()})
    yield "99-unbounded", far, "gives a score of 99 on a scale of 0 to 5; not used"
    yield "nan", always(float("nan")), "gives a score of nan"
    yield "infinite", always(float("inf")), "gives a score of (inf|nan)"
    yield "overflow", scored(node("Exp", ["big"], ["other"]), big=np.array([1e9], np.float32)), "of inf"
    lost = node("Sub", ["mean", "mean"], ["zero"]), node("Div", ["zero", "zero"], ["other"])
    yield "zero-by-zero", scored(*lost), "gives a score of nan"
    # more images out than in: declared (N, 2) and (M, 2), which nobody can tell beforehand
    two = {"twice": np.array([2, 1])}
    tile = [node("Tile", ["mean", "twice"], ["more"]), node("Mul", ["more", "scale"], ["scores"])]
    yield (
        "more-rows",
        model(tile, two, outputs=(("scores", T.FLOAT, ["M", 2]),)),
        r"float32 of shape \(2, 2\)",
    )
    yield "no-rows", model([node("Slice", ["mean", "far", "far"], ["none"]),
                            node("Mul", ["none", "scale"], ["scores"])], {"far": np.array([9])},
                           outputs=(("scores", T.FLOAT, ["M", 2]),)), r"shape \(0, 2\)"  # fmt: skip
    bytes_ = {"n": np.array([MANY // 4])}
    yield "constant", scored(node("ConstantOfShape", ["n"], ["other"]), **bytes_), "cannot (run|open) it"
    # known only when it runs: the brightness of the image, which is not constant
    known = [node("Cast", ["means"], ["whole"], to=T.INT64), node("Mul", ["whole", "zeros"], ["nought"])]
    count = [*known, node("Add", ["nought", "n"], ["size"])]
    late = bytes_ | {"zeros": np.array([0])}
    for name in ("ConstantOfShape", "Expand", "Tile"):
        inputs = {"ConstantOfShape": ["size"], "Expand": ["unit", "size"], "Tile": ["unit", "size"]}[name]
        values = late | {"unit": np.ones(1, np.float32)}
        yield name, scored(*count, node(name, inputs, ["other"]), **values), "cannot run it"
    ranged = [node("Squeeze", ["size"], ["end"]), node("Range", ["start", "end", "step"], ["other"])]
    limits = late | {"start": np.array(0), "step": np.array(1)}
    yield "Range", scored(*count, *ranged, **limits), "cannot run it"
    names = ["mean", *(f"x{i}" for i in range(40)), "other"]
    doubled = [node("Concat", [a, a], [b], axis=1) for a, b in pairwise(names)]
    yield "doubled", scored(*doubled), "cannot run it"
    pad = [node("Pad", ["means", "pads"], ["other"])]
    yield "Pad", scored(*pad, pads=np.array([0, MANY])), "cannot (run|open) it"
    resize = [node("Resize", ["mean", "", "scales"], ["other"], mode="nearest")]
    yield "Resize", scored(*resize, scales=np.array([1, 2e10], np.float32)), "cannot (run|open) it"
    yield "Gather", scored(*count, node("Gather", ["scale", "size"], ["other"]), **late), "cannot run it"
    wrong = late | {"n": np.array([7])}
    yield "Reshape", scored(*count, node("Reshape", ["scale", "size"], ["other"]), **wrong), "cannot run it"
    batch = [node("Concat", ["mean", "fixed"], ["other"], axis=1)]
    yield "two-only", scored(*batch, fixed=np.ones((2, 1), np.float32)), "cannot run it|cannot open it"
