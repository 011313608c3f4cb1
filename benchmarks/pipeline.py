"""Benchmarks of rendering, dataloader and metrics, and the table of all benchmarks with their runner."""

import cProfile
import multiprocessing
import os
import pstats
import tempfile
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from benchmarks.nets import inference, training
from benchmarks.plain import PlainDataset, plain_augment, plain_course_miou
from benchmarks.startup import startup
from benchmarks.step import steps
from benchmarks.timing import time_variants
from ethand_utils.data.augment import IMAGE_STD, Augmentation, sample_params, transform
from ethand_utils.data.dataloaders import StoreLoader
from ethand_utils.data.store import Store
from ethand_utils.exceptions import require_known
from ethand_utils.sources.rendered import RenderedSample, render_dataset
from ethand_utils.training.metrics import course_miou

SIZE, SAMPLES, BS, ROUNDS = 64, 256, 16, 9
MAX_DIFFERENCE, MIN_AGREEMENT = 1.0, 0.99  # of the plain loader: mean difference of 255, share of equal mask pixels

RENDERED = 512  # images that the rendering processes share
RENDER_STAGES = {  # functions, by module, that make up a stage of rendering
    "scene": [("subjects", "sample_subject"), ("scenes", "sample_scene")],
    "rays": [("raycast", "__init__"), ("raycast", "rays"), ("raycast", "first_hits")],
    "truth": [("render", "_ground_truth")],
    "light": [("render", "_light")],
    "skin": [("skin", "surface"), ("render", "_skin_radiance")],
    "background": [("backdrop", "background")],
    "camera": [("backdrop", "camera_response")],
}


def rendering_speed() -> dict[str, float]:
    """Render samples of 64 and 128 px with image, masks and front, in one independent process a core.

    Returns images/s of all together, peak memory of a process, and the milliseconds of each stage of an image.
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
    """Render samples and return this process's peak memory, MiB."""
    make, samples = share
    for i in samples:
        make(i)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024  # getrusage returns the parent's peak if that is greater


def _render_stages(make: RenderedSample, samples: int = 32) -> dict[str, float]:
    """Return the milliseconds an image of each of RENDER_STAGES and of all, in one process, by cProfile."""
    profile = cProfile.Profile()
    began = time.perf_counter()
    profile.runcall(_render_samples, (make, range(samples)))
    total = (time.perf_counter() - began) / samples * 1000
    spent = {(Path(file).stem, name): times[3] for (file, _, name), times in pstats.Stats(profile).stats.items()}
    stages = {stage: sum(spent[call] for call in calls) / samples * 1000 for stage, calls in RENDER_STAGES.items()}
    return {f"stage_{stage}_ms": ms for stage, ms in {**stages, "all": total}.items()}


def _loader(store: Store) -> dict[str, float]:
    """Time an epoch over the store, both loaders in the process that trains."""
    ours = StoreLoader(store, BS, Augmentation())
    plain = DataLoader(PlainDataset(store), BS, shuffle=True, drop_last=True)
    variants = {"ours": lambda: deque(ours, maxlen=0), "plain": lambda: deque(plain, maxlen=0)}
    return time_variants(variants, len(ours) * BS, ROUNDS) | loader_agreement(store)


def loader_agreement(store: Store) -> dict[str, float]:
    """Compare the plain augmentation with ours for the same parameters; OpenCV interpolates to 1/32 px."""
    images, masks = np.array(store.images[:BS]), np.array(store.masks[:BS])
    params = sample_params(len(images), Augmentation(), torch.Generator().manual_seed(0))
    pixels, labels = transform(torch.from_numpy(images), torch.from_numpy(masks), Augmentation(), params)
    degrees, gain = torch.rad2deg(params.angle), params.gain.flatten(1).numpy()
    samples = [
        plain_augment(images[i], masks[i], float(degrees[i]), float(params.scale[i]), gain[i], bool(params.flipped[i]))
        for i in range(len(images))
    ]
    plain_pixels, plain_labels = (torch.stack(values) for values in zip(*samples, strict=True))
    difference = float(((plain_pixels - pixels).abs() * 255 * torch.tensor(IMAGE_STD).view(1, 3, 1, 1)).mean())
    agreement = float((plain_labels == labels).float().mean())
    equal = difference <= MAX_DIFFERENCE and agreement >= MIN_AGREEMENT
    return {"image_difference_of_255": difference, "mask_agreement": agreement, "equal": float(equal)}


def _metrics(store: Store) -> dict[str, float]:
    """Time the course's mIoU of all masks of the store against masks moved by 2 px."""
    truth = np.array(store.masks)
    predicted = np.roll(truth, 2, axis=-1)
    variants = {"ours": lambda: course_miou(predicted, truth), "plain": lambda: plain_course_miou(predicted, truth)}
    difference = abs(variants["ours"]() - variants["plain"]())
    return time_variants(variants, len(store), ROUNDS) | {"difference": difference, "equal": float(difference < 1e-9)}


def _startup(store: Store) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return startup(store, Path(folder))


BENCHMARKS = {
    "render": lambda _: rendering_speed(),
    "loader": _loader,
    "metrics": _metrics,
    "train": lambda store: training(store, BS),
    "step": steps,
    "predict": lambda store: inference(store, BS),
    "startup": _startup,
}
MEANING = {
    "render": "samples from all cores, and the milliseconds of one",
    "loader": f"augmented batches of {BS} against a PyTorch DataLoader with OpenCV, sample by sample, same arrays",
    "metrics": "course mIoU of masks in memory against a loop over images, hands and classes",
    "train": "a training step of G2 of `tiny` against smp's nets and losses in float32, same batch",
    "step": "G2's step on pairs of 128 px through the Learner, against bare steps on one batch and the authors' way",
    "predict": "a batch through the same net, each runtime against eager float32, and its agreement of the arg-max",
    "startup": "CPU seconds and memory of short commands, and their share of importing the libraries",
}


def run(names: list[str]) -> dict[str, dict[str, float]]:
    """Run the named BENCHMARKS: a flat dict of figures for each. Raises EthandError for an unknown name."""
    for name in names:
        require_known("benchmark", name, BENCHMARKS)
    with tempfile.TemporaryDirectory() as folder:
        needs_store = set(names) != {"render"}
        store = render_dataset(folder, SAMPLES, 1, 1, 1, SIZE)["train"] if needs_store else None
        return {name: BENCHMARKS[name](store) for name in names}


def table(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures as text: for every benchmark what it compares, then one figure a line."""
    blocks = []
    for name, values in figures.items():
        lines = pd.Series(values).to_string(float_format="{:.4g}".format)
        blocks.append(f"{name}: {MEANING[name]}\n{lines}")
    return "\n\n".join(blocks)
