"""The error browser in JupyterLab in a real browser: keys, canvases, confusion, tags, and the state in the kernel."""

import json

import nbformat
import numpy as np
import pytest
from jupyter_page import run_all, use_profile

from ethand_utils.analysis.confusion import ERROR_COLOURS, ERRORS, error_classes, total_counts
from ethand_utils.analysis.predictions import Predictions
from ethand_utils.experiments.methods import FULL_METHOD, METHODS
from ethand_utils.experiments.run import open_run
from ethand_utils.labels import COLOURS, PARTS

pytestmark = pytest.mark.slow
OPACITY = 0.65  # the page's default
WATCH = """
import json
def watch(_):
    state = {"selected": browser.selected, "ids": browser.filtered["id"].tolist(), "view": browser.view}
    (run.folder / "state.json").write_text(json.dumps(state))
browser.observe(watch, ["selected", "view", "_rows"])
"""
PIXEL = """(canvas, [x, y]) => {
    const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
    return Array.from(canvas.getContext("2d").getImageData(...at, 1, 1).data).slice(0, 3);
}"""


@pytest.fixture
def run(lab, predict_wrongly, monkeypatch):
    """A run in JupyterLab's folder with the predictions that notebook 09 reads."""
    monkeypatch.chdir(lab[1])
    run = open_run("ci", "ci")
    store = run.dataset()["test"]
    predict_wrongly(store, run.folder / METHODS[FULL_METHOD].predictions(0))
    predict_wrongly(store, run.folder / "predictions/g1", shift=5)
    return run


class Page:
    """The page of a notebook that shows the error browser."""

    def __init__(self, page, run):
        self.page, self.run = page, run
        self.root = page.locator(".eb-root")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def pixel(self, panel, size, row, column):
        """Return the colour of a mask's pixel in a panel of the detail, at its centre."""
        canvas = self.page.locator(f"canvas[data-panel='{panel}']")
        return np.array(canvas.evaluate(PIXEL, [(column + 0.5) / size, (row + 0.5) / size]))

    def eventually(self, test, what):
        """Wait until `test` holds for the state in the kernel, and return the state."""
        for _ in range(100):
            file = self.run.folder / "state.json"
            state = json.loads(file.read_text() or "{}") if file.exists() else {}
            if state and test(state):
                return state
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{what}: {state}")

    def painted(self, panel, size, pixel, colour, what):
        """Wait until a pixel (row, column) of a panel has a colour."""
        for _ in range(50):
            shown = self.pixel(panel, size, *pixel)
            if np.abs(shown - colour).max() <= 3:
                return
            self.page.wait_for_timeout(60)
        raise AssertionError(f"{what}: {panel} at {pixel} is {shown}, expected {colour}")


def open_notebook(page, lab, run):
    """Open notebook 09, run all cells, and wait until the browser shows every sample."""
    page.goto(lab[0].replace("/lab?", "/lab/tree/notebooks/09_errors.ipynb?reset&"))
    result = run.folder / "errors/result.json"
    result.unlink(missing_ok=True)
    run_all(page, result)
    opened = Page(page, run)
    opened.root.get_by_role("status").filter(has_text="24 samples").wait_for(timeout=30_000)
    return opened


def prepare(folder):
    """Set notebook 09 to profile `ci`, and add a cell that writes the widget's state in the kernel to a file."""
    path = folder / "notebooks/09_errors.ipynb"
    use_profile(path, "ci")
    book = nbformat.read(path, 4)
    shown = next(i for i, cell in enumerate(book.cells) if cell.source.endswith("\nbrowser"))
    book.cells.insert(shown + 1, nbformat.v4.new_code_cell(WATCH))
    nbformat.write(book, path)


