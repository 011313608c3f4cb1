"""The skin of a right arm at rest: split into a hand, closed at the wrist, and a forearm; the borders of its parts."""

from dataclasses import dataclass, replace

import numpy as np

from ethand_utils.hands.rig import PHALANGES, Rig
from ethand_utils.labels import FINGERS, N_CLASSES, PALM

# A hand ends beyond the wrist joint by this share of its length from there to the middle fingertip, which is 13 mm in
# the hand of 157 mm that MANO's definitions were measured on (REFERENCE.md section 4, as all that follows).
WRIST_END = 0.013 / 0.157
WRIST_BLEND = 0.035  # m beyond a hand's end in which the skin of a bent arm passes from the hand to the forearm
THUMB = 3  # weight of the thumb's joints over the palm's: its metacarpal then reaches its annotated joints on the back
BORDER = 0.008  # m about a border between two parts in which their weights change

# Borders of parts beyond the joints, as shares of that length, index to pinky; at the knuckles, on the back and on the
# palm's side. Those of the thumb lie at its joints.
KNUCKLE_BACK = -0.7 / 157
KNUCKLE_PALM = np.array([5.8, -1.0, 2.2, 1.8]) / 157
END_JOINT = np.array([3.6, 6.0, 1.5, 1.5]) / 157


@dataclass(frozen=True)
class Surface:
    """The skin of a right arm at rest: wrist at the origin, fingers along −z, back of the hand towards +y, in m.

    A closed surface of `vertices` float [V, 3] and `faces` int [F, 3], wound outwards; skinning `weights` float [V, J]
    and world matrices `rest` float [J, 4, 4] of the J joints `names`, WebXR's. The annotated wrist is at z = `wrist` m,
    the annotated base of the thumb `thumb_base` [3] m from the rig's own, both before `joints.landmarks` sets their
    depth.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    rest: np.ndarray
    names: tuple[str, ...]
    wrist: float = 0.0
    thumb_base: tuple[float, float, float] = (0.0, 0.0, 0.0)


def build_rig(surface: Surface) -> Rig:
    """Build a rig from an arm's skin."""
    end = surface.wrist + WRIST_END * (surface.wrist - surface.vertices[:, 2].min())
    vertices, weights, hand, forearm = _split(surface, end)
    edge = hole_edge(hand)
    vertices = np.concatenate([vertices, vertices[edge].mean(0, keepdims=True)])
    weights = np.concatenate([weights, weights[edge].mean(0, keepdims=True)])
    hand = np.concatenate([hand, fan_faces(edge, len(vertices) - 1)])
    of_hand = np.isin(np.arange(len(vertices)), hand)
    order = np.argsort(~of_hand, kind="stable")  # the hand's vertices first
    index = np.argsort(order)

    names = (*surface.names, "forearm")
    bare = Rig(
        vertices=vertices[order],
        faces=index[hand],
        forearm=index[forearm],
        part_weights=np.zeros((len(order), N_CLASSES)),
        weights=_bend_wrist(weights, vertices[:, 2] - end, names)[order],
        rest=np.concatenate([surface.rest, np.eye(4)[None]]),
        names=names,
        wrist=surface.wrist,
        thumb_base=surface.thumb_base,
    )
    return replace(bare, part_weights=_part_weights(bare))


