"""Rotation matrices of whole batches of finger joints: by angles, about axes, from one direction to another."""

import numpy as np


def directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] at length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def turned(turns: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] applied to vectors [..., 3]."""
    return (turns @ vectors[..., None])[..., 0]


def inverse(turns: np.ndarray) -> np.ndarray:
    """Inverses of rotations [..., 3, 3]."""
    return np.swapaxes(turns, -1, -2)


def about(axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] by `angles` [...] (rad) about unit vectors [..., 3]."""
    x, y, z = np.moveaxis(axes, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*axes.shape, 3)
    sine, cosine = (f(angles)[..., None, None] for f in (np.sin, np.cos))
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def towards(start: np.ndarray, goal: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The smallest rotations [..., 3, 3] of unit vectors [..., 3] onto others, by the angles `most` (rad) at most."""
    axes = np.cross(start, goal)
    angles = np.arctan2(np.linalg.norm(axes, axis=-1), (start * goal).sum(-1))
    return about(directions(axes), np.minimum(angles, most))


def bend_and_lean(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles [...] (rad) of vectors [..., 3] in a joint's frame, where straight on is −z: towards −y, then to −x."""
    x, y, z = np.moveaxis(directions(vectors), -1, 0)
    return np.arctan2(-y, -z), -np.arcsin(np.clip(x, -1, 1))


def bent(bend: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] that take −z where `bend_and_lean` gives these angles [...]."""
    bend, lean = np.broadcast_arrays(bend, lean)
    cb, sb, cl, sl = np.cos(bend), np.sin(bend), np.cos(lean), np.sin(lean)
    rows = [cl, np.zeros_like(cl), sl, -sl * sb, cb, cl * sb, -sl * cb, -sb, cl * cb]
    return np.stack(rows, -1).reshape(*cl.shape, 3, 3)


def nearest_turn(angles: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The same angles (rad), within half a turn of `middle`."""
    return (angles - middle + np.pi) % (2 * np.pi) - np.pi + middle
