"""A data set of InterHand2.6M: which frames go where, what is skipped and why, and that it can be interrupted."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from madetree import SIZE as FRAME
from madetree import annotate, box_of, write_annotation, write_tree
from manomodel import made_model, mirrored, written
from PIL import Image

from ethand_utils.data.crops import crop_square
from ethand_utils.data.store import StoreError
from ethand_utils.data.store_builder import Shard
from ethand_utils.hands import mano_file
from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.mano import ManoHands
from ethand_utils.labels import HANDS, JOINT_PARTS, LEFT, RIGHT
from ethand_utils.sources import interhand, interhand_checks
from ethand_utils.sources.interhand import REPORT, read_interhand
from ethand_utils.sources.interhand_checks import CachedHandSource
from ethand_utils.sources.interhand_frames import frame_crops, read_frames
from ethand_utils.sources.interhand_index import InterHandError, find_annotations
from ethand_utils.sources.interhand_selection import STORES, split_by_subject, stratified_sample
from ethand_utils.sources.joint_annotations import RigHands

SIZE = 32


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """An official tree with one annotation: five people, the first in two captures, 6 moments each, 2 cameras."""
    root = tmp_path_factory.mktemp("people")
    write_tree(root, annotate({0: ("a", 6), 1: ("a", 6), 2: ("b", 6), 3: ("c", 6), 4: ("d", 6), 5: ("e", 6)}))
    return root


@pytest.fixture(scope="module")
def built(people, tmp_path_factory):
    """A data set of all that `people` has, 20 frames of it paired. Read only."""
    out = tmp_path_factory.mktemp("built") / "data"
    return read_interhand(people, out, size=SIZE, paired=20)


@pytest.fixture
def tree(tmp_path):
    """Function that writes a tree with tables that `change` has changed, and returns its folder."""

    def make(change=lambda tables: None, captures=None, split="train", **how):
        tables = annotate(captures or {0: ("a", 3)}, **how)
        write_tree(tmp_path / "root", tables, split)
        change(tables)
        write_annotation(tmp_path / "root" / "annotations" / split, tables, split)
        return tmp_path / "root"

    return make


def report_of(stores):
    return json.loads((next(iter(stores.values())).path.parent / REPORT).read_text())


def same_bytes(one, other):
    assert one.keys() == other.keys()
    for name, store in one.items():
        files = sorted(path.name for path in store.path.iterdir())
        assert files == sorted(path.name for path in other[name].path.iterdir())
        for file in files:
            assert (store.path / file).read_bytes() == (other[name].path / file).read_bytes(), (name, file)


def test_every_sound_frame_is_in_one_store(people, built):
    sources = [source for store in built.values() for source in store.index["source"]]
    assert sorted(sources) == sorted(frame.image.relative_to(people).as_posix() for frame in read_frames(people))
    assert len(built["train"]) == 20
    assert built["unpaired_images"].masks is None
    assert report_of(built)["kept"] == {name: len(store) for name, store in built.items()}


def test_no_two_splits_share_a_person_and_the_largest_share_is_for_training(built):
    people = [set(built[name].index["subject"]) for name in STORES]
    assert sum(map(len, people)) == len(set.union(*people)) == 5
    assert "a" in people[0]
    assert set(built["unpaired_images"].index["subject"]) <= people[0]
    assert report_of(built)["subjects_in_several_stores"] == []


def test_images_and_masks_are_those_of_the_frame(people, built):
    frames = {frame.image.relative_to(people).as_posix(): frame for frame in read_frames(people)}
    hit = []
    for name in STORES:
        for i, row in built[name].index.iterrows():
            frame = frames[row["source"]]
            square = crop_square(frame.bbox)
            np.testing.assert_array_equal(built[name].images[i], frame_crops(frame, [square], SIZE)[0])
            assert [frame.hand_type, frame.subject, frame.camera_name] == [*row[["hand_type", "subject", "camera"]]]
            at = ((frame.joints - square[:2]) * SIZE / square[2]).astype(int)
            for hand in range(2):
                assert built[name].masks[i, hand].any() == frame.valid[hand].any()
                spots = np.pad(built[name].masks[i, hand], 1)
                for joint in np.flatnonzero(frame.valid[hand]):
                    x, y = at[hand, joint]
                    hit.append(np.isin(spots[y : y + 3, x : x + 3], JOINT_PARTS[joint]).any())
    assert np.mean(hit) > 0.75  # the others lie behind another part of their hand


def test_the_index_knows_residuals_and_what_is_occluded(built):
    index = pd.concat([built[name].index for name in STORES])
    for hand in HANDS:
        there = index["hand_type"].isin([hand, "interacting"])
        assert (index[f"residual_{hand}_mm"].notna() == there).all()
        assert index[f"residual_{hand}_mm"].dropna().between(0, 8).all()
        assert index[f"occluded_{hand}"].dropna().between(0, 1).all()
    assert built["unpaired_images"].index["residual_left_mm"].isna().all()
    assert built["train"].meta["source"] == "interhand"
    assert built["train"].meta["hands"] == "rig"


def test_official_splits_are_kept_and_shared_people_are_reported(tmp_path):
    for split, person in (("train", "a"), ("val", "b"), ("test", "a")):
        write_tree(tmp_path / "root", annotate({0: (person, 2)}, cameras=1), split)
    stores = read_interhand(tmp_path / "root", tmp_path / "out", size=SIZE)
    assert {name: set(store.index["capture"]) for name, store in stores.items()} == {s: {f"{s}/0"} for s in STORES}
    assert report_of(stores)["subjects_in_several_stores"] == ["a"]
    alone = read_interhand(tmp_path / "root", tmp_path / "alone", splits=("val",), size=SIZE)
    assert list(alone) == ["val"]


def test_a_flat_folder_that_cannot_be_written_to_is_read(tmp_path):
    root = tmp_path / "sample"
    write_tree(root, annotate({k: (k, 1) for k in range(4)}, cameras=1), "sample", flat=True)
    before = sorted(root.iterdir())
    root.chmod(0o555)
    stores = read_interhand(root, tmp_path / "out", size=SIZE)
    root.chmod(0o755)
    assert sorted(root.iterdir()) == before
    assert {name: len(store) for name, store in stores.items()} == {"train": 2, "val": 1, "test": 1}


def test_with_fewer_people_captures_are_divided_and_one_capture_is_for_training(tree, tmp_path):
    root = tree(captures={k: ("a", 1) for k in range(3)}, cameras=1)
    stores = read_interhand(root, tmp_path / "three", size=SIZE)
    assert {name: len(store) for name, store in stores.items()} == dict.fromkeys(STORES, 1)
    assert list(read_interhand(root, tmp_path / "one", size=SIZE, captures=("1",))) == ["train"]


def remove(root, name):
    (root / "images" / "train" / name).unlink()


def cut(root, name):
    path = root / "images" / "train" / name
    data = path.read_bytes()
    path.unlink()  # other names of the same picture stay whole
    path.write_bytes(data[: len(data) // 2])


def redraw(size, grey):
    def paint(root, name):
        path = root / "images" / "train" / name
        path.unlink()
        Image.new("RGB", size, (grey,) * 3).save(path)

    return paint


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (remove, "image: missing"),
        (cut, "image: truncated or unreadable"),
        (redraw(FRAME, 3), "image: black where the hands are"),
        (redraw(FRAME[::-1], 90), "image: not of the annotated size"),
    ],
)
def test_an_image_at_fault_is_skipped_and_named(tree, tmp_path, harm, reason):
    root = tree()
    name = read_frames(root)[3].name
    harm(root, name)
    stores = read_interhand(root, tmp_path / "out", size=SIZE)
    assert report_of(stores)["skipped"] == {reason: {"count": 1, "names": [name]}}
    assert len(stores["train"]) == 5


def lose_camera(tables):
    for values in tables["camera"]["0"].values():
        del values["400001"]


def set_entry(key, value):
    def change(tables):
        tables["data"]["annotations"][0][key] = value

    return change


def set_known(joints):
    """Change that leaves the first moment with these of its 42 joints only."""

    def change(tables):
        known = [[int(joint in joints)] for joint in range(42)]
        tables["data"]["annotations"][0]["joint_valid"] = known

    return change


def move(by):
    def change(tables):
        pose = tables["joint_3d"]["0"]["0"]
        pose["world_coord"] = (np.array(pose["world_coord"]) + by).tolist()

    return change


def scatter(tables):
    pose = tables["joint_3d"]["0"]["0"]
    pose["world_coord"] = np.random.default_rng(0).uniform(-80, 80, (42, 3)).tolist()


@pytest.mark.parametrize(
    ("change", "reason", "count"),
    [
        (lose_camera, "camera: not annotated", 3),
        (lambda tables: tables["joint_3d"]["0"].pop("3"), "joints: not annotated", 2),
        (set_known([]), "joints: none known", 1),
        (set_known(range(21)), "hand_type: interacting without joints of the left hand", 1),
        (set_known([*range(21), 25, 30]), "joints: too few of the left hand", 1),
        (set_entry("hand_type", "left"), "hand_type: left with joints of the right hand", 1),
        (set_entry("hand_type_valid", 0), "hand_type: marked as not valid", 1),
        (set_entry("bbox", [200, 10, 30, 20]), "box: outside the frame", 1),
        (set_entry("bbox", [10, 10, 0, 20]), "box: without area", 1),
        (set_entry("bbox", [0, 0, 900, 20]), "box: out of proportion to the frame", 1),
        (set_entry("bbox", [0, 0, 4, 4]), "joints: most outside the box", 1),
        (move([0, 0, -1500]), "joints: behind the camera", 1),
        (scatter, "fit: too far from the joints of the left hand", 2),
    ],
)
def test_an_annotation_at_fault_is_skipped_and_counted(tree, tmp_path, change, reason, count):
    stores = read_interhand(tree(change), tmp_path / "out", size=SIZE)
    skipped = report_of(stores)["skipped"]
    assert skipped[reason]["count"] == count
    assert len(skipped[reason]["names"]) == count
    assert len(stores["train"]) == 6 - sum(entry["count"] for entry in skipped.values())


def test_entries_passed_over_are_in_the_report(tree, tmp_path):
    stores = read_interhand(tree(set_entry("bbox", None)), tmp_path / "out", size=SIZE)
    report = report_of(stores)
    assert report["listed"] == {"train": 5}
    assert report["passed_over"]["train"]["annotations with an unexpected value"]["count"] == 1


@pytest.mark.parametrize("name", ["/no/such/image.jpg", "x" * 300 + ".jpg", "a\0b.jpg"])
def test_an_image_s_name_that_no_file_can_have_is_missing(tree, tmp_path, name):
    def rename(tables):
        tables["data"]["images"][0]["file_name"] = name

    stores = read_interhand(tree(rename), tmp_path / "out", size=SIZE)
    assert report_of(stores)["skipped"] == {"image: missing": {"count": 1, "names": [name]}}


def test_images_are_taken_from_below_the_root_only(tree, tmp_path):
    shutil.copytree(tree() / "images", tmp_path / "images")
    elsewhere = tmp_path / "images" / "train" / "Capture0/ROM0/cam400000/image0.jpg"
    root = tmp_path / "root"
    tables = json.loads((root / "annotations/train/InterHand2.6M_train_data.json").read_text())
    tables["images"][0]["file_name"] = str(elsewhere)
    write_annotation(root / "annotations" / "train", {"data": tables}, "train")
    stores = read_interhand(root, tmp_path / "out", size=SIZE)
    assert len(stores["train"]) == 6
    assert all(source.startswith("images/train/Capture0/") for source in stores["train"].index["source"])


def test_where_nothing_is_sound_the_main_reason_is_given(tree, tmp_path):
    root = tree()
    shutil.rmtree(root / "images")
    with pytest.raises(
        InterHandError, match=r"6 of 6: image: missing, such as .*images/train/.* is missing.*report\.json"
    ):
        read_interhand(root, tmp_path / "out", size=SIZE)
    assert json.loads((tmp_path / "out" / REPORT).read_text())["read"] == 6


def test_a_truncated_annotation_is_refused(tree, tmp_path):
    root = tree()
    file = root / "annotations/train/InterHand2.6M_train_joint_3d.json"
    file.write_text(file.read_text()[:-100])
    with pytest.raises(InterHandError, match=r"joint_3d\.json: not readable JSON"):
        read_interhand(root, tmp_path / "out", size=SIZE)


def test_an_image_that_breaks_after_its_check_is_named_with_a_remedy(tree, tmp_path, monkeypatch):
    root = tree()
    name = read_frames(root)[0].name

    def break_one(*how, real=interhand_checks.Check.run, **more):
        real(*how, **more)
        remove(root, name)

    monkeypatch.setattr(interhand.Check, "run", break_one)
    with pytest.raises(InterHandError, match=re.escape(name) + ".* sound when it was checked: mend it, or remove"):
        read_interhand(root, tmp_path / "out", size=SIZE)


def test_the_bytes_do_not_depend_on_workers_or_parts(people, built, tmp_path, monkeypatch):
    monkeypatch.setattr(interhand_checks, "CHUNK", 16)
    shared = read_interhand(people, tmp_path / "workers", size=SIZE, paired=20, workers=2)
    same_bytes(built, shared)
    assert report_of(shared) == report_of(built)
    for number in (2, 1):
        read_interhand(people, tmp_path / "parts", size=SIZE, paired=20, shard=Shard(number, 2))
    assert not (tmp_path / "parts" / "train").exists()
    same_bytes(built, read_interhand(people, tmp_path / "parts", size=SIZE, paired=20))
    assert not (tmp_path / "parts" / ".shards").exists()


def test_an_interrupted_call_goes_on_where_it_stopped(people, built, tmp_path, monkeypatch):
    monkeypatch.setattr(interhand_checks, "CHUNK", 16)
    seen, real = [], interhand_checks.check_frame

    def stop_after(count):
        def check(frames, number, hands):
            if len(seen) == count:
                raise KeyboardInterrupt
            seen.append(number)
            return real(frames, number, hands)

        monkeypatch.setattr(interhand_checks, "check_frame", check)

    def build():
        return read_interhand(people, tmp_path / "out", size=SIZE, paired=20)

    stop_after(40)
    with pytest.raises(KeyboardInterrupt):
        build()
    stop_after(1000)
    with monkeypatch.context() as also:
        also.setattr(interhand, "hand_masks", stop)
        with pytest.raises(KeyboardInterrupt):
            build()
    assert len(seen) == 72 + 8  # two whole chunks were not checked again
    same_bytes(built, build())
    assert len(seen) == 80
    next((tmp_path / "out").glob(".interhand/*/checks/*32.parquet")).unlink()
    same_bytes(built, build())
    assert len(seen) == 96


def stop(*_):
    raise KeyboardInterrupt


def test_choices_leave_out_what_they_say(people, tmp_path):
    stores = read_interhand(people, tmp_path / "a", size=SIZE, every=2, captures=("0", "2", "3", "4"))
    frames = [(row.capture, row.seq, row.frame) for store in stores.values() for row in store.index.itertuples()]
    # Of a capture's moments 0, 3, 6 … 15, a sequence has 0, 3, 12, 15, the other 6 and 9.
    moments = {("ROM0", 0), ("ROM0", 12), ("ROM1", 6)}
    assert set(frames) == {(f"train/{capture}", *moment) for capture in (0, 2, 3, 4) for moment in moments}
    stores = read_interhand(people, tmp_path / "b", size=SIZE, hand_types=("left",), limit=6)
    assert sum(map(len, stores.values())) == 6
    assert all((store.index["hand_type"] == "left").all() for store in stores.values())
    stores = read_interhand(people, tmp_path / "c", size=SIZE, paired=3, unpaired=4, val=2, test=1)
    kept = {"train": 3, "unpaired_images": 4, "val": 2, "test": 1}
    assert {name: len(store) for name, store in stores.items()} == kept


def test_paired_frames_are_drawn_over_all_captures_by_seed(people, built, tmp_path):
    assert set(built["train"].index["capture"]) == set(built["unpaired_images"].index["capture"])
    other = read_interhand(people, tmp_path / "out", size=SIZE, paired=20, seed=1)
    assert set(other["train"].index["id"]) != set(built["train"].index["id"])
    order = built["train"].index[["capture", "frame"]].drop_duplicates()
    assert len(order) == len(built["train"].index.groupby(["capture", "frame"]))  # a moment's frames stay together
    assert not order["capture"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"splits": ("val",)}, "no annotation of split val; those there: train"),
        ({"captures": ("9",)}, "no frame is left by these captures"),
        ({"hand_types": ("both",)}, "hand types both: expected some of right, left, interacting"),
        ({"every": 0}, "expected every and limit of at least 1"),
        ({"paired": -1}, "counts and seed of at least 0"),
        ({"paired": 0, "unpaired": 0, "val": 0, "test": 0}, "leave no frame; ask for some"),
        ({"size": 8}, "images of 8 px a side; expected at least 16"),
    ],
)
def test_choices_that_do_not_fit_are_refused(people, tmp_path, choice, says):
    with pytest.raises(InterHandError, match=says):
        read_interhand(people, tmp_path / "out", **({"size": SIZE} | choice))


def test_other_choices_do_not_overwrite_what_is_there(people, built):
    out = built["train"].path.parent
    before = (out / REPORT).read_bytes()
    with pytest.raises(StoreError, match="made with other settings"):
        read_interhand(people, out, size=SIZE, paired=21)
    assert (out / REPORT).read_bytes() == before


def test_other_choices_are_refused_before_the_work(tree, tmp_path, monkeypatch):
    root, out = tree(captures={0: ("a", 3), 1: ("b", 3), 2: ("c", 3)}), tmp_path / "out"
    for name, store in read_interhand(root, out, size=SIZE).items():
        if name != "test":  # which would be built last
            shutil.rmtree(store.path)
    monkeypatch.setattr("ethand_utils.sources.interhand_checks.Check.run", stop)
    with pytest.raises(StoreError, match=r"out/test: holds a store made with other settings"):
        read_interhand(root, out, size=SIZE, val=1)


def test_hands_of_a_moment_are_found_once(people):
    class Counted(RigHands):
        calls = 0

        def hands(self, frame):
            self.calls += 1
            if frame.hand_type == "left":
                raise HandError("left")
            return super().hands(frame)

    source = Counted()
    once = CachedHandSource(source)
    for frame in read_frames(people)[:6]:  # three moments, seen by two cameras
        if frame.hand_type == "left":
            with pytest.raises(HandError, match="left"):
                once.hands(frame)
        else:
            for found, alone in zip(once.hands(frame), RigHands().hands(frame), strict=True):
                assert (found is None) == (alone is None)
                assert found is None or (found.vertices == alone.vertices).all()
    assert source.calls == 3


def give_parameters(tables, source):
    """Put MANO parameters into tables, and the joints where these put them; the last moment's left hand gets none."""
    rng, parameters = np.random.default_rng(0), {}
    for moment, pose in tables["joint_3d"]["0"].items():
        hands, world = {}, []
        for hand in (RIGHT, LEFT):
            values = {"pose": rng.normal(0, 0.1, 48), "shape": np.zeros(10), "trans": [0.1 * hand - 0.05, 0, 0]}
            values = {name: np.array(value, np.float32) for name, value in values.items()}
            world += (1000 * source.models[hand].pose(**values)[1]).tolist()
            hands[HANDS[hand]] = {name: value.tolist() for name, value in values.items()}
        pose["world_coord"], parameters[moment] = world, hands
    parameters[moment]["left"] = None
    views = tables["camera"]["0"]
    for image, entry in zip(tables["data"]["images"], tables["data"]["annotations"], strict=True):
        view = {name: values[image["camera"]] for name, values in views.items()}
        world = np.array(tables["joint_3d"]["0"][str(image["frame_idx"])]["world_coord"])
        entry["bbox"] = box_of(world, entry["joint_valid"], view)
    return tables | {"MANO_NeuralAnnot": {"0": parameters}}


