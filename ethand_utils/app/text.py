"""What a run's numbers say, in words: the sentences and the key figures on top of its report."""

import re

import pandas as pd

from ethand_utils.analysis.comparison import METHOD, OPEN, compare
from ethand_utils.analysis.statistics import bootstrap_interval
from ethand_utils.analysis.tables import by_hand, people, row_label
from ethand_utils.app.results import RunResults
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import PROFILES
from ethand_utils.experiments.methods import FULL_ROW, ROWS
from ethand_utils.labels import PARTS

SOURCES = {
    "rendered": "hands rendered for this run",
    "interhand": "InterHand2.6M",
    "course": "the course's files",
    "stores": "a data set of its own",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def headline(m: RunResults) -> list[str]:
    """Paragraphs on what was run and what came out. Raises an EthandError where no row has a result."""
    return [f"{_what(m)} {_scored(m)}", _best(m), *_settled(m)]


def _what(m: RunResults) -> str:
    p, found = m.run.profile, m.results
    rows, seeds = found["row"].nunique(), found["seed"].nunique()
    which = f"All {number(rows)} rows" if rows == len(ROWS) else f"{capital(number(rows))} of {number(len(ROWS))} rows"
    times = "once" if seeds == 1 else f"{number(seeds)} times"
    return f"{which} of Table 1, each trained {times}, on {_source(m)} at {p.size}×{p.size} px{_counts(m)}."


def _source(m: RunResults) -> str:
    try:
        return SOURCES[m.run.source]
    except EthandError:
        return "data that are no longer where they were"


def _counts(m: RunResults) -> str:
    """Numbers of pairs and of images without masks; nothing where no summary of the data is there."""
    try:
        found = m.table("data_summary.csv").set_index("store")["samples"]
    except (EthandError, KeyError):
        return ""
    unpaired = f" and {found['unpaired_images']:,} images without masks" if "unpaired_images" in found else ""
    return f": {found['train']:,} pairs to learn from{unpaired}" if "train" in found else ""


def _scored(m: RunResults) -> str:
    """On what the scores are."""
    stores, count = sorted(set(m.results["scored_on"])), int(m.results["scored_samples"].max())
    persons = people(m.run, next(reversed(m.scores))) if m.scores else None
    who = "" if persons is None else f" of {persons.nunique():,} people"
    watched = "; its scores were watched during training, as test has no masks" if stores == ["val"] else ""
    return f"Scores are on {count:,} samples{who} that no training learned from (store {', '.join(stores)}){watched}."


def _best(m: RunResults) -> str:
    """The best row beside the baseline, and the full method where it is another."""
    ours = m.table1.set_index("row")["ours"].dropna()
    best, baseline = ours.idxmax(), ROWS[0]["ROW"]
    above = ""
    if baseline in ours and best != baseline:
        above = f", {ours[best] - ours[baseline]:.3f} above the baseline ({ours[baseline]:.3f})"
    words = f"The best row is {row_label(best)}, course mIoU {_score(m, best)}{above}."
    if FULL_ROW in ours and best != FULL_ROW:
        words += f" The full method reaches {_score(m, FULL_ROW)}{_apart(m, best)}."
    return words


def _apart(m: RunResults, best: str) -> str:
    """Whether the samples tell the full method from the best row."""
    if not {best, FULL_ROW} <= m.scores.keys():
        return ""
    lower = compare(m.scores[best], m.scores[FULL_ROW]).excludes_zero
    return ", less than the best on these samples" if lower else ", which these samples cannot tell from the best"


def _score(m: RunResults, row: str) -> str:
    """A row's score with its interval where its predictions are there."""
    if row in m.scores:
        found = bootstrap_interval(by_hand(m.scores[row]))
        return f"{found.mean:.3f} (95 % interval {found.low:.3f} to {found.high:.3f})"
    return f"{m.table1.set_index('row')['ours'][row]:.3f}"


def _settled(m: RunResults) -> list[str]:
    """How many steps of the table go up, down or stay open, and how far that holds for the method."""
    found = m.steps.iloc[: max(0, len(m.scores) - 1)]  # those from row to row
    if found.empty:
        return []
    phrases = {"higher": "clearly up", "lower": "clearly down", OPEN: "open on these samples"}
    count = found["says"].str.split().str[-1].value_counts()
    counted = ", ".join(f"{number(int(count[says]))} {words}" for says, words in phrases.items() if says in count)
    words = f"Steps from row to row: {counted}."
    if found["seeds"].max() < 2:
        words += " Each row was trained once, so how far two trainings of the same row differ by chance is not known."
    else:
        settled = int(found["says"].str.startswith(METHOD).sum())
        words += f" Settled over the seeds as well, and so for the method: {number(settled) if settled else 'none'}."
    return [words]


def tiles(m: RunResults) -> list[tuple[str, str, str]]:
    """Key figures: value, name, detail. Those that are unknown are not among them."""
    table = m.table1.set_index("row")
    best = table["ours"].idxmax()
    found = [(f"{table['ours'][best]:.3f}", "best course mIoU", row_label(best))]
    gain = table["ours_delta_baseline_pct"].get(FULL_ROW)
    if pd.notna(gain):
        reported = table["reported_delta_baseline_pct"][FULL_ROW]
        found.append((f"{gain:+.0f} %", "full method over baseline", f"the report: {reported:+.0f} %"))
    mean, name = m.results.groupby("row")[["visible_iou", "occluded_iou"]].mean().loc[m.last], row_label(m.last)
    if mean.notna().all():
        detail = f"{name}: silhouettes of what is seen and of what the other hand hides"
        found.append((f"{mean['visible_iou']:.2f} / {mean['occluded_iou']:.2f}", "visible / occluded IoU", detail))
    parts = pd.Series(m.parts(m.last), PARTS).dropna()
    if len(parts):
        detail = f"{name}: {parts.idxmax()}, {parts.idxmin()}"
        found.append((f"{parts.max():.2f} / {parts.min():.2f}", "easiest / hardest part", detail))
    devices = ", ".join(sorted(set(m.results["device"])))
    detail = f"{len(m.results)} trainings of rows, on {devices}"
    return [*found, (duration(m.results["seconds"].sum()), "of training", detail)]


def duration(seconds: float) -> str:
    """Seconds as a reader says them: `8.2 s`, `12 min`, `3 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def setting_meanings() -> dict[str, str]:
    """What each setting of a profile means, from the comments of the default one."""
    lines = (PROFILES / "tiny.yaml").read_text(encoding="utf-8").splitlines()
    found = (re.match(r"(\w+):.*?#\s*(.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def number(count: int) -> str:
    """A small number in words, a larger one in digits."""
    return NUMBERS[count] if count < len(NUMBERS) else f"{count:,}"


def capital(text: str) -> str:
    """A sentence's beginning."""
    return text[:1].upper() + text[1:]
