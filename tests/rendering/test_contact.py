"""Properties of the spheres that fill a hand, of contact and penetration, and of two-hand interaction types."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ethand_utils.hands.raycast import vertex_normals
from ethand_utils.hands.rig import LIMITS, MIRROR, WRIST_LIMITS, Shape, pose_joints
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import LEFT, PALM, RIGHT
from ethand_utils.rendering import scenes
from ethand_utils.rendering.arrangements import (
    ARRANGEMENTS,
    INTERLEAVED_SLACK,
    SLACK,
    Arm,
    apart,
    facing_rotation,
    hanging_arm,
    reaching_arm,
)
from ethand_utils.rendering.contact import first_contact, hand_spheres, overlap, penetration
from ethand_utils.rendering.poses import FREE, free_pose, named_pose
from ethand_utils.rendering.subjects import sample_subject

SEEDS = range(6)
TOUCHING = sorted(set(ARRANGEMENTS) - {"apart", "overlapping"})
ALONG_X = np.array([1.0, 0, 0])


def arranged(kind: str, seed: int) -> list[Arm]:
    """The two arms of an arrangement as they are made, before scenes part what is too deep."""
    rng = np.random.default_rng(seed)
    return ARRANGEMENTS[kind][0](rng, sample_subject(rng).shape)


def skins(arms: list[Arm]) -> list[np.ndarray]:
    """Vertices of the left and of the right limb in one frame."""
    return [arms[LEFT].vertices() * MIRROR, arms[RIGHT].vertices()]


def box(side: float, cells: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A cube about the origin of `side` m, each face a grid: vertices [V, 3], faces [F, 3] wound outwards."""
    line = np.linspace(-0.5, 0.5, cells + 1)
    v, u = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
    corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    quads = np.stack([corner, corner + 1, corner + cells + 2, corner + cells + 1], 1)
    square = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    sides, faces = [], []
    for axis in range(3):
        for end in (-0.5, 0.5):
            faces.append((square if end > 0 else square[:, ::-1]) + len(faces) * len(u))
            sides.append(np.roll(np.stack([u, v, np.full(len(u), end)], 1), axis + 1, axis=1))
    _, first, inverse = np.unique(np.concatenate(sides).round(9), axis=0, return_index=True, return_inverse=True)
    return np.concatenate(sides)[first] * side, inverse.reshape(-1)[np.concatenate(faces)]


