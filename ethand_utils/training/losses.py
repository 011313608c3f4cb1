"""Losses on logits [B, 34, H, W] and masks int64 [B, 2, H, W] (report, section 2.4; REFERENCE.md section 2)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import FocalLoss, JaccardLoss, LovaszLoss, TverskyLoss
from torch import nn

from ethand_utils.data.prefetch import runs_ahead
from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.labels import (
    CLASS_WEIGHTS,
    FRONT_LEFT,
    FRONT_NONE,
    FRONT_RIGHT,
    HANDS,
    INVERSE_FREQUENCY,
    LEFT,
    N_CHANNELS,
    N_CLASSES,
    ORDER_CHANNEL,
    RIGHT,
    inverse_frequency,
)
from ethand_utils.training.distributed import all_reduce_mean, all_reduce_sum, world_size
from ethand_utils.training.presence import hand_presence

CE_SHARE, DICE_SHARE = 0.35, 0.65
SEGMENTATION_SHARE, ADVERSARIAL_SHARE = 0.9, 0.1
DICE_SMOOTH = 0.1
ORDER_SHARE = 0.5  # of the order's loss beside that of the masks
PLAIN_ORDER = 0.05  # weight of pixels that ask nothing of the order
SURE = 1e-3  # distance from 0 and 1 that a hand's presence keeps in its loss
D_CHANNELS = {"softmax": N_CHANNELS, "straight_through": N_CHANNELS, "argmax": len(HANDS)}  # channels of D's input
ADVERSARIAL_INPUTS = tuple(D_CHANNELS)
REDUCTIONS = ("sum", "mean")  # over the two hands
CHUNK = 1024  # masks counted at a time


# --- segmentation losses


class SegmentationLoss(nn.Module):
    """One of LOSSES with its class weights, summed or averaged over the two hands.

    `class_weights` by name as in `weights_of_classes`, which needs `masks` for one of them; a loss that takes none says
    so in its text. `hands`: the `sum` of the two hands' losses, as released, or their `mean`, which counts half as much
    beside an adversarial term. `presence` is the share of `presence_loss` that is added. Raises EthandError for an
    unknown name.
    """

    def __init__(
        self,
        loss: str = "ce_dice",
        class_weights: str = "released",
        hands: str = "sum",
        masks: np.ndarray | None = None,
        presence: float = 0.0,
    ):
        super().__init__()
        require_known("loss", loss, LOSSES)
        require_known("hands", hands, REDUCTIONS)
        self.loss, self.class_weights, self.hands, self.presence = loss, class_weights, hands, presence
        self.register_buffer("weights", torch.tensor(weights_of_classes(class_weights, masks)))

    def forward(self, logits: torch.Tensor, masks: torch.Tensor, front: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the scalar loss; with `front` int64 [B, H, W], ORDER_SHARE of `order_loss` is added."""
        value = LOSSES[self.loss].compute(logits, masks, self.weights.to(logits))
        value = value / len(HANDS) if self.hands == "mean" else value
        if self.presence:
            value = value + self.presence * presence_loss(logits, masks)
        return value if front is None else value + ORDER_SHARE * order_loss(logits, masks, front)

    def extra_repr(self) -> str:
        """Return the formula and the settings, for `repr`."""
        formula = LOSSES[self.loss].text(self.class_weights != "none")
        presence = f", presence={self.presence:g}" if self.presence else ""
        return f"{self.loss}: {formula}, class_weights={self.class_weights}, hands={self.hands}{presence}"


@dataclass(frozen=True)
class Loss:
    """A segmentation loss: its formula as text, and the scalar of logits, masks and class weights float [17].

    `{ce}` in the formula stands for CE or weighted CE. `takes_weights`: whether class weights act on it.
    """

    formula: str
    compute: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    takes_weights: bool = True

    def text(self, weighted: bool) -> str:
        """Return the formula, with class weights or without; says so where it takes none."""
        if weighted and not self.takes_weights:
            return f"{self.formula} (takes no class weights)"
        return self.formula.format(ce="weighted CE" if weighted else "CE")


