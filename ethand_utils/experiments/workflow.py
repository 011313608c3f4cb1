"""The chain of notebooks that makes a run: its stages, what each depends on, and how one is executed."""

import contextlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import yaml

from ethand_utils.data.store_builder import Shard
from ethand_utils.dependencies import imported_modules, module_files
from ethand_utils.exceptions import nearest, require_known
from ethand_utils.experiments.config import Profile, concerning, fraction_name
from ethand_utils.experiments.methods import (
    FRACTION_METHODS,
    IMAGES_METHOD,
    METHODS,
    Method,
    adversary,
    chosen_methods,
    fraction_methods,
    main_method,
    peer_methods,
)
from ethand_utils.experiments.processes import call, ending_with_this
from ethand_utils.experiments.run import Run, RunError, open_run, project_root
from ethand_utils.experiments.slurm import wait_for_jobs
from ethand_utils.experiments.stage_failures import forget_failures, print_failures
from ethand_utils.files import atomic_write, hold
from ethand_utils.locks import BusyError, hold_named
from ethand_utils.training.cyclegan.variants import G1_AS_LONG, REFERENCE_VARIANT, VARIANTS, cycle_training

# Fields of a method that decide its results, unlike its title and the report's score.
METHOD_FIELDS = ("net", "loss", "weighted", "unlabelled", "adversary", "constants")
# Modules whose changes make no stage stale: what concerns a stage of the first two is in its settings file, and the
# checks before a run change no result.
BY_VALUE = ("experiments.config", "experiments.methods", "experiments.checks")
# Snakemake's options by which jobs may go to other machines, whose cores and GPUs are not to be counted here.
ELSEWHERE = ("--executor", "-e", "--profile", "--workflow-profile")
DRY = ("--dry-run", "--dryrun", "-n")
CHAIN_LOCK = ".snakemake.lock"  # in a run's folder, held by Snakemake
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, of Windows' Linux
G1_FILES = ("g1/result.json", "g1/weights.safetensors")
# The settings that concern each notebook; that of G2 asks its method (`Method.settings`).
SETTINGS = {
    "01_data": concerning("data"),
    "02_explore": ("seed", "class_weights"),
    "03_augment": concerning("augment"),
    "04_train_g1": concerning("augment", "loss", "optimiser", "g1"),
    "05_train_discriminator": ("bs", "lr_schedule", *concerning("augment", "d")),
    "06_pseudo_labels": concerning("pseudo"),
    "08_ablation": ("label_fractions",),
    "11_cyclegan": concerning("augment", "loss", "optimiser", "cyclegan"),
    "13_peers": ("label_fractions", "peers"),
    "14_release": concerning("augment", "loss", "optimiser", "g1"),
}