def test_browsing_errors_in_jupyterlab(lab, run, chromium):
    folder = lab[1]
    prepare(folder)
    tab = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page = open_notebook(tab, lab, run)
    predictions = Predictions(run.folder / METHODS[FULL_METHOD].predictions(0))
    order = np.argsort(predictions.table["course_miou"].to_numpy(), kind="stable")
    ids, size, cells = predictions.table["id"], predictions.store.size, tab.locator(".jp-Cell").count()

    # Keys move through the gallery; JupyterLab's own shortcuts (`d d` deletes a cell) do nothing.
    page.root.locator(".eb-cell").first.click()
    page.press("ArrowRight", "ArrowRight")
    page.eventually(lambda state: state["selected"] == ids[order[2]], "two samples on")
    tab.screenshot(path=folder / "gallery.png")
    page.press("d", "d", "g")
    page.press("Enter")
    page.root.locator(f".eb-detail[data-sample='{ids[order[2]]}']").wait_for()
    assert tab.locator(".jp-Cell").count() == cells

    # The canvas shows image and mask blended; opacity, hidden parts and the error map change the right pixels.
    i = order[2]
    image, predicted = predictions.data.images[i], predictions.store.masks[i]
    hand = int((predicted > 0).sum((1, 2)).argmax())
    name = ("left", "right")[hand]
    pixel = tuple(np.argwhere(predicted[hand] > 0)[40])
    part = predicted[hand][pixel]
    blended = OPACITY * COLOURS[part] + (1 - OPACITY) * image[pixel]
    page.painted(f"prediction {name}", size, pixel, blended, "a part over the image")
    page.painted(f"input {name}", size, pixel, image[pixel], "the image")
    page.press(*["]"] * 4)
    page.painted(f"prediction {name}", size, pixel, COLOURS[part], "the part alone")
    page.eventually(lambda state: state["view"]["opacity"] == 1, "opacity 1")
    kinds = error_classes(predicted, predictions.truth[i])
    wrong = tuple(np.argwhere(kinds[hand] > ERRORS.index("correct"))[20])
    page.painted(f"error map {name}", size, wrong, ERROR_COLOURS[kinds[hand][wrong]], "an error")
    page.root.locator(f".eb-legend [data-name='{PARTS[part]}']").click()
    page.painted(f"prediction {name}", size, pixel, image[pixel], "the part hidden")
    tab.screenshot(path=folder / "detail.png")

    # A click on a cell of the confusion matrix filters its samples, most pixels first: index called middle finger.
    page.press("m")
    matrix = page.root.locator("canvas.eb-matrix[data-grid]")
    matrix.wait_for()
    tab.screenshot(path=folder / "confusion.png")
    grid = json.loads(matrix.get_attribute("data-grid"))
    y, x = ((grid["order"].index(part) + 0.5) * grid["side"] for part in (2, 15))
    matrix.click(position={"x": grid["left"] + x, "y": grid["top"] + y})
    dense = np.stack([total_counts(predictions.counts(), [k]) for k in range(len(predictions))])
    pixels = dense[:, 0, 2, 15]
    strongest = np.lexsort((np.arange(len(pixels)), -pixels))[: (pixels > 0).sum()]
    state = page.eventually(lambda state: state["ids"] == ids[strongest].tolist(), "samples of a cell")
    assert 0 < len(state["ids"]) < len(predictions)
    assert page.root.locator(".eb-chip").filter(has_text=str(len(strongest))).count() == 1
    page.root.locator(".eb-chip").click()
    page.eventually(lambda state: len(state["ids"]) == len(predictions), "no filter")

    # A tag is saved beside the predictions, and is there again after a reload.
    page.root.locator(".eb-cell").first.click()
    page.press("Enter")
    chosen = page.eventually(lambda state: state["view"]["mode"] == "detail", "the detail")["selected"]
    page.root.get_by_role("button", name="bad truth").click()
    page.root.locator(".eb-tag[aria-pressed='true']").wait_for()
    assert json.loads(predictions.tags_file.read_text()) == {chosen: ["bad truth"]}
    tab.keyboard.press("Control+s")
    (run.folder / "state.json").unlink()
    again = open_notebook(tab, lab, run)
    tagged = again.root.locator(".eb-cell", has_text="bad truth")
    tagged.wait_for()
    assert tagged.get_attribute("title") == chosen
    tab.screenshot(path=folder / "tagged.png")
    assert not tab.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count()


def test_a_saved_page_shows_the_worst_without_a_kernel(tmp_path, dataset, predict_wrongly, chromium):
    from ethand_utils.app.browser import ErrorBrowser

    predict_wrongly(dataset["test"], tmp_path / "net")
    browser = ErrorBrowser(tmp_path / "net", dataset["test"])
    browser.save_page(tmp_path / "page.html")
    page = chromium.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.locator(".eb-cell canvas:not(.eb-waiting)").nth(7).wait_for()
    assert [page.locator(".eb-cell").nth(k).get_attribute("title") for k in range(8)] == browser.filtered["id"].tolist()
    page.keyboard.press("Enter")  # keys work before anything is clicked
    page.locator(f".eb-detail[data-sample='{browser.filtered['id'].iloc[0]}']").wait_for()
    assert len({url for url in requests if not url.startswith(("blob:", "data:"))}) == 1
