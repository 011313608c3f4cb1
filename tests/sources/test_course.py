"""The course's layout: reading it, writing it, its faults, and submissions."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from ethand_utils.analysis.evaluate import _predictions, submit
from ethand_utils.data.crops import crop_image
from ethand_utils.data.datasets import open_dataset
from ethand_utils.data.store import BOX, Store, StoreError
from ethand_utils.labels import HANDS, LEFT, RIGHT
from ethand_utils.outputs import OutputError
from ethand_utils.sources import course_export
from ethand_utils.sources.course import STORES, CheckedSample, crop_masks, evenly_spaced, read_course
from ethand_utils.sources.course_export import export_course
from ethand_utils.sources.course_io import (
    IMAGES,
    MASKS,
    PREFIX,
    CourseError,
    check_lmdb,
    encode_image,
    encode_masks,
    encode_png,
    image_key,
    load_pt,
    mask_keys,
    open_lmdb,
    save_pt,
    write_lmdb,
)
from ethand_utils.sources.rendered import TRUTH
from ethand_utils.training.inference import predict_masks
from ethand_utils.training.models import create_model, save_weights

WIDTH, HEIGHT = 60, 40  # px of the frames made here
SIZE = 32


def net():
    return create_model("baseline", widths=(4, 8), seed=0)


def entries(path):
    """Every entry of an LMDB by its key."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {key.decode(): bytes(value) for key, value in transaction.cursor()}


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Layout:
    """A course layout of `count` frames in memory, to be changed and then written: all in every list."""

    def __init__(self, count=3, width=WIDTH, height=HEIGHT):
        self.images, self.masks, self.list, self.ids = {}, {}, [], {}
        for i in range(count):
            rng = np.random.default_rng(i)
            path = f"{PREFIX}train/Capture7/seq/cam400/image{i:04d}.jpg"
            masks = np.zeros((2, height, width), np.uint8)
            masks[LEFT, 4:20, 5:15], masks[RIGHT, 8:30, 20:40] = 1 + i % 16, 16 - i % 16
            image = rng.integers(60, 255, (height, width, 3), dtype=np.uint8)
            box = np.array([2, 1, 38, 38], np.float32)
            entry = {"img_path": path, "bbox": box, "hand_type": "interacting", "capture": 7, "cam": "400", "frame": i}
            self.list.append(entry)
            self.images[path.removeprefix("./")] = encode_image(image)
            self.masks |= dict(zip(mask_keys(f"{i}"), encode_masks(masks), strict=True))
            self.ids[image_key(path)] = i

    def lists(self):
        ids = list(self.ids.values())
        return {
            "datalist_train_mp.pt": self.list,
            "path2id_train.pt": self.ids,
            "datalist_stud_test.pt": self.list,
            "unpaired_segm_ids.pt": ids,
        }

    def write(self, root, lists=None):
        root.mkdir(parents=True)
        write_lmdb(root / IMAGES, self.images.items(), len(self.images))
        write_lmdb(root / MASKS, self.masks.items(), len(self.masks))
        for name, value in (lists or self.lists()).items():
            save_pt(root / name, value)
        return root


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    """Folder of the tiny rendered data set in the course's layout. Read only."""
    return export_course(dataset, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def read(exported, tmp_path_factory):
    """Stores by name read back from `exported`. Read only."""
    return read_course(exported, tmp_path_factory.mktemp("read") / "data", SIZE)


def test_a_data_set_comes_back_as_it_was(dataset, read):
    assert list(read) == list(STORES)
    for name, store in read.items():
        before = dataset[name]
        assert store.index["id"].tolist() == before.index["id"].tolist()
        assert store.index["hand_type"].tolist() == before.index["hand_type"].tolist()
        np.testing.assert_array_equal(store.index[[*BOX]], before.index[[*BOX]])
        assert store.index[["occluded_left", "occluded_right"]].isna().all(axis=None)
        assert tuple(store.meta["arrays"]) == STORES[name][1]
        assert store.meta["source"] == "course"
        if store.masks is not None:
            np.testing.assert_array_equal(store.masks, before.masks)
        if store.images is not None:
            difference = np.abs(store.images.astype(int) - before.images)
            assert difference.mean() < 3
            assert np.percentile(difference, 99) < 16
            for column in ("subject", "seq", "frame"):
                assert store.index[column].tolist() == before.index[column].tolist()


def test_reading_what_was_read_and_written_again_gives_the_same_lists(read, exported, tmp_path):
    again = export_course(read, tmp_path)
    for name in ("datalist_train_complete.pt", "datalist_stud_test.pt", "path2id_val.pt", "unpaired_segm_ids.pt"):
        assert load_pt(again / name) == load_pt(exported / name)
    assert entries(again / MASKS) == entries(exported / MASKS)


def test_the_layout_is_the_courses(dataset, exported):
    assert exported.parts[-2:] == ("data", "InterHand2.6M")
    paired, complete = load_pt(exported / "datalist_train_mp.pt"), load_pt(exported / "datalist_train_complete.pt")
    assert [len(paired), len(complete)] == [16, 32]
    assert [len(load_pt(exported / f"datalist_{name}.pt")) for name in ("val_mp", "stud_test")] == [8, 8]
    for entry in complete:
        assert entry["img_path"].startswith(PREFIX + "train/")
        assert entry["bbox"] == [0, 0, SIZE, SIZE]
        assert all(int(entry[name]) >= 0 for name in ("capture", "cam", "frame"))
    images, masks = entries(exported / IMAGES), entries(exported / MASKS)
    assert len(images) == 16 + 8 + 8 + 16
    assert {entry["img_path"].removeprefix("./") for entry in complete} < set(images)
    ids = load_pt(exported / "path2id_train.pt") | load_pt(exported / "path2id_val.pt")
    labelled = [*ids.values(), *load_pt(exported / "unpaired_segm_ids.pt")]
    assert set(masks) == {f"{mask_id}__{side}" for mask_id in labelled for side in "lr"}
    assert len(dataset["unpaired_labels"]) == len(load_pt(exported / "unpaired_segm_ids.pt"))


def test_images_are_jpegs_and_masks_pngs_of_three_equal_channels(dataset, exported):
    picture = Image.open(io.BytesIO(next(iter(entries(exported / IMAGES).values()))))
    assert picture.format == "JPEG"
    assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3  # every channel at full resolution
    entry = load_pt(exported / "datalist_train_mp.pt")[5]
    mask_id = load_pt(exported / "path2id_train.pt")[image_key(entry["img_path"])]
    stored = [pixels(entries(exported / MASKS)[f"{mask_id}__{side}"]) for side in "lr"]
    for hand, channels in enumerate(stored):
        assert channels.shape == (SIZE, SIZE, 3)
        assert (channels == channels[..., :1]).all()
        truth = dataset["train"].masks[5, hand].astype(int)
        expected = np.where(truth > 0, truth + 16, 0) if hand == LEFT else truth
        np.testing.assert_array_equal(channels[..., 0], expected)


def test_left_ids_are_stored_17_to_32_and_right_ones_1_to_16():
    masks = np.stack([np.arange(17, dtype=np.uint8)[None]] * 2)
    left, right = (pixels(png)[0, :, 0].tolist() for png in encode_masks(masks))
    assert left == [0, *range(17, 33)]
    assert right == list(range(17))


def test_the_root_may_be_the_layout_or_hold_it(tmp_path):
    Layout().write(tmp_path / "a/data/InterHand2.6M")
    Layout().write(tmp_path / "b/InterHand2.6M")
    for name in (IMAGES, MASKS):  # an LMDB may also be a file
        (tmp_path / "b/InterHand2.6M" / name / "data.mdb").rename(tmp_path / "data.mdb")
        (tmp_path / "b/InterHand2.6M" / name).rmdir()
        (tmp_path / "data.mdb").rename(tmp_path / "b/InterHand2.6M" / name)
    for root in ("a", "a/data/InterHand2.6M", "b"):
        assert list(read_course(tmp_path / root, tmp_path / f"out-{root}", 16, train=1, test=0, unpaired=0)) == [
            "train"
        ]
    with pytest.raises(CourseError, match=r"nothing: no course data here; expected interhand\.lmdb"):
        read_course(tmp_path / "nothing", tmp_path / "out")


def test_full_frames_are_cropped_by_their_boxes(tmp_path):
    layout = Layout()
    layout.list[0]["bbox"] = np.array([-6, -4, 32, 32], np.float32)
    layout.list[1]["bbox"] = np.array([10.5, 3.25, 24, 24], np.float32)
    stores = read_course(layout.write(tmp_path / "root"), tmp_path / "out", SIZE)
    train = stores["train"]
    for i, (x, y, side) in enumerate([(-6, -4, 32), (10.5, 3.25, 24), (2, 1, 38)]):
        frame = pixels(layout.images[layout.list[i]["img_path"][2:]])
        np.testing.assert_array_equal(train.images[i], crop_image(frame, (x, y, side), SIZE))
        row = train.index.loc[i]
        assert row[["bbox_x", "bbox_y", "bbox_w", "bbox_h"]].tolist() == [x, y, side, side]
        assert row[["capture", "subject", "seq"]].tolist() == ["7", "train/Capture7", "seq"]
        assert row[["camera", "frame"]].tolist() == ["400", i]
        assert row["source"] == layout.list[i]["img_path"]
        assert row["id"] == f"train/Capture7/seq/cam400/image{i:04d}"
    assert train.masks[0, LEFT, 8:24, 11:21].tolist() == np.ones((16, 10), int).tolist()
    assert train.masks[0, RIGHT, 12:, 26:].min() == 16
    assert not train.images[0, :4].any()
    assert not train.masks[0, :, :8].any()


@pytest.mark.parametrize("crop", [(10.4, 7.7, 20.3), (0, 0, 40), (-7.6, -3.3, 55.5), (30.4, 12.2, 63)])
def test_masks_and_images_are_cropped_alike(crop):
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[:, 10:26, 14:43] = np.array([3, 9])[:, None, None]
    image = np.repeat(np.where(masks[0] > 0, 255, 0).astype(np.uint8)[..., None], 3, 2)
    seen = crop_image(image, crop, 128)[..., 0] > 127
    found = crop_masks(masks, crop, 128)
    assert set(np.unique(found[RIGHT])) == {0, 9}
    wrong = [(seen != np.roll(found[LEFT] > 0, shift, (0, 1))).sum() for shift in ((0, 0), (1, 0), (0, 1))]
    assert wrong[0] <= 4  # the corners, which a bilinear image rounds off
    assert min(wrong[1:]) > 10


def test_unpaired_labels_are_cut_about_their_own_foreground(tmp_path):
    layout = Layout()
    layout.masks["1__r"] = encode_masks(np.zeros((2, HEIGHT, WIDTH), np.uint8))[RIGHT]
    labels = read_course(layout.write(tmp_path / "root"), tmp_path / "out", 128)["unpaired_labels"]
    assert labels.images is None
    assert labels.index["hand_type"].tolist() == ["interacting", "left", "interacting"]
    # The hands of frame 0 span x 5…40, y 4…30; the left one of frame 1 x 5…15, y 4…20.
    boxes = labels.index[["bbox_x", "bbox_y", "bbox_w", "bbox_h"]].to_numpy()
    np.testing.assert_allclose(boxes[0], [22.5 - 21.875, 17 - 21.875, 43.75, 43.75])
    np.testing.assert_allclose(boxes[1], [10 - 10, 12 - 10, 20, 20])
    rows, columns = np.nonzero(labels.masks[1, LEFT])
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == [13, 114, 32, 95]  # 2/20, 18/20; 5/20, 15/20
    assert np.unique(labels.masks[1]).tolist() == [0, 2]


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 10), (10, 20), (10, None), (7, 6), (5, 0)])
def test_a_limit_is_spread_evenly(count, limit):
    taken = evenly_spaced(list(range(count)), limit)
    assert len(taken) == min(count, count if limit is None else limit)
    assert taken == sorted(set(taken))
    if len(taken) > 1:
        assert np.ptp(np.diff(taken)) <= 1


