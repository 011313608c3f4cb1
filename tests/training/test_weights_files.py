"""Weights on disk: whatever a file holds, a net that can be used or one line."""

import json
import os

import numpy as np
import pytest
import torch
from damage import damaged, deadline, one_line, require_line
from safetensors.torch import load_file, save_file
from torch import nn

from ethand_utils.exceptions import EthandError
from ethand_utils.labels import N_CHANNELS
from ethand_utils.training.inference import Inference, predict
from ethand_utils.training.models import WeightsError, create_model, load_net, load_weights, save_weights

TRIES = 150


def net(**options):
    return create_model("baseline", widths=(4, 8), seed=0, **options)


@pytest.fixture
def path(tmp_path):
    save_weights(net(), tmp_path / "net.safetensors", size=32)
    return tmp_path / "net.safetensors"


def rewrite(path, change):
    """Write a file's weights anew with its notes changed."""
    tensors, notes = load_file(path), {"model": net().recipe, "size": 32}
    change(notes)
    save_file(tensors, path, {"ethand": json.dumps(notes)})


def test_damaged_weights_are_loaded_or_refused_in_one_line(path):
    for name, content in damaged(path.read_bytes(), TRIES):
        path.write_bytes(content)
        with deadline(name):
            try:
                load_net(path)
            except WeightsError as error:
                require_line(error, path, name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_single_value_that_is_not_finite_is_refused_with_its_name(value, path):
    model = net()
    for name in model.state_dict():
        if model.state_dict()[name].is_floating_point():
            broken = net()
            broken.state_dict()[name].view(-1)[-1] = value
            save_weights(broken, path, size=32)
            with pytest.raises(WeightsError, match=rf"{name} has values that are NaN or infinite"):
                load_weights(path)


@pytest.mark.parametrize("channels", [(1, N_CHANNELS), (4, N_CHANNELS), (3, 17), (3, N_CHANNELS + 2), (3, 1)])
def test_a_net_of_other_channels_is_refused_by_their_number(channels, path):
    save_weights(net(in_channels=channels[0], out_channels=channels[1]), path, size=32)
    with pytest.raises(WeightsError, match=rf"{channels[0]} channels in and {channels[1]} out; expected 3 \(RGB\) in"):
        load_weights(path)


@pytest.mark.parametrize("size", [None, 0, -1, 64.0, "64", True, [64], 10**9])
def test_weights_that_do_not_say_their_images_size_are_refused_where_it_is_needed(size, path):
    rewrite(path, lambda notes: notes.update(size=size))
    load_weights(path)
    with pytest.raises(WeightsError, match=r"does not say for which size of images"):
        load_net(path)


def test_weights_of_a_newer_version_are_called_that(path):
    rewrite(path, lambda notes: notes["model"].update(attention=True))
    with pytest.raises(WeightsError, match=r"has attention, which is unknown here; it may come from a newer version"):
        load_weights(path)
    rewrite(path, lambda notes: notes.update(inference={"rotated": 4}))
    with pytest.raises(WeightsError, match=r"says of inference .*rotated.* newer version"):
        load_net(path)


@pytest.mark.parametrize("recipe", [[], "unet", None, 3, {}, {"arch": []}, {"arch": "baseline", "widths": "wide"}])
def test_a_recipe_that_is_none_is_refused_in_one_line(recipe, path):
    rewrite(path, lambda notes: notes.update(model=recipe))
    with pytest.raises(EthandError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert one_line(caught.value)


def test_weights_are_not_read_from_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with deadline("a pipe"), pytest.raises(WeightsError, match="not a regular file"):
        load_weights(tmp_path / "pipe")


class Watching(nn.Module):
    """A net of one convolution that notes the sizes of the images it is shown."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.colour, self.sizes = nn.Conv2d(3, N_CHANNELS, 1), set()

    def forward(self, images):
        self.sizes.add(tuple(images.shape[2:]))
        return self.colour(images)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_net_sees_images_of_its_own_size_whatever_the_stores(factor):
    small = np.random.default_rng(0).integers(256, size=(3, 2, 2, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    large = small.repeat(factor, 1).repeat(factor, 2)
    model = Watching()
    plain = predict(model, small, Inference(mirrored=True, size=32))
    resized = predict(model, large, Inference(mirrored=True, size=32))
    assert model.sizes == {(32, 32)}
    assert resized.masks.shape == (3, 2, 32 * factor, 32 * factor)
    middle = resized.masks[:, :, factor // 2 :: factor, factor // 2 :: factor]
    assert (middle == plain.masks).mean() > 0.9
    halved = predict(model, small, Inference(mirrored=True, size=64))
    assert halved.masks.shape == plain.masks.shape
    assert model.sizes == {(32, 32), (64, 64)}
    assert (halved.masks == plain.masks).mean() > 0.9
