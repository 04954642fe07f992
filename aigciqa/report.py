"""Scores of many pictures as one HTML page, which needs no network, and shows the original images where they lie."""

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from .decode import Large
from .errors import InputError
from .groups import compare, describe
from .image import Array, opened
from .pairing import naming
from .records import Row
from .sources import Item
from .writing import check_writable, write_whole

SIDE = 128  # pixels of a preview's longer side
ALL = 2000  # pictures up to which every one has its preview
ENDS = (
    500  # of more: previews of so many lowest and highest of each dimension, and of up to as many in between
)
LISTED = (
    50_000  # pictures up to which those without a preview are in the gallery too; and errors in their list
)
COMPARED = 20  # groups, of which each is compared with each
# endings of which browsers show nothing but an image, or which they offer to save
LINKED = frozenset({
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl",
    ".png", ".tif", ".tiff", ".webp",
})  # fmt: skip
_TEMPLATE = Path(__file__).with_name("report.html")
_UNGROUPED = "(no such part)"


class Report:
    """Collects rows as they are scored, and writes them as one page when it is closed.

    In memory it keeps each row's names and scores, and previews of up to a few thousand pictures. Left by an
    error, it writes nothing.

    Args:
        path: of the page. It links to the original images by their paths from its folder and shows them from
            there; where they are gone it shows its previews.
        stamp: what scores, such as `Metric.stamp`.
        dimensions: of the scores, in the order in which they are shown.
        score_range: lowest and highest score of the metric's scale.
        labels: what the metric learned from.
        group_by: which pictures belong together, in the fields of a reference pattern (see
            `aigciqa.sources.find_items`): ``{0}`` for ``SD`` in ``SD_007_00.jpg``, ``{parent}`` for the folder.
            Without a field in braces it is what the page calls the groups, and `add` is given each row's.

    Raises:
        InputError: when there is no such field, or the page cannot be written there.

    Examples:
        >>> import tempfile
        >>> from aigciqa.records import Row
        >>> about = {"stamp": "nr-aigciqa@v0.2.0", "dimensions": ["quality"], "labels": "pseudo-labels"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "report.html")
        ...     with Report(path, score_range=(0, 5), **about) as report:
        ...         report.add(Row("gen.png", "ref.png", {"quality": 3.25}))
        ...     "data:image/jpeg" in path.read_text()
        True
    """

    def __init__(
        self,
        path: "str | os.PathLike[str]",
        *,
        stamp: str,
        dimensions: Sequence[str],
        score_range: tuple[float, float],
        labels: str,
        group_by: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._about: dict[str, Any] = {
            "stamp": stamp,
            "range": list(score_range),
            "labels": labels,
            "groupBy": group_by,
        }
        self._dimensions = tuple(dimensions)
        self._group = naming(group_by, "group_by") if group_by is not None and "{" in group_by else None
        self._rows: list[tuple[str, str | None, str]] = []
        self._scores = [array("d") for _ in dimensions]
        self._errors: list[tuple[str, str, str]] = []
        self._previews: dict[str, bytes | None] = {}  # by name; None where it cannot be opened any more
        self._step = 1  # every so many rows a preview, whatever the scores
        self._ends = [(math.inf, -math.inf) for _ in dimensions]  # at or beyond which there is one too
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            check_writable(self._path)  # now rather than after hours
        except OSError as error:
            raise self._unwritable(error) from None
        if self._path.exists() and not self._path.is_file():
            raise InputError(f"{self._path} is not a file; write the report to another name")

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def add(self, row: Row, item: Item | None = None, group: str | None = None) -> None:
        """Take a row in, and make its previews.

        Args:
            row: with a score for every dimension, or an error.
            item: what was scored, for pictures that are not files of their own; None where they are.
            group: what it belongs to, where no pattern says that; None where it belongs to nothing.

        Raises:
            InputError: when the row has other dimensions.
        """
        named = self._group(row.picture) if self._group else group or None
        group = named if isinstance(named, str) else _UNGROUPED
        if row.scores is None:
            self._errors.append((row.picture, row.error or "", group))
            return
        if row.scores.keys() != set(self._dimensions):
            raise InputError(
                f"{row.picture!r} has scores of {', '.join(row.scores)}, not of {', '.join(self._dimensions)}"
            )
        scores = [row.scores[d] for d in self._dimensions]
        if len(self._rows) % self._step == 0 or any(
            score <= low or score >= high for score, (low, high) in zip(scores, self._ends, strict=True)
        ):
            self._preview(row.picture, item.data if item else None)
            if row.reference:
                self._preview(row.reference, item.reference_data if item else None)
        self._rows.append((row.picture, row.reference or None, group))
        for kept, score in zip(self._scores, scores, strict=True):
            kept.append(score)
        if len(self._rows) > ALL and len(self._rows) % (ALL // 2) == 0:
            self._thin_out()

    def close(self) -> None:
        """Write the page, which appears whole or not at all.

        Raises:
            InputError: when it cannot be written.
        """
        if len(self._rows) > ALL:
            self._thin_out()
        page = _page(self._about["stamp"], self._data())
        try:
            write_whole(self._path, page)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self._path}: cannot be written: {error.strerror or error}; write the report to another file"
        )

    def _preview(self, name: str, data: bytes | None) -> None:
        if name not in self._previews:
            try:
                self._previews[name] = _jpeg(name if data is None else data)
            except InputError:  # it was scored, but is gone; the page says that there is no preview
                self._previews[name] = None

    def _thin_out(self) -> None:
        """Keep the previews of the ends and of every so many rows."""
        count = len(self._rows)
        while count > ENDS * self._step:
            self._step *= 2  # so that the rows of later steps are among those of earlier ones
        kept = set(range(0, count, self._step))
        for number, scores in enumerate(self._scores):
            order = np.argsort(scores, kind="stable")
            kept.update(order[:ENDS].tolist(), order[-ENDS:].tolist())
            self._ends[number] = (scores[order[ENDS - 1]], scores[order[-ENDS]])
        names = {name for i in kept for name in self._rows[i][:2]}
        self._previews = {name: jpeg for name, jpeg in self._previews.items() if name in names}

    def _data(self) -> dict[str, Any]:
        """What the page shows."""
        scores = [np.array(s) for s in self._scores]
        names, groups = self._groups(scores)
        files, shown = self._files()
        place = {name: i for i, name in enumerate(names)}
        rows = [
            [files[p][0], files[r][0] if r else -1, place[g], *(float(f"{s[i]:.6g}") for s in scores)]
            for i, (p, r, g) in shown
        ]
        previews = sum(self._previews.get(p) is not None for p, _, _ in self._rows)
        return self._about | {
            "dimensions": [
                {"name": d} | describe(s, *self._about["range"])
                for d, s in zip(self._dimensions, scores, strict=True)
            ],
            "scored": len(self._rows),
            "failed": len(self._errors),
            "previews": previews,
            "every": self._step,
            "ends": ENDS,
            "groupNames": names,
            "compared": groups,
            "files": [[name, *rest] for name, (_, *rest) in files.items()],
            "rows": rows,
            "errors": [[p, e, place[g]] for p, e, g in self._errors[:LISTED]],
        }

    def _files(self) -> tuple[dict[str, tuple[int, str, str]], list[tuple[int, tuple[str, str | None, str]]]]:
        """By name: number, link and preview; and the rows of the gallery."""
        rows = list(enumerate(self._rows))
        if len(rows) > LISTED:
            rows = [(i, row) for i, row in rows if row[0] in self._previews]
        names = dict.fromkeys(name for _, row in rows for name in row[:2] if name)
        return {n: (i, self._link(n), self._uri(n)) for i, n in enumerate(names)}, rows

    def _link(self, name: str) -> str:
        """From the page to a file; empty where there is none, or where its name is no image's.

        A browser goes by the ending: a GIF that is called a.html, and is a web page as well, would run.
        """
        path = Path(name)
        if path.suffix.lower() not in LINKED:
            return ""
        try:
            if not path.is_file():
                return ""
            relative = Path(os.path.relpath(path.parent.resolve() / path.name, self._path.parent.resolve()))
            # "./" or "../", so that nothing before a colon is taken for a scheme
            link = quote(os.fsencode(relative.as_posix()))
            return link if link.startswith("../") else f"./{link}"
        except (ValueError, OSError, RuntimeError):  # on another drive, or a path that cannot be
            return ""

    def _uri(self, name: str) -> str:
        jpeg = self._previews.get(name)
        return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""

    def _groups(self, scores: list[Array]) -> tuple[list[str], list[dict[str, Any]]]:
        """Names, those which are compared first and the best of these first of all; and their numbers."""
        labels = np.array([group for _, _, group in self._rows], dtype=object)
        sizes = Counter(labels.tolist())
        failed = Counter(group for _, _, group in self._errors)
        compared = [name for name, _ in sizes.most_common(COMPARED)]
        if self._about["groupBy"] is None:
            return list(sizes | failed), []
        parts = {name: [s[labels == name] for s in scores] for name in compared}
        compared.sort(key=lambda name: -parts[name][0].mean())
        others = sorted((sizes | failed).keys() - parts)
        by_dimension = [compare([parts[name][d] for name in compared]) for d in range(len(scores))]
        return compared + others, [
            {
                "pairs": pairs,
                "groups": [{"failed": failed[n]} | g for n, g in zip(compared, found, strict=True)],
            }
            for found, pairs in by_dimension
        ]


