"""Properties of MANO's files as they are read, and of the hands made from MANO parameters."""

import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import manomodel
import numpy as np
import pytest
from manomodel import TIPS, closed, made_model, mirrored, open_edge, skinned, written
from scipy.spatial.transform import Rotation

from ethand_utils.exceptions import EthandError
from ethand_utils.hands import mano_file
from ethand_utils.hands.amodal import Hand, HandError, hand_masks
from ethand_utils.hands.mano import MAX_RESIDUAL, ManoHands
from ethand_utils.hands.mano_file import FILES, SHAPES, HandModelError, read_model
from ethand_utils.hands.raycast import Camera, Mesh
from ethand_utils.hands.rig import MIRROR
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import FINGERS, HANDS, JOINT_PARTS, LEFT, N_CLASSES, N_JOINTS, PALM, RIGHT

FLOAT32 = 3e-7  # m, of smplx's arithmetic at a hand half a metre from the origin
SIZE = 128
CAMERA, FRAME = Camera((1250.0, 1240.0), (256.0, 167.0)), (512, 334)
PART_OF_JOINT = [PALM, *(part for finger in manomodel.JOINTS for part in FINGERS[finger])]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """The user's cache folder of every test is its own."""
    monkeypatch.setattr(mano_file, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "ethand"


@pytest.fixture(scope="module")
def mano_folder(tmp_path_factory):
    """A folder with both files, the left one with the sign fault of MANO's. Read only."""
    folder = tmp_path_factory.mktemp("mano")
    put(folder, mirrored(made_model(), sign_fault=True), made_model())
    return folder


@pytest.fixture(scope="module")
def mano_hands(mano_folder):
    """Both hands' models. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mano_file, "user_cache_dir", lambda name: str(mano_folder / "cache"))
        return ManoHands(mano_folder)


def put(folder: Path, left: dict, right: dict) -> None:
    for name, model in zip(FILES, (left, right), strict=True):
        (folder / name).write_bytes(written(model))


def model_of(hand: int) -> dict:
    """The model without faults that a hand's file should come to."""
    return made_model() if hand == RIGHT else mirrored(made_model())


def drawn(seed: int, still: float = 0.0) -> tuple[dict, dict]:
    """Random parameters of both hands half a metre from the origin, bent fingers and all, of shape `still`·0."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.25, (2, 48))
    poses[:, :3] = Rotation.random(2, rng=rng).as_rotvec()
    translations = rng.normal([[-0.04, 0.3, 0.4], [0.04, 0.3, 0.4]], 0.03)
    shapes = still * rng.normal(0, 1, (2, 10))
    return tuple(
        {"pose": pose, "shape": shape, "trans": trans}
        for pose, shape, trans in zip(poses, shapes, translations, strict=True)
    )


def flat(model: dict) -> dict:
    """Parameters of the model's hand as in its template."""
    return {"pose": np.append(np.zeros(3), -model["hands_mean"]), "shape": np.zeros(10), "trans": np.zeros(3)}


def annotated(parameters, hand_type: str = "interacting", off: float = 0.0) -> SimpleNamespace:
    """A frame with parameters, and joints `off` m from where they put them."""
    world = np.zeros((2, N_JOINTS, 3))
    for hand, values in enumerate(parameters):
        if values is not None:
            world[hand] = joints_of(model_of(hand), values)
    valid = np.ones((2, N_JOINTS), bool)
    return SimpleNamespace(hand_type=hand_type, mano=tuple(parameters), world=world + off / 3**0.5, valid=valid)


def joints_of(model: dict, values: dict) -> np.ndarray:
    """Where parameters put the 21 annotated joints, in the order of JOINT_PARTS."""
    vertices, joints = skinned(model, **values)
    rows = []
    for finger in FINGERS:
        first = 3 * manomodel.JOINTS.index(finger) + 1
        rows += [vertices[TIPS[finger]], joints[first + 2], joints[first + 1], joints[first]]
    return np.array([*rows, joints[0]])


def plain_hand(model: dict, values: dict) -> Hand:
    """The model's mesh posed by plain linear blend skinning."""
    vertices, faces = closed(skinned(model, **values)[0], model["f"])
    weights = np.eye(N_CLASSES)[[PALM] * len(vertices)]
    weights[:-1] = 0
    weights[:-1, PART_OF_JOINT] = model["weights"]
    return Hand(vertices, faces, weights, np.zeros(N_JOINTS))


def sample_masks(hands, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks of hands that fill a crop, seen from a random side."""
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    middle = np.mean(np.concatenate([hand.vertices for hand in hands if hand]), axis=0)
    translation = middle - rotation.T @ [0, 0, 0.8]
    return hand_masks(hands, CAMERA, rotation, translation, (56.0, -33.0, 400.0), SIZE, FRAME)


def volume(hand: Hand) -> float:
    a, b, c = hand.vertices[hand.faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


# The made model is of MANO's format, or the tests below would say little


def test_made_model_has_manos_keys_and_shapes():
    model = made_model()
    assert model.keys() >= SHAPES.keys() | {"J", "hands_coeffs", "bs_style", "bs_type"}
    assert (model["v_template"].shape, model["f"].shape) == ((778, 3), (1538, 3))
    assert len(open_edge(model["f"])) == 16
    np.testing.assert_allclose(model["J_regressor"] @ model["v_template"], model["J"], atol=1e-9)
    np.testing.assert_allclose(model["weights"].sum(1), 1)


# Reading


@pytest.mark.parametrize(
    ("protocol", "as_python2"), [(2, True), (0, True), (0, False), (2, False), (4, False), (5, False)]
)
def test_reads_the_arrays_whichever_python_wrote_them(tmp_path, protocol, as_python2):
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(written(made_model(), protocol, as_python2))
    arrays = read_model(path)
    assert arrays.keys() == SHAPES.keys()
    for key, array in arrays.items():
        expected = made_model()[key]
        np.testing.assert_array_equal(array, expected.toarray() if key == "J_regressor" else expected, err_msg=key)


def test_sparse_rows_are_read_like_columns(tmp_path):
    (tmp_path / "a.pkl").write_bytes(written(made_model() | {"J_regressor": made_model()["J_regressor"].tocsr()}))
    np.testing.assert_array_equal(read_model(tmp_path / "a.pkl")["J_regressor"], made_model()["J_regressor"].toarray())


def test_old_spellings_are_in_the_file_and_chumpy_is_not_here():
    data = written(made_model())
    for name in (b"cchumpy.ch\nCh", b"cchumpy.reordering\nSelect", b"cscipy.sparse.csc\n", b"cnumpy.core.multiarray\n"):
        assert name in data
    assert "chumpy" not in sys.modules


def test_second_reading_takes_the_arrays_from_the_cache(mano_folder, cache_folder, monkeypatch):
    first = read_model(mano_folder / FILES[RIGHT])
    assert len(list(cache_folder.glob("mano-*.npz"))) == 1
    monkeypatch.setattr(mano_file, "_unpickle", lambda *_: pytest.fail("unpickled again"))
    second = read_model(mano_folder / FILES[RIGHT])
    assert {key: array.tobytes() for key, array in first.items()} == {k: a.tobytes() for k, a in second.items()}
    with np.load(next(cache_folder.glob("mano-*.npz")), allow_pickle=False) as cached:
        assert set(cached) == set(SHAPES)


def test_a_damaged_cache_is_made_again(mano_folder, cache_folder):
    expected = read_model(mano_folder / FILES[RIGHT])
    cached = next(cache_folder.glob("mano-*.npz"))
    data = cached.read_bytes()
    for damaged in (b"", data[: len(data) // 2], data[:5000] + bytes(5000) + data[10000:]):
        cached.write_bytes(damaged)
        np.testing.assert_array_equal(read_model(mano_folder / FILES[RIGHT])["posedirs"], expected["posedirs"])
        assert len(cached.read_bytes()) == len(data)


def test_a_cache_that_cannot_be_written_to_is_done_without(mano_folder, cache_folder):
    cache_folder.parent.mkdir(parents=True)
    cache_folder.write_text("")
    assert read_model(mano_folder / FILES[RIGHT])["weights"].shape[1] == 16


def test_another_file_of_the_same_name_is_not_taken_from_the_cache(tmp_path):
    path = tmp_path / FILES[RIGHT]
    for model in (made_model(), mirrored(made_model())):
        path.write_bytes(written(model))
        np.testing.assert_array_equal(read_model(path)["v_template"], model["v_template"])


class Runs:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("location", ["value", "whole", "inside"])
@pytest.mark.parametrize("call", ["system", "eval", "import"])
def test_a_file_that_runs_something_is_refused_and_runs_nothing(tmp_path, cache_folder, location, call):
    trace = tmp_path / "trace"
    evil, name = {
        "system": (Runs(os.system, f"touch {trace}"), f"{os.system.__module__}.system"),
        "eval": (Runs(eval, f"open({str(trace)!r}, 'w')"), "builtin"),
        "import": (Runs(np.load, str(trace)), "load"),
    }[call]
    model = made_model()
    values = {
        "value": model | {"bs_type": evil},
        "whole": evil,
        "inside": model | {"hands_mean": np.array([evil], dtype=object)},
    }[location]
    path = tmp_path / FILES[RIGHT]
    path.write_bytes(pickle.dumps(values, 2))
    with pytest.raises(HandModelError, match=name) as refused:
        read_model(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert not trace.exists()
    assert not cache_folder.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    data = written(made_model())
    path = tmp_path / FILES[LEFT]
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(HandModelError, match=r"MANO_LEFT\.pkl: no readable MANO model .*fetch it again"):
        read_model(path)


def test_a_missing_file_says_what_to_download(tmp_path):
    with pytest.raises(HandModelError, match=r"MANO_LEFT\.pkl: not readable .*mano\.is\.tue\.mpg\.de.*--mano-dir"):
        ManoHands(tmp_path)


@pytest.mark.parametrize("key", SHAPES)
def test_a_missing_array_is_named(tmp_path, key):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({name: value for name, value in made_model().items() if name != key}))
    with pytest.raises(HandModelError, match=f"a.pkl: has no {key};"):
        read_model(path)


def broken(key: str, value) -> dict:
    return made_model() | {key: value}


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: broken("v_template", np.zeros((778, 2))), r"v_template is \(778, 2\); expected \(778, 3\)"),
        (lambda: broken("weights", made_model()["weights"][:-1]), r"weights is \(777, 16\); expected \(778, 16\)"),
        (lambda: broken("posedirs", np.full((778, 3, 135), np.nan)), "posedirs .* all finite"),
        (lambda: broken("hands_mean", "text"), "hands_mean is <U4"),
        (lambda: broken("hands_mean", None), "hands_mean is object"),
        (lambda: broken("hands_mean", np.array([None] * 45)), "an array of type O8 instead of numbers"),
        (lambda: broken("f", made_model()["f"] + 1), "a face has a vertex beyond the 778"),
        (lambda: broken("kintree_table", np.zeros((2, 16))), "not in MANO's order"),
        (lambda: [made_model()["v_template"]], "no readable MANO model"),
        (lambda: 3, "no readable MANO model"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path, make, fault):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(make()))
    with pytest.raises(HandModelError, match=f"a.pkl: .*{fault}"):
        read_model(path)


def test_an_index_beyond_a_sparse_matrix_is_refused(tmp_path):
    matrix = made_model()["J_regressor"].copy()
    matrix.indices[5] = 10**6
    (tmp_path / "a.pkl").write_bytes(written(broken("J_regressor", matrix)))
    with pytest.raises(HandModelError, match="IndexError"):
        read_model(tmp_path / "a.pkl")


class Forged:
    """Pickles to NumPy's object array whose type says that raw bytes do for the objects' addresses."""

    def __reduce__(self):
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (45,), ForgedType(), False, bytes(360))


class ForgedType:
    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


def test_addresses_forged_as_an_array_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(broken("hands_mean", Forged()), 2))
    with pytest.raises(HandModelError, match="an array of type O8 instead of numbers"):
        read_model(tmp_path / "a.pkl")


@pytest.mark.parametrize("dtype", [">f8", "<f4", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_are_read_in_any_byte_order_width_and_layout(tmp_path, dtype, order):
    weights = np.asarray(made_model()["weights"].astype(dtype), order=order)
    (tmp_path / "a.pkl").write_bytes(written(broken("weights", weights)))
    np.testing.assert_array_equal(read_model(tmp_path / "a.pkl")["weights"], weights)


# Hands


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("still", [0.0, 1.0], ids=["mean shape", "any shape"])
def test_masks_are_those_of_the_plainly_skinned_mesh(mano_hands, seed, still):
    parameters = drawn(seed, still)
    hands = mano_hands.hands(annotated(parameters))
    plain = [plain_hand(model_of(hand), parameters[hand]) for hand in (LEFT, RIGHT)]
    for hand, expected in zip(hands, plain, strict=True):
        np.testing.assert_allclose(hand.vertices, expected.vertices, atol=FLOAT32)
    ours, theirs = sample_masks(hands, seed), sample_masks(plain, seed)
    assert (theirs["masks"] > 0).sum((1, 2)).min() > 1000
    assert (ours["masks"] != theirs["masks"]).sum() <= 2  # of 32,768; an edge may run through a pixel's very centre
    assert (ours["front"] != theirs["front"]).sum() <= 2


def test_shape_changes_the_hand(mano_hands):
    still, other = drawn(0), drawn(0, 1.0)
    apart = [
        np.linalg.norm(a.vertices - b.vertices, axis=1).mean()
        for a, b in zip(mano_hands.hands(annotated(still)), mano_hands.hands(annotated(other)), strict=True)
    ]
    assert min(apart) > 1e-3


@pytest.mark.parametrize("sign_fault", [True, False])
def test_left_hand_mirrors_the_right_with_or_without_the_fault_of_its_file(tmp_path, sign_fault):
    put(tmp_path, mirrored(made_model(), sign_fault), made_model())
    values = drawn(3, 1.0)[RIGHT]
    mirrored_values = values | {"pose": values["pose"] * np.tile(-MIRROR, 16), "trans": values["trans"] * MIRROR}
    left, right = ManoHands(tmp_path).hands(annotated((mirrored_values, values)))
    np.testing.assert_allclose(left.vertices, right.vertices * MIRROR, atol=FLOAT32)
    np.testing.assert_array_equal(left.part_weights, right.part_weights)
    assert volume(left) == pytest.approx(volume(right), rel=1e-4)


@pytest.mark.parametrize("inside_out", [False, True])
def test_hands_are_closed_and_wound_outwards(tmp_path, mano_hands, inside_out):
    hands = mano_hands
    if inside_out:
        inverted = [model | {"f": model["f"][:, ::-1].copy()} for model in (mirrored(made_model()), made_model())]
        put(tmp_path, *inverted)
        hands = ManoHands(tmp_path)
    for hand in hands.hands(annotated(drawn(1, 1.0))):
        assert len(open_edge(hand.faces)) == 0
        assert 1e-4 < volume(hand) < 1e-3  # m³
        assert len(hand.vertices) == 779
        assert hand.part_weights[-1].argmax() == PALM


def test_rays_from_the_elbow_do_not_enter_the_hand(mano_hands):
    for hand in mano_hands.hands(annotated([flat(model_of(hand)) for hand in (LEFT, RIGHT)])):
        ahead = hand.vertices.mean(0) - hand.vertices[-1]
        rotation = Rotation.align_vectors([[0.0, 0, 1]], [ahead])[0].as_matrix()
        vertices = (hand.vertices - hand.vertices[-1]) @ rotation.T + [0, 0, 0.3]
        assert backs_seen(vertices, hand.faces) == 0
        fan = (hand.faces == len(vertices) - 1).any(1)
        assert backs_seen(vertices, hand.faces[~fan]) > 20


def backs_seen(vertices: np.ndarray, faces: np.ndarray) -> int:
    """Rays of a camera at the origin that first meet a face from behind."""
    camera = Camera((250.0, 250.0), (SIZE / 2, SIZE / 2))
    rays = camera.rays(SIZE)
    hits = Mesh(vertices, faces).first_hits(camera, SIZE, rays)
    a, b, c = vertices[hits.corners].transpose(1, 0, 2)
    assert len(hits.pixels) > 500
    return int(((np.cross(b - a, c - a) * rays[hits.pixels]).sum(1) > 1e-12).sum())


def test_parts_are_where_they_belong(mano_hands):
    frame = annotated([flat(model_of(hand)) for hand in (LEFT, RIGHT)])
    for side, hand in enumerate(mano_hands.hands(frame)):
        parts, bones = hand.part_weights.argmax(1), (frame.world[side, :-1:4] + frame.world[side, 1:-1:4]) / 2
        assert set(parts) == set(range(1, N_CLASSES))
        np.testing.assert_allclose(hand.part_weights.sum(1), 1)
        for finger, chain in enumerate(FINGERS.values()):
            nearest = np.linalg.norm(hand.vertices[parts == chain[-1], None] - bones, axis=2).argmin(1)
            assert (nearest == finger).all()
        inner = frame.world[side, [row for row in range(N_JOINTS) if row % 4]]
        for joint, near in zip(inner, [JOINT_PARTS[row] for row in range(N_JOINTS) if row % 4], strict=True):
            assert parts[np.linalg.norm(hand.vertices - joint, axis=1).argmin()] in near


@pytest.mark.parametrize("angles", [(-90, 0), (90, 0), (-90, 90), (-90, -90), (0, 0), (0, 180)])
def test_the_rig_and_its_likeness_in_manos_format_have_the_same_mask_from_six_sides(mano_hands, angles):
    rig = load_rig().hand
    values = {name: value.astype(np.float32) for name, value in flat(made_model()).items()}
    vertices, _ = mano_hands.models[RIGHT].pose(**values)
    model = mano_hands.models[RIGHT]
    likeness = Hand(vertices, model.faces, model.part_weights, np.zeros(N_JOINTS))
    hand = Hand(rig.vertices, rig.faces, rig.part_weights, np.zeros(N_JOINTS))
    view = Rotation.from_euler("XY", angles, degrees=True).as_matrix()
    away = rig.vertices.mean(0) - view.T @ (0, 0, 0.9)
    masks = [
        hand_masks((None, each), CAMERA, view, away, (106, 17, 300), SIZE, FRAME)["masks"][RIGHT]
        for each in (likeness, hand)
    ]
    both, either = ((masks[0] > 0) & (masks[1] > 0)).sum(), ((masks[0] > 0) | (masks[1] > 0)).sum()
    assert both / either > 0.95
    assert (masks[0] == masks[1])[(masks[0] > 0) & (masks[1] > 0)].mean() > 0.9


def test_residual_is_the_distance_to_each_annotated_joint_in_mm(mano_hands):
    frame = annotated(drawn(2, 1.0))
    for hand in mano_hands.hands(frame):
        np.testing.assert_allclose(hand.residual, 0, atol=1000 * FLOAT32)
    frame.world[LEFT, 6, 1] += 0.012
    frame.valid[RIGHT, 3] = False
    left, right = mano_hands.hands(frame)
    np.testing.assert_allclose(left.residual, 12 * np.eye(N_JOINTS)[6], atol=1000 * FLOAT32)
    np.testing.assert_array_equal(np.isnan(right.residual), np.arange(N_JOINTS) == 3)


def test_fingertips_of_another_mesh_are_the_ends_of_their_parts(tmp_path):
    small = made_model(600)
    put(tmp_path, mirrored(small), small)
    hands = ManoHands(tmp_path)
    for model, tips in zip((mirrored(small), small), [each.tips for each in hands.models], strict=True):
        assert len(set(tips)) == len(FINGERS)
        follows = model["weights"].argmax(1)[tips]
        assert [PART_OF_JOINT[joint] for joint in follows] == [chain[-1] for chain in FINGERS.values()]
        ends = made_model()["v_template"][list(TIPS.values())] * (MIRROR if model is not small else 1)
        assert np.linalg.norm(model["v_template"][tips] - ends, axis=1).max() < 0.006
    frame = annotated((None, None))
    frame.mano, frame.valid[:] = drawn(0), False
    assert [len(hand.vertices) for hand in hands.hands(frame)] == [601, 601]


# Frames


@pytest.mark.parametrize(("hand_type", "there"), [("left", (True, False)), ("right", (False, True))])
def test_a_frame_of_one_hand_gives_that_hand(mano_hands, hand_type, there):
    both = drawn(4)
    for parameters in (both, [values if is_there else None for values, is_there in zip(both, there, strict=True)]):
        hands = mano_hands.hands(annotated(parameters, hand_type))
        assert tuple(hand is not None for hand in hands) == there


@pytest.mark.parametrize("hand", [LEFT, RIGHT])
def test_missing_parameters_are_a_short_reason(mano_hands, hand):
    parameters = list(drawn(5))
    parameters[hand] = None
    with pytest.raises(HandError, match=f"^mano: no parameters of the {HANDS[hand]} hand$"):
        mano_hands.hands(annotated(parameters))
    frame = annotated(drawn(5), HANDS[hand])
    frame.mano = None
    with pytest.raises(HandError, match=f"^mano: no parameters of the {HANDS[hand]} hand$"):
        mano_hands.hands(frame)


@pytest.mark.parametrize(
    "fault", [{"pose": [0.0] * 45}, {"shape": [np.nan] * 10}, {"trans": None}, {"trans": ["a", "b", "c"]}, {"pose": {}}]
)
def test_broken_parameters_are_a_short_reason(mano_hands, fault):
    frame = annotated(drawn(6))
    frame.mano = (frame.mano[LEFT], frame.mano[RIGHT] | fault)
    with pytest.raises(HandError, match=r"^mano: broken parameters of the right hand$"):
        mano_hands.hands(frame)


def test_parameters_far_from_the_joints_are_rejected(mano_hands):
    mano_hands.hands(annotated(drawn(7), off=0.9 * MAX_RESIDUAL / 1000))
    frame = annotated(drawn(7), off=1.1 * MAX_RESIDUAL / 1000)
    with pytest.raises(HandError, match=r"^mano: joints more than 15 mm off$"):
        mano_hands.hands(frame)
    frame.valid[:] = False  # nothing is known to be wrong
    assert all(np.isnan(hand.residual).all() for hand in mano_hands.hands(frame))


def test_lists_as_in_the_annotation_do_as_well(mano_hands):
    parameters = drawn(8, 1.0)
    lists = [{name: value.tolist() for name, value in values.items()} for values in parameters]
    for a, b in zip(mano_hands.hands(annotated(parameters)), mano_hands.hands(annotated(lists)), strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)


def test_travels_to_other_processes_without_its_models(mano_folder):
    hands = ManoHands(mano_folder)
    data = pickle.dumps(hands)
    assert len(data) < 1000
    frame = annotated(drawn(9))
    for a, b in zip(hands.hands(frame), pickle.loads(data).hands(frame), strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)


def test_files_of_different_releases_are_refused(tmp_path):
    put(tmp_path, mirrored(made_model(600)), made_model())
    with pytest.raises(HandModelError, match=r"MANO_LEFT\.pkl: 600 vertices, MANO_RIGHT\.pkl 778"):
        ManoHands(tmp_path)


@pytest.mark.parametrize("holes", [0, 2])
def test_a_surface_that_is_not_open_at_the_wrist_alone_is_refused(tmp_path, holes):
    model = made_model()
    faces = closed(model["v_template"], model["f"])[1]
    faces[faces == 778] = int(open_edge(model["f"])[0, 0])
    faces = faces[[len(set(face)) == 3 for face in faces.tolist()]]
    put(tmp_path, mirrored(model), model | {"f": faces if holes == 0 else model["f"][1:]})
    with pytest.raises(HandModelError, match=r"MANO_RIGHT\.pkl: its surface is not open at the wrist alone"):
        ManoHands(tmp_path)


def test_without_smplx_the_error_says_what_to_install(mano_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "smplx", None)
    with pytest.raises(EthandError, match=r"smplx is missing.*pip install 'ethand_utils\[mano\]'"):
        ManoHands(mano_folder)


def test_nothing_is_printed(mano_folder, capsys):
    ManoHands(mano_folder).hands(annotated(drawn(0)))
    assert capsys.readouterr() == ("", "")
