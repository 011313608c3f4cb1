"""The numbers of a run beside those of a reference: which lie within the reference's spread, and what else differs.

A reference is another run, or the folder that `ethand reference` makes of one.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.analysis.statistics import LEVEL, bootstrap_interval
from ethand_utils.analysis.tables import by_hand, read_samples
from ethand_utils.experiments.config import Profile, load_profile
from ethand_utils.experiments.run import REFERENCE, RunError, project_root, run_name
from ethand_utils.files import first_line
from ethand_utils.style import percent_text

G1_TABLE = "g1.csv"
VERSIONS = "versions.json"
FRACTION_TABLES = {"label fractions": "label_fractions.csv", "peers": "peers.csv"}  # runs may lack them
PATHS = ("data", "mano_dir", "g1_init", "g2_init")  # settings whose value may be a path
# Scores of G1: names of their columns in `metrics.parquet`, and of the score.
G1_SCORES = {
    "course_miou": "course mIoU",
    "visible_iou": "visible IoU",
    "occluded_iou": "occluded IoU",
    "absent_fp": "absent hands invented",
}
COLUMNS = ["table", "number", "value", "low", "high", "sd", "seeds"]
SPREAD_COLUMNS = ["reference", "low", "high", "spread", "ours", "within"]


@dataclass(frozen=True)
class ReferenceComparison:
    """What a run and a reference have in common, and in what they differ.

    `numbers` has the columns `table`, `number`, and SPREAD_COLUMNS: `low` to `high` is where the reference expects a
    repetition, by its `spread` over `seeds` or `samples`; `within` is None where that or a value is unknown. `settings`
    and `versions` have a row for each that differs: `name`, `ours`, `reference`.
    """

    numbers: pd.DataFrame
    settings: pd.DataFrame
    versions: pd.DataFrame

    @property
    def verdict(self) -> str:
        """One line: how many numbers lie within the spread, which do not, and whether that says anything."""
        compared = self.numbers[self.numbers["within"].notna()]
        if compared.empty:
            return "no number can be compared: none that both have has a spread in the reference"
        outside = compared.loc[~compared["within"].astype(bool), "number"]
        count = len(compared) - len(outside)
        line = f"{count} of {len(compared)} numbers lie within the reference's spread"
        line += f"; outside: {'; '.join(outside)}" if len(outside) else ""
        if self.settings.empty:
            return line
        return f"not a repetition, as settings differ ({', '.join(self.settings['name'])}); {line}"


def compare_runs(ours: Path, reference: Path) -> ReferenceComparison:
    """Compare the folder of a run with that of a reference. Raises RunError for a folder that has no such results."""
    numbers = within_spread(read_numbers(ours), read_numbers(reference))
    settings, versions = ((read(ours), read(reference)) for read in (read_settings, read_versions))
    return ReferenceComparison(numbers, _differences(*settings), _differences(*versions))


def results_folder(name: str) -> Path:
    """Return the folder of a run by its name, or another folder by its path. Raises RunError when it is not there."""
    named = None if Path(name).name != name else project_root() / "outputs" / run_name(name)
    folder = named if named and named.is_dir() else Path(name)
    if not folder.is_dir():
        raise RunError(
            f"{named or folder}: no such folder; expected the name of a run in outputs/ (`ethand run tiny` makes one), "
            "or a folder's path"
        )
    return folder


def reference_folder() -> Path:
    """Return the folder of the reference that comes with the package. Raises RunError where there is none."""
    folder = project_root() / "outputs" / REFERENCE
    if not (folder / "table1.csv").is_file():
        raise RunError(
            f"{folder}: no reference is here; name a run to compare with (`ethand compare mine other`), or make the "
            "reference of a finished run (`make reference RUN=tiny`)"
        )
    return folder


def read_numbers(folder: Path) -> pd.DataFrame:
    """Return the numbers of a run or reference that have a spread, columns COLUMNS.

    They are the rows of Table 1, the steps between them, the scores of G1, and those of FRACTION_TABLES where there are
    some. Raises RunError for a folder without these tables.
    """
    rows = _read_table(folder, "table1.csv", "model", "ours").rename(columns={"model": "number"})
    steps = _read_table(folder, "steps.csv", "step", "from", "difference").rename(columns={"difference": "value"})
    steps["number"] = steps["step"] + " over " + steps["from"]
    g1 = _read_table(folder, G1_TABLE, "score", "ours") if (folder / G1_TABLE).exists() else g1_scores(folder)
    g1["number"] = "G1, " + g1["score"]
    tables = {"Table 1": _named_alike(rows), "steps": steps, "G1": _named_alike(g1)}
    for name, file in FRACTION_TABLES.items():
        if (folder / file).exists():
            fractions = _read_table(folder, file, "label_fraction", "model", "ours")
            shares = [f"{percent_text(fraction)} of the pairs" for fraction in fractions["label_fraction"]]
            tables[name] = _named_alike(fractions.assign(number=fractions["model"] + ", " + shares))
    numbers = [table.assign(table=name).reindex(columns=COLUMNS) for name, table in tables.items() if len(table)]
    numbers = pd.concat([table.dropna(axis="columns", how="all") for table in numbers]).reindex(columns=COLUMNS)
    return numbers[numbers["value"].notna()].reset_index(drop=True)


def g1_scores(folder: Path) -> pd.DataFrame:
    """Return the scores of a run's G1: `score`, `ours`, and its interval over samples, `ours_low` and `ours_high`.

    Raises RunError where G1's predictions are missing or cannot be read.
    """
    samples = read_samples(folder / "predictions/g1/metrics.parquet")
    ends = [bootstrap_interval(by_hand(samples, column)) for column in G1_SCORES]
    rows = zip(G1_SCORES.values(), *zip(*(end[:3] for end in ends), strict=True), strict=True)
    return pd.DataFrame(rows, columns=["score", "ours", "ours_low", "ours_high"])


def within_spread(ours: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return each number of either side once: columns as in ReferenceComparison.

    Where the reference has several seeds, the spread is where the mean of as many new trainings as ours falls with a
    probability of LEVEL, from the standard deviation over seeds, pooled over the table (Student's t prediction
    interval). With one seed it is the reference's interval over samples.
    """
    keys = ["table", "number"]
    both = reference.merge(ours[[*keys, "value", "seeds"]], on=keys, how="outer", suffixes=("", "_ours"))
    order = pd.concat([reference, ours])[keys].drop_duplicates()  # `merge` sorts by name
    both = order.merge(both, on=keys).rename(columns={"value": "reference", "value_ours": "ours"})
    both["spread"] = np.where(both["sd"].notna(), "seeds", np.where(both["low"].notna(), "samples", None))
    for _, table in both.groupby("table"):
        half = _half_width(table)
        both.loc[half.index, "low"], both.loc[half.index, "high"] = (
            table["reference"][half.index] + sign * half for sign in (-1, 1)
        )
    inside = (both["low"] <= both["ours"]) & (both["ours"] <= both["high"])
    comparable = both[["low", "high", "ours", "reference"]].notna().all(axis=1)
    both["within"] = pd.Series([bool(a) if b else None for a, b in zip(inside, comparable, strict=True)], dtype=object)
    return both[[*keys, *SPREAD_COLUMNS]]


