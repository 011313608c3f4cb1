"""Bootstrap intervals and paired differences against known cases, and Table 1 with them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ethand_utils.analysis.comparison import (
    ablation_steps,
    ablation_verdict,
    mean_difference,
    paired_differences,
    pooled_std,
    seed_std_table,
    step_counts,
    step_intervals,
    step_pairs,
    steps_display,
)
from ethand_utils.analysis.statistics import (
    Interval,
    bootstrap_interval,
    holm,
    seeds_needed,
    sign_flip_test,
    std,
    t_interval,
)
from ethand_utils.analysis.tables import (
    by_hand,
    independent_people,
    metrics_table,
    over_seeds,
    people,
    resampled_intervals,
    row_intervals,
    scores_by_row,
    table1,
    table1_display,
    table1_with_tests,
)
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import table_methods
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.labels import PARTS, slug

NAMES = [method.name for method in table_methods()]
TITLES = [method.title for method in table_methods()]


def normal(count, seed=0, mean=0.0, width=1.0):
    return np.random.default_rng(seed).normal(mean, width, count)


def test_an_interval_contains_its_mean_and_agrees_with_theory():
    values = normal(400)
    interval = bootstrap_interval(values)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == pytest.approx(values.mean())
    assert interval.count == 400
    error = values.std() / np.sqrt(400)
    expected = interval.mean + np.array([-1.96, 1.96]) * error
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.15 * error)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    covered = [bootstrap_interval(normal(60, seed), draws=300, level=0.8) for seed in range(200)]
    assert np.mean([interval.low <= 0 <= interval.high for interval in covered]) == pytest.approx(0.8, abs=0.08)


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
    interval = bootstrap_interval(hands)
    assert interval.mean == pytest.approx(np.nanmean(hands))
    assert interval.count == 3
    with_nan = np.array([0.1, np.nan, 0.5])
    assert bootstrap_interval(with_nan) == bootstrap_interval(with_nan[[0, 2]])


def test_both_hands_of_a_sample_are_drawn_together():
    one = normal(200)
    assert bootstrap_interval(np.stack([one, one], axis=1)) == bootstrap_interval(one)


def test_nothing_known_is_an_interval_of_nan():
    for values in (np.full(4, np.nan), np.zeros(0), np.zeros((0, 2))):
        interval = bootstrap_interval(values)
        assert np.isnan(interval[:3]).all()
        assert interval.count == 0
        assert not interval.excludes_zero


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
    interval = bootstrap_interval(np.array([1.0, 3.0]), np.array(["a", "a"]))
    assert (interval.mean, interval.low, interval.high, interval.count) == (2, 2, 2, 1)


def test_equal_columns_differ_by_nothing():
    values = normal(30)
    assert bootstrap_interval(values - values) == Interval(0, 0, 0, 30)
    assert not bootstrap_interval(values - values).excludes_zero


def test_a_constant_step_is_found_under_any_spread_of_the_samples():
    values = normal(30, width=100)
    interval = bootstrap_interval(values + 0.5 - values)
    np.testing.assert_allclose(interval[:3], 0.5)
    assert interval.excludes_zero
    alone = [bootstrap_interval(one) for one in (values, values + 0.5)]
    assert alone[0].high > alone[1].low


def test_a_difference_turns_its_sign_with_its_columns():
    a, b = normal(40), normal(40, seed=1)
    there, back = bootstrap_interval(b - a), bootstrap_interval(a - b)
    np.testing.assert_allclose(there[:3], [-back.mean, -back.high, -back.low])


def test_samples_that_one_net_lacks_do_not_count():
    interval = bootstrap_interval(np.array([2.0, 5.0, np.nan]) - np.array([1.0, np.nan, 1.0]))
    assert interval == Interval(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_interval(np.ones(3), level=95), r"level 95, draws 2000; expected 0 < level < 1"),
        (lambda: bootstrap_interval(np.ones(3), draws=0), r"draws 0; expected 0 < level < 1 and at least one draw"),
        (lambda: bootstrap_interval(np.ones(3), np.ones(2)), r"2 groups of 3 samples; expected one a sample"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(EthandError, match=says):
        call()


def test_a_p_value_agrees_with_students_and_with_every_flip():
    values = normal(300, mean=0.1)
    assert sign_flip_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    few = normal(8, seed=2, mean=0.5)
    flipped = [np.mean(few * np.array(signs)) for signs in itertools.product((-1, 1), repeat=8)]
    assert sign_flip_test(few) == pytest.approx(np.mean(np.abs(flipped) >= abs(few.mean()) - 1e-12))


def test_chance_falls_below_a_level_as_often_as_it_says():
    p_values = [sign_flip_test(normal(40, seed), flips=199) for seed in range(200)]
    assert np.mean(np.array(p_values) < 0.2) == pytest.approx(0.2, abs=0.08)


def test_a_p_value_is_of_either_sign_and_of_whole_groups():
    values, groups = normal(60, mean=0.2), np.repeat(np.arange(6), 10)
    assert sign_flip_test(values) == sign_flip_test(-values)
    assert sign_flip_test(np.repeat(normal(6, mean=2), 10), groups) == 2 / 2**6
    assert sign_flip_test(np.stack([values, np.full(60, np.nan)], axis=1)) == sign_flip_test(values)
    assert sign_flip_test(np.zeros(20)) == 1
    assert np.isnan(sign_flip_test(np.array([0.1, np.nan])))


def test_holm_multiplies_by_the_tests_that_are_left_and_keeps_the_order():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, np.nan, 0.5]), [1, np.nan, 1])
    assert holm([]).shape == (0,)


def test_seeds_have_a_students_interval_or_none():
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    assert interval.mean == 2
    assert interval.high - 2 == pytest.approx(4.303 / np.sqrt(3), abs=1e-3)
    assert np.isnan(t_interval(np.array([1.0]))[1:3]).all()
    assert np.isnan(std([0.3, np.nan]))
    assert std([1, np.nan, 3]) == pytest.approx(np.sqrt(2))


def test_so_many_seeds_find_a_difference_in_four_of_five_cases():
    number = seeds_needed(0.5, 0.6)
    assert number == seeds_needed(-0.5, 0.6) == np.ceil(15.698 * (0.6 / 0.5) ** 2)
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 0.6, (2, 2000, int(number)))
    assert (stats.ttest_ind(one, other + 0.5, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.05)
    assert seeds_needed(9, 0.1) == 2
    assert seeds_needed(0, 0.1) == np.inf
    assert np.isnan(seeds_needed(0.1, np.nan))


def scores_of(values, ids=None):
    table = pd.DataFrame({"course_miou_left": values, "course_miou_right": np.asarray(values) / 2})
    table.insert(0, "id", [f"s{i}" for i in range(len(values))] if ids is None else ids)
    return table


@pytest.fixture
def run(tmp_path):
    """A run with per-sample scores of three rows, the last of two seeds."""
    folder, values = tmp_path / "outputs/x", np.linspace(0.1, 0.5, 40)
    seed_scores = {"baseline_seed0": values, "unetpp_ce_seed0": values + 0.1, "unetpp_dice_seed0": values - 0.1}
    seed_scores["unetpp_dice_seed1"] = values + 0.3
    for name, scores in seed_scores.items():
        (folder / "predictions" / name).mkdir(parents=True)
        scores_of(scores).to_parquet(folder / "predictions" / name / "metrics.parquet", index=False)
    return Run(folder, load_profile("ci"))


def test_rows_are_those_that_kept_their_predictions_and_seeds_are_averaged(run):
    seed_scores = scores_by_row(run)
    assert {row: list(seeds) for row, seeds in seed_scores.items()} == {
        "baseline": [0],
        "unetpp_ce": [0],
        "unetpp_dice": [0, 1],
    }
    scores = over_seeds(seed_scores)
    np.testing.assert_allclose(by_hand(scores["unetpp_dice"]), by_hand(scores_of(np.linspace(0.1, 0.5, 40) + 0.1)))
    assert scores["unetpp_dice"].index.tolist() == [f"s{i}" for i in range(40)]


def test_steps_are_from_what_a_row_adds_to_or_the_nearest_row_above_it(run):
    steps = ablation_steps(scores_by_row(run))
    assert steps["step"].tolist() == [TITLES[1], TITLES[3]]
    assert steps["from"].tolist() == [TITLES[0], TITLES[1]]
    np.testing.assert_allclose(steps["difference"], [0.075, -0.15], atol=1e-12)  # of the seed both have
    assert steps["verdict"].tolist() == ["these nets: higher", "these nets: lower"]
    assert steps["seeds"].tolist() == [1, 1]
    assert steps[["sd", "seeds_low", "seeds_high"]].isna().all(axis=None)


def test_a_row_steps_from_what_it_adds_to_and_the_last_from_what_the_report_lacks_too():
    pairs = step_pairs(NAMES)
    assert pairs[:4] == list(itertools.pairwise(NAMES[:5]))
    assert pairs[4:] == [
        ("unetpp_generated", "unetpp_released"),
        ("unetpp_generated", "unetpp_full"),
        ("unetpp_released", "unetpp_full"),
        ("baseline", "unetpp_full"),
    ]
    assert step_pairs(NAMES[:2]) == [(NAMES[0], NAMES[1])]
    assert step_pairs(NAMES[:1]) == step_pairs([]) == []


def seed_scores_of(gains, samples=60, width=0.1):
    """Scores of rows by seed: each row's `gains` [seeds] over common samples with some noise."""
    common = normal(samples, width=width)
    return {
        row: {
            seed: scores_of(common + gain + normal(samples, [i, seed], width=width / 10)).set_index("id")
            for seed, gain in enumerate(seeds)
        }
        for i, (row, seeds) in enumerate(zip(NAMES, gains, strict=False))
    }


