"""Labels of one's own photos as files: one JSON a photo in `labels/` of their folder, which is the truth."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.files import first_line, write_json
from ethand_utils.labels import HANDS, N_JOINTS
from ethand_utils.outputs import digest

LABELS = "labels"  # folder of the JSON files; also the name of the source
FORMAT = 1
FRONTS = ("fit", *HANDS)  # which hand is in front: as the fitted depths say, or as the labeller says
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}  # share of the photos with hands
DIGITS = 10  # of a photo's SHA-256 in its id


class LabelError(EthandError):
    """A label, or a folder of labels, that cannot be used."""


@dataclass(frozen=True, eq=False)
class HandLabel:
    """The label of one hand of a photo.

    `joints` float [21, 2] px of the photo, in the order of `labels.JOINT_PARTS`, NaN where not placed; `guessed` bool
    [21], those that the labeller does not see; `answer`, 0 or 1, which of the two fits. Raises LabelError otherwise.
    """

    joints: np.ndarray
    guessed: np.ndarray = field(default_factory=lambda: np.zeros(N_JOINTS, bool))
    answer: int = 0

    def __post_init__(self):
        joints, guessed = np.array(self.joints, float), np.array(self.guessed)
        if joints.shape != (N_JOINTS, 2) or np.isinf(joints).any():
            raise LabelError(f"joints {list(joints.shape)}: expected {[N_JOINTS, 2]} px, NaN where not placed")
        if (np.isnan(joints[:, 0]) != np.isnan(joints[:, 1])).any():
            raise LabelError("joints: one has a single coordinate; expected x and y, or NaN for both")
        if guessed.shape != (N_JOINTS,) or guessed.dtype != bool:
            raise LabelError(f"guessed {guessed.dtype} {list(guessed.shape)}: expected bool [{N_JOINTS}]")
        if isinstance(self.answer, bool) or self.answer not in (0, 1):
            raise LabelError(f"answer {self.answer!r}: expected 0 or 1")
        object.__setattr__(self, "joints", joints)
        object.__setattr__(self, "guessed", guessed)
        object.__setattr__(self, "answer", int(self.answer))

    @property
    def placed(self) -> np.ndarray:
        """Which joints are placed, bool [21]."""
        return np.isfinite(self.joints[:, 0])

    def to_json(self) -> dict:
        """Return the label as JSON holds it, null for a joint that is not placed."""
        joints = [None if math.isnan(x) else [x, y] for x, y in self.joints.tolist()]
        return {"joints": joints, "guessed": self.guessed.tolist(), "answer": self.answer}

    @classmethod
    def from_json(cls, value: dict) -> "HandLabel":
        """Return the label that `to_json` gave. Raises LabelError, KeyError, TypeError or ValueError for another."""
        joints = [(math.nan, math.nan) if joint is None else joint for joint in value["joints"]]
        return cls(joints, value["guessed"], value["answer"])


@dataclass(frozen=True, eq=False)
class PhotoLabel:
    """The label of a photo: its file's name, the left and the right hand (None: absent), and how it came to be.

    `front` is one of FRONTS; `seconds` is the time that the labeller took, `labelled_at` an ISO time, filled in when
    it is saved. A photo without hands is a label, too. Raises LabelError for other values.
    """

    photo: str
    hands: tuple[HandLabel | None, HandLabel | None]
    front: str = "fit"
    labeller: str = ""
    seconds: float = 0.0
    labelled_at: str = ""

    def __post_init__(self):
        object.__setattr__(self, "hands", tuple(self.hands))
        if len(self.hands) != len(HANDS) or not all(isinstance(hand, HandLabel | None) for hand in self.hands):
            raise LabelError(f"{self.photo}: expected a left and a right hand, each a HandLabel or None")
        require_known("front", self.front, FRONTS, LabelError)
        if not all(isinstance(text, str) for text in (self.photo, self.labeller, self.labelled_at)):
            raise LabelError(f"{self.photo}: expected text as photo, labeller and labelled_at")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not 0 <= self.seconds < 1e9:
            raise LabelError(f"{self.photo}: seconds {self.seconds!r}, expected a number of at least 0")

    @property
    def sides(self) -> list[int]:
        """The hands that are there: LEFT, RIGHT or both."""
        return [side for side, hand in enumerate(self.hands) if hand is not None]


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """A label file: the `label`, and the photo that it is of.

    `id` is the file's name without suffix. `path` is the photo's, as seen from the folder of labels, `sha256` that of
    its bytes, `width` and `height` are px; `split` is the store that the photo goes to. `digest` is the file's own.
    """

    id: str
    label: PhotoLabel
    path: str
    sha256: str
    width: int
    height: int
    split: str
    digest: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """The photo's (width, height), px."""
        return self.width, self.height

    def to_json(self) -> dict:
        """Return the contents of the file."""
        label = self.label
        hands = {name: hand and hand.to_json() for name, hand in zip(HANDS, label.hands, strict=True)}
        return {
            "format": FORMAT,
            "photo": label.photo,
            "path": self.path,
            "sha256": self.sha256,
            "width": self.width,
            "height": self.height,
            **hands,
            "front": label.front,
            "labeller": label.labeller,
            "seconds": label.seconds,
            "labelled_at": label.labelled_at,
            "split": self.split,
        }

    def write(self, folder: Path) -> "LabelRecord":
        """Write the file, atomically, and return the record with its digest. Raises FileError as `write_json` does."""
        file = record_file(folder, self.id)
        write_json(file, self.to_json())
        return read_record(file)

    def photo_file(self, folder: Path) -> Path | None:
        """Return the photo's path, or None where it is gone or its bytes are others."""
        file = folder / self.path
        return file if file.is_file() and digest(file) == self.sha256 else None


