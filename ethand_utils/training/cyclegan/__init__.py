"""CycleGAN of the report's section 4: variants, nets, discriminators, batches, scores.

May import training, data and the ground.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dataloader": ["make_mixed_dls", "unpaired_labels"],
        "discriminators": ["balance"],
        "model": ["create_cyclegan", "cycle_loss", "require_variant"],
        "scores": ["Cycles", "cycle_scores", "image_store", "mean_colour_psnr"],
        "variants": ["G1_AS_LONG", "OPTIONS", "REFERENCE_VARIANT", "VARIANTS", "cycle_training"],
    },
)
