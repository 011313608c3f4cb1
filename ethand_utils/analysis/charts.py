"""Charts: scores with intervals, training curves, bars and histograms, confusion of parts."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ethand_utils.analysis.image_plots import COLUMN_COLOURS, HAND_COLOURS, NOT_KNOWN, message_figure
from ethand_utils.analysis.statistics import bootstrap_interval
from ethand_utils.labels import COLOURS, N_CLASSES, PARTS
from ethand_utils.style import (
    BLUE,
    CYCLE,
    INK,
    MARKERS,
    PALE,
    PART_ORDER,
    axis_label,
    cell_number,
    in_style,
    mean_text,
    style,
)

BY_HAND = (0, *PART_ORDER)  # background, then parts in anatomical order


@in_style
def score_table(table: pd.DataFrame, trainings: pd.DataFrame | None = None) -> Figure:
    """Draw Table 1: the report's score and ours for every row, with its interval where `ours_low` is known.

    With `trainings` (`tables.results`), a dot for every seed of rows that have several, and ± their standard deviation.
    """
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(table) + 1.2))
    y, ends = np.arange(len(table)), table["ours"]
    axes.barh(y - 0.2, table["reported"], 0.38, label="report (InterHand2.6M)", color=PALE)
    axes.barh(y + 0.2, table["ours"], 0.38, label="this run", color=BLUE)
    if "ours_low" in table:
        whiskers = np.array([table["ours"] - table["ours_low"], table["ours_high"] - table["ours"]])
        axes.errorbar(table["ours"], y + 0.2, xerr=whiskers, fmt="none", ecolor=INK, capsize=3, lw=1.2)
        ends = table["ours_high"].fillna(ends)
    if trainings is not None and trainings.groupby("row").size().max() > 1:
        heights = trainings["row"].map(dict(zip(table["row"], y + 0.2, strict=True)))
        axes.plot(trainings["course_miou"], heights, "o", ms=5, mfc="w", mec=BLUE, label="each seed", zorder=3)
        ends = np.fmax(ends, table["row"].map(trainings.groupby("row")["course_miou"].max()))
    stds = table.get("ours_sd", pd.Series(np.nan, table.index))
    for height, score, sd, end in zip(y + 0.2, table["ours"], stds, ends, strict=True):
        axes.text(end + 0.006, height, mean_text(score, sd), va="center", fontsize=11)
    _name_rows(axes, table["model"])
    axes.set_xlabel("course mIoU")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


@in_style
def intervals(groups: dict[str, pd.DataFrame], xlabel: str, mark: float | None = None) -> Figure:
    """Draw means with their intervals as dots with whiskers: tables by name, with columns `mean`, `low`, `high`.

    The tables share their rows and have a colour and marker each; a line at `mark`. A line of text if every mean is
    NaN.
    """
    if all(table["mean"].isna().all() for table in groups.values()):
        return message_figure(f"{xlabel}: {NOT_KNOWN}")
    rows = next(iter(groups.values())).index
    figure, axes = plt.subplots(figsize=(9, (0.35 + 0.17 * len(groups)) * len(rows) + 1.1))
    distance = min(0.24, 0.8 / len(groups))
    for i, (name, table) in enumerate(groups.items()):
        y = np.arange(len(rows)) + (i - (len(groups) - 1) / 2) * distance
        whiskers = np.array([table["mean"] - table["low"], table["high"] - table["mean"]])
        axes.errorbar(table["mean"], y, xerr=whiskers, fmt=MARKERS[i], color=CYCLE[i], capsize=4, ms=7, label=name)
    if mark is not None:
        axes.axvline(mark, color="0.25", ls="--", lw=1)
    _name_rows(axes, rows)
    axes.set_xlabel(xlabel)
    if len(groups) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(groups))
    return figure


@in_style
def bars(values: pd.Series | pd.DataFrame, title: str, colours=None, xlabel: str = "") -> Figure:
    """Draw horizontal bars of a named series, first on top; of a table, each column's beside the others'.

    A line of text if every value is NaN.
    """
    table = values.to_frame() if isinstance(values, pd.Series) else values
    if table.isna().all(axis=None):
        return message_figure(f"{title}: {NOT_KNOWN}")
    groups, thickness = table.shape[1], 0.8 / table.shape[1]
    figure, axes = plt.subplots(figsize=(9, (0.2 + 0.12 * groups) * len(table) + 0.9))
    for i, column in enumerate(table):
        y = np.arange(len(table)) + (i - (groups - 1) / 2) * thickness
        colour = colours if colours is not None else COLUMN_COLOURS[i % len(COLUMN_COLOURS)]
        axes.barh(y, table[column].to_numpy(float), thickness, color=colour, label=column)
    _name_rows(axes, table.index)
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    if groups > 1:
        axes.legend()
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a horizontal chart, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def part_bars(
    values: np.ndarray, title: str, xlabel: str = "", reference: dict[str, np.ndarray] | None = None
) -> Figure:
    """Draw a value [17] for every part in its colour, palm first, then each finger outwards.

    With `reference`, the values [17] of something else by its name, as a mark across each bar.
    """
    order = list(PART_ORDER)
    figure = bars(pd.Series(values[order], index=[PARTS[i] for i in order]), title, COLOURS[order] / 255, xlabel)
    with style():
        for name, marks in (reference or {}).items():
            figure.axes[0].plot(marks[order], range(len(order)), "|", ms=13, mew=2.5, color=INK, label=name)
            figure.axes[0].legend(handles=figure.axes[0].lines)
    return figure


@in_style
def fraction_curves(table: pd.DataFrame) -> Figure:
    """Draw the score against the label fraction, a line a training of `comparison.fraction_table`.

    Whiskers are intervals over samples, bands ± the standard deviation over seeds where there are several.
    A line of text for an empty table.
    """
    if table.empty:
        return message_figure("every net was trained on all pairs")
    figure, axes = plt.subplots(figsize=(9, 4.4))
    lines = list(table.groupby("model", sort=False))
    for i, (name, rows) in enumerate(lines):
        shift = 1.03 ** (i - (len(lines) - 1) / 2)  # beside each other on a logarithmic axis
        x, score = 100 * rows["label_fraction"] * shift, rows["ours"]
        whiskers = np.array([score - rows["ours_low"], rows["ours_high"] - score])
        axes.errorbar(x, score, yerr=whiskers, fmt=f"{MARKERS[i]}-", color=CYCLE[i], capsize=4, ms=7, label=name)
        axes.fill_between(x, score - rows["ours_sd"], score + rows["ours_sd"], color=CYCLE[i], alpha=0.2, lw=0)
    percentages = 100 * table["label_fraction"].unique()
    axes.set(xscale="log", xlabel="label fraction, percent of the pairs", ylabel="course mIoU")
    axes.set_xticks(percentages, [f"{percentage:g}" for percentage in percentages])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@in_style
def curves(history: pd.DataFrame, columns: tuple[str, ...] = ("train_loss", "valid_loss", "course_miou")) -> Figure:
    """Draw a training's `history.csv`: losses together, every other column beside them, its phases shaded.

    A line says which of the columns it does not have.
    """
    missing = [column for column in columns if column not in history]
    lacks = f"this training has no {' and no '.join(map(axis_label, missing))}"
    if len(missing) == len(columns):
        return message_figure(lacks)
    columns = [column for column in columns if column not in missing]
    losses = [c for c in columns if c.endswith("loss")]
    groups = [*([losses] if losses else []), *([c] for c in columns if c not in losses)]
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
    if missing:
        figure.text(0.01, -0.05, lacks)
    return figure


@in_style
def curves_together(histories: dict[str, pd.DataFrame], column: str) -> Figure:
    """Draw one column of several trainings' histories by epoch."""
    figure, axes = plt.subplots(figsize=(9, 4.4))
    for name, history in histories.items():
        axes.plot(history["epoch"], history[column], label=name)
    axes.set(xlabel="epoch", ylabel=axis_label(column))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@in_style
