"""Trainings, their callbacks, and pseudo-labels."""

import contextlib
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.metrics import AvgMetric
from outage import FailAt, Outage
from torch import nn

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.data.store import StoreError
from ethand_utils.experiments.run import save_result
from ethand_utils.labels import N_CHANNELS
from ethand_utils.training import callbacks, learner
from ethand_utils.training.adversarial import (
    Adversarial,
    AgainstTruth,
    Alternating,
    DiscriminatorLoss,
    discriminator_accuracy,
)
from ethand_utils.training.callbacks import CourseMIoU, FiniteLoss, TrainingError, autocast_bf16
from ethand_utils.training.inference import predict_masks
from ethand_utils.training.learner import Phase, one_cycle, to_device, train_phases
from ethand_utils.training.losses import (
    ADVERSARIAL_INPUTS,
    D_CHANNELS,
    SegmentationLoss,
    adversarial_loss,
    cross_entropy,
    one_hot_maps,
    prediction_maps,
    target_maps,
)
from ethand_utils.training.metrics import course_miou
from ethand_utils.training.models import create_model, load_weights, save_weights
from ethand_utils.training.pseudo_labels import (
    TopHalfFilter,
    kept_per_batch,
    label_store,
    top_half_mask,
    true_quality,
)

CPU = torch.device("cpu")
LR = 1e-2


def net(seed=0, arch="baseline", channels=3):
    return to_device(create_model(arch, widths=(4, 8), in_channels=channels, seed=seed), CPU)


def tiny_d(kind="softmax", seed=0):
    return net(seed, arch="discriminator", channels=D_CHANNELS[kind])


def state(model):
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def outputs_and_gradient(function, logits):
    """What a function makes of logits, and the gradient of its sum of squares."""
    logits = logits.detach().requires_grad_()
    outputs = function(logits)
    return outputs, torch.autograd.grad((outputs**2).sum(), logits)[0]


@pytest.mark.parametrize("channels", [N_CHANNELS, N_CHANNELS + 1])
def test_losses_and_maps_are_those_of_pytorch_in_either_layout(channels):
    masks, weights = random_masks(3), torch.rand(17, generator=torch.Generator().manual_seed(1))
    hands = [slice(0, 17), slice(17, 34)]

    def plain_ce(logits):
        return sum(nn.functional.cross_entropy(logits[:, h], masks[:, k], weights) for k, h in enumerate(hands))

    def plain_maps(logits):
        return torch.cat([logits[:, hand].softmax(1) for hand in hands], 1)

    pairs = ((lambda x: cross_entropy(x, masks, weights), plain_ce), (prediction_maps, plain_maps))
    for seed in range(10):
        logits = 3 * torch.randn(3, channels, 16, 16, generator=torch.Generator().manual_seed(seed))
        for layout in (torch.contiguous_format, torch.channels_last):
            for ours, plain in pairs:
                found, expected = (outputs_and_gradient(f, logits.to(memory_format=layout)) for f in (ours, plain))
                for one, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def random_masks(n=4, size=16, seed=0):
    return torch.randint(17, (n, 2, size, size), generator=torch.Generator().manual_seed(seed))


def fake_learn(**attributes):
    """The attributes of a Learner that a callback reads."""
    return SimpleNamespace(**{"training": True, "at_half_size": False, **attributes})


@pytest.fixture
def in_float32(monkeypatch):
    """Nets compute in float32 on any processor, for close comparisons."""
    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: False)


@pytest.fixture
def pairs(dataset):
    """Function that makes DataLoaders of the paired sets, 4 batches of 4 an epoch."""
    return lambda seed=0, bs=4: make_dls(dataset["train"], dataset["val"], bs, Augmentation(), seed)


@pytest.fixture
def train(pairs, tmp_path):
    """Function that trains a tiny net for phases of `epochs` in `folder`, from scratch or from a checkpoint."""

    def run(folder, epochs, fail=(None, 0, 0), seed=0, lr=LR, schedule="constant", metrics=()):
        # Every phase has one, so that the plan is the same whether it fails or not.
        fails = [(FailAt(*fail[1:]) if i == fail[0] else FailAt(),) for i in range(len(epochs))]
        phases = [Phase(f"phase {i}", pairs(seed), n, lr / (i + 1), fails[i]) for i, n in enumerate(epochs)]
        return train_phases(net(seed), SegmentationLoss(), phases, tmp_path / folder, seed, schedule, metrics).model

    return run


