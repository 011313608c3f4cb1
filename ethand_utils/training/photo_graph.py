"""The package's net as one ONNX graph, from a crop of a photo to its masks: it runs without PyTorch.

The graph is what `inference.predict_tensors` does, exported once into the user's cache. ONNX Runtime runs it.
"""

import contextlib
import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from ethand_utils.dependencies import module_files
from ethand_utils.files import FileError, atomic_write
from ethand_utils.labels import HANDS, N_CLASSES
from ethand_utils.training.predicted import Predicted

RELEASED = Path(__file__).parent / "released" / "hands.safetensors"  # notebook 14 makes it
SHOWN_SIZE = 256  # px of a photo's square, at least, in which masks are interpolated and shown
NEEDED = ("onnxruntime", "onnxscript")  # of the extra `export`: to run a graph, and to export it
DIGEST_BYTES = hashlib.sha256().digest_size
INPUTS = ("images", "sides", "prior")
GRAPH_FILE = "hands.graph"  # in the user's cache: a SHA-256, by which it is current and undamaged, and then the ONNX


def enlargement(size: int) -> int:
    """Return how many times as large as the images of a net of `size` px its masks of photos are."""
    return -(-SHOWN_SIZE // size)


class PhotoGraph:
    """A net with all that is done before and after it, run by ONNX Runtime on the CPU; `size` is its images' side."""

    def __init__(self, content: bytes):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]

    def predict(self, images: np.ndarray, sides: tuple[int, ...] = (), prior: np.ndarray | None = None) -> Predicted:
        """Predict one image uint8 RGB [1, size, size, 3]; the rest is as in `inference.predict`, enlarged."""
        large = self.size * enlargement(self.size)
        prior = np.ones((len(HANDS), N_CLASSES, large, large), np.float32) if prior is None else prior
        there = np.isin(np.arange(len(HANDS)), sides)
        inputs = zip(INPUTS, (images, there, prior.astype(np.float32)), strict=True)
        return Predicted(*self.session.run(None, dict(inputs)))


def released_graph() -> PhotoGraph | None:
    """Return the graph of the package's net, exported on first use; None where the extra `export` is not installed."""
    if not all(map(find_spec, NEEDED)):
        return None
    file, key = Path(user_cache_dir("ethand")) / GRAPH_FILE, _key()
    stored = file.read_bytes() if file.is_file() else b""
    digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
    if digest != hashlib.sha256(key + content).digest():
        from ethand_utils.training.inference import export_photo_graph
        from ethand_utils.training.models import load_net

        content = export_photo_graph(*load_net(None))
        with contextlib.suppress(FileError), atomic_write(file) as temporary:  # else it is exported again next time
            temporary.write_bytes(hashlib.sha256(key + content).digest() + content)
    return PhotoGraph(content)


def _key() -> bytes:
    """Return a digest of what the graph is made of: the weights, and the code that uses them."""
    files = (RELEASED, *map(Path, module_files("training.inference")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
