"""Joint batches of labelled and unlabelled images, and what the semi-supervised methods of `training.semi` share."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import nn

from ethand_utils.data.augment import PHOTOMETRIC, Augmentation, Photometric, relight, sample_light
from ethand_utils.data.dataloaders import LoaderError, StoreLoader, samples_in_turn
from ethand_utils.data.prefetch import send
from ethand_utils.data.store import Store
from ethand_utils.labels import HANDS
from ethand_utils.training.callbacks import autocast_bf16, epoch_means
from ethand_utils.training.distributed import rank, world_size

STRONG = PHOTOMETRIC["strong"]  # light and camera of the strong views
BOX_AREA, BOX_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)  # of CutMix, UniMatch V2's: share of the image, width over height
MIN_UNLABELLED = 2  # unlabelled images of a batch: CutMix mixes one with another


# --- batches


class JointLoader(StoreLoader):
    """Batches (images, masks, weak, strong, …) of pairs and, in equal number, of unlabelled images.

    `bs` images a batch, half of them pairs: images float [B, 3, H, W] with masks int64 [B, 2, H, W]. `weak`, of the
    images' shape, are unlabelled images with the pairs' geometric augmentation; each of `views` strong ones is `weak`
    in another light of strength `strong` (None: the same light), pixel by pixel in the same place. An epoch has as many
    batches as one over all pairs in batches of `bs`. Raises LoaderError for an odd `bs`, and for fewer than
    MIN_UNLABELLED unlabelled images in a batch.
    """

    images_per_mask = 2

    def __init__(
        self,
        pairs: Store,
        unlabelled: Store,
        bs: int,
        augmentation: Augmentation,
        seed: int = 0,
        device: torch.device | str = "cpu",
        label_fraction: float = 1.0,
        views: int = 1,
        strong: Photometric | None = STRONG,
    ):
        half = min(bs, len(pairs)) // 2
        if half < MIN_UNLABELLED:
            raise LoaderError(
                f"joint batches of {bs} images of {len(pairs)} pairs: {half} unlabelled ones, expected at least "
                f"{MIN_UNLABELLED}; raise the smaller number"
            )
        if bs % 2:
            raise LoaderError(f"joint batches of {bs} images: half of them are pairs; expected an even number")
        geometry = replace(augmentation, photometric=None)
        super().__init__(pairs, half, geometry, seed, device, label_fraction=label_fraction)
        options = {"seed": seed, "label_fraction": label_fraction, "views": views, "strong": strong}
        self.arguments = {"pairs": pairs, "unlabelled": unlabelled, "bs": bs, "augmentation": augmentation, **options}
        self.unlabelled, self.light = unlabelled.require("images"), augmentation.photometric
        self.views, self.strong = views, strong
        self.description += repr([unlabelled.meta, self.light, views, strong])

    def __len__(self) -> int:
        return self.n // (2 * self.bs)

    def shard(self, rank: int, world_size: int) -> None:
        """Restrict every batch to the samples of a process, as for pairs alone; two that CutMix mixes stay together.

        Raises LoaderError where a batch cannot be divided so.
        """
        if self.bs % (2 * world_size) and world_size > 1:
            among = f"joint batches of {2 * self.bs} images cannot be shared among {world_size} processes"
            raise LoaderError(f"{among}; train with a multiple of {4 * world_size}")
        super().shard(rank, world_size)

    def batch(self, samples: np.ndarray, number: int) -> tuple[torch.Tensor, ...]:
        """Return the batch of the pairs `samples`, the epoch's `number`-th, with its unlabelled images."""
        images, masks = super().batch(samples, number)
        (labelled, weak), masks = images.chunk(2), masks.chunk(2)[0]
        of_pairs, of_weak = (torch.from_numpy(part) for part in np.split(self._positions(samples), 2))
        if self.light is not None:
            labelled = self._relit(labelled, self.light, number, 0, of_pairs)
        strong = [
            weak if self.strong is None else self._relit(weak, self.strong, number, view, of_weak - self.bs)
            for view in range(1, self.views + 1)
        ]
        return (labelled, masks, weak, *strong)

    def _relit(
        self, images: torch.Tensor, light: Photometric, number: int, view: int, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return a view of this process's images [B, 3, H, W], at `positions` [B] of the batch's, in another light.

        The seed of the noise depends on the first position, so that processes have different noise.
        """
        seed = np.random.SeedSequence([self.seed, self.epoch, number, view]).generate_state(1, np.uint64)[0] >> 1
        drawn = sample_light(self.bs, torch.Generator().manual_seed(int(seed)))
        return relight(images, light, drawn["light"][positions], drawn["noise"] + int(positions[0]))

    def _positions(self, samples: np.ndarray) -> np.ndarray:
        """Return the positions of this process's images: of its pairs, then of as many unlabelled ones."""
        return np.concatenate([super()._positions(samples), len(samples) + mirrored_share(len(samples), *self.sharded)])

    def _read(self, samples: np.ndarray, positions: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
        of_pairs, of_unlabelled = np.split(positions, 2)
        first = (self.epoch * len(self) + number) * self.bs
        more = samples_in_turn(self.seed, 1, first, self.bs, len(self.unlabelled))[of_unlabelled - len(samples)]
        images, masks = self.images[samples[of_pairs]], self.masks[samples[of_pairs]]
        return np.concatenate([images, self.unlabelled.images[more]]), np.concatenate([masks, np.zeros_like(masks)])


def mirrored_share(count: int, rank: int, world_size: int) -> np.ndarray:
    """Return the positions int64 [count / world_size], ascending, of process `rank`'s of `count` unlabelled images.

    `count` is a multiple of 2 `world_size`, or of one process any. With position i a process has count − 1 − i, the
    image that CutMix mixes it with (`mix`), so that mixed images do not depend on the number of processes.
    """
    if world_size == 1:
        return np.arange(count)
    first = np.arange(rank, count // 2, world_size)
    return np.concatenate([first, count - 1 - first[::-1]])


def make_joint_dls(
    pairs: Store, unlabelled: Store, valid: Store, bs: int, augmentation: Augmentation, **options
) -> DataLoaders:
    """Create fastai DataLoaders: `train` of joint batches (options of `JointLoader`), `valid` as it is."""
    train = JointLoader(pairs, unlabelled, bs, augmentation, **options)
    valid = StoreLoader(valid, 2 * bs, None, train.seed, train.device)
    return DataLoaders(train, valid, device=train.device)


# --- methods


@dataclass(frozen=True)
class SemiSettings:
    """The settings of a method: those of the profile with these names, or the method's own."""

    semi_threshold: float = 0.95
    ema_decay: float = 0.996
    unlabelled_weight: float = 1.0
    cutmix_p: float = 0.5
    ramp_up: float = 0.0


class JointTraining(Callback):
    """Training on joint batches: the net's loss on pairs, and a loss on unlabelled images beside it.

    A method says which images the net gets (`student_images`, the labelled ones first), and what it makes of the
    predictions of the others (`unlabelled_loss`). `views` are the strong views that it needs, `formula` its loss, in
    which L is that of the pairs. `scored` names the net of `nets` that is scored, as its source does. With several
    processes, sums over a batch go through `all_reduce_sum`, and random numbers are drawn for the whole batch.
    """

    order = 30  # after the batch has its size
    views, formula, scored = 1, "L", "student"

    def __init__(self, model: nn.Module, settings: SemiSettings):
        self.settings, self.student = settings, model
        self.description = f"{type(self).__name__}({settings})"

    @property
    def nets(self) -> dict[str, nn.Module]:
        """The nets that it trains, by name."""
        return {"student": self.student}

    def student_images(self, images: torch.Tensor, weak: torch.Tensor, *strong: torch.Tensor) -> torch.Tensor:
        """Return the images of the net's step: the labelled `images`, then unlabelled ones."""
        raise NotImplementedError

    def unlabelled_loss(self) -> torch.Tensor:
        """Compute the loss on unlabelled images, summed over the hands, of the predictions `unlabelled`."""
        raise NotImplementedError

    def combined_loss(self, labelled: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
        """Return the loss of a step, of that on pairs and the weighted one on unlabelled images."""
        return labelled + unlabelled

    def before_train(self):
        self.terms: dict[str, list[torch.Tensor]] = {}

    def before_batch(self):
        if self.training:
            masks, *views = self.yb
            self.learn.yb = (masks,)
            self.learn.xb = (self.student_images(self.xb[0], *views),)

    def after_pred(self):
        if self.training:
            count = len(self.yb[0])
            self.learn.pred, self.unlabelled = self.pred[:count], self.pred[count:]

    def after_loss(self):
        if self.training:
            term = self.unlabelled_loss() / (len(HANDS) if self.loss_func.hands == "mean" else 1)
            weight = self.settings.unlabelled_weight * ramp(self.checkpointer.progress, self.settings.ramp_up)
            total = self.combined_loss(self.loss_grad, weight * term)
            self.learn.loss_grad, self.learn.loss = total, total.detach().clone()
            self.note(unlabelled_loss=term)

    def draw_boxes(self, weak: torch.Tensor) -> torch.Tensor:
        """Draw CutMix's boxes for this process's unlabelled images [B, 3, H, W]: bool [B, 1, H, W]."""
        boxes = cutmix_boxes(len(weak) * world_size(), weak.shape[-1], self.settings.cutmix_p)
        return boxes[self.own_positions(len(weak))]

    def own_positions(self, count: int) -> np.ndarray:
        """Return the positions int64 [count] in the whole batch of this process's `count` unlabelled images."""
        return mirrored_share(count * world_size(), rank(), world_size())

    def note(self, **terms: torch.Tensor) -> None:
        """Keep the numbers of a batch, for their means over the epoch in `history.csv`."""
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value.detach())

    def scores(self) -> dict[str, float]:
        """Return means over the epoch, for `history.csv`."""
        return epoch_means(self.terms)

    def before_validate(self):
        self.trained, self.learn.model = self.learn.model, self.nets[self.scored]

    def after_validate(self):
        self.learn.model = self.trained


def ramp(progress: float, ramp_up: float) -> float:
    """Return the factor of the unlabelled loss at a `progress` 0…1 of a training: exp(−5 (1 − t)²), 1 after `ramp_up`.

    t is the progress of the ramp, which lasts `ramp_up` of the training.
    """
    left = 0 if progress >= ramp_up else 1 - progress / ramp_up
    return math.exp(-5 * left**2)


class TeacherTraining(JointTraining):
    """Training with a teacher: the average of the student's weights over its steps, by `ema_decay`."""

    def __init__(self, model: nn.Module, settings: SemiSettings):
        super().__init__(model, settings)
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)

    @property
    def nets(self) -> dict[str, nn.Module]:
        """The student and its teacher."""
        return {"student": self.student, "teacher": self.teacher}

    @torch.no_grad()
    def teacher_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits float [B, 34, H, W] of images."""
        with autocast_bf16(self.teacher):
            return self.teacher(images).contiguous()

    def after_step(self):
        decay = min(1 - 1 / (self.train_iter + 1), self.settings.ema_decay)
        move_average(self.teacher, self.student, decay)

    def state_dict(self) -> dict:
        """Return what an interrupted training needs to resume."""
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned."""
        self.teacher.load_state_dict(state["teacher"])


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float, buffers: bool = True) -> None:
    """Move averaged weights, and with `buffers` statistics, towards a net's: by 1 − `decay` of the way.

    What is no float, such as a count of batches, is copied.
    """
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    if buffers:
        pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, value in pairs:
        mean.lerp_(value, 1 - decay) if decay and mean.is_floating_point() else mean.copy_(value)


# --- CutMix


def cutmix_boxes(count: int, size: int, probability: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return bool [count, 1, size, size]: with `probability` a random box of each image, else nothing.

    Areas are uniform in BOX_AREA of the image, ratios of width to height in BOX_ASPECT; a side longer than the image is
    cut to it, where the source draws the box again. By default PyTorch's own random numbers are used.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, aspect = uniform(*BOX_AREA) * size**2, uniform(*BOX_ASPECT)
    width, height = ((area * aspect).sqrt().clamp(max=size), (area / aspect).sqrt().clamp(max=size))
    left, top = uniform(0, 1) * (size - width), uniform(0, 1) * (size - height)
    chosen = uniform(0, 1) < probability
    column = _between(size, left, left + width)[:, None, None, :]
    row = _between(size, top, top + height)[:, None, :, None]
    return row & column & chosen.view(-1, 1, 1, 1)


def _between(size: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return whether the middle of each pixel of a line lies between two ends [n] px: bool [n, size]."""
    middles = torch.arange(size) + 0.5
    return (middles >= low[:, None]) & (middles < high[:, None])


def mix(values: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return values [B, C, H, W] that have, inside each box [B, 1, H, W], those of the batch in reverse order."""
    return torch.where(send(boxes, values.device), values.flip(0), values)
