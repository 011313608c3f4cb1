"""Speed of `ethand data interhand` on a synthetic tree, and memory of indexing annotations of several sizes.

By hand: `python benchmarks/interhand.py [--frames 2000 --workers 2]`. Frames are 512×334 px, two hands, seen by ten
cameras at a moment; annotations five and fifty times as large are only indexed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import madetree

CAMERAS, CAPTURES = 10, 8
INDEX = r"""
import pathlib, re, sys, time
from ethand_utils.sources.interhand_index import find_annotations, index_annotation
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
before, began = peak(), time.perf_counter()
index_annotation(find_annotations(sys.argv[1])[0], sys.argv[2])
print(f"indexed in {time.perf_counter() - began:.1f} s, peak memory {peak():.1f} MB, of which imports {before:.1f}")
"""


def tables(frames: int) -> dict:
    """Return annotation tables of about so many frames."""
    moments = max(1, frames // (CAMERAS * CAPTURES))
    captures = {number: (number, moments) for number in range(CAPTURES)}
    return madetree.annotate(captures, CAMERAS, ("interacting",), (512, 334))


def time_reading(root: Path, out: Path, frames: int, workers: int) -> None:
    """Print frames/s of the command from its start to its end."""
    annotation = tables(frames)
    madetree.write_tree(root, annotation)
    command = [sys.executable, "-m", "ethand_utils.app.cli", "data", "interhand", "--root", root, "--out", out]
    began = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
    seconds, count = time.perf_counter() - began, len(annotation["data"]["images"])
    print(f"{count} frames in {seconds:.1f} s: {count / seconds:.0f} frames/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for times in (5, 50):
            root = Path(folder) / f"annotation{times}"
            madetree.write_annotation(root, tables(times * arguments.frames), "train")
            print(f"{times * arguments.frames} frames annotated: ", end="", flush=True)
            subprocess.run([sys.executable, "-c", INDEX, root, root / "index"], check=True, stderr=subprocess.DEVNULL)
        time_reading(Path(folder) / "tree", Path(folder) / "out", arguments.frames, arguments.workers)