def test_the_method_is_settled_only_where_samples_and_seeds_agree():
    gains = [[0, 0, 0], [0.2, 0.21, 0.19], [0.2, 0.6, 0.1], [0.3, 0.302, 0.298], [0.1, 0.11, 0.09]]
    steps = ablation_steps(seed_scores_of(gains))
    verdicts = ["the method: higher", "these nets: higher", "the method: lower"]
    assert steps["verdict"].drop(2).tolist() == verdicts
    assert steps["up"].tolist() == [3, 2, 2, 0]
    assert steps["seeds"].tolist() == [3] * 4
    np.testing.assert_allclose(steps["sd"][1], 0.75 * np.std([0, 0.39, -0.09], ddof=1), rtol=0.05)
    assert steps["needed"][0] < steps["needed"][2]


def test_a_step_within_chance_is_open():
    noise = normal(50, width=0.1)
    rows = zip(NAMES, (noise, -noise), strict=False)
    seed_scores = {name: {0: scores_of(values).set_index("id")} for name, values in rows}
    assert ablation_steps(seed_scores)["verdict"].tolist() == ["open"]
    assert ablation_steps({NAMES[0]: seed_scores[NAMES[0]]}).empty
    assert ablation_steps({}).empty


def test_several_steps_are_corrected_together():
    seed_scores = seed_scores_of([[0], [0.003], [0.006], [0.009]])
    pairs = [(seed_scores[one][0], seed_scores[other][0]) for one, other in step_pairs(list(seed_scores))]
    alone = [sign_flip_test(paired_differences(one, other)[0]) for one, other in pairs]
    np.testing.assert_allclose(ablation_steps(seed_scores)["p"], holm(alone))


