"""The generic hand fitted to the joints of a photo: it lands on them, in either direction of depth, at any size."""

import numpy as np
import pytest
from madetree import hand_joints

from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.joints import CHAINS, WRIST
from ethand_utils.hands.photo_fit import fit_photo_joints, guess_camera
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
    np.testing.assert_allclose(fits[0].pixels, pixels, atol=1e-6)
    np.testing.assert_allclose(CAMERA.project(fits[0].joints), pixels, atol=1e-6)
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
