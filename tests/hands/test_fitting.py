"""The generic hand fitted to joints: it meets them, moves with them, and refuses what is no hand."""

import numpy as np
import pytest
from madetree import annotated_joints
from scipy.spatial.transform import Rotation

from ethand_utils.exceptions import EthandError
from ethand_utils.hands import joints
from ethand_utils.hands.amodal import Hand, HandError, hand_masks
from ethand_utils.hands.joint_fit import fit_joints
from ethand_utils.hands.joints import CHAINS, ORDERS, WRIST, landmarks
from ethand_utils.hands.raycast import Camera, Mesh
from ethand_utils.hands.rig import MIRROR, pose_joints, skin_vertices
from ethand_utils.hands.rig import Shape as HandShape
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import JOINT_PARTS, LEFT, N_JOINTS, RIGHT
from ethand_utils.rendering.poses import free_pose
from ethand_utils.sources.joint_annotations import WORST_JOINT, fit_hands, from_joints
from ethand_utils.training.metrics import sample_scores

SIZE = 128
ALL = np.ones((1, N_JOINTS), bool)
VIEW = Camera((1000.0, 1000.0), (128.0, 128.0))
CROP = (0.0, 0.0, 256.0)
AWAY = np.array([0.0, 0.0, 0.9])  # m, so that a hand about the origin fills the crop


def posed(seed, shape=None):
    """A generic hand in a random pose: its joints as annotated [21, 3] and its Hand, as a camera above it sees it."""
    rng = np.random.default_rng(seed)
    pose, rig = free_pose(rng), load_rig().hand
    rotation = Rotation.random(random_state=seed).as_matrix()
    posed_rig = pose_joints(rig, pose.fingers[None], pose.wrist[None], shape or HandShape())
    joints, vertices = annotated_joints(posed_rig), skin_vertices(rig, posed_rig)
    middle = vertices.mean(0)
    vertices, joints = ((points - middle) @ rotation.T + AWAY for points in (vertices, joints))
    return joints, Hand(vertices, rig.faces, rig.part_weights, np.zeros(N_JOINTS))


def masks_of(left=None, right=None):
    return hand_masks((left, right), VIEW, np.eye(3), np.zeros(3), CROP, SIZE, (256, 256))["masks"]


def right_only(points):
    """Joints of a right hand alone and which are valid, as `fit_hands` takes them."""
    joints, valid = np.zeros((2, N_JOINTS, 3)), np.zeros((2, N_JOINTS), bool)
    joints[RIGHT], valid[RIGHT] = points, True
    return joints, valid


@pytest.mark.parametrize("seed", range(8))
def test_a_posed_hand_is_found_again(seed):
    points, target = posed(seed)
    fit = fit_joints(load_rig().hand, points[None], ALL)
    assert fit.residual.max() < 5
    assert fit.residual.mean() < 1
    masks, expected = masks_of(right=fit_hands(*right_only(points))[RIGHT]), masks_of(right=target)
    both, either = ((masks > 0) & (expected > 0)).sum(), ((masks > 0) | (expected > 0)).sum()
    assert both / either > 0.8  # the fitted hand is stouter, as people's are
    assert sample_scores(masks[None], expected[None], None)["course_miou"][0] > 0.6


@pytest.mark.parametrize("seed", range(6))
def test_an_unhidden_joint_shows_a_part_that_meets_there(seed):
    points, _ = posed(100 + seed)
    hand = fit_hands(*right_only(points))[RIGHT]
    mask = masks_of(right=hand)[RIGHT]
    view = VIEW.crop(*CROP, SIZE)
    near = Mesh(hand.vertices, hand.faces).first_hits(view, SIZE, view.rays(SIZE)).full_depth(SIZE).reshape(SIZE, SIZE)
    columns, rows = np.floor(view.project(points)).astype(int).T
    unhidden = np.linalg.norm(points, axis=1) - near[rows, columns] < 0.014  # else another part lies before it
    assert unhidden.sum() >= 5
    for joint in np.flatnonzero(unhidden):
        beside = (0,) if joint in CHAINS[:, 3] else ()  # tips lie on the skin, so that their pixel may be next to it
        assert mask[rows[joint], columns[joint]] in JOINT_PARTS[joint] + beside, joint


def test_the_fit_moves_rotates_and_grows_with_the_joints():
    points, _ = posed(3)
    rotation, shift, size = Rotation.random(random_state=1).as_matrix(), np.array([0.3, -0.2, 1.0]), 1.2
    rig = load_rig().hand
    first = skin_vertices(rig, fit_joints(load_rig().hand, points[None], ALL).posed)
    second = skin_vertices(rig, fit_joints(load_rig().hand, (size * points @ rotation.T + shift)[None], ALL).posed)
    np.testing.assert_allclose(second, size * first @ rotation.T + shift, atol=1e-3)


