"""Metrics against literal loops and hand-made examples."""

import warnings

import numpy as np
import pytest
import torch

from ethand_utils.labels import (
    FRONT_LEFT,
    FRONT_NONE,
    FRONT_RIGHT,
    HANDS,
    JOINT_PARTS,
    LEFT,
    N_JOINTS,
    PARTS,
    RIGHT,
    min_pixels,
)
from ethand_utils.training.metrics import (
    absent_false_positives,
    confusion,
    course_miou,
    dataset_miou,
    hand_miou,
    joint_accuracy,
    nanmean,
    order_accuracy,
    part_iou,
    parts_at,
    region_iou,
    sample_scores,
    summary,
)

MIN_PIXELS = {32: 1, 64: 5, 128: 20}


def random_masks(size, n=5, seed=0):
    """Prediction and truth: scattered parts, many near the least number of pixels; one hand and one image are empty."""
    rng = np.random.default_rng([seed, size])
    truth = np.zeros((n, 2, size * size), np.uint8)
    for hand in truth.reshape(-1, size * size):
        for part in range(1, 17):
            hand[rng.choice(size * size, rng.integers(3 * MIN_PIXELS[size]), replace=False)] = part
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(17, size=truth.shape)).astype(np.uint8)
    truth[0, LEFT], truth[1] = 0, 0
    return predicted.reshape(n, 2, size, size), truth.reshape(n, 2, size, size)


def two_hands():
    """Truth [1, 2, 32, 32] and front of two 10×10 hands: the right one covers half of the left."""
    truth, front = np.zeros((1, 2, 32, 32), np.uint8), np.full((1, 32, 32), FRONT_NONE, np.uint8)
    truth[0, LEFT, :10, :10], truth[0, RIGHT, :10, 5:15] = 9, 4
    front[0, :10, :5], front[0, :10, 5:15] = FRONT_LEFT, FRONT_RIGHT
    return truth, front


def iou_by_loop(predicted, truth, part):
    both = either = 0
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        both += p == part and t == part
        either += p == part or t == part
    return both / either if either else np.nan


@pytest.mark.parametrize("size", [32, 64, 128])
def test_least_pixels_scale_with_the_area(size):
    assert min_pixels(size) == MIN_PIXELS[size]


@pytest.mark.parametrize("size", [32, 64, 128])
def test_course_miou_equals_a_literal_loop(size):
    predicted, truth = random_masks(size)
    scores = []
    for guess, mask in zip(predicted.reshape(-1, size, size), truth.reshape(-1, size, size), strict=True):
        large = [part for part in range(1, 17) if (mask == part).sum() >= MIN_PIXELS[size]]
        ious = [((guess == p) & (mask == p)).sum() / ((guess == p) | (mask == p)).sum() for p in large]
        scores.append(np.mean(ious) if ious else np.nan)
    expected = np.reshape(scores, (-1, 2))
    np.testing.assert_allclose(hand_miou(confusion(predicted, truth), size), expected)
    assert course_miou(predicted, truth) == pytest.approx(np.nanmean(scores))
    assert np.isnan(scores).sum() == 3


def test_confusion_counts_every_pixel_of_every_hand():
    predicted, truth = random_masks(32)
    counts = confusion(predicted, truth)
    assert counts.shape == (5, 2, 17, 17)
    assert (counts.sum((2, 3)) == 32 * 32).all()
    assert counts[3, RIGHT, 4, 9] == ((truth[3, RIGHT] == 4) & (predicted[3, RIGHT] == 9)).sum()


def test_dataset_miou_and_part_iou_equal_a_loop():
    predicted, truth = random_masks(32)
    predicted[predicted == 7] = truth[truth == 7] = 0
    counts = confusion(predicted, truth)
    expected = [iou_by_loop(predicted, truth, part) for part in range(17)]
    np.testing.assert_allclose(part_iou(counts), expected)
    assert np.isnan(expected[7])
    assert dataset_miou(counts) == pytest.approx(np.nanmean(expected[1:]))


