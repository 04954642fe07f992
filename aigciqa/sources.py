"""What to score: files, folders, globs, lists, manifests and tar shards, each picture with its reference.

Nothing is collected: folders are walked, tables and archives read, as items are asked for. In memory are only
the names in the folders that are open and, where references are matched by stem, the references' names.
"""

import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import IO, Any, TypeAlias

from .containers import MANIFESTS, read_manifest
from .errors import InputError, Parameter
from .formats import LeftOut
from .listing import Listing, is_list, read_list
from .pairing import Pair, Unpaired, pairing
from .shards import SHARDS, Found, read_tar
from .spelling import located
from .walking import is_folder, is_glob, is_magic, pictures, shown, some, there, walk

SHOWN = 10  # unpaired pictures that an error lists
_NONE = object()


@dataclass(frozen=True, slots=True)
class Item:
    """A picture to score.

    Args:
        picture: what results call it: the path as found, or ``shard.tar/member.jpg``.
        reference: likewise; None where there is none.
        data: the encoded picture, where `picture` is not the path of a file.
        reference_data: the encoded reference, where `reference` is not the path of a file.
        error: why there is no `data` although `picture` is not the path of a file; it begins with its name.
        reference_error: likewise.
    """

    picture: str
    reference: str | None = None
    data: bytes | None = None
    reference_data: bytes | None = None
    error: str | None = None
    reference_error: str | None = None


Placed: TypeAlias = tuple[Item, Path | None]  # and the folder, glob's folder or shard that it was found in


def find_items(
    sources: Sequence[str | os.PathLike[str]],
    *,
    reference: str | os.PathLike[str] | None = None,
    reference_pattern: str | None = None,
    picture_column: str = "picture",
    reference_column: str = "reference",
    stdin: IO[str] | None = None,
    shard: tuple[int, int] | None = None,
) -> "Items":
    """Say what is to be scored, without reading it yet.

    A folder gives every picture below it, hidden ones left out, folder by folder in natural order (``img2``
    before ``img10``). A glob (``**`` for folders of any depth) gives files in the same order. ``-`` gives the
    paths on standard input, one a line, or ended by NUL as ``find -print0`` writes them. A file ``.txt``
    that is named itself and holds text is such a list, relative to its own folder. A manifest (``.csv``, ``.tsv``,
    ``.jsonl``, ``.parquet``) names pictures, and may name references, relative to its own folder; a column of a
    Parquet file may hold the encoded images themselves. A tar shard
    (``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2``, ``.tar.xz``) has one picture in each sample, which is what
    shares a name up to the first dot, and may have its reference beside it as ``key.ref.jpg`` or
    ``key.reference.jpg``; a link to another member is scored as that member. Any other name is taken for a
    picture, whatever its ending, there or not. What a folder, a glob or a shard has that is no picture is counted
    in `Items.left_out`.

    References for PKU-I2IQA: ``find_items(["Generated_image/All"], reference="Image_prompt",
    reference_pattern="{1:d}.jpg")`` pairs ``SD_000_00.jpg`` with ``0.jpg``.

    Args:
        sources: any of the above; what is named twice is scored twice.
        reference: a file, the reference of all; or a folder, whose files are matched by path and stem below
            the source, or else by a stem that is there once.
        reference_pattern: a path, below the folder `reference` where that is given, with fields: ``{0}``,
            ``{1}``, ... (the picture's stem split at ``_``, or at ``-`` where it has no ``_``), ``{stem}``,
            ``{name}``, ``{suffix}`` (with its dot), ``{parent}`` (its folder's name). ``{1:d}`` makes a number
            of it, so 000 becomes 0.
        picture_column: the manifests' column of pictures.
        reference_column: the manifests' column of references, empty where a picture has none; it may be
            absent when it is not named here.
        stdin: where ``-`` reads from; None for standard input.
        shard: (i, n), 1 <= i <= n: every n-th item beginning with the i-th.

    Raises:
        InputError: for a folder, manifest, shard or reference that is not there, or a wrong argument.

    Examples:
        >>> for item in find_items(["*.png"], reference="ref.png"):
        ...     print(item.picture, item.reference)
        gen.png ref.png
        ref.png ref.png
        >>> find_items(["gen.png"], reference_pattern="ref{suffix}").check()
        1
    """
    if isinstance(sources, str | os.PathLike):
        raise InputError(f"sources is one name; pass a list: [{os.fspath(sources)!r}]")
    names = [os.fspath(source) for source in sources]
    if not names:
        raise InputError("nothing to score: name files, folders, globs, manifests, tar shards, or -")
    if names.count("-") > 1:
        raise InputError("- may be given once: standard input can be read only once")
    for name in names:
        _check_source(name)
    first, every = shard or (1, 1)
    if not 1 <= first <= every:
        raise InputError(f"shard must be (i, n) with 1 <= i <= n, not {shard}")
    pair = pairing(None if reference is None else os.fspath(reference), reference_pattern)
    return Items(names, pair, (picture_column, reference_column), stdin, (first, every))


