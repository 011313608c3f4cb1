"""Labels of one's own photos: what they are, the hands and masks they give, and the folder that keeps them.

The folder is a store of the labelled photos' crops at any time, and a source of data (`labels_dataset`).
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import sys
import weakref
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.data.images import ImageError, read_image
from ethand_utils.data.store import BOX, OCCLUDED, Store, StoreError, array_layout
from ethand_utils.data.store import FORMAT as STORE_FORMAT
from ethand_utils.exceptions import EthandError
from ethand_utils.files import FileError, first_line, write_json, write_remedy
from ethand_utils.locks import BusyError, hold_named
from ethand_utils.outputs import OutputError, claim_shared_folder, digest, relative_path
from ethand_utils.sources.label_files import (
    LABELS,
    HandLabel,
    LabelError,
    LabelRecord,
    PhotoLabel,
    next_split,
    photo_id,
    read_records,
    record_file,
)
from ethand_utils.sources.label_fit import LabelFit, fit_label, label_masks
from ethand_utils.sources.label_samples import (
    RESIDUALS,
    SAMPLES,
    LabelSample,
    index_row,
    kept_sample,
    load_sample,
    make_sample,
    sample_file,
)

__all__ = ["HandLabel", "LabelError", "LabelFit", "LabelFolder", "PhotoLabel", "fit_label", "label_masks"]

ARRAYS = ("images", "masks", "front")
LOCK = ".labels.lock"
WORK = "the labelling of photos"
SMALLEST = 16  # px a side of a sample
OWN = {LABELS, SAMPLES, "meta.json", "index.parquet", *(f"{name}.npy" for name in ARRAYS)}
TEXTS = ("id", "hand_type", "subject", "capture", "seq", "camera", "source", "split", "labeller", "labelled_at")
NUMBERS = (*BOX, *OCCLUDED, *RESIDUALS, "seconds")


def is_label_folder(folder: Path) -> bool:
    """Return whether `folder` is a LabelFolder's, not a store built from one, going by its files alone."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        return meta.get("source") == LABELS and "without_hands" in meta
    except (OSError, ValueError, AttributeError):
        return False


