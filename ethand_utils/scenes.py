"""Sample a two-hand scene as a capture dome would see it, and shade it into an image (REFERENCE.md section 3)."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.handmesh import LIMITS, Pose, Shape, load_rig, pose_hand
from ethand_utils.labels import CROP_OVER_BOX, FRONT_LEFT, FRONT_RIGHT, HAND_TYPES, HANDS, LEFT, RIGHT
from ethand_utils.raycast import FAR, Camera, Hits, Mesh, amodal_masks, z_depth

SINGLE_HAND_SHARE = 0.3
BOX_OVER_JOINTS = 1.2  # InterHand2.6M's bounding box over that of the projected joints, measured
FOCAL = 1265.0  # px of the capture's cameras, whose frames are 334×512 or 512×334
BONE_RADIUS = 0.009  # m, of the spheres that keep hands from running through each other
MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Subject:
    """A person: hand `shape`, linear `skin` colour RGB in 0…1, `shirt` colour RGB, and the shirt's `pattern`."""

    shape: Shape
    skin: np.ndarray
    shirt: np.ndarray
    pattern: str


@dataclass(frozen=True)
class Limb:
    """One posed arm in camera coordinates: `vertices` float [V, 3] m, `faces` int [F, 3], `joints` float [J, 3] m."""

    vertices: np.ndarray
    faces: np.ndarray
    joints: np.ndarray

    def moved(self, shift: np.ndarray) -> "Limb":
        """The same limb shifted by [3] m."""
        return replace(self, vertices=self.vertices + shift, joints=self.joints + shift)


@dataclass(frozen=True)
class Scene:
    """`limbs` left and right (None: absent), the capture's `camera`, the crop (x, y, side) in its frame, `subject`."""

    limbs: tuple[Limb | None, Limb | None]
    camera: Camera
    bbox: tuple[float, float, float, float]
    crop: tuple[float, float, float]
    subject: Subject

    @property
    def hand_type(self) -> str:
        """right, left or interacting."""
        present = [name for name, limb in zip(HANDS, self.limbs, strict=True) if limb is not None]
        return present[0] if len(present) == 1 else HAND_TYPES[-1]


def sample_subject(rng: np.random.Generator) -> Subject:
    """A person's hand shape, skin and shirt."""
    shape = Shape(
        scale=rng.normal(0.96, 0.05),
        length=tuple(np.clip(rng.normal(1, 0.05) + rng.normal(0, 0.02, 5), 0.85, 1.15)),
        thickness=tuple(np.clip(rng.normal(1, 0.07) + rng.normal(0, 0.02, 5), 0.8, 1.25)),
    )
    tone = rng.beta(2.0, 1.5)
    skin = (1 - tone) * np.array([0.20, 0.10, 0.06]) + tone * np.array([0.80, 0.52, 0.40])
    shirt = rng.uniform(0.02, 0.5, 3) * rng.uniform(0.3, 1)
    return Subject(shape, skin, shirt, str(rng.choice(["plain", "plain", "checked", "striped"])))


def sample_pose(rng: np.random.Generator) -> Pose:
    """A pose within the joint limits: fingers curl together, some apart, the end joint follows the middle one."""
    curl = rng.beta(0.9, 1.6) + rng.normal(0, 0.08, 5)
    if rng.random() < 0.35:
        loners = rng.random(5) < 0.4
        curl[loners] = rng.random(loners.sum())
    fingers = np.zeros((5, 4))
    fingers[:, 0] = rng.normal(0, 0.06, 5) + rng.uniform(-0.3, 1) * np.array([0.1, 0.16, 0.03, -0.12, -0.26])
    fingers[1:, 1] = curl[1:] * rng.uniform(0.7, 1.4) + rng.normal(0, 0.08, 4)
    fingers[1:, 2] = curl[1:] * rng.uniform(1.1, 1.9)
    fingers[1:, 3] = 0.6 * fingers[1:, 2] + rng.normal(0, 0.05, 4)
    low, high = LIMITS[0, 1:, 0], LIMITS[0, 1:, 1]
    fingers[0, 1:] = low + (high - low) * np.clip(0.25 + 0.5 * curl[0] + rng.normal(0, 0.12, 3), 0, 1)
    return Pose.clipped(fingers, rng.normal(0, [0.3, 0.12]))


