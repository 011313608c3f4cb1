"""Images and masks there and back through the generators of a CycleGAN."""

import numpy as np
import torch

from ethand_utils.analysis.image_plots import colour_mask
from ethand_utils.data.augment import denormalise, normalise
from ethand_utils.data.store import Store
from ethand_utils.labels import HANDS
from ethand_utils.training.cyclegan.dataloader import visible_hands
from ethand_utils.training.cyclegan.model import CycleGAN
from ethand_utils.training.losses import per_hand


def most_overlapping(store: Store, count: int) -> np.ndarray:
    """Return the samples of a store in which the two hands share most pixels, the most first: int [count]."""
    shared = (store.masks[:, 0] > 0) & (store.masks[:, 1] > 0)
    return np.argsort(-shared.sum((1, 2)), kind="stable")[:count]


@torch.inference_mode()
def cycle_images(model: CycleGAN, store: Store, samples: np.ndarray) -> tuple[dict, dict]:
    """Return both cycles of some samples of a paired store as columns of RGB images uint8 [n, H, W, 3], by name.

    First X→Y→X, with the image from the arg-max of the masks as well; then Y→X→Y, with the image that belongs to the
    masks.
    """
    model.eval()
    device = next(model.parameters()).device
    images = torch.from_numpy(store.images[samples]).to(device)
    masks = torch.from_numpy(store.masks[samples]).long().to(device)
    outputs = model(normalise(images), masks, torch.from_numpy(visible_hands(store, samples)).to(device))
    predicted, again = (per_hand(outputs[name]).argmax(2) for name in ("logits", "logits_again"))
    names = ("images", "images_again", "images_hardened")
    generated, images_again, hardened = (denormalise(outputs[name]).cpu().numpy() for name in names)
    images = images.cpu().numpy()
    from_images = {"image": images, **_mask_images(predicted, "G_XY"), "back": images_again}
    from_images["back, arg-max"] = hardened
    from_masks = {**_mask_images(masks, "mask"), "G_YX": generated, **_mask_images(again, "G_XY"), "its image": images}
    return from_images, from_masks


def _mask_images(masks: torch.Tensor, name: str) -> dict[str, np.ndarray]:
    coloured = colour_mask(masks.byte().cpu().numpy())
    return {f"{name}, {hand}": coloured[:, i] for i, hand in enumerate(HANDS)}
