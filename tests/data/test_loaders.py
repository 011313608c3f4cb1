"""Loaders: what they show, in which order, and to which process."""

import hashlib
import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from ethand_utils.data.augment import PHOTOMETRIC, Augmentation, augment_batch, denormalise, normalise
from ethand_utils.data.dataloaders import LoaderError, StoreLoader, make_dls
from ethand_utils.data.store import StoreError
from ethand_utils.labels import FRONT_LEFT, FRONT_RIGHT

STRONG = Augmentation(scale=0.3, rotation=45, rotation_p=1, intensity=0.3, flip_p=0.5)
NONE = Augmentation(scale=0, rotation=0, rotation_p=0, intensity=0, flip_p=0)
OTHER_LIGHT = Augmentation(photometric=PHOTOMETRIC["strong"])


@pytest.fixture
def numbered(make_store):
    """A store of 10 samples: image i has grey i, its masks part i."""
    numbers = np.arange(10, dtype=np.uint8)
    images, masks = (np.broadcast_to(numbers[:, None, None, None], (10, *s)) for s in ((16, 16, 3), (2, 16, 16)))
    return make_store("numbered", images=images, masks=masks)


def numbers_seen(loader):
    """Sample numbers of one pass, read off the images; the masks are checked against them."""
    batches = []
    for images, masks, *_ in loader:
        batches.append(denormalise(images)[:, 8, 8, 0].tolist())
        assert masks[:, 0, 8, 8].tolist() == batches[-1]
    return batches


def test_order_is_a_function_of_seed_and_epoch(numbered):
    loader, again, other = (StoreLoader(numbered, 4, NONE, seed) for seed in (5, 5, 6))
    first, second = numbers_seen(loader), numbers_seen(loader)
    again.epoch = 0
    assert numbers_seen(again) == second
    assert first != second
    assert numbers_seen(other) != first


def test_a_training_pass_shows_every_sample_once_but_drops_the_rest(numbered):
    batches = numbers_seen(StoreLoader(numbered, 5, NONE))
    assert sorted(itertools.chain(*batches)) == list(range(10))
    batches = numbers_seen(StoreLoader(numbered, 4, NONE))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(itertools.chain(*batches))) == 8
    assert len(StoreLoader(numbered, 4, NONE)) == 2


def test_validation_comes_whole_in_order_and_unaugmented(numbered):
    loader = StoreLoader(numbered, 4)
    assert numbers_seen(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] == numbers_seen(loader)
    images, masks = next(iter(loader))
    assert torch.equal(images, normalise(torch.from_numpy(np.array(numbered.images[:4]))))
    assert masks.dtype == torch.int64


def test_a_batch_larger_than_the_store_holds_it_all(numbered):
    assert [len(batch) for batch in numbers_seen(StoreLoader(numbered, 64, NONE))] == [10]


@pytest.mark.parametrize("settings", [STRONG, OTHER_LIGHT], ids=["geometry", "light"])
def test_augmentation_is_a_function_of_seed_and_epoch(dataset, settings):
    loader, again, other = (StoreLoader(dataset["train"], 4, settings, seed) for seed in (0, 0, 1))
    first, second = list(loader), list(loader)
    for batch, same in zip(first, again, strict=True):
        assert torch.equal(batch[0], same[0])
        assert torch.equal(batch[1], same[1])
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], next(iter(other))[0])


def test_one_sample_looks_different_in_every_epoch(make_store, dataset):
    train = dataset["train"]
    loader = StoreLoader(make_store("one", images=train.images[:1], masks=train.masks[:1]), 1, STRONG)
    views = [next(iter(loader))[0] for _ in range(3)]
    assert not any(torch.equal(a, b) for a, b in ((views[0], views[1]), (views[1], views[2])))


def test_pseudo_labels_and_confidence_belong_to_their_images(make_store):
    numbers = np.arange(10, dtype=np.uint8)
    images, masks = (np.broadcast_to(numbers[:, None, None, None], (10, *s)) for s in ((16, 16, 3), (2, 16, 16)))
    unpaired = make_store("unpaired", images=images)
    pseudo = make_store("pseudo", masks=masks, confidence=numbers.astype(np.float32) / 10)
    loader = StoreLoader(unpaired, 4, NONE, masks_from=pseudo)
    numbers_seen(loader)
    for pictures, _, confidence in loader:
        assert torch.equal((confidence * 10).round().to(torch.uint8), denormalise(pictures)[:, 8, 8, 0])


def test_a_store_without_masks_cannot_be_trained_on(dataset):
    with pytest.raises(StoreError, match=r"unpaired_images: has no masks\.npy"):
        StoreLoader(dataset["unpaired_images"], 4, NONE)


