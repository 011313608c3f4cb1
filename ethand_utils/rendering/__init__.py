"""Rendered hands: subjects, poses, contact, scenes, skin, light and camera.

May import hands and the ground.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arrangements": ["ARRANGEMENTS"],
        "poses": ["POSES"],
        "render": ["render_masks"],
        "scenes": ["MAX_PENETRATION", "sample_scene"],
        "subjects": ["sample_subject"],
    },
)
