"""How sure a mean of sample scores is: percentile bootstrap, and differences of two nets on the same samples."""

from typing import NamedTuple

import numpy as np

from ethand_utils import EthandError

LEVEL = 0.95  # share of the resamples inside an interval
DRAWS = 2000  # resamples; their percentiles are then right to about a hundredth of the interval's width


class Interval(NamedTuple):
    """A mean, the ends of its interval, and the number of what was resampled; NaN where nothing is known."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for a difference, whether its sign is settled."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray | None = None, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Mean of `values` float [n] or [n, k] (a sample's k hands) and its percentile bootstrap interval.

    Whole samples are drawn with replacement; the mean is over all known values, as in the course's score, and NaN are
    left out. With `groups` [n], such as people, whole groups are drawn in place of samples: right where the samples of
    a group resemble each other. The interval has no width where there is only one to draw from, and says nothing then.
    (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.) Raises EthandError unless 0 < level < 1,
    draws ≥ 1 and groups are as many as values.
    """
    if not 0 < level < 1 or draws < 1:
        raise EthandError(f"bootstrap: level {level}, draws {draws}; expected 0 < level < 1 and at least one draw")
    totals, numbers = _sums(np.asarray(values, float), groups)
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, 0)
    rng, means = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        picked = rng.integers(len(numbers), size=len(numbers))
        means[draw] = totals[picked].sum() / numbers[picked].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(totals.sum() / numbers.sum()), float(low), float(high), len(numbers))


def paired_difference(a: np.ndarray, b: np.ndarray, groups: np.ndarray | None = None, **options) -> Interval:
    """How much larger `b` is than `a` on the same samples, with `bootstrap_interval` of the differences.

    Both are float [n] or [n, k]; what is NaN in either is left out of both. What makes a sample hard for both nets
    falls away, so that the interval is narrower than those of the two means. Raises EthandError for unlike shapes.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise EthandError(f"paired difference: scores {list(a.shape)} and {list(b.shape)}; expected the same samples")
    return bootstrap_interval(b - a, groups, **options)


def _sums(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the known values of each sample, or of each group; those with none are left out."""
    table = values[:, None] if values.ndim == 1 else values
    totals, numbers = np.nansum(table, axis=1), (~np.isnan(table)).sum(1)
    if groups is not None:
        if len(groups) != len(values):
            raise EthandError(f"bootstrap: {len(groups)} groups of {len(values)} samples; expected one a sample")
        _, code = np.unique(np.asarray(groups), return_inverse=True)
        totals, numbers = np.bincount(code, totals), np.bincount(code, numbers)
    return totals[numbers > 0], numbers[numbers > 0]
