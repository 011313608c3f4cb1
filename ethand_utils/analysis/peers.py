"""The peers beside the report's methods: scores at each label fraction, costs and tests."""

import json

import pandas as pd

from ethand_utils.analysis.comparison import (
    holm_corrected,
    label_fractions,
    paired_step,
    row_at_fraction,
    step_pairs,
    steps_display,
)
from ethand_utils.analysis.tables import independent_people, scores_by_row, title
from ethand_utils.experiments.methods import fraction_methods
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.style import mean_text, percent_text


def compared_rows(run: Run) -> list[str]:
    """Return the rows that are compared: the report's, with the full method if the run trains it, and the peers."""
    return [method.name for method in fraction_methods(run.profile)]


def peer_fractions(run: Run) -> list[float]:
    """Return the run's label fractions, ascending, and 1."""
    return label_fractions(run) or [1.0]


def peer_results(run: Run) -> pd.DataFrame:
    """Load every `result.json` of the compared rows, a row a training, with its `label_fraction`, and title `model`.

    Raises RunError for a run without peers.
    """
    if not run.profile.peers:
        raise RunError(
            f"{run.folder}: a run without peers; `ethand run peers` trains them, or --set 'peers=[fixmatch]'"
        )
    results = []
    for fraction in peer_fractions(run):
        for row in compared_rows(run):
            files = sorted((run.at_fraction(fraction).folder / "g2" / row).glob("seed*/result.json"))
            results += [
                json.loads(file.read_text()) | {"label_fraction": fraction, "model": title(row)} for file in files
            ]
    return pd.DataFrame(results)


def peer_table(run: Run) -> pd.DataFrame:
    """Return the scores of every compared row at every label fraction, a row each, the smallest fraction first.

    Columns as `comparison.fraction_table`. Raises RunError for a training that is missing.
    """
    lines = [
        row_at_fraction(run, fraction, row, title(row))
        for fraction in peer_fractions(run)
        for row in compared_rows(run)
    ]
    return pd.DataFrame(lines)


def peer_display(table: pd.DataFrame) -> pd.DataFrame:
    """Return `peer_table` as text: a row a method, a column a label fraction, ± standard deviation over seeds."""
    texts = table.assign(text=list(map(mean_text, table["ours"], table["ours_sd"])))
    rows = table.loc[table["label_fraction"] == table["label_fraction"].max(), "model"]  # all that there are
    wide = texts.pivot(index="model", columns="label_fraction", values="text").reindex(rows)
    pairs = table.groupby("label_fraction")["pairs"].first()
    columns = {fraction: f"{percent_text(fraction)} ({pairs[fraction]:,.0f} pairs)" for fraction in wide}
    return wide.rename(columns=columns).fillna("–").rename_axis(index=None, columns="of the pairs")


def peer_steps(run: Run) -> pd.DataFrame:
    """Test each compared row against those it is `compared_with`, at every label fraction, all of them together.

    Columns as `comparison.ablation_steps`, and `label_fraction`.
    """
    steps, fractions = [], []
    for fraction in peer_fractions(run):
        part = run.at_fraction(fraction)
        scores = scores_by_row(part, compared_rows(run))
        people = independent_people(part, scores)
        pairs = step_pairs(list(scores))
        steps += [paired_step(scores, before, after, people) for before, after in pairs]
        fractions += [fraction] * len(pairs)
    return holm_corrected(steps).assign(label_fraction=fractions)


def peer_steps_display(steps: pd.DataFrame) -> pd.DataFrame:
    """Return `peer_steps` as text: `comparison.steps_display`, with the label fraction before it."""
    display = steps_display(steps)
    display.insert(0, "of the pairs", steps["label_fraction"].map(percent_text))
    return display


def peer_costs(results: pd.DataFrame) -> pd.DataFrame:
    """Return what a training of each method costs, and the score of its other net: means over trainings.

    `seconds_factor` are its seconds over those of the first row at the same label fraction.
    """
    first = results[results["row"] == results["row"].iloc[0]].groupby("label_fraction")["seconds"].mean()
    costs = results.assign(seconds_factor=results["seconds"] / results["label_fraction"].map(first))
    costs["other_net"] = costs.get("other_course_miou")
    columns = ["images_seen", "seconds", "seconds_factor", "course_miou", "other_net"]
    return costs.groupby("model", sort=False)[columns].mean()
