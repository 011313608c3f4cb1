"""The report's losses on logits [B, 34, H, W] and masks int64 [B, 2, H, W] (section 2.4; REFERENCE.md section 2)."""

import torch
import torch.nn.functional as F
from torch import nn

from ethand_utils.labels import CLASS_WEIGHTS, HANDS, LEFT, N_CHANNELS, N_CLASSES, RIGHT

CE_SHARE, DICE_SHARE = 0.35, 0.65
SEGMENTATION_SHARE, ADVERSARIAL_SHARE = 0.9, 0.1
DICE_SMOOTH = 0.1
ADVERSARIAL_INPUTS = ("softmax", "straight_through")


def per_hand(logits: torch.Tensor) -> torch.Tensor:
    """[B, 34, H, W] → [B, 2, 17, H, W], left hand first."""
    return logits.unflatten(1, (len(HANDS), N_CLASSES))


def prediction_maps(logits: torch.Tensor, adversarial_input: str = "softmax") -> torch.Tensor:
    """Logits → what D sees of a prediction, [B, 34, H, W], with a gradient to the logits.

    `softmax`: probabilities over each hand's classes, as the report says. `straight_through`: the one-hot maps of the
    arg-max with the gradient of the probabilities, so that D cannot tell a prediction by its softness alone.
    """
    if adversarial_input not in ADVERSARIAL_INPUTS:
        raise ValueError(f"adversarial_input {adversarial_input!r}: expected one of {', '.join(ADVERSARIAL_INPUTS)}")
    soft = per_hand(logits).softmax(2)
    if adversarial_input == "straight_through":
        hard = one_hot_maps(soft.argmax(2)).unflatten(1, soft.shape[1:3])
        return (hard + soft - soft.detach()).flatten(1, 2)
    return soft.flatten(1, 2)


def one_hot_maps(masks: torch.Tensor) -> torch.Tensor:
    """Masks → one-hot float [B, 34, H, W]: what D sees of the truth."""
    return F.one_hot(masks, N_CLASSES).permute(0, 1, 4, 2, 3).flatten(1, 2).float()


def cross_entropy(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Class-weighted cross-entropy, divided by the sum of the pixels' weights, summed over the two hands."""
    hands = per_hand(logits)
    return sum(F.cross_entropy(hands[:, hand], masks[:, hand], weights) for hand in (LEFT, RIGHT))


def dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice loss over the batch's pixels, the mean of 17 classes (0 for one that is absent), summed over the two hands.

    It is segmentation-models-pytorch's multiclass DiceLoss of each hand but for the weight of the smoothing term;
    without one-hot maps it takes half the time, which at small sizes is a tenth of a training step.
    """
    probability = per_hand(logits).softmax(2)
    of_truth = probability.gather(2, masks.unsqueeze(2)).squeeze(2)
    hand = torch.arange(len(HANDS), device=masks.device).view(1, -1, 1, 1)
    group = (masks + hand * N_CLASSES).flatten()
    present = torch.bincount(group, minlength=N_CHANNELS)
    shared = of_truth.new_zeros(N_CHANNELS).index_add(0, group, of_truth.flatten())
    score = (2 * shared + DICE_SMOOTH) / (probability.sum((0, 3, 4)).flatten() + present + DICE_SMOOTH)
    return ((1 - score) * (present > 0)).sum() / N_CLASSES


class SegmentationLoss(nn.Module):
    """`ce`: cross-entropy; `ce_dice`: 0.35 cross-entropy + 0.65 Dice; `class_weights` by name as in labels."""

    def __init__(self, loss: str = "ce_dice", class_weights: str = "released"):
        super().__init__()
        if loss not in ("ce", "ce_dice"):
            raise ValueError(f"loss {loss!r}: expected ce or ce_dice")
        if class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights {class_weights!r}: expected one of {', '.join(CLASS_WEIGHTS)}")
        self.loss, self.class_weights = loss, class_weights
        self.register_buffer("weights", torch.tensor(CLASS_WEIGHTS[class_weights]))

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss."""
        ce = cross_entropy(logits, masks, self.weights.to(logits))
        return CE_SHARE * ce + DICE_SHARE * dice(logits, masks) if self.loss == "ce_dice" else ce

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.loss}, class_weights={self.class_weights}"


def discriminator_loss(on_fake: torch.Tensor, on_real: torch.Tensor) -> torch.Tensor:
    """L_D = BCE(D(prediction), 0) + BCE(D(truth), 1), on logits of any shape."""
    fake = F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
    return fake + F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))


def adversarial_loss(on_fake: torch.Tensor) -> torch.Tensor:
    """L_adv = BCE(D(prediction), 1), on logits."""
    return F.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))
