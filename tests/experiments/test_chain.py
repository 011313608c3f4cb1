"""The chain on runs that are pretended: what runs again after a change, and which GPU a training gets."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ethand_utils.experiments import workflow
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.methods import ROWS, SHARE_ROWS
from ethand_utils.experiments.run import Run, RunError

REPOSITORY = Path(__file__).parents[2]
TWO_GPUS = "import torch\ntorch.cuda.device_count = lambda: 2\n"


def planned(root, *changes, **environment):
    """What `ethand run ci` would do in a checkout with some settings changed: Snakemake's words by rule."""
    command = [sys.executable, "-m", "ethand_utils.app.cli", "run", "ci", "--cores", "4"]
    command += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(
        [*command, "--", "--dry-run"], cwd=root, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = re.split(r"^(?:local)?rule (.+):$", done.stdout + done.stderr, flags=re.MULTILINE)
    return dict(zip(words[1::2], words[2::2], strict=True))


@pytest.fixture
def root(tmp_path):
    """A checkout in which everything that `ethand run ci` makes is there."""
    shutil.copytree(REPOSITORY / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    folder, profile = tmp_path / "outputs/ci", load_profile("ci")
    write_profile(folder, profile)
    stages = workflow.stages(profile)
    made = [path for stage in stages for path in (*stage.makes, f"html/{stage.name}.html")]
    for path in (*made, "index.html"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return tmp_path


def test_more_seeds_and_shares_run_what_is_new_and_what_is_made_from_it(root):
    assert planned(root) == {}
    new = {f"07_train_g2_{row['ROW']}_seed1" for row in ROWS}
    made_from_them = {"08_ablation", "index", "all"}
    cycles = {f"11_cyclegan_{row}_seed1" for row in load_profile("ci").cyclegan}
    assert planned(root, "seeds=2").keys() == new | cycles | made_from_them | {"12_cyclegan_rows"}
    more = planned(root, "cyclegan=[report, loose, front]")
    assert more.keys() == {"11_cyclegan_front_seed0", "12_cyclegan_rows"} | made_from_them
    of_shares = {"04_train_g1", "06_pseudo_labels", *(f"07_train_g2_{row}_seed0" for row in SHARE_ROWS)}
    assert planned(root, "shares=[0.5]").keys() == {f"{name}_pairs_50pct" for name in of_shares} | made_from_them
    assert "01_data" in planned(root, "lr=0.5")


def test_trainings_of_all_seeds_take_a_gpu_each_and_nothing_else_does(root, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(TWO_GPUS)
    found = planned(root, "seeds=2", "lr=0.5", PYTHONPATH=str(tmp_path))
    taking = {rule for rule, words in found.items() if re.search(r"resources:.*gpu=1", words)}
    training = {stage.name for stage in workflow.stages(load_profile("ci", {"seeds": 2})) if stage.trains}
    assert taking == training
    assert {f"07_train_g2_{row['ROW']}_seed{seed}" for row in ROWS for seed in (0, 1)} < training
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


def test_a_share_of_a_run_is_a_folder_inside_it_on_its_data(tmp_path):
    whole = Run(tmp_path / "x", load_profile("ci"))
    part = whole.at_share(0.05)
    assert part.folder == tmp_path / "x/pairs_5pct"
    assert (part.name, part.data_folder) == (whole.name, whole.data_folder)
    assert part.at_share(1) == whole
    assert part.at_share(0.2) == whole.at_share(0.2)
    for share in (0, 1.5, -1):
        with pytest.raises(RunError, match="expected a share of the pairs above 0"):
            whole.at_share(share)