def test_a_perfect_prediction_scores_one(dataset):
    masks, front = np.asarray(dataset["train"].masks), np.asarray(dataset["train"].front)
    scores = summary(masks, masks, front)
    rate = scores.pop("absent_fp_rate")
    assert rate == 0 or np.isnan(rate)
    assert {value for value in scores.values() if not np.isnan(value)} == {1.0}
    assert scores["course_miou"] == scores["visible_iou"] == scores["occluded_iou"] == 1


def test_an_empty_prediction_scores_zero(dataset):
    masks = np.asarray(dataset["test"].masks)
    assert course_miou(np.zeros_like(masks), masks) == 0


def test_exchanged_hands_score_less():
    truth, _ = two_hands()
    assert course_miou(truth[:, ::-1], truth) == 0
    truth[:, RIGHT] = np.where(truth[:, RIGHT] > 0, 9, 0)
    assert 0 < course_miou(truth[:, ::-1], truth) < 1


def test_exchanging_prediction_and_truth_together_changes_nothing():
    predicted, truth = random_masks(64)
    assert course_miou(predicted[:, ::-1], truth[:, ::-1]) == pytest.approx(course_miou(predicted, truth))


@pytest.mark.parametrize(("pixels", "expected"), [(20, 0.5), (19, 1.0)])
def test_a_part_counts_from_twenty_pixels_on(pixels, expected):
    truth = np.zeros((1, 2, 128, 128), np.uint8)
    truth[0, LEFT, :20, :20], truth[0, LEFT, 40, :pixels] = 9, 3
    predicted = np.where(truth == 3, 5, truth)
    assert course_miou(predicted, truth) == expected


def test_an_absent_hand_is_nan_and_an_invented_one_is_not_punished_but_counted():
    truth, _ = two_hands()
    truth[:, RIGHT] = 0
    predicted = truth.copy()
    predicted[:, RIGHT, 20, 20] = 9
    counts = confusion(predicted, truth)
    assert np.isnan(hand_miou(counts, 32)).tolist() == [[False, True]]
    assert course_miou(predicted, truth) == 1
    assert summary(predicted, truth)["absent_fp_rate"] == 1
    assert summary(truth, truth)["absent_fp_rate"] == 0
    assert dataset_miou(counts) == pytest.approx(100 / 101)


def test_a_few_stray_pixels_are_no_invented_hand():
    truth, predicted = np.zeros((2, 2, 128, 128), np.uint8), np.zeros((2, 2, 128, 128), np.uint8)
    truth[:, LEFT, :20, :20] = 9
    predicted[0, RIGHT, 0, :19], predicted[1, RIGHT, 0, :20] = 9, 9
    wrong = absent_false_positives(confusion(predicted, truth), 128)
    np.testing.assert_array_equal(wrong, [[np.nan, 0], [np.nan, 1]])


def test_a_set_without_any_hand_has_no_score():
    nothing = np.zeros((2, 2, 32, 32), np.uint8)
    assert np.isnan(course_miou(nothing, nothing))


def test_a_hand_predicted_only_where_it_is_seen():
    truth, front = two_hands()
    predicted = truth.copy()
    predicted[0, LEFT, :, 5:] = 0
    np.testing.assert_array_equal(region_iou(predicted, truth, front, "visible"), [[1, 1]])
    np.testing.assert_array_equal(region_iou(predicted, truth, front, "occluded"), [[0, np.nan]])


def test_a_hand_predicted_too_large_loses_in_both_regions():
    truth, front = two_hands()
    predicted = truth.copy()
    predicted[0, LEFT, 10:15, :5] = 9  # 25 px more than the 50 visible and the 50 occluded ones
    assert region_iou(predicted, truth, front, "visible")[0, LEFT] == 50 / 75
    assert region_iou(predicted, truth, front, "occluded")[0, LEFT] == 50 / 75


def test_a_region_looks_at_the_silhouette_and_not_at_parts():
    truth, front = two_hands()
    np.testing.assert_array_equal(region_iou(np.where(truth > 0, 3, 0), truth, front, "visible"), [[1, 1]])


