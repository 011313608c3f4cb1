"""Labels of one's own photos: what is kept, the masks they give, the store and the data set made of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import Echo
from PIL import Image

from ethand_utils.analysis.evaluate import evaluate_store
from ethand_utils.app.browser import ErrorBrowser
from ethand_utils.data.datasets import open_dataset
from ethand_utils.data.images import ImageError
from ethand_utils.data.store import Store, StoreError
from ethand_utils.experiments.run import open_run
from ethand_utils.hands.amodal import HandError
from ethand_utils.labels import FRONT_LEFT, FRONT_RIGHT, LEFT, RIGHT
from ethand_utils.locks import BusyError
from ethand_utils.outputs import OutputError
from ethand_utils.sources import photo_labels
from ethand_utils.sources.detect import detect_source
from ethand_utils.sources.labels_dataset import read_labels
from ethand_utils.sources.photo_labels import (
    HandLabel,
    LabelError,
    LabelFolder,
    PhotoLabel,
    fit_label,
    label_masks,
)
from ethand_utils.sources.rendered_photos import rendered_photo
from ethand_utils.sources.request import ReadRequest

PX, SIZE = 128, 64  # of the photos, and of the samples
FILES = ("images.npy", "masks.npy", "front.npy", "index.parquet", "meta.json")


@pytest.fixture(scope="session")
def truths():
    """Seven rendered photos of 128 px: of two hands, a left one, a right one and others. Read only."""
    kinds = ("interacting", "left", "right", "right", "interacting", "left", "right")
    return [rendered_photo(3, i, PX, hand_type=kind) for i, kind in enumerate(kinds)]


@pytest.fixture(scope="session")
def finished(truths, tmp_path_factory):
    """A folder with the photos' files in `photos`, and their labels in `labelled`. Read only."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "photos").mkdir()
    with LabelFolder(folder / "labelled", SIZE, labeller="a") as labels:
        for i, truth in enumerate(truths):
            photo = folder / f"photos/photo{i}.png"
            Image.fromarray(truth["image"]).save(photo)
            labels.save(photo, label_of(truth))
    return folder


@pytest.fixture
def photos(finished, tmp_path):
    """The photos' files."""
    shutil.copytree(finished / "photos", tmp_path / "photos")
    return sorted((tmp_path / "photos").iterdir())


@pytest.fixture
def labelled(finished, photos, tmp_path):
    """A closed folder with labels of all photos, beside them."""
    shutil.copytree(finished / "labelled", tmp_path / "labelled")
    return tmp_path / "labelled"


def label_of(truth, **more):
    hands = tuple(HandLabel(joints) if np.isfinite(joints).any() else None for joints in truth["joints"])
    return PhotoLabel("", hands, **more)


def contents(folder):
    """All arrays and the ids of a store."""
    store = Store(folder)
    return [store.index["id"].tolist(), *(np.array(getattr(store, name)) for name in ("images", "masks", "front"))]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


# What is kept


def test_a_label_comes_back_as_it_was_saved(photos, truths, tmp_path):
    joints = np.where(np.arange(21)[:, None] == 4, np.nan, truths[1]["joints"][LEFT])
    guessed = np.arange(21) % 3 == 0
    label = PhotoLabel("", (HandLabel(joints, guessed, 1), None), "right", "me", 12.5, "2020-01-02T03:04:05+00:00")
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        assert folder.get(photos[1]) is None
        name = folder.save(photos[1], label)
        assert folder.get(photos[1]) is folder.labels[name]
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        again = folder.get(photos[1])
    assert again.hands[RIGHT] is None
    np.testing.assert_array_equal(again.hands[LEFT].joints, joints)
    np.testing.assert_array_equal(again.hands[LEFT].guessed, guessed)
    texts = (again.photo, again.hands[LEFT].answer, again.front, again.labeller, again.seconds, again.labelled_at)
    assert texts == ("photo1.png", 1, "right", "me", 12.5, "2020-01-02T03:04:05+00:00")


