"""The prior of a hand's parts: highest at their own bones, lower away from the hand."""

import numpy as np
import pytest

from ethand_utils.analysis.landmark_prior import PALM_CORNERS, landmark_prior
from ethand_utils.labels import FINGERS, N_CLASSES, PALM

SIZE = 128  # px


def open_hand(shift=(0.0, 0.0), scale=1.0):
    """Landmarks of an open hand, fingers upwards."""
    points = [(64, 110)]
    for finger in range(5):
        base = np.array([36 + 12 * finger, 70 if finger else 88])
        points += [tuple(base - (0, 14 * joint)) for joint in range(4)]
    return np.array(points, float) * scale + shift


def test_every_bone_is_likeliest_to_be_its_own_part():
    landmarks, prior = open_hand(), landmark_prior(open_hand(), SIZE)
    for finger, parts in enumerate(FINGERS.values()):
        for bone, part in enumerate(parts):
            x, y = (landmarks[1 + 4 * finger + bone] + landmarks[2 + 4 * finger + bone]) / 2
            at = prior[:, int(y), int(x)]
            assert at.argmax() == part
            assert at[part] > 1 == at[0]


def test_the_palm_lies_between_its_corners():
    middle = open_hand()[list(PALM_CORNERS)].mean(0)
    assert landmark_prior(open_hand(), SIZE)[:, int(middle[1]), int(middle[0])].argmax() == PALM


def test_away_from_the_hand_the_background_is_likelier_but_nothing_impossible():
    prior = landmark_prior(open_hand(), SIZE)
    assert prior.shape == (N_CLASSES, SIZE, SIZE)
    assert (prior[1:, :5, :5] < 1).all()
    assert (prior > 0).all()


@pytest.mark.parametrize("shift", [(1e6, 0), (-300, 40), (0, 0)])
def test_landmarks_beyond_the_border_or_all_in_one_place_are_taken(shift):
    assert np.isfinite(landmark_prior(open_hand(shift), SIZE)).all()
    assert np.isfinite(landmark_prior(open_hand(shift, scale=0), SIZE)).all()
