"""fastai callbacks and metrics that every training shares: mixed precision, finite losses, validation mIoU."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.learner import AvgLoss, AvgSmoothLoss, Learner, Metric
from fastai.torch_core import to_float
from torch import nn

from ethand_utils.data.augment import half_size_images, half_size_masks
from ethand_utils.data.prefetch import runs_ahead
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import N_CLASSES
from ethand_utils.training.losses import per_hand
from ethand_utils.training.metrics import confusion, hand_miou, nanmean

COMPILE = {"mode": "reduce-overhead"}  # of torch.compile: a CUDA graph of each step, on a GPU
MAX_SHAPES = 4  # of images that a net is compiled for
READ_EVERY = 50  # batches of a GPU whose losses are read together


class TrainingError(EthandError):
    """A training that cannot go on."""


@contextlib.contextmanager
def autocast_bf16(model: nn.Module, compiled: bool = False) -> Iterator[None]:
    """Run the net in bfloat16 autocast inside the context, where the device has it; its outputs are float32.

    On a CPU its images are converted to channels-last, the layout of `learner.to_device`. With `compiled` its training
    steps run as `compiled_steps`.
    """
    model.forward = partial(forward_bf16, compiled_steps(model) if compiled else model.forward)
    try:
        yield
    finally:
        del model.forward


def compiled_steps(model: nn.Module) -> Callable:
    """Return a net's forward whose training steps torch.compile has compiled; without gradients it is the net's own.

    The net itself is not changed: weights keep their names, and copies are of the net. Each shape of images is compiled
    when it first comes, which takes minutes, so that those after the first MAX_SHAPES run uncompiled.
    """
    plain, shapes = model.forward, set()
    fast = torch.compile(plain, dynamic=False, **COMPILE)

    def forward(images: torch.Tensor) -> torch.Tensor:
        steps = model.training and torch.is_grad_enabled()
        if steps and (images.shape in shapes or len(shapes) < MAX_SHAPES):
            shapes.add(images.shape)
            return fast(images)
        return plain(images)

    return forward


def forward_bf16(net: Callable, *inputs: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """Compute a net's outputs float32 as in `autocast_bf16`."""
    device = inputs[0].device
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    with torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device)):
        return to_float(net(*(values.to(memory_format=layout) for values in inputs)))


@cache
def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 units: a recent GPU, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


class FiniteLoss(Callback):
    """Stops a training when its loss is NaN or infinite, or when its weights are after an epoch.

    On a CPU it stops before the step of that loss. On a GPU, where reading a loss waits for all work before it, it
    reads READ_EVERY at a time and stops so much later. Either is before the epoch's checkpoint is written, so that the
    one of the last good epoch stays.
    """

    order = 60  # after the terms that methods add to the loss

    def before_train(self):
        self.unread: list[tuple[torch.Tensor, str, int]] = []  # losses, their names and batches

    def after_loss(self):
        if self.training:
            require_finite(self.loss, "loss", self)

    def after_batch(self):
        if self.training and len(self.unread) >= READ_EVERY:
            self.read()

    def after_train(self):
        self.read()

    def read(self) -> None:
        """Raise TrainingError for the first of the unread losses that is NaN or infinite."""
        values = torch.stack([loss for loss, _, _ in self.unread]).tolist() if self.unread else []
        for value, (_, name, batch) in zip(values, self.unread, strict=True):
            if not math.isfinite(value):
                raise _not_finite(name, value, batch)
        self.unread = []

    def after_epoch(self):
        nets = [self.learn.model, *(net for one in self.learn.cbs for net in _nets_of(one))]
        if not all(values.isfinite().all() for net in nets for values in net.state_dict().values()):
            raise TrainingError("its last step left weights that are not finite; lower the learning rate")


def _nets_of(callback: Callback) -> list[nn.Module]:
    """Return the nets of a callback of `training.semi`; none of another callback."""
    return list(callback.nets.values()) if hasattr(type(callback), "nets") else []


