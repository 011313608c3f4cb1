"""`ethand predict`: masks of photos, one line each."""

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ethand_utils.analysis.hand_finder import HandView, find_views, plain_view, view_box
from ethand_utils.analysis.photos import (
    RESULT,
    list_photos,
    parse_box,
    predict_view,
    result_folders,
    save_photo,
)
from ethand_utils.data.images import read_image
from ethand_utils.exceptions import EthandError
from ethand_utils.training.inference import Inference
from ethand_utils.training.models import load_weights


def predict_photos(paths: list[Path], weights: Path | None, out: Path, box: str = "") -> bool:
    """Predict photos, and those in folders, into `out`; return whether all could be read.

    Raises EthandError when there is none, and for weights, a box or an output folder at fault.
    """
    corners = parse_box(box) if box else None
    photos, others = list_photos(paths)
    for other in others:
        print(f"{other}: skipped, as it is no photo", file=sys.stderr)
    if not photos:
        raise EthandError(f"{', '.join(map(str, paths))}: no photos here; expected files such as .jpg or .png")
    model, notes = load_weights(weights)
    readable = True
    for photo, folder in zip(
        tqdm(photos, unit="photo", disable=len(photos) < 2), result_folders(photos, out), strict=True
    ):
        try:
            image = read_image(photo)
            views = [_view(image, corners)] if corners else find_views(image)
            hands = [predict_view(model, image, notes["size"], view, Inference.of(notes)) for view in views]
            save_photo(folder, photo.name, image, hands)
        except EthandError as error:
            text = str(error)
            tqdm.write(f"ethand: {text if str(photo) in text else f'{photo}: {text}'}", file=sys.stderr)
            readable = False
            continue
        tqdm.write(f"{photo}: {_summary(hands)}; {folder / RESULT}")
    return readable


def _view(image: np.ndarray, box: tuple[float, float, float, float]) -> HandView:
    """Return the view of a box, as it is in the photo where the nets that find hands are not to be had."""
    try:
        return view_box(image, box)
    except EthandError as error:
        print(f"the box is taken as it is, not turned: {error}", file=sys.stderr)
        return plain_view(box)


def _summary(hands) -> str:
    """Return which hands were seen: `left and right hand`, or `no hands found`."""
    if not hands:
        return "no hands found"
    names = [" and ".join(name for name in ("left", "right") if one.describe()[name]["present"]) for one in hands]
    return "; ".join(
        f"{name or 'no'} hand, confidence {one.confidence:.2f}" for name, one in zip(names, hands, strict=True)
    )
