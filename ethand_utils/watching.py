"""Watching a training: a bar with live curves in a notebook, and a log file that one can follow from anywhere."""

import base64
import html
import io
import time
from datetime import datetime
from pathlib import Path

from fastai.callback.core import Callback
from matplotlib.figure import Figure

from ethand_utils.distributed import rank

LOG_EVERY, SHOW_EVERY = 10.0, 2.0  # seconds between lines of the log, and between pictures in a notebook
POINTS = 200  # of the loss curve, each a mean over as many batches as it takes


class Watch(Callback):
    """Follows one epoch after another: `train.log` in the training's folder, and a live view where there is a notebook.

    The log gains a line every ten seconds and at each epoch's end, so that `tail -f outputs/*/g2/*/*/train.log` shows
    every training at work. The view of a notebook goes away when the training ends: the curves of `history.csv` say
    the same.
    """

    order = 75  # after Progress, whose counts and rows it tells

    def __init__(self, progress):
        self.progress, self.view = progress, None
        self.losses: list[float] = []

    def before_fit(self):
        self.logged = self.shown = time.time()


"""
"""
