"""The report's losses on logits [B, 34, H, W] and masks int64 [B, 2, H, W] (section 2.4; REFERENCE.md section 2)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ethand_utils.labels import (
    CLASS_WEIGHTS,
    HANDS,
    INVERSE_FREQUENCY,
    LEFT,
    N_CHANNELS,
    N_CLASSES,
    RIGHT,
    inverse_frequency,
)
from ethand_utils.training.distributed import all_reduce_mean, all_reduce_sum, world_size

CE_SHARE, DICE_SHARE = 0.35, 0.65
SEGMENTATION_SHARE, ADVERSARIAL_SHARE = 0.9, 0.1
DICE_SMOOTH = 0.1
D_CHANNELS = {"softmax": N_CHANNELS, "straight_through": N_CHANNELS, "argmax": len(HANDS)}  # what D sees of a mask
ADVERSARIAL_INPUTS = tuple(D_CHANNELS)
COUNTED = 1024  # masks counted at a time


def per_hand(logits: torch.Tensor) -> torch.Tensor:
    """[B, 34, H, W] → [B, 2, 17, H, W], left hand first."""
    return logits.unflatten(1, (len(HANDS), N_CLASSES))


def prediction_maps(logits: torch.Tensor, adversarial_input: str = "softmax") -> torch.Tensor:
    """Logits → what D sees of a prediction, float [B, 34, H, W], or [B, 2, H, W] of `argmax`.

    `softmax`: probabilities over each hand's classes, as the report says. `straight_through`: the one-hot maps of the
    arg-max with the gradient of the probabilities, so that D cannot tell a prediction by its softness alone.
    `argmax`: each hand's ids 0…16 as a channel, as released, through which no gradient reaches the logits.
    """
    if adversarial_input not in ADVERSARIAL_INPUTS:
        raise ValueError(f"adversarial_input {adversarial_input!r}: expected one of {', '.join(ADVERSARIAL_INPUTS)}")
    if adversarial_input == "argmax":
        return target_maps(per_hand(logits).argmax(2), adversarial_input)
    soft = per_hand(logits).softmax(2)
    if adversarial_input == "straight_through":
        hard = one_hot_maps(soft.argmax(2)).unflatten(1, soft.shape[1:3])
        return (hard + soft - soft.detach()).flatten(1, 2)
    return soft.flatten(1, 2)


def target_maps(masks: torch.Tensor, adversarial_input: str = "softmax") -> torch.Tensor:
    """Masks → what D sees of the truth: one-hot maps float [B, 34, H, W], or ids float [B, 2, H, W] of `argmax`."""
    return masks.float() if adversarial_input == "argmax" else one_hot_maps(masks)


def one_hot_maps(masks: torch.Tensor) -> torch.Tensor:
    """Masks → one-hot float [B, 34, H, W]."""
    return F.one_hot(masks, N_CLASSES).permute(0, 1, 4, 2, 3).flatten(1, 2).float()


def cross_entropy(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Class-weighted cross-entropy, divided by the sum of the pixels' weights, summed over the two hands."""
    hands = per_hand(logits)
    return sum(_mean_cross_entropy(hands[:, hand], masks[:, hand], weights) for hand in (LEFT, RIGHT))


def _mean_cross_entropy(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """PyTorch's weighted mean, over the pixels of all processes that share the training."""
    if world_size() == 1:
        return F.cross_entropy(logits, masks, weights)
    pixels = logits.new_tensor(masks.numel()) if weights is None else weights[masks].sum()
    return all_reduce_sum(F.cross_entropy(logits, masks, weights, reduction="sum")) / all_reduce_sum(pixels)


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
    shared, present, predicted = map(all_reduce_sum, (shared, present, probability.sum((0, 3, 4)).flatten()))
    score = (2 * shared + DICE_SMOOTH) / (predicted + present + DICE_SMOOTH)
    return ((1 - score) * (present > 0)).sum() / N_CLASSES


def weights_of_classes(class_weights: str, masks: np.ndarray | None = None) -> tuple[float, ...]:
    """17 weights by name: a set of labels.CLASS_WEIGHTS, or `inverse_frequency` of `masks` uint8 [n, 2, H, W]."""
    if class_weights in CLASS_WEIGHTS:
        return CLASS_WEIGHTS[class_weights]
    if class_weights != INVERSE_FREQUENCY:
        known = ", ".join((*CLASS_WEIGHTS, INVERSE_FREQUENCY))
        raise ValueError(f"class_weights {class_weights!r}: expected one of {known}")
    if masks is None:
        raise ValueError(f"class_weights {class_weights}: expected the masks to train on as well")
    # PyTorch counts bytes as they are, NumPy widens them first: 25 times slower.
    parts = (np.array(masks[start : start + COUNTED]) for start in range(0, len(masks), COUNTED))
    counts = sum(torch.bincount(torch.from_numpy(part).flatten(), minlength=N_CLASSES) for part in parts)
    return inverse_frequency(counts.numpy())


class SegmentationLoss(nn.Module):
    """`ce`: cross-entropy; `ce_dice`: 0.35 cross-entropy + 0.65 Dice.

    `class_weights` by name as in `weights_of_classes`, which needs `masks` for one of them. `hands`: the `sum` of the
    two hands' losses, as released, or their `mean`, which counts half as much beside an adversarial term.
    """

    def __init__(
        self,
        loss: str = "ce_dice",
        class_weights: str = "released",
        hands: str = "sum",
        masks: np.ndarray | None = None,
    ):
        super().__init__()
        if loss not in ("ce", "ce_dice"):
            raise ValueError(f"loss {loss!r}: expected ce or ce_dice")
        if hands not in ("sum", "mean"):
            raise ValueError(f"hands {hands!r}: expected sum or mean")
        self.loss, self.class_weights, self.hands = loss, class_weights, hands
        self.register_buffer("weights", torch.tensor(weights_of_classes(class_weights, masks)))

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss."""
        ce = cross_entropy(logits, masks, self.weights.to(logits))
        value = CE_SHARE * ce + DICE_SHARE * dice(logits, masks) if self.loss == "ce_dice" else ce
        return value / len(HANDS) if self.hands == "mean" else value

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.loss}, class_weights={self.class_weights}, hands={self.hands}"


def discriminator_loss(on_fake: torch.Tensor, on_real: torch.Tensor) -> torch.Tensor:
    """L_D = BCE(D(prediction), 0) + BCE(D(truth), 1), on logits of any shape."""
    return _verdict_loss(on_fake, 0.0) + _verdict_loss(on_real, 1.0)


def adversarial_loss(on_fake: torch.Tensor) -> torch.Tensor:
    """L_adv = BCE(D(prediction), 1), on logits."""
    return _verdict_loss(on_fake, 1.0)


def _verdict_loss(verdicts: torch.Tensor, wanted: float) -> torch.Tensor:
    """Mean binary cross-entropy of D's verdicts, over all processes that share the training."""
    wanted = torch.full_like(verdicts, wanted)
    return all_reduce_mean(F.binary_cross_entropy_with_logits(verdicts, wanted, reduction="none"))