def test_history_has_a_row_an_epoch_with_phases_losses_and_metrics(train, tmp_path):
    train("run", (2, 1), metrics=(CourseMIoU(),))
    history = pd.read_csv(tmp_path / "run/history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["phase"].tolist() == ["phase 0", "phase 0", "phase 1"]
    assert np.isfinite(history[["train_loss", "valid_loss", "course_miou"]].to_numpy()).all()
    assert history["lr"].tolist() == pytest.approx([LR, LR, LR / 2])


@pytest.mark.parametrize("loss", ["ce", "ce_dice"])
def test_loss_falls_on_a_batch_that_is_overfitted(loss, make_store, dataset, tmp_path):
    few = make_store("few", images=dataset["train"].images[:4], masks=dataset["train"].masks[:4])
    plain = Augmentation(0, 0, 0, 0, 0)
    train_phases(net(), SegmentationLoss(loss), [Phase("one", make_dls(few, few, 4, plain), 20, 3 * LR)], tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert (np.diff(history["train_loss"]) < 0).mean() > 0.8
    for kind in ("train_loss", "valid_loss"):
        assert history[kind].iloc[-1] < 0.8 * history[kind].iloc[0]


def test_same_seed_gives_same_weights_and_another_seed_others(train):
    first, again, other = train("a", (2,)), train("b", (2,)), train("c", (2,), seed=1)
    assert state(first) == state(again)
    assert state(first) != state(other)


def test_training_ignores_the_global_seed(train):
    torch.manual_seed(1)
    first = train("a", (1,))
    torch.manual_seed(2)
    np.random.seed(2)
    assert state(train("b", (1,))) == state(first)


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
@pytest.mark.parametrize(
    ("epochs", "fail"),
    [
        ((3,), (0, 0, 1)),
        ((3,), (0, 1, 2)),
        ((3,), (0, 2, 0)),
        ((2, 2), (0, 1, 1)),
        ((2, 2), (1, 0, 0)),
        ((2, 2), (1, 1, 3)),
    ],
)
def test_an_interrupted_training_ends_with_the_bytes_of_an_uninterrupted_one(
    train, epochs, fail, schedule, tmp_path, capsys
):
    whole = train("whole", epochs, schedule=schedule)
    with pytest.raises(Outage):
        train("parts", epochs, fail, schedule=schedule)
    assert state(train("parts", epochs, schedule=schedule)) == state(whole)
    complete = sum(epochs[: fail[0]]) + fail[1]
    assert (f"goes on after epoch {complete} of {sum(epochs)}" in capsys.readouterr().out) == (complete > 0)
    columns = ["epoch", "phase", "valid_loss", "lr"]
    whole, parts = (pd.read_csv(tmp_path / name / "history.csv")[columns] for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(whole, parts)


class FailsBeforeStep(Callback):
    """Raises Outage when the third batch has its gradients."""

    def before_step(self):
        if self.iter == 2:
            raise Outage("power cut")


@pytest.mark.parametrize("fail", [FailAt(0, 2), FailsBeforeStep()])
def test_the_same_objects_train_again_after_an_interruption_in_the_first_epoch(fail, train, pairs, tmp_path):
    model, phases = net(), [Phase("phase 0", pairs(), 2, LR, (fail,))]
    with pytest.raises(Outage):
        train_phases(model, SegmentationLoss(), phases, tmp_path / "parts")
    assert state(model) == state(net())
    phases[0].cbs = (FailAt(),)
    assert state(train_phases(model, SegmentationLoss(), phases, tmp_path / "parts").model) == state(
        train("whole", (2,))
    )


def test_a_training_interrupted_twice_goes_on_twice(train):
    for fail in ((0, 1, 0), (1, 0, 1)):
        with pytest.raises(Outage):
            train("parts", (2, 2), fail)
    assert state(train("parts", (2, 2))) == state(train("whole", (2, 2)))


def test_seconds_go_on_counting_when_a_training_goes_on(train, monkeypatch, tmp_path):
    ticks = itertools.count()
    monkeypatch.setattr(learner, "time", SimpleNamespace(time=lambda: float(next(ticks))))
    with pytest.raises(Outage):
        train("parts", (4,), (0, 3, 0))
    ticks = itertools.count(1000)
    train("parts", (4,))
    assert pd.read_csv(tmp_path / "parts/history.csv")["seconds"].is_monotonic_increasing


def test_time_left_is_right_in_the_second_phase(train, monkeypatch, capsys):
    class Clock(Callback):
        now = 0.0

        def before_epoch(self):
            Clock.now += 10

    monkeypatch.setattr(learner, "time", SimpleNamespace(time=lambda: Clock.now))
    monkeypatch.setattr(learner, "FiniteLoss", Clock)  # any callback that train_phases adds will do
    train("run", (2, 2))
    assert re.findall(r"(\d+) s left", capsys.readouterr().out) == ["30", "20", "10", "0"]


def test_the_checkpoint_of_another_plan_is_ignored(train):
    with pytest.raises(Outage):
        train("parts", (3,), (0, 2, 0))
    assert state(train("parts", (3,), lr=LR / 10)) == state(train("fresh", (3,), lr=LR / 10))


def test_a_complete_training_is_not_trained_again(train, monkeypatch, tmp_path):
    first = train("run", (2,))
    before = (tmp_path / "run/history.csv").read_bytes()
    monkeypatch.delattr(learner.Learner, "fit")
    assert state(train("run", (2,))) == state(first)
    assert (tmp_path / "run/history.csv").read_bytes() == before


def test_final_weights_keep_the_checkpoint_and_the_result_removes_it(train, pairs, tmp_path):
    learn = train_phases(net(), SegmentationLoss(), [Phase("one", pairs(), 1, LR)], tmp_path)
    save_weights(learn.model, tmp_path / "weights.safetensors", size=32, row="g1")
    model, notes = load_weights(tmp_path / "weights.safetensors")
    assert notes == {"size": 32, "row": "g1"}
    assert state(model) == state(learn.model)
    assert (tmp_path / "state").exists()
    save_result(tmp_path, row="g1")
    assert not (tmp_path / "state").exists()


def test_history_counts_the_images_of_every_epoch(pairs, tmp_path):
    train_phases(net(), SegmentationLoss(), [Phase("all", pairs(), 1, LR), Phase("rest", pairs(bs=5), 1, LR)], tmp_path)
    assert pd.read_csv(tmp_path / "history.csv")["images"].tolist() == [16, 15]


def test_learning_rate_is_constant_in_each_phase(pairs, tmp_path):
    watch = FailAt()
    phases = [Phase("one", pairs(), 1, LR, (watch,)), Phase("two", pairs(), 1, LR / 2, (watch,))]
    train_phases(net(), SegmentationLoss(), phases, tmp_path)
    assert watch.rates == [LR] * 4 + [LR / 2] * 4


def test_one_cycle_runs_once_over_all_phases(pairs, tmp_path):
    watch = FailAt()
    phases = [Phase(name, pairs(), 1, LR, (watch,)) for name in "abcd"]
    train_phases(net(), SegmentationLoss(), phases, tmp_path, schedule="one_cycle")
    rates = np.array(watch.rates) / LR
    assert len(rates) == 16
    assert rates[0] == pytest.approx(0.04)
    assert rates.argmax() == 4
    assert rates[4] == pytest.approx(1)
    assert (np.diff(rates[:5]) > 0).all()
    assert (np.diff(rates[4:]) < 0).all()
    assert rates[-1] < 0.05


class Sizes(Callback):
    """Notes the sides of images, masks and predictions of every batch, with whether it is one of training."""

    order = 90

    def __init__(self):
        self.sides = []

    def after_loss(self):
        tensors = (self.xb[0], self.pred, *self.yb)
        self.sides.append((self.training, {side for tensor in tensors for side in tensor.shape[-2:]}))


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize(("share", "halved"), [(0.0, 0), (0.01, 1), (0.5, 6), (0.65, 8), (0.99, 12)])
def test_the_first_share_of_all_phases_has_half_the_size_and_validation_never(share, halved, front, dataset, tmp_path):
    dls, sizes = make_dls(dataset["train"], dataset["val"], 4, Augmentation(), front=front), Sizes()
    phases = [Phase("a", dls, 1, LR, (sizes,)), Phase("b", dls, 2, LR, (sizes,))]
    model = create_model("baseline", widths=(4, 8), out_channels=N_CHANNELS + front, seed=0)
    train_phases(to_device(model, CPU), SegmentationLoss(), phases, tmp_path, half_size_share=share)
    whole = dataset["train"].size
    trained = [sides for training, sides in sizes.sides if training]
    assert trained == halved * [{whole // 2}] + (12 - halved) * [{whole}]
    assert all(sides == {whole} for training, sides in sizes.sides if not training)


def test_another_share_at_half_the_size_is_another_plan(pairs, tmp_path):
    states = [
        state(train_phases(net(), SegmentationLoss(), [Phase("a", pairs(), 1, LR)], tmp_path, half_size_share=s).model)
        for s in (0.0, 0.5, 0.6)
    ]
    assert len(set(states)) == 3


def test_at_half_the_size_d_judges_nothing_and_does_not_learn(pairs, tmp_path):
    for share, judged in ((0.0, [True, True]), (0.5, [False, True]), (0.99, [False, False])):
        d = tiny_d()
        phase = Phase("paired", pairs(), 2, LR, (Alternating(d, lr=1e-2),))
        train_phases(net(), SegmentationLoss(), [phase], tmp_path / str(share), half_size_share=share)
        history = pd.read_csv(tmp_path / str(share) / "history.csv")
        for term in ("adversarial_loss", "d_loss"):
            assert [bool(one) for one in history.get(term, pd.Series([np.nan] * 2)).notna()] == judged
        assert (state(d) != state(tiny_d())) == any(judged)


def test_one_cycle_stays_above_zero():
    assert one_cycle(1.0) == pytest.approx(1e-3)
    assert min(one_cycle(share) for share in np.linspace(0, 1, 101)) > 0


def test_an_unknown_schedule_is_refused(train):
    with pytest.raises(TrainingError, match="expected one of constant, one_cycle"):
        train("run", (1,), schedule="cosine")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_batch(value, pairs, tmp_path):
    class Broken(SegmentationLoss):
        calls = 0

        def forward(self, logits, masks):
            self.calls += 1
            return super().forward(logits, masks) * (value if self.calls == 3 else 1)

    with pytest.raises(TrainingError, match=r"one epoch 1/1 .*loss is (nan|inf) in batch 2;") as caught:
        train_phases(net(), Broken(), [Phase("one", pairs(), 1, LR)], tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "history.csv").exists()


def test_only_training_losses_must_be_finite():
    callback = FiniteLoss()
    callback.learn = fake_learn(loss=torch.tensor(float("nan")), training=False)
    callback.after_loss()
    callback.learn = fake_learn(loss=torch.tensor(float("nan")), iter=3)
    with pytest.raises(TrainingError, match="batch 3"):
        callback.after_loss()


@pytest.mark.parametrize(("bs", "kept"), [(1, 1), (2, 1), (8, 4), (32, 16)])
def test_half_of_a_batch_is_kept_and_never_nothing(bs, kept):
    assert kept_per_batch(bs) == kept


def test_top_half_filter_keeps_the_more_confident_half_with_its_own_labels():
    confidence = torch.tensor([0.3, 0.9, 0.1, 0.8, 0.5, 0.7, 0.2, 0.6])
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    masks = torch.arange(8).view(8, 1, 1, 1).expand(8, 2, 4, 4)
    callback = TopHalfFilter()
    callback.learn = fake_learn(xb=(images,), yb=(masks, confidence))
    callback.before_batch()
    assert callback.learn.xb[0][:, 0, 0, 0].tolist() == [1, 3, 5, 7]
    assert len(callback.learn.yb) == 1
    assert callback.learn.yb[0][:, 1, 3, 3].tolist() == [1, 3, 5, 7]


def test_top_half_filter_leaves_validation_alone():
    callback = TopHalfFilter()
    callback.learn = fake_learn(xb=(torch.zeros(4, 3, 2, 2),), yb=(random_masks(),), training=False)
    callback.before_batch()
    assert len(callback.learn.xb[0]) == len(callback.learn.yb[0]) == 4


def test_the_unpaired_half_trains_on_pseudo_labels(dataset, tmp_path):
    pseudo = label_store(net(1), dataset["unpaired_images"], tmp_path / "labels", "a")
    dls = make_dls(dataset["unpaired_images"], dataset["val"], 8, Augmentation(), pseudo=pseudo)
    sizes = []

    class Watch(Callback):
        order = 30

        def before_batch(self):
            sizes.append((self.training, len(self.xb[0])))

    train_phases(net(), SegmentationLoss(), [Phase("unpaired", dls, 1, LR, (TopHalfFilter(), Watch()))], tmp_path)
    assert sizes == [(True, 4), (True, 4), (False, 8)]
    assert pd.read_csv(tmp_path / "history.csv")["images"].tolist() == [8]


def test_autocast_returns_float32_and_leaves_the_net_as_it_was(monkeypatch):
    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: True)
    layer, images = nn.Conv2d(3, 2, 1), torch.rand(2, 3, 4, 4)
    before = layer(images)
    with autocast_bf16(layer):
        during = layer(images)
    assert during.dtype == torch.float32
    assert not torch.equal(during, before)
    assert torch.allclose(during, before, atol=0.05)
    assert torch.equal(layer(images), before)


def test_autocast_ends_even_if_the_net_fails(pairs, monkeypatch, tmp_path):
    class Broken(nn.Conv2d):
        recipe = None

        def forward(self, images):
            raise Outage("out of memory")

    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: True)
    with pytest.raises(Outage):
        train_phases(Broken(3, 2, 1), SegmentationLoss(), [Phase("one", pairs(), 1, LR)], tmp_path)
    left_on = torch.is_autocast_enabled("cpu")
    torch.set_autocast_enabled("cpu", False)
    assert not left_on


@pytest.mark.parametrize("fail_at", [(None,), (0, 1)])
@torch.no_grad()
def test_after_a_training_even_an_interrupted_one_the_net_is_in_full_precision(fail_at, pairs, monkeypatch, tmp_path):
    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: True)
    model, fresh, images = net(), net(), torch.rand(2, 3, 32, 32)
    with torch.enable_grad(), contextlib.suppress(Outage):
        train_phases(model, SegmentationLoss(), [Phase("one", pairs(), 1, LR, (FailAt(*fail_at),))], tmp_path)
    fresh.load_state_dict(model.state_dict())
    same = torch.equal(model.eval()(images), fresh.eval()(images))
    assert same


@pytest.mark.parametrize("kind", ADVERSARIAL_INPUTS)
def test_adversarial_mixes_the_losses_and_reaches_only_the_logits(kind, in_float32):
    discriminator = tiny_d(kind)
    logits = torch.randn(2, N_CHANNELS, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    segmentation = (0 * logits).sum() + 3.0
    callback = Adversarial(discriminator, kind)
    callback.learn = fake_learn(pred=logits, loss_grad=segmentation, loss=segmentation.detach())
    callback.before_train()
    callback.after_loss()
    expected = 0.9 * 3.0 + 0.1 * adversarial_loss(discriminator(prediction_maps(logits, kind))).item()
    assert callback.learn.loss.item() == pytest.approx(expected)
    callback.learn.loss_grad.backward()
    assert (logits.grad.abs().sum((1, 2, 3)) > 0).all() == (kind != "argmax")
    assert all(p.grad is None for p in discriminator.parameters())


def test_the_term_and_its_gradient_in_bfloat16_are_nearly_those_in_float32(monkeypatch):
    for seed in range(5):
        logits = 3 * torch.randn(4, N_CHANNELS, 32, 32, generator=torch.Generator().manual_seed(seed))
        results = []
        for native in (False, True):
            monkeypatch.setattr(callbacks, "has_native_bf16", lambda device, native=native: native)
            callback, given = Adversarial(tiny_d(seed=seed)), logits.clone().requires_grad_()
            callback.learn = fake_learn(pred=given, loss_grad=(0 * given).sum(), loss=torch.tensor(0.0))
            callback.before_train()
            callback.after_loss()
            callback.learn.loss_grad.backward()
            results.append((callback.learn.loss.item(), given.grad.flatten()))
        (exact, gradient), (rounded, rounded_gradient) = results
        assert rounded == pytest.approx(exact, rel=2e-3)
        assert torch.nn.functional.cosine_similarity(rounded_gradient, gradient, 0) > 0.99


def test_adversarial_leaves_validation_alone():
    callback = Adversarial(tiny_d())
    callback.learn = fake_learn(pred=torch.randn(2, N_CHANNELS, 16, 16), loss=torch.tensor(3.0), training=False)
    callback.after_loss()
    assert callback.learn.loss == 3


def test_the_adversarial_term_alone_moves_g2_and_never_d(pairs, tmp_path):
    class NoLoss(nn.Module):
        def forward(self, logits, masks):
            return 0 * logits.sum()

    model, discriminator = net(), tiny_d()
    before, judged_by = [p.detach().clone() for p in model.parameters()], state(discriminator)
    train_phases(model, NoLoss(), [Phase("paired", pairs(), 1, LR, (Adversarial(discriminator),))], tmp_path)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert state(discriminator) == judged_by


@pytest.mark.parametrize("kind", ADVERSARIAL_INPUTS)
def test_against_truth_puts_predictions_first_and_truth_second(kind):
    g1, masks = net().train(), random_masks(size=32)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = state(g1)
    callback = AgainstTruth(g1, kind)
    callback.learn = fake_learn(xb=(images,), yb=(masks,))
    callback.before_batch()
    (batch,) = callback.learn.xb
    assert batch.shape == (8, D_CHANNELS[kind], 32, 32)
    assert torch.allclose(batch[:4], prediction_maps(g1(images), kind))
    assert torch.equal(batch[4:], target_maps(masks, kind))
    assert state(g1) == before
    assert not batch.requires_grad


def test_discriminator_loss_and_accuracy_tell_the_halves_apart():
    right, wrong = torch.tensor([-9.0, -9.0, 9.0, 9.0]), torch.tensor([9.0, 9.0, -9.0, -9.0])
    masks = random_masks()
    assert DiscriminatorLoss()(right, masks) < 0.01 < 10 < DiscriminatorLoss()(wrong, masks)
    assert discriminator_accuracy(right, masks) == 1
    assert discriminator_accuracy(wrong, masks) == 0
    assert discriminator_accuracy(torch.tensor([-1.0, 1.0, 1.0, 1.0]), masks) == 0.75


def test_a_discriminator_learns_to_tell_truth_from_predictions(pairs, tmp_path):
    phases = [Phase("d", pairs(), 12, 3 * LR, (AgainstTruth(net()),))]
    metrics = (AvgMetric(discriminator_accuracy),)
    train_phases(tiny_d(), DiscriminatorLoss(), phases, tmp_path, metrics=metrics)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["discriminator_accuracy"].iloc[-1] > 0.8
    assert history["train_loss"].iloc[-1] < 0.1 * history["train_loss"].iloc[0]


def test_course_miou_over_batches_is_that_of_all_at_once(dataset):
    masks = torch.from_numpy(np.array(dataset["train"].masks)).long()
    keep = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    predicted = masks.where(keep, 0)
    metric = CourseMIoU()
    for _ in range(2):  # a second pass starts anew
        metric.reset()
        for part in (slice(0, 5), slice(5, 16)):
            metric.accumulate(SimpleNamespace(pred=one_hot_maps(predicted[part]), yb=(masks[part],)))
    assert metric.value == pytest.approx(course_miou(predicted.numpy(), masks.numpy()))


def test_label_store_has_the_masks_and_confidence_of_every_image(dataset, tmp_path):
    images, g1 = dataset["unpaired_images"], net().train()
    before = state(g1)
    store = label_store(g1, images, tmp_path / "labels", "a")
    masks, confidence = predict_masks(net(), images.images)
    np.testing.assert_array_equal(store.masks, masks)
    np.testing.assert_allclose(store.confidence, confidence)
    np.testing.assert_allclose(store.index["confidence"], confidence)
    assert store.index["id"].tolist() == images.index["id"].tolist()
    assert state(g1) == before


def test_label_store_is_kept_for_the_same_weights_and_replaced_for_others(dataset, tmp_path):
    class Unasked(nn.Module):
        def forward(self, images):
            raise AssertionError("labelled again")

    images, path = dataset["unpaired_images"], tmp_path / "labels"
    first = np.array(label_store(net(0), images, path, "a").masks)
    np.testing.assert_array_equal(label_store(Unasked(), images, path, "a").masks, first)
    second = np.array(label_store(net(1), images, path, "b").masks)
    np.testing.assert_array_equal(second, predict_masks(net(1), images.images)[0])
    assert not np.array_equal(first, second)
    assert [p.name for p in tmp_path.iterdir()] == ["labels"]


def test_label_store_needs_images(dataset, tmp_path):
    with pytest.raises(StoreError, match=r"has no images\.npy"):
        label_store(net(), dataset["unpaired_labels"], tmp_path / "labels", "a")


def test_true_labels_have_quality_one_and_empty_ones_zero(dataset, make_store):
    truth = dataset["unpaired_truth"]
    quality = true_quality(truth, truth)
    assert quality.shape == (16,)
    assert np.nanmin(quality) == 1
    empty = make_store("empty", masks=np.zeros_like(truth.masks))
    assert np.nanmax(true_quality(empty, truth)) == 0


def test_top_half_mask_keeps_the_most_confident_half():
    confidence = np.random.default_rng(0).permutation(64) / 64
    assert top_half_mask(confidence, 8).sum() == 32
    assert np.array_equal(top_half_mask(confidence, 64), confidence >= np.median(confidence))


def test_top_half_mask_is_a_function_of_the_seed():
    confidence = np.random.default_rng(0).random(64)
    first, again, other = (top_half_mask(confidence, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