def sample_scene(rng: np.random.Generator, subject: Subject, hand_type: str | None = None) -> Scene:
    """A subject's hands before a camera of the capture; `hand_type` as in HAND_TYPES, drawn when None."""
    if hand_type is None:
        single = rng.random() < SINGLE_HAND_SHARE
        hand_type = str(rng.choice(HAND_TYPES[:2])) if single else HAND_TYPES[-1]
    apart = rng.uniform(0.0, 0.05)
    offset = np.array([apart, rng.normal(0, 0.02), rng.normal(0, 0.025)])
    limbs: list[Limb | None] = [None, None]
    for hand, name in enumerate(HANDS):
        limb = _sample_limb(rng, subject.shape, offset if hand == RIGHT else offset * [1, -1, -1])
        if hand_type in (name, HAND_TYPES[-1]):
            limbs[hand] = limb if hand == RIGHT else _mirrored(limb)
    if None not in limbs:
        limbs = _separated(*limbs)

    # The camera looks at the hands from around the subject, mostly from its front.
    turn = Rotation.from_euler("YXZ", np.radians([rng.uniform(-60, 60), rng.normal(0, 12), rng.normal(0, 4)]))
    away = np.array([*rng.normal(0, 0.03, 2), rng.uniform(1.0, 1.25)])
    seen = tuple(limb and _turned(limb, turn, away) for limb in limbs)
    camera = Camera((FOCAL, FOCAL), tuple(rng.normal([180, 245], 12)))
    pixels = camera.project(np.concatenate([_hand_joints(limb) for limb in seen if limb]))
    low, high = pixels.min(0), pixels.max(0)
    centre, extent = (low + high) / 2, (high - low) * BOX_OVER_JOINTS
    side = extent.max() * CROP_OVER_BOX
    return Scene(
        limbs=seen,
        camera=camera,
        bbox=(*(centre - extent / 2), *extent),
        crop=(*(centre - side / 2), side),
        subject=subject,
    )


def _sample_limb(rng: np.random.Generator, shape: Shape, offset: np.ndarray) -> Limb:
    """A right arm in the subject's frame (x to the image's right, y down, z away from the camera, m).

    The elbow is beside and below, the thumb side up, the hand's centre at −`offset` in x from the middle.
    """
    vertices, faces, joints = pose_hand(load_rig(), sample_pose(rng), shape)
    towards_elbow = np.array([-rng.uniform(0.3, 1.0), rng.uniform(0.1, 1.0), rng.uniform(-0.1, 0.7)])
    z = towards_elbow / np.linalg.norm(towards_elbow)
    dorsal = np.array([-1.0, 0, 0]) - z * -z[0]
    dorsal /= np.linalg.norm(dorsal)
    dorsal = Rotation.from_rotvec(z * rng.normal(0, np.radians(40))).apply(dorsal)
    turn = np.stack([np.cross(dorsal, z), dorsal, z], axis=1)
    vertices, joints = vertices @ turn.T, joints @ turn.T
    limb = Limb(vertices, faces, joints)
    return limb.moved(offset * [-1, 1, 1] - _hand_joints(limb).mean(0))


def _mirrored(limb: Limb) -> Limb:
    return Limb(limb.vertices * MIRROR, limb.faces[:, ::-1], limb.joints * MIRROR)


def _turned(limb: Limb, turn: Rotation, shift: np.ndarray) -> Limb:
    return replace(limb, vertices=turn.apply(limb.vertices) + shift, joints=turn.apply(limb.joints) + shift)


def _hand_joints(limb: Limb) -> np.ndarray:
    """Wrist and finger joints, without the forearm's."""
    return limb.joints[:-1]


