"""Tests of the steps between rows of Table 1, over samples and over seeds, and of label fractions."""

import json
import math

import numpy as np
import pandas as pd

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
    title,
)
from ethand_utils.experiments.methods import FRACTION_METHODS, METHODS
from ethand_utils.experiments.run import Run, RunError, fraction_name
from ethand_utils.style import mean_text, percent_text
from ethand_utils.training.metrics import nanmean

ALPHA = 0.05
# A step's verdict: OPEN, or `higher` or `lower` of these nets alone or of the method.
OPEN, THESE_NETS, THE_METHOD = "open", "these nets", "the method"
STEP_COLUMNS = ("step", "from", "difference", "low", "high", "p")
SEED_COLUMNS = ("seeds", "up", "sd", "seeds_low", "seeds_high", "needed")

PAIRS_ALONE, GENERATED_LABELS = FRACTION_METHODS
FRACTION_TITLES = {"g1": "G1", PAIRS_ALONE: "G2, pairs alone", GENERATED_LABELS: "G2, generated labels"}
FRACTION_COLUMNS = ["label_fraction", "pairs", "row", "model", "ours", "ours_low", "ours_high", "ours_sd", "seeds"]
NO_LABEL_FRACTIONS = (
    "Every net was trained on all pairs: ethand run --set 'label_fractions=[0.01, 0.05, 0.2]' adds the second table."
)


def ablation_steps(scores: ScoresByRow, groups: pd.Series | None = None) -> pd.DataFrame:
    """Test every row of Table 1 against the rows of `step_pairs`.

    Columns `step` and `from` (titles); `difference`, mean over samples and seeds, with its bootstrap interval `low`,
    `high` and sign-flip `p`, Holm-corrected over all steps, both over samples, or over `groups` (by id) such as people;
    `seeds` that both rows have, `up`, in how many of them the step is upwards, `sd` of the difference over them with
    the ends of its t interval, `seeds_low` and `seeds_high`; `needed`, the seeds of each row that would settle such a
    difference (`seeds_needed`, with `pooled_std`); and `verdict` (`step_verdict`). What one seed cannot tell is NaN.
    """
    return holm_corrected([paired_step(scores, before, after, groups) for before, after in step_pairs(list(scores))])


def step_pairs(rows: list[str]) -> list[tuple[str, str]]:
    """Return the pairs (from, to) of rows to test: each row against those it is `compared_with`.

    One that is not among `rows` is replaced by the row that it adds an ingredient to.
    """
    pairs = []
    for row in rows:
        for base in METHODS[row].compared_with:
            while base not in rows and METHODS[base].compared_with:
                base = METHODS[base].compared_with[0]
            pairs += [(base, row)] if base in rows else []
    return list(dict.fromkeys(pairs))


def paired_step(scores: ScoresByRow, before: str, after: str, groups: pd.Series | None = None) -> dict:
    """Test row `after` against row `before`: STEP_COLUMNS and SEED_COLUMNS, `p` as it is for a single test."""
    seeds = sorted(scores[before].keys() & scores[after].keys())
    means = (mean_scores([scores[row][seed] for seed in seeds] or [*scores[row].values()]) for row in (before, after))
    values, units = paired_differences(*means, groups)
    mean, low, high, _ = bootstrap_interval(values, units)
    by_seed = np.array([nanmean(paired_differences(scores[before][k], scores[after][k])[0]) for k in seeds])
    over_seeds, up = t_interval(by_seed), int((by_seed > 0).sum())
    needed = seeds_needed(mean, pooled_std(scores))
    step = (title(after), title(before), mean, low, high, sign_flip_test(values, units))
    by_seeds = (len(seeds), up, std(by_seed), over_seeds.low, over_seeds.high, needed)
    return dict(zip((*STEP_COLUMNS, *SEED_COLUMNS), (*step, *by_seeds), strict=True))


def holm_corrected(steps: list[dict]) -> pd.DataFrame:
    """Return the table of steps (`paired_step`) that are tested together: `p` corrected for their number, `verdict`."""
    table = pd.DataFrame(steps, columns=[*STEP_COLUMNS, *SEED_COLUMNS])
    table["p"] = holm(table["p"])
    return table.assign(verdict=pd.Series([step_verdict(step) for _, step in table.iterrows()], dtype=object))


