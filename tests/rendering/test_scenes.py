"""Properties of hands' masks, of sampled scenes and of their images."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes
from scipy.spatial.transform import Rotation

from ethand_utils import labels
from ethand_utils.data.crops import crop_square
from ethand_utils.hands.amodal import amodal_masks, occluded_share
from ethand_utils.hands.raycast import Camera, Hits, Mesh, vertex_normals
from ethand_utils.hands.rig import Pose, Shape
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import FRONT_LEFT, FRONT_NONE, FRONT_RIGHT, HANDS, LEFT, N_CLASSES, PALM, RIGHT
from ethand_utils.rendering.arrangements import ARRANGEMENTS, Arm
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.rendering.poses import FREE, POSES
from ethand_utils.rendering.render import render, render_masks
from ethand_utils.rendering.scenes import FRAME, Limb, Scene, sample_scene
from ethand_utils.rendering.skin import Surface
from ethand_utils.rendering.subjects import sample_subject

REST = Pose(np.zeros((5, 4)), np.zeros(2))
CAMERA = Camera((300.0, 300.0), (64.0, 64.0))  # sees about 0.26 m at 0.6 m
SIZE = 64  # px
BACK_TO_CAMERA = Rotation.from_euler("X", -90, degrees=True)  # rig → camera frame, fingers up
SEEDS = range(6)
SIDE_NAMES = ("back", "palm", "thumb", "little finger", "fingertips", "arm")
SIDES = [(-90, 0), (90, 0), (-90, 90), (-90, -90), (0, 0), (0, 180)]


def open_limb(side: str, shift=(0.0, 0.09, 0.6), view: Rotation = BACK_TO_CAMERA) -> Limb:
    """An open hand whose wrist is at `shift` (m) in the camera frame."""
    arm = Arm.from_pose("rest", REST, Shape(), np.eye(3))
    limb = Limb.from_arm(arm.moved(-arm.joints[-1]))
    return (limb.mirrored() if side == "left" else limb).rotated(view).moved(np.array(shift))


def scene_of(left: Limb | None, right: Limb | None) -> Scene:
    """A scene of these limbs, all of them in the crop."""
    subject = sample_subject(np.random.default_rng(0))
    return Scene((left, right), CAMERA, (128, 128), (0.0, 0.0, 128.0, 128.0), (0.0, 0.0, 128.0), subject)


def random_scene(seed: int, hand_type: str | None = "interacting") -> Scene:
    rng = np.random.default_rng(seed)
    return sample_scene(rng, sample_subject(rng), hand_type)


def alone(scene: Scene, hand: int) -> Scene:
    """The scene without the other hand."""
    return replace(scene, limbs=tuple(limb if h == hand else None for h, limb in enumerate(scene.limbs)))


def within_frame(scene: Scene) -> Scene:
    """The scene in a frame that holds all of its crop."""
    x, y, side = scene.crop
    cx, cy = scene.camera.centre
    camera = Camera(scene.camera.focal, (cx - x, cy - y))
    return replace(scene, camera=camera, crop=(0.0, 0.0, side), frame=(int(side) + 1, int(side) + 1))


def cast(scene: Scene, hand: int, size: int = SIZE) -> Hits:
    """What the crop's rays meet on one limb alone."""
    camera = scene.camera.crop(*scene.crop, size)
    return Mesh(scene.limbs[hand].vertices, scene.limbs[hand].faces).first_hits(camera, size, camera.rays(size))


def silhouette(scene: Scene, hand: int, size: int = SIZE) -> np.ndarray:
    """Where a limb's rays meet it, bool [size, size]."""
    return cast(scene, hand, size).full_depth(size).reshape(size, size) < 10


def part_of_vertices() -> np.ndarray:
    return load_rig().part_weights.argmax(1)


# Masks of hands


