"""Inference, crops, predictions that are written, masks of photos."""

import builtins

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fixednet import Fixed
from PIL import Image

from ethand_utils.analysis.confusion import sparse_counts
from ethand_utils.analysis.evaluate import evaluate_store, overall_scores, part_scores
from ethand_utils.analysis.predictions import CONFUSION, write_counts
from ethand_utils.data import kernels, store_builder
from ethand_utils.data.crops import crop_image, crop_square
from ethand_utils.data.images import ImageError, read_image
from ethand_utils.data.store import Store, StoreError
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import N_CHANNELS, N_CLASSES, PALM, PARTS, slug
from ethand_utils.training.inference import export_model, predict_masks
from ethand_utils.training.metrics import course_miou, sample_scores, summary
from ethand_utils.training.models import create_model


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def net(seed=0):
    return create_model("baseline", widths=(4, 8), seed=seed)


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def test_masks_and_confidence_have_their_shapes_and_ranges(dataset):
    masks, confidence = predict_masks(net(), dataset["test"].images)
    assert masks.shape == (8, 2, 32, 32)
    assert masks.dtype == np.uint8
    assert masks.max() <= 16
    assert confidence.shape == (8,)
    assert confidence.dtype == np.float32
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_predictions_do_not_depend_on_the_batch_size_or_training_mode(dataset):
    images = dataset["test"].images
    masks, confidence = predict_masks(net().train(), images, bs=3)
    others, also = predict_masks(net().eval(), images, bs=64)
    np.testing.assert_array_equal(masks, others)
    np.testing.assert_allclose(confidence, also, rtol=1e-5)


def test_no_images_give_no_masks():
    masks, confidence = predict_masks(net(), np.zeros((0, 32, 32, 3), np.uint8))
    assert masks.shape == (0, 2, 32, 32)
    assert confidence.shape == (0,)


def test_channels_are_left_then_right():
    logits = torch.zeros(N_CHANNELS, 4, 4)
    logits[3, 1, 2], logits[N_CLASSES + 8, 3, 0] = 5, 5
    masks, _ = predict_masks(Fixed(logits), np.zeros((1, 4, 4, 3), np.uint8))
    assert np.argwhere(masks[0]).tolist() == [[0, 1, 2], [1, 3, 0]]
    assert masks[0, 0, 1, 2] == 3
    assert masks[0, 1, 3, 0] == 8


def test_confidence_is_the_mean_probability_of_predicted_parts():
    logits = torch.zeros(N_CHANNELS, 4, 4)
    logits[0], logits[N_CLASSES] = 9, 9  # sure of the background elsewhere
    logits[3, 0, 0], logits[N_CLASSES + 8, 1, 1] = 10, 12
    total = 15 + np.exp([9, 9]) + np.exp([10, 12])
    expected = np.mean(np.exp([10, 12]) / total)
    _, confidence = predict_masks(Fixed(logits), np.zeros((2, 4, 4, 3), np.uint8))
    np.testing.assert_allclose(confidence, [expected] * 2, rtol=1e-5)


def test_confidence_without_any_part_is_zero():
    logits = torch.zeros(N_CHANNELS, 4, 4)
    logits[0], logits[N_CLASSES] = 9, 9
    masks, confidence = predict_masks(Fixed(logits), np.zeros((1, 4, 4, 3), np.uint8))
    assert masks.sum() == 0
    assert confidence.tolist() == [0]


def test_evaluate_gives_the_summary_and_the_speed(dataset):
    test = dataset["test"]
    scores = evaluate_store(net(), test)
    masks, _ = predict_masks(net(), test.images)
    assert scores.pop("images_per_s") > 0
    assert (scores.pop("scored_on"), scores.pop("scored_samples")) == ("test", len(test))
    expected = summary(masks, np.asarray(test.masks), np.asarray(test.front))
    assert list(scores) == list(expected)
    np.testing.assert_array_equal(list(scores.values()), list(expected.values()))


def test_scores_for_display_are_those_of_the_whole_and_those_of_the_parts(dataset):
    scores = evaluate_store(net(), dataset["test"])
    overall, parts = overall_scores(scores), part_scores(scores)
    assert {*overall.index} | {f"part_iou_{slug(part)}" for part in PARTS[1:]} == {*scores}
    assert overall["course_miou"] == pytest.approx(scores["course_miou"], abs=1e-4)
    assert np.isnan(parts[0])
    assert parts[PALM] == scores["part_iou_palm"]


def test_evaluate_keeps_predictions_and_a_row_of_scores_a_sample(dataset, tmp_path):
    test = dataset["test"]
    scores = evaluate_store(net(), test, tmp_path / "predictions")
    store = Store(tmp_path / "predictions")
    masks, confidence = predict_masks(net(), test.images)
    np.testing.assert_array_equal(store.masks, masks)
    np.testing.assert_array_equal(store.confidence, confidence)
    assert store.index["id"].tolist() == test.index["id"].tolist()
    table = pd.read_parquet(tmp_path / "predictions/metrics.parquet")
    columns = sample_scores(masks, np.asarray(test.masks), np.asarray(test.front))
    assert list(table) == ["id", "confidence", *columns]
    assert table["id"].tolist() == test.index["id"].tolist()
    assert scores["course_miou"] == pytest.approx(course_miou(store.masks, test.masks))
    hands = table[["course_miou_left", "course_miou_right"]].to_numpy()
    assert np.nanmean(hands) == pytest.approx(scores["course_miou"])


