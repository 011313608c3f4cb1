"""A run: its folder, settings and data set, and the results that its trainings save."""

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import unicodedata
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ethand_utils.data.datasets import REPORT, require_stores
from ethand_utils.data.store import Store
from ethand_utils.data.store_builder import Shard
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import Profile, brief, fraction_name, load_profile, write_profile
from ethand_utils.files import atomic_write, first_line, write_json
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.sources.detect import RENDERED, SOURCES, detect_source, find_source
from ethand_utils.sources.request import ReadRequest

if TYPE_CHECKING:
    from fastai.learner import Learner

LIBRARIES = ("torch", "fastai", "timm", "segmentation-models-pytorch", "numpy", "embreex")
# At least one of these lies in the folder of every training that has begun.
TRAINING_FILES = (".train.lock", "train.log", "history.csv", "state", "weights.safetensors", "result.json")
MAX_NAME = 120  # bytes of a run's name; file systems allow 255, and locks and temporary files are longer
RELEASED_NAME = "released"  # value of `g1_init` and `g2_init`: the package's own weights
REFERENCE = "reference"  # folder below outputs/ with the results of a finished run, which git keeps
DEMO_MARK = "demo.json"  # file by which a folder below outputs/ is that of `ethand demo`


class RunError(EthandError):
    """A run folder or notebook that does not fit, or lacks what is asked of it."""


def project_root() -> Path:
    """Return the checkout with the notebooks: this folder or one above it. Raises RunError where there is none.

    No other folder is tried, so that results never go into another checkout than the notebook's or command's own.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if _is_checkout(folder):
            return folder
    own = Path(__file__).resolve().parents[2]
    example = own if _is_checkout(own) else "CHECKOUT"
    raise RunError(
        f"{Path.cwd()}: not inside a checkout of the project, so there is no outputs/ to write to; change to one first "
        f"(`cd {shlex.quote(str(example))}`; papermill: --cwd {shlex.quote(f'{example}/notebooks')})"
    )


def _is_checkout(folder: Path) -> bool:
    return (folder / "notebooks" / "01_data.ipynb").exists() and (folder / "Snakefile").exists()


def own_folder(root: Path, folder: Path) -> Path:
    """Return the path `outputs/<name>/` in the checkout `root` of the run in a folder.

    The two differ where a link leads out of the checkout: Snakemake works in its target, whose path shows neither the
    run's name nor the checkout. Raises RunError when the folder is no run of the checkout.
    """
    outputs = root / "outputs"
    for own in (outputs / folder.name, *sorted(outputs.glob("*"))):
        if own.exists() and own.samefile(folder):
            return own
    raise RunError(f"{folder}: no run of {root}; expected a folder inside {outputs}")


def run_folder(name: str | int) -> Path:
    """Return the folder of a run: `outputs/<name>/` of the checkout.

    Raises RunError as `run_name` does, and for the folders of the reference and of the demo.
    """
    folder = project_root() / "outputs" / run_name(name)
    if folder.name == REFERENCE or ((folder / DEMO_MARK).exists() and not (folder / "profile.yaml").exists()):
        maker = "`make reference`" if folder.name == REFERENCE else "`ethand demo`"
        raise RunError(f"{folder}: is for the results of {maker}, not for a run; choose another name")
    return folder


def run_name(name: str | int, parameter: str = "RUN") -> str:
    """Return the name of a run, or of a training inside one (`parameter` says which), if it is one plain folder name.

    Raises RunError for a name that leads to another folder (`a/b`, `..`), that a shell, a listing or another system may
    take for something else, or that papermill's -p reads as another one (`007` as 7).
    """
    if isinstance(name, bool | float) or name is None:
        raise RunError(f"{parameter}: {name!r}, which is not text; expected a name (papermill: -r {parameter} NAME)")
    text = unicodedata.normalize("NFC", str(name))
    faults = {
        "has more than one folder": bool({"/", "\\"} & {*text}),
        "has characters that cannot be printed": not text.isprintable(),
        "is empty": not text.strip(),
        "begins or ends with a space": text != text.strip(),
        f"begins with {text[:1]!r}": text.startswith((".", "-", "~")),
        f"is longer than {MAX_NAME} bytes": len(text.encode(errors="replace")) > MAX_NAME,
        "is read by papermill as something else": _by_papermill(text) != text,
    }
    for fault, applies in faults.items():
        if applies:
            raise RunError(f"{parameter}: {brief(text)} {fault}; expected one plain name, such as {_plain(text)}")
    return text


def _by_papermill(name: str) -> str:
    """Return a name as it comes out of papermill's option -p, which reads numbers, True, False and None."""
    if name in ("True", "False", "None"):
        return ""
    with contextlib.suppress(ValueError):
        return str(int(name))
    with contextlib.suppress(ValueError):
        float(name)
        return ""
    return name


