"""Which files Pillow can read now, and an account of those that are left out."""

from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import PurePath

from PIL import Image

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow knows these formats only by name

# Plugins of Pillow by the endings that they add: the package, its module, and what registers it, if not its import
_PLUGINS = {
    (".heic", ".heics", ".heif", ".heifs", ".hif"): ("pillow-heif", "pillow_heif", "register_heif_opener"),
    (".jxl",): ("pillow-jxl-plugin", "pillow_jxl", None),
    (".avif", ".avifs"): ("pillow-avif-plugin", "pillow_avif", None),
}

_PIPE = "special file"
_FOLDER = "matching folder"
_LINK = "link to a folder or to no image"
_WALKED = "link to a folder that was walked already"
_NAMELESS = "without an ending"
_OTHER = "of other endings"
_REMEDIES = {
    _NAMELESS: "if it is an image, name it or use a glob such as 'folder/*'",
    _FOLDER: "name it, or use '**'",
    _LINK: "unpack the archive to score what a folder holds",
    _WALKED: "",
    _PIPE: "a pipe, a socket or a device",
}
_KINDS, _LONGEST = 100, 10  # endings that are counted by themselves, and how long each may be
_SHOWN = 6


def reads(name: str) -> bool:
    """Whether a name has the ending of a format that Pillow reads now, plugins registered just before included.

    Args:
        name: of a file, or a path.

    Examples:
        >>> reads("a/b.PNG"), reads("notes.txt"), reads("png")
        (True, False, False)
    """
    suffix = PurePath(name).suffix.lower()
    return _reads(suffix) or (_plugin(suffix) is not None and load_plugins() and _reads(suffix))


def _reads(suffix: str) -> bool:
    kind = Image.registered_extensions().get(suffix)
    return kind == "MPO" or (kind in Image.OPEN and kind not in STUBS)  # an MPO is opened as a JPEG


def _plugin(suffix: str) -> str | None:
    return next((package for endings, (package, _, _) in _PLUGINS.items() if suffix in endings), None)


def advice(name: str) -> str:
    """Which plugin to install for a file, to end a message with; empty where none is known or it is not needed."""
    suffix = PurePath(name).suffix.lower()
    package = _plugin(suffix)
    return (
        f"; {suffix} files need a plugin of Pillow's: pip install {package}"
        if package and not reads(name)
        else ""
    )


@cache
def load_plugins() -> bool:
    """Register the plugins of Pillow that are installed; whether there was any."""
    found = False
    for _, module, register in _PLUGINS.values():
        try:
            plugin = import_module(module)
            if register is not None:
                getattr(plugin, register)()
            found = True
        except Exception:  # not installed, or installed and broken, which is the same to an image
            continue
    return found


class LeftOut:
    """Counts the files that a folder, a glob or a shard has and that are not scored, by the reason.

    Examples:
        >>> left_out = LeftOut()
        >>> for name in ("a.txt", "b.txt", "c"):
        ...     left_out.file(name)
        >>> print(left_out)
        left out: 1 without an ending (if it is an image, name it or use a glob such as 'folder/*'); 2 .txt
        >>> left_out.counts[".txt"]
        2
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def file(self, name: str) -> None:
        """Count a file whose ending is not that of an image."""
        suffix = PurePath(name).suffix.lower()
        short = len(suffix) <= _LONGEST and suffix.isprintable()
        room = (
            suffix in self.counts or len(self.counts) < _KINDS
        )  # names of strangers may not fill the memory
        self.counts[(suffix or _NAMELESS) if short and room else _OTHER] += 1

    def pipe(self) -> None:
        """Count what is neither file nor folder."""
        self.counts[_PIPE] += 1

    def folder(self) -> None:
        """Count a folder that a glob matches."""
        self.counts[_FOLDER] += 1

    def link(self) -> None:
        """Count a symbolic link in an archive whose ending is not that of an image."""
        self.counts[_LINK] += 1

    def walked(self) -> None:
        """Count a link to a folder that was walked already."""
        self.counts[_WALKED] += 1

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """One line; empty where nothing was left out."""
        order = [reason for reason, _ in self.counts.most_common() if reason != _OTHER]
        plugins = [reason for reason in order if _plugin(reason)]
        endings = [reason for reason in order if reason.startswith(".") and reason not in plugins]
        listed = plugins + [reason for reason in _REMEDIES if reason in order] + endings[:_SHOWN]
        said = [self._said(reason) for reason in listed]
        if others := self.counts[_OTHER] + sum(self.counts[reason] for reason in endings[_SHOWN:]):
            said.append(f"{others} {_OTHER}")
        return f"left out: {'; '.join(said)}" if said else ""

    def _said(self, reason: str) -> str:
        count, package = self.counts[reason], _plugin(reason)
        remedy = f"pip install {package}" if package else _REMEDIES.get(reason)
        called = reason if count == 1 else _PLURALS.get(reason, reason)
        return f"{count} {called}" + (f" ({remedy})" if remedy else "")


_PLURALS = {
    _PIPE: "special files",
    _FOLDER: "matching folders",
    _LINK: "links to folders or to no images",
    _WALKED: "links to folders that were walked already",
}
