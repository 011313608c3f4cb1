"""The chain of notebooks that makes a run: its stages, what each depends on, and how one is executed."""

import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ethand_utils.data.store_builder import Shard
from ethand_utils.dependencies import imported_modules, module_files
from ethand_utils.exceptions import nearest
from ethand_utils.experiments.config import Profile
from ethand_utils.experiments.methods import IMAGES_ROW, ROWS, SHARE_ROWS, adversary, discriminator_name, training_name
from ethand_utils.experiments.run import Run, RunError, fraction_name, open_run, project_root
from ethand_utils.files import atomic_write, hold
from ethand_utils.training.cyclegan.variants import G1_AS_LONG, REFERENCE_VARIANT, VARIANTS, cycle_training


@dataclass(frozen=True)
class Stage:
    """One step of a run: a notebook with parameters. `needs` are stages before it, `makes` files in the run folder."""

    name: str
    notebook: str
    makes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    parameters: dict = dataclasses.field(default_factory=dict)
    gpus: int = 0

    @property
    def trains(self) -> bool:
        """Whether it works a net hard: it gets cores, and `gpus` GPUs where there are any."""
        return self.gpus > 0


def stages(profile: Profile) -> list[Stage]:
    """Every step of a run, in an order in which each comes after what it needs."""
    judges = {row["ADVERSARIAL"]: discriminator_stage(row["ADVERSARIAL"], profile) for row in ROWS}
    judges.pop("none")
    g1, shared = ("g1/result.json", "g1/weights.safetensors"), profile.processes
    chain = [
        Stage("01_data", "01_data", ("data_summary.csv",)),
        Stage("02_explore", "02_explore", ("explore/result.json", "figures/explore.png"), ("01_data",)),
        Stage("03_augment", "03_augment", ("augment/result.json", "figures/augment.png"), ("01_data",)),
        Stage("04_train_g1", "04_train_g1", g1, ("01_data",), gpus=shared),
        *{stage.name: stage for stage in judges.values()}.values(),
        Stage("06_pseudo_labels", "06_pseudo_labels", ("pseudo/result.json",), ("04_train_g1",), gpus=1),
    ]
    rows = [row_stage(row, seed, judges, shared) for seed in range(profile.seeds) for row in ROWS]
    of_cycles = cycle_stages(profile)
    on_shares = [stage for share in profile.shares for stage in share_stages(share, profile)]
    chain += [*rows, *on_shares, *of_cycles]
    trained = [stage.name for stage in (*rows, *on_shares, *of_cycles) if stage.notebook != "06_pseudo_labels"]
    tables = ("table1.csv", "steps.csv", "ablation/result.json", "figures/table1.png")
    tables += ("shares.csv", "figures/shares.png") if profile.shares else ()
    chain.append(Stage("08_ablation", "08_ablation", tables, ("04_train_g1", *trained)))
    full = (rows[len(ROWS) - 1].name,)
    chain.append(Stage("09_errors", "09_errors", ("errors/result.json", "figures/errors.png"), full))
    chain.append(Stage("10_predict", "10_predict", ("predict/result.json", "figures/predict.png"), full))
    return chain


def row_stage(row: dict, seed: int, judges: dict[str, Stage], gpus: int) -> Stage:
    """The training of a row of Table 1 on `gpus` GPUs, if any; `judges` are the stages of D by ADVERSARIAL."""
    parameters = {key: value for key, value in row.items() if key.isupper() and key != "TITLE"} | {"SEED": seed}
    needs = ["01_data"]
    needs += {"none": [], "labels": ["06_pseudo_labels"], "images": [cycle_name(REFERENCE_VARIANT, 0)]}[
        row["GENERATED"]
    ]
    needs += [judges[row["ADVERSARIAL"]].name] if row["ADVERSARIAL"] in judges else []
    folder = training_name(row["ROW"], seed)
    makes = (f"{folder}/result.json", f"{folder}/weights.safetensors")
    return Stage(f"07_train_g2_{row['ROW']}_seed{seed}", "07_train_g2", makes, tuple(needs), parameters, gpus)


def share_stages(share: float, profile: Profile) -> list[Stage]:
    """The trainings on a share of the pairs: G1, its pseudo-labels, and SHARE_ROWS with every seed, in its folder."""
    folder = fraction_name(share)
    rows = [row for row in ROWS if row["ROW"] in SHARE_ROWS]
    makes, shared = ("g1/result.json", "g1/weights.safetensors"), profile.processes
    plain = [
        Stage("04_train_g1", "04_train_g1", makes, ("01_data",), gpus=shared),
        Stage("06_pseudo_labels", "06_pseudo_labels", ("pseudo/result.json",), ("04_train_g1",), gpus=1),
        *(row_stage(row, seed, {}, shared) for seed in range(profile.seeds) for row in rows),
    ]
    return [
        Stage(
            f"{stage.name}_{folder}",
            stage.notebook,
            tuple(f"{folder}/{made}" for made in stage.makes),
            tuple(need if need == "01_data" else f"{need}_{folder}" for need in stage.needs),
            stage.parameters | {"SHARE": share},
            stage.gpus,
        )
        for stage in plain
    ]


def cycle_name(row: str, seed: int) -> str:
    """Name of the stage of a CycleGAN's training."""
    return f"11_cyclegan_{row}_seed{seed}"


