"""No command changes or removes what was there before it, whatever path it is told to write to."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ethand_utils.analysis import hand_finder
from ethand_utils.analysis.evaluate import evaluate_store
from ethand_utils.analysis.hand_finder import plain_view
from ethand_utils.analysis.photo_files import list_photos, photo_folders
from ethand_utils.data.store import Store
from ethand_utils.outputs import OutputError, claim_file, claim_folder, claim_shared_folder, is_inside, same_path
from ethand_utils.sources.course_export import export_course
from ethand_utils.training.models import create_model, save_weights

TRIES = 100


def snapshot(folder):
    """Return what lies below a folder: links by their target, files by their digest and time."""
    state = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            state[path] = os.readlink(path)
        elif path.is_file():
            state[path] = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
        else:
            state[path] = "folder"
    return state


@pytest.fixture
def desk(dataset, tmp_path):
    """A user's folder: a data set, photos, weights, the course's files, an annotation, notes, links to all of it."""
    desk = tmp_path / "desk"
    for name in ("val", "test", "unpaired_images"):
        shutil.copytree(dataset[name].path, desk / "data" / name)
    export_course({"test": dataset["test"]}, desk / "course")
    save_weights(create_model("baseline", widths=(4, 8), seed=0), desk / "net.safetensors", size=32)
    (desk / "photos").mkdir()
    for name in ("left.png", "a.jpg"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(desk / "photos" / name)
    (desk / "ih").mkdir()
    for kind in ("data", "camera", "joint_3d"):
        (desk / f"ih/InterHand2.6M_test_{kind}.json").write_text("{}")
    (desk / "notes").mkdir()
    for name in ("report.json", "hands.json", "a.onnx", "a.tar.gz", "a.png", "left.png"):
        (desk / "notes" / name).write_text('{"of": "mine"}')
    links = {
        name: name for name in ("data/val", "data", "net.safetensors", "photos", "photos/a.jpg", "notes", "course")
    }
    (desk / "links").mkdir()
    for number, target in enumerate(links):
        (desk / "links" / f"{number}").symlink_to(desk / target)
    (desk / "links/nowhere").symlink_to(desk / "none")
    os.link(desk / "photos/a.jpg", desk / "links/hard.jpg")
    return desk


def commands(desk):
    """Every command that is told where to write, but for where."""
    weights = ("--weights", desk / "net.safetensors")
    few = ("--train", 1, "--val", 1, "--test", 1, "--unpaired", 1, "--size", 16, "--workers", 1)
    box = ("--box", "10,10,30,20")
    return {
        "evaluate": ("evaluate", "--data", desk / "data/val", *weights),
        "submit": ("submit", "--data", desk / "data/test", *weights),
        "export": ("export", *weights),
        "predict": ("predict", desk / "photos/a.jpg", *box, *weights),
        "predict several": ("predict", desk / "photos", *box, *weights),
        "sheet": ("data", "sheet", desk / "data", "--count", 4),
        "export-course": ("data", "export-course", desk / "data"),
        "course": ("data", "course", "--root", desk / "course", "--workers", 1, "--size", 16),
        "interhand": ("data", "interhand", "--root", desk / "ih", "--workers", 1),
        "render": ("data", "render", *few),
    }


def spellings(path, rng):
    """Return a path spelled in one of several ways."""
    parent, name = path.parent, path.name
    return rng.choice(
        [str(path), f"{parent}/./{name}", f"{parent}/../{parent.name}/{name}", os.path.relpath(path), f"{path}/"]
    )


@pytest.mark.slow
def test_nothing_that_was_there_is_changed_by_any_command_whatever_its_output(desk, ethand, monkeypatch):
    monkeypatch.setattr(hand_finder, "view_box", lambda image, box: plain_view(box))
    rng, calls = np.random.default_rng(0), commands(desk)
    before = snapshot(desk)
    targets = [desk, *before, *(path.parent / "new" for path in before if path.is_file())]
    suffixes = {"submit": ".tar.gz", "export": ".onnx", "sheet": ".png"}
    for number in range(TRIES):
        name = [*calls][number % len(calls)]
        target = targets[rng.integers(len(targets))]
        if name in suffixes and rng.random() < 0.3:
            target = target.parent / f"a{suffixes[name]}"
        out = spellings(target, rng)
        if name in ("export", "render") and not os.path.lexists(target):
            continue  # what is slow is tried where it has something to destroy
        status, _, said = ethand(*calls[name], "--out", out)
        after = snapshot(desk)
        lost = [path for path, state in before.items() if after.get(path) != state]
        assert not lost, f"{name} --out {out}: {lost[0]} is not what it was"
        assert "Traceback" not in said, f"{name} --out {out}: {said}"
        assert status in (0, 1), f"{name} --out {out}: {said}"
        for path in sorted(set(after) - set(before), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_predictions_replace_those_of_the_same_store_and_net_alone(desk, ethand):
    out, store = desk / "out", desk / "data/val"
    call = ("evaluate", "--data", store, "--weights", desk / "net.safetensors", "--out")
    assert ethand(*call, out)[0] == 0
    (out / "notes.txt").write_text("mine")
    (desk / "alias").symlink_to(out)
    for same in (out, f"{desk}/./out/", desk / "alias"):
        assert ethand(*call, same)[0] == 0
        assert (out / "notes.txt").read_text() == "mine"
        assert (desk / "alias").is_symlink()
    before = snapshot(out)
    shutil.copy(desk / "net.safetensors", desk / "other.safetensors")
    for others in (("--data", desk / "data/test"), ("--weights", desk / "other.safetensors")):
        status, _, said = ethand(*call, out, *others)
        assert status == 1
        assert "did not make of the same inputs" in said
        assert snapshot(out) == before
    with pytest.raises(OutputError):
        evaluate_store(create_model("baseline", widths=(4, 8), seed=0), Store(store), out)
    assert snapshot(out) == before


def test_results_of_a_photo_replace_those_of_the_same_photo_alone(desk, ethand, monkeypatch):
    monkeypatch.setattr(hand_finder, "view_box", lambda image, box: plain_view(box))
    call = ("--box", "10,10,30,20", "--weights", desk / "net.safetensors", "--out", desk / "out")
    photo = desk / "photos/a.jpg"
    assert ethand("predict", photo, *call)[0] == 0
    assert ethand("predict", photo, *call)[0] == 0
    Image.fromarray(np.full((40, 60, 3), 30, np.uint8)).save(photo)  # the same file, retouched
    assert ethand("predict", photo, *call)[0] == 0
    (desk / "b").mkdir()
    Image.fromarray(np.full((40, 60, 3), 60, np.uint8)).save(desk / "b/a.jpg")
    before = snapshot(desk / "out")
    for other in (desk / "b/a.jpg", desk / "photos/left.png"):
        status, _, said = ethand("predict", other, *call)
        assert status == 1
        assert "of another photo" in said
        assert snapshot(desk / "out") == before
    (desk / "out/left.png").write_bytes((desk / "out/right.png").read_bytes() + b"\n")  # corrected by hand
    before = snapshot(desk / "out")
    status, _, said = ethand("predict", photo, *call)
    assert status == 1
    assert "changed since" in said
    assert snapshot(desk / "out") == before


def test_photos_never_share_a_folder_or_leave_the_one_asked_for(desk):
    names = ["a.jpg", "A.jpg", "a.png", "..jpg", "...jpg", "é.jpg", "é.jpg", "a.jpg.png", "a-2.jpg"]
    rng = np.random.default_rng(0)
    for _ in range(300):
        photos = [desk / f"{rng.integers(4)}" / names[rng.integers(len(names))] for _ in range(rng.integers(1, 12))]
        folders = photo_folders(photos, desk / "out")
        assert len({str(folder).casefold() for folder in folders}) == len(photos)
        assert all(os.path.normpath(folder).startswith(f"{desk / 'out'}{os.sep}") for folder in folders)
    photo = desk / "photos/a.jpg"
    (desk / "link.jpg").symlink_to(photo)
    assert list_photos([photo, desk / "photos/../photos/a.jpg", desk / "link.jpg"])[0] == [photo]


def test_a_claim_knows_a_path_however_it_is_spelled(tmp_path):
    (tmp_path / "read").mkdir()
    (tmp_path / "read/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "read")
    os.link(tmp_path / "read/file", tmp_path / "hard")
    for one in ("read", "./read", "link", "read/../read", "link/"):
        path = f"{tmp_path}/{one}"
        assert same_path(path, tmp_path / "read")
        assert is_inside(f"{path}/new/deep", tmp_path / "read")
        for claim in (claim_file, claim_folder, claim_shared_folder):
            with pytest.raises(OutputError):
                claim(path, [tmp_path / "read"])
    for claim in (claim_file, claim_folder):
        with pytest.raises(OutputError, match="is what is read"):
            claim(tmp_path / "hard", [tmp_path / "read/file"])
        with pytest.raises(OutputError, match="lies inside"):
            claim(tmp_path / "link/new", [tmp_path / "read"])
        with pytest.raises(OutputError, match="is no folder"):
            claim(tmp_path / "hard/new")
    with pytest.raises(OutputError, match="holds"):
        claim_folder(tmp_path, [tmp_path / "read/file"])
    assert claim_file(tmp_path / "new/file.png", [None], (".png",)) == tmp_path / "new/file.png"
    assert json.dumps(str(claim_folder(tmp_path / "link/new/folder"))) == json.dumps(str(tmp_path / "read/new/folder"))
