"""Opening the items that are scored: each distinct image is decoded once, in the thread that asks for it first."""

import hashlib
import io
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .config import MetricConfig
from .decode import open_file
from .errors import InputError, TransientError
from .limits import HELD, read_within
from .records import Row
from .sources import Item
from .transform import read_views
from .transient import not_now, transient
from .walking import shown

_SCARCE = threading.Lock()  # held while a picture that did not fit into memory is decoded once more

WHOLE = 16 << 20  # bytes; larger files are not held in memory beside the decoded picture


class Distinct:
    """A picture by its content: first decoded, then queued for the network, then its features."""

    def __init__(self, name: str):
        self.name = name  # of the first item that had it
        self.decoded: Future[None] = Future()
        self.views: Tensor | None = None  # what the network sees, until it has
        self.queued = False
        self.features: Future[Tensor] = Future()


class Cache:
    """The distinct pictures seen last, by digest of their content.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.known: OrderedDict[bytes, Distinct] = OrderedDict()
        self.lock = threading.Lock()

    def claim(self, digest: bytes, name: str) -> tuple[Distinct, bool]:
        """The picture of that content, and whether it is new, to be decoded by the caller."""
        with self.lock:
            found = self.known.get(digest)
            if found is not None:
                self.known.move_to_end(digest)
                return found, False
            made = self.known[digest] = Distinct(name)
            if len(self.known) > self.limit:
                self.known.popitem(last=False)
            return made, True

    def forget(self, digest: bytes, distinct: Distinct) -> None:
        """Let the next picture of that content be decoded anew."""
        with self.lock:
            if self.known.get(digest) is distinct:
                del self.known[digest]


@dataclass
class Opened:
    """An item whose pictures are being decoded."""

    item: Item
    generated: Distinct
    reference: Distinct | None


class Remaining:
    """Items still to be opened; of those that come with content, not more are taken than `HELD` bytes at once.

    Args:
        items: what to score.
    """

    def __init__(self, items: Iterable[Item]):
        self.items = iter(items)
        self.sizes: deque[int] = deque()  # of those that were taken last

    def take(self, waiting: int) -> Item | None:
        """The next item; None where there is none, or none yet, because those that wait are large."""
        while len(self.sizes) > waiting:
            self.sizes.popleft()
        if sum(self.sizes) >= HELD:
            return None
        item = next(self.items, None)
        if item is not None:
            self.sizes.append(len(item.data or b"") + len(item.reference_data or b""))
        return item


def open_item(item: Item, config: MetricConfig, cache: Cache) -> Opened:
    """Decode what is new of an item."""
    if config.mode == "NR" and item.reference is not None:
        problem = f"{shown(item.picture)}: {config.name} judges a picture alone; give no reference, or use fr-aigciqa"
    elif config.mode == "FR" and item.reference is None:
        problem = f"{shown(item.picture)}: has no reference, which {config.name} needs; or use nr-aigciqa"
    else:
        generated = _distinct(item.picture, item.data, config, cache, item.error)
        reference = item.reference and _distinct(
            item.reference, item.reference_data, config, cache, item.reference_error
        )
        item = replace(item, data=None, reference_data=None)  # a tar's content is no longer needed
        return Opened(item, generated, reference or None)
    refused = Distinct(item.picture)
    refused.decoded.set_exception(InputError(problem))
    return Opened(item, refused, None)


def _distinct(
    name: str, data: bytes | None, config: MetricConfig, cache: Cache, error: str | None = None
) -> Distinct:
    if error is not None:  # it could not be read where it lies
        refused = Distinct(name)
        refused.decoded.set_exception(InputError(error))
        return refused
    digest = b""
    try:
        digest, content = _content(name, data)
        found, new = cache.claim(digest, name)
    except (OSError, ValueError):  # it is opened once more, and decoding will say what is wrong
        content, found, new = name, Distinct(name), True
    if new:
        try:
            found.views = _views(content, config, name)
            found.decoded.set_result(None)
        except BaseException as error:
            if isinstance(error, TransientError):  # which is no property of the content
                cache.forget(digest, found)
            found.decoded.set_exception(error)
    return found


def reopened(opened: Opened, config: MetricConfig, cache: Cache) -> Opened:
    """An item whose pictures are read by themselves where another file of the same content could not be."""

    def own(distinct: Distinct, name: str) -> Distinct:
        error = distinct.decoded.exception()
        if (
            isinstance(error, TransientError)
            and isinstance(error.__cause__, OSError)
            and distinct.name != name
        ):
            return _distinct(name, None, config, cache)
        return distinct

    item = opened.item
    reference = opened.reference and own(opened.reference, item.reference or "")
    return Opened(item, own(opened.generated, item.picture), reference)


def _views(content: Any, config: MetricConfig, name: str) -> Tensor:
    """Decoded; tried once more where the place was to blame: the file is opened anew, or has the memory for itself."""
    try:
        return read_views(content, config.transform, name)
    except (InputError, MemoryError, RuntimeError) as error:
        if (cause := transient(error)) is None:
            raise
        failed_to_read = isinstance(cause, OSError) and cause.errno is not None
        del cause  # else what was decoded is kept in memory
    if failed_to_read:
        return read_views(content, config.transform, name)
    with _SCARCE:  # what the other threads had decoded is gone now, perhaps
        if isinstance(content, io.BytesIO):
            content.seek(0)
        try:
            return read_views(content, config.transform, name)
        except (MemoryError, RuntimeError) as error:
            if (cause := transient(error)) is None:
                raise
            raise not_now(shown(name), cause) from cause


def _content(name: str, data: bytes | None) -> tuple[bytes, Any]:
    """A digest of an encoded picture, and where to read it from."""
    if data is None:
        with open_file(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > WHOLE:
                hashed = hashlib.blake2b(digest_size=16)
                while block := file.read(1 << 20):
                    hashed.update(block)
                # never the digest of a picture in memory: the file is read again, which may fail where that does not
                hashed.update(b"file")
                return hashed.digest(), name
            # a pipe has no size
            data = file.read() if size else read_within(file, HELD, shown(name), "write it to a file first")
    content = io.BytesIO(data)
    content.name = name  # for messages
    return hashlib.blake2b(content.getbuffer(), digest_size=16).digest(), content


def queued(opened: Opened, new: list[Distinct]) -> "Opened | Row":
    """An item once its pictures are decoded, those not yet computed appended to `new`; or why it has no scores."""
    item = opened.item
    seen = [(opened.generated, item.picture)]
    if opened.reference is not None and item.reference is not None:
        seen.append((opened.reference, item.reference))
    for distinct, name in seen:
        error = distinct.decoded.exception()
        if isinstance(error, InputError):  # it begins with the name that this content had first
            message = shown(name) + str(error).removeprefix(shown(distinct.name))
            return Row(item.picture, item.reference, None, message)
        if error is not None:
            raise error
    for distinct, _ in seen:
        if not distinct.queued:
            distinct.queued = True
            new.append(distinct)
    return opened
