"""Exported graphs against the metrics they came from, on real pictures."""

import subprocess
import sys
import zipfile

import onnx
import pytest
import torch
from conftest import EXAMPLES, random_network, tiny_config
from PIL import Image
from test_stages import lively

import aigciqa
from aigciqa import export
from aigciqa.config import MetricConfig, Transform
from aigciqa.errors import CheckpointError, InputError
from aigciqa.export import export_metric
from aigciqa.image import read_one
from aigciqa.onnx import OnnxMetric, OnnxNetwork
from aigciqa.scoring import score_items
from aigciqa.sources import Item
from aigciqa.transform import read_views
from aigciqa.weights import save_checkpoint

SLOW = pytest.mark.slow  # torch takes 10 to 20 seconds to write a packaged metric as ONNX

CONFIGS = {
    "none": tiny_config("none"),  # the papers' networks, tiny
    "full": tiny_config("full"),
    "token": tiny_config("full", backbone="test_vit", feature="token", transform=Transform(170, 160)),
    "stages": tiny_config(
        "full", feature="stages", cells=2, transform=Transform(72, 64, tiles=2), tile_backbone=True
    ),
}


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """Makes a metric by the name of a packaged or a tiny one."""

    def make(name):
        if name not in CONFIGS:
            return aigciqa.create_metric(name, device="cpu")
        config = CONFIGS[name]
        network = lively(config) if config.feature == "stages" else random_network(config)
        folder = tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(folder, config, network.state_dict())
        return aigciqa.create_metric(folder, device="cpu")

    return make


@pytest.fixture(scope="module")
def exported(metric, tmp_path_factory):
    """Exports once what several tests read."""
    done = {}

    def make(name, suffix=".onnx"):
        if (name, suffix) not in done:
            done[name, suffix] = export_metric(
                metric(name), tmp_path_factory.mktemp("exported") / f"m{suffix}"
            )
        return done[name, suffix]

    return make


@pytest.mark.slow
def test_the_engine_scores_files_with_an_exported_metric_as_with_the_metric(metric, exported, tmp_path):
    names = []
    for i, picture in enumerate(pictures()):
        names.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(names[-1])
    original = metric("stages")
    runs = OnnxMetric(exported("stages"))
    items = [Item(name, names[i % 2]) for i, name in enumerate([*names, "gone.png"])]
    expected, found = (list(score_items(m, items)) for m in (original, runs))
    assert [(r.picture, r.reference, r.error) for r in found] == [
        (r.picture, r.reference, r.error) for r in expected
    ]
    assert "gone.png" in found[-1].error
    low, high = original.score_range
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-4 * (high - low))
    with pytest.raises(InputError, match=r"predicts .*, not .beauty."):
        OnnxMetric(exported("stages"), "beauty")


def pictures():
    """Five unlike parts of real pictures, of different sizes and aspect ratios."""
    generated, reference = (read_one(EXAMPLES / name)[0] for name in ("gen.png", "ref.png"))
    return [
        generated,
        reference[:, 30:400],
        generated[:, 100:190, :200],
        255 - reference[:, :, 250:],
        reference[:, ::4, ::4],
    ]


def open_any(path):
    return torch.export.load(path).module() if zipfile.is_zipfile(path) else OnnxNetwork(path)


