"""What the tests in a real browser do to a notebook: choose its profile, run it all."""

import re

import nbformat


def use_profile(notebook, profile):
    """Set the parameters of a notebook as a user would by typing."""
    content = nbformat.read(notebook, 4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = re.sub(r'= "tiny"', f'= "{profile}"', cell.source)
    nbformat.write(content, notebook)


def run_all(page, made, seconds=120):
    """Run every cell of the notebook that a page is opening, and wait for the file `made`."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    for _ in range(2 * seconds):
        if page.get_by_role("button", name="Select", exact=True).count():  # which kernel? the offered one
            page.get_by_role("button", name="Select", exact=True).click()
        if made.exists():
            return
        page.wait_for_timeout(500)
    raise AssertionError(f"{made}: not there after {seconds} s")
