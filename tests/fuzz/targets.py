"""What is fuzzed: each target takes bytes as a file's content, and lets through only errors of the package's own."""

import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from aigciqa import image
from aigciqa.config import MetricConfig, read_config
from aigciqa.errors import AigciqaError, CheckpointError
from aigciqa.pairing import Unpaired, naming
from aigciqa.records import Row, codec_for
from aigciqa.results import open_results
from aigciqa.sources import find_items
from aigciqa.weights import check_weights, load_weights

CORPUS = Path(__file__).parent / "corpus"
FOLDER = Path(tempfile.mkdtemp(prefix="aigciqa-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
DIMENSIONS, STAMP = ("quality", "authenticity"), "tiny@v1 sha256:0123"
PIXELS = 1 << 20
warnings.simplefilter("ignore")  # Pillow tells much about broken files


def config(data: bytes) -> None:
    """``config.json``: what is taken for a config is one that is written and read back the same."""
    path = FOLDER / "config.json"
    path.write_bytes(data)
    try:
        found = read_config(FOLDER)
    except CheckpointError:
        return
    assert MetricConfig.from_json(found.to_json()) == found
    found.to_json().encode(), found.stamp.encode(), str(found.provenance).encode()


def manifest(data: bytes) -> None:
    """A manifest, whose kind the first byte chooses; or a tar shard; or a list of paths on standard input."""
    kinds = ("csv", "tsv", "parquet", "tar")
    path = FOLDER / f"manifest.{kinds[data[0] % len(kinds)] if data else 'csv'}"
    path.write_bytes(data[1:])
    with suppress(AigciqaError):
        items = find_items([path])
        count = items.check()
        found = list(items)
        assert len(found) == count
        assert all(item.picture.startswith(str(FOLDER)) or Path(item.picture).is_absolute() for item in found)


def pattern(data: bytes) -> None:
    """A naming pattern, and a picture's name after the first line."""
    text, _, name = os.fsdecode(data).partition("\n")
    with suppress(AigciqaError):
        found = naming(text, "reference_pattern")(name)
        assert isinstance(found, str | Unpaired)


def weights(data: bytes) -> None:
    """``model.safetensors``: read whole or not at all."""
    path = FOLDER / "model.safetensors"
    path.write_bytes(data)
    with suppress(CheckpointError):
        load_weights(path)
    about = MetricConfig("tiny", "none", "test_efficientnet")
    with suppress(CheckpointError):
        check_weights(path, {}, about)


def results(data: bytes) -> None:
    """A file of results to go on with: what it holds stays, and a row more is the only change."""
    kinds = ("csv", "tsv", "jsonl", "parquet")
    path = FOLDER / f"results.{kinds[data[0] % len(kinds)] if data else 'csv'}"
    for old in FOLDER.glob("results.*"):
        old.unlink()
    path.write_bytes(data[1:])
    row = Row("=more.png", None, {"quality": -1.5, "authenticity": 0.25})
    try:
        with open_results(path, DIMENSIONS, STAMP) as file:
            before = list(file.rows())
            assert len(before) == file.done
            file.write([row])
    except AigciqaError:
        assert path.read_bytes() == data[1:]
        return
    with open_results(path, DIMENSIONS, STAMP) as file:
        assert list(file.rows()) == [*before, row]


def record(data: bytes) -> None:
    """A row's texts, whatever they are, come back from every format as they were, and begin no formula."""
    parts = os.fsdecode(data).split("\x1f")
    picture, reference, error = [*parts, "", "", ""][:3]
    row = Row(picture, reference or None, None, error or "an error")
    for kind in ("csv", "tsv", "jsonl"):
        codec = codec_for(kind, DIMENSIONS, STAMP)
        try:
            encoded = codec.encode(row)
        except AigciqaError:
            continue
        assert codec.decode(encoded) == (row, STAMP), kind


def picture(data: bytes) -> None:
    """An encoded picture: pixels of a sound kind, or an error."""
    with patch.object(image, "MAX_PIXELS", PIXELS), suppress(AigciqaError):
        (found,) = image.read(data)
        assert found.shape[:2] == (1, 3) and found.numel() <= 3 * PIXELS
        assert found.dtype.is_floating_point or str(found.dtype) == "torch.uint8"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "config": config,
    "manifest": manifest,
    "pattern": pattern,
    "weights": weights,
    "results": results,
    "record": record,
    "picture": picture,
}
