import os
import signal
import tempfile
from multiprocessing import parent_process
from pathlib import Path

from hub import Hub

# The Hub's client reads these when it is imported, so they are set before anything imports it. No test
# reaches a real Hub: there is only this server, also for the processes that tests start.
if parent_process() is None:
    _HUB = Hub().__enter__()
    _HOME = tempfile.TemporaryDirectory(prefix="aigciqa-test-")
    os.environ |= {
        "HF_ENDPOINT": _HUB.url,
        "HF_HOME": _HOME.name,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
    }
    os.environ.pop("HF_TOKEN", None)
    # A shell without job control starts what it puts in the background with SIGINT ignored, which the processes
    # that tests interrupt would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch
from PIL import Image

from aigciqa.config import MetricConfig, Transform
from aigciqa.layers import Norm
from aigciqa.model import Network
from aigciqa.weights import save_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def hub():
    """The loopback Hub, empty and healthy."""
    _HUB.repos.clear()
    _HUB.blobs.clear()
    _HUB.requests.clear()
    _HUB.cut.clear()
    _HUB.faults.clear()
    _HUB.status = None
    return _HUB


def touch(*names):
    """Make empty files, and their folders."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def tiny_config(reference="none", **changes) -> MetricConfig:
    """A network of a few thousand parameters on pictures of 64 pixels."""
    return MetricConfig(
        **{
            "name": f"tiny-{reference}",
            "reference": reference,
            "backbone": "test_efficientnet",
            "dimensions": ("quality", "authenticity"),
            "transform": Transform(resize=72, crop=64),
            "provenance": {"labels": "none (random weights)", "license": "Apache-2.0"},
        }
        | changes
    )


def make_lively(backbone, head, features, size):
    """Random weights score all pictures alike; make the scores of unlike pictures differ by about 1."""
    probes = torch.nn.functional.interpolate(torch.rand(6, 3, 9, 9), (size, size)) * 4 - 2
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d | Norm):
                module.momentum = 1.0
        backbone.train()
        features(probes)  # sets the batch statistics
        for name, buffer in backbone.named_buffers():
            if name.endswith("running_var"):
                buffer.clamp_(min=buffer.mean() / 100)  # no channel is blown up from rounding noise
        backbone.eval()
        found = features(probes)
        head.fc1.weight /= found.std(0).mean()
        head.fc1.bias -= (head.fc1.weight * found.mean()).sum(1)
        scores = head(found.repeat(1, head.fc1.in_features // found.shape[1]))
        head.fc2.weight /= scores.std(0)[:, None]
        head.fc2.bias += 2.5 - (scores / scores.std(0)).mean(0)


def random_network(config: MetricConfig, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(config)
    make_lively(network.backbone, network.head, network.features, config.transform.crop)
    return network.eval()


@pytest.fixture
def tiny(tmp_path):
    """Writes a checkpoint of random weights and returns its folder."""

    def make(reference="none", **changes):
        config = tiny_config(reference, **changes)
        folder = tmp_path / f"checkpoint-{config.name}"
        save_checkpoint(folder, config, random_network(config).state_dict())
        return folder

    return make


@pytest.fixture
def picture():
    """Makes a PIL picture with structure at several scales."""

    def make(width=120, height=90, seed=0, mode="RGB"):
        rng = np.random.default_rng(seed)
        pixels = np.zeros((height, width, 3))
        for scale in (4, 16, 64):
            coarse = rng.integers(0, 256, (height // scale + 2, width // scale + 2, 3), dtype=np.uint8)
            layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            pixels += np.asarray(layer) / 3
        return Image.fromarray(pixels.astype(np.uint8)).convert(mode)

    return make


@pytest.fixture
def one_thread():
    """For tiny networks, which threads only slow down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