def test_limits_hold_for_every_store(exported, tmp_path):
    stores = read_course(exported, tmp_path / "out", SIZE, train=5, val=0, test=2, unpaired=3)
    counts = {"train": 5, "test": 2, "unpaired_images": 3, "unpaired_labels": 3}
    assert {name: len(store) for name, store in stores.items()} == counts
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([".course", "report.json", *counts])


def change_image(change):
    def apply(layout, entry):
        key = entry["img_path"].removeprefix("./")
        layout.images[key] = change(layout.images[key])

    return apply


def change_masks(change, hand=LEFT):
    def apply(layout, entry):
        key = mask_keys(layout.ids[image_key(entry["img_path"])])[hand]
        layout.masks[key] = change(layout.masks[key])

    return apply


def box(*numbers):
    return lambda layout, entry: entry.update(bbox=numbers)


def rgb(*channels, size=None):
    """PNG of one colour, as large as a frame or `size` px a side."""
    shape = (size, size, 3) if size else (HEIGHT, WIDTH, 3)
    return encode_png(np.broadcast_to(np.array(channels, np.uint8), shape).copy())


FAULTS = {
    "image: not in the LMDB": [lambda layout, entry: layout.images.pop(entry["img_path"][2:])],
    "image: cannot be decoded": [change_image(lambda data: data[:500]), change_image(lambda data: b"no image")],
    "image: all black": [change_image(lambda data: encode_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))],
    "mask: not in the LMDB": [lambda layout, entry: layout.masks.pop("1__r")],
    "mask: no id in path2id": [lambda layout, entry: layout.ids.pop(image_key(entry["img_path"]))],
    "mask: cannot be decoded": [change_masks(lambda data: data[:60]), change_masks(lambda data: b"")],
    "mask: ids out of range": [
        change_masks(lambda data: rgb(5, 5, 5)),
        change_masks(lambda data: rgb(33, 33, 33)),
        change_masks(lambda data: rgb(16, 16, 16)),
        change_masks(lambda data: rgb(17, 17, 17), RIGHT),
        change_masks(lambda data: rgb(255, 255, 255), RIGHT),
    ],
    "mask: expected three equal channels": [
        change_masks(lambda data: rgb(17, 17, 18)),
        change_masks(lambda data: encode_png(np.zeros((HEIGHT, WIDTH, 4), np.uint8))),
    ],
    "mask: of another size than the other hand's": [change_masks(lambda data: rgb(17, 17, 17, size=8))],
    "mask: of another size than the image": [
        change_image(lambda data: encode_image(np.full((WIDTH, HEIGHT, 3), 99, np.uint8)))
    ],
    "box: outside the frame, or out of all proportion to it": [
        box(100, 0, 20, 20), box(0, -30, 20, 20), box(0, 0, 1e6, 1e6), box(1e30, 0, 9, 9),
    ],
    "box: of no size": [box(3, 3, 0, 0), box(3, 3, 10, -10)],
    "box: not four numbers": [
        box(3, 3, 10), box("a", 3, 3, 3), box(np.nan, 3, 3, 3), box(0, 0, np.inf, 3),
        lambda layout, entry: entry.pop("bbox"),
    ],
    "hand_type: none of right, left, interacting": [lambda layout, entry: entry.update(hand_type="both")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "break_it"), [(reason, change) for reason, changes in FAULTS.items() for change in changes]
)
def test_a_broken_sample_is_left_out_and_counted(reason, break_it, tmp_path):
    layout = Layout()
    break_it(layout, layout.list[1])
    stores = read_course(layout.write(tmp_path / "root"), tmp_path / "out", SIZE, test=0, unpaired=0)
    assert stores["train"].index["frame"].tolist() == [0, 2]
    found = json.loads((tmp_path / "out/report.json").read_text())
    assert found["skipped"] == {reason: {"count": 1, "names": ["train: train/Capture7/seq/cam400/image0001"]}}
    assert (found["listed"]["train"], found["kept"]["train"], found["read"]) == (3, 2, 3)


