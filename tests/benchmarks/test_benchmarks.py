"""Properties of the benchmarks; their speeds are for people to read."""

import contextlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import pipeline, plain, startup, step
from benchmarks.timing import time_variants
from ethand_utils.data.augment import Augmentation
from ethand_utils.exceptions import EthandError
from ethand_utils.sources.rendered import RenderedSample
from ethand_utils.training.losses import SegmentationLoss


def test_stages_of_rendering_are_there_and_make_up_most_of_it():
    figures = pipeline._render_stages(RenderedSample("train", 4, 32, 0, True), samples=6)
    whole = figures.pop("stage_all_ms")
    assert set(figures) == {f"stage_{stage}_ms" for stage in pipeline.RENDER_STAGES}
    assert min(figures.values()) > 0
    assert 0.5 * whole < sum(figures.values()) < whole


def test_a_process_says_how_much_memory_it_needs():
    assert 50 < pipeline._render_samples((RenderedSample("train", 4, 16, 0, True), range(1))) < 20_000


def test_variants_alternate_and_the_ratio_is_the_first_to_the_last():
    calls = []
    speeds = time_variants({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 8, rounds=3)
    assert calls == ["a", "b"] * 4
    assert speeds["ratio"] == pytest.approx(speeds["a_images_per_s"] / speeds["b_images_per_s"])


def test_of_several_variants_each_has_a_ratio_to_the_last():
    speeds = time_variants(dict.fromkeys("abc", lambda: None), 8, rounds=3)
    assert {name for name in speeds if name.endswith("ratio")} == {"a_ratio", "b_ratio"}
    assert speeds["b_ratio"] == pytest.approx(speeds["b_images_per_s"] / speeds["c_images_per_s"])


def test_every_benchmark_says_what_it_compares():
    text = pipeline.table({name: {"ratio": 2.0} for name in pipeline.BENCHMARKS})
    assert all(f"{name}: {pipeline.MEANING[name]}" in text for name in pipeline.BENCHMARKS)


def test_the_plain_augmentation_is_the_same_augmentation(dataset):
    figures = pipeline.loader_agreement(dataset["train"])
    assert figures["equal"] == 1
    assert 0 < figures["image_difference_of_255"] < 1
    assert 0.99 <= figures["mask_agreement"] <= 1


def test_the_plain_loss_is_the_same_loss():
    logits, masks = torch.randn(2, 34, 16, 16), torch.randint(17, (2, 2, 16, 16))
    theirs, ours = (loss(logits, masks).item() for loss in (plain.PlainLoss(), SegmentationLoss()))
    assert theirs == pytest.approx(ours, rel=2e-3)  # smp smooths Dice a little otherwise


def test_a_paired_step_is_timed_through_the_learner_bare_and_plain(dataset, tmp_path):
    figures = step.paired_step(dataset["val"], ("unet", "tu-regnety_002"), 4, tmp_path, rounds=1)
    assert set(figures) == {
        "learner_images_per_s",
        "bare_channels_last_images_per_s",
        "plain_images_per_s",
        "bare_ratio",
        "plain_ratio",
        "loader_wait_share",
    }
    for ratio, other in (("bare_ratio", "bare_channels_last"), ("plain_ratio", "plain")):
        assert figures[ratio] == pytest.approx(figures["learner_images_per_s"] / figures[f"{other}_images_per_s"])
    assert 0 < figures["loader_wait_share"] < 1


def test_a_loader_counts_the_seconds_of_its_batches_in_a_timed_pass_alone(dataset, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(step, "now", lambda device: next(ticks))
    loader = step.TimedLoader(dataset["val"], 2)
    list(loader)
    assert loader.waited == 0
    loader.timed = True
    assert len(list(loader)) == 4
    assert loader.waited == 4 + 1  # of each batch, and of the end


@pytest.mark.parametrize("loss", ["SegmentationLoss", "PlainLoss"])
def test_a_bare_and_a_plain_step_move_the_net(dataset, loss):
    net, store, losses = ("unet", "tu-regnety_002"), dataset["val"], []

    class Noting(getattr(step, loss)):
        def forward(self, logits, masks):
            losses.append(super().forward(logits, masks))
            return losses[-1]

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(step, loss, Noting)
        patch.setattr(step, "LR", 1e-2)
        if loss == "PlainLoss":
            one = step.plain_step(net, store, len(store), torch.device("cpu"))
        else:
            batch = step.TimedLoader(store, 4, Augmentation()).one_batch()
            one = stack.enter_context(step.bare_step(net, "channels_last", False, *batch))
        for _ in range(8):
            one()
    assert losses[-1] < losses[0]


def test_an_enlarged_store_shows_each_pixel_four_times(dataset, tmp_path):
    store = dataset["val"]
    large = step.enlarged(store, tmp_path / "large", len(store) + 2)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rows, columns = (slice(k, None, 2) for k in corner)
        assert np.array_equal(large.images[: len(store), rows, columns], store.images)
        assert np.array_equal(large.masks[: len(store), :, rows, columns], store.masks)
    assert np.array_equal(large.images[len(store) :], large.images[:2])  # from the beginning again


def test_the_plain_metric_is_the_same_metric(dataset):
    truth = np.array(dataset["test"].masks)
    predicted = np.roll(truth, 1, axis=-1)
    assert plain.plain_course_miou(predicted, truth) == pytest.approx(pipeline.course_miou(predicted, truth))


def test_a_commands_cpu_seconds_are_its_childrens_too_and_its_memory_is_its_own(tmp_path):
    work = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True)"
    seconds, memory = startup.cpu_and_memory([sys.executable, "-c", parent], tmp_path)
    assert 0.3 < seconds < 3
    assert 5 < memory < 100  # this process, which has PyTorch, has several times as much
    with pytest.raises(subprocess.CalledProcessError):
        startup.cpu_and_memory([sys.executable, "-c", "raise SystemExit(1)"], tmp_path)


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(EthandError, match=r"benchmark 'speed': unknown .*expected one of render"):
        pipeline.run(["render", "speed"])
