"""CycleGAN between images (X) and the masks of two hands (Y), its losses and its options (report, section 4)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ethand_utils.data.augment import normalise
from ethand_utils.exceptions import require_known
from ethand_utils.labels import COLOURS, LEFT, RIGHT
from ethand_utils.training.callbacks import TrainingError, weights_digest
from ethand_utils.training.cyclegan.discriminators import CycleGANDiscriminators
from ethand_utils.training.cyclegan.variants import FRONT, LOOSE, OPTIONS, VARIANTS, CycleGANSettings, cycle_nets
from ethand_utils.training.learner import to_device
from ethand_utils.training.losses import (
    LOSSES,
    SegmentationLoss,
    cross_entropy,
    one_hot_maps,
    per_hand,
    prediction_maps,
)
from ethand_utils.training.models import create_model

MASK_LOSS = "ce_dice"


class CycleGAN(nn.Module):
    """G_XY (images to logits of two masks), G_YX (maps of two masks to images), and a net for the order of the hands.

    `order` maps an image to two channels of logits: whether the left, and the right hand is visible at a pixel. With
    `front`, G_YX gets that beside the maps (of labels the ground truth, of images the output of `order`), so that it
    can know which hand hides the other. Without, `order` is trained all the same, on pairs alone, so that every
    variant can be scored by whether the images it generates show the right hand in front.

    `maps` is what G_YX and D_Y get of a prediction: `softmax` or `straight_through`, as in `losses.prediction_maps`.
    Without `cycles`, no generator gets the other's output in training. With `identity`, G_XY gets coloured images of
    the masks as well.
    """

    def __init__(
        self,
        g_xy: nn.Module,
        g_yx: nn.Module,
        order: nn.Module,
        front: bool = False,
        maps: str = "softmax",
        cycles: bool = True,
        identity: bool = False,
    ):
        super().__init__()
        self.g_xy, self.g_yx, self.order = g_xy, g_yx, order
        self.front, self.maps, self.cycles, self.identity = front, maps, cycles, identity
        self.recipe = [g_xy.recipe, g_yx.recipe, order.recipe, front, maps, cycles, identity]

    def forward(self, images: torch.Tensor, masks: torch.Tensor, visible: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute all outputs for images float [B, 3, H, W], masks int64 and visible float [B, 2, H, W].

        `logits` [B, 34, H, W] and `order` [B, 2, H, W] of the images; `images` [B, 3, H, W] generated from the masks.
        With cycles, and always in evaluation: `maps` [B, 34, H, W] of the images as D_Y gets them, and the ends of the
        cycles, `images_again` and `logits_again`. In training with `identity`, `logits_of_picture`; in evaluation also
        `images_hardened`, the image cycle by way of the arg-max of the logits, `order_of_images` and
        `order_of_images_again`.
        """
        outputs = {"images": self.generate_images(one_hot_maps(masks), visible), "order": self.order(images)}
        if self.training and not self.cycles:
            return outputs | {"logits": self.g_xy(images)}
        # One batch for all, so that batch normalisation has the same statistics for real and generated images.
        inputs = {"logits": images, "logits_again": outputs["images"]}
        if self.training and self.identity:
            inputs["logits_of_picture"] = normalise(masks_to_image(masks, visible))
        logits = self.g_xy(torch.cat(list(inputs.values()))).chunk(len(inputs))
        outputs |= dict(zip(inputs, logits, strict=True))
        order = outputs["order"].detach().sigmoid()
        outputs["maps"] = prediction_maps(outputs["logits"], self.maps)
        outputs["images_again"] = self.generate_images(outputs["maps"], order)
        if not self.training:
            hard = one_hot_maps(per_hand(outputs["logits"]).argmax(2))
            outputs["images_hardened"] = self.generate_images(hard, order)
            outputs |= {f"order_of_{name}": self.order(outputs[name]) for name in ("images", "images_again")}
        return outputs

    def generate_images(self, maps: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Generate images by G_YX from maps [B, 34, H, W] and which hand is visible, [B, 2, H, W]."""
        return self.g_yx(torch.cat([maps, visible], 1) if self.front else maps)


def masks_to_image(masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return two hands' masks int64 [B, 2, H, W] as one RGB image uint8 [B, H, W, 3] in the parts' colours.

    Where both are, the hand that `visible` [B, 2, H, W] names is shown, or else the left one.
    """
    right = (masks[:, LEFT] == 0) | (visible[:, RIGHT] > visible[:, LEFT])
    parts = torch.where(right & (masks[:, RIGHT] > 0), masks[:, RIGHT], masks[:, LEFT])
    return torch.from_numpy(COLOURS).to(masks.device)[parts]


class CycleLoss(nn.Module):
    """The generators' loss without the adversarial term: a sum of `terms` times their `weights`.

    Of pairs: `masks`, the report's segmentation loss; `image`, L1 of the generated image; `order`, binary cross-entropy
    of which hand is visible. With `cycles`, of everything: `cycle_image`, L1 of the image after X→Y→X, and
    `cycle_masks`, cross-entropy of the masks after Y→X→Y; `identity`, cross-entropy of G_XY's masks of a coloured image
    of the masks. L1 is in the units of normalised images.
    """

    def __init__(self, masks: SegmentationLoss, weights: dict[str, float], cycles: bool = True):
        super().__init__()
        self.masks, self.weights, self.cycles, self.terms = masks, weights, cycles, {}

    def forward(self, outputs: dict[str, torch.Tensor], images, masks, visible, paired) -> torch.Tensor:
        """Compute the scalar loss of `CycleGAN`'s outputs for a batch of `MixedLoader`; `terms` keeps it, detached."""
        weights = self.masks.weights.to(images)
        terms = {
            "masks": self.masks(outputs["logits"][paired], masks[paired]),
            "image": F.l1_loss(outputs["images"][paired], images[paired]),
            "order": F.binary_cross_entropy_with_logits(outputs["order"][paired], visible[paired]),
        }
        if self.cycles:
            terms["cycle_image"] = F.l1_loss(outputs["images_again"], images)
            terms["cycle_masks"] = cross_entropy(outputs["logits_again"], masks, weights)
        if "logits_of_picture" in outputs:
            terms["identity"] = cross_entropy(outputs["logits_of_picture"], masks, weights)
        self.terms = {name: term.detach() for name, term in terms.items()}
        return sum(self.weights[name] * term for name, term in terms.items())

    def extra_repr(self) -> str:
        """Return the weights of the terms, for `repr`."""
        return repr(self.weights)


def cycle_loss(
    settings: CycleGANSettings, options: Sequence[str], cycles: bool = True, masks: np.ndarray | None = None
) -> CycleLoss:
    """Create the loss of a training with some of OPTIONS; `masks` as for `SegmentationLoss`."""
    s = settings
    image_cycle = s.cycle_weight * s.image_weight * (LOOSE if "loose_cycle" in options else 1)
    weights = {"masks": 1.0, "image": s.image_weight, "order": 1.0}
    weights |= {"cycle_image": image_cycle, "cycle_masks": s.cycle_weight, "identity": s.identity_weight}
    return CycleLoss(SegmentationLoss(MASK_LOSS, s.class_weights, s.hands, masks), weights, cycles)


def cycle_text(settings: CycleGANSettings, options: Sequence[str], cycles: bool = True) -> str:
    """Return the formula of the generators' loss: `cycle_loss`, and the adversarial term of the discriminators."""
    s, loose = settings, LOOSE if "loose_cycle" in options else 1
    masks = LOSSES[MASK_LOSS].text(s.class_weights != "none")
    text = f"pairs: {masks} + {s.image_weight:g} L1(image) + BCE(order)"
    if cycles:
        text += f"; all: {s.cycle_weight:g} ({loose * s.image_weight:g} L1(X→Y→X) + CE(Y→X→Y))"
        text += f" + {s.identity_weight:g} identity" if s.identity_weight else ""
        text += f" + {s.adversarial_weight:g} {s.gan} of D_X and D_Y"
    return text


def create_cyclegan(
    settings: CycleGANSettings,
    options: Sequence[str],
    cycles: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    g1: nn.Module | None = None,
) -> tuple[CycleGAN, CycleGANDiscriminators]:
    """Create the nets of a training with some of OPTIONS, and its discriminators.

    With `warm_start`, G_XY begins with the weights of `g1`. Raises TrainingError for an unknown option, and where `g1`
    is needed and not given.
    """
    s, device = settings, torch.device(device)
    for name in options:
        require_known("option", name, OPTIONS, TrainingError)
    if "warm_start" in options and g1 is None:
        raise TrainingError("OPTIONS: warm_start needs G1's weights; run notebooks/04_train_g1.ipynb first")
    nets = {name: create_model(**arguments, seed=seed) for name, arguments in cycle_nets(s, options).items()}
    if "warm_start" in options:
        nets["G_XY"].load_state_dict(g1.state_dict())
    maps = "straight_through" if "straight_through" in options else "softmax"
    model = CycleGAN(nets["G_XY"], nets["G_YX"], nets["order"], FRONT in options, maps, cycles, s.identity_weight > 0)
    # So that no training resumes from the state of another warm start.
    model.recipe.append(weights_digest(g1) if "warm_start" in options else "")
    rate, buffer = s.d_rate if "two_rates" in options else 1.0, s.replay_buffer if "replay_buffer" in options else 0
    d_x, d_y = (to_device(nets[name], device) for name in ("D_X", "D_Y"))
    return to_device(model, device), CycleGANDiscriminators(d_x, d_y, s.gan, s.adversarial_weight, rate, buffer)


def require_variant(name: str, cycles: bool, options: Sequence[str]) -> None:
    """Raise TrainingError where the name of a variant is used with other cycles or options than tables say."""
    variant = VARIANTS.get(name)
    if variant and (variant.cycles != cycles or set(variant.options) != set(options)):
        raise TrainingError(
            f"VARIANT: {name!r} stands for CYCLES = {variant.cycles}, OPTIONS = {list(variant.options)}; choose "
            "another name for a training of your own"
        )