def test_rays_near_a_mesh_are_all_that_meet_it(two_hand_scenes):
    """`first_hits` casts a window of rays only; the others would meet nothing."""
    for scene in two_hand_scenes[:30]:
        camera = scene.camera.crop(*scene.crop, 32)
        rays = camera.rays(32)
        for limb in scene.limbs:
            mesh = Mesh(limb.vertices, limb.faces)
            everywhere = np.flatnonzero(mesh.blocks(np.zeros_like(rays), rays))
            np.testing.assert_array_equal(mesh.first_hits(camera, 32, rays).pixels, everywhere)


@pytest.mark.parametrize("shift", [(3, 0), (-3, 0), (0, 3), (0, -3)])
def test_what_is_beside_the_image_is_not_met(shift):
    limb = open_limb("right", shift=(*shift, 0.6))
    assert len(Mesh(limb.vertices, limb.faces).first_hits(CAMERA, 128, CAMERA.rays(128)).pixels) == 0


def test_vertex_normals_have_unit_length_and_point_outwards():
    limb = open_limb("left")
    on_skin = np.unique(limb.rig.skin)
    vertices, normals = limb.vertices[on_skin], limb.normals[on_skin]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(limb.normals, vertex_normals(limb.vertices, limb.rig.skin[:, ::-1]), atol=1e-9)
    mesh = Mesh(limb.vertices, limb.faces)
    assert mesh.blocks((vertices + normals * 1e-3).astype(np.float32), -normals.astype(np.float32)).all()


def test_each_part_appears_in_some_view_of_an_open_hand():
    views = [BACK_TO_CAMERA, Rotation.from_euler("Y", 180, degrees=True) * BACK_TO_CAMERA]
    for hand, side in enumerate(HANDS):
        limbs = [open_limb(side, view=view) for view in views]
        scenes = [scene_of(*((limb, None) if hand == LEFT else (None, limb))) for limb in limbs]
        parts = np.unique([render_masks(scene, SIZE)["masks"][hand] for scene in scenes])
        assert set(parts) == set(range(N_CLASSES))


@pytest.mark.parametrize("angle", [0, 70, 180])
def test_mask_ends_at_the_wrist_and_the_forearm_is_background(angle):
    view = Rotation.from_euler("Y", angle, degrees=True) * BACK_TO_CAMERA
    scene = scene_of(None, open_limb("right", shift=(0, 0.02, 0.6), view=view))
    hits, mask = cast(scene, RIGHT), render_masks(scene, SIZE)["masks"][RIGHT].ravel()
    on_forearm = hits.faces >= len(load_rig().faces)
    assert on_forearm.sum() > 50
    assert (mask[hits.pixels] > 0)[~on_forearm].all()
    hidden = (mask[hits.pixels] > 0)[on_forearm]  # what the forearm hides is seen through the wrist
    assert (mask[hits.pixels][on_forearm][hidden] == PALM).all()
    assert hidden.mean() < 0.2
    assert set(np.flatnonzero(mask)) <= set(hits.pixels)


# The arm's own side is among them: from there the mask is seen through the wrist.
SIX_SIDES = [Rotation.from_euler("XY", angles, degrees=True) for angles in SIDES]


@pytest.mark.parametrize("side", range(len(SIX_SIDES)))
@pytest.mark.parametrize("wrist", [-0.8, 0.0, 0.8])
def test_from_every_side_a_mask_has_no_hole_and_is_that_of_the_hand_without_its_forearm(side, wrist):
    rig, pose = load_rig(), Pose(np.zeros((5, 4)), np.array([wrist, 0.1]))
    arm = Arm.from_pose("rest", pose, Shape(), np.eye(3))
    limb = Limb.from_arm(arm).rotated(SIX_SIDES[side]).moved(np.array([0, 0, 1.2]))
    scene = within_frame(scene_of(None, limb))
    mask = render_masks(scene, 2 * SIZE)["masks"][RIGHT]
    hand = Mesh(limb.vertices, rig.faces)
    camera = scene.camera.crop(*scene.crop, 2 * SIZE)
    hits = hand.first_hits(camera, 2 * SIZE, camera.rays(2 * SIZE))
    np.testing.assert_array_equal(np.flatnonzero(mask), hits.pixels)
    together = amodal_masks([None, hits], [None, hits], [None, rig.part_weights], 2 * SIZE)[0][RIGHT]
    np.testing.assert_array_equal(mask, together)
    palm = mask == PALM
    assert mask[binary_fill_holes(palm)].all()  # no hole with palm all around it
    if "arm" in SIDE_NAMES[side]:
        assert palm.sum() > 0.3 * (mask > 0).sum()


