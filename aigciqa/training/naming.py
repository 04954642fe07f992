"""What the names of files and folders tell of the rows of a published data set."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import InputError, Parameter
from ..spelling import located as spelled
from .mosz import place_by_number


def located(root: Path, name: str) -> str:
    """The file that a table names, whose separators or accents may be written as on another system."""
    if name.isascii() and "\\" not in name:
        return str(root / name)
    found = spelled(root, name)
    return found if Path(found).is_file() else str(root / name.replace("\\", "/"))


def _first_there(*paths: Path) -> str:
    return str(next((path for path in paths if path.is_file()), paths[0]))


def _in_folders(names: Iterable[str], root: Path) -> list[str]:
    """Where each image lies: in `root` or in a folder of it, with the folders of its own name or without."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = []
    for name in names:
        paths = [folder / name for folder in folders if (folder / name).is_file()]
        paths = paths or [
            folder / Path(name).name for folder in folders if (folder / Path(name).name).is_file()
        ]
        if len(paths) > 1:
            raise InputError(
                f"{name} lies in {paths[0].parent} and {paths[1].parent}; pass one as ", Parameter("images")
            )
        found.append(str(paths[0] if paths else root / name))
    return found


def _stems(pictures: "pd.Series[Any]") -> "pd.Series[Any]":
    return pictures.map(lambda name: Path(name).stem)


def pku_i2iqa(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Images are named by generator, prompt and number, such as SD_000_00.jpg."""
    parts = _stems(frame["picture"]).str.extract(r"^([A-Za-z]+)_(\d+)_\d+$")
    if (wrong := parts[0].isna()).any():
        row = frame.index[int(wrong.to_numpy().argmax())]
        name = frame["picture"][row]
        raise InputError(f"{file}: row {row}: {name!r} is not named like SD_000_00.jpg")
    folder, prompts = root / "Generated_image", root / "Image_prompt"
    frame["generator"], frame["group"] = parts[0], parts[1].astype(int).astype(str)
    given = frame["reference"] if "reference" in frame else [""] * len(frame)
    frame["reference"] = [
        _first_there(prompts / f"{number}.jpg", *([prompts / name] if name else []))
        for number, name in zip(frame["group"], given, strict=True)
    ]
    frame["picture"] = [
        _first_there(
            folder / "All" / Path(name).name,
            root / name,
            folder / generator / Path(name).name,
            root / Path(name).name,
        )
        for name, generator in zip(frame["picture"], parts[0], strict=True)
    ]
    return frame


def pku_aigiqa_4k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Rows of one image prompt or one text prompt, directly or by way of other rows, are one group."""
    stems = _stems(frame["picture"])
    frame["generator"] = stems.str.extract(r"^([^_]+)_", expand=False).fillna("")
    without_number = stems.str.replace(r"_[^_]*$", "", regex=True)
    known = (frame["reference"] != "") | (frame["prompt"] != "" if "prompt" in frame else False)
    keys = [frame[name] for name in ("reference", "prompt") if name in frame]
    frame["group"] = _joined(*keys, without_number.where(~known, ""))
    frame["picture"] = [_first_there(*(root / place / name for place in ("All", "", "Image")))
                        for name in frame["picture"]]  # fmt: skip
    places = ("I2I/Image_prompt", "Image_prompt")
    frame["reference"] = [
        _first_there(*(root / place / name for place in places)) if name else ""
        for name in frame["reference"]
    ]
    return frame


def image_to_image(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """The rows of PKU-AIGIQA-4K that have an image prompt."""
    return _part(pku_aigiqa_4k(frame, root, file), True, file)


def text_to_image(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """The rows of PKU-AIGIQA-4K that have none."""
    return _part(pku_aigiqa_4k(frame, root, file), False, file)


def _part(frame: pd.DataFrame, with_reference: bool, file: Path) -> pd.DataFrame:
    found = frame[(frame["reference"] != "") == with_reference]
    if not len(found):
        raise InputError(f"{file}: has no rows with{'' if with_reference else 'out'} an image prompt")
    return found


def _joined(*columns: "pd.Series[Any]") -> list[str]:
    """One group for rows that share a value in any of the columns, directly or by way of other rows."""
    values = [[(i, cell) if cell else None for cell in column] for i, column in enumerate(columns)]
    numbered = {value: i for i, value in enumerate({v for column in values for v in column if v})}
    edges = [(r, numbered[v]) for column in values for r, v in enumerate(column) if v]
    rows, ends = np.array(edges).T
    nodes = len(columns[0]) + len(numbered)
    graph = coo_array((np.ones(len(rows)), (rows, ends + len(columns[0]))), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for column in columns:  # named by its image prompt if any of its rows has one
        for number, cell in zip(component, column, strict=False):
            if cell:
                names.setdefault(int(number), cell)
    return [names[int(number)] for number in component[: len(columns[0])]]


def agiqa(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Images lie in a folder of the data set; those of one prompt are one group."""
    frame["picture"] = _in_folders(frame["picture"], root)
    if "prompt" in frame:
        frame["group"] = frame["prompt"]
    return frame


def agiqa_1k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Images are named by generator and four numbers, such as deepai_0_0_0_0.jpg."""
    frame["generator"] = _stems(frame["picture"]).str.extract(r"^(.+?)(?:_\d+){4}$", expand=False).fillna("")
    return agiqa(frame, root, file)


def agiqa_3k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Images are named by generator, its setting and number, such as sd1.5_lowstep_001.jpg."""
    frame["generator"] = _stems(frame["picture"]).str.extract(r"^([^_]+)_", expand=False).fillna("")
    return agiqa(frame, root, file)


def aigiqa_20k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Images are named by generator and number, such as DALLE2_0000.png."""
    frame["generator"] = _stems(frame["picture"]).str.extract(r"^(.+)_\d+$", expand=False).fillna("")
    return agiqa(frame, root, file)


def aigciqa2023(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    """Images are named by their number of all, or in a folder of their generator by prompt and number: 042-2.png."""
    names = frame["picture"]
    if names.str.fullmatch(r"(?:.*/)?\d+\.\w+").all():
        return place_by_number(frame, root)
    parts = names.str.extract(r"^(?:.*/)?(\d+)-\d+\.\w+$", expand=False)
    if (wrong := parts.isna()).any() or "generator" not in frame:
        row = frame.index[int(wrong.to_numpy().argmax())]
        raise InputError(
            f"{file}: row {row}: {names[row]!r} is named neither like 17.png nor, with a column model, like 042-2.png"
        )
    places = [root / place for place in ("Image", "", "Image/allimg", "allimg")]
    frame["group"] = parts.astype(int).astype(str)
    frame["picture"] = [
        _first_there(*(place / generator / name for place in places))
        for generator, name in zip(frame["generator"], names, strict=True)
    ]
    return frame
