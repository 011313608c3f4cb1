"""The generic hand of the WebXR input profiles (MIT licence): its mesh, fetched once, and a forearm for it."""

import base64
import hashlib
import io
import json
import struct
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write, first_line
from ethand_utils.hands.surface import Surface, fan_faces, hole_edge

PACKAGE = "https://registry.npmjs.org/@webxr-input-profiles/assets/-/assets-1.0.20.tgz"
PACKAGE_SHA512 = "V/8NB4Ywgm//TBVMgo0TgJ9DtxsBoo0iiaF8AdfiP0F0cgbwkuQycEZAIOsplyd/iZ8L3mrFYNJBC6rzQb4tJA=="
MESH_IN_PACKAGE = "package/dist/profiles/generic-hand/right.glb"
MESH_SHA256 = "291790c14f7f88a7f9bd35330c47392ed8e8d395ae6728f4bb7089f1bc1f2b96"
MESH_FILE = "generic-hand-right-1.0.20.glb"
TIMEOUT = 60  # s without an answer of the registry

STUB = 0.008  # m beyond the wrist, where the mesh's own stub is cut and the forearm takes over
FOREARM_RINGS = (0.016, 0.03, 0.06, 0.1, 0.15, 0.2, 0.26, 0.4)  # m beyond the wrist
FOREARM_WIDTHS = (1.01, 1.04, 1.1, 1.22, 1.42, 1.58, 1.68, 1.78)  # of the rings, relative to the cut

# m: where the annotated wrist and base of the thumb lie, calibrated on InterHand2.6M.
WRIST, THUMB_BASE = -0.003, (0.0024, -0.0016, 0.0107)
WRIST_FLARE, FLARE_LENGTH = 0.06, 0.04  # share by which wrists are broader than the mesh's, and m to where that ends
# The mesh's palm is deeper than people's, whose hands are 33 mm thick (men) and 28 mm (women) of 189 and 174 mm length
# (Pheasant and Haslegrave, Bodyspace): the share of its depth below BACK (m) that is kept, and how far (m) beyond the
# middle knuckle the fingers' own depth begins.
PALM_DEPTH, BACK, PALM_END = 0.56, -0.004, 0.025


def read_webxr() -> Surface:
    """Return the generic right hand with its wrist at the origin, a palm as deep as people's, and a forearm."""
    vertices, faces, weights, rest, names = read_glb(mesh_file())
    to_wrist = np.linalg.inv(rest[names.index("wrist")])
    vertices, rest = vertices @ to_wrist[:3, :3].T + to_wrist[:3, 3], to_wrist @ rest
    vertices, rest = _thin_palm(vertices, weights, rest, names)
    vertices[:, 0] *= 1 + WRIST_FLARE * np.clip(1 + vertices[:, 2] / FLARE_LENGTH, 0, 1)

    faces = faces[(vertices[faces, 2] <= STUB).all(1)]
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces, weights = vertices[used], faces.reshape(-1, 3), weights[used]
    tube, tube_faces = _forearm(vertices, faces)
    on_wrist = np.tile(np.eye(len(names))[names.index("wrist")], (len(tube), 1))
    return Surface(
        np.concatenate([vertices, tube]),
        np.concatenate([faces, tube_faces]),
        np.concatenate([weights, on_wrist]),
        rest,
        names,
        WRIST,
        THUMB_BASE,
    )


def _thin_palm(vertices, weights, rest, names) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and rest matrices of a hand whose palm is drawn towards its back; the thumb moves along."""
    joints, middle = rest[:, :3, 3], names.index("middle-finger-phalanx-proximal")

    def rise(points: np.ndarray) -> np.ndarray:
        to_fingers = (joints[middle, 2] - points[:, 2]) / PALM_END
        share = (1 - PALM_DEPTH) * np.clip(1 - to_fingers, 0, 1)
        return share * np.clip(BACK - points[:, 1], 0, None)

    thumb = [name.startswith("thumb-phalanx") or name == "thumb-tip" for name in names]
    beyond = weights[:, thumb].sum(1)
    with_thumb = rise(joints)[names.index("thumb-phalanx-proximal")]
    vertices, rest = vertices.copy(), rest.copy()
    vertices[:, 1] += (1 - beyond) * rise(vertices) + beyond * with_thumb
    rest[:, 1, 3] += np.where(thumb, with_thumb, rise(joints))
    return vertices, rest


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


def mesh_file() -> Path:
    """Return the path of the generic right hand (glTF binary, MIT licence), fetched from npm on first use, verified.

    Raises EthandError when the registry cannot be reached or the bytes are not the expected ones.
    """
    path = Path(user_cache_dir("ethand")) / MESH_FILE
    if not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == MESH_SHA256):
        mesh = _fetch_mesh(path)
        with atomic_write(path) as temporary:
            temporary.write_bytes(mesh)
    return path


def _fetch_mesh(path: Path) -> bytes:
    """Return the mesh's bytes out of the npm package, both checked against their published digests."""
    try:
        with urllib.request.urlopen(PACKAGE, timeout=TIMEOUT) as answer:
            package = answer.read()
    except OSError as error:
        raise EthandError(
            f"the hand mesh could not be fetched from {PACKAGE} ({first_line(error)}); connect this machine to the npm "
            f"registry once, or copy {path} from a machine that has it"
        ) from None
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != PACKAGE_SHA512:
        raise EthandError(f"{PACKAGE} arrived with an unexpected checksum; check what serves the npm registry here")
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        mesh = tar.extractfile(MESH_IN_PACKAGE).read()
    if hashlib.sha256(mesh).hexdigest() != MESH_SHA256:
        raise EthandError(f"{MESH_IN_PACKAGE} in {PACKAGE} has an unexpected checksum")
    return mesh


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
