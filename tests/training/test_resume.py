"""Trainings that are killed at any moment and resumed end with the bytes of uninterrupted ones."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import trainee

from ethand_utils.training import semi

KILLS = 3  # a training, or a kind of phase of G2


@pytest.fixture(scope="module")
def context():
    """A context whose new processes have PyTorch and fastai already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["ethand_utils.training.learner", "ethand_utils.training.pseudo_labels", "ethand_utils.data.dataloaders"]
    )
    return context


@pytest.fixture
def train(context, dataset, pseudo_labels):
    """Function that trains in a process of its own, killed `moment` seconds after `beats` batches if given."""

    def run(kind, folder, beats=None, moment=0.0):
        listens, speaks = context.Pipe(duplex=False)
        given = (kind, folder, dataset["train"].path.parent, pseudo_labels.path, (trainee.Beat(speaks),))
        process = context.Process(target=trainee.run, args=given)
        process.start()
        speaks.close()
        if beats is not None:
            heard = 0
            while heard < beats and (said := os.read(listens.fileno(), beats - heard)):
                heard += len(said)
            time.sleep(moment)
            process.kill()
        else:
            while os.read(listens.fileno(), 4096):
                pass
        process.join()
        return process.exitcode

    return run


def moments(kind, seed=0):
    """Batches after which to kill, KILLS in each kind of phase, and fractions of a second to wait then."""
    rng = np.random.default_rng(seed)
    epochs = trainee.EPOCHS[kind]
    starts = np.cumsum([0, *epochs]) * trainee.BATCHES
    for phase in range(min(len(epochs), 2)):
        yield from zip(rng.integers(starts[phase], starts[phase + 1], KILLS), rng.random(KILLS) / 20, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["g1", "d", "g2", "cyclegan", *semi.names()])
def test_a_training_killed_again_and_again_ends_with_the_weights_of_one_that_was_not(kind, train, tmp_path):
    assert train(kind, tmp_path / "whole") == 0
    ends = []
    for number, (beats, moment) in enumerate(moments(kind)):
        folder = tmp_path / f"parts{number}"
        ends.append(train(kind, folder, beats, moment))
        assert train(kind, folder) == 0
        assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "whole/weights.safetensors").read_bytes()
    assert -signal.SIGKILL in ends
