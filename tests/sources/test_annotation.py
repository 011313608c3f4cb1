"""The index of InterHand2.6M's annotation: complete, streamed, renewed when a file changes; faults are counted."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from madetree import annotate, write_annotation

from ethand_utils.labels import N_JOINTS
from ethand_utils.sources.interhand_frames import Frames
from ethand_utils.sources.interhand_index import Annotation, InterHandError, find_annotations, index_annotation


@pytest.fixture
def tables():
    """Annotation of two captures, each of three moments that two cameras see."""
    return annotate({0: ("a", 3), 1: ("b", 3)})


def indexed(folder, tables, split="train"):
    """The frames of an annotation that is written and indexed in `folder`."""
    write_annotation(folder, tables, split)
    return opened(folder, split)


def opened(folder, split="train"):
    annotation = Annotation(folder / f"InterHand2.6M_{split}_data.json")
    return Frames(annotation, index_annotation(annotation, folder / "index"), folder)


def rows(frames, sql):
    return [tuple(row) for row in frames.query(sql)]


def test_the_index_holds_what_the_files_say(tmp_path, tables):
    frames = indexed(tmp_path, tables)
    names = [image["file_name"] for image in tables["data"]["images"]]
    assert [frames.name(number) for number in frames.numbers()] == names
    boxes = [tuple(entry["bbox"]) for entry in tables["data"]["annotations"]]
    assert rows(frames, "select x, y, w, h from annotations order by number") == boxes
    (world,) = rows(frames, "select world from joints where capture = '1' and moment = 3")[0]
    known = np.array(tables["joint_3d"]["1"]["3"]["world_coord"]).reshape(2, N_JOINTS, 3)
    np.testing.assert_array_equal(np.frombuffer(world).reshape(2, N_JOINTS, 3), known[::-1])
    assert rows(frames, "select count(*) from cameras") == [(4,)]
    assert frames.faults() == {}


def test_annotations_may_come_before_images_and_ids_in_any_order(tmp_path, tables):
    frames = indexed(tmp_path / "a", tables)
    names = {number: frames.name(number) for number in frames.numbers()}
    data = tables["data"]
    tables["data"] = {"info": {"images": [1]}, "annotations": data["annotations"], "images": data["images"][::-1]}
    frames = indexed(tmp_path / "b", tables)
    assert {number: frames.name(number) for number in frames.numbers()} == names


def test_an_index_is_kept_until_a_file_changes(tmp_path, tables):
    first = indexed(tmp_path, tables)
    written, digest = first.index.stat().st_mtime_ns, first.digest()
    assert opened(tmp_path).index.stat().st_mtime_ns == written
    tables["joint_3d"]["0"]["0"]["world_coord"][0] = [1, 2, 3]
    second = indexed(tmp_path, tables)
    assert second.index != first.index
    assert second.digest() != digest
    assert list((tmp_path / "index").iterdir()) == [second.index]  # the older one is gone
    camera = tmp_path / "InterHand2.6M_train_camera.json"
    os.utime(camera, ns=(0, 0))
    assert opened(tmp_path).digest() == second.digest()  # of what the files say, not of their times


def test_memory_does_not_grow_with_the_annotation(tmp_path):
    peaks = []
    for moments in (20, 200):
        tables = annotate({0: ("a", moments)}, cameras=4)
        write_annotation(tmp_path / str(moments), tables, "train")
        del tables
        tracemalloc.start()
        opened(tmp_path / str(moments))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 500_000


@pytest.mark.parametrize("kind", ["data", "camera", "joint_3d"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, tables, kind, left):
    write_annotation(tmp_path, tables, "train")
    file = tmp_path / f"InterHand2.6M_train_{kind}.json"
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with pytest.raises(InterHandError, match=rf"train_{kind}\.json: not readable JSON .*fetch it again"):
        opened(tmp_path)
    assert not list((tmp_path / "index").iterdir())


@pytest.mark.parametrize("text", ["[]", "{}", "5", '{"images": 3, "annotations": {}}', '{"images": [4], "a": []}'])
@pytest.mark.parametrize("kind", ["data", "camera", "joint_3d"])
def test_another_layout_is_refused(tmp_path, tables, kind, text):
    write_annotation(tmp_path, tables, "train")
    (tmp_path / f"InterHand2.6M_train_{kind}.json").write_text(text)
    with pytest.raises(InterHandError, match=rf"train_{kind}\.json: (annotates no frame|not InterHand2\.6M's layout)"):
        opened(tmp_path)


def spoil(tables):
    """Annotation in which single entries lack something or hold nonsense."""
    data = tables["data"]
    del data["images"][0]["camera"]
    data["images"][1]["frame_idx"] = "first"
    data["annotations"][2]["joint_valid"] = [1, 2]
    data["annotations"][3]["hand_type"] = "three"
    data["annotations"][4]["bbox"] = None
    data["images"][5]["id"] = data["images"][6]["id"]
    data["images"].append("nonsense")
    del tables["camera"]["0"]["focal"]["400000"]
    tables["joint_3d"]["1"]["0"]["world_coord"][3] = [1, 2]
    tables["joint_3d"]["1"]["x"] = {}


def test_single_entries_at_fault_are_counted_and_passed_over(tmp_path, tables):
    spoil(tables)
    frames = indexed(tmp_path, tables)
    counts = {reason: entry["count"] for reason, entry in frames.faults().items()}
    assert counts == {
        "images without camera": 1,
        "images with an unexpected value": 2,
        "annotations with an unexpected value": 3,
        "annotations without their image": 3,
        "cameras without focal": 1,
        "joints with an unexpected value": 1,
        "joints without joint_valid": 1,
        "images given twice": 1,
    }
    assert len(frames.numbers()) == 12 - 6
    assert frames.faults()["annotations with an unexpected value"]["names"][0] == "image_id 1002"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("focal", [0, 160]),
        ("focal", [-160, -160]),
        ("camrot", np.zeros((3, 3)).tolist()),
        ("camrot", (2 * np.eye(3)).tolist()),
        ("camrot", np.diag([1, 1, -1]).tolist()),
    ],
)
def test_what_is_no_camera_is_counted_and_passed_over(tmp_path, tables, name, value):
    tables["camera"]["0"][name]["400000"] = value
    frames = indexed(tmp_path, tables)
    assert frames.faults() == {"cameras with an unexpected value": {"count": 1, "names": ["0 400000"]}}
    assert rows(frames, "select count(*) from cameras") == [(3,)]


def test_a_file_in_which_everything_lacks_something_is_refused(tmp_path, tables):
    for entry in tables["data"]["annotations"]:
        del entry["bbox"]
    with pytest.raises(InterHandError, match=r"train_data\.json: not .* layout \(annotations without bbox"):
        indexed(tmp_path, tables)


def test_annotations_are_found_by_pattern_and_a_split_has_one(tmp_path, tables):
    for folder, split in (("annotations/val", "val"), ("annotations/train", "train"), ("images/test", "test")):
        write_annotation(tmp_path / folder, tables, split)
    assert [annotation.split for annotation in find_annotations(tmp_path)] == ["train", "val"]
    write_annotation(tmp_path / "other", tables, "train")
    with pytest.raises(InterHandError, match="two annotations of train; keep one"):
        find_annotations(tmp_path)


def test_linked_folders_are_searched_and_rings_of_them_end(tmp_path, tables):
    write_annotation(tmp_path / "elsewhere" / "train", tables, "train")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "annotations").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
    assert [annotation.split for annotation in find_annotations(tmp_path / "root")] == ["train"]


def test_a_file_that_is_not_let_read_is_named_not_the_index(tmp_path, tables):
    write_annotation(tmp_path, tables, "train")
    (tmp_path / "InterHand2.6M_train_camera.json").unlink()
    (tmp_path / "InterHand2.6M_train_camera.json").mkdir()
    with pytest.raises(InterHandError, match=r"train_camera\.json: cannot be read \(Is a directory\)"):
        opened(tmp_path)


def test_a_folder_that_is_not_let_read_is_not_passed_over(tmp_path, tables, monkeypatch):
    write_annotation(tmp_path, tables, "train")
    (tmp_path / "val").mkdir()
    scan = os.scandir

    def closed(folder):
        if os.fspath(folder).endswith("val"):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InterHandError, match=r"val: cannot be read \(Permission denied\)"):
        find_annotations(tmp_path)


def test_other_names_give_other_splits(tmp_path):
    for name in ("data.json", "InterHand2.6M_sample_data.json", "x/my_data.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({}))
    assert {annotation.split for annotation in find_annotations(tmp_path)} == {tmp_path.name, "sample", "my"}
