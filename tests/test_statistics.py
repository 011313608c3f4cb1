"""Bootstrap intervals and paired differences against known cases, and Table 1 with them."""

import numpy as np
import pandas as pd
import pytest

from ethand_utils import EthandError
from ethand_utils.ablation import (
    by_hand,
    compare,
    kept_scores,
    people,
    row_intervals,
    shown_table,
    steps,
    with_intervals,
)
from ethand_utils.runs import ROWS, Run, RunError, table1
from ethand_utils.settings import load_profile
from ethand_utils.statistics import Interval, bootstrap_interval, paired_difference

NAMES = [row["ROW"] for row in ROWS]
TITLES = [row["TITLE"] for row in ROWS]


def normal(count, seed=0, mean=0.0, width=1.0):
    return np.random.default_rng(seed).normal(mean, width, count)


def test_an_interval_contains_its_mean_and_agrees_with_theory():
    values = normal(400)
    found = bootstrap_interval(values)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(values.mean())
    assert found.count == 400
    error = values.std() / np.sqrt(400)
    np.testing.assert_allclose([found.low, found.high], found.mean + np.array([-1.96, 1.96]) * error, atol=0.15 * error)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    covered = [bootstrap_interval(normal(60, seed), draws=300, level=0.8) for seed in range(200)]
    assert np.mean([found.low <= 0 <= found.high for found in covered]) == pytest.approx(0.8, abs=0.08)


def test_an_interval_shrinks_with_the_root_of_the_number_of_samples():
    few, many = (bootstrap_interval(normal(count)) for count in (100, 1600))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.2)


def test_a_higher_level_is_wider_and_a_seed_repeats():
    values = normal(50)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_equal_values_have_no_width():
    assert bootstrap_interval(np.full(9, 0.5)) == Interval(0.5, 0.5, 0.5, 9)


def test_unknown_values_are_left_out_and_hands_are_pooled_as_in_the_course():
    hands = np.array([[0.2, np.nan], [0.4, 0.9], [np.nan, np.nan], [0.6, 0.1]])
    found = bootstrap_interval(hands)
    assert found.mean == pytest.approx(np.nanmean(hands))
    assert found.count == 3
    with_nan = np.array([0.1, np.nan, 0.5])
    assert bootstrap_interval(with_nan) == bootstrap_interval(with_nan[[0, 2]])


def test_both_hands_of_a_sample_are_drawn_together():
    one = normal(200)
    assert bootstrap_interval(np.stack([one, one], axis=1)) == bootstrap_interval(one)


def test_nothing_known_is_an_interval_of_nan():
    for values in (np.full(4, np.nan), np.zeros(0), np.zeros((0, 2))):
        found = bootstrap_interval(values)
        assert np.isnan(found[:3]).all()
        assert found.count == 0
        assert not found.excludes_zero


def test_groups_whose_members_are_alike_are_worth_as_many_samples_as_groups():
    people_of, own = np.repeat(np.arange(20), 30), normal(20)
    values = own[people_of]
    samples, groups = bootstrap_interval(values), bootstrap_interval(values, people_of)
    assert groups.mean == pytest.approx(samples.mean)
    assert groups.count == 20
    assert (groups.high - groups.low) / (samples.high - samples.low) == pytest.approx(np.sqrt(30), rel=0.2)
    each = bootstrap_interval(values, np.arange(600))
    np.testing.assert_allclose(each, samples)


def test_groups_may_have_names_and_one_alone_has_no_width():
    found = bootstrap_interval(np.array([1.0, 3.0]), np.array(["a", "a"]))
    assert (found.mean, found.low, found.high, found.count) == (2, 2, 2, 1)


def test_equal_columns_differ_by_nothing():
    values = normal(30)
    assert paired_difference(values, values) == Interval(0, 0, 0, 30)
    assert not paired_difference(values, values).excludes_zero


def test_a_constant_step_is_found_under_any_spread_of_the_samples():
    values = normal(30, width=100)
    found = paired_difference(values, values + 0.5)
    np.testing.assert_allclose(found[:3], 0.5)
    assert found.excludes_zero
    alone = [bootstrap_interval(one) for one in (values, values + 0.5)]
    assert alone[0].high > alone[1].low


def test_a_difference_turns_its_sign_with_its_columns():
    a, b = normal(40), normal(40, seed=1)
    there, back = paired_difference(a, b), paired_difference(b, a)
    np.testing.assert_allclose(there[:3], [-back.mean, -back.high, -back.low])


