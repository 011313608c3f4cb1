"""A failure is one line that names what is at fault; a fault of the code leaves its traceback in a file."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ethand_utils import failures
from ethand_utils.exceptions import EthandError
from ethand_utils.failures import CRASHED, failure_line, report_failure
from ethand_utils.training.models import create_model, save_weights


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (EthandError("a: b,\n  expected c"), "a: b, expected c"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "x: No such file; check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; check its permissions"),
        (OSError(errno.ENOSPC, "No space left", "x"), "x: No space left; free some space and start again"),
        (OSError("strange"), "strange; check the disk"),
        (MemoryError(), "not enough memory (MemoryError); close"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (SyntaxError("invalid syntax", ("mine.py", 52, 5, "def x(:")), "mine.py, line 52: invalid syntax; mend"),
        (SyntaxError("invalid syntax", ("<unknown>", 1, 1, "(")), None),
        (ValueError("bug"), None),
        (RuntimeError("bug"), None),
    ],
)
def test_what_can_be_foreseen_is_one_line(error, says):
    line = failure_line(error)
    assert line is None if says is None else line.startswith(says)
    assert "\n" not in (line or "")


def test_a_fault_of_the_code_leaves_its_traceback_in_a_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        {}["what no one foresaw"]
    except KeyError as error:
        status = report_failure(error)
    said = capsys.readouterr().err
    assert status == CRASHED
    assert len(said.splitlines()) == 1
    (file,) = tmp_path.rglob("failed-*.txt")
    assert str(file) in said
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert '{}["what no one foresaw"]' in text


def test_a_traceback_that_cannot_be_saved_is_shown(capsys, monkeypatch):
    def refuse(error):
        raise OSError("read-only")

    monkeypatch.setattr(failures, "save_traceback", refuse)
    assert report_failure(KeyError("x")) == CRASHED
    said = capsys.readouterr().err
    assert "KeyError" in said
    assert "the traceback is above" in said


def test_a_notebook_shows_one_line_and_still_fails(tmp_path):
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_cell('from ethand_utils.failures import show_failures_in_one_line; show_failures_in_one_line()')\n"
        "one = shell.run_cell('from ethand_utils.data import Store; Store(\"nowhere\")')\n"
        "two = shell.run_cell('open(\"nowhere\")')\n"
        "three = shell.run_cell('1 / 0')\n"
        "print(*(type(done.error_in_exec).__name__ for done in (one, two, three)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[-1] == "StoreError FileNotFoundError ZeroDivisionError"
    assert any(line.startswith("StoreError: nowhere: no store here") for line in lines)
    assert any(line.startswith("FileNotFoundError: nowhere: No such file") for line in lines)
    assert sum("Traceback" in line for line in lines) == 1  # of the division alone


def test_outside_of_ipython_nothing_changes():
    failures.show_failures_in_one_line()


BAD = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.touch(),
    "utf-16": lambda path: path.write_bytes('{"a": "ä"}'.encode("utf-16")),
    "list": lambda path: path.write_text("[1, 2]"),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(500)),
    "loop": lambda path: path.symlink_to(path),
    "long": lambda path: None,
}


@pytest.fixture
def good(dataset, tmp_path):
    """Sound values of everything that a command reads."""
    shutil.copytree(dataset["test"].path, tmp_path / "data/test")
    save_weights(create_model("baseline", widths=(4, 8), seed=0), tmp_path / "net.safetensors", size=32)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return {"store": tmp_path / "data/test", "data": tmp_path / "data", "net": tmp_path / "net.safetensors"}


def calls(good, bad):
    """Every command, with one of the paths that it reads at fault."""
    store, net = good["store"], good["net"]
    return [
        ("evaluate", "--data", bad, "--weights", net),
        ("evaluate", "--data", store, "--weights", bad),
        ("evaluate", "--frames", bad, "--weights", net),
        ("predict", bad, "--weights", net, "--box", "1,1,9,9", "--out", "out"),
        ("predict", good["data"].parent / "a.png", "--weights", bad, "--box", "1,1,9,9", "--out", "out"),
        ("submit", "--data", bad, "--weights", net, "--out", "a.tar.gz"),
        ("submit", "--data", store, "--weights", bad, "--out", "a.tar.gz"),
        ("export", "--weights", bad, "--out", "a.onnx"),
        ("data", "info", bad),
        ("data", "sheet", bad, "--out", "a.png"),
        ("data", "sheet", store, "--frames", bad, "--out", "a.png"),
        ("data", "export-course", bad, "--out", "out"),
        ("data", "course", "--root", bad, "--out", "out"),
        ("data", "interhand", "--root", bad, "--out", "out"),
        ("data", "interhand", "--root", bad, "--out", "out", "--hands", "mano", "--mano-dir", bad),
    ]


@pytest.mark.parametrize("kind", BAD)
def test_whatever_is_at_fault_a_command_says_so_in_one_line(kind, good, tmp_path, ethand, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bad = tmp_path / ("x" * 300 if kind == "long" else "bad")
    BAD[kind](bad)
    for arguments in calls(good, bad):
        status, _, said = ethand(*arguments)
        lines = [line for line in said.splitlines() if line.startswith("ethand: ")]
        assert status == 1, f"{arguments}: {status}, {said}"
        assert len(lines) == 1, f"{arguments}: {said}"
        assert "Traceback" not in said, f"{arguments}: {said}"
        assert str(bad)[-200:] in said, f"{arguments}: {said}"
        assert not os.listdir(tmp_path / "here"), f"{arguments}: left {os.listdir(tmp_path / 'here')}"


def test_a_first_call_imports_no_pytorch_for_what_needs_none(good, tmp_path):
    arguments = [
        ("predict", "nowhere.jpg"),
        ("evaluate", "--data", "nowhere"),
        ("evaluate", "--frames", "nowhere"),
        ("submit", "--data", "nowhere", "--weights", "w", "--out", "a.tar.gz"),
        ("export", "--weights", "w", "--out", "a.xml"),
        ("data", "info", str(good["data"])),
        ("data", "sheet", str(good["data"]), "--out", str(good["data"])),
    ]
    code = (
        "import sys, json\nfrom ethand_utils.app import cli\nfor arguments in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['ethand', *arguments]\n    try:\n        cli.main()\n    except SystemExit:\n        pass\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