def _plain(text: str) -> str:
    """Return a valid name that is like a refused one."""
    plain = "-".join(re.findall(r"\w+", text))[:20] or "mine"
    return plain if _by_papermill(plain) == plain else f"run-{plain}"


def as_list(value, of_lists: bool = False) -> list:
    """Return a notebook's list parameter as a list: a value given alone, as papermill's -p does, is a list of one.

    With `of_lists`, for lists of lists such as boxes, a list of numbers alone is one item. None and '' are empty.
    """
    if value is None or value == "":
        return []
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [values] if of_lists and values and all(isinstance(one, int | float) for one in values) else values


@dataclass(frozen=True)
class Run:
    """A run: `outputs/<name>/` and its profile; `folder` is where its trainings and results are.

    On a fraction of the pairs that is a folder inside `home`, the run's own (`at_fraction`).
    """

    folder: Path
    profile: Profile
    home: Path | None = None

    @property
    def name(self) -> str:
        """The name of the run's own folder."""
        return (self.home or self.folder).name

    def at_fraction(self, label_fraction: float) -> "Run":
        """Return the run with its trainings on a fraction of the pairs: on its data, in a folder inside its own.

        A fraction of 1 is the run as it is. Raises RunError for anything but a number above 0 and at most 1.
        """
        if not 0 < label_fraction <= 1:
            raise RunError(f"LABEL_FRACTION: {label_fraction:g}, expected a number above 0 and at most 1")
        home = self.home or self.folder
        if label_fraction == 1:
            return replace(self, folder=home, home=None)
        return replace(self, folder=home / fraction_name(label_fraction), home=home)

    @property
    def source(self) -> str:
        """The name in SOURCES of the data set's source: `rendered`, or what lies in the profile's `data`.

        Raises FileError when that is of no known source, RunError when `mano_dir` is given for one without use for it.
        """
        name = detect_source(from_root(self.profile.data)) if self.profile.data else RENDERED
        if self.profile.mano_dir and not find_source(name).uses_mano:
            users = " or ".join(source.title for source in SOURCES.values() if source.uses_mano)
            raise RunError(
                f"mano_dir: {self.profile.mano_dir}, but the data set is {name}; MANO's hands are for the annotation "
                f"of {users}, so set data to its folder, or mano_dir to null"
            )
        return name

    @property
    def data_folder(self) -> Path:
        """The folder of the run's data set: stores that exist stay where they are, others are in `data/` of the run."""
        in_place = find_source(self.source).in_place
        return from_root(self.profile.data) if in_place else (self.home or self.folder) / "data"

    def dataset(self, *needed: str) -> dict[str, Store]:
        """Return the run's stores by name; missing ones are rendered, or read from the profile's `data`.

        The profile's counts and size hold for all that is built; counts are limits where data are read. Raises
        StoreError when one of `needed` is not among the stores, and what the source raises.
        """
        return require_stores(self._read(len(os.sched_getaffinity(0))), self.data_folder, *needed)

    @property
    def g1_init(self) -> str | Path | None:
        """The weights that G1 starts from, for `training.start_from`. Raises RunError when their file is missing."""
        return self._start("g1_init")

    @property
    def g2_init(self) -> str | Path | None:
        """The weights that G2 starts from, in the same way as `g1_init`; the baseline is another net, and has none."""
        return self._start("g2_init")

    def _start(self, key: str) -> str | Path | None:
        path = getattr(self.profile, key)
        if path in (None, RELEASED_NAME):
            return path
        if not from_root(path).is_file():
            raise RunError(f"{key}: {path}: no such file; expected {RELEASED_NAME}, the weights of a run, or null")
        return from_root(path)

    @property
    def report(self) -> dict:
        """The source's `report.json` on what it kept and skipped; empty where there is none."""
        path = self.data_folder / REPORT
        if not (find_source(self.source).needs_folder and path.exists()):
            return {}
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise RunError(
                f"{path}: damaged ({first_line(error)}); expected the JSON that reading the data wrote"
            ) from None

    def render_shard(self, shard: Shard, workers: int) -> None:
        """Render a shard of the run's data set, which `dataset` merges with the others."""
        self._read(workers, shard)

    def _read(self, workers: int, shard: Shard | None = None) -> dict[str, Store]:
        """Let the source build the run's stores; complete ones are kept, unfinished ones resumed."""
        p = self.profile
        root, mano = (from_root(path) if path else None for path in (p.data, p.mano_dir))
        counts = {"train": p.train, "val": p.val, "test": p.test, "unpaired": p.unpaired}
        how = {"workers": workers, "shard": shard, "replace": True}
        options = RenderOptions(**{name: getattr(p, name) for name in RenderOptions.__dataclass_fields__})
        request = ReadRequest(**counts, size=p.size, seed=p.seed, options=options, mano_dir=mano, **how)
        return find_source(self.source).read(root, self.data_folder, request)

    def require_output(self, path: str, notebook: str) -> Path:
        """Return a file or folder of the run that another notebook makes. Raises RunError when it is not there yet."""
        if not (self.folder / path).exists():
            raise RunError(
                f"{self.folder / path}: not there yet; run notebooks/{notebook}.ipynb with the same RUN={self.name} "
                "(and LABEL_FRACTION, where it has one) first, or everything with "
                f"`ethand run outputs/{self.name}/profile.yaml --name {self.name}`"
            )
        return self.folder / path

    def training_folder(self, name: str | int) -> Path:
        """Return the folder of a training inside the run. Raises RunError for a name that is no training's."""
        folder = self.folder / run_name(name, "NAME")
        if any(folder.glob("*")) and not any((folder / file).exists() for file in TRAINING_FILES):
            raise RunError(f"NAME: {folder} holds something else than a training; expected another name")
        return folder

    def weights(self, training: str) -> Path:
        """Return the weights of a finished training: `g1`, the folder of a D, or `g2/<method>/seed<k>`."""
        kind = training.split("/")[0].split("_")[0]
        notebook = {"g1": "04_train_g1", "d": "05_train_discriminator", "g2": "07_train_g2"}[kind]
        return self.require_output(f"{training}/weights.safetensors", notebook)


