"""CycleGAN: losses, discriminators, trainings, batches, scores of the cycles, comparisons of variants."""

import json
import math
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import trainee
from torch import nn
from trainee import net

from ethand_utils.analysis.cyclegan_images import cycle_images, most_overlapping
from ethand_utils.analysis.cyclegan_table import (
    MEASURES,
    companion_table,
    cycle_results,
    cycle_table,
    cyclegan_verdict,
    variant_effects,
)
from ethand_utils.data.augment import Augmentation, denormalise, normalise
from ethand_utils.data.dataloaders import LoaderError
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import ProfileError, load_profile
from ethand_utils.experiments.methods import IMAGES_METHOD
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.experiments.workflow import stages
from ethand_utils.labels import COLOURS, FRONT_LEFT, FRONT_RIGHT, N_CHANNELS, N_CLASSES
from ethand_utils.training.callbacks import TrainingError
from ethand_utils.training.cyclegan.dataloader import MixedLoader, make_mixed_dls, unpaired_labels, visible_hands
from ethand_utils.training.cyclegan.discriminators import GANS, ReplayBuffer, balance, gan_loss
from ethand_utils.training.cyclegan.model import (
    CycleGAN,
    CycleLoss,
    create_cyclegan,
    cycle_loss,
    masks_to_image,
    require_variant,
)
from ethand_utils.training.cyclegan.scores import cycle_scores, front_right, image_store, mean_colour_psnr, psnr
from ethand_utils.training.cyclegan.variants import BALANCE, OPTIONS, VARIANT_NAMES, VARIANTS
from ethand_utils.training.learner import train_phases
from ethand_utils.training.losses import SegmentationLoss, one_hot_maps, per_hand
from ethand_utils.training.models import create_model, load_weights, save_weights

SURE = 100.0  # of a logit
WEIGHTS = {"masks": 1.0, "image": 5.0, "order": 1.0, "cycle_image": 5.0, "cycle_masks": 1.0, "identity": 1.0}


@pytest.fixture(scope="module")
def profile():
    """The smallest profile."""
    return load_profile("ci")


@pytest.fixture
def loader(dataset):
    """Batches of four pairs and four unpaired samples, augmented."""
    unpaired = (dataset["unpaired_images"], dataset["unpaired_labels"])
    return MixedLoader(dataset["train"], 4, Augmentation(), unpaired=unpaired)


class FromPicture(nn.Module):
    """A G_XY for images whose red is the left hand's id, whose green is the right hand's."""

    recipe = "from picture"

    def forward(self, images):
        ids = images[:, :2].round().long().clamp(0, N_CLASSES - 1)
        return SURE * one_hot_maps(ids)


class ToPicture(nn.Module):
    """The G_YX that FromPicture inverts, of the maps' first 34 channels."""

    recipe = "to picture"

    def forward(self, maps):
        ids = (per_hand(maps[:, :N_CHANNELS]) * torch.arange(N_CLASSES).view(1, 1, -1, 1, 1)).sum(2)
        return torch.cat([ids, torch.zeros_like(ids[:, :1])], 1)


class Knows(nn.Module):
    """An `order` net that always outputs what is given here."""

    recipe = "knows"

    def __init__(self, visible):
        super().__init__()
        self.visible, self.weight = visible, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return SURE * (2 * self.visible[: len(images)] - 1) + self.weight


