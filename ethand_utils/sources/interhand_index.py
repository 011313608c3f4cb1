"""The SQLite index of InterHand2.6M's annotation, streamed into it so that memory does not grow with the annotation.

Layout and names are in REFERENCE.md section 4. Frames are read from the index by `interhand_frames`.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import ijson
import numpy as np
from tqdm.auto import tqdm

from ethand_utils.data.datasets import SkippedSamples
from ethand_utils.exceptions import require_known
from ethand_utils.files import FileError, atomic_write, first_line
from ethand_utils.labels import HAND_TYPES, HANDS, N_JOINTS

KINDS = ("data", "camera", "joint_3d")  # files that belong together: <name>_data.json, <name>_camera.json, …
ANNOTATION_SETS = ("all", "human_annot", "machine_annot")  # folders in annotations/, as InterHand2.6M unpacks
MANO = "MANO_NeuralAnnot"  # beside them where hands are known as MANO's parameters
CAMERA_SIZES = {"campos": 3, "camrot": 9, "focal": 2, "princpt": 2}
MANO_SIZES = {"pose": 48, "shape": 10, "trans": 3}
ROTATION_TOLERANCE = 0.01  # by which a rotation's rows may miss unit length and right angles
BLOCK = 1 << 16  # bytes read at once
NESTING = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}

FORMAT = 1  # of the index

TABLES = """
create table images (id integer primary key, file_name, width, height, capture, subject, seq, camera, moment);
create table annotations (number integer primary key, image, x, y, w, h, hand_type, hand_type_valid, valid);
create table cameras (capture, camera, numbers, primary key (capture, camera)) without rowid;
create table joints (capture, moment, world, valid, primary key (capture, moment)) without rowid;
create table mano (capture, moment, hand, numbers, primary key (capture, moment, hand)) without rowid;
create table notes (name primary key, value);
"""


class InterHandError(FileError):
    """An annotation or image of InterHand2.6M that is missing or does not fit."""


@dataclass(frozen=True)
class Annotation:
    """The annotation files of one split, known by its `*data.json`."""

    data: Path

    @property
    def prefix(self) -> str:
        """The prefix of its files: `InterHand2.6M_train_`."""
        return self.data.name.removesuffix("data.json")

    @property
    def split(self) -> str:
        """The name of its split: `train` of `InterHand2.6M_train_data.json`."""
        return self.prefix.rstrip("_").split("_")[-1] or self.data.parent.name

    def file(self, kind: str) -> Path:
        """Return the path of one of its files, of KINDS or MANO."""
        return self.data.with_name(f"{self.prefix}{kind}.json")

    def key(self) -> str:
        """Return a digest of its files' names, sizes and times. Raises InterHandError when one of KINDS is missing."""
        files = []
        for kind in (*KINDS, MANO):
            path = self.file(kind)
            try:
                stat = path.stat()
            except FileNotFoundError:
                if kind == MANO:
                    continue
                raise InterHandError(f"{path}: not there; expected beside the other two annotation files") from None
            except OSError as error:
                raise InterHandError(f"{path}: cannot be read ({first_line(error)}); check its permissions") from None
            files.append([path.name, stat.st_size, stat.st_mtime_ns])
        return hashlib.sha256(json.dumps([FORMAT, files]).encode()).hexdigest()[:12]


def find_annotations(root: str | Path, annotation_set: str | None = None) -> list[Annotation]:
    """Return every annotation at `root` or below, but not in `images/`, which may hold millions of files.

    Where they lie in folders named as ANNOTATION_SETS, only those of `annotation_set` count: by default `all`, or the
    only one that is there. Folders may be symbolic links. Raises InterHandError when there is none, a folder cannot be
    read, or there is more than one of a split.
    """
    root, annotations, visited = Path(root), [], set()
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if name != "images" and name[0] != "."]
        if os.path.realpath(folder) in visited:  # by way of a link
            subfolders.clear()
            continue
        visited.add(os.path.realpath(folder))
        annotations += [Annotation(Path(folder) / name) for name in names if f"_{name}".endswith("_data.json")]
    if not annotations:
        raise InterHandError(
            f"{root}: no annotation here or below; expected *data.json with *camera.json and *joint_3d.json beside it"
        )
    annotations = _of_set(annotations, root, annotation_set)
    annotations.sort(key=lambda annotation: (annotation.split, annotation.data))
    for one, other in pairwise(annotations):
        if one.split == other.split:
            raise InterHandError(f"{one.data} and {other.data}: two annotations of {one.split}; keep one of them there")
    return annotations


