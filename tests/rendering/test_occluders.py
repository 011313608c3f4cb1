"""Occluders: the truth is that of the hands without them, the image shows them and their shadows."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ethand_utils.hands.raycast import Mesh
from ethand_utils.labels import HANDS, LEFT, RIGHT
from ethand_utils.rendering.occluders import KINDS, PATTERNS, Material, covered_share, occluder_surface
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.rendering.render import render, render_masks
from ethand_utils.rendering.scenes import Scene, sample_scene
from ethand_utils.rendering.skin import Surface
from ethand_utils.rendering.subjects import sample_subject
from ethand_utils.sources.rendered import RenderedSample

SIZE = 48  # px
SEEDS = range(8)
ALWAYS = RenderOptions(occluder_share=1)


def sampled(seed: int, options: RenderOptions = ALWAYS, hand_type: str | None = None) -> Scene:
    rng = np.random.default_rng(seed)
    return sample_scene(rng, sample_subject(rng), hand_type, options)


def rendered(scene: Scene, size: int = SIZE) -> dict[str, np.ndarray]:
    return render(scene, size, np.random.default_rng(0))


def even(points: np.ndarray, albedo: float) -> Surface:
    """A surface of the same looks at each of m points."""
    colour = np.full((len(points), 3), albedo, np.float32)
    return Surface(colour, np.zeros_like(colour), np.zeros(len(points), np.float32))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of 48 people with an occluder. Read only."""
    return [sampled(seed) for seed in range(48)]


@pytest.fixture
def radiance(monkeypatch):
    """Images as radiance on black, of skin without texture or shine, without the darkness of clefts."""
    monkeypatch.setattr("ethand_utils.rendering.render.surface", lambda fields, subject, rng: even(fields, 0.5))
    monkeypatch.setattr(
        "ethand_utils.rendering.render.background", lambda scene, size, rng: np.zeros((size, size, 3), np.float32)
    )
    monkeypatch.setattr("ethand_utils.rendering.render.camera_response", lambda radiance, *_: radiance)
    monkeypatch.setattr("ethand_utils.rendering.render._clefts", lambda depth, size: np.ones(size * size, np.float32))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_occluder_changes_no_truth_but_the_image(seed):
    scene = sampled(seed)
    bare, both = rendered(replace(scene, occluder=None)), rendered(scene)
    for name in ("masks", "front", "depth"):
        np.testing.assert_array_equal(both[name], bare[name])
    assert (both["image"] != bare["image"]).any()
    assert both["covered"].any()
    assert not bare["covered"].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_scene_has_the_same_hands_and_light_with_and_without_an_occluder(seed):
    scene, bare = sampled(seed), sampled(seed, RenderOptions())
    np.testing.assert_array_equal(rendered(replace(scene, occluder=None))["image"], rendered(bare)["image"])
    assert (scene.crop, scene.poses, scene.arrangement) == (bare.crop, bare.poses, bare.arrangement)
    assert bare.occluder is None


@pytest.mark.parametrize("seed", SEEDS)
def test_an_occluder_is_seen_where_it_is_nearest_and_can_only_darken_the_rest(seed, radiance, monkeypatch):
    monkeypatch.setattr("ethand_utils.rendering.render.occluder_surface", lambda own, material: even(own, 99))
    scene = sampled(seed)
    bare, both = rendered(replace(scene, occluder=None)), rendered(scene)
    seen = (both["image"] > bare["image"] + 1e-5).any(-1)
    assert seen.any()
    assert (both["image"][~seen] <= bare["image"][~seen] + 1e-5).all()
    for hand in (LEFT, RIGHT):
        front = (bare["front"] == hand + 1) & (bare["masks"][hand] > 0)
        np.testing.assert_array_equal(seen[front], both["covered"][hand, front])


@pytest.mark.parametrize("seed", SEEDS)
def test_covered_pixels_are_those_of_a_mask_behind_the_occluder(seed):
    scene = sampled(seed)
    sample, camera = render_masks(scene, SIZE), scene.camera.crop(*scene.crop, SIZE)
    rays = camera.rays(SIZE)
    mesh = Mesh(scene.occluder.vertices, scene.occluder.faces)
    depth = mesh.first_hits(camera, SIZE, rays).full_depth(SIZE) * rays[:, 2]
    behind = (depth.reshape(SIZE, SIZE) < sample["depth"]) & (sample["masks"] > 0)
    np.testing.assert_array_equal(sample["covered"], behind)
    np.testing.assert_array_equal(rendered(scene)["covered"], behind)


