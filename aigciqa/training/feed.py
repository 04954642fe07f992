"""Rows as batches for the network, and scores for rows, over one process or several."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import Transform
from ..model import Network
from ..transform import normalise
from .pixels import Pixels
from .rows import Ints, Rows


class SharedForward(nn.Module):
    """One forward pass over the distinct pictures of a batch: a reference shared by rows is computed once."""

    def __init__(self, network: Network, transform: Transform):
        super().__init__()
        self.network, self.transform = network, transform

    def forward(self, images: Tensor, generated: Tensor, reference: Tensor, frozen: bool) -> Tensor:
        with torch.no_grad() if frozen else nullcontext():
            features = self.network.features(normalise(images, self.transform))
        mine = features[generated]
        if self.network.reference == "none":
            return self.network.regress(mine)
        # a row without reference stands in for its own, which is what partial reference means
        theirs = torch.where((reference < 0)[:, None], mine, features[reference.clamp(min=0)])
        return self.network.regress(mine, theirs)


def gathered(scores: Tensor, processes: int) -> Tensor:
    """The scores of every process, with gradients, so that each computes the loss of the whole batch."""
    if processes == 1:
        return scores
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(scores))


class Feed:
    """The pictures of a run, batch by batch.

    Args:
        rows: the table.
        pixels: its pictures.
        accelerator: knows how many processes there are and which this is.
        rank_within: ``"set"`` or ``"group"``, see `Recipe`.
    """

    def __init__(self, rows: Rows, pixels: Pixels, accelerator: Accelerator, rank_within: str):
        self.rows, self.pixels, self.accelerator = rows, pixels, accelerator
        self.comparable = rows.sets if rank_within == "set" else rows.groups

    def batch(self, rows: Ints, draws: Any) -> dict[str, Any]:
        """The part of a batch that is this process's, with the labels of all of it."""
        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = math.ceil(len(rows) / count)
        padded = np.concatenate([rows, np.repeat(rows[:1], share * count - len(rows))])
        mine = padded[rank * share : (rank + 1) * share]
        pictures, references = self.rows.pictures[mine], self.rows.references[mine]
        distinct, where = np.unique(
            np.concatenate([pictures, references[references >= 0]]), return_inverse=True
        )
        theirs = np.full(len(mine), -1)
        theirs[references >= 0] = where[len(mine) :]
        labels = self.rows.labels[padded].copy()
        labels[len(rows) :] = np.nan
        device = self.accelerator.device
        return {
            "images": self.pixels.batch(distinct.tolist(), draws).to(device),
            "generated": torch.from_numpy(where[: len(mine)]).to(device),
            "reference": torch.from_numpy(theirs).to(device),
            "labels": torch.from_numpy(labels).float().to(device),
            "weights": torch.from_numpy(self.rows.weights[padded]).float().to(device),
            "comparable": torch.from_numpy(self.comparable[padded]).to(device),
        }

    @torch.no_grad()
    def predict(self, rows: Ints, network: Network) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(len(rows), D) scores from centre crops, as scoring computes them; each distinct picture once."""
        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        references = self.rows.references[rows]
        distinct = np.unique(np.concatenate([self.rows.pictures[rows], references[references >= 0]]))
        share = math.ceil(len(distinct) / count)
        mine = np.resize(distinct, share * count)[rank * share : (rank + 1) * share]
        network.eval()
        found = [
            network.features(normalise(images.to(self.accelerator.device), self.pixels.transform)).float()
            for part in np.array_split(mine, math.ceil(len(mine) / 8))
            for images in [self.pixels.batch(part.tolist(), None)]
        ]
        features = self.accelerator.gather(torch.cat(found))[: len(distinct)]
        generated = features[np.searchsorted(distinct, self.rows.pictures[rows])]
        if network.reference == "none":
            return network.regress(generated).double().cpu().numpy()
        there = torch.from_numpy(references >= 0).to(features.device)[:, None]
        theirs = features[np.searchsorted(distinct, np.maximum(references, distinct[0]))]
        return network.regress(generated, torch.where(there, theirs, generated)).double().cpu().numpy()
