"""What tests share: a tiny rendered data set, scenes, small stores, the command; one thread, no display."""

import sys

import matplotlib
import numpy as np
import pytest
import torch

from ethand_utils import cli
from ethand_utils.building import build_store
from ethand_utils.datasets import render_dataset
from ethand_utils.scenes import sample_scene
from ethand_utils.subjects import sample_subject

matplotlib.use("Agg")
torch.set_num_threads(1)

SIZE = 32


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Stores by name of a rendered data set of 32 px: train 16, val 8, test 8, unpaired 16. Read only."""
    return render_dataset(tmp_path_factory.mktemp("rendered"), 16, 8, 8, 16, size=SIZE)


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

        return build_store(tmp_path / name, sample, len(first), first.shape[2], tuple(arrays), {"source": "test"})

    return make


@pytest.fixture
def ethand(monkeypatch, capsys):
    """Function that calls the command; returns its exit status, stdout and stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ethand", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return call