def photo_id(photo: Path, sha256: str) -> str:
    """Return the id of a photo: the name of its file, and the first digits of its bytes' SHA-256."""
    name = re.sub(r"[^\w-]+", "_", photo.stem, flags=re.ASCII)[:60]
    return f"{name}-{sha256[:DIGITS]}"


def record_file(folder: Path, name: str) -> Path:
    """Return the path of the label file with an id."""
    return folder / LABELS / f"{name}.json"


def read_record(file: Path) -> LabelRecord:
    """Read a label file. Raises LabelError, naming it, where it is damaged or of another format."""
    try:
        content = file.read_bytes()
        value = json.loads(content)
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']}, expected {FORMAT}")
        return _record(file.stem, value, hashlib.sha256(content).hexdigest())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LabelError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise LabelError(
            f"{file}: not a readable label ({reason}); mend it, copy it again, or remove it and label the photo anew"
        ) from None


def _record(name: str, value: dict, file_digest: str) -> LabelRecord:
    hands = tuple(None if value[hand] is None else HandLabel.from_json(value[hand]) for hand in HANDS)
    label = PhotoLabel(value["photo"], hands, value["front"], value["labeller"], value["seconds"], value["labelled_at"])
    width, height, path, sha256 = (value[key] for key in ("width", "height", "path", "sha256"))
    if not all(type(length) is int and length > 0 for length in (width, height)):
        raise ValueError(f"width {width!r}, height {height!r}: expected px")
    if not isinstance(path, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("path or sha256: not a photo's")
    require_known("split", value["split"], SPLITS, ValueError)
    return LabelRecord(name, label, path, sha256, width, height, value["split"], file_digest)


def read_records(folder: Path) -> tuple[dict[str, LabelRecord], dict[str, str]]:
    """Read all label files of a folder: the records by id, and by file name what is wrong with those damaged."""
    records, faults = {}, {}
    for file in sorted((folder / LABELS).glob("*.json")):
        if file.name.startswith("."):
            continue
        try:
            records[file.stem] = read_record(file)
        except LabelError as error:
            faults[file.name] = str(error)
    return records, faults


def next_split(records: dict[str, LabelRecord]) -> str:
    """Return the split that is furthest below its share of the photos with hands: five photos fill all of SPLITS.

    A photo stays in its split, whatever is labelled or removed later, as its file says it.
    """
    splits = [record.split for record in records.values() if record.label.sides]
    return max(SPLITS, key=lambda name: SPLITS[name] * (len(splits) + 1) - splits.count(name))
