"""The labeller in JupyterLab in a real browser: a joint is dragged, masks follow, and the work is there again."""

import json

import nbformat
import numpy as np
import pytest
from ambiguous import ambiguous_photo
from jupyter_page import run_all
from PIL import Image

from ethand_utils.data.crops import crop_square
from ethand_utils.data.store import Store
from ethand_utils.labels import COLOURS, N_JOINTS, RIGHT
from ethand_utils.sources.label_files import read_records
from ethand_utils.sources.label_fit import fit_label, joints_box, label_masks
from ethand_utils.sources.rendered_photos import rendered_photo

pytestmark = pytest.mark.slow
SIZE = 256
MASK_SIZE = 384  # px a side of the masks that the page has when nothing is dragged
# First guesses come from a file in place of nets, and the notebook says when it has run.
CELL = """
from pathlib import Path
import numpy as np
from ethand_utils.app import HandLabeler, labeller
from ethand_utils.sources.photo_labels import HandLabel, PhotoLabel
labeller._load_net = lambda weights: None
guesses = np.load("../guesses.npz")
labeller.guess_joints = lambda photo, net, name: PhotoLabel(name, (None, HandLabel(guesses[name])))
widget = HandLabeler("../photos", "../own", labeller="tester")
Path("../started").write_text("")
widget
"""


@pytest.fixture
def photos(lab):
    """Photos of a right hand, first guesses that are their joints, and a notebook that labels them."""
    folder = lab[1]
    (folder / "photos").mkdir()
    joints = {}
    for photo in (ambiguous_photo(SIZE), rendered_photo(3, 2, SIZE, hand_type="right")):
        name = f"photo{len(joints)}.png"
        Image.fromarray(photo["image"]).save(folder / "photos" / name)
        joints[name] = photo["joints"][RIGHT]
    np.savez(folder / "guesses.npz", **joints)
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata={"kernelspec": kernel})
    nbformat.write(book, folder / "notebooks/label.ipynb")
    return joints


