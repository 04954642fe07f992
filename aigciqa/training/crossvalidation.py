"""Cross-validation: every row of every data set predicted by a network that did not see its group."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import InputError, Parameter
from ..writing import write_whole
from .evaluation import evaluate, jsonable
from .ladders import Ladders
from .recipe import Recipe, read_recipe
from .rows import open_data
from .scale import rescaled, scale_facts, scale_said
from .side import PREDICTIONS
from .trainer import train


def cross_validate(
    recipe: Recipe, folder: str | Path, *, report: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Train once for each fold, and evaluate all that was held out together.

    Every data set is cut into `recipe.folds` folds of whole groups. A data set of weight 0 is not learned from, but
    evaluated on all the same. Runs that are there already are not repeated, so it can be continued.

    Args:
        recipe: what to train; `recipe.folds` of it.
        folder: where the runs go, ``fold0``, ``fold1``, ..., and ``evaluation.json``.
        report: called with each line for the user.

    Returns:
        By data set and dimension, what `aigciqa.training.evaluation.Evaluation.to_dict` gives.

    Raises:
        InputError: for fewer than 2 folds, or what `train` refuses.
    """
    return judge(recipe, held_out(recipe, folder, report=report), folder, report=report)


def held_out(recipe: Recipe, folder: str | Path, *, report: Callable[[str], None] = print) -> pd.DataFrame:
    """Train once for each fold, and predict what it held out.

    Arguments and errors are those of `cross_validate`.

    Returns:
        A row for each rated picture of each data set: ``set`` and ``row`` (numbers), and for each dimension
        ``..._score`` and ``..._label``.
    """
    if recipe.folds < 2:
        raise InputError("cross-validation needs at least 2 folds, such as ", Parameter("folds", "5"))
    folder = Path(folder)
    found = []
    cache = recipe.cache or str(folder / "cache")
    for fold in range(recipe.folds):
        run = folder / f"fold{fold}"
        made = replace(recipe, fold=fold, split="group", cache=cache, validation=0.0, select="last")
        begun = (run / "recipe.yaml").exists()
        if not (run / PREDICTIONS).exists() or read_recipe(run / "recipe.yaml") != made:
            report(f"fold {fold + 1} of {recipe.folds}")
            # intervals are of all folds together
            train(made, run, resume=begun, report=lambda line: None, bootstrap=0)
        found.append(pd.read_csv(run / PREDICTIONS))
    return pd.concat(found).sort_values(["set", "row"], ignore_index=True)


def judge(
    recipe: Recipe, predicted: pd.DataFrame, folder: str | Path, *, report: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Evaluate what `held_out` gives, by data set and dimension, and write ``evaluation.json`` into `folder`.

    Args:
        recipe: says which data sets, in the same order, and which dimensions.
        predicted: what was predicted.
        folder: where to write.
        report: called with each line for the user.
    """
    figures: dict[str, dict[str, Any]] = {}
    for index, (source, one) in enumerate(zip(recipe.data, open_data(recipe), strict=True)):
        observed = one.range_is_observed and source.score_range is None
        mine = predicted[predicted["set"] == index]
        for dimension in recipe.dimensions:
            here = mine[mine[f"{dimension}_label"].notna()]
            if here.empty:
                continue
            rows, scale = here["row"].tolist(), one.range_of(dimension)
            scores, labels = (
                rescaled(here[f"{dimension}_{what}"].to_numpy(), recipe.score_range, scale)
                for what in ("score", "label")
            )
            groups, generators = ([column[i] for i in rows] for column in (one.groups, one.generators))
            result = evaluate(scores, labels, groups, generators if any(generators) else None)
            figures.setdefault(one.name, {})[dimension] = result.to_dict() | scale_facts(scale, observed)
            report(
                f"\n{one.name}, {dimension}, held out in {recipe.folds} folds, on the labels' scale of "
                f"{scale_said(scale, observed)}:\n{result.table()}"
            )
            if any(one.ladders):
                ladders = Ladders.of(one.subset(rows), scores, dimension)
                figures[one.name][dimension]["ladders"] = jsonable(ladders.to_dict())
                report(f"\n{ladders.table()}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_whole(Path(folder) / "evaluation.json", json.dumps(figures, indent=2))
    return figures
