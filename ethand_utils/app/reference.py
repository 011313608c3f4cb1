"""The reference of a finished run: its report, tables, figures and settings, small enough for git and of no machine."""

import html
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import ethand_utils
from ethand_utils.analysis.reference import FRACTION_TABLES, G1_TABLE, PATHS, VERSIONS, g1_scores, read_versions
from ethand_utils.app.report import write_index
from ethand_utils.experiments.config import Profile, write_profile
from ethand_utils.experiments.run import Run, RunError, project_root, write_table
from ethand_utils.files import write_json
from ethand_utils.outputs import claim_folder

TABLES = ("table1.csv", "steps.csv")
MAX_BYTES = 5_000_000
MAKER = "ethand reference"
FILES = (*TABLES, *FRACTION_TABLES.values(), "index.html", "profile.yaml", G1_TABLE, VERSIONS)
# A path from the root: not the end of a relative one, of an address or of a tag.
ABSOLUTE_PATH = re.compile(r"(?<![\w./<:~-])/(?:[\w.-]+/)+[\w.-]+")
EMBEDDED = re.compile(r"base64,[\w+/=]+")


def write_reference(run: Run, out: Path) -> Path:
    """Write the reference of a run as the folder `out`, whole or not at all, and return it.

    An earlier reference there is replaced. Raises RunError for a run that has not ended, and for files that together
    are larger than MAX_BYTES, or that name a path or the host of this machine; OutputError where something else than a
    reference lies in `out`.
    """
    for name in (*TABLES, "index.html"):
        run.require_output(name, "08_ablation")
    run.require_output("g1/result.json", "04_train_g1")
    target = claim_folder(out, [run.folder], _is_reference)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".reference-") as work:
        folder = Path(work) / "reference"
        _fill(folder, run)
        _require_small(folder)
        _require_no_machine(folder, run)
        if target.exists():
            os.replace(target, Path(work) / "earlier")
        os.replace(folder, target)
    return out


def _fill(folder: Path, run: Run) -> None:
    """Write the files of a run's reference."""
    (folder / "figures").mkdir(parents=True)
    for picture in sorted((run.folder / "figures").glob("*.png")):
        shutil.copyfile(picture, folder / "figures" / picture.name)
    for name in (*TABLES, *(file for file in FRACTION_TABLES.values() if (run.folder / file).exists())):
        shutil.copyfile(run.folder / name, folder / name)
    write_table(folder / G1_TABLE, g1_scores(run.folder))
    write_profile(folder, _without_paths(run.profile))
    versions = {"made_by": MAKER, "run": run.name, "ethand": ethand_utils.__version__, **read_versions(run.folder)}
    write_json(folder / VERSIONS, versions | {"cpu": _cpu(), "cores": os.cpu_count()})
    page = write_index(run, folder / "index.html", links=False)
    text = page.read_text(encoding="utf-8")
    for path, name in _path_names(run.profile).items():
        for form in (path, json.dumps(path)[1:-1]):
            text = text.replace(html.escape(form), html.escape(name))
    page.write_text(text, encoding="utf-8")


def _path_names(profile: Profile) -> dict[str, str]:
    """Return the last name of each setting that is a path, by that path."""
    values = [value for key in PATHS if (value := getattr(profile, key))]
    return {value: Path(value).name for value in sorted(values, key=len, reverse=True)}


def _without_paths(profile: Profile) -> Profile:
    """Return a profile with the last names of paths alone."""
    names = _path_names(profile)
    return profile.model_copy(
        update={key: names.get(value, value) for key in PATHS if (value := getattr(profile, key))}
    )


def _cpu() -> str:
    """Return the model of this machine's processor, as far as the system says it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _require_small(folder: Path) -> None:
    files = {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if sum(files.values()) > MAX_BYTES:
        largest = max(files, key=files.get)
        raise RunError(
            f"{folder.name}: its files have {sum(files.values()):,} bytes, expected at most {MAX_BYTES:,}; the largest "
            f"is {largest} with {files[largest]:,}; take a run with fewer samples or rows"
        )


def _require_no_machine(folder: Path, run: Run) -> None:
    """Raise RunError where a text names a path or the host of this machine."""
    host = socket.gethostname()
    names = {str(Path.home()), str(project_root()), os.path.realpath(run.folder), sys.prefix} - {"/"}
    # A host that is called by a plain word, such as `tiny`, cannot be told from that word.
    names |= set() if host.isalpha() else {host}
    for path in sorted(path for path in folder.rglob("*") if path.suffix != ".png" and path.is_file()):
        text = EMBEDDED.sub("", path.read_text(encoding="utf-8"))
        named = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
        named += ABSOLUTE_PATH.findall(text)
        if named:
            raise RunError(
                f"{path.name}: names {named[0]}, which is of this machine; expected no such name: nothing written"
            )


def _is_reference(folder: Path) -> bool:
    """Return whether a folder holds a reference and nothing else."""
    try:
        made_by = json.loads((folder / VERSIONS).read_text())["made_by"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    others = [name for name in names - {*FILES} if not re.fullmatch(r"figures/[^/]+\.png", name)]
    return made_by == MAKER and not others
