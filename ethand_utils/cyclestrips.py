"""CycleGAN's ways there and back as strips of pictures."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ethand_utils.augment import denormalise, normalise
from ethand_utils.cyclegan import CycleGAN
from ethand_utils.cycleloader import seen_hands
from ethand_utils.labels import HANDS
from ethand_utils.losses import per_hand
from ethand_utils.plots import colour_mask
from ethand_utils.store import Store
from ethand_utils.style import in_style

SIDE, HEADING = 1.0, 0.55  # inches of a picture, and of the names above them
GAP = 0.25  # of a picture, between samples


def most_overlapping(store: Store, count: int) -> np.ndarray:
    """The samples of a store in which the two hands share most pixels, the most first: int [count]."""
    shared = (store.masks[:, 0] > 0) & (store.masks[:, 1] > 0)
    return np.argsort(-shared.sum((1, 2)), kind="stable")[:count]


@torch.inference_mode()
def there_and_back(model: CycleGAN, store: Store, samples: np.ndarray) -> tuple[dict, dict]:
    """Both cycles of some samples of a paired store as columns of RGB pictures uint8 [n, H, W, 3], by name.

    First X→Y→X, with the way back from the arg-max of the masks as well; then Y→X→Y, with the image that belongs to
    the masks.
    """
    model.eval()
    device = next(model.parameters()).device
    images = torch.from_numpy(store.images[samples]).to(device)
    masks = torch.from_numpy(store.masks[samples]).long().to(device)
    made = model(normalise(images), masks, torch.from_numpy(seen_hands(store, samples)).to(device))
    found, again = (per_hand(made[name]).argmax(2) for name in ("logits", "logits_again"))
    names = ("images", "images_again", "images_hardened")
    pictures = {name: denormalise(made[name]).cpu().numpy() for name in names}
    images = images.cpu().numpy()
    forth = {"image": images, **_hands(found, "G_XY"), "back": pictures["images_again"]}
    forth["back, arg-max"] = pictures["images_hardened"]
    back = {**_hands(masks, "mask"), "G_YX": pictures["images"], **_hands(again, "G_XY"), "its image": images}
    return forth, back


def _hands(masks: torch.Tensor, name: str) -> dict[str, np.ndarray]:
    coloured = colour_mask(masks.byte().cpu().numpy())
    return {f"{name}, {hand}": coloured[:, i] for i, hand in enumerate(HANDS)}


@in_style
def strips(columns: dict[str, np.ndarray], title: str = "", beside: int = 2) -> Figure:
    """Columns of pictures uint8 [n, H, W, 3] under their names, a strip a sample, `beside` of them in a row."""
    count, width = len(next(iter(columns.values()))), len(columns)
    rows = -(-count // beside)
    size = (SIDE * (width + GAP) * beside, SIDE * rows + HEADING)
    # A narrow empty column keeps the samples of a row apart.
    grid = dict(width_ratios=([1] * width + [GAP]) * beside, wspace=0.04, hspace=0.04)
    grid |= dict(left=0, right=1, bottom=0, top=1 - HEADING / size[1])
    figure, axes = plt.subplots(rows, (width + 1) * beside, figsize=size, squeeze=False, gridspec_kw=grid)
    for axis in axes.flat:
        axis.axis("off")
    for sample in range(count):
        row, first = sample // beside, sample % beside * (width + 1)
        for place, (name, pictures) in enumerate(columns.items()):
            axes[row, first + place].imshow(pictures[sample], interpolation="nearest")
            if row == 0:
                axes[row, first + place].set_title(name.replace(", ", "\n"), fontsize=11, loc="center")
    if title:
        figure.suptitle(title, x=0, ha="left", y=1.02)
    return figure
