"""InterHand2.6M's annotation streamed once into an SQLite index, so that memory does not grow with it.

Layout and names are in REFERENCE.md section 4. Frames are read from the index by `frames.py`.
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
from ethand_utils.files import FileError, atomic_write, first_line
from ethand_utils.labels import HAND_TYPES, HANDS, N_JOINTS

BLOCK = 1 << 16  # bytes read at once
CAMERA_SIZES = {"campos": 3, "camrot": 9, "focal": 2, "princpt": 2}
MANO_SIZES = {"pose": 48, "shape": 10, "trans": 3}
UNTRUE = 0.01  # by which a rotation's rows may miss unit length and right angles
DEPTH = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}

KINDS = ("data", "camera", "joint_3d")  # files that belong together: <name>_data.json, <name>_camera.json, …
MANO = "MANO_NeuralAnnot"  # beside them where hands are known as MANO's parameters
FORMAT = 1  # of the index

TABLES = """
create table images (id integer primary key, file_name, width, height, capture, subject, seq, camera, moment);
create table annotations (number integer primary key, image, x, y, w, h, hand_type, hand_type_valid, valid);
create table cameras (capture, camera, numbers, primary key (capture, camera)) without rowid;
create table joints (capture, moment, world, valid, primary key (capture, moment)) without rowid;
create table mano (capture, moment, hand, numbers, primary key (capture, moment, hand)) without rowid;
create table notes (name primary key, value);
"""


def list_entries(source: BinaryIO, name: str) -> Iterator[tuple[int, dict]]:
    """(number, entry) of the list of this name in {name: [entry, …]}."""
    yield from enumerate(ijson.items(source, f"{name}.item", use_float=True, buf_size=BLOCK))


def two_level_entries(source: BinaryIO) -> Iterator[tuple[str, str, object]]:
    """(capture, moment, value) of {capture: {moment: value}}, one value in memory at a time."""
    depth, capture, moment, builder = 0, "", "", None
    for event, value in ijson.basic_parse(source, use_float=True, buf_size=BLOCK):
        depth += DEPTH.get(event, 0)
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
    """(capture, camera, its values by name) of {capture: {name: {camera: values}}}."""
    for capture, names in ijson.kvitems(source, "", use_float=True):
        if isinstance(names, dict) and all(isinstance(values, dict) for values in names.values()):
            cameras = dict.fromkeys(camera for values in names.values() for camera in values)
            for camera in cameras:
                yield capture, camera, {name: values[camera] for name, values in names.items() if camera in values}


def mano_entries(source: BinaryIO) -> Iterator[tuple[str, str, str, dict]]:
    """(capture, moment, hand, parameters) for every hand that has any."""
    for capture, moment, hands in two_level_entries(source):
        for hand in HANDS:
            if isinstance(hands, dict) and hands.get(hand) is not None:
                yield capture, moment, hand, hands[hand]


def image_row(number: int, image: dict) -> tuple:
    """A row of `images`; this and the other rows raise KeyError, TypeError or ValueError where an entry has none."""
    names = ("file_name", "capture", "subject", "seq_name", "camera")
    file_name, capture, subject, seq, camera = (str(image[name]) for name in names)
    number, width, height, moment = (_integer(image[name]) for name in ("id", "width", "height", "frame_idx"))
    return number, file_name, width, height, capture, subject, seq, camera, moment


def annotation_row(number: int, entry: dict) -> tuple:
    """A row of `annotations`, the box in px, validity as 42 bytes, left hand first."""
    x, y, w, h = map(float, entry["bbox"])
    hand_type = str(entry["hand_type"])
    if hand_type not in HAND_TYPES:
        raise ValueError(hand_type)
    valid = (left_first(entry["joint_valid"], 1) > 0).tobytes()
    known = _integer(entry.get("hand_type_valid", 1))
    return number, _integer(entry["image_id"]), x, y, w, h, hand_type, known, valid


def camera_row(capture: str, camera: str, values: dict) -> tuple:
    """A row of `cameras`: position (3, mm), turn (9), focal (2, px) and centre (2, px) as float64."""
    numbers = [np.array(values[name], float).reshape(size) for name, size in CAMERA_SIZES.items()]
    turn, focal = numbers[1].reshape(3, 3), numbers[2]
    if np.abs(turn @ turn.T - np.eye(3)).max() > UNTRUE or np.linalg.det(turn) < 0 or focal.min() <= 0:
        raise ValueError("no camera: its camrot is no rotation, or its focal length not above 0")
    return capture, camera, np.concatenate(numbers).tobytes()


def joints_row(capture: str, moment: str, pose: dict) -> tuple:
    """A row of `joints`: float64 [2, 21, 3] mm and validity as 42 bytes, left hand first."""
    valid = (left_first(pose["joint_valid"], 1) > 0).tobytes()
    return capture, _integer(moment), left_first(pose["world_coord"], 3).tobytes(), valid


def mano_row(capture: str, moment: str, hand: str, values: dict) -> tuple:
    """A row of `mano`: pose, shape and trans (MANO_SIZES) as float64."""
    numbers = [np.array(values[name], float).reshape(size) for name, size in MANO_SIZES.items()]
    return capture, _integer(moment), hand, np.concatenate(numbers).tobytes()


def left_first(values: list, width: int) -> np.ndarray:
    """Values of the 42 joints, annotated right hand first → float [2, 21, width], left hand first."""
    return np.array(values, float).reshape(len(HANDS), N_JOINTS, width)[::-1]


def entry_name(entry: tuple) -> str:
    """What to call an entry of an annotation file."""
    *place, value = entry
    if len(place) > 1:
        return " ".join(map(str, place))
    known = [
        f"{key} {value[key]}" for key in ("file_name", "image_id", "id") if isinstance(value, dict) and key in value
    ]
    return known[0] if known else f"entry {place[0]}"


def _integer(value: object) -> int:
    """An integer that SQLite can hold. Raises OverflowError for a greater one."""
    return int(np.int64(value))


class InterHandError(FileError):
    """An annotation or image of InterHand2.6M that is missing or does not fit."""


@dataclass(frozen=True)
class Annotation:
    """The annotation files of one split, known by its `*data.json`."""

    data: Path

    @property
    def start(self) -> str:
        """What the names of its files begin with: `InterHand2.6M_train_`."""
        return self.data.name.removesuffix("data.json")

    @property
    def split(self) -> str:
        """`InterHand2.6M_train_data.json` → `train`."""
        return self.start.rstrip("_").split("_")[-1] or self.data.parent.name

    def file(self, kind: str) -> Path:
        """One of its files, of KINDS or MANO."""
        return self.data.with_name(f"{self.start}{kind}.json")

    def key(self) -> str:
        """Digest of its files' names, sizes and times of change. Raises InterHandError when one of KINDS is missing."""
        known = []
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
            known.append([path.name, stat.st_size, stat.st_mtime_ns])
        return hashlib.sha256(json.dumps([FORMAT, known]).encode()).hexdigest()[:12]