def test_mask_fits_the_projected_vertices_of_the_hand():
    scene = scene_of(open_limb("left"), None)
    y, x = np.nonzero(render_masks(scene, SIZE)["masks"][LEFT])
    pixels = CAMERA.crop(*scene.crop, SIZE).project(scene.limbs[LEFT].vertices[part_of_vertices() > 0])
    np.testing.assert_allclose([x.min(), y.min()], pixels.min(0), atol=1)
    np.testing.assert_allclose([x.max() + 1, y.max() + 1], pixels.max(0), atol=1)


def test_surface_is_closed_to_rays():
    hit = silhouette(scene_of(None, open_limb("right")), RIGHT, size=256)
    np.testing.assert_array_equal(binary_fill_holes(hit), hit)


@pytest.mark.parametrize("seed", SEEDS)
def test_mask_of_a_hand_does_not_depend_on_the_other(seed):
    scene = random_scene(seed)
    both = render_masks(scene, SIZE)["masks"]
    assert both[LEFT].any()
    assert both[RIGHT].any()
    for hand in (LEFT, RIGHT):
        single = render_masks(alone(scene, hand), SIZE)["masks"]
        np.testing.assert_array_equal(single[hand], both[hand])
        assert not single[1 - hand].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_front_names_the_nearer_limb_wherever_there_is_a_part(seed):
    scene = within_frame(random_scene(seed))
    sample = render_masks(scene, SIZE)
    np.testing.assert_array_equal(sample["front"] == FRONT_NONE, ~sample["masks"].any(0))
    depth = [cast(scene, hand).full_depth(SIZE).reshape(SIZE, SIZE) for hand in (LEFT, RIGHT)]
    nearer = np.where(depth[LEFT] < depth[RIGHT], FRONT_LEFT, FRONT_RIGHT)
    some = sample["front"] > 0
    np.testing.assert_array_equal(sample["front"][some], nearer[some])


@pytest.mark.parametrize(("depth", "behind", "in_front"), [(0.5, LEFT, FRONT_RIGHT), (0.7, RIGHT, FRONT_LEFT)])
def test_hand_moved_towards_the_camera_comes_to_the_front(depth, behind, in_front):
    sample = render_masks(scene_of(open_limb("left"), open_limb("right", shift=(0, 0.09, depth))), SIZE)
    overlap = (sample["masks"] > 0).all(0)
    assert overlap.any()
    assert (sample["front"][overlap] == in_front).all()
    assert occluded_share(sample["masks"], sample["front"])[behind] > 0.5
    assert occluded_share(sample["masks"], sample["front"])[1 - behind] == 0


def test_forearm_before_the_other_hand_occludes_it():
    scene = scene_of(open_limb("left"), open_limb("right", shift=(0, -0.12, 0.5)))
    sample = render_masks(scene, SIZE)
    masks, front = sample["masks"], sample["front"]
    arm = silhouette(scene, RIGHT) & (masks[RIGHT] == 0)
    behind = arm & (masks[LEFT] > 0)
    assert behind.any()
    assert (front[behind] == FRONT_RIGHT).all()
    assert (front[arm & ~behind] == FRONT_NONE).all()