def test_the_masks_are_counted_once_and_what_is_written_is_as_if_each_had_been_counted_for_itself(
    dataset, tmp_path, monkeypatch
):
    count, counted = kernels.count_pairs, []
    monkeypatch.setattr(kernels, "count_pairs", lambda *masks: counted.append(masks) or count(*masks))
    test, folder = dataset["test"], tmp_path / "predictions"
    evaluate_store(net(), test, folder)
    truth = np.asarray(test.masks)
    assert sum(np.array_equal(masks[0], truth.reshape(masks[0].shape)) for masks in counted) == 1
    masks = np.asarray(Store(folder).masks)
    write_counts(tmp_path, sparse_counts(masks, truth))
    assert (tmp_path / CONFUSION).read_bytes() == (folder / CONFUSION).read_bytes()
    table = pd.read_parquet(folder / "metrics.parquet")
    for name, values in sample_scores(masks, truth, np.asarray(test.front)).items():
        assert table[name].to_numpy().tobytes() == values.tobytes(), name


def test_evaluating_again_replaces_the_predictions(dataset, tmp_path):
    for seed in (0, 1):
        evaluate_store(net(seed), dataset["test"], tmp_path / "predictions")
    np.testing.assert_array_equal(
        Store(tmp_path / "predictions").masks, predict_masks(net(1), dataset["test"].images)[0]
    )
    assert (tmp_path / "predictions/metrics.parquet").exists()


def test_predictions_of_two_nets_never_mix_after_an_interruption(dataset, tmp_path, monkeypatch):
    write, calls = store_builder._write_chunk, []

    def interrupted(*chunk):
        calls.append(chunk)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*chunk)

    monkeypatch.setattr(store_builder, "CHUNK", 4)
    monkeypatch.setattr(store_builder, "_write_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_store(net(0), dataset["test"], tmp_path / "predictions")
    monkeypatch.setattr(store_builder, "_write_chunk", write)
    evaluate_store(net(1), dataset["test"], tmp_path / "predictions")
    np.testing.assert_array_equal(
        Store(tmp_path / "predictions").masks, predict_masks(net(1), dataset["test"].images)[0]
    )


def test_evaluate_needs_truth(dataset):
    with pytest.raises(StoreError, match=r"has no masks\.npy"):
        evaluate_store(net(), dataset["unpaired_images"])


def test_a_photo_is_read_as_rgb(tmp_path):
    image = photo()
    Image.fromarray(image).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), image)
    Image.fromarray(image).convert("L").save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (40, 60, 3)


def test_a_phones_photo_is_read_upright(tmp_path):
    image, exif = photo(), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    Image.fromarray(image).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), np.rot90(image, -1))


def text_file(path):
    path.write_text("not a photo")


def cut_off(path):
    Image.fromarray(photo()).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("write", [lambda path: None, lambda path: path.mkdir(), text_file, cut_off])
def test_a_photo_at_fault_is_named_in_one_line(write, tmp_path):
    path = tmp_path / "photo.png"
    write(path)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_crop_square_is_the_courses():
    assert crop_square((10, 20, 40, 80)) == (30 - 50, 60 - 50, 100)


def test_the_crop_of_the_whole_square_is_the_image():
    image = photo(32, 32)
    np.testing.assert_array_equal(crop_image(image, (0, 0, 32), 32), image)


def test_a_crop_of_whole_pixels_is_a_slice():
    image = photo()
    np.testing.assert_array_equal(crop_image(image, (7, 5, 32), 32), image[5:37, 7:39])


def test_a_crop_between_pixels_is_interpolated_where_it_lies():
    columns = np.broadcast_to(4 * np.arange(60, dtype=np.uint8)[:, None], (40, 60, 3))
    crop = crop_image(np.ascontiguousarray(columns), (7.5, 5, 32), 32)
    np.testing.assert_allclose(crop[:, :, 0], np.broadcast_to(4 * (7.5 + np.arange(32)), (32, 32)), atol=1)


def test_a_crop_is_black_beyond_the_frame():
    image = np.full((40, 60, 3), 200, np.uint8)
    crop = crop_image(image, (-16, 24, 32), 32)
    assert (crop[:, :16] == 0).all()
    assert (crop[16:] == 0).all()
    assert (crop[:16, 16:] == 200).all()


@pytest.mark.parametrize("crop", [(60, 0, 10), (0, 40, 10), (-10, 0, 10), (0, -10, 10), (5, 5, 0), (5, 5, -3)])
def test_a_crop_outside_the_image_is_refused(crop):
    with pytest.raises(ImageError, match=r"outside the 60×40 image"):
        crop_image(photo(), crop, 32)


@pytest.mark.parametrize(("format", "library"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_export_without_its_libraries_says_what_to_install(format, library, tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **options):
        if name == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EthandError, match=rf"{library} is not installed.*\[export\]"):
        export_model(net(), 32, tmp_path / "net", format)
    assert not list(tmp_path.iterdir())
