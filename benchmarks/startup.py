"""Start-up: CPU seconds and memory of short commands beside importing all the libraries, which none of them needs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ethand_utils.data.store import Store
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.training.photo_graph import RELEASED

ETHAND = (sys.executable, "-m", "ethand_utils.app.cli")
LIBRARIES = (
    "fastai.learner, matplotlib.pyplot, nbconvert, numba, pandas, papermill, scipy.stats, segmentation_models_pytorch"
)
ROUNDS = 3
# Commands start from a small process: a child's peak memory counts that of the process it was forked from.
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
# A stage whose notebook does nothing but to load what draws.
CELLS = ['RUN = "ci"', "from ethand_utils import analysis\n\nanalysis.bars"]


def startup(store: Store, folder: Path) -> dict[str, float]:
    """Measure the median CPU seconds, of all processes, and the largest one's memory of each command, alternating.

    `<command>_share` is its share of the seconds that importing LIBRARIES takes.
    """
    photo = folder / "photo.png"
    Image.fromarray(np.asarray(store.images[0]).repeat(4, 0).repeat(4, 1)).save(photo)
    _write_checkout(folder)
    box = ("--box", "0,0,256,256")
    commands = {
        "help": [*ETHAND, "--help"],
        "info": [*ETHAND, "data", "info", str(store.path)],
        "predict": [*ETHAND, "predict", str(photo), "--out", "masks", *box],
        "predict_pytorch": [*ETHAND, "predict", str(photo), "--out", "others", *box, "--weights", str(RELEASED)],
        "stage": [*ETHAND, "stage", "outputs/ci", "01_data"],
        "libraries": [sys.executable, "-c", f"import {LIBRARIES}"],
    }
    rounds = [{name: cpu_and_memory(command, folder) for name, command in commands.items()} for _ in range(ROUNDS)]
    seconds = {name: float(np.median([one[name][0] for one in rounds])) for name in commands}
    memory = {f"{name}_mib": max(one[name][1] for one in rounds) for name in commands}
    shares = {f"{name}_share": seconds[name] / seconds["libraries"] for name in commands if name != "libraries"}
    return {f"{name}_cpu_s": value for name, value in seconds.items()} | memory | shares


def cpu_and_memory(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command in a folder; return the CPU seconds of it and its children, and the largest one's peak, MiB."""
    measured = subprocess.run([sys.executable, "-c", MEASURE, *command], cwd=folder, capture_output=True, check=True)
    status, seconds, kib = measured.stdout.split()
    if int(status):
        raise subprocess.CalledProcessError(int(status), command, stderr=measured.stderr)
    return float(seconds), float(kib) / 1024


def _write_checkout(folder: Path) -> None:
    """Write what makes a folder a checkout with a run `ci`, and a notebook of CELLS as its first stage."""
    (folder / "notebooks").mkdir()
    (folder / "Snakefile").touch()
    cell = {"cell_type": "code", "execution_count": None, "outputs": []}
    cells = [
        cell | {"id": str(i), "metadata": {"tags": ["parameters"] if i == 0 else []}, "source": source}
        for i, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks/01_data.ipynb").write_text(json.dumps(notebook))
    run = folder / "outputs/ci"
    run.mkdir(parents=True)
    write_profile(run, load_profile("ci"))
