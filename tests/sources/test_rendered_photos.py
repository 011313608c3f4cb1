"""Rendered stand-ins for photos: joints lie where their parts meet, numbers alone decide, light changes only light."""

import numpy as np
import pytest

from ethand_utils.exceptions import EthandError
from ethand_utils.labels import JOINT_PARTS, LEFT, N_JOINTS, RIGHT
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.sources.rendered_photos import rendered_photo

SIZE = 96


def joint_accuracy(photos, move=(0.0, 0.0), meeting=True):
    """The share of joints in the image whose pixel shows a part that meets there; not `meeting`, any of the hand's.

    A finger may hide its hand's joints.
    """
    right = []
    for photo in photos:
        for mask, joints in zip(photo["masks"], photo["joints"] + move, strict=True):
            for parts, (x, y) in zip(JOINT_PARTS, joints, strict=True):
                if 0 <= x < SIZE and 0 <= y < SIZE:
                    part = mask[int(y), int(x)]
                    right.append(part in parts if meeting else part > 0)
    return np.mean(right)


@pytest.mark.parametrize("second_rig_share", [0.0, 1.0])
def test_a_joint_lies_at_parts_that_meet_there_and_nowhere_beside(second_rig_share):
    photos = [rendered_photo(0, i, SIZE, RenderOptions(second_rig_share=second_rig_share)) for i in range(12)]
    exact = joint_accuracy(photos)
    assert exact > 0.6
    assert joint_accuracy(photos, meeting=False) > 0.95
    assert all(exact > joint_accuracy(photos, move) + 0.05 for move in ((4, 0), (-4, 0), (0, 4), (0, -4)))


@pytest.mark.parametrize(("hand_type", "present"), [("left", [LEFT]), ("right", [RIGHT]), ("interacting", [0, 1])])
def test_joints_are_those_of_the_hands_in_the_photo(hand_type, present):
    photo = rendered_photo(0, 0, SIZE, hand_type=hand_type)
    assert photo["hand_type"] == hand_type
    assert photo["joints"].shape == (2, N_JOINTS, 2)
    for hand in (LEFT, RIGHT):
        assert np.isfinite(photo["joints"][hand]).all() == photo["masks"][hand].any() == (hand in present)


def test_the_same_numbers_give_the_same_photo_and_others_another():
    first, again, other = (rendered_photo(3, i, SIZE, light="strange") for i in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["joints"], again["joints"])
    assert (first["image"] != other["image"]).mean() > 0.5


def test_a_larger_photo_shows_the_same_hands():
    small, large = (rendered_photo(0, 3, size, light="strange") for size in (SIZE, 2 * SIZE))
    np.testing.assert_allclose(large["joints"], 2 * small["joints"])
    assert ((large["masks"][:, 1::2, 1::2] > 0) == (small["masks"] > 0)).mean() > 0.98


def test_light_changes_the_image_alone():
    usual, strange = (rendered_photo(0, 4, SIZE, light=light) for light in ("usual", "strange"))
    for name in ("masks", "front", "joints"):
        np.testing.assert_array_equal(usual[name], strange[name])
    assert np.abs(usual["image"].astype(int) - strange["image"]).mean() > 20
    dark = rendered_photo(0, 4, SIZE, light=lambda image, camera, photo: image // 2)
    np.testing.assert_array_equal(dark["image"], usual["image"] // 2)


def test_without_an_image_all_else_is_the_same():
    photo, bare = (rendered_photo(0, 4, SIZE, with_image=which) for which in (True, False))
    assert bare["image"] is None
    for name in ("masks", "front", "joints", "depths"):
        np.testing.assert_array_equal(photo[name], bare[name])


def test_strange_light_is_a_camera_s_own():
    casts = [np.log(rendered_photo(s, i, SIZE, light="strange")["image"].mean((0, 1))) for s in (0, 1) for i in (0, 1)]
    casts = [cast - cast.mean() for cast in casts]
    assert np.abs(casts[0] - casts[1]).max() < np.abs(casts[0] - casts[2]).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"size": 513}, "16 to 512 px"), ({"i": -1}, "at least 0"), ({"light": "dark"}, "usual, strange")],
)
def test_other_photos_are_refused(change, message):
    with pytest.raises(EthandError, match=message):
        rendered_photo(**{"seed": 0, "i": 0} | change)
