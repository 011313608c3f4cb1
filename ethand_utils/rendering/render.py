"""Renderer of scenes: image, amodal masks, the hand in front, and depth."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.amodal import amodal_masks, beyond_frame
from ethand_utils.hands.raycast import FAR, Camera, Hits, Mesh
from ethand_utils.labels import FRONT_NONE
from ethand_utils.rendering.backdrop import background, camera_response
from ethand_utils.rendering.scenes import Limb, Scene
from ethand_utils.rendering.skin import Surface, skin_fields, surface

LAMPS = 16  # directions that stand for the dome's lights
SKIN_OFFSET = 0.8e-3  # m above the skin, where rays to the lamps begin
CLEFT, CLEFT_DEPTH, CLEFT_DARKNESS = 0.035, 0.006, 0.6  # share of the crop's side, m, share of the light lost
BOUNCE = 0.035  # of the light that reaches every point by way of other skin


def render(scene: Scene, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Render `image` uint8 [size, size, 3] RGB of a scene, and `masks`, `front` and `depth` as `render_masks` does."""
    camera, rays = _view(scene, size)
    meshes = [limb and Mesh(limb.vertices, limb.faces) for limb in scene.limbs]
    hits = [mesh and mesh.first_hits(camera, size, rays) for mesh in meshes]
    truth = _ground_truth(scene, meshes, hits, rays, size)
    return {"image": _shade(scene, meshes, hits, rays, size, rng), **truth}


def render_masks(scene: Scene, size: int) -> dict[str, np.ndarray]:
    """Render `masks` uint8 [2, size, size], `front` uint8 [size, size], `depth` float32 [2, size, size] of a scene.

    Depth is each arm's along the optical axis, in m, as if alone; 0 where there is none.
    """
    camera, rays = _view(scene, size)
    meshes = [limb and Mesh(limb.vertices, limb.faces) for limb in scene.limbs]
    hits = [mesh and mesh.first_hits(camera, size, rays) for mesh in meshes]
    return _ground_truth(scene, meshes, hits, rays, size)


def _view(scene: Scene, size: int) -> tuple[Camera, np.ndarray]:
    """Return the crop's camera and its rays."""
    camera = scene.camera.crop(*scene.crop, size)
    return camera, camera.rays(size)


def _ground_truth(
    scene: Scene, meshes: list[Mesh | None], hits: list[Hits | None], rays: np.ndarray, size: int
) -> dict[str, np.ndarray]:
    """Return `masks`, `front` and `depth` of both limbs' meshes and first hits, 0 outside the frame."""
    alone = [
        limb and mesh.through(rays, limb_hits, len(limb.rig.faces))
        for limb, mesh, limb_hits in zip(scene.limbs, meshes, hits, strict=True)
    ]
    masks, front = amodal_masks(hits, alone, [limb and limb.rig.part_weights for limb in scene.limbs], size)
    depth = np.zeros((2, size * size), np.float32)
    for hand, limb_hits in enumerate(hits):
        if limb_hits is not None:
            depth[hand, limb_hits.pixels] = limb_hits.depth * rays[limb_hits.pixels, 2]
    depth = depth.reshape(2, size, size)
    outside = beyond_frame(scene.crop, size, scene.frame)
    masks[:, outside], front[outside], depth[:, outside] = 0, FRONT_NONE, 0
    return {"masks": masks, "front": front, "depth": depth}


