"""Hands from MANO parameters: closed meshes of a frame's pose, shape and translation (REFERENCE.md section 4)."""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ethand_utils.exceptions import EthandError
from ethand_utils.hands.amodal import Hand, HandError
from ethand_utils.hands.mano_file import CHAINS, FILES, WRIST, HandModelError, read_model
from ethand_utils.hands.rig import MIRROR
from ethand_utils.hands.surface import fan_faces, hole_edge
from ethand_utils.labels import FINGERS, HANDS, LEFT, N_CLASSES, PALM, RIGHT

MANO_VERTICES = 778
MAX_RESIDUAL = 15.0  # mm, mean over a hand's joints; beyond it, parameters are of another moment or a failed fit
SAME_SIGN = 1.0  # m, summed difference of both hands' shapedirs in x, below which the left's have the wrong sign
PARAMETERS = {"pose": 48, "shape": 10, "trans": 3}
JOINT_PART = np.array([PALM, *(part for finger in CHAINS for part in FINGERS[finger])])
INWARDS = np.array([CHAINS[finger][::-1] for finger in FINGERS])  # joints of each finger, from its end to the palm


@dataclass(frozen=True)
class ManoHands:
    """Hands of annotated frames by the MANO model whose two files lie in `folder`.

    Raises HandModelError when a file is missing or unfit, EthandError when the package smplx is missing.
    """

    folder: Path
    name = "mano"  # as in the meta of the stores

    def __post_init__(self):
        _ = self.models  # so that unfit files are refused before any work begins

    def __getstate__(self) -> dict:
        return {"folder": self.folder}  # another process loads the models anew, from the cache

    @cached_property
    def models(self) -> tuple["HandModel", "HandModel"]:
        """The left and the right hand's model."""
        paths = [Path(self.folder) / name for name in FILES]
        arrays = [read_model(path) for path in paths]
        left, right = (model["shapedirs"] for model in arrays)
        if left.shape != right.shape:
            raise HandModelError(
                f"{paths[LEFT]}: {len(left)} vertices, {FILES[RIGHT]} {len(right)}; take both files from one release"
            )
        if np.abs(left[:, 0] - right[:, 0]).sum() < SAME_SIGN:
            arrays[LEFT]["shapedirs"] = left * MIRROR[:, None]
        return tuple(HandModel.build(*each) for each in zip(arrays, HANDS, paths, strict=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the two files."""
        files = [Path(self.folder) / name for name in FILES]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def hands(self, frame) -> tuple[Hand | None, Hand | None]:
        """Return the left and the right hand of an annotated frame, in the world's frame; None where it has none.

        Reads the frame's `hand_type`, `mano`, `world` and `valid`. Raises HandError when parameters are missing or
        broken, or on average more than MAX_RESIDUAL mm off the annotated joints.
        """
        return tuple(
            self._hand(frame, hand) if frame.hand_type in (name, "interacting") else None
            for hand, name in enumerate(HANDS)
        )

    def _hand(self, frame, hand: int) -> Hand:
        model = self.models[hand]
        vertices, joints = model.pose(**_parameters(frame, hand))
        distance = 1000 * np.linalg.norm(joints - frame.world[hand], axis=1)
        residual = np.where(frame.valid[hand], distance, np.nan)
        if frame.valid[hand].any() and np.nanmean(residual) > MAX_RESIDUAL:
            raise HandError(f"mano: joints more than {MAX_RESIDUAL:.0f} mm off")
        return Hand(vertices, model.faces, model.part_weights, residual)


def _parameters(frame, hand: int) -> dict[str, np.ndarray]:
    """Return a hand's PARAMETERS of a frame as float32 arrays. Raises HandError where they are missing or broken."""
    annotated = (frame.mano or (None, None))[hand]
    if annotated is None:
        raise HandError(f"mano: no parameters of the {HANDS[hand]} hand")
    try:
        values = {name: np.asarray(annotated[name], np.float32).reshape(size) for name, size in PARAMETERS.items()}
        finite = all(np.isfinite(value).all() for value in values.values())
    except (KeyError, TypeError, ValueError):
        finite = False
    if not finite:
        raise HandError(f"mano: broken parameters of the {HANDS[hand]} hand")
    return values


@dataclass(frozen=True)
class HandModel:
    """One hand's model, closed at the wrist: the last vertex is the middle of the hole's `edge` int [n].

    `faces` int [F, 3] are wound outwards; `part_weights` float [V, N_CLASSES] are the skinning weights by part; `tips`
    int [5] the vertices at the fingertips, in the order of FINGERS; `layer` is smplx's model.
    """

    layer: object
    faces: np.ndarray
    edge: np.ndarray
    part_weights: np.ndarray
    tips: np.ndarray

    @staticmethod
    def build(arrays: dict[str, np.ndarray], hand: str, path: Path) -> "HandModel":
        """Build the model from a file's arrays. Raises HandModelError when its wrist is no single hole."""
        template, weights = arrays["v_template"], arrays["weights"]
        try:
            edge = hole_edge(arrays["f"])
        except ValueError:
            raise HandModelError(f"{path}: its surface is not open at the wrist alone; expected MANO's faces") from None
        faces = np.concatenate([arrays["f"], fan_faces(edge, len(template))])
        a, b, c = np.append(template, template[edge].mean(0, keepdims=True), axis=0)[faces].transpose(1, 0, 2)
        if (a * np.cross(b, c)).sum() < 0:  # six times the mesh's volume, negative where faces are wound inwards
            faces = faces[:, ::-1]
        part_weights = np.zeros((len(template) + 1, N_CLASSES))
        part_weights[:-1, JOINT_PART] = weights
        part_weights[-1, PALM] = 1
        return HandModel(_layer(arrays, hand), np.ascontiguousarray(faces), edge, part_weights, _tips(arrays))

    def pose(self, pose: np.ndarray, shape: np.ndarray, trans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return vertices [V, 3] and joints [21, 3] in the order of `labels.JOINT_PARTS`, m, float64.

        Parameters are MANO's, float32: axis-angle `pose` [48] rad, the wrist's first, relative to the mean hand,
        `shape` [10], `trans` [3] m.
        """
        import torch

        values = {"betas": shape, "global_orient": pose[:3], "hand_pose": pose[3:], "transl": trans}
        with torch.no_grad(), _one_thread():
            posed = self.layer(**{name: torch.from_numpy(value)[None] for name, value in values.items()})
        vertices, chain = posed.vertices[0].double().numpy(), posed.joints[0].double().numpy()
        fingers = np.concatenate([vertices[self.tips][:, None], chain[INWARDS]], axis=1)
        closed = np.append(vertices, vertices[self.edge].mean(0, keepdims=True), axis=0)
        return closed, np.append(fingers.reshape(-1, 3), chain[[WRIST]], axis=0)


def _layer(arrays: dict[str, np.ndarray], hand: str):
    """Create smplx's model from arrays that are loaded already, so that smplx opens no file."""
    try:
        from smplx import MANO
    except ImportError:
        raise EthandError("the package smplx is missing; for --hands mano, pip install 'ethand_utils[mano]'") from None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that a hand has only ten shape coefficients
        return MANO(
            "",
            is_rhand=hand == HANDS[RIGHT],
            data_struct=SimpleNamespace(**arrays),
            use_pca=False,
            flat_hand_mean=False,
            num_betas=PARAMETERS["shape"],
        )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: a hand is too small a task for more, and builders run one process per core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tips(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the vertices at the fingertips, int [5] in the order of FINGERS: smplx's of MANO's own mesh.

    In a mesh with another number of vertices, they are those of each end joint's part farthest from the joint.
    """
    from smplx.vertex_ids import vertex_ids

    template = arrays["v_template"]
    if len(template) == MANO_VERTICES:
        return np.array([vertex_ids["mano"][finger] for finger in FINGERS])
    joints, follows, ends = arrays["J_regressor"] @ template, arrays["weights"].argmax(1), INWARDS[:, 0]
    away = np.linalg.norm(template[:, None] - joints[ends], axis=2)
    return np.where(follows[:, None] == ends, away, -1).argmax(0)
