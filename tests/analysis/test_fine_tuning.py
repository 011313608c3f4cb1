"""One net before and after a training: scores, the gain of each photo, and the figure."""

import numpy as np
import pytest
from conftest import Echo

from ethand_utils.analysis.fine_tuning import BeforeAfter
from ethand_utils.data.store import StoreError


def broken(store):
    """The masks of a store with one part called another."""
    return np.where(store.masks == 9, 8, store.masks)


def together(*stores):
    return np.concatenate([store.masks for store in stores])


def test_a_net_that_becomes_perfect_gains_on_every_photo_and_one_that_stays_on_none(dataset):
    stores = dataset["val"], dataset["test"]
    wrong = np.concatenate([broken(store) for store in stores])
    better = BeforeAfter.of(Echo(wrong), Echo(together(*stores)), stores)
    assert len(better.images) == 16
    assert better.scores.loc["course_miou", "after"] == 1
    assert better.scores.loc["course_miou", "before"] < 0.9
    assert (better.gains[np.isfinite(better.gains)] > 0).all()
    assert better.gain.excludes_zero
    present = (together(*stores) > 0).any((2, 3))
    np.testing.assert_array_equal(np.isfinite(better.gains), present)
    same = BeforeAfter.of(Echo(wrong), Echo(wrong), stores)
    assert same.gain.mean == 0
    assert (same.scores["before"] - same.scores["after"]).fillna(0).eq(0).all()


def test_a_loss_is_a_negative_gain_of_the_same_size(dataset):
    test = dataset["test"]
    better = BeforeAfter.of(Echo(broken(test)), Echo(test.masks), [test])
    worse = BeforeAfter.of(Echo(test.masks), Echo(broken(test)), [test])
    np.testing.assert_allclose(worse.gains, -better.gains)


def test_the_figure_ends_with_the_photo_that_gained_least(dataset):
    test = dataset["test"]
    after = np.array(test.masks)
    after[5] = 0  # all is lost here
    figure = BeforeAfter.of(Echo(test.masks), Echo(after), [test]).figure(3)
    panels = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(panels) == 3 * 7
    np.testing.assert_array_equal(panels[-7], test.images[5])
    np.testing.assert_array_equal(panels[-1], test.images[5])  # nothing lies over it
    whole = BeforeAfter.of(Echo(test.masks), Echo(after), [test]).figure(20)
    assert len([axes for axes in whole.axes if axes.images]) == len(test) * 7


def test_stores_without_masks_are_refused(dataset):
    with pytest.raises(StoreError, match="has no masks"):
        BeforeAfter.of(Echo(np.zeros((1, 2, 4, 4))), Echo(np.zeros((1, 2, 4, 4))), [dataset["unpaired_images"]])
