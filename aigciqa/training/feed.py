"""Rows as batches for the network, and scores for rows, over one process or several."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..ambient import without_autocast
from ..config import Transform
from ..model import Network
from ..transform import normalise
from .pixels import Pixels
from .rows import Ints, Rows

Scores = np.ndarray[Any, np.dtype[np.float64]]


class SharedForward(nn.Module):
    """One forward pass over the distinct pictures of a batch: a reference shared by rows is computed once."""

    def __init__(self, network: Network, transform: Transform, dropout: float = 0.0):
        super().__init__()
        self.network, self.transform, self.dropout = network, transform, dropout

    def forward(self, images: Tensor, generated: Tensor, reference: Tensor, frozen: bool) -> Tensor:
        with torch.no_grad() if frozen else nullcontext():
            features = self.network.features(normalise(images, self.transform))
        with without_autocast(images.device):  # small, and scores in bfloat16 would be steps of 1/64
            inputs = paired(self.network, features.float(), generated, reference)
            return self.network.head(nn.functional.dropout(inputs, self.dropout, self.training))


def paired(network: Network, features: Tensor, generated: Tensor, reference: Tensor) -> Tensor:
    """The head's inputs of rows.

    Args:
        network: whose.
        features: (M, D) of distinct pictures.
        generated: (N,) which of them is the row's generated picture.
        reference: (N,) which is its reference; -1 for none: the generated picture stands in for it then, which is
            what partial reference means.
    """
    mine = features[generated]
    if network.reference == "none":
        return network.inputs(mine)
    return network.inputs(mine, torch.where((reference < 0)[:, None], mine, features[reference.clamp(min=0)]))


def distinct(pictures: Ints, references: Ints) -> tuple[Ints, Ints, Ints]:
    """Which pictures rows need, each once, and where among them each row's picture and reference (or -1) are."""
    there = references >= 0
    found, where = np.unique(np.concatenate([pictures, references[there]]), return_inverse=True)
    theirs = np.full(len(pictures), -1)
    theirs[there] = where[len(pictures) :]
    return found, where[: len(pictures)], theirs


def gathered(scores: Tensor, processes: int) -> Tensor:
    """The scores of every process, with gradients, so that each computes the loss of the whole batch."""
    if processes == 1:
        return scores
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(scores))


class Feed:
    """The rows of a run, batch by batch.

    Args:
        rows: the table.
        accelerator: knows how many processes there are and which this is.
        rank_within: ``"set"``, ``"group"`` or ``"reference"``, see `Recipe`.
    """

    def __init__(self, rows: Rows, accelerator: Accelerator, rank_within: str):
        self.rows, self.accelerator = rows, accelerator
        self.comparable = {"set": rows.sets, "group": rows.groups, "reference": rows.contents}[rank_within]

    def batch(self, rows: Ints, draws: Any) -> dict[str, Any]:
        """The part of a batch that is this process's, with the labels of all of it."""
        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = math.ceil(len(rows) / count)
        padded = np.concatenate([rows, np.repeat(rows[:1], share * count - len(rows))])
        labels = self.rows.labels[padded].copy()
        labels[len(rows) :] = np.nan
        device = self.accelerator.device
        return {
            "inputs": [x.to(device) for x in self.seen(padded[rank * share : (rank + 1) * share], draws)],
            "labels": torch.from_numpy(labels).float().to(device),
            "weights": torch.from_numpy(self.rows.weights[padded]).float().to(device),
            "comparable": torch.from_numpy(self.comparable[padded]).to(device),
        }

    def seen(self, rows: Ints, draws: Any) -> tuple[Tensor, ...]:
        """What the model is called with for these rows; `draws` say how pictures are augmented, None for not."""
        raise NotImplementedError

    def predict(self, rows: Ints, network: Network) -> Scores:
        """(len(rows), D) scores."""
        raise NotImplementedError

    def discard(self) -> None:
        """Remove the files it keeps; a later run would make them again."""
        raise NotImplementedError


class PictureFeed(Feed):
    """Pictures, for a backbone that learns.

    Args:
        rows: the table.
        pixels: its pictures.
        accelerator: knows how many processes there are and which this is.
        rank_within: ``"set"``, ``"group"`` or ``"reference"``, see `Recipe`.
    """

    def __init__(self, rows: Rows, pixels: Pixels, accelerator: Accelerator, rank_within: str):
        super().__init__(rows, accelerator, rank_within)
        self.pixels = pixels

    def seen(self, rows: Ints, draws: Any) -> tuple[Tensor, ...]:
        pictures, generated, reference = distinct(self.rows.pictures[rows], self.rows.references[rows])
        return (
            self.pixels.batch(pictures.tolist(), draws),
            torch.from_numpy(generated),
            torch.from_numpy(reference),
        )

    @torch.no_grad()
    def predict(self, rows: Ints, network: Network) -> Scores:
        """(len(rows), D) scores from centre crops, as scoring computes them; each distinct picture once."""
        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        device = self.accelerator.device
        pictures, generated, reference = distinct(self.rows.pictures[rows], self.rows.references[rows])
        share = math.ceil(len(pictures) / count)
        mine = np.resize(pictures, share * count)[rank * share : (rank + 1) * share]
        network.eval()
        found = [
            network.features(normalise(images.to(device), self.pixels.transform)).float()
            for part in np.array_split(mine, math.ceil(len(mine) / 8))
            for images in [self.pixels.batch(part.tolist(), None)]
        ]
        features = self.accelerator.gather(torch.cat(found))[: len(pictures)]
        where = (torch.from_numpy(x).to(device) for x in (generated, reference))
        return network.head(paired(network, features, *where)).double().cpu().numpy()

    def discard(self) -> None:
        self.pixels.discard()