def test_masks_without_a_hand_are_no_unpaired_labels(tmp_path):
    layout = Layout()
    layout.masks |= dict(zip(mask_keys("1"), encode_masks(np.zeros((2, HEIGHT, WIDTH), np.uint8)), strict=True))
    stores = read_course(layout.write(tmp_path / "root"), tmp_path / "out", SIZE, test=0)
    assert [len(stores["train"]), len(stores["unpaired_labels"])] == [3, 2]
    skipped = json.loads((tmp_path / "out/report.json").read_text())["skipped"]
    assert skipped == {"mask: shows no hand": {"count": 1, "names": ["unpaired_labels: 1"]}}


def test_no_sound_sample_at_all_is_an_error_that_names_the_report(tmp_path):
    layout = Layout()
    layout.images = {"another": encode_image(np.full((8, 8, 3), 99, np.uint8))}
    root = layout.write(tmp_path / "root")
    with pytest.raises(CourseError, match=r"no sample of it is sound; .*report\.json"):
        read_course(root, tmp_path / "out", SIZE, unpaired=0)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["skipped"]["image: not in the LMDB"]["count"] == 6  # of train and of test


def test_two_processes_write_the_same_bytes_as_one(tmp_path):
    layout = Layout(70, 24, 20)
    for entry in layout.list:
        entry["bbox"] = np.array([1, 1, 18, 18], np.float32)
    layout.images[layout.list[66]["img_path"][2:]] = b""
    root = layout.write(tmp_path / "root", {name: layout.lists()[name] for name in STORES["train"][0]})
    for workers in (1, 2):
        read_course(root, tmp_path / f"out{workers}", 16, workers=workers)
    one, two = (files(tmp_path / f"out{workers}") for workers in (1, 2))
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one)
    assert len(Store(tmp_path / "out1/train")) == 69


