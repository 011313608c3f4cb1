"""A notebook in JupyterLab in a real browser: Run All works and shows images without errors."""

import json

import pytest
from jupyter_page import run_all, use_profile


@pytest.mark.slow
def test_a_notebook_runs_all_in_jupyterlab(lab, chromium):
    address, folder = lab
    use_profile(folder / "notebooks/03_augment.ipynb", "ci")
    page = chromium.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(address.replace("/lab?", "/lab/tree/notebooks/03_augment.ipynb?"))
    run_all(page, folder / "outputs/ci/augment/result.json")
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "lab.png")
    shown = page.locator(".jp-OutputArea-output img").count()
    errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count()
    assert json.loads((folder / "outputs/ci/augment/result.json").read_text())["flip_errors"] == 0
    assert shown >= 1
    assert errors == 0
