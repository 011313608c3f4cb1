"""The code samples of README.md and the pages in docs/: `python` is run by the tests, `sh` is parsed."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = {path.name: path for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))}
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def samples(page: str, language: str) -> list[tuple[str, str]]:
    """Return what stands beside the language, and the code, of each sample of a page, in its order."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [(note or "", code) for name, note, code in FENCE.findall(text) if name == language]


def module_of(page: str, name: str) -> str:
    """Return the sample of a page that is the module `name`."""
    return dict(samples(page, "python"))[f"module={name}"]
