"""Code of the package as a notebook shows it."""

import inspect

from IPython.display import Code


def show_source(*objects) -> Code:
    """Return the source of functions and classes, highlighted, for the end of a notebook's cell."""
    return Code("\n\n".join(inspect.getsource(item).rstrip() for item in objects), language="python")
