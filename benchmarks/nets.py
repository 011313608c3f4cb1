"""Benchmarks of a training step and of inference, beside plain smp and PyTorch."""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from benchmarks.plain import PlainLoss
from benchmarks.timing import time_variants
from ethand_utils.data.augment import Augmentation, normalise
from ethand_utils.data.dataloaders import StoreLoader
from ethand_utils.data.store import Store
from ethand_utils.experiments.config import load_profile
from ethand_utils.labels import N_CHANNELS
from ethand_utils.training.callbacks import autocast_bf16, has_native_bf16
from ethand_utils.training.inference import export_model
from ethand_utils.training.learner import best_device, to_device
from ethand_utils.training.losses import SegmentationLoss, per_hand
from ethand_utils.training.models import create_model

CPU = torch.device("cpu")
ROUNDS, BATCHES = 7, 4  # a turn has BATCHES batches, so that the threads of the variant before it do not slow it
TINY = load_profile("tiny")  # whose G2 is timed
SAME_LOSS = 0.02  # tolerance of bfloat16's loss, relative


def _nets() -> tuple[nn.Module, nn.Module]:
    """Create G2 of `tiny` twice: moved to the device as training does, and as smp creates it."""
    net, widths = (TINY.g2_arch, TINY.g2_encoder), TINY.g2_widths
    ours = create_model(*net, widths=widths, seed=0)
    plain = smp.create_model(*net, None, classes=N_CHANNELS, decoder_channels=widths, encoder_depth=len(widths))
    plain.load_state_dict(ours.state_dict())
    return to_device(ours, best_device()), plain.to(best_device())


def stepper(
    net: Callable, loss: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, masks: torch.Tensor
) -> Callable[[], None]:
    """Return a function that takes a training step on a fixed batch and waits for the device."""

    def step() -> None:
        optimiser.zero_grad()
        loss(net(images), masks).backward()
        optimiser.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def training(store: Store, bs: int) -> dict[str, float]:
    """Time forward, loss, backward and Adam's step on one batch: ours, and float32 with smp's losses."""
    (ours, plain), device = _nets(), best_device()
    images, masks = StoreLoader(store, bs, Augmentation(), device=device).one_batch()
    losses = SegmentationLoss().to(device), PlainLoss().to(device)
    optimisers = torch.optim.Adam(ours.parameters(), fused=True), torch.optim.Adam(plain.parameters())
    steps = [
        stepper(net, loss, optimiser, images, masks)
        for net, loss, optimiser in zip((ours, plain), losses, optimisers, strict=True)
    ]
    with autocast_bf16(ours):
        values = [float(loss(net(images), masks).detach()) for net, loss in zip((ours, plain), losses, strict=True)]
        difference = abs(values[0] / values[1] - 1)
        variants = {name: _one_by_one(step) for name, step in zip(("ours", "plain"), steps, strict=True)}
        speed = time_variants(variants, BATCHES * bs, ROUNDS)
    return speed | {"loss_relative_difference": difference, "equal": float(difference <= SAME_LOSS)}


def _one_by_one(function: Callable[[], object]) -> Callable[[], list]:
    """Return a function that calls `function`, which works on one batch, BATCHES times."""
    return lambda: [function() for _ in range(BATCHES)]


@torch.inference_mode()
def inference(store: Store, bs: int) -> dict[str, float]:
    """Time batches by OpenVINO and ONNX Runtime (where installed), ours and eager float32, with their agreement.

    OpenVINO computes in bfloat16 where the CPU has it, one batch on each thread, as for a store. All use as many
    threads as PyTorch.
    """
    ours, plain = (net.eval() for net in _nets())
    images = normalise(torch.from_numpy(np.array(store.images[:bs]))).to(best_device())
    exported = {"openvino": ("openvino", ".xml", _openvino), "onnxruntime": ("onnx", ".onnx", _onnxruntime)}
    variants = {}
    with tempfile.TemporaryDirectory() as folder, autocast_bf16(ours):
        for name, (format, ending, load) in exported.items():
            if find_spec(name):
                file = Path(folder) / f"net{ending}"
                export_model(plain.cpu(), images.shape[-1], file, format)
                variants[name] = load(file, images.cpu().numpy())
        plain.to(images.device)
        variants["ours"] = _one_by_one(lambda: ours(images).cpu())
        variants["eager"] = _one_by_one(lambda: plain(images).cpu())
        masks = {name: _argmax(variant()[-1]) for name, variant in variants.items()}
        agreement = {
            f"{name}_argmax_agreement": float((masks[name] == masks["eager"]).float().mean()) for name in masks
        }
        return time_variants(variants, BATCHES * bs, ROUNDS) | agreement


def _argmax(logits: torch.Tensor | np.ndarray) -> torch.Tensor:
    return per_hand(torch.as_tensor(logits)).argmax(2)


def _openvino(file: Path, images: np.ndarray) -> Callable[[], list]:
    import openvino
    from openvino import properties

    core, streams = openvino.Core(), torch.get_num_threads()
    net = core.read_model(file)
    net.reshape(images.shape)  # a fixed shape is faster
    settings = {
        properties.hint.inference_precision: openvino.Type.bf16 if has_native_bf16(CPU) else openvino.Type.f32,
        properties.inference_num_threads: streams,
        properties.num_streams: streams,
    }
    queue = openvino.AsyncInferQueue(core.compile_model(net, "CPU", settings), streams)
    outputs = [None] * BATCHES

    def save_output(request: openvino.InferRequest, number: int) -> None:
        outputs[number] = request.get_output_tensor().data.copy()

    def infer_batches() -> list:
        for number in range(BATCHES):
            queue.start_async({0: images}, number)
        queue.wait_all()
        return outputs

    queue.set_callback(save_output)
    return infer_batches


def _onnxruntime(file: Path, images: np.ndarray) -> Callable[[], list]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads slow the next variant
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return _one_by_one(lambda: session.run(None, {"images": images})[0])
