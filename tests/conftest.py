"""What tests share: a tiny rendered data set, scenes, small stores, the command; one thread, no display."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from ethand_utils.analysis.evaluate import evaluate_store
from ethand_utils.app import cli
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.labels import N_CLASSES
from ethand_utils.rendering.scenes import sample_scene
from ethand_utils.rendering.subjects import sample_subject
from ethand_utils.sources.rendered import render_dataset

matplotlib.use("Agg")
torch.set_num_threads(1)
# Who starts the tests in the background, or under nohup, lets signals be ignored that commands under test must heed.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SIZE = 32
REPOSITORY = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items):
    """Begin with the files that take long, the chain first: processes that share the tests take a file at a time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.stem != "test_chain", item.path not in slow))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Stores by name of a rendered data set of 32 px: train 16, val 8, test 8, unpaired 16. Read only.

    Of another seed's few images, Adam may make much of differences in rounding, or twenty steps may learn too little.
    """
    return render_dataset(tmp_path_factory.mktemp("rendered"), 16, 8, 8, 16, size=SIZE, seed=1)


@pytest.fixture(scope="session")
def pseudo_labels(dataset, tmp_path_factory):
    """A store of labels of the unpaired images, as if a net had written them: the truth, surer of some. Read only."""
    truth, sure = dataset["unpaired_truth"], np.random.default_rng(0).permutation(16).astype(np.float32) / 16

    def sample(i):
        return {"masks": truth.masks[i], "confidence": sure[i], "row": {"id": truth.index["id"][i]}}

    folder = tmp_path_factory.mktemp("pseudo") / "labels"
    return build_store(folder, StorePlan(sample, 16, SIZE, ("masks", "confidence"), {"source": "test"}))


@pytest.fixture(scope="session")
def two_hand_scenes():
    """Scenes of 120 people with two hands each. Read only."""
    generators = [np.random.default_rng(seed) for seed in range(120)]
    return [sample_scene(rng, sample_subject(rng), "interacting") for rng in generators]


@pytest.fixture
def make_store(tmp_path):
    """Function that writes arrays [n, …] as a store: `make_store("name", images=…, masks=…)`."""

    def make(name, **arrays):
        first = next(iter(arrays.values()))

        def sample(i):
            return {key: array[i] for key, array in arrays.items()} | {"row": {"id": f"{name}-{i}"}}

        plan = StorePlan(sample, len(first), first.shape[2], tuple(arrays), {"source": "test"})
        return build_store(tmp_path / name, plan)

    return make


@pytest.fixture
def ethand(monkeypatch, capfd):
    """Function that calls the command in this process; returns its exit status, stdout and stderr, Snakemake's too."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ethand", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return call


class Echo(torch.nn.Module):
    """A net that answers with given masks [n, 2, H, W], whatever it is shown."""

    def __init__(self, masks):
        super().__init__()
        self.masks, self.at = torch.from_numpy(np.array(masks)).long(), 0
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        masks = self.masks[self.at : self.at + len(images)]
        self.at += len(images)
        return 8 * torch.nn.functional.one_hot(masks, N_CLASSES).permute(0, 1, 4, 2, 3).flatten(1, 2).float()


@pytest.fixture
def predict_wrongly():
    """Function that writes predictions of a store with known faults: `predict_wrongly(store, folder, shift=2)`.

    Masks are the truth moved by `shift` px, the middle of the index finger called that of the middle finger, and every
    fourth sample with its hands exchanged.
    """

    def predict(store, folder, shift=2):
        masks = np.roll(store.masks, shift, axis=-1)
        masks[masks == 2] = 15
        masks[::4] = masks[::4, ::-1]
        return evaluate_store(Echo(masks), store, folder)

    return predict


@pytest.fixture
def chromium():
    """A real browser: the system's, or the one that Playwright has installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        installed = Path(playwright.chromium.executable_path)
        found = next(filter(None, map(shutil.which, BROWSERS)), installed if installed.exists() else None)
        if found is None:
            pytest.skip(f"no browser found: install one of {', '.join(BROWSERS)}, or `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


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
