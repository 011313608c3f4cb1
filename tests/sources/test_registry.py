"""The registry of sources: one new module and one line in SOURCES are all that a new source takes."""

import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from doc_samples import module_of
from PIL import Image
from typer.testing import CliRunner

from ethand_utils.app import cli_data
from ethand_utils.dependencies import module_files
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.run import Run, RunError, open_run
from ethand_utils.files import FileError
from ethand_utils.labels import HANDS
from ethand_utils.sources.detect import SOURCES, Source, detect_source, find_source

SIZE = 32
# What somebody writes who has a folder of images with id maps, one a hand, and wants to learn from it.
MODULE = module_of("change_one_thing.md", "id_maps")
LINE = Source("images with id maps", "id_maps", layout="images/NAME.jpg and masks/NAME_left.png, NAME_right.png")


@pytest.fixture
def photos(tmp_path):
    """A folder of 9 images with masks of both hands; the folder and the masks uint8 [9, 2, H, W]."""
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    masks = rng.integers(17, size=(9, 2, SIZE, SIZE), dtype=np.uint8)
    for below in ("images", "masks"):
        (folder / below).mkdir(parents=True)
    for i, pair in enumerate(masks):
        image = rng.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"images/photo{i}.jpg")
        for hand, mask in zip(HANDS, pair, strict=True):
            Image.fromarray(mask).save(folder / f"masks/photo{i}_{hand}.png")
    return folder, masks


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The module of a new source where Python finds it, and its line in SOURCES."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/id_maps.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setitem(SOURCES, "id_maps", LINE)
    yield
    sys.modules.pop("id_maps", None)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder that counts as a checkout, and is where we are."""
    for name in ("notebooks/01_data.ipynb", "Snakefile"):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).touch()
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def test_a_new_source_is_read_into_a_run(stranger, photos, checkout, ethand):
    folder, masks = photos
    run = open_run("mine", "ci", str(folder))
    assert (run.source, run.data_folder) == ("id_maps", checkout / "outputs/mine/data")
    stores = run.dataset("train", "val")
    np.testing.assert_array_equal(np.concatenate([store.masks for store in stores.values()]), masks)
    assert open_run("mine").dataset("test")["test"].index["id"].tolist() == ["photo6", "photo7", "photo8"]
    status, printed, _ = ethand("data", "info", run.data_folder)
    assert status == 0
    assert re.search(r"train +3 +32 ", printed)


def test_a_new_source_has_a_command_without_code(stranger, photos, tmp_path):
    app = typer.Typer()
    cli_data.add_readers(app)
    out = tmp_path / "out"
    words = ["id_maps", "--root", photos[0], "--out", out, "--size", 16, "--train", 2, "--workers", 1]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert re.search(r"train +2 +16 ", done.output)
    assert "images with id maps" in CliRunner().invoke(app, ["--help"]).output


def test_a_new_source_is_among_those_named_to_who_has_an_unknown_folder(stranger, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"empty: .*images with id maps \(images/NAME.jpg .*`ethand data id_maps`"):
        detect_source(tmp_path / "empty")


def test_a_dry_run_of_a_new_source_takes_its_counts_for_limits(stranger, photos, checkout, ethand):
    status, printed, _ = ethand("run", "ci", "--set", f"data={photos[0]}", "--dry-run")
    assert status == 0
    assert "id_maps" in printed
    assert "at most" in printed


def test_only_sources_that_say_so_take_mano(stranger, photos, checkout):
    run = Run(checkout / "outputs/mine", load_profile("ci", {"data": str(photos[0]), "mano_dir": "mano"}))
    with pytest.raises(RunError, match=r"mano_dir: mano, but the data set is id_maps; .* InterHand2\.6M"):
        run.dataset()


def test_an_unknown_source_is_refused():
    with pytest.raises(FileError, match=r"source 'corse': unknown \(did you mean course\?\); expected one of rendered"):
        find_source("corse")


def test_the_registry_imports_no_reader():
    code = (
        "import sys, ethand_utils.sources.detect; sys.exit(any(m in sys.modules for m in ('pandas', 'torch', 'lmdb')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_code_that_asks_the_registry_depends_on_every_reader():
    files = module_files("sources.detect")
    assert all(
        any(file.endswith(f"/sources/{source.module.split('.')[-1]}.py") for file in files)
        for source in SOURCES.values()
    )
    assert not any(file.endswith("/sources/interhand.py") for file in module_files("sources.rendered"))