def config_in(path):
    if path.suffix == ".onnx":
        return OnnxNetwork(path).config
    extra_files = {"aigciqa.config": ""}
    torch.export.load(path, extra_files=extra_files)
    return MetricConfig.from_json(extra_files["aigciqa.config"])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        pytest.param("nr-aigciqa", ".onnx", marks=SLOW),
        ("stages", ".onnx"),
        ("none", ".pt2"),
        ("full", ".pt2"),
        pytest.param("none", ".onnx", marks=SLOW),
        pytest.param("full", ".onnx", marks=SLOW),
        pytest.param("token", ".onnx", marks=SLOW),
        pytest.param("token", ".pt2", marks=SLOW),
        pytest.param("stages", ".pt2", marks=SLOW),
        pytest.param("nr-aigciqa", ".pt2", marks=SLOW),
        pytest.param("fr-aigciqa", ".onnx", marks=SLOW),
        pytest.param("fr-aigciqa", ".pt2", marks=SLOW),
    ],
)
def test_scores_are_those_of_the_metric(name, suffix, metric, exported):
    original, path = metric(name), exported(name, suffix)
    network, config = open_any(path), original.config
    full = config.reference == "full"
    images = pictures()
    inputs = [images, images[2:] + images[:2]] if full else [images]
    scores = torch.stack(list(original.predict(*inputs).values()), 1)
    assert scores.std(0).min() > 0.05  # else any constant would pass

    seen = [torch.cat([read_views(x, config.transform) for x in column]) for column in inputs]
    low, high = config.score_range
    for count in (1, 2, 5):
        found = network(*(x[:count] for x in seen))
        assert found.shape == (count, len(config.dimensions)) and found.dtype == torch.float32
        assert (found - scores[:count]).abs().max() < 1e-4 * (high - low)
    assert config_in(path) == config


def test_onnx_file(metric, exported):
    path = exported("stages")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)

    def described(values):
        return {
            v.name: (
                v.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        }

    pictures = (onnx.TensorProto.UINT8, ["N", 5, 3, 64, 64])
    assert described(model.graph.input) == {"generated": pictures, "reference": pictures}
    assert described(model.graph.output) == {"scores": (onnx.TensorProto.FLOAT, ["N", 2])}

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    config = metric("stages").config
    assert metadata["aigciqa.config"] == config.to_json()
    assert metadata["aigciqa.sha256"] == config.sha256
    assert metadata["aigciqa.version"] == aigciqa.__version__
    for fact in ("uint8 (N, 5, 3, 64, 64)", "reference", "2 x 2 tiles", "quality, authenticity"):
        assert fact in metadata["aigciqa.preprocessing"]


@pytest.mark.parametrize(("name", "suffix"), [("none", ".onnx"), ("full", ".pt2")])
def test_a_file_holds_the_weights_once_and_no_paths_of_the_machine(name, suffix, metric, exported):
    path = exported(name, suffix)
    weights = sum(p.numel() for p in metric(name).parameters()) * 4
    graph = 3_000_000 if suffix == ".onnx" else 2_000_000
    assert weights < path.stat().st_size < weights + graph
    if suffix == ".onnx":
        content = path.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    for part in (str(EXAMPLES.parent), "model.py", "site-packages"):
        assert part.encode() not in content


def test_no_resizing_inside(exported):
    assert "Resize" not in {node.op_type for node in onnx.load(exported("stages")).graph.node}


def test_precision_and_device_of_the_metric_do_not_matter(metric, exported, tmp_path):
    original = metric("full").double()
    path = export_metric(original, tmp_path / "no suffix", format="torch")
    seen = read_views(EXAMPLES / "gen.png", original.config.transform)
    expected = open_any(exported("full", ".pt2"))(seen, seen)
    torch.testing.assert_close(open_any(path)(seen, seen), expected)
    assert next(original.parameters()).dtype == torch.float64


@pytest.mark.slow
def test_opset(metric, tmp_path):
    path = export_metric(metric("none"), tmp_path / "m.onnx", opset=21)
    assert [x.version for x in onnx.load(path).opset_import if not x.domain] == [21]
    with pytest.raises(InputError, match="does not write opset 999"):
        export_metric(metric("none"), tmp_path / "m.onnx", opset=999)


# -- what is refused


@pytest.mark.parametrize(("difference", "refused"), [(1e-4, False), (1e-3, True), (float("nan"), True)])
def test_a_difference_is_refused_and_nothing_is_written(difference, refused, metric, tmp_path, monkeypatch):
    path = tmp_path / "m.pt2"
    path.write_bytes(b"an older one")
    original, forward = metric("none"), export._Graph.forward

    def unlike_the_trace(self, generated, reference=None):
        return forward(self, generated, reference) + (0 if torch.compiler.is_exporting() else difference)

    monkeypatch.setattr(export._Graph, "forward", unlike_the_trace)
    if refused:
        with pytest.raises(CheckpointError, match=r"not written: .* of the score range away from PyTorch"):
            export_metric(original, path)
    else:
        export_metric(original, path)
    assert (path.read_bytes() == b"an older one") == refused
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]


