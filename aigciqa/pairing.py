"""Which reference belongs to a picture."""

import difflib
import os
import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from .errors import InputError, Parameter
from .formats import LeftOut
from .spelling import located
from .walking import pictures, shown, some, text_advice, there

SHOWN = 10  # references that an error lists


@dataclass(frozen=True)
class Unpaired:
    """Why a picture has no reference."""

    picture: str
    reason: str
    several: bool = False
    missing: Path | None = None  # the file that a pattern led to

    def __str__(self) -> str:
        near = _near(self.missing) if self.missing else []
        hint = f"; there is {', '.join(map(shown, near))}" if near else ""
        return f"{shown(self.picture)}: {self.reason}{hint}"


Pair: TypeAlias = Callable[[str, Path | None], str | Unpaired]


def pairing(reference: str | None, pattern: str | None) -> Pair | None:
    if reference is not None and not there(Path(reference).exists):
        raise InputError(
            f"{shown(reference)}: there is no such reference, neither file nor folder{text_advice(reference)}"
        )
    is_folder = reference is not None and Path(reference).is_dir()
    if pattern is not None:
        if reference is not None and not is_folder:
            raise InputError(
                f"{shown(reference)} is one reference for all pictures; leave out ",
                Parameter("reference_pattern"),
                ", or name the folder that the pattern begins in",
            )
        return _by_pattern(pattern, Path(reference or ""))
    if is_folder:
        return _Stems(Path(reference or ""))
    return None if reference is None else lambda picture, place: reference


class _Stems:
    """Pairs with the one file of the same stem, whatever its ending."""

    def __init__(self, folder: Path):
        self.folder, self.left_out = folder, LeftOut()

    @cached_property
    def index(self) -> dict[str, list[str]]:
        """References by path without ending and, after a slash, by stem alone; below the folder."""
        index = defaultdict(list)
        complaint = f"{shown(str(self.folder))}: no picture in this folder"
        for path in some(pictures(self.folder, self.left_out), complaint, self.left_out):
            inner = path.relative_to(self.folder)
            index[_composed(str(inner.with_suffix("")))].append(str(inner))
            index[_composed(f"/{path.stem}")].append(str(inner))
        return dict(index)

    def __call__(self, picture: str, place: Path | None) -> str | Unpaired:
        keys = [f"/{Path(picture).stem}"]
        if place is not None:
            keys.insert(0, str(Path(picture).relative_to(place).with_suffix("")))
        found = next((self.index[key] for key in map(_composed, keys) if key in self.index), [])
        if len(found) == 1:
            return str(self.folder / found[0])
        looked = " or ".join(dict.fromkeys(shown(f"{key.lstrip('/')}.*") for key in keys))
        looked = f"looked for {looked} in {shown(str(self.folder))}"
        if not found:
            aside = f" ({self.left_out})" if self.left_out else ""
            return Unpaired(picture, f"{looked}, found nothing{aside}")
        listed = ", ".join(map(shown, found[:SHOWN])) + ", ..." * (len(found) > SHOWN)
        return Unpaired(picture, f"{looked}, found {len(found)}: {listed}", several=True)


def _composed(name: str) -> str:
    """Accents written in the same way, whichever way the disk spells them."""
    return unicodedata.normalize("NFC", name)


def _by_pattern(pattern: str, folder: Path) -> Pair:
    name_of = naming(pattern)

    def pair(picture: str, place: Path | None) -> str | Unpaired:
        name = name_of(picture)
        if isinstance(name, Unpaired):
            return name
        wanted = Path(located(folder, name))
        if not there(wanted.is_file):
            return Unpaired(picture, f"looked for {shown(str(wanted))}, not there", missing=wanted)
        return str(wanted)

    return pair


def naming(pattern: str, option: str = "reference_pattern") -> Callable[[str], str | Unpaired]:
    """From a picture's name to the pattern filled in with its parts, or why that cannot be.

    Args:
        pattern: with the fields that `aigciqa.sources.find_items` describes.
        option: how messages call it.

    Raises:
        InputError: for a field that there is not.

    Examples:
        >>> naming("{0}-{1:d}")("All/SD_007_00.jpg")
        'SD-7'
    """
    fields = _fields(pattern, option)

    def name_of(picture: str) -> str | Unpaired:
        path = Path(picture)
        values = {"stem": path.stem, "name": path.name, "suffix": path.suffix, "parent": path.parent.name}
        if values["parent"] in ("", ".."):
            values["parent"] = path.parent.resolve().name
        values |= {str(i): x for i, x in enumerate(path.stem.split("_" if "_" in path.stem else "-"))}
        name = ""
        for literal, field, spec in fields:
            name += literal
            if field is None:
                continue
            if field not in values:
                return Unpaired(picture, f"its stem has no part {field}, counted from 0, for {pattern!r}")
            if spec.endswith("d") and not (values[field].isdecimal() and len(values[field]) < 256):
                return Unpaired(picture, f"{values[field]!r} is no number, for {{{field}:{spec}}}")
            name += format(int(values[field]) if spec.endswith("d") else values[field], spec)
        return name

    return name_of


def _fields(pattern: str, option: str) -> list[tuple[str, str | None, str]]:
    """The text before each field, its name, and its format."""
    try:
        fields = [
            (text, name, spec or "", kind) for text, name, spec, kind in string.Formatter().parse(pattern)
        ]
        for _, name, spec, kind in fields:
            if name is not None and (
                kind or not re.fullmatch(r"[0-9]+|stem|name|suffix|parent", name, re.ASCII)
            ):
                raise ValueError(f"no field {{{name}{'!' + kind if kind else ''}}}")
            if re.search("[0-9]{3}", spec):  # of a name with 255 characters
                raise ValueError(f"{spec!r} is wider than 99")
            format(0 if spec.endswith("d") else "", spec)
    except ValueError as error:
        raise InputError(
            Parameter(option),
            f" {pattern!r}: {error}; its fields are {{0}}, {{1}}, ... for the parts of the "
            "picture's stem, {stem}, {name}, {suffix} and {parent}; {1:d} makes a number of a part",
        ) from None
    return [(text, name, spec) for text, name, spec, _ in fields]


def _near(missing: Path) -> list[str]:
    """Names in the folder of a file that is not there which resemble its own."""
    try:
        with os.scandir(missing.parent) as entries:
            names = [entry.name for entry in islice(entries, 10_000)]
    except OSError:
        return [f"no folder {missing.parent}"]
    same = sorted(name for name in names if Path(name).stem == missing.stem)
    return list(dict.fromkeys(same + difflib.get_close_matches(missing.name, names)))[:3]
