"""The chain at profile `ci`: every notebook by papermill, commands on its results, and what a change runs again.

One file, so that one process runs it: a test touches a module of the package, which all others would see.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from history import assert_as_planned
from PIL import Image

import ethand_utils
from ethand_utils.experiments import dry_run, workflow
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.methods import FRACTION_METHODS, FULL_METHOD, METHODS, Method, table_methods
from ethand_utils.experiments.run import Run, RunError, open_run
from ethand_utils.labels import N_CLASSES
from ethand_utils.training.cyclegan.variants import REFERENCE_VARIANT, cycle_training
from ethand_utils.training.models import load_weights

REPOSITORY = Path(__file__).parents[2]
STAGES = workflow.stages(load_profile("ci"))
FULL = METHODS[FULL_METHOD].training(0)
pytestmark = pytest.mark.slow


def run_chain(*words, cwd):
    """Call `ethand run ci` in a process and folder of its own; returns what it said, stdout and stderr together."""
    command = [sys.executable, "-m", "ethand_utils.app.cli", "run", "ci", *words]
    done = subprocess.run(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def checkout(folder):
    """A copy of what a run reads from the repository, so that its outputs stay out of it."""
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(REPOSITORY / "Snakefile", folder)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A checkout in which `ethand run ci` has ended."""
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    said = run_chain(cwd=folder)
    assert said.strip().endswith(str(folder / "outputs/ci/index.html"))
    return folder


@pytest.fixture
def run(root, monkeypatch):
    """The finished run."""
    monkeypatch.chdir(root)
    return open_run("ci")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_notebook_ran_and_saved_its_result(run, stage):
    for path in (*stage.makes, f"html/{stage.name}.html", f"notebooks/{stage.name}.ipynb"):
        assert (run.folder / path).stat().st_size > 0
    cells = nbformat.read(run.folder / f"notebooks/{stage.name}.ipynb", 4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type in ("display_data", "execute_result") for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output.text]


@pytest.mark.parametrize(
    "training",
    ["g1", *(m.training(0) for m in METHODS.values() if not m.semi), cycle_training(REFERENCE_VARIANT, 0)],
)
def test_result_of_a_training_has_the_contracts_keys(run, training):
    result = json.loads((run.folder / training / "result.json").read_text())
    wanted = (
        "row seed course_miou dataset_miou visible_iou occluded_iou absent_fp_rate part_iou_palm epochs images_seen"
    )
    wanted += " seconds images_per_s parameters device versions commit"
    assert set(wanted.split()) <= set(result)
    assert 0 <= result["course_miou"] <= 1
    assert not (run.folder / training / "state").exists()
    history = pd.read_csv(run.folder / training / "history.csv")
    assert len(history) == result["epochs"]


def test_every_training_does_what_the_dry_run_says(run):
    planned = dry_run.planned(run)
    names = [one["name"] for one in planned["trainings"]]
    cycles = ["cyclegan/report", "cyclegan/loose", "g1_as_long", "g2/unetpp_images"]
    assert names == ["g1", "d_argmax", "d", *(f"g2/{method.name}" for method in table_methods()), *cycles]
    for one in planned["trainings"]:
        folder = run.folder / one["name"] / ("seed0" if one["name"].startswith(("g2/", "cyclegan/")) else "")
        assert_as_planned(pd.read_csv(folder / "history.csv"), one["phases"])
        result, phases = json.loads((folder / "result.json").read_text()), one["phases"]
        assert result["epochs"] == sum(phase["epochs"] for phase in phases)
        assert result["images_seen"] == sum(phase["learned"] for phase in phases)
        for option in {"class_weights", "adversarial_input", "discriminator"} & set(one):
            assert result[option] == one[option]
        net = planned["nets"][one["net"]]
        model, _ = load_weights(folder / "weights.safetensors", "discriminator" if "in_channels" in net else None)
        built = {**model.recipe, "widths": list(model.recipe["widths"]), "pretrained": False}
        assert {key: built[key] for key in net} == net, one["name"]


