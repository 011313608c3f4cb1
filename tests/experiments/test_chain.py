"""The chain on runs that are pretended: what runs again after a change, and which GPU a training gets."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from ethand_utils.experiments import workflow
from ethand_utils.experiments.config import GROUPS, Profile, concerning, load_profile, write_profile
from ethand_utils.experiments.methods import FRACTION_METHODS, METHODS, Method, table_methods
from ethand_utils.experiments.run import Run, RunError

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("chain")  # a test of the real chain touches a module for a while


@pytest.fixture
def root(tmp_path):
    """A checkout in which everything that `ethand run ci` makes is there."""
    shutil.copytree(REPOSITORY / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
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
def planned(root, ethand, monkeypatch):
    """Function: what `ethand run ci` would do there with some settings changed; Snakemake's words by rule."""
    monkeypatch.chdir(root)

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_change_taken_back_makes_nothing_stale(root, planned):
    """What was last executed decides, not when a file was written."""
    folder = root / "outputs/ci"
    record = folder / "settings/executed/04_train_g1.yaml"
    record.parent.mkdir()
    shutil.copy2(folder / "settings/04_train_g1.yaml", record)
    assert "04_train_g1" in planned("lr=0.5")
    assert "04_train_g1" not in planned()


@pytest.mark.slow
def test_a_row_that_is_added_trains_itself_alone(planned, in_snakemake, monkeypatch):
    """Two lines of a stranger: a method, appended last, does not become the full one nor make the others stale."""
    monkeypatch.setitem(METHODS, "unetpp_tversky", Method("unetpp_tversky", "Tversky", loss="tversky"))
    in_snakemake(
        "import ethand_utils.experiments.methods as m\n"
        "m.METHODS['unetpp_tversky'] = m.Method('unetpp_tversky', 'Tversky', loss='tversky')\n"
    )
    rules = planned()
    assert rules.keys() == {"07_train_g2_unetpp_tversky_seed0", "08_ablation", "index", "all"}


def test_every_setting_that_a_notebook_reads_concerns_its_stage():
    for stage in workflow.stages(load_profile("ci")):
        cells = json.loads((REPOSITORY / f"notebooks/{stage.notebook}.ipynb").read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        keys = set(re.findall(r"\b(?:p|run\.profile)\.(\w+)", code)) & set(Profile.model_fields)
        unlisted = keys & set(concerning(*GROUPS)) - set(stage.settings)
        if stage.method:  # the notebook of all methods reads what concerns other methods
            unlisted -= {key for method in METHODS.values() for key in method.settings}
        assert not unlisted, stage.name


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_that_a_method_reads_concerns_its_stage(name):
    keys = set()

    class Recorder:
        def __getattr__(self, key):
            keys.add(key)
            return getattr(load_profile("ci"), key)

    method, profile = METHODS[name], Recorder()
    for asked in (method.phases, method.net_options, method.class_weights, method.discriminator):
        asked(profile)
    named = {"adversarial_input"} if method.adversary == "released" else set()  # names the folder of D alone
    assert keys - named <= set(method.settings)


@pytest.mark.slow
def test_trainings_of_all_seeds_take_a_gpu_each_and_nothing_else_does(planned, in_snakemake, monkeypatch):
    monkeypatch.setattr(workflow, "gpu_count", lambda: 2)
    in_snakemake("import ethand_utils.experiments.workflow as w\nw.gpu_count = lambda: 2\n")
    found = planned("seeds=2", "lr=0.5")
    taking = {rule for rule, words in found.items() if re.search(r"resources:.*gpu=1", words)}
    training = {stage.name for stage in workflow.stages(load_profile("ci", {"seeds": 2})) if stage.trains}
    assert taking == training
    assert {f"07_train_g2_{method.name}_seed{seed}" for method in table_methods() for seed in (0, 1)} < training
    assert all("threads: 2" in found[rule] for rule in training)  # four cores for two GPUs


@pytest.mark.parametrize(("given", "names"), [(None, ["0", "1"]), ("3,5", ["3", "5"])])
def test_every_training_gets_a_gpu_of_its_own_of_those_it_may_use(tmp_path, monkeypatch, given, names):
    got = []

    def train(number):
        if number:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            if given:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
            with workflow.reserve_gpus(tmp_path, 2):
                got.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
                train(number - 1)

    train(3)
    assert got == [*names, given]  # the third finds none free
    train(1)
    assert got[-1] == names[0]


def test_a_training_on_several_gpus_gets_as_many(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    with workflow.reserve_gpus(tmp_path, 3, needed=2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,3"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
        with workflow.reserve_gpus(tmp_path, 3, needed=2):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    stages = {stage.name: stage.gpus for stage in workflow.stages(load_profile("ci", {"processes": 2}))}
    assert [stages[name] for name in ("01_data", "04_train_g1", "06_pseudo_labels", "08_ablation")] == [0, 2, 1, 0]
    assert stages["05_train_discriminator"] == stages["07_train_g2_unetpp_full_seed0"] == 2


def test_a_fraction_of_the_pairs_is_a_folder_inside_the_run_on_its_data(tmp_path):
    whole = Run(tmp_path / "x", load_profile("ci"))
    part = whole.at_fraction(0.05)
    assert part.folder == tmp_path / "x/pairs_5pct"
    assert (part.name, part.data_folder) == (whole.name, whole.data_folder)
    assert part.at_fraction(1) == whole
    assert part.at_fraction(0.2) == whole.at_fraction(0.2)
    for fraction in (0, 1.5, -1):
        with pytest.raises(RunError, match="expected a number above 0 and at most 1"):
            whole.at_fraction(fraction)
