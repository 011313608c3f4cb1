"""Procedural skin and sleeves: colour, fine relief and gloss at every point of an arm."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from ethand_utils.hands.raycast import vertex_normals
from ethand_utils.hands.rig import Rig
from ethand_utils.rendering.subjects import Subject

NOISE_SIDE = 32  # voxels of the tiling noise, a power of two
NOISE_OFFSET = 128 * NOISE_SIDE  # voxels, so that coordinates are positive
BROAD, FINE = 0.0035, 0.0011  # m a voxel
NAIL_LENGTH, NAIL_WIDTH, NAIL_AHEAD = 0.0065, 0.0045, 0.004  # m: half axes; of the centre beyond the tip joint
CREASE, WRINKLES = 0.0012, 0.005  # m: width of a crease on the palm's side, of the wrinkles on a knuckle
NO_JOINT = 1.0  # m, distance along the finger where there is none


@cache
def skin_fields(rig: Rig) -> np.ndarray:
    """Compute fields of a rig's skin, float32 [V, 8] at its vertices, to be interpolated.

    Rest position (3, m), how far the skin faces the back of the hand (−1…1), distance to a nail's middle in half axes,
    distance along the finger to the middle and to the end joint (m, signed), nearness of a fingertip or knuckle (0…1).
    """
    count = len(rig.vertices)
    normals = vertex_normals(rig.vertices, rig.skin)
    nail = np.full(count, 3.0)
    along = np.full((count, 2), NO_JOINT)
    flush = np.zeros(count)
    nearest = rig.weights.argmax(1)
    back = normals[:, 1].copy()
    for finger, bones in enumerate(rig.phalanges):
        tip = bones[-1] + 1
        own = np.isin(nearest, [*bones, tip])
        axes, joints = rig.rest[:, :3, :3], rig.rest[:, :3, 3]
        back[own] = (normals[own] * axes[nearest[own], :, 1]).sum(1)
        local = (rig.vertices - joints[tip]) @ axes[tip]
        wide = NAIL_WIDTH * (1.4 if finger == 0 else 1)
        nail[own] = np.hypot((local[own, 2] + NAIL_AHEAD) / NAIL_LENGTH, local[own, 0] / wide)
        for column, joint in enumerate(bones[1:]):
            along[own, column] = ((rig.vertices[own] - joints[joint]) @ axes[joint])[:, 2]
        near = np.linalg.norm(rig.vertices[:, None] - joints[[*bones, tip]], axis=2).min(1)
        flush[own] = np.exp(-((near[own] / 0.012) ** 2))
    return np.concatenate([rig.vertices, np.stack([back, nail, *along.T, flush], 1)], axis=1).astype(np.float32)


@cache
def _noise() -> np.ndarray:
    """Return tiling smooth noise float32 [side, side, side, 4] of unit deviation; the same for everyone."""
    raw = np.random.default_rng(0).normal(0, 1, (4, *(NOISE_SIDE,) * 3))
    smooth = np.stack([gaussian_filter(channel, 1.2, mode="wrap") for channel in raw], -1)
    return (smooth / smooth.std()).astype(np.float32)


def noise_at(points: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return noise float32 [m, 4] at `points` [m, 3] in voxels, shifted by `offset` [3]."""
    x, y, z = ((points + (offset + NOISE_OFFSET)).astype(np.int32) & (NOISE_SIDE - 1)).T
    return _noise().reshape(-1, 4)[(x * NOISE_SIDE + y) * NOISE_SIDE + z]


@dataclass(frozen=True)
class Surface:
    """Looks of m points: linear RGB `albedo` [m, 3], `relief` [m, 3] to add to normals, `gloss` [m], all float32."""

    albedo: np.ndarray
    relief: np.ndarray
    gloss: np.ndarray


def surface(fields: np.ndarray, subject: Subject, rng: np.random.Generator) -> Surface:
    """Return skin, nails, hair and sleeve of a subject's arm at m points with the `fields` [m, 8] of `skin_fields`."""
    points, back, nail, middle, end, flush = fields[:, :3], *fields[:, 3:].T
    offset = rng.uniform(0, NOISE_SIDE, 3)
    broad, fine = noise_at(points / BROAD, offset), noise_at(points / FINE, offset)
    dorsal = np.clip(0.5 + back, 0, 1)

    tone = 1 + subject.mottled * (0.018 * broad[:, 0] + 0.02 * fine[:, 0])
    tone *= 1 - subject.veins * 0.16 * dorsal * np.clip(1 - np.abs(broad[:, 1]) * 4, 0, 1)
    tone *= 1 - subject.creases * _creases(middle, end, dorsal)
    arm = np.clip(points[:, 2] / 0.03 + 0.3, 0, 1) * np.clip(0.4 + back, 0, 1)
    streaks = noise_at(points * [1 / 0.0012, 1 / 0.0012, 1 / 0.006], offset[::-1])[:, 0]  # along the forearm
    tone *= 1 - subject.hair * 0.3 * arm * np.clip(streaks, 0, 1.5)
    red = (0.6 * subject.mottled + 0.4) * (flush + (1 - dorsal) * 0.5) + 0.15 * subject.mottled * broad[:, 2]
    tint = 1 + red[:, None] * np.array([0.08, -0.11, -0.10], np.float32)
    pale = subject.skin.astype(np.float32) ** (1 - 0.18 * (1 - dorsal))[:, None]
    albedo = pale * tint * tone[:, None]
    gloss = np.full(len(albedo), 0.2 + 0.6 * subject.gloss, np.float32)

    on_nail = np.clip((1.15 - nail) * 4, 0, 1) * np.clip(back * 3, 0, 1)
    albedo += on_nail[:, None] * (subject.nails - albedo)
    gloss += on_nail * 1.5
    cloth = points[:, 2] > subject.sleeve
    albedo[cloth] = subject.shirt * (1 + 0.12 * fine[cloth, :1] + 0.1 * broad[cloth, :1])
    gloss[cloth] = 0
    relief = (0.012 + 0.03 * subject.creases) * (0.6 * fine[:, 1:] + broad[:, 1:]) * (1 - 0.7 * on_nail[:, None])
    return Surface(np.clip(albedo, 0.005, 1).astype(np.float32), relief, gloss)


def _creases(middle: np.ndarray, end: np.ndarray, dorsal: np.ndarray) -> np.ndarray:
    """Return the share of light lost in lines across finger joints, [m]: one on the palm's side, many on the back."""
    lines = np.zeros_like(middle)
    for along in (middle, end):
        front = 0.6 * np.exp(-((along / CREASE) ** 2))
        behind = 0.22 * np.exp(-((along / WRINKLES) ** 2)) * (1 + np.cos(along * 2 * np.pi / 0.0022))
        lines += (1 - dorsal) * front + dorsal * behind
    return np.clip(lines, 0, 0.8)
