"""Properties of the benchmarks; their speeds are for people to read."""

import numpy as np
import pytest
import torch

from ethand_utils import EthandError, benchmarks, gpubench, netbench, renderbench
from ethand_utils.datasets import RenderedSample
from ethand_utils.losses import SegmentationLoss
from ethand_utils.timing import in_turns


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
    speeds = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 8, rounds=3)
    assert calls == ["a", "b"] * 4
    assert speeds["ratio"] == pytest.approx(speeds["a_images_per_s"] / speeds["b_images_per_s"])


def test_of_several_ways_each_has_a_ratio_to_the_last():
    speeds = in_turns(dict.fromkeys("abc", lambda: None), 8, rounds=3)
    assert {name for name in speeds if name.endswith("ratio")} == {"a_ratio", "b_ratio"}
    assert speeds["b_ratio"] == pytest.approx(speeds["b_images_per_s"] / speeds["c_images_per_s"])


def test_every_part_says_what_it_compares():
    text = benchmarks.table({part: {"ratio": 2.0} for part in benchmarks.PARTS})
    assert all(f"{part}: {benchmarks.MEANING[part]}" in text for part in benchmarks.PARTS)


def test_the_plain_augmentation_is_the_same_augmentation(dataset):
    figures = benchmarks.loader_agreement(dataset["train"])
    assert figures["equal"] == 1
    assert 0 < figures["image_difference_of_255"] < 1
    assert 0.99 <= figures["mask_agreement"] <= 1


def test_the_plain_loss_is_the_same_loss():
    logits, masks = torch.randn(2, 34, 16, 16), torch.randint(17, (2, 2, 16, 16))
    plain, ours = (loss(logits, masks).item() for loss in (netbench.PlainLoss(), SegmentationLoss()))
    assert plain == pytest.approx(ours, rel=2e-3)  # smp smooths Dice a little otherwise


def test_the_learner_is_timed_beside_bare_steps(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(gpubench, "WARM_STEPS", 1)
    monkeypatch.setattr(gpubench, "ROUNDS", 1)
    figures = gpubench.learner_and_bare(dataset["val"], ("unet", "tu-regnety_002"), 4, tmp_path)
    assert figures["g2_learner_ratio"] == pytest.approx(
        figures["g2_learner_images_per_s"] / figures["g2_bare_channels_last_images_per_s"]
    )


def test_an_enlarged_store_shows_each_pixel_four_times(dataset, tmp_path):
    store = dataset["val"]
    large = gpubench.enlarged(store, tmp_path / "large")
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rows, columns = (slice(k, None, 2) for k in corner)
        assert np.array_equal(large.images[:, rows, columns], store.images)
        assert np.array_equal(large.masks[:, :, rows, columns], store.masks)


def test_the_plain_metric_is_the_same_metric(dataset):
    truth = np.array(dataset["test"].masks)
    predicted = np.roll(truth, 1, axis=-1)
    assert benchmarks._plain_course_miou(predicted, truth) == pytest.approx(benchmarks.course_miou(predicted, truth))


def test_an_unknown_part_is_refused():
    with pytest.raises(EthandError, match="bench speed: no such part; expected one of render"):
        benchmarks.run(["render", "speed"])
