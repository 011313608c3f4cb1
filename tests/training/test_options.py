"""Options of the adversarial term, the loss, the confidence and the filters; trainings that fail keep a checkpoint."""

import errno
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException
from outage import FailAt, Outage
from torch import nn

from ethand_utils.data.augment import Augmentation, normalise
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import Adversary, MethodError, adversary
from ethand_utils.files import FileError
from ethand_utils.labels import CLASS_WEIGHTS, N_CHANNELS, N_CLASSES, inverse_frequency
from ethand_utils.training import callbacks, losses
from ethand_utils.training.adversarial import (
    Adversarial,
    AgainstTruth,
    Alternating,
    DiscriminatorLoss,
    discriminator_state,
)
from ethand_utils.training.callbacks import TrainingError
from ethand_utils.training.inference import predict_masks
from ethand_utils.training.learner import Phase, to_device, train_phases
from ethand_utils.training.losses import (
    ADVERSARIAL_INPUTS,
    D_CHANNELS,
    LOSSES,
    SegmentationLoss,
    adversarial_loss,
    cross_entropy,
    discriminator_loss,
    one_hot_maps,
    per_hand,
    prediction_maps,
    target_maps,
    weights_of_classes,
)
from ethand_utils.training.models import create_model, load_weights, save_weights
from ethand_utils.training.pseudo_labels import (
    ConfidenceThreshold,
    LabelOnline,
    TopHalfFilter,
    best_of,
    filter_mask,
    foreground_prob,
    label_batch,
    label_store,
    logit_sum,
    pseudo_filter,
)

CPU = torch.device("cpu")
LR = 1e-2


class Spoilt(SegmentationLoss):
    """A loss that is NaN when it is called for the n-th time."""

    def __init__(self, call=None):
        super().__init__()
        self.left = call

    def forward(self, logits, masks):
        self.left = self.left and self.left - 1
        return super().forward(logits, masks) * (float("nan") if self.left == 0 else 1)

    def __repr__(self):
        return "Spoilt"  # the same plan of the training for every `call`


def net(seed=0, arch="baseline", channels=3):
    return to_device(create_model(arch, widths=(4, 8), in_channels=channels, seed=seed), CPU)


def tiny_d(kind="softmax", seed=1):
    return net(seed, "discriminator", D_CHANNELS[kind])


def state(model):
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def random_logits(n=2, size=16, seed=0):
    return torch.randn(n, N_CHANNELS, size, size, generator=torch.Generator().manual_seed(seed))


def random_masks(n=2, size=16, seed=0):
    return torch.randint(N_CLASSES, (n, 2, size, size), generator=torch.Generator().manual_seed(seed))


def fake_learn(**attributes):
    """The attributes of a Learner that a callback reads."""
    return SimpleNamespace(**{"training": True, "at_half_size": False, **attributes})


def after_loss(callback, logits, segmentation):
    """The loss of a callback, given a supervised one."""
    callback.learn = fake_learn(pred=logits, loss_grad=segmentation, loss=segmentation.detach())
    callback.before_train()
    callback.after_loss()
    return callback.learn.loss_grad


@pytest.fixture
def in_float32(monkeypatch):
    """Nets compute in float32 on any processor, for close comparisons."""
    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: False)


@pytest.fixture
def pairs(dataset):
    """DataLoaders of the paired sets, 4 batches of 4 an epoch."""
    return make_dls(dataset["train"], dataset["val"], 4, Augmentation())


@pytest.fixture
def labelled(dataset, make_store):
    """Function that makes DataLoaders of the unpaired images with labels of these confidences, 2 batches of 8."""

    def make(confidence):
        masks = np.asarray(dataset["unpaired_truth"].masks)
        labels = make_store("labels", masks=masks, confidence=np.asarray(confidence, np.float32))
        return make_dls(dataset["unpaired_images"], dataset["val"], 8, Augmentation(), pseudo=labels)

    return make


# D's input.


@pytest.mark.parametrize("kind", ADVERSARIAL_INPUTS)
def test_the_adversarial_term_reaches_the_logits_but_for_argmax(kind):
    logits = random_logits().requires_grad_()
    after_loss(Adversarial(tiny_d(kind), kind), logits, (0 * logits).sum()).backward()
    assert (logits.grad.abs().sum((1, 2, 3)) > 0).all() == (kind != "argmax")
    assert torch.equal(logits.grad, torch.zeros_like(logits)) == (kind == "argmax")


