"""Table 1 of a run with intervals and p-values, and the scores it is made from, by training and by sample."""

import json
import re
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.analysis.statistics import Interval, bootstrap_interval
from ethand_utils.experiments.methods import BASELINE, FULL_METHOD, METHODS, table_methods
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.files import first_line
from ethand_utils.labels import HANDS, PARTS, slug
from ethand_utils.style import PART_ORDER, mean_text

SCORE = "course_miou"
COMPANIONS = {
    SCORE: "course mIoU",
    "dataset_miou": "data-set mIoU",
    "visible_iou": "visible IoU",
    "occluded_iou": "occluded IoU",
    "absent_fp_rate": "absent hands invented",
}
ENOUGH_PEOPLE = 10  # from as many on, people are drawn in place of their samples
ScoresByRow = dict[str, dict[int, pd.DataFrame]]  # scores of every sample by row and seed


def results(run: Run) -> pd.DataFrame:
    """Load every `result.json` of the run's rows as one table, a row a training, in the order of the report.

    Raises RunError when there is none.
    """
    trainings = [
        json.loads(path.read_text())
        for method in table_methods()
        for path in sorted((run.folder / "g2" / method.name).glob("seed*/result.json"))
    ]
    if not trainings:
        raise RunError(f"{run.folder}/g2: no result yet; run notebooks/07_train_g2.ipynb first, or `ethand run`")
    return pd.DataFrame(trainings)


def table1(trainings: pd.DataFrame) -> pd.DataFrame:
    """Create Table 1 from `results`: the report's score of each row and ours, and how far they are above others.

    `ours` is the mean over seeds, `ours_sd` the standard deviation over the `seeds` a row has, NaN for one. Both Δ are
    relative, in percent, as in the report; Δ previous is to the row that a method adds an ingredient to, where that is
    not the baseline itself. What the report does not have is NaN.
    """
    methods = table_methods()
    table = pd.DataFrame([{"row": m.name, "model": m.title, "reported": m.reported} for m in methods])
    table["reported"] = table["reported"].astype(float)
    before = pd.Series([next(iter(method.compared_with), None) for method in methods])
    scores_of = trainings.groupby("row")["course_miou"]
    for column, values in (("ours", scores_of.mean()), ("ours_sd", scores_of.std()), ("seeds", scores_of.count())):
        table[column] = table["row"].map(values)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    for source in ("reported", "ours"):
        scores = table[source]
        baseline = scores[table["row"] == BASELINE].item()
        table[f"{source}_delta_baseline_pct"] = (100 * (scores / baseline - 1)).where(table["row"] != BASELINE)
        previous = before.map(scores.set_axis(table["row"]))
        table[f"{source}_delta_previous_pct"] = (100 * (scores / previous - 1)).where(before != BASELINE)
    columns = ["reported", "ours", "ours_sd", "seeds"]
    columns += [f"{source}_delta_{to}_pct" for to in ("baseline", "previous") for source in ("reported", "ours")]
    return table[["row", "model", *columns]]


def table1_with_tests(trainings: pd.DataFrame, scores: dict[str, pd.DataFrame], steps: pd.DataFrame) -> pd.DataFrame:
    """Create Table 1 of `results` with intervals and p-values; NaN for rows without predictions.

    `ours_low` and `ours_high` are the ends of our scores' intervals over `scores` (`over_seeds`); `p_previous` is that
    of each row's first step of `comparison.ablation_steps`, from the row it adds to.
    """
    table, ends = table1(trainings), row_intervals(scores)
    first_p = steps.drop_duplicates("step").set_index("step")["p"]
    columns = {f"ours_{end}": table["model"].map(ends[end]) for end in ("low", "high")}
    return table.assign(**columns, p_previous=table["model"].map(first_p).astype(float))


