"""Helpers of the tests in a real browser: set the profile of a notebook, run all its cells."""

import re

import nbformat


def use_profile(notebook, profile):
    """Change the profile `tiny` in the parameters cell of a notebook file."""
    content = nbformat.read(notebook, 4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = re.sub(r'= "tiny"', f'= "{profile}"', cell.source)
    nbformat.write(content, notebook)


def run_all(page, result, seconds=120):
    """Run all cells of the notebook that a page is opening, and wait for the file `result`.

    Raises AssertionError after `seconds`.
    """
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    for _ in range(2 * seconds):
        if page.get_by_role("button", name="Select", exact=True).count():  # the dialog that asks for a kernel
            page.get_by_role("button", name="Select", exact=True).click()
        if result.exists():
            return
        page.wait_for_timeout(500)
    raise AssertionError(f"{result}: not there after {seconds} s")
