"""Pieces of a page as HTML, everything escaped: figures and images inside the page, tables, paragraphs."""

import base64
import html
import io

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ethand_utils.style import style

DPI = 144  # of figures in the page, so that they stay sharp on fine screens and in print


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, of class `kind` if given."""
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def figure_html(figure: Figure, alt: str, caption: str = "", kind: str = "") -> str:
    """A figure as an image in the page, of class `kind`; the figure is closed."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return image_html(buffer.getvalue(), alt, caption, kind)


def image_html(png: bytes, alt: str, caption: str = "", kind: str = "") -> str:
    """A PNG file inside the page in the size it was drawn for, with what it shows in words and a caption."""
    image = Image.open(io.BytesIO(png))
    width, height = (round(side * 96 / image.info.get("dpi", (DPI, DPI))[0]) for side in image.size)
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    shown = f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" src="{source}">'
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}"><div class="card">{shown}</div>{words}</figure>\n'


def table_html(table: pd.DataFrame, kind: str = "", classes: dict[int, str] | None = None) -> str:
    """A table with its columns' names, of class `kind`; `classes` gives single rows, by place, a class."""
    head = "".join(f'<th scope="col">{html.escape(str(column))}</th>' for column in table)
    body = ""
    for place, row in enumerate(table.itertuples(index=False)):
        cells = "".join(f"<td>{html.escape(str(value))}</td>" for value in row)
        body += f'<tr class="{(classes or {}).get(place, "")}">{cells}</tr>\n'
    rows = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{rows}</table></div>\n'
