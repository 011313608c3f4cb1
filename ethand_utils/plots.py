"""Figures in one style: overlays, the report's five panels, contact sheets, curves, bars, tables."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ethand_utils import EthandError
from ethand_utils.errors import ERROR_COLOURS, ERRORS, error_classes
from ethand_utils.files import atomic_write
from ethand_utils.labels import COLOURS, HANDS, PARTS
from ethand_utils.statistics import bootstrap_interval
from ethand_utils.style import (
    BLUE,
    INK,
    ORANGE,
    PALE,
    PART_ORDER,
    STYLE,
    VERMILLION,
    axis_label,
    cell_number,
    in_style,
    style,
)

HAND_COLOURS = {"left": VERMILLION, "right": BLUE}
COLUMN_COLOURS = (BLUE, PALE, ORANGE)
SIDE = 1.35  # in, of a contact sheet's images


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
def curves(history: pd.DataFrame, columns: tuple[str, ...] = ("train_loss", "valid_loss", "course_miou")) -> Figure:
    """A training's `history.csv`: losses together, every other column beside them, its phases shaded."""
    losses = [c for c in columns if c.endswith("loss")]
    groups = [losses, *([c] for c in columns if c not in losses)]
    figure, axes = plt.subplots(1, len(groups), figsize=(5.2 * len(groups), 3.6), squeeze=False)
    blocks = (history["phase"] != history["phase"].shift()).cumsum()
    for axis, group in zip(axes[0], groups, strict=True):
        for column in group:
            axis.plot(history["epoch"], history[column], label=axis_label(column))
        for number, (_, block) in enumerate(history.groupby(blocks)):
            first, last = block["epoch"].iloc[0] - 0.5, block["epoch"].iloc[-1] + 0.5
            axis.axvspan(first, last, color="0.5", alpha=0.14 if number % 2 else 0.04, lw=0)
            axis.text((first + last) / 2, 1.0, block["phase"].iloc[0], fontsize=10, ha="center", va="bottom",
                      transform=axis.get_xaxis_transform())  # fmt: skip
        axis.set(xlabel="epoch", ylabel=axis_label(group[0]) if len(group) == 1 else "loss")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(group) > 1:
            axis.legend()
    figure.tight_layout()
    return figure


@in_style
def bars(values: pd.Series | pd.DataFrame, title: str, colours=None, xlabel: str = "") -> Figure:
    """Horizontal bars of a named series, first on top; of a table, each column's beside the others'."""
    table = values.to_frame() if isinstance(values, pd.Series) else values
    groups, thickness = table.shape[1], 0.8 / table.shape[1]
    figure, axes = plt.subplots(figsize=(9, (0.2 + 0.12 * groups) * len(table) + 0.9))
    for i, column in enumerate(table):
        at = np.arange(len(table)) + (i - (groups - 1) / 2) * thickness
        colour = colours if colours is not None else COLUMN_COLOURS[i % len(COLUMN_COLOURS)]
        axes.barh(at, table[column].to_numpy(float), thickness, color=colour, label=column)
    axes.set_yticks(range(len(table)), table.index)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    if groups > 1:
        axes.legend()
    return figure


def part_bars(
    values: np.ndarray, title: str, xlabel: str = "", reference: dict[str, np.ndarray] | None = None
) -> Figure:
    """A value [17] for every part in its colour, palm first, then each finger outwards.

    With `reference`, the values [17] of something else by its name, as a mark across each bar.
    """
    order = list(PART_ORDER)
    figure = bars(pd.Series(values[order], index=[PARTS[i] for i in order]), title, COLOURS[order] / 255, xlabel)
    with style():
        for name, others in (reference or {}).items():
            figure.axes[0].plot(others[order], range(len(order)), "|", ms=13, mew=2.5, color=INK, label=name)
            figure.axes[0].legend(handles=figure.axes[0].lines)
    return figure


