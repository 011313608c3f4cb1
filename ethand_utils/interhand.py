"""Frames of InterHand2.6M with their annotated joints (REFERENCE.md section 4)."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ethand_utils.files import FileError, first_line
from ethand_utils.labels import HANDS, N_JOINTS
from ethand_utils.raycast import Camera

ANNOTATION = ("data", "camera", "joint_3d")  # files that belong together: <name>_data.json, <name>_camera.json, …


class InterHandError(FileError):
    """An annotation or image of InterHand2.6M that is missing or does not fit."""


@dataclass(frozen=True)
class Frame:
    """An image of one moment, `name` as annotated: `bbox` (x, y, w, h) px, `hand_type` right, left or interacting.

    `joints` float [2, 21, 2] are positions (x, y) in px, left hand first, joints in the order of `labels.JOINT_PARTS`;
    `valid` bool [2, 21] says which are known, the others lie at 0.
    """

    name: str
    image: Path
    bbox: tuple[float, float, float, float]
    hand_type: str
    joints: np.ndarray
    valid: np.ndarray


def read_frames(root: str | Path) -> list[Frame]:
    """Every annotated frame of InterHand2.6M at `root`, in the order of the annotation.

    The three annotation files may lie anywhere below `root` but in `images/`; the images at their place in the official
    tree (`images/<split>/Capture<N>/<seq>/cam<C>/`) or side by side in `root`. Raises InterHandError when a file is
    missing or not of this layout.
    """
    root = Path(root)
    found = _data_files(root)
    if not found:
        raise InterHandError(
            f"{root}: no annotation here or below; expected *data.json with *camera.json and *joint_3d.json beside it"
        )
    frames = [frame for path in found for frame in _read_split(root, path)]
    if not frames:
        raise InterHandError(f"{found[0]}: annotates no frame; check the download")
    return frames


def _data_files(root: Path) -> list[Path]:
    """Annotation files below `root`; `images/` is passed over, as it may hold millions of files."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name != "images"]
        found += [Path(folder) / name for name in names if name.endswith("data.json")]
    return sorted(found)


def _read_split(root: Path, data_file: Path) -> list[Frame]:
    start = data_file.name.removesuffix("data.json")
    files = {kind: data_file.with_name(f"{start}{kind}.json") for kind in ANNOTATION}
    tables = {kind: _read_json(path) for kind, path in files.items()}
    split = start.rstrip("_").split("_")[-1]
    try:
        images = {image["id"]: image for image in tables["data"]["images"]}
        pairs = [(images[annotation["image_id"]], annotation) for annotation in tables["data"]["annotations"]]
        return [_frame(_find_image(root, split, image), image, a, tables, files) for image, a in pairs]
    except (KeyError, TypeError, ValueError) as error:
        raise InterHandError(
            f"{data_file}: not InterHand2.6M's layout ({type(error).__name__}: {first_line(error)}); "
            "expected its data, camera and joint_3d files as downloaded"
        ) from error


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InterHandError(f"{path}: not there; expected beside the other two annotation files") from None
    except (OSError, ValueError) as error:
        raise InterHandError(f"{path}: not readable JSON ({first_line(error)}); fetch it again") from None


def _find_image(root: Path, split: str, image: dict) -> Path:
    name = Path(image["file_name"]).name
    place = f"Capture{image['capture']}/{image['seq_name']}/cam{image['camera']}"
    for path in (root / "images" / split / place / name, root / name):
        if path.exists():
            return path
    raise InterHandError(f"{root}: image images/{split}/{place}/{name} is missing, and {name} here too; fetch it")


def _frame(path: Path, image: dict, annotation: dict, tables: dict, files: dict) -> Frame:
    capture, camera, moment = (str(image[key]) for key in ("capture", "camera", "frame_idx"))
    lacks = f"of capture {capture} is not in it; take all three annotation files from one split"
    try:
        views = tables["camera"][capture]
        view = [np.array(views[key][camera], float) for key in ("campos", "camrot", "focal", "princpt")]
    except KeyError:
        raise InterHandError(f"{files['camera']}: camera {camera} {lacks}") from None
    try:
        pose = tables["joint_3d"][capture][moment]
    except KeyError:
        raise InterHandError(f"{files['joint_3d']}: frame {moment} {lacks}") from None
    valid = _left_first(annotation["joint_valid"], 1) * _left_first(pose["joint_valid"], 1) > 0
    joints, valid = _project(_left_first(pose["world_coord"], 3), valid[..., 0], *view)
    x, y, w, h = map(float, annotation["bbox"])
    return Frame(str(image["file_name"]), path, (x, y, w, h), str(annotation["hand_type"]), joints, valid)


def _project(points, valid, position, turn, focal, centre) -> tuple[np.ndarray, np.ndarray]:
    """World points [..., 3] mm → px [..., 2], 0 where unknown; and which of the `valid` ones are before the camera."""
    seen = (points - position) @ turn.T
    valid = valid & (seen[..., 2] > 0)
    ahead = np.where(valid[..., None], seen, 1)  # an unknown point must not divide by zero
    return np.where(valid[..., None], Camera(tuple(focal), tuple(centre)).project(ahead), 0), valid


def _left_first(values: list, width: int) -> np.ndarray:
    """Values of the 42 joints, annotated right hand first → float [2, 21, width], left hand first."""
    return np.array(values, float).reshape(len(HANDS), N_JOINTS, width)[::-1]
