"""Speed, as ratios: this package's way and a plain one, timed in turns in one run on the same data."""

import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

from ethand_utils import EthandError
from ethand_utils.augment import Augmentation, normalise
from ethand_utils.callbacks import fast_forward
from ethand_utils.datasets import render_dataset
from ethand_utils.labels import CLASS_WEIGHTS, N_CHANNELS, N_CLASSES, min_pixels
from ethand_utils.learners import best_device, place
from ethand_utils.loaders import StoreLoader
from ethand_utils.losses import CE_SHARE, DICE_SHARE, DICE_SMOOTH, SegmentationLoss, per_hand
from ethand_utils.metrics import course_miou
from ethand_utils.models import create_model
from ethand_utils.renderbench import rendering_speed
from ethand_utils.store import Store

SIZE, SAMPLES, BS, ROUNDS = 64, 128, 16, 5


def run(parts: list[str]) -> dict[str, dict[str, float]]:
    """Time the named parts of PARTS: a flat dict of figures for each. Raises EthandError for an unknown part."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise EthandError(f"bench {unknown[0]}: no such part; expected one of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        needs_store = set(parts) != {"render"}
        store = render_dataset(folder, SAMPLES, 1, 1, 1, SIZE)["train"] if needs_store else None
        return {part: PARTS[part](store) for part in parts}


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as text, a line each."""
    rows = {(part, name): value for part, values in figures.items() for name, value in values.items()}
    return pd.Series(rows).to_string(float_format="{:.2f}".format)


def in_turns(ways: dict[str, Callable[[], object]], images: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Median images/s of each way, the ways alternating after one warm-up each, and the first's ratio to the last's."""
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    speed = {f"{name}_images_per_s": images / float(np.median(times)) for name, times in seconds.items()}
    values = list(speed.values())
    return {**speed, "ratio": values[0] / values[-1]} if len(values) > 1 else speed


class _PlainDataset(Dataset):
    """One sample at a time, augmented by OpenCV on the CPU, as one would write it without this package."""

    def __init__(self, store: Store):
        self.store, self.rng, self.settings = store, np.random.default_rng(0), Augmentation()

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, masks, s, size = self.store.images[i], self.store.masks[i], self.settings, self.store.size
        scale = 1 + s.scale * np.clip(self.rng.normal(), -1, 1)
        angle = s.rotation * np.clip(self.rng.normal(), -2, 2) * (self.rng.random() < s.rotation_p)
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), angle, scale)
        image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
        masks = [cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST) for mask in masks]
        image = np.clip(image * self.rng.uniform(1 - s.intensity, 1 + s.intensity, 3), 0, 255).astype(np.uint8)
        if self.rng.random() < s.flip_p:
            image, masks = image[:, ::-1].copy(), [mask[:, ::-1].copy() for mask in reversed(masks)]
        return normalise(torch.from_numpy(image)[None])[0], torch.from_numpy(np.stack(masks)).long()


def _loader(store: Store) -> dict[str, float]:
    ours = StoreLoader(store, BS, Augmentation())
    plain = DataLoader(_PlainDataset(store), BS, shuffle=True, drop_last=True)
    return in_turns({"ours": lambda: list(ours), "plain": lambda: list(plain)}, SAMPLES)


def _plain_course_miou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The course's mIoU by a loop over images, hands and classes."""
    hands = []
    for guess, mask in zip(
        predicted.reshape(-1, *predicted.shape[2:]), truth.reshape(-1, *truth.shape[2:]), strict=True
    ):
        parts = []
        for part in range(1, N_CLASSES):
            a, b = guess == part, mask == part
            if b.sum() >= min_pixels(truth.shape[-1]):
                parts.append((a & b).sum() / (a | b).sum())
        hands.append(np.mean(parts) if parts else np.nan)
    return float(np.nanmean(hands))


def _metrics(store: Store) -> dict[str, float]:
    truth = np.array(store.masks)
    predicted = np.roll(truth, 2, axis=-1)
    ways = {"ours": lambda: course_miou(predicted, truth), "plain": lambda: _plain_course_miou(predicted, truth)}
    agree = abs(ways["ours"]() - ways["plain"]()) < 1e-9
    return {**in_turns(ways, SAMPLES), "equal": float(agree)}


def _nets() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same small U-Net++ twice: placed as training places it, and as smp gives it."""
    widths = (64, 32, 24, 16)
    ours = create_model("unetplusplus", "tu-regnety_002", widths=widths, seed=0)
    plain = smp.create_model(
        "unetplusplus", "tu-regnety_002", None, classes=N_CHANNELS, decoder_channels=widths, encoder_depth=len(widths)
    )
    plain.load_state_dict(ours.state_dict())
    return place(ours, best_device()), plain.to(best_device())


def _train(store: Store) -> dict[str, float]:
    """Forward, loss, backward and Adam's step on one batch: ours, and float32 with smp's losses."""
    ours, plain = _nets()
    device = best_device()
    images, masks = (part.to(device) for part in StoreLoader(store, BS, Augmentation()).one_batch())
    loss = SegmentationLoss().to(device)
    smp_dice, weights = (
        smp.losses.DiceLoss("multiclass", smooth=DICE_SMOOTH),
        torch.tensor(CLASS_WEIGHTS["released"]).to(device),
    )
    steps = torch.optim.Adam(ours.parameters(), fused=True), torch.optim.Adam(plain.parameters())

    def plain_loss(logits: torch.Tensor) -> torch.Tensor:
        total = 0
        for hand, part in enumerate(logits.split(N_CLASSES, dim=1)):
            truth = masks[:, hand].contiguous()
            ce = torch.nn.functional.cross_entropy(part, truth, weights)
            total = total + CE_SHARE * ce + DICE_SHARE * smp_dice(part.contiguous(), truth)
        return total

    def step(optimiser: torch.optim.Optimizer, value: torch.Tensor) -> None:
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    ways = {
        "ours": lambda: step(steps[0], loss(ours(images), masks)),
        "plain": lambda: step(steps[1], plain_loss(plain(images))),
    }
    with fast_forward(ours):
        return in_turns(ways, BS)


@torch.inference_mode()
def _predict(store: Store) -> dict[str, float]:
    """Inference of one batch: bfloat16 where it pays and the fast layout, and plain float32; and where they agree."""
    ours, plain = (net.eval() for net in _nets())
    images = normalise(torch.from_numpy(np.array(store.images[:BS]))).to(best_device())
    ways = {"ours": lambda: ours(images), "plain": lambda: plain(images)}
    with fast_forward(ours):
        same = (per_hand(ours(images)).argmax(2) == per_hand(plain(images)).argmax(2)).float().mean()
        return {**in_turns(ways, BS), "argmax_agreement": float(same)}


PARTS = {
    "render": lambda _: rendering_speed(),
    "loader": _loader,
    "metrics": _metrics,
    "train": _train,
    "predict": _predict,
}
