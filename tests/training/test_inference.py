"""Inference: mirrored views, presence of hands, the hand in front, half precision."""

import numpy as np
import pytest
import torch
from fixednet import Fixed

from ethand_utils.labels import (
    FRONT_LEFT,
    FRONT_NONE,
    FRONT_RIGHT,
    LEFT,
    N_CHANNELS,
    N_CLASSES,
    ORDER_CHANNEL,
    PALM,
    RIGHT,
)
from ethand_utils.training.inference import (
    PLAIN,
    Inference,
    predict,
    predict_masks,
)
from ethand_utils.training.learner import start_from
from ethand_utils.training.losses import SegmentationLoss, order_loss, presence_loss
from ethand_utils.training.models import WeightsError, create_model, load_weights, save_weights
from ethand_utils.training.presence import absent_hands, hand_presence, presence_threshold, without_absent


def net(channels=N_CHANNELS, seed=0):
    return create_model("baseline", widths=(4, 8), out_channels=channels, seed=seed).eval()


def images(n=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, size, size, 3), dtype=np.uint8)


def certain(left, right, size=8):
    """Probabilities [1, 2, 17, H, W] of hands with the given class everywhere."""
    hands = torch.zeros(1, 2, N_CLASSES, size, size)
    hands[:, LEFT, left] = hands[:, RIGHT, right] = 1
    return hands


def presence_of(hands):
    return hand_presence(hands[:, :, 0], hands.argmax(2) > 0)


def test_plain_inference_is_that_of_masks_alone():
    predicted = predict(net(), images())
    masks, confidence = predict_masks(net(), images())
    np.testing.assert_array_equal(predicted.masks, masks)
    np.testing.assert_array_equal(predicted.confidence, confidence)
    assert predicted.front is None


def test_a_mirrored_image_gives_mirrored_masks_of_the_other_hands():
    how, model, pictures = Inference(mirrored=True), net(N_CHANNELS + 1), images()
    plain, mirrored = predict(model, pictures, how), predict(model, pictures[:, :, ::-1], how)
    assert (plain.masks == mirrored.masks[:, ::-1, :, ::-1]).mean() > 0.999
    np.testing.assert_allclose(plain.presence, mirrored.presence[:, ::-1], atol=1e-5)
    other = np.array([FRONT_NONE, FRONT_RIGHT, FRONT_LEFT])
    assert (plain.front == other[mirrored.front[:, :, ::-1]]).mean() > 0.98  # undecided where the logit is about 0


def test_no_images_give_nothing():
    predicted = predict(net(), images(0), enlarge=2)
    assert (predicted.masks.shape, predicted.presence.shape) == ((0, 2, 64, 64), (0, 2))


def test_masks_may_be_larger_than_the_images():
    predicted = predict(net(N_CHANNELS + 1), images(), enlarge=4)
    assert (predicted.masks.shape, predicted.front.shape) == ((3, 2, 128, 128), (3, 128, 128))
    small = predict(net(N_CHANNELS + 1), images())
    assert (predicted.masks[:, :, 2::4, 2::4] == small.masks).mean() > 0.6


def test_presence_is_high_for_a_hand_and_low_for_few_pixels_or_none():
    assert presence_of(certain(PALM, 0)).tolist() == [[1, 0]]
    few = certain(PALM, 0, size=32)
    few[:, LEFT, PALM, 4:] = 0
    few[:, LEFT, 0, 4:] = 1
    few[:, LEFT, PALM, :, 2:] = 0
    few[:, LEFT, 0, :, 2:] = 1
    assert 0 < presence_of(few)[0, LEFT] < 0.5


def known(sides):
    """Which hands are known to be there, bool [2]."""
    return torch.tensor([hand in sides for hand in (LEFT, RIGHT)])


@pytest.mark.parametrize(
    ("presence", "sides", "absent"),
    [
        ((0.9, 0.8), (), (False, False)),
        ((0.9, 0.2), (), (False, True)),
        ((0.3, 0.2), (), (False, True)),
        ((0.9, 0.2), (RIGHT,), (True, False)),
        ((0.3, 0.2), (RIGHT,), (True, False)),
        ((0.9, 0.8), (RIGHT,), (False, False)),
        ((0.9, 0.2), (LEFT, RIGHT), (False, False)),
    ],
)
def test_one_hand_at_least_is_there(presence, sides, absent):
    assert absent_hands(torch.tensor([presence]), 0.5, known(sides)).tolist() == [list(absent)]


def test_nothing_is_absent_without_a_threshold():
    assert not absent_hands(torch.zeros(4, 2), 0.0, known(())).any()