def as_items(pictures: Any, references: Any = None, reference_pattern: str | None = None) -> Iterable[Item]:
    """What `Metric.score_files` is given, as items.

    Raises:
        InputError: as `find_items` and `Items.check` do; on going through them, when there are not as many
            references as pictures.

    Examples:
        >>> [item.reference for item in as_items(["gen.png", "ref.png"], ["ref.png", None])]
        ['ref.png', None]
    """
    one_for_all = references is None or isinstance(references, str | os.PathLike)
    if isinstance(pictures, str | os.PathLike):
        pictures = [pictures]
    named = isinstance(pictures, list | tuple) and all(
        isinstance(p, str | bytes | os.PathLike) for p in pictures
    )
    if named and one_for_all and not any(map(is_missing, pictures)):
        found = find_items(pictures, reference=references, reference_pattern=reference_pattern)
        if references is not None or reference_pattern is not None:
            found.check()
        return _announced(found)
    if reference_pattern is not None or (one_for_all and references is not None):
        raise InputError(
            "one reference for all, or a pattern, goes with a list of names; pass list(pictures), without rows that "
            "have no path"
        )
    return _zipped(pictures, references)


def _announced(items: "Items") -> Iterator[Item]:
    """The items; and what was left out is logged, not warned of, as warnings may be errors and would end the run."""
    yield from items
    if items.left_out:
        logging.getLogger("aigciqa").warning("%s", items.left_out)


def _zipped(pictures: Iterable[Any], references: Iterable[Any] | None) -> Iterator[Item]:
    pairs: Iterable[tuple[Any, Any]]
    if references is None:
        pairs = ((picture, None) for picture in _plain(pictures))
    else:
        pairs = itertools.zip_longest(_plain(pictures), _plain(references), fillvalue=_NONE)
    for number, (picture, reference) in enumerate(pairs):
        if picture is _NONE or reference is _NONE:
            side = "references" if picture is _NONE else "pictures"
            raise InputError(f"there are more {side} than {number}; pass as many of both, in the same order")
        if references is None and isinstance(picture, Item):
            yield picture
            continue
        beside = None if is_missing(reference) else _spelled(_path(reference, number))
        if is_missing(picture):
            name = f"row {number}"
            error = f"{name} (counted from 0) has no path of an image; fill it in, or leave the row out"
            yield Item(name, beside, error=error)
        else:
            yield Item(_spelled(_path(picture, number)), beside)


def _plain(paths: Iterable[Any]) -> Iterator[Any]:
    """Each path; those of a column of pyarrow as Python has them."""
    return (path.as_py() if hasattr(path, "as_py") else path for path in paths)


def _path(path: Any, number: int) -> str:
    if not isinstance(path, str | os.PathLike):
        kind = type(path).__name__
        raise InputError(
            f"row {number} (counted from 0) is no path of an image, but {kind}; pass paths, or score other images by "
            "calling the metric"
        )
    return str(os.fspath(path))


def is_missing(path: Any) -> bool:
    """Whether a table has no path here: None, NaN, a text without a letter, or pandas' NA or NaT.

    Examples:
        >>> is_missing(float("nan")), is_missing(None), is_missing("nan.png")
        (True, True, False)
    """
    if path is None or (isinstance(path, str) and not path.strip()):
        return True
    if isinstance(path, Real):
        return bool(path != path)
    pandas = sys.modules.get("pandas")  # whose values there are only where pandas is loaded
    return pandas is not None and (path is pandas.NA or path is pandas.NaT)


def _check_source(name: str) -> None:
    if not isinstance(name, str):
        raise InputError(f"a source is bytes, {name!r}; pass os.fsdecode(...) of it")
    if not name or "\0" in name:
        raise InputError(f"{name!r} is not the name of anything")
    if name == "-" or is_glob(name) or there(Path(name).exists):
        return
    if name.lower().endswith(SHARDS + MANIFESTS) or name.endswith(("/", os.sep)):
        raise InputError(f"{shown(name)}: there is no such file or folder; check its name")


def _spelled(name: str) -> str:
    """The name as given, or as the disk spells it where only that is there."""
    found = located(Path(), name)
    return name if found == str(Path(name)) else found


