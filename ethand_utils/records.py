"""Entries of InterHand2.6M's JSON files, read one at a time, as rows of a table (REFERENCE.md section 4)."""

from collections.abc import Iterator
from typing import BinaryIO

import ijson
import numpy as np

from ethand_utils.labels import HAND_TYPES, HANDS, N_JOINTS

BLOCK = 1 << 16  # bytes read at once
CAMERA_SIZES = {"campos": 3, "camrot": 9, "focal": 2, "princpt": 2}
MANO_SIZES = {"pose": 48, "shape": 10, "trans": 3}
UNTRUE = 0.01  # by which a rotation's rows may miss unit length and right angles
DEPTH = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


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
