"""Colours and markers of rows: assigned in order, and different for more rows than there are colours."""

import matplotlib.pyplot as plt

from ethand_utils.style import CYCLE, MARKERS, in_style

ROWS = len(set(CYCLE)) + 3


def test_each_row_has_a_colour_and_marker_of_its_own():
    pairs = list(zip(CYCLE, MARKERS, strict=True))
    assert len(set(pairs)) == len(pairs) > ROWS


def test_lines_take_the_rows_colours_and_markers_in_order():
    @in_style
    def draw():
        figure, axes = plt.subplots()
        for _ in range(ROWS):
            axes.plot([0, 1])
        return figure

    lines = draw().axes[0].lines
    assert [(line.get_color(), line.get_marker()) for line in lines] == list(zip(CYCLE, MARKERS, strict=True))[:ROWS]
