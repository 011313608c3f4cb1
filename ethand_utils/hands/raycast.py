"""Camera rays through pixel centres → amodal masks, which hand is in front, depth and normals."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

FAR = 1e6  # m


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at the origin looking along +z, y down: `focal` and `centre` (x, y) in px."""

    focal: tuple[float, float]
    centre: tuple[float, float]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel coordinates float [..., 2] of points [..., 3]; pixel (i, j) covers [i, i + 1) × [j, j + 1)."""
        return points[..., :2] / points[..., 2:] * self.focal + self.centre

    def crop(self, x: float, y: float, side: float, size: int) -> "Camera":
        """The camera whose `size`×`size` image is the square (x, y, side) of this one's."""
        zoom = size / side
        fx, fy = self.focal
        cx, cy = self.centre
        return Camera((fx * zoom, fy * zoom), ((cx - x) * zoom, (cy - y) * zoom))

    def rays(self, size: int) -> np.ndarray:
        """Unit directions float32 [size·size, 3] through the pixel centres, row by row."""
        at = np.arange(size) + 0.5
        x, y = ((at - c).astype(np.float32) / np.float32(f) for c, f in zip(self.centre, self.focal, strict=True))
        rays = np.empty((size, size, 3), np.float32)
        rays[..., 0], rays[..., 1], rays[..., 2] = x, y[:, None], 1
        rays /= np.sqrt(1 + x**2 + (y**2)[:, None])[..., None]
        return rays.reshape(-1, 3)


@dataclass(frozen=True)
class Hits:
    """What a camera's rays meet first on one mesh, for the m of its size·size pixels that meet it.

    `pixels` int [m] are their indices row by row, `depth` float32 [m] the way along the ray in m; `corners` int [m, 3]
    the vertices of the triangle and `bary` float32 [m, 3] their weights.
    """

    pixels: np.ndarray
    depth: np.ndarray
    corners: np.ndarray
    bary: np.ndarray

    def at(self, values: np.ndarray) -> np.ndarray:
        """Per-vertex `values` [V, k] interpolated at the hits: [m, k]."""
        return np.einsum("mc,mck->mk", self.bary, values[self.corners])

    def chosen(self, which: np.ndarray) -> "Hits":
        """The hits that `which` bool [m] or int picks."""
        return Hits(self.pixels[which], self.depth[which], self.corners[which], self.bary[which])

    def full_depth(self, size: int) -> np.ndarray:
        """`depth` of all pixels float32 [size·size], FAR where nothing is met."""
        depth = np.full(size * size, FAR, np.float32)
        depth[self.pixels] = self.depth
        return depth


class Mesh:
    """A triangle mesh ready for rays: `vertices` float [V, 3] (m, camera frame), `faces` int [F, 3] wound outwards."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices, self.faces = vertices, faces
        self._scene = EmbreeScene(device=_device())
        TriangleMesh(self._scene, vertices.astype(np.float32), faces.astype(np.int32))

    def seen(
        self,
        camera: Camera,
        size: int,
        rays: np.ndarray,
        turn: np.ndarray | None = None,
        position: np.ndarray | None = None,
    ) -> Hits:
        """First hits of a camera's `rays` float32 [size·size, 3], of which only those near the mesh are cast.

        With `turn` [3, 3] and `position` [3], the camera stands there, and `vertices` are in the world's frame: a
        point p is at turn · (p − position) before it. So one mesh serves many cameras.
        """
        moved = turn is not None
        at = camera.project((self.vertices - position) @ turn.T if moved else self.vertices)
        low = np.clip(np.floor(at.min(0)).astype(int), 0, size)
        high = np.clip(np.ceil(at.max(0)).astype(int), 0, size)
        window = (np.arange(low[1], high[1])[:, None] * size + np.arange(low[0], high[0])).ravel()
        if not len(window):
            return Hits(window, np.zeros(0, np.float32), np.zeros((0, 3), int), np.zeros((0, 3), np.float32))
        directions, origins = rays[window], np.zeros((len(window), 3), np.float32)
        if moved:
            directions, origins = directions @ turn.astype(np.float32), origins + position.astype(np.float32)
        found = self._scene.run(origins, directions, query="INTERSECT", output=True)
        hit = np.flatnonzero(found["primID"] >= 0)
        u, v = found["u"][hit], found["v"][hit]
        corners = self.faces[found["primID"][hit]]
        return Hits(window[hit], found["tfar"][hit], corners, np.stack([1 - u - v, u, v], 1))

    def blocks(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether rays from `origins` float32 [n, 3] along `directions` float32 [n, 3] meet the mesh: bool [n]."""
        return self._scene.run(origins, directions, query="OCCLUDED") >= 0


@cache
def _device() -> EmbreeDevice:
    return EmbreeDevice()


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit vertex normals float [V, 3], outwards."""
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    shares = [np.bincount(faces.ravel(), np.repeat(across[:, axis], 3), len(vertices)) for axis in range(3)]
    normals = np.stack(shares, axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
