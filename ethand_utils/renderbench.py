"""How fast this machine renders, and what takes the time. Its processes load no more than rendering needs."""

import cProfile
import multiprocessing
import os
import pstats
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ethand_utils.datasets import RenderedSample

RENDERED = 512  # images that the rendering processes share
RENDER_STAGES = {  # functions, by module, that make up a stage of rendering
    "scene": [("subjects", "sample_subject"), ("scenes", "sample_scene")],
    "rays": [("raycast", "__init__"), ("raycast", "rays"), ("raycast", "seen")],
    "truth": [("rendering", "_truth")],
    "light": [("rendering", "_light")],
    "skin": [("skin", "surface"), ("rendering", "_skin_radiance")],
    "backdrop": [("backdrop", "backdrop")],
    "camera": [("backdrop", "develop")],
}


def rendering_speed() -> dict[str, float]:
    """Samples of 64 and 128 px with image, masks and front, one process a core, each at work on its own.

    Images/s of all together, peak memory of a process, and what the stages of one image take.
    """
    cores, figures = len(os.sched_getaffinity(0)), {"processes": len(os.sched_getaffinity(0))}
    for size in (64, 128):
        make = RenderedSample("train", 4, size, 0, True)
        shares = [(make, range(k * RENDERED // cores, (k + 1) * RENDERED // cores)) for k in range(cores)]
        with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_render_samples, [(make, range(4))] * cores))
            began = time.perf_counter()
            memory = list(pool.map(_render_samples, shares))
            seconds = time.perf_counter() - began
        figures |= {f"{size}px_images_per_s": RENDERED / seconds, f"{size}px_mib_per_process": max(memory)}
    return figures | _render_stages(make)


def _render_samples(share: tuple[RenderedSample, range]) -> float:
    """Render samples; returns the most memory in MiB that this process has had."""
    make, samples = share
    for i in samples:
        make(i)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024  # getrusage would give the parent's peak where that is greater


def _render_stages(make: RenderedSample, samples: int = 32) -> dict[str, float]:
    """Milliseconds an image of each of RENDER_STAGES in one process, by the standard profiler, and of all."""
    profile = cProfile.Profile()
    began = time.perf_counter()
    profile.runcall(_render_samples, (make, range(samples)))
    total = (time.perf_counter() - began) / samples * 1000
    spent = {(Path(file).stem, name): times[3] for (file, _, name), times in pstats.Stats(profile).stats.items()}
    stages = {stage: sum(spent[call] for call in calls) / samples * 1000 for stage, calls in RENDER_STAGES.items()}
    return {f"stage_{stage}_ms": ms for stage, ms in {**stages, "all": total}.items()}
