"""Which photos to label first: where two predictions disagree, by two nets or by one net's two views."""

import numpy as np
import pytest
import torch
from PIL import Image

from ethand_utils.analysis import active_choice
from ethand_utils.analysis.active_choice import (
    disagreement_strips,
    disagreements,
    hand_crops,
    rank_photos,
    shares_of,
    two_predictions,
)
from ethand_utils.analysis.hand_finder import plain_view
from ethand_utils.data.augment import normalise
from ethand_utils.data.images import ImageError
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import LEFT, N_CLASSES, RIGHT

SIZE = 16
LOW, HIGH = 64, 192  # levels from which a net of these tests calls a pixel a part; photos have 0, 128 and 255


class Above(torch.nn.Module):
    """A net that calls every pixel brighter than a level a part of the given hands."""

    def __init__(self, level, part=9, sides=(LEFT, RIGHT)):
        super().__init__()
        self.part, self.sides, self.weight = part, list(sides), torch.nn.Parameter(torch.zeros(1))
        self.least = normalise(torch.full((1, 1, 1, 3), level, dtype=torch.uint8))

    def forward(self, images):
        logits = images.new_zeros(len(images), 2, N_CLASSES, *images.shape[2:])
        logits[:, :, 0] = 1
        logits[:, self.sides, self.part] = 9.0 * (images > self.least).all(1, keepdim=True)
        return logits.flatten(1, 2)


def picture(white, grey):
    """An image with some rows of white, then some of grey, then black."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:white], image[white : white + grey] = 255, 128
    return image


PICTURES = {"sure": picture(8, 0), "half": picture(4, 4), "doubtful": picture(1, 7), "empty": picture(0, 0)}
DOUBT = {"sure": 0, "half": 4 / 8, "doubtful": 7 / 8, "empty": 0}  # share between the two levels


@pytest.fixture
def photos(tmp_path):
    """The PICTURES as files."""
    for name, image in PICTURES.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return [tmp_path / f"{name}.png" for name in PICTURES]


def test_two_nets_disagree_by_the_share_of_pixels_that_one_of_them_calls_otherwise():
    images = np.stack(list(PICTURES.values()))
    shares = disagreements(images, [Above(LOW), Above(HIGH)])
    for name in ("left", "right", "overall"):
        np.testing.assert_allclose(shares[name], list(DOUBT.values()), rtol=1e-6)
    other_part = disagreements(images, [Above(LOW), Above(LOW, part=5)])
    np.testing.assert_array_equal(other_part["overall"], [1, 1, 1, 0])
    assert not disagreements(images, [Above(LOW), Above(LOW)])["overall"].any()


def test_one_net_disagrees_with_itself_where_its_mirrored_view_says_another_hand():
    """A mirrored left hand is a right one: a net that never sees a right hand contradicts itself everywhere."""
    images = np.stack(list(PICTURES.values()))
    assert not disagreements(images, [Above(LOW)])["overall"].any()
    shares = disagreements(images, [Above(LOW, sides=(LEFT,))])
    np.testing.assert_array_equal(shares["overall"], [1, 1, 1, 0])
    np.testing.assert_array_equal(shares["left"], shares["right"])


def test_a_hand_of_which_the_nets_are_sure_has_no_disagreement_beside_one_in_doubt():
    images = np.stack(list(PICTURES.values()))
    one, two = two_predictions(images, [Above(LOW), Above(HIGH)])
    two[:, RIGHT] = one[:, RIGHT]
    shares = shares_of(one, two)
    assert not shares["right"].any()
    np.testing.assert_allclose(shares["left"], list(DOUBT.values()), rtol=1e-6)
    np.testing.assert_allclose(shares["overall"], shares["left"] / 2)


def test_photos_come_with_the_highest_disagreement_first_whatever_their_order(photos):
    nets = [Above(LOW), Above(HIGH)]
    ranked = rank_photos(photos, nets, SIZE, find=False)
    assert [path.name for path in ranked["photo"]] == ["doubtful.png", "half.png", "sure.png", "empty.png"]
    assert (ranked["overall"].diff().dropna() <= 0).all()
    again = rank_photos(photos[::-1], nets, SIZE, find=False).set_index("photo")["overall"]
    assert again.to_dict() == ranked.set_index("photo")["overall"].to_dict()


def test_a_photos_hands_are_looked_at_where_some_are_found_and_the_whole_of_it_elsewhere(photos, monkeypatch):
    half = plain_view((0, 0, 4, 4))  # 1.25 times as large about its middle

    def views(photo, box):
        return [half, plain_view((9, 9, 2, 2))] if photo.image.any() else []

    monkeypatch.setattr(active_choice, "photo_views", views)
    crops = hand_crops(photos, 5)
    assert crops.shape == (4, 5, 5, 3)
    np.testing.assert_array_equal(crops[1], half.square.crop(PICTURES["half"], 5))
    assert not crops[3].any()
    np.testing.assert_array_equal(hand_crops(photos, SIZE, find=False), list(PICTURES.values()))


def test_what_cannot_be_ranked_is_refused_in_one_line(photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    for paths, nets, error, says in (
        ([], [Above(LOW)], EthandError, "no photos"),
        ([*photos, tmp_path / "text.jpg"], [Above(LOW)], ImageError, "text.jpg"),
        ([tmp_path / "none.jpg"], [Above(LOW)], ImageError, "none.jpg"),
        (photos, [], EthandError, "nets: 0, expected one"),
        (photos, [Above(LOW)] * 3, EthandError, "nets: 3, expected one"),
    ):
        with pytest.raises(error, match=says) as caught:
            rank_photos(paths, nets, SIZE, find=False)
        assert "\n" not in str(caught.value)


def test_the_figure_has_a_row_a_photo_and_both_predictions_of_each_hand():
    images = np.stack(list(PICTURES.values()))[:3]
    figure = disagreement_strips(images, [Above(LOW), Above(HIGH)])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * 7
    differs = panels[2 * 7 + 3].images[0].get_array()  # of the doubtful one's left hand
    np.testing.assert_array_equal(np.asarray(differs)[1:8], 255)
    assert (np.asarray(differs)[[0, *range(8, SIZE)]] < 255).all()
