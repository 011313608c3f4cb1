"""Rendered samples against real frames: sheets on which both are mixed, and measures of both."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from ethand_utils.analysis.real_frames import (
    MEASURES,
    arrangement_percentages,
    measure,
    measure_frames,
    measure_store,
    mixed_sheet,
)
from ethand_utils.data.crops import crop_square
from ethand_utils.data.images import ImageError
from ethand_utils.data.store import StoreError
from ethand_utils.hands.raycast import Camera
from ethand_utils.labels import N_JOINTS
from ethand_utils.sources.interhand_frames import Frame

SIZE = 32
BOX = (10.0, 8.0, 20.0, 16.0)  # px; its crop is 25 px wide


@pytest.fixture
def frames(tmp_path):
    """Three frames, each of one plain colour that no rendered image has, their joints on a square within BOX."""
    frames = []
    for number in range(3):
        path = tmp_path / f"image{number}.png"
        Image.new("RGB", (40, 32), (250, 0, 200 + 10 * number)).save(path)
        hand = np.resize([[12.0, 10], [23, 10], [23, 22], [12, 22]], (N_JOINTS, 2))
        joints = np.stack([hand, np.add(hand, [5, 0])])
        valid = np.array([[True] * N_JOINTS, [number > 0] * N_JOINTS])
        kind = "interacting" if number else "left"
        camera = Camera((1.0, 1.0), (0.0, 0.0)), np.eye(3), np.zeros(3), (40, 32), "0", "0", "seq", "cam", number
        frames.append(
            Frame(path.name, path, BOX, kind, joints, valid, np.zeros((2, N_JOINTS, 3)), *camera, (None, None))
        )
    return frames


def tile(sheet, row, column):
    top, left = (row - 1) * (SIZE + 2), (column - 1) * (SIZE + 2)
    return sheet[top : top + SIZE, left : left + SIZE]


def test_frames_are_at_the_positions_that_are_returned(dataset, frames):
    sheet, positions = mixed_sheet(dataset["train"], 9, frames, seed=0)
    assert sheet.shape == (3 * SIZE + 4, 3 * SIZE + 4, 3)
    assert sorted(name for _, _, name in positions) == [frame.image.name for frame in frames]
    for row, column, name in positions:
        middle = tile(sheet, row, column)[8:-8, 8:-8]
        assert (middle == (250, 0, 200 + 10 * int(name[5]))).all()
    others = {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)} - {position[:2] for position in positions}
    rendered = {image.tobytes() for image in dataset["train"].images}
    assert all(tile(sheet, *position).tobytes() in rendered for position in others)


def test_a_sheet_depends_on_its_seed_alone(dataset, frames):
    one, two, other = (mixed_sheet(dataset["train"], 12, frames, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one[0], two[0])
    assert one[1] == two[1]
    assert not np.array_equal(one[0], other[0])


def test_frames_are_at_most_half_and_a_small_store_gives_a_small_sheet(dataset, frames):
    assert len(mixed_sheet(dataset["train"], 4, frames, seed=0)[1]) == 2
    assert mixed_sheet(dataset["val"], 100, [], seed=0)[0].shape == (3 * SIZE + 4, 3 * SIZE + 4, 3)  # of 8 images


def test_brightness_and_contrast_are_those_inside_the_hull():
    image = np.full((20, 20, 3), 255, np.uint8)
    image[5:16, 5:11], image[5:16, 11:16] = 40, 80
    corners = np.array([[5.0, 5], [15, 5], [15, 15], [5, 15]])
    measures = measure(image, [corners[:2], corners[2:]])
    assert measures["brightness"] == pytest.approx((40 * 6 + 80 * 5) / 11, abs=0.01)
    assert measures["contrast"] == pytest.approx(20 * np.sqrt(1 - 1 / 121), abs=0.01)
    assert measures["apart"] == pytest.approx(10)


def test_a_hand_without_points_gives_nan():
    image, nothing, hand = np.zeros((8, 8, 3), np.uint8), np.zeros((0, 2)), np.array([[2.0, 2], [5, 2], [5, 5]])
    assert np.isnan(list(measure(image, [nothing, nothing]).values())).all()
    measures = measure(image, [hand, nothing])
    assert np.isnan(measures["apart"])
    assert measures["brightness"] == 0


def test_frames_are_measured_in_their_crop(frames):
    table = measure_frames(frames, SIZE)
    assert list(table) == ["hand_type", *MEASURES]
    assert table["hand_type"].tolist() == ["left", "interacting", "interacting"]
    assert (table["box_px"] == 20).all()
    assert np.isnan(table["apart"][0])
    np.testing.assert_allclose(table["apart"][1:], 5 / 20)  # the right hand is 5 px beside the left one
    np.testing.assert_allclose(table["contrast"], 0, atol=1e-9)


def test_a_store_is_measured_in_the_same_units(dataset):
    train = dataset["train"]
    table = measure_store(train, range(len(train)))
    np.testing.assert_allclose(table["box_px"] * 1.25, [crop_square(b)[2] for b in boxes(train)])
    assert (table["apart"].isna() == (train.index["hand_type"] != "interacting")).all()
    assert table["apart"].dropna().between(0, 1.2).all()
    assert table["brightness"].between(0, 255).all()


def boxes(store):
    return store.index[["bbox_x", "bbox_y", "bbox_w", "bbox_h"]].to_numpy()


def test_a_frame_without_its_image_is_named(dataset, frames):
    frames[0].image.unlink()
    with pytest.raises(ImageError, match=r"image0\.png: no such image"):
        mixed_sheet(dataset["train"], 9, frames, seed=0)


def test_masks_alone_cannot_be_shown_or_measured(dataset):
    with pytest.raises(StoreError, match=r"has no images\.npy"):
        measure_store(dataset["unpaired_labels"], range(2))


def test_the_command_shows_a_data_set_and_says_where_the_frames_are(dataset, frames, tmp_path, ethand):
    annotate(tmp_path / "real", frames)
    arguments = ("data", "sheet", dataset["test"].path.parent, "--count", 7, "--frames", tmp_path / "real")
    status, output, _ = ethand(*arguments, "--out", tmp_path / "sheet.png")
    assert status == 0
    path, *lines = output.splitlines()
    assert path == str(tmp_path / "sheet.png")
    assert len(lines) == 3
    assert all(re.fullmatch(r"real: row \d, column \d \(image\d\.png\)", line) for line in lines)
    assert Image.open(path).size == (3 * SIZE + 4, 3 * SIZE + 4)


def annotate(folder, frames):
    """Write frames as InterHand2.6M does; their hands are far before one plain camera."""
    folder.mkdir()
    valid = [[1]] * (2 * N_JOINTS)
    frame = {"capture": 0, "subject": 0, "seq_name": "s", "camera": "4", "frame_idx": 0, "width": 40, "height": 32}
    images = [frame | {"id": i, "file_name": each.name} for i, each in enumerate(frames)]
    annotations = [{"image_id": i, "bbox": BOX, "joint_valid": valid, "hand_type": "left"} for i in range(len(frames))]
    view = {"campos": [0, 0, -100], "camrot": np.eye(3).tolist(), "focal": [50, 40], "princpt": [20, 16]}
    tables = {
        "data": {"images": images, "annotations": annotations},
        "camera": {"0": {name: {"4": value} for name, value in view.items()}},
        "joint_3d": {"0": {"0": {"world_coord": [[0, 0, 0]] * (2 * N_JOINTS), "joint_valid": valid}}},
    }
    for kind, table in tables.items():
        (folder / f"test_{kind}.json").write_text(json.dumps(table))
    for frame in frames:
        frame.image.rename(folder / frame.name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--count", 0), "a sheet of 0 images was asked for; expected at least 1"),
        (("unpaired_labels",), "holds masks only; a sheet needs a store with images"),
        (("nowhere",), "no data set here"),
        (("train", "--frames", "nowhere"), "nowhere: no annotation here or below"),
        (("train", "--out", "sheet.jpeg"), r"sheet\.jpeg: expected a file name that ends in \.png"),
    ],
)
def test_a_sheet_that_cannot_be_made_is_one_line(dataset, tmp_path, ethand, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    folder, *options = arguments
    status, _, complaint = ethand("data", "sheet", dataset["train"].path.parent / folder, "--out", "a.png", *options)
    assert status == 1
    assert len(complaint.splitlines()) == 1
    assert re.search(says, complaint)
    assert not list(tmp_path.iterdir())


def test_arrangements_are_shares_of_the_two_hand_samples_where_they_are_known(dataset):
    index = dataset["train"].index
    table = arrangement_percentages(index)
    np.testing.assert_allclose(table.sum(), 100)
    assert table["rendered"].gt(0).sum() == index.loc[index["hand_type"] == "interacting", "arrangement"].nunique()
    assert arrangement_percentages(index.drop(columns="arrangement")).isna().all(axis=None)
