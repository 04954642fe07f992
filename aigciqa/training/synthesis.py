"""Rated pictures out of photographs: ladders of degradations, references and pseudo-labels."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import InputError, TransientError
from ..progress import each
from ..writing import replacing
from .degradations import DEGRADATIONS, Pixels, Rng, degrade
from .files import claimed, write_whole
from .photographs import Box, Photograph, cut, find_boxes, find_photographs, read_photograph, reframed
from .pseudolabels import damage, require_piq, write_manifest

SMALLEST = 96  # pixels; at half of that the measures still make sense
FAINT = 0.3  # mean absolute difference, of 255, below which a first level does not show


class NeuralKind(Protocol):
    """A network that rebuilds pictures with the failures of networks; a kind of degradation like the others."""

    name: str

    def degrade(self, pixels: Pixels, level: int, levels: int, rng: Rng) -> Pixels: ...


@dataclass(frozen=True)
class Plan:
    """What to make of every photograph; see `synthesize` for the fields."""

    size: int = 384
    crops: int = 12
    ladders: int = 3
    levels: int = 4
    seed: int = 1
    measures: bool = True
    networks: str | None = None

    def check(self) -> None:
        kinds = len(DEGRADATIONS)
        for name, lowest, highest in (
            ("size", SMALLEST, 4096), ("crops", 1, 100), ("ladders", 1, kinds), ("levels", 1, 10), ("seed", 0, 2**63)
        ):  # fmt: skip
            if not lowest <= getattr(self, name) <= highest:
                raise InputError(f"{name} must be {lowest} to {highest}, not {getattr(self, name)}")
        if self.networks is not None and not _networks(self.networks):
            raise InputError(f"{self.networks}: there are no networks in it")
        if self.measures:
            require_piq()


def synthesize(
    photos: Sequence[Path],
    out: Path,
    *,
    size: int = 384,
    crops: int = 12,
    ladders: int = 3,
    levels: int = 4,
    seed: int = 1,
    workers: int | None = None,
    measures: bool = True,
    networks: Path | None = None,
) -> Path:
    r"""Turn photographs into an image-to-image data set with pseudo-labels, by showing failures of generative models.

    Of each photograph it takes detailed square crops, and degrades each crop in ladders: one kind of failure in
    rising levels. A picture comes with several references: the crop itself (``aligned``), the scene framed
    otherwise (``reframed``), and for a third of the pictures a crop of another photograph (``other``). The labels,
    of 0 to 5, are computed and not given by people; `write_manifest` says how.

    An interrupted run continues when started again with the same arguments. The files are the same with any number
    of workers. As these are new processes, a script that calls this needs ``if __name__ == "__main__":``.

    Args:
        photos: folders, searched recursively, and ``.txt`` files that list pictures, one path a line, relative to
            the file.
        out: folder to write ``images/``, ``manifest.csv``, ``synthesis.json`` (how it was made, and which
            photographs were left out) and ``photographs/`` (what to continue from) to.
        size: side of the pictures, in pixels, 96 to 4096; smaller photographs are left out.
        crops: of each photograph, at most; 1 to 100.
        ladders: of each crop, each of another kind; at least 1.
        levels: of each ladder, 1 to 10.
        seed: any integer from 0.
        workers: processes; None for one per processor.
        measures: whether the labels depend on full-reference measures (needs piq) or on the level only.
        networks: folder of trained autoencoders, each a further kind of degradation.

    Returns:
        The manifest's path, for `aigciqa.training.load`; it has a row for each picture and reference, and besides
        the columns that are read ``relation`` (of the reference), ``ladder`` and ``level``.

    Raises:
        InputError: for wrong arguments, when there is no usable photograph, or when `out` was made otherwise.

    Examples:
        >>> import tempfile
        >>> from aigciqa.training import load
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "photos.txt").write_text(f"{Path('ref.png').resolve()}\n")
        >>> rated = load(synthesize([folder / "photos.txt"], folder / "out", size=96, crops=1, measures=False))
        >>> len(set(rated.pictures)), len(rated), list(rated.labels)
        (13, 26, ['quality', 'correspondence'])
    """
    plan = Plan(size, crops, ladders, levels, seed, measures, None if networks is None else str(networks))
    plan.check()
    found, left_out = find_photographs(photos)
    out = Path(out)
    record = _record(plan, found, left_out)
    _begin(out, record)
    with claimed(out):
        todo = [photo for photo in found if not _rows_file(out, photo).exists()]
        if todo:
            context = get_context("spawn")  # torch's threads do not survive a fork
            count = min(workers or os.cpu_count() or 1, len(todo))
            with ProcessPoolExecutor(count, context, _start_worker) as pool:
                work = pool.map(partial(_make_photograph, out, plan), todo)
                for _ in each(work, "photographs", len(todo)):
                    pass
        made = [json.loads(_rows_file(out, photo).read_text()) for photo in found]
        left_out |= {one["photograph"]: one["left_out"] for one in made if one["left_out"]}
        write_whole(out / "synthesis.json", json.dumps(record | {"left_out": left_out}, indent=2) + "\n")
        used = [one for one in made if not one["left_out"]]
        if not used:
            raise InputError(f"no usable photograph: {_some(left_out)}")
        return write_manifest(out, used, plan.levels, plan.seed)


def _some(left_out: dict[str, str]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:5])
    return shown + (f"; and {len(left_out) - 5} more" if len(left_out) > 5 else "")


# -- what a run leaves for the next one


def _record(plan: Plan, found: Sequence[Photograph], left_out: dict[str, str]) -> dict[str, Any]:
    from importlib.metadata import version

    of_networks = sorted(Path(plan.networks).rglob("*")) if plan.networks else []
    libraries = ["aigciqa", "numpy", "pillow", "scipy", "torch", *["piq"] * plan.measures]
    return {
        "labels": "pseudo-labels (computed from degradations); no human ratings",
        "arguments": {key: value for key, value in asdict(plan).items() if key != "networks"},
        "networks": {
            str(path.relative_to(plan.networks or "")): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in of_networks
            if path.is_file()
        },
        "versions": {name: version(name) for name in libraries},
        "photographs": {photo.name: photo.sha256 for photo in found},
        "left_out": left_out,
    }


def _begin(out: Path, record: dict[str, Any]) -> None:
    """Write down what is going to be made, or check that it is what was begun before."""
    file = out / "synthesis.json"
    if file.exists():
        try:
            before = json.loads(file.read_text())
            changed = [key for key in record if key != "left_out" and record[key] != before[key]]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: is not of a synthesis; choose another folder") from None
        if changed:
            differ = {
                key: f"{key} {before[kind].get(key)} there, {record[kind].get(key)} now"
                for kind in changed
                if isinstance(record[kind], dict)
                for key in record[kind] | before[kind]
                if record[kind].get(key) != before[kind].get(key)
            }
            raise InputError(
                f"{out} was made with other {', '.join(changed)} ({'; '.join(list(differ.values())[:5])}); "
                "choose another folder, or delete this one"
            )
        return
    if (out / "manifest.csv").exists() or (out / "images").exists():
        raise InputError(f"{out} holds something else (it has no synthesis.json); choose another folder")
    for folder in ("images", "photographs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(record, indent=2) + "\n")


def _rows_file(out: Path, photo: Photograph) -> Path:
    return out / "photographs" / f"{photo.sha256[:16]}.json"


# -- in the workers


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:  # a worker whose parent was killed would wait for work for ever

        def end_with(sentinel: int) -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=end_with, args=[parent.sentinel], daemon=True).start()


def _make_photograph(out: Path, plan: Plan, photo: Photograph) -> None:
    """Every picture of one photograph, and last a file of what is known of them."""
    rng = np.random.default_rng([plan.seed, int(photo.sha256, 16)])
    id = photo.sha256[:16]
    made: dict[str, Any] = {"photograph": photo.name, "id": id, "left_out": "", "crops": []}
    turns = _Turns(plan, rng)
    try:
        picture = read_photograph(photo.path)
        boxes = find_boxes(picture, plan.size, plan.crops, rng)
    except TransientError:  # of the disk; left out it would stay left out
        raise
    except InputError as error:
        made["left_out"] = str(error).removeprefix(f"{photo.path}: ")
    else:
        (out / "images" / id).mkdir(exist_ok=True)
        for number, box in enumerate(boxes):
            made["crops"].append(_make_crop(picture, box, f"images/{id}/{number:02}", out, plan, turns, rng))
    write_whole(_rows_file(out, photo), json.dumps(made, indent=1) + "\n")


@cache
def _networks(folder: str) -> dict[str, NeuralKind]:
    from .networks import neural_kinds

    return {kind.name: kind for kind in neural_kinds(Path(folder))}


class _Turns:
    """The kinds of degradation in random order, over and over, so that a photograph shows all equally often."""

    def __init__(self, plan: Plan, rng: Rng):
        self.networks = {} if plan.networks is None else _networks(plan.networks)
        names = [*DEGRADATIONS, *self.networks]
        self.queue = [names[i] for i in rng.permutation(len(names))]
        self.levels = plan.levels

    def ladder(self, pixels: Pixels, kind: str, seed: int) -> list[Pixels]:
        """All levels; empty when this kind leaves this picture as it is, or one level as the one before."""
        steps = [pixels]
        for level in range(1, self.levels + 1):
            if kind in self.networks:
                rng = np.random.default_rng(seed)
                made = self.networks[kind].degrade(pixels, level, self.levels, rng)
            else:
                made = degrade(pixels, kind, level, self.levels, seed)
            least = FAINT if level == 1 else FAINT / 10
            if np.abs(made.astype(np.int16) - steps[-1]).mean() < least:
                return []
            steps.append(made)
        return steps[1:]

    def ladders(self, pixels: Pixels, count: int, rng: Rng) -> Iterator[tuple[str, list[Pixels]]]:
        """`count` ladders of the kinds whose turn it is; fewer if no more kinds show."""
        seeds = rng.integers(2**32, size=len(self.queue))
        for kind, seed in zip(list(self.queue), seeds, strict=True):
            if steps := self.ladder(pixels, kind, int(seed)):
                self.queue.remove(kind)
                self.queue.append(kind)
                yield kind, steps
                count -= 1
            if not count:
                return


def _make_crop(
    picture: Image.Image, box: Box, stem: str, out: Path, plan: Plan, turns: _Turns, rng: Rng
) -> dict[str, Any]:
    """The pictures of one crop, and what is known of them."""

    def save(what: Image.Image | Pixels, name: str) -> str:
        shown = what if isinstance(what, Image.Image) else Image.fromarray(what)
        with replacing(out / name) as file:
            shown.save(file, "PNG", compress_level=1)
        return name

    crop = cut(picture, box, plan.size)
    pixels = np.asarray(crop)
    made: dict[str, Any] = {"pristine": save(crop, f"{stem}.png"), "ladders": []}
    made["reframed"] = save(reframed(picture, box, plan.size, rng), f"{stem}-reframed.png")
    for kind, steps in turns.ladders(pixels, plan.ladders, rng):
        names = [save(one, f"{stem}-{kind}-{level}.png") for level, one in enumerate(steps, 1)]
        found = damage(pixels, steps) if plan.measures else {}
        made["ladders"].append({"kind": kind, "pictures": names, "damage": found})
    return made
