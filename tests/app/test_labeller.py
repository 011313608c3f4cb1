"""The labeller's Python side: photos, first guesses, fits, saving, going on later, and who may write."""

import json

import numpy as np
import pytest
from ambiguous import ambiguous_photo
from PIL import Image

from ethand_utils.app import labeller
from ethand_utils.app.browser import page_script
from ethand_utils.app.label_photos import PAGE_SIDE, LabelPhotos, added_hand, completed_hand
from ethand_utils.app.labeller import MODULES, HandLabeler
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.files import FileError
from ethand_utils.hands.joints import CHAINS, WRIST
from ethand_utils.labels import HANDS, LEFT, N_JOINTS, PARTS, RIGHT
from ethand_utils.sources.photo_labels import HandLabel, LabelFolder, PhotoLabel
from ethand_utils.sources.rendered_photos import rendered_photo

SIZE = 128


@pytest.fixture(scope="module")
def rendered():
    """Two rendered photos, one of two hands and one of a right hand, whose joints have two answers. Read only."""
    return [rendered_photo(3, 0, SIZE, hand_type="interacting"), ambiguous_photo(SIZE)]


@pytest.fixture
def photos(rendered, tmp_path):
    """A folder of the photos as files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, photo in enumerate(rendered):
        Image.fromarray(photo["image"]).save(folder / f"photo{i}.png")
    return folder


@pytest.fixture(autouse=True)
def guesses(rendered, monkeypatch):
    """First guesses that are the truth: known by the photo's pixels, and without hands for other photos."""

    def guess(photo, net, name):
        for one in rendered:
            if np.array_equal(photo.image, one["image"]):
                hands = [None if np.isnan(joints).all() else HandLabel(joints) for joints in one["joints"]]
                return PhotoLabel(name, tuple(hands))
        return PhotoLabel(name, (None, None))

    monkeypatch.setattr(labeller, "guess_joints", guess)
    monkeypatch.setattr(labeller, "_load_net", lambda weights: object())


@pytest.fixture
def ask(monkeypatch):
    """Function that sends a widget a request as its page does, and returns the answers: [(content, buffers)]."""
    answers = []
    monkeypatch.setattr(HandLabeler, "send", lambda _, content, buffers=None: answers.append((content, buffers or [])))

    def request(widget, kind, photo=0, **content):
        answers.clear()
        widget._on_message(None, {"kind": kind, "client": "page", "photo": photo, **content}, None)
        return list(answers)

    return request


def opened(ask, widget, photo=0):
    """Open a photo as the page does and return its label."""
    [(content, [image])] = ask(widget, "photo", photo)
    assert content["kind"] == "photo"
    assert image[:2] == b"\xff\xd8"
    return content["label"]


def save(ask, widget, label, photo=0, quick=False, follow=False, seconds=12.0):
    (answer, buffers), *_ = ask(widget, "save", photo, label=label, quick=quick, follow=follow, seconds=seconds)
    return answer, buffers


def moved(label, side, joint, by):
    """Return a label with a joint moved by (x, y) px, as placed."""
    label = json.loads(json.dumps(label))
    hand = label["hands"][side]
    hand["joints"][joint] = [value + step for value, step in zip(hand["joints"][joint], by, strict=True)]
    hand["guessed"][joint] = False
    return label


