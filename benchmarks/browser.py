"""Response times of the error browser in a real browser, beside a plain one of ipywidgets and matplotlib.

By hand: `python benchmarks/browser.py [--samples 10000 --size 64]`. It makes samples, starts JupyterLab on loopback
with its token, opens a notebook in Chromium, and prints milliseconds. Times end when the frame is painted.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch
from playwright.sync_api import sync_playwright

from ethand_utils.analysis.evaluate import evaluate_store
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.labels import N_CLASSES
from ethand_utils.sources.rendered import render_dataset

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RENDERED = 200  # different samples; the others are shifted copies of them
IMPORTS = """
import ipywidgets, matplotlib.pyplot as plt, numpy as np
from ethand_utils.analysis.image_plots import error_map, overlay
from ethand_utils.analysis.predictions import Predictions
from ethand_utils.app.browser import ErrorBrowser
"""
OURS = """
browser = ErrorBrowser("net", compare="other")
browser
"""
PLAIN = """
predictions = Predictions("net")
order = np.argsort(predictions.table["course_miou"].to_numpy())
places, opacities = ipywidgets.IntSlider(0, 0, len(order) - 1), ipywidgets.FloatSlider(0.6, min=0, max=1)
@ipywidgets.interact(place=places, opacity=opacities)
def show(place, opacity):
    row = order[place]
    image, predicted, truth = predictions.data.images[row], predictions.store.masks[row], predictions.truth[row]
    figure, axes = plt.subplots(2, 4, figsize=(10, 5))
    for hand, line in enumerate(axes):
        shown = (overlay(image, masks[hand], opacity) for masks in (predicted, truth))
        for axis, panel in zip(line, (image, *shown, error_map(predicted, truth)[hand])):
            axis.imshow(panel)
            axis.axis("off")
    plt.show()
"""
# Milliseconds until the frame after an action is painted; `ready` says when the page shows what was asked for.
TIMED = """
window.painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done();
    channel.port2.postMessage(0);
}));
window.timed = async (act, ready = () => true) => {
    const began = performance.now();
    act();
    do await painted(); while (!ready() && performance.now() - began < 20000);
    return performance.now() - began;
};
window.press = (key) => {
    const event = new KeyboardEvent("keydown", { key, bubbles: true });
    document.querySelector(".eb-root").dispatchEvent(event);
};
window.filled = () => !document.querySelector(".eb-cell:not([hidden]) canvas.eb-waiting");
window.pause = (ms) => new Promise((done) => setTimeout(done, ms));
"""
NEXT = """async (times) => {
    const detail = document.querySelector(".eb-detail"), found = [];
    for (let i = 0; i < times; i++) {
        const before = detail.dataset.sample;
        const shown = () => detail.dataset.sample && detail.dataset.sample !== before;
        found.push(await timed(() => press("ArrowRight"), shown));
        await pause(30);
    }
    return found;
}"""
KEYS = """async ([times, keys]) => {
    const found = [];
    for (let i = 0; i < times; i++) {
        found.push(await timed(() => press(keys[i % keys.length])));
        await pause(20);
    }
    return found;
}"""
PARTS = """async (times) => {
    const buttons = [...document.querySelectorAll(".eb-legend [data-name]")], found = [];
    for (let i = 0; i < times; i++) {
        found.push(await timed(() => buttons[i % buttons.length].click()));
        await pause(20);
    }
    return found;
}"""
CHOOSE = """async ([selector, values]) => {
    const found = { frame: [], images: [] };
    for (const value of values) {
        const select = document.querySelector(selector);
        const act = () => { select.value = value; select.dispatchEvent(new Event("change", { bubbles: true })); };
        found.frame.push(await timed(act));
        const began = performance.now();
        while (!filled() && performance.now() - began < 10000) await painted();
        found.images.push(found.frame.at(-1) + performance.now() - began);
        await pause(150);
    }
    return found;
}"""
SLIDE = """async ([which, times, keys]) => {
    const handle = document.querySelectorAll(".noUi-handle")[which], found = [];
    const shown = () => [...document.querySelectorAll(".jp-OutputArea-output img")].at(-1);
    for (let i = 0; i < times; i++) {
        const before = shown()?.src;
        const key = new KeyboardEvent("keydown", { key: keys[i % keys.length], bubbles: true });
        found.push(await timed(() => handle.dispatchEvent(key), () => shown()?.complete && shown().src !== before));
        await pause(50);
    }
    return found;
}"""


class Noisy(torch.nn.Module):
    """A net that predicts the ground truth shifted by some px, with one part renamed."""

    def __init__(self, masks: np.ndarray, shift: int):
        super().__init__()
        self.masks, self.shift, self.start = masks, shift, 0
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        masks = np.roll(self.masks[self.start : self.start + len(images)], self.shift, axis=-1)
        masks = torch.from_numpy(np.where(masks == 2, 15, masks)).long()
        self.start += len(images)
        return 8 * torch.nn.functional.one_hot(masks, N_CLASSES).permute(0, 1, 4, 2, 3).flatten(1, 2).float()


def make_samples(folder: Path, count: int, size: int) -> None:
    """Write `data` and two nets' predictions of it, `net` and `other`."""
    source = render_dataset(folder / "rendered", 1, 1, RENDERED, 1, size)["test"]
    arrays = {name: np.asarray(getattr(source, name)) for name in ("images", "masks", "front")}
    rows = source.index.to_dict("records")

    def sample(i: int) -> dict:
        by = i // RENDERED
        moved = {
            name: np.roll(array[i % RENDERED], by, -2 if name == "images" else -1) for name, array in arrays.items()
        }
        return moved | {"row": rows[i % RENDERED] | {"id": f"made-{i:06d}"}}

    data = build_store(folder / "data", StorePlan(sample, count, size, tuple(arrays), {}))
    for name, shift in (("net", 1), ("other", 3)):
        evaluate_store(Noisy(data.masks, shift), data, folder / name)


