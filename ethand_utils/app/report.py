"""The report of a run, `index.html`: what was run, the scores and their certainty, in one file without a network."""

from pathlib import Path

import jinja2

from ethand_utils.app.html import Element, Paragraph
from ethand_utils.app.results import RunResults
from ethand_utils.app.sections import SECTIONS, Block
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.run import Run
from ethand_utils.files import atomic_write, first_line

PAGE = Path(__file__).parent / "page"
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["anchor"] = lambda title: title.lower().replace(" ", "-")


def write_index(run: Run) -> Path:
    """Write `index.html` of a run, finished or not, self-contained but for the links to `html/`.

    What the run lacks is left out, with a line that says so.
    """
    results, path = RunResults(run), run.folder / "index.html"
    sections = [
        (section.title, [element for block in section.blocks for element in _elements(results, block)])
        for section in SECTIONS
    ]
    page = TEMPLATES.get_template("report.html.j2").render(name=run.name, sections=sections)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _elements(results: RunResults, block: Block) -> list[Element]:
    """Return the elements of a block; when a file of the run cannot be read, a line that names it."""
    try:
        return block.render(results)
    except (EthandError, OSError, ValueError, KeyError) as error:
        reason = f"its files lack {error}" if isinstance(error, KeyError) else first_line(error)
        reason = reason.replace(f"{results.run.folder}/", "")
        return [Paragraph(f"{block.title}: left out, as {reason}.", "missing")]