def _half_width(table: pd.DataFrame) -> pd.Series:
    """Return half the width of the prediction interval, for the numbers of a table with several seeds."""
    from scipy import stats  # as slow to import as in `statistics`

    several = table[table["sd"].notna()]
    freedom = several["seeds"] - 1
    pooled = math.sqrt((freedom * several["sd"] ** 2).sum() / max(1, freedom.sum()))
    new = several["seeds_ours"].fillna(1).clip(lower=1)
    return stats.t.ppf((1 + LEVEL) / 2, max(1, freedom.sum())) * pooled * np.sqrt(1 / several["seeds"] + 1 / new)


def read_settings(folder: Path) -> dict[str, object]:
    """Return the settings of a run or reference that its numbers depend on; of a path its name alone."""
    if not (folder / "profile.yaml").is_file():
        raise RunError(f"{folder}: has no profile.yaml; expected a run, or a folder made of one")
    profile = load_profile(folder / "profile.yaml")
    concerns = {key: {*field.json_schema_extra["concerns"]} for key, field in Profile.model_fields.items()}
    others = {"cyclegan"} if profile.peers else {"cyclegan", "semi"}  # groups that concern no number
    values = {key: getattr(profile, key) for key, groups in concerns.items() if groups - others}
    return {key: Path(value).name if key in PATHS and value else value for key, value in values.items()}


