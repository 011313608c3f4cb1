"""Figures in one style: overlays, the report's five panels, contact sheets, curves, bars, tables."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ethand_utils.analysis.confusion import ERROR_COLOURS, ERRORS, error_classes
from ethand_utils.data.augment import denormalise, normalise
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import COLOURS, HANDS, PARTS
from ethand_utils.style import BLUE, ORANGE, PALE, PART_ORDER, STYLE, VERMILLION, in_style, style
from ethand_utils.training.cyclegan.dataloader import visible_hands
from ethand_utils.training.cyclegan.model import CycleGAN
from ethand_utils.training.losses import per_hand

HAND_COLOURS = {"left": VERMILLION, "right": BLUE}
COLUMN_COLOURS = (BLUE, PALE, ORANGE)
SIDE = 1.35  # in, of a contact sheet's images

STRIP_SIDE, HEADING = 1.0, 0.55  # inches of a picture, and of the names above them
GAP = 0.25  # of a picture, between samples


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all."""
    with atomic_write(path) as temporary, style():
        figure.savefig(temporary)


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Write an image uint8 [H, W, 3] as PNG, whole or not at all. Raises EthandError when `path` is no .png."""
    if Path(path).suffix.lower() != ".png":
        raise EthandError(f"{path}: expected a file name that ends in .png")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, optimize=True)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Masks [..., H, W] in part colours on black: uint8 [..., H, W, 3]."""
    return COLOURS[mask]


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """An image uint8 [H, W, 3] with a mask [H, W] blended over it where it has a part."""
    blended = (1 - opacity) * image + opacity * COLOURS[mask]
    return np.where((mask > 0)[..., None], blended, image).astype(np.uint8)


def error_map(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The kinds of pixels (`errors.error_classes`) of masks [2, H, W] in colour: uint8 [2, H, W, 3]."""
    return ERROR_COLOURS[error_classes(predicted, truth)]


def _panel(axes, image: np.ndarray, title: str = "") -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, loc="center", fontsize=STYLE["font.size"])
    axes.axis("off")


@in_style
def five_panels(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, title: str = "") -> Figure:
    """The report's Figure 1 for both hands: overlay, prediction, truth, error map, input; masks [2, H, W]."""
    grid = dict(left=0.03, right=1, top=0.9, bottom=0.1, wspace=0.03, hspace=0.03)
    figure, axes = plt.subplots(len(HANDS), 5, figsize=(11, 5.4), gridspec_kw=grid)
    names, wrong = ("input + prediction", "prediction", "truth", "error map", "input"), error_map(predicted, truth)
    for hand, row in enumerate(axes):
        panels = (
            overlay(image, predicted[hand]),
            colour_mask(predicted[hand]),
            colour_mask(truth[hand]),
            wrong[hand],
            image,
        )
        for name, axis, panel in zip(names, row, panels, strict=True):
            _panel(axis, panel, name if hand == 0 else "")
        row[0].text(-0.03, 0.5, f"{HANDS[hand]} hand", rotation=90, va="center", ha="right", transform=row[0].transAxes)
    handles = [Patch(color=ERROR_COLOURS[i] / 255, label=name) for i, name in enumerate(ERRORS) if i]
    figure.legend(handles=handles, loc="lower right", ncols=len(handles))
    if title:
        figure.suptitle(title, x=0.03, y=1.02, ha="left")
    return figure


def tiles(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Images uint8 [n, H, W, 3] pixel by pixel in a grid, `gap` px of grey between them: uint8 [rows, columns, 3]."""
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


@in_style
def contact_sheet(images: np.ndarray, masks: np.ndarray | None = None, columns: int = 8, titles=None) -> Figure:
    """Images uint8 [n, H, W, 3] in a grid; with masks [n, 2, H, W], each followed by left's and right's overlay."""
    panels, width = [], 1 if masks is None else 3
    for i, image in enumerate(images):
        shown = [image] if masks is None else [image, *(overlay(image, mask) for mask in masks[i])]
        panels.append(np.concatenate(shown, axis=1))
    columns = max(1, min(columns // width, len(panels)))
    rows, between = -(-len(panels) // columns), 0.04 if titles is None else 0.2
    grid = dict(left=0, right=1, top=0.97, bottom=0, wspace=0.04 / width, hspace=between)
    figure, axes = plt.subplots(
        rows, columns, figsize=(SIDE * columns * width, SIDE * rows * (1 + between)), squeeze=False, gridspec_kw=grid
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, panel in enumerate(panels):
        _panel(axes.flat[i], panel, titles[i] if titles is not None else "")
    return figure


@in_style
def legend_of_parts() -> Figure:
    """The colour of every part by name."""
    figure, axes = plt.subplots(figsize=(11, 1.1))
    handles = [Patch(color=COLOURS[i] / 255, label=PARTS[i]) for i in PART_ORDER]
    axes.legend(handles=handles, loc="center", ncols=6)
    axes.axis("off")
    return figure


@in_style
def photo_with_masks(photo: np.ndarray, masks: np.ndarray, title: str = "", opacity: float = 0.6) -> Figure:
    """A photo uint8 [H, W, 3] and each hand's mask [2, H, W] over it."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 11 / 3 * photo.shape[0] / photo.shape[1] + 0.5))
    for name, axis, mask in zip(("photo", *HANDS), axes, (np.zeros_like(masks[0]), *masks), strict=True):
        _panel(axis, overlay(photo, mask, opacity), name)
    figure.suptitle(title)
    return figure


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
    made = model(normalise(images), masks, torch.from_numpy(visible_hands(store, samples)).to(device))
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
    size = (STRIP_SIDE * (width + GAP) * beside, STRIP_SIDE * rows + HEADING)
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