def _separated(left: Limb, right: Limb) -> list[Limb]:
    """Both limbs, pushed apart along the line of their centres until spheres along the bones hardly overlap."""
    rig = load_rig()
    bones = [(joint, parent) for joint, parent in enumerate(rig.parents) if parent >= 0]
    spheres = []
    for limb in (left, right):
        ends, starts = limb.joints[[b[0] for b in bones]], limb.joints[[b[1] for b in bones]]
        spheres.append(np.concatenate([ends, (ends + starts) / 2]))
    line = spheres[RIGHT].mean(0) - spheres[LEFT].mean(0)
    line /= np.linalg.norm(line) + 1e-9
    for _ in range(40):
        nearest = np.linalg.norm(spheres[LEFT][:, None] - spheres[RIGHT][None], axis=2).min()
        if nearest >= 2 * BONE_RADIUS:
            break
        step = line * max((2 * BONE_RADIUS - nearest) / 2, 5e-4)
        left, right = left.moved(-step), right.moved(step)
        spheres = [spheres[LEFT] - step, spheres[RIGHT] + step]
    return [left, right]


def render(scene: Scene, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A scene's `image` uint8 [size, size, 3] RGB, `masks` uint8 [2, size, size], `front` uint8 [size, size], `depth`.

    `depth` float32 [2, size, size] is the z-depth (m) of each limb's nearest surface as if alone, 0 where nothing is.
    """
    camera, meshes, hits, rays = _cast(scene, size)
    return {"image": _shade(scene, camera, meshes, hits, rays, size, rng), **_truth(hits, rays, size)}


def render_masks(scene: Scene, size: int) -> dict[str, np.ndarray]:
    """`masks`, `front` and `depth` as `render` gives them, without the image."""
    _, _, hits, rays = _cast(scene, size)
    return _truth(hits, rays, size)


def _truth(hits: list[Hits | None], rays: np.ndarray, size: int) -> dict[str, np.ndarray]:
    masks, front = amodal_masks(hits, load_rig().part_weights, size)
    return {"masks": masks, "front": front, "depth": z_depth(hits, rays, size)}


def occluded_share(masks: np.ndarray, front: np.ndarray) -> tuple[float, float]:
    """Share of the left and of the right hand's pixels that lie behind the other limb; NaN for an absent hand."""
    shares = []
    for hand, other in ((LEFT, FRONT_RIGHT), (RIGHT, FRONT_LEFT)):
        pixels = masks[hand] > 0
        shares.append(float((front[pixels] == other).mean()) if pixels.any() else float("nan"))
    return tuple(shares)


def _cast(scene: Scene, size: int) -> tuple[Camera, list[Mesh | None], list[Hits | None], np.ndarray]:
    """The crop's camera, the limbs' meshes and what the crop's rays hit on each limb alone."""
    camera = scene.camera.crop(*scene.crop, size)
    rays = camera.rays(size)
    meshes = [limb and Mesh(limb.vertices, limb.faces) for limb in scene.limbs]
    return camera, meshes, [mesh and mesh.cast(np.zeros_like(rays), rays) for mesh in meshes], rays


def _shade(scene, camera, meshes, hits, rays, size: int, rng: np.random.Generator) -> np.ndarray:
    """The image of the nearest surfaces under a strong side light, a fill and an ambient term, with cast shadows."""
    colour = _backdrop(scene, size, rng).reshape(-1, 3)
    depth = np.full((2, size * size), FAR)
    for hand, found in enumerate(hits):
        if found is not None:
            depth[hand] = found.depth
    key = np.array([rng.choice([-1, 1]) * rng.uniform(0.5, 1.2), -rng.uniform(0.2, 1.2), -rng.uniform(0.2, 1.0)])
    fill = np.array([-np.sign(key[0]) * rng.uniform(0.3, 1), rng.uniform(-0.6, 0.6), -1.0])
    lights = [
        (v / np.linalg.norm(v), power) for v, power in ((key, rng.uniform(0.8, 1.6)), (fill, rng.uniform(0.15, 0.5)))
    ]
    ambient = rng.uniform(0.08, 0.25)
    for hand, (mesh, found) in enumerate(zip(meshes, hits, strict=True)):
        if found is None:
            continue
        first = (depth.argmin(0) == hand)[found.hit]
        pixels = np.flatnonzero(found.hit)[first]
        normals = found.at(mesh.normals())[first]
        points = rays[pixels] * found.depth[pixels, None] + normals * 1.5e-3
        light = np.full(len(pixels), ambient)
        for direction, power in lights:
            facing = np.clip((normals @ direction + 0.15) / 1.15, 0, 1)
            beams = np.broadcast_to(direction.astype(np.float32), points.shape).copy()
            dark = np.zeros(len(pixels), bool)
            for caster in filter(None, meshes):
                dark |= caster.blocks(points.astype(np.float32), beams)
            light += power * facing * np.where(dark, 0.12, 1)
        texture = _mottle(found.at(load_rig().vertices)[first], rng)
        rim = 1 - 0.25 * np.clip(1 + (normals * rays[pixels]).sum(1), 0, 1) ** 2
        colour[pixels] = scene.subject.skin * (light * texture * rim)[:, None]
    return _develop(colour.reshape(size, size, 3), rng)


def _mottle(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Skin texture factors float [m] around 1 at rest positions `where` [m, 3] (m): a few random waves."""
    waves = rng.normal(0, 1, (6, 3)) * np.array([60, 90, 140, 200, 300, 420])[:, None]
    return 1 + 0.025 * np.sin(where @ waves.T + rng.uniform(0, 2 * np.pi, 6)).sum(1)


def _backdrop(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """The dome behind the hands, float [size, size, 3]: black, LED points with flares, often the subject's shirt."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.tile(rng.uniform(0.0, 0.02, 3), (size, size, 1))
    if rng.random() < 0.6:
        subject, slant = scene.subject, rng.normal(0, 0.15)
        edge = rng.uniform(-0.2, 0.7) + slant * y
        inside = (x > edge) if rng.random() < 0.5 else (1 - x > edge)
        period, phase = rng.uniform(0.05, 0.2), rng.random(2)
        bands = {
            "plain": np.ones_like(x),
            "striped": 1 + 0.5 * np.sign(np.sin(2 * np.pi * (y / period + phase[0]))),
            "checked": 1
            + 0.35 * np.sign(np.sin(2 * np.pi * (x / period + phase[0])))
            + 0.35 * np.sign(np.sin(2 * np.pi * (y / period + phase[1]))),
        }[subject.pattern]
        shade = rng.uniform(0.2, 0.8) * (1 + 0.3 * np.sin(3 * x + 6 * phase[0])) * bands
        image[inside] = (subject.shirt * shade[..., None])[inside]
    for _ in range(rng.poisson(3)):
        cx, cy, power = *rng.uniform(-0.1, 1.1, 2), rng.uniform(0.3, 1.2)
        dx, dy = np.abs(x - cx) * 128, np.abs(y - cy) * 128  # px of a 128×128 crop
        turned = np.abs(dx - dy), np.abs(dx + dy)
        star = sum(np.exp(-(a**2) / 1.5) / (1 + (b / 5) ** 2) for a, b in ((dx, dy), (dy, dx), turned))
        image += power * (1.5 * np.exp(-(dx**2 + dy**2) / 12) + 0.12 * star)[..., None]
    return image


def _develop(radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Radiance → the camera's uint8 image: about half monochrome, else a yellow-green cast; exposure, gamma, noise."""
    radiance = radiance * rng.uniform(0.6, 1.3)
    if rng.random() < 0.5:
        radiance = np.repeat(radiance @ np.array([[0.35], [0.5], [0.15]]), 3, axis=2)
        noise = rng.normal(0, rng.uniform(0.003, 0.015), (*radiance.shape[:2], 1))
    else:
        radiance = radiance * rng.uniform([0.85, 0.85, 0.45], [1.0, 1.1, 0.95])
        noise = rng.normal(0, rng.uniform(0.003, 0.015), radiance.shape)
    return np.round(255 * np.clip(np.clip(radiance, 0, 1) ** (1 / 2.2) + noise, 0, 1)).astype(np.uint8)