def test_depth_is_the_distance_along_the_axis_to_each_limb_as_if_alone():
    scene = scene_of(open_limb("left"), open_limb("right", shift=(0, -0.12, 0.5)))
    depth = render_masks(scene, SIZE)["depth"].reshape(2, -1)
    for hand, limb in enumerate(scene.limbs):
        hits = cast(scene, hand)
        np.testing.assert_allclose(depth[hand, hits.pixels], hits.interpolate(limb.vertices)[:, 2], atol=1e-4)
        assert (depth[hand] > 0).sum() == len(hits.pixels)
    assert not render_masks(scene_of(scene.limbs[LEFT], None), SIZE)["depth"][RIGHT].any()


def test_the_hand_in_front_is_the_one_of_less_depth(two_hand_scenes):
    compared = 0
    for scene in two_hand_scenes[:20]:
        sample = render_masks(scene, SIZE)
        both = sample["depth"].all(0) & (sample["front"] != FRONT_NONE)
        np.testing.assert_array_equal(sample["front"][both], sample["depth"].argmin(0)[both] + 1)
        compared += both.sum()
    assert compared > 500  # px


def test_hands_apart_do_not_occlude_each_other():
    shifts = (0.07, 0.09, 0.7), (-0.07, 0.09, 0.5)
    sample = render_masks(scene_of(open_limb("left", shifts[0]), open_limb("right", shifts[1])), SIZE)
    assert sample["masks"].any((1, 2)).all()
    assert occluded_share(sample["masks"], sample["front"]) == (0.0, 0.0)


# Sampled scenes


@pytest.mark.parametrize(("hand_type", "present"), [("left", LEFT), ("right", RIGHT)])
def test_single_hand_scene_leaves_the_other_mask_empty(hand_type, present):
    scene = random_scene(5, hand_type)
    sample = render(scene, SIZE, np.random.default_rng(0))
    assert scene.hand_type == hand_type
    assert sample["masks"][present].any()
    assert not sample["masks"][1 - present].any()
    assert set(np.unique(sample["front"])) == {FRONT_NONE, present + 1}
    shares = occluded_share(sample["masks"], sample["front"])
    assert shares[present] == 0
    assert np.isnan(shares[1 - present])
    assert (scene.arrangement, scene.penetration, scene.poses[1 - present]) == ("single", 0, "")
    assert scene.poses[present] in {*POSES, FREE}


def test_all_hand_types_are_drawn_and_mostly_two_hands():
    drawn = [random_scene(seed, None).hand_type for seed in range(40)]
    assert set(drawn) == set(labels.HAND_TYPES)
    assert drawn.count("interacting") > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_left_limb_is_a_left_hand_and_right_a_right_one(seed):
    rig, scene = load_rig(), random_scene(seed)
    arm = rig.weights[:, rig.joint("forearm")] == 1
    rest = np.c_[rig.vertices[arm], np.ones(arm.sum())]
    for limb, handedness in zip(scene.limbs, (-1, 1), strict=True):
        affine = np.linalg.lstsq(rest, limb.vertices[arm], rcond=None)[0]
        assert np.linalg.det(affine[:3]) * handedness > 0.3
        skin = rig.skin if handedness > 0 else rig.skin[:, ::-1]
        a, b, c = (limb.vertices - limb.joints[0])[skin].transpose(1, 0, 2)
        assert (a * np.cross(b, c)).sum() > 0  # wound outwards
        np.testing.assert_allclose(limb.normals, vertex_normals(limb.vertices, skin), atol=1e-6)


def test_persons_left_arm_comes_from_the_right_of_most_images(two_hand_scenes):
    elbows = [[scene.camera.project(limb.vertices[-1])[0] for limb in scene.limbs] for scene in two_hand_scenes]
    assert np.mean([left > right for left, right in elbows]) > 0.7  # the others are seen from behind