def test_a_region_below_the_least_pixels_is_not_scored():
    truth, front = two_hands()
    truth, front = (np.kron(a, np.ones((4, 4), np.uint8)) for a in (truth, front))
    truth[0, LEFT, 40:], truth[0, LEFT, :, 20:], front[0, :, 24:] = 0, 0, FRONT_RIGHT
    for pixels, scored in ((19, False), (20, True)):
        truth[0, LEFT, :20, 20:] = 0
        truth[0, LEFT, :pixels, 20] = 9
        iou = region_iou(truth, truth, front, "occluded")[0, LEFT]
        assert (iou == 1) if scored else np.isnan(iou)


def test_visible_and_occluded_parts_are_averaged_over_hands():
    truth, front = two_hands()
    predicted = truth.copy()
    predicted[0, RIGHT, :5] = 0
    scores = summary(predicted, truth, front)
    assert scores["visible_iou"] == pytest.approx((1 + 0.5) / 2)
    assert scores["occluded_iou"] == 1


def test_summary_has_the_scores_of_result_json():
    predicted, truth = random_masks(32)
    parts = [f"part_iou_{part.replace(' ', '_')}" for part in PARTS[1:]]
    names = ["course_miou", "dataset_miou", "visible_iou", "occluded_iou", "absent_fp_rate", *parts]
    scores = summary(predicted, truth)
    assert list(scores) == names
    assert len(parts) == 16
    assert all(type(value) is float for value in scores.values())
    assert scores["part_iou_thumb_distal"] == pytest.approx(iou_by_loop(predicted, truth, 13))


def test_regions_are_nan_without_a_front_map():
    predicted, truth = random_masks(32)
    assert np.isnan([summary(predicted, truth)[f"{region}_iou"] for region in ("visible", "occluded")]).all()


def test_sample_scores_are_the_summary_sample_by_sample(dataset):
    truth, front = np.asarray(dataset["train"].masks), np.asarray(dataset["train"].front)
    predicted = np.where(np.random.default_rng(0).random(truth.shape) < 0.6, truth, 0)
    scores, whole = sample_scores(predicted, truth, front), summary(predicted, truth, front)
    for name, total in (
        ("course_miou", "course_miou"),
        ("visible_iou", "visible_iou"),
        ("absent_fp", "absent_fp_rate"),
    ):
        hands = np.stack([scores[f"{name}_{hand}"] for hand in HANDS], 1)
        assert hands.shape == (len(truth), 2)
        np.testing.assert_allclose(scores[name], nanmean(hands, axis=1))
        np.testing.assert_allclose(nanmean(hands), whole[total])
    alone = sample_scores(predicted[3:4], truth[3:4], front[3:4])
    assert all(np.array_equal(alone[name][0], values[3], equal_nan=True) for name, values in scores.items())


