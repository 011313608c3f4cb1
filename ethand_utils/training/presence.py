"""Whether a hand is there at all: its score, the threshold of that, and masks without the hands that are absent."""

import numpy as np
import torch

PRESENCE_AREA = 0.02  # share of an image's pixels that a hand has at least


def hand_presence(background: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return for each hand a score [B, 2] in 0…1 that it is there.

    `background` is the probability [B, 2, H, W] that a pixel is none of the hand's, `predicted` bool [B, 2, H, W] which
    pixels a part is predicted for. The score is the mean probability of a part over these pixels, counted over
    PRESENCE_AREA of the image where they are fewer: a hand of few pixels is as doubtful as one of low probability.
    """
    least = PRESENCE_AREA * background.shape[-1] * background.shape[-2]
    return ((1 - background) * predicted).sum((2, 3)) / predicted.sum((2, 3)).clamp(min=least)


def presence_threshold(presence: np.ndarray, there: np.ndarray, share: float) -> float:
    """Return the presence that at most `share` of the absent hands exceed; 0 where all are there.

    `presence` float [n, 2] and `there` bool [n, 2] are those of images with known hands.
    """
    absent = presence[~there]
    return float(np.quantile(absent, 1 - share)) if len(absent) else 0.0


def absent_hands(presence: torch.Tensor, threshold: float, sides: torch.Tensor) -> torch.Tensor:
    """Return which hands [B, 2] are absent: those below `threshold`, but for the likelier one.

    Where `sides` bool [2] has both hands, none is. Where it has one, that takes the place of the likelier one.
    """
    absent = (presence < threshold) & ~sides.all()
    likelier = (presence + 2 * sides).argmax(1)  # presence is at most 1
    alone = torch.arange(2, device=presence.device) != likelier[:, None]
    return alone & absent.any(1, keepdim=True)


def without_absent(hands: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
    """Return class probabilities [B, 2, 17, H, W] in which the hands `absent` bool [B, 2] are background.

    The other hand gets their parts where it has none itself, as both have the same ids.
    """
    if not torch.compiler.is_compiling() and not absent.any():  # a graph has both ways in one
        return hands
    share = hands[:, :, :1] * hands.flip(1)[:, :, 1:]
    alone = torch.cat([hands[:, :, :1] * hands.flip(1)[:, :, :1], hands[:, :, 1:] + share], 2)
    nothing = torch.zeros_like(hands)
    nothing[:, :, 0] = 1
    absent, other = absent.view(-1, 2, 1, 1, 1), absent.flip(1).view(-1, 2, 1, 1, 1)
    return torch.where(absent, nothing, torch.where(other, alone, hands))