def random_batch(n=4, size=16, seed=0):
    """Random images, masks and visible hands."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(N_CLASSES, (n, 2, size, size), generator=generator)
    first = torch.rand(n, 1, size, size, generator=generator) < 0.5
    return torch.randn(n, 3, size, size, generator=generator), masks, torch.cat([first, ~first], 1).float()


def inverse_generators(front=False):
    """A CycleGAN whose generators invert each other, with a batch for them."""
    _, masks, visible = random_batch()
    images = ToPicture()(one_hot_maps(masks))
    return CycleGAN(FromPicture(), ToPicture(), Knows(visible), front), images, masks, visible


def outputs_of(model, batch):
    """The outputs of a CycleGAN for a batch, each tensor a leaf that gets a gradient."""
    return {name: value.detach().requires_grad_() for name, value in model(*batch).items()}


@pytest.fixture
def plain():
    """A CycleGAN of tiny nets, and the losses with all terms."""
    g_yx = create_model("baseline", widths=(4, 8), in_channels=N_CHANNELS, out_channels=3, seed=1)
    order = create_model("baseline", widths=(4, 4), out_channels=2, seed=2)
    return CycleGAN(net(), g_yx, order, identity=True), CycleLoss(SegmentationLoss("ce_dice"), dict(WEIGHTS))


# --- the loss


def test_unpaired_samples_get_no_gradient_of_the_reconstruction_loss(plain):
    model, loss = plain
    batch, paired = random_batch(), torch.tensor([True, False, True, False])
    outputs = outputs_of(model, batch)
    loss.weights |= {"cycle_image": 0.0, "cycle_masks": 0.0, "identity": 0.0}
    loss(outputs, *batch, paired).backward()
    for name in ("logits", "images", "order"):
        strength = outputs[name].grad.abs().sum((1, 2, 3))
        assert (strength[paired] > 0).all(), name
        assert (strength[~paired] == 0).all(), name


def test_labels_of_unpaired_samples_reach_g_xy_through_the_cycles_alone(plain):
    model, loss = plain
    images, masks, visible = random_batch(8)
    paired = torch.arange(8) < 4
    loss.weights |= {"cycle_image": 0.0, "cycle_masks": 0.0, "identity": 0.0}
    gradients = []
    for labels in (masks, masks.flip(0)):  # other labels for the unpaired samples
        other = torch.where(paired.view(-1, 1, 1, 1), masks, labels)
        model.eval().zero_grad()
        loss(model(images, other, visible), images, other, visible, paired).backward()
        gradients.append([weight.grad.clone() for weight in model.g_xy.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_unpaired_samples_get_a_gradient_of_the_cycles(plain):
    model, loss = plain
    batch, paired = random_batch(), torch.tensor([True, False, True, False])
    outputs = outputs_of(model, batch)
    loss(outputs, *batch, paired).backward()
    for name in ("images_again", "logits_again", "logits_of_picture"):
        assert (outputs[name].grad.abs().sum((1, 2, 3)) > 0).all(), name


@pytest.mark.parametrize("maps", ["softmax", "straight_through"])
@pytest.mark.parametrize("front", [False, True])
def test_generators_that_invert_each_other_have_no_cycle_loss(maps, front):
    model, images, masks, visible = inverse_generators(front)
    model.maps = maps
    loss = CycleLoss(SegmentationLoss("ce_dice"), dict(WEIGHTS))
    loss(model(images, masks, visible), images, masks, visible, torch.ones(4, dtype=torch.bool))
    assert loss.terms["cycle_image"] == pytest.approx(0, abs=1e-6)
    assert loss.terms["cycle_masks"] == pytest.approx(0, abs=1e-6)


def test_generators_that_do_not_invert_each_other_have_one():
    model, images, masks, visible = inverse_generators()
    loss = CycleLoss(SegmentationLoss("ce_dice"), dict(WEIGHTS))
    outputs = model(images, masks, visible)
    outputs["images_again"], outputs["logits_again"] = (
        outputs["images_again"].roll(1, -1),
        outputs["logits_again"].roll(1, -1),
    )
    loss(outputs, images, masks, visible, torch.ones(4, dtype=torch.bool))
    assert min(loss.terms["cycle_image"], loss.terms["cycle_masks"]) > 0.5


def test_identity_loss_is_zero_for_a_generator_that_reads_coloured_images():
    _, masks, visible = random_batch()
    masks[:, 1] = 0  # of one hand a picture tells all

    class Reads(nn.Module):
        recipe = "reads"

        def forward(self, images):
            colours = normalise(torch.from_numpy(COLOURS)[:, None, None])[:, :, 0, 0]
            ids = (images.unsqueeze(1) - colours.view(1, -1, 3, 1, 1)).abs().sum(2).argmin(1)
            return SURE * one_hot_maps(torch.stack([ids, torch.zeros_like(ids)], 1))

    model = CycleGAN(Reads(), ToPicture(), Knows(visible), identity=True)
    loss = CycleLoss(SegmentationLoss("ce_dice"), dict(WEIGHTS))
    images = torch.zeros(4, 3, 16, 16)
    loss(model(images, masks, visible), images, masks, visible, torch.ones(4, dtype=torch.bool))
    assert loss.terms["identity"] == pytest.approx(0, abs=1e-6)
    loss(model(images, masks.roll(1, -1), visible), images, masks, visible, torch.ones(4, dtype=torch.bool))
    assert loss.terms["identity"] > 0.5


def test_an_image_of_masks_shows_the_hand_in_front():
    masks = torch.tensor([[[[3, 3, 0, 0]], [[5, 5, 5, 0]]]])
    visible = torch.tensor([[[[1.0, 0, 0, 0]], [[0, 1.0, 1.0, 0]]]])
    assert (masks_to_image(masks, visible)[0, 0].numpy() == COLOURS[[3, 5, 5, 0]]).all()


def test_only_with_front_do_images_depend_on_which_hand_is_visible(profile):
    _, masks, visible = random_batch(size=32)
    for options, differ in (((), False), (("front",), True)):
        model, _ = create_cyclegan(profile, options)
        images = [model.eval().generate_images(one_hot_maps(masks), order) for order in (visible, 1 - visible)]
        assert torch.equal(*images) != differ


def test_the_order_is_learned_from_pairs_and_not_through_the_image_cycle(profile):
    model, _ = create_cyclegan(profile, ("front",))
    images, masks, visible = random_batch(size=32)
    model(images, masks, visible)["images_again"].sum().backward()
    assert all(weight.grad is None for weight in model.order.parameters())
    assert all(weight.grad is not None for weight in model.g_yx.parameters())


# --- discriminators


@pytest.mark.parametrize("gan", GANS)
def test_a_right_output_has_a_smaller_loss(gan):
    sure = torch.full((3, 1, 2, 2), 5.0 if gan == "bce" else 1.0)
    wrong = -sure if gan == "bce" else torch.zeros_like(sure)
    assert gan_loss(sure, True, gan) < 0.01 < gan_loss(wrong, True, gan)
    assert gan_loss(wrong, False, gan) < 0.01 < gan_loss(sure, False, gan)


def test_an_unknown_adversarial_loss_is_refused():
    with pytest.raises(EthandError, match="gan 'hinge': unknown; expected one of least_squares, bce"):
        gan_loss(torch.zeros(1), True, "hinge")


def test_a_replay_buffer_returns_new_outputs_and_old_ones():
    torch.manual_seed(0)
    buffer, given = ReplayBuffer(10), []
    for start in range(0, 200, 4):
        given.append(buffer(torch.arange(start, start + 4).float().view(4, 1, 1, 1)).flatten())
    early, late = torch.cat(given[:2]), torch.cat(given[3:])
    assert early.tolist() == list(range(8))
    new = late == torch.arange(12, 200)
    assert 0.4 < new.float().mean() < 0.6
    assert (late <= torch.arange(12, 200)).all()
    assert len(buffer.items) == 10


def test_balance_depends_on_the_accuracy():
    assert "saturated" in balance(0.97)
    assert "guesses" in balance(0.5)
    assert "like strength" in balance(0.75)


def test_spectral_norm_bounds_every_convolution_of_d(tmp_path):
    d = create_model("discriminator_spectral", widths=(8, 16), in_channels=3, seed=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in d.modules())
    with torch.no_grad():
        for _ in range(50):
            d(torch.randn(2, 3, 32, 32))  # each pass refines the estimate
    for module in d.eval().modules():
        if isinstance(module, nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2) == pytest.approx(1, abs=0.05)
    save_weights(d, tmp_path / "d.safetensors")
    again, _ = load_weights(tmp_path / "d.safetensors", "discriminator")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(images), d(images))


# --- a training


def test_generators_and_discriminators_learn_each_from_its_own_loss(profile, dataset, tmp_path):
    p = profile.model_copy(update={"cyclegan_epochs": 1, "bs": 8, "image_weight": 0.0, "cycle_weight": 0.0})
    model, discriminators = create_cyclegan(p, ("replay_buffer", "spectral"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value.clone() for name, value in discriminators.nets.state_dict().items()}
    phases, loss = trainee.cycle_phases(p, dataset, discriminators)
    loss.weights = dict.fromkeys(loss.weights, 0.0)  # so that nothing but the adversarial term is left
    learn = train_phases(model, loss, phases, tmp_path)
    moved = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"g_xy", "g_yx"}
    learned = discriminators.nets.named_parameters()
    assert {name.split(".")[0] for name, value in learned if not torch.equal(value, weights[name])} == {"d_x", "d_y"}
    assert not any(weight.requires_grad for weight in discriminators.nets.parameters())
    history, course = pd.read_csv(tmp_path / "history.csv"), pd.DataFrame(discriminators.course)
    assert {"adversarial_loss", *MEASURES} <= set(history)
    assert course["epoch"].iloc[-1] == len(history)
    assert course["epoch"].is_monotonic_increasing
    assert course["d_x_accuracy"].between(0, 1).all()
    assert learn.opt.hypers[-1]["lr"] == discriminators.opt_d.param_groups[0]["lr"]


def test_two_rates_are_the_generators_and_a_multiple_of_it(profile, dataset, tmp_path):
    p = profile.model_copy(update={"d_rate": 0.25})
    _, discriminators = create_cyclegan(p, ("two_rates",))
    model, _ = create_cyclegan(p, ())
    phases, loss = trainee.cycle_phases(p, dataset, discriminators)
    learn = train_phases(model, loss, phases, tmp_path)
    assert discriminators.opt_d.param_groups[0]["lr"] == pytest.approx(0.25 * learn.opt.hypers[-1]["lr"])


def test_a_warm_start_is_g1(profile):
    g1 = create_model(profile.g1_arch, profile.g1_encoder, widths=profile.g1_widths, seed=7)
    cold, _ = create_cyclegan(profile, (), g1=g1)
    warm, _ = create_cyclegan(profile, ("warm_start",), g1=g1)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(warm.eval().g_xy(images), g1.eval()(images))
    assert not torch.allclose(cold.eval().g_xy(images), g1(images))


def test_pairs_alone_need_no_cycles_in_training_and_are_scored_all_the_same(profile, dataset, tmp_path):
    model, _ = create_cyclegan(profile, (), cycles=False)
    phases, loss = trainee.cycle_phases(profile, dataset)
    train_phases(model, loss, phases, tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert "cycle_image_loss" not in history
    assert history["psnr_cycle"].notna().all()


# --- batches


def test_pairs_belong_together_and_the_others_come_from_the_unpaired_stores(dataset):
    unpaired = (dataset["unpaired_images"], dataset["unpaired_labels"])
    loader = MixedLoader(dataset["train"], 4, Augmentation(0, 0, 0, 0, 0), unpaired=unpaired)
    unpaired_indices = []
    for images, masks, visible, paired in loader:
        assert paired.tolist() == [True] * 4 + [False] * 4
        pictures = denormalise(images).numpy()
        for i in range(8):
            store, labels = (dataset["train"],) * 2 if paired[i] else unpaired
            of_image = np.flatnonzero((store.images == pictures[i]).all((1, 2, 3)))
            of_mask = np.flatnonzero((labels.masks == masks[i].numpy()).all((1, 2, 3)))
            assert len(of_image) > 0
            assert len(of_mask) > 0
            if paired[i]:
                assert of_image[0] == of_mask[0]
            else:
                unpaired_indices.append((of_image[0], of_mask[0]))
            np.testing.assert_array_equal(visible[i], visible_hands(labels, of_mask[:1])[0])
    of_images, of_labels = zip(*unpaired_indices, strict=True)
    assert sorted(of_images) == sorted(of_labels) == list(range(16))
    assert list(of_images) != list(of_labels)


def test_visible_hands_move_and_flip_with_the_masks(loader):
    agreement = []
    for _ in range(4):
        for _, masks, visible, _ in loader:
            assert (visible.sum(1) <= 1).all()
            alone = (masks > 0).sum(1) == 1  # one hand, and seldom the other one's forearm before it
            agreement.append(((masks > 0) == (visible > 0)).all(1)[alone].float().mean())
    assert min(agreement) > 0.9


def test_batches_depend_on_seed_and_epoch_alone(dataset):
    unpaired = (dataset["unpaired_images"], dataset["unpaired_labels"])
    one, other = (MixedLoader(dataset["train"], 4, Augmentation(), 3, unpaired=unpaired) for _ in range(2))
    list(one)
    other.epoch = 0
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_store_without_front_has_no_visible_hands(make_store):
    store = make_store("plain", images=np.zeros((4, 16, 16, 3), np.uint8), masks=np.ones((4, 2, 16, 16), np.uint8))
    _, _, visible, paired = next(iter(MixedLoader(store, 4)))
    assert visible.sum() == 0
    assert paired.all()


def test_labels_of_the_pairs_serve_where_there_are_no_others(dataset):
    stores = {name: store for name, store in dataset.items() if name != "unpaired_labels"}
    assert unpaired_labels(stores) is dataset["train"]
    assert len(make_mixed_dls(stores, 8, Augmentation()).train) == 4


def test_batches_are_not_for_several_processes(loader):
    with pytest.raises(LoaderError, match="train it in one"):
        pickle.dumps(loader)


# --- scores


def test_generators_that_invert_each_other_have_perfect_scores(make_store):
    _, masks, visible = random_batch(6)
    front = torch.where(visible[:, 0] > 0, FRONT_LEFT, FRONT_RIGHT)
    images = ToPicture()(one_hot_maps(masks))

    class Shifted(CycleGAN):
        """Reads stored images as FromPicture does."""

        def forward(self, images, masks, visible):
            return super().forward(denormalise(images).permute(0, 3, 1, 2).float(), masks, visible)

    pictures = images.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    store = make_store("world", images=pictures, masks=masks.byte().numpy(), front=front.byte().numpy())
    model = Shifted(FromPicture(), ToPicture(), Knows(visible))
    scores = cycle_scores(model, store)
    assert scores["course_miou"] == scores["cycle_miou"] == 1
    assert scores["front_real"] == scores["front_made"] == scores["front_cycle"] == 1


def test_psnr_is_that_of_the_pictures():
    one = normalise(torch.full((1, 8, 8, 3), 100, dtype=torch.uint8))
    other = normalise(torch.full((1, 8, 8, 3), 110, dtype=torch.uint8))
    assert psnr(one, other).item() == pytest.approx(20 * math.log10(255 / 10), rel=1e-4)


def test_a_blank_image_is_scored_by_the_mean_colour(make_store):
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[1] = 100
    store = make_store("two", images=images)
    assert mean_colour_psnr(store, store) == pytest.approx(20 * math.log10(255 / 50))


def test_front_is_right_where_both_hands_are():
    masks = torch.tensor([[[[1, 1, 1, 0]], [[2, 2, 0, 2]]]])
    visible = torch.tensor([[[[1.0, 0, 1, 0]], [[0, 1.0, 0, 1]]]])
    assert front_right(visible, masks, visible).tolist() == [1, 1]
    assert front_right(1 - visible, masks, visible).tolist() == [0, 0]


def test_a_store_of_generated_images_has_the_labels_and_is_kept_for_the_same_weights(profile, dataset, tmp_path):
    model, _ = create_cyclegan(profile, ("front",))
    labels = dataset["unpaired_labels"]
    store = image_store(model, labels, tmp_path / "images")
    np.testing.assert_array_equal(store.masks, labels.masks)
    assert store.index["id"].tolist() == labels.index["id"].tolist()
    masks, visible = (
        torch.from_numpy(np.array(labels.masks[:4])).long(),
        torch.from_numpy(visible_hands(labels, np.arange(4))),
    )
    with torch.no_grad():
        wanted = denormalise(model.eval().generate_images(one_hot_maps(masks), visible)).numpy()
    assert np.abs(store.images[:4].astype(int) - wanted).max() <= 1
    written = (store.path / "meta.json").stat().st_mtime_ns
    image_store(model, labels, tmp_path / "images")
    assert (store.path / "meta.json").stat().st_mtime_ns == written
    other, _ = create_cyclegan(profile, ("front",), seed=1)
    image_store(other, labels, tmp_path / "images")
    assert (store.path / "meta.json").stat().st_mtime_ns > written


def test_strips_begin_with_the_input(profile, dataset):
    model, _ = create_cyclegan(profile, ())
    chosen = most_overlapping(dataset["test"], 3)
    shared = ((dataset["test"].masks > 0).all(1)).sum((1, 2))
    assert shared[chosen[0]] == shared.max()
    forth, back = cycle_images(model, dataset["test"], chosen)
    np.testing.assert_array_equal(forth["image"], dataset["test"].images[chosen])
    np.testing.assert_array_equal(back["mask, left"], COLOURS[dataset["test"].masks[chosen, 0]])
    assert {pictures.shape for pictures in (*forth.values(), *back.values())} == {forth["image"].shape}


# --- variants, and their comparison


def test_every_option_has_a_variant_with_it_alone_and_one_with_all():
    alone = {variant.options for variant in VARIANTS.values() if len(variant.options) == 1}
    assert alone == {(name,) for name in (*BALANCE, "front")}
    assert VARIANTS["remedied"].options == (*BALANCE, "front")
    assert VARIANTS["loose"].options == tuple(OPTIONS)


def test_a_warm_start_needs_g1_and_its_state_is_not_that_of_another_start(profile):
    with pytest.raises(TrainingError, match=r"warm_start needs G1's weights; run notebooks/04_train_g1.ipynb"):
        create_cyclegan(profile, ("warm_start",))
    starts = [create_model(profile.g1_arch, profile.g1_encoder, widths=profile.g1_widths, seed=seed) for seed in (1, 2)]
    recipes = [repr(create_cyclegan(profile, ("warm_start",), g1=g1)[0].recipe) for g1 in starts]
    assert len({*recipes, repr(create_cyclegan(profile, ())[0].recipe)}) == 3


def test_a_variants_name_is_kept_for_its_cycles_and_options():
    require_variant("report", True, [])
    require_variant("mine", False, ["front"])
    with pytest.raises(TrainingError, match=r"VARIANT: 'report' stands for CYCLES = True, OPTIONS = \[\]; choose"):
        require_variant("report", True, ["front"])


def test_an_unknown_option_is_refused(profile):
    with pytest.raises(TrainingError, match=r"option 'spectral_norm': unknown \(did you mean spectral\?\); expected"):
        create_cyclegan(profile, ("spectral_norm",))


def test_a_loose_cycle_weighs_the_image_cycle_less_and_nothing_else(profile):
    tight, loose = (cycle_loss(profile, options).weights for options in ((), ("loose_cycle",)))
    assert loose.pop("cycle_image") == pytest.approx(tight.pop("cycle_image") / 5)
    assert loose == tight


def test_the_profile_chooses_the_variants_of_the_chain(profile):
    def names(*rows, seeds=1):
        chosen = profile.model_copy(update={"cyclegan": list(rows), "seeds": seeds})
        return {stage.name: stage for stage in stages(chosen)}

    assert not any("cyclegan" in name or "as_long" in name for name in names())
    chain = names("pairs", "loose", seeds=2)
    wanted = {f"11_cyclegan_{row}_seed{seed}" for row in ("pairs", "loose") for seed in (0, 1)}
    assert {name for name in chain if name.startswith("11")} == wanted
    assert set(chain["12_cyclegan_rows"].needs) == {*wanted, "04_train_g1_as_long"}
    assert chain["04_train_g1_as_long"].parameters["EPOCHS"] == 2 * profile.cyclegan_epochs
    assert "11_cyclegan_loose_seed0" in chain[f"07_train_g2_{IMAGES_METHOD}_seed0"].needs
    assert f"07_train_g2_{IMAGES_METHOD}_seed0" not in names("pairs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cyclegan": ["balance"]}, r"cyclegan 'balance': unknown \(did you mean balanced\?\); expected one of pairs"),
        ({"adversarial_weight": -0.5}, r"adversarial_weight: -0.5, expected float \(at least 0\)"),
        ({"gan": "hinge"}, "gan 'hinge': unknown; expected one of least_squares, bce"),
        ({"replay_buffer": 0}, r"replay_buffer: 0, expected int \(at least 1, at most "),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ProfileError, match=message):
        load_profile("ci", changes)


@pytest.fixture
def run(tmp_path, profile):
    """A run with two seeds of every variant; balance adds 0.1 to G_XY's score, front 0.2 to `front_made`."""
    for variant in VARIANTS.values():
        for seed in (0, 1):
            scores = dict.fromkeys(MEASURES, 0.5 + 0.01 * seed)
            scores["course_miou"] += 0.1 * (len(set(BALANCE) & set(variant.options)) == len(BALANCE)) + 0.001 * seed
            scores["front_made"] += 0.2 * ("front" in variant.options) + 0.001 * seed
            scores |= {
                "front_real": 0.9,
                "images_seen": 96,
                "row": variant.name,
                "seed": seed,
                "cycles": variant.cycles,
            }
            scores |= dict.fromkeys(("dataset_miou", "visible_iou", "occluded_iou", "absent_fp_rate"), 0.3)
            if not variant.cycles:
                del scores["d_x_accuracy"], scores["d_y_accuracy"]
            folder = tmp_path / "cyclegan" / variant.name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps(scores))
    return Run(tmp_path, profile)