class LabelFolder:
    """The labels of photos in a folder `out`, created or continued, for one writer at a time.

    `out`/labels has a JSON a photo, from which all else is computed. `out` itself is a store (`data.Store`) of one
    sample a photo with hands, `size` px a side; photos labelled as having no hand are not in it. A photo is identified
    by its bytes, wherever it lies. `labeller` is noted in labels that name none. `faults` has a line, by file name, for
    each label file that is damaged or gives no sample; the others are not affected.

    `close`, or the end of a `with` block, lets others write. Raises OutputError where `out` is a file, holds something
    else or cannot be written to, LabelError where it has samples of another size, BusyError while another has it open.
    """

    def __init__(self, out: str | Path, size: int = 128, labeller: str | None = None):
        self.path, self.size, self.labeller = _claim(Path(out), size), int(size), labeller or ""
        self._unfinished = (self.path / f"{LOCK}.json").exists()  # of a writer that was killed, or the power cut
        held = contextlib.ExitStack()
        _hold(held, self.path)
        self._release = weakref.finalize(self, held.close)
        self._order: list[str] | None = None  # ids of the samples in the arrays on disk, None where these are unsure
        self._rows: dict[str, dict] = {}
        self._image: tuple[str, np.ndarray] | None = None
        self._digests: dict[tuple, str] = {}  # of photos, by path, size and time of the last change
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LabelFolder":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Let others write to the folder; this object writes no more."""
        self._release()

    @property
    def labels(self) -> dict[str, PhotoLabel]:
        """The labels by id, those of photos without hands and of photos that are gone too."""
        return {name: record.label for name, record in self._records.items()}

    @property
    def ids(self) -> list[str]:
        """The ids of the samples in the store, in its order."""
        return sorted(self._rows)

    @property
    def without_hands(self) -> int:
        """The number of photos labelled as having no hand."""
        return sum(not record.label.sides for record in self._records.values())

    def photo(self, name: str) -> Path:
        """Return the path of the photo of the label with an id. Raises LabelError where it is gone or has changed."""
        if name not in self._records:
            raise LabelError(f"{self.path}: no label {name}; there are {len(self._records)}")
        file = self._records[name].photo_file(self.path)
        if file is None:
            raise self._gone(name)
        return file

    def get(self, photo: str | Path) -> PhotoLabel | None:
        """Return the label of a photo; None where it has none. Raises as `save` for a photo that cannot be read."""
        name = self._name(self._digest(Path(photo)))
        return None if name is None else self._records[name].label

    def save(self, photo: str | Path, label: PhotoLabel, fit: LabelFit | None = None) -> str:
        """Keep the label of a photo, in place of an older one, and return its id.

        `fit` is that of this label (`fit_label`), where the caller has it already. Raises HandError for joints that
        give no hand, or none in the photo, ImageError for a photo that cannot be read, LabelError for one that is gone
        or has a damaged label file, before anything is written, and FileError where the disk refuses.
        """
        photo = Path(photo)
        self._require_open()
        sha256 = self._digest(photo)
        image = self._read(photo, sha256)
        name = self._name(sha256) or photo_id(photo, sha256)
        if f"{name}.json" in self.faults and name not in self._records:
            raise LabelError(self.faults[f"{name}.json"])
        record = self._record(name, photo, sha256, image, label)
        sample = None
        if label.sides:
            sample = make_sample(self.path, record, self.size, self._fit(label, record, fit), image)
        record = record.write(self.path)
        self._records[name] = record
        self.faults.pop(f"{name}.json", None)
        self._rows.pop(name, None)
        if sample is None:
            sample_file(self.path, name).unlink(missing_ok=True)
            self._write({name: None})
        else:
            self._write({name: self._keep(record, sample)})
        return name

    def remove(self, photo: str | Path) -> None:
        """Remove the label of a photo, which may be gone, and its sample. Raises LabelError where it has none."""
        self._require_open()
        photo = Path(photo)
        name = self._name(self._digest(photo)) if photo.is_file() else self._name_by_path(photo)
        if name is None:
            raise LabelError(f"{photo}: has no label in {self.path}")
        record_file(self.path, name).unlink(missing_ok=True)
        del self._records[name]
        self.faults.pop(f"{name}.json", None)
        self._rows.pop(name, None)
        self._write({name: None})
        sample_file(self.path, name).unlink(missing_ok=True)

    def store(self) -> Store:
        """Open the store of the labelled photos as it is now."""
        return Store(self.path)

    def _require_open(self) -> None:
        if not self._release.alive:
            raise LabelError(f"{self.path}: this LabelFolder is closed; open the folder again")

    def _open(self) -> None:
        """Read the labels, and write the store anew where it is not of these."""
        self._records, self.faults = read_records(self.path)
        if not is_label_folder(self.path):
            write_json(self.path / "meta.json", self._meta([]))  # whose folder it is, before anything else
        if self._is_current() and not self._unfinished:
            index = Store(self.path).index
            self._rows = dict(zip(index["id"], index.to_dict("records"), strict=True))
            self._order = list(self._rows)
        else:
            self._repair()
        for line in self.faults.values():
            print(line, file=sys.stderr)

    def _is_current(self) -> bool:
        """Return whether the store is that of all labels with hands, and whole."""
        try:
            meta = Store(self.path).meta
        except StoreError:
            return False
        return meta == self._meta([name for name, record in self._records.items() if record.label.sides])

    def _repair(self) -> None:
        """Compute the samples that are missing or of older labels, and write the store of all."""
        samples = {}
        for name, record in self._records.items():
            if record.label.sides:
                try:
                    sample = kept_sample(self.path, record, self.size)
                    if sample is None:
                        sample = self._keep(record, make_sample(self.path, record, self.size))
                    self._rows[name], samples[name] = index_row(record, sample), sample
                except EthandError as error:
                    file = record_file(self.path, name)
                    line = str(error) if str(error).startswith(str(file)) else f"{file}: gives no sample ({error})"
                    self.faults[file.name] = line
        self._write(samples)

    def _keep(self, record: LabelRecord, sample: LabelSample) -> LabelSample:
        """Save the sample of a record, note its row, and return it."""
        sample = dataclasses.replace(sample, digest=record.digest)
        sample.save(sample_file(self.path, record.id))
        self._rows[record.id] = index_row(record, sample)
        return sample

    def _record(self, name: str, photo: Path, sha256: str, image: np.ndarray, label: PhotoLabel) -> LabelRecord:
        """Return the record of a label that is about to be saved."""
        old, (height, width) = self._records.get(name), image.shape[:2]
        label = dataclasses.replace(
            label,
            photo=photo.name,
            labeller=label.labeller or self.labeller,
            labelled_at=label.labelled_at or datetime.now().astimezone().isoformat(timespec="seconds"),
        )
        others = {other: record for other, record in self._records.items() if other != name}
        split = old.split if old is not None and old.label.sides else next_split(others)
        path = Path(relative_path(photo, self.path)).as_posix()
        return LabelRecord(name, label, path, sha256, width, height, split)

    @staticmethod
    def _fit(label: PhotoLabel, record: LabelRecord, fit: LabelFit | None) -> LabelFit:
        """Return the fit that the caller has, or a new one. Raises LabelError for one of another label or photo."""
        if fit is not None and not fit.is_of(label, record.size):
            raise LabelError(f"{record.label.photo}: the fit is of other joints, or of a photo of another size")
        return fit or fit_label(label, record.size)

    def _digest(self, photo: Path) -> str:
        """Return the SHA-256 of a photo. Raises LabelError where a labelled photo is gone, else ImageError."""
        try:
            status = photo.stat()
            key = (os.path.realpath(photo), status.st_size, status.st_mtime_ns)
            if key not in self._digests:
                self._digests[key] = digest(photo)
            return self._digests[key]
        except FileNotFoundError:
            name = self._name_by_path(photo)
            if name is not None:
                raise self._gone(name) from None
            raise ImageError(f"{photo}: no such image; check the path") from None
        except OSError as error:
            raise ImageError(f"{photo}: cannot be read ({first_line(error)}); expected an image") from None

    def _gone(self, name: str) -> LabelError:
        photo = os.path.normpath(self.path / self._records[name].path)
        return LabelError(
            f"{photo}: the photo of the label {name} is gone or has changed; put it back, or open it "
            "where it is now, to edit its label"
        )

    def _name(self, sha256: str) -> str | None:
        """Return the id of the label of a photo with these bytes; None where it has none."""
        return next((name for name, record in self._records.items() if record.sha256 == sha256), None)

    def _name_by_path(self, photo: Path) -> str | None:
        path = Path(relative_path(photo, self.path)).as_posix()
        return next((name for name, record in self._records.items() if record.path == path), None)

    def _read(self, photo: Path, sha256: str) -> np.ndarray:
        """Return a photo's image; the last one is kept, as a labeller saves it again and again."""
        if self._image is None or self._image[0] != sha256:
            self._image = sha256, read_image(photo)
        return self._image[1]

    def _write(self, changed: dict[str, LabelSample | None]) -> None:
        """Write the store of all samples; those that have not `changed` are copied from the store as it is."""
        order, self._order = self._order, None  # unsure until all files are there
        ids, files = self.ids, {}
        for name in ARRAYS:
            files[f"{name}.npy"] = self._array(name, ids, [] if order is None else order, changed)
        rows = _index([self._rows[name] for name in ids])
        writers = {file: _array_writer(values) for file, values in files.items()}
        writers["index.parquet"] = lambda path: rows.to_parquet(path, index=False)
        writers["meta.json"] = lambda path: path.write_text(json.dumps(self._meta(ids), indent=1) + "\n")
        _replace_together(self.path, writers)
        self._order = ids

    def _array(self, name: str, ids: list[str], order: list[str], changed: dict) -> np.ndarray:
        """Return an array of the store that is to be written."""
        shape, dtype = array_layout(name, len(ids), self.size)
        values, rows = np.zeros(shape, dtype), {name: row for row, name in enumerate(order)}
        copied = [i for i, one in enumerate(ids) if one in rows and one not in changed]
        if copied:
            values[copied] = np.load(self.path / f"{name}.npy", mmap_mode="r")[[rows[ids[i]] for i in copied]]
        for i in sorted(set(range(len(ids))) - set(copied)):
            values[i] = getattr(changed.get(ids[i]) or self._sample(ids[i]), name)
        return values

    def _sample(self, name: str) -> LabelSample:
        sample = load_sample(sample_file(self.path, name))
        return make_sample(self.path, self._records[name], self.size) if sample is None else sample

    def _meta(self, ids: list[str]) -> dict:
        """Return `meta.json` of the store of these samples, with a digest of their labels, by which it is current."""
        named = "".join(f"{name} {self._records[name].digest}\n" for name in sorted(ids))
        layout = {"format": STORE_FORMAT, "size": self.size, "count": len(ids), "arrays": list(ARRAYS)}
        labels = hashlib.sha256(named.encode()).hexdigest()
        return {**layout, "source": LABELS, "labels": labels, "without_hands": self.without_hands}