def cross_entropy(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Compute class-weighted cross-entropy, divided by the sum of the pixels' weights, summed over the two hands."""
    truth = masks.permute(0, 2, 3, 1)
    return _cross_entropy(_of_truth(classes_last(logits).log_softmax(-1), truth), truth, weights)


def confident_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, sure: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Compute `cross_entropy` of logits [B, 34, H, W] and pseudo-labels int64 [B, 2, H, W] where `sure` bool is.

    `sure` has the labels' shape. The sum is divided by the weights (float [17]) of all pixels, sure or not.
    """
    truth = labels.permute(0, 2, 3, 1)
    likelihood = _of_truth(classes_last(logits).log_softmax(-1), truth)
    return _cross_entropy(likelihood * sure.permute(0, 2, 3, 1), truth, weights)


def dice(logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Compute Dice loss over the batch's pixels: the mean of 17 classes (0 for an absent one), summed over the hands.

    Only pixels of `valid` bool [B, 2, H, W] count, or all. It is segmentation-models-pytorch's multiclass DiceLoss of
    each hand but for the weight of the smoothing term; without one-hot maps it takes half the time, which at small
    sizes is a tenth of a training step.
    """
    probability, truth = classes_last(logits).softmax(-1), masks.permute(0, 2, 3, 1)
    if valid is not None:
        valid = valid.permute(0, 2, 3, 1)
        probability = probability * valid.unsqueeze(-1)
    return _dice(probability, _of_truth(probability, truth), truth, valid)


def ce_dice(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the report's mixture: 0.35 cross-entropy + 0.65 Dice, summed over the two hands.

    Both use one softmax; computed apart they take 1.5 times as long. A true class's probability is clamped to the
    smallest normal float32 (a logit some 87 below the largest): there cross-entropy is about 87, and its gradient 0,
    unlike that of `cross_entropy`.
    """
    probability, truth = classes_last(logits).softmax(-1), masks.permute(0, 2, 3, 1)
    of_truth = _of_truth(probability, truth)
    likelihood = of_truth.clamp(min=torch.finfo(of_truth.dtype).tiny).log()
    return CE_SHARE * _cross_entropy(likelihood, truth, weights) + DICE_SHARE * _dice(probability, of_truth, truth)


def _of_truth(values: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return each pixel's value of its true class [B, H, W, 2], from `values` [B, H, W, 2, 17] and `truth` int64."""
    return values.gather(-1, truth.unsqueeze(-1)).squeeze(-1)


def _cross_entropy(likelihood: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Compute `cross_entropy` of the true classes' log-probabilities [B, H, W, 2]."""
    pixels = torch.ones_like(likelihood) if weights is None else weights[truth]
    sums = (all_reduce_sum(values.sum((0, 1, 2))) for values in (likelihood * pixels, pixels))
    return -torch.div(*sums).sum()


def _dice(
    probability: torch.Tensor, of_truth: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `dice` from all probabilities [B, H, W, 2, 17] and the true classes' [B, H, W, 2], 0 unless `valid`."""
    sums = dense_sums if runs_ahead(truth.device) else indexed_sums
    shared, present = sums(of_truth, truth, valid)
    shared, present, predicted = map(all_reduce_sum, (shared, present, probability.sum((0, 1, 2)).flatten()))
    score = (2 * shared + DICE_SMOOTH) / (predicted + present + DICE_SMOOTH)
    return ((1 - score) * (present > 0)).sum() / N_CLASSES


def indexed_sums(
    of_truth: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums [34] of true classes' probabilities [B, H, W, 2], and of their pixels, by hand and class.

    `truth` int64 [B, H, W, 2]; only pixels of `valid` bool [B, H, W, 2] count, where the others' probabilities are 0.
    """
    group = (truth + N_CLASSES * torch.arange(len(HANDS), device=truth.device)).flatten()
    present = torch.bincount(group if valid is None else group[valid.flatten()], minlength=N_CHANNELS)
    return of_truth.new_zeros(N_CHANNELS).index_add(0, group, of_truth.flatten()), present


def dense_sums(
    of_truth: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same from one-hot maps, for a GPU.

    There, a count by index makes the program wait, and sums by index are in no fixed order and queue up at a few sums.
    """
    hits = truth.unsqueeze(-1) == torch.arange(N_CLASSES, device=truth.device)
    if valid is not None:
        hits = hits & valid.unsqueeze(-1)
    return (of_truth.unsqueeze(-1) * hits).sum((0, 1, 2)).flatten(), hits.sum((0, 1, 2)).flatten()


def order_loss(logits: torch.Tensor, masks: torch.Tensor, front: torch.Tensor) -> torch.Tensor:
    """Compute binary cross-entropy of the hand in front, of logits [B, 35, H, W], over the pixels that have one.

    Pixels where one hand lies alone and in front of nothing count PLAIN_ORDER: they are most, and their answer is easy.
    """
    left, right = masks[:, LEFT] > 0, masks[:, RIGHT] > 0
    asked = (left & right) | (left & (front == FRONT_RIGHT)) | (right & (front == FRONT_LEFT))
    weights = torch.where(asked, 1.0, PLAIN_ORDER) * (front != FRONT_NONE)
    loss = F.binary_cross_entropy_with_logits(order(logits), (front == FRONT_RIGHT).to(logits), reduction="none")
    return all_reduce_sum((loss * weights).sum()) / all_reduce_sum(weights.sum()).clamp(min=1)


def presence_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute binary cross-entropy of each hand's `hand_presence`, whether it has any pixel, of logits [B, 34+, H, W].

    Cross-entropy and Dice ask for parts; this asks that an absent hand's predicted pixels be doubted, all of them.
    """
    there, hands = (masks > 0).flatten(2).any(2), per_hand(logits)
    background = (hands[:, :, 0] - hands.logsumexp(2)).exp()
    predicted = hands[:, :, 0] < hands.detach()[:, :, 1:].amax(2)
    presence = SURE + (1 - 2 * SURE) * hand_presence(background, predicted)
    return all_reduce_mean(F.binary_cross_entropy(presence, there.to(presence), reduction="none"))


def hand_by_hand(formula: str, loss: nn.Module) -> Loss:
    """Return a multiclass loss of one hand (logits [B, 17, H, W], masks [B, H, W]) as a `Loss`: the sum over the hands.

    It takes no class weights. Its sums are those of one process, so that several would train another net than one:
    with `processes` above 1 it raises EthandError.
    """

    def compute(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if world_size() > 1:
            raise EthandError(
                f"loss {formula}: not shared among processes; expected processes: 1, or loss ce or ce_dice"
            )
        hands = per_hand(logits)
        return sum(loss(hands[:, hand].contiguous(), masks[:, hand]) for hand in (LEFT, RIGHT))

    return Loss(formula, compute, takes_weights=False)


# To add a loss, add a line. The last four are segmentation-models-pytorch's with its defaults.
LOSSES = {
    "ce": Loss("{ce}", cross_entropy),
    "ce_dice": Loss(f"{CE_SHARE} {{ce}} + {DICE_SHARE} Dice", ce_dice),
    "tversky": hand_by_hand("Tversky", TverskyLoss("multiclass")),
    "focal": hand_by_hand("focal", FocalLoss("multiclass")),
    "lovasz": hand_by_hand("Lovász", LovaszLoss("multiclass")),
    "jaccard": hand_by_hand("Jaccard", JaccardLoss("multiclass")),
}


def weights_of_classes(class_weights: str, masks: np.ndarray | None = None) -> tuple[float, ...]:
    """Return 17 weights by name: a set of labels.CLASS_WEIGHTS, or `inverse_frequency` of `masks` uint8 [n, 2, H, W].

    Raises EthandError for an unknown name and for missing masks.
    """
    require_known("class_weights", class_weights, (*CLASS_WEIGHTS, INVERSE_FREQUENCY))
    if class_weights != INVERSE_FREQUENCY:
        return CLASS_WEIGHTS[class_weights]
    if masks is None:
        raise EthandError(f"class_weights {class_weights}: expected the masks to train on as well")
    # PyTorch counts bytes as they are, NumPy widens them first: 25 times slower.
    chunks = (np.array(masks[start : start + CHUNK]) for start in range(0, len(masks), CHUNK))
    counts = sum(torch.bincount(torch.from_numpy(chunk).flatten(), minlength=N_CLASSES) for chunk in chunks)
    return inverse_frequency(counts.numpy())


# --- adversarial losses, and the maps that D sees


def discriminator_loss(on_fake: torch.Tensor, on_real: torch.Tensor) -> torch.Tensor:
    """Compute L_D = BCE(D(prediction), 0) + BCE(D(truth), 1), on logits of any shape."""
    return _bce(on_fake, 0.0) + _bce(on_real, 1.0)


def adversarial_loss(on_fake: torch.Tensor) -> torch.Tensor:
    """Compute L_adv = BCE(D(prediction), 1), on logits."""
    return _bce(on_fake, 1.0)


def _bce(logits: torch.Tensor, target: float) -> torch.Tensor:
    """Compute mean binary cross-entropy of D's logits, over all processes that share the training."""
    targets = torch.full_like(logits, target)
    return all_reduce_mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"))


def prediction_maps(logits: torch.Tensor, adversarial_input: str = "softmax") -> torch.Tensor:
    """Convert logits to D's input of a prediction: float [B, 34, H, W], or [B, 2, H, W] for `argmax`.

    `softmax`: probabilities over each hand's classes, as the report says. `straight_through`: the one-hot maps of the
    arg-max with the gradient of the probabilities, so that D cannot tell a prediction by its softness alone.
    `argmax`: each hand's ids 0…16 as a channel, as released, through which no gradient reaches the logits.
    """
    require_known("adversarial_input", adversarial_input, ADVERSARIAL_INPUTS)
    if adversarial_input == "argmax":
        return target_maps(per_hand(logits).argmax(2), adversarial_input)
    maps = classes_last(logits).softmax(-1)
    if adversarial_input == "straight_through":
        hard = torch.zeros_like(maps).scatter_(-1, maps.argmax(-1, keepdim=True), 1.0)
        maps = hard + maps - maps.detach()
    return maps.flatten(3).permute(0, 3, 1, 2)


def target_maps(masks: torch.Tensor, adversarial_input: str = "softmax") -> torch.Tensor:
    """Convert masks to D's input: one-hot maps float [B, 34, H, W], or for `argmax` the ids float [B, 2, H, W]."""
    return masks.float() if adversarial_input == "argmax" else one_hot_maps(masks)


def one_hot_maps(masks: torch.Tensor) -> torch.Tensor:
    """Convert masks to one-hot maps float [B, 34, H, W]."""
    classes = torch.arange(N_CLASSES, device=masks.device).view(-1, 1, 1)
    return (masks.unsqueeze(2) == classes).flatten(1, 2).float()


def per_hand(logits: torch.Tensor) -> torch.Tensor:
    """Return the masks' logits [B, 2, 17, H, W], left hand first, of logits [B, 34 or 35, H, W]."""
    return logits[:, :N_CHANNELS].unflatten(1, (len(HANDS), N_CLASSES))


def classes_last(logits: torch.Tensor) -> torch.Tensor:
    """Return the masks' logits [B, H, W, 2, 17], of logits [B, 34 or 35, H, W].

    In the layout channels-last, as of nets on a CPU, they lie so in memory: a softmax takes a third of the time.
    """
    return logits.permute(0, 2, 3, 1)[..., :N_CHANNELS].unflatten(3, (len(HANDS), N_CLASSES))


def order(logits: torch.Tensor) -> torch.Tensor:
    """Return the logit [B, H, W] that the right hand is in front, of logits [B, 35, H, W]."""
    return logits[:, ORDER_CHANNEL]
