"""Masks of photos: views, files, results that are not ours, folders of photos, the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixednet import Fixed
from PIL import Image

from ethand_utils.analysis import hand_finder
from ethand_utils.analysis.hand_finder import HandView, plain_view, whole_view
from ethand_utils.analysis.photo_files import RESULTS, list_photos, parse_box, result_folders
from ethand_utils.analysis.photos import predict_view, save_photo
from ethand_utils.app import cli
from ethand_utils.data.crops import TurnedSquare
from ethand_utils.data.images import ImageError
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import HANDS, N_CHANNELS, N_CLASSES, ORDER_CHANNEL, PALM
from ethand_utils.training.models import create_model, save_weights


def palms(left=True, right=True, right_in_front=False, size=32):
    """A net that sees palms everywhere."""
    logits = torch.zeros(N_CHANNELS + 1, size, size)
    logits[PALM if left else 0], logits[N_CLASSES + (PALM if right else 0)] = 5, 5
    logits[ORDER_CHANNEL] = 5 if right_in_front else -5
    return Fixed(logits)


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def test_masks_lie_in_the_photos_frame():
    one = predict_view(palms(right=False), photo(), 32, plain_view((20, 10, 16, 8)))
    assert one.crop.shape == (256, 256, 3)
    assert one.crop_masks.shape == (2, 256, 256)
    assert one.masks.shape == (2, 40, 60)
    assert (one.masks[0, 4:24, 18:38] == PALM).all()
    assert one.masks.sum() == PALM * 20 * 20
    assert 0 < one.confidence < 1


def test_a_whole_view_is_the_photo():
    assert (predict_view(palms(), photo(), 32, whole_view(photo())).masks == PALM).all()


def test_a_view_outside_the_photo_is_refused():
    with pytest.raises(ImageError, match=r"box 80,10,8,8 px lies outside the photo of 60×40 px"):
        predict_view(palms(), photo(), 32, plain_view((80, 10, 8, 8)))


def test_what_is_visible_is_the_hand_in_front_with_the_courses_ids():
    front = predict_view(palms(right_in_front=True), photo(), 32, whole_view(photo()))
    behind = predict_view(palms(right_in_front=False), photo(), 32, whole_view(photo()))
    assert (front.visible == PALM).all()
    assert (behind.visible == PALM + 16).all()
    assert front.describe()["left"]["occluded_share"] == 1
    assert front.describe()["right"]["occluded_share"] == 0


def test_a_net_without_order_says_nothing_of_it():
    net = create_model("baseline", widths=(4, 8), seed=0)
    one = predict_view(net, photo(), 32, whole_view(photo()))
    assert one.visible is None
    assert one.describe()["left"]["occluded_share"] is None


def test_a_turned_square_is_seen_upright_and_put_back_where_it_was():
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:30, 50:60] = 255  # to the right of the middle: the direction that is up
    square = TurnedSquare((40, 30), 40, (1.0, 0.0))
    crop = square.crop(image, 40)
    rows, columns = np.nonzero(crop[..., 0] > 127)
    assert (rows.min(), rows.max()) == (0, 9)
    assert (columns.min(), columns.max()) == (10, 19)
    back = square.uncrop((crop[None, ..., 0] > 127).astype(np.uint8), 60, 80)[0]
    np.testing.assert_array_equal(back, image[..., 0] > 127)


@pytest.mark.parametrize("up", [(0.0, -1.0), (0.6, 0.8), (-1.0, 0.0)])
@pytest.mark.parametrize("size", [16, 64, 200])
def test_uncrop_is_the_inverse_of_crop_within_a_pixel(up, size):
    rows, columns = np.indices((120, 160))
    disc = (np.hypot(rows - 60, columns - 80) < 22).astype(np.uint8)
    square = TurnedSquare((80, 60), 90, up)
    back = square.uncrop(
        (square.crop(np.repeat(disc[..., None] * 255, 3, 2), size)[None, ..., 0] > 127).astype(np.uint8), 120, 160
    )
    share = (back[0] & disc).sum() / (back[0] | disc).sum()
    assert share > 1 - 2.5 * 90 / size / 22


def test_files_of_one_view(tmp_path):
    image = photo()
    one = predict_view(palms(), image, 32, whole_view(image))
    save_photo(tmp_path / "out", "a.jpg", image, [one])
    names = ["hands.json", "left.png", "overlay.png", "right.png", "visible.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for hand, mask in zip(HANDS, one.masks, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/{hand}.png")), mask)
    result = json.loads((tmp_path / "out/hands.json").read_text())
    assert (result["photo"], result["width"], result["height"]) == ("a.jpg", 60, 40)
    (hand,) = result["hands"]
    assert hand["folder"] == "."
    assert hand["left"]["part_areas_px"] == {"palm": 40 * 60}


def test_several_views_are_numbered_and_none_is_an_empty_result(tmp_path):
    image = photo()
    views = [plain_view((0, 0, 20, 20)), plain_view((40, 20, 16, 16))]
    save_photo(tmp_path / "two", "a.jpg", image, [predict_view(palms(), image, 32, view) for view in views])
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["1", "2", "hands.json"]
    save_photo(tmp_path / "none", "a.jpg", image, [])
    assert json.loads((tmp_path / "none/hands.json").read_text())["hands"] == []


def test_results_are_replaced_but_nothing_else_is(tmp_path):
    image = photo()
    hands = [predict_view(palms(), image, 32, whole_view(image))]
    save_photo(tmp_path / "ours", "a.jpg", image, hands)
    save_photo(tmp_path / "ours", "a.jpg", image, hands)
    (tmp_path / "left.png").write_bytes(b"somebody's")
    with pytest.raises(EthandError, match=r"left\.png: not made by `ethand predict`"):
        save_photo(tmp_path, "a.jpg", image, hands)
    assert (tmp_path / "left.png").read_bytes() == b"somebody's"


def test_pictures_of_an_earlier_result_go_and_other_files_stay(tmp_path):
    image = photo()
    save_photo(tmp_path, "a.jpg", image, [predict_view(palms(), image, 32, whole_view(image))])
    (tmp_path / "notes.txt").touch()
    save_photo(tmp_path, "a.jpg", image, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hands.json", "notes.txt"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("reason", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_an_interruption_leaves_is_replaced(earlier, reason, tmp_path, monkeypatch):
    image, write = photo(), Path.write_bytes
    hands = [predict_view(palms(), image, 32, whole_view(image))]
    if earlier:
        save_photo(tmp_path, "a.jpg", image, [replace(hands[0], masks=0 * hands[0].masks)])

    def interrupted(self, content):
        if "visible" in self.name:
            write(self, content[:10])
            raise reason
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        full = pytest.raises(EthandError, match=r"visible\.png: could not be written.*No space left")
        with full if isinstance(reason, OSError) else pytest.raises(KeyboardInterrupt):
            save_photo(tmp_path, "a.jpg", image, hands)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hands.json", "left.png", "right.png"]
    save_photo(tmp_path, "a.jpg", image, hands)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["hands", "left", "overlay", "right", "visible"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "left.png")), hands[0].masks[0])


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "", "1,2,0,4", "1,2,3,-4", "nan,2,3,4", "1,2,inf,4"])
def test_a_box_that_is_none_is_refused(text):
    with pytest.raises(ImageError, match=r"^--box"):
        parse_box(text)


def test_a_box_is_four_numbers():
    assert parse_box("-5,2.5, 30,40") == (-5, 2.5, 30, 40)


def test_photos_of_a_folder_are_told_from_other_files(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    photos, others = list_photos([tmp_path, tmp_path / "notes.txt"])
    assert [path.name for path in photos] == ["a.png", "b.JPG", "notes.txt"]
    assert [path.name for path in others] == ["notes.txt"]


def test_no_two_photos_share_a_folder(tmp_path):
    photos = [tmp_path / name for name in ("x/a.png", "x/a.jpg", "y/a.jpg", "b.png")]
    folders = result_folders(photos, tmp_path / "out")
    assert [folder.name for folder in folders] == ["a", "a.jpg", "a-2", "b"]
    assert result_folders(photos[:1], tmp_path / "out") == [tmp_path / "out"]
    assert result_folders(photos[:1], None) == [RESULTS / photos[0].stem]


@pytest.fixture
def weights(tmp_path):
    save_weights(create_model("baseline", widths=(4, 8), seed=0), tmp_path / "net.safetensors", size=32)
    return tmp_path / "net.safetensors"


@pytest.fixture
def views(monkeypatch):
    """What `find_views` finds, in place of the nets."""
    hands = []
    monkeypatch.setattr(hand_finder, "find_views", lambda image: hands)
    return hands


def predict(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["ethand", "predict", *map(str, words)])
    with pytest.raises(SystemExit) as status:
        cli.main()
    return status.value.code or 0


def test_a_photo_without_hands_is_no_error(weights, views, tmp_path, monkeypatch, capsys):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    assert predict(monkeypatch, tmp_path / "a.png", "--weights", weights, "--out", tmp_path / "out") == 0
    assert "no hands found" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["hands.json"]


def test_one_unreadable_photo_does_not_stop_the_others(weights, views, tmp_path, monkeypatch, capsys):
    views.append(HandView((0, 0, 60, 40), TurnedSquare((30, 20), 60)))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        Image.fromarray(photo()).save(folder / name)
    (folder / "b.jpg").write_text("no photo")
    (folder / "notes.txt").write_text("notes")
    assert predict(monkeypatch, folder, "--weights", weights, "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "notes.txt: skipped" in said.err
    assert "b.jpg: not a readable image" in said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]


def test_no_photos_at_all_is_an_error(weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    assert predict(monkeypatch, tmp_path / "empty", "--weights", weights, "--out", tmp_path / "out") == 1
    assert "no photos here" in capsys.readouterr().err


def test_a_box_does_without_the_nets_that_find_hands(weights, tmp_path, monkeypatch, capsys):
    def offline(name):
        raise EthandError("could not be fetched")

    monkeypatch.setattr(hand_finder, "net_file", offline)
    hand_finder._net.cache_clear()
    Image.fromarray(photo()).save(tmp_path / "a.png")
    arguments = (tmp_path / "a.png", "--weights", weights, "--out", tmp_path / "out")
    assert predict(monkeypatch, *arguments, "--box", "20,10,16,8") == 0
    assert "not turned: could not be fetched" in capsys.readouterr().err
    assert predict(monkeypatch, *arguments) == 1
