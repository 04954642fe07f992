"""Tar shards: the samples in them, their links followed, read once from front to back."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from .archive import Archive, Links
from .errors import InputError
from .formats import LeftOut, reads
from .limits import MIB
from .walking import reading, shown

SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, slots=True)
class Found:
    """An image in a shard.

    Args:
        name: what results call it.
        data: its content; None where it was not to be read, or could not be.
        error: why it could not be read, beginning with its name.
    """

    name: str
    data: bytes | None = None
    error: str | None = None


Sample: TypeAlias = tuple[Found, Found | None]  # the generated image, and its reference


def read_tar(path: Path, wanted: Callable[[], bool], left_out: LeftOut) -> Iterator[Sample]:
    """The samples in order.

    Args:
        path: of the shard.
        wanted: says, when a sample begins, whether to read its members.
        left_out: counts members that are no images.

    Raises:
        InputError: when it cannot be read, or its members cannot be told apart. A member that cannot be read has
            an error in its sample instead.
    """
    with reading(path, "a tar archive"), Archive(path) as archive, Links(path) as links:
        key, sample, read = "", dict[str, Found](), False
        for member in archive.members():
            inner = PurePosixPath(member.name.lstrip("/"))
            if member.isdir() or any(part.startswith(".") and part != ".." for part in inner.parts):
                continue
            if member.isdev():
                left_out.pipe()
                continue
            stem, _, ending = inner.name.partition(".")
            if key != str(inner.parent / stem):
                if sample:
                    yield _sample(sample)
                key, sample, read = str(inner.parent / stem), {}, wanted()
            if not reads(inner.name):
                left_out.link() if member.issym() else left_out.file(inner.name)
                continue
            role = "reference" if ending.lower().split(".")[-2:-1] in (["ref"], ["reference"]) else "picture"
            name = f"{path}/{inner}"
            if role in sample:
                raise InputError(
                    f"{shown(name)}: the second {role} of one sample, beside {shown(sample[role].name)}; call "
                    "references key.ref.jpg, and give different pictures different names before their first dot"
                )
            sample[role] = _found(archive, links, member, name) if read else Found(name)
        if sample:
            yield _sample(sample)


def _found(archive: Archive, links: Links, member: tarfile.TarInfo, name: str) -> Found:
    """A member that cannot be read is one row with an error, and the others are scored."""
    try:
        source = links if member.issym() or member.islnk() else archive
        return Found(name, source.read(member, shown(name)))
    except InputError as error:
        return Found(name, None, str(error))
    except MemoryError:
        size = f"{member.size / MIB:,.0f} MiB"
        return Found(name, None, f"{shown(name)}: there is not enough memory to hold its {size}; free some")


def _sample(sample: dict[str, Found]) -> Sample:
    reference = sample.get("reference")
    if "picture" not in sample:
        name = reference.name if reference else ""
        raise InputError(f"{shown(name)}: a reference without a picture beside it in the shard")
    return sample["picture"], reference