def test_covered_share_is_of_the_masks_pixels():
    masks, covered = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), bool)
    masks[RIGHT, :2], covered[RIGHT, 0] = 3, True
    left, right = covered_share(masks, covered)
    assert np.isnan(left)
    assert right == 0.5


def test_a_good_part_of_a_hand_is_covered_and_never_all(scenes):
    shares = []
    for scene in scenes:
        sample = render_masks(scene, SIZE)
        shares.append(np.nanmax(covered_share(sample["masks"], sample["covered"])))
    assert 0 < min(shares) < max(shares) < 0.9
    assert 0.15 < np.median(shares) < 0.5


def test_every_kind_is_sampled_about_as_often_as_it_should(scenes):
    drawn = Counter(scene.occluder.kind for scene in scenes)
    assert set(drawn) == set(KINDS)
    assert sum(share for _, share, _ in KINDS.values()) == pytest.approx(1)
    assert all(abs(drawn[kind] / len(scenes) - share) < 0.25 for kind, (_, share, _) in KINDS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_closed_wound_outwards_and_has_its_size(kind):
    rng = np.random.default_rng(0)
    for _ in range(5):
        thing = KINDS[kind][0](rng, np.full(3, 0.3)).placed(np.eye(3), np.array([0, 0, 1.0]))
        a, b, c = thing.own[thing.faces].transpose(1, 0, 2)
        across = np.cross(b - a, c - a)
        np.testing.assert_allclose(across.sum(0), 0, atol=1e-9)  # of a closed surface
        assert (a * across).sum() > 0
        assert ((thing.normals[thing.faces] * across[:, None]).sum(-1) >= 0).all()
        np.testing.assert_allclose(np.ptp(thing.own, axis=0), thing.size, rtol=0.45)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_a_mixture_of_both_colours(pattern):
    own = np.random.default_rng(0).uniform(-0.05, 0.05, (200, 3))
    colours = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])
    looks = occluder_surface(own, Material(colours, pattern, 0.01, 0.02, 0.5, np.zeros(3)))
    assert looks.albedo.dtype == np.float32
    assert ((looks.albedo > 0.7 * colours[0].min()) & (looks.albedo < 1.3 * colours[1].max())).all()
    assert (looks.albedo.std(0) > 0.05).any() == (pattern != "plain")


def test_what_lies_before_the_hands_is_nearer_than_both(scenes):
    arms = [scene for scene in scenes if scene.occluder.kind == "arm"]  # no hand holds one
    assert arms
    for scene in arms:
        hands = [limb.joints[:-1, 2].min() for limb in scene.limbs if limb]
        assert scene.occluder.vertices[:, 2].max() < min(hands)


def test_a_larger_share_keeps_the_occluders_of_a_smaller_one():
    some = [sampled(seed, RenderOptions(occluder_share=0.4)) for seed in range(30)]
    assert 4 < sum(scene.occluder is not None for scene in some) < 20
    for seed, scene in enumerate(some):
        if scene.occluder:
            np.testing.assert_array_equal(scene.occluder.vertices, sampled(seed).occluder.vertices)


def test_the_index_names_the_occluder_and_says_how_much_it_covers():
    rows = [
        RenderedSample("train", 4, SIZE, 0, False, options)(i)["row"]
        for options in (ALWAYS, RenderOptions())
        for i in range(12)
    ]
    assert {row["occluder"] for row in rows[:12]} <= set(KINDS)
    assert {row["occluder"] for row in rows[12:]} == {""}
    for row in rows:
        for hand in HANDS:
            present = row["hand_type"] in (hand, "interacting")
            assert np.isfinite(row[f"covered_{hand}"]) == present
    assert all(np.nanmax([row["covered_left"], row["covered_right"]]) == 0 for row in rows[12:])
    assert all(np.nanmax([row["covered_left"], row["covered_right"]]) > 0 for row in rows[:12])


def test_an_object_beside_the_image_covers_nothing(scenes):
    occluder = scenes[0].occluder
    aside = replace(occluder, vertices=occluder.vertices + np.array([5.0, 0, 0]))
    assert not render_masks(replace(scenes[0], occluder=aside), SIZE)["covered"].any()
