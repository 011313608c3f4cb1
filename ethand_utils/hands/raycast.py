"""Pinhole cameras, and triangle meshes that rays are cast at."""

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

FAR = 1e6  # m, depth of pixels whose ray hits nothing
STEP = 2e-5  # m behind a surface where a ray that goes through it sets out again


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at the origin looking along +z, y down: `focal` and `centre` (x, y) in px."""

    focal: tuple[float, float]
    centre: tuple[float, float]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return pixel coordinates float [..., 2] of points [..., 3]; pixel (i, j) covers [i, i + 1) × [j, j + 1)."""
        return points[..., :2] / points[..., 2:] * self.focal + self.centre

    def crop(self, x: float, y: float, side: float, size: int) -> "Camera":
        """Return the camera whose `size`×`size` image is the square (x, y, side) px of this one's."""
        zoom = size / side
        fx, fy = self.focal
        cx, cy = self.centre
        return Camera((fx * zoom, fy * zoom), ((cx - x) * zoom, (cy - y) * zoom))

    def rays(self, size: int) -> np.ndarray:
        """Return unit directions float32 [size·size, 3] through the pixel centres, row by row."""
        pixels = np.arange(size) + 0.5
        x, y = ((pixels - c).astype(np.float32) / np.float32(f) for c, f in zip(self.centre, self.focal, strict=True))
        rays = np.empty((size, size, 3), np.float32)
        rays[..., 0], rays[..., 1], rays[..., 2] = x, y[:, None], 1
        rays /= np.sqrt(1 + x**2 + (y**2)[:, None])[..., None]
        return rays.reshape(-1, 3)


@dataclass(frozen=True)
class Hits:
    """First hits of a camera's rays on one mesh: m of the size·size pixels.

    `pixels` int [m] are their indices row by row, `depth` float32 [m] the distance along the ray in m, `faces`
    int [m] the triangles, `corners` int [m, 3] their vertices and `bary` float32 [m, 3] their weights.
    """

    pixels: np.ndarray
    depth: np.ndarray
    faces: np.ndarray
    corners: np.ndarray
    bary: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Interpolate per-vertex `values` [V, k] at the hits: [m, k]."""
        return np.einsum("mc,mck->mk", self.bary, values[self.corners])

    def subset(self, which: np.ndarray) -> "Hits":
        """Return the hits that `which` bool [m] or int selects."""
        return Hits(*(getattr(self, each.name)[which] for each in fields(self)))

    @staticmethod
    def concatenate(hits: list["Hits"]) -> "Hits":
        """Return several hits as one."""
        return Hits(*(np.concatenate([getattr(each, one.name) for each in hits]) for one in fields(Hits)))

    def full_depth(self, size: int) -> np.ndarray:
        """Return `depth` of all pixels float32 [size·size], FAR where nothing is hit."""
        depth = np.full(size * size, FAR, np.float32)
        depth[self.pixels] = self.depth
        return depth


class Mesh:
    """A triangle mesh ready for rays: `vertices` float [V, 3] (m, camera frame), `faces` int [F, 3] wound outwards."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices, self.faces = vertices, faces
        self._scene = EmbreeScene(device=_device())
        TriangleMesh(self._scene, vertices.astype(np.float32), faces.astype(np.int32))

    def first_hits(
        self,
        camera: Camera,
        size: int,
        rays: np.ndarray,
        rotation: np.ndarray | None = None,
        translation: np.ndarray | None = None,
    ) -> Hits:
        """Return the first hits of a camera's `rays` float32 [size·size, 3]; only those near the mesh are cast.

        With `rotation` [3, 3] and `translation` [3] m, `vertices` are in the world's frame and a point p is at
        rotation · (p − translation) in the camera's frame, so that one mesh serves many cameras.
        """
        posed = rotation is not None
        pixels = camera.project((self.vertices - translation) @ rotation.T if posed else self.vertices)
        low = np.clip(np.floor(pixels.min(0)).astype(int), 0, size)
        high = np.clip(np.ceil(pixels.max(0)).astype(int), 0, size)
        window = (np.arange(low[1], high[1])[:, None] * size + np.arange(low[0], high[0])).ravel()
        if not len(window):
            return self._cast(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), window)
        directions, origins = rays[window], np.zeros((len(window), 3), np.float32)
        if posed:
            directions, origins = directions @ rotation.astype(np.float32), origins + translation.astype(np.float32)
        return self._cast(origins, directions, window)

    def through(self, rays: np.ndarray, hits: Hits, seen: int) -> Hits:
        """Return the first hits on the first `seen` faces of the mesh alone, of a camera at the origin.

        `hits` are those on all faces, of its `rays` float32 [size·size, 3]. Rays that hit another face go on behind it.
        """
        found, behind = [hits.subset(hits.faces < seen)], hits.subset(hits.faces >= seen)
        while len(behind.pixels):
            directions, start = rays[behind.pixels], behind.depth + STEP
            further = self._cast(directions * start[:, None], directions, behind.pixels, start)
            found.append(further.subset(further.faces < seen))
            behind = further.subset(further.faces >= seen)
        return Hits.concatenate(found)

    def distance(self, point: np.ndarray, direction: np.ndarray) -> float:
        """Return how far (m) the mesh is from a `point` [3] in a unit `direction` [3]; NaN where it is not."""
        hits = self._cast(point[None].astype(np.float32), direction[None].astype(np.float32), np.zeros(1, int))
        return float(hits.depth[0]) if len(hits.depth) else float("nan")

    def _cast(self, origins: np.ndarray, directions: np.ndarray, pixels: np.ndarray, start=0.0) -> Hits:
        """Return the first hits of the rays [n] of these `pixels` that set out at depths `start` m."""
        result = self._scene.run(origins, directions, query="INTERSECT", output=True)
        hit = np.flatnonzero(result["primID"] >= 0)
        faces, u, v = result["primID"][hit], result["u"][hit], result["v"][hit]
        depth = (result["tfar"] + start)[hit]
        return Hits(pixels[hit], depth, faces, self.faces[faces], np.stack([1 - u - v, u, v], 1))

    def blocks(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return whether rays from `origins` float32 [n, 3] along `directions` float32 [n, 3] hit it: bool [n]."""
        return self._scene.run(origins, directions, query="OCCLUDED") >= 0


@cache
def _device() -> EmbreeDevice:
    return EmbreeDevice()


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Compute area-weighted unit vertex normals float [V, 3], outwards."""
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    shares = [np.bincount(faces.ravel(), np.repeat(across[:, axis], 3), len(vertices)) for axis in range(3)]
    normals = np.stack(shares, axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
