"""How well CycleGAN's generators give back what they were given, and a store of the images that one makes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from tqdm.auto import tqdm

from ethand_utils.data.augment import IMAGE_STD, denormalise
from ethand_utils.data.store import Store, is_made
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.training.callbacks import autocast_bf16, weights_digest
from ethand_utils.training.cyclegan.dataloader import MixedLoader, visible_hands
from ethand_utils.training.cyclegan.model import CycleGAN
from ethand_utils.training.losses import one_hot_maps, per_hand
from ethand_utils.training.metrics import confusion, hand_miou, nanmean


def psnr(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio [B], dB, of normalised images [B, 3, H, W]: 10 log10(1 / MSE) of RGB in 0…1."""
    std = torch.tensor(IMAGE_STD, device=one.device).view(1, 3, 1, 1)
    error = ((one - other) * std).square().mean((1, 2, 3))
    return -10 * error.clamp(min=1e-10).log10()


def front_right(order: torch.Tensor, masks: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Where both hands are, whether the channels `order` [B, 2, H, W] name the hand one sees: float [pixels], 0 or 1.

    Masks int64 and `seen` [B, 2, H, W]; only pixels of which the truth is known count.
    """
    both = (masks > 0).all(1) & (seen.sum(1) > 0)
    return (order.argmax(1) == seen.argmax(1))[both].float()


def scores_of(made: dict[str, torch.Tensor], images, masks, seen) -> dict[str, np.ndarray]:
    """Scores of a batch of pairs by what `CycleGAN` made of it, as in `cycle_scores`: one a sample, hand or pixel."""
    found = {
        "psnr_cycle": psnr(made["images_again"], images),
        "psnr_hardened": psnr(made["images_hardened"], images),
        "psnr_made": psnr(made["images"], images),
        "front_real": front_right(made["order"], masks, seen),
        "front_made": front_right(made["order_of_images"], masks, seen),
        "front_cycle": front_right(made["order_of_images_again"], masks, seen),
    }
    truth = masks.cpu().numpy()
    for name, logits in (("course_miou", made["logits"]), ("cycle_miou", made["logits_again"])):
        predicted = per_hand(logits).argmax(2).cpu().numpy()
        found[name] = torch.from_numpy(hand_miou(confusion(predicted, truth), truth.shape[-1]).ravel())
    return {name: values.cpu().double().numpy() for name, values in found.items()}


def pooled(batches: Iterable[dict[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each score over all that batches give; NaN where there is nothing to score."""
    batches = list(batches)
    return {name: nanmean(np.concatenate([batch[name] for batch in batches])) for name in batches[0]}


@torch.inference_mode()
def cycle_scores(model: CycleGAN, store: Store, bs: int = 32) -> dict[str, float]:
    """How well a CycleGAN does on a paired store.

    `course_miou` of G_XY's masks; `psnr_cycle`, dB, of X→Y→X, and `psnr_hardened`, the same when G_YX is given the
    arg-max of G_XY's masks, in which no probability can carry a picture; `psnr_made`, dB, of the image made of the true
    masks against the one that belongs to them; `cycle_miou`, the course's mIoU of Y→X→Y. And of the pixels where one
    hand hides the other, the share in which `order` sees the right one in front: `front_real` in the images
    themselves, `front_made` in those made of true masks, `front_cycle` in those of X→Y→X; NaN where the store has no
    `front`.
    """
    model.eval()
    loader = tqdm(MixedLoader(store, bs, device=_device(model)), desc="cycles", leave=False)
    with autocast_bf16(model):
        return pooled(scores_of(model(*batch), *batch) for *batch, _ in loader)


def mean_colour_psnr(train: Store, store: Store) -> float:
    """PSNR, dB, mean over a store's images, of a blank picture in the mean colour of those of `train`."""
    mean = np.mean([train.images[i].mean((0, 1)) for i in range(len(train))], axis=0)
    errors = [np.square((store.images[i] - mean) / 255).mean() for i in range(len(store))]
    return float(np.mean(-10 * np.log10(errors)))


class Cycles(Callback):
    """Hands the loss what there was beside what came of it, and keeps its terms and the validation's scores."""

    def before_train(self):
        self.terms, self.batches = {}, []

    def before_batch(self):
        self.learn.yb = (*self.xb, *self.yb)

    def after_loss(self):
        if self.training:
            for name, term in self.loss_func.terms.items():
                self.terms.setdefault(f"{name}_loss", []).append(term)
        else:
            self.batches.append(scores_of(self.pred, *self.xb))

    def scores(self) -> dict[str, float]:
        """For `history.csv`: the scores in validation, and the terms, means over the epoch in training."""
        terms = {name: float(torch.stack(values).mean()) for name, values in self.terms.items()}
        return pooled(self.batches) | terms


class _Made:
    """Sample i of a store of made images: labels i and what G_YX makes of them, a chunk at a time."""

    def __init__(self, model: CycleGAN, labels: Store, batch: int = 64):
        self.model, self.labels, self.batch, self.start = model, labels, batch, None

    @torch.inference_mode()
    def __call__(self, i: int) -> dict:
        start = i // self.batch * self.batch
        if start != self.start:
            self.start, chosen = start, np.arange(start, min(start + self.batch, len(self.labels)))
            masks = torch.from_numpy(self.labels.masks[chosen]).long().to(_device(self.model))
            seen = torch.from_numpy(visible_hands(self.labels, chosen)).to(masks.device)
            self.images = denormalise(self.model.images_of(one_hot_maps(masks), seen)).cpu().numpy()
        row = self.labels.index.iloc[i].to_dict()
        return {"images": self.images[i - start], "masks": self.labels.masks[i], "row": row}


def image_store(model: CycleGAN, labels: Store, path: str | Path) -> Store:
    """Write G_YX's image of all masks of a store, with the masks, as the paired store `path`.

    It is kept where these weights have made it of the same labels.
    """
    meta = {"source": "CycleGAN", "g_yx": weights_digest(model.g_yx), "labels": labels.meta}
    make = _Made(model.eval(), labels.require("masks"))
    plan = StorePlan(make, len(labels), labels.size, ("images", "masks"), meta)
    return build_store(path, plan, replace=not is_made(path, meta))


def _device(model: CycleGAN) -> torch.device:
    return next(model.parameters()).device
