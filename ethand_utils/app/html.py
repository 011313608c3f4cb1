"""Elements of a page (paragraphs, tables, images, …), drawn by the macros of `page/report.html.j2`."""

import base64
import io
from dataclasses import dataclass, field
from typing import ClassVar

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from ethand_utils.style import style

DPI = 144  # of figures in the page, so that they stay sharp on fine screens and in print


@dataclass(frozen=True)
class Element:
    """A piece of a page. `kind` chooses its macro in the template, `css` is its class in the style sheet."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Heading(Element):
    """A heading inside a section."""

    kind = "heading"
    text: str


@dataclass(frozen=True)
class Paragraph(Element):
    """A paragraph of plain text."""

    kind = "paragraph"
    text: str
    css: str = ""


@dataclass(frozen=True)
class Table(Element):
    """A table without its index; `row_classes` are classes of single rows, by position."""

    kind = "table"
    frame: pd.DataFrame
    css: str = ""
    row_classes: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tiles(Element):
    """Key figures: (value, name, detail) each."""

    kind = "tiles"
    figures: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Links(Element):
    """A list of (text, address); without an address the text stands alone."""

    kind = "links"
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Image(Element):
    """An image inside the page: its data URL, size in CSS px, description and caption."""

    kind = "image"
    source: str = field(repr=False)
    width: int
    height: int
    alt: str
    caption: str = ""
    css: str = ""


def image(png: bytes, alt: str, caption: str = "", css: str = "") -> Image:
    """Create an image of a PNG file, in the size it was drawn for."""
    opened = PillowImage.open(io.BytesIO(png))
    width, height = (round(side * 96 / opened.info.get("dpi", (DPI, DPI))[0]) for side in opened.size)
    return Image(f"data:image/png;base64,{base64.b64encode(png).decode()}", width, height, alt, caption, css)


def figure_image(figure: Figure, alt: str, caption: str = "", css: str = "") -> Image:
    """Create an image of a figure, and close the figure."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return image(buffer.getvalue(), alt, caption, css)
