"""Sources of data: which one a folder is of, the run made with it, and the workbook on data that lack much."""

import ast
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text

from ethand_utils.data.datasets import (
    EXAMPLES,
    SkippedSamples,
    describe,
    held_out,
    occlusion,
    report_table,
    require_stores,
)
from ethand_utils.data.images import ImageError
from ethand_utils.data.store import StoreError
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.experiments.config import load_profile, write_profile
from ethand_utils.experiments.methods import FULL_METHOD, METHODS, PEER_REFERENCES, table_methods
from ethand_utils.experiments.run import Run, RunError, open_run
from ethand_utils.files import FileError
from ethand_utils.sources.detect import detect_source
from ethand_utils.training.models import load_net

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PLAIN = ["id", "hand_type", "subject", "capture", "seq", "camera", "frame", "bbox_x", "bbox_y", "bbox_w", "bbox_h"]
METHOD = METHODS["unetpp_generated"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder that counts as a checkout, and is where we are."""
    folder = empty_checkout(tmp_path / "checkout")
    monkeypatch.chdir(folder)
    return folder


def empty_checkout(folder):
    for name in ("notebooks/01_data.ipynb", "Snakefile"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def plain_store(path, store, *arrays, count=None, **more):
    """A copy of a store's first samples with some of its arrays alone, and an index of plain columns and `more`."""
    index = store.index[PLAIN][:count].to_dict("records")

    def sample(i):
        return {name: getattr(store, name)[i] for name in arrays} | {"row": index[i] | more}

    return build_store(path, StorePlan(sample, len(index), store.size, arrays, {"source": "elsewhere"}))


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["train/meta.json", "val/meta.json"], "stores"),
        (["meta.json"], "stores"),
        (["interhand.lmdb"], "course"),
        (["InterHand2.6M/interhand.lmdb"], "course"),
        (["data/InterHand2.6M/interhand.lmdb/data.mdb"], "course"),
        (["InterHand2.6M_sample_data.json", "InterHand2.6M_sample_joint_3d.json"], "interhand"),
        (["annotations/val/I_val_data.json", "annotations/val/I_val_joint_3d.json"], "interhand"),
    ],
)
def test_what_lies_in_a_folder_is_known_by_its_files(tmp_path, names, source):
    assert detect_source(touch(tmp_path, *names)) == source


@pytest.mark.parametrize(
    "names",
    [
        ["image1.jpg"],
        ["I_val_data.json"],
        ["a_data.json", "b_joint_3d.json"],
        [".shards/meta.json"],
        ["images/val_data.json", "images/val_joint_3d.json"],
    ],
)
def test_a_folder_of_nothing_known_is_refused_with_the_layouts_and_their_commands(tmp_path, names):
    with pytest.raises(FileError) as caught:
        detect_source(touch(tmp_path, *names))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}: ")
    assert "\n" not in said
    for expected in ("meta.json", "interhand.lmdb", "joint_3d.json", "data render", "data course", "data interhand"):
        assert expected in said


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match="nowhere: no such folder"):
        detect_source(tmp_path / "nowhere")


def test_a_new_run_remembers_its_data_wherever_it_is_opened_from(checkout, dataset):
    folder = dataset["train"].path.parent
    run = open_run("mine", "ci", str(folder))
    assert run.source == "stores"
    assert run.data_folder == folder
    again = open_run("mine")
    assert again.profile.data == str(folder)
    assert again.dataset("train")["train"].count == 16
    assert open_run("mine", "ci", f"{folder}/") == again


def test_a_path_of_a_profile_begins_at_the_checkout(checkout, monkeypatch, dataset):
    shutil.copytree(dataset["val"].path, checkout / "given/val")
    run = open_run("near", "ci", "given")
    monkeypatch.chdir(checkout / "notebooks")
    assert list(open_run("near").dataset()) == ["val"]
    assert open_run("near", "ci", str(checkout / "given")) == run


@pytest.mark.parametrize("made_with", ["", "other"])
def test_an_old_run_with_other_data_is_refused_saying_what_to_do(checkout, dataset, made_with):
    shutil.copytree(dataset["val"].path, checkout / "other/val")
    open_run("mine", "ci", made_with)
    before = (checkout / "outputs/mine/profile.yaml").read_text()
    with pytest.raises(RunError, match="another name for RUN"):
        open_run("mine", "ci", str(dataset["train"].path.parent))
    assert (checkout / "outputs/mine/profile.yaml").read_text() == before


def test_a_new_run_is_not_made_with_data_that_are_nothing_known(checkout):
    with pytest.raises(FileError, match="no such folder"):
        open_run("mine", "ci", "nowhere")
    assert not (checkout / "outputs").exists()
    assert open_run("mine", "ci").source == "rendered"


