"""Checks of InterHand2.6M's frames, made before any is used: which are sound, and what is wrong with the others."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ethand_utils.data.workers import parallel_map
from ethand_utils.files import atomic_write
from ethand_utils.hands.amodal import Hand, HandError
from ethand_utils.labels import HANDS
from ethand_utils.sources.interhand_frames import Frame, FrameError, Frames

CHUNK = 256  # frames checked between two resume points


class CachedHandSource:
    """A source of hands that caches the last ones, as all cameras see the same hands at the same moment."""

    def __init__(self, source):
        self.source, self._key, self._cached = source, None, None

    def hands(self, frame: Frame) -> tuple[Hand | None, Hand | None]:
        """Return the source's hands, which may depend on the frame's `hand_type`, `world`, `valid` and `mano` alone."""
        mano = tuple(hand and tuple(values.tobytes() for values in hand.values()) for hand in frame.mano)
        key = (frame.hand_type, frame.world.tobytes(), frame.valid.tobytes(), mano)
        if key != self._key:
            try:
                self._cached = self.source.hands(frame)
            except HandError as error:
                self._cached = error
            self._key = key
        if isinstance(self._cached, HandError):
            raise HandError(*self._cached.args)
        return self._cached

    def __getstate__(self) -> dict:
        return {"source": self.source, "_key": None, "_cached": None}


@dataclass(frozen=True)
class Check:
    """Checks the frames in a file of `interhand_selection.ROW`, chunk by chunk, and writes the results into `folder`.

    Not a store (`build_store`), as several jobs share one check: each needs all results before it can divide the frames
    among the stores, so a job goes on with whatever chunk is left, whoever began it, and no job waits for another.
    """

    rows: Path
    splits: tuple[Frames, ...]
    hands: CachedHandSource
    folder: Path

    def chunks(self) -> list[range]:
        """Return the rows of every chunk."""
        count = len(open_rows(self.rows))
        return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def file(self, chunk: range) -> Path:
        """Return the file of the results of a chunk."""
        return self.folder / f"{chunk.start:09d}.parquet"

    def __call__(self, chunk: range) -> int:
        """Check a chunk, unless another job has done so; returns its number of frames."""
        if not self.file(chunk).exists():
            rows = open_rows(self.rows)[chunk.start : chunk.stop]
            results = [check_frame(self.splits[row["split"]], int(row["number"]), self.hands) for row in rows]
            with atomic_write(self.file(chunk)) as temporary:
                pd.DataFrame(results, columns=["fault", *HANDS]).to_parquet(temporary, index=False)
        return len(chunk)

    def run(self, workers: int, share: float = 0.0, preload: Sequence[str] = ()) -> None:
        """Check every chunk that is not checked yet, with a progress bar.

        Several jobs may do so at once, each beginning at another `share` (0…1) of the chunks: they skip what the others
        have done, and all end when everything is checked. The modules `preload` are those of later builds, whose
        processes come from the same server.
        """
        chunks = self.chunks()
        first = int(len(chunks) * share)
        missing = [chunk for chunk in chunks[first:] + chunks[:first] if not self.file(chunk).exists()]
        total = sum(map(len, chunks))
        with tqdm(total=total, initial=total - sum(map(len, missing)), desc="check", unit="img") as progress:
            for checked in parallel_map(self, missing, workers, self.folder, [__name__, *preload]):
                progress.update(checked)

    def results(self) -> pd.DataFrame:
        """Return the results by row: `fault`, "" if sound, and the mean residual of each hand, mm."""
        return pd.concat([pd.read_parquet(self.file(chunk)) for chunk in self.chunks()], ignore_index=True)


@lru_cache(maxsize=8)
def open_rows(path: Path) -> np.ndarray:
    """Open a file of rows as a memory map, once a process; its name changes with its contents."""
    return np.load(path, mmap_mode="r")


def save_rows(folder: Path, name: str, rows: np.ndarray) -> Path:
    """Write rows as `folder`/`name`-<digest>.npy, unless that exists; returns its path."""
    path = folder / f"{name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:12]}.npy"
    if not path.exists():
        with atomic_write(path) as temporary:
            np.save(temporary, rows)
    return path


def check_frame(frames: Frames, number: int, hands: CachedHandSource) -> tuple[str, float, float]:
    """Return a short reason why a frame cannot be used, "" if it can, and the mean residual of each hand, mm."""
    try:
        fault, frame = frames.checked(number)
        residuals = (np.nan, np.nan) if fault else mean_residuals(hands.hands(frame))
        return fault, *residuals
    except FrameError as error:
        return error.reason, np.nan, np.nan
    except HandError as error:
        return str(error), np.nan, np.nan


def mean_residuals(hands: tuple[Hand | None, Hand | None]) -> tuple[float, float]:
    """Return the mean residual over the joints of each hand, mm; NaN for one that is absent or has no joints."""
    residuals = [np.zeros(0) if hand is None else hand.residual[np.isfinite(hand.residual)] for hand in hands]
    return tuple(float(residual.mean()) if len(residual) else np.nan for residual in residuals)