def read_versions(folder: Path) -> dict[str, str]:
    """Return the versions that made the numbers of a run, or of a reference: of Python, libraries, and the commit."""
    if (folder / VERSIONS).exists():
        versions = _read_json(folder / VERSIONS)
        return {name: str(value) for name, value in versions.items() if name not in ("made_by", "run")}
    results = [_read_json(path) for path in sorted(folder.glob("g[12]/**/result.json"))]
    pairs = [("python", result["python"]) for result in results if "python" in result]
    pairs += [tuple(text.split("=")) for result in results for text in result.get("versions", "").split()]
    pairs += [(name, result[name]) for name in ("commit", "device") for result in results if result.get(name)]
    return {name: "; ".join(sorted({value for key, value in pairs if key == name})) for name, _ in pairs}


def comparison_display(comparison: ReferenceComparison) -> pd.DataFrame:
    """Return the numbers of a comparison as text."""
    table = comparison.numbers
    ends = zip(table["low"], table["high"], table["spread"], strict=True)
    answers = {True: "yes", False: "no", None: "–"}
    return pd.DataFrame(
        {
            "table": table["table"],
            "number": table["number"],
            "ours": table["ours"].map(_text),
            "reference": table["reference"].map(_text),
            "spread": [f"{_text(low)} to {_text(high)}, {by}" if pd.notna(low) else "–" for low, high, by in ends],
            "within": [answers[value] for value in table["within"]],
        }
    )


def comparison_json(comparison: ReferenceComparison) -> dict:
    """Return a comparison as JSON has it: what is unknown is null."""
    tables = {name: getattr(comparison, name) for name in ("settings", "versions", "numbers")}
    records = {name: table.astype(object).to_dict("records") for name, table in tables.items()}
    records["numbers"] = [
        {key: None if pd.isna(value) else value for key, value in row.items()} for row in records["numbers"]
    ]
    return {**records, "verdict": comparison.verdict}


def _text(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.4f}"


def _named_alike(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"ours": "value", "ours_low": "low", "ours_high": "high", "ours_sd": "sd"})


def _differences(ours: dict, reference: dict) -> pd.DataFrame:
    """Return the entries of both whose values differ: columns `name`, `ours`, `reference`."""
    rows = [(name, ours[name], reference[name]) for name in ours if name in reference and ours[name] != reference[name]]
    return pd.DataFrame(rows, columns=["name", "ours", "reference"], dtype=object)


def _read_table(folder: Path, name: str, *columns: str) -> pd.DataFrame:
    """Return a table of a folder. Raises RunError where it is missing or damaged, or lacks one of `columns`."""
    try:
        table = pd.read_csv(folder / name)
    except FileNotFoundError:
        raise RunError(f"{folder}: has no {name}; expected a finished run (`ethand run`), or a reference") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / name}: cannot be read ({first_line(error)}); make it again by notebook 08") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise RunError(f"{folder / name}: lacks the column {missing[0]}; make it again by notebook 08")
    return table


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)}); expected JSON that a run wrote") from None
