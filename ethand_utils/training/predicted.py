"""What is predicted of images, and how: plain data, without PyTorch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Inference:
    """How a net is used: with the mirrored image too, and which hands count as absent.

    With `mirrored` the probabilities of the image and of its mirror image are averaged. A hand is absent whose
    `hand_presence` is below `presence`, but for the likelier one: what its channels see then belongs to the other hand.
    `size` is the side of the images that the net was trained on, px: others are resized to it, and the probabilities
    back; None takes every image as it is.
    """

    mirrored: bool = False
    presence: float = 0.0
    size: int | None = None

    @staticmethod
    def of(notes: dict) -> "Inference":
        """Return the settings that the notes of `load_net` give; plain inference where they give none."""
        return Inference(**notes.get("inference", {}), size=notes.get("size"))


PLAIN = Inference()


@dataclass(frozen=True)
class Predicted:
    """Predictions of n images: `masks` uint8 [n, 2, H, W], the mean probability `confidence` of their parts [n],
    `presence` of each hand float32 [n, 2], and `front` uint8 [n, H, W], None where the net does not say it.
    """

    masks: np.ndarray
    confidence: np.ndarray
    presence: np.ndarray
    front: np.ndarray | None
