"""Stages of the chain: the settings that concern each, GPUs, and the folder of a fraction of the pairs."""

import json
import os
import re
from pathlib import Path

import pytest

from ethand_utils.experiments import workflow
from ethand_utils.experiments.config import GROUPS, Profile, concerning, load_profile
from ethand_utils.experiments.methods import METHODS
from ethand_utils.experiments.run import Run, RunError

REPOSITORY = Path(__file__).parents[2]


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


# ---- the net of the package


def test_the_chain_of_release_makes_one_net_and_depends_on_what_concerns_it():
    data, release = workflow.stages(load_profile("release"))
    assert (data.name, release.name) == ("01_data", "14_release")
    assert "release/weights.safetensors" in release.makes
    assert release.needs == ("01_data",)
    assert {"g1_encoder", "lr", "photometric", "class_weights"} <= {*release.settings}
    assert "g2_encoder" not in release.settings