class Page:
    """The labeller in a page of JupyterLab."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.root, self.canvas = page.locator(".hl-root"), page.locator(".hl-canvas")

    def screen(self, point):
        """Return where a point (x, y) px of the photo is on the screen."""
        view, box = json.loads(self.canvas.get_attribute("data-view")), self.canvas.bounding_box()
        return tuple(box[k] + (point[i] - view[k]) * view["scale"] for i, k in enumerate("xy"))

    def colours(self, points):
        """Return the colours [n, 3] of the canvas at points [n, 2] px of the photo."""
        code = """(canvas, points) => {
            const [{ scale, x, y }, context] = [JSON.parse(canvas.dataset.view), canvas.getContext("2d")];
            const ratio = (scale * canvas.width) / canvas.clientWidth;
            return points.map(([px, py]) => {
                const at = [Math.floor((px - x) * ratio), Math.floor((py - y) * ratio)];
                return Array.from(context.getImageData(...at, 1, 1).data.slice(0, 3));
            });
        }"""
        return np.array(self.canvas.evaluate(code, np.asarray(points).tolist()), float)

    def drag(self, start, end, steps=8, release=True):
        self.page.mouse.move(*self.screen(start))
        self.page.mouse.down()
        for share in np.linspace(0, 1, steps + 1)[1:]:
            self.page.mouse.move(*self.screen(np.asarray(start) + share * (np.asarray(end) - start)))
            self.page.wait_for_timeout(30)
        if release:
            self.page.mouse.up()

    def label(self, name="photo0.png"):
        """Return the saved label of a photo; None where there is none."""
        records = read_records(self.folder / "own")[0].values()
        return next((record.label for record in records if record.label.photo == name), None)

    def eventually(self, test, what):
        """Wait until `test` holds, and return what it gives."""
        for _ in range(200):
            result = test()
            if result:
                return result
            self.page.wait_for_timeout(100)
        raise AssertionError(what)


def open_notebook(tab, lab, folder):
    tab.goto(lab[0].replace("/lab?", "/lab/tree/notebooks/label.ipynb?reset&"))
    (folder / "started").unlink(missing_ok=True)
    run_all(tab, folder / "started")
    page = Page(tab, folder)
    page.root.wait_for(timeout=60_000)
    page.root.scroll_into_view_if_needed()
    page.root.locator(".hl-residual").filter(has_text="px").wait_for(timeout=60_000)
    return page


def end_kernels(tab, lab):
    """End all kernels of the server, as its own page does."""
    address, token = lab[0].split("/lab?token=")
    headers = {"Authorization": f"token {token}"}
    for kernel in tab.request.get(f"{address}/api/kernels", headers=headers).json():
        assert tab.request.delete(f"{address}/api/kernels/{kernel['id']}", headers=headers).ok


def expected_masks(label):
    """Return the masks of a saved label that the page shows, and their crop."""
    fit = fit_label(label, (SIZE, SIZE))
    crop = crop_square(joints_box(fit.pixels))
    return label_masks(fit, crop, MASK_SIZE, (SIZE, SIZE))["masks"], crop


def plain_points(mask, crop, count=300):
    """Return points [n, 2] px of the photo in whose surroundings a mask has one part, and these parts [n]."""
    around = np.stack([np.roll(mask, shift, (0, 1)) for shift in np.ndindex(5, 5)])
    around = np.roll(around, (-2, -2), (1, 2))
    plain = (around == mask).all(0)
    plain[:3] = plain[-3:] = plain[:, :3] = plain[:, -3:] = False
    rows, columns = np.nonzero(plain)
    chosen = np.random.default_rng(0).choice(len(rows), count, replace=False)
    x, y, side = crop
    points = np.stack([columns, rows], 1)[chosen] + 0.5
    points = points * side / len(mask) + (x, y)
    inside = ((points > 1) & (points < SIZE - 1)).all(1)
    return points[inside], mask[rows, columns][chosen][inside]


def test_labelling_in_jupyterlab(lab, photos, chromium):
    folder, guess = lab[1], photos["photo0.png"]
    tab = chromium.new_page(viewport={"width": 1300, "height": 1100})
    page = open_notebook(tab, lab, folder)
    cells = tab.locator(".jp-Cell").count()

    # The first guess has two answers: the other one, and back; each is saved.
    assert page.label() is None
    page.canvas.click(position={"x": 5, "y": 5})
    page.eventually(lambda: page.root.locator("[data-action='flip']").is_enabled(), "two answers")
    tab.keyboard.press("f")
    page.eventually(lambda: page.label() and page.label().hands[RIGHT].answer == 1, "flipped")
    tab.keyboard.press("Control+z")
    page.eventually(lambda: page.label().hands[RIGHT].answer == 0, "flipped back")

    # A tip is dragged: masks follow while it is held, and the label is saved when it is let go.
    tip = 4
    goal = guess[tip] + (guess[tip] - guess[tip + 1]) * 0.8
    near = goal + np.stack(np.mgrid[-12:13:4, -12:13:4], -1).reshape(-1, 2)  # about the joint's dot
    before = page.colours(near)
    page.drag(guess[tip], goal, release=False)
    page.root.locator(".hl-joint").filter(has_text="placed").wait_for()
    page.eventually(lambda: (np.abs(page.colours(near) - before).max(1) > 20).sum() > 4, "the masks have changed")
    assert page.label().hands[RIGHT].guessed.all()
    tab.mouse.up()
    page.eventually(lambda: not page.label().hands[RIGHT].guessed[tip], "saved")
    label = page.label().hands[RIGHT]
    np.testing.assert_allclose(label.joints[tip], goal, atol=1)
    assert label.guessed.tolist() == [joint != tip for joint in range(N_JOINTS)]
    page.root.get_by_role("status").filter(has_text="saved 20").wait_for()
    page.root.locator(".hl-cell").first.locator(".hl-tick").wait_for()

    # The masks lie over the photo exactly where they were computed, in the parts' colours.
    for key in ("j", *"]]]]]"):  # joints off, opacity 1
        tab.keyboard.press(key)
    masks, crop = expected_masks(page.label())
    points, parts = plain_points(masks[RIGHT], crop)
    hand = parts > 0

    def in_place():
        off = np.abs(page.colours(points) - COLOURS[parts])[hand].max(1) > 3
        return off.mean() < 0.01

    page.eventually(in_place, "masks in place")
    tab.screenshot(path=folder / "masks.png")
    outside = np.abs(page.colours(points[~hand])[:, None] - COLOURS[1:]).max(-1).min(1)
    assert (outside > 3).mean() > 0.95  # the photo, which may have a part's colour by chance
    for key in ("j", *"[[[[["):
        tab.keyboard.press(key)

    # Undone, and done again; each is saved.
    tab.keyboard.press("Control+z")
    page.eventually(lambda: np.allclose(page.label().hands[RIGHT].joints, guess), "the first guess")
    tab.keyboard.press("Control+Shift+z")
    page.eventually(lambda: not page.label().hands[RIGHT].guessed[tip], "the drag again")

    # The other keys: a nudge, a guess, a joint taken away; JupyterLab's own shortcuts (`x` cuts a cell) do nothing.
    tab.keyboard.press("Shift+ArrowRight")
    page.eventually(lambda: page.label().hands[RIGHT].joints[tip, 0] > goal[0] + 1, "nudged")
    tab.keyboard.press("g")
    page.eventually(lambda: page.label().hands[RIGHT].guessed[tip], "a guess")
    tab.keyboard.press("x")
    page.eventually(lambda: np.isnan(page.label().hands[RIGHT].joints[tip]).all(), "not visible")
    assert tab.locator(".jp-Cell").count() == cells
    tab.keyboard.press("?")
    page.root.get_by_role("dialog").wait_for()
    tab.keyboard.press("Escape")
    saved = page.eventually(lambda: page.label(), "a label")

    # A new page and a new kernel: the label is there, the tick too, and the next photo is open.
    end_kernels(tab, lab)
    again = open_notebook(tab, lab, folder)
    assert again.root.locator(".hl-cell[aria-selected='true']").get_attribute("title") == "photo1.png"
    assert again.root.locator(".hl-tick:visible").count() == 1
    again.canvas.click(position={"x": 5, "y": 5})
    tab.keyboard.press("p")
    again.root.locator(".hl-photo").filter(has_text="photo0.png").wait_for()
    again.root.get_by_role("status").filter(has_text="saved 20").wait_for()
    again.root.locator("[data-action='outline']").click()  # a button used with the mouse leaves Enter to the labeller
    tab.keyboard.press("Enter")
    again.eventually(lambda: again.label().labelled_at > saved.labelled_at, "saved as it is")
    assert np.array_equal(again.label().hands[RIGHT].joints, saved.hands[RIGHT].joints, equal_nan=True)
    store = Store(folder / "own")
    assert len(store) == 1
    assert store.masks[0, RIGHT].any()
    tab.screenshot(path=folder / "again.png")
    assert not tab.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count()
