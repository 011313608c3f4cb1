"""Names and places of runs: a name is one folder in outputs/, everywhere the same, or refused; any checkout does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import papermill
import pytest

from ethand_utils.exceptions import EthandError
from ethand_utils.experiments import workflow
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.methods import get_method
from ethand_utils.experiments.run import (
    Run,
    RunError,
    as_list,
    open_run,
    own_folder,
    project_root,
    run_folder,
    run_name,
)

REPOSITORY = Path(__file__).parents[2]
TRIES = 2000
ALPHABET = [
    *"abcXYZ019 -_.,:;+~#'\"$`&|<>()[]{}*?!%^=@/\\\n\t\0\r\u2028\u200bäéßñ手🖐",
    "e\u0301",
    "..",
    "../",
    "~/",
    "None",
    "1e",
]
ELSEWHERE = ["", " ", ".", "..", "../x", "a/b", "exp/b", "/tmp/x", "~", "~/x"]
UNSAFE = ["-x", ".x", "a\\b", "a\nb", "a\0", "\udcff", "x" * 200]
READ_OTHERWISE = ["007", "1e3", "nan", "inf", "1_000", "+5", "True", "None", "0.5", 0.5, True, None]
FOLDERS = ["plain", "my checkout", "Hände und 手", "quo'te", 'dou"ble', "a$HOME&b;c", "back`tick", "(x) [y]"]


@pytest.fixture(params=FOLDERS)
def checkout(request, tmp_path, monkeypatch):
    """A checkout in a folder of any name, and the current folder."""
    return copy_checkout(tmp_path / request.param, monkeypatch)


def copy_checkout(root, monkeypatch):
    shutil.copytree(REPOSITORY / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(REPOSITORY / "Snakefile", root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """A checkout, and the current folder."""
    return copy_checkout(tmp_path / "checkout", monkeypatch)


def accepted(name):
    """The folder of a name, or None where it is refused, then in one line."""
    try:
        return run_folder(name)
    except RunError as error:
        line = str(error)
    assert line.splitlines() == [line]
    assert "RUN" in line
    return None


def test_a_name_is_a_folder_in_outputs_that_papermill_gives_back_or_it_is_refused(plain):
    rng, names = np.random.default_rng(0), set()
    for _ in range(TRIES):
        name = "".join(ALPHABET[i] for i in rng.integers(len(ALPHABET), size=rng.integers(6)))
        folder = accepted(name)
        if folder is None:
            continue
        names.add(folder.name)
        assert folder.parent == plain / "outputs"
        folder.mkdir(parents=True, exist_ok=True)
        assert folder.resolve().parent == (plain / "outputs").resolve()
        assert run_folder(folder.name) == folder
        assert run_folder(papermill_value(name)) == folder
        assert run_folder(Path(folder).name) == folder
    assert len(names) > TRIES / 20
    assert {path.name for path in (plain / "outputs").iterdir()} == names


def papermill_value(text):
    """What the option -p of papermill makes of a text."""
    from papermill.cli import _resolve_type

    return _resolve_type(text)


@pytest.mark.parametrize("name", [*ELSEWHERE, *UNSAFE, *READ_OTHERWISE])
def test_what_is_no_folders_name_is_refused(plain, ethand, name):
    assert accepted(name) is None
    if isinstance(name, str) and "\0" not in name:
        for options in ([], ["--dry-run"]):
            status, said, error = ethand("run", "ci", f"--name={name}", *options)
            assert (status, said) == (1, "")
            assert error.startswith("ethand: RUN: ")
    assert not (plain / "outputs").exists()
    with pytest.raises(RunError):
        open_run(name, "ci")


def test_one_spelling_of_a_name_is_one_run(plain):
    assert run_folder("e\u0301te\u0301") == run_folder("été")
    assert run_folder(2024) == run_folder("2024")
    assert open_run(2024, "ci").folder == open_run("2024", "ci").folder


def test_names_of_trainings_and_methods_are_folders_too(plain):
    run = open_run("mine", "ci")
    assert run.training_folder("g1") == run.folder / "g1"
    for name in ("../g1", "a/b", "", ".."):
        with pytest.raises(RunError, match="NAME"):
            run.training_folder(name)
        if name:
            with pytest.raises(EthandError, match="NAME"):
                get_method("unetpp_full", name, loss="ce")
    (run.folder / "g1").mkdir()  # as Snakemake makes it for what the training will write
    assert run.training_folder("g1") == run.folder / "g1"
    (run.folder / "data/train").mkdir(parents=True)
    with pytest.raises(RunError, match="something else than a training"):
        run.training_folder("data")


def test_a_list_given_as_one_value_is_a_list_of_it():
    assert as_list("photo.jpg") == ["photo.jpg"]
    assert as_list(["a", "b"]) == as_list(("a", "b")) == ["a", "b"]
    assert as_list([]) == as_list("") == as_list(None) == []
    assert as_list([1, 2, 3, 4], of_lists=True) == as_list([[1, 2, 3, 4]], of_lists=True) == [[1, 2, 3, 4]]
    assert as_list([None, [1, 2, 3, 4]], of_lists=True) == [None, [1, 2, 3, 4]]


def test_outside_a_checkout_nothing_is_written_to_another_one(tmp_path, monkeypatch, ethand):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"not inside a checkout .* papermill: --cwd"):
        project_root()
    assert ethand("run", "ci")[0] == 1


@pytest.mark.slow
def test_a_notebook_that_is_executed_from_elsewhere_is_refused_and_with_cwd_writes_into_its_checkout(
    plain, monkeypatch
):
    (plain / "elsewhere").mkdir()
    monkeypatch.chdir(plain.parent)
    notebook = plain / "notebooks/01_data.ipynb"
    given = {"parameters": {"RUN": 7, "PROFILE": "ci"}, "progress_bar": False}
    with pytest.raises(papermill.PapermillExecutionError, match="not inside a checkout"):
        papermill.execute_notebook(str(notebook), str(plain / "out.ipynb"), **given)
    assert not (plain / "outputs").exists()
    papermill.execute_notebook(str(notebook), str(plain / "out.ipynb"), cwd=str(plain / "notebooks"), **given)
    assert (plain / "outputs/7/data/test/meta.json").exists()


@pytest.mark.parametrize("linked", ["outputs", "run", "checkout", "none"])
def test_a_run_is_found_by_its_own_name_where_links_lead_elsewhere(tmp_path, monkeypatch, linked):
    root, scratch = copy_checkout(tmp_path / "checkout", monkeypatch), tmp_path / "scratch"
    scratch.mkdir()
    if linked == "outputs":
        (root / "outputs").symlink_to(scratch)
    elif linked == "run":
        (root / "outputs").mkdir()
        (root / "outputs/mine").symlink_to(scratch)
    elif linked == "checkout":
        (tmp_path / "link").symlink_to(root)
        monkeypatch.chdir(tmp_path / "link")
    folder = run_folder("mine")
    write_profile(folder, load_profile("ci"))
    monkeypatch.chdir(folder)  # as Snakemake does
    assert own_folder(root, Path.cwd()) == root / "outputs/mine"
    with pytest.raises(RunError, match="no run of"):
        own_folder(root, tmp_path)


@pytest.mark.parametrize("obstacle", ["file", "dangling link", "loop", "profile is a folder", "proc"])
def test_a_place_that_cannot_be_written_is_named_in_one_line(plain, ethand, obstacle):
    outputs = plain / "outputs"
    if obstacle == "file":
        outputs.touch()
    elif obstacle == "dangling link":
        outputs.symlink_to(plain / "gone/deeper")
    elif obstacle == "loop":
        outputs.symlink_to(outputs)
    elif obstacle == "proc":
        outputs.symlink_to("/proc/self")  # which refuses even root
    else:
        (outputs / "ci/profile.yaml").mkdir(parents=True)
    status, _, error = ethand("run", "ci", "--", "--dry-run")
    assert status == 1
    assert error.splitlines()[-1].startswith("ethand: ")
    assert "outputs" in error.splitlines()[-1]
    assert "Traceback" not in error


@pytest.mark.slow
def test_snakemake_plans_a_run_in_any_checkout(checkout, ethand):
    status, *said = ethand("run", "ci", "--", "--dry-run")
    assert status == 0, said
    assert "01_data" in "".join(said)


@pytest.mark.slow
def test_a_stage_runs_in_a_checkout_with_spaces_whose_run_is_a_link(tmp_path, monkeypatch):
    root = copy_checkout(tmp_path / "my Hände", monkeypatch)
    (tmp_path / "scratch disk/other name").mkdir(parents=True)
    (root / "outputs").mkdir()
    (root / "outputs/it's mine").symlink_to(tmp_path / "scratch disk/other name")
    command = [
        sys.executable,
        "-m",
        "ethand_utils.app.cli",
        "run",
        "ci",
        "--name",
        "it's mine",
        "--",
        "data_summary.csv",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "scratch disk/other name/data/test/meta.json").exists()
    assert os.listdir(root / "outputs") == ["it's mine"]


def test_the_stages_of_a_run_are_found_by_name_and_others_refused():
    profile = load_profile("ci")
    assert workflow.find_stage(profile, "04_train_g1").trains
    with pytest.raises(RunError, match="did you mean 04_train_g1"):
        workflow.find_stage(profile, "04_train_g")
    assert run_name("mine") == Run(Path("outputs/mine"), profile).name
