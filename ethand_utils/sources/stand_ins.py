"""Rendered photos as files, and labels of them as a person would place them: where nobody has photos at hand."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ethand_utils.data.crops import crop_square
from ethand_utils.data.store import BOX, Store
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.files import atomic_write
from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.photo_fit import FEWEST
from ethand_utils.labels import FRONT_NONE
from ethand_utils.outputs import OutputError
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.sources.course import crop_masks
from ethand_utils.sources.photo_labels import HandLabel, LabelFit, LabelFolder, PhotoLabel, fit_label
from ethand_utils.sources.rendered_photos import rendered_photo

OPTIONS = RenderOptions(views="front", single_share=0.4, photo_share=1.0)  # one hand or two, before a photograph
NOISE = 2.0  # px in each direction, standard deviation of a joint as placed from where it is


def write_stand_ins(
    folder: str | Path,
    numbers: Sequence[int],
    camera: int = 1,
    size: int = 256,
    light: str = "strange",
    options: RenderOptions = OPTIONS,
) -> dict[Path, dict]:
    """Render photos by their numbers as PNG files; return `rendered_photo`'s answer for each, by its path.

    Every number is another person. Raises OutputError for a file there that is another image.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    photos = {}
    for number in numbers:
        path = folder / f"camera{camera}-{number:04d}.png"
        photos[path] = rendered_photo(camera, number, size, options, light=light)
        _write_png(path, photos[path]["image"])
    return photos


def _write_png(path: Path, image: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    if path.exists():
        if path.read_bytes() != content.getvalue():
            raise OutputError(f"{path}: another image than is to be written, and so not replaced; move it away")
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getvalue())


def label_stand_ins(folder: LabelFolder, photos: dict[Path, dict], noise: float = NOISE, seed: int = 0) -> list[str]:
    """Label photos of `write_stand_ins` in a folder, and return the ids of their labels.

    Photos that are labelled already keep their label. One whose joints give no hand is left out, as a person would.
    """
    rng, names = np.random.default_rng(seed), []
    for path, photo in photos.items():
        label, fit = stand_in_label(path.name, photo, noise, rng)
        if folder.get(path) is None and fit is not None:
            names.append(folder.save(path, label, fit))
    return names


def stand_in_label(
    name: str, photo: dict, noise: float, rng: np.random.Generator
) -> tuple[PhotoLabel, LabelFit | None]:
    """Return the label that a person might give a photo of `rendered_photo`, and its fit; None where there is none.

    Joints are placed where they are, with `noise` px in each direction; those outside the photo are left out, those
    behind the other hand guessed. A hand with too few joints in the photo is left out. Of two answers of the fit, the
    label has the one that bends as the hand does.
    """
    size = photo["image"].shape[1], photo["image"].shape[0]
    hands = [_hand_label(photo, side, noise, rng) for side in range(len(photo["joints"]))]
    label = PhotoLabel(name, tuple(hands), labeller="stand-in")
    if not label.sides:
        return label, None
    try:
        fit = fit_label(label, size)
    except HandError:
        return label, None
    answers = [_answer(fit, photo, side) for side in range(len(hands))]
    if any(answers):
        hands = [hand and replace(hand, answer=one) for hand, one in zip(hands, answers, strict=True)]
        label = replace(label, hands=tuple(hands))
        fit = fit_label(label, size)
    return label, fit


def _hand_label(photo: dict, side: int, noise: float, rng: np.random.Generator) -> HandLabel | None:
    """Return the label of a hand; None where it is absent, or has too few joints in the photo."""
    (height, width), joints = photo["front"].shape, photo["joints"][side]
    placed = joints + rng.normal(0, noise, joints.shape)
    inside = ((placed >= 0) & (placed < (width, height))).all(1)
    if inside.sum() < FEWEST:
        return None
    column, row = np.where(inside[:, None], placed, 0).astype(int).T
    in_front = photo["front"][row, column]
    hidden = inside & (in_front != FRONT_NONE) & (in_front != side + 1)
    return HandLabel(np.where(inside[:, None], placed, np.nan), hidden)


def _answer(fit: LabelFit, photo: dict, side: int) -> int:
    """Return which answer of the fit has the joints nearest to their true depths, relative to their mean."""
    true = photo["depths"][side] - photo["depths"][side].mean()
    errors = [np.abs(one.joints[:, 2] - one.joints[:, 2].mean() - true).mean() for one in fit.answers[side]]
    return int(np.argmin(errors)) if errors else 0


def with_true_masks(store: Store, photos: dict[Path, dict], out: str | Path) -> Store:
    """Build a store of the images of labelled stand-ins in `store` with their true masks, in place of fitted ones."""
    by_name = {path.name: photo for path, photo in photos.items()}
    rows = store.index.to_dict("records")

    def sample(i: int) -> dict:
        photo = by_name[rows[i]["seq"]]
        square = crop_square(tuple(rows[i][name] for name in BOX))
        return {
            "images": store.images[i],
            "masks": crop_masks(photo["masks"], square, store.size),
            "front": crop_masks(photo["front"][None], square, store.size)[0],
            "row": {name: rows[i][name] for name in ("id", "hand_type", "subject")},
        }

    meta = {"source": "stand-ins", "split": store.path.name, "labels": store.meta.get("labels", "")}
    return build_store(out, StorePlan(sample, len(store), store.size, ("images", "masks", "front"), meta), replace=True)