def step_verdict(step: pd.Series) -> str:
    """Return what a step settles: `open`, or `higher` or `lower` of `these nets` or of `the method`.

    The samples settle it for these nets: p below ALPHA after Holm's correction. The seeds settle it for the method,
    too, where their t interval excludes zero on the same side.
    """
    if not step["p"] < ALPHA:
        return OPEN
    sign = np.sign(step["difference"])
    agree = min(sign * step["seeds_low"], sign * step["seeds_high"]) > 0
    return f"{THE_METHOD if agree else THESE_NETS}: {'higher' if sign > 0 else 'lower'}"


def paired_differences(
    one: pd.DataFrame, other: pd.DataFrame, groups: pd.Series | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return how much higher `other` scores than `one` on the samples both have, float [n, 2], and their `groups` [n].

    The tables hold the scores of every sample, index `id`; the columns of the difference are left and right hand. What
    makes a sample hard for both cancels, so an interval of the difference is narrower than those of the two means.
    """
    ids = one.index.intersection(other.index, sort=False)
    ids = ids if groups is None else ids.intersection(groups.index, sort=False)
    return by_hand(other.loc[ids]) - by_hand(one.loc[ids]), None if groups is None else groups[ids].to_numpy()


def mean_difference(one: pd.DataFrame, other: pd.DataFrame) -> Interval:
    """Return how much higher `other` scores than `one`, with its interval over the samples both have."""
    return bootstrap_interval(paired_differences(one, other)[0])


def pooled_std(scores: ScoresByRow) -> float:
    """Return the standard deviation of a row's score over its seeds, pooled over all rows; NaN where none has two."""
    several = [seeds.values() for seeds in scores.values() if len(seeds) > 1]
    squares = sum((len(seeds) - 1) * std([nanmean(by_hand(table)) for table in seeds]) ** 2 for seeds in several)
    freedom = _degrees_of_freedom(scores)
    return math.sqrt(squares / freedom) if freedom else float("nan")


def _degrees_of_freedom(scores: ScoresByRow) -> int:
    """Count the trainings beyond the first of each row."""
    return sum(len(seeds) - 1 for seeds in scores.values())


def seed_std_table(scores: ScoresByRow) -> pd.DataFrame:
    """Return how far two trainings of one row differ by chance, as one line; empty where no row has two seeds.

    Columns: `trainings` of rows with several seeds, `sd over seeds` (`pooled_std`) with its 95 % interval `low`, `high`
    (chi-squared), and `sd of a difference` of two single trainings, √2 times that.
    """
    sd, freedom = pooled_std(scores), _degrees_of_freedom(scores)
    if not freedom:
        return pd.DataFrame()
    from scipy import stats  # as slow to import as in `statistics`

    low, high = sd * np.sqrt(freedom / stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], freedom))
    trainings = sum(len(seeds) for seeds in scores.values() if len(seeds) > 1)
    line = {"trainings": trainings, "sd over seeds": sd, "low": low, "high": high}
    return pd.DataFrame([line | {"sd of a difference": math.sqrt(2) * sd}])


def ablation_verdict(steps: pd.DataFrame) -> str:
    """Say in one line how many of the `ablation_steps` are settled, for these nets and for the method."""
    if steps.empty:
        return "One row alone: no step to test."
    counts = step_counts(steps)
    line = f"{counts['steps_settled']} of {len(steps)} steps are settled for these nets (p < {ALPHA:g}, Holm-corrected)"
    if steps["seeds"].max() < 2:
        return f"{line}, none for the method, as each row was trained once; seeds=3 trains more."
    return f"{line}, {counts['steps_settled_for_the_method']} of them for the method."


def step_counts(steps: pd.DataFrame) -> dict[str, int]:
    """Count the steps and those that are settled, for these nets at least and for the method."""
    verdicts = steps["verdict"].astype(str)
    return {
        "steps": len(steps),
        "steps_settled": int((verdicts != OPEN).sum()),
        "steps_settled_for_the_method": int(verdicts.str.startswith(THE_METHOD).sum()),
    }


def steps_display(steps: pd.DataFrame) -> pd.DataFrame:
    """Return steps as text, numbered from 1; what concerns the seeds only where there are several."""
    table = pd.DataFrame({"step": steps.index + 1, "row": steps["step"], "compared with": steps["from"]})
    table["difference"] = steps["difference"].map("{:+.4f}".format)
    table["95 %"] = _interval_texts(steps)
    table["p"] = steps["p"].map(format_p)
    if steps["seeds"].max() > 1:
        table["seeds up"] = _up_texts(steps)
        table["sd over seeds"] = ["–" if pd.isna(sd) else f"{sd:.4f}" for sd in steps["sd"]]
        table["seeds needed"] = ["–" if not np.isfinite(n) else f"{n:,.0f}" for n in steps["needed"]]
    return table.assign(verdict=steps["verdict"])


