"""Speed of a training step and of inference beside what smp and PyTorch give as they come."""

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from fastai.callback.core import Callback
from torch import nn

from benchmarks.timing import in_turns
from ethand_utils.data.augment import Augmentation, normalise
from ethand_utils.data.dataloaders import StoreLoader, make_dls
from ethand_utils.data.store import Store
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.labels import CLASS_WEIGHTS, N_CHANNELS, N_CLASSES
from ethand_utils.training.callbacks import autocast_bf16, has_native_bf16
from ethand_utils.training.inference import export_model
from ethand_utils.training.learner import Phase, best_device, to_device, train_phases
from ethand_utils.training.losses import CE_SHARE, DICE_SHARE, DICE_SMOOTH, SegmentationLoss, per_hand
from ethand_utils.training.models import create_model

CPU = torch.device("cpu")
ROUNDS, BATCHES = 7, 4  # a way's turn is BATCHES batches, so that it is not slowed by the threads of the way before
WIDTHS = (64, 32, 24, 16)
SAME_LOSS = 0.02  # tolerance of bfloat16's loss, relative

G2, LR = ("unetplusplus", "tu-regnety_032"), 1.5e-4  # the report's
EPOCHS, WARM_STEPS, GPU_ROUNDS = 3, 10, 20
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def _nets() -> tuple[nn.Module, nn.Module]:
    """The same small U-Net++ twice: placed as training places it, and as smp gives it."""
    ours = create_model("unetplusplus", "tu-regnety_002", widths=WIDTHS, seed=0)
    plain = smp.create_model(
        "unetplusplus", "tu-regnety_002", None, classes=N_CHANNELS, decoder_channels=WIDTHS, encoder_depth=len(WIDTHS)
    )
    plain.load_state_dict(ours.state_dict())
    return to_device(ours, best_device()), plain.to(best_device())


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
    with autocast_bf16(ours):
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
    with tempfile.TemporaryDirectory() as folder, autocast_bf16(ours):
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
        properties.hint.inference_precision: openvino.Type.bf16 if has_native_bf16(CPU) else openvino.Type.f32,
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


class Clock(Callback):
    """Images/s of the latest epoch's training, without its validation."""

    order = 80

    def before_train(self):
        self.began = self.now()

    def after_train(self):
        self.images_per_s = len(self.dls.train) * self.dls.train.bs / (self.now() - self.began)

    def now(self) -> float:
        """Seconds, when the device has done all that it was told."""
        if self.dls.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def gpu_training(store: Store) -> dict[str, float]:
    """On a GPU (else nothing) the speed of G2's paired step, with the report's batch, at twice the store's size."""
    if not torch.cuda.is_available():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        large = enlarged(store, Path(folder) / "large")
        return learner_and_bare(large, G2, 16, Path(folder) / "training", compiled=(False, True))


def enlarged(store: Store, out: Path) -> Store:
    """A store of the same images and masks, each pixel of them twice as wide and high."""

    def sample(i: int) -> dict:
        image, masks = store.images[i], store.masks[i]
        larger = {"images": image.repeat(2, 0).repeat(2, 1), "masks": masks.repeat(2, 1).repeat(2, 2)}
        return larger | {"row": {"id": str(i)}}

    return build_store(out, StorePlan(sample, len(store), 2 * store.size, ("images", "masks"), {"source": "enlarged"}))


def learner_and_bare(
    store: Store, net: tuple[str, str], bs: int, folder: Path, compiled: tuple[bool, ...] = (False,)
) -> dict[str, float]:
    """Images/s of a net's training by L_segm through the Learner, and of its bare steps on a fixed batch.

    The bare steps come contiguous and channels-last, and with torch.compile where `compiled` has True;
    `learner_ratio` is to the plain ones in the layout that trainings use.
    """
    device, clock = best_device(), Clock()
    phase = Phase("paired", make_dls(store, store, bs, Augmentation(), device=device), EPOCHS, LR, (clock,))
    train_phases(to_device(create_model(*net, seed=0), device), SegmentationLoss().to(device), [phase], folder)
    batch, bare = phase.dls.train.one_batch(), {}
    for layout in LAYOUTS:
        for compile in compiled:
            bare[f"{layout}_compiled" if compile else layout] = _bare_speed(net, layout, compile, *batch)
    used = bare["channels_last" if device.type == "cpu" else "contiguous"]
    figures = {"learner": clock.images_per_s, **{f"bare_{name}": speed for name, speed in bare.items()}}
    return {f"g2_{name}_images_per_s": speed for name, speed in figures.items()} | {
        "g2_learner_ratio": clock.images_per_s / used
    }


def _bare_speed(net: tuple[str, str], layout: str, compile: bool, images: torch.Tensor, masks: torch.Tensor) -> float:
    device, images = images.device, images.to(memory_format=LAYOUTS[layout])
    model = create_model(*net, seed=0).to(device, memory_format=LAYOUTS[layout])
    optimiser, loss = torch.optim.Adam(model.parameters(), LR, fused=True), SegmentationLoss().to(device)
    run = torch.compile(model) if compile else model

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device)):
            return run(images).float()

    step = stepper(forward, loss, optimiser, images, masks)
    for _ in range(WARM_STEPS):
        step()
    return in_turns({"step": step}, len(images), GPU_ROUNDS)["step_images_per_s"]