def test_people_are_flipped_with_all_their_samples():
    seed_scores = seed_scores_of([[0], [0.1]])
    groups = pd.Series({f"s{i}": f"person {i % 5}" for i in range(60)})
    assert ablation_steps(seed_scores)["p"][0] < 0.001
    assert ablation_steps(seed_scores, groups)["p"][0] == 2 / 2**5


def test_rows_without_a_common_seed_are_compared_by_their_means():
    seed_scores = seed_scores_of([[0], [0.1, 0.3]])
    seed_scores[NAMES[1]] = {1: seed_scores[NAMES[1]][0], 2: seed_scores[NAMES[1]][1]}
    steps = ablation_steps(seed_scores)
    assert steps["difference"][0] == pytest.approx(0.15, abs=0.01)
    assert steps["seeds"][0] == 0
    assert steps["verdict"][0] == "these nets: higher"


def test_the_standard_deviation_over_seeds_is_pooled():
    seed_scores = seed_scores_of([[0.1, 0.3], [0.2, 0.2, 0.2], [0.5]], width=1e-9)
    assert pooled_std(seed_scores) == pytest.approx(0.75 * np.sqrt(0.02 / 3), rel=1e-5)
    assert np.isnan(pooled_std(seed_scores_of([[0.1], [0.2]])))


