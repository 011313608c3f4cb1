"""The reference of a finished run: exactly its files, small, of no machine, and replacing nothing but a reference."""

import hashlib
import json
import re
import shutil
import socket
from pathlib import Path

import pytest
from conftest import REPOSITORY
from finishedrun import NAMES, make_run

from ethand_utils.analysis.comparison import NO_LABEL_FRACTIONS
from ethand_utils.analysis.reference import compare_runs, comparison_display
from ethand_utils.app import reference
from ethand_utils.app.reference import write_reference
from ethand_utils.app.results import RunResults
from ethand_utils.app.text import print_grouped
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.run import Run, RunError, write_table
from ethand_utils.outputs import OutputError

FILES = {"index.html", "table1.csv", "steps.csv", "label_fractions.csv", "g1.csv", "profile.yaml", "versions.json"}
FIGURES = {"figures/explore.png", "figures/pseudo_labels.png"}


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A finished run with its tables and report, in a folder that counts as a checkout. Read only."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("notebooks/01_data.ipynb", "Snakefile"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    run = make_run(root / "outputs/mine", dataset)
    results = RunResults(run)
    write_table(run.folder / "table1.csv", results.table1)
    write_table(run.folder / "steps.csv", results.steps)
    (run.folder / "label_fractions.csv").write_text("label_fraction,model,ours,ours_low,ours_high,ours_sd,seeds\n")
    write_profile(run.folder, run.profile)
    (run.folder / "index.html").touch()
    return run


@pytest.fixture
def run(finished, monkeypatch):
    """The finished run; we are in its checkout."""
    monkeypatch.chdir(finished.folder.parents[1])
    return finished


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory):
    """Its reference. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished.folder.parents[1])
        return write_reference(finished, tmp_path_factory.mktemp("made") / "reference")


@pytest.fixture
def quick(monkeypatch):
    """Reports of one line, for tests that do not look at them; returns what that line says."""
    line = ["a report"]

    def write(run, path, links):
        path.write_text(line[0])
        return path

    monkeypatch.setattr(reference, "write_index", write)
    return line


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files_of(folder)}


def test_it_has_exactly_its_files(made):
    assert files_of(made) == FILES | FIGURES
    assert sum((made / name).stat().st_size for name in files_of(made)) < reference.MAX_BYTES


def test_its_report_is_complete_and_no_link_is_dead(made):
    page = (made / "index.html").read_text()
    ids = set(re.findall(r'id="([^"]+)"', page))
    links = re.findall(r'href="([^"]+)"', page)
    assert links
    assert {link.removeprefix("#") for link in links} <= ids
    assert 'class="missing"' not in page
    assert NO_LABEL_FRACTIONS.split(":")[0] in page
    assert "How often each part is visible" in page


def test_it_names_no_path_and_no_host_of_this_machine(made, finished):
    for name in FILES:
        text = re.sub(r"base64,[\w+/=]+", "", (made / name).read_text())
        for private in (str(Path.home()), str(finished.folder.parents[1]), str(REPOSITORY), socket.gethostname()):
            assert len(private) < 4 or private not in text, name
        assert "/tmp" not in text


def test_it_says_what_made_the_numbers(made):
    versions = json.loads((made / "versions.json").read_text())
    assert {"ethand", "python", "torch", "numpy", "cpu", "cores", "run"} <= set(versions)
    assert "host" not in json.dumps(versions)


def test_the_run_is_a_repetition_of_its_reference(made, run):
    comparison = compare_runs(run.folder, made)
    assert comparison.numbers["within"].tolist().count(True) == len(NAMES) + 8 + 4
    assert comparison.verdict.startswith("19 of 19 numbers")
    assert comparison.settings.empty
    assert comparison.versions.empty


@pytest.mark.parametrize("width", [80, 200])
def test_a_comparison_fits_the_terminal(made, run, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    table = comparison_display(compare_runs(run.folder, made))
    print_grouped(table, "table")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert sorted(" ".join(lines).split()) == sorted(expected_words(table, lines[1]))


def expected_words(table, rule):
    """All words of a table whose sections are named by its first column, and the rule below the heads."""
    cells = [*table.columns[1:], rule, *table["table"].unique(), *table.drop(columns="table").to_numpy().ravel()]
    return " ".join(cells).split()


def test_paths_of_data_are_names_alone(run, quick, tmp_path):
    data = tmp_path / "My <data> & so on ü"
    shutil.copytree(run.data_folder, data)
    other = Run(run.folder, run.profile.model_copy(update={"data": str(data)}))
    quick[0] = f"data: {str(data).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}"
    made = write_reference(other, tmp_path / "reference")
    assert (made / "index.html").read_text() == "data: My &lt;data&gt; &amp; so on ü"
    assert load_profile(made / "profile.yaml").data == "My <data> & so on ü"
    assert compare_runs(run.folder, made).settings["name"].tolist() == ["data"]


@pytest.mark.parametrize("line", ["see /scratch/me/data.csv", "at {home}", "on {host}"])
def test_a_report_that_names_this_machine_is_not_written(run, quick, tmp_path, monkeypatch, line):
    monkeypatch.setattr(reference.socket, "gethostname", lambda: "node-17")
    quick[0] = line.format(home=Path.home(), host="node-17")
    with pytest.raises(RunError, match=r"index.html: names .*, which is of this machine"):
        write_reference(run, tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_too_large_is_not_written(run, quick, tmp_path):
    quick[0] = "a" * reference.MAX_BYTES
    with pytest.raises(RunError, match=r"bytes, expected at most 5,000,000; the largest is index.html"):
        write_reference(run, tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_reference_is_replaced_and_anything_else_is_not(run, quick, tmp_path):
    out = tmp_path / "reference"
    write_reference(run, out)
    before = digests(out)
    quick[0] = "another report"
    (out / "figures/old.png").touch()
    write_reference(run, out)
    after = digests(out)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {"index.html"}
    for name in ("notes.txt", "figures/thesis.pdf"):
        (out / name).write_text("mine")
        with pytest.raises(OutputError, match="reference: holds something that this command did not make"):
            write_reference(run, out)
        assert digests(out).items() >= after.items()
        (out / name).unlink()
    with pytest.raises(OutputError, match="is what is read"):
        write_reference(run, run.folder)


@pytest.mark.parametrize("name", ["index.html", "steps.csv", "g1/result.json"])
def test_a_run_that_has_not_ended_is_refused(run, quick, tmp_path, name):
    copy = Run(tmp_path / "copy", run.profile)
    shutil.copytree(run.folder, copy.folder)
    (copy.folder / name).unlink()
    with pytest.raises(RunError, match=f"{name}: not there yet"):
        write_reference(copy, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_the_command_makes_it_of_a_run_that_is_there(run, quick, ethand):
    status, _, said = ethand("reference", "nobody")
    assert status == 1
    assert "nobody: no such run; expected the name of a run in outputs/" in said
    status, printed, _ = ethand("reference", "mine")
    assert status == 0
    assert Path(printed.strip()) == run.folder.parent / "reference"
    shutil.rmtree(run.folder.parent / "reference")


def test_git_keeps_the_reference_and_no_other_output():
    lines = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert lines.index("outputs/*") < lines.index("!outputs/reference/")
    assert "outputs/" not in lines
