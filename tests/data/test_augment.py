"""Augmentation: what the net sees stays true to the store."""

import pytest
import torch

from ethand_utils.data.augment import (
    PHOTOMETRIC,
    Augmentation,
    Photometric,
    affine_grid,
    augment_batch,
    blur,
    damage,
    denormalise,
    flip,
    half_size_images,
    half_size_masks,
    normalise,
    photometric,
    sample_light,
)
from ethand_utils.labels import LEFT, RIGHT

STRONG = Augmentation(scale=0.3, rotation=45, rotation_p=1, intensity=0.3, flip_p=0.5)
NONE = Augmentation(scale=0, rotation=0, rotation_p=0, intensity=0, flip_p=0)
OTHER_LIGHT = Augmentation(photometric=PHOTOMETRIC["strong"])
SAME_LIGHT = Photometric(exposure=0, cast=0, gamma=0, contrast=0, grey_p=0, blur=0, noise=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(n=4, size=32):
    """Random images and blocky random masks."""
    images = torch.randint(256, (n, size, size, 3), generator=generator(1), dtype=torch.uint8)
    blocks = torch.randint(17, (n, 2, size // 8, size // 8), generator=generator(2), dtype=torch.uint8)
    return images, blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)


def resample(images, degrees, scale):
    grid = affine_grid(torch.deg2rad(torch.tensor([degrees])), torch.tensor([scale]), images.shape[-1])
    return torch.nn.functional.grid_sample(images, grid, mode="nearest", align_corners=False)


def test_flip_twice_is_identity():
    images, masks = batch_of()
    which = torch.tensor([True, False, True, True])
    once = flip(images.permute(0, 3, 1, 2), masks, which)
    again = flip(*once, which)
    assert not torch.equal(once[1], masks)
    assert torch.equal(again[0], images.permute(0, 3, 1, 2))
    assert torch.equal(again[1], masks)


def test_flip_mirrors_and_exchanges_hands_of_the_chosen_samples_only():
    images, masks = torch.zeros(2, 3, 4, 6), torch.zeros(2, 2, 4, 6, dtype=torch.long)
    images[:, :, 1, 0], masks[:, LEFT, 1, 0] = 1, 9
    images, masks = flip(images, masks, torch.tensor([True, False]))
    assert images[0, :, 1].nonzero()[:, 1].tolist() == [5, 5, 5]
    assert masks[0].nonzero().tolist() == [[RIGHT, 1, 5]]
    assert masks[1].nonzero().tolist() == [[LEFT, 1, 0]]
    assert images[1, :, 1].nonzero()[:, 1].tolist() == [0, 0, 0]


def test_half_size_masks_have_the_most_frequent_class_of_each_block_the_higher_of_two():
    masks = torch.randint(4, (50, 2, 8, 6), generator=generator())
    for block, value in zip(
        masks.unfold(2, 2, 2).unfold(3, 2, 2).reshape(-1, 4).tolist(),
        half_size_masks(masks).flatten().tolist(),
        strict=True,
    ):
        counts = {k: block.count(k) for k in block}
        assert counts[value] == max(counts.values())
        if max(counts.values()) > 1:
            assert value == max(k for k in block if counts[k] == counts[value])
        else:
            assert value > 0


def half_size(images, masks):
    return half_size_images(images), half_size_masks(masks)


def test_half_size_undoes_an_enlargement_and_commutes_with_a_flip():
    images, masks = torch.rand(4, 3, 16, 16, generator=generator()), torch.randint(17, (4, 2, 16, 16))
    enlarged = (tensor.repeat_interleave(2, 2).repeat_interleave(2, 3) for tensor in (images, masks))
    for found, expected in zip(half_size(*enlarged), (images, masks), strict=True):
        torch.testing.assert_close(found, expected)
    which = torch.tensor([True, False, True, False])
    for found, expected in zip(
        half_size(*flip(images, masks, which)), flip(*half_size(images, masks), which), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("flip_p", [0, 1])
def test_masks_follow_the_image_under_strong_augmentation(flip_p):
    # The hands' silhouettes are the photo's red and green; wherever a colour is pure its mask must agree.
    masks = torch.zeros(16, 2, 32, 32, dtype=torch.uint8)
    masks[:, LEFT, 4:20, 6:14], masks[:, RIGHT, 10:28, 16:30] = 9, 4
    images = 250 * torch.stack([masks[:, LEFT] > 0, masks[:, RIGHT] > 0, masks[:, LEFT] > 99], 3).to(torch.uint8)
    settings = Augmentation(scale=0.3, rotation=45, rotation_p=1, intensity=0, flip_p=flip_p)
    seen, followed = augment_batch(images, masks, settings, generator())
    red, green = denormalise(seen).permute(3, 0, 1, 2)[:2]
    for colour, hand in ((red, RIGHT if flip_p else LEFT), (green, LEFT if flip_p else RIGHT)):
        pure = (colour < 5) | (colour > 245)
        assert torch.equal((colour > 245)[pure], (followed[:, hand] > 0)[pure])
        assert pure.float().mean() > 0.8
    assert not torch.equal(followed > 0, masks > 0)


def test_masks_keep_whole_labels_under_augmentation():
    images, masks = batch_of()
    _, labels = augment_batch(images, masks, STRONG, generator())
    assert labels.dtype == torch.int64
    assert set(labels.unique().tolist()) <= set(masks.unique().tolist()) | {0}


def test_augmentation_is_a_function_of_the_generator():
    images, masks = batch_of()
    first, second, other = (augment_batch(images, masks, STRONG, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_augmentation_does_not_mind_how_arrays_lie_in_memory():
    images, masks = batch_of()
    whole = augment_batch(images, masks, STRONG, generator())
    scattered = (torch.stack([array, array], -1)[..., 0] for array in (images, masks))
    for one, other in zip(whole, augment_batch(*scattered, STRONG, generator()), strict=True):
        assert torch.equal(one, other)


def test_augmentation_ignores_the_global_seed():
    images, masks = batch_of()
    torch.manual_seed(0)
    first = augment_batch(images, masks, STRONG, generator())
    torch.manual_seed(1)
    assert torch.equal(first[0], augment_batch(images, masks, STRONG, generator())[0])


def test_augmentation_of_no_strength_only_normalises():
    images, masks = batch_of()
    seen, labels = augment_batch(images, masks, NONE, generator())
    assert torch.allclose(seen, normalise(images), atol=1e-4)
    assert torch.equal(labels, masks.long())


def test_every_channel_changes_by_one_percent_at_most_and_for_itself():
    images, masks = torch.full((32, 8, 8, 3), 200, dtype=torch.uint8), torch.zeros(32, 2, 8, 8, dtype=torch.uint8)
    settings = Augmentation(scale=0, rotation=0, flip_p=0)
    seen = denormalise(augment_batch(images, masks, settings, generator())[0]).int()
    assert (seen - 200).abs().max() <= 2
    assert seen.min() < 200 < seen.max()
    assert not torch.equal(seen[..., 0], seen[..., 1])


def test_brightened_pixels_stay_within_0_and_255():
    images, masks = torch.full((8, 8, 8, 3), 255, dtype=torch.uint8), torch.zeros(8, 2, 8, 8, dtype=torch.uint8)
    seen, _ = augment_batch(images, masks, Augmentation(scale=0, rotation=0, intensity=0.5), generator())
    assert seen.max() <= normalise(images).max() + 1e-5


def test_beyond_the_border_is_black_and_background():
    images, masks = (
        torch.full((16, 32, 32, 3), 250, dtype=torch.uint8),
        torch.full((16, 2, 32, 32), 9, dtype=torch.uint8),
    )
    settings = Augmentation(scale=0.3, rotation=45, rotation_p=1, intensity=0, flip_p=0)
    seen, labels = augment_batch(images, masks, settings, generator())
    seen, outside = denormalise(seen), (labels == 0).all(1)
    assert outside.float().mean() > 0.02
    assert seen[outside].max() <= 126  # a bilinear pixel on the border is less than half inside
    assert (seen[outside] == 0).float().mean() > 0.5
    assert (labels[:, :, 16, 16] == 9).all()


def test_affine_grid_of_nothing_is_the_identity():
    images, _ = batch_of(1)
    images = images.permute(0, 3, 1, 2).float()
    assert torch.equal(resample(images, 0.0, 1.0), images)


def test_affine_grid_turns_a_quarter_exactly():
    images = batch_of(1)[0].permute(0, 3, 1, 2).float()
    turned = resample(images, 90.0, 1.0)
    assert any(torch.equal(turned, torch.rot90(images, k, (2, 3))) for k in (1, 3))


def test_affine_grid_enlarges_about_the_centre():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 12:20, 12:20] = 1
    larger = resample(image, 0.0, 2.0)
    assert larger.sum() == 16 * 16
    assert larger[..., 8:24, 8:24].all()


@pytest.mark.parametrize("settings", [Augmentation(photometric=PHOTOMETRIC["report"]), STRONG])
@pytest.mark.parametrize("size", [32, 88])
def test_augmentation_is_literally_a_transform_then_a_gain_then_a_flip(settings, size):
    images, masks = batch_of(6, size)
    seen, labels = augment_batch(images, masks, settings, generator(5))
    draw = generator(5)
    scale = 1 + settings.scale * torch.randn(6, generator=draw).clamp(-1, 1)
    degrees = settings.rotation * torch.randn(6, generator=draw).clamp(-2, 2)
    turned = torch.rand(6, generator=draw) < settings.rotation_p
    gain = 1 + settings.intensity * (2 * torch.rand(6, 3, 1, 1, generator=draw) - 1)
    grid = affine_grid(torch.deg2rad(degrees * turned), scale, size)
    pixels = torch.nn.functional.grid_sample(images.permute(0, 3, 1, 2).float(), grid, align_corners=False)
    moved = torch.nn.functional.grid_sample(masks.float(), grid, mode="nearest", align_corners=False).long()
    pixels, moved = flip((pixels * gain).clamp(0, 255), moved, torch.rand(6, generator=draw) < settings.flip_p)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(seen, (pixels / 255 - mean) / std, atol=2e-3)
    assert (labels != moved).float().mean() < 1e-4  # a rounding may fall to the other side
    assert Augmentation() == Augmentation(photometric=PHOTOMETRIC["report"])


def test_other_light_leaves_masks_and_geometry_as_they_are():
    images, masks = batch_of(16)
    plain, labels = augment_batch(images, masks, Augmentation(), generator())
    seen, same = augment_batch(images, masks, OTHER_LIGHT, generator())
    assert torch.equal(labels, same)
    assert not torch.allclose(plain, seen, atol=0.1)
    unlit, _ = augment_batch(images, masks, Augmentation(photometric=SAME_LIGHT), generator())
    assert torch.allclose(plain, unlit, atol=1e-4)


def test_other_light_is_a_function_of_the_generator_and_of_nothing_else():
    images, masks = batch_of()
    torch.manual_seed(0)
    first = augment_batch(images, masks, OTHER_LIGHT, generator(3))[0]
    torch.manual_seed(1)
    assert torch.equal(first, augment_batch(images, masks, OTHER_LIGHT, generator(3))[0])
    assert not torch.equal(first, augment_batch(images, masks, OTHER_LIGHT, generator(4))[0])


def photos(n=64, size=16):
    """RGB float [n, 3, size, size] in 0…255, with pure black and white in it."""
    images = 255 * torch.rand(n, 3, size, size, generator=generator(6))
    images[:, :, 0], images[:, :, 1] = 0, 255
    return images


def lit(images, seed=0, **strengths):
    """Images under the given changes alone."""
    draws = sample_light(len(images), generator(seed))
    return photometric(images, Photometric(**{**vars(SAME_LIGHT), **strengths}), draws["light"], draws["noise"])


EXTREME = dict(exposure=3, cast=2, gamma=3, contrast=0.9, grey_p=0.5, blur=9, noise=200)


@pytest.mark.parametrize("strengths", [EXTREME, *({name: value} for name, value in EXTREME.items())])
def test_intensities_stay_within_0_and_255_and_every_strength_does_something(strengths):
    seen = lit(photos(), **strengths)
    assert seen.isfinite().all()
    assert 0 <= seen.min() < seen.max() <= 255
    assert not torch.allclose(seen, photos(), atol=1)


@pytest.mark.parametrize("strengths", [dict(exposure=3, gamma=3, contrast=0.9, blur=9), dict(grey_p=1, noise=200)])
def test_grey_images_stay_grey_without_a_colour_cast(strengths):
    seen = lit(photos()[:, :1].repeat(1, 3, 1, 1), **strengths)
    assert (seen - seen[:, :1]).abs().max() < 1e-3
    coloured = lit(photos()[:, :1].repeat(1, 3, 1, 1), cast=1)
    assert (coloured - coloured[:, :1]).abs().max() > 10


def test_exposure_and_cast_are_stops():
    images = torch.full((256, 3, 4, 4), 40.0)
    gain = lit(images, exposure=1)[:, 0, 0, 0] / 40
    assert 0.5 <= gain.min() < 0.52
    assert 1.95 < gain.max() <= 2
    channels = lit(images, cast=1)[:, :, 0, 0] / 40
    assert 0.5 <= channels.min() < channels.max() <= 2
    assert (channels[:, 0] != channels[:, 1]).all()


def test_gamma_keeps_black_white_and_the_order_of_intensities():
    images = torch.linspace(0, 255, 16).expand(8, 3, 16, 16)
    seen = lit(images, gamma=1)
    assert torch.allclose(seen[..., [0, -1]], images[..., [0, -1]], atol=1e-3)
    assert (seen.diff() > 0).all()
    assert len({round(float(value), 3) for value in seen[:, 0, 0, 8]}) == 8


def test_contrast_keeps_the_mean():
    images = photos() / 4 + 96
    seen = lit(images, contrast=0.3)
    assert torch.allclose(seen.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-2)
    ratio = seen.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.7 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.3


def test_colour_goes_from_the_given_share_of_samples():
    seen = lit(photos(1000, 4), grey_p=0.3)
    grey = (seen - seen[:, :1]).abs().amax((1, 2, 3)) < 1e-3
    assert 0.25 < grey.float().mean() < 0.35
    assert torch.allclose(seen[~grey], photos(1000, 4)[~grey], atol=1e-3)


def test_noise_is_of_random_level_up_to_its_deviation():
    deviation = (lit(torch.full((200, 3, 16, 16), 128.0), noise=10) - 128).std((1, 2, 3))
    assert deviation.min() < 1
    assert 9 < deviation.max() < 11


def test_blur_spreads_by_its_sigma_and_keeps_what_is_even():
    point = torch.zeros(3, 1, 33, 33)
    point[..., 16, 16] = 1
    sigma = torch.tensor([0.0, 1.0, 1.2])
    seen = blur(point, sigma)
    assert torch.allclose(seen[0], point[0], atol=1e-6)
    assert torch.allclose(seen.sum((1, 2, 3)), torch.ones(3), atol=1e-5)
    along = seen.sum((1, 2)) @ (torch.arange(33.0) - 16) ** 2
    assert torch.allclose(along.sqrt()[1:], sigma[1:], rtol=0.05)  # the ends of the Gaussian are cut off
    assert torch.allclose(blur(torch.full((3, 3, 8, 8), 7.0), sigma), torch.full((3, 3, 8, 8), 7.0), atol=1e-5)


def test_blur_is_in_proportion_to_the_size():
    edges = [torch.zeros(32, 3, size, size) for size in (64, 128)]
    for edge in edges:
        edge[..., edge.shape[-1] // 2 :] = 255
    small, large = (lit(edge, blur=4)[:, 0, 10] for edge in edges)
    assert (torch.nn.functional.avg_pool1d(large, 2) - small).abs().mean() < 1
    assert (small - edges[0][0, 0, 10]).abs().mean() > 2


def test_denormalise_is_the_inverse_of_normalise():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    assert normalise(images).shape == (1, 3, 16, 16)
    assert torch.equal(denormalise(normalise(images)), images)


def test_normalised_imagenet_grey_is_zero():
    assert normalise(torch.full((1, 2, 2, 3), 124, dtype=torch.uint8))[:, 0].abs().max() < 0.01


def test_damage_cuts_one_square_out_of_each_present_hand():
    masks = torch.zeros(3, 2, 32, 32, dtype=torch.long)
    masks[:, LEFT, 4:28, 4:28] = 9
    masks[0, RIGHT, 10:12, 10:12] = 3
    before = masks.clone()
    damaged = damage(masks, 6, generator())
    removed = (masks != damaged).sum((2, 3))
    assert torch.equal(masks, before)
    assert ((damaged == masks) | (damaged == 0)).all()
    assert ((removed[:, LEFT] >= 9) & (removed[:, LEFT] <= 36)).all()
    assert removed[0, RIGHT] > 0
    assert removed[1:, RIGHT].sum() == 0
