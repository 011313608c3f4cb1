"""Run folders and their results, and the rows of Table 1."""

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from ethand_utils import EthandError
from ethand_utils.datasets import open_dataset, render_dataset, require_stores
from ethand_utils.files import atomic_write, write_json
from ethand_utils.findings import REPORT
from ethand_utils.origin import source_of
from ethand_utils.parts import Part
from ethand_utils.settings import Profile, load_profile, write_profile
from ethand_utils.store import Store

LIBRARIES = ("torch", "fastai", "timm", "segmentation-models-pytorch", "numpy", "embreex")


class RunError(EthandError):
    """A run folder or notebook that does not fit, or lacks what is asked of it."""


def project_root() -> Path:
    """The checkout with the notebooks: this folder or one above it, else where the package was installed from."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parent.parent):
        if (folder / "notebooks" / "01_data.ipynb").exists() and (folder / "Snakefile").exists():
            return folder
    raise RunError(f"{Path.cwd()}: no notebooks here; call this inside a checkout of the project")


@dataclass(frozen=True)
class Run:
    """A run: `outputs/<name>/` and its profile; `folder` is where its trainings and results are.

    Of a share of the pairs that is a folder inside `whole`, the run's own (`at_share`).
    """

    folder: Path
    profile: Profile
    whole: Path | None = None

    @property
    def name(self) -> str:
        """The name of the run's own folder."""
        return (self.whole or self.folder).name

    def at_share(self, share: float) -> "Run":
        """The run with the trainings on a share of its pairs: on its data, in a folder of their own inside it.

        All of them (1) is the run as it is. Raises RunError for what is no share.
        """
        if not 0 < share <= 1:
            raise RunError(f"SHARE: {share:g}, expected a share of the pairs above 0 and at most 1")
        home = self.whole or self.folder
        folder, whole = (home / share_name(share), home) if share < 1 else (home, None)
        return replace(self, folder=folder, whole=whole)

    @property
    def source(self) -> str:
        """Where the data set comes from: `rendered`, or what lies in the profile's `data` (`origin.source_of`).

        Raises FileError when that is nothing known, RunError when `mano_dir` is given for anything but InterHand2.6M.
        """
        source = source_of(_from_root(self.profile.data)) if self.profile.data else "rendered"
        if self.profile.mano_dir and source != "interhand":
            raise RunError(
                f"mano_dir: {self.profile.mano_dir}, but the data set is {source}; MANO's hands are for the annotation "
                "of InterHand2.6M, so set data to its folder, or mano_dir to null"
            )
        return source

    @property
    def data_folder(self) -> Path:
        """Where the run's data set is: stores that exist stay where they are, all else goes to `data/` in the run."""
        return _from_root(self.profile.data) if self.source == "stores" else (self.whole or self.folder) / "data"

    def dataset(self, *needed: str) -> dict[str, Store]:
        """The run's stores by name: rendered, or read from the profile's `data`, where they are not there yet.

        The profile's counts and size hold for all that is made; counts are limits where data are read. Raises
        StoreError when one of `needed` is not among the stores, and what the reader of the source raises.
        """
        source, workers = self.source, len(os.sched_getaffinity(0))
        if source == "stores":
            stores = open_dataset(self.data_folder)
        else:
            stores = self._render(workers) if source == "rendered" else self._read(source, workers)
        return require_stores(stores, self.data_folder, *needed)

    @property
    def report(self) -> dict:
        """What the reader of the source kept and skipped, its `report.json`; empty where nothing was read."""
        path = self.data_folder / REPORT
        read = self.source != "rendered" and path.exists()
        return json.loads(path.read_text()) if read else {}

    def _read(self, source: str, workers: int) -> dict[str, Store]:
        """Read the profile's `data` into the run's data set; what is complete is kept, what is unfinished goes on."""
        p, root, out = self.profile, _from_root(self.profile.data), self.data_folder
        limits = {"val": p.val, "test": p.test, "unpaired": p.unpaired, "size": p.size, "workers": workers}
        if source == "course":
            from ethand_utils.course import read_course

            return read_course(root, out, train=p.train, **limits)
        from ethand_utils.interhand import interhand_dataset

        return interhand_dataset(out, root, paired=p.train, hands=self._hands(), seed=p.seed, replace=True, **limits)

    def _hands(self):
        """Who turns InterHand2.6M's annotation into hands: MANO where the profile names its files, else the rig."""
        if self.profile.mano_dir:
            from ethand_utils.mano import ManoHands

            return ManoHands(_from_root(self.profile.mano_dir))
        from ethand_utils.fitting import RigHands

        return RigHands()

    def render_part(self, part: Part, workers: int) -> None:
        """Render a part of the run's data set, which `dataset` joins with the others."""
        self._render(workers, part)

    def _render(self, workers: int, part: Part | None = None) -> dict[str, Store]:
        p, out = self.profile, self.data_folder
        return render_dataset(
            out, p.train, p.val, p.test, p.unpaired, p.size, p.seed, workers, True, views=p.views, part=part
        )

    def made(self, path: str, notebook: str) -> Path:
        """A file or folder of the run that another notebook makes. Raises RunError when it is not there yet."""
        if not (self.folder / path).exists():
            raise RunError(
                f"{self.folder / path}: not there yet; run notebooks/{notebook}.ipynb with the same RUN={self.name} "
                f"(and SHARE, where it has one) first, or everything with `ethand run --name {self.name}`"
            )
        return self.folder / path

    def weights(self, training: str) -> Path:
        """Weights of a finished training: `g1`, a D (`discriminator_name`) or `g2/<row>/seed<k>`."""
        kind = training.split("/")[0].split("_")[0]
        notebook = {"g1": "04_train_g1", "d": "05_train_discriminator", "g2": "07_train_g2"}[kind]
        return self.made(f"{training}/weights.safetensors", notebook)


