"""FixMatch with Dice in place of cross-entropy, as UniMatch's variant for medical images has it."""

import torch

from ethand_utils.training.losses import dice
from ethand_utils.training.semi.fixmatch import FixMatch


class FixMatchDice(FixMatch):
    """FixMatch whose loss on sure pixels is Dice: a class weighs the same however few pixels it has."""

    formula = "(L + w Dice of sure labels, strong views) / 2"

    def view_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute Dice over the sure pixels."""
        return dice(logits.contiguous(), self.labels, self.sure)


METHOD = FixMatchDice
