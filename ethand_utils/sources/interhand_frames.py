"""Frames of InterHand2.6M with their annotated joints and cameras, read from the index of the annotation."""

import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ethand_utils.data.crops import crop_image
from ethand_utils.data.datasets import SkippedSamples
from ethand_utils.data.images import ImageError, read_image
from ethand_utils.hands.raycast import Camera
from ethand_utils.labels import HANDS, N_JOINTS
from ethand_utils.sources.interhand_faults import annotation_fault, image_fault
from ethand_utils.sources.interhand_index import (
    MANO_SIZES,
    Annotation,
    InterHandError,
    find_annotations,
    index_annotation,
    layout_error,
)

FRAME_QUERY = """
select a.number, a.x, a.y, a.w, a.h, a.hand_type, a.hand_type_valid, a.valid as in_view, i.*,
       c.numbers as view, j.world, j.valid as in_space
from annotations a join images i on i.id = a.image
left join cameras c on c.capture = i.capture and c.camera = i.camera
left join joints j on j.capture = i.capture and j.moment = i.moment
"""


@dataclass(frozen=True)
class Frame:
    """An annotated image; `name`, `bbox` (x, y, w, h) px and `hand_type` right, left or interacting are as annotated.

    `joints` float [2, 21, 2] are positions (x, y) in px, left hand first, joints in the order of `labels.JOINT_PARTS`;
    `valid` bool [2, 21] says which are known, the others are 0. `world` float [2, 21, 3] are the same in space, m, with
    those behind the camera, which are not valid. A point X there is at `rotation` [3, 3] · (X − `translation` [3]) in
    the frame of the `camera`, whose images are of `size` (width, height) px. `moment` is the number in time, which all
    cameras of a `capture` share. `mano` holds MANO's parameters of each hand, left first: None, or a dict of `pose`
    [48], `shape` [10] and `trans` [3].
    """

    name: str
    image: Path
    bbox: tuple[float, float, float, float]
    hand_type: str
    joints: np.ndarray
    valid: np.ndarray
    world: np.ndarray
    camera: Camera
    rotation: np.ndarray
    translation: np.ndarray
    size: tuple[int, int]
    capture: str
    subject: str
    seq: str
    camera_name: str
    moment: int
    mano: tuple[dict | None, dict | None]


class FrameError(InterHandError):
    """A frame that lacks something; `reason` names it in a few words, by which faults are counted."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))  # a worker process sends it to its parent


@dataclass(frozen=True)
class Frames:
    """The frames of one annotation, by its SQLite `index` and the images below `root`. Small, and can be pickled."""

    annotation: Annotation
    index: Path
    root: Path

    def numbers(self) -> list[int]:
        """Return the numbers of all frames, in the order of the annotation."""
        return [number for (number,) in self.query("select number from annotations order by number")]

    def count(self) -> int:
        """Return the number of frames."""
        return next(self.query("select count(*) from annotations"))[0]

    def faults(self) -> dict[str, dict]:
        """Return the entries of the annotation that were left out: by reason, `count` and some `names`."""
        return json.loads(self._note("faults"))

    def digest(self) -> str:
        """Return the SHA-256 of the annotation's files."""
        return self._note("digest")

    def query(self, sql: str, values: tuple = ()) -> Iterator[sqlite3.Row]:
        """Yield the rows of a query to the index."""
        return _connect(self.index).execute(sql, values)

    def name(self, number: int) -> str:
        """Return a frame's name as annotated."""
        sql = "select file_name from images where id = (select image from annotations where number = ?)"
        return next(self.query(sql, (number,)))[0]

    def hand_type_valid(self, number: int) -> bool:
        """Return whether the annotation marks the hand type of a frame as valid."""
        return bool(next(self.query("select hand_type_valid from annotations where number = ?", (number,)))[0])

    def checked(self, number: int) -> tuple[str, Frame | None]:
        """Return why a frame must not be used, "" if it may, and the frame; None where its hand type is not valid.

        Raises FrameError as `frame` does.
        """
        if not self.hand_type_valid(number):
            return "hand_type: marked as not valid", None
        frame = self.frame(number)
        return annotation_fault(frame) or image_fault(frame), frame

    def frame(self, number: int) -> Frame:
        """Return a frame by its number. Raises FrameError when its camera, its joints or its image are missing."""
        row = next(self.query(f"{FRAME_QUERY} where a.number = ?", (number,)))
        remedy = f"of capture {row['capture']} is not in it; take all three annotation files from one split"
        if row["view"] is None:
            text = f"{self.annotation.file('camera')}: camera {row['camera']} {remedy}"
            raise FrameError("camera: not annotated", text)
        if row["world"] is None:
            text = f"{self.annotation.file('joint_3d')}: frame {row['moment']} {remedy}"
            raise FrameError("joints: not annotated", text)
        numbers = np.frombuffer(row["view"])
        translation, rotation = numbers[:3], numbers[3:12].reshape(3, 3)
        camera = Camera(*numbers[12:].reshape(2, 2).tolist())
        known = _joints_known(row["in_view"]) & _joints_known(row["in_space"])
        world = np.frombuffer(row["world"]).reshape(len(HANDS), N_JOINTS, 3)
        joints, valid = _project(world, known, translation, rotation, camera)
        return Frame(
            name=row["file_name"],
            image=self._find_image(row),
            bbox=(row["x"], row["y"], row["w"], row["h"]),
            hand_type=row["hand_type"],
            joints=joints,
            valid=valid,
            world=np.where(known[..., None], world, 0) / 1000,
            camera=camera,
            rotation=rotation,
            translation=translation / 1000,
            size=(row["width"], row["height"]),
            capture=row["capture"],
            subject=row["subject"],
            seq=row["seq"],
            camera_name=row["camera"],
            moment=row["moment"],
            mano=self._mano(row["capture"], row["moment"]),
        )

    def _note(self, name: str) -> str:
        return next(self.query("select value from notes where name = ?", (name,)))[0]

    def _mano(self, capture: str, moment: int) -> tuple[dict | None, dict | None]:
        parameters = dict.fromkeys(HANDS)
        ends = np.cumsum(list(MANO_SIZES.values()))[:-1]
        sql = "select hand, numbers from mano where capture = ? and moment = ?"
        for hand, numbers in self.query(sql, (capture, moment)):
            parameters[hand] = dict(zip(MANO_SIZES, np.split(np.frombuffer(numbers), ends), strict=True))
        return tuple(parameters.values())

    def _find_image(self, row: sqlite3.Row) -> Path:
        images, name = self.root / "images" / self.annotation.split, Path(row["file_name"]).name
        official = images / f"Capture{row['capture']}/{row['seq']}/cam{row['camera']}" / name
        for path in (images / row["file_name"].lstrip("/"), official, self.root / name):
            if os.path.exists(path):  # unlike Path.exists, False also where a name is too long or a folder is closed
                return path
        text = f"{self.root}: image {official.relative_to(self.root)} is missing, and {name} here too; fetch it"
        raise FrameError("image: missing", text)


