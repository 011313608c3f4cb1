"""A net's predictions with their images and ground truth: scores, confusion counts, the reader's tags."""

import contextlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, load_npz, save_npz

from ethand_utils.analysis.confusion import N_CELLS, sparse_counts
from ethand_utils.data.store import OCCLUDED, Store
from ethand_utils.files import FileError, atomic_write, first_line, write_json
from ethand_utils.labels import HAND_TYPES
from ethand_utils.training.metrics import sample_scores

CONFUSION = "confusion.npz"
OCCLUDED_BINS = {"not occluded": (-1, 0.02), "occluded 2–20 %": (0.02, 0.2), "occluded over 20 %": (0.2, 1.01)}


class PredictionsError(FileError):
    """Predictions of other data than those they are opened with, or that cannot be read."""


class Predictions:
    """Predictions and their data, opened for reading: `store` (masks), `data` (images, perhaps masks and front).

    `table` has a row a sample: `id`, `confidence`, the scores of `metrics.sample_scores`, the columns of the data's
    index, and `occluded`, the larger of the hands' occluded shares. `truth` is None for unlabelled images, which have
    no scores. `tags` are the reader's, by id. Raises PredictionsError when predictions and data do not fit.
    """

    def __init__(self, path: str | Path | Store, data: str | Path | Store | None = None):
        self.store = (path if isinstance(path, Store) else Store(path)).require("masks")
        self.data = _open_data(self.store, data)
        _check_same(self.store, self.data)
        self.truth, self.front = self.data.masks, self.data.front
        self.table = self._table()
        self.tags = self.read_tags()

    def __len__(self) -> int:
        return len(self.store)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.store.path.resolve().name

    @property
    def tags_file(self) -> Path:
        """The file of tags, beside the folder: new predictions replace the folder, and the tags must outlive it."""
        folder = self.store.path.resolve()
        return folder.with_name(f"{folder.name}.tags.json")

    def counts(self) -> csr_array | None:
        """Return the confusion counts of every sample (`sparse_counts`); None without truth.

        They are read from the file beside the masks, or counted now and written there.
        """
        if self.truth is None:
            return None
        counts = self.cached_counts()
        return self.cache_counts(sparse_counts(self.store.masks, self.truth)) if counts is None else counts

    def cached_counts(self) -> csr_array | None:
        """Return the counts written earlier; None where the file is missing, damaged or of an older version."""
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            counts = load_npz(self.store.path / CONFUSION)
            counts.check_format(full_check=True)
            if counts.shape == (len(self), N_CELLS):
                return counts
        return None

    def cache_counts(self, counts: csr_array) -> csr_array:
        """Write the counts beside the masks, if that folder can be written to, and return them."""
        with contextlib.suppress(FileError):
            write_counts(self.store.path, counts)
        return counts

    def read_tags(self) -> dict[str, list[str]]:
        """Load the tags by id. Raises PredictionsError when the file is damaged."""
        try:
            tags = json.loads(self.tags_file.read_text())
            return {str(name): [str(tag) for tag in names] for name, names in tags.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise PredictionsError(
                f"{self.tags_file}: cannot be read as tags ({first_line(error)}); repair or remove the file"
            ) from None

    def tag(self, name: str, tag: str, on: bool = True) -> None:
        """Add a tag to the sample with id `name`, or remove it, and save all tags. Raises FileError if that fails."""
        tag, tags = " ".join(tag.split()), self.read_tags()
        if not tag:
            raise PredictionsError(f"{self.tags_file}: an empty tag; expected a word or two")
        new_tags = [other for other in tags.pop(name, []) if other != tag] + [tag] * on
        tags |= {name: new_tags} if new_tags else {}
        write_json(self.tags_file, dict(sorted(tags.items())))
        self.tags = tags

    def situations(self) -> dict[str, np.ndarray]:
        """Return a mask bool [n] of the samples of every hand type, arrangement and occlusion that occurs, by name."""
        situations = {}
        for column, names in (("hand_type", HAND_TYPES), ("arrangement", None)):
            values = self.table[column].astype(str) if column in self.table else pd.Series(dtype=str)
            for name in sorted(values.unique()) if names is None else names:
                situations[f"{column.replace('_', ' ')}: {name}"] = (values == name).to_numpy()
        if "occluded" in self.table:
            share = self.table["occluded"].to_numpy()
            situations |= {name: (share > low) & (share <= high) for name, (low, high) in OCCLUDED_BINS.items()}
        return {name: samples for name, samples in situations.items() if samples.any()}

    def _table(self) -> pd.DataFrame:
        """Return the scores from the file beside the masks, or computed now, and the columns of the data's index."""
        file, index = self.store.path / "metrics.parquet", self.data.index.reset_index(drop=True)
        try:
            scores = pd.read_parquet(file).drop(columns="id") if file.exists() else self._scores()
        except (OSError, ValueError, KeyError) as error:
            raise PredictionsError(f"{file}: cannot be read ({first_line(error)}); evaluate the net again") from None
        if len(scores) != len(self):
            raise PredictionsError(f"{file}: {len(scores)} rows, expected {len(self)}; evaluate the net again")
        shares = [column for column in OCCLUDED if column in index]
        occluded = {"occluded": index[shares].max(axis=1).astype(float)} if shares else {}
        others = index.drop(columns=["id", *scores.columns.intersection(index.columns)])
        return pd.concat([index[["id"]].astype(str), scores, others.assign(**occluded)], axis=1)

    def _scores(self) -> pd.DataFrame:
        table = {} if self.store.confidence is None else {"confidence": self.store.confidence}
        if self.truth is not None:
            front = None if self.front is None else np.asarray(self.front)
            table |= sample_scores(np.asarray(self.store.masks), np.asarray(self.truth), front)
        return pd.DataFrame(table, index=range(len(self)))


def write_counts(folder: Path, counts: csr_array) -> None:
    """Write `confusion.npz` into a folder of predictions, whole or not at all."""
    with atomic_write(folder / CONFUSION) as temporary:
        save_npz(temporary, counts, compressed=False)


def _open_data(store: Store, data: str | Path | Store | None) -> Store:
    if data is not None:
        return (data if isinstance(data, Store) else Store(data)).require("images")
    data_path = store.meta.get("data_path")
    if data_path is None:
        raise PredictionsError(f"{store.path}: does not say which images it was made from; name their store as data=")
    folder = store.path.resolve() / data_path
    if not folder.is_dir():
        raise PredictionsError(f"{store.path}: its images are not at {data_path} any more; name their store as data=")
    return Store(Path(os.path.normpath(folder))).require("images")


def _check_same(store: Store, data: Store) -> None:
    """Raise PredictionsError unless predictions and data have the same samples in the same order and size."""
    ours, theirs = store.index["id"].astype(str), data.index["id"].astype(str)
    if len(ours) != len(theirs) or (ours.to_numpy() != theirs.to_numpy()).any():
        common = len(set(ours) & set(theirs))
        raise PredictionsError(
            f"{store.path}: predictions of other data: {common} of its {len(ours)} ids are among the {len(theirs)} of "
            f"{data.path}, expected the same ids in the same order; name the store they were made from as data="
        )
    if store.size != data.size:
        raise PredictionsError(
            f"{store.path}: masks of {store.size} px, images of {data.size} px in {data.path}; predict them again"
        )
