"""The 21 annotated joints: orders of data sets, positions in a rig, guesses of missing ones, rotations."""

from functools import cache

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.raycast import Mesh
from ethand_utils.hands.rig import Rig
from ethand_utils.labels import FINGERS, N_JOINTS

# Each finger's joints from base to tip in the order of `labels.JOINT_PARTS`, which is InterHand2.6M's.
CHAINS = np.arange(4 * len(FINGERS)).reshape(-1, 4)[:, ::-1]
WRIST = N_JOINTS - 1

# For every joint of `labels.JOINT_PARTS` its index in another data set's list of a hand's joints.
ORDERS = {
    "interhand": np.arange(N_JOINTS),
    "freihand": np.array(
        [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17, 0]
    ),  # wrist, base … tip
    "rhd": np.array([*range(1, N_JOINTS), 0]),  # wrist, then tip … base
}

# Where the annotated joints lie in a hand (REFERENCE.md section 4): the share of its thickness that is on the back's
# side of each, in a flat hand, in the order of a finger's CHAINS; and the flesh beyond a fingertip's joint, which lies
# on the skin, as a share of the hand's length from wrist to middle fingertip.
FINGER_SHARES, THUMB_SHARES, WRIST_SHARE = (0.65, 0.63, 0.60), (0.74, 0.65, 0.65), 0.57
TIP_DEPTH = 0.0012 / 0.157
TIP_SLAB = 0.004  # m about it in which the finger's middle is sought

END_OVER_MIDDLE = 0.6  # bend of a finger's last joint over that of the joint before it, where the tip is unknown


@cache
def landmarks(rig: Rig) -> np.ndarray:
    """Return the positions of the annotated joints in a right hand at rest, float [21, 3] m."""
    mesh, axes, rest = Mesh(rig.vertices, rig.faces), rig.rest[:, :3, :3], rig.rest[:, :3, 3]
    palm = axes[rig.joint("wrist"), :, 1]
    points = np.zeros((N_JOINTS, 3))
    points[WRIST] = _at_depth(mesh, rest[rig.joint("wrist")] + (0, 0, rig.wrist), palm, WRIST_SHARE)
    for finger, (chain, bones) in enumerate(zip(CHAINS, rig.phalanges, strict=True)):
        backs = axes[bones, :, 1] + np.concatenate([palm[None], axes[bones[:-1], :, 1]])  # half bent at each joint
        shares = FINGER_SHARES if finger else THUMB_SHARES
        starts = rest[bones]
        starts[0] += rig.thumb_base if finger == 0 else 0
        for joint, start, back, share in zip(chain, starts, directions(backs), shares, strict=False):
            points[joint] = _at_depth(mesh, start, back, share)
        points[chain[3]] = _fingertip(rig, mesh, bones[-1])
    return points


def _at_depth(mesh: Mesh, point: np.ndarray, back: np.ndarray, share: float) -> np.ndarray:
    """Return the point [3] above or below one in a mesh with this share of the thickness towards the `back` [3]."""
    above, below = (mesh.distance(point, direction) for direction in (back, -back))
    return point + back * (above - share * (above + below))


def _fingertip(rig: Rig, mesh: Mesh, bone: int) -> np.ndarray:
    """Return the point [3] on the nail's side of a finger's end, whose last `bone` this is."""
    rest, back = rig.rest[:, :3, 3], rig.rest[bone, :3, 1]
    along = directions(rest[bone + 1] - rest[bone])
    skin = rig.vertices[rig.weights[:, [bone, bone + 1]].sum(1) > 0.5]
    end = ((skin - rest[bone]) @ along).max() - TIP_DEPTH * rig.length
    middle = skin[np.abs((skin - rest[bone]) @ along - end) < TIP_SLAB].mean(0)
    middle += along * (end - (middle - rest[bone]) @ along)
    return middle + back * mesh.distance(middle, back)


