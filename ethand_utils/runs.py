"""Profiles, run folders, results, and the chain of notebooks that makes a run."""

import ast
import contextlib
import dataclasses
import difflib
import fcntl
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import yaml

from ethand_utils import EthandError
from ethand_utils.datasets import open_dataset, render_dataset
from ethand_utils.store import Store, atomic_write, write_json

PROFILES = Path(__file__).parent / "profiles"
LIBRARIES = ("torch", "fastai", "timm", "segmentation-models-pytorch", "numpy", "embreex")


class RunError(EthandError):
    """A profile, run folder or notebook that does not fit."""


@dataclass(frozen=True)
class Profile:
    """The settings of a run: flat, each explained with its unit in `profiles/*.yaml`."""

    data: str | None
    train: int
    val: int
    test: int
    unpaired: int
    size: int
    seed: int
    g1_arch: str
    g1_encoder: str | None
    g1_widths: list[int] | None
    g2_arch: str
    g2_encoder: str | None
    g2_widths: list[int] | None
    baseline_widths: list[int]
    d_widths: list[int]
    pretrained: bool
    class_weights: str
    g1_epochs: int
    d_epochs: int
    epochs: int
    cycles: list[int]
    bs: int
    bs_unpaired: int
    lr: float
    lr_unpaired: float
    lr_d: float
    lr_schedule: str
    seeds: int

    def __post_init__(self):
        for name in ("train", "val", "test", "unpaired", "size", "epochs", "g1_epochs", "d_epochs", "bs", "seeds"):
            if getattr(self, name) < 1:
                raise RunError(f"{name}: {getattr(self, name)}, expected at least 1")
        if len(self.cycles) != 4 or sum(self.cycles) != self.epochs:
            raise RunError(
                f"cycles: {self.cycles}, expected four numbers of epochs (unpaired, paired, unpaired, paired) that add up "
                f"to epochs ({self.epochs}), so that every row of the table trains equally long"
            )


def load_profile(name: str | Path, changes: dict | None = None) -> Profile:
    """A profile by name (`ci`, `tiny`, `small`, `paper`) or file, with `changes` to single keys.

    Raises RunError for an unknown profile or key (naming the nearest one), a missing key, or a value of another type.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else PROFILES / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
        raise RunError(f"{name}: no such profile{nearest(str(name), known)}; expected one of {', '.join(known)} or a YAML file")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise RunError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    values = {**values, **(changes or {})}
    fields = {field.name: field.type for field in dataclasses.fields(Profile)}
    for key, value in values.items():
        if key not in fields:
            raise RunError(f"{key}: no such setting{nearest(key, fields)}; see {path}")
        values[key] = _checked(key, value, fields[key])
    missing = sorted(set(fields) - set(values))
    if missing:
        raise RunError(f"{path}: {missing[0]} is missing; every setting must be given")
    return Profile(**values)


def _checked(key: str, value, kind):
    """`value` if it is of the type a Profile field asks for; whole numbers pass as float."""
    kinds = getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__origin__") else (kind,)
    for kind in kinds:
        plain = getattr(kind, "__origin__", kind)
        if plain is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
            return value
    expected = " or ".join(getattr(k, "__name__", str(k)).replace("NoneType", "null") for k in kinds)
    raise RunError(f"{key}: {value!r}, expected {expected}")


def nearest(word: str, known) -> str:
    """` (did you mean X?)` for the known word most like `word`, or nothing."""
    # Case never matters in a name, but it counts as a difference for difflib.
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def parse_changes(pairs: list[str]) -> dict:
    """`["epochs=3", "lr=1e-3"]` → values as YAML reads them. Raises RunError for a pair without `=`."""
    changes = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise RunError(f"--set {pair}: expected KEY=VALUE")
        value = yaml.safe_load(value)
        with contextlib.suppress(TypeError, ValueError):  # YAML 1.1 reads 1e-3 as text
            value = float(value) if isinstance(value, str) else value
        changes[key.strip()] = value
    return changes


def project_root() -> Path:
    """The checkout with the notebooks: the current folder or one above it, else where the package was installed from."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parent.parent):
        if (folder / "notebooks" / "01_data.ipynb").exists() and (folder / "Snakefile").exists():
            return folder
    raise RunError(f"{Path.cwd()}: no notebooks here; call this inside a checkout of the project")


