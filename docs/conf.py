"""Sphinx's settings for the site that docs/build.py makes."""

import re

import ethand_utils

project = "ETHand"
author = "The ETHand maintainers"
release = version = ethand_utils.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "index"

default_role = "code"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as written, not as their values print
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100

myst_heading_anchors = 3
nb_execution_mode = "off"  # a run has executed the notebooks
nb_ipywidgets_js = {}  # they would come from a CDN
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

html_theme = "furo"
pygments_dark_style = "a11y-dark"
html_title = f"ETHand {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # would fetch pages, which a browser refuses for files
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f6299", "color-brand-content": "#1f6299"},
    "dark_css_variables": {"color-brand-primary": "#7fb8ea", "color-brand-content": "#7fb8ea"},
}


def literal_code(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn the single backticks of a docstring, as Markdown has them, into reStructuredText's, also within a word."""
    text = re.sub(r"`([^`]+)`", r"\\ ``\1``\\ ", "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app) -> None:
    """Register what changes docstrings."""
    app.connect("autodoc-process-docstring", literal_code)
