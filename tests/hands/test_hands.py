"""Properties of the parts, the rigged hand, its poses and the file it comes from."""

import base64
import hashlib
import io
import tarfile
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ethand_utils import labels
from ethand_utils.exceptions import EthandError
from ethand_utils.hands import webxr
from ethand_utils.hands.rig import LIMITS, MIRROR, WRIST_LIMITS, Pose, Rig, Shape, pose_joints, skin_vertices
from ethand_utils.hands.rigs import load_rig
from ethand_utils.hands.webxr import mesh_file
from ethand_utils.labels import (
    FINGERS,
    FRONT_LEFT,
    FRONT_NONE,
    FRONT_RIGHT,
    HANDS,
    LEFT,
    N_CLASSES,
    PALM,
    PARTS,
    RIGHT,
)
from ethand_utils.rendering.poses import FREE, POSES, free_pose, named_pose, sample_pose
from ethand_utils.rendering.subjects import sample_subject

REST = Pose(np.zeros((5, 4)), np.zeros(2))
SEEDS = range(6)
ROUNDING = 1e-7  # m; the file's matrices are float32


def part_of_vertices() -> np.ndarray:
    return load_rig().part_weights.argmax(1)


def pose_hand(rig: Rig, pose: Pose, shape: Shape | None = None, side: str = "right"):
    """Return vertices [V, 3] m, faces [F, 3] and joints [J, 3] m of a posed hand."""
    posed = pose_joints(rig, pose.fingers[None], pose.wrist[None], shape or Shape())
    vertices, joints = skin_vertices(rig, posed), posed.joints[0]
    if side == "left":
        return vertices * MIRROR, rig.faces[:, ::-1], joints * MIRROR
    return vertices, rig.faces, joints


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def reach(pose: Pose) -> dict[str, float]:
    """Distance in m of every fingertip from the wrist."""
    rig = load_rig()
    joints = pose_hand(rig, pose)[2]
    tips = joints[rig.phalanges[:, 2] + 1] - joints[rig.joint("wrist")]
    return dict(zip(FINGERS, np.linalg.norm(tips, axis=1), strict=True))


def rest_hands(count: int) -> list[np.ndarray]:
    """Rest vertices of the hands of so many people."""
    return [pose_hand(load_rig(), REST, sample_subject(np.random.default_rng(seed)).shape)[0] for seed in range(count)]


# Labels


def test_part_ids_are_those_of_the_ground_truth():
    assert labels.N_CLASSES == len(PARTS) == 17
    assert (PARTS[0], PARTS[9], PALM) == ("background", "palm", 9)
    expected = {
        "thumb": (8, 10, 13),
        "index": (11, 2, 12),
        "middle": (4, 15, 5),
        "ring": (1, 16, 6),
        "pinky": (3, 14, 7),
    }
    assert expected == FINGERS
    assert list(FINGERS) == ["thumb", "index", "middle", "ring", "pinky"]


def test_finger_table_agrees_with_part_names():
    segments = {"thumb": ("metacarpal", "proximal", "distal")}
    for finger, parts in FINGERS.items():
        names = segments.get(finger, ("proximal", "middle", "distal"))
        assert [PARTS[part] for part in parts] == [f"{finger} {name}" for name in names]


def test_fingers_and_palm_are_all_the_foreground_once():
    assert sorted([PALM, *(part for parts in FINGERS.values() for part in parts)]) == list(range(1, N_CLASSES))


def test_left_hand_comes_first():
    assert (HANDS, LEFT, RIGHT, labels.N_CHANNELS) == (("left", "right"), 0, 1, 34)
    assert (FRONT_NONE, FRONT_LEFT, FRONT_RIGHT) == (0, LEFT + 1, RIGHT + 1)


def test_every_weight_set_has_a_weight_per_class_and_prefers_parts_to_background():
    assert set(labels.CLASS_WEIGHTS) == {"none", "released", "released_new"}
    for name, weights in labels.CLASS_WEIGHTS.items():
        assert len(weights) == N_CLASSES
        assert min(weights) > 0
        assert name == "none" or weights[0] < min(weights[1:])


@pytest.mark.parametrize(("name", "palm"), [("released", 0.35), ("released_new", 0.4)])
def test_released_weights_are_lightest_on_palm_and_thumb_metacarpal(name, palm):
    weights = labels.CLASS_WEIGHTS[name]
    assert weights[PALM] == weights[PARTS.index("thumb metacarpal")] == palm == min(weights[1:])


