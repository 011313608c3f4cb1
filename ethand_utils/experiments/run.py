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

from ethand_utils.data.datasets import REPORT, open_dataset, require_stores
from ethand_utils.data.store import Store
from ethand_utils.data.store_builder import Shard
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import Profile, load_profile, write_profile
from ethand_utils.files import atomic_write, write_json
from ethand_utils.sources.detect import detect_source
from ethand_utils.sources.rendered import render_dataset

LIBRARIES = ("torch", "fastai", "timm", "segmentation-models-pytorch", "numpy", "embreex")


class RunError(EthandError):
    """A run folder or notebook that does not fit, or lacks what is asked of it."""


def project_root() -> Path:
    """The checkout with the notebooks: this folder or one above it, else where the package was installed from."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]):
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
        folder, whole = (home / fraction_name(share), home) if share < 1 else (home, None)
        return replace(self, folder=folder, whole=whole)

    @property
    def source(self) -> str:
        """Where the data set comes from: `rendered`, or what lies in the profile's `data` (`origin.source_of`).

        Raises FileError when that is nothing known, RunError when `mano_dir` is given for anything but InterHand2.6M.
        """
        source = detect_source(_from_root(self.profile.data)) if self.profile.data else "rendered"
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
            from ethand_utils.sources.course import read_course

            return read_course(root, out, train=p.train, **limits)
        from ethand_utils.sources.interhand import read_interhand

        return read_interhand(out, root, paired=p.train, hands=self._hands(), seed=p.seed, replace=True, **limits)

    def _hands(self):
        """Who turns InterHand2.6M's annotation into hands: MANO where the profile names its files, else the rig."""
        if self.profile.mano_dir:
            from ethand_utils.hands.mano import ManoHands

            return ManoHands(_from_root(self.profile.mano_dir))
        from ethand_utils.sources.joint_annotations import RigHands

        return RigHands()

    def render_part(self, part: Shard, workers: int) -> None:
        """Render a part of the run's data set, which `dataset` joins with the others."""
        self._render(workers, part)

    def _render(self, workers: int, part: Shard | None = None) -> dict[str, Store]:
        p, out = self.profile, self.data_folder
        return render_dataset(
            out, p.train, p.val, p.test, p.unpaired, p.size, p.seed, workers, True, views=p.views, part=part
        )

    def require_output(self, path: str, notebook: str) -> Path:
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
        return self.require_output(f"{training}/weights.safetensors", notebook)


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


def fraction_name(share: float) -> str:
    """Folder of the trainings on a share of the pairs inside a run: `pairs_5pct` of 0.05."""
    return f"pairs_{100 * share:g}pct"