def from_root(path: str) -> Path:
    """Return the path that a profile names: absolute, below the user's home (`~`), or relative to the checkout."""
    return project_root() / Path(path).expanduser()


def open_run(name: str | int, profile: str = "tiny", data: str = "") -> Run:
    """Open the run `outputs/<name>/`, made with `profile` if it is new, and then with `data` in place of the profile's.

    An existing run keeps the profile it was made with, so that a notebook opened alone continues it; `ethand run`
    writes a changed profile itself. Raises RunError for a name that `run_folder` refuses and when an existing run has
    other data than `data`, FileError when a new run's `data` is nothing known, and for a new run what `check` does.
    """
    from ethand_utils.experiments.checks import check  # whose nets need PyTorch

    folder, profile, data = run_folder(name), str(profile), str(data)  # papermill gives 2024 as a number
    if not (folder / "profile.yaml").exists():
        run = Run(folder, load_profile(profile, {"data": data} if data else None))
        check(run, whole=False)  # what is refused must not stay in a profile
        write_profile(folder, run.profile)
    run = Run(folder, load_profile(folder / "profile.yaml"))
    if data and not (run.profile.data and from_root(run.profile.data).resolve() == from_root(data).resolve()):
        raise RunError(
            f"{folder / 'profile.yaml'}: this run was made with data {run.profile.data or 'null (rendered)'}, not "
            f"{data}; choose another name for RUN, or leave DATA empty to go on with this one"
        )
    return run


def open_finished(name: str | int) -> Run:
    """Open a run that is there already; nothing is written. Raises RunError where there is none."""
    folder = run_folder(name)
    if not (folder / "profile.yaml").is_file():
        raise RunError(f"{folder}: no such run; expected the name of a run in outputs/ (`ethand run` makes one)")
    return Run(folder, load_profile(folder / "profile.yaml"))


def save_result(folder: str | Path, scores: dict | None = None, learn: "Learner | None" = None, **facts) -> dict:
    """Write and return the flat `result.json` of a training or a notebook: `facts`, `scores`, and where they came from.

    Of the Learner of a finished training: epochs, images seen and seconds of its `history.csv`, parameters and device.
    The state to resume from is dropped then: until here an interruption costs no epoch.
    """
    result = {**facts, **(scores or {}), **(_training_facts(Path(folder), learn) if learn else {})}
    result |= {"versions": versions(), "python": platform.python_version(), "commit": commit()}
    write_json(Path(folder) / "result.json", result)
    shutil.rmtree(Path(folder) / "state", ignore_errors=True)
    return result


def _training_facts(folder: Path, learn: "Learner") -> dict:
    history, weights = pd.read_csv(folder / "history.csv"), list(learn.model.parameters())
    return {
        "epochs": len(history),
        "images_seen": int(history["images"].sum()),
        "seconds": float(history["seconds"].iloc[-1]),
        "parameters": sum(tensor.numel() for tensor in weights if tensor.requires_grad),
        "device": str(weights[0].device),
    }


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as a .csv file, whole or not at all."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


def versions() -> str:
    """Return the versions of the libraries that make the numbers, as one line."""
    return " ".join(f"{name}={version(name)}" for name in LIBRARIES)


def commit() -> str:
    """Return the checkout's commit, or nothing outside a repository and where there is no Git."""
    try:
        completed = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=project_root()
        )
    except FileNotFoundError:
        return ""
    return completed.stdout.strip()
