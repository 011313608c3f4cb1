"""fastai DataLoaders over memory-mapped stores: whole batches are read at once, augmented on the training device."""

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader

from ethand_utils.augment import Augmentation, augment, normalise
from ethand_utils.store import Store


class StoreLoader(DataLoader):
    """Batches of a store: images float [B, 3, H, W], masks int64 [B, 2, H, W], and confidence [B] where it has one.

    With `augmentation` (training) samples come shuffled and augmented, and a rest smaller than `bs` is dropped; the
    order is a function of (`seed`, epoch) and each batch's augmentation of (`seed`, epoch, batch). Without, samples
    come in order. `masks_from` reads the masks from another store of the same samples, for pseudo-labels.
    """

    def __init__(
        self,
        store: Store,
        bs: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        masks_from: Store | None = None,
    ):
        self.images, labels = store.require("images").images, (masks_from or store).require("masks")
        self.masks, self.confidence = labels.masks, labels.confidence
        self.augmentation, self.seed, self.epoch = augmentation, seed, -1
        self.description = repr([store.meta, labels.meta, bs, augmentation, seed])
        training = augmentation is not None
        super().__init__(
            range(len(store)), bs=min(bs, len(store)), shuffle=training, drop_last=training, device=torch.device(device)
        )
        self.n_inp = 1

    def randomize(self):
        """Called by fastai at the start of every pass."""
        self.epoch += 1

    def get_idxs(self):
        """Sample order of this pass."""
        if not self.shuffle:
            return list(range(self.n))
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.n).tolist()

    def create_batches(self, samples):
        """Batches as tuples of raw tensors, each array read by one fancy index; the batch number comes last."""
        samples = list(samples)
        starts = range(0, len(samples) - (self.bs - 1 if self.drop_last else 0), self.bs)
        for number, start in enumerate(starts):
            chosen = np.array(samples[start : start + self.bs])
            order = np.argsort(chosen)  # memory maps are read faster front to back
            arrays = (self.images, self.masks, *([] if self.confidence is None else [self.confidence]))
            yield (*(torch.from_numpy(array[chosen[order]]) for array in arrays), torch.tensor(number))

    def after_batch(self, batch):
        """Augment or just normalise a raw batch on its device."""
        images, masks, *rest, number = batch
        if self.augmentation is None:
            return (normalise(images), masks.long(), *rest)
        seed = np.random.SeedSequence([self.seed, self.epoch, int(number)]).generate_state(1, np.uint64)[0] >> 1
        generator = torch.Generator().manual_seed(int(seed))
        return (*augment(images, masks, self.augmentation, generator), *rest)


def make_dls(
    train: Store,
    valid: Store,
    bs: int,
    augmentation: Augmentation,
    seed: int = 0,
    device: torch.device | str = "cpu",
    pseudo: Store | None = None,
) -> DataLoaders:
    """fastai DataLoaders: `train` augmented (with the masks of `pseudo` if given), `valid` as it is."""
    loaders = (
        StoreLoader(train, bs, augmentation, seed, device, masks_from=pseudo),
        StoreLoader(valid, 2 * bs, None, seed, device),
    )
    return DataLoaders(*loaders, device=torch.device(device))
