"""States of PyTorch around a metric, and what others do to modules that hold one: the scores stay."""

import copy
import multiprocessing
import os
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import timm.layers
import timm.utils
import torch
from conftest import EXAMPLES, random_network, tiny_config
from torch import nn

import aigciqa
from aigciqa import ambient
from aigciqa.config import Transform
from aigciqa.model import Network
from aigciqa.scoring import score_items
from aigciqa.sources import Item
from aigciqa.training.feed import SharedForward
from aigciqa.weights import save_checkpoint

CPU = torch.device("cpu")
GENERATED, REFERENCE = str(EXAMPLES / "gen.png"), str(EXAMPLES / "ref.png")
NEW = hasattr(torch.backends.mkldnn, "matmul") and hasattr(torch.backends.mkldnn.matmul, "fp32_precision")


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def precision(name):
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def newer_precision():
    if not NEW:
        pytest.skip("this torch has one setting")
    try:
        torch.backends.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.fp32_precision = "none"


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def flushed():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


AUTOCAST = {
    "autocast-bf16": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast-fp16": partial(torch.autocast, "cpu", torch.float16),
}
STATES = AUTOCAST | {
    "inference": torch.inference_mode,
    "no-grad": torch.no_grad,
    "dtype-float64": partial(default_dtype, torch.float64),
    "dtype-bfloat16": partial(default_dtype, torch.bfloat16),
    "dtype-float16": partial(default_dtype, torch.float16),
    "default-device": default_device,
    "within-device": partial(torch.device, "meta"),
    "medium": partial(precision, "medium"),
    "high": partial(precision, "high"),
    "newer": newer_precision,
    "deterministic": deterministic,
    "without-onednn": partial(torch.backends.mkldnn.flags, enabled=False),
    "flush-denormal": flushed,
}


