"""What each step of Table 1 settles: about these very nets, by the samples; about the method, by the seeds as well."""

import json
import math
from itertools import repeat

import numpy as np
import pandas as pd
from scipy import stats

from ethand_utils.analysis.statistics import (
    LEVEL,
    Interval,
    bootstrap_interval,
    holm,
    seeds_needed,
    sign_flip_test,
    std,
    t_interval,
)
from ethand_utils.analysis.tables import (
    ScoresByRow,
    by_hand,
    format_p,
    independent_people,
    mean_scores,
    read_samples,
    scores_by_row,
    table1,
    title,
    with_intervals,
)
from ethand_utils.experiments.methods import ROWS, SHARE_ROWS
from ethand_utils.experiments.run import Run, RunError, fraction_name
from ethand_utils.style import mean_text
from ethand_utils.training.metrics import nanmean

ALPHA = 0.05
NETS, METHOD, OPEN = "these nets", "the method", "open"  # what a step says something about
SEED_COLUMNS = ("seeds", "up", "sd", "seeds_low", "seeds_high", "needed")
STEP_COLUMNS = ("step", "from", "difference", "low", "high", "p", *SEED_COLUMNS)

PAIRS_ALONE, GENERATED = SHARE_ROWS
TITLES = {"g1": "G1", PAIRS_ALONE: "G2, pairs alone", GENERATED: "G2, generated labels"}
HOW = "No share of the pairs was trained on: ethand run --set 'shares=[0.01, 0.05, 0.2]' adds the second table."


def compare_rows(kept: ScoresByRow, groups: pd.Series | None = None) -> pd.DataFrame:
    """Paired differences of neighbouring rows, each row's to the one it adds to first; then those of `step_pairs`.

    Columns `step` and `from` (titles); `difference`, mean over samples and seeds, with its bootstrap interval `low`,
    `high` and sign-flip `p`, Holm-corrected over all steps, both over samples, or over `groups` (by id) such as people;
    `seeds` that both rows have, `up`, in how many of them the step is upwards, `sd` of the difference over them with
    the ends of its t interval, `seeds_low` and `seeds_high`; `needed`, the seeds of each row that would settle such a
    difference (`seeds_needed`, with `pooled_spread`); and `says` (`saying`). What one seed cannot tell is NaN.
    """
    return with_holm([compare_pair(kept, one, other, groups) for one, other in step_pairs(list(kept))])


def with_holm(found: list[tuple]) -> pd.DataFrame:
    """The table of some steps (`one_step`) that are tested together: `p` corrected for their number, and `says`."""
    table = pd.DataFrame(found, columns=list(STEP_COLUMNS))
    table["p"] = holm(table["p"])
    return table.assign(says=pd.Series([significance(step) for _, step in table.iterrows()], dtype=object))


def step_pairs(rows: list[str]) -> list[tuple[str, str]]:
    """(from, to) of rows of Table 1: each but the first, from the nearest row above that the report has.

    Then the last row from rows that the report does not have, and from the first.
    """
    reported = {row["ROW"] for row in ROWS if row["reported"] is not None}
    nearest = [[row for row in rows[:at] if row in reported] or rows[:at] for at in range(1, len(rows))]
    pairs = [(above[-1], row) for above, row in zip(nearest, rows[1:], strict=True)]
    pairs += [(row, rows[-1]) for row in rows[1:-1] if row not in reported]
    return list(dict.fromkeys([*pairs, (rows[0], rows[-1])])) if len(rows) > 1 else []


def compare_pair(kept: ScoresByRow, one: str, other: str, groups: pd.Series | None = None) -> tuple:
    """The step from row `one` to row `other`: STEP_COLUMNS, `p` as it is for a single test."""
    shared = sorted(kept[one].keys() & kept[other].keys())
    before, after = (
        mean_scores([kept[row][seed] for seed in shared] or list(kept[row].values())) for row in (one, other)
    )
    values, units = paired(before, after, groups)
    found = bootstrap_interval(values, units)
    each = np.array([nanmean(paired(kept[one][seed], kept[other][seed])[0]) for seed in shared])
    seeds = t_interval(each)
    up = int((each > 0).sum())
    over = (len(each), up, std(each), seeds.low, seeds.high, seeds_needed(found.mean, pooled_spread(kept)))
    return (title(other), title(one), *found[:3], sign_flip_test(values, units), *over)


