"""The peers' tables, what their teachers are sure of, and the picture of a batch."""

import numpy as np
import pandas as pd
import pytest
from conftest import Echo

from ethand_utils.analysis.peers import peer_costs, peer_display, peer_results
from ethand_utils.analysis.teachers import confident_errors, peer_batch, worst_sure
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.labels import COLOURS, LEFT, PARTS
from ethand_utils.training.joint import SemiSettings
from ethand_utils.training.models import create_model


def test_a_perfect_teacher_is_never_wrong(dataset):
    test = dataset["test"]
    errors = confident_errors(Echo(test.masks), test, 0.95)
    assert list(errors.index) == list(PARTS)
    assert errors["pixels"].sum() == test.masks.size
    there = errors["pixels"] > 0
    assert (errors.loc[there, ["wrong", "wrong_of_sure"]] == 0).all(axis=None)
    assert (errors.loc[there, "sure"] == 1).all()  # the right class has e⁸ times the weight of another


def test_a_teacher_that_names_one_part_for_another_is_wrong_there_alone(dataset):
    test = dataset["test"]
    masks = np.where(test.masks == 2, 15, test.masks)
    errors = confident_errors(Echo(masks), test, 0.95)
    wrong = (test.masks == 2).sum() / (masks == 15).sum()
    assert errors["wrong_of_sure"].iloc[15] == pytest.approx(wrong)
    assert errors["wrong"].drop(PARTS[15]).sum() == 0
    assert errors["pixels"].iloc[2] == 0
    assert np.isnan(errors["wrong_of_sure"].iloc[2])


def test_nobody_is_sure_above_one(dataset):
    errors = confident_errors(Echo(dataset["test"].masks), dataset["test"], 1.01)
    assert (errors["sure"] == 0).all()
    assert errors["wrong_of_sure"].isna().all()


def test_the_worst_samples_have_the_most_sure_and_wrong_pixels_of_parts():
    truth = np.zeros((4, 2, 8, 8), int)
    labels, sure = truth.copy(), np.ones(truth.shape, bool)
    labels[1, 0, :2] = 3
    labels[2, 1, :5] = 3
    labels[3, 0] = 3
    sure[3] = False
    assert worst_sure(labels, sure, truth, 2).tolist() == [2, 1]


def test_what_a_net_sees_of_unlabelled_images(dataset):
    model, count = create_model("unet", "tu-resnet10t", widths=(8, 8), seed=0), 3
    for threshold, cutmix_p in ((0.0, 1.0), (1.0, 0.0)):
        settings = SemiSettings(semi_threshold=threshold, cutmix_p=cutmix_p)
        batch = peer_batch(model, dataset["train"], dataset["unpaired_images"], count, settings, LEFT)
        size = dataset["train"].size
        assert {column.shape for column in batch.values()} == {(count, size, size, 3)}
        assert {column.dtype for column in batch.values()} == {np.dtype(np.uint8)}
        assert (batch["sure"] == (255 if threshold == 0 else 0)).all()
        if threshold == 1:
            assert (batch["sure label, mixed"] == COLOURS[0]).all()


def test_a_run_without_peers_says_how_to_train_them(tmp_path):
    with pytest.raises(RunError, match="a run without peers; `ethand run peers` trains them"):
        peer_results(Run(tmp_path / "x", load_profile("ci")))


def test_tables_have_a_row_a_method_and_a_column_a_fraction():
    lines = [
        {"label_fraction": fraction, "pairs": 1000 * fraction, "model": model, "ours": score, "ours_sd": float("nan")}
        for fraction, model, score in ((0.05, "one", 0.1), (1.0, "one", 0.2), (1.0, "two", 0.3))
    ]
    table = peer_display(pd.DataFrame(lines))
    assert list(table.columns) == ["5 % (50 pairs)", "100 % (1,000 pairs)"]
    assert table.loc["two"].tolist() == ["–", "0.300"]


def test_costs_are_relative_to_the_first_method_at_each_fraction():
    keys = ("row", "model", "label_fraction", "seconds", "images_seen", "course_miou", "other_course_miou")
    lines = [
        ("a", "A", 0.5, 10, 100, 0.1, None),
        ("b", "B", 0.5, 20, 100, 0.2, 0.1),
        ("a", "A", 1.0, 40, 100, 0.1, None),
        ("b", "B", 1.0, 40, 100, 0.4, 0.3),
    ]
    costs = peer_costs(pd.DataFrame([dict(zip(keys, line, strict=True)) for line in lines]))
    assert costs.loc["A", "seconds_factor"] == 1
    assert costs.loc["B", "seconds_factor"] == 1.5
    assert costs.loc["B", "other_net"] == pytest.approx(0.2)
