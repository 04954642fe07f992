"""Where checkpoints come from: the package, a folder, the Hugging Face Hub. And how one is written.

A checkpoint is a folder (or a Hub repository) with ``config.json`` and ``model.safetensors``. The weights'
SHA-256 stands in the config and is checked before they are used. Nothing is ever unpickled.
"""

import difflib
import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from . import hub
from .config import LONGEST, REPO, REPO_IS, REVISION, REVISION_IS, MetricConfig, read_config
from .errors import CheckpointError
from .transient import WatchedFile, transient, unreadable
from .writing import write_whole

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
                with _readable(path):
                    found = stat.S_ISREG(path.stat().st_mode)
            except OSError:  # it is not there, or a link to what cannot be
                found = False
            if not found:
                if config.repo is None or self.folder.parent != PACKAGED:
                    raise CheckpointError(f"{self.folder} is not a checkpoint: it has no {WEIGHTS}")
                path = self._fetch(WEIGHTS, config.repo, config.revision, most, pinned=True)
        else:
            # from the commit that the config came from, even if the branch has moved on since
            path = self._fetch(WEIGHTS, self.repo, self._config_folder.name, most)
        if not path.is_file():  # reading a device or a pipe would not end
            raise CheckpointError(f"{path} is not a file; remove it to fetch the file again")
        with _readable(path):
            hub.check_size(str(path), path.stat().st_size, most)
            digest = _digest(path)
        if digest == config.sha256:
            return path
        if path.parent == self.folder:
            dealt_with = (
                "the two files are not of one checkpoint, or one is damaged: copy or write both again"
            )
        elif self._offline:
            dealt_with = (
                f"it was left in the cache, because it cannot be fetched again offline: {path.resolve()}"
            )
        else:
            dealt_with = hub.discard(path, digest)
        raise CheckpointError(
            f"wrong checksum, not used: {path} has SHA-256 {digest[:16]}…, its config pins "
            f"{config.sha256[:16] or 'none'}…; {dealt_with}"
        )

    def _fetch(
        self, file: str, repo: str | None, revision: str | None, most: int | None, pinned: bool = False
    ) -> Path:
        """One file of a Hub repository; for `pinned` content whatever the cache holds is as good."""
        assert repo is not None
        errors: list[Exception] = []
        for cached_only in (True, False) if pinned and not self._offline else (self._offline,):
            try:
                return hub.fetch(
                    file,
                    repo,
                    revision,
                    most,
                    cached_only=cached_only,
                    token=self.token,
                    cache_dir=self.cache_dir,
                )
            except CheckpointError:
                raise
            except Exception as error:  # the client raises its HTTP library's errors as they come
                errors.append(error)
        missing = f"there is no folder {self.name!r} here; " if self.name == repo else ""
        how = hub.advice(file, repo, revision, self._offline, self.cache_dir, errors[-1])
        raise CheckpointError(missing + how) from errors[-1]

    @property
    def _offline(self) -> bool:
        if self.offline is not None:
            return self.offline
        from huggingface_hub.constants import HF_HUB_OFFLINE

        return bool(HF_HUB_OFFLINE)


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
    how = {"token": token, "offline": offline, "cache_dir": cache_dir}
    if name in packaged_names() and isinstance(source, str):
        return Source(name, folder=PACKAGED / name, **how)  # type: ignore[arg-type]
    try:
        folder = Path(name).expanduser()
        is_folder, is_there = bool(name) and folder.is_dir(), bool(name) and folder.exists()
    except (OSError, RuntimeError, ValueError):  # a name that no path can have, or the home of nobody
        is_folder = is_there = False
    if is_folder:
        return Source(name, folder=folder, **how)  # type: ignore[arg-type]
    repo, at, revision = name.removeprefix("hf-hub:").partition("@")
    if isinstance(source, str) and re.fullmatch(REPO, repo, re.ASCII):
        if at and not re.fullmatch(REVISION, revision, re.ASCII):
            raise CheckpointError(
                f"{name[:200]!r}: the revision after '@' must be {REVISION_IS}, not {revision[:200]!r}"
            )
        return Source(name, repo=repo, revision=revision or None, **how)  # type: ignore[arg-type]
    if is_there:
        raise CheckpointError(f"{name} is a file; a checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    names = packaged_names()
    near = difflib.get_close_matches(name[:200], names, n=1)
    raise CheckpointError(
        f"no metric, folder or Hub repository {name[:200]!r}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + f" The named metrics are {', '.join(names)}. A Hub repository is written org/repo or "
        f"hf-hub:org/repo@revision, where org/repo is {REPO_IS}."
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
        with _readable(path), WatchedFile(path) as file:
            start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > HEADER:
            raise ValueError(f"its header has {length:,} bytes" if len(start) == 8 else "it is too short")
        with _readable(path), safe_open(path, "pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except CheckpointError:
        raise
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
        with _readable(path):
            return load_file(path)
    except CheckpointError:
        raise
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
        write_whole(folder / name, content)
    return config


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Of a file that cannot be read now nothing is known, so nothing is said of its content, or removed."""
    try:
        yield
    except OSError as error:
        if transient(error) is None:
            raise
        raise CheckpointError(
            f"{unreadable(str(path), error)}; nothing was changed: put that right and try again"
        ) from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with WatchedFile(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
