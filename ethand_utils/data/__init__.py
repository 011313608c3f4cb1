"""Data: stores and how they are built, data sets, crops, augmentation, dataloaders.

May import the ground alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "augment": ["Augmentation", "PHOTOMETRIC", "augment_batch", "damage", "denormalise", "flip"],
        "images": ["read_image", "read_photo"],
        "dataloaders": ["StoreLoader", "make_dls"],
        "datasets": ["HEAVY_OCCLUSION", "describe", "held_out", "occlusion", "open_dataset", "report_table"],
        "store": ["Store"],
        "store_builder": ["StorePlan", "build_store"],
    },
)
