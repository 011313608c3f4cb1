"""What the report of a run is made from: its results, scores and masks, each read from the run's files when asked."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.analysis.comparison import certain_table, compare_rows
from ethand_utils.analysis.tables import (
    ScoresByRow,
    independent_people,
    over_seeds,
    read_samples,
    results,
    row_label,
    scores_by_row,
    title,
)
from ethand_utils.data.store import Store
from ethand_utils.experiments.methods import FULL_ROW, ROWS
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.files import first_line
from ethand_utils.labels import PARTS, slug


@dataclass(frozen=True)
class RunResults:
    """A run's files by what they tell. Whatever is missing or damaged raises an EthandError that names it."""

    run: Run

    def read(self, name: str, reader: Callable[[Path], object]):
        """A file of the run as `reader` reads it."""
        path = self.run.folder / name
        if not path.exists():
            raise RunError(f"{name} is not there")
        try:
            return reader(path)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{name} cannot be read ({first_line(error)})") from None

    def table(self, name: str) -> pd.DataFrame:
        """A .csv of the run."""
        return self.read(name, pd.read_csv)

    def json(self, name: str) -> dict:
        """A .json of the run."""
        return self.read(name, lambda path: json.loads(path.read_text()))

    @cached_property
    def results(self) -> pd.DataFrame:
        """`runs.results`: a row a training."""
        return self.read("g2", lambda _: results(self.run))

    @cached_property
    def kept(self) -> ScoresByRow:
        """`ablation.kept_seeds`: scores of every sample by row of Table 1 and seed."""
        return scores_by_row(self.run)

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """Scores of every sample by row of Table 1, mean over seeds."""
        return over_seeds(self.kept)

    @cached_property
    def people(self) -> pd.Series | None:
        """Who is drawn in place of samples, by id; None where samples are."""
        return independent_people(self.run, self.kept)

    @cached_property
    def compare_rows(self) -> pd.DataFrame:
        """`steps.steps`: what each step of Table 1 settles."""
        return compare_rows(self.kept, self.people)

    @cached_property
    def table1(self) -> pd.DataFrame:
        """Table 1 with intervals and p-values."""
        return certain_table(self.results, self.scores, self.steps)

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Histories of the rows' first seeds by title, of those that are there."""
        names = {title(row["ROW"]): f"g2/{row['ROW']}/seed0/history.csv" for row in ROWS}
        there = {row: self.table(name) for row, name in names.items() if (self.run.folder / name).exists()}
        if not there:
            raise RunError("g2/*/seed0/history.csv is not there for any row")
        return there

    @property
    def last(self) -> str:
        """The last row of Table 1 that has a result."""
        return self.results["row"].iloc[-1]

    @cached_property
    def row(self) -> str:
        """The row whose masks are shown: the full method, or the last before it that kept its predictions."""
        for row in reversed(self.scores):
            if (self._folder(row) / "meta.json").exists():
                return row
        raise RunError(f"predictions/{FULL_ROW}_seed0 is not there, nor another row's")

    @property
    def name(self) -> str:
        """What that row is called in a sentence."""
        return row_label(self.row)

    def _folder(self, row: str) -> Path:
        return self.run.folder / f"predictions/{row}_seed0"

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Scores and confidence of every sample of that row's first seed, in the order of its masks."""
        return read_samples(self._folder(self.row) / "metrics.parquet")

    @cached_property
    def predictions(self) -> Store:
        """That row's masks."""
        return Store(self._folder(self.row)).require("masks")

    @cached_property
    def truth(self) -> Store:
        """The store those masks were scored on, images and masks in their order."""
        name = self.json(f"g2/{self.row}/seed0/result.json")["scored_on"]
        store = Store(self.run.data_folder / name).require("images", "masks")
        if store.index["id"].tolist() != self.predictions.index["id"].tolist():
            raise RunError(f"the masks belong to other samples than those of {name}, which was made anew")
        return store

    @cached_property
    def chosen(self) -> dict[str, int]:
        """Places of the best, median and worst sample by course mIoU, of those that can be scored."""
        scores = self.metrics["course_miou"].reset_index(drop=True).dropna().sort_values(kind="stable")
        if scores.empty:
            raise RunError(f"no sample of {self.name} can be scored")
        order = scores.index.to_numpy()
        return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}

    def parts(self, row: str) -> np.ndarray:
        """IoU [17] of a row's parts over the data set, NaN for background; mean over seeds."""
        found = self.results[self.results["row"] == row]
        return np.array([np.nan, *(found[f"part_iou_{slug(part)}"].mean() for part in PARTS[1:])])
