"""A labelled photo as a sample: its crop, its masks and its row of the index, kept beside the label file."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from ethand_utils.data.crops import crop_image, crop_square
from ethand_utils.data.images import read_image
from ethand_utils.data.store import BOX, OCCLUDED
from ethand_utils.files import atomic_write
from ethand_utils.hands.amodal import HandError, hand_masks, occluded_share
from ethand_utils.hands.raycast import Camera
from ethand_utils.labels import HAND_TYPES, HANDS
from ethand_utils.sources.label_files import LabelError, LabelRecord, record_file
from ethand_utils.sources.label_fit import LabelFit, fit_label, joints_box, posed_hands

SAMPLES = "samples"  # folder of the samples, one file a photo
RESIDUALS = tuple(f"residual_{hand}_px" for hand in HANDS)


@dataclass(frozen=True, eq=False)
class LabelSample:
    """A sample of a label: `images` uint8 [size, size, 3], `masks` uint8 [2, size, size], `front` uint8 [size, size].

    `digest` is that of the label file it was made of. `crop` float [3] is the square (x, y, side) px of the photo;
    `joints` float [2, 21, 3] m are the fitted ones in the frame of the camera of `focal` and `centre` float [2] px,
    `pixels` float [2, 21, 2] those labelled or fitted, `residual` float [2, 21] px, each NaN where there is none.
    """

    digest: str
    crop: np.ndarray
    focal: np.ndarray
    centre: np.ndarray
    joints: np.ndarray
    pixels: np.ndarray
    residual: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    front: np.ndarray

    @property
    def size(self) -> int:
        """The side of image and masks, px."""
        return self.images.shape[0]

    def save(self, file: Path) -> None:
        """Write the sample, atomically. Raises FileError where the disk refuses."""
        with atomic_write(file) as temporary:
            np.savez(temporary, **{one.name: getattr(self, one.name) for one in fields(self)})


def sample_file(folder: Path, name: str) -> Path:
    """Return the path of the sample of the label with an id."""
    return folder / SAMPLES / f"{name}.npz"


def load_sample(file: Path) -> LabelSample | None:
    """Return a sample that was saved; None where there is none, or a damaged one: it is made again of its label."""
    try:
        with np.load(file) as arrays:
            values = {one.name: arrays[one.name] for one in fields(LabelSample)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return LabelSample(**values | {"digest": str(values["digest"])})


def kept_sample(folder: Path, record: LabelRecord, size: int | None = None) -> LabelSample | None:
    """Return the sample in `folder` of a label as it is now, of `size` px where that is given; None without one."""
    sample = load_sample(sample_file(folder, record.id))
    current = sample is not None and sample.digest == record.digest
    return sample if current and size in (None, sample.size) else None


def make_sample(
    folder: Path, record: LabelRecord, size: int, fit: LabelFit | None = None, image: np.ndarray | None = None
) -> LabelSample:
    """Return the sample of a label at `size` px: the one in `folder`, if it is current, of that size, and `fit` None.

    Otherwise its hands are those of `fit` or, where that is None, of the current sample or of a new fit. The crop is of
    `image` uint8 [H, W, 3], by default of the photo; where that is gone or has changed, the earlier crop is resized.
    Raises LabelError where neither is there, HandError for joints that give no hand, and HandError or ImageError for
    hands outside the photo.
    """
    earlier = load_sample(sample_file(folder, record.id))
    current = earlier is not None and earlier.digest == record.digest
    if current and earlier.size == size and fit is None:
        return earlier
    if fit is None and not current:
        fit = fit_label(record.label, record.size)
    hands = _hands_of(earlier) if fit is None else _hands_of_fit(fit)
    crop, picture = _crop(folder, record, size, hands["pixels"], earlier, image)
    camera = Camera(tuple(hands["focal"].tolist()), tuple(hands["centre"].tolist()))
    meshes = posed_hands(hands["joints"], record.label.front) if fit is None else fit.hands
    truth = hand_masks(meshes, camera, np.eye(3), np.zeros(3), crop, size, record.size)
    if not truth["masks"].any():
        raise HandError("hands: none is seen in the photo")
    return LabelSample(record.digest, np.array(crop), **hands, images=picture, **truth)


def _hands_of(sample: LabelSample) -> dict[str, np.ndarray]:
    return {name: getattr(sample, name) for name in ("focal", "centre", "joints", "pixels", "residual")}


def _hands_of_fit(fit: LabelFit) -> dict[str, np.ndarray]:
    empty = np.full(fit.pixels.shape[1], np.nan)
    residual = np.stack([empty if one is None else one.residual for one in fit.chosen])
    focal, centre = np.array(fit.camera.focal), np.array(fit.camera.centre)
    return {"focal": focal, "centre": centre, "joints": fit.joints, "pixels": fit.pixels, "residual": residual}


def _crop(folder: Path, record: LabelRecord, size: int, pixels, earlier: LabelSample | None, image) -> tuple:
    """Return the crop (x, y, side) px about the hands, and the picture uint8 [size, size, 3] that it shows."""
    crop = crop_square(joints_box(pixels))
    photo = record.photo_file(folder) if image is None else None
    if image is not None or photo is not None:
        return crop, crop_image(read_image(photo) if image is None else image, crop, size)
    if earlier is None:
        raise LabelError(
            f"{record_file(folder, record.id)}: its photo {record.path} is gone or has changed; put it back, or remove "
            "the label"
        )
    square = Image.fromarray(earlier.images).resize((size, size), Image.Resampling.BILINEAR)
    return tuple(earlier.crop.tolist()), np.asarray(square)


def index_row(record: LabelRecord, sample: LabelSample) -> dict:
    """Return a sample's row of an index. Nobody knows whose hands a photo shows: each counts as another subject's."""
    label, present = record.label, sample.masks.any((1, 2))
    shares = occluded_share(sample.masks, sample.front)
    residuals = [float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for values in sample.residual]
    return {
        "id": record.id,
        "hand_type": HAND_TYPES[-1] if present.all() else HANDS[present.argmax()],
        "subject": record.id,
        "capture": "photos",
        "seq": label.photo,
        "camera": "photo",
        "frame": 0,
        **dict(zip(BOX, joints_box(sample.pixels), strict=True)),
        **dict(zip(OCCLUDED, shares, strict=True)),
        **dict(zip(RESIDUALS, residuals, strict=True)),
        "source": record.path,
        "split": record.split,
        "labeller": label.labeller,
        "labelled_at": label.labelled_at,
        "seconds": float(label.seconds),
        "joints": sample.pixels.ravel().tolist(),
    }
