"""A notebook opened in JupyterLab in a real browser, by hand so to say: Run All, and look."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebooks, on loopback with its token; yields the address and the folder."""
    shutil.copytree(REPOSITORY / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    home = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | home, stdout=log, stderr=log)
    try:
        for _ in range(120):
            found = re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", (tmp_path / "lab.log").read_text())
            if found:
                break
            time.sleep(0.5)
        assert found, (tmp_path / "lab.log").read_text()
        yield found.group(), tmp_path
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def use_profile(notebook, profile):
    """Set the parameters of a notebook as a user would by typing."""
    content = nbformat.read(notebook, 4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = re.sub(r'= "tiny"', f'= "{profile}"', cell.source)
    nbformat.write(content, notebook)


def test_a_notebook_runs_all_in_jupyterlab(lab):
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip(f"no browser found: install one of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    address, folder = lab
    use_profile(folder / "notebooks/03_augment.ipynb", "ci")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(address.replace("/lab?", "/lab/tree/notebooks/03_augment.ipynb?"))
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        for _ in range(240):
            if page.get_by_role("button", name="Select", exact=True).count():  # which kernel? the offered one
                page.get_by_role("button", name="Select", exact=True).click()
            if (folder / "outputs/ci/augment/result.json").exists():
                break
            page.wait_for_timeout(500)
        page.wait_for_timeout(1500)
        page.screenshot(path=folder / "lab.png")
        shown = page.locator(".jp-OutputArea-output img").count()
        errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count()
        browser.close()
    assert json.loads((folder / "outputs/ci/augment/result.json").read_text())["flip_errors"] == 0
    assert shown >= 1
    assert errors == 0
