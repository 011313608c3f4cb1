"""Figures: what they show, that each can be drawn, their one style, and colours that everybody tells apart."""

import copy
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ethand_utils.analysis import charts, image_plots
from ethand_utils.analysis.confusion import ERROR_COLOURS, ERRORS
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.methods import table_methods
from ethand_utils.labels import COLOURS, N_CLASSES, PALM, PARTS
from ethand_utils.style import CYCLE, MARKERS


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def test_every_part_has_its_own_colour_and_background_is_black():
    assert COLOURS.shape == (17, 3)
    assert len({tuple(colour) for colour in COLOURS.tolist()}) == len(PARTS)
    assert COLOURS[0].tolist() == [0, 0, 0]
    assert image_plots.colour_mask(np.array([[[0, 9]]])).tolist() == [[[[0, 0, 0], COLOURS[9].tolist()]]]


def test_an_error_map_tells_all_kinds_of_pixels_apart():
    predicted = np.array([[[0, 9, 0, 9, 9, 9]], [[0, 0, 0, 0, 0, 0]]])
    truth = np.array([[[0, 9, 9, 0, 8, 0]], [[0, 0, 0, 0, 0, 4]]])
    left, right = image_plots.error_map(predicted, truth)[:, 0].tolist()
    order = [ERRORS.index(name) for name in ("background", "correct", "missed", "invented", "wrong part", "wrong hand")]
    assert left == ERROR_COLOURS[order].tolist()
    assert right[-1] == ERROR_COLOURS[ERRORS.index("missed")].tolist()
    assert len({tuple(colour) for colour in left}) == len(ERRORS)


def test_an_overlay_blends_parts_and_leaves_the_rest():
    image = np.full((1, 2, 3), 100, np.uint8)
    blended = image_plots.overlay(image, np.array([[0, 9]]), opacity=0.25)
    assert blended.dtype == np.uint8
    assert blended[0, 0].tolist() == [100, 100, 100]
    np.testing.assert_allclose(blended[0, 1], 0.75 * 100 + 0.25 * COLOURS[9].astype(float), atol=1)
    np.testing.assert_array_equal(image_plots.overlay(image, np.array([[9, 9]]), opacity=1)[0], [COLOURS[9]] * 2)