def _from_root(path: str) -> Path:
    """A path of a profile: absolute, below the user's home (`~`), or from the checkout on."""
    return project_root() / Path(path).expanduser()


def open_run(name: str, profile: str = "tiny", data: str = "") -> Run:
    """The run `outputs/<name>/`, made with `profile` if it is new, and then with `data` in place of the profile's.

    An existing run keeps the profile it was made with, so that a notebook opened alone continues it; `ethand run`
    writes a changed profile itself. Raises RunError when an existing run has other data than `data`, FileError
    when a new run's `data` is nothing known.
    """
    folder = project_root() / "outputs" / name
    if not (folder / "profile.yaml").exists():
        run = Run(folder, load_profile(profile, {"data": data} if data else None))
        if run.source:  # a folder that is refused must not stay in a profile
            write_profile(folder, run.profile)
    run = Run(folder, load_profile(folder / "profile.yaml"))
    if data and not (run.profile.data and _from_root(run.profile.data).resolve() == _from_root(data).resolve()):
        raise RunError(
            f"{folder / 'profile.yaml'}: this run was made with data {run.profile.data or 'null (rendered)'}, not "
            f"{data}; choose another name for RUN, or leave DATA empty to go on with this one"
        )
    return run


def save_result(folder: str | Path, **values) -> dict:
    """Write `result.json` of a training: `values` and the versions, device and commit they came from, flat.

    The state to resume from is dropped then: until here an interruption costs no epoch.
    """
    result = {**values, "versions": versions(), "python": platform.python_version(), "commit": commit()}
    write_json(Path(folder) / "result.json", result)
    shutil.rmtree(Path(folder) / "state", ignore_errors=True)
    return result


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a .csv file whole or not at all."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


def versions() -> str:
    """The libraries that make the numbers, as one line."""
    return " ".join(f"{name}={version(name)}" for name in LIBRARIES)