@pytest.mark.parametrize("kind", ADVERSARIAL_INPUTS)
def test_the_term_counts_a_tenth_whatever_d_sees(kind, in_float32):
    d, logits = tiny_d(kind), random_logits()
    expected = 0.9 * 3 + 0.1 * adversarial_loss(d.eval()(prediction_maps(logits, kind))).item()
    callback = Adversarial(d, kind)
    assert after_loss(callback, logits, torch.tensor(3.0)).item() == pytest.approx(expected)
    assert callback.scores() == {"adversarial_loss": pytest.approx((expected - 2.7) / 0.1, rel=1e-4)}


def test_argmax_only_scales_the_supervised_gradient():
    masks, criterion = random_masks(), SegmentationLoss()
    plain, scaled = random_logits().requires_grad_(), random_logits().requires_grad_()
    (0.9 * criterion(plain, masks)).backward()
    after_loss(Adversarial(tiny_d("argmax"), "argmax"), scaled, criterion(scaled, masks)).backward()
    assert torch.equal(scaled.grad, plain.grad)


def test_argmax_shows_d_the_ids_of_both_hands():
    masks = random_masks()
    maps = prediction_maps(5 * one_hot_maps(masks), "argmax")
    assert torch.equal(maps, masks.float())
    assert torch.equal(target_maps(masks, "argmax"), maps)
    assert torch.equal(target_maps(masks, "straight_through"), one_hot_maps(masks))


def test_argmax_looks_at_the_logits_and_not_at_rounded_probabilities():
    logits = torch.zeros(1, N_CHANNELS, 1, 1)
    logits[0, 3], logits[0, 2] = 100.00001, 100.0
    assert prediction_maps(logits, "argmax")[0, 0].item() == 3


def test_the_released_discriminator_gives_a_map_with_a_last_convolution_of_5_by_5(tmp_path):
    widths = (32, 64, 128, 256)
    d = create_model("discriminator_released", widths=widths, in_channels=2, seed=0)
    assert [layer.out_channels for layer in d if isinstance(layer, nn.Conv2d)] == [*widths, 1]
    assert (d[-1].kernel_size, d[-1].stride) == ((5, 5), (1, 1))
    assert d(torch.zeros(2, 2, 128, 128)).shape == (2, 1, 8, 8)
    assert create_model("discriminator", in_channels=2)(torch.zeros(2, 2, 128, 128)).shape == (2, 1, 4, 4)
    save_weights(d, tmp_path / "d.safetensors")
    again, _ = load_weights(tmp_path / "d.safetensors", "discriminator")
    assert state(again) == state(d)


def test_an_adversary_is_no_d_the_profiles_or_the_released_one():
    profile = load_profile("ci", {"adversarial_input": "softmax", "discriminator": "alternating"})
    assert adversary("none", profile) is None
    assert adversary("profile", profile) == Adversary("softmax", "alternating", "d")
    assert adversary("released", profile) == Adversary("argmax", "frozen", "d_argmax")
    with pytest.raises(MethodError, match="expected one of none, profile, released"):
        adversary("on", profile)


@pytest.mark.parametrize(
    ("loss", "says"), [(0.0, "saturated"), (0.5, "useful"), (2 * np.log(2), "guesses"), (3.0, "guesses")]
)
def test_a_saturated_or_guessing_d_is_named(loss, says):
    assert says in discriminator_state(loss)


# Alternating D.


def test_an_alternating_d_takes_one_step_of_adam_on_predictions_and_truth_a_batch(in_float32):
    d, twin, logits, masks = tiny_d(), tiny_d(), random_logits(), random_masks()
    callback = Alternating(d, lr=0.1)
    callback.learn = fake_learn(pred=logits, yb=(masks,), iter=0)
    callback.before_fit()
    callback.before_train()
    callback.after_step()
    opt = torch.optim.Adam(twin.parameters(), 0.1)
    loss = discriminator_loss(*twin.train()(torch.cat([prediction_maps(logits), target_maps(masks)])).chunk(2))
    loss.backward()
    opt.step()
    for ours, expected in zip(d.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, expected)
    assert callback.terms["d_loss"][0].item() == pytest.approx(loss.item())
    assert not d.training
    assert not any(p.requires_grad for p in d.parameters())