def test_rows_with_generated_labels_train_in_two_cycles(run):
    history = pd.read_csv(run.folder / FULL / "history.csv")
    assert history["phase"].tolist() == ["unpaired", "paired", "unpaired", "paired"]


def test_table_has_the_reports_rows_and_our_scores(run):
    table = pd.read_csv(run.folder / "table1.csv")
    assert table["row"].tolist() == [method.name for method in table_methods()]
    scores = [json.loads((run.folder / METHODS[row].training(0) / "result.json").read_text()) for row in table["row"]]
    assert table["ours"].tolist() == pytest.approx([score["course_miou"] for score in scores])


def test_front_page_is_one_file_with_table_figures_and_links(run):
    page = (run.folder / "index.html").read_text()
    assert "0.5580" in page
    assert page.count("data:image/png;base64") >= 5
    assert all(f'href="html/{stage.name}.html"' in page for stage in STAGES)
    assert "http" not in page.replace('lang="en"', "")


def test_predictions_are_a_store_with_a_score_a_sample(run):
    folder = run.folder / METHODS[FULL_METHOD].predictions(0)
    scores = pd.read_parquet(folder / "metrics.parquet")
    assert scores["id"].tolist() == run.dataset()["test"].index["id"].tolist()
    result = json.loads((run.folder / FULL / "result.json").read_text())
    hands = scores[["course_miou_left", "course_miou_right"]].to_numpy()
    assert np.nanmean(hands) == pytest.approx(result["course_miou"])


def test_a_second_run_has_nothing_to_do(run, ethand):
    status, *said = ethand("run", "ci")
    assert status == 0
    assert "Nothing to be done" in "".join(said)


def test_touching_a_module_runs_again_what_imports_it_and_says_why(run, ethand):
    losses = Path(ethand_utils.__file__).parent / "training" / "losses.py"
    before = losses.stat()
    try:
        os.utime(losses)
        said = "".join(ethand("run", "ci", "--", "--dry-run")[1:])
    finally:
        os.utime(losses, ns=(before.st_atime_ns, before.st_mtime_ns))
    rules = {line.split()[-1].rstrip(":") for line in said.splitlines() if line.startswith(("rule ", "localrule "))}
    assert {"04_train_g1", "07_train_g2_baseline_seed0", "08_ablation"} <= rules
    assert not rules & {"01_data", "03_augment"}
    assert "reason: Updated input files" in said


def test_parts_of_the_rendering_are_stages_before_the_first_notebook(tmp_path, monkeypatch, ethand):
    monkeypatch.chdir(checkout(tmp_path))
    said = "".join(ethand("run", "ci", "--set", "render_parts=2", "--", "--dry-run")[1:])
    rules = [line.split()[-1].rstrip(":") for line in said.splitlines() if line.startswith("rule ")]
    assert sorted(rules[:2]) == ["render_1_of_2", "render_2_of_2"]
    assert rules[2] == "01_data"


@pytest.fixture(scope="session")
def again(tmp_path_factory):
    """The folder of the same run elsewhere, of fewer methods, with a second table and peers."""
    folder = checkout(tmp_path_factory.mktemp("again"))
    methods = f"methods=[{','.join((*FRACTION_METHODS, FULL_METHOD))}]"
    changes = (methods, "cyclegan=[]", "label_fractions=[0.5]", "peers=[fixmatch, cps]")
    run_chain("--name", "again", *(word for change in changes for word in ("--set", change)), cwd=folder)
    return folder / "outputs/again"


def test_half_of_the_pairs_are_shown_twice_and_make_a_second_table(again):
    table = pd.read_csv(again / "label_fractions.csv")
    assert table["label_fraction"].tolist() == [0.5] * 3 + [1.0] * 3
    assert (2 * table["pairs"][:3].to_numpy() == table["pairs"][3:].to_numpy()).all()
    for training in ("g1", *(METHODS[name].training(0) for name in FRACTION_METHODS)):
        half, whole = (json.loads((folder / training / "result.json").read_text())
                       for folder in (again / "pairs_50pct", again))  # fmt: skip
        assert half["images_seen"] == whole["images_seen"]
        assert half["course_miou"] != whole["course_miou"]
    assert "Fewer pairs" in (again / "index.html").read_text()


