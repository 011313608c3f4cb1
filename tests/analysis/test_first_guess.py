"""A first guess of joints: by landmarks where hands are found, else by a net's masks."""

import json
from pathlib import Path

import numpy as np
import pytest

from ethand_utils.analysis import first_guess
from ethand_utils.analysis.first_guess import guess_from_masks, guess_joints, joints_of_landmarks, joints_of_masks
from ethand_utils.analysis.hand_finder import FoundHand
from ethand_utils.data.images import Photo, read_image
from ethand_utils.exceptions import EthandError
from ethand_utils.hands.joints import CHAINS, WRIST
from ethand_utils.labels import FINGERS, HANDS, LEFT, PALM, RIGHT
from ethand_utils.sources.rendered_photos import rendered_photo
from ethand_utils.training.photo_graph import PhotoGraph
from ethand_utils.training.predicted import Predicted

PHOTOS = Path(__file__).parents[3] / "shared" / "hand_photos"
needs_photos = pytest.mark.skipif(not PHOTOS.exists(), reason="the photos are not beside the checkout")
MIDDLE = CHAINS[list(FINGERS).index("middle")]


class Oracle(PhotoGraph):
    """A net that sees in any crop of a photo the masks of the photo that are given, whatever the crop."""

    def __init__(self, masks, size=64):
        self.masks, self.size, self.crops = masks, size, []

    def predict(self, images, sides=(), prior=None):
        self.crops.append(images[0])
        step = self.masks.shape[-1] // 256
        return Predicted(self.masks[None, :, ::step, ::step], np.ones(1), np.ones((1, 2)), None)


@pytest.fixture(scope="module")
def rendered():
    """Twelve rendered photos of 256 px. Read only."""
    return [rendered_photo(4, i, 256) for i in range(12)]


@pytest.fixture
def nothing_found(monkeypatch):
    """Photos in which the finder finds no hand."""
    monkeypatch.setattr(first_guess, "photo_views", lambda photo, box: [])


def distances(joints, truth):
    """Distances [21] of joints from the truth, over the hand's length from the wrist to the middle finger's tip."""
    bones = np.diff(truth[[WRIST, *MIDDLE]], axis=0)
    return np.linalg.norm(joints - truth, axis=1) / np.linalg.norm(bones, axis=1).sum()


def test_masks_that_are_true_give_joints_near_the_true_ones(rendered):
    near = []
    for photo in rendered:
        for mask, truth in zip(photo["masks"], photo["joints"], strict=True):
            if np.isfinite(truth).all():
                near.append(distances(joints_of_masks(mask), truth))
    assert len(near) >= 12
    assert np.isfinite(near).mean() > 0.6
    assert np.nanmedian(near) < 0.06


def test_joints_follow_their_mask(rendered):
    mask = rendered[0]["masks"][RIGHT if rendered[0]["masks"][RIGHT].any() else LEFT]
    joints = joints_of_masks(mask)
    turned = joints_of_masks(np.ascontiguousarray(np.rot90(mask)))
    expected = np.stack([joints[:, 1], len(mask) - joints[:, 0]], 1)
    np.testing.assert_allclose(turned, expected, atol=1.5)


def test_parts_that_are_not_seen_give_no_joints():
    assert np.isnan(joints_of_masks(np.zeros((64, 64), np.uint8))).all()
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 10:50], mask[20:30, 10:50] = FINGERS["index"][1], FINGERS["index"][2]
    joints = joints_of_masks(mask)
    index = CHAINS[list(FINGERS).index("index")]
    assert np.flatnonzero(np.isfinite(joints[:, 0])).tolist() == sorted(index[2:])
    np.testing.assert_allclose(joints[index[2]], (30, 20))


def test_parts_apart_have_no_joint_and_crumbs_do_not_count():
    mask = np.zeros((128, 128), np.uint8)
    mask[10:20, 10:30], mask[90:100, 10:30] = FINGERS["index"][1], FINGERS["index"][2]
    assert np.isnan(joints_of_masks(mask)).all()
    mask[20, 10] = FINGERS["index"][2]
    assert np.isnan(joints_of_masks(mask)).all()


def test_landmarks_are_put_into_the_order_of_the_parts():
    landmarks = np.stack([np.arange(21.0), np.zeros(21)], 1)  # MediaPipe: the wrist, then each finger base to tip
    joints = joints_of_landmarks(FoundHand(landmarks, 1.0, 1.0))[:, 0]
    assert joints[WRIST] == 0
    np.testing.assert_array_equal(joints[CHAINS], np.arange(1, 21).reshape(5, 4))


def test_without_landmarks_the_net_is_asked(rendered, nothing_found):
    photo = next(photo for photo in rendered if photo["masks"].any((1, 2)).all())
    net = Oracle(photo["masks"])
    label = guess_joints(photo["image"], net, box=(25.6, 25.6, 204.8, 204.8), name="a.jpg")
    assert label.photo == "a.jpg"
    for side in range(len(HANDS)):
        expected = joints_of_masks(photo["masks"][side])
        np.testing.assert_allclose(label.hands[side].joints, expected, atol=0.01)
    assert len(net.crops) == 1


def test_a_net_looks_again_at_what_it_saw(rendered):
    photo = rendered[0]
    net = Oracle(np.zeros((2, 256, 256), np.uint8))
    image = Photo(photo["image"], 256, 256)
    assert guess_from_masks(image, net) == (None, None)
    assert len(net.crops) == 1
    masks = np.zeros((2, 256, 256), np.uint8)
    masks[LEFT, 100:150, 60:110] = PALM
    net = Oracle(masks)
    guess_from_masks(image, net)
    assert len(net.crops) == 2
    assert not np.array_equal(*net.crops)


def test_joints_of_a_reduced_photo_are_of_its_own_size(rendered):
    photo = rendered[0]
    small = Photo(photo["image"], 512, 512, 2)
    box, net = (25.6, 25.6, 204.8, 204.8), Oracle(photo["masks"])
    whole = guess_from_masks(Photo(photo["image"], 256, 256), net, box)
    doubled = guess_from_masks(small, net, tuple(2 * value for value in box))
    for one, two in zip(whole, doubled, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_allclose(two.joints, 2 * one.joints, atol=0.01)


def test_where_nothing_is_found_there_are_no_hands(rendered, nothing_found):
    image = rendered[0]["image"]
    assert guess_joints(image).sides == []
    assert guess_joints(image, Oracle(np.zeros((2, 256, 256), np.uint8))).sides == []


def test_nets_that_cannot_be_fetched_leave_the_masks(rendered, monkeypatch):
    def fail(photo, box):
        raise EthandError("no network")

    monkeypatch.setattr(first_guess, "photo_views", fail)
    assert guess_joints(rendered[0]["image"], Oracle(rendered[0]["masks"])).sides


@needs_photos
@pytest.mark.parametrize("name", ["panoptic_005880453_01_r.jpg", "onehand10k_9.jpg"])
def test_joints_of_a_real_photo_are_near_those_annotated(name):
    photo = next(photo for photo in json.loads((PHOTOS / "photos.json").read_text()) if photo["file"] == name)
    label = guess_joints(read_image(PHOTOS / name))
    truth = np.array([joint or (np.nan, np.nan) for joint in photo["joints"]])
    extent = np.ptp(truth[np.isfinite(truth).all(1)], axis=0).max()
    near = [np.linalg.norm(label.hands[side].joints - truth, axis=1) for side in label.sides]
    assert np.nanmedian(near[0]) < 0.05 * extent
    assert photo["hand"] is None or [HANDS[side] for side in label.sides] == [photo["hand"]]