def test_an_absent_hands_pixels_go_to_the_other_one():
    hands = certain(PALM, 3)
    alone = without_absent(hands, torch.tensor([[False, True]]))
    assert (alone[0, RIGHT, 0] == 1).all()
    assert (alone[0, LEFT].argmax(0) == PALM).all()
    taken = without_absent(certain(0, 3), torch.tensor([[False, True]]))
    assert (taken[0, LEFT].argmax(0) == 3).all()
    torch.testing.assert_close(taken.sum(2), torch.ones(1, 2, 8, 8))


def test_the_threshold_keeps_the_share_of_absent_hands_below_it():
    presence = np.linspace(0, 1, 101)[:, None].repeat(2, 1)
    there = np.zeros((101, 2), bool)
    there[:, LEFT] = True
    threshold = presence_threshold(presence, there, 0.1)
    assert (presence[:, RIGHT] > threshold).mean() <= 0.1
    assert presence_threshold(presence, np.ones((101, 2), bool), 0.1) == 0


@pytest.mark.parametrize(("logit", "front"), [(5, FRONT_RIGHT), (-5, FRONT_LEFT)])
def test_the_hand_in_front_is_where_a_hand_is(logit, front):
    logits = torch.zeros(N_CHANNELS + 1, 8, 8)
    logits[PALM], logits[N_CLASSES + PALM], logits[ORDER_CHANNEL] = 5, 5, logit
    logits[[0, N_CLASSES], :4] = 9
    predicted = predict(Fixed(logits), images(1, 8)).front[0]
    assert (predicted[:4] == FRONT_NONE).all()
    assert (predicted[4:] == front).all()


def test_half_weights_are_half_the_file_and_the_same_masks(tmp_path):
    model = net(N_CHANNELS + 1)
    save_weights(model, tmp_path / "whole.safetensors", size=32)
    how = {"mirrored": True, "presence": 0.5}
    save_weights(model, tmp_path / "half.safetensors", half=True, size=32, inference=how)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.75 * (tmp_path / "whole.safetensors").stat().st_size
    loaded, notes = load_weights(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert Inference.of(notes) == Inference(**how, size=32)
    assert Inference.of({}) == PLAIN
    assert (predict(loaded, images()).masks == predict(model, images()).masks).mean() > 0.99


def test_the_order_is_learned_where_one_hand_hides_the_other():
    masks, front = torch.zeros(1, 2, 8, 8, dtype=torch.long), torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, :, :4] = PALM
    masks[:, LEFT, 4:6] = PALM
    front[:, :4], front[:, 4:6] = FRONT_RIGHT, FRONT_LEFT
    logits = torch.zeros(1, N_CHANNELS + 1, 8, 8, requires_grad=True)
    order_loss(logits, masks, front).backward()
    slope = logits.grad[0, ORDER_CHANNEL]
    assert (slope[:4] < 0).all()
    assert (slope[4:6] > 0).all()
    assert slope[4:6].max() < 0.1 * slope[:4].abs().min()
    assert (slope[6:] == 0).all()
    assert (logits.grad[0, :N_CHANNELS] == 0).all()


def test_the_presence_loss_asks_that_an_absent_hands_pixels_be_doubted():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.long)
    masks[:, LEFT] = PALM
    logits = (12 * certain(PALM, PALM)).flatten(1, 2).requires_grad_()  # both hands are seen
    loss = presence_loss(logits, masks)
    loss.backward()
    gradient = logits.grad.unflatten(1, (2, N_CLASSES))
    assert loss > 1  # one of the two is not there
    assert (gradient[:, RIGHT, PALM] > 0).all()
    assert (gradient[:, RIGHT, 0] < 0).all()
    assert gradient[:, LEFT].abs().max() < gradient[:, RIGHT].abs().max() / 100
    both = SegmentationLoss("ce", "none", presence=0.5)
    torch.testing.assert_close(both(logits, masks), SegmentationLoss("ce", "none")(logits, masks) + loss / 2)
    assert "presence=0.5" in repr(both)


def test_a_net_starts_from_a_file_and_keeps_the_outputs_that_it_lacks(tmp_path):
    masks_alone, with_order, untouched = net(seed=1), net(N_CHANNELS + 1), net(N_CHANNELS + 1)
    save_weights(masks_alone, tmp_path / "w.safetensors")
    start_from(with_order, tmp_path / "w.safetensors")
    for name, values in with_order.state_dict().items():
        if name.startswith("head"):
            torch.testing.assert_close(values[:N_CHANNELS], masks_alone.state_dict()[name])
            torch.testing.assert_close(values[ORDER_CHANNEL], untouched.state_dict()[name][ORDER_CHANNEL])
        else:
            torch.testing.assert_close(values, masks_alone.state_dict()[name])
    start_from(untouched, None)
    assert not hasattr(untouched, "start")
    wider = create_model("baseline", widths=(8, 8))
    with pytest.raises(WeightsError, match=r"w\.safetensors: a net with widths \(4, 8\); expected \(8, 8\)"):
        start_from(wider, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        start_from(wider, tmp_path / "none.safetensors")