@contextlib.contextmanager
def jupyterlab(folder: Path):
    """Run JupyterLab in a folder; yields its address with the token."""
    home = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | home, stdout=log, stderr=log)
        try:
            for _ in range(240):
                address = re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", (folder / "lab.log").read_text())
                if address:
                    break
                time.sleep(0.5)
            yield address.group()
        finally:
            server.terminate()
            server.wait(30)


def open_notebook(browser, address: str, folder: Path, name: str, cell: str):
    """Open a notebook of two cells and run the first, the imports."""
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cells = [nbformat.v4.new_code_cell(code.strip()) for code in (IMPORTS, cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.goto(address.replace("/lab?", f"/lab/tree/{name}.ipynb?reset&"))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-InputPrompt", has_text="[1]:").wait_for(timeout=90_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
    page.evaluate(TIMED)
    return page


def measure_ours(page) -> dict[str, list[float]]:
    """Return the milliseconds of every kind of action in the error browser."""
    began = time.perf_counter()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function("() => document.querySelector('.eb-cell') && filled() && painted().then(() => true)")
    times = {"first gallery shown (ms from Shift+Enter)": [1000 * (time.perf_counter() - began)]}
    page.locator(".eb-status", has_not_text="kernel").wait_for()
    times["all samples there (ms from Shift+Enter)"] = [1000 * (time.perf_counter() - began)]
    page.locator(".eb-status", has_not_text=re.compile("counted|kernel")).wait_for(timeout=120_000)
    times["all confusion there (ms from Shift+Enter)"] = [1000 * (time.perf_counter() - began)]
    for name, values in (
        ("sort", ["confidence", "occluded_iou", "part:12", "difference", "disagreement", "course_miou"] * 3),
        ("filter by hand type", ["left", "interacting", "right", ""] * 5),
        ("filter by part", ["12", "9", "13", ""] * 5),
    ):
        selector = {"sort": "[aria-label='Sort by']", "filter by part": "[data-slot='part']"}.get(name)
        spent = page.evaluate(CHOOSE, [selector or "[data-slot='category:hand_type']", values])
        times |= {f"{name}: new order painted": spent["frame"], f"{name}: all its images painted": spent["images"]}
    page.evaluate("press('Enter')")
    page.wait_for_timeout(1000)
    times["next sample by key"] = page.evaluate(NEXT, 100)
    times["opacity"] = page.evaluate(KEYS, [100, ["[", "[", "]", "]"]])
    times["part toggled"] = page.evaluate(PARTS, 96)
    return times


def measure_plain(page) -> dict[str, list[float]]:
    """Return the milliseconds of the same actions in the plain browser."""
    began = time.perf_counter()
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-OutputArea-output img").first.wait_for(timeout=60_000)
    first = 1000 * (time.perf_counter() - began)
    return {
        "first sample shown (ms from Shift+Enter)": [first],
        "next sample by key": page.evaluate(SLIDE, [0, 20, ["ArrowRight"]]),
        "opacity": page.evaluate(SLIDE, [1, 20, ["ArrowRight", "ArrowLeft"]]),
    }


def main() -> None:
    """Make the samples, measure both browsers and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64, help="px a side")
    arguments = parser.parse_args()
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make_samples(folder, arguments.samples, arguments.size)
        with jupyterlab(folder) as address:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            print(f"{arguments.samples} samples of {arguments.size} px, {os.cpu_count()} cores")
            report("error browser", measure_ours(open_notebook(browser, address, folder, "ours", OURS)))
            report("plain browser", measure_plain(open_notebook(browser, address, folder, "plain", PLAIN)))
            browser.close()


def report(title: str, times: dict[str, list[float]]) -> None:
    """Print median, 95th percentile and worst of every kind of action."""
    rows = {name: (len(t), np.median(t), np.percentile(t, 95), max(t)) for name, t in times.items()}
    table = pd.DataFrame(rows, index=["times", "median ms", "95 % ms", "worst ms"]).T
    print(f"\n{title}\n{table.to_string(float_format='{:.0f}'.format)}", flush=True)


if __name__ == "__main__":
    main()
