"""Figures of images and masks: overlays, the report's five panels, contact sheets, CycleGAN's cycles."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ethand_utils.analysis.confusion import ERROR_COLOURS, ERRORS, error_classes
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import COLOURS, HANDS, PARTS
from ethand_utils.style import BLUE, ORANGE, PALE, PART_ORDER, STYLE, VERMILLION, in_style, style

HAND_COLOURS = {"left": VERMILLION, "right": BLUE}
COLUMN_COLOURS = (BLUE, PALE, ORANGE)
SIDE = 1.35  # in, of a contact sheet's images
STRIP_SIDE, STRIP_HEADING = 1.0, 0.55  # in, of an image in a strip, and of the names above
STRIP_GAP = 0.25  # of an image, between the strips of a row
NOT_KNOWN = "not known for these data"
# Colours of a store's `front` map: no hand, left in front, right in front.
FRONT_COLOURS = np.array([(20, 20, 20), (209, 73, 91), (48, 99, 142)], np.uint8)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, whole or not at all."""
    with atomic_write(path) as temporary, style():
        figure.savefig(temporary)


@in_style
def message_figure(text: str) -> Figure:
    """Draw a line of text in place of a figure that has nothing to show."""
    figure, axes = plt.subplots(figsize=(9, 0.5))
    axes.text(0, 0.5, text, va="center")
    axes.axis("off")
    return figure


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Write an image uint8 [H, W, 3] as PNG, whole or not at all. Raises EthandError when `path` is no .png."""
    if Path(path).suffix.lower() != ".png":
        raise EthandError(f"{path}: expected a file name that ends in .png")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, optimize=True)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Return masks [..., H, W] in part colours on black: uint8 [..., H, W, 3]."""
    return COLOURS[mask]


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Blend a mask [H, W] over an image uint8 [H, W, 3] where it has a part."""
    blended = (1 - opacity) * image + opacity * COLOURS[mask]
    return np.where((mask > 0)[..., None], blended, image).astype(np.uint8)


def overlays(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Blend masks [n, H, W] over images uint8 [n, H, W, 3] (`overlay`)."""
    return np.stack([overlay(image, mask) for image, mask in zip(images, masks, strict=True)])


def error_map(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the kinds of pixels (`confusion.error_classes`) of masks [2, H, W] in colour: uint8 [2, H, W, 3]."""
    return ERROR_COLOURS[error_classes(predicted, truth)]


def _panel(axes, image: np.ndarray, title: str = "") -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, loc="center", fontsize=STYLE["font.size"])
    axes.axis("off")


@in_style
def five_panels(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, title: str = "") -> Figure:
    """Draw the report's Figure 1 for both hands: overlay, prediction, truth, error map, input; masks [2, H, W]."""
    grid = dict(left=0.03, right=1, top=0.9, bottom=0.1, wspace=0.03, hspace=0.03)
    figure, axes = plt.subplots(len(HANDS), 5, figsize=(11, 5.4), gridspec_kw=grid)
    names, errors = ("input + prediction", "prediction", "truth", "error map", "input"), error_map(predicted, truth)
    for hand, row in enumerate(axes):
        masks = COLOURS[predicted[hand]], COLOURS[truth[hand]]
        panels = (overlay(image, predicted[hand]), *masks, errors[hand], image)
        for name, axis, panel in zip(names, row, panels, strict=True):
            _panel(axis, panel, name if hand == 0 else "")
        row[0].text(-0.03, 0.5, f"{HANDS[hand]} hand", rotation=90, va="center", ha="right", transform=row[0].transAxes)
    handles = [Patch(color=ERROR_COLOURS[i] / 255, label=name) for i, name in enumerate(ERRORS) if i]
    figure.legend(handles=handles, loc="lower right", ncols=len(handles))
    if title:
        figure.suptitle(title, x=0.03, y=1.02, ha="left")
    return figure


def tiles(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Arrange images uint8 [n, H, W, 3] in a grid, `gap` px of grey between them: uint8 [rows, columns, 3]."""
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


@in_style
def contact_sheet(images: np.ndarray, masks: np.ndarray | None = None, columns: int = 8, titles=None) -> Figure:
    """Draw images uint8 [n, H, W, 3] in a grid; with masks [n, 2, H, W], each followed by left's and right's overlay.

    Without any image, a line that says so.
    """
    if not len(images):
        return message_figure(f"no such images, or {NOT_KNOWN}")
    panels, width = [], 1 if masks is None else 3
    for i, image in enumerate(images):
        overlays = [] if masks is None else [overlay(image, mask) for mask in masks[i]]
        panels.append(np.concatenate([image, *overlays], axis=1))
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
    """Draw the colour of every part by name."""
    figure, axes = plt.subplots(figsize=(11, 1.1))
    handles = [Patch(color=COLOURS[i] / 255, label=PARTS[i]) for i in PART_ORDER]
    axes.legend(handles=handles, loc="center", ncols=6)
    axes.axis("off")
    return figure


@in_style
def photo_with_masks(photo: np.ndarray, masks: np.ndarray, title: str = "", opacity: float = 0.6) -> Figure:
    """Draw a photo uint8 [H, W, 3], and each hand's mask [2, H, W] over it."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 11 / 3 * photo.shape[0] / photo.shape[1] + 0.5))
    for name, axis, mask in zip(("photo", *HANDS), axes, (np.zeros_like(masks[0]), *masks), strict=True):
        _panel(axis, overlay(photo, mask, opacity), name)
    figure.suptitle(title)
    return figure


def front_maps(store: Store, samples: np.ndarray) -> np.ndarray:
    """Return in colour which hand is in front, uint8 [n, H, W, 3]; n is 0 for a store without `front`."""
    if store.front is None:
        return np.zeros((0, store.size, store.size, 3), np.uint8)
    return FRONT_COLOURS[store.front[samples]]


@in_style
def strips(columns: dict[str, np.ndarray], title: str = "", per_row: int = 2) -> Figure:
    """Draw columns of images uint8 [n, H, W, 3] under their names, a strip a sample, `per_row` strips in a row."""
    count, width = len(next(iter(columns.values()))), len(columns)
    rows = -(-count // per_row)
    size = (STRIP_SIDE * (width + STRIP_GAP) * per_row, STRIP_SIDE * rows + STRIP_HEADING)
    # A narrow empty column keeps the samples of a row apart.
    grid = dict(width_ratios=([1] * width + [STRIP_GAP]) * per_row, wspace=0.04, hspace=0.04)
    grid |= dict(left=0, right=1, bottom=0, top=1 - STRIP_HEADING / size[1])
    figure, axes = plt.subplots(rows, (width + 1) * per_row, figsize=size, squeeze=False, gridspec_kw=grid)
    for axis in axes.flat:
        axis.axis("off")
    for sample in range(count):
        row, first = sample // per_row, sample % per_row * (width + 1)
        for column, (name, images) in enumerate(columns.items(), start=first):
            axes[row, column].imshow(images[sample], interpolation="nearest")
            if row == 0:
                axes[row, column].set_title(name.replace(", ", "\n"), fontsize=11, loc="center")
    if title:
        figure.suptitle(title, x=0, ha="left", y=1.02)
    return figure
