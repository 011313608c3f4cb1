"""Speed of a training step and of inference beside what smp and PyTorch give as they come."""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from ethand_utils.augment import Augmentation, normalise
from ethand_utils.callbacks import bfloat16_pays, fast_forward
from ethand_utils.labels import CLASS_WEIGHTS, N_CHANNELS, N_CLASSES
from ethand_utils.learners import best_device, place
from ethand_utils.loaders import StoreLoader
from ethand_utils.losses import CE_SHARE, DICE_SHARE, DICE_SMOOTH, SegmentationLoss, per_hand
from ethand_utils.models import create_model
from ethand_utils.predict import export_model
from ethand_utils.store import Store
from ethand_utils.timing import in_turns

CPU = torch.device("cpu")
ROUNDS, BATCHES = 7, 4  # a way's turn is BATCHES batches, so that it is not slowed by the threads of the way before
WIDTHS = (64, 32, 24, 16)
SAME_LOSS = 0.02  # tolerance of bfloat16's loss, relative


def _nets() -> tuple[nn.Module, nn.Module]:
    """The same small U-Net++ twice: placed as training places it, and as smp gives it."""
    ours = create_model("unetplusplus", "tu-regnety_002", widths=WIDTHS, seed=0)
    plain = smp.create_model(
        "unetplusplus", "tu-regnety_002", None, classes=N_CHANNELS, decoder_channels=WIDTHS, encoder_depth=len(WIDTHS)
    )
    plain.load_state_dict(ours.state_dict())
    return place(ours, best_device()), plain.to(best_device())


class PlainLoss(nn.Module):
    """L_segm of both hands from PyTorch's cross-entropy and smp's Dice loss."""

    def __init__(self):
        super().__init__()
        self.dice = smp.losses.DiceLoss("multiclass", smooth=DICE_SMOOTH)
        self.register_buffer("weights", torch.tensor(CLASS_WEIGHTS["released"]))

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits [B, 34, H, W] and masks int64 [B, 2, H, W]."""
        total = 0
        for hand, part in enumerate(logits.split(N_CLASSES, dim=1)):
            truth = masks[:, hand].contiguous()
            ce = nn.functional.cross_entropy(part, truth, self.weights)
            total = total + CE_SHARE * ce + DICE_SHARE * self.dice(part.contiguous(), truth)
        return total


def stepper(
    net: Callable, loss: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, masks: torch.Tensor
) -> Callable[[], None]:
    """A function that takes a training step on a fixed batch, and ends when the device has."""

    def step() -> None:
        optimiser.zero_grad()
        loss(net(images), masks).backward()
        optimiser.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def training(store: Store, bs: int) -> dict[str, float]:
    """Forward, loss, backward and Adam's step on one batch: ours, and float32 with smp's losses."""
    (ours, plain), device = _nets(), best_device()
    images, masks = StoreLoader(store, bs, Augmentation(), device=device).one_batch()
    losses = SegmentationLoss().to(device), PlainLoss().to(device)
    optimisers = torch.optim.Adam(ours.parameters(), fused=True), torch.optim.Adam(plain.parameters())
    steps = [
        stepper(net, loss, optimiser, images, masks)
        for net, loss, optimiser in zip((ours, plain), losses, optimisers, strict=True)
    ]
    with fast_forward(ours):
        values = [float(loss(net(images), masks).detach()) for net, loss in zip((ours, plain), losses, strict=True)]
        difference = abs(values[0] / values[1] - 1)
        ways = {name: _one_by_one(step) for name, step in zip(("ours", "plain"), steps, strict=True)}
        speed = in_turns(ways, BATCHES * bs, ROUNDS)
    return speed | {"loss_relative_difference": difference, "equal": float(difference <= SAME_LOSS)}


def _one_by_one(way: Callable[[], object]) -> Callable[[], list]:
    """BATCHES times what a way does with one batch."""
    return lambda: [way() for _ in range(BATCHES)]


@torch.inference_mode()
def inference(store: Store, bs: int) -> dict[str, float]:
    """Batches by OpenVINO and ONNX Runtime (where installed), ours, and eager float32; and where they agree with it.

    OpenVINO calculates in bfloat16 where that pays, a batch on each thread, as one lets it work through a store. All
    use as many threads as PyTorch.
    """
    ours, plain = (net.eval() for net in _nets())
    images = normalise(torch.from_numpy(np.array(store.images[:bs]))).to(best_device())
    exported = {"openvino": ("openvino", ".xml", _openvino), "onnxruntime": ("onnx", ".onnx", _onnxruntime)}
    ways = {}
    with tempfile.TemporaryDirectory() as folder, fast_forward(ours):
        for name, (format, ending, load) in exported.items():
            if find_spec(name):
                file = Path(folder) / f"net{ending}"
                export_model(plain.cpu(), images.shape[-1], file, format)
                ways[name] = load(file, images.cpu().numpy())
        plain.to(images.device)
        ways |= {"ours": _one_by_one(lambda: ours(images).cpu()), "eager": _one_by_one(lambda: plain(images).cpu())}
        masks = {name: _parts(way()[-1]) for name, way in ways.items()}
        agree = {f"{name}_argmax_agreement": float((masks[name] == masks["eager"]).float().mean()) for name in masks}
        return in_turns(ways, BATCHES * bs, ROUNDS) | agree


def _parts(logits: torch.Tensor | np.ndarray) -> torch.Tensor:
    return per_hand(torch.as_tensor(logits)).argmax(2)


def _openvino(file: Path, images: np.ndarray) -> Callable[[], list]:
    import openvino
    from openvino import properties

    core, streams = openvino.Core(), torch.get_num_threads()
    net = core.read_model(file)
    net.reshape(images.shape)  # a fixed shape is faster
    settings = {
        properties.hint.inference_precision: openvino.Type.bf16 if bfloat16_pays(CPU) else openvino.Type.f32,
        properties.inference_num_threads: streams,
        properties.num_streams: streams,
    }
    queue = openvino.AsyncInferQueue(core.compile_model(net, "CPU", settings), streams)
    answers = [None] * BATCHES

    def answer(request: openvino.InferRequest, number: int) -> None:
        answers[number] = request.get_output_tensor().data.copy()

    def several() -> list:
        for number in range(BATCHES):
            queue.start_async({0: images}, number)
        queue.wait_all()
        return answers

    queue.set_callback(answer)
    return several


def _onnxruntime(file: Path, images: np.ndarray) -> Callable[[], list]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow whatever comes after it
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return _one_by_one(lambda: session.run(None, {"images": images})[0])
