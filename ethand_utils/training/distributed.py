"""One training on several processes: each has a share of every batch, and all take the same step.

Sums over a batch (losses, batch normalisation) are taken over all processes and gradients averaged, so that the result
equals that of one process but for rounding. Outside `spawn` everything here is that of a single process.
"""

import io
import os
import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from ethand_utils.data.workers import end_with_parent
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write

_FAULT = "fault"  # file in which a process leaves the error that ended it


def world_size() -> int:
    """Return the number of processes that share this training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0, which is the one that writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all processes, element by element; its gradient goes back to each.

    Without gradients the values are returned as they are: each process validates on the whole validation set.
    """
    return _over_all(values) if torch.is_grad_enabled() else values


def _over_all(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all processes, with gradients or without."""
    return _AllReduceSum.apply(values) if world_size() > 1 else values


class _AllReduceSum(torch.autograd.Function):
    """Sum forward, and backward the sum of the processes' gradients; PyTorch's own is deprecated since 2.15."""

    @staticmethod
    def forward(ctx, values):
        return _sum(values)

    @staticmethod
    def backward(ctx, gradient):
        return _sum(gradient)


def _sum(values: torch.Tensor) -> torch.Tensor:
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values)
    return values


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of all elements of all processes, which may differ in their number; with gradient.

    Without gradients it is the mean of this process's elements, as in `all_reduce_sum`.
    """
    if world_size() == 1:
        return values.mean()
    return all_reduce_sum(values.sum()) / all_reduce_sum(values.new_tensor(values.numel()))


def all_reduce_min(number: int) -> int:
    """Return the smallest of the processes' numbers."""
    if world_size() == 1:
        return number
    smallest = torch.tensor(number, device=_device())
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


def parallel(model: nn.Module) -> nn.Module:
    """Return the net to train: with several processes, one with the gradients and batch statistics of all."""
    return model if world_size() == 1 else DistributedDataParallel(with_shared_statistics(model))


def with_shared_statistics(model: nn.Module) -> nn.Module:
    """Make a net normalise each batch by the statistics of all processes, in place where it can, and return it."""
    if world_size() == 1:
        return model
    if _device().type == "cuda":
        return convert_sync_batchnorm(model)
    for layer in model.modules():  # PyTorch has no synchronised batch normalisation for a CPU
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = partial(_sync_batch_norm, layer)
    return model


def spawn(function: Callable, processes: int, device: torch.device, *arguments) -> None:
    """Call `function(*arguments)` in `processes` new processes of one group, and wait until all have ended.

    On GPUs each process has one of its own. Arguments are copied, tensors and nets included, onto each process's
    device. An error in one of them ends the others and is raised here; they end with this process. Raises EthandError
    when there are too few GPUs, or when a process is killed.
    """
    if device.type == "cuda" and torch.cuda.device_count() < processes:
        gpus = torch.cuda.device_count()
        raise EthandError(f"processes: {processes}, but there are {gpus} GPUs; expected one for each process")
    content = io.BytesIO()
    torch.save((function, arguments), content)
    multiprocessing.get_context("forkserver").set_forkserver_preload([function.__module__])
    with tempfile.TemporaryDirectory() as folder:
        try:
            given = (processes, device.type, folder, content.getvalue())
            multiprocessing.start_processes(_worker, given, processes, start_method="forkserver")
        except multiprocessing.ProcessRaisedException as error:
            fault = Path(folder) / _FAULT
            raise pickle.loads(fault.read_bytes()) if fault.exists() else error from None
        except multiprocessing.ProcessExitedException as error:
            reason = f"process {error.error_index} of {processes} has ended ({error.signal_name or error.exit_code})"
            raise EthandError(f"{reason}, perhaps for memory; start again to go on") from None


def _worker(number: int, processes: int, kind: str, folder: str, content: bytes) -> None:
    """Worker entry point."""
    end_with_parent()
    device = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    backend, rendezvous = ("nccl" if kind == "cuda" else "gloo"), (Path(folder) / "rendezvous").as_uri()
    dist.init_process_group(backend, init_method=rendezvous, rank=number, world_size=processes)
    try:
        function, arguments = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
        function(*arguments)
    except EthandError as error:
        with atomic_write(Path(folder) / _FAULT) as temporary:
            temporary.write_bytes(pickle.dumps(error))
        raise
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    """Return the device on which tensors are exchanged."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _sync_batch_norm(layer: nn.BatchNorm2d, images: torch.Tensor) -> torch.Tensor:
    """Compute a batch normalisation layer's output [B, C, H, W] with the statistics of all processes' batches."""
    if layer.training:
        values = images.float()
        number = _over_all(values.new_tensor(values.numel() // layer.num_features))
        mean = _over_all(values.sum((0, 2, 3))) / number
        centred = values - mean.view(1, -1, 1, 1)
        variance = _over_all((centred**2).sum((0, 2, 3))) / number
        scale = (layer.weight * (variance + layer.eps).rsqrt()).view(1, -1, 1, 1)
        normal = (centred * scale + layer.bias.view(1, -1, 1, 1)).to(images.dtype)
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(variance * number / (number - 1), layer.momentum)
    else:
        statistics = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        normal = F.batch_norm(images, *statistics, eps=layer.eps)
    return layer.act(layer.drop(normal)) if isinstance(layer, BatchNormAct2d) else normal
