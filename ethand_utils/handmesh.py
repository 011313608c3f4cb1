"""A rigged hand: the generic WebXR mesh given a shape, posed, mirrored."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.labels import FINGERS, N_CLASSES, PALM
from ethand_utils.meshfile import mesh_file, read_glb

FOREARM_START, FOREARM_LENGTH = 0.008, 0.26  # m from the wrist
FOREARM_SIDES = 24
PHALANGES = {
    "thumb": ("metacarpal", "phalanx-proximal", "phalanx-distal"),
    "finger": ("phalanx-proximal", "phalanx-intermediate", "phalanx-distal"),
}

# Joint limits, rad: (spread, base flexion, middle flexion, end flexion), as lower and upper bound a finger.
# Spread is about the dorsal axis, towards the thumb side positive; the thumb's base is its carpometacarpal joint.
LIMITS = np.radians(
    [
        [[-25, 20], [-20, 35], [-10, 55], [-10, 75]],
        [[-12, 18], [-15, 85], [0, 105], [0, 75]],
        [[-12, 12], [-15, 88], [0, 105], [0, 75]],
        [[-15, 12], [-15, 88], [0, 105], [0, 75]],
        [[-25, 10], [-15, 88], [0, 100], [0, 75]],
    ]
)  # float [5 fingers, 4 angles, lower|upper]
WRIST_LIMITS = np.radians([[-50, 55], [-20, 15]])  # flexion, deviation


@dataclass(frozen=True)
class Rig:
    """A right hand with its forearm, at rest, wrist at the origin, fingers along −z, back of the hand towards +y.

    `vertices` float [V, 3] m, `faces` int [F, 3], `part_weights` float [V, N_CLASSES]
    (argmax: the part; 0 on the forearm), `weights` float [V, J],
    `rest` float [J, 4, 4] world matrices, `parents` int [J], `names` of the J joints (`forearm` is the root).
    """

    vertices: np.ndarray
    faces: np.ndarray
    part_weights: np.ndarray
    weights: np.ndarray
    rest: np.ndarray
    parents: tuple[int, ...]
    names: tuple[str, ...]

    def joint(self, name: str) -> int:
        """Index of a joint by name."""
        return self.names.index(name)


@dataclass(frozen=True)
class Shape:
    """One subject's hand: overall `scale`, and per finger (thumb first) relative `length` and `thickness` [5]."""

    scale: float = 1.0
    length: tuple[float, ...] = (1.0,) * 5
    thickness: tuple[float, ...] = (1.0,) * 5


@dataclass(frozen=True)
class Pose:
    """Angles in rad: `fingers` [5, 4] as in LIMITS, `wrist` [2] as in WRIST_LIMITS."""

    fingers: np.ndarray
    wrist: np.ndarray

    @staticmethod
    def clipped(fingers: np.ndarray, wrist: np.ndarray) -> "Pose":
        """A pose within the joint limits."""
        return Pose(np.clip(fingers, LIMITS[..., 0], LIMITS[..., 1]), np.clip(wrist, *WRIST_LIMITS.T))


@cache
def load_rig() -> Rig:
    """The generic right hand as a Rig, in metres."""
    vertices, faces, weights, rest, names = read_glb(mesh_file())
    to_wrist = np.linalg.inv(rest[names.index("wrist")])
    vertices = vertices @ to_wrist[:3, :3].T + to_wrist[:3, 3]
    rest = to_wrist @ rest

    # The root is a forearm joint at the wrist; the stub beyond the wrist follows it smoothly.
    beyond = np.clip((vertices[:, 2] - FOREARM_START + 0.02) / 0.02, 0, 1)[:, None]
    weights = np.concatenate([weights * (1 - beyond), beyond], axis=1)
    rest = np.concatenate([rest, np.eye(4)[None]])
    names = (*names, "forearm")
    parents = tuple(_parent(names, name) for name in names)

    joint_part = np.array([_joint_part(name) for name in names])
    part_weights = np.stack([weights[:, joint_part == part].sum(1) for part in range(N_CLASSES)], axis=1)
    # The mask ends at the wrist: background outweighs every part beyond z = 0, by linear interpolation along a face.
    part_weights[:, 0] = part_weights.max(1) + vertices[:, 2] / 0.01

    tube, tube_faces = _forearm(vertices, faces)
    tube_weights = np.zeros((len(tube), len(names)))
    tube_weights[:, -1] = 1
    return Rig(
        vertices=np.concatenate([vertices, tube]),
        faces=np.concatenate([faces, tube_faces + len(vertices)]),
        part_weights=np.concatenate([part_weights, np.eye(N_CLASSES)[[0] * len(tube)]]),
        weights=np.concatenate([weights, tube_weights]),
        rest=rest,
        parents=parents,
        names=names,
    )


def _parent(names: tuple[str, ...], name: str) -> int:
    """Index of a joint's parent: the joint before it in its finger, `wrist` for a metacarpal, −1 for the root."""
    if name == "forearm":
        return -1
    if name == "wrist":
        return names.index("forearm")
    return names.index("wrist") if name.endswith("metacarpal") else names.index(name) - 1


def _joint_part(name: str) -> int:
    """Part that a joint's skin belongs to (REFERENCE.md section 3)."""
    finger = name.split("-")[0]
    if finger not in FINGERS or (finger != "thumb" and name.endswith("metacarpal")):
        return PALM
    if name.endswith("-tip"):
        return FINGERS[finger][-1]
    suffixes = PHALANGES["thumb" if finger == "thumb" else "finger"]
    return FINGERS[finger][[name.endswith(suffix) for suffix in suffixes].index(True)]