def _of_set(annotations: list[Annotation], root: Path, annotation_set: str | None) -> list[Annotation]:
    """Return the annotations that are of a set, and those that are of none."""
    if annotation_set is not None:
        require_known("annotations", annotation_set, ANNOTATION_SETS, InterHandError)

    def set_of(annotation: Annotation) -> str | None:
        folders = annotation.data.parent.relative_to(root).parts
        return next((name for name in ANNOTATION_SETS if name in folders), None)

    sets = sorted({set_of(annotation) for annotation in annotations} - {None})
    chosen = annotation_set or (sets[0] if len(sets) == 1 else ANNOTATION_SETS[0])
    if (sets and chosen not in sets) or (annotation_set and not sets):
        raise InterHandError(
            f"{root}: no annotations of the set {chosen}, only {', '.join(sets) or 'some that are of no set'}; choose "
            f"another (--annotations), or fetch {chosen}"
        )
    return [annotation for annotation in annotations if set_of(annotation) in (chosen, None)]


def _refuse_folder(error: OSError) -> None:
    """Raise InterHandError for a folder that cannot be listed, unless it does not exist."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise InterHandError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from None


def index_annotation(annotation: Annotation, folder: str | Path) -> Path:
    """Return the SQLite index of an annotation, written into `folder` unless that of these very files is there already.

    Entries that lack something are left out and counted in the index (`notes`, `faults`). Raises InterHandError
    when a file is missing, no JSON, or of another layout, and when the index cannot be written.
    """
    path = Path(folder) / f"{annotation.split}-{annotation.key()}.sqlite"
    if path.exists():
        return path
    with atomic_write(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(temporary, isolation_level=None)) as base:
                base.executescript("pragma journal_mode = off; pragma synchronous = off;" + TABLES)
                base.execute("begin")
                _IndexBuilder(base, annotation).run()
                base.execute("commit")
        except sqlite3.Error as error:
            raise InterHandError(f"{path}: could not be written ({first_line(error)}); free some space") from None
    for older in path.parent.glob(f"{annotation.split}-*.sqlite"):
        if older != path:
            older.unlink(missing_ok=True)
    return path


class _IndexBuilder:
    """Writes one annotation into an open database."""

    def __init__(self, base: sqlite3.Connection, annotation: Annotation):
        self.base, self.annotation = base, annotation
        self.faults, self.digest = SkippedSamples(), hashlib.sha256()
        self.counts: dict[str, int] = {}

    def run(self) -> None:
        """Fill all tables."""
        with self._open("data", again=True) as source:
            self._insert("images", list_entries(source, "images"), image_row)
        with self._open("data") as source:
            self._insert("annotations", list_entries(source, "annotations"), annotation_row)
        self._check_frames()
        with self._open("camera") as source:
            self._insert("cameras", camera_entries(source), camera_row)
        with self._open("joint_3d") as source:
            self._insert("joints", two_level_entries(source), joints_row)
        if self.annotation.file(MANO).exists():
            with self._open(MANO) as source:
                self._insert("mano", mano_entries(source), mano_row)
        self._check_tables()
        notes = {"faults": json.dumps(self.faults.reasons), "digest": self.digest.hexdigest()}
        self.base.executemany("insert into notes values (?, ?)", notes.items())

    def _insert(self, table: str, entries: Iterable[tuple], row: Callable[..., tuple]) -> None:
        """Add a table's rows, one for each entry of which `row` can make one; the others are counted as faults."""

        def rows() -> Iterator[tuple]:
            for entry in entries:
                try:
                    values = row(*entry)
                except KeyError as error:
                    self.faults.add(f"{table} without {error.args[0]}", entry_name(entry))
                except (TypeError, ValueError, OverflowError):
                    self.faults.add(f"{table} with an unexpected value", entry_name(entry))
                else:
                    self.counts[table] = self.counts.get(table, 0) + 1
                    yield values

        marks = ", ".join("?" * len(self.base.execute(f"pragma table_info({table})").fetchall()))
        self.base.executemany(f"insert or replace into {table} values ({marks})", rows())

    def _check_tables(self) -> None:
        """Raise InterHandError if there are no cameras or no joints; count entries given twice."""
        for table, kind in (("cameras", "camera"), ("joints", "joint_3d")):
            if not self.counts.get(table):
                path = self.annotation.file(kind)
                raise InterHandError(f"{path}: not InterHand2.6M's layout (no {table} in it); fetch it again")
        for table, count in self.counts.items():
            twice = count - self.base.execute(f"select count(*) from {table}").fetchone()[0]
            if twice and table != "annotations":
                self.faults.add(f"{table} given twice", f"{twice} of {count}", twice)

    def _check_frames(self) -> None:
        """Delete annotations that have no image. Raises InterHandError if none is left."""
        orphans = "from annotations where image not in (select id from images)"
        for (image,) in self.base.execute(f"select image {orphans} order by number").fetchall():
            self.faults.add("annotations without their image", f"image {image}")
        self.base.execute(f"delete {orphans}")
        if self.base.execute("select exists (select 1 from annotations)").fetchone()[0]:
            return
        if self.faults.reasons:
            raise layout_error(self.annotation, self.faults.reasons)
        raise InterHandError(f"{self.annotation.data}: annotates no frame; check the download")

    def _open(self, kind: str, again: bool = False) -> "_JsonFile":
        """Return a file to be read; its bytes go into the digest unless it is read `again` later."""
        return _JsonFile(self.annotation.file(kind), hashlib.sha256() if again else self.digest)


