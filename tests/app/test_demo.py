"""`ethand demo`: its page and notebook, what it refuses, and that a second call is fine."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from ethand_utils.app.demo import write_demo_page
from ethand_utils.data.images import read_photo
from ethand_utils.experiments.config import ProfileError, load_profile
from ethand_utils.experiments.demo import BORDER, PICTURE_SIDE, WALL, demo_picture, open_demo
from ethand_utils.experiments.run import Run, RunError, run_folder

TRIES = 20


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what a demo reads from the repository, where we are."""
    folder = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(REPOSITORY / "Snakefile", folder)
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder):
    """Return the digest of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def links(page):
    return re.findall(r'href="([^#"][^"]*)"', page.read_text())


@pytest.mark.slow
def test_the_demo_makes_a_page_whose_links_lead_somewhere_and_a_second_call_is_fine(checkout, ethand):
    status, printed, said = ethand("demo")
    assert status == 0, said
    page = checkout / "outputs/demo/index.html"
    assert (status, printed.splitlines()[-1]) == (0, str(page))
    assert links(page) == ["errors.html", "html/00_start.html"]
    assert all((page.parent / link).stat().st_size > 1000 for link in links(page))
    text = re.sub(r"base64,[\w+/=]+", "", page.read_text())
    assert "http" not in text
    assert "8 scenes" in text
    result = json.loads((page.parent / "start/result.json").read_text())
    assert result["scored_samples"] == 8
    assert result["course_miou"] > 0.15
    assert result["hands_found"] == 1
    before = snapshot(page.parent)
    (page.parent / "notes.txt").write_text("mine")
    photo = checkout / "my photo.png"
    shutil.copy(page.parent / "picture.png", photo)
    assert ethand("demo", "my photo.png")[0] == 0
    after = snapshot(page.parent)
    kept = [
        name for name in before if name.startswith(("data/", "picture/")) or name == "predictions/released/masks.npy"
    ]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (page.parent / "notes.txt").read_text() == "mine"
    assert "my photo.png. " in page.read_text()


def test_a_photo_that_cannot_be_read_is_refused_before_anything_is_made(checkout, ethand):
    (checkout / "no.jpg").write_text("no image")
    for name, says in (("nowhere.jpg", "no such image"), ("no.jpg", "no.jpg: ")):
        status, _, said = ethand("demo", name)
        assert status == 1
        assert says in said
    assert not (checkout / "outputs").exists()


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(checkout):
    rng = np.random.default_rng(0)
    for number in range(TRIES):
        folder = checkout / f"outputs/mine{number}"
        for file in rng.choice(["index.html", "profile.yaml", "data/test/meta.json", "a b", "figures/photo.png"], 2):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("mine")
        if rng.random() < 0.3:  # a run that was made where a demo was
            (folder / "profile.yaml").touch()
            (folder / "demo.json").touch()
        before = snapshot(folder)
        with pytest.raises(RunError, match="holds something that `ethand demo` did not make"):
            open_demo(folder.name)
        assert snapshot(folder) == before


def test_no_run_is_made_where_a_demo_is(checkout, ethand):
    open_demo("shown")
    with pytest.raises(RunError, match="is for the results of `ethand demo`, not for a run"):
        run_folder("shown")
    status, _, said = ethand("run", "ci", "--name", "shown", "--dry-run")
    assert status == 1
    assert "choose another name" in said


@pytest.mark.parametrize("name", ["a/b", "..", "", "007"])
def test_its_name_is_that_of_a_folder(checkout, name):
    with pytest.raises(RunError, match="RUN: "):
        open_demo(name)


def test_there_is_at_least_one_scene(checkout):
    with pytest.raises(ProfileError, match=r"test: 0, expected int \(at least 1"):
        open_demo("demo", scenes=0)
    assert not (checkout / "outputs").exists()


def test_scenes_depend_on_the_seed_alone_and_the_picture_holds_the_first(checkout):
    stores = {name: open_demo(name, 2, seed).dataset("test")["test"] for name, seed in (("a", 0), ("b", 0), ("c", 1))}
    assert (stores["a"].images[:] == stores["b"].images[:]).all()
    assert (stores["a"].images[:] != stores["c"].images[:]).any()
    path, (x, y, width, height) = demo_picture(open_demo("a", 2))
    picture = read_photo(path).image
    inner = picture[BORDER:-BORDER, BORDER:-BORDER]
    assert inner.shape == (PICTURE_SIDE, PICTURE_SIDE, 3)
    assert (picture[:BORDER] == WALL).all()
    assert (picture[:, -BORDER:] == WALL).all()
    truth = np.asarray(stores["a"].masks[0]).any(0)
    factor = PICTURE_SIDE / len(truth)
    rows, columns = np.nonzero(truth)
    corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]) * factor + BORDER
    assert np.abs(corners - [[x, y], [x + width, y + height]]).max() <= 1.5 * factor
    small = np.asarray(Image.fromarray(inner).resize((len(truth),) * 2, Image.Resampling.BOX), float)
    assert np.corrcoef(small.ravel(), stores["a"].images[0].ravel())[0, 1] > 0.8


def test_the_page_says_when_no_hands_were_found_and_leaves_out_unknown_scores(tmp_path):
    folder = tmp_path / "shown"
    (folder / "figures").mkdir(parents=True)
    (folder / "start").mkdir()
    for name in ("scenes", "photo"):
        Image.new("RGB", (40, 20)).save(folder / f"figures/{name}.png")
    scores = {"course_miou": 0.3, "visible_iou": 0.5, "occluded_iou": float("nan"), "scored_samples": 3}
    facts = {"photo": "<b>.jpg", "hands_found": 0}
    (folder / "start/result.json").write_text(json.dumps(scores | facts))
    text = write_demo_page(Run(folder, load_profile("release"))).read_text()
    assert "&lt;b&gt;.jpg. No hands were found in it." in text
    assert text.count("<td>0.") == 2