def commit() -> str:
    """The checkout's commit, or nothing outside a repository."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=project_root())
    return asked.stdout.strip()


# The rows of the report's Table 1 with its scores, and one that it does not have; parameters of notebook 07.
_ROW_COLUMNS = ("ROW", "TITLE", "MODEL", "LOSS", "WEIGHTED", "GENERATED", "ADVERSARIAL", "reported")
ROWS = tuple(
    dict(zip(_ROW_COLUMNS, row, strict=True))
    for row in (
        ("baseline", "Baseline model", "baseline", "ce", False, "none", "none", 0.49801),
        ("unetpp_ce", "U-Net++ w/ CE", "g2", "ce", False, "none", "none", 0.53739),
        ("unetpp_weighted", "w/ weighted CE (1)", "g2", "ce", True, "none", "none", 0.53916),
        ("unetpp_dice", "w/ (1), Dice (2)", "g2", "ce_dice", True, "none", "none", 0.54449),
        ("unetpp_generated", "w/ (1), (2), gen. labels (3)", "g2", "ce_dice", True, "labels", "none", 0.55771),
        ("unetpp_released", "w/ (1), (2), (3), adv. (as released)", "g2", "ce_dice", True, "labels", "released", None),
        ("unetpp_full", "w/ (1), (2), (3), adv.", "g2", "ce_dice", True, "labels", "profile", 0.55804),
    )
)
FULL_ROW = ROWS[-1]["ROW"]
# A training that Table 1 does not have, where a CycleGAN has made the images.
_IMAGES = ("unetpp_images", "w/ (1), (2), G_YX's images", "g2", "ce_dice", True, "images", "none", None)
IMAGES_ROW = dict(zip(_ROW_COLUMNS, _IMAGES, strict=True))
SHARE_ROWS = ("unetpp_dice", "unetpp_generated")  # trained on a profile's `shares` of the pairs, too


def adversary(adversarial: str, profile: Profile) -> tuple[str, str]:
    """What D sees and how it is trained in a row with this ADVERSARIAL.

    `none`: there is no D. `profile`: by the profile's settings. `released`: arg-max ids and frozen (REFERENCE.md
    section 2). Raises RunError for anything else.
    """
    known = {
        "none": ("none", "none"),
        "profile": (profile.adversarial_input, profile.discriminator),
        "released": ("argmax", "frozen"),
    }
    if adversarial not in known:
        raise RunError(f"ADVERSARIAL: {adversarial!r}, expected one of {', '.join(known)}")
    return known[adversarial]


def discriminator_name(profile: Profile, adversarial_input: str) -> str:
    """Folder of a D's training inside a run: `d` of the one the profile asks for."""
    return "d" if adversarial_input == profile.adversarial_input else f"d_{adversarial_input}"


def training_name(row: str, seed: int) -> str:
    """Folder of a row's training inside a run."""
    return f"g2/{row}/seed{seed}"


def share_name(share: float) -> str:
    """Folder of the trainings on a share of the pairs inside a run: `pairs_5pct` of 0.05."""
    return f"pairs_{100 * share:g}pct"


def results(run: Run) -> pd.DataFrame:
    """Every `result.json` of the run's rows as one table, a row a training, in the order of the report."""
    found = [
        json.loads(path.read_text())
        for row in ROWS
        for path in sorted((run.folder / "g2" / row["ROW"]).glob("seed*/result.json"))
    ]
    if not found:
        raise RunError(f"{run.folder}/g2: no result yet; run notebooks/07_train_g2.ipynb first, or `ethand run`")
    return pd.DataFrame(found)


def table1(found: pd.DataFrame) -> pd.DataFrame:
    """Table 1 from `results`: the report's score of each row and ours (mean over seeds), Δ baseline % and Δ previous %.

    `ours_sd` is the standard deviation over the `seeds` a row has, NaN for one. Both Δ are relative, as in the report;
    Δ previous is to the nearest row above that the report has as well, from the third row on, which the report compares
    first. What the report does not have is NaN.
    """
    table = pd.DataFrame([{"row": row["ROW"], "model": row["TITLE"], "reported": row["reported"]} for row in ROWS])
    table["reported"] = table["reported"].astype(float)
    above = table.index.to_series().where(table["reported"].notna()).ffill().shift()
    scores_of = found.groupby("row")["course_miou"]
    for column, values in (("ours", scores_of.mean()), ("ours_sd", scores_of.std()), ("seeds", scores_of.count())):
        table[column] = table["row"].map(values)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    for source in ("reported", "ours"):
        scores = table[source]
        table[f"{source}_delta_baseline_pct"] = (100 * (scores / scores[0] - 1)).where(table.index > 0)
        before = scores.reindex(above).to_numpy()
        table[f"{source}_delta_previous_pct"] = (100 * (scores / before - 1)).where(table.index > 1)
    columns = ["reported", "ours", "ours_sd", "seeds"]
    columns += [f"{source}_delta_{to}_pct" for to in ("baseline", "previous") for source in ("reported", "ours")]
    return table[["row", "model", *columns]]
