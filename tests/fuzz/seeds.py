"""Writes the corpus that fuzzing begins with: small files of every kind. ``python tests/fuzz/seeds.py`` makes it."""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parent))
from targets import CORPUS, DIMENSIONS, FOLDER, STAMP

from aigciqa import paper_config
from aigciqa.records import Row
from aigciqa.results import open_results


def configs() -> Iterator[bytes]:
    for config in (
        paper_config("vgg16"),
        paper_config(
            "vit-l", "partial", dimensions=("quality", "overall"), hidden=7, repo="a/b", revision="v1"
        ),
    ):
        yield config.to_json().encode()
        yield json.dumps(json.loads(config.to_json())).encode()


def manifests() -> Iterator[bytes]:
    yield b"\0picture,reference\na.png,b.png\n../../x.png,\n"
    yield b'\0picture,prompt\n"a ""quoted"", name.png",x\n\n/etc/x.png,"two\nlines"\n'
    yield b"\0\xef\xbb\xbfpicture\na.png\r\n\xff.png\r\n"
    yield b"\1picture\treference\na.png\tb.png\n"
    table = io.BytesIO()
    pd.DataFrame({"picture": ["a.png", "b.png"], "reference": ["r.png", None]}).to_parquet(table)
    yield b"\2" + table.getvalue()
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for name in ("a.png", "a.ref.jpg", "../../b.png"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    yield b"\3" + shard.getvalue()[:4096]


def patterns() -> Iterator[bytes]:
    yield b"{1:d}.jpg\nSD_007_00.jpg"
    yield b"{stem}{suffix}\na/b.png"
    yield b"{parent}/{name}\nx/y/z.png"
    yield b"{{{0}}}-{2}\na-b.png"


def weights() -> Iterator[bytes]:
    yield save({"a": torch.zeros(2, 3), "b.c": torch.zeros((), dtype=torch.int64)})
    yield save({"h": torch.zeros(3, dtype=torch.float16)}, {"format": "pt"})
    yield save({})


def results() -> Iterator[bytes]:
    rows = [
        Row("a.png", "r.png", {"quality": 3.25, "authenticity": -1.0}),
        Row("=1+1.png", None, None, 'an "error", of\ntwo lines'),
    ]
    for number, kind in enumerate(("csv", "tsv", "jsonl", "parquet")):
        path = FOLDER / f"seed.{kind}"
        with open_results(path, DIMENSIONS, STAMP) as file:
            file.write(rows)
        data = path.read_bytes()
        yield bytes([number]) + data
        yield bytes([number]) + data[:-9]


def records() -> Iterator[bytes]:
    yield b"a.png\x1fb.png\x1fno such file"
    yield b"=1+1\x1f@x\x1f-2"
    yield b"./=1\x1f'=\x1f''+1"
    yield b'"a"\r\n,\t\x1f\xff\x1f\0'


def pictures() -> Iterator[bytes]:
    pixels = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
    whole = Image.fromarray(pixels)
    for kind, mode in (
        ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "1"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
        ("BMP", "RGB"), ("TIFF", "F"), ("TIFF", "RGB"), ("WEBP", "RGBA"),
        ("ICO", "RGBA"), ("PPM", "RGB"), ("TGA", "RGB"),
        ("PCX", "RGB"), ("SGI", "RGB"), ("DDS", "RGBA"), ("JPEG2000", "RGB"), ("QOI", "RGB"),
    ):  # fmt: skip
        made = whole.convert("I").convert("I;16") if mode == "I;16" else whole.convert("RGB").convert(mode)
        if mode == "RGBA":
            made = whole
        out = io.BytesIO()
        try:
            made.save(out, kind)
        except (KeyError, OSError):  # a Pillow without it
            continue
        yield out.getvalue()
    out = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    whole.convert("RGB").save(out, "JPEG", exif=exif)
    yield out.getvalue()


def main() -> None:
    for name, made in (
        ("config", configs()),
        ("manifest", manifests()),
        ("pattern", patterns()),
        ("weights", weights()),
        ("results", results()),
        ("record", records()),
        ("picture", pictures()),
    ):
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(made):
            (folder / f"seed-{number:02d}").write_bytes(data)


if __name__ == "__main__":
    main()
