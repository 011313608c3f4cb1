"""The results of a run, read from its files when asked for: trainings, scores of samples, comparisons, masks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.analysis.comparison import ablation_steps
from ethand_utils.analysis.tables import (
    ScoresByRow,
    independent_people,
    over_seeds,
    read_samples,
    results,
    row_label,
    scores_by_row,
    table1_with_tests,
)
from ethand_utils.data.store import Store
from ethand_utils.experiments.methods import FULL_METHOD, METHODS, table_methods
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.files import first_line
from ethand_utils.labels import PARTS, slug


@dataclass(frozen=True)
class RunResults:
    """The results of `run`. Whatever is missing or damaged raises an EthandError that names it."""

    run: Run

    def read(self, name: str, reader: Callable[[Path], object]):
        """Return a file of the run as `reader` reads it."""
        path = self.run.folder / name
        if not path.exists():
            raise RunError(f"{name} is not there")
        try:
            return reader(path)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{name} cannot be read ({first_line(error)})") from None

    def table(self, name: str) -> pd.DataFrame:
        """Return a .csv of the run."""
        return self.read(name, pd.read_csv)

    def json(self, name: str) -> dict:
        """Return a .json of the run."""
        return self.read(name, lambda path: json.loads(path.read_text()))

    def png(self, name: str) -> bytes:
        """Return a .png of the run."""
        return self.read(name, Path.read_bytes)

    @cached_property
    def trainings(self) -> pd.DataFrame:
        """The `result.json` of every training of Table 1, a row each (`tables.results`)."""
        return self.read("g2", lambda _: results(self.run))

    @cached_property
    def seed_scores(self) -> ScoresByRow:
        """Scores of every sample by row of Table 1 and seed (`tables.scores_by_row`)."""
        return scores_by_row(self.run)

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """Scores of every sample by row of Table 1, mean over seeds."""
        return over_seeds(self.seed_scores)

    @cached_property
    def people(self) -> pd.Series | None:
        """Subjects by sample id where the bootstrap draws people; None where it draws samples."""
        return independent_people(self.run, self.seed_scores)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Differences between neighbouring rows of Table 1 (`comparison.ablation_steps`)."""
        return ablation_steps(self.seed_scores, self.people)

    @cached_property
    def table1(self) -> pd.DataFrame:
        """Table 1 with intervals and p-values."""
        return table1_with_tests(self.trainings, self.scores, self.steps)

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Histories of the rows' first seeds by title, as far as they are there."""
        files = {method.title: f"{method.training(0)}/history.csv" for method in table_methods()}
        histories = {title: self.table(name) for title, name in files.items() if (self.run.folder / name).exists()}
        if not histories:
            raise RunError("g2/*/seed0/history.csv is not there for any row")
        return histories

    @property
    def last_row(self) -> str:
        """The last row of Table 1 that has a result."""
        return self.trainings["row"].iloc[-1]

    @cached_property
    def shown_row(self) -> str:
        """The row whose masks are shown: the full method, or the last before it that kept its predictions."""
        for row in reversed(self.scores):
            if (self._predictions_folder(row) / "meta.json").exists():
                return row
        raise RunError(f"predictions/{FULL_METHOD}_seed0 is not there, nor another row's")

    @property
    def shown_label(self) -> str:
        """The name of the shown row in a sentence."""
        return row_label(self.shown_row)

    def _predictions_folder(self, row: str) -> Path:
        return self.run.folder / METHODS[row].predictions(0)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Scores and confidence of every sample by the shown row's first seed, in the order of its masks."""
        return read_samples(self._predictions_folder(self.shown_row) / "metrics.parquet")

    @cached_property
    def predictions(self) -> Store:
        """The shown row's masks."""
        return Store(self._predictions_folder(self.shown_row)).require("masks")

    @cached_property
    def truth(self) -> Store:
        """The store that the shown masks were scored on, images and masks in their order."""
        name = self.json(f"{METHODS[self.shown_row].training(0)}/result.json")["scored_on"]
        store = Store(self.run.data_folder / name).require("images", "masks")
        if store.index["id"].tolist() != self.predictions.index["id"].tolist():
            raise RunError(f"the masks belong to other samples than those of {name}, which was made anew")
        return store

    @cached_property
    def examples(self) -> dict[str, int]:
        """Rows of the best, median and worst sample by course mIoU, of those that can be scored."""
        scores = self.metrics["course_miou"].reset_index(drop=True).dropna().sort_values(kind="stable")
        if scores.empty:
            raise RunError(f"no sample of {self.shown_label} can be scored")
        order = scores.index.to_numpy()
        return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}

    def part_ious(self, row: str) -> np.ndarray:
        """Return the IoU [17] of a row's parts over the data set, NaN for background; mean over seeds."""
        trainings = self.trainings[self.trainings["row"] == row]
        return np.array([np.nan, *(trainings[f"part_iou_{slug(part)}"].mean() for part in PARTS[1:])])
