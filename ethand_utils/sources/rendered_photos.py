"""Rendered stand-ins for somebody's photos: images whose joints and masks are known exactly, in any light."""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.hands.amodal import beyond_frame
from ethand_utils.hands.joints import CHAINS, WRIST, landmarks
from ethand_utils.hands.rig import ANNY, WEBXR, Rig
from ethand_utils.labels import N_JOINTS
from ethand_utils.rendering.options import DEFAULT_OPTIONS, RenderOptions
from ethand_utils.rendering.render import render, render_masks
from ethand_utils.rendering.scenes import Limb, sample_scene
from ethand_utils.rendering.subjects import sample_subject

SIZES = (16, 512)  # px a side
CODE = 10  # in the random seed: no split of a rendered data set shares a person or a scene with these photos

Light = Callable[[np.ndarray, np.random.Generator, np.random.Generator], np.ndarray]


def rendered_photo(
    seed: int,
    i: int,
    size: int = 256,
    options: RenderOptions = DEFAULT_OPTIONS,
    hand_type: str | None = None,
    light: str | Light = "usual",
    with_image: bool = True,
) -> dict:
    """Render photo `i` of a camera `seed`, of a person of its own; the same numbers give the same bytes.

    Returns `image` uint8 [size, size, 3] RGB, `masks` uint8 [2, size, size] and `front` uint8 [size, size] as in a
    store, `joints` float [2, 21, 2] px, left hand first and in the order of `labels.JOINT_PARTS`, NaN for an absent
    hand, `depths` float [2, 21] m of them along the optical axis, `hand_type` and `camera` (of the image). Joints may
    be hidden or outside the image. `hand_type` is one of HAND_TYPES, sampled when None. `light` is one of LIGHTS, or a
    function of the image, a generator of the camera and one of the photo that returns an image; it changes nothing
    else. Without `with_image` the image is None, and all else the same. Raises EthandError for other sizes, numbers or
    lights.
    """
    _check(seed, i, size, light)
    drawn = np.random.default_rng([seed, CODE, 0, i])
    rig = ANNY if drawn.random() < options.second_rig_share else WEBXR
    rng = np.random.default_rng([seed, CODE, 1, i])
    scene = sample_scene(rng, sample_subject(drawn, rig), hand_type, options)
    sample = render(scene, size, rng) if with_image else render_masks(scene, size)
    camera = scene.camera.crop(*scene.crop, size)
    joints = np.stack([np.full((N_JOINTS, 3), np.nan) if limb is None else limb_joints(limb) for limb in scene.limbs])
    image = _lit(sample["image"], light, seed, i) if with_image else None
    if with_image:
        image[beyond_frame(scene.crop, size, scene.frame)] = 0
    return {
        "image": image,
        "masks": sample["masks"],
        "front": sample["front"],
        "joints": camera.project(joints),
        "depths": joints[..., 2],
        "hand_type": scene.hand_type,
        "camera": camera,
    }


def _lit(image: np.ndarray, light: str | Light, seed: int, i: int) -> np.ndarray:
    """Return the image of photo `i` of a camera `seed` in a light."""
    camera, photo = np.random.default_rng([seed, CODE, 2]), np.random.default_rng([seed, CODE, 3, i])
    return (LIGHTS[light] if isinstance(light, str) else light)(image, camera, photo)


def _check(seed: int, i: int, size: int, light: str | Light) -> None:
    low, high = SIZES
    if not low <= size <= high:
        raise EthandError(f"size {size}: expected {low} to {high} px a side")
    if min(seed, i) < 0:
        raise EthandError(f"seed {seed}, photo {i}: expected numbers of at least 0")
    if isinstance(light, str):
        require_known("light", light, LIGHTS)


def limb_joints(limb: Limb) -> np.ndarray:
    """Return the annotated joints of a rendered limb in the camera's frame, float [21, 3] m."""
    return _regressor(limb.rig) @ limb.vertices


@cache
def _regressor(rig: Rig) -> np.ndarray:
    """Return the matrix float [21, V] from the skin's vertices of a rig to its annotated joints, in every pose.

    Skin is a blend of bones, each of which moves affinely: vertices are linear in the bones' twelve numbers. Least
    squares gives these numbers from the vertices, and a joint follows its bone.
    """
    ends = np.ones((len(rig.vertices), 1))
    blend = rig.weights[:, :, None] * np.concatenate([rig.vertices, ends], 1)[:, None]  # [V, J, 4]
    follow = np.zeros((N_JOINTS, len(rig.names), 4))
    follow[np.arange(N_JOINTS), _bones(rig)] = np.concatenate([landmarks(rig), ends[:N_JOINTS]], 1)
    return follow.reshape(N_JOINTS, -1) @ np.linalg.pinv(blend.reshape(len(rig.vertices), -1))


def _bones(rig: Rig) -> np.ndarray:
    """Return the bone that each annotated joint follows, int [21]: that beyond it, a fingertip the last one."""
    bones = np.zeros(N_JOINTS, int)
    bones[CHAINS[:, :3]], bones[CHAINS[:, 3]] = rig.phalanges, rig.phalanges[:, -1]
    bones[[WRIST, CHAINS[0, 0]]] = rig.joint("wrist")
    return bones


def usual_light(image: np.ndarray, camera: np.random.Generator, photo: np.random.Generator) -> np.ndarray:
    """Return the image as rendered."""
    return image


def strange_light(image: np.ndarray, camera: np.random.Generator, photo: np.random.Generator) -> np.ndarray:
    """Return the image uint8 [H, W, 3] as a poor camera in coloured light takes it.

    A camera has its colour cast, its contrast and its noise; a photo has its side from which light falls off.
    """
    cast = np.exp(camera.permutation([0.45, 0.0, -0.45]) + camera.normal(0, 0.08, 3))
    contrast, haze, noise = camera.uniform(0.45, 0.65), camera.uniform(0.12, 0.25), camera.uniform(0.03, 0.06)
    y, x = (np.mgrid[: image.shape[0], : image.shape[1]] + 0.5) / max(image.shape[:2]) - 0.5
    angle = photo.uniform(-np.pi, np.pi)
    fall = np.exp(photo.uniform(0.8, 1.6) * (np.cos(angle) * x + np.sin(angle) * y))
    radiance = (image / 255.0) ** 2.2 * cast * fall[..., None]
    grains = cv2.GaussianBlur(photo.normal(0, 1, image.shape), (0, 0), 0.7)  # neighbours share a demosaicked pixel
    value = haze + contrast * np.clip(radiance, 0, 1) ** (1 / 2.2) + 2 * noise * grains
    return np.round(255 * np.clip(value, 0, 1)).astype(np.uint8)


LIGHTS: dict[str, Light] = {"usual": usual_light, "strange": strange_light}