def test_a_left_hand_is_fitted_as_a_right_one_in_the_mirror():
    points, _ = posed(4)
    both = np.stack([points * MIRROR, points])
    left, right = fit_hands(both, np.ones((2, N_JOINTS), bool))
    np.testing.assert_allclose(left.vertices, right.vertices * MIRROR, atol=1e-12)
    np.testing.assert_array_equal(left.faces, right.faces[:, ::-1])
    for hand in (left, right):
        a, b, c = hand.vertices[hand.faces].swapaxes(0, 1)
        assert (np.cross(a, b) * c).sum() > 0  # wound outwards: the volume is positive


def test_hands_of_a_batch_do_not_depend_on_one_another():
    points = np.stack([posed(seed)[0] for seed in range(4)])
    together = fit_joints(load_rig().hand, points, np.ones((4, N_JOINTS), bool))
    for i in range(4):
        alone = fit_joints(load_rig().hand, points[i : i + 1], ALL)
        np.testing.assert_allclose(together.posed.linear[i], alone.posed.linear[0], atol=1e-12)


@pytest.mark.parametrize("missing", [*range(N_JOINTS)])
def test_a_missing_joint_is_guessed_within_a_finger_s_breadth(missing):
    valid = ALL.copy()
    valid[0, missing] = False
    distances = []
    for seed in range(6):
        points, _ = posed(seed)
        annotated = points.copy()
        annotated[missing] = 1e3  # must not be read
        fit = fit_joints(load_rig().hand, annotated[None], valid)
        distances.append(np.linalg.norm(fit.joints[0, missing] - points[missing]))
        assert np.isnan(fit.residual[0, missing])
        assert np.nanmax(fit.residual) < 12
    assert np.median(distances) < 0.015


def test_hands_with_few_joints_are_refused_by_name():
    points, _ = posed(0)
    joints, valid = right_only(points)
    valid[RIGHT, CHAINS.ravel()[:10]] = False
    with pytest.raises(HandError, match="too few of the right hand"):
        fit_hands(joints, valid)
    valid[RIGHT] = True
    valid[RIGHT, [WRIST, *CHAINS[1:4, 0]]] = False  # most of the palm
    with pytest.raises(HandError, match="too few of the right hand"):
        fit_hands(joints, valid)


def test_a_hand_of_which_nothing_is_known_is_absent():
    points, _ = posed(0)
    left, right = fit_hands(*right_only(points))
    assert left is None
    assert right.residual.shape == (N_JOINTS,)
    assert fit_hands(np.zeros((2, N_JOINTS, 3)), np.zeros((2, N_JOINTS), bool)) == (None, None)


@pytest.mark.parametrize("joint", [0, 5, 6, 10, 15, WRIST])
def test_a_joint_far_from_its_place_is_refused_and_does_not_tear_the_skin(joint):
    points, _ = posed(2)
    points[joint] += 0.1
    fit = fit_joints(load_rig().hand, points[None], ALL)
    assert np.nanmax(fit.residual) > WORST_JOINT
    length = np.linalg.norm(np.diff(fit.joints[0][CHAINS], axis=1), axis=-1)
    generic = np.linalg.norm(np.diff(landmarks(load_rig())[CHAINS], axis=1), axis=-1)
    assert (length < 2 * generic).all()
    with pytest.raises(HandError, match="right hand"):
        fit_hands(*right_only(points))


def test_joints_in_reverse_are_no_hand():
    points, _ = posed(5)
    with pytest.raises(HandError, match="fit"):
        fit_hands(*right_only(points[::-1]))


def test_the_generic_hand_is_closed():
    faces = load_rig().hand.faces
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = set(map(tuple, edges.tolist()))
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)


def test_breadth_follows_the_finger_bases():
    points, _ = posed(0, HandShape(breadth=0.95))
    broad, _ = posed(0, HandShape(breadth=1.25))
    thickness = []
    for annotated in (points, broad):
        hand = fit_hands(*right_only(annotated))[RIGHT]
        thickness.append(np.linalg.norm(hand.vertices[:, None] - hand.vertices.mean(0), axis=-1).mean())
    assert thickness[1] > thickness[0]


def image():
    return np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)


def two_hands():
    left, right = posed(6)[0] * MIRROR + (0.06, 0, 0), posed(7)[0] - (0.06, 0, 0.02)
    return np.stack([left, right])


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_joints_in_any_named_order_give_the_same_sample(order):
    joints = two_hands()
    expected = from_joints(image(), joints, VIEW.focal, VIEW.centre)
    reordered = np.empty_like(joints)
    reordered[:, ORDERS[order]] = joints
    sample = from_joints(image(), reordered, VIEW.focal, VIEW.centre, order)
    for name in ("image", "masks", "front", "residual"):
        np.testing.assert_array_equal(sample[name], expected[name])
    assert expected["masks"].shape == (2, SIZE, SIZE)
    assert all((expected["masks"][hand] > 0).sum() > 500 for hand in (LEFT, RIGHT))
    assert np.nanmean(expected["residual"]) < 2


