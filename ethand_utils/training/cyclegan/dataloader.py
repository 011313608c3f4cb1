"""Batches for CycleGAN: pairs, and beside them images and labels that have nothing to do with one another."""

from functools import lru_cache

import numpy as np
import torch
from fastai.data.core import DataLoaders

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import LoaderError, StoreLoader
from ethand_utils.data.store import Store
from ethand_utils.labels import FRONT_LEFT, FRONT_RIGHT, N_CLASSES

IN_FRONT = np.array([FRONT_LEFT, FRONT_RIGHT], np.uint8).reshape(1, 2, 1, 1)


class MixedLoader(StoreLoader):
    """Batches (images, masks, seen, paired) of a paired store and of two unpaired ones.

    Images float [B, 3, H, W]; masks int64 [B, 2, H, W]; `seen` float [B, 2, H, W], whether each hand is what one sees
    at a pixel (the store's `front`; 0 everywhere where a store has none); `paired` bool [B], whether image and masks
    belong together. A batch has `bs` pairs and, with `unpaired` (a store of images, a store of masks), as many rows
    of an image and the masks of another scene. Those are shown in an order of their own, again from the start when
    all were shown. It cannot be pickled for several processes (LoaderError).
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
        """The batch of the pairs `samples`, which is this pass's `number`-th, with its unpaired rows after them."""
        images, marked = super().batch(samples, number)
        paired = torch.arange(len(images), device=images.device) < len(samples)
        return images, marked % N_CLASSES, (marked >= N_CLASSES).float(), paired

    def _read(self, samples: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
        images, masks = self.images[samples], _marked(self.pairs, samples)
        if self.unpaired is None:
            return images, masks
        more, labels = self.unpaired
        of_images, of_labels = (self._turn(store, code, number) for code, store in enumerate(self.unpaired, 1))
        return np.concatenate([images, more.images[of_images]]), np.concatenate([masks, _marked(labels, of_labels)])

    def _turn(self, store: Store, code: int, number: int) -> np.ndarray:
        """Samples of an unpaired store for a batch, in an order drawn for this round through the store."""
        places = (self.epoch * len(self) + number) * self.bs + np.arange(self.bs)
        rounds, within = np.divmod(places, len(store))
        found = [_order(self.seed, code, k, len(store))[i] for k, i in zip(rounds.tolist(), within, strict=True)]
        return np.array(found)


@lru_cache(maxsize=4)
def _order(*seed_and_count: int) -> np.ndarray:
    """A permutation, the same for the same numbers, of which the last is how many samples there are."""
    return np.random.default_rng(seed_and_count[:-1]).permutation(seed_and_count[-1])


def visible_hands(store: Store, samples: np.ndarray) -> np.ndarray:
    """Whether each hand is what one sees at a pixel, float32 [n, 2, H, W]; 0 everywhere if the store has no `front`."""
    if store.front is None:
        return np.zeros((len(samples), *store.masks.shape[1:]), np.float32)
    return (store.front[samples][:, None] == IN_FRONT).astype(np.float32)


def _marked(store: Store, samples: np.ndarray) -> np.ndarray:
    """Masks in which the pixels of the hand one sees are raised by N_CLASSES, to be moved and flipped in one."""
    return store.masks[samples] + N_CLASSES * visible_hands(store, samples).astype(np.uint8)


def unpaired_labels(stores: dict[str, Store]) -> Store:
    """The labels of a data set that have no images; where there are none, the pairs' labels serve."""
    return stores.get("unpaired_labels", stores["train"])


def make_mixed_dls(
    stores: dict[str, Store],
    bs: int,
    augmentation: Augmentation,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DataLoaders:
    """fastai DataLoaders of a data set for CycleGAN: `bs` images a batch, half of them paired; `val` as it is.

    `stores` have `train`, `val` and `unpaired_images`, as `Run.dataset` can ask for.
    """
    unpaired = (stores["unpaired_images"], unpaired_labels(stores))
    train = MixedLoader(stores["train"], max(1, bs // 2), augmentation, seed, device, unpaired)
    return DataLoaders(train, MixedLoader(stores["val"], bs, None, seed, device), device=torch.device(device))
