"""Hands of annotated frames as meshes: the generic hand fitted to their joints."""

import numpy as np

from ethand_utils.amodal import Hand, HandError
from ethand_utils.handmesh import MIRROR, load_rig, skin_vertices
from ethand_utils.jointfit import CHAINS, WRIST, fit_joints
from ethand_utils.labels import HAND_TYPES, HANDS, LEFT

FEWEST, FEWEST_PALM = 12, 3  # known joints, and among them wrist and finger bases, that a fit needs
WORST = 8.0  # mm mean residual at which a fit is refused


def from_joints(joints: np.ndarray, known: np.ndarray | None = None) -> tuple[Hand | None, Hand | None]:
    """The generic hand fitted to a left and a right hand: `joints` float [2, 21, 3] m, in the order of `JOINT_PARTS`.

    `known` bool [2, 21] says which joints are; a hand of which none is, is None. Raises HandError where too few are
    known, or where the joints are not those of a hand.
    """
    known = np.isfinite(joints).all(-1) if known is None else known
    there = [hand for hand in range(len(HANDS)) if known[hand].any()]
    for hand in there:
        if known[hand].sum() < FEWEST or known[hand, [WRIST, *CHAINS[1:, 0]]].sum() < FEWEST_PALM:
            raise HandError(f"joints: too few of the {HANDS[hand]} hand")
    as_right = [np.where(known[hand, :, None], joints[hand], 0) * (MIRROR if hand == LEFT else 1) for hand in there]
    found: list[Hand | None] = [None, None]
    if there:
        fit, rig = fit_joints(np.stack(as_right), known[there]), load_rig(forearm=False)
    for i, hand in enumerate(there):
        if np.nanmean(fit.residual[i]) > WORST:
            raise HandError(f"fit: joints of the {HANDS[hand]} hand over {WORST:g} mm off")
        vertices, faces = skin_vertices(rig, fit.posed, i), rig.faces
        if hand == LEFT:
            vertices, faces = vertices * MIRROR, faces[:, ::-1]
        found[hand] = Hand(vertices, faces, rig.part_weights, fit.residual[i])
    return tuple(found)


class RigHands:
    """A source of hands: the generic hand fitted to a frame's joints."""

    def hands(self, frame) -> tuple[Hand | None, Hand | None]:
        """Left and right hand of an annotated frame, in its world; None where it has none. Raises HandError."""
        named = np.array([frame.hand_type in (hand, HAND_TYPES[-1]) for hand in HANDS])
        for hand in np.flatnonzero(named & ~frame.valid.any(1)):
            raise HandError(f"joints: too few of the {HANDS[hand]} hand")
        return from_joints(frame.world, frame.valid & named[:, None])
