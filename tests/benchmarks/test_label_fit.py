"""The evaluation of fits to marked joints: every fit of every hand has a row, and the truth scores best."""

import numpy as np
import pandas as pd

from benchmarks import label_fit


def test_every_hand_of_a_photo_is_scored_by_every_fit():
    rows = pd.DataFrame(label_fit.score_photo(0, 3, 64, 1.0))
    hands = rows["hand"].nunique()
    assert (rows.groupby("fit").size() == hands).all()
    scores = rows.groupby("fit")["miou"].mean()
    assert scores["exact, better answer"] >= scores["exact"] > 0
    table = label_fit.summarise(rows)
    assert table["number"].sum() == len(rows)


def test_truth_scores_one_and_nothing_scores_nothing():
    masks = np.zeros((2, label_fit.MASK, label_fit.MASK), np.uint8)
    masks[0, 30:60, 30:60] = 9
    truth = {"masks": masks, "front": (masks[0] > 0).astype(np.uint8), "hand_type": "left"}
    (row,) = label_fit.score_hands("truth", truth, truth)
    assert row["miou"] == row["outline"] == 1
    (row,) = label_fit.score_hands("none", {"masks": 0 * masks, "front": 0 * masks[0]}, truth)
    assert row["miou"] == row["outline"] == 0