def test_the_folder_fills_in_who_labelled_and_when(photos, truths, tmp_path):
    with LabelFolder(tmp_path / "out", SIZE, labeller="me") as folder:
        folder.save(photos[1], label_of(truths[1]))
        label = folder.get(photos[1])
    assert label.labeller == "me"
    assert label.labelled_at[:2] == "20"


def test_photos_of_one_name_have_labels_of_their_own(photos, truths, tmp_path):
    twin = tmp_path / "other" / photos[1].name
    twin.parent.mkdir()
    shutil.copy(photos[2], twin)
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        folder.save(photos[1], label_of(truths[1]))
        assert folder.get(twin) is None
        folder.save(twin, label_of(truths[2]))
        assert [folder.get(photo).sides for photo in (photos[1], twin)] == [[LEFT], [RIGHT]]
        assert folder.get(photos[2]).sides == [RIGHT]  # the same bytes are the same photo
        assert len(folder.store()) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"joints": np.zeros((20, 2))},
        {"joints": np.full((21, 2), np.inf)},
        {"joints": np.where(np.arange(42).reshape(21, 2) == 0, np.nan, 1.0)},
        {"guessed": np.zeros(21)},
        {"answer": 2},
        {"answer": True},
    ],
)
def test_a_label_of_a_hand_with_other_values_is_refused(wrong):
    with pytest.raises(LabelError, match="expected"):
        HandLabel(**{"joints": np.zeros((21, 2))} | wrong)


@pytest.mark.parametrize("wrong", [{"hands": (None,)}, {"front": "both"}, {"seconds": -1}, {"labeller": None}])
def test_a_label_of_a_photo_with_other_values_is_refused(wrong):
    with pytest.raises(LabelError, match="expected"):
        PhotoLabel(**{"photo": "a.jpg", "hands": (None, None)} | wrong)


# Masks


@pytest.mark.parametrize("i", [0, 1, 2])
def test_masks_lie_on_the_hands_left_first(truths, i):
    fit = fit_label(label_of(truths[i]), (PX, PX))
    masks = label_masks(fit, (0, 0, PX), PX, (PX, PX))["masks"]
    for mask, truth in zip(masks, truths[i]["masks"], strict=True):
        assert truth.any() == mask.any()
        assert not truth.any() or iou(mask > 0, truth > 0) > 0.6