def test_a_chain_with_data_that_are_nothing_known_stops_before_anything_starts(ethand, checkout):
    status, _, said = ethand("run", "ci", "--set", "data=nowhere")
    assert status == 1
    assert "nowhere: no such folder" in said
    assert not (checkout / "outputs/ci/notebooks").exists()


def record(monkeypatch, module, name, stores):
    """Put a function that returns `stores` and records how it is called in a reader's place; returns the record."""
    calls = []

    def function(*given, **named):
        calls.append((given, named))
        return stores

    monkeypatch.setattr(f"ethand_utils.sources.{module}.{name}", function)
    return calls


def test_the_courses_files_are_read_into_the_run_with_the_profiles_counts(checkout, monkeypatch, dataset):
    root, out = touch(checkout / "course", "interhand.lmdb"), checkout / "outputs/mine/data"
    calls = record(monkeypatch, "course", "read_course", {"train": dataset["train"]})
    run = open_run("mine", "ci", "course")
    assert run.dataset("train") == {"train": dataset["train"]}
    assert run.data_folder == out
    [(given, _)] = calls
    assert given[:-1] == (root, out, 32, 48, 16, 24, 48)  # size; train, val, test, unpaired


@pytest.mark.parametrize(("mano_dir", "hands"), [(None, "rig"), ("mano", "mano")])
def test_interhand_is_read_with_the_hands_the_profile_names(checkout, monkeypatch, dataset, mano_dir, hands):
    root = touch(checkout / "ih", "x_data.json", "x_joint_3d.json")
    out = checkout / "outputs/mine/data"
    monkeypatch.setattr(
        "ethand_utils.sources.interhand.ManoHands", lambda folder: SimpleNamespace(name="mano", folder=folder)
    )
    calls = record(monkeypatch, "interhand", "read_interhand", {"val": dataset["val"]})
    run = Run(checkout / "outputs/mine", load_profile("ci", {"data": "ih", "mano_dir": mano_dir, "seed": 3}))
    assert run.dataset() == {"val": dataset["val"]}
    [(given, named)] = calls
    assert given == (root, out)
    assert (named["paired"], named["unpaired"], named["val"], named["test"]) == (48, 48, 16, 24)
    assert (named["size"], named["seed"], named["replace"]) == (32, 3, True)
    assert named["hands"].name == hands
    assert getattr(named["hands"], "folder", None) == (checkout / "mano" if mano_dir else None)


def test_mano_is_refused_where_there_is_nothing_for_it(checkout):
    run = Run(checkout / "outputs/mine", load_profile("ci", {"mano_dir": "mano"}))
    with pytest.raises(RunError, match="mano_dir: mano, but the data set is rendered"):
        run.dataset()


def test_the_readers_report_is_found_beside_the_stores(checkout, dataset):
    shutil.copytree(dataset["val"].path, checkout / "given/val")
    run = open_run("mine", "ci", "given")
    assert run.report == {}
    (checkout / "given/report.json").write_text(json.dumps({"read": 3}))
    assert run.report == {"read": 3}


def test_a_report_is_a_table_of_what_was_listed_skipped_and_kept():
    faults = {"image: black": {"count": 3, "names": ["a.jpg", "b.jpg", "c.jpg"]}}
    table = report_table(
        {
            "listed": {"val": 6},
            "passed_over": {"val": {"no such image": {"count": 1, "names": ["7"]}}},
            "skipped": faults,
            "kept": {"val": 2},
            "left_out": {"test": "no list"},
        }
    )
    assert table.loc["listed"].tolist() == ["val", 6, ""]
    assert table.loc["passed over"].tolist() == ["val: no such image", 1, "7"]
    assert table.loc["skipped"].tolist() == ["image: black", 3, "a.jpg b.jpg"]
    assert table.loc["kept"].tolist() == ["val", 2, ""]
    assert table.loc["left out", "of"] == "test: no list"
    assert len(report_table({})) == 0


def test_faults_are_counted_and_the_first_named():
    faults = SkippedSamples()
    for number in range(EXAMPLES + 5):
        faults.add("often", str(number))
    faults.add("more", "x", 99)
    assert list(faults.most_common()) == ["more", "often"]
    assert faults.reasons["often"] == {"count": EXAMPLES + 5, "names": [str(number) for number in range(EXAMPLES)]}


def test_a_net_is_judged_on_test_and_where_that_has_no_masks_on_val(dataset, tmp_path):
    blind = plain_store(tmp_path / "test", dataset["test"], "images")
    assert held_out(dataset, "images", "masks") is dataset["test"]
    assert held_out(dataset | {"test": blind}, "images", "masks") is dataset["val"]
    assert held_out(dataset | {"test": blind}, "images") is blind
    assert held_out({"train": dataset["train"], "val": dataset["val"]}, "images") is dataset["val"]
    with pytest.raises(StoreError, match="neither test nor val has images and masks"):
        held_out({"train": dataset["train"], "test": blind}, "images", "masks")