def _claim(out: Path, size: int) -> Path:
    """Return the real path of a folder for labels at `size` px. Raises as `LabelFolder` does."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < SMALLEST:
        raise LabelError(f"{out}: samples of {size!r} px a side; expected at least {SMALLEST}")
    claim_shared_folder(out)
    others = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    ours = is_label_folder(out)
    if others and not ours and not (set(others) <= OWN and read_records(out)[0]):
        raise OutputError(f"{out}: holds something else than labels ({others[0]}); choose another folder")
    if ours:
        stored = json.loads((out / "meta.json").read_bytes()).get("size")
        if stored != size:
            raise LabelError(f"{out}: has samples of {stored} px, not of {size}; open it with size={stored}")
    return Path(os.path.realpath(out))


def _hold(held: contextlib.ExitStack, folder: Path) -> None:
    """Lock a folder until `held` is closed. Raises BusyError, naming the writer, while another LabelFolder has it."""
    try:
        held.enter_context(hold_named(folder / LOCK, WORK, grace=0))
    except BusyError as error:
        remedy = "in a notebook: close() it there, or stop its kernel"
        raise BusyError(f"{first_line(error)} ({remedy})") from None


def _index(rows: list[dict]) -> pd.DataFrame:
    """Return the index of rows, with all its columns and their types where there are none."""
    if rows:
        return pd.DataFrame(rows)
    columns = {name: pd.Series(dtype=str) for name in TEXTS} | {name: pd.Series(dtype=float) for name in NUMBERS}
    return pd.DataFrame(columns | {"frame": pd.Series(dtype=int), "joints": pd.Series(dtype=object)})


def _array_writer(values: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, values)

    return write


def _replace_together(folder: Path, writers: dict[str, Callable[[Path], None]]) -> None:
    """Write files under temporary names, then rename them all, one right after the other.

    A memory map of an older file stays valid. Nothing is synced to the disk: what a power cut loses is computed again
    from the label files. Raises FileError when the disk refuses.
    """
    mark = secrets.token_hex(4)
    temporaries = {folder / f".{Path(name).stem}.{mark}.partial{Path(name).suffix}": folder / name for name in writers}
    try:
        for temporary, write in zip(temporaries, writers.values(), strict=True):
            write(temporary)
        for temporary, file in temporaries.items():
            os.replace(temporary, file)
    except OSError as error:
        raise FileError(f"{folder}: could not be written ({first_line(error)}); {write_remedy(error)}") from error
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