def history(epochs=4):
    numbers = np.arange(1, epochs + 1)
    columns = {"epoch": numbers, "phase": ["unpaired", "paired"] * (epochs // 2)}
    return pd.DataFrame(columns | {name: 1 / numbers for name in ("train_loss", "valid_loss", "course_miou")})


IMAGES, MASKS = np.stack([photo(32, 32, seed) for seed in range(5)]), np.ones((5, 2, 32, 32), np.uint8)
SOME = np.array([0.1, np.nan, 0.7, 0.4])
ENDS = pd.DataFrame({"mean": [0.3, np.nan], "low": [0.2, np.nan], "high": [0.5, np.nan]}, ["a", "b"])
COUNTS = np.random.default_rng(0).integers(100, size=(N_CLASSES, N_CLASSES))
TABLE = pd.DataFrame({"model": ["a", "b"], "reported": [0.4, 0.5], "ours": [0.3, np.nan]})
SEEDS = pd.DataFrame({"row": ["a", "a"], "course_miou": [0.2, 0.4]})
FRACTIONS = pd.DataFrame({"label_fraction": [0.05, 1.0], "model": "G1", "ours": [0.1, 0.4], "ours_sd": [0.02, np.nan]})
FRACTIONS = FRACTIONS.assign(ours_low=FRACTIONS["ours"] - 0.05, ours_high=FRACTIONS["ours"] + 0.05)
FIGURES = {
    "five_panels": lambda: image_plots.five_panels(IMAGES[0], MASKS[0], MASKS[1], "title"),
    "contact_sheet": lambda: image_plots.contact_sheet(IMAGES, columns=3),
    "contact_sheet of masks": lambda: image_plots.contact_sheet(IMAGES, MASKS, columns=6, titles=list("abcde")),
    "legend_of_parts": image_plots.legend_of_parts,
    "curves": lambda: charts.curves(history()),
    "bars": lambda: charts.bars(pd.Series({"a": 1.0, "b": np.nan}), "title"),
    "part_bars": lambda: charts.part_bars(np.linspace(0, 1, 17), "title"),
    "bars of a table": lambda: charts.bars(pd.DataFrame({"a": [1, 2], "b": [np.nan, 3]}, ["x", "y"]), "title"),
    "histograms with a mark": lambda: charts.histograms({"left": SOME}, "IoU", mark=0.5),
    "histograms_with_ticks": lambda: charts.histograms_with_ticks(
        TABLE, TABLE[:1], {"ours": "x", "reported": "y"}, ("many", "few")
    ),
    "histograms_with_ticks of nothing": lambda: charts.histograms_with_ticks(
        TABLE, pd.DataFrame(), {"ours": "x"}, ("many", "few")
    ),
    "histograms": lambda: charts.histograms({"left": SOME, "empty": np.full(3, np.nan)}, "IoU"),
    "score_table": lambda: charts.score_table(TABLE),
    "binned_means": lambda: charts.binned_means(np.arange(4.0), SOME, "x", "y"),
    "score_table with intervals": lambda: charts.score_table(TABLE.assign(ours_low=[0.2, np.nan], ours_high=0.4)),
    "part_bars with a reference": lambda: charts.part_bars(np.ones(17), "", reference={"x": np.ones(17)}),
    "score_table of seeds": lambda: charts.score_table(TABLE.assign(row=["a", "b"], ours_sd=[0.1, np.nan]), SEEDS),
    "fraction_curves": lambda: charts.fraction_curves(FRACTIONS),
    "fraction_curves of one seed": lambda: charts.fraction_curves(FRACTIONS.assign(ours_sd=np.nan)),
    "intervals": lambda: charts.intervals({"one": ENDS, "other": ENDS - 0.1}, "x", mark=0),
    "confusion_matrix": lambda: charts.confusion_matrix(COUNTS, "title"),
    "confusion_matrix of nothing": lambda: charts.confusion_matrix(np.zeros((17, 17))),
    "curves_together": lambda: charts.curves_together({"a": history(), "b": history(2)}, "course_miou"),
    "heatmap": lambda: charts.heatmap(pd.DataFrame(np.eye(3), list("abc"), list("xyz")), "title"),
    "photo_with_masks": lambda: image_plots.photo_with_masks(photo(), np.ones((2, 40, 60), np.uint8)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 0


NOTHING = pd.Series({"a": np.nan})
EMPTY = {
    "contact_sheet": lambda: image_plots.contact_sheet(IMAGES[:0], MASKS[:0], columns=6, titles=[]),
    "bars": lambda: charts.bars(NOTHING, "title"),
    "bars of no row": lambda: charts.bars(NOTHING[:0], "title"),
    "histograms": lambda: charts.histograms({"a": np.full(3, np.nan), "b": np.zeros(0)}, "IoU"),
    "intervals": lambda: charts.intervals({"a": ENDS[1:], "b": ENDS[1:]}, "IoU"),
    "intervals of no row": lambda: charts.intervals({"a": ENDS[:0]}, "IoU", mark=0),
    "binned_means": lambda: charts.binned_means(np.arange(4.0), np.full(4, np.nan), "x", "y"),
}


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("name", EMPTY)
def test_a_figure_says_that_there_is_nothing_to_show(name):
    assert image_plots.NOT_KNOWN in texts(EMPTY[name]())


def test_a_second_table_without_label_fractions_says_why():
    assert "trained on all pairs" in texts(charts.fraction_curves(pd.DataFrame()))


def test_curves_say_which_columns_a_training_lacks():
    some = charts.curves(history(), ("train_loss", "d_loss"))
    assert "this training has no d loss" in texts(some)
    assert len(some.axes) == 1
    none = charts.curves(history(), ("adversarial_loss", "d_loss"))
    assert texts(none).strip() == "this training has no adversarial loss and no d loss"
    assert "this training has no" not in texts(charts.curves(history()))


def test_a_training_without_discriminators_has_no_balance():
    course = pd.DataFrame({"epoch": [1], "d_x_accuracy": [0.5], "d_y_accuracy": [0.6]})
    assert "without discriminators" in texts(charts.balance_curves({"pairs": course[:0]}))
    legend = charts.balance_curves({"pairs": course[:0], "a": course}).axes[1].legend_
    assert [text.get_text() for text in legend.texts] == ["a"]


def test_maps_of_the_hand_in_front_are_colours_or_none(dataset, tmp_path):
    store = dataset["train"]
    maps = image_plots.front_maps(store, np.arange(3))
    assert maps.shape == (3, store.size, store.size, 3)
    assert len(np.unique(maps.reshape(-1, 3), axis=0)) == len(np.unique(store.front[:3]))
    lacking = copy.copy(store)
    lacking.front = None
    assert image_plots.front_maps(lacking, np.arange(3)).shape == (0, store.size, store.size, 3)


def test_a_contact_sheet_shows_every_image_and_no_more_columns_than_asked():
    figure = image_plots.contact_sheet(IMAGES, MASKS, columns=6)
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == len(IMAGES)
    assert [len({round(axis.get_position().y0, 6) for axis in figure.axes}), len(figure.axes)] == [3, 6]
    np.testing.assert_array_equal(panels[2].images[0].get_array()[:, :32], IMAGES[2])


def test_tiles_keep_every_pixel_of_their_images_in_order():
    sheet = image_plots.tiles(IMAGES, columns=2, gap=3)
    assert sheet.shape == (3 * 32 + 2 * 3, 2 * 32 + 3, 3)
    for i, image in enumerate(IMAGES):
        top, left = i // 2 * 35, i % 2 * 35
        np.testing.assert_array_equal(sheet[top : top + 32, left : left + 32], image)
    assert len(np.unique(sheet[70:, 35:])) == 1


def test_an_image_is_saved_as_it_is_and_as_png_only(tmp_path):
    image_plots.save_image(IMAGES[0], tmp_path / "a/sheet.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a/sheet.png")), IMAGES[0])
    with pytest.raises(EthandError, match=r"sheet\.txt: expected a file name that ends in \.png"):
        image_plots.save_image(IMAGES[0], tmp_path / "sheet.txt")


def test_bars_of_a_table_lie_beside_each_other():
    axes = charts.bars(pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, ["x", "y"]), "title").axes[0]
    first, second = axes.containers
    assert [[bar.get_width() for bar in group] for group in (first, second)] == [[1, 2], [3, 4]]
    assert first[0].get_y() + first[0].get_height() == pytest.approx(second[0].get_y())


def test_every_column_of_a_history_is_drawn():
    axes = charts.curves(history()).axes
    assert [[line.get_label() for line in axis.lines] for axis in axes] == [
        ["training loss", "validation loss"],
        ["course mIoU"],
    ]
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), 1 / np.arange(1, 5))