def test_make_dls_augments_training_and_shows_validation_plain(dataset):
    dls = make_dls(dataset["train"], dataset["val"], 4, STRONG, seed=1)
    images, masks = dls.valid.one_batch()
    assert torch.equal(images, normalise(torch.from_numpy(dataset["val"].images[:8])))
    assert torch.equal(masks, torch.from_numpy(dataset["val"].masks[:8]).long())
    assert dls.train.augmentation == STRONG
    assert [len(dls.train), len(dls.valid)] == [4, 1]


def literal_batches(store, bs, settings, seed, epoch):
    """The batches of a pass, put together sample by sample."""
    order = np.random.default_rng([seed, epoch]).permutation(len(store))
    for number in range(len(store) // bs):
        chosen = sorted(order[number * bs : (number + 1) * bs])
        images, masks = (
            torch.from_numpy(np.stack([array[i] for i in chosen])) for array in (store.images, store.masks)
        )
        drawn = np.random.SeedSequence([seed, epoch, number]).generate_state(1, np.uint64)[0] >> 1
        yield augment_batch(images, masks, settings, torch.Generator().manual_seed(int(drawn)))


@pytest.mark.parametrize("settings", [STRONG, OTHER_LIGHT], ids=["geometry", "light"])
def test_batches_are_bit_for_bit_those_of_a_literal_reading(dataset, settings):
    loader = StoreLoader(dataset["train"], 5, settings, seed=3)
    for epoch in range(2):
        slow = list(literal_batches(dataset["train"], 5, settings, 3, epoch))
        for (images, masks), (same_images, same_masks) in zip(loader, slow, strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(masks, same_masks)


def digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:12]


def test_batches_are_those_they_have_always_been(make_store):
    drawn = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    masks = np.random.default_rng(1).integers(0, 17, (8, 2, 24, 24), np.uint8)
    images, labels = StoreLoader(make_store("fixed", images=drawn, masks=masks), 8, STRONG, seed=7).one_batch()
    assert digest(labels) == "30002cfdef34"
    assert images[3, 1, 5, 7].item() == pytest.approx(-1.1700, abs=1e-4)
    assert images.double().square().mean().item() == pytest.approx(1.4908, abs=1e-4)


def test_a_share_of_the_samples_fills_as_many_batches_as_all(numbered):
    whole, few = StoreLoader(numbered, 4, NONE), StoreLoader(numbered, 4, NONE, label_fraction=0.3)
    first, second = numbers_seen(few), numbers_seen(few)
    assert [len(batch) for batch in first] == [4, 4]
    assert len(few) == len(whole) == 2
    shown = set(itertools.chain(*first, *second))
    assert len(shown) == 3
    assert first != second
    counts = np.unique(list(itertools.chain(*first)), return_counts=True)[1]
    assert counts.min() >= 2  # in turn, not by chance
    assert counts.max() <= 3


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1])
def test_a_smaller_share_is_part_of_a_larger_one_whatever_the_seed(numbered, share):
    shown = set(itertools.chain(*numbers_seen(StoreLoader(numbered, 5, NONE, seed=1, label_fraction=share))))
    assert len(shown) == max(2, round(10 * share))
    more = StoreLoader(numbered, 5, NONE, seed=2, label_fraction=min(1, 2 * share))
    assert shown <= set(itertools.chain(*numbers_seen(more)))


def test_the_same_sample_looks_different_when_it_comes_again_in_an_epoch(make_store, dataset):
    train = dataset["train"]
    store = make_store("two", images=train.images[:8], masks=train.masks[:8])
    views = [images for images, _ in StoreLoader(store, 2, STRONG, label_fraction=0.01)]
    assert len(views) == 4
    assert len({digest(view) for batch in views for view in batch}) == 8


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(numbered, share):
    with pytest.raises(LoaderError, match=r"^label_fraction .*expected a fraction of the samples above 0"):
        StoreLoader(numbered, 4, NONE, label_fraction=share)


def test_make_dls_shows_a_share_in_training_only(numbered):
    dls = make_dls(numbered, numbered, 2, NONE, label_fraction=0.2)
    assert len(set(itertools.chain(*numbers_seen(dls.train)))) == 2
    assert len(set(itertools.chain(*numbers_seen(dls.valid)))) == 10
    assert dls.train.description != make_dls(numbered, numbered, 2, NONE).train.description


def sharded(of, *arguments, **options):
    """One loader for each of `of` processes."""
    loaders = [StoreLoader(*arguments, **options) for _ in range(of)]
    for rank, loader in enumerate(loaders):
        loader.shard(rank, of)
    return loaders