@pytest.mark.parametrize(("name", "says"), [("val", "more captures"), ("unpaired_images", "lower `train`")])
def test_a_store_that_a_source_could_not_give_is_named_with_what_to_do(dataset, name, says):
    with pytest.raises(StoreError, match=f"data: has no store {name}, .*{says}"):
        require_stores({"train": dataset["train"]}, "data", "train", name)


def test_an_index_without_what_every_notebook_reads_is_refused(make_store):
    store = make_store("train", images=np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(StoreError, match="has no column hand_type"):
        require_stores({"train": store}, store.path.parent, "train")


def test_occlusion_that_nobody_can_tell_is_unknown(dataset, tmp_path):
    index = dataset["train"].index
    assert occlusion(index)["left"].equals(index["occluded_left"])
    assert occlusion(index[PLAIN]).isna().all(axis=None)
    row = describe(plain_store(tmp_path / "plain", dataset["train"], "images", "masks"))
    assert (row["occluded_share"], row["much_occluded"], row["penetration_mm_median"]) == (None, None, None)
    assert row["samples"] == 16


def play(name, **parameters):
    """Execute a notebook's code cells here, with `parameters` after its own; returns its names and what it showed.

    That is what cells print, display and end with, and the texts of their figures.
    """
    assert Path.cwd() != NOTEBOOKS.parent
    said, names = [], {"display": lambda *shown: said.extend(shown)}
    names["print"] = lambda *words, **_: said.append(" ".join(map(str, words)))
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            said.append(execute_cell("".join(cell["source"]), names))
            said += [text.get_text() for number in plt.get_fignums() for text in plt.figure(number).findobj(Text)]
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(parameters) <= set(names)
            names |= parameters
        plt.close("all")
    return names, said


def execute_cell(source, names):
    """Execute a cell; returns the value of its last line where that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else ""


def play_peers(run):
    """Play notebook 13 on a run with one peer, beside which one training stands for the report's rows."""
    write_profile(run, load_profile(run / "profile.yaml", {"peers": ["fixmatch"]}))
    play("07_train_g2", RUN="x", METHOD="fixmatch")
    for row in {*PEER_REFERENCES, FULL_METHOD} - {METHOD.name}:
        shutil.copytree(run / METHOD.predictions(0), run / METHODS[row].predictions(0), dirs_exist_ok=True)
    return play("13_peers", RUN="x")


@pytest.fixture(scope="module")
def played(dataset, tmp_path_factory):
    """The workbook's names and words by notebook, on data like the course's: little is known, `test` has no masks."""
    folder = empty_checkout(tmp_path_factory.mktemp("plain"))
    for name, arrays in {"train": ("images", "masks"), "val": ("images", "masks"), "test": ("images",)}.items():
        plain_store(folder / "given" / name, dataset[name], *arrays)
    plain_store(folder / "given/unpaired_images", dataset["unpaired_images"], "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = {"00_start": play("00_start", RUN="y", SCENES=2)}
        said |= {"01_data": play("01_data", RUN="x", PROFILE="ci", DATA="given")}
        said |= {name: play(name, RUN="x") for name in ("02_explore", "03_augment")}
        said["04_train_g1"] = play("04_train_g1", RUN="x", EPOCHS=1)
        said["05_train_discriminator"] = play("05_train_discriminator", RUN="x", EPOCHS=1)
        said["06_pseudo_labels"] = play("06_pseudo_labels", RUN="x")
        said["07_train_g2"] = play("07_train_g2", RUN="x", METHOD=METHOD.name)
        for other in (other for other in table_methods() if other != METHOD):  # one training stands for all
            training = folder / "outputs/x" / other.training(0)
            shutil.copytree(folder / "outputs/x" / METHOD.training(0), training)
            result = json.loads((training / "result.json").read_text())
            (training / "result.json").write_text(json.dumps(result | {"row": other.name}))
        said["08_ablation"] = play("08_ablation", RUN="x")
        said["09_errors"] = play("09_errors", RUN="x", ROW=METHOD.name)
        said["10_predict"] = play("10_predict", RUN="x")
        said["11_cyclegan"] = play("11_cyclegan", RUN="x")
        said["12_cyclegan_rows"] = play("12_cyclegan_rows", RUN="x")
        said["13_peers"] = play_peers(folder / "outputs/x")
        said["14_release"] = play("14_release", RUN="x", EPOCHS=1)
        for _ in range(2):  # whoever runs all again has the labeller open
            said["15_own_labels"] = play("15_own_labels", RUN="own", STAND_INS=9, LABELS=6, EPOCHS=1)
        yield said


@pytest.mark.slow
def test_every_notebook_runs_on_data_that_lack_what_a_source_may_lack(played):
    assert sorted(played) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


NOT_KNOWN_TITLES = (
    ("01_data", "residuals of the fit"),
    ("01_data", "arrangements"),
    ("01_data", "penetration"),
    ("02_explore", "poses"),
    ("02_explore", "occlusion in two-hand images"),
    ("06_pseudo_labels", "true course mIoU by confidence"),
    ("06_pseudo_labels", "true quality of pseudo-labels"),
    ("08_ablation", "IoU of a hand's silhouette, 95 % interval"),
    ("09_errors", "course mIoU by hidden share of the more occluded hand"),
    ("11_cyclegan", "correct hand in front, of the pixels that both hands share"),
)


@pytest.mark.slow
def test_notebooks_say_what_the_data_lack(played):
    words = {name: " ".join(map(str, said)) for name, (_, said) in played.items()}
    assert "data: stores" in words["01_data"]
    assert played["01_data"][0]["skipped"].empty
    for name, title in NOT_KNOWN_TITLES:
        assert f"{title}: not known for these data" in words[name], (name, title)
    assert "scored on val: 8 samples" in words["04_train_g1"]
    assert "no such images, or not known for these data" in words["01_data"]


@pytest.mark.slow
def test_scores_are_made_on_val_where_test_has_no_masks(played):
    for name in ("04_train_g1", "07_train_g2"):
        result = played[name][0]["result"]
        assert (result["scored_on"], result["scored_samples"]) == ("val", 8)
        assert 0 <= result["course_miou"] <= 1
        assert np.isnan(result["occluded_iou"])


@pytest.mark.slow
def test_own_labels_end_in_weights_that_are_used_as_the_packages_are(played):
    names, _ = played["15_own_labels"]
    result, weights = names["result"], names["target"] / "weights.safetensors"
    assert (result["labels"], result["trained_on"], result["stand_ins"]) == (6, 4, True)
    assert len(names["chosen"]) == 6 < len(names["photos"])
    least = names["ranked"]["overall"].iloc[5]
    assert (names["ranked"]["overall"].iloc[6:] <= least).all()  # those in doubt were labelled
    net, notes = load_net(weights)
    package, package_notes = load_net(None)
    assert notes["inference"] == package_notes["inference"]
    assert net.recipe == package.recipe
    changed = [not torch.equal(a, b) for a, b in zip(net.parameters(), package.parameters(), strict=True)]
    assert any(changed)


@pytest.mark.slow
def test_photos_are_not_labelled_into_a_run_of_stand_ins(played, tmp_path, monkeypatch):
    names, _ = played["15_own_labels"]
    monkeypatch.chdir(names["folder"].parents[1])
    (tmp_path / "mine").mkdir()
    shutil.copy(names["photos"][0], tmp_path / "mine/a.png")
    with pytest.raises(RunError, match="choose another name for RUN"):
        play("15_own_labels", RUN="own", PHOTOS=str(tmp_path / "mine"))


def test_own_labels_stop_at_once_without_the_photos_that_were_named(checkout):
    with pytest.raises(ImageError, match="nowhere: no such image"):
        play("15_own_labels", RUN="own", PHOTOS="nowhere")
    assert not (checkout / "outputs/own").exists()


@pytest.fixture
def few(checkout, dataset):
    """A data set as a handful of frames gives it: no store but `train`, one hand type, a fit for every hand."""
    index = dataset["train"].index
    single = next(kind for kind in ("right", "left") if (index["hand_type"] == kind).any())
    fits = {"residual_left_mm": np.nan, "residual_right_mm": 3.5, "hand_type": single}
    plain_store(checkout / "given/train", dataset["train"], "images", "masks", "front", count=4, **fits)
    skipped = {"box: outside the frame": {"count": 2, "names": ["image1.jpg", "image2.jpg"]}}
    (checkout / "given/report.json").write_text(json.dumps({"kept": {"train": 4}, "skipped": skipped}))


def test_a_handful_of_frames_is_shown_with_fits_and_what_was_skipped(few):
    names, said = play("01_data", RUN="x", PROFILE="ci", DATA="given")
    assert re.search(r"kept +train +4", str(said))
    assert re.search(r"skipped +box: outside the frame +2", str(said))
    assert "3.5" in str(said)
    assert not names["uses"]["val"][1]
    play("02_explore", RUN="x")
    play("03_augment", RUN="x")


@pytest.mark.parametrize("name", ["04_train_g1", "05_train_discriminator", "06_pseudo_labels", "07_train_g2"])
def test_a_notebook_stops_at_once_where_the_source_gave_too_little(few, name):
    open_run("x", "ci", "given")
    with pytest.raises(StoreError, match=r"given: has no store (val|unpaired_images), .*; "):
        play(name, RUN="x")