def table1_display(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 as text under the report's headings, with what is known of our scores' certainty.

    `ours` with ± standard deviation over seeds where a row has several, its interval over samples, and `p`, after
    Holm's correction, of its step from the row it adds to.
    """
    text = pd.DataFrame({"Model": table["model"], "report": _texts(table["reported"], "{:.4f}")})
    text["ours"] = list(map(mean_text, table["ours"], table["ours_sd"], repeat(4)))
    if table["seeds"].where(table["seeds"] > 0).nunique() > 1:
        text["seeds"] = table["seeds"]
    if "ours_low" in table:
        ends = zip(table["ours_low"], table["ours_high"], strict=True)
        text["ours, 95 %"] = [f"{low:.4f} – {high:.4f}" if pd.notna(low) else "–" for low, high in ends]
    for to, name in (("baseline", "base"), ("previous", "prev.")):
        for source, whose in (("reported", "report"), ("ours", "ours")):
            text[f"{whose} Δ {name} %"] = _texts(table[f"{source}_delta_{to}_pct"], "{:+.2f}")
    if "p_previous" in table:
        text["p prev."] = [format_p(p) for p in table["p_previous"]]
    return text


def _texts(values: pd.Series, form: str) -> list[str]:
    return [form.format(value) if pd.notna(value) else "–" for value in values]


def format_p(p: float) -> str:
    """Format a p-value."""
    return "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def metrics_table(trainings: pd.DataFrame) -> pd.DataFrame:
    """Return every score of every row of `results` as text, mean ± standard deviation over seeds.

    A row a score (the course's, its companions, then each part's IoU), a column a row of Table 1 that was trained.
    """
    names = COMPANIONS | {f"part_iou_{slug(PARTS[part])}": f"IoU {PARTS[part]}" for part in PART_ORDER}
    rows = trainings.groupby("row", sort=False)[list(names)]
    means, stds = rows.mean(), rows.std()
    texts = {title(row): list(map(mean_text, means.loc[row], stds.loc[row])) for row in means.index}
    return pd.DataFrame(texts, index=list(names)).rename(index=names)


def title(row: str) -> str:
    """Return a row's name in Table 1."""
    return METHODS[row].title


def row_label(row: str) -> str:
    """Return a row's name for a sentence: its title in quotes, but for the baseline and the full method."""
    special = {BASELINE: "the baseline", FULL_METHOD: "the full method"}
    return special.get(row, f"“{title(row)}”")


def scores_by_row(run: Run, rows: Iterable[str] | None = None) -> ScoresByRow:
    """Load the scores of every held-out sample (`metrics.parquet`) by row and seed, each with index `id`.

    `rows` are names in METHODS, None all of Table 1. A row without predictions is left out. Raises RunError when a file
    cannot be read.
    """
    scores = {}
    for row in [method.name for method in table_methods()] if rows is None else rows:
        files = (run.folder / "predictions").glob(f"{row}_seed*/metrics.parquet")
        seeds = {int(match[1]): file for file in files if (match := re.search(r"_seed(\d+)$", file.parent.name))}
        if seeds:
            scores[row] = {seed: read_samples(seeds[seed]) for seed in sorted(seeds)}
    return scores


def read_samples(file: Path) -> pd.DataFrame:
    """Load a table of predictions, `metrics.parquet` or `index.parquet`: a row a sample, index `id`.

    Raises RunError when it cannot be read.
    """
    try:
        return pd.read_parquet(file).set_index("id")
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{file}: cannot be read ({first_line(error)}); run the notebook that made it again") from None


def over_seeds(scores: ScoresByRow) -> dict[str, pd.DataFrame]:
    """Average every row's scores of each sample over its seeds."""
    return {row: mean_scores(list(seeds.values())) for row, seeds in scores.items()}


def mean_scores(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Average the scores of each sample over some trainings, index `id`."""
    return tables[0] if len(tables) == 1 else pd.concat(tables).groupby(level="id", sort=False).mean()


def by_hand(scores: pd.DataFrame, name: str = SCORE) -> np.ndarray:
    """Return a score of both hands of every sample, float [n, 2]; its nan-mean is that of `metrics.summary`."""
    return scores[[f"{name}_{hand}" for hand in HANDS]].to_numpy(float)


def row_intervals(scores: dict[str, pd.DataFrame], name: str = SCORE) -> pd.DataFrame:
    """Return `mean`, `low`, `high` and `count` of a score of every row over its samples; index: the row's title."""
    rows = {title(row): bootstrap_interval(by_hand(table, name)) for row, table in scores.items()}
    return pd.DataFrame(rows.values(), index=list(rows), columns=Interval._fields)


def people(run: Run, row: str) -> pd.Series | None:
    """Return the subject of every sample a row was scored on, by id; None for one subject or unknown ones.

    Raises RunError when the index of the predictions cannot be read.
    """
    files = sorted((run.folder / "predictions").glob(f"{row}_seed*/index.parquet"))
    index = read_samples(files[0]) if files else pd.DataFrame()
    return index["subject"] if "subject" in index and index["subject"].nunique() > 1 else None


def independent_people(run: Run, scores: ScoresByRow) -> pd.Series | None:
    """Return `people` of the last row if they are enough to be drawn in place of samples (ENOUGH_PEOPLE), else None."""
    subjects = people(run, next(reversed(scores))) if scores else None
    return subjects if subjects is not None and subjects.nunique() >= ENOUGH_PEOPLE else None


def resampled_intervals(run: Run, scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the last row's score with its interval, drawn from samples and, where they are known, from people."""
    row, table = list(scores.items())[-1]
    intervals, subjects = {"samples": bootstrap_interval(by_hand(table))}, people(run, row)
    if subjects is not None:
        intervals["people"] = bootstrap_interval(by_hand(table), subjects[table.index].to_numpy())
    return pd.DataFrame(intervals.values(), list(intervals), ["score", "low", "high", "drawn from"])