def _split(surface: Surface, end: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut a surface in the plane z = `end`: return vertices, weights, the faces before it and those beyond it.

    Both sides share the new vertices along the cut.
    """
    vertices, weights, faces = surface.vertices, surface.weights, surface.faces
    beyond = vertices[faces, 2] > end
    count = beyond.sum(1)
    mixed = (count == 1) | (count == 2)
    alone = np.where(count == 1, beyond.argmax(1), (~beyond).argmax(1))[mixed]  # the corner on a side of its own
    a, b, c = np.take_along_axis(faces[mixed], (alone[:, None] + np.arange(3)) % 3, axis=1).T
    ends, new = np.unique(np.sort([np.r_[a, a], np.r_[b, c]], axis=0), axis=1, return_inverse=True)
    low, high = vertices[ends, 2]
    share = ((end - low) / (high - low))[:, None]
    vertices, weights = (
        np.concatenate([values, values[ends[0]] * (1 - share) + values[ends[1]] * share])
        for values in (vertices, weights)
    )
    ab, ac = new.reshape(2, -1) + len(surface.vertices)
    corner = np.stack([a, ab, ac], 1)
    others = np.concatenate([np.stack([ab, b, c], 1), np.stack([ab, c, ac], 1)])
    lone_beyond = count[mixed] == 1
    both = np.tile(lone_beyond, 2)
    hand = np.concatenate([faces[count == 0], corner[~lone_beyond], others[both]])
    return vertices, weights, hand, np.concatenate([faces[count == 3], corner[lone_beyond], others[~both]])


def _bend_wrist(weights: np.ndarray, beyond: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return weights with the forearm's, which takes over `beyond` [V] m the hand's end; the hand is stiff there."""
    forearm = np.clip(beyond / WRIST_BLEND, 0, 1)[:, None]
    wrist = np.eye(len(names) - 1)[names.index("wrist")]
    hand = np.where(beyond[:, None] > 0, wrist, weights)
    return np.concatenate([hand * (1 - forearm), forearm], axis=1)


def _part_weights(rig: Rig) -> np.ndarray:
    """Return weights of the parts float [V, N_CLASSES]: a finger is what its joints move, and is divided at its joints.

    Beyond the hand, all weight is the background's.
    """
    part_weights = np.zeros((len(rig.vertices), N_CLASSES))
    part_weights[:, PALM] = rig.weights[:, rig.joint("wrist")]
    for finger, (bones, parts) in enumerate(zip(rig.phalanges, FINGERS.values(), strict=True)):
        first = bones[0] - (finger > 0)  # the palm's bones of the other fingers move with them
        own = rig.weights[:, first : bones[-1] + 2].sum(1)
        past = np.clip(0.5 + _past_borders(rig, finger, own > 0.5) / BORDER, 0, 1)
        shares = np.minimum(np.vstack([np.ones_like(own), past]), np.vstack([1 - past, np.ones_like(own)]))
        for part, share in zip((PALM, *parts), shares, strict=True):
            part_weights[:, part] += own * share * (THUMB if finger == 0 else 1)
    part_weights[rig.faces.max() + 1 :] = np.eye(N_CLASSES)[0]
    return part_weights


def _past_borders(rig: Rig, finger: int, own: np.ndarray) -> np.ndarray:
    """Return how far (m) vertices lie past the borders in front of a finger's three parts: float [3, V].

    The vertices `own` bool [V] are the finger's. The thumb's metacarpal has no such border.
    """
    past = np.full((len(PHALANGES["finger"]), len(rig.vertices)), np.inf)
    joints, axes = rig.rest[:, :3, 3], rig.rest[:, :3, :3]
    for border, joint in enumerate(rig.phalanges[finger]):
        if finger == 0 and border == 0:
            continue
        along = joints[joint + 1] - joints[joint - 1]
        past[border] = (rig.vertices - joints[joint]) @ (along / np.linalg.norm(along))
        if finger > 0 and border == 0:
            height = (rig.vertices - joints[joint]) @ axes[joint, :, 1]
            low, high = np.quantile(height[own & (np.abs(past[border]) < BORDER)], (0, 1))
            back = np.clip((height - low) / (high - low), 0, 1)
            past[border] -= rig.length * (back * KNUCKLE_BACK + (1 - back) * KNUCKLE_PALM[finger - 1])
        if finger > 0 and border == 2:
            past[border] -= rig.length * END_JOINT[finger - 1]
    return past


def hole_edge(faces: np.ndarray) -> np.ndarray:
    """Return the vertices along the only hole in a mesh, int [n], in the order in which its faces run.

    Raises ValueError when the mesh has no hole, or several.
    """
    directed = {(a, b) for a, b in np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()}
    successor = {a: b for a, b in directed if (b, a) not in directed}
    edge = sorted(successor)[:1]
    while edge and successor.get(edge[-1]) not in (None, *edge):
        edge.append(successor[edge[-1]])
    if not edge or successor.get(edge[-1]) != edge[0] or len(edge) < len(successor):
        raise ValueError("the mesh is not open in one place alone")
    return np.array(edge)


def fan_faces(edge: np.ndarray, apex: int) -> np.ndarray:
    """Return faces int [n, 3] that close a hole with this `edge` int [n], of `hole_edge`, about the vertex `apex`."""
    return np.stack([np.roll(edge, -1), edge, np.full(len(edge), apex)], axis=1)
