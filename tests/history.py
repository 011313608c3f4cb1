"""Comparison of a training's history with its dry run."""

import pytest


def assert_as_planned(history, phases):
    """`history.csv` has the phases, the images and the last learning rate of every epoch that the dry run predicts."""
    epochs = [(phase, epoch) for phase in phases for epoch in range(phase["epochs"])]
    assert history["phase"].tolist() == [phase["phase"] for phase, _ in epochs]
    assert history["images"].tolist() == [phase["learned"] / phase["epochs"] for phase, _ in epochs]
    assert history["lr"].tolist() == pytest.approx([phase["lr"][epoch][1] for phase, epoch in epochs], rel=1e-9)