def test_thumb_side_is_mostly_up(two_hand_scenes):
    rig = load_rig()
    index, pinky = (rig.joint(f"{finger}-finger-phalanx-proximal") for finger in ("index", "pinky"))
    limbs = [limb for scene in two_hand_scenes for limb in scene.limbs]
    assert np.mean([limb.joints[index, 1] < limb.joints[pinky, 1] for limb in limbs]) > 0.6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hand_type", labels.HAND_TYPES)
def test_crop_is_a_square_about_the_box_and_holds_all_hand_joints(seed, hand_type):
    scene = random_scene(seed, hand_type)
    (bx, by, bw, bh), (x, y, side) = scene.bbox, scene.crop
    np.testing.assert_allclose([x + side / 2, y + side / 2], [bx + bw / 2, by + bh / 2])
    assert side == pytest.approx(1.25 * max(bw, bh))
    pixels = scene.camera.crop(*scene.crop, SIZE).project(
        np.concatenate([limb.joints[:-1] for limb in scene.limbs if limb])
    )
    assert pixels.min() > 0
    assert pixels.max() < SIZE


def test_scenes_are_those_of_the_capture(two_hand_scenes):
    assert {scene.frame for scene in two_hand_scenes} == {FRAME, FRAME[::-1]}
    widths = np.array([max(scene.bbox[2:]) for scene in two_hand_scenes])
    assert 60 < widths.min() < widths.max() < 300  # px, of boxes about 1.2 times as wide as the hands
    kinds = {scene.arrangement for scene in two_hand_scenes}
    assert kinds <= set(ARRANGEMENTS)
    assert len(kinds) > 5
    assert {pose for scene in two_hand_scenes for pose in scene.poses} <= {*POSES, FREE}
    distances = [limb.joints[0, 2] for scene in two_hand_scenes for limb in scene.limbs]
    assert 0.7 < min(distances) < max(distances) < 3  # m


def test_many_two_hand_scenes_hide_a_good_part_of_a_hand(two_hand_scenes):
    shares = []
    for scene in two_hand_scenes:
        sample = render_masks(scene, 48)
        shares.append(max(occluded_share(sample["masks"], sample["front"])))
    assert np.mean(np.array(shares) > 0.2) > 0.25  # 0.36 in thousands of scenes
    assert np.mean(np.array(shares) < 0.05) > 0.1


# Images


@pytest.fixture
def plain(monkeypatch):
    """Images as radiance on black, of skin without texture, so that those of one light compare pixel by pixel."""

    def even(fields, subject, rng):
        return Surface(np.full((len(fields), 3), 0.5, np.float32), np.zeros((len(fields), 3), np.float32), 0)

    monkeypatch.setattr("ethand_utils.rendering.render.background", black)
    monkeypatch.setattr("ethand_utils.rendering.render.camera_response", lambda radiance, *_: radiance)
    monkeypatch.setattr("ethand_utils.rendering.render.surface", even)
    monkeypatch.setattr("ethand_utils.rendering.render._clefts", no_clefts)