def balance_curves(courses: dict[str, pd.DataFrame]) -> Figure:
    """Draw the accuracy of D_X and D_Y by epoch (`CycleGANDiscriminators.course`), for several trainings together.

    An empty course, of a training without discriminators, is left out; without any other, a line of text.
    """
    courses = {row: course for row, course in courses.items() if len(course)}
    if not courses:
        return message_figure("trained without discriminators")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, name in zip(axes, ("D_X: images", "D_Y: masks"), strict=True):
        for row, course in courses.items():
            accuracy = course[f"{name[:3].lower()}_accuracy"]
            axis.plot(course["epoch"], accuracy, label=row, markevery=max(1, len(course) // 10))
        axis.axhline(0.5, color="0.25", ls="--", lw=1)
        axis.set(xlabel="epoch", ylim=(0.35, 1.02), title=name)
    axes[0].set_ylabel("accuracy, real against generated")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@in_style
def histograms(columns: dict[str, np.ndarray], xlabel: str, title: str = "", mark: float | None = None) -> Figure:
    """Draw histograms of several samples over one axis, NaN left out, each as a share of its sample; a line at `mark`.

    A line of text if every value is NaN.
    """
    samples = {name: np.asarray(values)[~np.isnan(values)] for name, values in columns.items()}
    if not any(map(len, samples.values())):
        return message_figure(f"{title or xlabel}: {NOT_KNOWN}")
    figure, axes = plt.subplots(figsize=(9, 4))
    edges = np.histogram_bin_edges(np.concatenate(list(samples.values())), bins=20)
    for name, values in samples.items():
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(values, edges, weights=weights, alpha=0.55, label=name, color=HAND_COLOURS.get(name))
    if mark is not None:
        axes.axvline(mark, color="0.25", ls="--", lw=1)
    axes.set(xlabel=xlabel, ylabel="share", title=title)
    axes.legend()
    return figure


@in_style
def histograms_with_ticks(
    many: pd.DataFrame, few: pd.DataFrame, labels: dict[str, str], names: tuple[str, str]
) -> Figure:
    """Draw a histogram of table `many` for each column of `labels`, with every value of table `few` as a tick above."""
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
    """Draw the mean of `y` over equally filled bins of `x` with its 95 % interval, over the points; NaN left out.

    With a confidence as `x` and a score as `y` this is a reliability diagram. A line of text if no pair is without NaN.
    """
    valid = ~(np.isnan(x) | np.isnan(y))
    if not valid.any():
        return message_figure(f"{ylabel} by {xlabel}: {NOT_KNOWN}")
    x, y = x[valid], y[valid]
    figure, axes = plt.subplots(figsize=(9, 4.4))
    axes.plot(x, y, "o", ms=4, alpha=float(np.clip(50 / max(len(x), 1), 0.15, 0.6)), color="0.45", mew=0)
    groups = [group for group in np.array_split(np.argsort(x), min(bins, max(1, len(x) // 3))) if len(group)]
    if groups:
        means = [bootstrap_interval(y[group], draws=500) for group in groups]
        whiskers = np.array([(m.mean - m.low, m.high - m.mean) for m in means]).T
        centres = [x[group].mean() for group in groups]
        axes.errorbar(centres, [m.mean for m in means], whiskers, color=BLUE, marker="o", capsize=3,
                      label="mean of equally many, with 95 % interval")  # fmt: skip
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@in_style
def confusion_matrix(counts: np.ndarray, title: str = "") -> Figure:
    """Draw a confusion matrix: counts [17, 17] (truth by prediction) as percent of the truth's pixels.

    Rows and columns by name with their colour, palm first, then each finger outwards; cells below half a percent and
    parts that do not occur stay blank.
    """
    counts = np.asarray(counts, float)[np.ix_(BY_HAND, BY_HAND)]
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    figure, axes = plt.subplots(figsize=(11, 10))
    axes.imshow(np.nan_to_num(shares), vmin=0, vmax=1, cmap="Blues")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            cell_number(axes, row, column, f"{100 * share:.0f}", share)
    names = [PARTS[i] for i in BY_HAND]
    axes.set_xticks(range(N_CLASSES), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(N_CLASSES), names)
    cells, edge = np.arange(N_CLASSES), N_CLASSES - 0.5
    squares = dict(marker="s", s=50, c=COLOURS[list(BY_HAND)] / 255, edgecolors=INK, linewidths=0.4, clip_on=False)
    axes.scatter(np.full(N_CLASSES, -0.75), cells, **squares)
    axes.scatter(cells, np.full(N_CLASSES, N_CLASSES - 0.25), **squares)
    axes.tick_params(length=0, pad=16)
    axes.set(xlabel="predicted", ylabel="truth", title=title, xlim=(-0.5, edge), ylim=(edge, -0.5))
    axes.grid(visible=False)
    return figure


@in_style
def heatmap(table: pd.DataFrame, title: str) -> Figure:
    """Draw a table of numbers 0…1 as colours with their values."""
    figure, axes = plt.subplots(figsize=(0.68 * table.shape[1] + 2, 0.5 * len(table) + 1.6))
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        cell_number(axes, row, column, f"{value:.2f}", value)
    axes.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(table)), table.index)
    axes.grid(visible=False)
    axes.set_title(title)
    return figure