def layout_error(annotation: Annotation, faults: dict[str, dict]) -> InterHandError:
    """Return an error that names the first of the faults of an annotation."""
    reason, entry = next(iter(faults.items()))
    return InterHandError(
        f"{annotation.data}: not InterHand2.6M's layout ({reason}: {entry['names'][0]}); "
        "expected its data, camera and joint_3d files as downloaded"
    )


class _JsonFile:
    """A JSON file to be read once, with a progress bar; updates a digest with its bytes, and names itself in errors."""

    def __init__(self, path: Path, digest):
        self.path, self.digest = path, digest

    def __enter__(self) -> "_JsonFile":
        try:
            self.file = open(self.path, "rb")
        except OSError as error:
            raise InterHandError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        size = os.fstat(self.file.fileno()).st_size
        self.progress = tqdm(total=size, desc=self.path.name, unit="B", unit_scale=True, leave=False, delay=1)
        return self

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        block = self.file.read(size)
        self.digest.update(block)
        self.progress.update(len(block))
        return block

    def __exit__(self, kind, error, trace) -> None:
        self.file.close()
        self.progress.close()
        if isinstance(error, ijson.JSONError | UnicodeDecodeError | OSError):
            raise InterHandError(f"{self.path}: not readable JSON ({first_line(error)}); fetch it again") from None


def list_entries(source: BinaryIO, name: str) -> Iterator[tuple[int, dict]]:
    """Yield (number, entry) of the list of this name in {name: [entry, …]}."""
    yield from enumerate(ijson.items(source, f"{name}.item", use_float=True, buf_size=BLOCK))


def two_level_entries(source: BinaryIO) -> Iterator[tuple[str, str, object]]:
    """Yield (capture, moment, value) of {capture: {moment: value}}, one value in memory at a time."""
    depth, capture, moment, builder = 0, "", "", None
    for event, value in ijson.basic_parse(source, use_float=True, buf_size=BLOCK):
        depth += NESTING.get(event, 0)
        if builder is not None:
            builder.event(event, value)
            if depth == 2:
                yield capture, moment, builder.value
                builder = None
        elif event == "map_key" and depth == 1:
            capture = value
        elif event == "map_key" and depth == 2:
            moment, builder = value, ijson.ObjectBuilder()