def find_annotations(root: str | Path) -> list[Annotation]:
    """Every annotation at `root` or below, but not in `images/`, which may hold millions of files.

    Folders may be symbolic links. Raises InterHandError when there is none, a folder cannot be read, or there is more
    than one of a split.
    """
    root, found, seen = Path(root), [], set()
    for folder, below, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        below[:] = [name for name in below if name != "images" and name[0] != "."]
        if os.path.realpath(folder) in seen:  # a link to where this walk has been
            below.clear()
            continue
        seen.add(os.path.realpath(folder))
        found += [Annotation(Path(folder) / name) for name in names if f"_{name}".endswith("_data.json")]
    if not found:
        raise InterHandError(
            f"{root}: no annotation here or below; expected *data.json with *camera.json and *joint_3d.json beside it"
        )
    found.sort(key=lambda annotation: (annotation.split, annotation.data))
    for one, other in pairwise(found):
        if one.split == other.split:
            raise InterHandError(f"{one.data} and {other.data}: two annotations of {one.split}; keep one of them there")
    return found


def _refuse_folder(error: OSError) -> None:
    """What `find_annotations` does of a folder that cannot be listed; one that is not there has no annotation."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise InterHandError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from None


def index_annotation(annotation: Annotation, folder: str | Path) -> Path:
    """The SQLite index of an annotation, written into `folder` unless one of these very files is there already.

    Entries that lack something are passed over and counted in the index (`notes`, `faults`). Raises InterHandError
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
    """One annotation on its way into an open database."""

    def __init__(self, base: sqlite3.Connection, annotation: Annotation):
        self.base, self.annotation = base, annotation
        self.faults, self.digest = SkippedSamples(), hashlib.sha256()
        self.made: dict[str, int] = {}

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
        notes = {"faults": json.dumps(self.faults.found), "digest": self.digest.hexdigest()}
        self.base.executemany("insert into notes values (?, ?)", notes.items())

    def _insert(self, table: str, entries: Iterable[tuple], row: Callable[..., tuple]) -> None:
        """Add a table's rows, made by `row` of every entry, but for those that it cannot be made of."""

        def rows() -> Iterator[tuple]:
            for entry in entries:
                try:
                    made = row(*entry)
                except KeyError as error:
                    self.faults.add(f"{table} without {error.args[0]}", entry_name(entry))
                except (TypeError, ValueError, OverflowError):
                    self.faults.add(f"{table} with an unexpected value", entry_name(entry))
                else:
                    self.made[table] = self.made.get(table, 0) + 1
                    yield made

        marks = ", ".join("?" * len(self.base.execute(f"pragma table_info({table})").fetchall()))
        self.base.executemany(f"insert or replace into {table} values ({marks})", rows())

    def _check_tables(self) -> None:
        """Cameras and joints must be there at all; an entry that another of the same name replaced is counted."""
        for table, kind in (("cameras", "camera"), ("joints", "joint_3d")):
            if not self.made.get(table):
                path = self.annotation.file(kind)
                raise InterHandError(f"{path}: not InterHand2.6M's layout (no {table} in it); fetch it again")
        for table, made in self.made.items():
            twice = made - self.base.execute(f"select count(*) from {table}").fetchone()[0]
            if twice and table != "annotations":
                self.faults.add(f"{table} given twice", f"{twice} of {made}", twice)

    def _check_frames(self) -> None:
        """Take out annotations that have no image; some must be left."""
        lost = "from annotations where image not in (select id from images)"
        for (image,) in self.base.execute(f"select image {lost} order by number").fetchall():
            self.faults.add("annotations without their image", f"image {image}")
        self.base.execute(f"delete {lost}")
        if self.base.execute("select exists (select 1 from annotations)").fetchone()[0]:
            return
        if self.faults.found:
            raise layout_error(self.annotation, self.faults.found)
        raise InterHandError(f"{self.annotation.data}: annotates no frame; check the download")

    def _open(self, kind: str, again: bool = False) -> "_Source":
        """A file to be read; its bytes go into the digest unless it is read `again` later."""
        return _Source(self.annotation.file(kind), hashlib.sha256() if again else self.digest)