def test_samples_that_one_net_lacks_do_not_count():
    found = paired_difference(np.array([1.0, np.nan, 1.0]), np.array([2.0, 5.0, np.nan]))
    assert found == Interval(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_interval(np.ones(3), level=95), r"level 95, draws 2000; expected 0 < level < 1"),
        (lambda: bootstrap_interval(np.ones(3), draws=0), r"draws 0; expected 0 < level < 1 and at least one draw"),
        (lambda: bootstrap_interval(np.ones(3), np.ones(2)), r"2 groups of 3 samples; expected one a sample"),
        (lambda: paired_difference(np.ones(3), np.ones(2)), r"scores \[3\] and \[2\]; expected the same samples"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(EthandError, match=says):
        call()


def scores_of(values, ids=None):
    table = pd.DataFrame({"course_miou_left": values, "course_miou_right": np.asarray(values) / 2})
    table.insert(0, "id", [f"s{i}" for i in range(len(values))] if ids is None else ids)
    return table


@pytest.fixture
def run(tmp_path):
    """A run with per-sample scores of three rows, the last of two seeds."""
    folder, values = tmp_path / "outputs/x", np.linspace(0.1, 0.5, 40)
    kept = {"baseline_seed0": values, "unetpp_ce_seed0": values + 0.1, "unetpp_dice_seed0": values - 0.1}
    kept["unetpp_dice_seed1"] = values + 0.3
    for name, scores in kept.items():
        (folder / "predictions" / name).mkdir(parents=True)
        scores_of(scores).to_parquet(folder / "predictions" / name / "metrics.parquet", index=False)
    return Run(folder, load_profile("ci"))


def test_rows_are_those_that_kept_their_predictions_and_seeds_are_averaged(run):
    scores = kept_scores(run)
    assert list(scores) == ["baseline", "unetpp_ce", "unetpp_dice"]
    np.testing.assert_allclose(by_hand(scores["unetpp_dice"]), by_hand(scores_of(np.linspace(0.1, 0.5, 40) + 0.1)))
    assert scores["unetpp_dice"].index.tolist() == [f"s{i}" for i in range(40)]


def test_steps_are_between_neighbours_and_from_the_baseline_to_the_last(run):
    found = steps(kept_scores(run))
    assert found["step"].tolist() == [TITLES[1], TITLES[3], TITLES[3]]
    assert found["from"].tolist() == [TITLES[0], TITLES[1], TITLES[0]]
    np.testing.assert_allclose(found["difference"], [0.075, 0, 0.075], atol=1e-12)
    assert found["says"].tolist()[::2] == ["higher", "higher"]
    scores = kept_scores(run)
    assert steps({name: scores[name] for name in ("unetpp_ce", "baseline")})["says"].tolist() == ["lower"]


def test_a_step_within_chance_is_open():
    noise = normal(50, width=0.1)
    scores = {name: scores_of(values).set_index("id") for name, values in zip(NAMES, (noise, -noise), strict=False)}
    assert steps(scores)["says"].tolist() == ["open"]
    assert steps({NAMES[0]: scores[NAMES[0]]}).empty


def test_rows_are_compared_sample_by_sample_whatever_their_order():
    one = scores_of([0.1, 0.2, 0.9], ["a", "b", "c"]).set_index("id")
    other = scores_of([0.9, 0.3, 0.2], ["d", "b", "a"]).set_index("id")
    found = compare({"one": one, "other": other}, "one", "other")
    assert found.mean == pytest.approx(0.075)
    assert found.count == 2
    groups = pd.Series({"a": "p", "b": "p", "c": "q", "d": "q"})
    assert compare({"one": one, "other": other}, "one", "other", groups).count == 1


def test_table1_gets_the_intervals_of_the_rows_that_have_scores(run):
    scores = kept_scores(run)
    means = [np.nanmean(by_hand(scores[name])) for name in scores]
    table = with_intervals(table1(pd.DataFrame({"row": list(scores), "course_miou": means})), scores)
    known = table["row"].isin(list(scores))
    assert (table["ours_low"] < table["ours"])[known].all()
    assert (table["ours"] < table["ours_high"])[known].all()
    assert table.loc[~known, ["ours_low", "ours_high"]].isna().all(axis=None)
    found = row_intervals(scores)
    assert found["mean"].tolist() == pytest.approx(means)
    shown = shown_table(table)
    assert shown["ours, 95 %"][0] == f"{found['low'].iloc[0]:.4f} – {found['high'].iloc[0]:.4f}"
    assert shown["ours, 95 %"][2] == shown["ours"][2] == "–"


def test_a_damaged_file_of_scores_is_named(run):
    (run.folder / "predictions/baseline_seed0/metrics.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunError, match=r"baseline_seed0/metrics\.parquet: cannot be read"):
        kept_scores(run)


def test_people_are_known_where_the_index_tells_them_apart(run):
    file = run.folder / "predictions/baseline_seed0/index.parquet"
    assert people(run, "baseline") is None
    pd.DataFrame({"id": ["a", "b"], "subject": ["x", "x"]}).to_parquet(file)
    assert people(run, "baseline") is None
    pd.DataFrame({"id": ["a", "b"], "subject": ["x", "y"]}).to_parquet(file)
    assert people(run, "baseline").to_dict() == {"a": "x", "b": "y"}
    file.write_bytes(b"no parquet")
    with pytest.raises(RunError, match=r"index\.parquet: cannot be read"):
        people(run, "baseline")
