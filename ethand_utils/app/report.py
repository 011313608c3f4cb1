"""The front page of a run, `index.html`: what was run, what came out, how sure that is; one file, without a network."""

import html
from collections.abc import Callable
from pathlib import Path

from ethand_utils.app.html import paragraph
from ethand_utils.app.results import RunResults
from ethand_utils.app.sections import SECTIONS
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.run import Run
from ethand_utils.files import atomic_write, first_line

CSS = Path(__file__).parent / "page" / "report.css"


def write_index(run: Run) -> Path:
    """Write `index.html` of a run, finished or not, self-contained but for the links to `html/`.

    What the run lacks is left out, with a line that says so.
    """
    path, page = run.folder / "index.html", _page(RunResults(run))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _page(m: RunResults) -> str:
    name = html.escape(m.run.name)
    links = "".join(f'<a href="#{_anchor(heading)}">{heading}</a>' for heading in SECTIONS)
    body = "".join(_section(m, heading, blocks) for heading, blocks in SECTIONS.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ETHand: run {name}</title>
<style>
{CSS.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>ETHand: run {name}</h1>
<p class="lead">Amodal hand-part segmentation with few labels: sixteen parts of each hand, hidden pixels included</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}</main>
<footer>Made from the files of <code>outputs/{name}/</code>. Where nothing else is said, an interval is a 95 %
percentile bootstrap over the samples that were scored.</footer>
</body>
</html>
"""


def _section(m: RunResults, heading: str, blocks: tuple[Callable[[RunResults], str], ...]) -> str:
    inside = "".join(_block(m, block) for block in blocks)
    return f'<section id="{_anchor(heading)}" aria-label="{heading}">\n<h2>{heading}</h2>\n{inside}</section>\n'


def _block(m: RunResults, block: Callable[[RunResults], str]) -> str:
    """What a block gives; or a line on why not, whatever reading a file of the run raised."""
    try:
        return block(m)
    except (EthandError, OSError, ValueError, KeyError) as error:
        why = f"its files lack {error}" if isinstance(error, KeyError) else first_line(error)
        why = why.replace(f"{m.run.folder}/", "")
        name = block.__doc__.splitlines()[0].rstrip(".")
        return paragraph(f"{name}: left out, as {why}.", "missing")


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")
