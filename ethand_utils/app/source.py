"""Code of the package as a notebook shows it."""

import inspect
from textwrap import dedent

from IPython.display import Code


def show_source(*objects) -> Code:
    """Return the source of functions and classes, highlighted, as the last line of a notebook's cell shows it."""
    return Code("\n\n\n".join(dedent(inspect.getsource(item)).rstrip() for item in objects), language="python")
