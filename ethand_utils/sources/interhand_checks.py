"""Frames of InterHand2.6M looked at before any is used: which are sound, and what is wrong with the others."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from ethand_utils.data.crops import MAX_CROP, crop_square
from ethand_utils.data.workers import parallel_map
from ethand_utils.files import atomic_write
from ethand_utils.hands.amodal import Hand, HandError
from ethand_utils.labels import HAND_TYPES, HANDS
from ethand_utils.sources.interhand_frames import Frame, FrameError, Frames

CHUNK = 256  # frames checked between two resume points
REDUCED = 8  # images are looked at in this fraction of their size, which is fast and still finds truncated ones
BLACK = 10  # grey level, of 255, that no hand in the light stays below


class CachedHandSource:
    """A source of hands that remembers the last ones, as all cameras see the same hands at the same moment."""

    def __init__(self, source):
        self.source, self._last, self._found = source, None, None

    def hands(self, frame: Frame) -> tuple[Hand | None, Hand | None]:
        """What the source gives, which may depend on the frame's `hand_type`, `world`, `valid` and `mano` alone."""
        mano = tuple(known and tuple(values.tobytes() for values in known.values()) for known in frame.mano)
        key = (frame.hand_type, frame.world.tobytes(), frame.valid.tobytes(), mano)
        if key != self._last:
            try:
                self._found = self.source.hands(frame)
            except HandError as error:
                self._found = error
            self._last = key
        if isinstance(self._found, HandError):
            raise HandError(*self._found.args)
        return self._found

    def __getstate__(self) -> dict:
        return {"source": self.source, "_last": None, "_found": None}


@dataclass(frozen=True)
class Check:
    """Checks chunks of the frames that a file of `draws.ROW` rows names, and writes what it finds into `folder`."""

    rows: Path
    splits: tuple[Frames, ...]
    hands: CachedHandSource
    folder: Path

    def chunks(self) -> list[range]:
        """The rows of every chunk."""
        count = len(open_rows(self.rows))
        return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def file(self, chunk: range) -> Path:
        """Where the findings on a chunk are."""
        return self.folder / f"{chunk.start:09d}.parquet"

    def __call__(self, chunk: range) -> int:
        """Check a chunk, unless another job has by now; gives its number of frames."""
        if not self.file(chunk).exists():
            rows = open_rows(self.rows)[chunk.start : chunk.stop]
            found = [check_frame(self.splits[row["split"]], int(row["number"]), self.hands) for row in rows]
            with atomic_write(self.file(chunk)) as temporary:
                pd.DataFrame(found, columns=["fault", *HANDS]).to_parquet(temporary, index=False)
        return len(chunk)

    def run(self, workers: int, share: float = 0.0, preload: Sequence[str] = ()) -> None:
        """Check every chunk that is not checked yet, with a progress bar.

        Several jobs may do so at once when each begins at another `share` (0…1) of the chunks: they find what the
        others have done, and all end when everything is checked. Modules `preload` are what later work needs, too, as
        processes of a later build come from the same server.
        """
        chunks = self.chunks()
        first = int(len(chunks) * share)
        todo = [chunk for chunk in chunks[first:] + chunks[:first] if not self.file(chunk).exists()]
        total = sum(map(len, chunks))
        with tqdm(total=total, initial=total - sum(map(len, todo)), desc="check", unit="img") as progress:
            for checked in parallel_map(self, todo, workers, self.folder, [__name__, *preload]):
                progress.update(checked)

    def results(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yield the first row and the results of every chunk: `fault`, "" if sound, and mean residual by hand, mm."""
        for chunk in self.chunks():
            yield chunk.start, pd.read_parquet(self.file(chunk))


@lru_cache(maxsize=8)
def open_rows(path: Path) -> np.ndarray:
    """A file of rows, mapped into memory once a process; its name changes with what it holds."""
    return np.load(path, mmap_mode="r")


def save_rows(folder: Path, name: str, rows: np.ndarray) -> Path:
    """Write rows as `folder`/`name`-<digest>.npy, unless they are there."""
    path = folder / f"{name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:12]}.npy"
    if not path.exists():
        with atomic_write(path) as temporary:
            np.save(temporary, rows)
    return path


def check_frame(frames: Frames, number: int, hands: CachedHandSource) -> tuple[str, float, float]:
    """What is wrong with a frame, in few words fit to be counted by, "" for nothing; mean residual of each hand, mm."""
    try:
        if not frames.hand_type_valid(number):
            return "hand_type: marked as not valid", np.nan, np.nan
        frame = frames.frame(number)
        fault = annotation_fault(frame) or image_fault(frame)
        residuals = (np.nan, np.nan) if fault else mean_residuals(hands.hands(frame))
        return fault, *residuals
    except FrameError as error:
        return error.reason, np.nan, np.nan
    except HandError as error:
        return str(error), np.nan, np.nan


def mean_residuals(hands: tuple[Hand | None, Hand | None]) -> tuple[float, float]:
    """Mean residual over the joints of each hand, mm; NaN for one that is not there or has no joints."""
    known = [np.zeros(0) if hand is None else hand.residual[np.isfinite(hand.residual)] for hand in hands]
    return tuple(float(residual.mean()) if len(residual) else np.nan for residual in known)


def annotation_fault(frame: Frame) -> str:
    """What is wrong with a frame's joints, hand type or box; "" for nothing."""
    known = frame.world.any(-1)
    if not known.any():
        return "joints: none known"
    if (known & ~frame.valid).any():
        return "joints: behind the camera"
    for hand, there in zip(HANDS, known.any(1), strict=True):
        if there != (frame.hand_type in (hand, HAND_TYPES[-1])):
            return f"hand_type: {frame.hand_type} {'with' if there else 'without'} joints of the {hand} hand"
    return _box_fault(frame)


def _box_fault(frame: Frame) -> str:
    x, y, w, h = frame.bbox
    width, height = frame.size
    if not (np.isfinite(frame.bbox).all() and w > 0 and h > 0):
        return "box: without area"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "box: outside the frame"
    left, top, side = crop_square(frame.bbox)
    if side > MAX_CROP * max(frame.size):
        return "box: out of proportion to the frame"
    joints = frame.joints[frame.valid]
    inside = ((joints >= (left, top)) & (joints < (left + side, top + side))).all(-1)
    return "" if inside.mean() >= 0.5 else "joints: most outside the box"


def image_fault(frame: Frame) -> str:
    """What is wrong with a frame's image, which is read at reduced size; "" for nothing."""
    try:
        with Image.open(frame.image) as image:
            if image.size != frame.size:
                return "image: not of the annotated size"
            image.draft("L", tuple(max(1, side // REDUCED) for side in frame.size))
            grey = np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "image: truncated or unreadable"
    x, y, w, h = np.array(frame.bbox) * (grey.shape[1] / frame.size[0])
    box = grey[max(0, int(y)) : int(np.ceil(y + h)), max(0, int(x)) : int(np.ceil(x + w))]
    return "" if box.max(initial=0) > BLACK else "image: black where the hands are"