def test_reading_again_keeps_what_is_there_and_tries_nothing_twice(tmp_path, monkeypatch):
    root = Layout().write(tmp_path / "root")
    read_course(root, tmp_path / "out", SIZE)
    before = files(tmp_path / "out")
    monkeypatch.setattr(CheckedSample, "__call__", None)
    read_course(root, tmp_path / "out", SIZE)
    assert files(tmp_path / "out") == before


def test_other_samples_or_sizes_are_refused_before_any_work(tmp_path):
    layout = Layout()
    root = layout.write(tmp_path / "root")
    read_course(root, tmp_path / "out", SIZE)
    before = files(tmp_path / "out")
    for options in ({"size": 16}, {"size": SIZE, "train": 2}):
        with pytest.raises(StoreError, match=r"out/t\w+: holds something else or other samples; choose another"):
            read_course(root, tmp_path / "out", **options)
    with pytest.raises(CourseError, match="at least 16 px"):
        read_course(root, tmp_path / "other", 8)
    assert files(tmp_path / "out") == before


def test_a_repaired_lmdb_is_looked_at_anew(tmp_path):
    layout = Layout()
    lost = layout.images.popitem()
    root = layout.write(tmp_path / "root")
    assert len(read_course(root, tmp_path / "a", SIZE, unpaired=0)["train"]) == 2
    with lmdb.open(str(root / IMAGES), lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(lost[0].encode(), lost[1])
    (tmp_path / "b").mkdir()
    (tmp_path / "a/.course").rename(tmp_path / "b/.course")
    assert len(read_course(root, tmp_path / "b", SIZE, unpaired=0)["train"]) == 3


def test_stores_whose_lists_are_missing_are_left_out_by_name(tmp_path):
    root = Layout().write(tmp_path / "root")
    assert list(read_course(root, tmp_path / "out", SIZE)) == ["train", "test", "unpaired_labels"]
    left_out = json.loads((tmp_path / "out/report.json").read_text())["left_out"]
    assert left_out["val"] == "no datalist_val_mp.pt and no path2id_val.pt"
    assert left_out["unpaired_images"] == "no datalist_train_complete.pt"


@pytest.mark.parametrize("name", [IMAGES, MASKS])
def test_an_lmdb_at_fault_is_named(name, tmp_path):
    root = Layout().write(tmp_path / "root")
    file = root / name / "data.mdb"
    for content in (b"", b"no" * 9000):
        file.write_bytes(content)
        with pytest.raises(CourseError, match=rf"{name}.*damaged or no LMDB.*copy it again"):
            read_course(root, tmp_path / "out", SIZE)
    file.unlink()
    with pytest.raises(CourseError, match=rf"{name}/data\.mdb: missing"):
        read_course(root, tmp_path / "out", SIZE)


def test_an_lmdb_that_is_cut_off_is_named(tmp_path):
    layout = Layout()
    layout.images["large"] = bytes(1 << 20)
    file = layout.write(tmp_path / "root") / IMAGES / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CourseError, match=r"data\.mdb: cut off, \d+ bytes of \d+; copy it again"):
        read_course(tmp_path / "root", tmp_path / "out", SIZE)


