"""The second table: scores by label fraction, what generated labels bring at each, and nothing of it in Table 1."""

import numpy as np
import pandas as pd
import pytest

from ethand_utils.analysis.comparison import FRACTION_TITLES, fraction_display, fraction_steps, fraction_table
from ethand_utils.analysis.tables import results
from ethand_utils.app.html import Image, Paragraph, Table
from ethand_utils.app.results import RunResults
from ethand_utils.app.sections import fewer_pairs
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import FRACTION_METHODS
from ethand_utils.experiments.run import Run, RunError, save_result

GAIN = {0.05: 0.1, 0.5: 0.05, 1.0: 0.0}  # of generated labels


def train(run, name, scores, seed=0, **facts):
    """Write the result and the predictions' scores of a training."""
    folder, predictions = (name, name) if name == "g1" else (f"g2/{name}/seed{seed}", f"{name}_seed{seed}")
    save_result(run.folder / folder, row=name, seed=seed, course_miou=float(scores.mean()), **facts)
    (run.folder / "predictions" / predictions).mkdir(parents=True)
    table = pd.DataFrame({"id": range(len(scores)), "course_miou_left": scores, "course_miou_right": scores})
    table.to_parquet(run.folder / "predictions" / predictions / "metrics.parquet", index=False)


@pytest.fixture
def run(tmp_path):
    """A run with two label fractions and three seeds."""
    run = Run(tmp_path / "x", load_profile("ci", {"label_fractions": [0.5, 0.05], "seeds": 3}))
    common = np.linspace(0.1, 0.2, 30)
    for fraction, gain in GAIN.items():
        fraction_run, pairs = run.at_fraction(fraction), round(48 * fraction)
        train(fraction_run, "g1", common + fraction, pairs=pairs)
        for seed in range(3):
            noise = np.random.default_rng([seed, pairs]).normal(0, 0.001, (2, 30))
            for row, more, chance in zip(FRACTION_METHODS, (0, gain), noise, strict=True):
                scores = common + fraction + 0.01 * seed + more + chance
                train(fraction_run, row, scores, seed, pairs=pairs)
    return run


def test_every_fraction_has_a_line_for_every_training_the_smallest_first(run):
    table = fraction_table(run)
    assert table["label_fraction"].tolist() == [fraction for fraction in GAIN for _ in FRACTION_TITLES]
    assert table["model"].tolist() == [*FRACTION_TITLES.values()] * len(GAIN)
    assert table["pairs"].tolist() == [2] * 3 + [24] * 3 + [48] * 3
    assert table["seeds"].tolist() == [1, 3, 3] * len(GAIN)
    assert (table["ours_low"] < table["ours"]).all()
    assert (table["ours"] < table["ours_high"]).all()
    assert table["ours_sd"].isna().tolist() == [True, False, False] * len(GAIN)
    assert table["ours_sd"][1] == pytest.approx(0.01, rel=0.1)


def test_what_labels_bring_is_tested_at_every_fraction(run):
    steps = fraction_steps(run)
    np.testing.assert_allclose(steps["difference"], list(GAIN.values()), atol=0.001)
    assert steps["label_fraction"].tolist() == list(GAIN)
    assert steps["verdict"].tolist() == ["the method: higher", "the method: higher", "open"]
    texts = fraction_display(fraction_table(run), steps)
    assert texts["of the pairs"].tolist() == ["5 %", "50 %", "100 %"]
    assert texts["seeds up"].tolist()[:2] == ["3 of 3", "3 of 3"]


def test_table_1_has_no_training_on_a_fraction(run):
    assert len(results(run)) == len(FRACTION_METHODS) * 3
    assert results(run)["pairs"].unique().tolist() == [48]
    assert results(run.at_fraction(0.05))["pairs"].unique().tolist() == [2]


def test_a_fraction_that_is_not_trained_yet_is_named(run):
    (run.folder / "pairs_50pct/g1/result.json").unlink()
    with pytest.raises(RunError, match=r"pairs_50pct/g1: not trained yet on 0\.5 of the pairs"):
        fraction_table(run)


def test_without_fractions_the_page_says_how_to_get_them(run):
    plain = Run(run.folder, load_profile("ci"))
    assert fraction_table(plain).empty
    assert fraction_display(fraction_table(plain), fraction_steps(plain)).empty
    (line,) = fewer_pairs(RunResults(plain))
    assert "ethand run --set" in line.text
    note, table, figure = fewer_pairs(RunResults(run))
    assert [type(element) for element in (note, table, figure)] == [Paragraph, Table, Image]
    assert set(FRACTION_TITLES.values()) <= set(table.frame)