def network_of(config):
    if not config.transform.tiles:
        return random_network(config)
    torch.manual_seed(0)
    return Network(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints of the kinds of network that there are, of random weights."""
    kinds = {
        "resnet": {"backbone": "test_resnet"},
        "vit": {"backbone": "test_vit", "transform": Transform(resize=160, crop=160)},
        "partial": {"reference": "partial"},
        "stages": {
            "reference": "full",
            "feature": "stages",
            "transform": Transform(resize=72, crop=64, tiles=2),
        },
    }
    made = {}
    for name, changes in kinds.items():
        config = tiny_config(**changes)
        made[name] = tmp_path_factory.mktemp(name)
        save_checkpoint(made[name], config, network_of(config).state_dict())
    return made


METRICS = ["nr-aigciqa", "fr-aigciqa", "pr-aigciqa", "resnet", "vit", "partial", "stages"]
SLOW = {"fr-aigciqa", "pr-aigciqa"}  # of which each is as the first, with a reference
LARGE = {"nr-aigciqa", "levit_128s", "vgg11_bn", "mobilenetv3_small_050"}  # which take seconds for each test


def matrix(names, columns, quick):
    """Pairs of both. Large networks without a `quick` column are slow tests; `SLOW` have quick columns only."""
    for name in names:
        for column in columns:
            if name not in SLOW or column in quick:
                slow = name in SLOW or (name in LARGE and column not in quick)
                yield pytest.param(name, column, marks=[pytest.mark.slow] * slow)


def source(name, folders):
    return folders.get(name, name)


def given(metric):
    return [GENERATED] if metric.metric_mode == "NR" else [GENERATED, REFERENCE]


def tensors(metric, images):
    return [images] if metric.metric_mode == "NR" else [images, images.flip(0)]


@pytest.fixture(scope="module")
def images():
    """Made before anything surrounds them."""
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, (170, 180), mode="bicubic").clamp(0, 1)


def entry_points(metric, images):
    """A number or more by each of the ways to a score."""
    from aigciqa.integrations.ignite import AigciqaScore as OfIgnite
    from aigciqa.integrations.torchmetrics import AigciqaScore as OfTorchmetrics

    paths, batch = given(metric), tensors(metric, images)
    references = paths[1] if len(paths) > 1 else None
    yield "call", metric(*batch)
    yield "file", metric(*paths)
    yield "predict", torch.stack(list(metric.predict(*batch).values()))
    yield "rank", aigciqa.rank([GENERATED, REFERENCE], references, metric=metric).scores
    yield "score_files", [list(row.scores.values()) for row in metric.score_files(paths[0], references)]
    engine = score_items(metric, [Item(*paths)], workers=1)
    yield "engine", [list(row.scores.values()) for row in engine]
    mean = OfTorchmetrics(metric)
    mean.update(*batch)
    yield "torchmetrics", mean.compute()
    mean = OfIgnite(metric)
    mean.update(tuple(batch) if len(batch) > 1 else batch[0])
    yield "ignite", mean.compute()


@pytest.fixture(scope="module")
def expected(folders, images):
    found = {}

    def of(name):
        if name not in found:
            metric = aigciqa.create_metric(source(name, folders), device="cpu")
            found[name] = {way: np.asarray(value) for way, value in entry_points(metric, images)}
        return found[name]

    return of


def agree(found, wanted, what, within=5e-4):
    """To 1e-4 of a range of 5."""
    for name, value in found:
        value = value.cpu().tolist() if isinstance(value, torch.Tensor) else value
        assert np.allclose(value, wanted[name], rtol=0, atol=within), (what, name)


@pytest.mark.parametrize(
    "name, state", matrix(METRICS, STATES, {"autocast-bf16", "inference", "default-device"})
)
def test_scores_are_those_without_it(name, state, folders, images, expected):
    """By every way to a score; a metric that was loaded before, and one that is first used within."""
    loaded = aigciqa.create_metric(source(name, folders), device="cpu").load()
    wanted = expected(name)
    with STATES[state]():
        fresh = aigciqa.create_metric(source(name, folders), device="cpu")
        agree(entry_points(loaded, images), wanted, "loaded")
        agree(entry_points(fresh, images), wanted, "first used within")
    agree(entry_points(fresh, images), wanted, "afterwards")
    assert all(p.dtype == torch.float32 and p.device == CPU for p in fresh.parameters())
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture(scope="module")
def maps(folders):
    names = {
        "nr-aigciqa": ["windows", "gradient"],
        "stages": ["windows"],
        "resnet": ["windows", "occlusion", "gradient"],
    }
    found = {}
    for name, methods in names.items():
        metric = aigciqa.create_metric(source(name, folders), device="cpu")
        found[name] = {method: metric.explain(*given(metric), method=method) for method in methods}
    return found


@pytest.mark.parametrize("name, state", matrix(["nr-aigciqa", "stages", "resnet"], STATES, {"autocast-bf16"}))
def test_maps_are_those_without_it(name, state, folders, maps):
    metric = aigciqa.create_metric(source(name, folders), device="cpu")
    with STATES[state]():
        for method, expected in maps[name].items():
            found = metric.explain(*given(metric), method=method)
            assert np.allclose(found.map, expected.map, rtol=0, atol=1e-3), method
            assert abs(found.score - expected.score) <= 5e-4


def gradient_of(metric, images, around=nullcontext, backward_within=False):
    images = images.clone().requires_grad_()
    with ExitStack() as stack:
        stack.enter_context(around())
        score = metric(*tensors(metric, images)).sum()
        if not backward_within:
            stack.close()
        score.backward()
    return images.grad


@pytest.mark.parametrize("backward_within", [False, True])
@pytest.mark.parametrize(
    "name, state",
    matrix(
        METRICS,
        [*AUTOCAST, "dtype-float64", "dtype-float16", "within-device", "medium"],
        {"autocast-bf16"},
    ),
)
def test_gradients_are_those_without_it(name, state, backward_within, folders, images):
    """Also where `backward` is called within, which by itself would cast the products of the gradients."""
    metric = aigciqa.create_metric(source(name, folders), device="cpu", as_loss=True)
    expected = gradient_of(metric, images)
    found = gradient_of(metric, images, STATES[state], backward_within)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_parameters_that_learn_get_their_gradients_under_autocast(folders, images):
    metric = aigciqa.create_metric(folders["vit"], device="cpu", as_loss=True).requires_grad_()
    found = []
    for around in (nullcontext, AUTOCAST["autocast-bf16"]):
        metric.zero_grad()
        with around():
            score = metric(images).sum()
            score.backward(retain_graph=True)
            score.backward()
        found.append({name: p.grad.clone() for name, p in metric.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-3, atol=1e-4 * gradient.abs().max()), name


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m(x),
        lambda m, x: m.load(),
        lambda m, x: m.load().to(torch.float64).to(torch.float32),
        lambda m, x: list(m.score_files(GENERATED)),
        lambda m, x: m.explain(GENERATED),
        lambda m, x: nn.ModuleList([m]).half().float(),
    ],
    ids=["call", "load", "to", "score_files", "explain", "holder"],
)
def test_inference_mode_leaves_no_tensors_behind(use, folders, images):
    metric = aigciqa.create_metric(folders["resnet"], device="cpu", as_loss=True)
    with torch.inference_mode():
        use(metric, images)
    assert not any(t.is_inference() for t in metric.state_dict().values())
    assert gradient_of(metric, images).abs().sum() > 0


def test_copies_made_in_inference_mode_give_gradients(folders, images):
    metric = aigciqa.create_metric(folders["resnet"], device="cpu", as_loss=True).load()
    with torch.inference_mode():
        copied = copy.deepcopy(nn.ModuleList([metric]))[0]
    assert torch.equal(gradient_of(copied, images), gradient_of(metric, images))


def test_no_gradients_where_they_are_switched_off(folders, images):
    metric = aigciqa.create_metric(folders["resnet"], device="cpu", as_loss=True)
    for off in (torch.no_grad, torch.inference_mode):
        with off(), AUTOCAST["autocast-bf16"]():
            assert not metric(
                images.clone().requires_grad_(not torch.is_inference_mode_enabled())
            ).requires_grad


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_first_use_in_a_fork_within_it(folders, images, expected):
    def child(queue, metric):
        with AUTOCAST["autocast-bf16"](), torch.inference_mode():
            queue.put(metric(images).tolist())

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    metric = aigciqa.create_metric(folders["resnet"], device="cpu")
    with precision("medium"), ambient.neutral(CPU):  # as if another thread computed just then
        process = context.Process(target=child, args=(queue, metric), daemon=True)
        process.start()
    found = queue.get(timeout=600)
    process.join(60)
    assert np.allclose(found, expected("resnet")["call"], rtol=0, atol=5e-4)


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "state", ["autocast-bf16", "inference", "dtype-float64", "dtype-float16", "default-device"]
)
def test_exports_are_those_without_it(state, suffix, folders, tmp_path):
    """`export_metric` compares the graph with the metric, and refuses one that differs."""
    from aigciqa.export import export_metric
    from aigciqa.transform import read_views

    metric = aigciqa.create_metric(folders["resnet"], device="cpu")
    with STATES[state]():
        path = export_metric(metric, tmp_path / f"made{suffix}")
    if suffix == ".pt2":
        found = torch.export.load(path).module()(read_views(GENERATED, metric.config.transform))
        assert torch.allclose(found[:, 0], metric(GENERATED), atol=5e-4)


@pytest.mark.parametrize("state", ["autocast-bf16", "inference", "dtype-float16", "within-device"])
def test_datasets_columns_are_those_without_it(state, folders, expected):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    from aigciqa.integrations.datasets import score_batch

    rows, wanted = datasets.Dataset.from_dict({"image": [GENERATED]}), expected("resnet")["file"][0]
    metric = {"source": folders["resnet"], "device": "cpu"}
    with STATES[state]():
        found = rows.map(score_batch(metric), batched=True, load_from_cache_file=False)[0]["quality"]
        decoded = score_batch(metric)({"image": [np.asarray(Image.open(GENERATED).convert("RGB"))]})
    assert abs(found - wanted) <= 5e-4
    assert abs(decoded["quality"][0] - wanted) <= 5e-4


@pytest.mark.parametrize("state", ["autocast-bf16", "inference", "dtype-float64", "dtype-float16"])
def test_pyiqas_metrics_are_those_without_it(state, folders, images):
    pyiqa = pytest.importorskip("pyiqa")
    from aigciqa.integrations.pyiqa import register

    expected = aigciqa.create_metric(folders["resnet"], device="cpu")(images)
    register(folders["resnet"], "ambient-resnet")
    for as_loss in (False, True):
        with STATES[state]():
            metric = pyiqa.create_metric("ambient-resnet", device="cpu", as_loss=as_loss)
            found = metric(images)
        wanted = expected.mean() if as_loss else expected  # pyiqa's losses are means
        assert torch.allclose(found.detach().flatten(), wanted, rtol=0, atol=5e-4)


# -- settings of the whole process


def settings():
    """What torch says of its precision; reading some raises where others were set."""
    backends = torch.backends
    asked = {
        "legacy": torch.get_float32_matmul_precision,
        "cuda": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
    }
    if NEW:
        for name in ("mkldnn.matmul", "mkldnn.conv", "cuda.matmul", "cudnn.conv", "cudnn.rnn"):
            backend, operation = (part for part in name.split("."))
            asked[name] = lambda b=backend, o=operation: getattr(getattr(backends, b), o).fp32_precision
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except RuntimeError:
            found[name] = "mixed"
    return found


def full(device="cpu"):
    """Whether products, and on CUDA convolutions, have float32's precision now."""
    now = settings()
    names = ["mkldnn.matmul", "mkldnn.conv", "cuda.matmul"] + ["cudnn.conv"] * (device == "cuda")
    return all(now.get(name, "ieee") in ("ieee", "none") for name in names) and now["legacy"] in (
        "highest",
        "mixed",
    )


@contextmanager
def legacy_tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


PRECISIONS = {name: STATES[name] for name in ("medium", "high", "newer")} | {"legacy-tf32": legacy_tf32}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("state", PRECISIONS)
def test_precision_is_raised_within_and_restored(state, device):
    with PRECISIONS[state]():
        before = settings()
        assert not full()
        with ambient.neutral(torch.device(device)), ambient.neutral(torch.device(device)):
            assert full(device)
        assert settings() == before
        with pytest.raises(KeyError), ambient.neutral(torch.device(device)):
            raise KeyError
        assert settings() == before


def test_tf32_which_is_cudnns_default_is_off_within():
    before = settings()
    assert torch.backends.cudnn.allow_tf32
    with ambient.neutral(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32 and full("cuda")
    assert settings() == before


@pytest.mark.parametrize("state", PRECISIONS)
def test_networks_compute_in_full_precision(state, folders, images):
    """Where the products are made: a hook looks. Between the rows of `score_files`, nothing is changed."""
    metric = aigciqa.create_metric(folders["resnet"], device="cpu")
    seen = []
    metric.network.head.register_forward_hook(lambda *_: seen.append(full()))
    with PRECISIONS[state]():
        before = settings()
        metric(images)
        metric.explain(GENERATED)
        assert settings() == before
        rows = metric.score_files([GENERATED, REFERENCE])
        next(rows)
        list(rows)
        with pytest.raises(aigciqa.InputError):
            metric([GENERATED, "none.png"])
        assert settings() == before
    assert seen and all(seen)


def test_threads_restore_what_the_user_had(folders, images):
    metric = aigciqa.create_metric(folders["resnet"], device="cpu").load()
    seen = []
    metric.network.head.register_forward_hook(lambda *_: seen.append(full()))
    with precision("medium"):
        threads = [threading.Thread(target=lambda: [metric(images) for _ in range(5)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == "medium"
    assert len(seen) == 20 and all(seen)


def test_what_the_user_sets_meanwhile_stays():
    with precision("medium"):
        with ambient.neutral(CPU):
            torch.set_float32_matmul_precision("high")
            with ambient.neutral(CPU):  # a later call notices
                assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    with default_dtype(torch.float64):
        with ambient.building():
            assert torch.get_default_dtype() == torch.float32
            torch.set_default_dtype(torch.float16)
        assert torch.get_default_dtype() == torch.float16


def test_a_call_never_changes_the_default_dtype(folders, images):
    """Which is the process's: other threads would make tensors of another type."""
    metric = aigciqa.create_metric(folders["resnet"], device="cpu").load()
    seen = []
    metric.network.head.register_forward_hook(lambda *_: seen.append(torch.get_default_dtype()))
    with default_dtype(torch.float64):
        metric(images)
    assert seen == [torch.float64]


# -- modules that others change


def initialise(module):
    """As models set their weights at first."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.zeros_(module.weight)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.reset_running_stats()
        module.train()


def renew_norms(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.reset_running_stats()
        module.reset_parameters()
        module.train()


class Adapted(nn.Module):
    """As LoRA wraps a layer, at first without effect."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def adapt(holder):
    for parent in list(holder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Adapted(child))


def thaw(holder):
    timm.utils.freeze(holder)
    timm.utils.unfreeze(holder)


SURGERY = {
    "sync": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm-sync": timm.layers.convert_sync_batchnorm,
    "freeze": timm.layers.freeze_batch_norm_2d,
    "unfreeze": lambda h: timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(h)),
    "thaw": thaw,
    "train": lambda h: h.train(),
    "train-norms": lambda h: h.apply(renew_norms),
    "lora": adapt,
    "half": lambda h: h.half().float(),
}


@pytest.mark.parametrize(
    "name, surgery",
    matrix(
        [*METRICS, "resnet18", "mobilenetv3_small_050", "vgg11_bn", "levit_128s"], SURGERY, {"sync", "freeze"}
    ),
)
def test_scores_stay_when_others_change_the_modules(name, surgery, folders, images, tmp_path):
    if name not in METRICS:
        size = 224 if name.startswith("levit") else 64
        config = tiny_config(backbone=name, transform=Transform(resize=size, crop=size))
        network = random_network(config)
        save_checkpoint(tmp_path, config, network.state_dict())
        folders = {name: tmp_path}
    metric = aigciqa.create_metric(source(name, folders), device="cpu")
    expected, names = metric(*tensors(metric, images)), list(metric.state_dict())
    holder = nn.Module()
    holder.reward = metric
    SURGERY[surgery](holder)
    within = 5e-4 if surgery != "half" or name.endswith("-aigciqa") else 0.05  # whose weights are of 16 bits
    assert torch.allclose(holder.reward(*tensors(metric, images)), expected, rtol=0, atol=within)
    if surgery != "lora":
        assert list(holder.reward.state_dict()) == names
    found = [row.scores for row in holder.reward.score_files(*given(metric))]
    assert abs(found[0][metric.dimension] - holder.reward(*given(metric)).item()) <= 5e-4


@pytest.mark.parametrize("name", ["nr-aigciqa", "fr-aigciqa", "pr-aigciqa"])
def test_nobody_finds_layers_of_the_packaged_metrics(name, images):
    """Not even to initialise them, or to quantise them."""
    metric = aigciqa.create_metric(name, device="cpu")
    expected = metric(*tensors(metric, images))
    holder = nn.ModuleList([metric])
    holder.apply(initialise)
    kinds = nn.Linear, nn.Conv2d, nn.modules.batchnorm._BatchNorm
    assert not any(isinstance(module, kinds) for module in holder.modules())
    assert torch.equal(metric(*tensors(metric, images)), expected)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_norms_learn_as_torchs(affine, momentum):
    from aigciqa.layers import Norm

    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(3, affine=affine, momentum=momentum)
    ours = Norm.of(copy.deepcopy(theirs))
    for _ in range(3):
        x = torch.rand(4, 3, 5, 5)
        assert torch.equal(ours(x), theirs(x))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


# -- training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reference", ["none", "full"])
def test_training_under_autocast_sees_about_the_same_features(reference, dtype):
    """Of which the scene statistics, which autocast would make noise of, are the same."""
    config = tiny_config(reference, feature="stages", transform=Transform(resize=72, crop=64, tiles=2))
    network = network_of(config)
    model = SharedForward(network, config.transform)
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(15, 3, 16, 16, generator=draw)
    views = nn.functional.interpolate(coarse, 64, mode="bicubic").clamp(0, 1)
    views = (views * 255).byte().view(3, 5, 3, 64, 64)
    rows = torch.tensor([0, 1]), torch.tensor([2, 2])
    found = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=enabled):
            features = network.features(aigciqa.transform.normalise(views, config.transform))
            found.append((features, model(views, *rows, False)))
    (expected, scores), (features, cast) = found
    assert features.dtype == cast.dtype == torch.float32
    tiles = features[:, network.backbone.parts[0] :].view(3, 4, -1)
    plain = expected[:, network.backbone.parts[0] :].view(3, 4, -1)
    statistics = 102
    assert torch.equal(tiles[..., -statistics:], plain[..., -statistics:])
    assert (features - expected).abs().max() <= 0.02 * expected.abs().max()
    assert (cast - scores).abs().max() <= 0.05 * scores.abs().max()