@pytest.mark.parametrize(
    ("name", "file", "options", "message"),
    [
        ("pr-aigciqa", "m.onnx", {}, "pr-aigciqa cannot be exported: .* picture by picture"),
        ("none", "m.bin", {}, r"name it \.onnx or \.pt2"),
        ("none", "m.onnx", {"format": "tflite"}, "format 'onnx' or 'torch'"),
        ("none", "m.onnx", {"opset": 11}, "opset must be at least 18, not 11"),
        ("none", "m.pt2", {"opset": 20}, "opset belongs to ONNX"),
        ("none", "missing/m.onnx", {}, "cannot write into .*missing: No such file"),
        ("none", "", {"format": "onnx"}, "is a folder; name the file"),
    ],
)
def test_refused(name, file, options, message, metric, tmp_path):
    with pytest.raises(InputError, match=message):
        export_metric(metric(name), tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_full_disk(metric, tmp_path):
    """A limit on the size of files stops writing like a full disk does."""
    pytest.importorskip("resource")
    folder = metric("none")._source.folder
    code = (
        "import resource, signal, sys, aigciqa\n"
        "from aigciqa.export import export_metric\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    export_metric(aigciqa.create_metric(sys.argv[1], device='cpu'), sys.argv[2])\n"
        "except aigciqa.InputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "m.pt2"
    done = subprocess.run([sys.executable, "-c", code, folder, path], capture_output=True, text=True)
    assert f"cannot write {path}: " in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_exported_metrics(exported, tmp_path):
    content = exported("stages").read_bytes()
    path = tmp_path / "m.onnx"
    with pytest.raises(CheckpointError, match=r"m\.onnx is not a file"):
        OnnxNetwork(path)
    for damaged in (b"", b"not ONNX", content[:1000], content[: len(content) // 2], content[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"m\.onnx"):
            OnnxNetwork(path)

    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"not an exported metric: .* no 'aigciqa\.config'"):
        OnnxNetwork(path)
    onnx.helper.set_model_props(model, {"aigciqa.config": '{"format": 2}'})
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="upgrade aigciqa"):
        OnnxNetwork(path)


def test_wrong_inputs(exported):
    nr, fr = OnnxNetwork(exported("none")), OnnxNetwork(exported("stages"))
    small = torch.zeros(2, 5, 3, 64, 64, dtype=torch.uint8)
    whole = small[:, 0]
    for network, inputs, message in (
        (nr, (whole, whole), "judges a picture alone"),
        (fr, (small,), "compares with a reference"),
        (
            fr,
            (small.float(), small),
            r"generated must be uint8 \(N, 5, 3, 64, 64\) .* not float32 \(2, 5, 3, 64, 64\)",
        ),
        (
            fr,
            (small, small[..., 1:]),
            r"reference must be uint8 \(N, 5, 3, 64, 64\) .* not uint8 \(2, 5, 3, 64, 63\)",
        ),
        (fr, (small[:, 0], small), r"not uint8 \(2, 3, 64, 64\)"),
        (fr, (small[0], small), r"not uint8 \(5, 3, 64, 64\)"),
        (nr, (whole[:0],), r"not uint8 \(0, 3, 64, 64\)"),
        (fr, (small, small[:1]), "2 pictures but 1 references"),
    ):
        with pytest.raises(InputError, match=message):
            network(*inputs)


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(module, metric, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # what makes an import fail
    with pytest.raises(InputError, match=rf"needs {module}; pip install 'aigciqa\[export\]'"):
        export_metric(metric("none"), tmp_path / "m.onnx")
    if module == "onnxruntime":
        with pytest.raises(InputError, match=rf"needs {module}; pip install"):
            OnnxNetwork(tmp_path / "m.onnx")
