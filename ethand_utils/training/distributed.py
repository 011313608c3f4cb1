"""One training on several processes: each has a part of every batch, and all take the same step.

Sums over a batch (losses, batch normalisation) are taken over all processes and gradients averaged, so that the result
is that of one process but for rounding. Outside `launch` everything here is that of a single process.
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

_FAULT = "fault"  # file in which a process leaves the error that ended it


def world_size() -> int:
    """Processes that share this training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0, which is the one that writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, element by element; its gradient goes back to each.

    Without gradients the values as they are: each process validates on all there is.
    """
    return _Total.apply(values) if world_size() > 1 and torch.is_grad_enabled() else values


class _Total(torch.autograd.Function):
    """The sum forward, and backward the sum of the processes' gradients, each of which has used it."""

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
    """Mean of all elements of all processes, which may have unlike numbers of them; with gradient."""
    if world_size() == 1:
        return values.mean()
    return all_reduce_sum(values.sum()) / all_reduce_sum(values.new_tensor(values.numel()))


def all_reduce_min(number: int) -> int:
    """The smallest of a number that each process has."""
    if world_size() == 1:
        return number
    found = torch.tensor(number, device=_device())
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def parallel(model: nn.Module) -> nn.Module:
    """The net as it trains: with several processes, one whose gradients and batch statistics are those of all."""
    if world_size() == 1:
        return model
    if _device().type == "cpu":  # for which PyTorch has no synchronised batch normalisation
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.forward = partial(_synchronised, layer)
    else:
        model = convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def spawn(function: Callable, processes: int, device: torch.device, *arguments) -> None:
    """Call `function(*arguments)` in `processes` new processes of one group, and wait until all have ended.

    On a GPU each has one of its own. Arguments are copied, tensors and nets included, onto each process's device. An
    error in one of them ends the others and is raised here; killed, this process takes them along. Raises
    EthandError when there are too few GPUs, or when a process is killed.
    """
    if device.type == "cuda" and torch.cuda.device_count() < processes:
        found = torch.cuda.device_count()
        raise EthandError(f"processes: {processes}, but there are {found} GPUs; expected one for each process")
    content = io.BytesIO()
    torch.save((function, arguments), content)
    multiprocessing.get_context("forkserver").set_forkserver_preload([function.__module__])
    with tempfile.TemporaryDirectory() as folder:
        try:
            given = (processes, device.type, folder, content.getvalue())
            multiprocessing.start_processes(_member, given, processes, start_method="forkserver")
        except multiprocessing.ProcessRaisedException as error:
            fault = Path(folder) / _FAULT
            raise pickle.loads(fault.read_bytes()) if fault.exists() else error from None
        except multiprocessing.ProcessExitedException as error:
            reason = f"process {error.error_index} of {processes} has ended ({error.signal_name or error.exit_code})"
            raise EthandError(f"{reason}, perhaps for memory; start again to go on") from None


def _member(number: int, processes: int, kind: str, folder: str, content: bytes) -> None:
    """What one process of a group does."""
    end_with_parent()
    device = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    backend, meeting = ("nccl" if kind == "cuda" else "gloo"), (Path(folder) / "meeting").as_uri()
    dist.init_process_group(backend, init_method=meeting, rank=number, world_size=processes)
    try:
        function, arguments = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
        function(*arguments)
    except EthandError as error:
        (Path(folder) / _FAULT).write_bytes(pickle.dumps(error))
        raise
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    """Where tensors must lie to be exchanged."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _synchronised(layer: nn.BatchNorm2d, images: torch.Tensor) -> torch.Tensor:
    """What a layer of batch normalisation makes of [B, C, H, W] with the statistics of all processes' batches."""
    if layer.training:
        found = images.float()
        number = all_reduce_sum(found.new_tensor(found.numel() // layer.num_features))
        centre = all_reduce_sum(found.sum((0, 2, 3))) / number
        centred = found - centre.view(1, -1, 1, 1)
        variance = all_reduce_sum((centred**2).sum((0, 2, 3))) / number
        scale = (layer.weight * (variance + layer.eps).rsqrt()).view(1, -1, 1, 1)
        normal = (centred * scale + layer.bias.view(1, -1, 1, 1)).to(images.dtype)
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            layer.running_mean.lerp_(centre, layer.momentum)
            layer.running_var.lerp_(variance * number / (number - 1), layer.momentum)
    else:
        kept = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        normal = F.batch_norm(images, *kept, eps=layer.eps)
    return layer.act(layer.drop(normal)) if isinstance(layer, BatchNormAct2d) else normal