def test_colours_tell_all_parts_apart():
    assert labels.COLOURS.shape == (N_CLASSES, 3)
    assert not labels.COLOURS[0].any()
    assert len(np.unique(labels.COLOURS, axis=0)) == N_CLASSES


@pytest.mark.parametrize(("size", "pixels"), [(128, 20), (64, 5), (256, 80), (8, 1)])
def test_pixel_tolerance_scales_with_the_area(size, pixels):
    assert labels.min_pixels(size) == pixels


def test_slugs_are_distinct_column_names():
    slugs = [labels.slug(part) for part in PARTS]
    assert len(set(slugs)) == N_CLASSES
    assert all(slug.isidentifier() for slug in slugs)


# The rigged hand


def test_rest_pose_leaves_vertices_and_joints_in_place():
    rig = load_rig()
    vertices, faces, joints = pose_hand(rig, REST)
    np.testing.assert_allclose(vertices, rig.vertices, atol=ROUNDING)
    np.testing.assert_allclose(joints, rig.rest[:, :3, 3], atol=ROUNDING)
    np.testing.assert_array_equal(faces, rig.faces)


def test_every_part_has_skin_and_skinning_weights_sum_to_one():
    rig = load_rig()
    assert set(part_of_vertices()) == set(range(N_CLASSES))
    assert rig.weights.min() >= 0
    np.testing.assert_allclose(rig.weights.sum(1), 1, atol=1e-6)


def test_every_joint_but_the_forearm_hangs_on_another():
    rig = load_rig()
    assert [name for name, parent in zip(rig.names, rig.parents, strict=True) if parent < 0] == ["forearm"]
    assert rig.names[rig.parents[rig.joint("index-finger-tip")]] == "index-finger-phalanx-distal"
    assert rig.names[rig.parents[rig.joint("pinky-finger-metacarpal")]] == "wrist"


def test_levels_visit_every_joint_once_and_after_its_parent():
    rig, visited = load_rig(), {load_rig().joint("forearm")}
    for joints, parents in rig.levels:
        assert set(parents) <= visited
        assert [rig.parents[joint] for joint in joints] == list(parents)
        assert visited.isdisjoint(joints)
        visited |= set(joints)
    assert visited == set(range(len(rig.names)))


def test_right_hand_with_the_palm_down_has_its_thumb_on_the_left_and_fingers_in_order():
    tips = pose_hand(load_rig(), REST, side="right")[2][load_rig().phalanges[:, 2] + 1]
    assert (np.diff(tips[:, 0]) > 0).all()
    assert (tips[:, 2] < -0.05).all()


@pytest.mark.parametrize("finger", FINGERS)
def test_parts_of_a_finger_follow_each_other_outwards(finger):
    rig, part = load_rig(), part_of_vertices()
    away = [np.linalg.norm(rig.vertices[part == p].mean(0)) for p in FINGERS[finger]]
    assert (np.diff(away) > 0.01).all()


def test_left_hand_is_the_right_one_mirrored():
    pose = free_pose(np.random.default_rng(3))
    right, faces, joints = pose_hand(load_rig(), pose, side="right")
    left, left_faces, left_joints = pose_hand(load_rig(), pose, side="left")
    np.testing.assert_array_equal(left, right * [-1, 1, 1])
    np.testing.assert_array_equal(left_joints, joints * [-1, 1, 1])
    np.testing.assert_array_equal(np.sort(left_faces, axis=1), np.sort(faces, axis=1))


@pytest.mark.parametrize("surface", ["faces", "skin"])
def test_the_hand_alone_and_the_arm_are_closed_surfaces(surface):
    faces = np.unique(getattr(load_rig(), surface), return_inverse=True)[1].reshape(-1, 3)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    directed = {tuple(edge) for edge in edges}
    assert len(directed) == len(edges)  # no two faces run along an edge in the same direction
    assert {(b, a) for a, b in directed} == directed  # and every edge is run along in both
    joined = coo_array((np.ones(len(edges)), np.transpose(edges)))
    assert connected_components(joined, directed=False)[0] == 1


