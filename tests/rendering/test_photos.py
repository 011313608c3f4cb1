"""Photographs behind the hands, and hands in any rotation."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ethand_utils.rendering.options import RenderOptions
from ethand_utils.rendering.photos import PHOTOS, load_photo, photo_background, photo_path
from ethand_utils.rendering.render import render
from ethand_utils.rendering.scenes import Scene, sample_scene
from ethand_utils.rendering.subjects import sample_subject

SIZE = 48  # px
SEEDS = range(6)


def sampled(seed: int, **shares: float) -> Scene:
    rng = np.random.default_rng(seed)
    return sample_scene(rng, sample_subject(rng), options=RenderOptions(**shares))


@pytest.mark.parametrize(("package", "name"), PHOTOS)
def test_every_photograph_is_there_and_is_rgb(package, name):
    assert photo_path(package, name).is_file()
    photo = load_photo(package, name)
    assert (photo.dtype, photo.shape[2]) == (np.dtype("uint8"), 3)
    assert min(photo.shape[:2]) > 150
    assert photo.std() > 10


def test_photographs_are_of_both_packages_and_some_have_colour():
    assert {package for package, _ in PHOTOS} == {"skimage", "sklearn"}
    spread = [np.ptp(load_photo(*photo).astype(int), axis=-1).mean() for photo in PHOTOS]
    assert min(spread) == 0
    assert sum(colour > 5 for colour in spread) >= 5


def test_photographs_are_read_without_their_packages():
    code = "import sys, numpy; from ethand_utils.rendering.photos import photo_background as f;"
    code += "f(16, numpy.random.default_rng(0)); sys.exit(any(name in sys.modules for name in ('skimage', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("size", [16, 128, 600])
def test_a_background_is_radiance_of_any_size(size):
    for seed in SEEDS:
        image = photo_background(size, np.random.default_rng(seed))
        assert (image.shape, image.dtype) == ((size, size, 3), np.float32)
        assert 0 <= image.min() < image.max() < 5
        np.testing.assert_array_equal(image, photo_background(size, np.random.default_rng(seed)))


def test_backgrounds_differ():
    images = [photo_background(16, np.random.default_rng(seed)) for seed in range(20)]
    assert len({image.tobytes() for image in images}) == 20
    means = [image.mean() for image in images]
    assert max(means) > 3 * min(means)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_photograph_changes_no_truth_but_what_is_behind_the_hands(seed):
    scene, dome = sampled(seed, photo_share=1), sampled(seed)
    assert (scene.photo, dome.photo) == (True, False)
    photo, plain = (render(each, SIZE, np.random.default_rng(0)) for each in (scene, dome))
    for name in ("masks", "front", "depth"):
        np.testing.assert_array_equal(photo[name], plain[name])
    behind = ~plain["depth"].any(0)
    assert (photo["image"] != plain["image"])[behind].any(-1).mean() > 0.5


def test_hands_before_photographs_are_about_as_bright_as_before_the_dome():
    means = {share: [] for share in (0, 1)}
    for seed in range(24):
        for share, values in means.items():
            sample = render(sampled(seed, photo_share=share), SIZE, np.random.default_rng(seed))
            values.append(np.median(sample["image"][sample["masks"].any(0)]))
    assert 0.7 < np.mean(means[1]) / np.mean(means[0]) < 1.4


def test_photographs_are_mostly_in_colour():
    samples = [render(sampled(seed, photo_share=1), 16, np.random.default_rng(seed))["image"] for seed in range(40)]
    grey = [not np.ptp(image.astype(int), axis=-1).any() for image in samples]
    assert 0 < np.mean(grey) < 0.3


# Rotation


def test_rotation_is_any_where_it_is_asked_for_and_none_elsewhere():
    rolls = np.array([sampled(seed, rotation_share=1).roll for seed in range(60)])
    assert abs(np.exp(1j * rolls).mean()) < 0.3
    assert np.histogram(rolls, 4, (-np.pi, np.pi))[0].min() > 5
    assert {sampled(seed).roll for seed in SEEDS} == {0}
    some = np.array([sampled(seed, rotation_share=0.5).roll for seed in range(60)])
    assert 0.3 < (some != 0).mean() < 0.7
    np.testing.assert_array_equal(some[some != 0], rolls[some != 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_hands_are_those_of_the_scene_without_rotation(seed):
    upright, rolled = sampled(seed), sampled(seed, rotation_share=1)
    back = Rotation.from_euler("Z", -rolled.roll)
    for limb, other in zip(upright.limbs, rolled.limbs, strict=True):
        assert (limb is None) == (other is None)
        if limb:
            np.testing.assert_allclose(
                back.apply(other.joints - other.joints[0]), limb.joints - limb.joints[0], atol=1e-9
            )
    assert (upright.arrangement, upright.poses, upright.frame) == (rolled.arrangement, rolled.poses, rolled.frame)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rotated_crop_is_a_square_that_holds_all_hand_joints(seed):
    scene = sampled(seed, rotation_share=1)
    joints = np.concatenate([limb.joints[:-1] for limb in scene.limbs if limb])
    pixels = scene.camera.crop(*scene.crop, SIZE).project(joints)
    assert pixels.min() > 0
    assert pixels.max() < SIZE