def test_rows_are_compared_sample_by_sample_whatever_their_order():
    one = scores_of([0.1, 0.2, 0.9], ["a", "b", "c"]).set_index("id")
    other = scores_of([0.9, 0.3, 0.2], ["d", "b", "a"]).set_index("id")
    interval = mean_difference(one, other)
    assert interval.mean == pytest.approx(0.075)
    assert interval.count == 2
    groups = pd.Series({"a": "p", "b": "q", "c": "q"})
    assert paired_differences(one, other, groups)[1].tolist() == ["p", "q"]


def test_the_verdict_counts_what_is_settled_and_claims_no_method_of_one_seed():
    one = ablation_steps(seed_scores_of([[0], [0.2], [0.2]]))
    assert step_counts(one) == {"steps": 2, "steps_settled": 1, "steps_settled_for_the_method": 0}
    assert ablation_verdict(one).startswith("1 of 2 steps are settled for these nets")
    assert "none for the method, as each row was trained once" in ablation_verdict(one)
    several = ablation_steps(seed_scores_of([[0, 0, 0], [0.2, 0.21, 0.19], [0.2, 0.6, 0.1]]))
    assert step_counts(several) == {"steps": 2, "steps_settled": 2, "steps_settled_for_the_method": 1}
    assert ablation_verdict(several).endswith("1 of them for the method.")
    assert "no step" in ablation_verdict(ablation_steps({}))
    assert step_counts(ablation_steps({}))["steps_settled_for_the_method"] == 0


def test_a_step_that_needs_more_seeds_says_how_many():
    seed_scores = seed_scores_of([[0, 0, 0], [0.2, 0.21, 0.19], [0.2, 0.6, 0.1]])
    steps = ablation_steps(seed_scores)
    needed = [seeds_needed(difference, pooled_std(seed_scores)) for difference in steps["difference"]]
    assert needed[1] > 3
    assert steps["needed"].tolist() == needed
    assert steps_display(steps)["seeds needed"].tolist() == [f"{number:.0f}" for number in needed]


def test_chance_in_training_has_a_table_only_where_rows_have_several_seeds():
    scores = seed_scores_of([[0, 0, 0], [0.2, 0.21, 0.19], [0.2, 0.6, 0.1]])
    line = seed_std_table(scores).iloc[0]
    assert line["trainings"] == 9
    assert line["low"] < line["sd over seeds"] == pooled_std(scores) < line["high"]
    assert line["sd of a difference"] == pytest.approx(np.sqrt(2) * pooled_std(scores))
    few = seed_std_table(seed_scores_of([[0, 0.1], [0.2]])).iloc[0]
    assert few["trainings"] == 2
    assert seed_std_table(seed_scores_of([[0], [0.2]])).empty


def test_table1_gets_the_intervals_and_p_values_of_the_rows_that_have_scores(run):
    seed_scores = scores_by_row(run)
    scores, steps = over_seeds(seed_scores), ablation_steps(seed_scores)
    means = [np.nanmean(by_hand(scores[name])) for name in scores]
    table = table1_with_tests(pd.DataFrame({"row": list(scores), "course_miou": means}), scores, steps)
    scored = table["row"].isin(list(scores))
    assert (table["ours_low"] < table["ours"])[scored].all()
    assert (table["ours"] < table["ours_high"])[scored].all()
    assert table.loc[~scored, ["ours_low", "ours_high", "p_previous"]].isna().all(axis=None)
    assert table["p_previous"].dropna().tolist() == steps["p"][:2].tolist()
    ends = row_intervals(scores)
    assert ends["mean"].tolist() == pytest.approx(means)
    texts = table1_display(table)
    assert texts["ours, 95 %"][0] == f"{ends['low'].iloc[0]:.4f} – {ends['high'].iloc[0]:.4f}"
    assert texts["ours, 95 %"][2] == texts["ours"][2] == texts["p prev."][2] == "–"
    assert "seeds" not in texts