@pytest.mark.parametrize("side", HANDS)
@pytest.mark.parametrize("pose", [REST, free_pose(np.random.default_rng(1))], ids=["rest", "random"])
def test_faces_are_wound_outwards(side, pose):
    vertices, faces, _ = pose_hand(load_rig(), pose, side=side)
    arm = load_rig().skin[:, ::-1] if side == "left" else load_rig().skin
    assert 1.5e-4 < signed_volume(vertices, faces) < 5e-4  # m³; a hand has about 0.3 litres, a forearm about 1
    assert 5e-4 < signed_volume(vertices, arm) < 3e-3


@pytest.mark.parametrize(("finger", "other"), [("index", "pinky"), ("middle", "thumb"), ("pinky", "index")])
@pytest.mark.parametrize("side", HANDS)
def test_flexing_a_finger_moves_it_towards_the_palm_and_no_other(finger, other, side):
    angles = np.zeros((5, 4))
    angles[list(FINGERS).index(finger), 1:] = 0.5
    before = pose_hand(load_rig(), REST, side=side)[0]
    after = pose_hand(load_rig(), Pose(angles, np.zeros(2)), side=side)[0]
    part = part_of_vertices()
    moved, still = np.isin(part, FINGERS[finger][1:]), np.isin(part, FINGERS[other][1:])
    assert (after[moved, 1] < before[moved, 1] - 1e-3).all()
    np.testing.assert_allclose(after[still], before[still], atol=1e-9)


@pytest.mark.parametrize(("side", "thumbwards"), [("right", -1), ("left", 1)])
def test_positive_spread_moves_a_finger_towards_the_thumb(side, thumbwards):
    angles = np.zeros((5, 4))
    angles[1, 0] = 0.2
    tip = load_rig().joint("index-finger-tip")
    shift = pose_hand(load_rig(), Pose(angles, np.zeros(2)), side=side)[2] - pose_hand(load_rig(), REST, side=side)[2]
    assert shift[tip, 0] * thumbwards > 0.01


def test_wrist_flexion_turns_the_hand_but_not_the_forearm():
    rig = load_rig()
    after = pose_hand(rig, Pose(np.zeros((5, 4)), np.array([0.5, 0.0])))[0]
    fingers, arm = rig.vertices[:, 2] < -0.1, rig.weights[:, rig.joint("forearm")] == 1
    assert arm.sum() > 50
    assert (after[fingers, 1] < rig.vertices[fingers, 1] - 0.01).all()
    np.testing.assert_allclose(after[arm], rig.vertices[arm], atol=1e-9)


def test_many_poses_at_once_are_the_poses_one_by_one():
    rig, rng = load_rig(), np.random.default_rng(0)
    shape = sample_subject(rng).shape
    poses = [sample_pose(rng)[1] for _ in range(7)]
    batch = pose_joints(rig, np.stack([p.fingers for p in poses]), np.stack([p.wrist for p in poses]), shape)
    for i, pose in enumerate(poses):
        single = pose_joints(rig, pose.fingers[None], pose.wrist[None], shape)
        for name in ("linear", "shift", "joints"):
            np.testing.assert_allclose(getattr(batch, name)[i], getattr(single, name)[0], atol=1e-12)
        vertices, _, joints = pose_hand(rig, pose, shape)
        np.testing.assert_allclose(skin_vertices(rig, single), vertices, atol=1e-12)
        np.testing.assert_allclose(batch.joints[i], joints, atol=1e-12)


def test_a_joint_is_where_its_transform_takes_its_rest_place():
    rig, pose = load_rig(), free_pose(np.random.default_rng(1))
    shape = Shape(scale=0.9, breadth=1.1, depth=0.95, length=(1.1, 0.9, 1, 1.05, 0.95))
    posed = pose_joints(rig, pose.fingers[None], pose.wrist[None], shape)
    positions = np.einsum("jab,jb->ja", posed.linear[0], rig.rest[:, :3, 3]) + posed.shift[0]
    np.testing.assert_allclose(positions, posed.joints[0], atol=1e-12)


@pytest.mark.parametrize("name", ["scale", "breadth", "depth"])
def test_shape_scales_the_rest_hand_along_its_axes(name):
    rig = load_rig()
    expected = {"scale": [0.9, 0.9, 0.9], "breadth": [0.9, 1, 1], "depth": [1, 0.9, 1]}[name]
    vertices, _, joints = pose_hand(rig, REST, Shape(**{name: 0.9}))
    np.testing.assert_allclose(vertices, rig.vertices * expected, atol=ROUNDING)
    np.testing.assert_allclose(joints, rig.rest[:, :3, 3] * expected, atol=ROUNDING)


