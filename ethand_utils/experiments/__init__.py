"""Experiments: settings, runs, methods, the chain of notebooks, the dry run.

May import training, sources and all before them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["concerning", "load_profile"],
        "demo": ["demo_picture", "open_demo"],
        "methods": [
            "GENERATED_IMAGES",
            "METHODS",
            "adversary",
            "chosen_methods",
            "cyclegan_phases",
            "d_phases",
            "g1_phases",
            "get_method",
            "main_method",
            "peer_methods",
            "table_methods",
        ],
        "run": ["as_list", "commit", "open_run", "run_folder", "run_name", "save_result", "write_table"],
    },
)