@pytest.mark.parametrize("of", [1, 2, 4])
def test_what_is_dealt_to_processes_is_together_the_batch_of_one(dataset, of):
    parts = [list(loader) for loader in sharded(of, dataset["train"], 8, STRONG)]
    for whole, *given in zip(StoreLoader(dataset["train"], 8, STRONG), *parts, strict=True):
        for rank, part in enumerate(given):
            assert all(torch.equal(a[rank::of], b) for a, b in zip(whole, part, strict=True))


def test_batches_are_dealt_by_confidence(make_store):
    numbers = np.arange(16, dtype=np.uint8)
    images, masks = (np.broadcast_to(numbers[:, None, None, None], (16, *s)) for s in ((8, 8, 3), (2, 8, 8)))
    confidence = np.random.default_rng(0).permutation(16).astype(np.float32)
    store = make_store("labelled", images=images, masks=masks, confidence=confidence)
    flips = Augmentation(scale=0, rotation=0, intensity=0)
    first, second = (list(loader) for loader in sharded(2, store, 8, flips))
    for whole, a, b in zip(StoreLoader(store, 8, flips), first, second, strict=True):
        order = whole[2].argsort(descending=True)
        for k in range(3):
            assert torch.equal(whole[k][order][0::2], a[k])
            assert torch.equal(whole[k][order][1::2], b[k])


def test_changes_of_light_are_dealt_too_but_for_the_noise(dataset):
    quiet = Augmentation(photometric=replace(PHOTOMETRIC["strong"], noise=0))
    parts = [list(loader) for loader in sharded(2, dataset["train"], 8, quiet)]
    for whole, *halves in zip(StoreLoader(dataset["train"], 8, quiet), *parts, strict=True):
        for rank, half in enumerate(halves):
            assert torch.allclose(whole[0][rank::2], half[0], atol=0.05)  # the blur ends where the batch's widest does
            assert torch.equal(whole[1][rank::2], half[1])


def test_unequal_parts_and_validation_are_not_dealt(numbered):
    with pytest.raises(
        LoaderError, match="batches of 5 cannot be shared among 2 processes; train with a multiple of 2"
    ):
        StoreLoader(numbered, 5, NONE).shard(0, 2)
    with pytest.raises(LoaderError, match="cannot be shared"):
        StoreLoader(numbered, 4).shard(0, 2)


def digests(loader):
    return [digest(images) for images, *_ in loader]


def test_a_pickled_loader_goes_on_where_it_was_and_carries_no_arrays(dataset):
    loader = StoreLoader(dataset["train"], 4, STRONG, seed=2, label_fraction=0.5)
    loader.shard(1, 2)
    next(iter(loader))
    pickled = pickle.dumps(loader)
    assert len(pickled) < 2_000
    assert digests(pickle.loads(pickled)) == digests(loader)


def test_pickled_dataloaders_give_the_same_batches(dataset):
    dls = make_dls(dataset["train"], dataset["val"], 4, STRONG, seed=5, pseudo=dataset["train"])
    again = pickle.loads(pickle.dumps(dls))
    assert digests(again.train) == digests(dls.train)
    assert digests(again.valid) == digests(dls.valid)


# ---- which hand is in front


def test_front_moves_with_the_masks_and_its_hands(dataset):
    store = dataset["train"]
    settings = Augmentation(rotation=20, flip_p=0.5)
    images, masks, front = StoreLoader(store, 8, settings, seed=3, front=True).one_batch()
    plain_images, plain_masks = StoreLoader(store, 8, settings, seed=3).one_batch()
    assert torch.equal(images, plain_images)
    assert torch.equal(masks, plain_masks)
    assert front.shape == masks[:, 0].shape
    only = (masks > 0).sum(1) == 1
    agree = torch.where(masks[:, 0] > 0, front == FRONT_LEFT, front == FRONT_RIGHT)[only]
    assert agree.float().mean() > 0.8  # elsewhere the other hand's forearm is before the hand


def test_front_is_that_of_the_store_without_augmentation(dataset):
    _, masks, front = StoreLoader(dataset["val"], 4, front=True).one_batch()
    np.testing.assert_array_equal(front, dataset["val"].front[:4])
    np.testing.assert_array_equal(masks, dataset["val"].masks[:4])


def test_a_loader_with_front_needs_it(make_store):
    store = make_store("plain", images=np.zeros((4, 8, 8, 3), np.uint8), masks=np.zeros((4, 2, 8, 8), np.uint8))
    with pytest.raises(StoreError, match=r"has no front\.npy"):
        StoreLoader(store, 4, front=True)
