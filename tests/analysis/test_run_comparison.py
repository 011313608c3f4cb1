"""A run beside a reference: which numbers lie within its spread, what differs besides, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ethand_utils.analysis import reference
from ethand_utils.analysis.reference import COLUMNS, compare_runs, read_numbers, within_spread
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.methods import table_methods
from ethand_utils.experiments.run import Run, RunError

TITLES = [method.title for method in table_methods()]
TRIES = 100


def numbers(values, sd=np.nan, seeds=1, low=np.nan, high=np.nan):
    """Return a table of numbers as `read_numbers` does; `sd`, `low` and `high` are one for all, or one for each."""
    rows = {"table": "Table 1", "number": TITLES[: len(values)], "value": values, "low": low, "high": high}
    return pd.DataFrame(rows | {"sd": sd, "seeds": seeds})[COLUMNS]


def write_results(folder, shift=0.0, seeds=1, sd=np.nan, changes=None, versions="torch=2.1 numpy=2.0"):
    """Write the tables, scores of G1 and settings of a finished run; every score is `shift` higher."""
    folder.mkdir(parents=True)
    scores = 0.2 + 0.01 * np.arange(len(TITLES)) + shift
    rows = pd.DataFrame({"row": TITLES, "model": TITLES, "ours": scores, "ours_sd": sd, "seeds": seeds})
    rows.assign(ours_low=scores - 0.01, ours_high=scores + 0.01).to_csv(folder / "table1.csv", index=False)
    steps = pd.DataFrame({"step": TITLES[1:], "from": TITLES[:-1], "difference": 0.01, "sd": sd, "seeds": seeds})
    steps.assign(low=0.005, high=0.015).to_csv(folder / "steps.csv", index=False)
    samples = pd.DataFrame({"id": [f"s{i}" for i in range(40)]})
    for number, name in enumerate(reference.G1_SCORES):
        for hand in ("left", "right"):
            samples[f"{name}_{hand}"] = np.random.default_rng(number).random(40) / 2 + shift
    (folder / "predictions/g1").mkdir(parents=True)
    samples.to_parquet(folder / "predictions/g1/metrics.parquet")
    (folder / "g1").mkdir()
    result = {"versions": versions, "python": "3.11.7", "commit": "abc", "device": "cpu"}
    (folder / "g1/result.json").write_text(json.dumps(result))
    write_profile(folder, load_profile("ci", changes or {}))
    return Run(folder, load_profile("ci", changes or {})).folder


def test_a_run_lies_within_its_own_spread(tmp_path):
    folder = write_results(tmp_path / "one")
    comparison = compare_runs(folder, folder)
    count = len(TITLES) + len(TITLES) - 1 + len(reference.G1_SCORES)
    assert comparison.verdict == f"{count} of {count} numbers lie within the reference's spread"
    assert comparison.settings.empty
    assert comparison.versions.empty
    assert comparison.numbers["number"][: len(TITLES)].tolist() == TITLES


def test_a_run_with_other_scores_is_outside_and_named(tmp_path):
    comparison = compare_runs(write_results(tmp_path / "two", shift=0.2), write_results(tmp_path / "one"))
    outside = comparison.numbers[comparison.numbers["within"].eq(False)]
    assert set(outside["table"]) == {"Table 1", "G1"}  # the steps are as they were
    assert f"outside: {TITLES[0]}; " in comparison.verdict
    assert comparison.verdict.startswith(f"{len(TITLES) - 1} of ")


def test_of_repetitions_with_other_seeds_some_95_percent_lie_within():
    rng, inside = np.random.default_rng(0), []
    for _ in range(TRIES):
        n, m = rng.integers(2, 5, 2)
        theirs, ours = rng.normal(0.3, 0.01, (n, len(TITLES))), rng.normal(0.3, 0.01, (m, len(TITLES)))
        expected = numbers(theirs.mean(0), theirs.std(0, ddof=1), n)
        inside += within_spread(numbers(ours.mean(0), seeds=m), expected)["within"].tolist()
    assert stats.binomtest(sum(inside), len(inside), 0.95).pvalue > 1e-4
    assert 0.9 < np.mean(inside) < 0.99


def test_seeds_decide_where_there_are_several_and_samples_where_there_is_one():
    ours = numbers([0.3])
    by_samples = within_spread(ours, numbers([0.31], low=0.305, high=0.315)).iloc[0]
    assert (by_samples["spread"], by_samples["within"]) == ("samples", False)
    by_seeds = within_spread(ours, numbers([0.31], sd=0.01, seeds=3, low=0.305, high=0.315)).iloc[0]
    assert (by_seeds["spread"], by_seeds["within"]) == ("seeds", True)
    assert by_seeds["high"] - by_seeds["reference"] == pytest.approx(stats.t.ppf(0.975, 2) * 0.01 * (4 / 3) ** 0.5)


def test_an_interval_that_is_wider_leaves_nothing_outside_that_was_within():
    rng = np.random.default_rng(1)
    for _ in range(TRIES // 4):
        ours, theirs = numbers(rng.random(7)), rng.random(7)
        narrow, wide = np.sort(rng.random(2) / 2)
        inside = [
            within_spread(ours, numbers(theirs, low=theirs.mean() - width, high=theirs.mean() + width))["within"]
            for width in (narrow, wide)
        ]
        assert not (inside[0].astype(bool) & ~inside[1].astype(bool)).any()


def test_what_one_side_lacks_and_what_has_no_spread_is_shown_and_not_counted():
    ours, expected = numbers([0.1, 0.2]), numbers([0.1, 0.2, 0.3], low=0.0, high=1.0)
    expected.loc[1, ["low", "high"]] = np.nan
    table = within_spread(ours, expected)
    assert table["within"].tolist() == [True, None, None]
    assert table["number"].tolist() == TITLES[:3]
    assert table["ours"].isna().tolist() == [False, False, True]
    comparison = reference.ReferenceComparison(table, pd.DataFrame(), pd.DataFrame())
    assert comparison.verdict == "1 of 1 numbers lie within the reference's spread"
    assert reference.comparison_display(comparison)["within"].tolist() == ["yes", "–", "–"]


def test_settings_that_change_numbers_are_named_and_others_are_not(tmp_path):
    changes = {"lr": 1e-2, "tensorboard": True, "seeds": 3, "cyclegan": [], "cyclegan_epochs": 7, "ema_decay": 0.9}
    comparison = compare_runs(write_results(tmp_path / "two", changes=changes), write_results(tmp_path / "one"))
    assert comparison.settings.values.tolist() == [["lr", 1e-2, 3e-3]]
    assert comparison.verdict.startswith("not a repetition, as settings differ (lr); ")


def test_data_at_another_place_are_the_same_setting_and_other_data_are_not(tmp_path):
    one, two, three = (
        write_results(tmp_path / name, changes={"data": data})
        for name, data in (("one", "/here/ih"), ("two", "/there/ih"), ("three", "/there/other"))
    )
    assert compare_runs(one, two).settings.empty
    assert compare_runs(one, three).settings["name"].tolist() == ["data"]


def test_versions_that_differ_are_listed(tmp_path):
    other = write_results(tmp_path / "two", versions="torch=2.2 numpy=2.0 timm=1")
    versions = compare_runs(other, write_results(tmp_path / "one")).versions
    assert versions.values.tolist() == [["torch", "2.2", "2.1"]]


@pytest.mark.parametrize("name", ["label_fractions.csv", "peers.csv"])
def test_tables_of_label_fractions_are_compared_where_both_have_them(tmp_path, name):
    one, two = (write_results(tmp_path / name) for name in ("one", "two"))
    row = {"label_fraction": 0.05, "model": "G1", "ours": 0.1, "ours_low": 0.05, "ours_high": 0.15, "seeds": 1}
    for folder, score in ((one, 0.1), (two, 0.3)):
        pd.DataFrame([row | {"ours": score}]).to_csv(folder / name, index=False)
    assert compare_runs(two, one).verdict.endswith("; outside: G1, 5 % of the pairs")


@pytest.mark.parametrize("name", ["table1.csv", "steps.csv", "predictions/g1/metrics.parquet", "profile.yaml"])
def test_a_folder_that_lacks_results_is_refused_with_the_name_of_the_file(tmp_path, name):
    folder = write_results(tmp_path / "one")
    (folder / name).unlink()
    with pytest.raises(RunError, match=name):
        compare_runs(folder, folder)


def test_a_damaged_table_is_refused_with_its_name(tmp_path):
    folder = write_results(tmp_path / "one")
    (folder / "steps.csv").write_bytes(b"")
    with pytest.raises(RunError, match=r"steps.csv: cannot be read .*notebook 08"):
        read_numbers(folder)
    (folder / "steps.csv").write_text("other\n1\n")
    with pytest.raises(RunError, match=r"steps.csv: .*lacks"):
        read_numbers(folder)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder that counts as a checkout, and is where we are."""
    for name in ("notebooks/01_data.ipynb", "Snakefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_takes_a_run_or_a_folder_and_says_where_no_reference_is(checkout, ethand):
    write_results(checkout / "outputs/mine")
    write_results(checkout / "elsewhere", shift=0.2)
    status, _, said = ethand("compare", "mine")
    assert status == 1
    assert "no reference is here; name a run to compare with" in said
    status, printed, _ = ethand("compare", "mine", checkout / "elsewhere")
    assert status == 0
    assert "lie within the reference's spread; outside: " in printed.splitlines()[-1]
    write_results(checkout / "outputs/reference")
    status, printed, _ = ethand("compare", "mine", "--json")
    assert status == 0
    assert json.loads(printed)["verdict"] == "17 of 17 numbers lie within the reference's spread"
    status, _, said = ethand("compare", "none")
    assert status == 1
    assert "none: no such folder; expected the name of a run in outputs/ (`ethand run tiny` makes one)" in said


def test_json_has_null_for_what_is_unknown(tmp_path):
    one, two = (write_results(tmp_path / name) for name in ("one", "two"))
    table = pd.read_csv(two / "table1.csv")
    table.loc[0, ["ours", "ours_low", "ours_high"]] = np.nan
    table.to_csv(two / "table1.csv", index=False)
    text = json.dumps(reference.comparison_json(compare_runs(two, one)), allow_nan=False)
    assert json.loads(text)["numbers"][0]["ours"] is None


def test_no_run_is_made_in_the_folder_of_the_reference(checkout, ethand):
    status, _, said = ethand("run", "ci", "--name", "reference", "--dry-run")
    assert status == 1
    assert "is for the results of `make reference`, not for a run" in said
