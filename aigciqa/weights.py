"""Where checkpoints come from: the package, a folder, the Hugging Face Hub. And how one is written.

A checkpoint is a folder (or a Hub repository) with ``config.json`` and ``model.safetensors``. The weights'
SHA-256 stands in the config and is checked before they are used. Nothing is ever unpickled.
"""

import difflib
import hashlib
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import LONGEST, MetricConfig, read_config
from .errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PACKAGED = Path(__file__).parent / "checkpoints"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
HEADER = 4 << 20  # bytes of a safetensors header, at most; that of ViT-L has 50,000


@dataclass(frozen=True)
class Source:
    """A checkpoint that may not have been opened yet; making one touches neither disk nor network.

    Args:
        name: as the user gave it.
        folder: where the checkpoint lies; for a named metric, where its config lies.
        repo: where it lies on the Hub, where there is no folder.
        revision: branch, tag or commit there; None for main.
        token: for private repositories; None for the one that ``hf auth login`` saved or `HF_TOKEN`.
        offline: True to use only what is on this machine; None for what `HF_HUB_OFFLINE` says.
        cache_dir: the Hub client's cache; None for its default.
    """

    name: str
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None
    token: str | None = None
    offline: bool | None = None
    cache_dir: str | os.PathLike[str] | None = None

    def config(self) -> MetricConfig:
        """Read the config, fetching it if need be.

        Raises:
            CheckpointError: when it cannot be found, fetched or read.
        """
        return read_config(self._config_folder)

    @cached_property
    def _config_folder(self) -> Path:
        """Of a Hub repository its snapshot in the cache, which is of one commit."""
        return self.folder or self._fetch(CONFIG, self.repo, self.revision, most=LONGEST).parent

    def weights(self, config: MetricConfig, most: int | None = None) -> Path:
        """The weights that `config` pins, fetched if need be, with their checksum verified.

        Looked for in the folder (or package), then in the Hub's cache, then on the Hub.

        Args:
            config: of this checkpoint.
            most: bytes that they may have, so that nothing larger is fetched or read; None for any number.

        Raises:
            CheckpointError: when they cannot be found or fetched, or are not what the config pins.
        """
        if self.folder is not None:
            path = self.folder / WEIGHTS
            try:
                found = path.is_file()
            except OSError:  # a link to what cannot be
                found = False
            if not found:
                if config.repo is None or self.folder.parent != PACKAGED:
                    raise CheckpointError(f"{self.folder} is not a checkpoint: it has no {WEIGHTS}")
                path = self._fetch(WEIGHTS, config.repo, config.revision, most, pinned=True)
        else:
            # from the commit that the config came from, even if the branch has moved on since
            path = self._fetch(WEIGHTS, self.repo, self._config_folder.name, most)
        _check_size(str(path), path.stat().st_size, most)
        _verify(path, config, from_hub=path.parent != self.folder)
        return path

    def _fetch(
        self, file: str, repo: str | None, revision: str | None, most: int | None, pinned: bool = False
    ) -> Path:
        """One file of a Hub repository; for `pinned` content whatever the cache holds is as good."""
        from huggingface_hub import hf_hub_download

        assert repo is not None
        where = {
            "revision": revision,
            "token": self.token,
            "cache_dir": None if self.cache_dir is None else Path(self.cache_dir),
            "library_name": "aigciqa",
        }
        if (offline := self.offline) is None:
            from huggingface_hub.constants import HF_HUB_OFFLINE as offline
        errors: list[Exception] = []
        for cached_only in (True, False) if pinned and not offline else (bool(offline),):
            try:
                if not cached_only:  # its size first, before the disk is filled
                    found: Any = hf_hub_download(repo, file, dry_run=True, **where)  # type: ignore[call-overload]
                    _check_size(f"{file} of {repo}", found.file_size or 0, most)
                return Path(hf_hub_download(repo, file, local_files_only=cached_only, **where))  # type: ignore[call-overload]
            except CheckpointError:
                raise
            except Exception as error:  # the client raises its HTTP library's errors as they come
                errors.append(error)
        raise CheckpointError(self._advice(file, repo, revision, bool(offline), errors[-1])) from errors[-1]

    def _advice(self, file: str, repo: str, revision: str | None, offline: bool, error: Exception) -> str:
        from huggingface_hub import constants
        from huggingface_hub.errors import LocalEntryNotFoundError

        cache = Path(self.cache_dir or constants.HF_HUB_CACHE)
        if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # what went wrong before the client looked into its cache
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        at = f" --revision {revision}" if revision else ""
        missing = f"there is no folder {self.name!r} here; " if self.name == repo else ""
        return (
            f"{missing}cannot get {file} of {repo} (revision {revision or 'main'}) from the Hugging Face Hub"
            f"{', which is switched off (offline)' if offline else f' at {constants.ENDPOINT}'}, "
            f"and the cache {cache} does not hold it.\n  cause: {reason}\n"
            f"  by hand, where there is a network: hf download {repo} {CONFIG} {WEIGHTS}{at} --local-dir DIR\n"
            f'  then copy DIR here and use create_metric("DIR")'
        )


