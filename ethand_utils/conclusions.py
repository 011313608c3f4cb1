"""What may be concluded from the steps of Table 1 at a run's size, in words drawn from its numbers."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from ethand_utils.ablation import Kept
from ethand_utils.statistics import LEVEL
from ethand_utils.steps import ALPHA, METHOD, NETS, OPEN, degrees_of_freedom, pooled_spread


def conclusions(found: pd.DataFrame, kept: Kept) -> list[str]:
    """A sentence or two on each: these nets, the method, chance in training, seeds to come; from `steps`.

    Steps are called by their number in `shown_steps`. Empty where there is none.
    """
    if found.empty:
        return []
    if found["seeds"].max() < 2:
        return [_nets(found), _one_seed()]
    return [_nets(found), _method(found), _chance(found, kept), _more_seeds(found)]


def counts(found: pd.DataFrame, kept: Kept) -> dict[str, int | float]:
    """How many `steps` there are and how many are settled, and the spread over seeds: for `result.json`."""
    return {
        "steps": len(found),
        "steps_settled": int((found["says"] != OPEN).sum()),
        "steps_settled_for_the_method": int(found["says"].astype(str).str.startswith(METHOD).sum()),
        "sd_over_seeds": pooled_spread(kept),
    }


def _nets(found: pd.DataFrame) -> str:
    clear = found[found["says"] != OPEN]
    up = int((clear["difference"] > 0).sum())
    return (
        f"These nets: the samples settle {len(clear)} of {len(found)} steps (p < {ALPHA:g} after Holm's correction for "
        f"{len(found)} tests), {up} up and {len(clear) - up} down; {_numbers(found[found['says'] == OPEN])} left open."
    )


def _one_seed() -> str:
    return (
        "The method: nothing is settled. Each row was trained once, so how far two trainings of one row differ by "
        "chance is not known, and any step may be the seed's. The setting seeds=3 shows it, and keeps these trainings."
    )


def _method(found: pd.DataFrame) -> str:
    settled, nets = (found[found["says"].str.startswith(what)] for what in (METHOD, NETS))
    words = f"The method: samples and seeds agree on {_numbers(settled)}"
    return f"{words}; {_numbers(nets)} clear on these samples, but not over the seeds." if len(nets) else f"{words}."


def _chance(found: pd.DataFrame, kept: Kept) -> str:
    sd, freedom = pooled_spread(kept), degrees_of_freedom(kept)
    trainings = sum(len(seeds) for seeds in kept.values() if len(seeds) > 1)
    tails = stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], freedom)
    low, high = sd * np.sqrt(freedom / tails)
    two = math.sqrt(2) * sd
    larger = found["difference"].abs() > two
    return (
        f"Chance in training: over its seeds a row's score has a standard deviation of {sd:.4f} (pooled over "
        f"{trainings} trainings; 95 % interval {low:.4f} to {high:.4f}), and the difference of two single trainings √2 "
        f"times that, {two:.4f}. Larger than this: {_numbers(found[larger])}; not larger: {_numbers(found[~larger])}."
    )


def _more_seeds(found: pd.DataFrame) -> str:
    short = found[found["needed"] > found["seeds"]]
    wanted = ", ".join(f"{step['needed']:,.0f} for step {place + 1}" for place, step in short.iterrows())
    return (
        "More seeds: n = 2 (1.96 + 0.84)² sd² / difference² trainings of each row find a difference as large as the "
        f"one seen in four of five cases, at the 5 % level. More than there are: {wanted or 'for no step'}."
    )


def _numbers(found: pd.DataFrame) -> str:
    numbers = [str(number + 1) for number in found.index]
    return f"step{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else "no step"