def read_frames(root: str | Path) -> list[Frame]:
    """Return every annotated frame of InterHand2.6M at `root`, in the order of the annotation.

    The annotation files may lie anywhere below `root` but in `images/`; the images at their place in the official
    tree (`images/<split>/Capture<N>/<seq>/cam<C>/`) or side by side in `root`. Frames whose images `read_interhand`
    skips (`image_fault`) are left out, and counted on stderr. Raises InterHandError when a file is missing or not of
    this layout, or no image is sound, FrameError, which is one, when a frame lacks something.
    """
    annotated, skipped = [], SkippedSamples()
    with tempfile.TemporaryDirectory() as folder:
        for annotation in find_annotations(root):
            frames = Frames(annotation, index_annotation(annotation, folder), Path(root))
            images = ("images", "annotations")
            faults = {why: entry for why, entry in frames.faults().items() if why.split()[0] in images}
            if faults:
                raise layout_error(annotation, faults)
            for number in frames.numbers():
                frame = frames.frame(number)
                fault = image_fault(frame)
                if fault:
                    skipped.add(fault, frame.name)
                else:
                    annotated.append(frame)
    if not annotated:
        raise InterHandError(f"{root}: no sound frame ({_list_skipped(skipped)}); mend the images or their annotation")
    if skipped.reasons:
        read = len(annotated) + sum(entry["count"] for entry in skipped.reasons.values())
        print(f"{root}: left out of {read} frames: {_list_skipped(skipped)}", file=sys.stderr)
    return annotated


def _list_skipped(skipped: SkippedSamples) -> str:
    """Return why frames were skipped, with their number and the first one's name."""
    reasons = skipped.most_common().items()
    return "; ".join(f"{entry['count']} × {reason}, such as {entry['names'][0]}" for reason, entry in reasons)


@lru_cache(maxsize=8)
def _connect(index: Path) -> sqlite3.Connection:
    """Open an index for reading, once a process."""
    base = sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    base.row_factory = sqlite3.Row
    return base


def _joints_known(flags: bytes) -> np.ndarray:
    return np.frombuffer(flags, bool).reshape(len(HANDS), N_JOINTS)


def _project(world, valid, translation, rotation, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Project points [..., 3] mm to px [..., 2], 0 where unknown; also return which `valid` ones lie ahead."""
    local = (world - translation) @ rotation.T
    valid = valid & (local[..., 2] > 0)
    ahead = np.where(valid[..., None], local, 1)  # an unknown point must not divide by zero
    return np.where(valid[..., None], camera.project(ahead), 0), valid


def frame_crops(frame: Frame, squares: list[tuple[float, float, float]], size: int) -> np.ndarray:
    """Crop squares (x, y, side) from an annotated frame at `size` px: uint8 [n, size, size, 3].

    Raises ImageError, naming the frame, when its image cannot be read or a square does not touch it.
    """
    image = read_image(frame.image)
    if image.shape[1::-1] != frame.size:
        (width, height), (w, h) = frame.size, image.shape[1::-1]
        raise ImageError(f"{frame.image}: of {w}×{h} px, annotated as {width}×{height}; take the image as downloaded")
    try:
        return np.stack([crop_image(image, square, size) for square in squares])
    except ImageError as error:
        raise ImageError(f"{frame.image}: {error}; check the frame's bbox in the annotation") from None