def black(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros((size, size, 3), np.float32)


def no_clefts(depth: np.ndarray, size: int) -> np.ndarray:
    return np.ones(size * size, np.float32)


def rendered(scene: Scene, size: int = SIZE, seed: int = 0) -> dict[str, np.ndarray]:
    return render(scene, size, np.random.default_rng(seed))


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("sleeve", [np.inf, 0.05], ids=["bare", "sleeved"])
@pytest.mark.parametrize("hand", [LEFT, RIGHT], ids=HANDS)
def test_image_of_a_hand_differs_from_black_exactly_where_its_rays_hit(hand, sleeve, size, monkeypatch):
    monkeypatch.setattr("ethand_utils.rendering.render.background", black)
    monkeypatch.setattr("ethand_utils.rendering.render.camera_response", lambda radiance, *_: radiance)
    for seed in range(4):
        scene = within_frame(random_scene(seed, HANDS[hand]))
        sample = rendered(replace(scene, subject=replace(scene.subject, sleeve=sleeve)), size, seed)
        shown, hits = (sample["image"] > 0).all(-1), cast(scene, hand, size)
        np.testing.assert_array_equal(shown, (sample["image"] > 0).any(-1))
        np.testing.assert_array_equal(np.flatnonzero(shown), hits.pixels)
        of_hand = hits.faces < len(load_rig().faces)
        assert sample["masks"][hand].ravel()[hits.pixels[of_hand]].all()


def test_camera_does_not_shift_the_image_against_the_mask(monkeypatch):
    """The half-intensity contour of a bright hand, after blur, noise and compression, is its silhouette."""
    monkeypatch.setattr("ethand_utils.rendering.render.background", black)
    monkeypatch.setattr("ethand_utils.rendering.render._clefts", no_clefts)
    monkeypatch.setattr(
        "ethand_utils.rendering.render._skin_radiance", lambda skin, *_: np.full((len(skin.albedo), 3), 0.9, np.float32)
    )
    offsets = []
    for seed in range(16):
        scene = within_frame(random_scene(seed, HANDS[seed % 2]))
        image, shape = rendered(scene, 128, seed)["image"].max(-1), silhouette(scene, seed % 2, 128)
        bright = image > 0.73 * np.median(image[shape])  # half of the light, after a gamma of 2.2
        assert (bright != shape).mean() < 0.01
        offsets.append(np.mean(np.nonzero(bright), axis=1) - np.mean(np.nonzero(shape), axis=1))
    assert np.linalg.norm(offsets, axis=1).mean() < 0.1  # px
    assert np.linalg.norm(np.mean(offsets, axis=0)) < 0.05


@pytest.mark.parametrize("size", [33, 64])
def test_what_is_beyond_the_captures_frame_is_black_and_has_no_truth(size):
    scene = within_frame(random_scene(1))
    side, camera = scene.crop[2], scene.camera
    corner = np.array([-0.3, 0.2]) * side  # the crop begins to the left of the frame, and ends beyond it
    frame = int(0.5 * side), int(0.9 * side)
    camera = Camera(camera.focal, tuple(camera.centre + corner))
    cut = replace(scene, camera=camera, crop=(*corner, side), frame=frame)
    x, y = (np.arange(size) + 0.5) * side / size + corner[:, None]
    inside = ((x > 0) & (x < frame[0])) & (y < frame[1])[:, None]
    sample, uncut = rendered(cut, size), render_masks(scene, size)
    assert not sample["image"][~inside].any()
    assert sample["image"][inside].any()
    for name in ("masks", "front", "depth"):
        assert uncut[name][..., ~inside].any()
        assert not sample[name][..., ~inside].any()
        np.testing.assert_allclose(sample[name][..., inside], uncut[name][..., inside], rtol=1e-5)


def both_and_alone(hand: int) -> tuple[dict, dict]:
    """A right hand before a left one in one light, rendered together and `hand` alone."""
    scene = scene_of(open_limb("left"), open_limb("right", shift=(0.03, 0.1, 0.5)))
    return rendered(scene), rendered(alone(scene, hand))


@pytest.mark.parametrize("hand", [LEFT, RIGHT], ids=HANDS)
def test_image_shows_the_limb_in_front(hand, plain, monkeypatch):
    monkeypatch.setattr(Mesh, "blocks", lambda self, origins, directions: np.zeros(len(origins), bool))
    both, single = both_and_alone(hand)
    own, front = both["masks"][hand] > 0, both["front"] == hand + 1
    assert (own & front).any()
    np.testing.assert_allclose(both["image"][own & front], single["image"][own & front], rtol=1e-5)
    hidden = own & ~front
    assert hidden.any() == (hand == LEFT)
    assert (both["image"][hidden] != single["image"][hidden]).any(-1).sum() >= 0.9 * hidden.sum()


def test_hand_in_front_can_only_darken_what_it_leaves_visible(plain):
    both, single = both_and_alone(LEFT)
    visible = (both["masks"][LEFT] > 0) & (both["front"] == FRONT_LEFT)
    assert (both["image"][visible] <= single["image"][visible] + 1e-6).all()
    assert (both["image"][visible] < 0.95 * single["image"][visible]).any()


def test_about_half_of_the_cameras_are_monochrome(two_hand_scenes):
    spread = [np.ptp(rendered(s, 16, seed)["image"].astype(int), axis=-1) for seed, s in enumerate(two_hand_scenes)]
    grey = np.array([not channels.any() for channels in spread])
    assert 0.3 < grey.mean() < 0.7
    assert min(channels.max() for channels, none in zip(spread, grey, strict=True) if not none) > 5


def test_render_is_a_function_of_scene_and_seed():
    scene = random_scene(2)
    first, again, other = (render(scene, SIZE, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for name in ("image", "masks", "front", "depth"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()
    np.testing.assert_array_equal(first["masks"], other["masks"])
    masks_only = render_masks(scene, SIZE)
    np.testing.assert_array_equal(first["masks"], masks_only["masks"])
    np.testing.assert_array_equal(first["front"], masks_only["front"])
    np.testing.assert_array_equal(first["depth"], masks_only["depth"])


def test_scene_is_a_function_of_the_seed():
    first, again, other = (render_masks(random_scene(seed), SIZE)["masks"] for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("seed", SEEDS)
def test_rendered_arrays_have_the_stores_shapes_and_values(size, seed):
    sample = rendered(random_scene(seed, None), size)
    shapes = {name: (array.shape, array.dtype) for name, array in sample.items()}
    byte = np.dtype("uint8")
    expected = {"image": ((size, size, 3), byte), "masks": ((2, size, size), byte), "front": ((size, size), byte)}
    expected |= {"depth": ((2, size, size), np.dtype("float32")), "covered": ((2, size, size), np.dtype("bool"))}
    assert shapes == expected
    assert sample["masks"].max() < N_CLASSES
    assert set(np.unique(sample["front"])) <= {FRONT_NONE, FRONT_LEFT, FRONT_RIGHT}
    depth = sample["depth"][sample["depth"] != 0]
    assert 0.6 < depth.min() < depth.max() < 3.5  # m
    assert (sample["depth"][sample["masks"] > 0] > 0).all()
    assert sample["image"].std() > 1


def test_higher_resolution_shows_the_same_masks():
    scene = random_scene(3)
    coarse, fine = render_masks(scene, 32)["masks"] > 0, render_masks(scene, 96)["masks"] > 0
    assert (coarse == fine[:, 1::3, 1::3]).all()  # the middle of 3×3 rays is the coarse ray


# ---- single hands, and boxes that are off


def test_the_share_of_single_hands_is_asked_for():
    for share, expected in ((0.0, {"interacting"}), (1.0, {"left", "right"})):
        options = RenderOptions(single_share=share)
        scenes = [
            sample_scene(rng, sample_subject(rng), options=options) for rng in map(np.random.default_rng, range(12))
        ]
        assert {scene.hand_type for scene in scenes} == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_jittered_box_is_resized_and_moved_within_its_bounds(seed):
    plain, jittered = (
        sample_scene(rng, sample_subject(rng), options=RenderOptions(box_jitter=jitter))
        for jitter in (0.0, 0.25)
        for rng in [np.random.default_rng(seed)]
    )
    np.testing.assert_array_equal(plain.limbs[RIGHT] is None, jittered.limbs[RIGHT] is None)
    (x, y, w, h), (jx, jy, jw, jh) = plain.bbox, jittered.bbox
    assert 1 / 1.25 <= jw / w <= 1.25
    assert jw / w == pytest.approx(jh / h)
    assert max(abs(jx + jw / 2 - x - w / 2), abs(jy + jh / 2 - y - h / 2)) <= max(w, h) * 0.125 + 1e-9
    assert jittered.bbox != plain.bbox
    assert jittered.crop == pytest.approx(crop_square(jittered.bbox))
