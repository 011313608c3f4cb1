"""Camera rays through pixel centres → amodal masks, which hand is in front, depth and normals."""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from ethand_utils.labels import FRONT_LEFT, FRONT_NONE, FRONT_RIGHT, LEFT, RIGHT

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
        x, y = np.meshgrid((at - self.centre[0]) / self.focal[0], (at - self.centre[1]) / self.focal[1])
        rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)
        return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Hits:
    """What n rays meet first on one mesh: `hit` bool [n], `depth` float [n] along the ray (m, FAR if nothing).

    For the m hits, `corners` int [m, 3] are the vertices of the triangle and `bary` float [m, 3] their weights.
    """

    hit: np.ndarray
    depth: np.ndarray
    corners: np.ndarray
    bary: np.ndarray

    def at(self, values: np.ndarray) -> np.ndarray:
        """Per-vertex `values` [V, k] interpolated at the hits: float [m, k]."""
        return np.einsum("mc,mck->mk", self.bary, values[self.corners])


class Mesh:
    """A triangle mesh ready for rays: `vertices` float [V, 3] (m, camera frame), `faces` int [F, 3] wound outwards."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices, self.faces = vertices, faces
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, vertices[faces].astype(np.float32))

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of rays from `origins` float32 [n, 3] along unit `directions` float32 [n, 3]."""
        found = self._scene.run(origins, directions, query="INTERSECT", output=True)
        hit = found["primID"] >= 0
        u, v = found["u"][hit], found["v"][hit]
        return Hits(
            hit=hit,
            depth=np.where(hit, found["tfar"], FAR),
            corners=self.faces[found["primID"][hit]],
            bary=np.stack([1 - u - v, u, v], 1).astype(np.float64),
        )

    def blocks(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether each ray meets the mesh at all: bool [n]."""
        return self._scene.run(origins, directions, query="OCCLUDED") >= 0

    def normals(self) -> np.ndarray:
        """Area-weighted unit vertex normals float [V, 3], outwards."""
        corners = self.vertices[self.faces]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        shares = [
            np.bincount(self.faces.ravel(), np.repeat(across[:, axis], 3), len(self.vertices)) for axis in range(3)
        ]
        normals = np.stack(shares, axis=1)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def amodal_masks(hits: list[Hits | None], part_weights: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks uint8 [2, size, size] of each hand as if alone, and `front` uint8 [size, size].

    `hits` are left's and right's (None: absent); `part_weights` float [V, N_CLASSES] say how far a vertex belongs to
    each part. A limb is in front where it is nearer, its forearm included, so that an arm before the other hand
    occludes it; `front` is FRONT_NONE where neither mask has a part.
    """
    masks = np.zeros((2, size * size), np.uint8)
    depth = np.full((2, size * size), FAR)
    for hand, found in enumerate(hits):
        if found is not None:
            masks[hand, found.hit] = found.at(part_weights).argmax(1)
            depth[hand] = found.depth
    front = np.where(depth[LEFT] <= depth[RIGHT], FRONT_LEFT, FRONT_RIGHT)
    front[~masks.any(0)] = FRONT_NONE
    return masks.reshape(2, size, size), front.astype(np.uint8).reshape(size, size)


def z_depth(hits: list[Hits | None], rays: np.ndarray, size: int) -> np.ndarray:
    """Distance along the camera's axis float32 [2, size, size] m of each limb as if alone, 0 where nothing is.

    `hits` are left's and right's (None: absent) of `rays` float32 [size·size, 3] as `Camera.rays` gives them.
    """
    depth = np.zeros((2, size * size), np.float32)
    for hand, found in enumerate(hits):
        if found is not None:
            depth[hand, found.hit] = (found.depth * rays[:, 2])[found.hit]
    return depth.reshape(2, size, size)