class Items:
    """The items of `find_items`; going through them again gives the same ones in the same order.

    Attributes:
        left_out: counts what the last pass, of `check` or over the items, passed over in folders, globs and shards;
            `str` makes a line of it, and ``left_out.counts`` has the numbers.
        referenced: of the pictures that `check` counted, how many have a reference.
    """

    def __init__(
        self,
        sources: list[str],
        pair: Pair | None,
        columns: tuple[str, str],
        stdin: IO[str] | None,
        shard: tuple[int, int],
    ):
        self._sources = sources
        self._pair = pair
        self._columns = columns
        self._listing = Listing(stdin)
        self._shard = shard
        self.referenced = 0
        self.left_out = LeftOut()

    def __iter__(self) -> Iterator[Item]:
        """Read and pair one item after another.

        Raises:
            InputError: for a source that cannot be read or has nothing in it, and at the first picture that
                has no reference or several; `check` finds these beforehand.
        """
        for item, place in self._mine(read=True):
            yield self._whole(item, place)

    def check(self) -> int:
        """Go through all items of this shard, without reading pictures, and see that each has its reference.

        Returns:
            How many items there are.

        Raises:
            InputError: listing pictures that have no reference or several; or a source that cannot be read.
        """
        count = referenced = unmatched = ambiguous = 0
        listed: list[Unpaired] = []
        for item, place in self._mine(read=False):
            count += 1
            paired = self._paired(item, place)
            if isinstance(paired, Unpaired):
                unmatched += not paired.several
                ambiguous += paired.several
                if len(listed) < SHOWN:
                    listed.append(paired)
            else:
                referenced += paired.reference is not None
        self.referenced = referenced
        if listed:
            more = unmatched + ambiguous - len(listed)
            raise InputError(
                f"of {count} pictures {unmatched} have no reference and {ambiguous} have several; correct the "
                "names, or say how they go together with a pattern, such as '{stem}.png' or '{1:d}.jpg':\n"
                + "\n".join(f"  {one}" for one in listed)
                + (f"\n  and {more} more" if more else "")
            )
        return count

    def _mine(self, read: bool) -> Iterator[Placed]:
        """The shard's part. Tar members are read only if `read`, and not those of other parts."""
        first, every = self._shard
        number = 0
        left_out = self.left_out = LeftOut()

        def is_mine() -> bool:
            return number % every == first - 1

        for source in self._sources:
            for found in self._expand(source, lambda: read and is_mine(), left_out):
                if is_mine():
                    yield found
                number += 1

    def _whole(self, item: Item, place: Path | None) -> Item:
        paired = self._paired(item, place)
        if isinstance(paired, Unpaired):
            raise InputError(str(paired))
        return paired

    def _paired(self, item: Item, place: Path | None) -> Item | Unpaired:
        if self._pair is None:
            return item
        if item.reference is not None:
            raise InputError(
                f"{shown(item.picture)} comes with the reference {shown(item.reference)}; give no other by ",
                Parameter("reference"),
                " or ",
                Parameter("reference_pattern"),
                ", or take that column or member out",
            )
        reference = self._pair(item.picture, place)
        return reference if isinstance(reference, Unpaired) else replace(item, reference=reference)

    def _expand(self, source: str, wanted: Callable[[], bool], left_out: LeftOut) -> Iterator[Placed]:
        path = Path(source)
        if source == "-":
            listed = ((Item(_spelled(name)), None) for name in self._listing)
            yield from some(listed, "-: no path came on standard input")
        elif is_folder(path):
            found = ((Item(str(picture)), path) for picture in pictures(path, left_out))
            complaint = f"{shown(source)}: no picture in this folder; name tables and shards by themselves"
            yield from some(found, complaint, left_out)
        elif is_glob(source):
            start = next(i for i, part in enumerate(path.parts) if is_magic(part))
            place, parts = Path(*path.parts[:start]), path.parts[start:]
            parts += ("*",) * (parts[-1] == "**")
            files = walk(place, parts, left_out) if there(place.is_dir) else iter(())
            for file in some(files, f"{shown(source)}: no file matches; check the pattern", left_out):
                yield from self._file(str(file), place, wanted, left_out)
        else:
            yield from self._file(source, None, wanted, left_out)

    def _file(
        self, name: str, place: Path | None, wanted: Callable[[], bool], left_out: LeftOut
    ) -> Iterator[Placed]:
        path = Path(name)
        if name.lower().endswith(SHARDS):
            found = ((_item(*sample), path) for sample in read_tar(path, wanted, left_out))
            yield from some(found, f"{shown(name)}: no picture in this shard", left_out)
        elif name.lower().endswith(MANIFESTS):
            listed = ((_item(*row), None) for row in read_manifest(path, *self._columns, wanted))
            yield from some(listed, f"{shown(name)}: no row in this table")
        elif place is None and is_list(path):
            paths = ((Item(listed), None) for listed in read_list(path))
            yield from some(paths, f"{shown(name)}: no path in this list")
        else:
            yield Item(name if place else _spelled(name)), place


def _item(picture: Found, reference: Found | None) -> Item:
    beside = reference or Found("")
    return Item(picture.name, beside.name or None, picture.data, beside.data, picture.error, beside.error)