def parse_source(
    source: str | os.PathLike[str],
    *,
    token: str | None = None,
    offline: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """What `source` names: a packaged metric, a folder, or a Hub repository, in this order.

    Args:
        source: a name of `list_metrics`, a folder, ``org/repo``, ``org/repo@revision``, or either of the
            last two with ``hf-hub:`` before it.

    Raises:
        CheckpointError: when it is none of these.
    """
    name = os.fspath(source)
    hub = {"token": token, "offline": offline, "cache_dir": cache_dir}
    if name in packaged_names() and isinstance(source, str):
        return Source(name, folder=PACKAGED / name, **hub)  # type: ignore[arg-type]
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return Source(name, folder=folder, **hub)  # type: ignore[arg-type]
    repo = r"(?:hf-hub:)?(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?"
    if isinstance(source, str) and (match := re.fullmatch(repo, name, re.ASCII)):
        return Source(name, repo=match["repo"], revision=match["revision"], **hub)  # type: ignore[arg-type]
    if name and folder.exists():
        raise CheckpointError(f"{name} is a file; a checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    names = packaged_names()
    near = difflib.get_close_matches(name, names, n=1)
    raise CheckpointError(
        f"no metric, folder or Hub repository {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" Metrics: {', '.join(names)}. A Hub repository is written org/repo or hf-hub:org/repo@revision."
    )


def packaged_names() -> list[str]:
    """The named metrics: one folder each in the package, whose config pins the weights."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{CONFIG}"))


def check_weights(path: Path, expected: "Mapping[str, Tensor]", of: MetricConfig) -> None:
    """See from its header, without reading a tensor, that a safetensors file holds what a network needs.

    Args:
        path: of the file.
        expected: the state dict of that network, which may be on the meta device.
        of: its config, for messages.

    Raises:
        CheckpointError: when it is not a safetensors file, or holds other tensors or other shapes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > HEADER:
            raise ValueError(f"its header has {length:,} bytes" if len(start) == 8 else "it is too short")
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    wrong = expected.keys() ^ shapes.keys()
    if wrong := wrong or {k for k in shapes if tuple(expected[k].shape) != shapes[k]}:
        raise CheckpointError(
            f"the weights do not fit the config ({of.backbone}, {of.reference} reference, "
            f"{len(of.dimensions)} dimensions): {len(wrong)} tensors differ, {min(wrong)[:99]!r} for one"
        )


def load_weights(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file.

    Raises:
        CheckpointError: when it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # the last for a type that torch lacks
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None


def save_checkpoint(
    folder: str | os.PathLike[str], config: MetricConfig, state: "Mapping[str, Tensor]", half: bool = False
) -> MetricConfig:
    """Write a checkpoint: weights first, then the config that pins them, each appearing whole or not at all.

    Args:
        folder: made if missing.
        config: its `sha256` is filled in.
        state: the state dict of a `Network`.
        half: store floats as float16, half the size; they are computed with as float32 all the same.

    Returns:
        The config as written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    data = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    config = config.with_(sha256=hashlib.sha256(data).hexdigest())
    for name, content in ((WEIGHTS, data), (CONFIG, config.to_json().encode())):
        temporary = folder / f".{name}.part"
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # not what a link of that name points to
            file.write(content)
        temporary.replace(folder / name)
    return config


def _check_size(what: str, size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise CheckpointError(
            f"{what} has {size:,} bytes, where a checkpoint of this config has at most {most:,}; not used"
        )


def _verify(path: Path, config: MetricConfig, from_hub: bool) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() == config.sha256:
        return
    dealt_with = "the two files are not of one checkpoint, or one is damaged: copy or write both again"
    if from_hub:
        for cached in {path.resolve(), path}:  # the blob, and the link to it
            cached.unlink(missing_ok=True)
        dealt_with = "it was removed from the cache; try again, and if it persists tell the publisher"
    raise CheckpointError(
        f"wrong checksum, not used: {path} has SHA-256 {digest.hexdigest()[:16]}…, its config pins "
        f"{config.sha256[:16] or 'none'}…; {dealt_with}"
    )