@dataclass(frozen=True)
class Run:
    """A run: `outputs/<name>/` and its profile."""

    folder: Path
    profile: Profile

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def data_folder(self) -> Path:
        """Where the run's data set is: the profile's `data`, or `data/` in the run."""
        return project_root() / self.profile.data if self.profile.data else self.folder / "data"

    def dataset(self) -> dict[str, Store]:
        """The run's stores by name, rendered now where the profile names no other data and they are not there yet."""
        if self.profile.data:
            return open_dataset(self.data_folder)
        p, workers = self.profile, len(os.sched_getaffinity(0))
        return render_dataset(
            self.data_folder, p.train, p.val, p.test, p.unpaired, p.size, p.seed, workers, replace=True
        )

    def made(self, path: str, notebook: str) -> Path:
        """A file or folder of the run that another notebook makes. Raises RunError when it is not there yet."""
        if not (self.folder / path).exists():
            raise RunError(
                f"{self.folder / path}: not there yet; run notebooks/{notebook}.ipynb with RUN={self.name} first, "
                f"or everything with `ethand run --name {self.name}`"
            )
        return self.folder / path

    def weights(self, training: str) -> Path:
        """Weights of a finished training: `g1`, `d` or `g2/<row>/seed<k>`."""
        notebook = {"g1": "04_train_g1", "d": "05_train_discriminator"}.get(training, "07_train_g2")
        return self.made(f"{training}/weights.safetensors", notebook)


def open_run(name: str, profile: str = "tiny", changes: dict | None = None) -> Run:
    """The run `outputs/<name>/`, made with `profile` and `changes` if it is new.

    An existing run keeps the profile it was made with, so that a notebook opened alone continues it; `ethand run`
    writes a changed profile itself.
    """
    folder = project_root() / "outputs" / name
    if not (folder / "profile.yaml").exists():
        write_profile(folder, load_profile(profile, changes))
    return Run(folder, load_profile(folder / "profile.yaml"))


def write_profile(folder: Path, profile: Profile) -> None:
    """Write the resolved profile of a run; a file that says the same is left untouched, so that nothing runs again."""
    path = folder / "profile.yaml"
    text = yaml.safe_dump(dataclasses.asdict(profile), sort_keys=False)
    if not path.exists() or path.read_text() != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text)


def save_result(folder: str | Path, **values) -> dict:
    """Write `result.json` of a training: `values` and the versions, device and commit they came from, flat."""
    result = {**values, "versions": versions(), "python": platform.python_version(), "commit": commit()}
    write_json(Path(folder) / "result.json", result)
    return result


def versions() -> str:
    """The libraries that make the numbers, as one line."""
    return " ".join(f"{name}={version(name)}" for name in LIBRARIES)


def commit() -> str:
    """The checkout's commit, or nothing outside a repository."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=project_root())
    return asked.stdout.strip()


@dataclass(frozen=True)
class Stage:
    """One step of a run: a notebook with parameters. `needs` are stages before it, `makes` files in the run folder."""

    name: str
    notebook: str
    makes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    parameters: dict = dataclasses.field(default_factory=dict)
    trains: bool = False


# The rows of the report's Table 1: parameters of notebook 07, and the report's score.
ROWS = (
    dict(ROW="baseline", TITLE="Baseline model", MODEL="baseline", LOSS="ce", WEIGHTED=False, GENERATED=False, ADVERSARIAL=False, reported=0.49801),
    dict(ROW="unetpp_ce", TITLE="U-Net++ w/ CE", MODEL="g2", LOSS="ce", WEIGHTED=False, GENERATED=False, ADVERSARIAL=False, reported=0.53739),
    dict(ROW="unetpp_weighted", TITLE="w/ weighted CE", MODEL="g2", LOSS="ce", WEIGHTED=True, GENERATED=False, ADVERSARIAL=False, reported=0.53916),
    dict(ROW="unetpp_dice", TITLE="w/ weighted CE, Dice", MODEL="g2", LOSS="ce_dice", WEIGHTED=True, GENERATED=False, ADVERSARIAL=False, reported=0.54449),
    dict(
        ROW="unetpp_generated",
        TITLE="w/ weighted CE, Dice, gen. labels",
        MODEL="g2",
        LOSS="ce_dice",
        WEIGHTED=True,
        GENERATED=True,
        ADVERSARIAL=False,
        reported=0.55771,
    ),
    dict(
        ROW="unetpp_full",
        TITLE="w/ weighted CE, Dice, gen. labels, adv.",
        MODEL="g2",
        LOSS="ce_dice",
        WEIGHTED=True,
        GENERATED=True,
        ADVERSARIAL=True,
        reported=0.55804,
    ),
)
FULL_ROW = ROWS[-1]["ROW"]


def training_name(row: str, seed: int) -> str:
    """Folder of a row's training inside a run."""
    return f"g2/{row}/seed{seed}"


