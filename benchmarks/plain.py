"""Plain code that the benchmarks stand beside: what one would write with PyTorch, OpenCV and smp alone."""

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize, to_tensor

from ethand_utils.data.augment import IMAGE_MEAN, IMAGE_STD, Augmentation
from ethand_utils.data.store import Store
from ethand_utils.labels import CLASS_WEIGHTS, N_CLASSES, min_pixels
from ethand_utils.training.losses import CE_SHARE, DICE_SHARE, DICE_SMOOTH


def plain_augment(
    image: np.ndarray, masks: np.ndarray, degrees: float, scale: float, gain: np.ndarray, flipped: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment one sample, image uint8 [H, W, 3] and masks uint8 [2, H, W], with OpenCV and torchvision."""
    size = len(image)
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), degrees, scale)
    image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    masks = [cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST) for mask in masks]
    if flipped:
        image, masks = image[:, ::-1], [mask[:, ::-1] for mask in reversed(masks)]
    image = np.clip(image * gain, 0, 255).round().astype(np.uint8)
    return normalize(to_tensor(image), IMAGE_MEAN, IMAGE_STD), torch.from_numpy(np.stack(masks)).long()


class PlainDataset(Dataset):
    """A data set augmented sample by sample on the CPU, as one would write it without this package."""

    def __init__(self, store: Store):
        self.images, self.masks = store.images, store.masks
        self.rng, self.settings = np.random.default_rng(0), Augmentation()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        s, rng = self.settings, self.rng
        scale = 1 + s.scale * np.clip(rng.normal(), -1, 1)
        degrees = s.rotation * np.clip(rng.normal(), -2, 2) * (rng.random() < s.rotation_p)
        gain, flipped = rng.uniform(1 - s.intensity, 1 + s.intensity, 3), rng.random() < s.flip_p
        return plain_augment(self.images[i], self.masks[i], degrees, scale, gain, flipped)


class PlainLoss(nn.Module):
    """L_segm of both hands by PyTorch's cross-entropy and smp's Dice loss."""

    def __init__(self):
        super().__init__()
        self.dice = smp.losses.DiceLoss("multiclass", smooth=DICE_SMOOTH)
        self.register_buffer("weights", torch.tensor(CLASS_WEIGHTS["released"]))

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss of logits [B, 34, H, W] and masks int64 [B, 2, H, W]."""
        total = 0
        for hand, hand_logits in enumerate(logits.split(N_CLASSES, dim=1)):
            truth = masks[:, hand].contiguous()
            ce = nn.functional.cross_entropy(hand_logits, truth, self.weights)
            total = total + CE_SHARE * ce + DICE_SHARE * self.dice(hand_logits.contiguous(), truth)
        return total


def plain_course_miou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the course's mIoU by a loop over images, hands and classes."""
    hands = []
    for guess, mask in zip(
        predicted.reshape(-1, *predicted.shape[2:]), truth.reshape(-1, *truth.shape[2:]), strict=True
    ):
        parts = []
        for part in range(1, N_CLASSES):
            a, b = guess == part, mask == part
            if b.sum() >= min_pixels(truth.shape[-1]):
                parts.append((a & b).sum() / (a | b).sum())
        hands.append(np.mean(parts) if parts else np.nan)
    return float(np.nanmean(hands))
