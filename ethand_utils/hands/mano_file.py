"""Reader of the user's own MANO model files, which runs nothing that is in them and caches plain arrays.

The files are pickles of Python 2 with chumpy's objects, which no current NumPy runs; their licence forbids passing them
on (REFERENCE.md sections 4 and 6).
"""

import contextlib
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from ethand_utils.exceptions import EthandError
from ethand_utils.files import FileError, atomic_write, first_line
from ethand_utils.labels import HANDS

FILES = tuple(f"MANO_{hand.upper()}.pkl" for hand in HANDS)

# Joints: the wrist, then three a finger from the palm outwards.
WRIST = 0
CHAINS = {"index": (1, 2, 3), "middle": (4, 5, 6), "pinky": (7, 8, 9), "ring": (10, 11, 12), "thumb": (13, 14, 15)}
PARENTS = (-1, *(parent for joints in CHAINS.values() for parent in (WRIST, *joints[:2])))

# What is used of a model file; V and F may be any number.
SHAPES = {
    "v_template": ("V", 3),
    "shapedirs": ("V", 3, 10),
    "posedirs": ("V", 3, 135),
    "J_regressor": (16, "V"),
    "weights": ("V", 16),
    "f": ("F", 3),
    "kintree_table": (2, 16),
    "hands_mean": (45,),
    "hands_components": (45, 45),
}
INTEGERS = ("f", "kintree_table")


class HandModelError(FileError):
    """Raised for a MANO model file that is missing, does not fit, or holds objects that are not allowed."""


class _Inert:
    """Stand-in for an object in a model file: stores the state that the file gives it and does nothing with it."""

    def __setstate__(self, state):
        self.state = state


class _Dtype(_Inert):
    """Stand-in for NumPy's dtype."""

    def __init__(self, code: str, *_):
        self.code = code

    def plain(self) -> np.dtype:
        if np.dtype(self.code).kind not in "biuf":
            raise TypeError(f"an array of type {self.code} instead of numbers")
        return np.dtype(self.code).newbyteorder(self.state[1])


class _Array(_Inert):
    """Stand-in for NumPy's array, whose own unpickling can be made to take raw bytes for addresses of objects."""

    def array(self) -> np.ndarray:
        _, shape, dtype, columns_first, raw = self.state
        numbers = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype.plain())
        return numbers.reshape(shape, order="F" if columns_first else "C")


class _Ch(_Inert):
    """Stand-in for chumpy's array."""

    def array(self) -> np.ndarray:
        return _plain(self.state["x"])


class _Select(_Inert):
    """Stand-in for chumpy's selection of another array's elements."""

    def array(self) -> np.ndarray:
        return _plain(self.state["a"]).ravel()[_plain(self.state["idxs"])].reshape(self.state["preferred_shape"])


class _Csr(_Inert):
    """Stand-in for SciPy's sparse matrix, row by row."""

    def array(self) -> np.ndarray:
        return self.lines(self.state["_shape"])

    def lines(self, shape: tuple[int, int]) -> np.ndarray:
        ends, indices, values = (_plain(self.state[key]) for key in ("indptr", "indices", "data"))
        dense = np.zeros(shape)
        np.add.at(dense, (np.repeat(np.arange(len(ends) - 1), np.diff(ends)), indices), values)
        return dense


class _Csc(_Csr):
    """Stand-in for SciPy's sparse matrix, column by column."""

    def array(self) -> np.ndarray:
        return self.lines(self.state["_shape"][::-1]).T


def _plain(value) -> np.ndarray:
    """Return the array that a stand-in stands for, or any other value as an array."""
    return value.array() if isinstance(value, _Inert) else np.asarray(value)


def _blank(kind: type, *_) -> _Inert:
    """Stand in for functions that create an empty object of a class, before its state is set."""
    if not issubclass(kind, _Inert):
        raise TypeError(f"{kind.__name__} is not made that way")
    return kind()