def test_hands_may_be_mano_s(tmp_path, monkeypatch):
    monkeypatch.setattr(mano_file, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    for file, model in zip(mano_file.FILES, (mirrored(made_model()), made_model()), strict=True):
        (tmp_path / file).write_bytes(written(model))
    source = ManoHands(tmp_path)
    tables = annotate({0: ("a", 4)}, hand_types=("interacting",))
    write_tree(tmp_path / "root", give_parameters(tables, source))
    stores = read_interhand(tmp_path / "root", tmp_path / "out", size=SIZE, hands=source)
    assert report_of(stores)["skipped"]["mano: no parameters of the left hand"]["count"] == 2
    train = stores["train"]
    assert train.meta["hands"] == "mano"
    assert len(train) == 6
    assert train.masks.any((2, 3)).all()
    assert train.index[["residual_left_mm", "residual_right_mm"]].max(axis=None) < 0.01


def test_spread_takes_one_of_every_stretch():
    rng = np.random.default_rng(0)
    for count, wanted in ((10, 3), (100, 7), (5, 5), (3, 9), (4, 0), (0, None)):
        chosen = stratified_sample(count, wanted, rng)
        assert len(chosen) == (count if wanted is None else min(count, wanted))
        assert (np.diff(chosen) > 0).all()
        assert ((chosen >= 0) & (chosen < count)).all()
        assert (np.diff(chosen) <= 2 * np.ceil(count / max(wanted or 1, 1))).all()


def test_units_are_divided_whole_and_no_store_stays_empty():
    for sizes in ([50, 10, 10, 10, 10, 5, 5], [1, 1, 1], [100, 1, 1, 1], [3, 3, 3, 3]):
        units = np.repeat(np.arange(len(sizes)), sizes)
        stores = split_by_subject(units)
        assert set(stores) == {0, 1, 2}
        assert all(len(set(stores[units == unit])) == 1 for unit in range(len(sizes)))
        assert (stores == 0).mean() >= 1 / 3
    assert (split_by_subject(np.zeros(5, int)) == 0).all()


def test_the_command_builds_and_reports(tree, tmp_path, ethand):
    root = tree(captures={k: (k, 2) for k in range(3)})
    remove(root, read_frames(root)[0].name)
    words = ("data", "interhand", "--root", root, "--out", tmp_path / "out", "--size", SIZE, "--workers", 1)
    assert ethand(*words, "--part", "1/2")[0] == 0
    status, said, _ = ethand(*words)
    assert status == 0
    assert re.search(r"skipped +image: missing +1 +Capture0", said)
    assert re.search(r"mean residual of the left hand's joints: \d\.\d\d mm", said)
    assert re.search(r"test +4 ", said)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--hands", "mano"), "--hands mano and --mano-dir together"),
        (("--mano-dir", "x"), "--hands mano and --mano-dir together"),
        (("--part", "3/2"), "expected I/K"),
        ((), "no annotation here or below"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, ethand, words, says):
    status, _, complaint = ethand("data", "interhand", "--root", tmp_path, "--out", tmp_path / "out", *words)
    assert status == 1
    assert len(complaint.splitlines()) == 1
    assert says in complaint


def test_splits_come_with_commas_or_repeated(tree, tmp_path, ethand):
    root = tree(captures={k: (k, 2) for k in range(3)})
    words = ("data", "interhand", "--root", root, "--out", tmp_path / "out", "--size", SIZE, "--workers", 1)
    status, _, told = ethand(*words, "--split", "train,other")
    assert status == 1
    assert "no annotation of split other" in told


def test_other_json_files_are_no_annotation(tree, tmp_path):
    root = tree(captures={0: (0, 2)})
    (root / "metadata.json").write_text("{}")
    assert [annotation.split for annotation in find_annotations(root)] == ["train"]