def test_a_photo_is_opened_with_the_first_guess(ask, photos, rendered, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    label = opened(ask, widget)
    for side in (LEFT, RIGHT):
        assert np.allclose(label["hands"][side]["joints"], rendered[0]["joints"][side])
        assert all(label["hands"][side]["guessed"])
    assert opened(ask, widget, 1)["hands"][LEFT] is None
    assert widget.selected == "photo0.png"
    assert widget.labels.empty


def test_the_masks_lie_where_the_hands_are(ask, photos, rendered, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    label = opened(ask, widget)
    [(fit, buffers)] = ask(widget, "fit", label=label, live=True, quick=True, follow=True)
    masks = np.frombuffer(buffers[0], np.uint8).reshape(2, fit["size"], fit["size"])
    x, y, side = fit["crop"]
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    for hand in (LEFT, RIGHT):
        pixels = np.stack([(rows - y) / side, (columns - x) / side]) * fit["size"]
        inside = ((pixels >= 0) & (pixels < fit["size"])).all(0)
        drawn = np.zeros((SIZE, SIZE), bool)
        drawn[inside] = masks[hand][tuple(pixels[:, inside].astype(int))] > 0
        truth = rendered[0]["masks"][hand] > 0
        assert (drawn & truth).sum() / (drawn | truth).sum() > 0.7
        assert np.allclose(fit["hands"][hand]["pixels"], rendered[0]["joints"][hand], atol=3)


def test_a_saved_label_is_there_for_the_next_widget(ask, photos, tmp_path):
    first = HandLabeler(photos, tmp_path / "out", labeller="Ann")
    label = moved(opened(ask, first), RIGHT, 0, (3, -2))
    answer, _ = save(ask, first, label)
    assert answer["saved"]
    assert first._done == [0]
    assert ask(first, "photo")[0][0]["saved"]
    store = Store(tmp_path / "out")
    assert len(store) == 1
    assert store.masks.any()
    assert (first.labels.loc[0, "placed"], first.labels.loc[0, "labeller"], first.labels.loc[0, "seconds"]) == (
        1,
        "Ann",
        12,
    )
    first.close()

    second = HandLabeler(photos, tmp_path / "out")
    assert second.selected == "photo1.png"
    assert second._done == [0]
    again = opened(ask, second)
    assert again["hands"][RIGHT] == label["hands"][RIGHT]
    assert second.store.index["id"].tolist() == store.index["id"].tolist()


def test_a_quick_fit_follows_the_joints(ask, photos, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    label = opened(ask, widget, 1)
    (before, _), (warnings, _) = ask(widget, "fit", 1, label=label, live=False, quick=False, follow=False)
    tip = CHAINS[1][-1]
    [(after, buffers)] = ask(
        widget, "fit", 1, label=moved(label, RIGHT, tip, (4, 4)), live=True, quick=True, follow=True
    )
    shift = np.subtract(after["hands"][RIGHT]["pixels"], before["hands"][RIGHT]["pixels"])
    assert np.linalg.norm(shift[tip]) > 3
    assert warnings["kind"] == "warnings"
    assert len(buffers) == 2


def test_with_follow_the_answer_shown_stays(ask, photos, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    label = opened(ask, widget, 1)
    (first, _), _ = ask(widget, "fit", 1, label=label, live=False, quick=False, follow=False)
    assert first["hands"][RIGHT]["answers"] == 2
    label["hands"][RIGHT]["answer"] = 1
    flipped, _ = save(ask, widget, label, 1)
    label["hands"][RIGHT]["answer"] = 0  # as if the order of the answers had changed
    assert save(ask, widget, label, 1, follow=True)[0]["answers"][RIGHT] == flipped["answers"][RIGHT] == 1


def test_a_hand_can_be_taken_out_and_added(ask, photos, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    label = opened(ask, widget, 1)
    [(added, _)] = ask(widget, "add", 1, label=label, hand=LEFT)
    assert added["kind"] == "label"
    assert all(added["label"]["hands"][LEFT]["guessed"])
    assert added["label"]["hands"][RIGHT] == label["hands"][RIGHT]
    assert save(ask, widget, added["label"], 1)[0]["hands"][LEFT]
    nobody = {"hands": [None, None], "front": "fit"}
    assert save(ask, widget, nobody, 1)[0]["saved"]
    assert len(Store(tmp_path / "out")) == 0
    assert widget.labels.loc[0, "hands"] == "none"


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_an_added_hand_is_one_of_its_side(side):
    points = added_hand(side, (300, 200)).joints
    thumb, pinky = points[CHAINS[0][-1]], points[CHAINS[4][-1]]
    assert (thumb[0] < pinky[0]) == (side == RIGHT)  # seen from the back
    assert points[CHAINS[2][-1], 1] < points[WRIST, 1]  # fingers upwards
    assert (points > 0).all()
    assert (points < (300, 200)).all()


def test_a_guess_with_few_joints_is_completed():
    flat = added_hand(RIGHT, (200, 200)).joints
    few = np.full((N_JOINTS, 2), np.nan)
    few[[0, 4, 8]] = flat[[0, 4, 8]] @ [[0, 1], [-1, 0]] * 0.5 + (150, 20)  # turned by a quarter, half as large
    whole = completed_hand(HandLabel(few), RIGHT, (200, 200))
    assert np.allclose(whole.joints, flat @ [[0, 1], [-1, 0]] * 0.5 + (150, 20))
    assert whole.guessed.all()


def test_what_cannot_be_fitted_is_said_and_not_saved(ask, photos, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    label = opened(ask, widget, 1)
    label["hands"][RIGHT]["joints"] = [[50, 50]] * N_JOINTS
    answer, buffers = save(ask, widget, label, 1)
    assert "right hand" in answer["failure"]
    assert "\n" not in answer["failure"]
    assert not buffers
    assert widget.labels.empty
    assert not widget._done
    [(fault, _)] = ask(widget, "photo", 7)
    assert fault["kind"] == "fault"
    assert fault["client"] == "page"


def test_a_second_writer_only_shows_the_labels(ask, photos, tmp_path):
    with LabelFolder(tmp_path / "out") as other:
        label = PhotoLabel("photo1.png", (None, None))
        other.save(photos / "photo1.png", label)
        widget = HandLabeler(photos, tmp_path / "out")
        assert str(tmp_path / "out") in widget._closed
        assert "\n" not in widget._closed
        assert widget._done == [1]
        assert opened(ask, widget, 1)["hands"] == [None, None]
        assert save(ask, widget, opened(ask, widget))[0]["failure"] == widget._closed
        assert len(widget.labels) == 1


def test_labels_that_cannot_be_written_are_shown(ask, photos, tmp_path, monkeypatch):
    with LabelFolder(tmp_path / "out") as folder:
        folder.save(photos / "photo1.png", PhotoLabel("photo1.png", (None, None)))

    def refuse(*_):
        raise FileError(f"{tmp_path / 'out'}: could not be written (Permission denied); choose another folder")

    monkeypatch.setattr(labeller, "LabelFolder", refuse)
    assert "Permission denied" in HandLabeler(photos, tmp_path / "out")._closed
    with pytest.raises(FileError):
        HandLabeler(photos, tmp_path / "new")


def test_a_newer_widget_of_the_kernel_takes_over(ask, photos, tmp_path):
    old = HandLabeler(photos, tmp_path / "out")
    new = HandLabeler(photos, tmp_path / "out")
    assert old._closed
    assert not new._closed
    assert "failure" in save(ask, old, opened(ask, old))[0]
    assert save(ask, new, opened(ask, new))[0]["saved"]


def test_photos_lie_upright_and_large_ones_are_reduced(ask, tmp_path):
    turned = Image.new("RGB", (60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (3 * PAGE_SIDE, 60)).save(tmp_path / "wide.png")
    widget = HandLabeler([tmp_path / "turned.jpg", tmp_path / "wide.png"], tmp_path / "out")
    [(content, _)] = ask(widget, "photo", 0)
    assert (content["width"], content["height"]) == (40, 60)
    [(content, [image])] = ask(widget, "photo", 1)
    (tmp_path / "page.jpg").write_bytes(image)
    assert (content["width"], Image.open(tmp_path / "page.jpg").size) == (3 * PAGE_SIDE, (PAGE_SIDE, 20))


def test_a_stores_images_can_be_labelled(ask, rendered, make_store, tmp_path):
    store = make_store("hands", images=np.stack([photo["image"] for photo in rendered]))
    widget = HandLabeler(store, tmp_path / "out")
    assert save(ask, widget, opened(ask, widget, 1), 1)[0]["saved"]
    assert widget.labels["photo"].tolist() == ["hands-1.png"]
    widget.close()
    assert HandLabeler(store, tmp_path / "out")._done == [1]


def test_thumbnails_of_what_cannot_be_read_are_empty(ask, photos, tmp_path):
    (photos / "torn.png").write_bytes(b"\x89PNG torn")
    widget = HandLabeler(photos, tmp_path / "out")
    [(content, pictures)] = ask(widget, "thumbnails", photos=[0, 2])
    assert content["photos"] == [0, 2]
    assert pictures[0]
    assert not pictures[1]
    [(fault, _)] = ask(widget, "photo", 2)
    assert "torn.png" in fault["text"]


def test_names_tell_photos_apart(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    photos = LabelPhotos([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert photos.names == ["a/1.png", "b/1.png"]
    with pytest.raises(EthandError, match=r"c/1\.png"):
        photos.index("c/1.png")


def test_photos_that_are_not_there_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EthandError, match="no photos here"):
        HandLabeler(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(EthandError, match=r"gone\.jpg: no such photo"):
        HandLabeler([tmp_path / "gone.jpg"], tmp_path / "out")
    with pytest.raises(EthandError, match="None: expected a folder of photos"):
        HandLabeler(None, tmp_path / "out")
    with pytest.raises(EthandError, match=r"net\.safetensors: no such file of weights"):
        HandLabeler(tmp_path / "empty", tmp_path / "out", weights=tmp_path / "net.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_widget_that_was_refused_can_be_closed(tmp_path):
    refused = HandLabeler.__new__(HandLabeler, tmp_path, tmp_path / "out")
    with pytest.raises(EthandError, match="no photos here"):
        refused.__init__(tmp_path, tmp_path / "out")
    refused.close()  # as the end of the widget does, whose error nobody could catch
    assert refused.comm is None


def test_a_photo_that_has_been_mended_is_opened(ask, photos, tmp_path):
    whole = (photos / "photo0.png").read_bytes()
    (photos / "photo0.png").write_text("not a photo")
    widget = HandLabeler(photos, tmp_path / "out")
    [(fault, _)] = ask(widget, "photo")
    assert "photo0.png: not a readable image" in fault["text"]
    (photos / "photo0.png").write_bytes(whole)
    assert opened(ask, widget)["hands"][LEFT]


def test_save_view_draws_the_selected_photo(photos, tmp_path):
    widget = HandLabeler(photos, tmp_path / "out")
    widget.selected = "photo1.png"
    widget.save_view(tmp_path / "view.png")
    width, height = Image.open(tmp_path / "view.png").size
    assert width > 1.5 * height  # photo and one hand
    with pytest.raises(EthandError, match=r"\.png"):
        widget.save_view(tmp_path / "view.gif")


def test_the_page_defines_no_part_and_no_hand():
    script = page_script(MODULES)
    assert not [name for name in (*PARTS[1:], *HANDS) if f'"{name}"' in script]
    assert "import " not in script.replace("important", "")


# ---- the page's own arithmetic, in a browser -------------------------------------------------------------------------


@pytest.fixture
def in_page(chromium):
    """Function that runs JavaScript with the page's script before it, and returns the JSON it prints."""

    def run(code):
        page = chromium.new_page()
        with page.expect_console_message() as message:
            page.add_script_tag(content=f"{page_script(MODULES)}\n{code}", type="module")
        return json.loads(message.value.text)

    return run


def test_an_added_hand_follows_the_first_two_joints_that_are_placed(in_page):
    hand = added_hand(RIGHT, (200, 200))
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    goal = hand.joints @ turn * 0.7 + (30, -20)
    label = {"hands": [None, hand.to_json()], "front": "fit"}
    code = f"""
let label = {json.dumps(label)};
const goal = {json.dumps(goal.tolist())};
const steps = [{WRIST}, {CHAINS[2][-1]}, {CHAINS[0][-1]}].map((joint) => {{
  label = placeOfAdded(label, 1, joint, joint === {CHAINS[0][-1]} ? [1, 2] : goal[joint]);
  return label.hands[1];
}});
console.log(JSON.stringify(steps));
"""
    moved, turned, third = in_page(code)
    assert np.allclose(np.subtract(moved["joints"], hand.joints), goal[WRIST] - hand.joints[WRIST])
    assert np.allclose(turned["joints"], goal)
    tip = CHAINS[0][-1]
    assert third["joints"][tip] == [1, 2]
    assert np.allclose(np.delete(third["joints"], tip, 0), np.delete(goal, tip, 0))
    assert sorted(np.flatnonzero(~np.array(third["guessed"]))) == sorted([WRIST, CHAINS[2][-1], tip])


def test_the_history_goes_back_and_forth_and_nudges_are_one_step(in_page):
    code = """
const history = new History("a");
history.push("b");
history.push("c1", "nudge");
history.push("c2", "nudge");
const seen = [history.labels.join()];
for (const step of [-1, -1, -1, 1]) seen.push(`${history.go(step)} ${history.current}`);
history.push("d");
seen.push(`${history.labels.join()} ${history.canRedo}`);
console.log(JSON.stringify(seen));
"""
    assert in_page(code) == ["a,b,c2", "true b", "true a", "false a", "true b", "a,b,d false"]
