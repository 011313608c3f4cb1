"""The generic hand fitted to the joints of a photo: it lands on them, in either direction of depth, at any size."""

import numpy as np
import pytest
from madetree import hand_joints

from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.joints import CHAINS, WRIST
from ethand_utils.hands.photo_fit import FOCALS, fit_photo_joints, guess_camera, likely_camera
from ethand_utils.hands.raycast import Camera
from ethand_utils.hands.rig import MIRROR
from ethand_utils.labels import LEFT, N_JOINTS, RIGHT
from ethand_utils.sources.joint_annotations import fit_hands

SIZE = (640, 480)
CAMERA = guess_camera(*SIZE)


def hand(seed):
    """Joints [21, 3] m of a right hand in a random pose before the camera, and their pixels [21, 2]."""
    joints = hand_joints(np.random.default_rng(seed)) + np.array([0.02, -0.01, 0.6])
    return joints, CAMERA.project(joints)


def depth_error(fit, joints):
    """The root mean square error in m of depths, each from their mean."""
    depth, truth = (each[:, 2] - each[:, 2].mean() for each in (fit.joints, joints))
    return np.sqrt(((depth - truth) ** 2).mean())


@pytest.mark.parametrize("seed", range(8))
def test_a_posed_hand_is_met_and_one_answer_has_its_depths(seed):
    joints, pixels = hand(seed)
    fits = fit_photo_joints(pixels, RIGHT, CAMERA)
    assert 1 <= len(fits) <= 2
    assert [fit.cost for fit in fits] == sorted(fit.cost for fit in fits)
    assert fits[0].residual.mean() < 4
    for fit in fits:
        np.testing.assert_allclose(CAMERA.project(fit.joints), fit.pixels)
        assert (np.linalg.norm(fit.pixels - pixels, axis=1) <= fit.residual + 1e-6).all()
    assert min(depth_error(fit, joints) for fit in fits) < 0.02


def test_a_left_hand_is_a_right_one_in_the_mirror():
    _, pixels = hand(0)
    mirrored = [SIZE[0], 0] + pixels * [-1, 1]
    right, left = fit_photo_joints(pixels, RIGHT, CAMERA)[0], fit_photo_joints(mirrored, LEFT, CAMERA)[0]
    np.testing.assert_allclose(left.joints, right.joints * MIRROR, atol=1e-9)
    np.testing.assert_allclose(left.cost, right.cost)


def test_a_near_start_gives_what_a_fit_from_scratch_gives():
    _, pixels = hand(1)
    first = fit_photo_joints(pixels, RIGHT, CAMERA)[0]
    moved = pixels.copy()
    moved[4] += 5
    (again,), scratch = fit_photo_joints(moved, RIGHT, CAMERA, start=first), fit_photo_joints(moved, RIGHT, CAMERA)[0]
    assert again.cost < scratch.cost * 1.05 + 0.1


def test_a_joint_where_no_hand_has_it_leaves_a_hand_that_can_be_posed():
    _, pixels = hand(1)
    tip = CHAINS[1][-1]
    pixels[tip] += 0.8 * np.ptp(pixels, axis=0).max()
    fit = fit_photo_joints(pixels, RIGHT, CAMERA)[0]
    assert fit.residual[tip] > 20
    np.testing.assert_allclose(np.linalg.norm(fit.pixels[tip] - pixels[tip]), fit.residual[tip])
    joints = np.stack([np.zeros_like(fit.joints), fit.joints])
    assert fit_hands(joints, np.arange(2)[:, None] == np.full(N_JOINTS, RIGHT))[RIGHT] is not None


def test_answers_differ_in_depth_and_not_in_the_image():
    pairs = [fits for fits in (fit_photo_joints(hand(seed)[1], RIGHT, CAMERA) for seed in range(12)) if len(fits) == 2]
    assert pairs
    for first, second in pairs:
        assert depth_error(second, first.joints) > 0.008
        assert first.cost < second.cost
        assert second.residual.mean() < 10


def test_joints_do_not_depend_on_the_photo_s_size_but_by_its_pixels():
    _, pixels = hand(3)
    small = fit_photo_joints(pixels, RIGHT, CAMERA)[0]
    large = fit_photo_joints(2 * pixels, RIGHT, guess_camera(2 * SIZE[0], 2 * SIZE[1]))[0]
    np.testing.assert_allclose(large.joints, small.joints, atol=1e-6)
    np.testing.assert_allclose(large.residual, 2 * small.residual, atol=1e-4)


def test_one_joint_far_off_hardly_moves_the_others():
    _, pixels = hand(4)
    good, wrong = fit_photo_joints(pixels, RIGHT, CAMERA)[0], pixels.copy()
    wrong[0] += 150
    fit = fit_photo_joints(wrong, RIGHT, CAMERA)[0]
    assert fit.residual[0] > 100
    assert np.median(np.linalg.norm(fit.pixels - good.pixels, axis=1)) < 3


def test_a_joint_called_a_guess_pulls_less():
    _, pixels = hand(5)
    moved, weights = pixels.copy(), np.ones(N_JOINTS)
    moved[CHAINS[1, 3]] += 12
    sure = fit_photo_joints(moved, RIGHT, CAMERA)[0]
    weights[CHAINS[1, 3]] = 0.3
    guess = fit_photo_joints(moved, RIGHT, CAMERA, weights)[0]
    assert guess.residual[CHAINS[1, 3]] > sure.residual[CHAINS[1, 3]]


def test_the_likeliest_camera_is_long_where_the_lens_was():
    points = np.full((2, 2, N_JOINTS, 2), np.nan)
    right = 0
    for seed in range(6):
        for number, factor in enumerate((FOCALS[0], FOCALS[-1])):
            camera = Camera((factor * np.hypot(*SIZE),) * 2, (SIZE[0] / 2, SIZE[1] / 2))
            joints = hand_joints(np.random.default_rng(seed)) + np.array([0, 0, factor / 2])
            points[number, RIGHT] = camera.project(joints)
        short, long = (likely_camera(one, *SIZE).focal[0] for one in points)
        right += short < long
    assert right >= 5


def test_without_hands_the_camera_is_a_guess():
    assert likely_camera(np.full((2, N_JOINTS, 2), np.nan), *SIZE) == CAMERA


@pytest.mark.parametrize("missing", [CHAINS[:, 3], CHAINS[2], CHAINS[3, 1:], [WRIST]])
def test_missing_joints_are_guessed(missing):
    _, pixels = hand(2)
    given = pixels.copy()
    given[missing] = np.nan
    fit = fit_photo_joints(given, RIGHT, CAMERA)[0]
    assert np.isnan(fit.residual[missing]).all()
    assert np.isfinite(np.delete(fit.residual, missing)).all()
    assert np.isfinite(fit.joints).all()


def test_too_few_joints_or_joints_in_one_place_are_refused_in_a_line():
    few = np.full((N_JOINTS, 2), np.nan)
    few[CHAINS[0]] = hand(0)[1][CHAINS[0]]
    with pytest.raises(HandError, match="4 of the right hand, 1 of its palm; mark 6 or more"):
        fit_photo_joints(few, RIGHT, CAMERA)
    with pytest.raises(HandError, match="all of the left hand within"):
        fit_photo_joints(np.full((N_JOINTS, 2), 50.0), LEFT, CAMERA)
