"""Timing of several ways to the same thing."""

import time
from collections.abc import Callable

import numpy as np


def in_turns(ways: dict[str, Callable[[], object]], images: int, rounds: int) -> dict[str, float]:
    """Median images/s of each way, the ways alternating after one warm-up each, and their ratios to the last's.

    Of two ways there is one `ratio`; of more, a `<way>_ratio` each.
    """
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    speed = {name: images / float(np.median(times)) for name, times in seconds.items()}
    *others, last = speed
    names = {name: f"{name}_ratio" for name in others} if len(others) > 1 else {name: "ratio" for name in others}
    ratios = {names[name]: speed[name] / speed[last] for name in others}
    return {f"{name}_images_per_s": value for name, value in speed.items()} | ratios
