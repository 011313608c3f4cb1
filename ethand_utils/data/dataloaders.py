"""fastai DataLoaders over memory-mapped stores: whole batches are read at once, augmented on the training device."""

from collections.abc import Iterator

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader

from ethand_utils.data.augment import Augmentation, normalise, sample_params, transform
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError

LEAST_SHOWN = 2  # samples that batch normalisation can work with


class LoaderError(EthandError):
    """A way of loading that a store, or a number of processes, does not allow."""


class StoreLoader(DataLoader):
    """Batches of a store: images float [B, 3, H, W], masks int64 [B, 2, H, W], and confidence [B] where it has one.

    With `augmentation` (training) samples come shuffled and augmented, and a rest smaller than `bs` is dropped; the
    order is a function of (`seed`, epoch) and each batch's augmentation of (`seed`, epoch, batch). Without, samples
    come in order. `masks_from` reads the masks from another store of the same samples, for pseudo-labels.

    A `share` below 1 of a training store is shown again and again, in fresh orders and augmentations, until an epoch
    has as many batches as the whole store gives. Which samples these are depends on nothing but the store's size, and
    a smaller share is part of a larger one. A loader is pickled as what it was made from: where it is unpickled, it
    opens the stores again. Raises LoaderError for a share that is none.
    """

    def __init__(
        self,
        store: Store,
        bs: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        masks_from: Store | None = None,
        share: float = 1.0,
    ):
        if not 0 < share <= 1:
            raise LoaderError(f"share {share:g}: expected a share of the samples above 0, at most 1")
        self.source = {"store": store, "bs": bs, "seed": seed, "masks_from": masks_from, "share": share}
        self.images, labels = store.require("images").images, (masks_from or store).require("masks")
        self.masks, self.confidence = labels.masks, labels.confidence
        self.augmentation, self.seed, self.epoch, self.sharded = augmentation, seed, -1, (0, 1)
        self.description = repr([store.meta, labels.meta, bs, augmentation, seed, share])
        training = augmentation is not None
        super().__init__(
            range(len(store)), bs=min(bs, len(store)), shuffle=training, drop_last=training, device=torch.device(device)
        )
        self.n_inp = 1
        number = max(LEAST_SHOWN, round(share * self.n))
        self.subset = np.sort(np.random.default_rng(0).permutation(self.n)[:number])

    def __reduce__(self):
        arguments = {**self.source, "augmentation": self.augmentation, "device": self.device}
        return _made_again, (arguments, {"epoch": self.epoch, "sharded": self.sharded})

    def shard(self, rank: int, world_size: int) -> None:
        """From now on give only the part of every batch that process `rank` `of` several trains on.

        The batch is the one that a single process has, with the same draws (but for the noise of a changed light):
        its samples by confidence, the highest first, where the store has it, else in the order of the batch; of these
        every `world_size`-th from `rank` on. All parts together are the batch. `bs` and `len` stay those of all
        processes together. Raises LoaderError where batches cannot be shared out in equal parts.
        """
        if not self.shuffle or self.bs % world_size:
            among = f"cannot be shared among {world_size} processes"
            raise LoaderError(f"batches of {self.bs} {among}; train with a multiple of {world_size}")
        self.sharded = (rank, world_size)

    def randomize(self):
        """Called at the start of every pass."""
        self.epoch += 1

    def get_idxs(self) -> list[int]:
        """Sample order of this pass."""
        if not self.shuffle:
            return list(range(self.n))
        rng, count = np.random.default_rng([self.seed, self.epoch]), len(self.subset)
        rounds = [rng.permutation(count) for _ in range(-(-self.n // count))]
        return self.subset[np.concatenate(rounds)[: self.n]].tolist()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """A pass: fastai's own without its detour through PyTorch's workers, which read sample by sample."""
        self.randomize()
        order = np.array(self.get_idxs())
        for number in range(len(self)):
            chosen = order[number * self.bs : (number + 1) * self.bs]
            yield self.batch(np.sort(chosen), number)  # memory maps are read faster front to back

    def batch(self, samples: np.ndarray, number: int) -> tuple[torch.Tensor, ...]:
        """The batch of `samples` (ascending), which is this pass's `number`-th, or this process's part of it."""
        positions = self._positions(samples)
        arrays = self._read(samples[positions], number)
        images, masks, *rest = (torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays)
        if self.augmentation is None:
            return (normalise(images), masks.long(), *rest)
        seed = np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1, np.uint64)[0] >> 1
        count = len(images) * self.sharded[1]
        draws = sample_params(count, self.augmentation, torch.Generator().manual_seed(int(seed)))
        if self.sharded[1] > 1:
            draws = draws.part(torch.from_numpy(positions))
        return (*transform(images, masks, self.augmentation, draws), *rest)

    def _read(self, samples: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
        """Images, masks, and what else there is, of the samples of this pass's batch `number`, as stored."""
        arrays = (self.images, self.masks, *([] if self.confidence is None else [self.confidence]))
        return tuple(array[samples] for array in arrays)

    def _positions(self, samples: np.ndarray) -> np.ndarray:
        """Which of a batch's samples this process gets, and in which order."""
        rank, world_size = self.sharded
        if world_size == 1:
            return np.arange(len(samples))
        order = np.arange(len(samples))
        if self.confidence is not None:
            order = np.argsort(-self.confidence[samples], kind="stable")
        return order[rank::world_size]


def _made_again(arguments: dict, state: dict) -> StoreLoader:
    """What a pickled loader becomes."""
    loader = StoreLoader(**arguments)
    vars(loader).update(state)
    return loader


def make_dls(
    train: Store,
    valid: Store,
    bs: int,
    augmentation: Augmentation,
    seed: int = 0,
    device: torch.device | str = "cpu",
    pseudo: Store | None = None,
    share: float = 1.0,
) -> DataLoaders:
    """fastai DataLoaders: `train` augmented (with the masks of `pseudo` if given), `valid` as it is.

    With a `share` below 1 only that part of `train` is ever shown, as `StoreLoader` tells.
    """
    loaders = (
        StoreLoader(train, bs, augmentation, seed, device, masks_from=pseudo, share=share),
        StoreLoader(valid, 2 * bs, None, seed, device),
    )
    return DataLoaders(*loaders, device=torch.device(device))
