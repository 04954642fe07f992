"""Files from the Hugging Face Hub: fetched by the Hub's own client, which is held to what a checkpoint may be.

The client names files in its cache after the headers of an answer, and writes the body as long as it comes. A Hub, a
mirror or a proxy may be hostile, and may answer each request differently. So every answer is checked in the moment in
which the client gets it, before the client reads a header or writes a byte.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .errors import CheckpointError

_NAMES = {  # headers after which the client names files and folders, and what they may be
    "ETag": re.compile(r'(W/)?"?\w[\w.+=-]{0,99}"?', re.ASCII),
    "X-Linked-ETag": re.compile(r'(W/)?"?\w[\w.+=-]{0,99}"?', re.ASCII),
    "X-Repo-Commit": re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}"),
}
_SIZES = ("X-Linked-Size", "Content-Length")
_OTHER = 1 << 16  # bytes of an answer that is no file, such as the page of an error


def fetch(
    file: str,
    repo: str,
    revision: str | None,
    most: int | None,
    *,
    cached_only: bool,
    token: str | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Path:
    """One file of a Hub repository, in the client's cache.

    Args:
        file: its name there.
        repo: ``owner/name``.
        revision: branch, tag or commit; None for main.
        most: bytes that it may have; None for any number.
        cached_only: look into the cache and ask no server.
        token: for private repositories; None for the client's own.
        cache_dir: None for the client's own.

    Raises:
        CheckpointError: when the file is too large, or an answer is none that a Hub gives.
        Exception: whatever the client raises otherwise; see `advice`.
    """
    from huggingface_hub import hf_hub_download

    get: Any = hf_hub_download  # its overloads do not know options that are passed on
    where = {
        "revision": revision,
        "token": token,
        "cache_dir": None if cache_dir is None else Path(cache_dir),
        "library_name": "aigciqa",
        "headers": {"Accept-Encoding": "identity"},  # a compressed file could be of any size
    }
    if cached_only:
        return Path(get(repo, file, local_files_only=True, **where))
    what = f"{file} of {repo}"
    with _checked_answers(_Expected(what, most)):
        check_size(what, get(repo, file, dry_run=True, **where).file_size or 0, most)
        return Path(get(repo, file, **where))


def check_size(what: str, size: int, most: int | None) -> None:
    """Refuse a file that is larger than a checkpoint of its config can be.

    Raises:
        CheckpointError: when `size` is above `most`.
    """
    if most is not None and size > most:
        raise CheckpointError(
            f"{what} has {size:,} bytes, where a checkpoint of this config has at most {most:,}; not used"
        )


# -- answers


@dataclass
class _Expected:
    """The file that is being fetched, and how many bytes of it have come."""

    what: str
    most: int | None
    received: int = 0

    def check(self, response: Any) -> None:
        """Refuse an answer by its headers, and let its body be counted."""
        headers, is_file = response.headers, 200 <= response.status_code < 300
        headers.pop(
            "X-Xet-Hash", None
        )  # so that the file comes by HTTP: of Xet's transfer nothing is seen here
        if response.request.method == "HEAD":
            for name, allowed in _NAMES.items():
                value = headers.get(name)
                if value is not None and not allowed.fullmatch(value):
                    self.refuse(response, f"it has {name} {value[:100]!r}, after which no file may be named")
        for name in _SIZES if is_file or response.request.method == "HEAD" else ():
            if (size := headers.get(name, "")).isdecimal() and len(size) < 30:
                check_size(self.what, int(size), self.most)
        encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
        if encoded and is_file:
            self.refuse(response, "it is compressed, which was not asked for")
        if encoded:
            headers.pop("Content-Encoding")
        limit = (0 if encoded else _OTHER) if not is_file else self.most
        response.stream = _counted(response, self.count(response, limit, is_file))

    def count(self, response: Any, limit: int | None, is_file: bool) -> Any:
        """What is called with the length of every part of a body."""
        came = 0

        def add(length: int) -> None:
            nonlocal came
            came += length
            if limit is not None and came > limit:
                self.refuse(response, f"it goes on after {limit:,} bytes")
            if is_file and self.most is not None:
                self.received += length
                if self.received > 2 * self.most:  # a transfer that breaks off is resumed, again and again
                    self.refuse(response, f"{self.received:,} bytes have come and the file is not whole")

        return add

    def refuse(self, response: Any, why: str) -> NoReturn:
        raise CheckpointError(
            f"cannot get {self.what}: the answer of {response.request.url.host} is refused, because {why}. "
            "Nothing of it is used. Check the server, HF_ENDPOINT and the proxy"
        )


def _counted(response: Any, add: Any) -> Any:
    """The body of an answer, each part of which is counted before it is passed on."""
    stream = response.stream
    http = import_module(
        type(response).__module__.partition(".")[0]
    )  # httpx, or what the client has in its place

    def parts(_: Any) -> Iterator[bytes]:
        for part in stream:
            add(len(part))
            yield part

    def close(_: Any) -> None:
        stream.close()

    return type("Counted", (http.SyncByteStream,), {"__iter__": parts, "close": close})()


_EXPECTED: ContextVar[_Expected | None] = ContextVar("_EXPECTED", default=None)


@contextmanager
def _checked_answers(expected: _Expected) -> Iterator[None]:
    """Within this block, and this thread, the client gets no answer that was not checked."""
    from huggingface_hub.utils import _http

    # All who use the client share its session, and it makes a new one after an error. So each session has the check,
    # which does nothing outside of this block.
    with _http._CLIENT_LOCK:  # nobody makes a session meanwhile
        if not isinstance(_http._GLOBAL_CLIENT_FACTORY, _Sessions):
            _http._GLOBAL_CLIENT_FACTORY = _Sessions(_http._GLOBAL_CLIENT_FACTORY)
        session = _http._GLOBAL_CLIENT
    if session is not None:
        _with_check(session)
    token = _EXPECTED.set(expected)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


@dataclass
class _Sessions:
    """Makes sessions as `make` does, each with the check."""

    make: Any

    def __call__(self) -> Any:
        return _with_check(self.make())


def _with_check(session: Any) -> Any:
    hooks = session.event_hooks["response"]
    if _check not in hooks:
        hooks.insert(0, _check)
    return session


def _check(response: Any) -> None:
    if (expected := _EXPECTED.get()) is not None:
        expected.check(response)


# -- the cache


def discard(path: Path, digest: str) -> str:
    """Remove a file of the cache that has a wrong checksum, so that it can be fetched again.

    Only a link in a snapshot of the cache and the file among the blobs of the same repository are removed. Anything
    else was not put there by the client, so it stays. A blob that another snapshot needs stays too, unless its own
    name says that it is damaged.

    Args:
        path: in a snapshot.
        digest: SHA-256 of the content.

    Returns:
        What was done, for a message.
    """
    blob = _blob(path)
    if blob is None:
        return _kept(path, "the Hub's client did not put it into the cache")
    needed = any(other != path and _blob(other) == blob for other in path.parent.parent.rglob("*"))
    damaged = re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != digest
    try:
        path.unlink()
        if damaged or not needed:
            blob.unlink()
    except OSError as error:
        return _kept(path, f"it cannot be removed ({error.strerror})")
    return "it was removed from the cache; try again, and if it persists tell the publisher"


def _kept(path: Path, why: str) -> str:
    return f"it was left where it is, because {why}. Look at {path.resolve()}; to fetch the file again, remove {path}"


def _blob(path: Path) -> Path | None:
    """The blob that a file in a snapshot is a link to; None where this is not as the client makes it."""
    snapshots = path.parent.parent
    repo = snapshots.parent
    try:
        if any(folder.is_symlink() for folder in (path.parent, snapshots, repo, repo / "blobs")):
            return None
        blob = Path(os.path.normpath(path.parent / path.readlink()))
        return blob if blob.parent == repo / "blobs" and stat.S_ISREG(blob.lstat().st_mode) else None
    except OSError:  # it is no link, or it is gone
        return None


def advice(
    file: str, repo: str, revision: str | None, offline: bool, cache_dir: Any, error: Exception
) -> str:
    """Why a file cannot be fetched, and how to fetch it by hand."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what went wrong before the client looked into its cache
    reason = (str(error).strip().splitlines() or [""])[0][:500]  # a server may have written it
    reason = "".join(c if c.isprintable() else "?" for c in reason)
    at = f" --revision {revision}" if revision else ""
    return (
        f"cannot get {file} of {repo} (revision {revision or 'main'}) from the Hugging Face Hub"
        f"{', which is switched off (offline)' if offline else f' at {constants.ENDPOINT}'}, "
        f"and the cache {cache} does not hold it.\n  cause: {type(error).__name__}: {reason}\n"
        f"  by hand, where there is a network: hf download {repo} config.json model.safetensors{at} --local-dir DIR\n"
        f'  then copy DIR here and use create_metric("DIR")'
    )
