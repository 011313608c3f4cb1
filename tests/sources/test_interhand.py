"""InterHand2.6M frames: where their joints lie, and how a net is scored on them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ethand_utils.analysis.evaluate import JITTER, score_frames
from ethand_utils.data.images import ImageError
from ethand_utils.files import FileError
from ethand_utils.labels import LEFT, N_CHANNELS, N_CLASSES, N_JOINTS, PALM, RIGHT
from ethand_utils.sources.interhand_frames import read_frames
from ethand_utils.sources.interhand_index import InterHandError
from ethand_utils.training.models import create_model, save_weights

WIDTH, HEIGHT = 60, 40
SIZE = 32
BOX = [10, 5, 32, 24]
# A camera 100 mm before the origin that looks along the world's z, and one that looks along its x with y down.
AHEAD = {"campos": [0, 0, -100], "camrot": np.eye(3).tolist()}
ASIDE = {"campos": [-200, 0, 0], "camrot": [[0, 0, -1], [0, 1, 0], [1, 0, 0]]}
FOCAL, CENTRE = [50, 40], [30, 20]
RIGHT_AT, LEFT_AT = [10.0, 5.0, 0.0], [-20.0, 10.0, 100.0]  # mm; every joint of a hand lies in one place


def annotate(frames):
    """The three annotation files, of frames given as (camera, hand_type, is the right hand known, is the left)."""
    images, annotations, poses = [], [], {}
    for number, (camera, hand_type, right, left) in enumerate(frames):
        name = f"Capture0/seq/cam{camera}/image{number}.jpg"
        record = dict(capture=0, subject=5, seq_name="seq", camera=camera, frame_idx=number, file_name=name)
        images.append(record | dict(id=7 + number, width=WIDTH, height=HEIGHT))
        known = [[int(right)]] * N_JOINTS + [[int(left)]] * N_JOINTS
        annotations.append(dict(id=number, image_id=7 + number, bbox=BOX, joint_valid=known, hand_type=hand_type))
        poses[str(number)] = dict(world_coord=[RIGHT_AT] * N_JOINTS + [LEFT_AT] * N_JOINTS, joint_valid=known)
    views = {"400": AHEAD, "401": ASIDE}
    camera = {key: {name: view[key] for name, view in views.items()} for key in ("campos", "camrot")}
    camera |= {"focal": dict.fromkeys(views, FOCAL), "princpt": dict.fromkeys(views, CENTRE)}
    data = {"images": images, "annotations": annotations}
    return {"data": data, "camera": {"0": camera}, "joint_3d": {"0": poses}}


def write(folder, tables, split="test"):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, table in tables.items():
        (folder / f"InterHand2.6M_{split}_{kind}.json").write_text(json.dumps(table))


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


TWO = [("400", "interacting", True, True), ("401", "left", False, True)]


@pytest.fixture
def flat(tmp_path):
    """A folder with the annotation of two frames and their images side by side."""
    write(tmp_path, annotate(TWO))
    for number in range(2):
        draw(tmp_path / f"image{number}.jpg", number)
    return tmp_path


def test_joints_are_projected_left_hand_first(flat):
    frame = read_frames(flat)[0]
    assert frame.joints.shape == (2, N_JOINTS, 2)
    # Right: 100 mm from the camera; left: 200 mm.
    np.testing.assert_allclose(frame.joints[RIGHT], [[50 * 10 / 100 + 30, 40 * 5 / 100 + 20]] * N_JOINTS)
    np.testing.assert_allclose(frame.joints[LEFT], [[50 * -20 / 200 + 30, 40 * 10 / 200 + 20]] * N_JOINTS)
    assert frame.valid.all()
    assert (frame.name, frame.hand_type, frame.bbox) == ("Capture0/seq/cam400/image0.jpg", "interacting", tuple(BOX))


def test_a_turned_camera_sees_the_other_side_and_unknown_joints_are_marked(flat):
    frame = read_frames(flat)[1]
    # The left hand lies 200 − 20 mm along this camera's view, 100 mm to its left.
    np.testing.assert_allclose(frame.joints[LEFT, 0], [50 * -100 / 180 + 30, 40 * 10 / 180 + 20])
    assert frame.valid[LEFT].all()
    assert not frame.valid[RIGHT].any()
    assert not frame.joints[RIGHT].any()


def test_joints_in_space_come_with_the_camera_that_saw_them(flat):
    one, aside = read_frames(flat)
    np.testing.assert_allclose(one.world[RIGHT], np.array([RIGHT_AT] * N_JOINTS) / 1000)
    assert not aside.world[RIGHT].any()
    for frame in (one, aside):
        seen = (frame.world - frame.translation) @ frame.rotation.T
        np.testing.assert_allclose(frame.camera.project(seen)[frame.valid], frame.joints[frame.valid])
        assert frame.size == (WIDTH, HEIGHT)
        assert (frame.capture, frame.subject, frame.seq, frame.mano) == ("0", "5", "seq", (None, None))
    assert [(frame.camera_name, frame.moment) for frame in (one, aside)] == [("400", 0), ("401", 1)]


def test_mano_parameters_come_along_where_they_are(flat):
    hand = {"pose": list(range(48)), "shape": [1.0] * 10, "trans": [0.1, 0.2, 0.3]}
    file = flat / "InterHand2.6M_test_MANO_NeuralAnnot.json"
    file.write_text(json.dumps({"0": {"0": {"right": hand, "left": None}}}))
    one, other = read_frames(flat)
    assert one.mano[LEFT] is None
    assert {name: values.tolist() for name, values in one.mano[RIGHT].items()} == hand
    assert other.mano == (None, None)


def test_joints_of_a_hand_keep_their_order(flat):
    tables = annotate(TWO[:1])
    tables["joint_3d"]["0"]["0"]["world_coord"] = [[i, 0, 0] for i in range(2 * N_JOINTS)]
    write(flat, tables)
    across = read_frames(flat)[0].joints[..., 0]
    np.testing.assert_allclose(across[RIGHT], 30 + np.arange(N_JOINTS) / 2)
    np.testing.assert_allclose(across[LEFT], 30 + np.arange(N_JOINTS, 2 * N_JOINTS) / 2)


@pytest.mark.parametrize("kind", ["data", "joint_3d"])
def test_a_joint_counts_when_both_files_know_it_and_it_lies_before_the_camera(flat, kind):
    tables = annotate(TWO[:1])
    entry = tables["data"]["annotations"][0] if kind == "data" else tables["joint_3d"]["0"]["0"]
    entry["joint_valid"] = [i != 3 for i in range(2 * N_JOINTS)]  # a flat list, as some releases have it
    tables["joint_3d"]["0"]["0"]["world_coord"][5] = [0, 0, -100]
    write(flat, tables)
    valid = read_frames(flat)[0].valid
    assert np.argwhere(~valid).tolist() == [[RIGHT, 3], [RIGHT, 5]]


def test_the_official_tree_is_read_split_by_split(tmp_path):
    for split in ("val", "test"):
        write(tmp_path / "annotations" / split, annotate(TWO), split)
        for number, camera in enumerate(("400", "401")):
            draw(tmp_path / f"images/{split}/Capture0/seq/cam{camera}/image{number}.jpg")
    frames = read_frames(tmp_path)
    places = [frame.image.relative_to(tmp_path / "images").as_posix() for frame in frames]
    names = ["Capture0/seq/cam400/image0.jpg", "Capture0/seq/cam401/image1.jpg"]
    assert places == [f"{split}/{name}" for split in ("test", "val") for name in names]


def lose(name):
    return lambda folder: (folder / name).unlink()


def change(kind, *path):
    """Function that takes an entry out of an annotation file."""

    def edit(folder):
        file = folder / f"InterHand2.6M_test_{kind}.json"
        table = entry = json.loads(file.read_text())
        for key in path[:-1]:
            entry = entry[key]
        del entry[path[-1]]
        file.write_text(json.dumps(table))

    return edit


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lose("InterHand2.6M_test_data.json"), r"no annotation here or below; expected \*data\.json"),
        (lose("InterHand2.6M_test_camera.json"), r"test_camera\.json: not there; expected beside"),
        (lose("image1.jpg"), r"cam401/image1\.jpg is missing"),
        (lambda folder: (folder / "InterHand2.6M_test_data.json").write_text('{"im'), r"not readable JSON"),
        (change("camera", "0", "focal", "401"), r"camera\.json: camera 401 of capture 0 is not in it; take"),
        (change("joint_3d", "0", "1"), r"joint_3d\.json: frame 1 of capture 0 is not in it; take"),
        (
            change("data", "annotations", 0, "bbox"),
            r"InterHand2\.6M's layout \(annotations without bbox: image_id 7\)",
        ),
        (change("data", "images", 0), r"not InterHand2\.6M's layout \(annotations without their image: image 7\)"),
        (lambda folder: write(folder, annotate([])), r"annotates no frame"),
    ],
)
def test_what_is_missing_is_named_in_one_line(flat, harm, says):
    harm(flat)
    with pytest.raises(InterHandError, match=says) as caught:
        read_frames(flat)
    assert str(flat) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert isinstance(caught.value, FileError)


class LeftSideIsLeftHand(nn.Module):
    """A net that calls the left half of every image the left hand's palm and the right half the right hand's."""

    def __init__(self):
        super().__init__()
        self.height = nn.Parameter(torch.ones(()))

    def forward(self, images):
        logits = torch.zeros(len(images), N_CHANNELS, *images.shape[2:])
        middle = images.shape[3] // 2
        logits[:, PALM, :, :middle] = self.height
        logits[:, N_CLASSES + PALM, :, middle:] = self.height
        return logits


def test_a_net_is_scored_at_the_joints_of_its_own_hands(flat):
    frames = read_frames(flat)[:1]
    scores, table = score_frames(LeftSideIsLeftHand(), frames, SIZE)
    # The box's middle is at x = 26: the right hand (35) lies right of it, the left one (25) left of it by 1 px, less
    # than the shift of 3 % of 40 px. Mirrored and exchanged back, the halves are where they were.
    assert scores["joint_on_hand"] == pytest.approx((7 + 6) / 14)
    # Of 21 joints, a palm is right at the five fingers' bases and the wrist.
    assert scores["joint_accuracy"] == pytest.approx(13 / 14 * 6 / 21)
    assert table[["frame", "hand_type", "joints"]].values.tolist() == [[frames[0].name, "interacting", 42]]
    assert table["joint_on_hand"].tolist() == [scores["joint_on_hand"]]


def test_a_mirrored_crop_exchanges_the_hands_back(flat):
    frame = read_frames(flat)[0]
    exchanged = type(frame)(**{**vars(frame), "joints": frame.joints[::-1]})
    for seen, expected in ((frame, 1), (exchanged, 0)):
        scores, _ = score_frames(LeftSideIsLeftHand(), [seen], SIZE, jitter=JITTER[:1])
        assert scores["joint_on_hand"] == expected


def test_frames_are_pooled_over_their_joints_and_scored_the_same_again(flat):
    frames = read_frames(flat)
    model = create_model("baseline", widths=(4, 8), seed=0)
    scores, table = score_frames(model, frames, SIZE)
    assert table["joints"].tolist() == [42, 21]
    for name, score in scores.items():
        assert score == pytest.approx(np.average(table[name], weights=table["joints"]))
    again, rows = score_frames(model, frames, SIZE)
    assert again == scores
    assert rows.equals(table)


def test_a_frame_that_cannot_be_cropped_is_named(flat):
    frame = read_frames(flat)[0]
    outside = type(frame)(**{**vars(frame), "bbox": (500.0, 0.0, 10.0, 10.0)})
    with pytest.raises(ImageError, match=r"image0\.jpg: box: the crop .* check the frame's bbox"):
        score_frames(LeftSideIsLeftHand(), [outside], SIZE)


def test_evaluate_prints_the_scores_of_frames(flat, ethand):
    weights = flat / "weights.safetensors"
    save_weights(create_model("baseline", widths=(4, 8), seed=0), weights, size=SIZE)
    scores, table = score_frames(create_model("baseline", widths=(4, 8), seed=0), read_frames(flat), SIZE)
    status, said, _ = ethand("evaluate", "--frames", flat, "--weights", weights, "--json")
    assert status == 0
    assert json.loads(said) == scores | {"frames": table.to_dict("records")}
    _, said, _ = ethand("evaluate", "--frames", flat, "--weights", weights)
    assert f"joint_accuracy {scores['joint_accuracy']:.4f}" in " ".join(said.split())
    assert all(frame.name in said for frame in read_frames(flat))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "either --data .* or --frames"),
        (("--data", "a", "--frames", "b"), "either --data .* or --frames"),
        (("--frames", "b", "--out", "c"), "with --data only"),
        (("--frames", "nowhere"), "nowhere: no annotation here or below"),
    ],
)
def test_evaluate_refuses_what_does_not_fit_in_one_line(ethand, words, says):
    status, _, complaint = ethand("evaluate", "--weights", "w", *words)
    assert status == 1
    assert len(complaint.splitlines()) == 1
    assert re.search(says, complaint)
