"""Properties of the benchmarks; their speeds are for people to read."""

import numpy as np
import pytest

from ethand_utils import EthandError, benchmarks, renderbench
from ethand_utils.datasets import RenderedSample


def test_stages_of_rendering_are_there_and_make_up_most_of_it():
    figures = renderbench._render_stages(RenderedSample("train", 4, 32, 0, True), samples=6)
    whole = figures.pop("stage_all_ms")
    assert set(figures) == {f"stage_{stage}_ms" for stage in renderbench.RENDER_STAGES}
    assert min(figures.values()) > 0
    assert 0.5 * whole < sum(figures.values()) < whole


def test_a_process_says_how_much_memory_it_needs():
    assert 50 < renderbench._render_samples((RenderedSample("train", 4, 16, 0, True), range(1))) < 20_000


def test_ways_alternate_and_the_ratio_is_the_first_to_the_last():
    calls = []
    speeds = benchmarks.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 8, rounds=3)
    assert calls == ["a", "b"] * 4
    assert speeds["ratio"] == pytest.approx(speeds["a_images_per_s"] / speeds["b_images_per_s"])


def test_the_plain_metric_is_the_same_metric(dataset):
    truth = np.array(dataset["test"].masks)
    predicted = np.roll(truth, 1, axis=-1)
    assert benchmarks._plain_course_miou(predicted, truth) == pytest.approx(benchmarks.course_miou(predicted, truth))


def test_an_unknown_part_is_refused():
    with pytest.raises(EthandError, match="bench speed: no such part; expected one of render"):
        benchmarks.run(["render", "speed"])