def require_finite(loss: torch.Tensor, name: str, callback: Callback) -> None:
    """Raise TrainingError, naming the current batch of `callback`, when a loss is NaN or infinite.

    On a GPU the training's FiniteLoss does, later.
    """
    if runs_ahead(loss.device):
        callback.learn.finite_loss.unread.append((loss.detach(), name, callback.iter))
    elif not torch.isfinite(loss):
        raise _not_finite(name, loss.item(), callback.iter)


def _not_finite(name: str, value: float, batch: int) -> TrainingError:
    return TrainingError(f"the {name} is {value} in batch {batch}; lower the learning rate")


class SmoothLoss(AvgSmoothLoss):
    """fastai's running mean of the training loss, on the device: fastai's own waits for every batch."""

    def accumulate(self, learn: Learner):
        """Add a batch."""
        self.count += 1
        loss = learn.loss.detach().mean()
        self.val = torch.lerp(loss, self.val.to(loss), self.beta)


class MeanLoss(AvgLoss):
    """fastai's mean of the validation loss, on the device."""

    def accumulate(self, learn: Learner):
        """Add a batch."""
        count = len(learn.yb[0])
        self.total += learn.loss.detach().mean() * count
        self.count += count


class HalfSize(Callback):
    """Trains on images and masks of half the size during the first `share` of a training, over all its phases.

    A step at half the size costs a quarter to a half, the larger the images the less, and teaches the net where hands
    are; details come with the full size, at which every validation is. `learn.at_half_size` tells other callbacks the
    size of the current batch.
    """

    order = 20  # after what labels or filters an unpaired batch

    def __init__(self, share: float, checkpointer: Callback):
        self.share, self.checkpointer = share, checkpointer

    def before_batch(self):
        self.learn.at_half_size = bool(self.training and self.checkpointer.progress < self.share)
        if self.at_half_size:
            self.learn.xb, self.learn.yb = (half_size_images(self.xb[0]),), tuple(map(_halved, self.yb))


def _halved(values: torch.Tensor) -> torch.Tensor:
    """Return masks, the hand in front, or views of images at half the size."""
    return half_size_images(values) if values.is_floating_point() else half_size_masks(values)


class CourseMIoU(Metric):
    """The course's mIoU over the validation set, as a fastai metric."""

    name = "course_miou"

    def reset(self):
        """Start a new pass."""
        self.counts, self.size = [], 0

    def accumulate(self, learn: Learner):
        """Add a batch."""
        predicted, truth = per_hand(learn.pred).argmax(2), learn.yb[0]
        count = confusion_on_device if runs_ahead(truth.device) else _confusion
        self.counts.append(count(predicted, truth))
        self.size = truth.shape[-1]

    @property
    def value(self) -> float:
        """nan-mean over all hands so far."""
        return nanmean(hand_miou(torch.cat(self.counts).cpu().numpy(), self.size)) if self.counts else float("nan")


def _confusion(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(confusion(predicted.numpy(), truth.numpy()))


def confusion_on_device(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Count pixels int64 [n, 2, 17, 17] as `metrics.confusion` does, of masks int64 [n, 2, H, W], without waiting."""
    pairs = (N_CLASSES * truth + predicted).flatten(2)
    counts = pairs.new_zeros(*pairs.shape[:2], N_CLASSES**2).scatter_add_(2, pairs, torch.ones_like(pairs))
    return counts.unflatten(2, (N_CLASSES, N_CLASSES))


def epoch_means(terms: dict[str, list[torch.Tensor]]) -> dict[str, float]:
    """Return the mean of each term's numbers, one a batch; none of a term without any."""
    return {name: float(torch.stack(values).mean()) for name, values in terms.items() if values}


def weights_digest(model: nn.Module) -> str:
    """Return twelve hexadecimal digits that change with any of a net's weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