def test_the_sample_shows_the_photo_where_its_masks_are(truths, tmp_path):
    label = label_of(truths[1])
    masks = label_masks(fit_label(label, (PX, PX)), (0, 0, PX), PX, (PX, PX))["masks"]
    white = np.where(masks[LEFT] > 0, 255, 0).astype(np.uint8)
    Image.fromarray(white).save(tmp_path / "a.png")
    with LabelFolder(tmp_path / "out", PX) as folder:
        folder.save(tmp_path / "a.png", label)
        store = folder.store()
    white, hand = store.images[0, ..., 0] > 127, store.masks[0, LEFT] > 0
    shifted = [iou(np.roll(white, (y, x), (0, 1)), hand) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert np.argmax(shifted) == 4
    assert shifted[4] > 0.97


def test_the_labeller_says_which_hand_is_in_front(truths):
    fits = {front: fit_label(label_of(truths[0], front=front), (PX, PX)) for front in ("fit", "left", "right")}
    maps = {front: label_masks(fit, (0, 0, PX), PX, (PX, PX)) for front, fit in fits.items()}
    both = maps["fit"]["masks"].all(0)
    assert both.any()
    assert (maps["left"]["front"][both] == FRONT_LEFT).all()
    assert (maps["right"]["front"][both] == FRONT_RIGHT).all()
    for front in ("left", "right"):
        assert (maps[front]["masks"] == maps["fit"]["masks"]).mean() > 0.999


def test_a_second_answer_is_the_one_chosen_where_there_are_two(truths):
    labels = [label_of(truth) for truth in truths]
    fits = [(label, fit_label(label, (PX, PX))) for label in labels]
    label, fit = next((label, fit) for label, fit in fits if len(fit.answers[label.sides[0]]) == 2)
    side = label.sides[0]
    hands = list(label.hands)
    hands[side] = replace(hands[side], answer=1)
    other = fit_label(replace(label, hands=hands), (PX, PX))
    np.testing.assert_array_equal(other.chosen[side].joints, fit.answers[side][1].joints)
    assert not np.array_equal(other.hands[side].vertices, fit.hands[side].vertices)


def test_a_joint_that_is_far_off_is_named(truths):
    label = label_of(truths[1])
    assert not any("from where" in line for line in fit_label(label, (PX, PX)).warnings)
    joints = label.hands[LEFT].joints.copy()
    joints[4] += 1.5 * (joints[11] - joints[20])  # the tip of the index finger, by more than the palm's length
    label = replace(label, hands=(HandLabel(joints), None))
    assert any(line.startswith("the left hand's index") for line in fit_label(label, (PX, PX)).warnings)


def test_a_guessed_joint_pulls_less(truths):
    joints = truths[1]["joints"][LEFT].copy()
    joints[8] += 0.5 * (joints[11] - joints[20])
    clicked, guessed = (
        fit_label(PhotoLabel("", (HandLabel(joints, np.arange(21) == (8 if guess else -1)), None)), (PX, PX))
        for guess in (False, True)
    )
    assert guessed.chosen[LEFT].residual[8] > clicked.chosen[LEFT].residual[8]


# The store


def test_the_folder_is_a_store_at_any_time(photos, truths, tmp_path):
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        assert len(Store(tmp_path / "out")) == 0
        for count, (photo, truth) in enumerate(zip(photos, truths, strict=True), 1):
            name = folder.save(photo, label_of(truth, seconds=3.0))
            store = Store(tmp_path / "out").require("images", "masks", "front")
            assert len(store) == count
            row = store.index.set_index("id").loc[name]
            assert row["hand_type"] == truth["hand_type"]
            assert (row["seq"], row["seconds"]) == (photo.name, 3.0)
            np.testing.assert_allclose(row["joints"], truth["joints"].ravel())
        assert store.index["subject"].nunique() == len(photos)
        for photo in photos:
            folder.remove(photo)
        assert len(Store(tmp_path / "out")) == 0


def test_a_change_leaves_the_other_samples_and_open_arrays_as_they_are(labelled, photos, truths):
    before = contents(labelled)
    opened = Store(labelled)
    with LabelFolder(labelled, SIZE) as folder:
        joints = truths[2]["joints"][RIGHT] + (9, 4)
        name = folder.save(photos[2], PhotoLabel("", (None, HandLabel(joints))))
        after, row = contents(labelled), folder.ids.index(name)
        assert not np.array_equal(before[2][row], after[2][row])
        assert_same(*([array[:row] for array in arrays] for arrays in (before, after)))
        assert_same(*([array[row + 1 :] for array in arrays] for arrays in (before, after)))
        folder.remove(photos[2])
        removed = contents(labelled)
    assert_same([np.delete(array, row, 0) for array in after[1:]], removed[1:])
    np.testing.assert_array_equal(opened.masks, before[2])


def test_a_fit_that_the_caller_has_is_used_unless_it_is_of_other_joints(photos, truths, tmp_path, monkeypatch):
    label = label_of(truths[1])
    fit, other = fit_label(label, (PX, PX)), fit_label(label_of(truths[5]), (PX, PX))
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        monkeypatch.setattr(photo_labels, "fit_label", None)
        folder.save(photos[1], replace(label, seconds=5.0), fit)
        with pytest.raises(LabelError, match="of other joints"):
            folder.save(photos[1], label, other)


@pytest.mark.parametrize("done", range(len(FILES)))
@pytest.mark.parametrize("change", ["add", "edit", "remove"])
def test_a_crash_between_two_files_is_mended_when_the_folder_is_opened(
    labelled, photos, truths, monkeypatch, change, done
):
    label = PhotoLabel("", (None, HandLabel(truths[2]["joints"][RIGHT] + (9, 4))))
    changes = {"add": (photos[3], label), "edit": (photos[2], label), "remove": (photos[2], None)}
    photo, label = changes[change]
    with LabelFolder(labelled, SIZE) as folder:
        folder.remove(photos[3])
        calls = []

        def replace_until(source, target):
            calls.append(target)
            if len(calls) > done:
                raise KeyboardInterrupt
            os.rename(source, target)

        monkeypatch.setattr(photo_labels, "os", type("os", (), {**vars(os), "replace": staticmethod(replace_until)}))
        with pytest.raises(KeyboardInterrupt):
            folder.remove(photo) if label is None else folder.save(photo, label)
        monkeypatch.undo()
    expected = labelled.with_name("expected")
    shutil.copytree(labelled / "labels", expected / "labels")
    with LabelFolder(labelled, SIZE) as folder, LabelFolder(expected, SIZE):
        assert not folder.faults
    assert_same(contents(labelled), contents(expected))
    assert not list(labelled.glob(".*partial*"))


def test_arrays_of_a_writer_that_was_killed_are_made_again(labelled):
    before = contents(labelled)
    np.save(labelled / "masks.npy", np.zeros_like(before[2]))
    (labelled / ".labels.lock.json").write_text(json.dumps({"host": socket.gethostname(), "pid": 1}))
    LabelFolder(labelled, SIZE).close()
    assert_same(contents(labelled), before)


@pytest.mark.parametrize("file", [*FILES, "samples"])
def test_whatever_is_not_a_label_is_made_again(labelled, file):
    before = contents(labelled)
    shutil.rmtree(labelled / file) if file == "samples" else (labelled / file).write_bytes(b"nonsense")
    if file == "samples":
        (labelled / "masks.npy").unlink()
    LabelFolder(labelled, SIZE).close()
    assert_same(contents(labelled), before)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 9}', '{"format": 1}', "\x00", ""])