def camera_entries(source: BinaryIO) -> Iterator[tuple[str, str, dict]]:
    """Yield (capture, camera, its values by name) of {capture: {name: {camera: values}}}."""
    for capture, names in ijson.kvitems(source, "", use_float=True):
        if isinstance(names, dict) and all(isinstance(values, dict) for values in names.values()):
            cameras = dict.fromkeys(camera for values in names.values() for camera in values)
            for camera in cameras:
                yield capture, camera, {name: values[camera] for name, values in names.items() if camera in values}


def mano_entries(source: BinaryIO) -> Iterator[tuple[str, str, str, dict]]:
    """Yield (capture, moment, hand, parameters) for every hand that has any."""
    for capture, moment, hands in two_level_entries(source):
        for hand in HANDS:
            if isinstance(hands, dict) and hands.get(hand) is not None:
                yield capture, moment, hand, hands[hand]


def image_row(number: int, image: dict) -> tuple:
    """Return a row of `images`. Like all rows, raises KeyError, TypeError or ValueError for an entry without one."""
    names = ("file_name", "capture", "subject", "seq_name", "camera")
    file_name, capture, subject, seq, camera = (str(image[name]) for name in names)
    number, width, height, moment = (_integer(image[name]) for name in ("id", "width", "height", "frame_idx"))
    return number, file_name, width, height, capture, subject, seq, camera, moment


def annotation_row(number: int, entry: dict) -> tuple:
    """Return a row of `annotations`: the box in px, validity as 42 bytes, left hand first."""
    x, y, w, h = map(float, entry["bbox"])
    hand_type = str(entry["hand_type"])
    if hand_type not in HAND_TYPES:
        raise ValueError(hand_type)
    valid = (left_first(entry["joint_valid"], 1) > 0).tobytes()
    hand_type_valid = _integer(entry.get("hand_type_valid", 1))
    return number, _integer(entry["image_id"]), x, y, w, h, hand_type, hand_type_valid, valid


def camera_row(capture: str, camera: str, values: dict) -> tuple:
    """Return a row of `cameras`: position (3, mm), rotation (9), focal (2, px) and centre (2, px) as float64."""
    numbers = [np.array(values[name], float).reshape(size) for name, size in CAMERA_SIZES.items()]
    rotation, focal = numbers[1].reshape(3, 3), numbers[2]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0 or focal.min() <= 0:
        raise ValueError("no camera: its camrot is no rotation, or its focal length not above 0")
    return capture, camera, np.concatenate(numbers).tobytes()


def joints_row(capture: str, moment: str, pose: dict) -> tuple:
    """Return a row of `joints`: float64 [2, 21, 3] mm and validity as 42 bytes, left hand first."""
    valid = (left_first(pose["joint_valid"], 1) > 0).tobytes()
    return capture, _integer(moment), left_first(pose["world_coord"], 3).tobytes(), valid


def mano_row(capture: str, moment: str, hand: str, values: dict) -> tuple:
    """Return a row of `mano`: pose, shape and trans (MANO_SIZES) as float64."""
    numbers = [np.array(values[name], float).reshape(size) for name, size in MANO_SIZES.items()]
    return capture, _integer(moment), hand, np.concatenate(numbers).tobytes()


def left_first(values: list, width: int) -> np.ndarray:
    """Return values of the 42 joints, annotated right hand first, as float [2, 21, width], left hand first."""
    return np.array(values, float).reshape(len(HANDS), N_JOINTS, width)[::-1]


def entry_name(entry: tuple) -> str:
    """Return the name of an entry of an annotation file, for reports."""
    *keys, value = entry
    if len(keys) > 1:
        return " ".join(map(str, keys))
    for key in ("file_name", "image_id", "id"):
        if isinstance(value, dict) and key in value:
            return f"{key} {value[key]}"
    return f"entry {keys[0]}"


def _integer(value: object) -> int:
    """Return an integer that SQLite can hold. Raises OverflowError for a greater one."""
    return int(np.int64(value))
