"""What fine-tuning has changed: one net before and after it, on labelled photos that neither was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ethand_utils.analysis.image_plots import overlays, strips
from ethand_utils.analysis.statistics import Interval, bootstrap_interval
from ethand_utils.data.store import Store
from ethand_utils.labels import HANDS
from ethand_utils.training.metrics import Scores, score
from ethand_utils.training.predicted import PLAIN, Inference

if TYPE_CHECKING:
    from torch import nn

OVERALL = ("course_miou", "dataset_miou", "visible_iou", "occluded_iou", "absent_fp_rate")


@dataclass(frozen=True, eq=False)
class BeforeAfter:
    """Predictions of a net before and after a training, masks uint8 [n, 2, H, W] each, with `images` and `truth`.

    `front` uint8 [n, H, W] is None where it is unknown.
    """

    images: np.ndarray
    truth: np.ndarray
    front: np.ndarray | None
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def of(
        cls, before: "nn.Module", after: "nn.Module", stores: Sequence[Store], how: Inference = PLAIN
    ) -> "BeforeAfter":
        """Predict the samples of all `stores`, which have masks and one size. Raises StoreError for one without."""
        from ethand_utils.training.inference import predict

        stores = [store.require("images", "masks") for store in stores]
        fronts = [store.front for store in stores]
        images, truth = (np.concatenate([getattr(store, name) for store in stores]) for name in ("images", "masks"))
        front = None if any(one is None for one in fronts) else np.concatenate(fronts)
        return cls(images, truth, front, *(predict(net, images, how).masks for net in (before, after)))

    @cached_property
    def _scored(self) -> dict[str, Scores]:
        return {name: score(getattr(self, name), self.truth, self.front) for name in ("before", "after")}

    @property
    def scores(self) -> pd.DataFrame:
        """The scores of `metrics.summary` but for single parts, a row each, columns `before` and `after`."""
        return pd.DataFrame({name: one.summary() for name, one in self._scored.items()}).loc[list(OVERALL)]

    @property
    def gains(self) -> np.ndarray:
        """The course mIoU of each hand after less that before, float [n, 2]; NaN for an absent hand."""
        return self._scored["after"].hands["course_miou"] - self._scored["before"].hands["course_miou"]

    @property
    def gain(self) -> Interval:
        """The mean of `gains`, and its 95 % interval over samples."""
        return bootstrap_interval(self.gains)

    def figure(self, count: int = 4, title: str = "") -> Figure:
        """Draw truth, before and after of each hand: of the samples that gained most, and the one that gained least."""
        order = np.argsort(-np.nan_to_num(np.nanmean(self.gains, axis=1), nan=-np.inf), kind="stable")
        chosen = order if len(order) <= count else [*order[: count - 1], order[-1]]
        columns = {"image": self.images[chosen]}
        for hand, name in enumerate(HANDS):
            for kind in ("truth", "before", "after"):
                columns[f"{name}, {kind}"] = overlays(self.images[chosen], getattr(self, kind)[chosen, hand])
        return strips(columns, title, per_row=1)
