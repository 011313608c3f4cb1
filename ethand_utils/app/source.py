"""Code of the package as a notebook shows it."""

import inspect
from textwrap import dedent

from IPython.display import Code


class Source(Code):
    """Highlighted code, in a fixed-width font in an exported page too."""

    def _repr_html_(self) -> str:
        return super()._repr_html_().replace("<pre>", '<pre style="font-family: monospace">')


def show_source(*objects) -> Source:
    """Return the source of functions and classes, highlighted, for the last line of a notebook's cell."""
    return Source("\n\n\n".join(dedent(inspect.getsource(item)).rstrip() for item in objects), language="python")