def test_a_small_lmdb_that_is_cut_off_does_not_end_the_process(tmp_path):
    file = Layout().write(tmp_path / "root") / IMAGES / "data.mdb"
    os.truncate(file, file.stat().st_size - 4096)
    reading = "import sys; from ethand_utils.sources.course import read_course; read_course(*sys.argv[1:])"
    command = [sys.executable, "-c", reading, tmp_path / "root", tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "data.mdb: cut off" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("frame", [float("inf"), 10**25, "first", None])
def test_a_frame_that_is_no_number_is_unknown(frame, tmp_path):
    layout = Layout()
    layout.list[1]["frame"] = frame
    stores = read_course(layout.write(tmp_path / "root"), tmp_path / "out", SIZE)
    assert stores["train"].index["frame"].tolist() == [0, -1, 2]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused_without_advice_to_load_it_unsafely(tmp_path):
    (tmp_path / "list.pt").write_bytes(pickle.dumps(Layout().ids))
    with pytest.raises(CourseError, match=r"list\.pt: damaged or no \.pt file \([^)]{,80}\); copy it again$"):
        load_pt(tmp_path / "list.pt")


def test_lists_of_another_layout_are_refused(tmp_path):
    layout = Layout()
    lists = [{"datalist_train_mp.pt": [1, 2]}, {"path2id_train.pt": [3]}, {"unpaired_segm_ids.pt": 7}]
    for i, changed in enumerate(lists):
        root = layout.write(tmp_path / f"root{i}", layout.lists() | changed)
        with pytest.raises(CourseError, match=r"its \.pt files are not the course's"):
            read_course(root, tmp_path / "out", SIZE)


def test_an_lmdb_can_be_read_in_a_forked_process(tmp_path):
    root = Layout().write(tmp_path / "root")
    with open_lmdb(root / MASKS) as get:
        assert get("1__l")
    child = os.fork()
    if child == 0:
        with open_lmdb(root / MASKS) as get:
            os._exit(0 if get("1__l") else 1)
    assert os.waitpid(child, 0)[1] == 0
    with open_lmdb(root / MASKS) as get:
        assert get("1__r")
        assert get("") is None
        assert get("x" * 1000) is None


def test_an_lmdb_grows_as_needed(tmp_path):
    value = np.random.default_rng(0).bytes(1 << 20)
    write_lmdb(tmp_path / "big", ((f"{i}", value) for i in range(40)), 40)
    assert check_lmdb(tmp_path / "big")[0] == 40
    assert set(entries(tmp_path / "big").values()) == {value}


class Evil:
    """Unpickled in full, it would run a command that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Other:
    """A harmless object that no list of the course holds."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("make", "name"), [(Evil, r"\w+\.system"), (lambda path: Other(), r"\S*Other")])
def test_a_pt_file_with_another_object_is_refused_and_nothing_is_run(make, name, zipped, tmp_path):
    root = Layout().write(tmp_path / "root")
    value = [{"img_path": make(tmp_path / "made")}]
    torch.save(value, root / "datalist_stud_test.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CourseError, match=rf"datalist_stud_test\.pt: holds {name}, which is refused") as caught:
        read_course(root, tmp_path / "out", SIZE)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.98])
