"""Renderer of scenes: image, amodal masks, the hand in front, and depth."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.amodal import amodal_masks, beyond_frame
from ethand_utils.hands.raycast import FAR, Hits, Mesh
from ethand_utils.labels import FRONT_NONE
from ethand_utils.rendering.backdrop import background, camera_response
from ethand_utils.rendering.occluders import Occluder, occluder_surface
from ethand_utils.rendering.scenes import Limb, Scene
from ethand_utils.rendering.skin import Surface, skin_fields, surface

LAMPS = 16  # directions that stand for the dome's lights
KEY, PHOTO_KEY = (0.5, 4.0), (0.0, 12.0)  # least and greatest strength of the side that most light is from
SKIN_OFFSET = 0.8e-3  # m above the skin, where rays to the lamps begin
CLEFT, CLEFT_DEPTH, CLEFT_DARKNESS = 0.035, 0.006, 0.6  # share of the crop's side, m, share of the light lost
BOUNCE = 0.035  # of the light that reaches every point by way of other skin


def render(scene: Scene, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Render `image` uint8 [size, size, 3] RGB of a scene, and the ground truth as `render_masks` does."""
    meshes, hits, rays = _cast(scene, size)
    truth = _ground_truth(scene, meshes, hits, rays, size)
    return {"image": _shade(scene, meshes, hits, rays, size, rng), **truth}


def render_masks(scene: Scene, size: int) -> dict[str, np.ndarray]:
    """Render `masks` uint8 [2, size, size], `front` uint8 [size, size], `depth` float32 [2, size, size] of a scene.

    Depth is each arm's along the optical axis, in m, as if alone; 0 where there is none. None of them knows the
    occluder, which hides `covered` bool [2, size, size] of the masks from the camera.
    """
    return _ground_truth(scene, *_cast(scene, size), size)


def _cast(scene: Scene, size: int) -> tuple[list[Mesh | None], list[Hits | None], np.ndarray]:
    """Return the meshes of both limbs and the occluder, their hits by the crop's rays, and the rays."""
    camera = scene.camera.crop(*scene.crop, size)
    rays = camera.rays(size)
    meshes = [body and Mesh(body.vertices, body.faces) for body in (*scene.limbs, scene.occluder)]
    return meshes, [mesh and mesh.first_hits(camera, size, rays) for mesh in meshes], rays


def _ground_truth(
    scene: Scene, meshes: list[Mesh | None], hits: list[Hits | None], rays: np.ndarray, size: int
) -> dict[str, np.ndarray]:
    """Return `masks`, `front`, `depth` and `covered` of the limbs' and the occluder's hits, 0 outside the frame."""
    *limb_hits, occluder_hits = hits
    alone = [
        limb and mesh.through(rays, own, len(limb.rig.faces))
        for limb, mesh, own in zip(scene.limbs, meshes[:2], limb_hits, strict=True)
    ]
    masks, front = amodal_masks(limb_hits, alone, [limb and limb.rig.part_weights for limb in scene.limbs], size)
    depth = np.zeros((2, size * size), np.float32)
    for hand, own in enumerate(limb_hits):
        if own is not None:
            depth[hand, own.pixels] = own.depth * rays[own.pixels, 2]
    covered = np.zeros((2, size * size), bool)
    if occluder_hits is not None:
        pixels = occluder_hits.pixels
        covered[:, pixels] = occluder_hits.depth * rays[pixels, 2] < depth[:, pixels]
    depth = depth.reshape(2, size, size)
    outside = beyond_frame(scene.crop, size, scene.frame)
    masks[:, outside], front[outside], depth[:, outside] = 0, FRONT_NONE, 0
    return {"masks": masks, "front": front, "depth": depth, "covered": covered.reshape(masks.shape) & (masks > 0)}


