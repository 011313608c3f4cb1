"""App: the command line, the report of a run, the error browser, the labeller.

May import every other room.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "browser": ["ErrorBrowser"],
        "labeller": ["HandLabeler"],
        "report": ["write_index"],
        "source": ["show_source"],
    },
)