def test_effects_are_differences_of_trainings_that_differ_in_one_thing(run):
    changes = variant_effects(cycle_results(run)).set_index(["contrast", "measure"])
    balanced = changes.loc["all five for balance", "course_miou"]
    assert balanced["difference"] == pytest.approx(0.1)
    assert (balanced["count"], balanced["up"]) == (4, 4)
    in_front = changes.loc["which hand is in front", "front_made"]
    assert in_front["difference"] == pytest.approx(0.2)
    assert changes.loc["which hand is in front", "course_miou"]["difference"] == pytest.approx(0)
    assert ("cycles and D", "d_x_accuracy") not in changes.index


def test_the_verdict_says_what_the_numbers_say(run):
    verdict = cyclegan_verdict(variant_effects(cycle_results(run)))
    assert "all five for balance, G_XY, course mIoU: higher" in verdict
    assert "which hand is in front, right hand in front: higher" in verdict
    assert "looser image cycle, G_XY, course mIoU: open" in verdict


def test_one_pair_of_trainings_settles_nothing(run):
    trainings = cycle_results(run)
    effects = variant_effects(trainings[(trainings["seed"] == 0) & trainings["row"].isin(["report", "balanced"])])
    assert set(effects["verdict"]) == {"open"}


def test_where_nobody_knows_which_hand_is_in_front_the_verdict_on_it_is_unknown(run):
    trainings = cycle_results(run).assign(front_real=np.nan, front_made=np.nan)
    assert "which hand is in front, right hand in front: unknown" in cyclegan_verdict(variant_effects(trainings))


