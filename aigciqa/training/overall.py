"""The overall score of the PKU data sets: the sum of quality, authenticity and correspondence."""

import numpy as np
import pandas as pd

PARTS = ("quality", "authenticity", "correspondence")
OVERALL = "overall"
NEAR = 0.01  # files round their labels


def add_overall(
    frame: pd.DataFrame,
    column: str,
    score_range: tuple[float, float],
    notes: list[str],
    factors: dict[str, float],
) -> None:
    """Put the overall score into a table: as its own column has it, else as the sum of its three parts.

    Args:
        frame: under our names; changed.
        column: what the file calls the overall score; ``""`` where it has none.
        score_range: of the parts.
        notes: gets a sentence that says where the score is from.
        factors: gets how many times the range of the parts that of the overall score is: 3, or 1 for a column that
            is no sum and keeps within the range of the parts.
    """
    if not set(PARTS) <= set(frame.columns):
        return
    total = frame[list(PARTS)].sum(axis=1, skipna=False)
    if not column:
        frame[OVERALL] = total
        factors[OVERALL] = len(PARTS)
        notes.append(f"{OVERALL}: the sum of {', '.join(PARTS)}")
        return
    own = frame[OVERALL]
    other = int(((own - total).abs() > NEAR).sum())
    is_sum = not other or float(np.nanmax(own.to_numpy(), initial=score_range[0])) > score_range[1]
    factors[OVERALL] = len(PARTS) if is_sum else 1
    said = f"which is the sum of {', '.join(PARTS)}"
    if other:
        said = f"which in {other} of {len(frame)} rows is not the sum of {', '.join(PARTS)}"
    notes.append(f"{OVERALL}: column {column!r}, {said}")