def cycle_stages(profile: Profile) -> list[Stage]:
    """The trainings of section 4 that the profile asks for, what compares them, and G2 on images that one made."""
    found = []
    for row in (row for row in VARIANTS if row["ROW"] in profile.cyclegan):
        parameters = {key: row[key] for key in ("ROW", "CYCLES")} | {"REMEDIES": list(row["REMEDIES"])}
        for seed in range(profile.seeds):
            folder, name = cycle_training(row["ROW"], seed), cycle_name(row["ROW"], seed)
            makes = tuple(f"{folder}/{file}" for file in ("result.json", "weights.safetensors", "g_yx.safetensors"))
            given = parameters | {"SEED": seed}
            found.append(Stage(name, "11_cyclegan", makes, ("01_data", "04_train_g1"), given, gpus=1))
    if found:
        # A G1 that has seen as many images as each G_XY, as half of what that sees is not of pairs.
        makes, given = (f"{G1_AS_LONG}/result.json",), {"NAME": G1_AS_LONG, "EPOCHS": 2 * profile.cyclegan_epochs}
        found.append(Stage(f"04_train_{G1_AS_LONG}", "04_train_g1", makes, ("01_data",), given, profile.processes))
        tables = ("cyclegan.csv", "cyclegan/result.json", "figures/cyclegan.png")
        found.append(Stage("12_cyclegan_rows", "12_cyclegan_rows", tables, tuple(stage.name for stage in found)))
    if REFERENCE_VARIANT in profile.cyclegan:
        found.append(row_stage(IMAGES_ROW, 0, {}, profile.processes))
    return found


def discriminator_stage(adversarial: str, profile: Profile) -> Stage:
    """The training of D that a row with this ADVERSARIAL needs; the same stage where the same D serves."""
    seen, _ = adversary(adversarial, profile)
    folder = discriminator_name(profile, seen)
    name = "05_train_discriminator" + folder.removeprefix("d")
    parameters = {} if folder == "d" else {"ADVERSARIAL": adversarial}
    makes = (f"{folder}/result.json", f"{folder}/weights.safetensors")
    return Stage(name, "05_train_discriminator", makes, ("04_train_g1",), parameters, profile.processes)


def render_shards(profile: Profile) -> list[Shard]:
    """Parts of a run's data set that are rendered as jobs of their own before the first stage joins them, if any."""
    count = profile.render_parts if profile.data is None and profile.render_parts > 1 else 0
    return [Shard(number, count) for number in range(1, count + 1)]


# Snakemake's options by which jobs may go to other machines, whose cores and GPUs are not to be counted here.
ELSEWHERE = ("--executor", "-e", "--profile", "--workflow-profile")


def snakemake(folder: Path, cores: int, options: list[str]) -> int:
    """Let Snakemake bring a run up to date; returns its exit status.

    It has `cores` (0: all) and every GPU of this machine, unless `options` send jobs elsewhere. Raises what
    `Run.source` does, before anything starts.
    """
    print(f"data: {open_run(folder.name).source}")
    return subprocess.run(snakemake_command(folder, cores, options), cwd=project_root()).returncode


def snakemake_command(folder: Path, cores: int, options: list[str]) -> list[str]:
    """The words that call Snakemake; `options` come last, so that they may override, or name targets.

    A profile's folder among them is taken from the checkout on, wherever the command is called.
    """
    root = project_root()
    options = [str(root / word) if (root / word / "config.yaml").exists() else word for word in options]
    elsewhere = any(word.split("=")[0] in ELSEWHERE for word in options)
    limits = [] if elsewhere and not cores else ["--cores", str(cores or len(os.sched_getaffinity(0)))]
    if gpu_count() and not elsewhere:
        limits += ["--resources", f"gpu={gpu_count()}"]
    # What takes one word only ends the list: an option that takes several would swallow a target.
    given = {"snakefile": root / "Snakefile", "directory": folder, "max-checksum-file-size": 0}
    command = [sys.executable, "-m", "snakemake", "--rerun-incomplete", "--nolock", *limits]
    return [*command, *(word for name, value in given.items() for word in (f"--{name}", str(value))), *options]


def gpu_count() -> int:
    """GPUs that PyTorch can use."""
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def reserve_gpus(folder: Path, count: int, needed: int = 1):
    """Keep `needed` GPUs for the process and its kernels, if as many of `count` are free; else as many as are.

    Where CUDA_VISIBLE_DEVICES lists GPUs already, as a cluster's scheduler does, they are of those. With none free
    nothing changes.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = listed.split(",") if listed else [str(number) for number in range(count)]
    kept = []
    with contextlib.ExitStack() as stack:
        for name in names[:count]:
            if len(kept) < needed:
                lock = stack.enter_context(open(folder / f".gpu{name}.lock", "w"))
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    kept.append(name)
        if kept:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(kept)
        yield


def run_lock(folder: Path) -> contextlib.AbstractContextManager:
    """Hold a run for this process, and free it however the process ends. Raises RunError when another holds it."""
    busy = RunError(f"{folder}: another `ethand run` is at work here; wait for it or use another --name")
    return hold(folder / ".lock", busy)


@cache
def notebook_inputs(notebook: str) -> tuple[str, ...]:
    """Files a notebook depends on: itself and the package's modules it imports, directly or through one another."""
    path = project_root() / "notebooks" / f"{notebook}.ipynb"
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return (str(path), *module_files(*imported_modules(code)))


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
