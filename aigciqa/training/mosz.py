"""AIGCIQA2023: its files mosz1, mosz2 and mosz3, and what the numbers of its images tell."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io

from .. import limits
from ..errors import InputError
from .bounds import check_file
from .tables import numbers, read_table

AIGCIQA2023_GENERATORS = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")
PICTURES = 2400  # 6 generators, 100 prompts, 4 images of each


def mosz_files(folder: Path, number: int = 1) -> list[Path]:
    """The files of a dimension, 1 to 3, in a folder of the data set."""
    places = (folder, folder / "DATA/MOS", folder / "MOS", folder / "DATA")
    files = (place / f"mosz{number}{end}" for place in places for end in (".mat", ".csv", ".xlsx"))
    return [file for file in files if file.is_file()]


def read_mosz(path: Path, root: Path) -> tuple[Path, pd.DataFrame]:
    """The table of AIGCIQA2023 from its files of labels, and one of these for messages.

    Args:
        path: the folder that holds them.
        root: the folder of the images.

    Raises:
        InputError: when a file is missing, doubled, cannot be read, or has labels for a part of the data set only.
    """
    labels, file = {}, path
    for number, dimension in enumerate(("quality", "authenticity", "correspondence"), 1):
        if files := mosz_files(path, number):
            if len(files) > 1:
                raise InputError(
                    f"{path}: several tables of labels: {', '.join(str(one) for one in files)}; keep one"
                )
            file = files[0]
            labels[dimension] = _mosz_values(file)
    if not labels:
        raise InputError(
            f"{path}: no mosz1.mat, mosz2.mat or mosz3.mat (or .csv, .xlsx) in it or in DATA/MOS"
        )
    counts = {dimension: len(values) for dimension, values in labels.items()}
    n = max(counts.values())
    each = len(AIGCIQA2023_GENERATORS) * 4
    if len(set(counts.values())) > 1 or n % each or not n:
        raise InputError(
            f"{file.parent}: labels for {counts}; expected as many each, in all 6 generators x prompts x 4 "
            "pictures. For a part of the data set write a manifest"
        )
    frame = pd.DataFrame(labels, index=np.arange(n))
    frame["picture"] = [f"{i}.png" for i in range(n)]
    return file, place_by_number(frame, root, n)


def place_by_number(frame: pd.DataFrame, root: Path, n: int = PICTURES) -> pd.DataFrame:
    """Add folder, generator and prompt of images that are named by their number of `n`, such as 17.png."""
    folders = [root / place for place in ("Image/allimg", "allimg", "Image", "")]
    numbers = np.array([int(Path(name).stem) for name in frame["picture"]])
    each = n // len(AIGCIQA2023_GENERATORS)
    if len(numbers) and numbers.max() >= n:
        raise InputError(f"{root}: {numbers.max()}.png, where AIGCIQA2023 has images 0 to {n - 1}")
    names = [Path(name).name for name in frame["picture"]]
    folder = next((place for place in folders if names and (place / names[0]).is_file()), folders[0])
    frame["picture"] = [str(folder / name) for name in names]
    frame["generator"] = [AIGCIQA2023_GENERATORS[i // each] for i in numbers]
    frame["group"] = (numbers % each // 4).astype(str)
    return frame


def _mosz_values(file: Path) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A column of numbers in the order of the pictures' numbers."""
    if file.suffix != ".mat":
        frame = read_table(file, header=False)
        if frame.shape[1] != 1:
            raise InputError(f"{file}: {frame.shape[1]} columns; expected one, of labels by picture number")
        titled = bool(len(frame)) and pd.to_numeric(frame[frame.columns[0]][:1], errors="coerce").isna().all()
        return numbers(frame[frame.columns[0]][int(titled) :], file)
    check_file(file, limits.HELD, "a MATLAB file")
    try:
        held = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(os.fspath(file))}
        if "MOSz" in held:
            shape, kind = held["MOSz"]
            limits.check_size(
                8 * math.prod(shape), limits.HELD, f"{file}: MOSz", "it has a label for each image"
            )
            if kind not in ("double", "single", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))):
                raise ValueError(f"MOSz is no matrix of numbers, but of the class {kind}")
        content = scipy.io.loadmat(os.fspath(file), variable_names=["MOSz"])
    except InputError:
        raise
    except Exception as error:  # it raises nearly anything for a file that is damaged
        raise InputError(f"{file}: cannot be read as a MATLAB file: {error}") from None
    if "MOSz" not in content:
        raise InputError(f"{file}: no variable MOSz; it has {', '.join(held)}")
    return np.asarray(content["MOSz"], np.float64).ravel()