def test_single_fingers_can_be_longer_and_thicker():
    rig, part = load_rig(), part_of_vertices()
    pinky, ring = (np.isin(part, FINGERS[finger]) for finger in ("pinky", "ring"))
    longer = pose_hand(rig, REST, Shape(length=(1, 1, 1, 1, 1.2)))
    grown = longer[2] - rig.rest[:, :3, 3]
    assert grown[rig.joint("pinky-finger-tip"), 2] < -0.005
    assert np.abs(grown[rig.joint("ring-finger-tip")]).max() < ROUNDING
    thicker = pose_hand(rig, REST, Shape(thickness=(1, 1, 1, 1, 1.2)))
    np.testing.assert_allclose(thicker[2], rig.rest[:, :3, 3], atol=ROUNDING)
    assert np.ptp(thicker[0][pinky, 1]) > np.ptp(rig.vertices[pinky, 1])
    np.testing.assert_allclose(thicker[0][ring], rig.vertices[ring], atol=2e-3)  # the web between both moves a little


def test_people_have_hands_as_long_and_as_broad_as_adults_do():
    rig, part = load_rig(), part_of_vertices()
    knuckles = (np.abs(rig.vertices[:, 2] + 0.075) < 0.004) & (part > 0) & ~np.isin(part, FINGERS["thumb"])
    hands = rest_hands(80)
    length = np.array([-vertices[:, 2].min() for vertices in hands])
    breadth = np.array([np.ptp(vertices[knuckles, 0]) for vertices in hands])
    for measure, low, high in ((length, 0.155, 0.220), (breadth, 0.068, 0.102)):  # m
        assert ((measure > low) & (measure < high)).mean() > 0.97
        assert low - 0.005 < measure.min() < measure.max() < high + 0.005
        assert np.ptp(measure) > 0.5 * (high - low)
    assert 0.2 < np.corrcoef(length, breadth)[0, 1] < 0.95
    assert len(np.unique(length.round(7))) == len(hands)


# Poses


@pytest.mark.parametrize("seed", SEEDS)
def test_poses_are_clipped_to_the_joint_limits(seed):
    rng = np.random.default_rng(seed)
    drawn = [named_pose(name, rng) for name in POSES]
    for pose in (Pose.clipped(rng.normal(0, 3, (5, 4)), rng.normal(0, 3, 2)), free_pose(rng), *drawn):
        assert (pose.fingers >= LIMITS[..., 0]).all()
        assert (pose.fingers <= LIMITS[..., 1]).all()
        assert (pose.wrist >= WRIST_LIMITS[:, 0]).all()
        assert (pose.wrist <= WRIST_LIMITS[:, 1]).all()


def test_clipping_keeps_a_pose_within_the_limits():
    fingers, wrist = LIMITS.mean(-1), WRIST_LIMITS.mean(-1)
    pose = Pose.clipped(fingers, wrist)
    np.testing.assert_array_equal(pose.fingers, fingers)
    np.testing.assert_array_equal(pose.wrist, wrist)


