"""How sure a net is of its masks: one number a sample, from logits [B, 34, H, W] to float [B]."""

import torch

from ethand_utils.losses import per_hand


def foreground_prob(logits: torch.Tensor) -> torch.Tensor:
    """Mean, over the pixels of both hands predicted to be a part, of the largest probability; 0 without any."""
    probability, label = per_hand(logits).softmax(2).max(2)
    part = label > 0
    return (probability * part).sum((1, 2, 3)) / part.sum((1, 2, 3)).clamp(min=1)


def logit_sum(logits: torch.Tensor) -> torch.Tensor:
    """Sum over all pixels of both hands of the largest raw logit, as released; background, most pixels, decides."""
    return per_hand(logits).amax(2).sum((1, 2, 3))


CONFIDENCES = {"foreground_prob": foreground_prob, "logit_sum": logit_sum}
