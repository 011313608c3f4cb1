"""Annotations of InterHand2.6M and joints of others: damaged, in several sets, without what they need, or sound."""

import json
import shutil

import numpy as np
import pytest
from damage import damaged, deadline, require_line
from PIL import Image

from ethand_utils.exceptions import EthandError
from ethand_utils.hands.mano import ManoHands
from ethand_utils.sources.interhand import read_interhand
from ethand_utils.sources.interhand_frames import read_frames
from ethand_utils.sources.interhand_index import ANNOTATION_SETS, InterHandError, find_annotations
from ethand_utils.sources.joint_annotations import from_joints

TRIES = 60  # of each file
KINDS = ("data", "camera", "joint_3d")


def tables(count=2):
    """The annotation files of `count` frames of a camera 100 mm before the origin."""
    records = [dict(capture=0, subject=5, seq_name="seq", camera="400", width=60, height=40) for _ in range(count)]
    images = [r | dict(id=i, frame_idx=i, file_name=f"cam400/image{i}.jpg") for i, r in enumerate(records)]
    valid, points = [[1]] * 42, [[10.0, 5.0, 0.0]] * 42
    box = dict(bbox=[10, 5, 32, 24], joint_valid=valid, hand_type="interacting")
    camera = {"campos": [0, 0, -100], "camrot": np.eye(3).tolist(), "focal": [50, 40], "princpt": [30, 20]}
    return {
        "data": {"images": images, "annotations": [box | dict(id=i, image_id=i) for i in range(count)]},
        "camera": {"0": {name: {"400": value} for name, value in camera.items()}},
        "joint_3d": {"0": {str(i): dict(world_coord=points, joint_valid=valid) for i in range(count)}},
    }


def write(folder, split="test"):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, table in tables().items():
        (folder / f"InterHand2.6M_{split}_{kind}.json").write_text(json.dumps(table))


@pytest.fixture
def flat(tmp_path):
    root = tmp_path / "flat"
    write(root)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(256, size=(40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"image{number}.jpg")
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_annotations_are_read_or_refused_in_one_line(kind, flat):
    file = flat / f"InterHand2.6M_test_{kind}.json"
    for name, content in damaged(file.read_bytes(), TRIES, seed=len(kind)):
        file.write_bytes(content)
        with deadline(f"{kind} {name}"):
            try:
                read_frames(flat)
            except EthandError as error:
                require_line(error, flat, name)


def spoil(kind, path):
    with Image.open(path) as image:
        pixels = np.asarray(image)
    pixels = {"black": pixels * 0, "turned": pixels.swapaxes(0, 1), "half": pixels[::2, ::2], "cut off": pixels}[kind]
    Image.fromarray(pixels).save(path)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("kind", ["black", "turned", "half", "cut off"])
def test_frames_whose_images_a_data_set_skips_are_scored_by_nothing(kind, flat, capsys):
    spoil(kind, flat / "image0.jpg")
    assert [frame.image.name for frame in read_frames(flat)] == ["image1.jpg"]
    assert "left out of 2 frames: 1 × image: " in capsys.readouterr().err
    spoil(kind, flat / "image1.jpg")
    with pytest.raises(InterHandError, match=r"no sound frame \(2 × image: .*image0\.jpg\)"):
        read_frames(flat)


def test_the_sets_of_annotations_are_found_as_they_unpack(tmp_path):
    def sets(name=None):
        return [path.data.parent.name for path in find_annotations(tmp_path, name)]

    write(tmp_path / "annotations/machine_annot")
    assert sets() == ["machine_annot"]  # the only one
    for name in ANNOTATION_SETS:
        write(tmp_path / "annotations" / name)
        write(tmp_path / "annotations" / name, "val")
    assert sets() == ["all", "all"]
    for name in ANNOTATION_SETS:
        assert sets(name) == [name, name]
    with pytest.raises(InterHandError, match="did you mean human_annot"):
        sets("human_anot")
    shutil.rmtree(tmp_path / "annotations/all")
    with pytest.raises(InterHandError, match=r"no annotations of the set all, only human_annot, machine_annot"):
        sets()
    write(tmp_path / "other")
    with pytest.raises(InterHandError, match="two annotations of test"):
        sets("human_annot")


def test_a_missing_file_of_manos_parameters_is_named(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(ManoHands, "__post_init__", lambda self: None)
    with pytest.raises(InterHandError, match=r"InterHand2\.6M_test_MANO_NeuralAnnot\.json: not there; hands from MANO"):
        read_interhand(flat, tmp_path / "out", hands=ManoHands(tmp_path))


@pytest.mark.parametrize(
    "joints",
    [
        [[[0, 0, 1]] * 21, [[0, 0, 1]] * 20],
        [[[0, 0, 1]] * 20 + [[0, 0]], [[0, 0, 1]] * 21],
        [["a"] * 21] * 2,
        None,
        "joints",
        {},
        [[[[]]]],
        np.zeros((2, 21, 3), complex),
        np.full((2, 21, 3), None),
        [[[10**400, 0, 1]] * 21] * 2,
    ],
)
def test_joints_that_are_no_array_are_refused_in_one_line(joints):
    with pytest.raises(EthandError, match="joints") as caught:
        from_joints(np.zeros((40, 60, 3), np.uint8), joints, (50, 50), (30, 20))
    require_line(caught.value, "joints", "joints")
