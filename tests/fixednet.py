"""A net whose answer is known."""

import torch
from torch import nn


class Fixed(nn.Module):
    """A net that gives the same logits [34 or 35, H, W] for every image."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), *self.logits.shape)
