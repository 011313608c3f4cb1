"""Build the site from README.md, docs/, notebooks and the docstrings of the rooms: `python docs/build.py --help`."""

import argparse
import importlib
import inspect
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import Profile
from ethand_utils.experiments.methods import FULL_METHOD
from ethand_utils.outputs import claim_folder

REPOSITORY = Path(__file__).resolve().parents[1]
OUT = REPOSITORY / "build" / "docs"
WIDGET = "application/vnd.jupyter.widget-view+json"
MARK = ".buildinfo"  # Sphinx writes it into every site
ROOMS = ("hands", "rendering", "data", "sources", "training", "experiments", "analysis", "app")
# The contents at the side of every page: docs/<name>.md by heading.
CONTENTS = {
    "Start": ("getting_started", "photos", "own_labels", "task", "parts"),
    "Work": ("data", "method", "experiments", "change_one_thing", "errors", "cyclegan", "peers"),
    "Machines": ("gpu", "cluster", "speed"),
    "About": ("model_card", "reproducibility", "architecture", "licences"),
}


def build(out: Path, run: str | None = None, jobs: str = "auto") -> int:
    """Build the site as the folder `out`, whole or not at all, and return Sphinx's status; a warning is an error.

    Notebooks are shown as `run` executed them, those that it lacks without outputs; of one that it executed several
    times, preferably the execution for the full method. A site that lies in `out` is replaced. Raises EthandError for a
    run that does not exist, for a folder that holds anything but a site, and where Sphinx is not installed.
    """
    notebooks = _notebooks(run)
    out = claim_folder(out, is_replaceable=lambda folder: (folder / MARK).exists())
    try:
        from sphinx.cmd.build import main as sphinx  # of the extra `docs`, which the rest of this file does not need
    except ImportError:
        raise EthandError("Sphinx is not installed; `make docs` installs it, or `pip install -e .[docs]`") from None
    with tempfile.TemporaryDirectory() as work:
        source, site = Path(work).resolve() / "source", Path(work) / "site"
        _assemble(source, notebooks)
        options = ["-q", "-W", "--keep-going", "-j", jobs, "-d", f"{work}/doctrees", "-c", str(Path(__file__).parent)]
        status = sphinx([*options, str(source), str(site)])
        report = _run_folder(run) / "index.html" if run else None
        if report and report.exists():
            shutil.copy(report, site / "report.html")
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.move(site, out)
    return status


def _run_folder(run: str) -> Path:
    return REPOSITORY / "outputs" / run


def _notebooks(run: str | None) -> dict[str, Path]:
    """Return every notebook of the repository by name, as a run executed it where it did."""
    folder = _run_folder(run) / "notebooks" if run else None
    if folder and not folder.is_dir():
        raise EthandError(f"{folder}: no such folder; expected a run's notebooks; run `ethand run` first")
    plain = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
    return {path.stem: (folder and _executed(folder, path.stem)) or path for path in plain}


def _executed(folder: Path, name: str) -> Path | None:
    """Return a notebook as a run executed it, or None; of several executions, preferably that for the full method."""
    preferred = (f"{name}.ipynb", f"{name}_{FULL_METHOD}_seed0.ipynb")
    executions = folder.glob(f"{name}*.ipynb")
    return min(executions, key=lambda path: (path.name not in preferred, path.name), default=None)


def _assemble(source: Path, notebooks: dict[str, Path]) -> None:
    """Write the pages into `source` as they lie in the repository, so that links between them are the same."""
    ignored = shutil.ignore_patterns("*.py", "*.lock", "__pycache__")
    shutil.copytree(REPOSITORY / "docs", source / "docs", ignore=ignored)
    (source / "notebooks").mkdir()
    for name, path in notebooks.items():
        (source / "notebooks" / f"{name}.ipynb").write_text(_without_widgets(path), encoding="utf-8")
    (source / "reference").mkdir()
    for room in ROOMS:
        (source / "reference" / f"{room}.rst").write_text(room_page(room), encoding="utf-8")
    (source / "reference" / "settings.rst").write_text(settings_page(), encoding="utf-8")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(readme + _contents(notebooks), encoding="utf-8")
    for page in (source / "index.md", *(source / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("(../README.md)", "(../index.md)")
        page.write_text(text, encoding="utf-8")
        _copy_linked(text, page, source)


def _copy_linked(text: str, page: Path, source: Path) -> None:
    """Copy the files of the repository that the text of a page links to and `source` lacks: readers can save them."""
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        target = (page.parent / link).resolve()
        if "://" in link or target.exists() or not target.is_relative_to(source):
            continue
        file = REPOSITORY / target.relative_to(source)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def _without_widgets(path: Path) -> str:
    """Return a notebook without outputs that need a kernel, such as progress bars, unless they have a picture too."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if _is_still(output.get("data", {}))]
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
    return json.dumps(notebook)


def _is_still(data: dict) -> bool:
    """Return whether an output's data, by type, can be shown without a kernel."""
    return WIDGET not in data or any(kind.startswith("image/") for kind in data)


def _contents(notebooks: dict[str, Path]) -> str:
    """Return the tables of contents of the site, which are shown at the side of every page."""
    sections = {heading: [f"docs/{name}" for name in names] for heading, names in CONTENTS.items()}
    sections["About"].append("CHANGELOG")
    sections["Notebooks"] = [f"notebooks/{name}" for name in notebooks]
    sections["Reference"] = ["reference/settings", *(f"reference/{room}" for room in ROOMS)]
    lines = []
    for heading, pages in sections.items():
        lines += ["", "```{toctree}", ":hidden:", f":caption: {heading}", ":maxdepth: 1", "", *pages, "```"]
    return "\n".join(lines) + "\n"


def room_page(room: str) -> str:
    """Return the page of a room, as reStructuredText: its docstring, and that of every name that it offers."""
    module = importlib.import_module(f"ethand_utils.{room}")
    lines = [f"ethand_utils.{room}", "=" * 40, "", inspect.getdoc(module), ""]
    for name in sorted(module.__all__, key=str.lower):
        lines += [*_entry(module, name), ""]
    return "\n".join(lines)


def _entry(module, name: str) -> list[str]:
    """Return the lines of a name: its docstring, or of a constant its type and the module where it stands."""
    offered = getattr(module, name)
    if inspect.isclass(offered):
        return [f".. autoclass:: {module.__name__}.{name}", "   :members:"]
    if inspect.isroutine(offered):
        return [f".. autofunction:: {module.__name__}.{name}"]
    return [f".. py:data:: {module.__name__}.{name}", f"   :type: {type(offered).__name__}"]


def settings_page() -> str:
    """Return the page of all settings of a run, as reStructuredText."""
    lines = ["Settings of a run", "=================", ""]
    lines += ["``ethand run PROFILE --set KEY=VALUE`` changes one. The defaults are those of the profile ``tiny``.", ""]
    lines += [".. list-table::", "   :header-rows: 1", "", "   * - setting", "     - default", "     - meaning"]
    for key, field in Profile.model_fields.items():
        lines += [f"   * - ``{key}``", f"     - ``{json.dumps(field.default)}``", f"     - {field.description}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Build the site, print the path of its first page and exit with Sphinx's status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="run below outputs/ whose executed notebooks are shown")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the site; default: build/docs")
    parser.add_argument("--jobs", default="auto", help="processes; default: one a core")
    arguments = parser.parse_args()
    try:
        status = build(arguments.out, arguments.run, arguments.jobs)
    except EthandError as error:
        sys.exit(f"docs: {error}")
    if status:
        sys.exit(status)
    print(arguments.out / "index.html")


if __name__ == "__main__":
    main()
