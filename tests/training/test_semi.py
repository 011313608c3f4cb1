"""Semi-supervised methods: joint batches, CutMix, teachers, each method's loss and gradients, and their registry."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ethand_utils.data.augment import Augmentation, Photometric, denormalise
from ethand_utils.data.dataloaders import LoaderError, samples_in_turn
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import ProfileError, load_profile
from ethand_utils.experiments.methods import METHODS, Method, MethodError, peer_methods, trained_methods
from ethand_utils.labels import N_CHANNELS
from ethand_utils.training import semi
from ethand_utils.training.callbacks import TrainingError
from ethand_utils.training.joint import (
    BOX_AREA,
    JointLoader,
    SemiSettings,
    cutmix_boxes,
    make_joint_dls,
    mirrored_share,
    mix,
    move_average,
    ramp,
)
from ethand_utils.training.learner import Phase, train_phases
from ethand_utils.training.losses import SegmentationLoss, confident_cross_entropy, dice, per_hand
from ethand_utils.training.models import create_model
from ethand_utils.training.semi.cps import with_new_decoder
from ethand_utils.training.semi.unimatch_v2 import complementary_dropout, complementary_masks

LR = 1e-3


def net(seed=0):
    """A tiny net with an encoder."""
    return create_model("unet", "tu-resnet10t", widths=(8, 8), seed=seed)


def batches(dataset, bs=8, **options):
    """Joint batches of the rendered data set."""
    return JointLoader(dataset["train"], dataset["unpaired_images"], bs, Augmentation(), **options)


def train(dataset, name, folder, model=None, epochs=1, **settings):
    """Train a method on joint batches; return its callback and the Learner."""
    model = model or net()
    callback = semi.load(name)(model, SemiSettings(**settings))
    pairs, unlabelled, valid = (dataset[store] for store in ("train", "unpaired_images", "val"))
    dls = make_joint_dls(pairs, unlabelled, valid, 8, Augmentation(), views=callback.views)
    phases = [Phase("joint", dls, epochs, LR, (callback,))]
    return callback, train_phases(model, SegmentationLoss("ce"), phases, folder)


# --- batches


def test_a_batch_is_half_pairs_and_half_unlabelled_images(dataset):
    loader = batches(dataset, views=2)
    images, masks, weak, *strong = loader.one_batch()
    assert [len(part) for part in (images, masks, weak, *strong)] == [4] * 5
    assert len(loader) == len(dataset["train"]) // 8
    assert len(list(loader)) == len(loader)


def test_strong_views_show_the_weak_one_in_other_lights(dataset):
    _, _, weak, *strong = batches(dataset, views=2, strong=Photometric(grey_p=0, blur=0, noise=0)).one_batch()
    weak, first, second = (denormalise(view).float().mean(3).flatten(1) for view in (weak, *strong))
    for one, other in ((weak, first), (weak, second)):
        assert not torch.equal(one, other)
        assert all(np.corrcoef(a, b)[0, 1] > 0.9 for a, b in zip(one.numpy(), other.numpy(), strict=True))
    assert not torch.equal(first, second)


def test_without_a_strength_a_strong_view_is_the_weak_one(dataset):
    _, _, weak, strong = batches(dataset, strong=None).one_batch()
    assert torch.equal(weak, strong)


def test_the_pairs_light_leaves_the_weak_view_alone(dataset):
    loaders = [
        JointLoader(dataset["train"], dataset["unpaired_images"], 8, Augmentation(photometric=light))
        for light in (None, Photometric())
    ]
    plain, lit = (loader.one_batch() for loader in loaders)
    assert not torch.equal(plain[0], lit[0])
    assert torch.equal(plain[2], lit[2])


def test_batches_depend_on_seed_epoch_and_number_alone(dataset):
    first, second = (list(batches(dataset, views=2)) for _ in range(2))
    assert all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    loader = batches(dataset)
    epochs = [next(iter(loader))[2] for _ in range(2)]
    assert not torch.equal(*epochs)


def test_a_fraction_of_the_pairs_comes_with_all_unlabelled_images(dataset):
    loader = batches(dataset, label_fraction=0.25)
    assert len(loader.subset) == 4
    assert len(loader) == 2


def test_samples_in_turn_pass_through_a_store_again_and_again():
    order = samples_in_turn(0, 1, 0, 30, 10).reshape(3, 10)
    assert all(sorted(each) == list(range(10)) for each in order.tolist())
    assert not np.array_equal(order[0], order[1])
    assert samples_in_turn(0, 1, 7, 8, 10).tolist() == order.flatten()[7:15].tolist()


def test_processes_share_a_batch_and_each_has_the_images_that_it_mixes(dataset):
    images, masks, weak, strong = next(iter(batches(dataset, strong=Photometric(noise=0))))
    mixed = mix(weak, torch.ones(4, 1, 1, 1, dtype=torch.bool))
    for rank in (0, 1):
        loader = batches(dataset, strong=Photometric(noise=0))
        loader.shard(rank, 2)
        loader = pickle.loads(pickle.dumps(loader))  # as a new process gets it
        own, labels, unlabelled, view = next(iter(loader))
        share = mirrored_share(4, rank, 2)
        assert torch.equal(own, images[rank::2])
        assert torch.equal(labels, masks[rank::2])
        assert torch.equal(unlabelled, weak[share])
        torch.testing.assert_close(view, strong[share])
        assert torch.equal(mix(unlabelled, torch.ones(2, 1, 1, 1, dtype=torch.bool)), mixed[share])


@pytest.mark.parametrize(("count", "processes"), [(4, 2), (12, 3), (8, 1), (3, 1)])
def test_processes_have_every_unlabelled_image_once(count, processes):
    shares = [mirrored_share(count, rank, processes) for rank in range(processes)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))


def test_joint_batches_that_cannot_be_shared_are_refused(dataset):
    with pytest.raises(
        LoaderError, match=r"of 8 images cannot be shared among 3 processes; train with a multiple of 12"
    ):
        batches(dataset).shard(0, 3)


def test_a_batch_too_small_to_mix_is_refused(dataset):
    with pytest.raises(
        LoaderError, match=r"joint batches of 3 images of 16 pairs: 1 unlabelled ones, expected at least 2; raise"
    ):
        batches(dataset, bs=3)
    with pytest.raises(LoaderError, match="joint batches of 5 images: half of them are pairs; expected an even number"):
        batches(dataset, bs=5)


# --- CutMix


def test_boxes_have_the_areas_asked_for_and_their_probability():
    torch.manual_seed(0)
    boxes = cutmix_boxes(4000, 64, 0.5)
    areas = boxes.float().mean((1, 2, 3))
    assert 0.47 < (areas > 0).float().mean() < 0.53
    inside = areas[areas > 0]
    assert inside.min() > 0.01
    assert inside.max() < BOX_AREA[1] + 0.02
    assert abs(inside.mean() - sum(BOX_AREA) / 2) < 0.01
    assert not cutmix_boxes(100, 64, 0).any()
    assert cutmix_boxes(100, 64, 1).flatten(1).any(1).all()


def test_images_labels_and_confidence_follow_the_same_box():
    torch.manual_seed(0)
    boxes = cutmix_boxes(6, 32, 1)
    number = torch.arange(6).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    images, labels = mix(number.float(), boxes), mix(number[:, :2], boxes)
    assert torch.equal(images[:, :2].long(), labels)
    assert all(torch.equal(labels[k, 0] == 5 - k, boxes[k, 0]) for k in range(6))


# --- teachers


def test_averages_equal_the_closed_form_buffers_included():
    torch.manual_seed(0)
    model, decay, steps = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 0.9, 7
    average = copy.deepcopy(model)
    states = [copy.deepcopy(average.state_dict())]
    for _ in range(steps):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.rand(value.shape) * 10)
        states.append(copy.deepcopy(model.state_dict()))
        move_average(average, model, decay)
    for name, value in average.state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(value, states[-1][name])
            continue
        closed = decay**steps * states[0][name]
        closed = closed + sum((1 - decay) * decay ** (steps - k) * states[k][name] for k in range(1, steps + 1))
        torch.testing.assert_close(value, closed)


def test_an_average_of_weights_alone_leaves_statistics():
    average, model = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    model.running_mean.fill_(5)
    model.weight.data.fill_(5)
    move_average(average, model, 0.5, buffers=False)
    assert average.running_mean.tolist() == [0, 0]
    assert average.weight.tolist() == [3, 3]


@pytest.mark.parametrize("name", semi.names())
def test_gradients_reach_what_is_trained_and_never_a_teacher(name, dataset, tmp_path):
    model = net()
    before = copy.deepcopy(model.state_dict())
    callback, _ = train(dataset, name, tmp_path, model, unlabelled_weight=1.0, semi_threshold=0.0)
    assert callback.nets["student"] is model
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    for key, trained in callback.nets.items():
        gradients = [parameter.grad is not None for parameter in trained.parameters()]
        assert not any(gradients) if key == "teacher" else all(p.requires_grad for p in trained.parameters())


@pytest.mark.parametrize("name", semi.names())
def test_unlabelled_images_change_what_is_learned(name, dataset, tmp_path):
    weights = []
    for weight in (0.0, 1.0):
        callback, _ = train(dataset, name, tmp_path / str(weight), unlabelled_weight=weight, semi_threshold=0.0)
        weights.append(next(callback.student.parameters()).detach())
    assert not torch.equal(*weights)


@pytest.mark.parametrize("name", semi.names())
def test_the_net_that_is_scored_is_the_one_that_is_validated(name, dataset, tmp_path):
    callback, learn = train(dataset, name, tmp_path)
    assert learn.model is callback.student
    scored = callback.nets[callback.scored].eval()
    losses, sizes = [], []
    with torch.no_grad():
        for images, masks in learn.dls.valid:
            losses.append(float(learn.loss_func(scored(images), masks)))
            sizes.append(len(images))
    assert np.average(losses, weights=sizes) == pytest.approx(learn.checkpointer.rows[-1]["valid_loss"], rel=2e-2)


# --- the methods' losses


def test_a_confident_cross_entropy_divides_by_all_pixels():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, N_CHANNELS, 4, 4), torch.randint(17, (2, 2, 4, 4))
    every, weights = torch.ones(2, 2, 4, 4, dtype=torch.bool), torch.rand(17)
    hands = [F.cross_entropy(per_hand(logits)[:, hand], labels[:, hand], weights, reduction="none") for hand in (0, 1)]
    pixels = [weights[labels[:, hand]].sum() for hand in (0, 1)]
    expected = sum(hand.sum() / count for hand, count in zip(hands, pixels, strict=True))
    torch.testing.assert_close(confident_cross_entropy(logits, labels, every, weights), expected)
    some = torch.rand(2, 2, 4, 4) < 0.5
    expected = sum((hand * some[:, k]).sum() / count for k, (hand, count) in enumerate(zip(hands, pixels, strict=True)))
    torch.testing.assert_close(confident_cross_entropy(logits, labels, some, weights), expected)
    assert confident_cross_entropy(logits, labels, ~every, weights) == 0


def test_dice_of_sure_pixels_is_that_of_these_pixels_alone():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, N_CHANNELS, 6, 4), torch.randint(17, (1, 2, 6, 4))
    upper = torch.zeros(1, 2, 6, 4, dtype=torch.bool)
    upper[:, :, :3] = True
    torch.testing.assert_close(dice(logits, labels, upper), dice(logits[:, :, :3], labels[:, :, :3]))
    torch.testing.assert_close(dice(logits, labels, upper | True), dice(logits, labels))


def test_fixmatch_without_threshold_and_with_one_view_is_self_training(dataset, tmp_path):
    """The loss of a step is half that on pairs, and half cross-entropy of the teacher's labels: here, of its own."""
    callback, callback.learn = train(dataset, "fixmatch", tmp_path, semi_threshold=0.0, cutmix_p=0.0)
    callback.before_train()
    images, _, weak, strong = batches(dataset, strong=None).one_batch()
    assert torch.equal(callback.student_images(images, weak, strong), torch.cat([images, weak]))
    callback.unlabelled = logits = callback.teacher(weak)
    masks = per_hand(logits).argmax(2)
    expected = callback.loss_func(logits, masks)  # cross-entropy with class weights
    torch.testing.assert_close(callback.unlabelled_loss(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(callback.combined_loss(expected, expected), expected)


def test_fixmatch_learns_nothing_from_pixels_it_is_not_sure_of(dataset, tmp_path):
    _, learn = train(dataset, "fixmatch", tmp_path, semi_threshold=1.0)
    row = learn.checkpointer.rows[-1]
    assert (row["mask_ratio"], row["mask_ratio_parts"], row["unlabelled_loss"]) == (0, 0, 0)


def test_unimatchs_masks_are_complementary():
    torch.manual_seed(0)
    whole = torch.tensor([True, False, False, True])
    first, second = complementary_masks(whole, 500).chunk(2)
    assert torch.equal(first + second, torch.full_like(first, 2))
    assert set(first[~whole].unique().tolist()) == {0.0, 2.0}
    assert (first[whole] == 1).all()
    assert 0.4 < (first[~whole] > 0).float().mean() < 0.6
    torch.manual_seed(0)
    assert torch.equal(complementary_masks(whole, 500, np.array([1, 2])).chunk(2)[0], first[1:3])


def test_unimatchs_dropout_ends_with_its_pass():
    model, images = net().eval(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        with complementary_dropout(model.encoder, torch.zeros(2, dtype=torch.bool)):
            during = model(images)
        with complementary_dropout(model.encoder, torch.ones(2, dtype=torch.bool)):
            whole = model(images)
    assert not torch.equal(before, during)
    assert torch.equal(before, whole)
    assert torch.equal(before, model(images))


def test_the_second_net_of_cps_has_a_decoder_of_its_own():
    model = net()
    second, again, other = with_new_decoder(model), with_new_decoder(model), with_new_decoder(net(1))
    states = [each.state_dict() for each in (model, second, again, other)]
    for key, value in states[0].items():
        assert torch.equal(states[1][key], states[2][key])
        if key.startswith("encoder"):
            assert torch.equal(value, states[1][key])
    head = "segmentation_head.0.weight"
    assert len({tuple(state[head].flatten()[:3].tolist()) for state in (states[0], states[1], states[3])}) == 3


def test_a_ramp_begins_near_nothing_and_ends_at_one():
    factors = [ramp(progress, 0.5) for progress in (0, 0.25, 0.5, 1)]
    assert factors == pytest.approx([np.exp(-5), np.exp(-1.25), 1, 1])
    assert ramp(0, 0) == 1


# --- the registry


def test_a_method_of_semi_is_one_module_and_one_line():
    assert {method.unlabelled for method in METHODS.values() if method.semi} == set(semi.names())
    for name in semi.names():
        assert semi.load(name).scored in semi.load(name)(net(), SemiSettings()).nets
    with pytest.raises(MethodError, match=r"unlabelled 'fixmach'.*fixmatch"):
        Method("mine", "Mine", unlabelled="fixmach")
    with pytest.raises(MethodError, match="constant 'cutmix'"):
        Method("mine", "Mine", unlabelled="fixmatch", constants={"cutmix": 1})
    with pytest.raises(MethodError, match=r"constant semi_threshold: 7, expected .*at most 1"):
        Method("mine", "Mine", unlabelled="fixmatch", constants={"semi_threshold": 7})
    with pytest.raises(MethodError, match="expected none, as unlabelled 'none' has no settings of its own"):
        Method("mine", "Mine", constants={"semi_threshold": 0.7})
    with pytest.raises(MethodError, match="adversary 'profile', expected 'none'"):
        Method("mine", "Mine", unlabelled="fixmatch", adversary="profile")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("a = 1\nimport torhc\n", r"mine.py, line 2: ModuleNotFoundError: No module named 'torhc'; mend the module"),
        ("a = 1\n", "mine.py: has no METHOD; expected METHOD = the callback's class"),
        ("METHOD = 3\n", "mine.py: METHOD is 3; expected METHOD = the callback's class"),
    ],
)
def test_a_module_that_its_user_broke_is_named(code, fault, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(semi, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ethand_utils.training.semi.mine", raising=False)
    with pytest.raises(EthandError, match=fault):
        semi.load("mine")


def test_unimatch_asks_for_an_encoder():
    with pytest.raises(TrainingError, match="no encoder"):
        semi.load("unimatch_v2")(create_model("baseline", widths=(4, 8), seed=0), SemiSettings())


def test_a_methods_constants_stand_before_the_profiles_settings():
    profile = load_profile("ci", {"cutmix_p": 0.3, "ema_decay": 0.5})
    assert METHODS["mean_teacher"].semi_settings(profile)["ema_decay"] == 0.99
    assert METHODS["fixmatch"].semi_settings(profile) | {"cutmix_p": 0.3} == METHODS["fixmatch"].semi_settings(profile)
    assert "ema_decay" not in METHODS["mean_teacher"].settings
    assert "ema_decay" in METHODS["fixmatch"].settings
    assert set(METHODS["unetpp_full"].semi_settings(profile).values()) == {None}


def test_peers_are_trained_when_asked_for():
    assert not peer_methods(load_profile("ci"))
    profile = load_profile("ci", {"peers": ["unimatch_v2", "fixmatch"]})
    assert [method.name for method in peer_methods(profile)] == ["fixmatch", "unimatch_v2"]
    assert {"fixmatch", "unimatch_v2"} < {method.name for method in trained_methods(profile)}
    with pytest.raises(MethodError, match="peer 'unetpp_full'"):
        peer_methods(load_profile("ci", {"peers": ["unetpp_full"]}))
    with pytest.raises(ProfileError, match="each only once"):
        load_profile("ci", {"peers": ["cps", "cps"]})