def ball(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A sphere about the origin, as `box`."""
    vertices, faces = box(1.0, 16)
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True) * radius, faces


def depth_of(a: tuple, b: tuple) -> float:
    """Penetration of two meshes (vertices, faces)."""
    return penetration(a[0], vertex_normals(*a), b[0], vertex_normals(*b))


def inside(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether points [P, 3] lie in a closed mesh, by its winding number about them."""
    a, b, c = (corner - points[:, None] for corner in vertices[faces].transpose(1, 0, 2))
    la, lb, lc = (np.linalg.norm(corner, axis=-1) for corner in (a, b, c))
    volume = (a * np.cross(b, c)).sum(-1)
    angle = np.arctan2(volume, la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb)
    return angle.sum(1) / (2 * np.pi) > 0.5


def distance(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Distance [P] of points [P, 3] from the nearest triangle of a mesh."""
    corners = vertices[faces].transpose(1, 0, 2)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    best, above = np.full((len(points), len(faces)), np.inf), np.ones((len(points), len(faces)), bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge, to = end - start, points[:, None] - start
        along = np.clip((to * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-18), 0, 1)
        best = np.minimum(best, np.linalg.norm(to - along[..., None] * edge, axis=-1))
        above &= (to * np.cross(normal, edge)).sum(-1) >= 0
    plane = np.abs(((points[:, None] - corners[0]) * normal).sum(-1))
    return np.where(above, plane, best).min(1)


def exact_penetration(a: np.ndarray, b: np.ndarray, faces_a: np.ndarray, faces_b: np.ndarray) -> float:
    """Depth of the deepest vertex of either mesh in the other, by winding numbers and distances to triangles."""
    deepest = 0.0
    for points, (vertices, faces) in ((a, (b, faces_b)), (b, (a, faces_a))):
        points = points[((points > vertices.min(0)) & (points < vertices.max(0))).all(1)]
        points = points[inside(points, vertices, faces)]
        if len(points):
            deepest = max(deepest, float(distance(points, vertices, faces).max()))
    return deepest


# Spheres


def test_spheres_reach_the_skin_of_fingers_and_palm():
    rig, spheres = load_rig(), hand_spheres(load_rig())
    gap = (np.linalg.norm(rig.vertices[:, None] - spheres.centres, axis=2) - spheres.radii).min(1)
    finger = (rig.finger_of[rig.weights.argmax(1)] >= 0) & (rig.weights.max(1) > 0.6)  # without the webs between them
    assert finger.sum() > 300
    assert gap[finger].max() < 0.004
    assert gap[rig.part_weights.argmax(1) == PALM].max() < 0.01


def test_spheres_are_inside_the_hand_and_reach_out_by_a_few_mm_at_most():
    rig, spheres = load_rig(), hand_spheres(load_rig())
    within = inside(spheres.centres, rig.vertices, rig.skin)
    depth = distance(spheres.centres, rig.vertices, rig.skin) * np.where(within, 1, -1)
    out = spheres.radii - depth
    finger = rig.finger_of[spheres.joint] >= 0
    assert depth[~finger].min() > 0
    assert depth[finger].min() > -0.001  # at the web between two fingers
    assert out.max() < 0.011
    assert np.quantile(out[finger], 0.9) < 0.003


@pytest.mark.parametrize("seed", SEEDS)
def test_spheres_follow_the_skin_in_any_pose_and_shape(seed):
    rng = np.random.default_rng(seed)
    arm = Arm.from_pose("free", free_pose(rng), sample_subject(rng).shape, np.eye(3))
    rig, bones = load_rig(), load_rig().phalanges[:, 1:].ravel()
    gap = (np.linalg.norm(arm.vertices()[:, None] - arm.spheres(), axis=2) - arm.radii).min(1)
    rigid = np.isin(rig.weights.argmax(1), bones) & (rig.weights.max(1) > 0.9)
    assert rigid.sum() > 100
    assert gap[rigid].max() < 0.004  # curled fingers may be inside spheres of the palm
    assert np.median(np.abs(gap[rigid])) < 0.002


def test_spheres_grow_with_the_hand():
    spheres, rig = hand_spheres(load_rig()), load_rig()
    np.testing.assert_allclose(spheres.scaled_radii(rig, Shape(scale=1.1)), spheres.radii * 1.1)
    np.testing.assert_allclose(spheres.scaled_radii(rig, Shape(breadth=1.2, depth=1.0)), spheres.radii * 1.1)
    pinky = rig.finger_of[spheres.joint] == 4
    np.testing.assert_allclose(
        spheres.scaled_radii(rig, Shape(thickness=(1, 1, 1, 1, 1.2))) / spheres.radii, np.where(pinky, 1.2, 1.0)
    )


def test_places_of_the_rest_pose_are_the_centres():
    rest = pose_joints(load_rig(), np.zeros((1, 5, 4)), np.zeros((1, 2)), Shape())
    np.testing.assert_allclose(
        hand_spheres(load_rig()).posed_centres(rest)[0], hand_spheres(load_rig()).centres, atol=1e-7
    )


# Contact


def single(*where: float) -> np.ndarray:
    return np.array([where], float)


@pytest.mark.parametrize(
    ("moving", "beside", "distance"),
    [
        (0.0, 0.0, 5 - 3),  # in line: the centres end three radii apart
        (0.0, 1.8, 5 - 2.4),  # 1.8² + 2.4² = 3²
        (4.0, 0.0, 1 - 3),  # already overlapping: back
        (9.0, 0.0, -4 - 3),  # already past: back to where it first touched
        (0.0, 3.1, np.nan),  # too far to the side
    ],
)
def test_first_contact_of_two_spheres(moving, beside, distance):
    radii = np.array([1.0]), np.array([2.0])
    contact = first_contact(single(moving, 0, 0), radii[0], single(5, beside, 0), radii[1], ALONG_X)
    np.testing.assert_allclose(contact, distance, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_spheres_shifted_to_their_first_contact_just_touch(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 0.04, (20, 3)), rng.normal(0, 0.04, (30, 3))
    a_radii, b_radii = rng.uniform(0.004, 0.01, 20), rng.uniform(0.004, 0.01, 30)
    direction = rng.normal(0, 1, 3)
    direction /= np.linalg.norm(direction)
    contact = first_contact(a, a_radii, b, b_radii, direction)
    assert overlap(a + contact * direction, a_radii, b, b_radii).max() == pytest.approx(0, abs=2e-6)
    distances = contact - np.linspace(0.001, 0.3, 50)
    earlier = overlap(a + distances[:, None, None] * direction, a_radii, b, b_radii)
    assert earlier.max() < 0  # nothing met before


def test_overlap_of_known_spheres():
    still, still_radii = np.array([[0.0, 0, 0], [10, 0, 0]]), np.array([1.0, 2.0])
    moving, radii = np.array([[1.5, 0, 0], [10, 4, 0], [0, 0, 0]]), np.array([1.0, 1.0, 0.5])
    into = overlap(moving, radii, still, still_radii)
    np.testing.assert_allclose(into, [0.5, -1.0, 1.5], atol=1e-5)
    batch = overlap(np.stack([moving, moving + np.array([0, 9, 0])]), radii, still, still_radii)
    assert batch.shape == (2, 3)
    np.testing.assert_allclose(batch[0], into, atol=1e-6)
    assert (batch[1] < 0).all()


# Penetration


@pytest.mark.parametrize("depth", [0.0005, 0.002, 0.005])
@pytest.mark.parametrize("axis", range(3))
def test_boxes_pushed_into_each_other_are_as_deep_as_pushed(depth, axis):
    (small, faces), large = box(0.03), box(0.05)
    shift = np.eye(3)[axis] * (0.04 - depth)
    for sign in (-1, 1):
        assert depth_of((small + sign * shift, faces), large) == pytest.approx(depth, rel=0.05)
        assert depth_of(large, (small + sign * shift, faces)) == pytest.approx(depth, rel=0.05)


@pytest.mark.parametrize("depth", [0.001, 0.004, 0.008])
def test_balls_pushed_into_each_other_are_as_deep_as_pushed(depth):
    (small, faces), large = ball(0.02), ball(0.03)
    direction = np.array([1.0, 2, 3]) / np.sqrt(14)
    assert depth_of((small + direction * (0.05 - depth), faces), large) == pytest.approx(depth, abs=3e-4)


@pytest.mark.parametrize("gap", [0.0005, 0.01, 0.3])
def test_what_is_apart_does_not_penetrate(gap):
    small, large = box(0.03), box(0.05)
    assert depth_of((small[0] + [0, 0.04 + gap, 0], small[1]), large) == 0
    round_, other = ball(0.02), ball(0.03)
    assert depth_of((round_[0] + [0.05 + gap, 0, 0], round_[1]), other) == 0


def test_penetration_of_hands_agrees_with_distances_to_triangles():
    faces, depths = load_rig().faces, []
    for kind, seed in (("clasped", 1), ("fingertips", 1), ("held", 1), ("palms", 5), ("pointing", 1), ("touching", 0)):
        left, right = skins(arranged(kind, seed))
        away = left.mean(0) - right.mean(0)
        right = right + 0.004 * away / np.linalg.norm(away)  # deeper than scenes let them be
        exact = exact_penetration(left, right, faces[:, ::-1], faces)
        depths.append(exact)
        assert exact - 0.0005 < depth_of((left, faces[:, ::-1]), (right, faces)) < exact + 0.0015  # rather too deep
    assert np.median(depths) > 0.002


@pytest.mark.parametrize("shift", [[0.3, 0, 0], [0, 0.15, 0], [0, 0, -0.6]])
def test_hands_apart_do_not_penetrate(shift):
    hand = load_rig().vertices, load_rig().faces
    assert depth_of(hand, (hand[0] + shift, hand[1])) == 0


# Arrangements


@pytest.mark.parametrize("seed", SEEDS)
def test_facing_is_a_rotation_that_turns_fingers_and_back(seed):
    fingers, back = np.random.default_rng(seed).normal(0, 1, (2, 3))
    rotation = facing_rotation(fingers, back)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation @ [0, 0, -1], fingers / np.linalg.norm(fingers), atol=1e-12)
    assert (rotation @ [0, 1.0, 0]) @ back > 0
    assert (rotation @ [1.0, 0, 0]) @ back == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_arm_is_a_rigid_copy_of_the_posed_hand_about_its_middle(seed):
    rng = np.random.default_rng(seed)
    arm = hanging_arm(rng, sample_subject(rng).shape)
    np.testing.assert_allclose(arm.joints[:-1].mean(0), 0, atol=1e-12)
    shift = rng.normal(0, 1, 3)
    moved = arm.moved(shift)
    for before, after in (
        (arm.joints, moved.joints),
        (arm.spheres(), moved.spheres()),
        (arm.vertices(), moved.vertices()),
    ):
        np.testing.assert_allclose(after, before + shift, atol=1e-12)
    straight = arm.with_fingers(np.zeros((5, 4)))
    np.testing.assert_allclose(straight.joints[-1], arm.joints[-1], atol=1e-12)  # the forearm stays
    assert np.abs(straight.joints - arm.joints).max() > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reaching_hand_has_the_rotation_asked_for_and_the_elbow_beyond_it(seed):
    rng, rig = np.random.default_rng(seed), load_rig()
    hand = facing_rotation(np.array([0.2, -1.0, 0.1]), np.array([-1.0, 0, 0]))
    arm = reaching_arm("flat", hand, rng, Shape())
    wrist = rig.joint("wrist")
    rotation = arm.rotation @ arm.posed.linear[0, wrist]
    np.testing.assert_allclose(rotation, hand, atol=1e-6)
    assert (arm.pose.wrist >= WRIST_LIMITS[:, 0]).all()
    assert (arm.pose.wrist <= WRIST_LIMITS[:, 1]).all()
    assert (arm.rotation @ [0, 0, 1.0]) @ [-0.65, 0.55, 0.3] > 0


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_every_arrangement_gives_two_arms_and_the_same_for_the_same_seed(kind):
    for seed in SEEDS:
        first, again, other = arranged(kind, seed), arranged(kind, seed), arranged(kind, seed + 100)
        assert len(first) == 2
        for arm, same in zip(first, again, strict=True):
            assert arm.name == same.name
            assert np.isfinite(arm.vertices()).all()
            np.testing.assert_array_equal(arm.vertices(), same.vertices())
            assert (arm.pose.fingers >= LIMITS[..., 0]).all()
            assert (arm.pose.fingers <= LIMITS[..., 1]).all()
            np.testing.assert_allclose(arm.rotation @ arm.rotation.T, np.eye(3), atol=1e-9)
        assert np.abs(first[LEFT].joints - other[LEFT].joints).max() > 1e-3


def test_shares_of_the_arrangements_add_up_and_most_touch():
    shares = {kind: share for kind, (_, share) in ARRANGEMENTS.items()}
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(shares[kind] for kind in TOUCHING) > 0.5


@pytest.mark.parametrize("kind", TOUCHING)
def test_hands_that_touch_are_a_few_mm_from_each_other_at_most(kind):
    gaps = [cKDTree(left).query(right)[0].min() for left, right in (skins(arranged(kind, s)) for s in range(16))]
    assert np.median(gaps) < 0.003  # m, between vertices, which are about 4 mm apart


def test_two_hands_show_the_same_named_pose_more_often_than_by_chance():
    pairs = [[arm.name for arm in apart(np.random.default_rng(seed), Shape())] for seed in range(150)]
    alike = [left for left, right in pairs if left == right != FREE]
    named = [left for left, _ in pairs if left != FREE]
    assert 0.15 < len(alike) / len(named) < 0.5
    assert {right for left, right in pairs if left == FREE} > {FREE}


def test_one_behind_the_other_is_deeper_than_wide_and_apart_the_reverse():
    between = {}
    for kind in ("apart", "overlapping"):
        arms = [arranged(kind, seed) for seed in range(16)]
        middles = [[skin_joints.mean(0) for skin_joints in (a.joints[:-1] * MIRROR, b.joints[:-1])] for a, b in arms]
        between[kind] = np.abs([left - right for left, right in middles]).mean(0)
    assert between["overlapping"][2] > 0.05 > between["overlapping"][0]
    assert between["apart"][0] > between["apart"][2]


def test_fingers_of_clasped_hands_are_between_those_of_the_other():
    bases, middles = load_rig().phalanges[1:, :2].T
    between, apart = [], []
    for seed in range(12):
        left, right = arranged("clasped", seed)
        ours, theirs = right.joints, left.joints * MIRROR
        apart.append(np.linalg.norm(ours[bases].mean(0) - theirs[bases].mean(0)))
        along = ours[bases[-1]] - ours[bases[0]]
        order = np.argsort(np.concatenate([ours[middles] @ along, theirs[middles] @ along]))
        between.append((np.diff(order < 4) != 0).sum())  # how often the next finger is the other hand's
    assert np.median(between) >= 5  # of 7
    assert max(apart) < 0.11  # m; the fingers are about as long, and reach beyond the other's knuckles


def test_hands_moved_together_touch_with_their_spheres():
    pairs = [arranged("touching", seed) for seed in range(20)]
    into = np.array([overlap(b.spheres(), b.radii, a.spheres() * MIRROR, a.radii).max() for a, b in pairs])
    assert into.max() < SLACK + 1e-5  # less where they meet aslant
    assert (into > 0).mean() > 0.8  # the others passed each other


@pytest.mark.parametrize("seed", SEEDS)
def test_hands_that_share_space_are_separate_arms(seed):
    rng = np.random.default_rng(seed)
    arms = [Arm.from_pose("fist", named_pose("fist", rng), Shape(), np.eye(3)) for _ in range(2)]
    parted = scenes._separate_arms(arms)
    assert overlap(arms[1].spheres(), arms[1].radii, arms[0].spheres() * MIRROR, arms[0].radii).max() > 0.01
    into = overlap(parted[1].spheres(), parted[1].radii, parted[0].spheres() * MIRROR, parted[0].radii).max()
    assert into <= INTERLEAVED_SLACK
    far = [parted[0], parted[1].moved(ALONG_X * -1)]
    assert scenes._separate_arms(far) == far


def test_hands_of_scenes_hardly_run_into_each_other(two_hand_scenes):
    depths = np.array([scene.penetration for scene in two_hand_scenes])
    assert np.median(depths) < 0.002
    assert depths.max() <= scenes.MAX_PENETRATION
    for scene in two_hand_scenes[::10]:  # the camera's pose changes nothing of it
        left, right = scene.limbs
        depth = penetration(left.vertices, left.normals, right.vertices, right.normals)
        assert depth == pytest.approx(scene.penetration, abs=1e-6)