def _shade(scene, meshes, hits, rays: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the camera's image of the nearest surfaces in the light of the dome."""
    colour = background(scene, size, rng).reshape(-1, 3)
    depth = [limb_hits.full_depth(size) if limb_hits else np.full(size * size, FAR, np.float32) for limb_hits in hits]
    lamps, power = _sample_lamps(rng)
    casters = [mesh for mesh in meshes if mesh]
    greens = []
    for hand, (limb, limb_hits) in enumerate(zip(scene.limbs, hits, strict=True)):
        if limb_hits is not None:
            visible = limb_hits.subset(limb_hits.depth <= depth[1 - hand][limb_hits.pixels])
            colour[visible.pixels] = _shade_limb(scene.subject, limb, visible, casters, (lamps, power), rays, rng)
            greens.append(colour[visible.pixels, 1])
    colour *= _clefts(np.minimum(*depth), size)[:, None]
    grey = float(np.median(np.concatenate(greens))) if sum(map(len, greens)) else 0.2
    image = camera_response(colour.reshape(size, size, 3), max(grey, 1e-3), rng)
    image[beyond_frame(scene.crop, size, scene.frame)] = 0
    return image


def _shade_limb(subject, limb: Limb, visible: Hits, casters: list[Mesh], dome, rays, rng) -> np.ndarray:
    """Return radiance float32 [m, 3] at the `visible` hits of a limb, lit by the `dome` (lamps, power)."""
    used = np.zeros(len(limb.vertices), bool)
    used[visible.corners] = True
    light = np.zeros((len(used), 4), np.float32)
    light[used] = _light(limb, used, casters, *dome)
    values = visible.interpolate(np.concatenate([skin_fields(limb.rig), limb.normals, light], axis=1, dtype=np.float32))
    fields, normals, light = np.split(values, [-7, -4], axis=1)
    skin = surface(fields, subject, rng)
    return _skin_radiance(skin, normals, light[:, 0], light[:, 1:], rays[visible.pixels])


def _clefts(depth: np.ndarray, size: int) -> np.ndarray:
    """Return the share of light left in narrow clefts, as between two fingers, float32 [size·size].

    There the surface, of `depth` float [size·size] m, lies behind the surfaces on both sides of it. Light computed at
    vertices is too coarse for them.
    """
    depth = depth.reshape(size, size)
    wide = max(3, round(CLEFT * size) | 1)
    behind = depth - cv2.morphologyEx(depth, cv2.MORPH_OPEN, np.ones((wide, wide), np.uint8))
    dark = np.where(depth < FAR, np.minimum(behind, CLEFT_DEPTH) / CLEFT_DEPTH, 0).astype(np.float32)
    return 1 - CLEFT_DARKNESS * cv2.blur(dark, (3, 3)).ravel()


def _sample_lamps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sample directions float32 [LAMPS, 3] to the dome's lights and their powers [LAMPS], which add up to about 4.

    Light comes from everywhere, more from one side and from above, so that a surface that faces it gets about 1.
    """
    step = np.arange(LAMPS) + 0.5
    y, angle = 1 - 2 * step / LAMPS, np.pi * (1 + 5**0.5) * step
    lamps = np.stack([np.cos(angle) * np.sqrt(1 - y**2), y, np.sin(angle) * np.sqrt(1 - y**2)], 1)
    lamps = Rotation.random(rng=rng).apply(lamps)
    side = np.array([rng.choice([-1, 1]) * rng.uniform(0.3, 1), -rng.uniform(0.0, 1.0), -rng.uniform(-0.2, 1.0)])
    side /= np.linalg.norm(side)
    strong = np.clip(lamps @ side, 0, 1) ** rng.uniform(1, 6)
    power = rng.uniform(0.15, 0.6) + rng.uniform(0.5, 4) * strong + rng.uniform(0, 0.6) * np.clip(-lamps[:, 1], 0, 1)
    return lamps.astype(np.float32), (power * 4 / power.sum()).astype(np.float32)


def _light(limb: Limb, used: np.ndarray, casters: list[Mesh], lamps: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return the light at the vertices `used` bool [V]: float32 [n, 4], irradiance and its vector (power · direction).

    Shadow rays start at vertices, between which light is interpolated: soft shadows for about two rays a pixel.
    """
    normals = limb.normals[used].astype(np.float32)
    facing = normals @ lamps.T
    which, lamp = np.nonzero(facing > 0)
    origins = (limb.vertices[used] + normals * SKIN_OFFSET).astype(np.float32)[which]
    directions = lamps[lamp]
    shadowed = np.zeros(len(which), bool)
    for caster in casters:
        shadowed |= caster.blocks(origins, directions)
    arriving = np.zeros_like(facing)
    arriving[which, lamp] = power[lamp] * ~shadowed
    return np.concatenate([np.einsum("vk,vk->v", arriving, facing)[:, None], arriving @ lamps], axis=1)


def _skin_radiance(skin: Surface, normals, light, towards, rays) -> np.ndarray:
    """Return radiance float32 [m, 3] of skin: relief shifts `light`, shadows are redder, edges darker, oil shines."""
    light = np.maximum(light + _dot(skin.relief, towards), 0) + BOUNCE
    strength = np.sqrt(_dot(towards, towards))
    half = towards / np.maximum(strength, 1e-6)[:, None] - rays
    glint = _dot(normals + skin.relief, half) / np.sqrt(_dot(half, half))
    shine = skin.gloss * 0.05 * strength * np.clip(glint, 0, 1) ** 24
    rim = 1 - 0.3 * np.clip(1 + _dot(normals, rays), 0, 1) ** 2
    warm = light[:, None] ** np.array([0.93, 1.0, 1.05], np.float32)
    return skin.albedo * (warm * rim[:, None]) + shine[:, None]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("mk,mk->m", a, b)
