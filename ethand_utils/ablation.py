"""Table 1 with intervals: scores of every sample from the predictions a run kept, and what its steps can settle."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.files import first_line
from ethand_utils.labels import HANDS
from ethand_utils.runs import FULL_ROW, ROWS, TABLE_HEADINGS, Run, RunError
from ethand_utils.statistics import Interval, bootstrap_interval, paired_difference

SCORE = "course_miou"
STEP_COLUMNS = ("step", "from", "difference", "low", "high", "says")


def kept_scores(run: Run) -> dict[str, pd.DataFrame]:
    """Scores of every held-out sample (`metrics.parquet`) of each row of Table 1 that kept its predictions.

    Index `id`; mean over the row's seeds. A row without predictions is not among them. Raises RunError when a file
    cannot be read.
    """
    found = {}
    for row in ROWS:
        files = sorted((run.folder / "predictions").glob(f"{row['ROW']}_seed*/metrics.parquet"))
        if files:
            seeds = [read_samples(file) for file in files]
            found[row["ROW"]] = seeds[0] if len(seeds) == 1 else pd.concat(seeds).groupby(level="id", sort=False).mean()
    return found


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


def shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as it is read: the report's headings, numbers as text, `ours` with its interval where that is known."""
    plain = table.drop(columns=["row", "ours_low", "ours_high"], errors="ignore").set_axis(TABLE_HEADINGS, axis=1)
    shown = plain.iloc[:, :1].copy()
    for place, heading in enumerate(TABLE_HEADINGS[1:]):
        form = "{:.4f}" if place < 2 else "{:+.2f}"
        shown[heading] = [form.format(value) if pd.notna(value) else "–" for value in plain[heading]]
    if "ours_low" in table:
        ends = zip(table["ours_low"], table["ours_high"], strict=True)
        texts = [f"{low:.4f} – {high:.4f}" if pd.notna(low) else "–" for low, high in ends]
        shown.insert(3, "ours, 95 %", texts)
    return shown


def compare(scores: dict[str, pd.DataFrame], one: str, other: str, groups: pd.Series | None = None) -> Interval:
    """How much higher row `other` scores than row `one` on the samples both have; `groups` by id, if any."""
    ids = scores[one].index.intersection(scores[other].index, sort=False)
    drawn = None if groups is None else groups[ids].to_numpy()
    return paired_difference(by_hand(scores[one].loc[ids]), by_hand(scores[other].loc[ids]), drawn)


def steps(scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Paired differences between neighbouring rows, and last of the full method to the baseline.

    Columns `step` and `from` (titles), `difference`, `low`, `high`, and `says`: what the samples settle about these
    two trained nets.
    """
    kept = list(scores)
    pairs = list(pairwise(kept))
    pairs += [(kept[0], kept[-1])] if len(kept) > 2 else []
    rows = []
    for one, other in pairs:
        found = compare(scores, one, other)
        rows.append((title(other), title(one), found.mean, found.low, found.high, verdict(found)))
    return pd.DataFrame(rows, columns=STEP_COLUMNS)


def verdict(difference: Interval) -> str:
    """What a paired difference settles: higher, lower, or nothing."""
    if not difference.excludes_zero:
        return "open"
    return "higher" if difference.low > 0 else "lower"


def people(run: Run, row: str) -> pd.Series | None:
    """The subject of every sample a row was scored on, by id; None where there is one, or nobody can tell them apart.

    Raises RunError when the index of the predictions cannot be read.
    """
    files = sorted((run.folder / "predictions").glob(f"{row}_seed*/index.parquet"))
    index = read_samples(files[0]) if files else pd.DataFrame()
    return index["subject"] if "subject" in index and index["subject"].nunique() > 1 else None


def title(row: str) -> str:
    """A row's name in Table 1."""
    return next(known["TITLE"] for known in ROWS if known["ROW"] == row)


def called(row: str) -> str:
    """A row in a sentence: its name in quotes, but for the first and last one of Table 1."""
    special = {ROWS[0]["ROW"]: "the baseline", FULL_ROW: "the full method"}
    return special.get(row, f"“{title(row)}”")
