"""The plan of a run: what `ethand run --dry-run` says, against the report and against what trainings do; Snakemake."""

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import segmentation_models_pytorch as smp
from history import assert_as_planned
from snakemake.cli import get_argument_parser
from torch import nn

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.experiments import dry_run, workflow
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.methods import (
    METHODS,
    Method,
    MethodError,
    d_phases,
    g1_phases,
    get_method,
    table_methods,
)
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.training.learner import Phase, train_phases
from ethand_utils.training.losses import SegmentationLoss
from ethand_utils.training.models import RELEASED, create_model, save_weights
from ethand_utils.training.pseudo_labels import TopHalfFilter, label_store

REPOSITORY = Path(__file__).parents[2]
ROWS = {f"g2/{method.name}": method for method in table_methods()}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout to work in, with nothing made yet."""
    shutil.copytree(REPOSITORY / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(REPOSITORY / "cluster", tmp_path / "cluster")
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(profile="paper", **changes):
    return dry_run.planned(Run(Path("outputs/planned"), load_profile(profile, changes)))


@pytest.fixture(scope="module")
def paper():
    return plan_of(cyclegan=["loose"])


def by_name(planned):
    return {training["name"]: training for training in planned["trainings"]}


# The report, sections 2 and 3 (REFERENCE.md section 2).


def test_every_row_of_the_table_has_140_epochs(paper):
    rows = {name: one["phases"] for name, one in by_name(paper).items() if name in ROWS}
    assert list(rows) == list(ROWS)
    for name, phases in rows.items():
        epochs = [(phase["phase"], phase["epochs"]) for phase in phases]
        cycles = [("unpaired", 15), ("paired", 55), ("unpaired", 5), ("paired", 65)]
        assert epochs == (cycles if ROWS[name].unlabelled == "pseudo_labels" else [("paired", 140)])
        assert sum(count for _, count in epochs) == 140
        assert [len(phase["lr"]) for phase in phases] == [count for _, count in epochs]


def test_batches_and_learning_rates_are_the_reports(paper):
    counts = {"train": 68_000, "val": 4_000, "test": 10_000, "unpaired_images": 519_000, "unpaired_labels": 519_000}
    assert paper["data"]["counts"] == counts
    assert paper["data"]["size"] == 128
    for name in ("g1", "d", "d_argmax", *ROWS):
        for phase in by_name(paper)[name]["phases"]:
            unpaired = phase["phase"] == "unpaired"
            assert phase["bs"] == (32 if unpaired else 16)
            assert phase["learned"] == 16 * phase["steps"]
            assert phase["images"] == phase["bs"] * phase["steps"]
            assert phase["batches"] == (16_218 if unpaired else 4_250)  # 519,000 and 68,000, a rest is dropped
            assert phase["steps"] == phase["epochs"] * phase["batches"]
            rates = {rate for epoch in phase["lr"] for rate in epoch}
            assert rates == {2.5e-4 if unpaired else 1.5e-4}, name
            assert not phase["at_most"]


def test_losses_are_the_reports(paper):
    losses = {(name, f["phase"]): f["loss"] for name, one in by_name(paper).items() for f in one["phases"]}
    segmentation = "0.35 weighted CE + 0.65 Dice"
    assert losses["g1", "paired"] == losses["g2/unetpp_weighted", "paired"] == "weighted CE"
    assert losses["g2/baseline", "paired"] == losses["g2/unetpp_ce", "paired"] == "CE"
    assert losses["g2/unetpp_dice", "paired"] == losses["g2/unetpp_generated", "paired"] == segmentation
    assert losses["g2/unetpp_full", "unpaired"] == segmentation
    assert losses["g2/unetpp_full", "paired"] == f"0.9 ({segmentation}) + 0.1 BCE(D(prediction), 1)"
    assert losses["d", "discriminator"] == "BCE(D(G1's prediction), 0) + BCE(D(truth), 1)"
    assert paper["class_weights"][:2] == (0.1, 0.8)
    assert paper["profile"]["hands"] == "sum"


def test_only_the_last_rows_have_a_d_that_sees_probability_maps_and_is_not_trained_on(paper):
    trainings = by_name(paper)
    judged = {name: one["d"] for name, one in trainings.items() if one.get("d")}
    assert judged == {"g2/unetpp_released": "d_argmax", "g2/unetpp_full": "d"}
    full = trainings["g2/unetpp_full"]
    assert (full["adversarial_input"], full["discriminator"]) == ("softmax", "frozen")
    filters = {phase["filter"] for name in ROWS for phase in trainings[name]["phases"] if phase["phase"] == "unpaired"}
    assert filters == {"batch_half"}


def test_half_of_what_cyclegan_sees_is_unpaired_and_a_g1_sees_as_much(paper):
    trainings = by_name(paper)
    (phase,) = trainings["cyclegan/loose"]["phases"]
    assert (phase["bs"], phase["batches"], phase["images"]) == (8, 8_500, 16 * phase["steps"])
    assert trainings["g1_as_long"]["phases"][0]["images"] == phase["images"]
    assert "D_X" in phase["loss"]
    nets = paper["nets"]
    assert nets["G_XY"] == nets["G1"]
    assert (nets["G_YX"]["in_channels"], nets["G_YX"]["out_channels"]) == (36, 3)
    assert (nets["D_X"]["in_channels"], nets["D_Y"]["in_channels"]) == (3, 34)


def test_images_that_g_yx_made_come_in_place_of_generated_labels(paper):
    trainings = by_name(paper)
    labels, images = (trainings[f"g2/{name}"]["phases"] for name in ("unetpp_generated", "unetpp_images"))
    assert [phase["epochs"] for phase in labels] == [phase["epochs"] for phase in images]
    assert [phase["store"] for phase in images] == ["unpaired_labels", "train", "unpaired_labels", "train"]
    assert {phase["filter"] for phase in images} == {None}


def test_nets_are_the_reports(paper):
    nets = paper["nets"]
    assert nets["G1"]["pretrained"]
    assert nets["G2"]["pretrained"]
    assert nets["baseline"]["widths"] == [64, 128, 256, 512, 512]
    built = {name: create_model(**{**nets[name], "pretrained": False}) for name in ("G1", "G2", "d")}
    assert isinstance(built["G1"], smp.Unet)
    assert "Xception" in type(built["G1"].encoder).__name__
    assert isinstance(built["G2"], smp.UnetPlusPlus)
    assert nets["G2"]["encoder"] == "tu-regnety_032"
    layers = [layer for layer in built["d"] if isinstance(layer, nn.Conv2d)]
    assert [layer.in_channels for layer in layers] == [34, 64, 128, 256, 512]
    assert [layer.out_channels for layer in layers] == [64, 128, 256, 512, 1]
    assert {(layer.kernel_size, layer.stride) for layer in layers} == {((4, 4), (2, 2))}
    assert [layer.negative_slope for layer in built["d"] if isinstance(layer, nn.LeakyReLU)] == [0.2] * 4
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in built["d"]) == 4


def test_augmentation_is_the_reports(paper):
    assert {key: paper["augmentation"][key] for key in ("scale", "rotation", "rotation_p", "intensity", "flip_p")} == {
        "scale": 0.01,
        "rotation": 5.0,
        "rotation_p": 0.6,
        "intensity": 0.01,
        "flip_p": 0.5,
    }
    assert paper["augmentation"]["photometric"] is None


# What the plan counts.


def test_seeds_are_counted_and_every_training_of_the_chain_is_planned():
    planned = plan_of("tiny", seeds=3, cyclegan=["loose"])
    assert {one["name"]: one["seeds"] for one in planned["trainings"]} == {
        "g1": 1,
        "d": 1,
        "d_argmax": 1,
        **dict.fromkeys(ROWS, 3),
        "cyclegan/loose": 3,
        "g1_as_long": 1,
        "g2/unetpp_images": 1,
    }
    trained = [
        stage for stage in workflow.stages(load_profile("tiny", {"seeds": 3, "cyclegan": ["loose"]})) if stage.trains
    ]
    assert planned["totals"]["trainings"] == len(trained) - 1  # 06_pseudo_labels lets a net label, and trains none
    once = plan_of("tiny", cyclegan=["loose"])["totals"]["steps"]
    alone = sum(f["steps"] for one in planned["trainings"] if one["seeds"] == 1 for f in one["phases"])
    assert planned["totals"]["steps"] - alone == 3 * (once - alone)


@pytest.mark.parametrize(
    ("pseudo_filter", "share", "at_most"),
    [("batch_half", 0.5, False), ("none", 1, False), ("dataset_half", 1, True), ("threshold", 1, True)],
)
def test_a_filter_by_confidence_leaves_a_limit_and_the_others_a_number(pseudo_filter, share, at_most):
    planned = plan_of("tiny", pseudo_filter=pseudo_filter, pseudo_threshold=0.5)
    unpaired, paired = by_name(planned)["g2/unetpp_full"]["phases"][:2]
    assert unpaired["learned"] == share * unpaired["images"]
    assert (unpaired["at_most"], paired["at_most"], planned["totals"]["at_most"]) == (at_most, False, at_most)


def test_a_long_name_has_a_line_of_its_own_and_a_fraction_its_own_d():
    lines = dry_run.text(plan_of("ci", label_fractions=[0.05], peers=["cps"])).splitlines()
    places = [i for i, line in enumerate(lines) if line == "pairs_5pct/g2/unetpp_full"]
    assert any(lines[i + 1].split()[:3] == ["D", "is", "pairs_5pct/d"] for i in places)


def test_data_that_is_still_to_be_read_gives_limits(tmp_path):
    for name in ("data", "camera", "joint_3d"):
        (tmp_path / f"{name}.json").write_text("{}")
    planned = plan_of(data=str(tmp_path))
    assert planned["data"]["source"] == "interhand"
    assert planned["data"]["at_most"]
    assert planned["totals"]["at_most"]
    assert "at most train 68,000" in dry_run.text(planned)
    assert "unpaired_labels" not in planned["data"]["counts"]


def test_masks_without_images_are_counted_where_a_source_may_have_them(tmp_path):
    (tmp_path / "interhand.lmdb").touch()
    planned = plan_of(data=str(tmp_path))
    assert planned["data"]["source"] == "course"
    assert planned["data"]["counts"]["unpaired_labels"] == 519_000


# What trainings do.


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_a_training_does_what_the_plan_says(schedule, dataset, tmp_path):
    folder = dataset["train"].path.parent
    changes = {"data": str(folder), "bs": 5, "bs_unpaired": 6, "lr": 1e-3, "lr_unpaired": 2e-3, "lr_schedule": schedule}
    planned = plan_of("ci", **changes, epochs=5, cycles=[1, 2, 0, 2])
    assert planned["data"]["counts"]["train"] == len(dataset["train"])
    phases = by_name(planned)["g2/unetpp_generated"]["phases"]
    profile = load_profile("ci", {**changes, "epochs": 5, "cycles": [1, 2, 0, 2]})
    net = create_model("baseline", widths=(4, 8), seed=0)
    labels = label_store(net, dataset["unpaired_images"], tmp_path / "labels", "a net")
    val, light = dataset["val"], Augmentation()
    dls = {"paired": make_dls(dataset["train"], val, profile.bs, light)}
    dls["unpaired"] = make_dls(dataset["unpaired_images"], val, profile.bs_unpaired, light, pseudo=labels)
    cbs = {"paired": (), "unpaired": (TopHalfFilter(),)}
    real = [
        Phase(f.name, dls[f.name], f.epochs, f.lr, cbs[f.name]) for f in METHODS["unetpp_generated"].phases(profile)
    ]
    train_phases(net, SegmentationLoss(), real, tmp_path, schedule=schedule)
    assert_as_planned(pd.read_csv(tmp_path / "history.csv"), phases)


@pytest.mark.parametrize("name", ["ci", "tiny", "small", "paper"])
def test_rows_train_equally_long_in_every_profile(name):
    profile = load_profile(name)
    for method in METHODS.values():
        assert sum(phase.epochs for phase in method.phases(profile)) == profile.epochs
    assert [phase.epochs for phase in (*g1_phases(profile), *d_phases(profile))] == [
        profile.g1_epochs,
        profile.d_epochs,
    ]


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("loss", "tversk", "method mine: loss 'tversk': unknown (did you mean tversky?); expected one of ce, ce_dice"),
        ("net", "g3", "method mine: net 'g3': unknown (did you mean g2?); expected one of baseline, g2"),
        ("unlabelled", "labels", "expected one of none, pseudo_labels, generated_images"),
        ("adversary", "on", "expected one of none, profile, released"),
        ("compared_with", ("unetp_dice",), "compared_with 'unetp_dice': unknown (did you mean unetpp_dice?)"),
    ],
)
def test_a_method_that_asks_for_something_unknown_is_refused(field, value, line):
    with pytest.raises(MethodError) as caught:
        Method("mine", "Mine", **{field: value}).check()
    assert line in str(caught.value)


def test_a_row_with_an_unknown_loss_is_refused_before_anything_starts(checkout, ethand, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Method("mine", "Mine", loss="tversk"))
    for options in ([], ["--dry-run"]):
        status, _, said = ethand("run", "tiny", *options)
        assert status == 1
        assert said.strip().splitlines()[-1].startswith("ethand: method mine: loss 'tversk': unknown (did you mean tve")
    assert not (checkout / "outputs").exists()


def test_a_refused_run_leaves_the_profile_of_an_earlier_one(checkout, ethand):
    write_profile(checkout / "outputs/tiny", load_profile("tiny"))
    before = (checkout / "outputs/tiny/profile.yaml").read_bytes()
    for change in ("data=nowhere", "methods=[unetp_dice]", "lr=-1"):
        assert ethand("run", "tiny", "--set", change)[0] == 1
        assert (checkout / "outputs/tiny/profile.yaml").read_bytes() == before


def test_g1_starts_from_weights_that_are_there(checkout, ethand):
    plan = ("run", "release", "--dry-run", "--set")
    assert "from the weights released" in ethand(*plan, "g1_init=released")[1]
    status, _, said = ethand(*plan, "g1_init=mine.safetensors")
    assert status == 1
    assert "g1_init: mine.safetensors: no such file; expected released" in said
    shutil.copy(RELEASED, checkout / "mine.safetensors")
    assert "from the weights mine.safetensors" in ethand(*plan, "g1_init=mine.safetensors")[1]


def test_g2_starts_from_weights_that_are_there(checkout, ethand):
    save_weights(create_model("unet", "tu-resnet10t", widths=(8, 4)), checkout / "mine.safetensors")
    net = [f"--set={change}" for change in ("g2_arch=unet", "g2_encoder=tu-resnet10t", "g2_widths=[8, 4]")]
    lines = ethand("run", "ci", *net, "--set=g2_init=mine.safetensors", "--dry-run")[1].splitlines()
    starts = {line.split()[0]: line.split(", ")[-1] for line in lines if ", from " in line and "widths" in line}
    weights = {name for name, start in starts.items() if start == "from the weights mine.safetensors"}
    assert {"G1", "G2", "baseline"} <= set(starts)
    assert weights == {"G2"}


def test_a_changed_method_needs_a_name_of_its_own():
    method = get_method("unetpp_full", "mine", loss="tversky", adversary="none")
    assert (method.name, method.loss, method.unlabelled) == ("mine", "tversky", "pseudo_labels")
    for name in ("", "unetpp_full", "unetpp_dice"):
        with pytest.raises(MethodError, match="expected a new name"):
            get_method("unetpp_full", name, loss="tversky")
    with pytest.raises(MethodError, match="did you mean unetpp_full"):
        get_method("unetp_full")
    with pytest.raises(MethodError, match="did you mean weighted"):
        get_method("unetpp_full", "mine", weigthed=False)


def test_a_result_records_the_settings_that_its_method_uses():
    profile = load_profile("ci", {"class_weights": "released_new", "discriminator": "alternating"})
    facts = {name: method.facts(profile) for name, method in METHODS.items()}
    for name, method in METHODS.items():
        labelled = method.unlabelled == "pseudo_labels"
        assert [facts[name][key] is not None for key in ("labelling", "confidence", "pseudo_filter")] == [labelled] * 3
        assert (facts[name]["discriminator"] == "none") == (method.adversary == "none")
        assert (facts[name]["loss"], facts[name]["hands"]) == (method.loss, profile.hands)
    assert [facts[name]["class_weights"] for name in ("baseline", "unetpp_full")] == ["none", "released_new"]
    assert facts["unetpp_full"]["adversarial_input"] == "straight_through"
    assert facts["unetpp_released"]["adversarial_input"] == "argmax"
    assert [facts[name]["discriminator"] for name in ("unetpp_full", "unetpp_released")] == ["alternating", "frozen"]


# The command.


def test_a_dry_run_tells_all_and_writes_nothing(checkout, ethand):
    before = sorted(checkout.rglob("*"))
    status, said, _ = ethand("run", "paper", "--dry-run", "--set", "seeds=10", "--set", "lr_schedule=one_cycle")
    assert status == 0
    assert sorted(checkout.rglob("*")) == before
    assert max(map(len, said.splitlines())) <= 100
    for words in ("68,000", "519,000", "16,218", "4,250", "xception", "tu-regnety_032", "×10", "0.35 weighted CE"):
        assert words in said


def test_a_plan_says_what_is_trained_at_half_the_size(checkout, ethand):
    said = ethand("run", "tiny", "--dry-run", "--set", "half_size_share=0.6")[1]
    assert "32×32 px for the first 60%" in said
    assert "half the size" not in ethand("run", "tiny", "--dry-run", "--set", "half_size_share=0")[1]


def test_the_plan_as_json_is_the_plan(checkout, ethand):
    status, said, _ = ethand("run", "tiny", "--dry-run", "--json", "--set", "lr=0.5")
    assert status == 0
    assert json.loads(said) == json.loads(json.dumps(plan_of("tiny", lr=0.5) | {"run": "tiny"}))
    status, _, said = ethand("run", "tiny", "--json")
    assert status == 1
    assert said.strip().splitlines() == ["ethand: run: --json needs --dry-run; give both, or neither"]


@pytest.mark.parametrize("name", ["release", "finetune"])
def test_a_plan_of_one_net_for_photos_has_its_training(name, checkout, ethand):
    status, said, _ = ethand("run", name, "--dry-run", "--json")
    (training,) = json.loads(said)["trainings"]
    assert status == 0
    assert (training["notebook"], training["net"], training["seeds"]) == ("14_release", "G1", 1)
    assert training["phases"][0]["epochs"] == load_profile(name).g1_epochs


def test_a_dry_run_refuses_what_a_run_would(checkout, ethand):
    assert "did you mean epochs" in ethand("run", "tiny", "--dry-run", "--set", "epoch=3")[2]
    assert "no such folder" in ethand("run", "tiny", "--dry-run", "--set", "data=nowhere")[2]
    assert "did you mean unetpp_dice" in ethand("run", "tiny", "--dry-run", "--set", "methods=[unetp_dice]")[2]


# Snakemake.


def parsed(folder, cores, *options):
    """What Snakemake understands of the command."""
    return get_argument_parser().parse_args(workflow.snakemake_command(folder, cores, list(options))[6:])


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("options", [["g1/result.json"], ["--dry-run", "g1/result.json"], ["g1/result.json", "-n"]])
def test_a_target_reaches_snakemake_as_one(options, gpus, checkout, monkeypatch):
    monkeypatch.setattr(workflow, "gpu_count", lambda: gpus)
    args = parsed(checkout / "outputs/x", 3, *options)
    assert args.targets == ["g1/result.json"]
    assert args.dryrun == (len(options) == 2)
    assert (args.cores, args.directory) == (3, checkout / "outputs/x")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            [
                "g1/result.json",
                "04_train_g1",
                "render_1_of_2",
                "render/1-of-2.done",
                "--dry-run",
                "index.html",
                "--forcerun",
                "anything",
            ],
            None,
        ),
        (["--default-resources", "runtime=120", "mem_mb=16000"], None),
        (["g1/resul.json"], r"g1/resul.json: no file or stage of this run \(did you mean g1/result.json\?\)"),
        (["--dry-run", "g2/nobody/seed0/result.json"], "no file or stage of this run"),
        (["lr=6e-3"], "lr=6e-3: no file or stage of this run; to change a setting, give --set lr=6e-3 before --"),
    ],
)
def test_a_target_that_a_run_does_not_make_is_refused(options, fault):
    refused = pytest.raises(RunError, match=fault) if fault else contextlib.nullcontext()
    with refused:
        workflow.check_targets(load_profile("ci", {"render_parts": 2}), options)


def test_a_plan_tells_peers_apart_and_how_many_pairs_a_fraction_has(ethand):
    changes = ("--set", "peers=[fixmatch, fixmatch_off]", "--set", "label_fractions=[0.05, 0.0001]")
    said = " ".join(ethand("run", "tiny", "--dry-run", *changes)[1].split())
    assert "label fractions pairs_5pct: 200 pairs · pairs_0.01pct: 2 pairs" in said
    assert "its own unlabelled_weight 0 joint: pairs_5pct/g2/fixmatch_off, pairs_0.01pct/g2/fixmatch_off, fixm" in said


def test_a_plan_takes_no_target(ethand):
    status, _, said = ethand("run", "ci", "--dry-run", "--", "g1/result.json")
    assert status == 1
    assert "--dry-run describes the whole run and takes no target, but got 'g1/result.json'; put --dry-run" in said


def test_snakemakes_dry_run_leaves_the_settings_of_a_run(checkout):
    run = Run(checkout / "outputs/ci", load_profile("ci"))
    write_profile(run.folder, run.profile)
    workflow.write_stage_settings(run)
    files = sorted(path for path in run.folder.rglob("*") if path.is_file())
    earlier = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    changed = load_profile("ci", {"lr": 0.5, "peers": ["fixmatch"]})
    with workflow.unchanged_settings(run.folder):
        write_profile(run.folder, changed)
        workflow.write_stage_settings(replace(run, profile=changed))
        assert load_profile(run.folder / "profile.yaml").lr == 0.5
    assert sorted(path for path in run.folder.rglob("*") if path.is_file()) == files
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == earlier


def test_cores_and_gpus_of_this_machine_limit_only_jobs_that_run_on_it(checkout, monkeypatch):
    monkeypatch.setattr(workflow, "gpu_count", lambda: 2)
    here = workflow.snakemake_command(checkout, 0, [])
    assert "gpu=2" in here
    assert here[here.index("--cores") + 1] == str(len(os.sched_getaffinity(0)))
    for words in (["--executor", "slurm"], ["--executor=slurm"], ["--profile", "cluster/slurm"]):
        assert not {"--cores", "--resources"} & set(workflow.snakemake_command(checkout, 0, words))
    assert workflow.snakemake_command(checkout, 0, ["--profile", "cluster/slurm"])[-1] == str(
        checkout / "cluster/slurm"
    )


@pytest.mark.slow
def test_on_slurm_a_training_asks_for_a_gpu_and_no_other_stage_does(checkout, ethand):
    words = ("--set", "render_parts=2", "--", "--profile", "cluster/slurm", "--dry-run")
    status, *said = ethand("run", "ci", *words)
    assert status == 0, said
    asked = asked_resources("".join(said))
    profile = load_profile("ci", {"render_parts": 2})
    assert {stage.name for stage in workflow.stages(profile)} <= set(asked)
    trains = {stage.name for stage in workflow.stages(profile) if stage.trains}
    for rule, (threads, resources) in asked.items():
        assert resources.get("gpu", "0") == ("1" if rule in trains else "0"), rule
        assert threads == ("8" if rule in trains or rule.startswith("render") else "1"), rule
        assert {"mem_mb", "runtime"} <= set(resources) or rule == "all"


def asked_resources(said):
    """Threads and resources of every rule in what Snakemake prints of a dry run."""
    asked, rule = {}, None
    for line in said.splitlines():
        words = line.split()
        if words and words[0] in ("rule", "localrule"):
            rule = words[1].rstrip(":")
            asked[rule] = ("1", {})
        elif words and words[0] == "threads:":
            asked[rule] = (words[1], asked[rule][1])
        elif words and words[0] == "resources:":
            asked[rule][1].update(word.strip(",").split("=") for word in line.split("resources:")[1].split(", "))
    return asked


def test_partitions_of_the_profile_are_known_to_the_executor():
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    found = {p.name: p.limits.max_gpu for p in read_partition_file(REPOSITORY / "cluster/slurm/partitions.yaml")}
    assert found == {"gpu": 1, "cpu": 0}