def test_peers_are_trained_on_both_fractions_and_compared(again):
    table, steps = (pd.read_csv(again / name) for name in ("peers.csv", "peer_steps.csv"))
    for fraction in (0.5, 1):
        compared = table.loc[table["label_fraction"] == fraction, "row"].tolist()
        assert compared == [*FRACTION_METHODS, FULL_METHOD, "fixmatch", "cps"]
    assert len(steps) == 2 * (1 + 1 + 2 * 2)
    for row, scored in (("fixmatch", "teacher"), ("cps", "student")):
        result = json.loads((again / METHODS[row].training(0) / "result.json").read_text())
        assert result["scored_net"] == scored
        assert 0 <= result["other_course_miou"] <= 1
        pairs_alone = json.loads((again / METHODS[FRACTION_METHODS[0]].training(0) / "result.json").read_text())
        assert result["images_seen"] == pairs_alone["images_seen"]
    assert json.loads((again / "peers/result.json").read_text())["trainings"] == 10


def test_peers_train_as_the_dry_run_says(again, monkeypatch):
    monkeypatch.chdir(again.parents[1])
    (planned,) = (one for one in dry_run.planned(open_run("again"))["trainings"] if one["name"] == "g2/fixmatch")
    assert_as_planned(pd.read_csv(again / "g2/fixmatch/seed0/history.csv"), planned["phases"])


def test_the_same_seed_gives_the_same_metrics(root, again):
    """Of all that both runs have; the result of the ablation is of each run's own methods."""
    compared, runs = 0, (root / "outputs/ci", again)
    results = set.intersection(*({path.relative_to(run) for path in run.glob("**/result.json")} for run in runs))
    for name in results - {Path("ablation/result.json")}:
        one, two = (json.loads((folder / name).read_text()) for folder in runs)
        for key in set(one) - {"seconds", "images_per_s", "commit"}:
            assert one[key] == two[key] or one[key] != one[key], (name, key)
            compared += 1
    assert compared > 200


