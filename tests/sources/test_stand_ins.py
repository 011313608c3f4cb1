"""Rendered stand-ins for photos, and labels of them as a person would place them."""

import numpy as np
import pytest
from PIL import Image

from ethand_utils.data.store import Store
from ethand_utils.labels import LEFT, RIGHT
from ethand_utils.outputs import OutputError
from ethand_utils.sources.photo_labels import LabelFolder
from ethand_utils.sources.stand_ins import label_stand_ins, stand_in_label, with_true_masks, write_stand_ins

NUMBERS, SIZE, NOISE = range(6), 128, 1.0


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photos as files, and what is known of them. Read only."""
    return write_stand_ins(tmp_path_factory.mktemp("stand_ins"), NUMBERS, size=SIZE)


@pytest.fixture(scope="module")
def labelled(photos, tmp_path_factory):
    """The store of their labels."""
    folder = tmp_path_factory.mktemp("labelled") / "labels"
    with LabelFolder(folder, 64) as labels:
        assert len(label_stand_ins(labels, photos, NOISE)) == len(photos)
        assert not labels.faults
    return Store(folder)


def test_photos_are_files_of_the_images_and_written_once(photos):
    for path, photo in photos.items():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), photo["image"])
    times = {path: path.stat().st_mtime_ns for path in photos}
    folder = next(iter(photos)).parent
    assert list(write_stand_ins(folder, NUMBERS, size=SIZE)) == list(photos)
    assert {path: path.stat().st_mtime_ns for path in photos} == times


def test_a_file_that_is_another_image_is_not_replaced(tmp_path):
    path = tmp_path / "camera1-0000.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"camera1-0000.png: another image"):
        write_stand_ins(tmp_path, [0], size=SIZE)
    assert path.read_bytes() == b"mine"


def test_joints_are_placed_near_where_they_are_inside_the_photo_and_guessed_behind_the_other_hand(photos):
    rng, guessed = np.random.default_rng(0), 0
    for path, photo in photos.items():
        label, fit = stand_in_label(path.name, photo, NOISE, rng)
        assert fit is not None
        for side in (LEFT, RIGHT):
            hand, true = label.hands[side], photo["joints"][side]
            if hand is None:
                assert not ((true >= 0) & (true < SIZE)).all(1).sum() > 6  # absent, or hardly in the photo
                continue
            off = np.linalg.norm(hand.joints - true, axis=1)[hand.placed]
            assert off.max() < 5 * NOISE
            assert ((hand.joints[hand.placed] >= 0) & (hand.joints[hand.placed] < SIZE)).all()
            column, row = hand.joints[hand.guessed].astype(int).T
            assert (photo["front"][row, column] == 2 - side).all()  # the other hand's pixels: 1 is left, 2 is right
            guessed += hand.guessed.sum()
    assert guessed > 0


def test_a_photo_that_is_labelled_keeps_its_label(photos, tmp_path):
    with LabelFolder(tmp_path / "labels", 32) as labels:
        (name,) = label_stand_ins(labels, dict([next(iter(photos.items()))]), NOISE)
        before = labels.labels[name]
        assert len(label_stand_ins(labels, photos, 3 * NOISE)) == len(photos) - 1
        np.testing.assert_array_equal(labels.labels[name].hands[LEFT].joints, before.hands[LEFT].joints)


def test_true_masks_lie_where_the_fitted_ones_do(photos, labelled, tmp_path):
    """A shift by two pixels of 64, in any direction, fits worse; so does the other hand."""
    truth = with_true_masks(labelled, photos, tmp_path / "truth")
    np.testing.assert_array_equal(truth.images, labelled.images)
    assert truth.index["id"].tolist() == labelled.index["id"].tolist()
    fitted, true = (np.array(store.masks) > 0 for store in (labelled, truth))

    def likeness(masks):
        return (masks & true).sum() / (masks | true).sum()

    here = likeness(fitted)
    assert here > 0.8
    for shift in ((0, 2), (0, -2), (2, 0), (-2, 0)):
        assert likeness(np.roll(fitted, shift, (2, 3))) < here
    assert likeness(fitted[:, ::-1]) < here
    assert set(np.unique(truth.front)) <= {0, 1, 2}
