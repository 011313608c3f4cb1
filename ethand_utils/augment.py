"""Batched augmentation on the training device: image and masks from one transform, a flip exchanges the hands."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

# ImageNet statistics of RGB in 0…1, as the encoders' weights expect them.
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the report's section 2.3 as its authors released it (REFERENCE.md section 2).

    Scale is 1 + `scale`·clip(N(0, 1), ±1); rotation `rotation` degrees·clip(N(0, 1), ±2) with probability
    `rotation_p`; each channel is multiplied with U(1 − `intensity`, 1 + `intensity`); a horizontal flip that exchanges
    the hands comes with probability `flip_p`.
    """

    scale: float = 0.01
    rotation: float = 5.0
    rotation_p: float = 0.6
    intensity: float = 0.01
    flip_p: float = 0.5


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 RGB [B, H, W, 3] → float [B, 3, H, W] with ImageNet mean and standard deviation."""
    return _standardise(images.permute(0, 3, 1, 2).float())


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """The inverse of `normalise`."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _standardise(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return (images / 255 - mean) / std


def augment(
    images: torch.Tensor, masks: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images uint8 [B, H, W, 3] with masks uint8 [B, 2, H, W] → normalised float [B, 3, H, W], int64 masks.

    One affine transform a sample resamples the image bilinearly and the masks by nearest neighbour, black and
    background beyond the border. `generator` lives on the CPU, so that the draw does not depend on the device.
    """
    device, n = images.device, len(images)
    scale = 1 + settings.scale * torch.randn(n, generator=generator).clamp(-1, 1)
    degrees = settings.rotation * torch.randn(n, generator=generator).clamp(-2, 2)
    turned = torch.rand(n, generator=generator) < settings.rotation_p
    gain = 1 + settings.intensity * (2 * torch.rand(n, 3, 1, 1, generator=generator) - 1)
    flipped = (torch.rand(n, generator=generator) < settings.flip_p).to(device)

    grid = affine_grid(torch.deg2rad(degrees * turned), scale, images.shape[1]).to(device)
    pixels = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, mode="bilinear", align_corners=False)
    labels = F.grid_sample(masks.float(), grid, mode="nearest", align_corners=False).long()
    pixels = (pixels * gain.to(device)).clamp(0, 255)
    pixels, labels = flip(pixels, labels, flipped)
    return _standardise(pixels), labels


def affine_grid(angle: torch.Tensor, scale: torch.Tensor, size: int) -> torch.Tensor:
    """Sampling grid [B, H, W, 2] that turns images by `angle` [B] rad and enlarges them by `scale` [B]."""
    cos, sin, zero = torch.cos(angle) / scale, torch.sin(angle) / scale, torch.zeros_like(angle)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    return F.affine_grid(matrix, [len(angle), 1, size, size], align_corners=False)


def flip(images: torch.Tensor, masks: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror the samples chosen by `which` bool [B]: images [B, C, H, W], masks [B, 2, H, W]; left becomes right."""
    which = which.view(-1, 1, 1, 1)
    return torch.where(which, images.flip(3), images), torch.where(which, masks.flip(3).flip(1), masks)


def damage(masks: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Masks int64 [B, 2, H, W] with a square of `side` px cut out of each hand about a random pixel of it."""
    damaged = masks.clone()
    for sample in damaged:
        for hand in sample:
            pixels = hand.nonzero()
            if len(pixels):
                row, column = pixels[torch.randint(len(pixels), (1,), generator=generator)[0]].tolist()
                top, left = max(row - side // 2, 0), max(column - side // 2, 0)
                hand[top : top + side, left : left + side] = 0
    return damaged
