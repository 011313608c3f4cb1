"""CycleGAN between images and pairs of masks (section 4 of the report), with remedies for what the report suspected.

Domain X are images, domain Y the two hands' masks, and where asked for, which hand is in front at each pixel.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ethand_utils.data.augment import normalise
from ethand_utils.exceptions import nearest
from ethand_utils.experiments.config import Profile
from ethand_utils.labels import COLOURS, LEFT, RIGHT
from ethand_utils.training.callbacks import TrainingError, weights_digest
from ethand_utils.training.cyclegan.discriminators import CycleGANDiscriminators
from ethand_utils.training.cyclegan.variants import FRONT, LOOSE, OPTIONS, VARIANTS, cycle_nets
from ethand_utils.training.learner import to_device
from ethand_utils.training.losses import SegmentationLoss, cross_entropy, one_hot_maps, per_hand, prediction_maps
from ethand_utils.training.models import create_model


class CycleGAN(nn.Module):
    """G_XY (images to the logits of two masks), G_YX (maps of two masks to images), and a net that sees the order.

    `order` maps an image to two channels of logits: whether the left, and the right hand is what one sees there. With
    `front`, G_YX is given that beside the maps (of labels the truth, of images what `order` says), so that it can know
    which hand hides the other. Without, `order` learns all the same, from pairs alone, so that any training can be
    asked whether the images it makes show the right hand in front.

    `maps` is what G_YX and D_Y see of a prediction: `softmax` or `straight_through`, as in `losses.prediction_maps`.
    Without `cycles`, nothing is passed on from one generator to the other in training. With `identity`, G_XY is shown
    pictures of the masks as well.
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

    def forward(self, images: torch.Tensor, masks: torch.Tensor, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        """All that a pass gives, of images float [B, 3, H, W], masks int64 [B, 2, H, W] and seen float [B, 2, H, W].

        `logits` [B, 34, H, W] and `order` [B, 2, H, W] of the images; `images` [B, 3, H, W] made of the masks. With
        cycles, and always in evaluation: `maps` [B, 34, H, W] of the images as D_Y sees them, and what comes back,
        `images_again` and `logits_again`. In training with `identity`, `logits_of_picture`; in evaluation also
        `images_hardened`, the way back from the arg-max of the logits, `order_of_images` and `order_of_images_again`.
        """
        made = {"images": self.images_of(one_hot_maps(masks), seen), "order": self.order(images)}
        if self.training and not self.cycles:
            return made | {"logits": self.g_xy(images)}
        # One batch for all, so that batch normalisation has the same statistics for what is real and what is made.
        shown = {"logits": images, "logits_again": made["images"]}
        if self.training and self.identity:
            shown["logits_of_picture"] = normalise(masks_to_image(masks, seen))
        made |= dict(zip(shown, self.g_xy(torch.cat(list(shown.values()))).chunk(len(shown)), strict=True))
        told = made["order"].detach().sigmoid()
        made["maps"] = prediction_maps(made["logits"], self.maps)
        made["images_again"] = self.images_of(made["maps"], told)
        if not self.training:
            hard = one_hot_maps(per_hand(made["logits"]).argmax(2))
            made["images_hardened"] = self.images_of(hard, told)
            made |= {f"order_of_{name}": self.order(made[name]) for name in ("images", "images_again")}
        return made

    def images_of(self, maps: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """G_YX's images of maps [B, 34, H, W] and of which hand one sees, [B, 2, H, W]."""
        return self.g_yx(torch.cat([maps, seen], 1) if self.front else maps)


def masks_to_image(masks: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Two hands' masks int64 [B, 2, H, W] as one RGB picture uint8 [B, H, W, 3] in the parts' colours.

    Where both are, the one that `seen` [B, 2, H, W] names is shown, or the left one.
    """
    right = (masks[:, LEFT] == 0) | (seen[:, RIGHT] > seen[:, LEFT])
    shown = torch.where(right & (masks[:, RIGHT] > 0), masks[:, RIGHT], masks[:, LEFT])
    return torch.from_numpy(COLOURS).to(masks.device)[shown]


class CycleLoss(nn.Module):
    """What the generators are to learn, but for the discriminators' verdicts: a sum of `terms` times their `weights`.

    Of pairs: `masks`, the report's loss of masks; `image`, L1 of the image made of them; `order`, binary
    cross-entropy of which hand one sees. With `cycles`, of everything: `cycle_image`, L1 of the image that
    comes back, and `cycle_masks`, cross-entropy of the masks that come back; `identity`, cross-entropy of the masks
    that G_XY sees in a picture of them. L1 is in the units of normalised images.
    """

    def __init__(self, masks: SegmentationLoss, weights: dict[str, float], cycles: bool = True):
        super().__init__()
        self.masks, self.weights, self.cycles, self.terms = masks, weights, cycles, {}

    def forward(self, made: dict[str, torch.Tensor], images, masks, seen, paired) -> torch.Tensor:
        """Scalar loss of what `CycleGAN` made of a batch of `MixedLoader`; `terms` keeps its parts, detached."""
        weights = self.masks.weights.to(images)
        terms = {
            "masks": self.masks(made["logits"][paired], masks[paired]),
            "image": F.l1_loss(made["images"][paired], images[paired]),
            "order": F.binary_cross_entropy_with_logits(made["order"][paired], seen[paired]),
        }
        if self.cycles:
            terms["cycle_image"] = F.l1_loss(made["images_again"], images)
            terms["cycle_masks"] = cross_entropy(made["logits_again"], masks, weights)
        if "logits_of_picture" in made:
            terms["identity"] = cross_entropy(made["logits_of_picture"], masks, weights)
        self.terms = {name: term.detach() for name, term in terms.items()}
        return sum(self.weights[name] * term for name, term in terms.items())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return repr(self.weights)


def require_row(name: str, cycles: bool, remedies: list[str]) -> None:
    """Raise TrainingError where a name of CYCLE_ROWS is used for something else than it says in tables."""
    for row in VARIANTS:
        if row["ROW"] == name and (row["CYCLES"] != cycles or set(row["REMEDIES"]) != set(remedies)):
            raise TrainingError(
                f"ROW: {name!r} stands for CYCLES = {row['CYCLES']}, REMEDIES = {list(row['REMEDIES'])}; choose "
                "another name for a training of your own"
            )


def cycle_loss(
    profile: Profile, remedies: tuple[str, ...], cycles: bool = True, masks: np.ndarray | None = None
) -> CycleLoss:
    """The loss of a training by a profile and some of cyclerows.REMEDIES; `masks` as for `SegmentationLoss`."""
    p = profile
    back = p.cycle_weight * p.image_weight * (LOOSE if "loose_cycle" in remedies else 1)
    weights = {"masks": 1.0, "image": p.image_weight, "order": 1.0}
    weights |= {"cycle_image": back, "cycle_masks": p.cycle_weight, "identity": p.identity_weight}
    return CycleLoss(SegmentationLoss("ce_dice", p.class_weights, p.hands, masks), weights, cycles)


def create_cyclegan(
    profile: Profile,
    remedies: tuple[str, ...],
    cycles: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    g1: nn.Module | None = None,
) -> tuple[CycleGAN, CycleGANDiscriminators]:
    """The nets of a training by a profile and some of cyclerows.REMEDIES, and its discriminators.

    G_XY begins with the weights of `g1` where that is a remedy. Raises TrainingError for a remedy that is none,
    and where `g1` is needed and not given.
    """
    p, device = profile, torch.device(device)
    for name in remedies:
        if name not in OPTIONS:
            known = ", ".join(OPTIONS)
            raise TrainingError(f"REMEDIES: {name!r}{nearest(name, OPTIONS)}, expected some of {known}")
    if "warm_start" in remedies and g1 is None:
        raise TrainingError("REMEDIES: warm_start needs G1's weights; run notebooks/04_train_g1.ipynb first")
    nets = {name: create_model(**how, seed=seed) for name, how in cycle_nets(p, remedies).items()}
    if "warm_start" in remedies:
        nets["G_XY"].load_state_dict(g1.state_dict())
    begun = weights_digest(g1) if "warm_start" in remedies else ""
    maps = "straight_through" if "straight_through" in remedies else "softmax"
    model = CycleGAN(nets["G_XY"], nets["G_YX"], nets["order"], FRONT in remedies, maps, cycles, p.identity_weight > 0)
    model.recipe.append(begun)  # so that no training goes on from another start's state
    rate, kept = p.d_rate if "two_rates" in remedies else 1.0, p.replay_buffer if "replay_buffer" in remedies else 0
    judges = (to_device(nets[name], device) for name in ("D_X", "D_Y"))
    return to_device(model, device), CycleGANDiscriminators(*judges, p.gan, p.adversarial_weight, rate, kept)
