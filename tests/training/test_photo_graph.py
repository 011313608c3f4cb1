"""The graph of the package's net: it predicts as PyTorch does, is kept while it is current, and needs no PyTorch."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ethand_utils.labels import LEFT, N_CHANNELS, N_CLASSES, RIGHT
from ethand_utils.training import inference, photo_graph
from ethand_utils.training.inference import export_photo_graph, predict
from ethand_utils.training.models import create_model
from ethand_utils.training.photo_graph import PhotoGraph, enlargement, released_graph
from ethand_utils.training.predicted import Inference

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
NOTES = {"size": 32, "inference": {"mirrored": True, "presence": 0.5}}
TRIES = 24


@pytest.fixture(scope="module")
def net():
    """An untrained net that says which hand is in front, surer of parts than such nets are."""
    model = create_model("baseline", widths=(8, 8), out_channels=N_CHANNELS + 1, seed=0).eval()
    model.head.weight.data *= 40
    return model


@pytest.fixture(scope="module")
def content(net):
    return export_photo_graph(net, NOTES)


@pytest.fixture
def cache(tmp_path, monkeypatch, content):
    """A cache of its own, and the number of exports into it."""
    exports = []
    monkeypatch.setattr(photo_graph, "user_cache_dir", lambda _: str(tmp_path))
    monkeypatch.setattr(inference, "export_photo_graph", lambda *_: exports.append(1) or content)
    return tmp_path / photo_graph.GRAPH_FILE, exports


def test_the_graph_predicts_as_pytorch_does(net, content):
    graph, rng, large = PhotoGraph(content), np.random.default_rng(0), 32 * enlargement(32)
    assert graph.size == 32
    parts = set()
    for number in range(TRIES):
        image = rng.integers(256, size=(1, 32, 32, 3), dtype=np.uint8) // (number % 4 + 1)
        sides = [(), (LEFT,), (RIGHT,), (LEFT, RIGHT)][number % 4]
        prior = None if number % 3 == 0 else rng.random((2, N_CLASSES, large, large), np.float32) + 0.1
        ours = graph.predict(image, sides, prior)
        plain = predict(net, image, Inference.of(NOTES), sides, enlargement(32), prior)
        parts |= set(np.unique(plain.masks))
        assert (ours.masks.shape, ours.masks.dtype) == (plain.masks.shape, plain.masks.dtype)
        assert (ours.masks == plain.masks).mean() > 0.9999
        assert (ours.front == plain.front).mean() > 0.9999
        np.testing.assert_allclose(ours.presence, plain.presence, atol=1e-4)
        np.testing.assert_allclose(ours.confidence, plain.confidence, atol=1e-4)
    assert len(parts) > N_CLASSES / 2


def test_a_graph_is_exported_once(cache):
    file, exports = cache
    for _ in range(2):
        assert released_graph().size == 32
    assert exports == [1]
    assert file.is_file()


def test_a_graph_that_is_damaged_or_of_other_weights_or_code_is_exported_again(cache, monkeypatch):
    file, exports = cache
    released_graph()
    whole = file.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], whole + b"0"):
        file.write_bytes(damaged)
        assert released_graph().size == 32
        assert file.read_bytes() == whole
    assert len(exports) == 6
    monkeypatch.setattr(photo_graph, "_key", lambda: b"other")
    released_graph()
    assert len(exports) == 7


def test_a_cache_that_cannot_be_written_costs_an_export_only(cache, monkeypatch):
    file, exports = cache
    file.parent.joinpath("file").touch()
    monkeypatch.setattr(photo_graph, "user_cache_dir", lambda _: str(file.parent / "file"))
    assert released_graph().size == 32
    assert exports == [1]


def test_without_the_extra_there_is_no_graph(monkeypatch):
    monkeypatch.setattr(photo_graph, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert released_graph() is None


def test_predicting_by_a_graph_loads_no_pytorch(cache, tmp_path):
    released_graph()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    code = f"""
import sys
from pathlib import Path
from ethand_utils.analysis import hand_finder
from ethand_utils.app import cli
from ethand_utils.app.photo_command import predict_photos
from ethand_utils.training import photo_graph
photo_graph.user_cache_dir = lambda _: {str(tmp_path)!r}
hand_finder.find_hands = lambda image: []
assert predict_photos([Path({str(tmp_path / "a.png")!r})], None, Path({str(tmp_path / "out")!r}), "10,10,20,20")
print(*[name for name in ("torch", "timm", "pandas", "numba", "scipy", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
    assert (tmp_path / "out/left.png").exists()