def test_an_alternating_d_is_in_evaluation_mode_in_the_step_of_g2():
    d, logits = tiny_d(), random_logits()
    before, expected = state(d), adversarial_loss(tiny_d().eval()(prediction_maps(logits))).item()
    total = after_loss(Alternating(d), logits, torch.tensor(0.0))
    assert total.item() == pytest.approx(0.1 * expected, rel=1e-4)
    assert state(d) == before


def adversarial_training(folder, pairs, labelled, kind, fail=(None, 0, 0)):
    """Two cycles against D; returns the bytes of G2 and D."""
    d = tiny_d()
    adversarial = (Alternating(d, lr=1e-3) if kind == "alternating" else Adversarial(d),)
    unpaired = labelled(np.linspace(0, 1, 16))
    phases = []
    for part in range(4):  # every phase may fail, so that the plan is the same whether it does or not
        fails = FailAt(*fail[1:]) if part == fail[0] else FailAt()
        if part % 2:
            phases.append(Phase("paired", pairs, 2, LR, (*adversarial, fails)))
        else:
            phases.append(Phase("unpaired", unpaired, 1, LR, (ConfidenceThreshold(0.3), fails)))
    learn = train_phases(net(), SegmentationLoss(), phases, folder)
    return state(learn.model), state(d)


def test_only_an_alternating_d_moves_and_its_losses_are_in_the_history(pairs, labelled, tmp_path):
    moved = {}
    for kind in ("frozen", "alternating"):
        moved[kind] = adversarial_training(tmp_path / kind, pairs, labelled, kind)
        history = pd.read_csv(tmp_path / kind / "history.csv")
        paired = history["phase"] == "paired"
        assert history["adversarial_loss"].notna().tolist() == paired.tolist()
        assert ("d_loss" in history) == (kind == "alternating")
    assert moved["frozen"][1] == state(tiny_d())
    assert moved["alternating"][1] != moved["frozen"][1]
    assert moved["alternating"][0] != moved["frozen"][0]


@pytest.mark.parametrize("fail", [(1, 0, 2), (1, 1, 0), (2, 0, 1), (3, 1, 3)])
def test_an_interrupted_training_resumes_with_its_d(fail, pairs, labelled, tmp_path, capsys):
    whole = adversarial_training(tmp_path / "whole", pairs, labelled, "alternating")
    with pytest.raises(Outage):
        adversarial_training(tmp_path / "parts", pairs, labelled, "alternating", fail)
    assert adversarial_training(tmp_path / "parts", pairs, labelled, "alternating") == whole
    assert f"goes on after epoch {(0, 1, 3, 4)[fail[0]] + fail[1]} of 6" in capsys.readouterr().out


def test_another_d_or_another_option_is_another_plan(pairs):
    cbs = [
        Adversarial(tiny_d()),
        Adversarial(tiny_d(seed=2)),
        Adversarial(tiny_d(), "straight_through"),
        Alternating(tiny_d()),
        Alternating(tiny_d(), lr=1.0),
        AgainstTruth(net()),
        AgainstTruth(net(), "straight_through"),
        AgainstTruth(net(3)),
        LabelOnline(net()),
        LabelOnline(net(), "logit_sum"),
        TopHalfFilter(),
        ConfidenceThreshold(0.5),
        ConfidenceThreshold(0.6),
    ]
    assert len({Phase("a", pairs, 1, LR, (callback,)).description for callback in cbs}) == len(cbs)
    assert (
        Phase("a", pairs, 1, LR, (Adversarial(tiny_d()),)).description
        == Phase("a", pairs, 1, LR, (Adversarial(tiny_d()),)).description
    )