def _jpeg(picture: Any) -> bytes:
    """A preview of what `aigciqa.image.opened` takes."""
    with opened(picture) as found:
        if isinstance(found, Large):  # by strips and thinned, since it fills the memory as it is
            height, width = found.shape
            step = max(height, width) // (8 * SIDE)
            strips = range(0, height, 64 * step)
            pixels = np.concatenate(
                [
                    found.part(top, 0, min(64 * step, height - top), width)[0, :, ::step, ::step].numpy()
                    for top in strips
                ],
                axis=1,
            )
        else:
            pixels = found[0].numpy()
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70, optimize=True)
    return out.getvalue()


def _page(title: str, data: dict[str, Any]) -> bytes:
    """The template, filled in; its policy lets nothing run but what stands in the page, and nothing load but images.

    Of these only its own: in the page, and beside it on the same disk or server.
    """
    template = _TEMPLATE.read_text("utf-8")
    hashes = {}
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data: file: 'self'; script-src 'sha256-{hashes['script']}'; "
        f"style-src 'sha256-{hashes['style']}'; base-uri 'none'; form-action 'none'"
    )
    content = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII
    for character in "<>&":  # so that no name ends the element, or begins another
        content = content.replace(character, f"\\u{ord(character):04x}")
    begin, end = template.split("{{data}}")
    begin = begin.replace("{{policy}}", html.escape(policy)).replace("{{title}}", html.escape(title))
    return f"{begin}{content}{end}".encode("utf-8", "backslashreplace")
