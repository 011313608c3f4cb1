"""Experiments: settings, runs, methods, the chain of notebooks, the dry run.

May import training, sources and all before them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["load_profile"],
        "methods": [
            "FULL_ROW",
            "ROWS",
            "adversary",
            "cyclegan_phases",
            "discriminator_name",
            "g2_phases",
            "training_name",
        ],
        "run": ["open_run", "save_result", "write_table"],
    },
)
