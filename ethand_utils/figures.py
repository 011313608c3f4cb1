"""Figures of a run's results: Table 1 and other rows with intervals, confusion of parts, rows beside each other."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ethand_utils.labels import COLOURS, N_CLASSES, PARTS
from ethand_utils.style import BLUE, CYCLE, INK, MARKERS, PALE, PART_ORDER, axis_label, cell_number, in_style, mean_text

BY_HAND = (0, *PART_ORDER)  # background, then parts as a hand has them


@in_style
def score_table(table: pd.DataFrame, found: pd.DataFrame | None = None) -> Figure:
    """Table 1 as a figure: the report's score and ours for every row, with its interval where `ours_low` is known.

    With `found`, the results by training, a dot for every seed of rows that have several, and ± their spread.
    """
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(table) + 1.2))
    y, ends = np.arange(len(table)), table["ours"]
    axes.barh(y - 0.2, table["reported"], 0.38, label="report (InterHand2.6M)", color=PALE)
    axes.barh(y + 0.2, table["ours"], 0.38, label="this run", color=BLUE)
    if "ours_low" in table:
        whiskers = np.array([table["ours"] - table["ours_low"], table["ours_high"] - table["ours"]])
        axes.errorbar(table["ours"], y + 0.2, xerr=whiskers, fmt="none", ecolor=INK, capsize=3, lw=1.2)
        ends = table["ours_high"].fillna(ends)
    if found is not None and found.groupby("row").size().max() > 1:
        places = found["row"].map(dict(zip(table["row"], y + 0.2, strict=True)))
        axes.plot(found["course_miou"], places, "o", ms=5, mfc="w", mec=BLUE, label="each seed", zorder=3)
        ends = np.fmax(ends, table["row"].map(found.groupby("row")["course_miou"].max()))
    spreads = table.get("ours_sd", pd.Series(np.nan, table.index))
    for at, score, sd, end in zip(y, table["ours"], spreads, ends, strict=True):
        axes.text(end + 0.006, at + 0.2, mean_text(score, sd), va="center", fontsize=11)
    axes.set_yticks(y, table["model"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("course mIoU")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


@in_style
def intervals(groups: dict[str, pd.DataFrame], xlabel: str, title: str = "", mark: float | None = None) -> Figure:
    """Means with their intervals as dots with whiskers: tables by name, each a row a label with `mean`, `low`, `high`.

    The tables share their rows, and lie beside each other in a colour and marker each; a line at `mark`.
    """
    rows = next(iter(groups.values())).index
    figure, axes = plt.subplots(figsize=(9, (0.35 + 0.17 * len(groups)) * len(rows) + 1.1))
    for i, (name, table) in enumerate(groups.items()):
        at = np.arange(len(rows)) + (i - (len(groups) - 1) / 2) * 0.24
        whiskers = np.array([table["mean"] - table["low"], table["high"] - table["mean"]])
        axes.errorbar(table["mean"], at, xerr=whiskers, fmt=MARKERS[i], color=CYCLE[i], capsize=4, ms=7, label=name)
    if mark is not None:
        axes.axvline(mark, color="0.25", ls="--", lw=1)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=xlabel, title=title, ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    if len(groups) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(groups))
    return figure


@in_style
def share_curves(table: pd.DataFrame) -> Figure:
    """Score against the share of the pairs, a line a training of `shares.share_table`.

    Whiskers are intervals over samples, bands ± the standard deviation over seeds where there are several.
    """
    figure, axes = plt.subplots(figsize=(9, 4.4))
    for i, (name, rows) in enumerate(table.groupby("model", sort=False)):
        at, score = 100 * rows["share"] * 1.03 ** (i - 1), rows["ours"]  # beside each other on a logarithmic axis
        whiskers = np.array([score - rows["ours_low"], rows["ours_high"] - score])
        axes.errorbar(at, score, yerr=whiskers, fmt=f"{MARKERS[i]}-", color=CYCLE[i], capsize=4, ms=7, label=name)
        axes.fill_between(at, score - rows["ours_sd"], score + rows["ours_sd"], color=CYCLE[i], alpha=0.2, lw=0)
    shares = 100 * table["share"].unique()
    axes.set(xscale="log", xlabel="share of the pairs, percent", ylabel="course mIoU")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@in_style
def curves_together(histories: dict[str, pd.DataFrame], column: str) -> Figure:
    """One column of several trainings' histories by epoch."""
    figure, axes = plt.subplots(figsize=(9, 4.4))
    for name, history in histories.items():
        axes.plot(history["epoch"], history[column], label=name)
    axes.set(xlabel="epoch", ylabel=axis_label(column))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@in_style
def confusion_matrix(counts: np.ndarray, title: str = "") -> Figure:
    """What the pixels of every part are called: counts [17, 17] (truth by prediction) as percent of the truth's pixels.

    Rows and columns by name with their colour, palm first, then each finger outwards; shares below half a percent and
    parts that do not occur stay blank.
    """
    counts = np.asarray(counts, float)[np.ix_(BY_HAND, BY_HAND)]
    whole = counts.sum(1, keepdims=True)
    shares = np.divide(counts, whole, out=np.full(counts.shape, np.nan), where=whole > 0)
    figure, axes = plt.subplots(figsize=(11, 10))
    axes.imshow(np.nan_to_num(shares), vmin=0, vmax=1, cmap="Blues")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            cell_number(axes, row, column, f"{100 * share:.0f}", share)
    names = [PARTS[i] for i in BY_HAND]
    axes.set_xticks(range(N_CLASSES), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(N_CLASSES), names)
    at, colours = np.arange(N_CLASSES), COLOURS[list(BY_HAND)] / 255
    marks = dict(marker="s", s=50, c=colours, edgecolors=INK, linewidths=0.4, clip_on=False)
    axes.scatter(np.full(N_CLASSES, -0.75), at, **marks)
    axes.scatter(at, np.full(N_CLASSES, N_CLASSES - 0.25), **marks)
    axes.tick_params(length=0, pad=16)
    axes.set(
        xlabel="predicted", ylabel="truth", title=title, xlim=(-0.5, N_CLASSES - 0.5), ylim=(N_CLASSES - 0.5, -0.5)
    )
    axes.grid(visible=False)
    return figure


@in_style
def balance_curves(courses: dict[str, pd.DataFrame]) -> Figure:
    """What D_X and D_Y tell apart of real and made, by epoch (`Opponents.course`), for several trainings together."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, name in zip(axes, ("D_X: images", "D_Y: masks"), strict=True):
        for i, (row, course) in enumerate(courses.items()):
            look = {"color": CYCLE[i % len(CYCLE)], "ls": "-" if i < len(CYCLE) else ":"}
            axis.plot(course["epoch"], course[f"{name[:3].lower()}_accuracy"], label=row, marker="", **look)
        axis.axhline(0.5, color="0.25", ls="--", lw=1)
        axis.set(xlabel="epoch", ylim=(0.35, 1.02), title=name)
    axes[0].set_ylabel("told apart")
    if courses:
        axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