def test_orders_name_each_joint_once_and_begin_where_they_say():
    assert all(sorted(order) == list(range(N_JOINTS)) for order in ORDERS.values())
    assert ORDERS["freihand"][WRIST] == ORDERS["rhd"][WRIST] == 0
    thumb = CHAINS[0]  # base to tip
    assert ORDERS["freihand"][thumb].tolist() == [1, 2, 3, 4]
    assert ORDERS["rhd"][thumb].tolist() == [4, 3, 2, 1]


def test_a_sample_s_crop_is_the_box_s():
    joints = two_hands()
    sample = from_joints(image(), joints, VIEW.focal, VIEW.centre, box=(28, 28, 200, 200), size=250)
    assert sample["masks"].shape == (2, 250, 250)
    shifted = from_joints(image(), joints, VIEW.focal, VIEW.centre, box=(38, 28, 200, 200), size=250)
    np.testing.assert_array_equal(sample["masks"][:, :, 10:], shifted["masks"][:, :, :-10])
    np.testing.assert_array_equal(sample["image"][:, 10:], shifted["image"][:, :-10])


def test_a_single_hand_of_another_data_set_may_leave_the_other_unknown():
    joints = two_hands()
    joints[LEFT] = np.nan
    sample = from_joints(image(), joints, VIEW.focal, VIEW.centre)
    assert not sample["masks"][LEFT].any()
    assert set(np.unique(sample["front"])) == {0, 2}
    assert np.isnan(sample["residual"][LEFT]).all()


@pytest.mark.parametrize(
    ("joints", "order", "message"),
    [
        (np.zeros((21, 3)), "interhand", "expected \\[2, 21, 3\\]"),
        (np.zeros((2, 21, 3)), "openpose", "freihand"),
        (np.full((2, 21, 3), np.nan), "rhd", "none is known"),
    ],
)
def test_joints_that_do_not_fit_are_refused(joints, order, message):
    with pytest.raises(EthandError, match=message):
        from_joints(image(), joints, VIEW.focal, VIEW.centre, order)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": image()[..., 0]}, r"image uint8 \[256, 256\]: expected uint8 \[H, W, 3\]"),
        ({"image": image() / 255}, r"image float64 .*expected uint8 \[H, W, 3\]"),
        ({"joints": 1000 * two_hands()}, "joints of the left hand reach over .* m; expected metres"),
        ({"joints": two_hands() * [[[0.0]], [[1.0]]]}, "left hand reach over 0 m; .*NaN for a hand that is absent"),
        ({"joints": two_hands() * (1, 1, -1)}, "behind the camera"),
        (
            {"focal": 4 * np.array(VIEW.focal), "centre": 4 * np.array(VIEW.centre)},
            "outside the box or the 256×256 image",
        ),
        ({"focal": (1.8, 1.8), "centre": (0.5, 0.5)}, "expected x, y, w, h, focal and centre in px"),
        ({"focal": 400}, "focal: expected 2 finite numbers"),
        ({"focal": (0, 0)}, "px above 0"),
        ({"box": (np.nan, 0, 10, 10)}, "box: expected 4 finite numbers"),
        ({"box": (5, 5, 0, 0)}, "box: its crop is 0 px wide"),
        ({"box": (-90, -90, 80, 80)}, "outside the box or the 256×256 image"),
        ({"size": 0}, "at least 16"),
    ],
)
def test_what_is_no_photo_with_joints_in_its_camera_is_refused_in_one_line(change, message):
    arguments = {"image": image(), "joints": two_hands(), "focal": VIEW.focal, "centre": VIEW.centre}
    with pytest.raises(EthandError, match=message) as caught:
        from_joints(**arguments | change)
    assert "\n" not in str(caught.value)


def test_rotations_turn_vectors_by_the_angles_asked_for():
    rng = np.random.default_rng(0)
    start, goal = (joints.directions(rng.normal(size=(10, 5, 3))) for _ in range(2))
    largest = np.full((10, 5), np.pi)
    np.testing.assert_allclose(joints.rotate(joints.rotation_towards(start, goal, largest), start), goal, atol=1e-9)
    little = joints.rotation_towards(start, goal, largest * 0 + 0.1)
    np.testing.assert_allclose((joints.rotate(little, start) * start).sum(-1), np.cos(0.1), atol=1e-9)
    np.testing.assert_allclose(joints.rotation_towards(start, start, largest), identities(10, 5), atol=1e-9)
    bend, lean = joints.bend_and_lean(goal)
    np.testing.assert_allclose(joints.rotate(joints.bone_rotation(bend, lean), np.array([0, 0, -1.0])), goal, atol=1e-9)
    rotations = joints.rotation_about(start, rng.normal(size=(10, 5)))
    np.testing.assert_allclose(rotations @ rotations.mT, identities(10, 5), atol=1e-9)
    np.testing.assert_allclose(joints.rotate(rotations, start), start, atol=1e-9)  # the axis stays
    angles = joints.nearest_angle(np.array([3.0, -3.0, 7.0]), np.array([0.0, 2.0, 0.0]))
    assert (np.abs(angles - (0, 2, 0)) <= np.pi).all()


def identities(*shape):
    return np.broadcast_to(np.eye(3), (*shape, 3, 3))
