"""Scores of CycleGAN's generators on pairs and after their cycles, and a store of the images that G_YX generates."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from tqdm.auto import tqdm

from ethand_utils.data.augment import IMAGE_STD, denormalise
from ethand_utils.data.store import Store, is_made
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.training.callbacks import autocast_bf16, epoch_means, weights_digest
from ethand_utils.training.cyclegan.dataloader import MixedLoader, visible_hands
from ethand_utils.training.cyclegan.model import CycleGAN
from ethand_utils.training.losses import one_hot_maps, per_hand
from ethand_utils.training.metrics import confusion, hand_miou, nanmean


@torch.inference_mode()
def cycle_scores(model: CycleGAN, store: Store, bs: int = 32) -> dict[str, float]:
    """Compute the scores of a CycleGAN on a paired store.

    `course_miou` of G_XY's masks; `psnr_cycle`, dB, of X→Y→X, and `psnr_hardened`, the same when G_YX gets the arg-max
    of G_XY's masks, in which no probability can encode the image; `psnr_made`, dB, of the image generated from the
    ground truth against the real one; `cycle_miou`, the course's mIoU of Y→X→Y. And of the pixels where one hand hides
    the other, the share in which `order` has the right one in front: `front_real` in the real images, `front_made` in
    those generated from the ground truth, `front_cycle` in those of X→Y→X; NaN where the store has no `front`.
    """
    model.eval()
    loader = tqdm(MixedLoader(store, bs, device=_device(model)), desc="cycles", leave=False)
    with autocast_bf16(model):
        return pooled(batch_scores(model(*batch), *batch) for *batch, _ in loader)


def batch_scores(outputs: dict[str, torch.Tensor], images, masks, visible) -> dict[str, np.ndarray]:
    """Compute the scores of `cycle_scores` for the outputs of a batch of pairs: one a sample, hand or pixel."""
    scores = {
        "psnr_cycle": psnr(outputs["images_again"], images),
        "psnr_hardened": psnr(outputs["images_hardened"], images),
        "psnr_made": psnr(outputs["images"], images),
        "front_real": front_right(outputs["order"], masks, visible),
        "front_made": front_right(outputs["order_of_images"], masks, visible),
        "front_cycle": front_right(outputs["order_of_images_again"], masks, visible),
    }
    truth = masks.cpu().numpy()
    for name, logits in (("course_miou", outputs["logits"]), ("cycle_miou", outputs["logits_again"])):
        predicted = per_hand(logits).argmax(2).cpu().numpy()
        scores[name] = torch.from_numpy(hand_miou(confusion(predicted, truth), truth.shape[-1]).ravel())
    return {name: values.cpu().double().numpy() for name, values in scores.items()}


def psnr(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Compute the PSNR [B], dB, of normalised images [B, 3, H, W]: 10 log10(1 / MSE) of RGB in 0…1."""
    std = torch.tensor(IMAGE_STD, device=one.device).view(1, 3, 1, 1)
    error = ((one - other) * std).square().mean((1, 2, 3))
    return -10 * error.clamp(min=1e-10).log10()


def front_right(order: torch.Tensor, masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return whether `order` [B, 2, H, W] names the visible hand where both hands are: float [pixels], 0 or 1.

    Masks int64 and `visible` [B, 2, H, W]; only pixels with ground truth count.
    """
    both = (masks > 0).all(1) & (visible.sum(1) > 0)
    return (order.argmax(1) == visible.argmax(1))[both].float()


def pooled(batches: Iterable[dict[str, np.ndarray]]) -> dict[str, float]:
    """Compute the mean of each score over all batches; NaN where there is nothing to score."""
    batches = list(batches)
    return {name: nanmean(np.concatenate([batch[name] for batch in batches])) for name in batches[0]}


def mean_colour_psnr(train: Store, store: Store) -> float:
    """Compute the PSNR, dB, mean over a store's images, of a blank image in the mean colour of those of `train`."""
    mean = np.mean([train.images[i].mean((0, 1)) for i in range(len(train))], axis=0)
    errors = [np.square((store.images[i] - mean) / 255).mean() for i in range(len(store))]
    return float(np.mean(-10 * np.log10(errors)))


class Cycles(Callback):
    """Passes the batch to `CycleLoss` beside the outputs, and collects its terms and the validation's scores."""

    def before_train(self):
        self.terms, self.batches = {}, []

    def before_batch(self):
        self.learn.yb = (*self.xb, *self.yb)

    def after_loss(self):
        if self.training:
            for name, term in self.loss_func.terms.items():
                self.terms.setdefault(f"{name}_loss", []).append(term)
        else:
            self.batches.append(batch_scores(self.pred, *self.xb))

    def scores(self) -> dict[str, float]:
        """Return the validation's scores and the training's mean terms, for `history.csv`."""
        return pooled(self.batches) | epoch_means(self.terms)


def image_store(model: CycleGAN, labels: Store, path: str | Path) -> Store:
    """Write G_YX's image of all masks of a store, with the masks, as the paired store `path`.

    A store that the same weights generated from the same labels is kept.
    """
    meta = {"source": "CycleGAN", "g_yx": weights_digest(model.g_yx), "labels": labels.meta}
    make = _Generated(model.eval(), labels.require("masks"))
    plan = StorePlan(make, len(labels), labels.size, ("images", "masks"), meta)
    return build_store(path, plan, replace=not is_made(path, meta))


class _Generated:
    """Sample i of a store of generated images: labels i and G_YX's image of them, generated a chunk at a time."""

    def __init__(self, model: CycleGAN, labels: Store, batch: int = 64):
        self.model, self.labels, self.batch, self.start = model, labels, batch, None

    @torch.inference_mode()
    def __call__(self, i: int) -> dict:
        start = i // self.batch * self.batch
        if start != self.start:
            self.start, samples = start, np.arange(start, min(start + self.batch, len(self.labels)))
            masks = torch.from_numpy(self.labels.masks[samples]).long().to(_device(self.model))
            visible = torch.from_numpy(visible_hands(self.labels, samples)).to(masks.device)
            self.images = denormalise(self.model.generate_images(one_hot_maps(masks), visible)).cpu().numpy()
        row = self.labels.index.iloc[i].to_dict()
        return {"images": self.images[i - start], "masks": self.labels.masks[i], "row": row}


def _device(model: CycleGAN) -> torch.device:
    return next(model.parameters()).device
