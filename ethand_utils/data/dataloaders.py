"""fastai dataloaders over memory-mapped stores that read a batch at once and augment it on the training device."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader

from ethand_utils.data.augment import Augmentation, normalise, sample_params, transform
from ethand_utils.data.prefetch import prefetched, runs_ahead, send
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import FRONT_LEFT, FRONT_RIGHT, LEFT, RIGHT

FRONT_FLAG = 32  # above all part ids; added to the ids of the hand in front
MIN_SAMPLES = 2  # fewest samples that batch normalisation can work with


class LoaderError(EthandError):
    """A fraction of a store, or a number of processes, that a dataloader cannot work with."""


class StoreLoader(DataLoader):
    """Batches of a store: images float [B, 3, H, W], masks int64 [B, 2, H, W], and confidence [B] where it has one.

    With `augmentation` (training) samples are shuffled and augmented, and a last batch smaller than `bs` is dropped;
    the order is a function of (`seed`, epoch) and each batch's augmentation of (`seed`, epoch, batch). Without, samples
    come in order. `masks_from` reads the masks from another store of the same samples, for pseudo-labels.

    With a `label_fraction` below 1, that fraction of the samples is repeated, in fresh orders and augmentations, until
    an epoch has as many batches as the full store gives. The choice depends on the store's size alone, and a smaller
    fraction is a subset of a larger one. A dataloader is pickled as its arguments; unpickling opens the stores again.
    With `front`, the hand in front int64 [B, H, W] comes after the masks. On a GPU each batch is made while the one
    before it is trained on (`prefetch`). Raises LoaderError for a fraction outside (0, 1].
    """

    images_per_mask = 1  # images of a batch for each of its masks

    def __init__(
        self,
        store: Store,
        bs: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        masks_from: Store | None = None,
        label_fraction: float = 1.0,
        front: bool = False,
    ):
        if not 0 < label_fraction <= 1:
            raise LoaderError(
                f"label_fraction {label_fraction:g}: expected a fraction of the samples above 0, at most 1"
            )
        options = {"seed": seed, "masks_from": masks_from, "label_fraction": label_fraction, "front": front}
        self.arguments = {"store": store, "bs": bs, **options}
        self.images, labels = store.require("images").images, (masks_from or store).require("masks")
        self.masks, self.confidence = labels.masks, labels.confidence
        self.front = store.require("front").front if front else None
        self.augmentation, self.seed, self.epoch, self.sharded = augmentation, seed, -1, (0, 1)
        self.description = repr([store.meta, labels.meta, bs, augmentation, seed, label_fraction, front])
        training = augmentation is not None
        super().__init__(
            range(len(store)), bs=min(bs, len(store)), shuffle=training, drop_last=training, device=torch.device(device)
        )
        self.n_inp, self.prefetch = 1, runs_ahead(self.device)
        number = labelled_count(self.n, label_fraction)
        self.subset = np.sort(np.random.default_rng(0).permutation(self.n)[:number])

    def __reduce__(self):
        # A subclass may have been given another augmentation than it passes on.
        arguments = {"augmentation": self.augmentation, "device": self.device, **self.arguments}
        return _restored, (type(self), arguments, {"epoch": self.epoch, "sharded": self.sharded})

    def shard(self, rank: int, world_size: int) -> None:
        """Restrict every batch to the samples that process `rank` of `world_size` trains on.

        The batch is that of a single process, with the same augmentation (but for the noise of `photometric`): its
        samples by confidence, the highest first, where the store has it, else in the order of the batch; of these
        every `world_size`-th from `rank` on. All processes together have the full batch. `bs` and `len` stay those of
        all processes together. Raises LoaderError where a batch cannot be divided equally.
        """
        if not self.shuffle or self.bs % world_size:
            among = f"cannot be shared among {world_size} processes"
            raise LoaderError(f"batches of {self.bs} {among}; train with a multiple of {world_size}")
        self.sharded = (rank, world_size)

    def randomize(self):
        """Begin the next epoch."""
        self.epoch += 1

    def get_idxs(self) -> list[int]:
        """Return the order of the samples in this epoch."""
        if not self.shuffle:
            return list(range(self.n))
        rng, count = np.random.default_rng([self.seed, self.epoch]), len(self.subset)
        rounds = [rng.permutation(count) for _ in range(-(-self.n // count))]
        return self.subset[np.concatenate(rounds)[: self.n]].tolist()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Return the batches of an epoch; fastai's own way is by PyTorch's workers, which read sample by sample."""
        self.randomize()
        batches = self._batches(np.array(self.get_idxs()))
        return prefetched(batches, self.device) if self.prefetch else batches

    def _batches(self, order: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of samples in their `order`."""
        for number in range(len(self)):
            chosen = order[number * self.bs : (number + 1) * self.bs]
            yield self.batch(np.sort(chosen), number)  # memory maps are read faster front to back

    def batch(self, samples: np.ndarray, number: int) -> tuple[torch.Tensor, ...]:
        """Load and augment batch `number` of the epoch, of `samples` (ascending), or this process's samples of it."""
        positions = self._positions(samples)
        arrays = self._read(samples, positions, number)
        images, masks, *rest = (send(torch.from_numpy(array), self.device) for array in arrays)
        if self.augmentation is None:
            return (normalise(images), *self._labels(masks.long()), *rest)
        seed = np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1, np.uint64)[0] >> 1
        count = len(images) * self.sharded[1]
        params = sample_params(count, self.augmentation, torch.Generator().manual_seed(int(seed)))
        if self.sharded[1] > 1:
            params = params.subset(torch.from_numpy(positions))
        images, masks = transform(images, masks, self.augmentation, params)
        return (images, *self._labels(masks), *rest)

    def _labels(self, masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return masks int64 as read, or with the hand in front those of `split_front`."""
        return (masks,) if self.front is None else split_front(masks)

    def _read(self, samples: np.ndarray, positions: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
        """Read images, masks and, where there is one, confidence of the samples at `positions` of batch `number`."""
        samples = samples[positions]
        masks = self.masks[samples]
        if self.front is not None:
            masks = add_front(masks, self.front[samples])
        return (self.images[samples], masks, *([] if self.confidence is None else [self.confidence[samples]]))

    def _positions(self, samples: np.ndarray) -> np.ndarray:
        """Return the positions in the batch of this process's samples, in their order."""
        rank, world_size = self.sharded
        if world_size == 1:
            return np.arange(len(samples))
        order = np.arange(len(samples))
        if self.confidence is not None:
            order = np.argsort(-self.confidence[samples], kind="stable")
        return order[rank::world_size]


def labelled_count(count: int, label_fraction: float) -> int:
    """Return how many of `count` pairs a label fraction has, at least MIN_SAMPLES."""
    return max(MIN_SAMPLES, round(label_fraction * count))


def samples_in_turn(seed: int, code: int, first: int, number: int, count: int) -> np.ndarray:
    """Return the samples int64 [number] of a store of `count` from position `first` on of an endless random order.

    Each pass through the store is shuffled anew; `code` tells apart the orders of several stores with one seed.
    """
    passes, within = np.divmod(first + np.arange(number), count)
    return np.array([_permutation(seed, code, k, count)[i] for k, i in zip(passes.tolist(), within, strict=True)])


@lru_cache(maxsize=4)
def _permutation(*seed_and_count: int) -> np.ndarray:
    """Return a permutation that depends on these numbers alone; the last is the number of samples."""
    return np.random.default_rng(seed_and_count[:-1]).permutation(seed_and_count[-1])


def add_front(masks: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Return masks uint8 [n, 2, H, W] with FRONT_FLAG added to the hand that `front` uint8 [n, H, W] says is in front.

    Whatever moves the masks or exchanges the hands so moves `front` with them.
    """
    hands = np.array([FRONT_LEFT, FRONT_RIGHT]).reshape(1, -1, 1, 1)
    return masks + FRONT_FLAG * (front[:, None] == hands).astype(np.uint8)


def split_front(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Invert `add_front`: return masks int64 [n, 2, H, W], and the hand in front int64 [n, H, W]."""
    flagged = (masks >= FRONT_FLAG).long()
    return masks % FRONT_FLAG, FRONT_LEFT * flagged[:, LEFT] + FRONT_RIGHT * flagged[:, RIGHT]


def _restored(kind: type[StoreLoader], arguments: dict, state: dict) -> StoreLoader:
    """Return an unpickled dataloader."""
    loader = kind(**arguments)
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
    label_fraction: float = 1.0,
    front: bool = False,
) -> DataLoaders:
    """Create fastai DataLoaders: `train` augmented (with the masks of `pseudo` if given), `valid` as it is.

    With a `label_fraction` below 1, only that fraction of `train` is used; with `front`, batches also have the hand in
    front (see `StoreLoader`).
    """
    loaders = (
        StoreLoader(
            train, bs, augmentation, seed, device, masks_from=pseudo, label_fraction=label_fraction, front=front
        ),
        StoreLoader(valid, 2 * bs, None, seed, device, front=front),
    )
    return DataLoaders(*loaders, device=torch.device(device))