def paired(
    one: pd.DataFrame, other: pd.DataFrame, groups: pd.Series | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """How much higher `other` scores than `one`, float [n, 2], on the samples both have; and their `groups` [n]."""
    ids = one.index.intersection(other.index, sort=False)
    ids = ids if groups is None else ids.intersection(groups.index, sort=False)
    return by_hand(other.loc[ids]) - by_hand(one.loc[ids]), None if groups is None else groups[ids].to_numpy()


def compare(one: pd.DataFrame, other: pd.DataFrame) -> Interval:
    """How much higher `other` scores than `one`, and its interval over the samples both have."""
    return bootstrap_interval(paired(one, other)[0])


def pooled_spread(kept: ScoresByRow) -> float:
    """Standard deviation of a row's score over its seeds, pooled over all rows; NaN where none has two."""
    found = [row_scores(seeds) for seeds in kept.values() if len(seeds) > 1]
    freedom = degrees_of_freedom(kept)
    squares = sum((len(scores) - 1) * std(scores) ** 2 for scores in found)
    return math.sqrt(squares / freedom) if freedom else float("nan")


def degrees_of_freedom(kept: ScoresByRow) -> int:
    """Of `pooled_spread`: trainings beyond the first of each row."""
    return sum(len(seeds) - 1 for seeds in kept.values())


def row_scores(seeds: dict[int, pd.DataFrame]) -> np.ndarray:
    """A row's score of each seed, float [seeds]."""
    return np.array([nanmean(by_hand(table)) for table in seeds.values()])


def significance(step: pd.Series) -> str:
    """What a row of `steps` settles: `open`, or `higher` or `lower` of `these nets` or of `the method`.

    Of these nets what the samples settle: p below ALPHA after Holm's correction. Of the method what the seeds settle as
    well: their t interval leaves zero out on the same side.
    """
    if not step["p"] < ALPHA:
        return OPEN
    sign = np.sign(step["difference"])
    agree = min(sign * step["seeds_low"], sign * step["seeds_high"]) > 0
    return f"{METHOD if agree else NETS}: {'higher' if sign > 0 else 'lower'}"


def certain_table(found: pd.DataFrame, scores: dict[str, pd.DataFrame], differences: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of `results` with our scores' intervals and with p-values; NaN for rows without predictions.

    `p_previous` is that of each row's step from the row it adds to, of `steps`.
    """
    first = differences.drop_duplicates("step").set_index("step")["p"]
    table = with_intervals(table1(found), scores)
    return table.assign(p_previous=table["model"].map(first).astype(float))


def table_display(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as it is read: the report's headings, numbers as text, and of ours what is known of its certainty.

    `ours` with ± standard deviation over seeds where a row has several, its interval over samples, and `p`, after
    Holm's correction, of its step from the row above.
    """
    shown = pd.DataFrame({"Model": table["model"], "report": _texts(table["reported"], "{:.4f}")})
    shown["ours"] = list(map(mean_text, table["ours"], table["ours_sd"], repeat(4)))
    if table["seeds"].where(table["seeds"] > 0).nunique() > 1:
        shown["seeds"] = table["seeds"]
    if "ours_low" in table:
        ends = zip(table["ours_low"], table["ours_high"], strict=True)
        shown["ours, 95 %"] = [f"{low:.4f} – {high:.4f}" if pd.notna(low) else "–" for low, high in ends]
    for to, name in (("baseline", "base"), ("previous", "prev.")):
        for source, whose in (("reported", "report"), ("ours", "ours")):
            shown[f"{whose} Δ {name} %"] = _texts(table[f"{source}_delta_{to}_pct"], "{:+.2f}")
    if "p_previous" in table:
        shown["p prev."] = [format_p(p) for p in table["p_previous"]]
    return shown


def steps_display(found: pd.DataFrame) -> pd.DataFrame:
    """`steps` as they are read, numbered from 1, in text; what the seeds say only where there are several."""
    shown = pd.DataFrame({"step": found.index + 1, "row": found["step"], "compared with": found["from"]})
    shown["difference"] = found["difference"].map("{:+.4f}".format)
    shown["95 %"] = [f"{low:+.4f} to {high:+.4f}" for low, high in zip(found["low"], found["high"], strict=True)]
    shown["p"] = found["p"].map(format_p)
    if found["seeds"].max() > 1:
        shown["seeds up"] = [f"{up} of {seeds}" for up, seeds in zip(found["up"], found["seeds"], strict=True)]
        shown["sd over seeds"] = ["–" if pd.isna(sd) else f"{sd:.4f}" for sd in found["sd"]]
        shown["seeds needed"] = ["–" if not np.isfinite(n) else f"{n:,.0f}" for n in found["needed"]]
    return shown.assign(says=found["says"])


def step_intervals(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Ends of the steps for `figures.intervals`: over what was scored, and over seeds where there are several."""
    drawn = found.rename(columns={"difference": "mean"}).set_index(found["step"] + "\nover " + found["from"])
    groups = {"samples (bootstrap)": drawn[["mean", "low", "high"]]}
    if found["seeds"].max() > 1:
        ends = {"seeds_low": "low", "seeds_high": "high"}
        groups["seeds (Student's t)"] = drawn[["mean", *ends]].rename(columns=ends)
    return groups


def _texts(values: pd.Series, form: str) -> list[str]:
    return [form.format(value) if pd.notna(value) else "–" for value in values]


def label_fractions(run: Run) -> list[float]:
    """The shares of the pairs in the second table, the smallest first, all of them last; none without `shares`."""
    return [*sorted(run.profile.shares), 1.0] if run.profile.shares else []


def fraction_table(run: Run) -> pd.DataFrame:
    """The second table: a row a share and training (TITLES), the smallest share first.

    Columns `share`, `pairs` (how many these are), `row`, `model`; `ours`, the course mIoU over seeds, with `ours_sd`
    and `seeds`, and its interval over samples, `ours_low` and `ours_high`. Raises RunError for a training that is not
    there yet.
    """
    return pd.DataFrame([_score(run.at_share(share), share, row) for share in label_fractions(run) for row in TITLES])


def _score(run: Run, share: float, row: str) -> dict:
    """One row of `share_table`."""
    folder = run.folder / ("g1" if row == "g1" else f"g2/{row}")
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("**/result.json"))]
    files = sorted((run.folder / "predictions").glob("g1" if row == "g1" else f"{row}_seed*"))
    if not found or not files:
        raise RunError(f"{folder}: not trained yet on {share:.3g} of the pairs; `ethand run` trains what is missing")
    ends = bootstrap_interval(by_hand(mean_scores([read_samples(file / "metrics.parquet") for file in files])))
    scores = pd.Series([result["course_miou"] for result in found])
    known = {"ours": scores.mean(), "ours_low": ends.low, "ours_high": ends.high, "ours_sd": scores.std()}
    return {"share": share, "pairs": found[0]["pairs"], "row": row, "model": TITLES[row], **known, "seeds": len(scores)}


def fraction_steps(run: Run) -> pd.DataFrame:
    """What generated labels bring to G2 at each share: `steps.settled` of them all together, and their `share`."""
    found = []
    for share in label_fractions(run):
        kept = {row: seeds for row, seeds in scores_by_row(run.at_share(share)).items() if row in SHARE_ROWS}
        if len(kept) < len(SHARE_ROWS):
            raise RunError(f"{fraction_name(share)}: lacks predictions of a row; `ethand run` trains what is missing")
        found.append(compare_pair(kept, PAIRS_ALONE, GENERATED, independent_people(run.at_share(share), kept)))
    return with_holm(found).assign(share=label_fractions(run))


def fraction_display(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """`share_table` and `share_steps` as they are read: a row a share, a column a training, then what labels bring."""
    rows = []
    for (_, step), (share, scores) in zip(found.iterrows(), table.groupby("share"), strict=True):
        texts = {s["model"]: mean_text(s["ours"], s["ours_sd"], 4) for _, s in scores.iterrows()}
        brings = {"labels bring": f"{step['difference']:+.4f}", "95 %": f"{step['low']:+.4f} to {step['high']:+.4f}"}
        pairs = f"{scores['pairs'].iloc[0]:,.0f}"
        rows.append({"of the pairs": f"{100 * share:g} %", "pairs": pairs, **texts, **brings, "p": format_p(step["p"])})
        rows[-1] |= {"seeds up": f"{step['up']} of {step['seeds']}"} if step["seeds"] > 1 else {}
        rows[-1]["says"] = step["says"]
    return pd.DataFrame(rows)


def conclusions(found: pd.DataFrame, kept: ScoresByRow) -> list[str]:
    """A sentence or two on each: these nets, the method, chance in training, seeds to come; from `steps`.

    Steps are called by their number in `shown_steps`. Empty where there is none.
    """
    if found.empty:
        return []
    if found["seeds"].max() < 2:
        return [_nets(found), _one_seed()]
    return [_nets(found), _method(found), _chance(found, kept), _more_seeds(found)]


def counts(found: pd.DataFrame, kept: ScoresByRow) -> dict[str, int | float]:
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
    agreed, nets = (found[found["says"].str.startswith(what)] for what in (METHOD, NETS))
    words = f"The method: samples and seeds agree on {_numbers(agreed)}"
    return f"{words}; {_numbers(nets)} clear on these samples, but not over the seeds." if len(nets) else f"{words}."


def _chance(found: pd.DataFrame, kept: ScoresByRow) -> str:
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