def _forearm(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A tapered tube [V, 3], [F, 3] along +z that takes over from the mesh's stub and widens towards the elbow.

    Its section is the stub's own where it begins, just below the skin, so that no seam shows.
    """
    start, end = vertices[faces], vertices[np.roll(faces, -1, axis=1)]
    share = (FOREARM_START - start[..., 2]) / np.where(
        end[..., 2] == start[..., 2], np.inf, end[..., 2] - start[..., 2]
    )
    cut = (start + share[..., None] * (end - start))[(share > 0) & (share < 1), :2]
    centre = (cut.min(0) + cut.max(0)) / 2
    outline = np.arctan2(*(cut - centre).T[::-1])
    angle = np.linspace(-np.pi, np.pi, FOREARM_SIDES, endpoint=False)
    order = np.argsort(outline)
    radius = np.interp(angle, outline[order], np.linalg.norm(cut - centre, axis=1)[order], period=2 * np.pi)

    along = np.array([FOREARM_START, 0.016, 0.03, 0.06, 0.1, 0.15, 0.2, FOREARM_LENGTH])
    widen = np.array([0.985, 1.01, 1.04, 1.1, 1.22, 1.42, 1.58, 1.68])
    oval = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    rings = np.concatenate([np.insert(centre + oval * w, 2, z, axis=1) for z, w in zip(along, widen, strict=True)])
    i, j = np.meshgrid(np.arange(len(along) - 1), np.arange(FOREARM_SIDES), indexing="ij")
    a, b = (i * FOREARM_SIDES + j).ravel(), (i * FOREARM_SIDES + (j + 1) % FOREARM_SIDES).ravel()
    c, d = a + FOREARM_SIDES, b + FOREARM_SIDES
    return rings, np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def pose_hand(
    rig: Rig, pose: Pose, shape: Shape | None = None, side: str = "right"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose a hand by linear blend skinning.

    Returns vertices float [V, 3] (m, forearm frame), faces int [F, 3] wound outwards, and joint positions
    float [J, 3]. The left hand is the right one mirrored in x; `pose` has the same meaning for both.
    """
    shape = shape or Shape()
    length, thickness = _joint_scales(rig, shape)
    local = _joint_rotations(rig, pose)
    world = np.empty_like(rig.rest)
    for joint in _parents_first(rig.parents):
        parent = rig.parents[joint]
        if parent < 0:
            world[joint] = local[joint]
            continue
        offset = np.linalg.inv(rig.rest[parent]) @ rig.rest[joint]
        offset[:3, 3] *= length[parent]
        world[joint] = world[parent] @ offset @ local[joint]
    stretch = np.stack([thickness, thickness, length, np.ones_like(length)], 1)
    skin = (world * stretch[:, None, :]) @ np.linalg.inv(rig.rest)
    homogeneous = np.concatenate([rig.vertices, np.ones((len(rig.vertices), 1))], 1)
    blended = (rig.weights @ skin[:, :3].reshape(len(skin), -1)).reshape(-1, 3, 4)
    vertices = np.einsum("vij,vj->vi", blended, homogeneous) * shape.scale
    joints = world[:, :3, 3] * shape.scale
    if side == "left":
        mirror = np.array([-1.0, 1.0, 1.0])
        return vertices * mirror, rig.faces[:, ::-1], joints * mirror
    return vertices, rig.faces, joints


@cache
def _parents_first(parents: tuple[int, ...]) -> tuple[int, ...]:
    """Joint indices in an order in which a parent precedes its children."""

    def depth(joint: int) -> int:
        return 0 if parents[joint] < 0 else 1 + depth(parents[joint])

    return tuple(sorted(range(len(parents)), key=depth))


def _joint_scales(rig: Rig, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Length and thickness factors [J] of every joint's bone; palm and forearm keep theirs."""
    length, thickness = np.ones(len(rig.names)), np.ones(len(rig.names))
    for finger, stretch, girth in zip(FINGERS, shape.length, shape.thickness, strict=True):
        for joint, name in enumerate(rig.names):
            if name.startswith(finger) and ("phalanx" in name or name.endswith("tip")):
                length[joint], thickness[joint] = stretch, girth
    return length, thickness


def _joint_rotations(rig: Rig, pose: Pose) -> np.ndarray:
    """Local rotations of all joints as matrices [J, 4, 4]; flexion is a negative turn about a joint's x axis."""
    local = np.tile(np.eye(4), (len(rig.names), 1, 1))
    flexion, deviation = pose.wrist
    local[rig.joint("wrist"), :3, :3] = Rotation.from_euler("YX", [deviation, -flexion]).as_matrix()
    for finger, (spread, *flexions) in zip(FINGERS, pose.fingers, strict=True):
        kind = "thumb" if finger == "thumb" else "finger"
        prefix = "thumb" if finger == "thumb" else f"{finger}-finger"
        for phalanx, flex in zip(PHALANGES[kind], flexions, strict=True):
            turn = Rotation.from_euler("YX", [spread, -flex]) if phalanx == PHALANGES[kind][0] else None
            turn = turn or Rotation.from_euler("X", -flex)
            local[rig.joint(f"{prefix}-{phalanx}"), :3, :3] = turn.as_matrix()
    return local
