"""Hands: the rig, MANO, joints and their fit, ray casting, amodal masks.

May import the ground alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "amodal": ["hand_masks", "occluded_share"],
        "joint_fit": ["fit_joints"],
        "mano": ["ManoHands"],
        "raycast": ["Camera"],
        "rig": ["Pose", "Rig", "pose_joints", "skin_vertices"],
        "rigs": ["load_rig"],
    },
)
