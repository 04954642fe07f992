"""How well scores order pictures of one content: ladders of rising degradation, and right and wrong references."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .correlation import Floats, pairwise_accuracy
from .data import RatedSet
from .evaluation import shown


@dataclass(frozen=True)
class Ladders:
    """Within ladders: pictures that differ in one kind of degradation only, and the pristine one.

    Args:
        ladders: how many there are.
        monotone: share of them in which every step is in the right order.
        pairwise: share of the pairs of pictures in ladders that are.
        by_kind: ``ladders``, ``monotone`` and ``pairwise`` by kind of degradation.
        pairs: of rows that show one picture beside different references, with different labels.
        rereferenced: share of these in the right order.
    """

    ladders: int
    monotone: float
    pairwise: float
    by_kind: dict[str, dict[str, float]]
    pairs: int
    rereferenced: float

    @classmethod
    def of(cls, rated: RatedSet, scores: Floats, dimension: str) -> "Ladders":
        """Judge (N,) scores of `rated` by its labels of `dimension`."""
        labels = rated.labels[dimension]
        pictures: defaultdict[Any, list[int]] = defaultdict(list)
        for i, picture in enumerate(rated.pictures):
            pictures[picture].append(i)
        found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for rows in rows_of_ladders(rated):
            if len({labels[i] for i in rows}) < 2:  # with a wrong reference all correspond as little
                continue
            accuracy = pairwise_accuracy(scores[rows], labels[rows])
            found[rated.generators[rows[-1]]].append((float(accuracy == 1), accuracy))
        by_kind = {
            kind: {"ladders": len(values), "monotone": m, "pairwise": p}
            for kind, values in sorted(found.items())
            for m, p in [np.mean(values, 0).tolist()]
        }
        everything = np.array([v for values in found.values() for v in values]).reshape(-1, 2)
        right = [
            bool((scores[a] - scores[b]) * (labels[a] - labels[b]) > 0)
            for rows in pictures.values()
            for at, a in enumerate(rows)
            for b in rows[at + 1 :]
            if labels[a] != labels[b]
        ]
        return cls(
            ladders=len(everything),
            monotone=float(everything[:, 0].mean()) if len(everything) else float("nan"),
            pairwise=float(everything[:, 1].mean()) if len(everything) else float("nan"),
            by_kind=by_kind,
            pairs=len(right),
            rereferenced=float(np.mean(right)) if right else float("nan"),
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def table(self) -> str:
        """The numbers as plain text, for people."""
        width = max(24, *(len(kind) + 2 for kind in self.by_kind)) if self.by_kind else 24
        lines = [f"{'ladders':{width}}{'':>9}{'monotone':>9}{'pairwise':>9}"]
        for name, row in {
            "all": {"ladders": self.ladders, "monotone": self.monotone, "pairwise": self.pairwise},
            **self.by_kind,
        }.items():
            lines.append(
                f"{name:{width}}{row['ladders']:9.0f}{shown(row['monotone'])}{shown(row['pairwise'])}"
            )
        if self.pairs:
            lines.append(
                f"{'one picture, other reference':{width}}{self.pairs:9}{'':9}{shown(self.rereferenced)}"
            )
        return "\n".join(lines)


def rows_of_ladders(rated: RatedSet) -> list[list[int]]:
    """Of each ladder and reference: the pristine pictures of its group beside that, then its own, as they come."""
    steps: defaultdict[tuple[str, Any], list[int]] = defaultdict(list)
    pristine: defaultdict[tuple[str, Any], list[int]] = defaultdict(list)
    for i, (ladder, reference, group) in enumerate(
        zip(rated.ladders, rated.references, rated.groups, strict=True)
    ):
        if ladder:
            steps[ladder, reference].append(i)
        else:
            pristine[group, reference].append(i)
    return [[*pristine[rated.groups[rows[0]], reference], *rows] for (_, reference), rows in steps.items()]
