"""A callback that interrupts a training in tests."""

from fastai.callback.core import Callback


class Outage(Exception):
    """The error of an interrupted training in tests."""


class FailAt(Callback):
    """Raises Outage at a batch of an epoch, both counted from 0 in a phase; keeps the rates of the batches so far."""

    order = 15

    def __init__(self, epoch=None, batch=0):
        self.batch, self.rates = (epoch, batch), []

    def before_batch(self):
        if self.training:
            self.rates.append(self.opt.hypers[-1]["lr"])
            if (self.epoch, self.iter) == self.batch:
                raise Outage("power cut")  # fastai wants an argument
