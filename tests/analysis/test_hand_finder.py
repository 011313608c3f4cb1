"""Finding hands in photos: real ones, of several sizes and turned; pairs; nets that are checked."""

import json
from pathlib import Path

import numpy as np
import pytest

from ethand_utils.analysis import hand_finder
from ethand_utils.analysis.hand_finder import FoundHand, find_hands, find_views, net_file, pair_hands, view_box
from ethand_utils.data.crops import TurnedSquare
from ethand_utils.data.images import read_image
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import LEFT, RIGHT

PHOTOS = Path(__file__).parents[3] / "shared" / "hand_photos"
needs_photos = pytest.mark.skipif(not PHOTOS.exists(), reason="the photos are not beside the checkout")


def hand(x, y, side, right):
    """A hand whose landmarks fill a square at (x, y)."""
    return FoundHand(np.array([(x, y), (x + side, y + side)] + 19 * [(x, y)], float), 1.0, float(right))


def annotated(name):
    photo = next(photo for photo in json.loads((PHOTOS / "photos.json").read_text()) if photo["file"] == name)
    return read_image(PHOTOS / name), photo["box"], photo["hand"]


def iou(a, b):
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    shared = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0, min(ay + ah, by + bh) - max(ay, by))
    return shared / (aw * ah + bw * bh - shared)


@needs_photos
@pytest.mark.parametrize("name", ["freihand_00000355.jpg", "panoptic_005880453_01_r.jpg", "rhd_00111.png"])
def test_the_annotated_hand_is_among_those_found(name):
    image, box, side = annotated(name)
    best = max(find_hands(image), key=lambda hand: iou(hand.box, box))
    assert iou(best.box, box) > 0.5
    assert ("left", "right")[best.right > 0.5] == side


@needs_photos
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_gives_a_turned_view(turns):
    image, _, _ = annotated("freihand_00000355.jpg")
    (plain,), (turned,) = find_views(image), find_views(np.ascontiguousarray(np.rot90(image, turns)))
    expected = np.linalg.matrix_power([[0, 1], [-1, 0]], turns) @ plain.square.up
    assert np.dot(expected, turned.square.up) > 0.95
    assert turned.sides == plain.sides
    assert turned.square.side == pytest.approx(plain.square.side, rel=0.2)


@needs_photos
def test_a_mirrored_hand_is_the_other_one():
    image, _, _ = annotated("freihand_00000355.jpg")
    (plain,), (mirrored,) = find_views(image), find_views(np.ascontiguousarray(image[:, ::-1]))
    assert (plain.sides, mirrored.sides) == ((RIGHT,), (LEFT,))


@needs_photos
def test_a_box_keeps_its_place_and_size_and_gets_the_hands_direction():
    image, box, _ = annotated("freihand_00000355.jpg")
    view = view_box(image, box)
    assert view.sides == (RIGHT,)
    assert view.square.side == pytest.approx(1.25 * max(box[2:]))
    assert view.square.centre == pytest.approx((box[0] + box[2] / 2, box[1] + box[3] / 2))
    assert view.square.up[0] > 0.9  # its fingers point to the right


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 900, 3), (300, 200, 3)])
def test_nothing_is_found_where_nothing_is(shape):
    noise = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    assert find_views(noise) == []
    view = view_box(noise, (0, 0, 10, 10))
    assert view.square == TurnedSquare((5, 5), 12.5)


def test_near_hands_of_both_sides_are_a_pair():
    left, right, far = hand(0, 0, 10, False), hand(12, 0, 10, True), hand(90, 0, 10, True)
    assert [len(group) for group in pair_hands([left, far, right])] == [2, 1]
    assert [len(group) for group in pair_hands([left, far])] == [1, 1]


def test_two_right_hands_and_hands_of_unlike_size_are_no_pair():
    assert [len(group) for group in pair_hands([hand(0, 0, 10, True), hand(12, 0, 10, True)])] == [1, 1]
    assert [len(group) for group in pair_hands([hand(0, 0, 10, True), hand(12, 0, 40, False)])] == [1, 1]


def test_the_nearest_hands_pair_first():
    a, b, c = hand(0, 0, 10, False), hand(11, 0, 10, True), hand(24, 0, 10, False)
    groups = pair_hands([c, a, b])
    assert {len(group) for group in groups} == {1, 2}
    assert c in next(group for group in groups if len(group) == 1)


def test_a_damaged_net_is_fetched_again_and_a_wrong_wheel_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hand_finder, "user_cache_dir", lambda name: str(tmp_path))
    (tmp_path / "palm_detection_full-0.10.21.tflite").write_bytes(b"damaged")

    def refused(package, sha256, what, remedy, *options):
        raise EthandError(f"{what} could not be fetched; {remedy}")

    monkeypatch.setattr(hand_finder, "fetch_wheel", refused)
    with pytest.raises(EthandError, match=r"the nets that find hands could not be fetched; .*--box"):
        net_file("palm_detection_full")