def complete_joints(
    points: np.ndarray, valid: np.ndarray, lengths: np.ndarray, hinges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Guess missing joints of fingers whose base is valid; return points float [B, 21, 3] and which are valid now.

    Joints between two valid ones are placed where bones of their `lengths` [B, 5, 3] meet when the finger bends about
    its hinge (unit `hinges` [B, 5, 3]); a missing tip follows the joint before it.
    """
    points, valid = points.copy(), valid.copy()

    def between(start: int, end: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return _two_bone_ik(points[:, CHAINS[:, start]], points[:, CHAINS[:, end]], first, second, hinges)

    def fill(joint: int, missing: np.ndarray, guess: np.ndarray) -> None:
        joints = CHAINS[:, joint]
        points[:, joints] = np.where(missing[..., None], guess, points[:, joints])
        valid[:, joints] |= missing

    base, middle, end, tip = (valid[:, CHAINS[:, joint]] for joint in range(4))
    first, second, third = np.moveaxis(lengths, -1, 0)
    fill(1, base & ~middle & ~end & tip, between(0, 3, first, second + third))
    fill(1, base & ~middle & end, between(0, 2, first, second))
    middle = valid[:, CHAINS[:, 1]]
    fill(2, middle & ~end & tip, between(1, 3, second, third))
    fill(3, valid[:, CHAINS[:, :3]].all(2) & ~tip, _guess_tips(points, third))
    return points, valid


def _two_bone_ik(
    start: np.ndarray, end: np.ndarray, first: np.ndarray, second: np.ndarray, hinge: np.ndarray
) -> np.ndarray:
    """Return where bones `first` and `second` long [...] between points [..., 3] meet, towards the back of the hand."""
    along = directions(end - start)
    distance = np.linalg.norm(end - start, axis=-1)
    reach = np.clip((distance**2 + first**2 - second**2) / np.maximum(2 * distance, 1e-9), -first, first)
    back = directions(np.cross(hinge, along))
    return start + along * reach[..., None] + back * np.sqrt(first**2 - reach**2)[..., None]


def _guess_tips(points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return tips [B, 5, 3] of last bones of these lengths, bent END_OVER_MIDDLE times as far as the bones before."""
    bones = directions(np.diff(points[:, CHAINS[:, :3]], axis=2))
    bend = np.arccos(np.clip((bones[:, :, 0] * bones[:, :, 1]).sum(-1), -1, 1))
    axis = directions(np.cross(bones[:, :, 0], bones[:, :, 1]))
    last = rotate(rotation_about(axis, END_OVER_MIDDLE * bend), bones[:, :, 1])
    return points[:, CHAINS[:, 2]] + lengths[..., None] * last


def directions(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., 3] scaled to length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def rotate(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Apply matrices [..., 3, 3] to vectors [..., 3]."""
    return (matrices @ vectors[..., None])[..., 0]


def rotation_about(axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return rotations [..., 3, 3] by `angles` [...] (rad) about unit vectors [..., 3]."""
    vectors = axes * angles[..., None]  # flat: SciPy is several times slower on arrays of more dimensions
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)


def rotation_towards(start: np.ndarray, goal: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return the smallest rotations [..., 3, 3] of unit vectors [..., 3] onto others, of `largest` (rad) at most."""
    axes = np.cross(start, goal)
    angles = np.arctan2(np.linalg.norm(axes, axis=-1), (start * goal).sum(-1))
    return rotation_about(directions(axes), np.minimum(angles, largest))


def bend_and_lean(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return angles [...] (rad) of vectors [..., 3] in a joint's frame, from −z (straight): towards −y, then to −x."""
    x, y, z = np.moveaxis(directions(vectors), -1, 0)
    return np.arctan2(-y, -z), -np.arcsin(np.clip(x, -1, 1))


def bone_rotation(bend: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Return rotations [..., 3, 3] that take −z to where `bend_and_lean` gives these angles [...].

    Written out: SciPy's `from_euler("XY", …)` gives the same and takes 2 to 9 times as long.
    """
    bend, lean = np.broadcast_arrays(bend, lean)
    cb, sb, cl, sl = np.cos(bend), np.sin(bend), np.cos(lean), np.sin(lean)
    rows = [cl, np.zeros_like(cl), sl, -sl * sb, cb, cl * sb, -sl * cb, -sb, cl * cb]
    return np.stack(rows, -1).reshape(*cl.shape, 3, 3)


def nearest_angle(angles: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return the same angles (rad), within half a turn of `middle`."""
    return (angles - middle + np.pi) % (2 * np.pi) - np.pi + middle
