"""Rows of a table of labels that are for the same picture, with the same reference."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..errors import InputError, Parameter

DUPLICATES = ("error", "drop", "mean")


def without_duplicates(
    frame: pd.DataFrame, dimensions: Sequence[str], duplicates: str, file: Path
) -> tuple[pd.DataFrame, list[str]]:
    """One row for each picture and reference.

    Args:
        frame: under our names.
        dimensions: its columns of labels.
        duplicates: ``"error"``; ``"drop"`` to keep the first row, as `pandas.DataFrame.drop_duplicates` does; or
            ``"mean"`` to keep it with the mean of the labels.
        file: for messages.

    Returns:
        The rows that are left, in their order, and a sentence that says what became of the others.

    Raises:
        InputError: for doubled rows where `duplicates` is ``"error"``, and for another value of it.
    """
    if duplicates not in DUPLICATES:
        raise InputError(
            Parameter("duplicates", duplicates, repr(duplicates)), f": pass one of {', '.join(DUPLICATES)}"
        )
    roles = [role for role in ("picture", "reference") if role in frame]
    keys = pd.DataFrame(
        {role: [os.path.normpath(name) if name else "" for name in frame[role]] for role in roles}
    )
    numbers = keys.groupby(roles, sort=False).ngroup().to_numpy()
    again = pd.Series(numbers).duplicated().to_numpy()
    if not again.any():
        return frame, []
    at = int(again.argmax())
    rows = [frame.index[i] for i in range(len(frame)) if numbers[i] == numbers[at]]
    for_what = " with ".join(name for name in keys.iloc[at] if name)
    if duplicates == "error":
        raise InputError(
            f"{file}: rows {rows[0]} and {rows[1]} are both for {for_what}; keep one, or pass ",
            Parameter("duplicates", "drop", "'drop'"),
            " for the first, ",
            Parameter("duplicates", "mean", "'mean'"),
            " for the mean of their labels",
        )
    kept = frame[~again].copy()
    if duplicates == "mean":
        means = frame[list(dimensions)].groupby(numbers, sort=False).mean()
        kept[list(dimensions)] = means.to_numpy()
    became = "left out" if duplicates == "drop" else "averaged with the first"
    said = f"duplicate rows {became}: {int(again.sum())}, such as row {rows[1]} after row {rows[0]} for {for_what}"
    return kept, [said]