def test_a_cut_off_pt_file_is_named(share, zipped, tmp_path):
    path = tmp_path / "list.pt"
    torch.save(Layout().list, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CourseError, match=r"list\.pt: damaged or no \.pt file") as caught:
        load_pt(path)
    assert len(str(caught.value).splitlines()) == 1


def test_numpy_arrays_and_numbers_are_loaded_by_their_new_and_old_names(tmp_path):
    value = [np.arange(4, dtype=np.float32), np.float64(2.5), np.int64(7), np.array(["a", "b"]), np.ones(2, bool)]
    torch.save(value, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert (tmp_path / "old.pt").read_bytes() != (tmp_path / "new.pt").read_bytes()
    for name in ("new.pt", "old.pt"):
        for found, expected in zip(load_pt(tmp_path / name), value, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert np.asarray(found).dtype == np.asarray(expected).dtype


def test_a_missing_pt_file_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"list\.pt: missing"):
        load_pt(tmp_path / "list.pt")


def test_an_export_never_takes_the_place_of_something_else(dataset, tmp_path):
    (tmp_path / "data/InterHand2.6M").mkdir(parents=True)
    (tmp_path / "data/InterHand2.6M/mine.txt").write_text("mine")
    with pytest.raises(CourseError, match=r"InterHand2\.6M: holds something already"):
        export_course(dataset, tmp_path)
    assert files(tmp_path) == {"data/InterHand2.6M/mine.txt": b"mine"}


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_stopped_export_leaves_nothing(fault, dataset, tmp_path, monkeypatch):
    def stop(*arguments):
        raise fault

    monkeypatch.setattr(course_export, "save_pt", stop)
    with pytest.raises((CourseError, KeyboardInterrupt)):
        export_course(dataset, tmp_path)
    assert files(tmp_path) == {}
    monkeypatch.undo()
    assert export_course(dataset, tmp_path).is_dir()


def test_single_stores_are_written_by_what_they_hold(dataset, tmp_path):
    roles = {
        "val": ("datalist_val_mp.pt", 8),
        TRUTH: ("unpaired_segm_ids.pt", 16),
        "test": ("datalist_stud_test.pt", 8),
    }
    for name, (file, count) in roles.items():
        folder = export_course({name: dataset[name]}, tmp_path / name)
        lists = {path.name: len(load_pt(path)) for path in folder.glob("*.pt")}
        assert lists[file] == count
        assert set(lists.values()) == {0, count}
        assert len(lists) == 8
    again = read_course(tmp_path / TRUTH, tmp_path / "read", SIZE)
    np.testing.assert_array_equal(again["unpaired_labels"].masks, dataset[TRUTH].masks)


def test_stores_that_cannot_be_written_are_refused(dataset, make_store, tmp_path):
    images = make_store("train", images=np.asarray(dataset["test"].images))
    with pytest.raises(StoreError, match=r"train: has no masks\.npy"):
        export_course({"train": images}, tmp_path / "out")
    with pytest.raises(StoreError, match=r"has no column hand_type"):
        export_course({"other": images}, tmp_path / "out")
    with pytest.raises(StoreError, match="none of these stores has a place"):
        export_course({"a": images, "b": images}, tmp_path / "out")
    with pytest.raises(CourseError, match=r"train-0000000\S* comes twice"):
        export_course({"train": dataset["train"], "val": dataset["train"]}, tmp_path / "out")
    assert not (tmp_path / "out/data/InterHand2.6M").exists()


def unpack(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return entries(folder / "test.lmdb"), load_pt(folder / "test.lmdb/im_path.pt")


def test_a_submission_has_a_png_a_hand_under_the_right_keys(read, tmp_path):
    store = read["test"]
    assert submit(net(), store, tmp_path / "out/test.lmdb.tar.gz") == 8
    found, paths = unpack(tmp_path / "out/test.lmdb.tar.gz", tmp_path / "unpacked")
    assert paths == [f"test/{name}.jpg" for name in store.index["id"]]
    assert set(found) == {f"test/{name}__{side}" for name in store.index["id"] for side in "lr"}
    masks, _ = predict_masks(net(), store.images)
    for name, pair in zip(store.index["id"], masks, strict=True):
        for side, mask in zip("lr", pair, strict=True):
            png = pixels(found[f"test/{name}__{side}"])
            assert png.shape == (128, 128)
            np.testing.assert_array_equal(png, np.kron(mask, np.ones((4, 4), np.uint8)))
    assert max(pixels(png).max() for png in found.values()) in range(1, 17)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test.lmdb.tar.gz"]


def test_submitted_masks_of_128_px_are_the_predictions_themselves():
    masks = np.random.default_rng(0).integers(17, size=(1, len(HANDS), 128, 128), dtype=np.uint8)
    sent = dict(_predictions(["a"], masks))
    for key, mask in zip(("a__l", "a__r"), masks[0], strict=True):
        np.testing.assert_array_equal(pixels(sent[key]), mask)


def test_the_courses_own_paths_are_the_keys_of_a_submission(tmp_path):
    layout = Layout()
    stores = read_course(layout.write(tmp_path / "root"), tmp_path / "out", SIZE)
    submit(net(), stores["test"], tmp_path / "test.lmdb.tar.gz")
    found, paths = unpack(tmp_path / "test.lmdb.tar.gz", tmp_path / "unpacked")
    assert paths == [entry["img_path"].removeprefix(PREFIX) for entry in layout.list]
    assert set(found) == {path.removesuffix(".jpg") + end for path in paths for end in ("__l", "__r")}


def test_the_same_submission_has_the_same_bytes(read, dataset, tmp_path):
    for name in ("one", "two"):
        submit(net(), read["test"], tmp_path / name / f"{name}.tar.gz")
    assert (tmp_path / "one/one.tar.gz").read_bytes() == (tmp_path / "two/two.tar.gz").read_bytes()


def test_a_submission_of_what_cannot_be_submitted_is_refused(read, make_store, tmp_path):
    with pytest.raises(StoreError, match=r"has no images\.npy"):
        submit(net(), read["unpaired_labels"], tmp_path / "a.tar.gz")
    with pytest.raises(OutputError, match=r"a\.zip: expected a file name that ends in \.tar\.gz"):
        submit(net(), read["test"], tmp_path / "a.zip")
    twice = make_store("twice", images=np.zeros((2, SIZE, SIZE, 3), np.uint8))
    twice.index["id"] = "same"
    with pytest.raises(CourseError, match="test/same__l comes twice"):
        submit(net(), twice, tmp_path / "a.tar.gz")
    assert not list(tmp_path.glob("*.gz"))


def test_the_commands_do_it_all(dataset, ethand, tmp_path):
    root = dataset["train"].path.parent
    code, out, _ = ethand("data", "export-course", root, "--out", tmp_path / "course")
    assert [code, out.strip()] == [0, str(tmp_path / "course/data/InterHand2.6M")]
    words = ["--root", tmp_path / "course", "--out", tmp_path / "data", "--size", SIZE, "--workers", 1]
    code, out, _ = ethand("data", "course", *words, "--train", 5, "--val", 0)
    assert code == 0
    assert [len(store) for store in open_dataset(tmp_path / "data").values()] == [8, 5, 16, 16]
    assert all(re.search(rf"{what} +train +{count}\b", out) for what, count in (("listed", 16), ("kept", 5)))
    save_weights(net(), tmp_path / "weights.safetensors", size=SIZE)
    archive = tmp_path / "test.lmdb.tar.gz"
    code, out, _ = ethand(
        "submit", "--data", tmp_path / "data/test", "--weights", tmp_path / "weights.safetensors", "--out", archive
    )
    assert [code, out.strip()] == [0, f"{archive}: masks of 8 images, left and right"]
    code, _, err = ethand("data", "course", "--root", tmp_path / "none", "--out", tmp_path / "other")
    assert code == 1
    assert err.strip().splitlines()[-1].startswith(f"ethand: {tmp_path / 'none'}: no course data here")


def test_the_command_says_what_was_skipped(ethand, tmp_path):
    layout = Layout()
    layout.list[1]["bbox"] = [0, 0, 0, 0]
    root = layout.write(tmp_path / "root")
    code, out, _ = ethand("data", "course", "--root", root, "--out", tmp_path / "out", "--size", SIZE, "--workers", 1)
    assert code == 0
    assert re.search(r"skipped +box: of no size +\d +train: train/Capture7/seq/cam400/image0001", out)
    assert re.search(r"left out +val: no datalist_val_mp.pt and no path2id_val.pt", out)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("", "test/frame-7"),
        ("anywhere/frame.jpg", "test/frame-7"),
        ("/data/ih/images/val/Capture0/seq/cam1/image2.jpg", "val/Capture0/seq/cam1/image2"),
        (f"{PREFIX}train/Capture0/seq/cam1/image2.jpg", "train/Capture0/seq/cam1/image2"),
    ],
)
def test_images_of_interhand_keep_their_paths_and_others_get_one_of_their_id(source, path):
    assert course_export.img_path("test", {"id": "frame-7", "source": source}) == f"{PREFIX}{path}.jpg"