def _shade(scene, meshes, hits, rays: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the camera's image of the nearest surfaces in the light of the dome, or of where a photograph is from."""
    colour = background(scene, size, rng).reshape(-1, 3)
    depth = np.min([body_hits.full_depth(size) for body_hits in hits if body_hits], axis=0)
    visible = [body_hits and body_hits.subset(body_hits.depth <= depth[body_hits.pixels]) for body_hits in hits]
    dome, casters = _sample_lamps(rng, PHOTO_KEY if scene.photo else KEY), [mesh for mesh in meshes if mesh]
    greens = []
    for limb, seen in zip(scene.limbs, visible[:2], strict=True):
        if seen is not None:
            colour[seen.pixels] = _shade_limb(scene.subject, limb, seen, casters, dome, rays, rng)
            greens.append(colour[seen.pixels, 1])
    if scene.occluder is not None:
        colour[visible[2].pixels] = _shade_occluder(scene.occluder, visible[2], casters, dome, rays)
    colour *= _clefts(depth, size)[:, None]
    grey = float(np.median(np.concatenate(greens))) if sum(map(len, greens)) else 0.2
    image = camera_response(colour.reshape(size, size, 3), max(grey, 1e-3), rng, scene.photo)
    image[beyond_frame(scene.crop, size, scene.frame)] = 0
    return image


def _shade_limb(subject, limb: Limb, visible: Hits, casters: list[Mesh], dome, rays, rng) -> np.ndarray:
    """Return radiance float32 [m, 3] at the `visible` hits of a limb, lit by the `dome` (lamps, power)."""
    fields, *lit = _lit_fields(limb, skin_fields(limb.rig), visible, casters, dome)
    return _skin_radiance(surface(fields, subject, rng), *lit, rays[visible.pixels])


def _shade_occluder(occluder: Occluder, visible: Hits, casters: list[Mesh], dome, rays: np.ndarray) -> np.ndarray:
    """Return the same at the hits of an occluder."""
    own, *lit = _lit_fields(occluder, occluder.own, visible, casters, dome)
    return _skin_radiance(occluder_surface(own, occluder.material), *lit, rays[visible.pixels])


def _lit_fields(
    body: Limb | Occluder, fields: np.ndarray, visible: Hits, casters: list[Mesh], dome
) -> list[np.ndarray]:
    """Return a body's `fields` [V, k] at m hits, its normals [m, 3], and the light there [m] with its vector [m, 3]."""
    used = np.zeros(len(body.vertices), bool)
    used[visible.corners] = True
    light = np.zeros((len(used), 4), np.float32)
    light[used] = _light(body, used, casters, *dome)
    values = visible.interpolate(np.concatenate([fields, body.normals, light], axis=1, dtype=np.float32))
    fields, normals, light, towards = np.split(values, [-7, -4, -3], axis=1)
    return [fields, normals, light[:, 0], towards]


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


def _sample_lamps(rng: np.random.Generator, key: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Sample directions float32 [LAMPS, 3] to the dome's lights and their powers [LAMPS], which add up to about 4.

    Light comes from everywhere, more from one side and from above, so that a surface that faces it gets about 1. Bounds
    of the strength of that side are the `key`.
    """
    step = np.arange(LAMPS) + 0.5
    y, angle = 1 - 2 * step / LAMPS, np.pi * (1 + 5**0.5) * step
    lamps = np.stack([np.cos(angle) * np.sqrt(1 - y**2), y, np.sin(angle) * np.sqrt(1 - y**2)], 1)
    lamps = Rotation.random(rng=rng).apply(lamps)
    side = np.array([rng.choice([-1, 1]) * rng.uniform(0.3, 1), -rng.uniform(0.0, 1.0), -rng.uniform(-0.2, 1.0)])
    side /= np.linalg.norm(side)
    strong = np.clip(lamps @ side, 0, 1) ** rng.uniform(1, 6)
    power = rng.uniform(0.15, 0.6) + rng.uniform(*key) * strong + rng.uniform(0, 0.6) * np.clip(-lamps[:, 1], 0, 1)
    return lamps.astype(np.float32), (power * 4 / power.sum()).astype(np.float32)


def _light(
    body: Limb | Occluder, used: np.ndarray, casters: list[Mesh], lamps: np.ndarray, power: np.ndarray
) -> np.ndarray:
    """Return the light at the vertices `used` bool [V]: float32 [n, 4], irradiance and its vector (power · direction).

    Shadow rays start at vertices, between which light is interpolated: soft shadows for about two rays a pixel.
    """
    normals = body.normals[used].astype(np.float32)
    facing = normals @ lamps.T
    which, lamp = np.nonzero(facing > 0)
    origins = (body.vertices[used] + normals * SKIN_OFFSET).astype(np.float32)[which]
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