def test_a_damaged_label_is_named_and_loses_no_other(labelled, photos, truths, damage, capsys):
    with LabelFolder(labelled, SIZE) as folder:
        name = folder.ids[2]
    file = labelled / "labels" / f"{name}.json"
    file.write_text(damage)
    with LabelFolder(labelled, SIZE) as folder:
        (line,) = folder.faults.values()
        assert line.startswith(str(file))
        assert "\n" not in line
        assert capsys.readouterr().err == f"{line}\n"
        assert len(folder.labels) == len(folder.store()) == len(photos) - 1
        with pytest.raises(LabelError, match="not a readable label"):
            folder.save(photos[2], label_of(truths[2]))
        assert file.read_text() == damage
        file.unlink()
    with LabelFolder(labelled, SIZE) as folder:
        folder.save(photos[2], label_of(truths[2]))
        assert len(folder.store()) == len(photos)


def test_a_photo_that_is_gone_leaves_its_sample_and_is_asked_for(labelled, photos, truths, tmp_path):
    before = contents(labelled)
    moved = tmp_path / "moved.png"
    photos[1].rename(moved)
    (labelled / "front.npy").unlink()
    with LabelFolder(labelled, SIZE) as folder:
        assert_same(contents(labelled), before)
        with pytest.raises(LabelError, match=r"photo1\.png: the photo of the label photo1-\w+ is gone .* put it back"):
            folder.save(photos[1], label_of(truths[1]))
        assert folder.get(moved).sides == [LEFT]
        name = folder.save(moved, label_of(truths[1]))
        assert folder.photo(name).samefile(moved)
        assert len(folder.labels) == len(photos)
        moved.unlink()
        folder.remove(moved)
        assert len(folder.store()) == len(photos) - 1