def layout_error(annotation: Annotation, faults: dict[str, dict]) -> InterHandError:
    """An error on the first of the faults of an annotation."""
    reason, entry = next(iter(faults.items()))
    return InterHandError(
        f"{annotation.data}: not InterHand2.6M's layout ({reason}: {entry['names'][0]}); "
        "expected its data, camera and joint_3d files as downloaded"
    )


class _Source:
    """A JSON file that is read once, with a progress bar, its bytes going into a digest; names itself in errors."""

    def __init__(self, path: Path, digest):
        self.path, self.digest = path, digest

    def __enter__(self) -> "_Source":
        try:
            self.file = open(self.path, "rb")
        except OSError as error:
            raise InterHandError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        size = os.fstat(self.file.fileno()).st_size
        self.progress = tqdm(total=size, desc=self.path.name, unit="B", unit_scale=True, leave=False, delay=1)
        return self

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        block = self.file.read(size)
        self.digest.update(block)
        self.progress.update(len(block))
        return block

    def __exit__(self, kind, error, trace) -> None:
        self.file.close()
        self.progress.close()
        if isinstance(error, ijson.JSONError | UnicodeDecodeError | OSError):
            raise InterHandError(f"{self.path}: not readable JSON ({first_line(error)}); fetch it again") from None