def _from_buffer(raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """Stand in for the function that creates an array in pickles of protocol 5."""
    array = _Array()
    array.state = None, shape, dtype, order == "F", raw
    return array


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`, by which Python 3 writes bytes for Python 2."""
    return text.encode("latin1")


# All that a model file may name, in old and new spellings, with its stand-in, which executes nothing.
ALLOWED = {
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _Select,
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _blank for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"scipy.sparse.{module}", "csc_matrix"): _Csc for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _Csr for module in ("csr", "_csr")},
    **{(module, "_reconstructor"): _blank for module in ("copy_reg", "copyreg")},
    **{(module, kind.__name__): kind for module in ("__builtin__", "builtins") for kind in (object, set)},
}


class _Reader(pickle.Unpickler):
    """Unpickler of what ALLOWED lists and nothing else; text of Python 2 becomes str."""

    def __init__(self, data: bytes, path: Path):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise HandModelError(
                f"{self.path}: asks for {module}.{name}, which no MANO file needs; nothing of it was run; "
                "take the file from mano.is.tue.mpg.de"
            )
        return ALLOWED[module, name]


def read_model(path: str | Path) -> dict[str, np.ndarray]:
    """Load the arrays of a MANO file that SHAPES names, float64 or int64. Nothing in the file is executed.

    They are cached as .npz in the user's cache folder under the file's SHA-256; where that folder cannot be written
    to, the file is read anew each time. Raises HandModelError when the file is missing, is no MANO model, or holds
    other objects than arrays.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HandModelError(
            f"{path}: not readable ({error.strerror}); download MANO (mano_v1_2.zip) from mano.is.tue.mpg.de and give "
            f"the folder of {' and '.join(FILES)} as --mano-dir"
        ) from None
    cached = Path(user_cache_dir("ethand")) / f"mano-{hashlib.sha256(data).hexdigest()}.npz"
    arrays = _read_cached(cached)
    if arrays is None:
        arrays = _checked(_unpickle(data, path), path)
        with contextlib.suppress(FileError), atomic_write(cached) as temporary:
            np.savez(temporary, **arrays)
    return arrays


def _read_cached(path: Path) -> dict[str, np.ndarray] | None:
    """Load an earlier conversion; return None where there is none, or a damaged one, which is then made again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _checked(dict(file), path)
    except Exception:  # a damaged archive raises errors of zipfile, zlib or numpy
        return None


def _unpickle(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a pickle by their keys in SHAPES. Raises HandModelError when it is damaged."""
    try:
        values = dict(_Reader(data, path).load())
        return {key: _plain(values[key]) for key in SHAPES if key in values}
    except EthandError:
        raise
    except Exception as error:  # a damaged pickle can raise any
        raise HandModelError(
            f"{path}: no readable MANO model ({type(error).__name__}: {first_line(error)}); fetch it again"
        ) from None


def _checked(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return the arrays as float64 or int64. Raises HandModelError for a missing one or a shape that is not MANO's."""
    sizes, plain = {}, {}
    for key, shape in SHAPES.items():
        if key not in arrays:
            raise HandModelError(f"{path}: has no {key}; expected a MANO hand model from mano.is.tue.mpg.de")
        array = arrays[key]
        if array.dtype.kind not in "iuf" or array.ndim != len(shape):
            raise HandModelError(f"{path}: {key} is {array.dtype} {array.shape}; expected numbers {shape}")
        expected = tuple(
            sizes.setdefault(n, m) if isinstance(n, str) else n for n, m in zip(shape, array.shape, strict=True)
        )
        if array.shape != expected or not np.isfinite(array).all():
            raise HandModelError(f"{path}: {key} is {array.shape}; expected {expected}, all finite")
        plain[key] = array.astype(np.int64 if key in INTEGERS else np.float64)
    if tuple(plain["kintree_table"][0, 1:]) != PARENTS[1:]:
        raise HandModelError(f"{path}: its joints are not in MANO's order; expected the parents {PARENTS}")
    if plain["f"].min() < 0 or plain["f"].max() >= sizes["V"]:
        raise HandModelError(f"{path}: a face has a vertex beyond the {sizes['V']} there are; fetch the file again")
    return plain
