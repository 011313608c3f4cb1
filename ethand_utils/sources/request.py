"""The request that a run or a command makes of a source."""

from dataclasses import dataclass
from pathlib import Path

from ethand_utils.data.store_builder import Shard
from ethand_utils.rendering.options import DEFAULT_OPTIONS, RenderOptions


@dataclass(frozen=True)
class ReadRequest:
    """The data set that is wanted; a source passes over what it has no use for.

    `train`, `val`, `test` and `unpaired` are numbers of samples: limits for a source that reads files, where None means
    all there are. `size` is the side of images and masks in px; `seed` seeds every random choice; `workers` is the
    number of processes. `options` are those of rendered hands, `mano_dir` is the folder of MANO's files. With `shard`,
    only that share of every store is built. With `replace`, a store made with other settings is replaced, else refused.
    """

    train: int | None = None
    val: int | None = None
    test: int | None = None
    unpaired: int | None = None
    size: int = 128
    seed: int = 0
    workers: int = 1
    options: RenderOptions = DEFAULT_OPTIONS
    mano_dir: Path | None = None
    shard: Shard | None = None
    replace: bool = False
