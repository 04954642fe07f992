"""A small checkpoint can ask for gigabytes: for tables that an architecture computes, and for its feature maps."""

import json
import math
import resource
from pathlib import Path

import pytest
import torch
from conftest import random_network, tiny_config

import aigciqa
from aigciqa import limits
from aigciqa.config import PAPER_BACKBONES, MetricConfig, Transform, paper_config
from aigciqa.errors import CheckpointError
from aigciqa.memory import working_memory
from aigciqa.model import Network, blank_network, load_network
from aigciqa.weights import save_checkpoint

from .processes import CONTEXT, in_process, open_checkpoints

GIB = 1 << 30


def config(backbone, crop, **changes):
    transform = Transform(
        resize=crop, crop=crop, **({"tiles": changes.pop("tiles")} if "tiles" in changes else {})
    )
    return MetricConfig(name="x", reference="none", backbone=backbone, transform=transform, **changes)


def fitting(config, folder):
    """A checkpoint whose weights are those of the network, made without building it."""
    with torch.device("meta"):
        state = Network(config).state_dict()
    save_checkpoint(
        folder, config, {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in state.items()}, half=False
    )
    return folder


TABLES = {
    "position tables of ViT": config("test_vit_relpos", 2048),
    "position tables of BEiT": config("beit_base_patch16_224", 4096),
    "position tables of CoAtNet": config("coatnet_0_224", 4096),
    "position tables of LeViT": config("levit_128", 4096),
    "masks of Swin": config("swinv2_cr_base_224", 4096),
    "tables of GC ViT": config("gcvit_tiny", 4096),
}
MAPS = {
    "maps of a CNN": config("vgg16", 4096),
    "maps of views": config("test_efficientnet", 992, feature="stages", tiles=8),
    "attention": config("vit_tiny_patch16_224", 4096),
    "attention that timm computes anywhere": config("convit_tiny", 2048),
    "a crop that is not divisible": config("eca_halonext26ts", 777),
    "a long sequence": config("sequencer2d_s", 1024),
}