def test_histograms_are_shares_of_each_sample():
    axes = charts.histograms({"left": SOME, "right": SOME[[0, 2]]}, "IoU").axes[0]
    heights = [sum(bar.get_height() for bar in group) for group in axes.containers]
    assert heights == pytest.approx([1, 1])


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    image_plots.save_figure(image_plots.legend_of_parts(), tmp_path / "figures/parts.png")
    before = (tmp_path / "figures/parts.png").read_bytes()
    assert Image.open(tmp_path / "figures/parts.png").size[0] > 100

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(EthandError, match="No space left"):
        image_plots.save_figure(image_plots.legend_of_parts(), tmp_path / "figures/parts.png")
    assert [p.read_bytes() for p in (tmp_path / "figures").iterdir()] == [before]


def test_a_confusion_matrix_is_in_percent_of_the_truth_by_name():
    counts = np.zeros((N_CLASSES, N_CLASSES), int)
    counts[PALM, [PALM, 0]] = 75, 25
    counts[3, 3] = 7
    axes = charts.confusion_matrix(counts).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(names) == sorted(PARTS)
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    numbers = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    row, background, pinky = names.index("palm"), names.index("background"), names.index("pinky proximal")
    assert numbers == {(row, row): "75", (row, background): "25", (pinky, pinky): "100"}
    np.testing.assert_allclose(axes.images[0].get_array()[row, [row, background]], [0.75, 0.25])


def test_parts_have_their_colour_and_value_in_every_figure():
    values = np.arange(N_CLASSES) / N_CLASSES
    axes = charts.part_bars(values, "title", reference={"baseline": values / 2}).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    for name, bar, mark in zip(names, axes.containers[0], axes.lines[0].get_xdata(), strict=True):
        part = PARTS.index(name)
        assert bar.get_width() == pytest.approx(values[part])
        assert mark == pytest.approx(values[part] / 2)
        assert bar.get_facecolor()[:3] == pytest.approx(COLOURS[part] / 255)
    squares = charts.confusion_matrix(COUNTS).axes[0]
    parts = [label.get_text() for label in squares.get_yticklabels()]
    colours = squares.collections[0].get_facecolors()[:, :3]
    np.testing.assert_allclose(colours, [COLOURS[PARTS.index(name)] / 255 for name in parts])


