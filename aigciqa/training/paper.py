"""The paper's table of results, and runs in their places in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..config import DIMENSIONS, PAPER_BACKBONES, MetricConfig

PAPER = Path(__file__).with_name("paper_results.csv")
DATA = "pku-i2iqa"  # whose table is shown to runs on data that the file has no table of
FOLLOW_UP = "pku-aigiqa-4k"  # and its subsets, whose names begin so
TITLES = {"pku-i2iqa": "PKU-I2IQA, arXiv 2311.15556"}
CAVEAT = """\
The paper's numbers are those of its best epochs, chosen on the test set, perhaps one for SRCC and another
for PLCC. Every prompt is in both its training and its test set. Numbers on unseen prompts are lower. Its
PLCC is of the raw scores, without a logistic fit. Its final score is called overall here."""

Figures = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Result:
    """Somebody's figures to put into the table.

    Args:
        name: what the line is called.
        method: ``"NR"``, ``"FR"`` or ``"PR"``; ``""`` where it is not known.
        backbone: as in `aigciqa.config.PAPER_BACKBONES`, or another one's name.
        figures: by dimension, SRCC and raw PLCC.
    """

    name: str
    method: str
    backbone: str
    figures: Figures


def paper_results() -> pd.DataFrame:
    """The published results: data, method (NR, FR), backbone, dimension, srcc, plcc (raw).

    `data` is the format of the data set, so far only pku-i2iqa; `backbone` is as in `aigciqa.config.PAPER_BACKBONES`;
    dimension ``overall`` is what the paper calls final. `paper_table` says how the numbers were chosen.

    Source:
        arXiv 2311.15556.

    Examples:
        >>> table = paper_results()
        >>> table[(table.backbone == "resnet50") & (table.dimension == "overall")].srcc.tolist()
        [0.7272, 0.7359]
    """
    return pd.read_csv(PAPER)


def paper_table(results: Sequence[Result], data: str) -> str:
    """The whole published table as plain text, with results below the rows of the same model, and what to know of it.

    Args:
        results: to put into it; those of a model that the paper does not have come last.
        data: the data set that they are of.

    Examples:
        >>> mine = Result("this run", "NR", "resnet50", {"quality": (0.7012, 0.7034)})
        >>> print(paper_table([mine], "pku-i2iqa"))
        PKU-I2IQA, arXiv 2311.15556
        SRCC / PLCC, raw           quality    authenticity  correspondence         overall
        NR vgg16             .6734 / .6854   .6449 / .6975   .7130 / .7095   .6831 / .7065
        ...
        NR resnet50          .6876 / .6875   .6530 / .6918   .7456 / .7385   .7272 / .7426
          this run           .7012 / .7034               -               -               -
        NR inceptionv4       .6988 / .7076   .6733 / .7191   .7509 / .7306   .7221 / .7314
        ...
    """
    every = paper_results()
    table = every[every.data == (data if data in set(every.data) else DATA)]
    of = table.data.iloc[0]
    known = set(zip(table.method, table.backbone, strict=True))
    other = [
        replace(one, name=f"{one.method} {one.backbone}, {one.name}".strip(" ,"))
        for one in results
        if (one.method, one.backbone) not in known
    ]
    results = [one for one in results if (one.method, one.backbone) in known]
    width = max(18, *(len(one.name) + 2 for one in (*results, *other)))
    lines = [_line(f"{'SRCC / PLCC, raw':{width}}", list(DIMENSIONS))]
    for (method, backbone), rows in table.groupby(["method", "backbone"], sort=False):
        there = dict(zip(rows.dimension, zip(rows.srcc, rows.plcc, strict=True), strict=True))
        lines.append(_shown(f"{method} {backbone}", there, width))
        lines += [
            _shown(f"  {one.name}", one.figures, width)
            for one in results
            if (one.method, one.backbone) == (method, backbone)
        ]
    lines += [_shown(one.name, one.figures, width) for one in other]
    notes = [CAVEAT, *dict.fromkeys(_notes(results, other, data, str(of)))]
    return "\n".join([TITLES.get(str(of), str(of)), *lines, *notes])


def _notes(results: Sequence[Result], other: Sequence[Result], data: str, of: str) -> list[str]:
    """What does not apply, a sentence each."""
    title, notes = TITLES.get(of, of).partition(",")[0], []
    if data != of:
        notes.append(
            f"This table is of {title}, the figures beside it are of {data}: they do not compare."
            + (
                " The table of PKU-AIGIQA-4K (arXiv 2404.18409) is not shipped."
                if data.startswith(FOLLOW_UP)
                else ""
            )
        )
    notes += [f"{one.name}: a row that the paper does not have." for one in other]
    for one in (*results, *other):
        if lacking := [name for name in DIMENSIONS if name not in one.figures]:
            notes.append(f"{one.name}: no figures for {', '.join(lacking)}.")
    return notes


def _shown(name: str, figures: Figures, width: int) -> str:
    cells = [
        f"{_number(figures[d][0])} / {_number(figures[d][1])}" if d in figures else "-" for d in DIMENSIONS
    ]
    return _line(f"{name:{width}}", cells)


def _line(name: str, cells: Sequence[str]) -> str:
    return name + "".join(f"{cell:>16}" for cell in cells)


def _number(value: float) -> str:
    """As the paper writes it: .6734."""
    return "    -" if math.isnan(value) else f"{value:.4f}".replace("0.", ".", 1)


def row_of(config: MetricConfig) -> tuple[str, str]:
    """Method and backbone of a checkpoint, as in the table where its network is one of the papers'.

    Examples:
        >>> from aigciqa import paper_config
        >>> row_of(paper_config("inceptionv4", "full"))
        ('FR', 'inceptionv4')
        >>> row_of(MetricConfig("mine", "none", "resnet50", feature="stages"))
        ('NR', 'resnet50 with feature stages')
    """
    backbone, differs = config.backbone, []
    for name, paper in PAPER_BACKBONES.items():
        if paper["backbone"] == config.backbone:
            backbone = name
            if config.feature != paper.get("feature", "avg"):
                differs.append(f"feature {config.feature}")
            if config.transform.tiles:
                differs.append(f"{config.transform.tiles} x {config.transform.tiles} tiles")
    return config.mode, " with ".join([backbone, *([" and ".join(differs)] if differs else [])])
