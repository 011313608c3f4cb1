"""Table 1 with what is known of its certainty: scores of every sample and seed from the predictions a run kept."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.analysis.statistics import Interval, bootstrap_interval
from ethand_utils.experiments.methods import FULL_ROW, ROWS
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


def scores_by_row(run: Run) -> ScoresByRow:
    """Scores of every held-out sample (`metrics.parquet`) of each row of Table 1 that kept its predictions, by seed.

    Index `id`. A row without predictions is not among them. Raises RunError when a file cannot be read.
    """
    found = {}
    for row in (row["ROW"] for row in ROWS):
        files = (run.folder / "predictions").glob(f"{row}_seed*/metrics.parquet")
        seeds = {int(match[1]): file for file in files if (match := re.search(r"_seed(\d+)$", file.parent.name))}
        if seeds:
            found[row] = {seed: read_samples(seeds[seed]) for seed in sorted(seeds)}
    return found


def over_seeds(kept: ScoresByRow) -> dict[str, pd.DataFrame]:
    """Every row's scores of every sample, mean over its seeds."""
    return {row: mean_scores(list(seeds.values())) for row, seeds in kept.items()}


def mean_scores(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The mean of some trainings' scores of every sample, index `id`."""
    return tables[0] if len(tables) == 1 else pd.concat(tables).groupby(level="id", sort=False).mean()


def read_samples(file: Path) -> pd.DataFrame:
    """A table of predictions, `metrics.parquet` or `index.parquet`: a row a sample, index `id`.

    Raises RunError when it cannot be read.
    """
    try:
        return pd.read_parquet(file).set_index("id")
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{file}: cannot be read ({first_line(error)}); run the notebook that made it again") from None


def by_hand(scores: pd.DataFrame, name: str = SCORE) -> np.ndarray:
    """A score of both hands of every sample, float [n, 2]; its mean over all that is known is that of `summary`."""
    return scores[[f"{name}_{hand}" for hand in HANDS]].to_numpy(float)


def row_intervals(scores: dict[str, pd.DataFrame], name: str = SCORE) -> pd.DataFrame:
    """`mean`, `low`, `high` and `count` of a score of every row over its samples; index: the row's title."""
    rows = {title(row): bootstrap_interval(by_hand(table, name)) for row, table in scores.items()}
    return pd.DataFrame(rows.values(), index=list(rows), columns=Interval._fields)


def with_intervals(table: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 1 with the ends of our scores' intervals, `ours_low` and `ours_high`; NaN for rows without predictions."""
    found = row_intervals(scores)
    return table.assign(**{f"ours_{end}": table["model"].map(found[end]) for end in ("low", "high")})


def metrics_table(found: pd.DataFrame) -> pd.DataFrame:
    """Every score of every row of `results` as text, mean over seeds, ± standard deviation where there are several.

    A row a score (the course's, its companions, then each part's IoU), a column a row of Table 1 that is there.
    """
    names = COMPANIONS | {f"part_iou_{slug(PARTS[part])}": f"IoU {PARTS[part]}" for part in PART_ORDER}
    rows = found.groupby("row", sort=False)[list(names)]
    means, spreads = rows.mean(), rows.std()
    texts = {title(row): list(map(mean_text, means.loc[row], spreads.loc[row])) for row in means.index}
    return pd.DataFrame(texts, index=list(names)).rename(index=names)


def format_p(p: float) -> str:
    """A p-value as it is read."""
    return "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def people(run: Run, row: str) -> pd.Series | None:
    """The subject of every sample a row was scored on, by id; None where there is one, or nobody can tell them apart.

    Raises RunError when the index of the predictions cannot be read.
    """
    files = sorted((run.folder / "predictions").glob(f"{row}_seed*/index.parquet"))
    index = read_samples(files[0]) if files else pd.DataFrame()
    return index["subject"] if "subject" in index and index["subject"].nunique() > 1 else None


def independent_people(run: Run, kept: ScoresByRow) -> pd.Series | None:
    """`people` of the last row where they are enough to be drawn in place of samples (ENOUGH_PEOPLE), else None."""
    found = people(run, next(reversed(kept))) if kept else None
    return found if found is not None and found.nunique() >= ENOUGH_PEOPLE else None


def drawn_from(run: Run, scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The last row's score with its interval, drawn from samples and, where they are known, from people."""
    last, table = list(scores.items())[-1]
    found, persons = {"samples": bootstrap_interval(by_hand(table))}, people(run, last)
    if persons is not None:
        found["people"] = bootstrap_interval(by_hand(table), persons[table.index].to_numpy())
    return pd.DataFrame(found.values(), list(found), ["score", "low", "high", "drawn from"])


def title(row: str) -> str:
    """A row's name in Table 1."""
    return next(known["TITLE"] for known in ROWS if known["ROW"] == row)


def row_label(row: str) -> str:
    """A row in a sentence: its name in quotes, but for the first and last one of Table 1."""
    special = {ROWS[0]["ROW"]: "the baseline", FULL_ROW: "the full method"}
    return special.get(row, f"“{title(row)}”")


def results(run: Run) -> pd.DataFrame:
    """Every `result.json` of the run's rows as one table, a row a training, in the order of the report."""
    found = [
        json.loads(path.read_text())
        for row in ROWS
        for path in sorted((run.folder / "g2" / row["ROW"]).glob("seed*/result.json"))
    ]
    if not found:
        raise RunError(f"{run.folder}/g2: no result yet; run notebooks/07_train_g2.ipynb first, or `ethand run`")
    return pd.DataFrame(found)


def table1(found: pd.DataFrame) -> pd.DataFrame:
    """Table 1 from `results`: the report's score of each row and ours (mean over seeds), Δ baseline % and Δ previous %.

    `ours_sd` is the standard deviation over the `seeds` a row has, NaN for one. Both Δ are relative, as in the report;
    Δ previous is to the nearest row above that the report has as well, from the third row on, which the report compares
    first. What the report does not have is NaN.
    """
    table = pd.DataFrame([{"row": row["ROW"], "model": row["TITLE"], "reported": row["reported"]} for row in ROWS])
    table["reported"] = table["reported"].astype(float)
    above = table.index.to_series().where(table["reported"].notna()).ffill().shift()
    scores_of = found.groupby("row")["course_miou"]
    for column, values in (("ours", scores_of.mean()), ("ours_sd", scores_of.std()), ("seeds", scores_of.count())):
        table[column] = table["row"].map(values)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    for source in ("reported", "ours"):
        scores = table[source]
        table[f"{source}_delta_baseline_pct"] = (100 * (scores / scores[0] - 1)).where(table.index > 0)
        before = scores.reindex(above).to_numpy()
        table[f"{source}_delta_previous_pct"] = (100 * (scores / before - 1)).where(table.index > 1)
    columns = ["reported", "ours", "ours_sd", "seeds"]
    columns += [f"{source}_delta_{to}_pct" for to in ("baseline", "previous") for source in ("reported", "ours")]
    return table[["row", "model", *columns]]
