"""Which photos to label first: those of which two predictions disagree most, by two nets or by one net's two views."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ethand_utils.analysis.confusion import disagreement
from ethand_utils.analysis.hand_finder import HandView, photo_views, whole_view
from ethand_utils.analysis.image_plots import overlays, strips
from ethand_utils.data.images import read_photo
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import HANDS
from ethand_utils.training.predicted import Inference

if TYPE_CHECKING:
    from torch import nn

SIZE = 64  # px a side of the images of the package's net
MAX_NETS = 2
OVERALL = "overall"  # column beside those of HANDS


def rank_photos(
    photos: Sequence[str | Path], nets: Sequence["nn.Module"], size: int = SIZE, find: bool = True
) -> pd.DataFrame:
    """Return photos with the disagreement of their predictions, the highest first: which to label next.

    Columns `photo` (path), `left`, `right` and `overall` (0…1, `disagreements`). `nets` as in `two_predictions`, `size`
    px and `find` as in `hand_crops`. Raises EthandError without a photo, ImageError for a file that is no image.
    """
    if not photos:
        raise EthandError("no photos to choose from; expected at least one path")
    crops = hand_crops(photos, size, find)
    table = pd.DataFrame({"photo": [Path(photo) for photo in photos], **disagreements(crops, nets)})
    return table.sort_values(OVERALL, ascending=False, kind="stable", ignore_index=True)


def hand_crops(photos: Sequence[str | Path], size: int, find: bool = True) -> np.ndarray:
    """Return what a net sees of each photo: uint8 RGB [n, size, size, 3].

    That is the square of its largest hands, found and turned upright as `ethand predict` does; the whole photo where
    none is found, or with `find` False. Raises ImageError for a file that is no image.
    """
    return np.stack([_hand_crop(Path(photo), size, find) for photo in photos])


def _hand_crop(path: Path, size: int, find: bool) -> np.ndarray:
    photo = read_photo(path)
    views: list[HandView] = photo_views(photo, None) if find else []
    view = views[0].scaled(1 / photo.factor) if views else whole_view(photo.image)
    return view.square.crop(photo.image, size)


def disagreements(images: np.ndarray, nets: Sequence["nn.Module"]) -> dict[str, np.ndarray]:
    """Return how much two predictions of images uint8 RGB [n, H, W, 3] differ: `left`, `right`, `overall` float32 [n].

    Each is the share, of the pixels where either prediction has a part, of those where the parts differ
    (`confusion.disagreement`): for each hand, and for both together. See `two_predictions` for `nets`.
    """
    return shares_of(*two_predictions(images, nets))


def shares_of(one: np.ndarray, two: np.ndarray) -> dict[str, np.ndarray]:
    """Return the `disagreements` of two predictions, masks [n, 2, H, W] each."""
    hands = {name: disagreement(one[:, [hand]], two[:, [hand]]) for hand, name in enumerate(HANDS)}
    return hands | {OVERALL: disagreement(one, two)}


def two_predictions(images: np.ndarray, nets: Sequence["nn.Module"]) -> tuple[np.ndarray, np.ndarray]:
    """Return two predictions, masks uint8 [n, 2, H, W] each, of images uint8 RGB [n, H, W, 3].

    They are those of two nets or, of one, those of the image and of its mirror image, mirrored back. Raises EthandError
    for another number of nets.
    """
    from ethand_utils.training.inference import predict

    if not 1 <= len(nets) <= MAX_NETS:
        raise EthandError(f"nets: {len(nets)}, expected one, whose two views are compared, or two")
    if len(nets) == MAX_NETS:
        return tuple(predict(net, images, Inference(mirrored=True)).masks for net in nets)
    plain, mirrored = predict(nets[0], images).masks, predict(nets[0], images[:, :, ::-1]).masks
    return plain, mirrored[:, ::-1, :, ::-1]  # a mirrored left hand is a right one


def disagreement_strips(images: np.ndarray, nets: Sequence["nn.Module"], title: str = "") -> Figure:
    """Draw images uint8 RGB [n, H, W, 3], both predictions of each hand over them, and where these differ."""
    one, two = two_predictions(images, nets)
    columns = {"image": images}
    for hand, name in enumerate(HANDS):
        differs = np.where((one != two)[:, hand, ..., None], 255, images // 3).astype(np.uint8)
        columns |= {f"{name}, 1": overlays(images, one[:, hand]), f"{name}, 2": overlays(images, two[:, hand])}
        columns[f"{name} differs"] = differs
    return strips(columns, title, per_row=1)
