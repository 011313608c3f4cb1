"""The demo's folder: a few rendered scenes, and a picture as from a camera. Nothing is trained on them."""

from pathlib import Path

import numpy as np
from PIL import Image

from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.run import DEMO_MARK, Run, RunError, project_root, run_name
from ethand_utils.files import atomic_write, write_json

PICTURE_SIDE, BORDER = 384, 96  # px of the rendered scene in the picture, and of the plain wall about it
WALL = (96, 92, 88)  # colour of that wall
SAMPLES = {"train": 1, "val": 1, "unpaired": 1}  # the least that a rendered data set has beside its test store


def open_demo(name: str = "demo", scenes: int = 8, seed: int = 0) -> Run:
    """Open the demo in `outputs/<name>/`: its data set has `scenes` test scenes like those of the package's net.

    That net was trained on other scenes and people of this kind. Raises RunError for a folder that holds anything but
    an earlier demo, ProfileError for less than one scene.
    """
    folder = project_root() / "outputs" / run_name(name)
    profile = load_profile("release", {"test": scenes, "seed": seed, **SAMPLES})
    if folder.is_dir() and any(folder.iterdir()) and not _is_demo(folder):
        raise RunError(
            f"{folder}: holds something that `ethand demo` did not make, and is not touched; choose another name"
        )
    if not (folder / DEMO_MARK).exists():
        write_json(folder / DEMO_MARK, {"made_by": "ethand demo"})
    return Run(folder, profile)


def _is_demo(folder: Path) -> bool:
    """Return whether a folder is that of a demo; not so when a run was made in it later."""
    return (folder / DEMO_MARK).is_file() and not (folder / "profile.yaml").exists()


def demo_picture(demo: Run) -> tuple[Path, tuple[float, float, float, float]]:
    """Write `picture.png`, a large render of the demo's first scene on a wall, and return it with the hands' box.

    The box is (x, y, width, height) px, as those of a data set are.
    """
    large = demo.profile.model_copy(update={"test": 1, "size": PICTURE_SIDE})
    scene = Run(demo.folder / "picture", large).dataset("test")["test"].require("images", "masks")
    side = PICTURE_SIDE + 2 * BORDER
    picture = np.full((side, side, 3), WALL, np.uint8)
    picture[BORDER:-BORDER, BORDER:-BORDER] = scene.images[0]
    path = demo.folder / "picture.png"
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary)
    return path, _box(np.asarray(scene.masks[0]).any(0))


def _box(hands: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box (x, y, width, height) px in the picture about pixels bool [S, S] of its scene."""
    rows, columns = np.flatnonzero(hands.any(1)), np.flatnonzero(hands.any(0))
    x, y = columns[0] + BORDER, rows[0] + BORDER
    return float(x), float(y), float(columns[-1] + 1 + BORDER - x), float(rows[-1] + 1 + BORDER - y)