@pytest.mark.parametrize("name", TABLES | MAPS)
def test_what_needs_gigabytes_is_refused(name):
    """Before anything is allocated, with what it needs and what to do."""
    hostile = (TABLES | MAPS)[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        blank_network(hostile)
    says = str(caught.value)
    assert hostile.backbone in says and "aigciqa.limits.WORK" in says
    if "cannot be told" not in says:
        assert ("to build its network" in says) is (name in TABLES)
        assert "more than the limit of 4,096 MiB" in says
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_small_files_that_ask_for_gigabytes(tmp_path, tally):
    """Whose weights fit the config: nothing but the estimate is against them."""
    attacks = {"tables": TABLES["position tables of ViT"], "maps": MAPS["maps of views"]}
    folders = [fitting(hostile, tmp_path / name) for name, hostile in attacks.items()]
    assert all(sum(p.stat().st_size for p in f.iterdir()) < 8 << 20 for f in folders)
    report = tmp_path / "report"
    assert in_process(open_checkpoints, [*map(str, folders)], report) == 0
    found = [json.loads(line) for line in report.read_text().splitlines()]
    for f, purpose in zip(found, ("to build its network", "to score one image"), strict=True):
        assert f["error"] == "CheckpointError" and purpose in f["says"]
        assert f["bytes"] < 100 << 20
    tally("checkpoints: hostile ones refused", inputs=len(found))


def test_nothing_is_fetched_for_them(hub, tmp_path):
    folder = fitting(MAPS["maps of views"], tmp_path / "made")
    hub.repo("someone/large").commit({p.name: p.read_bytes() for p in folder.iterdir()})
    with pytest.raises(CheckpointError, match="to score one image"):
        aigciqa.create_metric("someone/large", cache_dir=tmp_path / "cache", device="cpu").load()
    assert [path.rsplit("/", 1)[-1] for path, _ in hub.downloads()] == ["config.json"]


def test_the_usual_ones_pass_without_an_estimate():
    for name in aigciqa.list_metrics():
        assert blank_network(aigciqa.metric_info(name)).image_bytes == 0
    for name in PAPER_BACKBONES:
        assert blank_network(paper_config(name, "full")).image_bytes == 0


@pytest.mark.parametrize(
    ("backbone", "crop"),
    [("vit_large_patch16_224", 518), ("resnet50", 1024), ("swin_tiny_patch4_window7_224", 896)],
)
def test_large_but_honest_ones_pass(backbone, crop):
    crop = 528 if backbone.startswith("vit") else crop  # of patches of 16
    assert 0 < blank_network(config(backbone, crop)).image_bytes < limits.WORK


def test_the_limit_can_be_set(monkeypatch, picture, tmp_path):
    """In the manner of `aigciqa.image.MAX_PIXELS`, by somebody who trusts a checkpoint."""
    mine = tiny_config(transform=Transform(resize=600, crop=600))
    network = random_network(mine)
    save_checkpoint(tmp_path, mine, network.state_dict())
    needed = blank_network(mine).image_bytes
    assert needed > 1 << 20
    monkeypatch.setattr(limits, "WORK", needed - 1)
    with pytest.raises(CheckpointError, match="to score one image"):
        aigciqa.create_metric(tmp_path, device="cpu").load()
    monkeypatch.setattr(limits, "WORK", needed)
    score = aigciqa.create_metric(tmp_path, device="cpu")(picture())
    monkeypatch.setattr(limits, "WORK", math.inf)
    assert torch.equal(aigciqa.create_metric(tmp_path, device="cpu")(picture()), score)
    assert blank_network(MAPS["a crop that is not divisible"]).image_bytes == 0  # as far as can be told


def test_a_small_limit_is_kept_by_small_crops_too(monkeypatch):
    monkeypatch.setattr(limits, "WORK", 100_000)
    with pytest.raises(CheckpointError, match="to score one image"):
        blank_network(tiny_config())
    with pytest.raises(CheckpointError, match="to build its network"):
        load_network(config("levit_128", 224), {})


def test_a_batch_takes_no_more_than_one_image_may(monkeypatch, tmp_path):
    mine = tiny_config(transform=Transform(resize=600, crop=600))
    save_checkpoint(tmp_path, mine, random_network(mine).state_dict())
    cpu = torch.device("cpu")
    assert aigciqa.create_metric(tmp_path, device="cpu").batch(cpu) == 8
    monkeypatch.setattr(limits, "WORK", 3 * blank_network(mine).image_bytes)
    assert aigciqa.create_metric(tmp_path, device="cpu").batch(cpu) == 3
    assert aigciqa.create_metric(tmp_path, device="cpu", batch_size=5).batch(cpu) == 5


def measure(made, report):
    """What the network takes in truth, of a process of its own."""
    torch.set_num_threads(1)
    network = Network(made).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = torch.zeros(1, 3, made.transform.crop, made.transform.crop)

    def peak():
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) << 10

    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    with torch.inference_mode():
        network.features(images)
    report.write_text(str(peak() - before))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells the memory at its peak")
@pytest.mark.parametrize(
    ("backbone", "crop"), [("resnet18", 768), ("levit_128", 640), ("test_efficientnet", 1536)]
)
def test_the_estimate_is_near_the_truth(backbone, crop, tmp_path):
    made = config(backbone, crop)
    expected = blank_network(made).image_bytes
    process = CONTEXT.Process(target=measure, args=(made, tmp_path / "report"))
    process.start()
    process.join(120)
    assert 0.5 < int((tmp_path / "report").read_text()) / expected < 2


def test_the_estimate_allocates_nothing():
    with torch.device("meta"):
        network = Network(MAPS["maps of a CNN"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        working_memory(network, MAPS["maps of a CNN"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