@dataclass(frozen=True)
class Stage:
    """One step of a run: a notebook with parameters.

    `needs` are stages before it, `makes` files in the run folder, `settings` the keys of the profile that concern it.
    """

    name: str
    notebook: str
    makes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    parameters: dict = field(default_factory=dict)
    gpus: int = 0
    method: Method | None = None

    @property
    def trains(self) -> bool:
        """Whether it trains nets or runs them over a store: it gets cores, and `gpus` GPUs where there are any."""
        return self.gpus > 0

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that concern it; another value of one of them makes it stale."""
        return self.method.settings if self.method else SETTINGS.get(self.notebook, ())


def stages(profile: Profile) -> list[Stage]:
    """Return every step of a run, in an order in which each comes after what it needs.

    Raises MethodError for a method that does not exist.
    """
    if profile.chain == "release":
        return release_stages(profile)
    methods, gpus = chosen_methods(profile), profile.processes
    trainings = [_method_stage(method, seed, profile) for seed in range(profile.seeds) for method in methods]
    fractions = [stage for fraction in profile.label_fractions for stage in fraction_stages(fraction, profile)]
    cyclegan, peers = cyclegan_stages(profile), peer_stages(profile)
    second_table = [
        s for s in fractions if s.notebook == "04_train_g1" or s.method in map(METHODS.get, FRACTION_METHODS)
    ]
    trained = [s.name for s in (*trainings, *second_table, *cyclegan)]
    tables = ("table1.csv", "steps.csv", "ablation/result.json", "figures/table1.png")
    tables += ("label_fractions.csv", "figures/label_fractions.png") if profile.label_fractions else ()
    main = main_method(profile)
    needs, parameters = (stage_name(METHODS[main], 0),), {"ROW": main}
    return [
        Stage("01_data", "01_data", ("data_summary.csv",)),
        Stage("02_explore", "02_explore", ("explore/result.json", "figures/explore.png"), ("01_data",)),
        Stage("03_augment", "03_augment", ("augment/result.json", "figures/augment.png"), ("01_data",)),
        Stage("04_train_g1", "04_train_g1", G1_FILES, ("01_data",), gpus=gpus),
        *discriminator_stages(methods, profile),
        Stage("06_pseudo_labels", "06_pseudo_labels", ("pseudo/result.json",), ("04_train_g1",), gpus=1),
        *(*trainings, *fractions, *cyclegan, *peers),
        Stage("08_ablation", "08_ablation", tables, ("04_train_g1", *trained)),
        Stage("09_errors", "09_errors", ("errors/result.json", "figures/errors.png"), needs, parameters),
        Stage("10_predict", "10_predict", ("predict/result.json", "figures/predict.png"), needs, parameters),
    ]


def find_stage(profile: Profile, name: str) -> Stage:
    """Return a step of a run by its name. Raises RunError for one that the settings do not ask for."""
    chain = {stage.name: stage for stage in stages(profile)}
    require_known("stage", name, chain, RunError)
    return chain[name]


def release_stages(profile: Profile) -> list[Stage]:
    """Return the steps that make the net of the package."""
    makes = ("release/result.json", "release/weights.safetensors", "figures/release.png")
    return [
        Stage("01_data", "01_data", ("data_summary.csv",)),
        Stage("14_release", "14_release", makes, ("01_data",), gpus=profile.processes),
    ]


def stage_name(method: Method, seed: int) -> str:
    """Return the name of the stage that trains a method with a seed."""
    return f"07_train_g2_{method.name}_seed{seed}"


def _method_stage(method: Method, seed: int, profile: Profile) -> Stage:
    """Return the training of a method with a seed: after the data, the labels or images, and the D that it needs."""
    needs = ["01_data"]
    if method.unlabelled == "pseudo_labels":
        needs.append("06_pseudo_labels")
    elif method.unlabelled == "generated_images":
        needs.append(cyclegan_name(REFERENCE_VARIANT, 0))
    if method.adversary != "none":
        needs.append(discriminator_stage(method.adversary, profile).name)
    folder, parameters = method.training(seed), {"METHOD": method.name, "SEED": seed}
    makes = (f"{folder}/result.json", f"{folder}/weights.safetensors")
    name = stage_name(method, seed)
    return Stage(name, "07_train_g2", makes, tuple(needs), parameters, profile.processes, method)


def fraction_stages(fraction: float, profile: Profile) -> list[Stage]:
    """Return the trainings on a fraction of the pairs, in its own folder.

    G1, its pseudo-labels, and `fraction_methods` with every seed, and the D that they need.
    """
    folder, methods = fraction_name(fraction), fraction_methods(profile)
    on_all = [
        Stage("04_train_g1", "04_train_g1", G1_FILES, ("01_data",), gpus=profile.processes),
        *discriminator_stages(methods, profile),
        Stage("06_pseudo_labels", "06_pseudo_labels", ("pseudo/result.json",), ("04_train_g1",), gpus=1),
        *(_method_stage(method, seed, profile) for seed in range(profile.seeds) for method in methods),
    ]
    return [
        replace(
            stage,
            name=f"{stage.name}_{folder}",
            makes=tuple(f"{folder}/{file}" for file in stage.makes),
            needs=tuple(need if need == "01_data" else f"{need}_{folder}" for need in stage.needs),
            parameters=stage.parameters | {"LABEL_FRACTION": fraction},
        )
        for stage in on_all
    ]


def peer_stages(profile: Profile) -> list[Stage]:
    """Return the trainings of the profile's `peers` on all pairs, and what compares them with the report's methods."""
    peers = peer_methods(profile)
    if not peers:
        return []
    chain = [_method_stage(method, seed, profile) for seed in range(profile.seeds) for method in peers]
    tables = ("peers.csv", "peer_steps.csv", "peers/result.json", "figures/peers.png")
    compared = [*chosen_methods(profile), *peers]
    needs = [stage_name(method, seed) for seed in range(profile.seeds) for method in compared]
    for fraction in map(fraction_name, profile.label_fractions):
        names = [stage_name(method, seed) for seed in range(profile.seeds) for method in fraction_methods(profile)]
        needs += [f"{name}_{fraction}" for name in names]
    return [*chain, Stage("13_peers", "13_peers", tables, tuple(needs))]


def cyclegan_name(variant: str, seed: int) -> str:
    """Return the name of the stage that trains a CycleGAN."""
    return f"11_cyclegan_{variant}_seed{seed}"


def cyclegan_stages(profile: Profile) -> list[Stage]:
    """Return the CycleGANs that the profile asks for, what compares them, and G2 on images that one made."""
    chain = []
    for variant in (variant for variant in VARIANTS.values() if variant.name in profile.cyclegan):
        for seed in range(profile.seeds):
            folder, name = cycle_training(variant.name, seed), cyclegan_name(variant.name, seed)
            makes = tuple(f"{folder}/{file}" for file in ("result.json", "weights.safetensors", "g_yx.safetensors"))
            parameters = variant.parameters | {"SEED": seed}
            chain.append(Stage(name, "11_cyclegan", makes, ("01_data", "04_train_g1"), parameters, gpus=1))
    if chain:
        # A G1 that has seen as many images as each G_XY, as half of what that sees is not of pairs.
        makes, parameters = (f"{G1_AS_LONG}/result.json",), {"NAME": G1_AS_LONG, "EPOCHS": 2 * profile.cyclegan_epochs}
        chain.append(Stage(f"04_train_{G1_AS_LONG}", "04_train_g1", makes, ("01_data",), parameters, profile.processes))
        tables = ("cyclegan.csv", "cyclegan/result.json", "figures/cyclegan.png")
        chain.append(Stage("12_cyclegan_rows", "12_cyclegan_rows", tables, tuple(stage.name for stage in chain)))
    if REFERENCE_VARIANT in profile.cyclegan:
        chain.append(_method_stage(METHODS[IMAGES_METHOD], 0, profile))
    return chain


def discriminator_stages(methods: Sequence[Method], profile: Profile) -> list[Stage]:
    """Return the trainings of the D that methods need, each once."""
    chain = (discriminator_stage(method.adversary, profile) for method in methods if method.adversary != "none")
    return list({stage.name: stage for stage in chain}.values())


def discriminator_stage(name: str, profile: Profile) -> Stage:
    """Return the training of the D that an adversary (one of ADVERSARIES) needs; equal ones are one stage."""
    folder = adversary(name, profile).folder
    parameters = {} if folder == "d" else {"ADVERSARY": name}
    makes = (f"{folder}/result.json", f"{folder}/weights.safetensors")
    stage = "05_train_discriminator" + folder.removeprefix("d")
    return Stage(stage, "05_train_discriminator", makes, ("04_train_g1",), parameters, profile.processes)


def settings_file(stage: Stage) -> str:
    """Return the file of a run that holds the settings which concern a stage; the stage depends on it."""
    return f"settings/{stage.name}.yaml"


def write_stage_settings(run: Run) -> None:
    """Write the settings that concern each stage, so that a stage is stale where one of them has changed.

    A file that says the same is left untouched. One that again says what the stage was last executed with gets the
    time of that execution, so that a change taken back makes nothing stale.
    """
    for stage in stages(run.profile):
        path, text = run.folder / settings_file(stage), _settings_text(run, stage)
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        with atomic_write(path) as temporary:
            temporary.write_bytes(text.encode())
            record = _executed_settings(run, stage)
            if record.is_file() and record.read_bytes() == text.encode():
                os.utime(temporary, ns=(record.stat().st_atime_ns, record.stat().st_mtime_ns))


def _settings_text(run: Run, stage: Stage) -> str:
    """Return the settings that concern a stage as YAML, its parameters, and what its method is and does with them."""
    values = {key: getattr(run.profile, key) for key in stage.settings} | {"parameters": stage.parameters}
    if stage.method:
        values["method"] = {key: getattr(stage.method, key) for key in METHOD_FIELDS}
        values["phases"] = [asdict(phase) for phase in stage.method.phases(run.profile)]
    return yaml.safe_dump(values, sort_keys=False)


def _executed_settings(run: Run, stage: Stage) -> Path:
    """Return the file with the settings that a stage was last executed with."""
    return run.folder / "settings" / "executed" / f"{stage.name}.yaml"


def render_shards(profile: Profile) -> list[Shard]:
    """Return the shards of a run's data set that are rendered as jobs of their own before the first stage merges them.

    There are none where the first stage renders all, or none is rendered.
    """
    count = profile.render_parts if profile.data is None else 1
    return [Shard(number, count) for number in range(1, count + 1)] if count > 1 else []


def snakemake(folder: Path, cores: int, options: list[str]) -> tuple[int, int | None]:
    """Let Snakemake bring a run up to date; return its exit status, and the signal that stopped it, if one did.

    It has `cores` (0: all) and every GPU of this machine, unless `options` send jobs elsewhere.
    """
    run = open_run(folder.name)
    print(f"data: {run.source}", flush=True)
    if not is_dry(options):
        prepare(folder, options)
    write_stage_settings(run)
    status, stopped = call(snakemake_command(folder, cores, options), cwd=project_root())
    if status and not stopped:
        print_failures(folder)
    return status, stopped


def check_targets(profile: Profile, options: list[str]) -> None:
    """Check that targets are files or rules of a run's chain. Raises RunError.

    Only words before the first option are checked; later ones may be an option's values.
    """
    chain = stages(profile)
    files = [file for stage in chain for file in (*stage.makes, f"html/{stage.name}.html")]
    rules = ["all", "index", *(stage.name for stage in chain)]
    for shard in render_shards(profile):
        files.append(f"render/{shard.number}-of-{shard.of}.done")
        rules.append(f"render_{shard.number}_of_{shard.of}")
    targets = {"index.html", *rules, *files}
    given = [word for word in options if word not in DRY]
    for word in itertools.takewhile(lambda word: not word.startswith("-"), given):
        if word in targets:
            continue
        if "=" in word:
            raise RunError(f"{word}: no file or stage of this run; to change a setting, give --set {word} before --")
        near = nearest(word, sorted(targets))
        raise RunError(f"{word}: no file or stage of this run{near}; expected one such as {chain[-1].makes[0]}")


@contextlib.contextmanager
def unchanged_settings(folder: Path) -> Iterator[None]:
    """Put a run's settings back as they were when the block ends; Snakemake's dry run reads them from its folder."""

    def files() -> list[Path]:
        return [path for path in (folder / "profile.yaml", *(folder / "settings").glob("*")) if path.is_file()]

    earlier = {path: (path.read_bytes(), path.stat()) for path in files()}
    try:
        yield
    finally:
        for path in files():
            if path not in earlier:
                path.unlink()
            elif path.stat().st_mtime_ns != earlier[path][1].st_mtime_ns:
                content, state = earlier[path]
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content)
                    os.utime(temporary, ns=(state.st_atime_ns, state.st_mtime_ns))


def prepare(folder: Path, options: list[str]) -> None:
    """Wait for jobs of an earlier call that are still in SLURM's queue, and forget what failed then.

    Stages' settings are written only afterwards, so that a result which such a job makes with older ones is stale.
    """
    if sends_elsewhere(options) and shutil.which("squeue"):
        wait_for_jobs(folder)
    forget_failures(folder)


def snakemake_command(folder: Path, cores: int, options: list[str]) -> list[str]:
    """Return the Snakemake command line; `options` come last, so that they may override others, or name targets.

    A profile's folder among them is relative to the checkout, wherever the command is called.
    """
    root = project_root()
    options = [str(root / option) if (root / option / "config.yaml").exists() else option for option in options]
    elsewhere = sends_elsewhere(options)
    limits = [] if elsewhere and not cores else ["--cores", str(cores or len(os.sched_getaffinity(0)))]
    if not elsewhere and gpu_count():
        limits += ["--resources", f"gpu={gpu_count()}"]
    # Options with one value come last: one that takes several would swallow a target.
    single = ["--snakefile", str(root / "Snakefile"), "--directory", str(folder), "--max-checksum-file-size", "0"]
    quiet = ["--quiet", "host"]  # machine, user, versions and folders of Snakemake
    command = [*ending_with_this(folder / CHAIN_LOCK, "snakemake"), "--rerun-incomplete", "--nolock", *quiet, *limits]
    return [*command, *single, *options]


def is_dry(options: list[str]) -> bool:
    """Return whether Snakemake's options ask for a dry run."""
    return bool(set(DRY) & set(options))


