"""UniMatch V2 (Yang et al. 2025): FixMatch with two strong views whose features are dropped complementarily."""

import numpy as np
import torch
from torch import nn

from ethand_utils.data.prefetch import send
from ethand_utils.training.callbacks import TrainingError
from ethand_utils.training.distributed import world_size
from ethand_utils.training.joint import SemiSettings
from ethand_utils.training.semi.fixmatch import FixMatch


class UniMatchV2(FixMatch):
    """FixMatch with two strong views: the channels of features that the one loses, the other has twice.

    There is a draw for each level of the encoder, as levels differ in width (DINOv2's, in the source, do not). Each
    image keeps all channels, at every level, with a probability of one half; in the source, exactly half of them do.
    Labelled images pass through the net for themselves. Raises TrainingError for a net without an encoder.
    """

    views, formula = 2, "(L + w CE of sure labels, two strong views) / 2"
    compiles = False  # hooks added to a net after it is compiled have no effect

    def __init__(self, model: nn.Module, settings: SemiSettings):
        super().__init__(model, settings)
        if not hasattr(model, "encoder"):
            raise TrainingError("UniMatch V2: the net has no encoder, whose features it drops; expected one of smp's")

    def student_images(self, images: torch.Tensor, weak: torch.Tensor, *strong: torch.Tensor) -> torch.Tensor:
        """Return the labelled images alone, and keep the strong views for a pass of their own."""
        self.strong = self.strong_images(weak, *strong)
        return images

    def unlabelled_loss(self) -> torch.Tensor:
        """Compute the mean loss of both strong views, from features with dropped channels."""
        own = self.own_positions(len(self.strong) // 2)
        intact = torch.rand(len(own) * world_size()) < 0.5
        with complementary_dropout(self.student.encoder, intact, own):
            return self.view_loss(self.model(self.strong))


def complementary_dropout(encoder: nn.Module, intact: torch.Tensor, own: np.ndarray | slice = slice(None)):
    """Drop channels of an encoder's features while the returned handle is open as a context.

    A batch has one view of n images, then another of the same. `intact` bool [N] says which of all processes' images
    keep all channels, `own` int64 [n] which of them are here (default: all). The images themselves, which the list of
    features begins with, are left as they are.
    """

    def drop(module: nn.Module, inputs: tuple, features: list[torch.Tensor]) -> list[torch.Tensor]:
        masks = (complementary_masks(intact, level.shape[1], own) for level in features[1:])
        levels = [level * send(mask, level.device).to(level) for mask, level in zip(masks, features[1:], strict=True)]
        return [features[0], *levels]

    return encoder.register_forward_hook(drop)


def complementary_masks(intact: torch.Tensor, channels: int, own: np.ndarray | slice = slice(None)) -> torch.Tensor:
    """Return factors 0, 1 or 2 of features, float [2n, channels, 1, 1]: those of both views of an image add up to 2.

    They are drawn for all images of `intact` bool [N]; `own` int64 [n] are those returned (default: all).
    """
    factors = 2 * (torch.rand(len(intact), channels) < 0.5).float()
    factors[intact] = 1
    factors = factors[own]
    return torch.cat([factors, 2 - factors])[:, :, None, None]


METHOD = UniMatchV2