def test_a_label_whose_photo_and_sample_are_gone_is_named_and_kept(labelled, photos, tmp_path):
    with LabelFolder(labelled, SIZE) as folder:
        name = folder.ids[1]
    photos[1].unlink()
    (labelled / f"samples/{name}.npz").unlink()
    (labelled / "front.npy").unlink()
    with LabelFolder(labelled, SIZE) as folder:
        (line,) = folder.faults.values()
        assert line.startswith(f"{labelled}/labels/{name}.json: its photo ../photos/photo1.png is gone")
        assert name in folder.labels
        assert folder.ids == folder.store().index["id"].tolist()
        assert len(folder.ids) == len(photos) - 1
    read_labels(labelled, tmp_path / "data", SIZE)
    (skipped,) = json.loads((tmp_path / "data/report.json").read_text())["skipped"].values()
    assert skipped["names"] == [name]


def test_a_photo_whose_pixels_changed_is_another_photo(labelled, photos):
    Image.fromarray(np.zeros((PX, PX, 3), np.uint8)).save(photos[1])
    with LabelFolder(labelled, SIZE) as folder:
        assert folder.get(photos[1]) is None
        assert len(folder.store()) == len(photos)


def test_a_photo_without_hands_is_a_label_but_no_sample(photos, truths, tmp_path):
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        folder.save(photos[0], PhotoLabel("", (None, None)))
        folder.save(photos[1], label_of(truths[1]))
        assert (len(folder.labels), folder.without_hands, len(folder.store())) == (2, 1, 1)
        folder.save(photos[1], PhotoLabel("", (None, None)))
        assert (len(folder.labels), folder.without_hands, len(folder.store())) == (2, 2, 0)
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        assert (folder.without_hands, len(folder.store())) == (2, 0)


def test_joints_may_lie_outside_the_photo(truths, tmp_path):
    half = truths[1]["joints"][LEFT].mean(0)[0]
    left = int(half)
    Image.fromarray(truths[1]["image"][:, left:]).save(tmp_path / "half.png")
    joints = truths[1]["joints"][LEFT] - (left, 0)
    assert (joints < 0).any()
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        folder.save(tmp_path / "half.png", PhotoLabel("", (HandLabel(joints), None)))
        store = folder.store()
        columns = np.flatnonzero(store.images[0].any((0, 2)))
        assert columns[0] > 4
        assert not store.masks[0, LEFT][:, : columns[0]].any()
        assert store.masks[0, LEFT].any()


@pytest.mark.parametrize(
    ("joints", "reason"),
    [
        (np.full((21, 2), 30.0), "within"),
        (np.where(np.arange(21)[:, None] < 3, 30.0, np.nan) * np.ones((21, 2)), "3 of the left hand"),
        (np.random.default_rng(0).random((21, 2)) * 30 + 5000, "."),
    ],
)
def test_joints_that_give_no_hand_are_refused_and_nothing_is_written(photos, joints, reason, tmp_path):
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        with pytest.raises((HandError, ImageError), match=reason):
            folder.save(photos[1], PhotoLabel("", (HandLabel(joints), None)))
        assert not folder.labels
        assert not list((tmp_path / "out/labels").glob("*"))


