"""Profiles and their settings, the stages they ask for, Table 1's relative changes, and the environment files."""

import itertools
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ethand_utils.analysis.tables import table1
from ethand_utils.data.augment import PHOTOMETRIC
from ethand_utils.experiments.config import (
    GROUPS,
    PROFILES,
    Profile,
    ProfileError,
    choices,
    concerning,
    load_profile,
    parse_changes,
    write_profile,
)
from ethand_utils.experiments.methods import FRACTION_METHODS, table_methods
from ethand_utils.experiments.workflow import render_shards, stage_inputs, stages
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.training.losses import ADVERSARIAL_INPUTS, REDUCTIONS
from ethand_utils.training.models import DISCRIMINATORS
from ethand_utils.training.pseudo_labels import CONFIDENCES, FILTERS

REPOSITORY = Path(__file__).parents[2]
SHIPPED = ("ci", "tiny", "small", "paper")


@pytest.mark.parametrize("name", [*SHIPPED, "peers", "release", "finetune"])
def test_a_shipped_profile_spells_out_and_explains_every_setting(name, capsys):
    load_profile(name)
    assert capsys.readouterr() == ("", "")
    text = (PROFILES / f"{name}.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert list(yaml.safe_load(text)) == list(Profile.model_fields)
    assert [line.split("# ")[1] for line in lines] == [field.description for field in Profile.model_fields.values()]


def test_the_defaults_are_those_of_tiny():
    assert Profile() == load_profile("tiny")


def test_every_setting_concerns_a_stage_or_changes_no_result():
    changing_nothing = (
        "render_parts",
        "processes",
        "compile",
        "tensorboard",
        "chain",
        "seeds",
        "methods",
        "label_fractions",
        "peers",
        "cyclegan",
    )
    assert tuple(key for key in Profile.model_fields if key not in concerning(*GROUPS)) == changing_nothing
    assert all(concerning(group) for group in GROUPS)
    named = {group for field in Profile.model_fields.values() for group in field.json_schema_extra["concerns"]}
    assert named == set(GROUPS)


def test_settings_that_concern_a_stage_come_in_the_order_of_the_model():
    assert concerning("optimiser", "augment") == ("photometric", "bs", "lr", "lr_schedule")
    assert concerning() == ()
    assert "g2_encoder" not in concerning("g1", "loss", "optimiser")
    with pytest.raises(ProfileError, match=r"group of settings 'optimizer': unknown \(did you mean optimiser"):
        concerning("optimizer")


def test_a_threshold_must_be_given_where_the_filter_is_one():
    with pytest.raises(ProfileError, match="pseudo_threshold: null, expected the least confidence"):
        load_profile("tiny", {"pseudo_filter": "threshold"})
    assert load_profile("tiny", {"pseudo_filter": "threshold", "pseudo_threshold": 0.8}).pseudo_threshold == 0.8


def test_the_row_as_released_has_a_discriminator_of_its_own_unless_the_profiles_serves():
    for inputs, expected in (("softmax", {"_argmax", ""}), ("argmax", {""})):
        chain = {stage.name: stage for stage in stages(load_profile("ci", {"adversarial_input": inputs}))}
        assert {name for name in chain if name.startswith("05_")} == {f"05_train_discriminator{e}" for e in expected}
        needs = chain["07_train_g2_unetpp_released_seed0"].needs
        assert [n for n in needs if n.startswith("05_")] == [f"05_train_discriminator{max(expected)}"]
        assert "05_train_discriminator" in chain["07_train_g2_unetpp_full_seed0"].needs


def test_paper_has_the_reports_numbers():
    paper = load_profile("paper")
    assert (paper.size, paper.bs, paper.lr, paper.lr_unpaired) == (128, 16, 1.5e-4, 2.5e-4)
    assert (paper.epochs, paper.cycles, paper.lr_schedule) == (140, [15, 55, 5, 65], "constant")
    assert (paper.g1_encoder, paper.g2_encoder, paper.pretrained) == ("xception", "tu-regnety_032", True)


def test_cyclegan_is_trained_only_where_it_is_asked_for():
    assert [load_profile(name).cyclegan for name in SHIPPED] == [["report", "loose"], [], [], []]
    assert load_profile("tiny", parse_changes(["cyclegan=[loose]"])).cyclegan == ["loose"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"EPOCH": 3}, r"setting 'EPOCH': unknown \(did you mean epochs\?\); expected one of data, mano_dir"),
        ({"lr": "fast"}, r"lr: 'fast', expected float \(above 0\)$"),
        ({"lr": "1"}, "expected float"),
        ({"lr": True}, "expected float"),
        ({"lr": 0.0}, r"lr: 0.0, expected float \(above 0\)$"),
        ({"lr": float("nan")}, "lr: nan, expected a finite number"),
        ({"image_weight": float("inf")}, "inf, expected a finite number"),
        ({"d_rate": -1.0}, r"expected float \(at least 0\)"),
        ({"epochs": 3.5}, "expected int"),
        ({"epochs": True}, "expected int"),
        ({"seed": -1}, r"expected int \(at least 0\)"),
        ({"size": 8}, r"expected int \(at least 16, at most 4,096\)"),
        ({"pretrained": 1}, "pretrained: 1, expected bool or wheel"),
        ({"pretrained": "hub"}, "pretrained: 'hub', expected bool or wheel"),
        ({"bs": 0}, "at least 1"),
        ({"bs_unpaired": 0}, "at least 1"),
        ({"bs": 9, "processes": 2}, r"bs: 9, expected a multiple of processes \(2\)"),
        ({"render_parts": 0}, "at least 1"),
        ({"data": 3}, "data: 3, expected str or null"),
        ({"mano_dir": ["a", "b"]}, "expected str or null"),
        (
            {"g1_widths": [16, 0]},
            r"\[16, 0\], expected list \(not empty\) of int \(at least 1, at most 65,536\) or null",
        ),
        ({"baseline_widths": []}, r"expected list \(not empty\)"),
        (
            {"photometric": "stronger"},
            r"'stronger': unknown \(did you mean strong\?\); expected one of report, strong$",
        ),
        ({"class_weights": "heavy"}, "expected one of none, released, released_new, inverse_frequency"),
        ({"hands": "max"}, "expected one of sum, mean"),
        ({"adversarial_input": "hard"}, "expected one of softmax, straight_through, argmax"),
        ({"discriminator": "off"}, "expected one of frozen, alternating"),
        ({"d_arch": "patch"}, "expected one of discriminator, discriminator_released"),
        ({"labelling": "never"}, "expected one of offline, online"),
        ({"confidence": "entropy"}, "expected one of foreground_prob, logit_sum"),
        ({"pseudo_filter": "half"}, "expected one of batch_half, dataset_half, threshold, none"),
        ({"pseudo_threshold": "high", "pseudo_filter": "threshold"}, "expected float or null"),
        ({"cycles": [1, 1]}, "four numbers"),
        ({"cycles": [1, 2, 1, 3]}, r"add up to epochs \(6\)"),
        ({"cycles": [-1, 5, 1, 3]}, r"expected list of int \(at least 0\)"),
        ({"label_fractions": 0.2}, "expected list"),
        ({"peers": "fixmatch"}, r"peers: 'fixmatch', expected list of str, as \['fixmatch'\]"),
        ({"label_fractions": [0.2, 1.0]}, r"\[0.2, 1.0\], expected list of float \(above 0, below 1\)"),
        ({"label_fractions": [0.0]}, "expected list of float"),
        ({"label_fractions": ["5 %"]}, "expected list of float"),
        ({"label_fractions": [0.2, 0.2]}, "each only once"),
        ({"cyclegan": ["balance"]}, "cyclegan 'balance': unknown .did you mean balanced"),
        ({"views": 3}, "views 3: unknown; expected one of round, front"),
        ({"rotation_share": 1.5}, r"rotation_share: 1.5, expected float \(at least 0, at most 1\)$"),
        ({"occluder_share": -0.1}, r"expected float \(at least 0, at most 1\)$"),
        ({"photo_share": "all"}, r"photo_share: 'all', expected float \(at least 0, at most 1\)$"),
        ({"second_rig_share": float("nan")}, "second_rig_share: nan, expected a finite number"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(changes, says):
    with pytest.raises(ProfileError, match=says) as caught:
        load_profile("tiny", changes)
    assert next(iter(changes)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_number_passes_as_float():
    assert repr(load_profile("tiny", {"lr": 1, "pseudo_threshold": 2}).lr) == "1.0"


def test_choices_that_a_module_with_torch_defines_are_those_of_the_settings():
    assert choices("adversarial_input") == ADVERSARIAL_INPUTS
    assert choices("d_arch") == tuple(DISCRIMINATORS)
    assert choices("pseudo_filter") == FILTERS
    assert choices("confidence") == tuple(CONFIDENCES)
    assert choices("photometric") == tuple(PHOTOMETRIC)
    assert choices("hands") == REDUCTIONS


def test_the_rendering_is_shared_only_where_there_is_something_to_share():
    assert [str(part) for part in render_shards(load_profile("ci", {"render_parts": 3}))] == ["1/3", "2/3", "3/3"]
    assert render_shards(load_profile("ci")) == []
    assert render_shards(load_profile("ci", {"render_parts": 3, "data": "elsewhere"})) == []


def test_every_option_of_rendering_is_a_setting_that_concerns_the_data():
    assert {*RenderOptions.__dataclass_fields__} <= {*concerning("data")}
    tiny = load_profile("tiny")
    assert (tiny.rotation_share, tiny.occluder_share, tiny.photo_share) == (0, 0, 0)


def test_shipped_profiles_augment_as_the_report_does():
    assert {load_profile(name).photometric for name in SHIPPED if name != "release"} == {"report"}


def test_an_unknown_profile_is_refused_naming_the_nearest(tmp_path):
    with pytest.raises(ProfileError, match=r"'tinny': unknown \(did you mean tiny\?\).* or a YAML file"):
        load_profile("tinny")
    with pytest.raises(ProfileError, match=r"mine\.yaml: no such file"):
        load_profile(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid YAML"),
        ("3", "expected settings, one KEY: VALUE a line"),
        ("", "expected settings"),
        ("leraning_rate: 1", "mine.yaml: setting 'leraning_rate': unknown"),
        ("shares: []\nlabel_fractions: []", "expected label_fractions alone"),
    ],
)
def test_a_damaged_file_is_refused_and_named(tmp_path, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=says) as caught:
        load_profile(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value)


def test_changes_are_read_as_yaml():
    changes = parse_changes(["lr=1e-3", "data=null", "cycles=[1,2,1,2]", "g1_arch=fpn"])
    assert changes == {"lr": 1e-3, "data": None, "cycles": [1, 2, 1, 2], "g1_arch": "fpn"}
    with pytest.raises(ProfileError, match="KEY=VALUE"):
        parse_changes(["lr"])
    with pytest.raises(ProfileError, match=r"--set cycles=\[1: not valid YAML"):
        parse_changes(["cycles=[1"])


def test_settings_that_a_file_lacks_take_their_defaults_and_a_line_says_so(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("lr: 0.5\n")
    assert load_profile(file, {"seeds": 2}) == load_profile("tiny", {"lr": 0.5, "seeds": 2})
    out, err = capsys.readouterr()
    others = len(Profile.model_fields) - 7
    assert out == ""
    assert err.startswith(f"{file}: settings that are missing take their defaults: data null, mano_dir null")
    assert err.endswith(f"{others} others\n")
    assert err.count("\n") == 1
    file.write_text(
        "".join(f"{line}\n" for line in (PROFILES / "ci.yaml").read_text().splitlines() if "50" not in line)
    )
    assert load_profile(file) == load_profile("ci")
    assert capsys.readouterr().err == f"{file}: settings that are missing take their defaults: replay_buffer 50\n"


def test_an_old_name_of_a_setting_is_read_and_the_new_one_named(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text((PROFILES / "ci.yaml").read_text().replace("label_fractions: []", "shares: [0.5]"))
    assert load_profile(file).label_fractions == [0.5]
    assert capsys.readouterr().err == f"{file}: shares is now called label_fractions\n"
    assert load_profile(file, {"shares": [0.2]}) == load_profile("ci", {"label_fractions": [0.2]})


def test_a_written_profile_reads_back_and_is_not_touched_again(tmp_path, capsys):
    profile = load_profile("ci", {"lr": 0.5})
    write_profile(tmp_path, profile)
    written = (tmp_path / "profile.yaml").stat().st_mtime_ns
    write_profile(tmp_path, profile)
    assert (tmp_path / "profile.yaml").stat().st_mtime_ns == written
    assert load_profile(tmp_path / "profile.yaml") == profile
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["lr: 1", "{", "3"])
def test_a_damaged_or_older_profile_is_written_anew(tmp_path, text):
    (tmp_path / "profile.yaml").write_text(text)
    write_profile(tmp_path, load_profile("ci"))
    assert load_profile(tmp_path / "profile.yaml") == load_profile("ci")


def test_a_label_fraction_has_its_own_trainings_in_its_own_folder():
    profile = load_profile("ci", {"label_fractions": [0.05, 0.005], "seeds": 2})
    chain = {stage.name: stage for stage in stages(profile)}
    names = [name for name in chain if name.endswith("_pairs_5pct")]
    rows = [f"07_train_g2_{row}_seed{seed}" for seed in (0, 1) for row in FRACTION_METHODS]
    assert names == [f"{name}_pairs_5pct" for name in ("04_train_g1", "06_pseudo_labels", *rows)]
    assert all(chain[name].parameters["LABEL_FRACTION"] == 0.05 for name in names)
    assert all(path.startswith("pairs_5pct/") for name in names for path in chain[name].makes)
    labelled = chain["07_train_g2_unetpp_generated_seed1_pairs_0.5pct"]
    assert labelled.needs == ("01_data", "06_pseudo_labels_pairs_0.5pct")
    assert {*names} - {"06_pseudo_labels_pairs_5pct"} <= {*chain["08_ablation"].needs}
    assert "label_fractions.csv" in chain["08_ablation"].makes
    paths = [path for stage in chain.values() for path in stage.makes]
    assert len(paths) == len(set(paths))


def test_peers_are_trained_on_all_fractions_and_compared_at_the_end():
    profile = load_profile("ci", {"peers": ["cps", "fixmatch"], "label_fractions": [0.05], "seeds": 2})
    chain = {stage.name: stage for stage in stages(profile)}
    names = [f"07_train_g2_{row}_seed{seed}" for row in ("fixmatch", "cps") for seed in (0, 1)]
    trainings = {f"{name}{folder}" for name in names for folder in ("", "_pairs_5pct")}
    assert trainings <= {*chain["13_peers"].needs}
    full = chain["07_train_g2_unetpp_full_seed1_pairs_5pct"]
    assert full.needs[-1] == "05_train_discriminator_pairs_5pct"
    assert full.name in chain["13_peers"].needs
    assert full.name not in chain["08_ablation"].needs
    assert not trainings & {*chain["08_ablation"].needs}
    assert "13_peers" not in {stage.name for stage in stages(load_profile("ci"))}
    assert {*chain["13_peers"].needs} <= {*chain}
    files = [Path(file).name for file in stage_inputs(REPOSITORY, chain[names[0]])]
    assert "fixmatch.py" in files
    assert "cps.py" not in files


def test_more_trainings_change_no_stage_that_is_there():
    few = {stage.name: stage for stage in stages(load_profile("ci"))}
    many = {stage.name: stage for stage in stages(load_profile("ci", {"seeds": 3, "label_fractions": [0.2]}))}
    assert {name for name, stage in few.items() if many[name] != stage} == {"08_ablation", "12_cyclegan_rows"}
    more = 2 * len(table_methods()) + 2 + 3 * len(FRACTION_METHODS) + 2 * len(load_profile("ci").cyclegan)
    assert len(many) == len(few) + more


def test_table_repeats_the_reports_deltas():
    found = pd.DataFrame([{"row": m.name, "course_miou": m.reported or 0.1} for m in table_methods()])
    table = table1(found)
    of_the_report = table["reported"].notna()
    assert table[~of_the_report]["row"].tolist() == ["unetpp_released"]
    assert table[~of_the_report]["ours_delta_previous_pct"].tolist() == pytest.approx([100 * (0.1 / 0.55771 - 1)])
    table = table[of_the_report].reset_index()
    baseline = [7.91, 8.26, 9.33, 11.99, 12.05]
    assert table["ours_delta_baseline_pct"][1:].round(2).tolist() == pytest.approx(baseline, abs=0.011)
    # The report's 2.43 for generated labels is against its 0.54449; 0.33, 0.99 and 0.06 against the row above, too.
    assert table["ours_delta_previous_pct"][2:].round(2).tolist() == pytest.approx([0.33, 0.99, 2.43, 0.06], abs=0.011)
    assert table["ours_delta_previous_pct"][:2].isna().all()


def test_a_row_without_result_leaves_the_step_after_it_unknown():
    found = pd.DataFrame([{"row": m.name, "course_miou": 0.3} for m in table_methods() if m.name != "unetpp_weighted"])
    step = table1(found).set_index("row")["ours_delta_previous_pct"]
    assert np.isnan(step[["unetpp_weighted", "unetpp_dice"]]).all()
    assert step["unetpp_full"] == 0


def test_table_takes_the_mean_over_seeds():
    found = pd.DataFrame([{"row": m.name, "course_miou": s} for m in table_methods() for s in (0.2, 0.4)])
    assert table1(found)["ours"].tolist() == pytest.approx([0.3] * len(table_methods()))


def test_environment_for_conda_installs_this_package_and_python():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = ",".join(project["optional-dependencies"])
    assert f"python{project['requires-python']}" in environment["dependencies"]
    assert environment["dependencies"][-1]["pip"] == [f"-e .[{extras}]"]


def locked_versions(lock):
    """Return the version of every package in the text of a lock, which has hashes of each and no address."""
    assert "://" not in lock
    assert lock.count("==") < lock.count("--hash=sha256:")
    return dict(line.split(" ")[0].split("==") for line in lock.splitlines() if "==" in line)


def test_locks_hold_every_dependency_with_hashes_and_no_address():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    docs = locked_versions((REPOSITORY / "docs/requirements.lock").read_text())
    assert {name.split(">=")[0] for name in extras.pop("docs")} <= set(docs)
    others = locked_versions((REPOSITORY / "requirements.lock").read_text())
    assert {name.split(">=")[0] for name in [*project["dependencies"], *itertools.chain(*extras.values())]} <= set(
        others
    )
    assert all(others.get(name, version) == version for name, version in docs.items())