def results_of(gains):
    rows = [(name, seed, gain) for name, seeds in zip(NAMES, gains, strict=True) for seed, gain in enumerate(seeds)]
    trainings = pd.DataFrame(rows, columns=["row", "seed", "course_miou"])
    others = ["dataset_miou", "visible_iou", "occluded_iou", "absent_fp_rate"]
    return trainings.assign(**dict.fromkeys([*others, *(f"part_iou_{slug(part)}" for part in PARTS[1:])], 0.5))


def test_seeds_are_in_the_table_as_mean_and_deviation():
    trainings = results_of([[0.2, 0.4], *[[0.3]] * (len(NAMES) - 1)])
    table = table1(trainings)
    assert table["ours_sd"][0] == pytest.approx(np.sqrt(0.02))
    assert table["ours_sd"][1:].isna().all()
    assert table["seeds"].tolist() == [2, *[1] * (len(NAMES) - 1)]
    assert table1_display(table)["ours"].tolist()[:2] == ["0.3000 ± 0.1414", "0.3000"]


def test_every_score_has_a_line_and_unknown_ones_a_dash():
    trainings = results_of([[0.2, 0.4], *[[0.3]] * (len(NAMES) - 1)]).assign(occluded_iou=np.nan)
    texts = metrics_table(trainings)
    assert texts.columns.tolist() == TITLES
    assert len(texts) == 5 + len(PARTS) - 1
    assert texts.iloc[0].tolist()[:2] == ["0.300 ± 0.141", "0.300"]
    assert set(texts.loc["occluded IoU"]) == {"–"}


def test_what_seeds_say_is_shown_where_there_are_several(run):
    assert "seeds up" not in steps_display(ablation_steps(scores_by_row(run)))
    assert list(step_intervals(ablation_steps(scores_by_row(run)))) == ["samples (bootstrap)"]
    steps = ablation_steps(seed_scores_of([[0, 0, 0], [0.2, 0.21, 0.19]]))
    assert steps_display(steps)["seeds up"].tolist() == ["3 of 3"]
    over_samples, over = step_intervals(steps).values()
    assert over.index.tolist() == over_samples.index.tolist() == [f"{TITLES[1]}\nover {TITLES[0]}"]
    assert over["low"].tolist() == steps["seeds_low"].tolist()


def test_a_damaged_file_of_scores_is_named(run):
    (run.folder / "predictions/baseline_seed0/metrics.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunError, match=r"baseline_seed0/metrics\.parquet: cannot be read"):
        scores_by_row(run)


def test_people_are_known_where_the_index_tells_them_apart(run):
    file = run.folder / "predictions/baseline_seed0/index.parquet"
    assert people(run, "baseline") is None
    pd.DataFrame({"id": ["a", "b"], "subject": ["x", "x"]}).to_parquet(file)
    assert people(run, "baseline") is None
    pd.DataFrame({"id": ["a", "b"], "subject": ["x", "y"]}).to_parquet(file)
    assert people(run, "baseline").to_dict() == {"a": "x", "b": "y"}
    scores = {"baseline": scores_of([0.1, 0.3], ["a", "b"]).set_index("id")}
    assert resampled_intervals(run, scores)["drawn from"].to_dict() == {"samples": 2, "people": 2}
    assert resampled_intervals(run, scores)["score"].tolist() == pytest.approx([0.15] * 2)
    file.write_bytes(b"no parquet")
    with pytest.raises(RunError, match=r"index\.parquet: cannot be read"):
        people(run, "baseline")


def test_people_are_drawn_where_there_are_enough_of_them(run):
    file, seed_scores = run.folder / "predictions/unetpp_dice_seed0/index.parquet", scores_by_row(run)
    for number in (9, 10):
        index = {"id": [f"s{i}" for i in range(40)], "subject": [f"p{i % number}" for i in range(40)]}
        pd.DataFrame(index).to_parquet(file)
        subjects = independent_people(run, seed_scores)
        assert (subjects is None) == (number < 10)
    assert independent_people(run, {}) is None