def test_nanmean_is_numpys_without_its_warning():
    values = np.array([[1.0, np.nan, 4.0], [np.nan] * 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nanmean(values) == 2.5
        np.testing.assert_array_equal(nanmean(values, axis=1), [2.5, np.nan])
        assert np.isnan(nanmean(np.array([])))


def test_joints_adjoin_the_parts_of_their_finger():
    named = [[PARTS[part] for part in parts] for parts in JOINT_PARTS]
    assert named[:4] == [  # the thumb from tip to base
        ["thumb distal"],
        ["thumb proximal", "thumb distal"],
        ["thumb metacarpal", "thumb proximal"],
        ["palm", "thumb metacarpal"],
    ]
    assert [parts[0].split()[0] for parts in named[:-1:4]] == ["thumb", "index", "middle", "ring", "pinky"]
    assert named[16:] == [
        ["pinky distal"],
        ["pinky middle", "pinky distal"],
        ["pinky proximal", "pinky middle"],
        ["palm", "pinky proximal"],
        ["palm"],
    ]
    assert N_JOINTS == 21


def joints_on(parts):
    """Masks [2, 8, 32] with `parts` [21] of the left hand in columns 0…20 of row 3, and joints [2, 21, 2] on them."""
    masks = np.zeros((2, 8, 32), np.uint8)
    masks[LEFT, 3, :N_JOINTS] = parts
    return masks, np.stack([[[i + 0.5, 3.5] for i in range(N_JOINTS)]] * 2)


ONE_HAND = np.stack([np.ones(N_JOINTS, bool), np.zeros(N_JOINTS, bool)])


@pytest.mark.parametrize("side", [0, -1])
def test_a_joint_is_right_on_either_part_that_meets_there(side):
    masks, joints = joints_on([parts[side] for parts in JOINT_PARTS])
    assert joint_accuracy(masks, joints, ONE_HAND) == {"joint_accuracy": 1, "joint_on_hand": 1}


def test_a_joint_on_another_part_is_on_the_hand_but_wrong():
    parts = [parts[0] for parts in JOINT_PARTS]
    parts[0], parts[1], parts[20] = 12, 0, 11  # thumb tip on the index's, no part, wrist on the index
    scores = joint_accuracy(*joints_on(parts), ONE_HAND)
    assert scores == {"joint_accuracy": pytest.approx(18 / 21), "joint_on_hand": pytest.approx(20 / 21)}


def test_a_joint_is_looked_up_in_its_own_hands_mask():
    masks, joints = joints_on([parts[0] for parts in JOINT_PARTS])
    assert joint_accuracy(masks, joints, np.ones_like(ONE_HAND))["joint_accuracy"] == 0.5
    assert joint_accuracy(masks, joints, ~ONE_HAND) == {"joint_accuracy": 0, "joint_on_hand": 0}


def test_a_pixel_reaches_from_its_number_to_the_next_and_beyond_the_mask_is_background():
    masks = np.zeros((2, 4, 6), np.uint8)
    masks[LEFT] = np.arange(24).reshape(4, 6) % 17
    joints = np.full((2, N_JOINTS, 2), -0.01)
    joints[LEFT, :6] = [[2, 1], [2.99, 1.99], [5.99, 3.99], [6, 1], [2, 4], [-0.01, 2]]
    assert parts_at(masks, joints)[LEFT, :6].tolist() == [8, 8, 6, 0, 0, 0]


def test_images_are_pooled_over_their_joints():
    first, joints = joints_on([parts[0] for parts in JOINT_PARTS])
    masks, joints = np.stack([first, np.zeros_like(first)]), np.stack([joints, joints])
    valid = np.stack([ONE_HAND, ONE_HAND])
    valid[1, LEFT, 7:] = False  # 21 joints right, 7 wrong
    assert joint_accuracy(masks, joints, valid) == {"joint_accuracy": 0.75, "joint_on_hand": 0.75}
    assert np.isnan(joint_accuracy(masks, joints, np.zeros_like(valid))["joint_accuracy"])


@pytest.mark.parametrize("size", [4, 17, 32])
@pytest.mark.parametrize("threads", [1, 3])
def test_confusion_counts_every_pair_of_every_hand(size, threads):
    rng = np.random.default_rng(size)
    truth, predicted = (rng.integers(0, 17, (5, 2, size, size)).astype(np.uint8) for _ in range(2))
    truth[:2, 0], predicted[1] = 0, 0
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = confusion(predicted, truth)
    finally:
        torch.set_num_threads(before)
    wanted = np.zeros((5, 2, 17, 17), int)
    for i, hand, row, column in np.ndindex(truth.shape):
        wanted[i, hand, truth[i, hand, row, column], predicted[i, hand, row, column]] += 1
    np.testing.assert_array_equal(found, wanted)


def test_confusion_refuses_what_is_no_part():
    masks = np.full((1, 2, 8, 8), 17, np.uint8)
    with pytest.raises(ValueError, match="0 to 16"):
        confusion(masks, np.zeros_like(masks))


def test_masks_of_other_values_are_not_scored():
    wrong = np.full((1, 2, 32, 32), 17, np.uint8)
    with pytest.raises(ValueError, match="masks hold values above 16"):
        course_miou(wrong, wrong)


# ---- which hand is in front


def test_order_accuracy_counts_pixels_that_both_hands_share():
    truth, front = two_hands()
    both = (truth > 0).all(1)
    assert order_accuracy(front, truth, front) == [1]
    assert order_accuracy(FRONT_LEFT + FRONT_RIGHT - front, truth, front) == [0]
    half = front.copy()
    half[0, :5][both[0, :5]] = FRONT_NONE
    assert order_accuracy(half, truth, front) == [0.5]


def test_order_accuracy_needs_shared_pixels():
    truth, front = two_hands()
    truth[:, 1] = 0
    assert np.isnan(order_accuracy(front, truth, front)).all()
