"""The report of a run, `index.html`: what was run, the scores and their certainty, in one file without a network."""

from pathlib import Path

import jinja2

from ethand_utils.app.html import Element, Paragraph
from ethand_utils.app.results import RunResults
from ethand_utils.app.sections import NOTEBOOK_LINKS, SECTIONS, Block
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
FOOTER = (
    "Made from the files of {folder}. Intervals are 95 % percentile bootstrap intervals over the scored samples, where "
    "nothing else is said."
)
TEMPLATES.filters["anchor"] = lambda title: title.lower().replace(" ", "-")


def write_index(run: Run, path: Path | None = None, links: bool = True) -> Path:
    """Write the report of a run, finished or not, as `index.html` of the run or as another file.

    It is self-contained but for the links to `html/`, which are left out without `links`. What the run lacks is left
    out, with a line that says so.
    """
    results, path = RunResults(run), path or run.folder / "index.html"
    sections = [
        (
            section.title,
            [
                element
                for block in section.blocks
                if links or block is not NOTEBOOK_LINKS
                for element in _elements(results, block)
            ],
        )
        for section in SECTIONS
    ]
    return write_page(path, f"run {run.name}", sections, FOOTER.format(folder=f"outputs/{run.name}/"))


def write_page(path: Path, name: str, sections: list[tuple[str, list[Element]]], footer: str) -> Path:
    """Write a page of sections, each a title and its elements, as one HTML file without script or network."""
    page = TEMPLATES.get_template("report.html.j2").render(name=name, sections=sections, footer=footer)
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