def stages(profile: Profile) -> list[Stage]:
    """Every step of a run, in an order in which each comes after what it needs."""
    chain = [
        Stage("01_data", "01_data", ("data_summary.csv",)),
        Stage("02_explore", "02_explore", ("explore/result.json", "figures/explore.png"), ("01_data",)),
        Stage("03_augment", "03_augment", ("augment/result.json", "figures/augment.png"), ("01_data",)),
        Stage("04_train_g1", "04_train_g1", ("g1/result.json", "g1/weights.safetensors"), ("01_data",), trains=True),
        Stage(
            "05_train_discriminator",
            "05_train_discriminator",
            ("d/result.json", "d/weights.safetensors"),
            ("04_train_g1",),
            trains=True,
        ),
        Stage("06_pseudo_labels", "06_pseudo_labels", ("pseudo/result.json",), ("04_train_g1",), trains=True),
    ]
    trained = []
    for seed in range(profile.seeds):
        for row in ROWS:
            folder = training_name(row["ROW"], seed)
            parameters = {k: v for k, v in row.items() if k.isupper() and k != "TITLE"} | {"SEED": seed}
            needs = ["01_data"]
            needs += ["06_pseudo_labels"] if row["GENERATED"] else []
            needs += ["05_train_discriminator"] if row["ADVERSARIAL"] else []
            name = f"07_train_g2_{row['ROW']}_seed{seed}"
            makes = (f"{folder}/result.json", f"{folder}/weights.safetensors")
            chain.append(Stage(name, "07_train_g2", makes, tuple(needs), parameters, trains=True))
            trained.append(name)
    chain.append(Stage("08_ablation", "08_ablation", ("table1.csv", "ablation/result.json", "figures/table1.png"), ("04_train_g1", *trained)))
    chain.append(Stage("10_predict", "10_predict", ("predict/result.json", "figures/predict.png"), (trained[len(ROWS) - 1],)))
    return chain


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
    """Table 1 from `results`: for each row the report's score and ours (mean over seeds), Δ baseline % and Δ previous %.

    Both Δ are relative, as in the report; Δ previous starts at the third row, which the report compares first.
    """
    table = pd.DataFrame([{"row": row["ROW"], "model": row["TITLE"], "reported": row["reported"]} for row in ROWS])
    table["ours"] = table["row"].map(found.groupby("row")["course_miou"].mean())
    for source in ("reported", "ours"):
        scores = table[source]
        table[f"{source}_delta_baseline_pct"] = (100 * (scores / scores[0] - 1)).where(table.index > 0)
        table[f"{source}_delta_previous_pct"] = (100 * (scores / scores.shift() - 1)).where(table.index > 1)
    columns = ["reported", "ours"]
    columns += [f"{source}_delta_{to}_pct" for to in ("baseline", "previous") for source in ("reported", "ours")]
    return table[["row", "model", *columns]]


def gpu_count() -> int:
    """GPUs that PyTorch can use."""
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def only_one(folder: Path):
    """Hold a run for this process, and free it however the process ends. Raises RunError when another holds it."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another `ethand run` is at work here; wait for it or give --name another run") from None
        yield


@cache
def sources(notebook: str) -> tuple[str, ...]:
    """Files a notebook depends on: itself and the package's modules it imports, directly or through one another."""
    path = project_root() / "notebooks" / f"{notebook}.ipynb"
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return (str(path), *module_sources(*_imports(code)))


def module_sources(*names: str) -> tuple[str, ...]:
    """Files of the package's modules by name, and of those they import in turn."""
    package, found, todo = Path(__file__).parent, set(), set(names)
    while todo:
        module = package / f"{todo.pop()}.py"
        if module not in found and module.exists():
            found.add(module)
            todo |= _imports(module.read_text())
    return tuple(sorted(map(str, found)))


def _imports(code: str) -> set[str]:
    """Names of the package's modules that a piece of Python imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ethand_utils":
            inside = node.module.split(".")[1:]
            names |= {inside[0]} if inside else {alias.name for alias in node.names}
    return names


def execute(run: Run, stage: Stage) -> Path:
    """Run a stage's notebook by papermill into the run's `notebooks/`, and write it as HTML into `html/`.

    The notebook's own output is shown as it comes. Raises RunError naming notebook, cell and file when a parameter is
    unknown or a cell fails; the partly executed copy stays.
    """
    import papermill
    from nbconvert import HTMLExporter

    source = project_root() / "notebooks" / f"{stage.notebook}.ipynb"
    parameters = {"RUN": run.name, **stage.parameters}
    known = papermill.inspect_notebook(str(source))
    for name in parameters:
        if name not in known:
            raise RunError(f"{source}: has no parameter {name}{nearest(name, known)}")
    executed = run.folder / "notebooks" / f"{stage.name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters,
            progress_bar=False,
            stdout_file=sys.stdout,
            cwd=str(source.parent),
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(
            f"notebook {source.name} failed in code cell {error.exec_count} ({error.ename}: {error.evalue}); "
            f"the copy run so far is {executed}"
        ) from None
    page, _ = HTMLExporter().from_filename(str(executed))
    with atomic_write(run.folder / "html" / f"{stage.name}.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return executed