@in_style
def histograms(columns: dict[str, np.ndarray], xlabel: str, title: str = "", bins=20, mark=None) -> Figure:
    """Histograms of several samples over one axis, NaN left out, each as a share of its sample; a line at `mark`."""
    figure, axes = plt.subplots(figsize=(9, 4))
    known = {name: np.asarray(values)[~np.isnan(values)] for name, values in columns.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), bins=bins)
    palette = [HAND_COLOURS.get(name) for name in known]
    for (name, values), colour in zip(known.items(), palette, strict=True):
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(values, edges, weights=weights, alpha=0.55, label=name, color=colour)
    if mark is not None:
        axes.axvline(mark, color="0.25", ls="--", lw=1)
    axes.set(xlabel=xlabel, ylabel="share", title=title)
    axes.legend()
    return figure


@in_style
def beside(many: pd.DataFrame, few: pd.DataFrame, labels: dict[str, str], names: tuple[str, str]) -> Figure:
    """For each column of `labels` a histogram of table `many` with every value of table `few` as a tick above it."""
    figure, panels = plt.subplots(-(-len(labels) // 2), 2, figsize=(11, 2.6 * -(-len(labels) // 2)), squeeze=False)
    for axes, (column, label) in zip(panels.flat, labels.items(), strict=False):
        values = few[column].dropna() if column in few else []
        axes.hist(many[column].dropna(), 20, color=HAND_COLOURS["right"], alpha=0.55, label=names[0])
        axes.plot(values, np.full(len(values), 0.93), "|", ms=14, mew=1.5, color=HAND_COLOURS["left"], label=names[1],
                  transform=axes.get_xaxis_transform())  # fmt: skip
        axes.margins(y=0.25)  # room for the ticks
        axes.set(xlabel=label, yticks=[])
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=2)
    return figure


@in_style
def binned_means(x: np.ndarray, y: np.ndarray, xlabel: str, ylabel: str, bins: int = 10) -> Figure:
    """The mean of `y` over equally filled bins of `x` with its 95 % interval, over the single points; NaN left out.

    With a confidence as `x` and a score as `y` this is how far the confidence can be relied on.
    """
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    figure, axes = plt.subplots(figsize=(9, 4.4))
    axes.plot(x, y, "o", ms=4, alpha=float(np.clip(50 / max(len(x), 1), 0.15, 0.6)), color="0.45", mew=0)
    groups = [group for group in np.array_split(np.argsort(x), min(bins, max(1, len(x) // 3))) if len(group)]
    if groups:
        means = [bootstrap_interval(y[group], draws=500) for group in groups]
        whiskers = np.array([(m.mean - m.low, m.high - m.mean) for m in means]).T
        at = [x[group].mean() for group in groups]
        axes.errorbar(at, [m.mean for m in means], whiskers, color=BLUE, marker="o", capsize=3,
                      label="mean of equally many, with 95 % interval")  # fmt: skip
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@in_style
def heatmap(table: pd.DataFrame, title: str) -> Figure:
    """A table of shares 0…1 as colours with their values."""
    figure, axes = plt.subplots(figsize=(0.68 * table.shape[1] + 2, 0.5 * len(table) + 1.6))
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        cell_number(axes, row, column, f"{value:.2f}", value)
    axes.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(table)), table.index)
    axes.grid(visible=False)
    axes.set_title(title)
    return figure


@in_style
def photo_with_masks(photo: np.ndarray, masks: np.ndarray, title: str = "", opacity: float = 0.6) -> Figure:
    """A photo uint8 [H, W, 3] and each hand's mask [2, H, W] over it."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 11 / 3 * photo.shape[0] / photo.shape[1] + 0.5))
    for name, axis, mask in zip(("photo", *HANDS), axes, (np.zeros_like(masks[0]), *masks), strict=True):
        _panel(axis, overlay(photo, mask, opacity), name)
    figure.suptitle(title)
    return figure