def sends_elsewhere(options: list[str]) -> bool:
    """Return whether Snakemake's options may send jobs to other machines."""
    return any(option.split("=")[0] in ELSEWHERE for option in options)


def check_gpus(profile: Profile, options: list[str]) -> None:
    """Check that this machine has a GPU for each process of a training, or none. Raises RunError."""
    gpus = 0 if sends_elsewhere(options) or profile.processes == 1 else gpu_count()
    if 0 < gpus < profile.processes:
        raise RunError(f"processes: {profile.processes}, but there are {gpus} GPUs; expected at most one for each")


def gpu_count() -> int:
    """Return the GPUs that PyTorch can use; where there is no driver, without loading PyTorch."""
    if not any(map(os.path.exists, GPU_DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def reserve_gpus(folder: Path, count: int, needed: int = 1) -> Iterator[None]:
    """Reserve `needed` GPUs of `count` for the process and its kernels, or as many as are free.

    Where CUDA_VISIBLE_DEVICES lists GPUs, as a cluster's scheduler lets it, they are chosen among those. Where none is
    free, nothing changes.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = listed.split(",") if listed else [str(number) for number in range(count)]
    reserved = []
    with contextlib.ExitStack() as stack:
        for name in names[:count]:
            if len(reserved) < needed:
                with contextlib.suppress(BusyError):
                    stack.enter_context(hold(folder / f".gpu{name}.lock", BusyError(f"GPU {name}: reserved")))
                    reserved.append(name)
        if reserved:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(reserved)
        yield


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run until the block or the process ends. Raises BusyError when another process holds it.

    Snakemake holds a lock of its own, as it ends a little later than an `ethand run` that was killed.
    """
    with hold_named(folder / ".lock", "`ethand run`", grace=0):
        with hold_named(folder / CHAIN_LOCK, "Snakemake"):
            pass
        yield


def stage_inputs(root: Path, stage: Stage) -> tuple[str, ...]:
    """Return the files that a stage depends on: those of its notebook, and the module of its method, if it has one."""
    module = f"training.semi.{stage.method.unlabelled}" if stage.method and stage.method.semi else ""
    return tuple(dict.fromkeys((*notebook_inputs(root, stage.notebook), *module_files(module))))


@cache
def notebook_inputs(root: Path, notebook: str) -> tuple[str, ...]:
    """Return the files a notebook depends on: itself, and the package's modules that it imports, also indirectly."""
    path = root / "notebooks" / f"{notebook}.ipynb"
    cells = json.loads(path.read_bytes())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return (str(path), *module_files(*imported_modules(code), without=BY_VALUE))


def execute(run: Run, stage: Stage) -> Path:
    """Run a stage's notebook by papermill into the run's `notebooks/`, and write it as HTML into `html/`.

    The notebook's own output is shown as it comes. Raises RunError naming notebook, cell and file when a parameter is
    unknown or a cell fails, where the partly executed copy stays, and BusyError while another process is at this stage.
    """
    with hold_named(run.folder / "settings" / f".{stage.name}.lock", f"stage {stage.name}"):
        return _execute(run, stage)


def _execute(run: Run, stage: Stage) -> Path:
    settings, began = _settings_text(run, stage), time.time()
    executed = execute_notebook(stage.notebook, run.folder, stage.name, {"RUN": run.name, **stage.parameters})
    with atomic_write(_executed_settings(run, stage)) as temporary:
        temporary.write_bytes(settings.encode())
        os.utime(temporary, (began, began))
    return executed


def execute_notebook(notebook: str, folder: Path, name: str, parameters: dict) -> Path:
    """Run a notebook by papermill into `notebooks/<name>.ipynb` of a folder, and write it as HTML into `html/`.

    Raises RunError as `execute` does.
    """
    # jsonschema, which both import, would compile a grammar of IRIs for over a second; notebooks have none to check.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from nbconvert import HTMLExporter

    source = project_root() / "notebooks" / f"{notebook}.ipynb"
    declared = papermill.inspect_notebook(str(source))
    for parameter in parameters:
        require_known("parameter", parameter, declared, lambda line: RunError(f"{source}: {line}"))
    executed = folder / "notebooks" / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters,
            progress_bar=False,
            stdout_file=sys.stdout,
            cwd=str(source.parent),
            extra_arguments=["--IPKernelApp.log_level=50"],  # 40 would show the signal that ends a kernel
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(
            f"notebook {source.name} failed in code cell {error.exec_count} ({error.ename}: {error.evalue}); "
            f"the copy run so far is {executed}"
        ) from None
    page, _ = HTMLExporter().from_filename(str(executed))
    with atomic_write(folder / "html" / f"{name}.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return executed