def _interval_texts(steps: pd.DataFrame) -> list[str]:
    return [f"{low:+.4f} to {high:+.4f}" for low, high in zip(steps["low"], steps["high"], strict=True)]


def _up_texts(steps: pd.DataFrame) -> list[str]:
    return [f"{up} of {seeds}" for up, seeds in zip(steps["up"], steps["seeds"], strict=True)]


def step_intervals(steps: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the ends of the steps for `charts.intervals`: over samples, and over seeds where there are several."""
    table = steps.rename(columns={"difference": "mean"}).set_index(steps["step"] + "\nover " + steps["from"])
    groups = {"samples (bootstrap)": table[["mean", "low", "high"]]}
    if steps["seeds"].max() > 1:
        ends = {"seeds_low": "low", "seeds_high": "high"}
        groups["seeds (Student's t)"] = table[["mean", *ends]].rename(columns=ends)
    return groups


def label_fractions(run: Run) -> list[float]:
    """Return the label fractions of the second table, ascending, 1 last; none where the profile has none."""
    return [*sorted(run.profile.label_fractions), 1.0] if run.profile.label_fractions else []


def fraction_table(run: Run) -> pd.DataFrame:
    """Return the second table: a row a label fraction and training (FRACTION_TITLES), the smallest fraction first.

    Columns `label_fraction`, `pairs` (how many these are), `row`, `model`; `ours`, the course mIoU over seeds, with
    `ours_sd` and `seeds`, and its interval over samples, `ours_low` and `ours_high`. Raises RunError for a training
    that is missing.
    """
    lines = [
        row_at_fraction(run, fraction, row, name)
        for fraction in label_fractions(run)
        for row, name in FRACTION_TITLES.items()
    ]
    return pd.DataFrame(lines, columns=FRACTION_COLUMNS)


def row_at_fraction(run: Run, fraction: float, row: str, name: str) -> dict:
    """Return one line of `fraction_table`: a row (a method, or g1) at a label fraction, called `name`."""
    run = run.at_fraction(fraction)
    folder = run.folder / ("g1" if row == "g1" else f"g2/{row}")
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("**/result.json"))]
    predictions = sorted((run.folder / "predictions").glob("g1" if row == "g1" else f"{row}_seed*"))
    if not results or not predictions:
        raise RunError(f"{folder}: not trained yet on {fraction:.3g} of the pairs; `ethand run` trains what is missing")
    samples = mean_scores([read_samples(path / "metrics.parquet") for path in predictions])
    ends, scores = bootstrap_interval(by_hand(samples)), pd.Series([result["course_miou"] for result in results])
    line = {"label_fraction": fraction, "pairs": results[0]["pairs"], "row": row, "model": name}
    line |= {"ours": scores.mean(), "ours_low": ends.low, "ours_high": ends.high, "ours_sd": scores.std()}
    return line | {"seeds": len(scores)}


def fraction_steps(run: Run) -> pd.DataFrame:
    """Test what generated labels bring to G2 at each label fraction, all of them together.

    Columns as `ablation_steps`, and `label_fraction`. Raises RunError where predictions are missing.
    """
    steps = []
    for fraction in label_fractions(run):
        fraction_run = run.at_fraction(fraction)
        scores = scores_by_row(fraction_run, FRACTION_METHODS)
        if len(scores) < len(FRACTION_METHODS):
            name = fraction_name(fraction)
            raise RunError(f"{name}: lacks predictions of a row; `ethand run` trains what is missing")
        steps.append(paired_step(scores, PAIRS_ALONE, GENERATED_LABELS, independent_people(fraction_run, scores)))
    return holm_corrected(steps).assign(label_fraction=label_fractions(run))


def fraction_display(table: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Return `fraction_table` and `fraction_steps` as text: a row a fraction, a column a training, then the step."""
    rows = []
    for fraction, scores in table.groupby("label_fraction"):
        texts = {s["model"]: mean_text(s["ours"], s["ours_sd"], 4) for _, s in scores.iterrows()}
        rows.append({"of the pairs": percent_text(fraction), "pairs": f"{scores['pairs'].iloc[0]:,.0f}", **texts})
    lines = pd.DataFrame(rows).assign(**{"labels bring": steps["difference"].map("{:+.4f}".format)})
    lines = lines.assign(**{"95 %": _interval_texts(steps), "p": steps["p"].map(format_p)})
    if steps["seeds"].max() > 1:
        lines["seeds up"] = _up_texts(steps)
    return lines.assign(verdict=steps["verdict"])
