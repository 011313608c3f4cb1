"""Timing of several variants of the same work."""

import time
from collections.abc import Callable

import numpy as np


def time_variants(variants: dict[str, Callable[[], object]], images: int, rounds: int) -> dict[str, float]:
    """Return median images/s of each variant, alternating after one warm-up each, and the ratios to the last.

    Of two variants there is one `ratio`; of more, a `<variant>_ratio` each.
    """
    seconds = {name: [] for name in variants}
    for variant in variants.values():
        variant()
    for _ in range(rounds):
        for name, variant in variants.items():
            began = time.perf_counter()
            variant()
            seconds[name].append(time.perf_counter() - began)
    speed = {name: images / float(np.median(times)) for name, times in seconds.items()}
    *others, last = speed
    names = {name: f"{name}_ratio" for name in others} if len(others) > 1 else {name: "ratio" for name in others}
    ratios = {names[name]: speed[name] / speed[last] for name in others}
    return {f"{name}_images_per_s": value for name, value in speed.items()} | ratios