def test_one_notebook_alone_builds_the_data_it_needs(tmp_path):
    root = checkout(tmp_path)
    command = [sys.executable, "-m", "papermill", root / "notebooks/04_train_g1.ipynb", root / "o.ipynb"]
    command += ["-p", "RUN", "x", "-p", "PROFILE", "ci", "-p", "EPOCHS", "1"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert json.loads((root / "outputs/x/g1/result.json").read_text())["epochs"] == 1


def test_a_notebook_without_what_it_needs_names_what_to_run_first(root):
    with pytest.raises(RunError, match="04_train_g1"):
        Run(root / "outputs/none", load_profile("ci")).weights("g1")


def test_an_unknown_notebook_parameter_is_refused(run):
    stage = workflow.Stage("x", "04_train_g1", (), parameters={"EPOCH": 3})
    with pytest.raises(RunError, match="did you mean EPOCHS"):
        workflow.execute(run, stage)


def test_a_failing_cell_is_named_and_the_copy_run_so_far_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(checkout(tmp_path))
    stage = workflow.Stage("x", "02_explore", (), parameters={"SAMPLE": 10**6, "PROFILE": "ci"})
    with pytest.raises(RunError, match=r"02_explore.ipynb failed in code cell \d+ \(IndexError") as caught:
        workflow.execute(open_run("broken", "ci"), stage)
    copy = Path(str(caught.value).split()[-1])
    assert any(cell.get("outputs") for cell in nbformat.read(copy, 4).cells)


def test_a_misspelt_setting_is_refused_before_anything_starts(run, ethand):
    status, _, said = ethand("run", "ci", "--set", "EPOCH=3", "--name", "typo")
    assert status == 1
    assert "did you mean epochs" in said
    assert not (run.folder.parent / "typo").exists()


def test_predict_writes_masks_in_the_photos_frame(run, ethand, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(photo)
    weights, out = run.folder / FULL / "weights.safetensors", tmp_path / "out"
    assert ethand("predict", photo, "--box", "30,20,40,50", "--weights", weights, "--out", out)[0] == 0
    for hand in ("left", "right"):
        mask = np.asarray(Image.open(out / f"{hand}.png"))
        assert mask.shape == (90, 120)
        assert mask.max() < N_CLASSES
    assert Image.open(out / "overlay.png").size[0] > 300


def test_evaluate_agrees_with_the_notebook(run, ethand):
    weights = run.folder / FULL / "weights.safetensors"
    status, said, _ = ethand("evaluate", "--data", "outputs/ci/data/test", "--weights", weights, "--json")
    assert status == 0
    scores = json.loads(said[said.index("{") :])
    result = json.loads((run.folder / FULL / "result.json").read_text())
    assert scores["course_miou"] == pytest.approx(result["course_miou"])


@pytest.mark.parametrize("kind", ["missing", "text", "weights", "box"])
def test_wrong_input_is_one_line_with_the_files_name(run, ethand, tmp_path, kind):
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.new("RGB", (60, 60)).save(photo)
    (tmp_path / "note.jpg").write_text("no picture")
    weights, box = run.folder / FULL / "weights.safetensors", "0,0,60,60"
    if kind == "missing":
        photo = tmp_path / "nothing.png"
    elif kind == "text":
        photo = tmp_path / "note.jpg"
    elif kind == "weights":
        weights = run.folder / "d/weights.safetensors"
    else:
        box = "900,900,5,5"
    status, _, said = ethand("predict", photo, "--weights", weights, "--box", box, "--out", out)
    assert status == 1
    assert said.splitlines()[-1].startswith("ethand: ")
    named = {"missing": "nothing.png", "text": "note.jpg", "weights": "d/weights.safetensors", "box": "outside"}[kind]
    assert named in said.splitlines()[-1]
    assert not out.exists()


def test_a_truncated_store_is_refused_by_name(run, ethand, tmp_path):
    store = tmp_path / "test"
    shutil.copytree(run.folder / "data/test", store)
    os.truncate(store / "masks.npy", 1000)
    status, _, said = ethand("data", "info", store)
    assert status == 1
    assert "masks.npy" in said


# What runs again after a change, on a run that is pretended: its files are there, and empty.


@pytest.fixture
def pretended(tmp_path):
    """A checkout in which everything that `ethand run ci` makes is there, but empty."""
    checkout(tmp_path)
    folder, profile = tmp_path / "outputs/ci", load_profile("ci")
    write_profile(folder, profile)
    workflow.write_stage_settings(Run(folder, profile))
    stages = workflow.stages(profile)
    made = [path for stage in stages for path in (*stage.makes, f"html/{stage.name}.html")]
    for path in (*made, "index.html"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return tmp_path


@pytest.fixture
def planned(pretended, ethand, monkeypatch):
    """Function: what `ethand run ci` would do there with some settings changed; Snakemake's words by rule."""
    monkeypatch.chdir(pretended)

    def plan(*changes):
        words = (word for change in changes for word in ("--set", change))
        status, *said = ethand("run", "ci", "--cores", "4", *words, "--", "--dry-run")
        assert status == 0, said
        words = re.split(r"^(?:local)?rule (.+):$", "".join(said), flags=re.MULTILINE)
        return dict(zip(words[1::2], words[2::2], strict=True))

    return plan


@pytest.fixture
def in_snakemake(tmp_path, monkeypatch):
    """Function that lets the Python of other processes, as Snakemake's, run some code at its start."""

    def run(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    return run


def test_more_seeds_and_fractions_run_what_is_new_and_what_is_made_from_it(planned):
    assert planned() == {}
    new = {f"07_train_g2_{method.name}_seed1" for method in table_methods()}
    made_from_them = {"08_ablation", "index", "all"}
    cycles = {f"11_cyclegan_{row}_seed1" for row in load_profile("ci").cyclegan}
    assert planned("seeds=2").keys() == new | cycles | made_from_them | {"12_cyclegan_rows"}
    more = planned("cyclegan=[report, loose, front]")
    assert more.keys() == {"11_cyclegan_front_seed0", "12_cyclegan_rows"} | made_from_them
    on_fractions = {"04_train_g1", "06_pseudo_labels", *(f"07_train_g2_{row}_seed0" for row in FRACTION_METHODS)}
    assert planned("label_fractions=[0.5]").keys() == {f"{name}_pairs_50pct" for name in on_fractions} | made_from_them


# What a changed setting makes stale: what it concerns, and what is made of that.
ROWS_OF_G2 = {f"07_train_g2_{method.name}_seed0" for method in table_methods() if method.net == "g2"}
WITH_LABELS = {f"07_train_g2_{name}_seed0" for name in ("unetpp_generated", "unetpp_released", "unetpp_full")}
CYCLEGAN = {
    "11_cyclegan_report_seed0",
    "11_cyclegan_loose_seed0",
    "12_cyclegan_rows",
    "07_train_g2_unetpp_images_seed0",
}
TABLES = {"08_ablation", "index", "all"}
LOOKS = {"09_errors", "10_predict", *TABLES}
EVERYTHING = {stage.name for stage in workflow.stages(load_profile("ci"))} | TABLES


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("g2_encoder=tu-resnet18", ROWS_OF_G2 | {"07_train_g2_unetpp_images_seed0"} | LOOKS),
        ("baseline_widths=[4, 8]", {"07_train_g2_baseline_seed0"} | CYCLEGAN | TABLES),
        ("discriminator=alternating", {"07_train_g2_unetpp_full_seed0"} | LOOKS),
        ("pseudo_filter=none", {"06_pseudo_labels"} | WITH_LABELS | LOOKS),
        ("photometric=strong", EVERYTHING - {"01_data", "02_explore"}),
        ("cyclegan_epochs=2", {"04_train_g1_as_long"} | CYCLEGAN | TABLES),
    ],
)
def test_a_setting_makes_stale_what_it_concerns_and_nothing_else(planned, change, stale):
    assert planned(change).keys() == stale


def test_a_change_taken_back_makes_nothing_stale(pretended, planned):
    """What was last executed decides, not when a file was written."""
    folder = pretended / "outputs/ci"
    record = folder / "settings/executed/04_train_g1.yaml"
    record.parent.mkdir()
    shutil.copy2(folder / "settings/04_train_g1.yaml", record)
    assert "04_train_g1" in planned("lr=0.5")
    assert "04_train_g1" not in planned()


def test_a_row_that_is_added_trains_itself_alone(planned, in_snakemake, monkeypatch):
    """Two lines of a stranger: a method, appended last, does not become the full one nor make the others stale."""
    monkeypatch.setitem(METHODS, "unetpp_tversky", Method("unetpp_tversky", "Tversky", loss="tversky"))
    in_snakemake(
        "import ethand_utils.experiments.methods as m\n"
        "m.METHODS['unetpp_tversky'] = m.Method('unetpp_tversky', 'Tversky', loss='tversky')\n"
    )
    rules = planned()
    assert rules.keys() == {"07_train_g2_unetpp_tversky_seed0", "08_ablation", "index", "all"}


def test_trainings_of_all_seeds_take_a_gpu_each_and_nothing_else_does(planned, in_snakemake, monkeypatch):
    monkeypatch.setattr(workflow, "gpu_count", lambda: 2)
    in_snakemake("import ethand_utils.experiments.workflow as w\nw.gpu_count = lambda: 2\n")
    found = planned("seeds=2", "lr=0.5")
    taking = {rule for rule, words in found.items() if re.search(r"resources:.*gpu=1", words)}
    training = {stage.name for stage in workflow.stages(load_profile("ci", {"seeds": 2})) if stage.trains}
    assert taking == training
    assert {f"07_train_g2_{method.name}_seed{seed}" for method in table_methods() for seed in (0, 1)} < training
    assert all("threads: 2" in found[rule] for rule in training)  # four cores for two GPUs