@pytest.mark.parametrize("kind", ADVERSARIAL_INPUTS)
def test_a_discriminator_learns_whatever_it_sees(kind, pairs, tmp_path):
    train_phases(tiny_d(kind), DiscriminatorLoss(), [Phase("d", pairs, 10, LR, (AgainstTruth(net(), kind),))], tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["train_loss"].iloc[-1] < 0.8 * history["train_loss"].iloc[0]
    assert history["images"].tolist() == [16] * 10


# The loss.


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_over_hands_is_half_their_sum(loss):
    logits, masks = random_logits(), random_masks()
    total, mean = (SegmentationLoss(loss, hands=hands)(logits, masks) for hands in ("sum", "mean"))
    assert mean.item() == pytest.approx(total.item() / 2)


def test_the_mean_over_hands_by_hand():
    logits, masks = torch.zeros(1, N_CHANNELS, 1, 1), torch.zeros(1, 2, 1, 1, dtype=torch.long)
    logits[0, 0], masks[0, 1] = np.log(16), 3  # the left is right with p = 1/2, the right with p = 1/17
    expected = (np.log(2) + np.log(17)) / 2
    assert SegmentationLoss("ce", "none", "mean")(logits, masks).item() == pytest.approx(expected, rel=1e-5)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(EthandError, match=r"hands 'max': unknown .*; expected one of sum, mean"):
        SegmentationLoss(hands="max")


def test_inverse_frequency_lets_every_part_that_is_seen_weigh_the_same():
    counts = np.array([900, 30, 60, 0, *[10] * 13])
    weights = np.array(inverse_frequency(counts))
    np.testing.assert_allclose((weights * counts)[counts > 0], 10)
    assert weights.max() == weights[3] == 1
    assert np.isfinite(weights).all()


def test_inverse_frequency_is_counted_over_all_masks(monkeypatch):
    masks = random_masks(5, 8).numpy().astype(np.uint8)
    masks[:3, 0] = 0
    expected = inverse_frequency(np.bincount(masks.ravel(), minlength=N_CLASSES))
    assert weights_of_classes("inverse_frequency", masks) == expected
    monkeypatch.setattr(losses, "CHUNK", 2)
    assert weights_of_classes("inverse_frequency", masks) == expected
    logits = random_logits(5, 8)
    loss = SegmentationLoss("ce", "inverse_frequency", masks=masks)(logits, torch.from_numpy(masks).long())
    assert loss == cross_entropy(logits, torch.from_numpy(masks).long(), torch.tensor(expected))


def test_fixed_weights_need_no_masks_and_counted_ones_do():
    assert weights_of_classes("released_new") == CLASS_WEIGHTS["released_new"]
    with pytest.raises(EthandError, match="expected the masks to train on"):
        SegmentationLoss("ce", "inverse_frequency")
    with pytest.raises(EthandError, match="expected one of none, released, released_new, inverse_frequency"):
        weights_of_classes("heavy")


# Confidence.


def test_foreground_prob_is_the_mean_probability_of_predicted_parts_and_that_of_predictions(dataset):
    images = np.array(dataset["test"].images)
    _, expected = predict_masks(net(), images)
    _, found = label_batch(net().eval(), normalise(torch.from_numpy(images)), "foreground_prob")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert foreground_prob(one_hot_maps(torch.zeros(1, 2, 4, 4, dtype=torch.long))).item() == 0


def test_logit_sum_adds_up_the_largest_logits_of_both_hands():
    logits = torch.zeros(2, N_CHANNELS, 2, 2)
    logits[0, 5], logits[0, 17] = 3.0, 0.5
    logits[1] = -1.0
    assert logit_sum(logits).tolist() == [4 * 3.5, 8 * -1.0]


def test_background_decides_the_sum_of_logits_and_not_the_foregrounds_probability():
    sure_part, sure_background = torch.zeros(1, N_CHANNELS, 8, 8), torch.zeros(1, N_CHANNELS, 8, 8)
    for logits, part, background in ((sure_part, 9.0, 3.0), (sure_background, 2.0, 9.0)):
        hands = per_hand(logits)
        hands[:, :, 0] = background
        hands[:, :, :, 0, 0], hands[:, :, 7, 0, 0] = 0, part
    assert foreground_prob(sure_part) > foreground_prob(sure_background)
    assert logit_sum(sure_part) < logit_sum(sure_background)


def test_labels_of_another_confidence_are_replaced(dataset, tmp_path):
    images, path = dataset["unpaired_images"], tmp_path / "labels"
    first = np.array(label_store(net(), images, path, "a").confidence)
    second = label_store(net(), images, path, "a", "logit_sum")
    assert second.meta["confidence"] == "logit_sum"
    assert not np.allclose(first, second.confidence)
    assert np.array_equal(label_store(net(), images, path, "a", "logit_sum").confidence, second.confidence)


# The filter.

SURE = np.arange(16) / 16  # confidences


@pytest.mark.parametrize(
    ("name", "threshold", "kept"), [("dataset_half", None, 8), ("threshold", 0.75, 4), ("none", None, 16)]
)
def test_a_filter_of_the_data_set_keeps_the_most_confident_of_all(name, threshold, kept):
    chosen = pseudo_filter(name, SURE, threshold)
    found = filter_mask(chosen, SURE, 4)
    assert np.array_equal(found, SURE[16 - kept] <= SURE)
    callback_keeps = [through(chosen, SURE[start : start + 4]) for start in range(0, 16, 4)]
    assert np.array_equal(np.concatenate(callback_keeps), SURE[found])


def through(callback, confidence):
    """The confidences of a batch, as its masks, that a filter keeps."""
    masks = torch.from_numpy(confidence).view(-1, 1, 1, 1)
    callback.learn = fake_learn(xb=(masks,), yb=(masks, torch.from_numpy(confidence)))
    callback.before_train()
    try:
        callback.before_batch()
    except CancelBatchException:
        return np.zeros(0)
    assert torch.equal(callback.learn.xb[0], callback.learn.yb[0])
    return callback.learn.yb[0].flatten().numpy()


def test_batch_half_keeps_half_of_every_batch_whatever_the_confidence():
    chosen = pseudo_filter("batch_half", SURE)
    assert isinstance(chosen, TopHalfFilter)
    assert filter_mask(chosen, SURE, 4).sum() == 8
    assert filter_mask(chosen, SURE, 4)[:8].any()


def test_an_unknown_filter_and_a_threshold_above_all_labels_are_refused():
    with pytest.raises(EthandError, match="expected one of batch_half, dataset_half, threshold, none"):
        pseudo_filter("half", SURE)
    with pytest.raises(TrainingError, match=r"pseudo_threshold: 0\.95, but the highest of 16 labels is 0\.9375"):
        pseudo_filter("threshold", SURE, 0.95)


def test_the_best_come_first_and_nan_last():
    assert best_of(np.array([0.1, np.nan, 0.9, 0.5]), 2).tolist() == [False, False, True, True]
    assert best_of(np.array([0.1, np.nan, 0.9, 0.5]), 3).tolist() == [True, False, True, True]


@pytest.mark.parametrize(("threshold", "images"), [(-np.inf, 16), (0.5, 8), (0.75, 4)])
def test_a_training_sees_only_what_passes_the_threshold(threshold, images, labelled, tmp_path):
    phase = Phase("unpaired", labelled(SURE), 2, LR, (ConfidenceThreshold(threshold),))
    train_phases(net(), SegmentationLoss(), [phase], tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["images"].between(images - 2, images).all()  # a batch with a single one is skipped
    assert np.isfinite(history[["train_loss", "valid_loss"]].to_numpy()).all()


def test_a_batch_below_the_threshold_is_skipped_without_a_step(labelled, tmp_path):
    steps = []

    class Count(Callback):
        def after_step(self):
            steps.append(len(self.yb[0]))

    confidence = np.zeros(16)
    confidence[:2] = 1
    dls = labelled(confidence)
    for epoch in range(20):  # an epoch in which the two sure ones share a batch
        dls.train.epoch = epoch
        if len({dls.train.get_idxs().index(i) // 8 for i in (0, 1)}) == 1:
            break
    phase = Phase("u", dls, 1, LR, (StartAt(epoch), ConfidenceThreshold(0.5), Count()))
    train_phases(net(), SegmentationLoss(), [phase], tmp_path)
    assert steps == [2]
    assert pd.read_csv(tmp_path / "history.csv")["images"].tolist() == [2]


class StartAt(Callback):
    """Gives an epoch the sample order of another one."""

    order = 80

    def __init__(self, epoch):
        self.number = epoch

    def before_train(self):
        self.dls.train.epoch = self.number - 1


def test_an_epoch_in_which_no_label_passes_is_an_error(labelled, tmp_path):
    with pytest.raises(TrainingError, match="no pseudo-labels with a confidence of 2; lower pseudo_threshold"):
        train_phases(
            net(), SegmentationLoss(), [Phase("u", labelled(SURE), 1, LR, (ConfidenceThreshold(2.0),))], tmp_path
        )


# Labelling.


def test_online_labels_are_g1s_predictions_of_the_augmented_batch_in_evaluation_mode():
    g1 = net().train()
    before = state(g1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    callback = LabelOnline(g1, "logit_sum")
    callback.learn = fake_learn(xb=(images,), yb=(random_masks(4, 32), torch.zeros(4)))
    callback.before_batch()
    masks, confidence = callback.learn.yb
    logits = net().eval()(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(masks, per_hand(logits).argmax(2))
    assert torch.allclose(confidence, logit_sum(logits))
    assert state(g1) == before
    assert not confidence.requires_grad


def test_online_labels_come_before_the_filter_and_leave_validation_alone(labelled, tmp_path):
    batches = []

    class Watch(Callback):
        order = 30

        def before_batch(self):
            batches.append((self.training, len(self.yb), len(self.yb[0])))

    cbs = (LabelOnline(net(1)), TopHalfFilter(), Watch())
    online = train_phases(net(), SegmentationLoss(), [Phase("u", labelled(SURE), 1, LR, cbs)], tmp_path / "a").model
    assert batches == [(True, 1, 4), (True, 1, 4), (False, 1, 8)]
    offline = Phase("u", labelled(SURE), 1, LR, (TopHalfFilter(),))
    assert state(train_phases(net(), SegmentationLoss(), [offline], tmp_path / "b").model) != state(online)


# Failures.


def trained(folder, pairs, loss, epochs=3, cbs=()):
    return train_phases(net(), loss, [Phase("paired", pairs, epochs, LR, cbs)], folder)


def test_a_nan_in_a_later_epoch_names_it_and_keeps_the_state_and_history_before_it(pairs, tmp_path):
    whole = trained(tmp_path / "whole", pairs, Spoilt())
    with pytest.raises(TrainingError, match=r"paired epoch 2/3 \(the state of epoch 1 is kept\): .*nan in batch 2;"):
        trained(tmp_path / "run", pairs, Spoilt(call=8))  # 4 batches and the validation's, then 3
    assert pd.read_csv(tmp_path / "run/history.csv")["epoch"].tolist() == [1]
    assert state(trained(tmp_path / "run", pairs, Spoilt()).model) == state(whole.model)


def test_weights_that_are_not_finite_are_never_kept(pairs, tmp_path):
    class LastStep(Callback):
        def after_step(self):
            if self.iter == self.n_iter - 1 and self.epoch == 1:
                next(self.learn.model.parameters()).data.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"epoch 2/3 \(the state of epoch 1 is kept\): its last step left weights"):
        trained(tmp_path, pairs, SegmentationLoss(), cbs=(LastStep(),))
    kept = torch.load(tmp_path / "state/last.pt", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values())
    assert len(kept["rows"]) == 1


def test_an_adversarial_term_that_is_not_finite_stops_before_the_step(pairs, tmp_path):
    d, model = tiny_d(), net()
    d[-1].bias.data.fill_(float("nan"))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TrainingError, match="the loss is nan in batch 0"):
        train_phases(model, SegmentationLoss(), [Phase("paired", pairs, 1, LR, (Adversarial(d),))], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full from its n-th file on: `disk.room = n`."""
    disk, write = SimpleNamespace(room=10**6), Path.write_bytes

    def write_bytes(path, content):
        disk.room -= 1
        if disk.room < 0:
            write(path, bytes(content)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    return disk


def test_a_full_disk_stops_a_training_that_resumes_when_there_is_room(disk, pairs, tmp_path):
    whole = trained(tmp_path / "whole", pairs, SegmentationLoss())
    disk.room = 1
    with pytest.raises(FileError, match=r"epoch 2/3 \(the state of epoch 1 is kept\): .*last\.pt.*free some") as caught:
        trained(tmp_path / "run", pairs, SegmentationLoss())
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == ["history.csv", "last.pt", "state", "train.log"]
    disk.room = 10**6
    assert state(trained(tmp_path / "run", pairs, SegmentationLoss()).model) == state(whole.model)


def test_a_full_disk_leaves_older_weights_and_the_state_to_make_new_ones(disk, pairs, tmp_path):
    save_weights(net(5), tmp_path / "weights.safetensors")
    learn = trained(tmp_path, pairs, SegmentationLoss(), epochs=1)
    disk.room = 0
    with pytest.raises(FileError, match=r"weights\.safetensors: could not be written"):
        save_weights(learn.model, tmp_path / "weights.safetensors")
    assert (tmp_path / "state/last.pt").exists()
    assert state(load_weights(tmp_path / "weights.safetensors")[0]) == state(net(5))


def test_a_history_that_lags_behind_the_state_is_caught_up(pairs, tmp_path):
    trained(tmp_path, pairs, SegmentationLoss(), epochs=2)
    written = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text("\n".join(written.splitlines()[:2]) + "\n")
    trained(tmp_path, pairs, SegmentationLoss(), epochs=2)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), pd.read_csv(StringIO(written)))
