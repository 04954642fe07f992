"""A data set of rated pictures in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Labels = np.ndarray[Any, np.dtype[np.float64]]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RatedSet:
    """Pictures that people (or a program) rated, a row for each.

    Args:
        name: what to call the data set in results.
        pictures: the rated pictures.
        references: the image prompt of each, or None; a picture comes once with each.
        labels: by dimension, (N,) float64; NaN where a picture has no label.
        groups: what must not be on both sides of a split: the prompt or reference of each picture.
        generators: what made each picture; ``""`` where unknown.
        splits: ``"train"``, ``"val"`` or ``"test"`` for each, if the data set brings its own split.
        score_range: lowest and highest possible label.
        prompts: the text prompt of each; ``""`` where unknown.
        ladders: which pictures differ in the severity of one degradation only; ``""`` where that is not so.
        range_is_observed: whether `score_range` is only what was seen, since nobody said what is possible.
        ranges: of the dimensions that have another range than `score_range`; see `range_of`.
        notes: what was taken for what in its files, a sentence each.
    """

    name: str
    pictures: list[Path]
    references: list[Path | None]
    labels: dict[str, Labels]
    groups: list[str]
    generators: list[str]
    splits: list[str] | None
    score_range: tuple[float, float]
    prompts: list[str]
    ladders: list[str] = field(default_factory=list)
    range_is_observed: bool = False
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)

    def range_of(self, dimension: str) -> tuple[float, float]:
        """Lowest and highest possible label of a dimension."""
        return self.ranges.get(dimension, self.score_range)

    def subset(self, indices: Sequence[int]) -> "RatedSet":
        """The rows of these indices, in this order."""

        def pick(values: list[T]) -> list[T]:
            return [values[i] for i in indices]

        return replace(
            self,
            pictures=pick(self.pictures),
            references=pick(self.references),
            labels={key: values[np.asarray(indices, dtype=int)] for key, values in self.labels.items()},
            groups=pick(self.groups),
            generators=pick(self.generators),
            splits=None if self.splits is None else pick(self.splits),
            prompts=pick(self.prompts),
            ladders=pick(self.ladders) if self.ladders else [],
        )
