"""Batches for CycleGAN: pairs, and beside them unpaired images and masks."""

import numpy as np
import torch
from fastai.data.core import DataLoaders

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import LoaderError, StoreLoader, samples_in_turn
from ethand_utils.data.store import Store
from ethand_utils.labels import FRONT_LEFT, FRONT_RIGHT, N_CLASSES

IN_FRONT = np.array([FRONT_LEFT, FRONT_RIGHT], np.uint8).reshape(1, 2, 1, 1)


def make_mixed_dls(
    stores: dict[str, Store],
    bs: int,
    augmentation: Augmentation,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DataLoaders:
    """Create fastai DataLoaders of a data set for CycleGAN: `bs` images a batch, half of them paired; `val` as it is.

    `stores` have `train`, `val` and `unpaired_images`, as `Run.dataset` can ask for.
    """
    unpaired = (stores["unpaired_images"], unpaired_labels(stores))
    train = MixedLoader(stores["train"], max(1, bs // 2), augmentation, seed, device, unpaired)
    return DataLoaders(train, MixedLoader(stores["val"], bs, None, seed, device), device=torch.device(device))


def unpaired_labels(stores: dict[str, Store]) -> Store:
    """Return the masks of a data set that have no images, or else those of the pairs."""
    return stores.get("unpaired_labels", stores["train"])


class MixedLoader(StoreLoader):
    """Batches (images, masks, visible, paired) of a paired store and of two unpaired ones.

    Images float [B, 3, H, W]; masks int64 [B, 2, H, W]; `visible` float [B, 2, H, W], whether each hand is visible at
    a pixel (the store's `front`; 0 everywhere where a store has none); `paired` bool [B], whether image and masks
    belong together. A batch has `bs` pairs and, with `unpaired` (a store of images, a store of masks), as many samples
    of an image and the masks of another scene. Those come in an order of their own, shuffled anew after each pass.
    It cannot be pickled for several processes (LoaderError).
    """

    def __init__(
        self,
        store: Store,
        bs: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        unpaired: tuple[Store, Store] | None = None,
    ):
        super().__init__(store, bs, augmentation, seed, device)
        self.n_inp, self.pairs = 3, store
        self.unpaired = unpaired and (unpaired[0].require("images"), unpaired[1].require("masks"))
        self.description += repr([other.meta for other in self.unpaired or ()])

    def __reduce__(self):
        raise LoaderError("CycleGAN's batches are not for several processes; train it in one")

    def batch(self, samples: np.ndarray, number: int) -> tuple[torch.Tensor, ...]:
        """Return the batch of the pairs `samples`, the pass's `number`-th, followed by its unpaired samples."""
        images, marked = super().batch(samples, number)
        paired = torch.arange(len(images), device=images.device) < len(samples)
        return images, marked % N_CLASSES, (marked >= N_CLASSES).float(), paired

    def _read(self, samples: np.ndarray, positions: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
        images, masks = self.images[samples], _marked(self.pairs, samples)
        if self.unpaired is None:
            return images, masks
        more, labels = self.unpaired
        first = (self.epoch * len(self) + number) * self.bs
        of_images, of_labels = (
            samples_in_turn(self.seed, code, first, self.bs, len(store)) for code, store in enumerate(self.unpaired, 1)
        )
        return np.concatenate([images, more.images[of_images]]), np.concatenate([masks, _marked(labels, of_labels)])


def _marked(store: Store, samples: np.ndarray) -> np.ndarray:
    """Return masks with N_CLASSES added where the hand is visible, so that one augmentation moves and flips both."""
    return store.masks[samples] + N_CLASSES * visible_hands(store, samples).astype(np.uint8)


def visible_hands(store: Store, samples: np.ndarray) -> np.ndarray:
    """Return whether each hand is visible at a pixel, float32 [n, 2, H, W]; all 0 if the store has no `front`."""
    if store.front is None:
        return np.zeros((len(samples), *store.masks.shape[1:]), np.float32)
    return (store.front[samples][:, None] == IN_FRONT).astype(np.float32)
