"""Style of all figures: sizes, colours (except the parts' own), names of axes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import chain

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ethand_utils.labels import FINGERS, PALM

# Parts have the colours of `labels.COLOURS`, everything else Okabe and Ito's, which all readers can tell apart.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
INK = "#1b1f24"
# Colours and markers of a table's rows, in order. After seven rows the colours repeat with other markers.
_HUES, _SHAPES = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, INK), "osD^vPX"
CYCLE = _HUES * len(_SHAPES)
MARKERS = "".join(_SHAPES[i:] + _SHAPES[:i] for i in range(len(_SHAPES)))
PALE = "#b9c3cf"  # results that are not this run's own
# Parts in anatomical order: palm first, then each finger outwards.
PART_ORDER = (PALM, *chain(*FINGERS.values()))
LABELS = {"train_loss": "training loss", "valid_loss": "validation loss", "course_miou": "course mIoU"}
LABELS |= {"cycle_miou": "course mIoU of Y→X→Y", "psnr_cycle": "PSNR of X→Y→X, dB"}
# Sizes in pt for figures 9 to 11 in wide; across a slide (13.3 in) no text but numbers in cells is below 11 pt.
STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "figure.titlesize": 14,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=CYCLE, marker=list(MARKERS)),
    "lines.markersize": 4.5,
    "savefig.bbox": "tight",
}
SMALL = 9  # pt, for numbers in cells alone


@contextmanager
def style() -> Iterator[None]:
    """Apply STYLE inside the block and restore matplotlib's settings after it.

    Unlike `rc_context` it leaves all other settings alone: a notebook's backend sets `interactive` while the first
    figure is made, and if that were restored as well, no later figure would be shown.
    """
    before = {key: plt.rcParams[key] for key in STYLE}
    plt.rcParams.update(STYLE)
    try:
        yield
    finally:
        plt.rcParams.update(before)


def in_style(draw):
    """Decorate a function that draws a figure, so that it draws in this style."""

    @wraps(draw)
    def styled(*args, **options) -> Figure:
        with style():
            return draw(*args, **options)

    return styled


def axis_label(column: str) -> str:
    """Return the name in figures of a column of `history.csv` or of scores."""
    return LABELS.get(column, column.replace("_", " "))


def mean_text(mean: float, sd: float, digits: int = 3) -> str:
    """Format a mean with its standard deviation, `0.243 ± 0.004`; the mean alone where that is NaN."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def percent_text(share: float) -> str:
    """Format a share of 1 in percent, `0.05` as `5 %`."""
    return f"{100 * share:g} %"


def cell_number(axes, row: int, column: int, text: str, share: float) -> None:
    """Write a number into a cell of a matrix plot, white where the cell is dark (`share` of the colour scale)."""
    axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="w" if share > 0.55 else INK)