def test_whiskers_reach_the_ends_of_intervals():
    axes = charts.intervals({"one": ENDS}, "x", mark=0.25).axes[0]
    (whiskers,) = axes.containers[0].lines[2]
    np.testing.assert_allclose(whiskers.get_segments()[0][:, 0], [0.2, 0.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_means_of_bins_follow_the_points():
    x = np.linspace(0, 1, 200)
    line = charts.binned_means(x, 2 * x, "x", "y").axes[0].containers[0].lines[0]
    centres, means = np.array(line.get_xdata(), float), np.array(line.get_ydata(), float)
    np.testing.assert_allclose(means, 2 * centres)
    assert len(centres) == 10


def test_a_figure_leaves_matplotlibs_settings_as_they_were():
    before = dict(matplotlib.rcParams)
    for draw in FIGURES.values():
        plt.close(draw())
    assert dict(matplotlib.rcParams) == before


def test_what_a_notebook_sets_while_a_figure_is_made_stays(monkeypatch):
    plain = plt.subplots

    def as_in_a_notebook(*args, **options):
        matplotlib.interactive(True)
        return plain(*args, **options)

    monkeypatch.setattr(plt, "subplots", as_in_a_notebook)
    try:
        image_plots.legend_of_parts()
        assert matplotlib.is_interactive()
    finally:
        matplotlib.interactive(False)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_a_background_of_their_own_and_text_to_be_read_on_slides(name):
    figure = FIGURES[name]()
    assert to_rgb(figure.get_facecolor()) == (1, 1, 1)
    width = figure.get_size_inches()[0]
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text() and text.get_visible() and name not in ("contact_sheet", "contact_sheet of masks"):
            assert text.get_fontsize() * 9 / width >= 6.5


# How red, green and blue light mix for readers who lack one of the eye's three pigments: Machado, Oliveira and
# Fernandes 2009, severity 1.
SEEN = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, mixed):
    """CIE L*a*b* of an sRGB colour 0…1 as a reader sees it, white D65."""
    light = np.where(np.array(colour) <= 0.04045, np.array(colour) / 12.92, ((np.array(colour) + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(np.array(mixed) @ light, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("reader", SEEN)
def test_errors_hands_and_columns_can_be_told_apart_by_every_reader(reader):
    errors = [np.array(c) / 255 for c in ERROR_COLOURS]
    groups = (errors, image_plots.HAND_COLOURS.values(), image_plots.COLUMN_COLOURS)
    for group in groups:
        for one, other in combinations([lab(to_rgb(colour), SEEN[reader]) for colour in group], 2):
            assert np.linalg.norm(one - other) > 20  # 2.3 is what can just be noticed


def test_lines_of_a_figure_differ_by_marker_too():
    lines = charts.curves_together({str(i): history() for i in range(6)}, "course_miou").axes[0].lines
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 6


def test_a_dot_is_a_seed_and_one_seed_has_none():
    table = TABLE.assign(row=["a", "b"], ours_sd=[0.1414, np.nan])
    axes = charts.score_table(table, SEEDS).axes[0]
    dots = next(line for line in axes.lines if line.get_label() == "each seed")
    assert dots.get_xdata().tolist() == [0.2, 0.4]
    assert len(set(dots.get_ydata())) == 1
    assert axes.texts[0].get_text() == "0.300 ± 0.141"
    assert axes.texts[0].get_position()[0] > 0.4
    assert not charts.score_table(table, SEEDS[:1]).axes[0].lines


def test_label_fractions_lie_on_a_logarithmic_axis_by_their_percentage():
    axes = charts.fraction_curves(FRACTIONS).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [5, 100]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "100"]


def test_twelve_rows_can_be_told_apart_without_a_line_of_code_for_a_new_one():
    names = [f"row {number}" for number in range(12)]
    lines = charts.curves_together({name: history() for name in names}, "course_miou").axes[0].lines
    course = pd.DataFrame({"epoch": np.arange(20) / 20, "d_x_accuracy": 0.6, "d_y_accuracy": 0.5})
    balance = charts.balance_curves({name: course for name in names}).axes[0].lines[:12]
    for group in (lines, balance):
        assert [line.get_label() for line in group] == names
        assert len({(line.get_color(), line.get_marker()) for line in group}) == 12
    axes = charts.intervals({name: ENDS for name in names}, "x").axes[0]
    dots = [container.lines[0] for container in axes.containers]
    assert len({(line.get_color(), line.get_marker()) for line in dots}) == 12
    heights = np.sort(np.concatenate([line.get_ydata() for line in dots]))
    assert (np.diff(heights) > 0).all()  # the groups of a row end before those of the next begin
    assert len(table_methods()) <= len(set(zip(CYCLE, MARKERS, strict=True)))
