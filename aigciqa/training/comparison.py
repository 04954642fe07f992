"""One model beside another."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import InputError
from .correlation import Floats, paired, plcc, rows_by_label, srcc
from .evaluation import Labels, interval, jsonable, resamples, shown


@dataclass(frozen=True)
class Comparison:
    """Two models' scores of the same pictures, a and b, against the same MOS.

    Args:
        n: number of rows.
        srcc_a: Spearman's rank correlation of a.
        srcc_b: of b.
        plcc_a: Pearson's correlation of a, raw.
        plcc_b: of b.
        srcc_t: Williams' t for the SRCC; above 0 where a's is higher.
        srcc_p: its two-sided p.
        plcc_t: Williams' t for the PLCC.
        plcc_p: its two-sided p.
        difference: SRCC of a minus SRCC of b.
        interval: its 95 % bootstrap interval.
        p: two-sided bootstrap p of no difference; at least 2 / (resamples + 1).
    """

    n: int
    srcc_a: float
    srcc_b: float
    plcc_a: float
    plcc_b: float
    srcc_t: float
    srcc_p: float
    plcc_t: float
    plcc_p: float
    difference: float
    interval: tuple[float, float]
    p: float

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them: NaN as None, the interval as a list."""
        return jsonable(asdict(self))

    def table(self) -> str:
        """The numbers as plain text, for people."""
        rows = (
            ("SRCC", self.srcc_a, self.srcc_b, self.srcc_t, self.srcc_p),
            ("PLCC, raw", self.plcc_a, self.plcc_b, self.plcc_t, self.plcc_p),
        )
        lines = [f"{f'{self.n} rows':12}{'a':>9}{'b':>9}{'a - b':>9}{'t':>9}{'p':>9}   (Williams)"]
        for name, a, b, t, p in rows:
            small = f"{'<0.0001':>9}" if p < 0.0001 else shown(p)
            lines.append(f"{name:12}" + "".join(map(shown, (a, b, a - b, t))) + small)
        if not math.isnan(self.p):
            low, high = self.interval
            lines.append(f"SRCC, a - b: 95 % interval {low:.4f} to {high:.4f}, p {self.p:.4f} (bootstrap)")
        return "\n".join(lines)


def compare(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    mos: ArrayLike,
    groups: Labels | None = None,
    bootstrap: int = 2000,
    seed: int = 1,
) -> Comparison:
    """Test whether one model's scores correlate better with MOS than another's of the same pictures.

    Williams' test takes the rows as independent; where groups of pictures share a prompt they are not, and
    the bootstrap, which draws whole groups, is the one to trust. For SRCC, Williams' test on the ranks is
    an approximation. Resamples in which an SRCC is undefined are left out.

    Args:
        scores_a: (N,), finite, N at least 1; the higher the better, so negate those of a distance.
        scores_b: (N,), finite; likewise.
        mos: (N,), finite.
        groups: one label per row, of what was made from one prompt.
        bootstrap: number of resamples; 0 for none.
        seed: of the resamples.

    Raises:
        InputError: for no rows, different lengths, values that are not finite, missing labels.

    Examples:
        >>> mos = [1, 2, 3, 4, 5, 6, 7, 8]
        >>> result = compare([1, 2, 3, 4, 5, 6, 8, 7], [2, 1, 4, 3, 8, 7, 5, 6], mos, bootstrap=100)
        >>> round(result.difference, 4), result.srcc_t > 0
        (0.2381, True)
    """
    (a, y), (b, _) = paired(scores_a, mos), paired(scores_b, mos)
    if not len(y):
        raise InputError("there is nothing to compare: no scores were given")
    rows = None if groups is None else list(rows_by_label(groups, len(y), "groups").values())
    draws = np.array([srcc(a[i], y[i]) - srcc(b[i], y[i]) for i in resamples(len(y), rows, bootstrap, seed)])
    if len(y if rows is None else rows) < 2:
        draws = np.empty(0)
    ranked = williams(srcc(a, y), srcc(b, y), srcc(a, b), len(y))
    linear = williams(plcc(a, y), plcc(b, y), plcc(a, b), len(y))
    return Comparison(
        n=len(y),
        srcc_a=srcc(a, y),
        srcc_b=srcc(b, y),
        plcc_a=plcc(a, y),
        plcc_b=plcc(b, y),
        srcc_t=ranked[0],
        srcc_p=ranked[1],
        plcc_t=linear[0],
        plcc_p=linear[1],
        difference=srcc(a, y) - srcc(b, y),
        interval=interval(draws),
        p=_two_sided(draws),
    )


def _two_sided(differences: Floats) -> float:
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return math.nan
    fewer = min(np.sum(defined <= 0), np.sum(defined >= 0))
    return min(1.0, 2 * (int(fewer) + 1) / (len(defined) + 1))


def williams(r_a: float, r_b: float, r_ab: float, n: int) -> tuple[float, float]:
    """Williams' test of two dependent correlations that share a variable (here MOS).

    Args:
        r_a: correlation of a with MOS, in [-1, 1].
        r_b: correlation of b with MOS.
        r_ab: correlation of a with b.
        n: number of rows.

    Returns:
        t with n - 3 degrees of freedom and its two-sided p; (0, 1) for equal correlations; NaN for fewer
        than 4 rows or where a correlation is NaN.

    Source:
        Williams, The comparison of regression variables, Journal of the Royal Statistical Society B 21
        (1959), 396-399; as equation 7 of Steiger, Tests for comparing elements of a correlation matrix,
        Psychological Bulletin 87 (1980), 245-251, who recommends it.

    Examples:
        >>> t, p = williams(0.4, 0.5, 0.1, 103)
        >>> round(t, 2), round(p, 2)
        (-0.89, 0.37)
    """
    if n < 4 or any(map(math.isnan, (r_a, r_b, r_ab))):
        return math.nan, math.nan
    if r_a == r_b:
        return 0.0, 1.0
    determinant = max(0.0, 1 - r_a**2 - r_b**2 - r_ab**2 + 2 * r_a * r_b * r_ab)
    spread = 2 * determinant * (n - 1) / (n - 3) + ((r_a + r_b) / 2) ** 2 * (1 - r_ab) ** 3
    if spread <= 0:  # the three are linearly dependent, and one of them is -1 or 1
        return math.copysign(math.inf, r_a - r_b), 0.0
    t = (r_a - r_b) * math.sqrt((n - 1) * (1 + r_ab) / spread)
    return t, float(2 * stats.t.sf(abs(t), n - 3))