def test_trainings_of_another_length_are_not_compared(run):
    trainings = cycle_results(run)
    trainings.loc[trainings["row"] == "report", "images_seen"] = 48
    assert set(variant_effects(trainings)["contrast"]) == {
        "all five for balance",
        "which hand is in front",
        "looser image cycle",
    }
    assert (variant_effects(trainings)["count"] == 2).all()


def test_of_one_variant_everything_is_unknown(run):
    trainings = cycle_results(run)
    effects = variant_effects(trainings[trainings["row"] == "remedied"])
    assert effects.empty
    assert cyclegan_verdict(effects).count("unknown") == 3


def test_tables_have_every_variant_that_was_trained(run):
    table = cycle_table(cycle_results(run))
    assert table["row"].tolist() == list(VARIANT_NAMES)
    assert (table["seeds"] == 2).all()
    companions = companion_table(run)
    assert companions.index.tolist() == [f"G_XY, {variant.title}" for variant in VARIANTS.values()]
    assert companions["course mIoU"].iloc[0] == pytest.approx(0.5055)


def test_a_training_under_another_name_comes_last_in_the_table(run):
    shutil.copytree(run.folder / "cyclegan/report", run.folder / "cyclegan/a_try")
    for file in (run.folder / "cyclegan/a_try").glob("*/result.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"row": "a_try"}))
    assert cycle_table(cycle_results(run))["model"].tolist()[-1] == "a_try"


def test_a_run_without_cyclegan_says_how_to_get_one(tmp_path, profile):
    with pytest.raises(RunError, match=r"cyclegan: no result yet; .*cyclegan=\[loose\]"):
        cycle_results(Run(tmp_path, profile))
    assert companion_table(Run(tmp_path, profile)).empty
