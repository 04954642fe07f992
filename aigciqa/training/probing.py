"""A frozen backbone: what the head sees of every row is computed once, and epochs take seconds."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .. import image, scoring
from ..ambient import without_autocast
from ..config import MetricConfig
from ..errors import InputError
from ..locking import unlinked
from ..model import Head, Network
from ..progress import Progress
from ..transform import preprocess
from .feed import Feed, Scores, distinct, paired
from .files import by_turns, write_whole
from .recipe import Recipe
from .rows import Ints, Rows

AT_ONCE = 64  # rows
VERSION = (
    2  # of what stored features mean; to be raised with a change of preprocessing or of `aigciqa.stages`
)
SAVED_EVERY = 200  # pictures
FLOOR = 1e-3  # of a standard deviation, so that an input which never varies is not blown up


class Probe(nn.Module):
    """A network's head, begun afresh in other coordinates: ``(inputs - mean) * scale``, along some directions.

    Args:
        network: of which the head is to learn.
        mean: (D,) of the inputs over the rows trained on.
        scale: (D,) likewise.
        directions: (D, K), orthonormal; None for the inputs as they are.
        dropout: of the coordinates, in training.
        members: the hidden layer is so many independent ones, which learn side by side and are averaged.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor | None

    def __init__(
        self,
        network: Network,
        mean: Tensor,
        scale: Tensor,
        directions: Tensor | None,
        dropout: float,
        members: int,
    ):
        super().__init__()
        hidden, outputs = network.head.fc1.out_features, network.head.fc2.out_features
        width = len(mean) if directions is None else directions.shape[1]
        network.head = Head(width, hidden, outputs, network.head.bounds)
        network.head.fc2.weight.data /= members**0.5  # each member begins as a head of its width does
        self.head, self.dropout, self.members = network.head, dropout, members
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, coordinates: Tensor, frozen: bool = False) -> Tensor:
        """(N, K) to (N, members, outputs) scores."""
        with without_autocast(coordinates.device):  # as `SharedForward`
            seen = nn.functional.dropout(coordinates.float(), self.dropout, self.training)
            hidden = self.head.fc1(seen).relu().unflatten(1, (self.members, -1))
            weight = self.head.fc2.weight.unflatten(1, (self.members, -1)) * self.members
            return self.head.scores(torch.einsum("nmh,omh->nmo", hidden, weight) + self.head.fc2.bias)

    def coordinates(self, inputs: Tensor) -> Tensor:
        scaled = (inputs.float() - self.mean) * self.scale
        return scaled if self.directions is None else scaled @ self.directions

    def folded(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the network as one for inputs as they are."""
        weight = state["head.fc1.weight"].double()
        if self.directions is not None:
            weight = weight @ self.directions.T.to(weight)
        weight = weight * self.scale.to(weight)
        bias = state["head.fc1.bias"].double() - weight @ self.mean.to(weight)
        return {**state, "head.fc1.weight": weight.float(), "head.fc1.bias": bias.float()}


class ProbeFeed(Feed):
    """The head's inputs for every row, of features that are kept in a file.

    Args:
        rows: the table.
        network: computes them; its backbone stays as it is.
        config: the checkpoint's.
        folder: where to keep the features, see `stored_features`.
        accelerator: knows how many processes there are and which this is.
        rank_within: ``"set"``, ``"group"`` or ``"reference"``, see `Recipe`.
    """

    def __init__(
        self,
        rows: Rows,
        network: Network,
        config: MetricConfig,
        folder: Path,
        accelerator: Accelerator,
        rank_within: str,
    ):
        super().__init__(rows, accelerator, rank_within)
        with accelerator.main_process_first():
            self.file, features, stored = stored_features(
                rows.paths, network, config, folder, accelerator.device
            )
        self.inputs = np.empty((len(rows.pictures), network.head.fc1.in_features), np.float16)
        for start in range(0, len(self.inputs), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            pictures, *where = distinct(rows.pictures[part], rows.references[part])
            found = torch.from_numpy(features[stored[pictures]]).to(accelerator.device).float()
            with torch.no_grad():
                seen = paired(network, found, *(torch.from_numpy(x).to(found.device) for x in where))
            self.inputs[part] = seen.half().cpu().numpy()
        self.probe: Probe

    def begin(self, network: Network, rows: Ints, recipe: Recipe, file: Path) -> Probe:
        """Make the model that learns: its coordinates are those of `rows`, and it begins at their mean label.

        They are kept in `file`, and taken from there by a run that goes on: found again with another number of
        threads, two directions in which rows vary about as much would be other ones, and the head would read them
        wrongly.
        """
        rows = rows[self.rows.weights[rows] > 0]  # data sets of weight 0 are only predicted
        with self.accelerator.main_process_first():
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, save(self._coordinates(network, rows, recipe)))
            found = {name: tensor.to(self.accelerator.device) for name, tensor in _read(file).items()}
        self.probe = Probe(
            network, found["mean"], found["scale"], found.get("directions"), recipe.dropout, recipe.members
        ).to(self.accelerator.device)
        self.probe.head.fc2.bias.data = torch.from_numpy(self.rows.mean_labels(rows)).to(found["mean"])
        parts = np.array_split(self.inputs, math.ceil(len(self.inputs) / 1024))
        self.inputs = np.concatenate([
            self.probe.coordinates(torch.from_numpy(part).to(found["mean"].device)).cpu().numpy()
            for part in parts
        ])  # fmt: skip
        return self.probe

    def _coordinates(self, network: Network, rows: Ints, recipe: Recipe) -> dict[str, Tensor]:
        x = torch.from_numpy(self.inputs[rows]).to(self.accelerator.device).float()
        mean, std = x.mean(0), x.std(0, correction=0) + FLOOR
        parts = torch.tensor(network.parts)
        # statistics are the last of the three parts of each picture
        learned = torch.tensor([0.0, 0.0, 1.0] if recipe.statistics_only else [1.0]).double()
        learned = learned.repeat(len(parts) // len(learned))
        # every part weighs the same, however wide it is
        shares = learned * ((learned * parts).sum() / learned.sum() / parts).sqrt()
        scale = shares.repeat_interleave(parts).to(std) / std
        found = {"mean": mean, "scale": scale}
        if 0 < recipe.directions < min(x.shape):
            found["directions"] = principal_directions((x - mean) * scale, recipe.directions, recipe.seed)
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}

    def seen(self, rows: Ints, draws: Any) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self.inputs[rows]),)

    @torch.no_grad()
    def predict(self, rows: Ints, network: Network) -> Scores:
        found = [
            network.head(torch.from_numpy(self.inputs[part]).to(self.accelerator.device).float())
            for part in np.array_split(rows, max(1, len(rows) // 256))
        ]
        return torch.cat(found).double().cpu().numpy()

    def discard(self) -> None:
        for suffix in (".bin", ".json", ".lock"):
            self.file.with_suffix(suffix).unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Tensor]:
    """The coordinates of a run that goes on."""
    try:
        found = load_file(file)
        if not {"mean", "scale"} <= found.keys():
            raise ValueError("mean and scale are not in it")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{file} is damaged, and the weights of this run mean nothing without it: {error}. Remove state.pt in this "
            "folder, and start again without --resume"
        ) from None
    return found


def principal_directions(x: Tensor, count: int, seed: int) -> Tensor:
    """(N, D) centred rows to (D, count): the orthonormal directions in which they vary most, the first most.

    Source:
        Halko et al., *Finding Structure with Randomness*, SIAM Review 2011, as in `torch.svd_lowrank`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        more = min(count + count // 10 + 10, *x.shape)  # the last ones found are not accurate
        return torch.svd_lowrank(x, more, niter=2)[2][:, :count]


def stored_features(
    paths: Sequence[Path], network: Network, config: MetricConfig, folder: Path, device: torch.device
) -> tuple[Path, np.ndarray[Any, np.dtype[np.float16]], Ints]:
    """The features of pictures, computed where they are not stored yet.

    They lie in a file that is named after backbone and preprocessing, a row of float16 for each picture; one beside it
    (.json) says which row is whose. Killed while writing, it goes on where it was. Runs that share the folder wait for
    each other here.

    Args:
        paths: (M,) the pictures.
        network: computes them.
        config: its config.
        folder: where the files lie.
        device: where to compute.

    Returns:
        The file; (stored pictures, D) float16, mapped into memory; and (M,) which of its rows is each picture's.

    Raises:
        InputError: for a picture that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"features-{_key(network, config)}.bin"
    index = file.with_suffix(".json")
    width = network.backbone.width
    keys = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    with by_turns(file):
        known = _index(index)
        if not file.exists() or file.stat().st_size < len(known) * width * 2:
            known = {}  # the index of a file that is gone
        new = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
        if new:
            _store(new, known, network, config, file, device)
    stored = np.memmap(file, np.float16, "r", shape=(len(known), width))
    return file, stored, np.array([known[key] for key in keys], np.int64)


def _index(file: Path) -> dict[str, int]:
    """Which row of the stored features is whose; of a damaged file nothing, so that all are computed again."""
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    rows = list(known.values()) if isinstance(known, dict) else []
    return known if rows == list(range(len(rows))) and rows else {}


def _store(
    new: Mapping[str, Path],
    known: dict[str, int],
    network: Network,
    config: MetricConfig,
    file: Path,
    device: torch.device,
) -> None:
    """Append the features of new pictures to the file, and them to `known`, which is saved beside it."""
    if file.is_symlink():
        raise InputError(f"{file} is a link, which somebody else may have put there; remove it")
    width = network.backbone.width
    network.eval()
    cores = torch.get_num_threads() if device.type == "cpu" else 1  # each with a picture of its own
    faster = scoring.ready(network, config, 1)

    @torch.inference_mode()
    def features(path: Path) -> bytes:
        picture = preprocess(next(iter(image.read(path))), config.transform)
        return faster.features(picture.to(device)).half().cpu().numpy().tobytes()

    waiting: deque[tuple[str, Future[bytes]]] = deque()
    remaining = iter(new.items())
    with (
        Progress("features", len(new)) as progress,
        open(file, "ab", opener=unlinked) as out,
        ThreadPoolExecutor(cores, initializer=lambda: scoring.limit_threads(1)) as pool,
    ):
        out.truncate(len(known) * width * 2)  # what was written after the index was saved last
        try:
            for at in range(1, len(new) + 1):
                for key, path in islice(remaining, 2 * cores - len(waiting)):
                    waiting.append((key, pool.submit(features, path)))
                key, found = waiting.popleft()
                out.write(found.result())
                known[key] = len(known)
                progress.done()
                if at % SAVED_EVERY == 0 or at == len(new):
                    out.flush()
                    write_whole(file.with_suffix(".json"), json.dumps(known))
        finally:
            pool.shutdown(cancel_futures=True)


def _key(network: Network, config: MetricConfig) -> str:
    digest = hashlib.sha256(
        repr((VERSION, config.backbone, config.feature, config.cells, config.transform)).encode()
    )
    digest.update((config.activation or "").encode())  # which no tensor tells
    for tensor in network.backbone.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
