"""The second table: scores by share of the pairs, what generated labels bring at each, and nothing of it in Table 1."""

import numpy as np
import pandas as pd
import pytest

from ethand_utils.analysis.comparison import TITLES, fraction_display, fraction_steps, fraction_table
from ethand_utils.analysis.tables import results
from ethand_utils.app.results import RunResults
from ethand_utils.app.sections import fewer_pairs
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import SHARE_ROWS
from ethand_utils.experiments.run import Run, RunError, save_result

GAIN = {0.05: 0.1, 0.5: 0.05, 1.0: 0.0}  # of generated labels


def train(run, name, scores, seed=0, **known):
    """What a training leaves behind, with the given scores of its samples."""
    folder, predictions = (name, name) if name == "g1" else (f"g2/{name}/seed{seed}", f"{name}_seed{seed}")
    save_result(run.folder / folder, row=name, seed=seed, course_miou=float(scores.mean()), **known)
    (run.folder / "predictions" / predictions).mkdir(parents=True)
    table = pd.DataFrame({"id": range(len(scores)), "course_miou_left": scores, "course_miou_right": scores})
    table.to_parquet(run.folder / "predictions" / predictions / "metrics.parquet", index=False)


@pytest.fixture
def run(tmp_path):
    """A run with two shares and three seeds."""
    whole = Run(tmp_path / "x", load_profile("ci", {"shares": [0.5, 0.05], "seeds": 3}))
    common = np.linspace(0.1, 0.2, 30)
    for share, gain in GAIN.items():
        part, pairs = whole.at_share(share), round(48 * share)
        train(part, "g1", common + share, pairs=pairs)
        for seed in range(3):
            noise = np.random.default_rng([seed, pairs]).normal(0, 0.001, (2, 30))
            for row, more, chance in zip(SHARE_ROWS, (0, gain), noise, strict=True):
                train(part, row, common + share + 0.01 * seed + more + chance, seed, pairs=pairs)
    return whole


def test_every_share_has_a_line_for_every_training_the_smallest_first(run):
    table = fraction_table(run)
    assert table["share"].tolist() == [share for share in GAIN for _ in TITLES]
    assert table["model"].tolist() == [*TITLES.values()] * len(GAIN)
    assert table["pairs"].tolist() == [2] * 3 + [24] * 3 + [48] * 3
    assert table["seeds"].tolist() == [1, 3, 3] * len(GAIN)
    assert (table["ours_low"] < table["ours"]).all()
    assert (table["ours"] < table["ours_high"]).all()
    assert table["ours_sd"].isna().tolist() == [True, False, False] * len(GAIN)
    assert table["ours_sd"][1] == pytest.approx(0.01, rel=0.1)


def test_what_labels_bring_is_tested_at_every_share(run):
    found = fraction_steps(run)
    np.testing.assert_allclose(found["difference"], list(GAIN.values()), atol=0.001)
    assert found["share"].tolist() == list(GAIN)
    assert found["says"].tolist() == ["the method: higher", "the method: higher", "open"]
    shown = fraction_display(fraction_table(run), found)
    assert shown["of the pairs"].tolist() == ["5 %", "50 %", "100 %"]
    assert shown["seeds up"].tolist()[:2] == ["3 of 3", "3 of 3"]


def test_table_1_has_no_training_on_a_share(run):
    assert len(results(run)) == len(SHARE_ROWS) * 3
    assert results(run)["pairs"].unique().tolist() == [48]
    assert results(run.at_share(0.05))["pairs"].unique().tolist() == [2]


def test_a_share_that_is_not_trained_yet_is_named(run):
    (run.folder / "pairs_50pct/g1/result.json").unlink()
    with pytest.raises(RunError, match=r"pairs_50pct/g1: not trained yet on 0\.5 of the pairs"):
        fraction_table(run)


def test_without_shares_the_page_says_how_to_get_them(run):
    plain = Run(run.folder, load_profile("ci"))
    assert fraction_table(plain).empty
    assert "ethand run --set" in fewer_pairs(RunResults(plain))
    page = fewer_pairs(RunResults(run))
    assert all(title in page for title in TITLES.values())
    assert "data:image/png" in page