def test_a_photo_that_cannot_be_read_is_refused_and_nothing_is_written(truths, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with LabelFolder(tmp_path / "out", SIZE) as folder:
        for name in ("text.jpg", "nowhere.jpg", "out"):
            with pytest.raises(ImageError, match=name):
                folder.save(tmp_path / name, label_of(truths[1]))
        assert not folder.labels


# Whose folder it is


def test_what_is_no_folder_of_labels_is_refused(tmp_path, dataset):
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("mine")
    shutil.copytree(dataset["val"].path, tmp_path / "val")
    for name in ("file", "foreign", "val"):
        with pytest.raises(OutputError, match=f"{name}: "):
            LabelFolder(tmp_path / name, SIZE)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_to_is_refused(labelled, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(OutputError, match=r"labelled: .*cannot be written to"):
        LabelFolder(labelled, SIZE)


def test_labels_of_another_size_are_refused(labelled):
    with pytest.raises(LabelError, match=rf"has samples of {SIZE} px, not of 32; open it with size={SIZE}"):
        LabelFolder(labelled, 32)
    with pytest.raises(LabelError, match="expected at least 16"):
        LabelFolder(labelled.with_name("new"), 8)


def test_a_second_writer_is_refused_by_name_until_the_first_closes(labelled, photos, truths):
    with LabelFolder(labelled, SIZE) as first:
        with pytest.raises(BusyError, match=rf"labelled: .*process {os.getpid()}.*close\(\)"):
            LabelFolder(labelled, SIZE)
        first.save(photos[0], label_of(truths[0]))
    with LabelFolder(labelled, SIZE):
        pass
    with pytest.raises(LabelError, match="closed"):
        first.save(photos[0], label_of(truths[0]))


def test_a_writer_that_was_killed_blocks_nobody(labelled):
    code = (
        "import sys, time; from ethand_utils.sources.photo_labels import LabelFolder; "
        f"f = LabelFolder(sys.argv[1], {SIZE}); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, labelled], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(BusyError, match=f"process {other.pid}"):
            LabelFolder(labelled, SIZE)
        other.send_signal(signal.SIGKILL)
    LabelFolder(labelled, SIZE).close()


# The data set


def test_too_few_photos_are_refused_with_what_is_skipped(photos, tmp_path):
    with LabelFolder(tmp_path / "labelled", SIZE) as folder:
        folder.save(photos[0], PhotoLabel(photos[0].name, (None, None)))
    with pytest.raises(LabelError, match=r"0 labelled .* test; 1 skipped: labelled as having no hand; label more"):
        read_labels(tmp_path / "labelled", tmp_path / "data", SIZE)


def test_five_photos_fill_the_splits_and_later_ones_move_none(photos, truths, tmp_path):
    out, splits = tmp_path / "labelled", {}
    for count, (photo, truth) in enumerate(zip(photos, truths, strict=True), 1):
        with LabelFolder(out, SIZE) as folder:
            folder.save(photo, label_of(truth))
        if count < 5:
            with pytest.raises(LabelError, match=f"{count} labelled photos with hands, expected at least 5"):
                read_labels(out, tmp_path / f"data{count}", SIZE)
            continue
        stores = read_labels(out, tmp_path / f"data{count}", SIZE)
        assert list(stores) == ["train", "val", "test"]
        now = {name: split for split, store in stores.items() for name in store.index["id"]}
        assert len(now) == count
        assert now.items() >= splits.items()
        splits = now


def test_a_split_that_lost_its_photos_takes_one(labelled, photos, tmp_path):
    with LabelFolder(labelled, SIZE) as folder:
        index = folder.store().index
        for name in index["id"][index["split"] == "val"]:
            folder.remove(folder.photo(name))
    stores = read_labels(labelled, tmp_path / "data", SIZE)
    assert len(stores["val"]) == 1
    assert not set(stores["val"].index["id"]) & set(stores["train"].index["id"])
    assert set(stores["val"].index["split"]) == {"val"}


def test_a_data_set_has_the_samples_of_the_folder(labelled, tmp_path):
    masks_by_id = dict(zip(*(contents(labelled)[i] for i in (0, 2)), strict=True))
    for store in read_labels(labelled, tmp_path / "data", SIZE, workers=2).values():
        for name, masks in zip(store.index["id"], store.masks, strict=True):
            np.testing.assert_array_equal(masks, masks_by_id[name])


def test_another_size_is_made_of_the_photos_or_of_the_kept_crops_where_these_are_gone(labelled, photos, tmp_path):
    there = read_labels(labelled, tmp_path / "there", 2 * SIZE)
    for photo in photos:
        photo.unlink()
    gone = read_labels(labelled, tmp_path / "gone", 2 * SIZE)
    for name, store in there.items():
        assert gone[name].size == 2 * SIZE
        np.testing.assert_array_equal(gone[name].masks, store.masks)
        difference = np.abs(gone[name].images.astype(int) - store.images)
        assert 0 < difference.mean() < 12


def test_what_gives_no_sample_is_reported(labelled, photos, truths, tmp_path):
    with LabelFolder(labelled, SIZE) as folder:
        folder.save(photos[0], PhotoLabel("", (None, None)))
        name = folder.ids[0]
    (labelled / f"labels/{name}.json").write_text("{")
    stores = read_labels(labelled, tmp_path / "data", SIZE)
    report = json.loads((tmp_path / "data/report.json").read_text())
    assert report["listed"] == {"labels": len(photos)}
    assert {why: entry["count"] for why, entry in report["skipped"].items()} == {
        "damaged label file": 1,
        "labelled as having no hand": 1,
    }
    assert sum(report["kept"].values()) == sum(map(len, stores.values())) == len(photos) - 2


def test_photos_beyond_those_to_train_on_go_without_masks(labelled, tmp_path):
    stores = read_labels(labelled, tmp_path / "data", SIZE, train=2)
    assert {name: len(store) for name, store in stores.items()} == {
        "train": 2,
        "val": 2,
        "test": 1,
        "unpaired_images": 2,
    }
    assert stores["unpaired_images"].masks is None
    assert not set(stores["unpaired_images"].index["id"]) & set(stores["train"].index["id"])


def test_a_data_set_of_older_labels_is_refused_or_replaced(labelled, photos, truths, tmp_path):
    out, source = tmp_path / "data", LabelFolder(labelled, SIZE)
    read_labels(labelled, out, SIZE)  # while the labeller has it open
    joints = truths[2]["joints"][RIGHT] + (5, 0)
    for photo in photos:
        source.save(photo, PhotoLabel("", (None, HandLabel(joints))))
    source.close()
    with pytest.raises(StoreError, match="made with other settings"):
        read_labels(labelled, out, SIZE)
    stores = read_labels(labelled, out, SIZE, replace=True)
    assert set(stores["train"].index["hand_type"]) == {"right"}


def test_a_run_reads_labels(labelled, tmp_path, monkeypatch):
    for name in ("notebooks/01_data.ipynb", "Snakefile"):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).touch()
    monkeypatch.chdir(tmp_path / "checkout")
    assert detect_source(labelled) == "labels"
    run = open_run("mine", "ci", str(labelled))
    assert run.source == "labels"
    stores = run.dataset("train", "val", "test")
    assert {store.size for store in stores.values()} == {run.profile.size}
    assert run.report["source"] == "labels"
    assert detect_source(run.data_folder) == "stores"
    with pytest.raises(OutputError):
        LabelFolder(run.data_folder / "train", run.profile.size)


def test_the_commands_read_describe_and_export_labels(labelled, tmp_path, ethand):
    out = tmp_path / "data"
    status, printed, _ = ethand("data", "labels", labelled, "--out", out, "--size", SIZE, "--workers", 1)
    assert status == 0
    assert "kept" in printed
    status, printed, _ = ethand("data", "info", labelled, "--json")
    assert (status, json.loads(printed)["labelled"]["samples"]) == (0, 7)
    for source in (labelled, out):
        assert ethand("data", "export-course", source, "--out", tmp_path / f"course-{source.name}")[0] == 0
    status, _, error = ethand("data", "labels", tmp_path / "photos", "--out", tmp_path / "none")
    assert status != 0
    assert "no folder of labels" in error


def test_the_request_of_a_run_is_met(labelled, tmp_path):
    from ethand_utils.sources.labels_dataset import read

    stores = read(labelled, tmp_path / "data", ReadRequest(train=1, val=1, test=1, unpaired=1, size=32))
    assert {name: (len(store), store.size) for name, store in stores.items()} == dict.fromkeys(
        ("train", "val", "test", "unpaired_images"), (1, 32)
    )


def test_the_browser_shows_predictions_of_labels(labelled, tmp_path):
    store = open_dataset(labelled)["labelled"]
    evaluate_store(Echo(store.masks), store, tmp_path / "predictions")
    browser = ErrorBrowser(tmp_path / "predictions")
    assert len(browser.filtered) == len(store)
    assert browser.filtered["course_miou"].min() == 1
    browser.save_page(tmp_path / "page.html")
