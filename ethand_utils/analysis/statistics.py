"""Intervals and tests of mean scores and of paired differences, over samples and over seeds.

SciPy's statistics take longer to import than most figures to draw, so only what tests imports them.
"""

import math
from typing import NamedTuple

import numpy as np

from ethand_utils.exceptions import EthandError

LEVEL = 0.95  # share of the resamples inside an interval
DRAWS = 2000  # resamples; their percentiles are then right to about a hundredth of the interval's width
FLIPS = 4999  # sign flips of a permutation test; its p-values are multiples of 2 / (FLIPS + 1)
POWER = 0.8  # chance to detect a difference that exists


class Interval(NamedTuple):
    """A mean, the ends of its interval, and the number of units that were resampled; NaN without data."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; for a difference, whether its sign is settled."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray | None = None, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Compute the mean of `values` float [n] or [n, k] (a sample's k hands) and its percentile bootstrap interval.

    Samples are drawn with replacement, each with all its k values; the mean is over all values but NaN, as in the
    course's score. With `groups` [n], such as people, groups are drawn in place of samples: right where the samples of
    a group resemble each other. With a single unit to draw from, the interval has no width and no meaning.
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


def sign_flip_test(values: np.ndarray, groups: np.ndarray | None = None, flips: int = FLIPS) -> float:
    """Compute the two-sided p-value of a mean paired difference by a sign-flip permutation test.

    `values` float [n] or [n, k] are the differences, NaN left out. Under the null hypothesis the difference of each
    sample (with `groups` [n], of each group) is as likely to have the other sign; so signs are flipped at random, or in
    every combination where there are few. NaN for fewer than two. (Good, Permutation, Parametric and Bootstrap Tests of
    Hypotheses, section 3.2; scipy's permutation_test.) Raises EthandError unless groups are as many as values.
    """
    from scipy import stats

    totals, _ = _sums(np.asarray(values, float), groups)
    if len(totals) < 2:
        return float("nan")
    options = {"permutation_type": "samples", "vectorized": True, "batch": max(1, 2**22 // len(totals))}
    test = stats.permutation_test((totals,), np.sum, n_resamples=flips, rng=np.random.default_rng(0), **options)
    return float(test.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Correct the p-values float [n] of tests made together for their number, by Holm's step-down method.

    If no effect is real, the smallest falls below 0.05 in at most 5 % of cases. NaN stay and do not count.
    (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.)
    """
    p = np.asarray(p, float)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN are sorted to the end
    corrected = p.copy()
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def std(values: np.ndarray) -> float:
    """Return the standard deviation (n − 1) of float [n], NaN left out; NaN for fewer than two."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def t_interval(values: np.ndarray) -> Interval:
    """Compute the mean of a few values float [n], such as one a seed, with Student's t interval.

    The ends are NaN for fewer than two values.
    """
    from scipy import stats

    values = np.asarray(values, float)
    mean = float(values.mean()) if len(values) else float("nan")
    half = stats.t.ppf((1 + LEVEL) / 2, max(1, len(values) - 1)) * std(values) / math.sqrt(max(1, len(values)))
    return Interval(mean, float(mean - half), float(mean + half), len(values))


def seeds_needed(difference: float, sd: float) -> float:
    """Return how many trainings of each of two rows settle a difference of their means, with `sd` of each over seeds.

    n = 2 (z₁ + z₂)² sd² / difference², at least 2, with the normal quantiles z₁ of (1 + LEVEL) / 2 and z₂ of POWER:
    15.7 sd² / difference². Infinite for no difference, NaN where `sd` is unknown.
    """
    from scipy import stats

    if math.isnan(sd) or math.isnan(difference):
        return float("nan")
    if difference == 0:
        return float("inf")
    z = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)
    return float(max(2, math.ceil(2 * (z * sd / difference) ** 2)))


def _sums(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and number of values that are not NaN of each sample or group; those with none are left out."""
    table = values[:, None] if values.ndim == 1 else values
    totals, numbers = np.nansum(table, axis=1), (~np.isnan(table)).sum(1)
    if groups is not None:
        if len(groups) != len(values):
            raise EthandError(f"{len(groups)} groups of {len(values)} samples; expected one a sample")
        _, code = np.unique(np.asarray(groups), return_inverse=True)
        totals, numbers = np.bincount(code, totals), np.bincount(code, numbers)
    return totals[numbers > 0], numbers[numbers > 0]
