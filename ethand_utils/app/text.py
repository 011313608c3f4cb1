"""Texts on top of a run's report: one line on the outcome, key figures, a table of facts; durations, tables as text."""

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ethand_utils.analysis.comparison import ablation_verdict, mean_difference
from ethand_utils.analysis.statistics import Interval, bootstrap_interval
from ethand_utils.analysis.tables import by_hand, people, row_label
from ethand_utils.app.results import RunResults
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.methods import BASELINE, FULL_METHOD, table_methods
from ethand_utils.labels import PARTS
from ethand_utils.sources.detect import find_source


def headline(results: RunResults) -> str:
    """Return one line with the best row's score and the baseline's. Raises an EthandError where no row has a result."""
    scores = results.table1.set_index("row")["ours"].dropna()
    best = scores.idxmax()
    line = f"Best row: {row_label(best)}, course mIoU {_score(results, best)}."
    if BASELINE in scores and best != BASELINE:
        line += f" Baseline: {scores[BASELINE]:.3f}, {scores[best] - scores[BASELINE]:.3f} lower."
    return line


def facts(results: RunResults) -> pd.DataFrame:
    """Return what was trained and scored, columns `fact` and `value`; what is unknown is left out."""
    rows = {
        "data": f"{_source(results)}, {results.run.profile.size}×{results.run.profile.size} px",
        **_counts(results),
        "rows of Table 1 trained": f"{results.trainings['row'].nunique()} of {len(table_methods())}",
        "trainings of each row": _seeds(results),
        "scored on": _scored_on(results),
        **_full_against_best(results),
    }
    if not results.steps.empty:
        rows["steps of Table 1"] = ablation_verdict(results.steps)
    return pd.DataFrame(rows.items(), columns=["fact", "value"])


def _source(results: RunResults) -> str:
    try:
        return find_source(results.run.source).title
    except EthandError:
        return "a data set that is no longer where it was"


def _counts(results: RunResults) -> dict[str, str]:
    """Sizes of the stores that are trained on; nothing where no summary of the data is there."""
    names = {"train": "pairs to train on", "unpaired_images": "images without masks"}
    try:
        samples = results.table("data_summary.csv").set_index("store")["samples"]
    except (EthandError, KeyError):
        return {}
    return {label: f"{samples[name]:,}" for name, label in names.items() if name in samples}


def _seeds(results: RunResults) -> str:
    seeds = results.trainings.groupby("row")["seed"].nunique()
    if seeds.max() == 1:
        return "1, so how far two trainings of one row differ by chance is unknown"
    return f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"


def _scored_on(results: RunResults) -> str:
    stores = sorted(set(results.trainings["scored_on"]))
    subjects = people(results.run, next(reversed(results.scores))) if results.scores else None
    who = "" if subjects is None else f" of {subjects.nunique():,} people"
    text = (
        f"store {', '.join(stores)}: {int(results.trainings['scored_samples'].max()):,} samples{who}, none trained on"
    )
    return f"{text}; their scores were watched during training, as test has no masks" if stores == ["val"] else text


def _full_against_best(results: RunResults) -> dict[str, str]:
    """The full method's score and its difference to the best row's; nothing where it is the best itself."""
    scores = results.table1.set_index("row")["ours"].dropna()
    best = scores.idxmax()
    if FULL_METHOD not in scores or best == FULL_METHOD:
        return {}
    rows = {"full method, course mIoU": _score(results, FULL_METHOD)}
    if {best, FULL_METHOD} <= results.scores.keys():
        difference = mean_difference(results.scores[best], results.scores[FULL_METHOD])
        rows["full method minus best row"] = _with_interval(difference, "+.3f")
    return rows


def _score(results: RunResults, row: str) -> str:
    """Return a row's score, with its interval where its predictions are there."""
    if row in results.scores:
        return _with_interval(bootstrap_interval(by_hand(results.scores[row])), ".3f")
    return f"{results.table1.set_index('row')['ours'][row]:.3f}"


def _with_interval(interval: Interval, form: str) -> str:
    mean, low, high = (format(value, form) for value in interval[:3])
    return f"{mean} (95 % interval {low} to {high})"


def tiles(results: RunResults) -> list[tuple[str, str, str]]:
    """Return key figures: value, name, detail. Those that are unknown are left out."""
    table = results.table1.set_index("row")
    best = table["ours"].idxmax()
    figures = [(f"{table['ours'][best]:.3f}", "best course mIoU", row_label(best))]
    gain = table["ours_delta_baseline_pct"].get(FULL_METHOD)
    if pd.notna(gain):
        reported = table["reported_delta_baseline_pct"][FULL_METHOD]
        figures.append((f"{gain:+.0f} %", "full method over baseline", f"the report: {reported:+.0f} %"))
    last = results.last_row
    name, silhouettes = row_label(last), results.trainings.groupby("row")[["visible_iou", "occluded_iou"]].mean()
    visible, occluded = silhouettes.loc[last]
    if pd.notna(visible) and pd.notna(occluded):
        detail = f"{name}: silhouette of the visible and of the occluded pixels of a hand"
        figures.append((f"{visible:.2f} / {occluded:.2f}", "visible / occluded IoU", detail))
    parts = pd.Series(results.part_ious(last), PARTS).dropna()
    if len(parts):
        detail = f"{name}: {parts.idxmax()}, {parts.idxmin()}"
        figures.append((f"{parts.max():.2f} / {parts.min():.2f}", "easiest / hardest part", detail))
    devices = ", ".join(sorted(set(results.trainings["device"])))
    detail = f"{len(results.trainings)} trainings of rows, their times added up; on {devices}"
    return [*figures, (duration(results.trainings["seconds"].sum()), "of training", detail)]


def duration(seconds: float) -> str:
    """Return seconds as `8.2 s`, `12 min` or `3 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_grouped(table: pd.DataFrame, by: str) -> None:
    """Print a table of texts, a section for each value of `by`; its first column folds where the terminal is narrow."""
    columns = table.columns.drop(by)
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        grid.add_column(column, no_wrap=column != columns[0])
    for name, rows in table.groupby(by, sort=False):
        grid.add_section()
        grid.add_row(Text(name, "bold"))
        for row in rows[columns].itertuples(index=False):
            grid.add_row(*map(Text, row))
    Console().print(grid)
