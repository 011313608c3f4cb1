"""A hand model in MANO's format, made out of the generic rig, and written as MANO's files are."""

import io
import pickle
import struct
import sys
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
from scipy.sparse import csc_matrix
from scipy.spatial.transform import Rotation

from ethand_utils.hands.joints import CHAINS, WRIST, landmarks
from ethand_utils.hands.rig import MIRROR
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import FINGERS, PALM

VERTICES, EDGE = 778, 16  # of MANO's mesh, and along its wrist; 2 · 778 − 2 − 16 = 1538 faces
JOINTS = ("index", "middle", "pinky", "ring", "thumb")  # after the wrist, three each, from the palm outwards
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
TIPS = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "pinky": 671}  # MANO's vertices at the fingertips


@cache
def made_model(vertices: int = VERTICES) -> dict:
    """A right hand with MANO's keys and shapes, in plain arrays. Read only."""
    v, f, w, joints = _ordered(*_decimated(*_cut_rig(), vertices))
    rng = np.random.default_rng(0)
    return {
        "v_template": v,
        "f": f.astype(np.uint32),
        "weights": w,
        "J": joints,
        "J_regressor": csc_matrix(_regressor(v, joints)),
        "kintree_table": np.array([PARENTS, range(16)]).astype(np.uint32),
        "shapedirs": np.stack([_wave(rng, v, 0.002) for _ in range(10)], axis=2),
        "posedirs": np.stack([_wave(rng, v, 0.0002) for _ in range(135)], axis=2),
        "hands_mean": rng.normal(0, 0.15, 45),
        "hands_components": np.linalg.qr(rng.normal(0, 1, (45, 45)))[0],
        "hands_coeffs": rng.normal(0, 1, (100, 45)),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def mirrored(model: dict, sign_fault: bool = False) -> dict:
    """The left hand of a right one. With `sign_fault`, its shapedirs have the right hand's x, as in MANO's files."""
    shape = MIRROR[:, None] * model["shapedirs"]
    axes = np.tile(-MIRROR, 15)  # an axis of rotation mirrors the other way round
    features = (MIRROR[:, None] * MIRROR * np.ones((15, 1, 1))).ravel()
    if sign_fault:
        shape[:, 0] *= -1
    return model | {
        "v_template": model["v_template"] * MIRROR,
        "f": model["f"][:, ::-1].copy(),
        "J": model["J"] * MIRROR,
        "shapedirs": shape,
        "posedirs": MIRROR[:, None] * model["posedirs"] * features,
        "hands_mean": model["hands_mean"] * axes,
    }


def skinned(model: dict, pose: np.ndarray, shape: np.ndarray, trans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MANO by its formula: vertices [V, 3] and the 16 joints of axis-angle `pose` [48], `shape` [10], `trans` [3]."""
    rotations = Rotation.from_rotvec((pose + np.append(np.zeros(3), model["hands_mean"])).reshape(16, 3)).as_matrix()
    shaped = model["v_template"] + model["shapedirs"] @ shape
    rest = model["J_regressor"] @ shaped
    bent = shaped + model["posedirs"] @ (rotations[1:] - np.eye(3)).ravel()
    axes, joints = [], []
    for joint, parent in enumerate(PARENTS):
        first = parent < 0
        axes.append(rotations[joint] if first else axes[parent] @ rotations[joint])
        joints.append(rest[joint] if first else joints[parent] + axes[parent] @ (rest[joint] - rest[parent]))
    moved = [(bent - start) @ axis.T + end for start, axis, end in zip(rest, axes, joints, strict=True)]
    return np.einsum("vj,jvk->vk", model["weights"], moved) + trans, np.array(joints) + trans


def open_edge(faces: np.ndarray) -> np.ndarray:
    """Sides of triangles, from vertex to vertex, that no other triangle shares: int [n, 2]."""
    a, b = faces.astype(int).ravel(), np.roll(faces.astype(int), -1, axis=1).ravel()
    many = faces.max() + 1
    alone = ~np.isin(a * many + b, b * many + a)
    return np.stack([a[alone], b[alone]], axis=1)


def closed(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mesh with a fan over its hole, about a last vertex in the middle of the hole's edge."""
    edge = open_edge(faces)
    middle = vertices[edge[:, 0]].mean(0)
    fan = np.insert(edge[:, ::-1], 2, len(vertices), axis=1)
    return np.vstack([vertices, middle]), np.vstack([faces.astype(int), fan])


# The file


def written(model: dict, protocol: int = 2, as_python2: bool = True) -> bytes:
    """A model pickled with chumpy's objects in it, by default as Python 2, SciPy and NumPy of MANO's time did."""
    ch, select = (
        type(name, (), {"__module__": f"chumpy.{at}"}) for name, at in (("Ch", "ch"), ("Select", "reordering"))
    )
    fakes = {"chumpy": ModuleType("chumpy"), ch.__module__: SimpleNamespace(Ch=ch)}
    fakes[select.__module__] = SimpleNamespace(Select=select)
    sys.modules.update(fakes)
    try:
        return _pickled(model | {"shapedirs": _selected(ch(), select(), model["shapedirs"])}, protocol, as_python2)
    finally:
        for name in fakes:
            del sys.modules[name]


def _selected(array, selection, shapedirs: np.ndarray):
    """Ten shape directions as MANO has them: chosen among twenty by indices into the flat array."""
    own = {"_dirty_vars": {"x"}, "_itr": None, "_make_dense": False, "_make_sparse": False, "_depends_on_deps": {}}
    count = shapedirs.shape[-1]
    twenty = np.concatenate([shapedirs, np.full_like(shapedirs, 9)], axis=2)
    array.__dict__.update(own | {"x": twenty})
    chosen = np.arange(twenty.size).reshape(twenty.shape)[..., :count].ravel()
    selection.__dict__.update(own | {"a": array, "idxs": chosen, "preferred_shape": shapedirs.shape})
    return selection


def _pickled(values: dict, protocol: int, as_python2: bool) -> bytes:
    if not as_python2:
        return pickle.dumps(values, protocol)
    file = io.BytesIO()
    _Python2Pickler(file, protocol).dump(values)
    data = file.getvalue()
    for now, then in (("numpy._core.multiarray", "numpy.core.multiarray"), ("scipy.sparse._csc", "scipy.sparse.csc")):
        data = data.replace(f"c{now}\n".encode(), f"c{then}\n".encode())
    return data


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike, as Python 2 did: in one byte a character."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_text(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text


# The mesh


def _cut_rig():
    """The rig's hand, open at its end as MANO's is: vertices, faces, weights of the 16 joints and the joints."""
    rig = load_rig()
    faces = rig.faces[(rig.faces < rig.faces.max()).all(1)]
    used, faces = np.unique(faces, return_inverse=True)
    parts = [PALM, *(part for finger in JOINTS for part in FINGERS[finger])]
    weights = rig.part_weights[used][:, parts]
    order = [list(FINGERS).index(finger) for finger in JOINTS]
    joints = landmarks(rig)[[WRIST, *CHAINS[order, :3].ravel()]]
    return rig.vertices[used], faces.reshape(-1, 3), weights / weights.sum(1, keepdims=True), joints


def _decimated(vertices, faces, weights, joints, count):
    """The mesh with `count` vertices, EDGE of them along the wrist: its shortest edges collapsed one by one."""
    while len(open_edge(faces)) > EDGE:
        vertices, faces, weights = _collapse(vertices, faces, weights, open_edge(faces))
    while len(vertices) > count:
        rim = np.unique(open_edge(faces))
        edges = np.unique(np.sort(np.concatenate([faces[:, :2], faces[:, 1:], faces[:, ::2]]), axis=1), axis=0)
        vertices, faces, weights = _collapse(vertices, faces, weights, edges[~np.isin(edges, rim).any(1)])
    return vertices, faces, weights, joints


def _collapse(vertices, faces, weights, edges):
    """The mesh with the shortest of `edges` that may go drawn together to its middle."""
    lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    for a, b in edges[np.argsort(lengths)]:
        near_a, near_b = (set(faces[(faces == end).any(1)].ravel()) for end in (a, b))
        shared = ((faces == a).any(1) & (faces == b).any(1)).sum()
        if len(near_a & near_b - {a, b}) == shared:  # else the surface would pinch
            break
    vertices, weights, faces = vertices.copy(), weights.copy(), np.where(faces == b, a, faces)
    vertices[a], weights[a] = (vertices[a] + vertices[b]) / 2, (weights[a] + weights[b]) / 2
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    return np.delete(vertices, b, 0), faces - (faces > b), np.delete(weights, b, 0)


def _ordered(vertices, faces, weights, joints):
    """The same mesh with the vertices nearest the fingertips at MANO's indices, where there are as many."""
    ends = [3 * JOINTS.index(finger) + 3 for finger in FINGERS]
    away = np.linalg.norm(vertices[:, None] - joints[ends], axis=2)
    tips = np.where(weights.argmax(1)[:, None] == ends, away, -1).argmax(0)
    order = np.arange(len(vertices))
    if len(vertices) == VERTICES:
        for finger, now in zip(FINGERS, tips, strict=True):
            here, there = np.flatnonzero(order == now)[0], TIPS[finger]
            order[[here, there]] = order[[there, here]]
    index = np.argsort(order)
    return vertices[order], index[faces], weights[order], joints


def _wave(rng: np.random.Generator, vertices: np.ndarray, size: float) -> np.ndarray:
    """A smooth displacement [V, 3] of about `size` m."""
    return size * np.sin(vertices @ rng.normal(0, 25, (3, 3)) + rng.uniform(0, 6, 3))


def _regressor(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Rows [16, V] that give the joints as weighted sums of the 40 nearest vertices."""
    rows = np.zeros((16, len(vertices)))
    for row, joint in zip(rows, joints, strict=True):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:40]
        row[near] = np.linalg.lstsq(np.vstack([vertices[near].T, np.ones(40)]), np.append(joint, 1))[0]
    return rows