@pytest.mark.parametrize("name", POSES)
def test_named_poses_are_possible_as_written_and_differ_from_time_to_time(name):
    angles = np.radians(np.array(POSES[name], float))
    assert angles.shape == LIMITS.shape[:2]
    assert (angles >= LIMITS[..., 0]).all()
    assert (angles <= LIMITS[..., 1]).all()
    np.testing.assert_allclose(named_pose(name, np.random.default_rng(0), looseness=0).fingers, angles, atol=1e-12)
    first, again, other = (named_pose(name, np.random.default_rng(seed)).fingers for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0.01 < np.abs(first - other).max() < np.radians(45)


@pytest.mark.parametrize(
    ("name", "straight"),
    [
        ("point", {"index"}),
        ("two", {"index", "middle"}),
        ("three", {"index", "middle", "ring"}),
        ("four", {"index", "middle", "ring", "pinky"}),
        ("rocker", {"index", "pinky"}),
        ("call", {"pinky"}),
        ("fist", set()),
        ("thumbs_up", set()),
    ],
)
def test_named_poses_stretch_the_fingers_they_are_named_for_and_curl_the_others(name, straight):
    flat = reach(named_pose("flat", np.random.default_rng(0), looseness=0))
    drawn = [reach(named_pose(name, np.random.default_rng(seed))) for seed in range(20)]
    for finger in list(FINGERS)[1:]:
        shares = [tips[finger] / flat[finger] for tips in drawn]
        if finger in straight:
            assert np.median(shares) > 0.9
            assert min(shares) > 0.75
        else:
            assert np.median(shares) < 0.6
            assert max(shares) < 0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_thumb_is_far_from_the_fingers_in_thumbs_up_and_near_in_a_fist(seed):
    rig = load_rig()
    away = {}
    for name in ("thumbs_up", "fist"):
        joints = pose_hand(rig, named_pose(name, np.random.default_rng(seed)))[2]
        fingers = joints[rig.phalanges[1:].ravel()]
        away[name] = np.linalg.norm(fingers - joints[rig.joint("thumb-tip")], axis=1).min()
    assert away["thumbs_up"] > 0.05 > 0.035 > away["fist"]


def test_end_joints_follow_middle_ones_and_fingers_curl_together_in_free_poses():
    fingers = np.stack([free_pose(np.random.default_rng(seed)).fingers for seed in range(200)])
    middle, end = fingers[:, 1:, 2].ravel(), fingers[:, 1:, 3].ravel()
    assert np.corrcoef(middle, end)[0, 1] > 0.9
    curl = np.corrcoef(fingers[:, 1:, 2].T)
    assert curl.min() > 0.4
    assert middle.std() > np.radians(20)


def test_about_half_of_the_hands_show_a_named_pose():
    drawn = [sample_pose(np.random.default_rng(seed))[0] for seed in range(200)]
    assert set(drawn) <= {*POSES, FREE}
    assert len(set(drawn)) > 0.8 * len(POSES)
    assert 60 < drawn.count(FREE) < 140


# The mesh file


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache folder; gives the path at which the mesh is expected."""
    monkeypatch.setattr(webxr, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "ethand" / "generic-hand-right-1.0.20.glb"


@pytest.fixture
def registry(monkeypatch):
    """Stands in for the npm registry: fails with `error`, or gives the package that `serve` set; counts `calls`."""
    state = SimpleNamespace(mesh=mesh_file().read_bytes(), calls=0, error=None)

    def urlopen(url, timeout):
        assert url == webxr.PACKAGE
        state.calls += 1
        if state.error:
            raise state.error
        return io.BytesIO(state.package)

    def serve(mesh: bytes, trusted: bool):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            entry = tarfile.TarInfo(webxr.MESH_IN_PACKAGE)
            entry.size = len(mesh)
            tar.addfile(entry, io.BytesIO(mesh))
        state.package = buffer.getvalue()
        if trusted:
            digest = base64.b64encode(hashlib.sha512(state.package).digest()).decode()
            monkeypatch.setattr(webxr, "PACKAGE_SHA512", digest)

    state.serve = serve
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return state


@pytest.mark.parametrize("cached", [None, b"", b"not the mesh"], ids=["absent", "empty", "damaged"])
def test_absent_or_damaged_mesh_is_fetched_once(cached, registry, empty_cache):
    registry.serve(registry.mesh, trusted=True)
    if cached is not None:
        empty_cache.parent.mkdir()
        empty_cache.write_bytes(cached)
    assert mesh_file() == mesh_file() == empty_cache
    assert empty_cache.read_bytes() == registry.mesh
    assert registry.calls == 1
    assert list(empty_cache.parent.iterdir()) == [empty_cache]


@pytest.mark.parametrize("error", [URLError("no such host"), TimeoutError("timed out")], ids=["no host", "silent"])
def test_unreachable_registry_is_one_line_of_advice(error, registry, empty_cache):
    registry.error = error
    with pytest.raises(EthandError, match=r"could not be fetched.*connect this machine.*or copy") as caught:
        mesh_file()
    assert str(empty_cache) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not empty_cache.exists()


@pytest.mark.parametrize(("trusted", "culprit"), [(False, webxr.PACKAGE), (True, webxr.MESH_IN_PACKAGE)])
def test_package_with_other_bytes_is_refused_and_not_cached(trusted, culprit, registry, empty_cache):
    registry.serve(b"another mesh", trusted)
    with pytest.raises(EthandError, match="unexpected checksum") as caught:
        mesh_file()
    assert str(caught.value).startswith(culprit)
    assert not empty_cache.exists()
