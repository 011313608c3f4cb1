"""The labeller: a notebook widget in which joints dragged over a photo give amodal masks of the hands."""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from ethand_utils.analysis.first_guess import guess_joints
from ethand_utils.analysis.image_plots import save_figure
from ethand_utils.app.browser import PAGE, page_script
from ethand_utils.app.label_photos import LabelPhotos, added_hand, completed_hand, page_image
from ethand_utils.data.crops import crop_square
from ethand_utils.data.images import Photo, read_photo
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.failures import failure_line
from ethand_utils.files import FileError
from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.joints import CHAINS, WRIST
from ethand_utils.hands.photo_fit import PhotoFit
from ethand_utils.labels import (
    COLOURS,
    FINGERS,
    FRONT_LEFT,
    FRONT_RIGHT,
    HANDS,
    JOINT_PARTS,
    LEFT,
    PALM,
    RIGHT,
    SAFE_COLOURS,
)
from ethand_utils.locks import BusyError
from ethand_utils.outputs import OutputError
from ethand_utils.sources.label_files import FRONTS, LabelRecord, read_records
from ethand_utils.sources.label_fit import joint_name, joints_box, posed_hands
from ethand_utils.sources.photo_labels import (
    HandLabel,
    LabelFit,
    LabelFolder,
    PhotoLabel,
    fit_label,
    is_label_folder,
    label_masks,
)
from ethand_utils.style import in_style
from ethand_utils.training.photo_graph import PhotoGraph, released_graph

# JavaScript modules in the order of their imports.
MODULES = ("dom", "paint", "labelstate", "labelview", "labelstrip", "labelkeys", "labelbar", "help", "labeller")
STYLES = ("browser.css", "labeller.css")
OPENED = 4  # photos kept in memory
ROW = ("photo", "hands", "placed", "guessed", "front", "labeller", "seconds", "labelled_at")
LIVE_SIZE, MASK_SIZE = 192, 384  # px a side of the masks, while a joint is dragged and afterwards
STORED_IMAGES = "photos"  # folder of a store's images as files, in that of the labels


@dataclass
class _Opened:
    """A photo that the page shows: its pixels, its label as saved or guessed, and the last fit of joints.

    `untouched` says that the fit is of the label.
    """

    photo: Photo
    label: PhotoLabel
    fit: LabelFit | None = None
    untouched: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return self.photo.width, self.photo.height


class HandLabeler(anywidget.AnyWidget):
    """A widget to label the hands of photos: a folder, a list of files, or a store of images, into the folder `out`.

    Every change is saved at once: `out` is a `LabelFolder` and a store of the labelled photos' crops, `size` px a side,
    and the next widget on it goes on where this one stopped. `labeller` is noted in the labels. The first guess is by
    the net of `weights`, the package's own if None. `selected` is the name of the photo shown, `labels` the table of
    those labelled. Raises EthandError where there is no photo, or where `out` is no folder for labels; where somebody
    else has it open, or it cannot be written to, the widget only shows the labels.
    """

    _esm = page_script(MODULES)
    _css = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in STYLES)
    selected = traitlets.Unicode().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    _labels = traitlets.Dict().tag(sync=True)
    _done = traitlets.List().tag(sync=True)
    _closed = traitlets.Unicode().tag(sync=True)
    _viewer = traitlets.Unicode().tag(sync=True)  # of several views of the widget, the one that changes labels
    _folder: LabelFolder | None = None  # so that a widget that was refused can be closed, too
    _writers: ClassVar[weakref.WeakValueDictionary[Path, "HandLabeler"]] = weakref.WeakValueDictionary()

    def __init__(
        self,
        images: str | Path | Sequence[str | Path] | Store,
        out: str | Path,
        size: int = 128,
        labeller: str | None = None,
        weights: str | Path | None = None,
    ):
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise EthandError(f"{weights}: no such file of weights; check the path, or leave `weights` out")
        self.out, self.weights = Path(out), weights
        self.photos = LabelPhotos(images, self.out / STORED_IMAGES)
        self._net, self._opened = None, OrderedDict()
        self._reader = ThreadPoolExecutor(1)  # photos are read and guessed one at a time, the next one ahead
        self._folder = self._open_folder(size, labeller)
        self._labels, self._done = _page_labels(self.photos.names), self._labelled()
        self.selected = self.photos.names[self._first_unlabelled()]
        self.on_msg(self._on_message)

    # ---- for notebooks ----

    @property
    def labels(self) -> pd.DataFrame:
        """The labelled photos, a row each: hands, joints placed and guessed, who, when, and the seconds it took."""
        return pd.DataFrame([_label_row(record.label) for record in self._records().values()], columns=list(ROW))

    @property
    def store(self) -> Store:
        """The store of the labelled photos as it is now. Raises StoreError where none is labelled."""
        return Store(self.out)

    def save_view(self, path: str | Path) -> None:
        """Write the selected photo with masks and joints as PNG. Raises EthandError for another suffix."""
        path = Path(path)
        if path.suffix != ".png":
            raise EthandError(f"{path}: expected a name that ends in .png")
        opened = self._open(self.photos.index(self.selected))
        fit = fit_label(opened.label, opened.size)
        save_figure(_figure(opened.photo, fit, self.selected), path)

    def close(self) -> None:
        """Let others write to the folder, and take the widget away."""
        self._release("This labeller has been closed.")
        super().close()

    # ---- the folder ----

    def _open_folder(self, size: int, labeller: str | None) -> LabelFolder | None:
        """Open the folder of labels, in place of an older widget of this kernel; None where it is not to be written."""
        real = self.out.resolve()
        if real in self._writers:
            self._writers[real]._release("This folder is labelled in a newer widget; go on there.")
        try:
            folder = LabelFolder(self.out, size, labeller)
        except (BusyError, FileError, OutputError) as error:
            if not isinstance(error, BusyError) and not is_label_folder(self.out):
                raise
            self._closed = f"{failure_line(error)}; then run this cell again"
            return None
        self._writers[real] = self
        return folder

    def _release(self, reason: str) -> None:
        if self._folder is not None:
            self._folder.close()
            self._folder, self._closed = None, reason

    def _records(self) -> dict[Path, LabelRecord]:
        """Return what the label files say, by the real path of their photo."""
        records = read_records(self.out)[0].values()
        return {(self.out / record.path).resolve(): record for record in records}

    def _labelled(self) -> list[int]:
        """Return the indices of the photos that have a label."""
        records = self._records()
        return [k for k, file in enumerate(self.photos.files) if file.resolve() in records]

    def _first_unlabelled(self) -> int:
        """Return the index of the first photo without a label; the first one where all have theirs."""
        done = set(self._done)
        return next((k for k in range(len(self.photos.names)) if k not in done), 0)

    def _saved_label(self, index: int) -> PhotoLabel | None:
        file = self.photos.file(index)
        if self._folder is not None:
            return self._folder.get(file)
        record = self._records().get(file.resolve())
        return None if record is None else record.label

    @traitlets.validate("selected")
    def _validate_selected(self, proposal: dict) -> str:
        self.photos.index(proposal["value"])
        return proposal["value"]

    # ---- requests of the page ----

    def _on_message(self, _, message: dict, __) -> None:
        """Answer a request of the page; an error is shown in the page."""
        handlers = {"photo": self._send_photo, "fit": self._send_fit, "save": self._save, "add": self._add_hand}
        handlers |= {"guess": self._send_guess, "thumbnails": self._send_thumbnails}
        handlers["ahead"] = lambda request: self._ahead(int(request["photo"]))
        try:
            handlers[message["kind"]](message)
        except (EthandError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            self._answer(message, "fault", text=failure_line(error))

    def _answer(self, request: dict, kind: str, buffers: list[bytes] | None = None, **content) -> None:
        """Send an answer with its request's client, number and photo, by which the page knows its own."""
        whose = {name: request[name] for name in ("client", "serial", "photo") if name in request}
        self.send({"kind": kind, **whose, **content}, buffers)

    def _send_thumbnails(self, request: dict) -> None:
        rows = [int(k) for k in request["photos"]]
        self.send({"kind": "thumbnails", "photos": rows}, [self.photos.thumbnail(k) for k in rows])

    def _send_photo(self, request: dict) -> None:
        opened = self._open(int(request["photo"]))
        width, height = opened.size
        label = opened.label
        content = {"label": _label_to_page(label), "seconds": label.seconds, "saved": _clock(label.labelled_at)}
        self._answer(request, "photo", [page_image(opened.photo)], width=width, height=height, **content)

    def _open(self, index: int) -> _Opened:
        """Return a photo with its label: that saved, else the first guess."""
        return self._ahead(index).result()

    def _ahead(self, index: int) -> Future:
        """Start to read a photo, unless that has begun and not failed; the last OPENED ones stay in memory."""
        before = self._opened.get(index)
        if before is None or (before.done() and before.exception()):
            self._opened[index] = self._reader.submit(self._read, index, self._saved_label(index))
        self._opened.move_to_end(index)
        if len(self._opened) > OPENED:
            self._opened.popitem(last=False)
        return self._opened[index]

    def _read(self, index: int, label: PhotoLabel | None) -> _Opened:
        """Read a photo, guess its joints where it has no label, and fit them."""
        photo = read_photo(self.photos.file(index))
        opened = _Opened(photo, label or self._guess(photo, self.photos.names[index]))
        with contextlib.suppress(HandError):  # the page asks for the fit again, and shows why it fails
            opened.fit = fit_label(opened.label, opened.size)
        return opened

    def _guess(self, photo: Photo, name: str) -> PhotoLabel:
        """Return the first guess of a photo's joints, all of them marked as guesses until they are moved."""
        if self._net is None:
            self._net = _load_net(self.weights)
        guess, size = guess_joints(photo, self._net, name=name), (photo.width, photo.height)
        hands = tuple(hand and completed_hand(hand, side, size) for side, hand in enumerate(guess.hands))
        return replace(guess, hands=hands)

    def _send_guess(self, request: dict) -> None:
        opened = self._open(int(request["photo"]))
        label = self._reader.submit(self._guess, opened.photo, opened.label.photo).result()
        self._answer(request, "label", label=_label_to_page(label))

    def _add_hand(self, request: dict) -> None:
        opened, side = self._open(int(request["photo"])), int(request["hand"])
        label = self._from_page(opened, request)
        hands = tuple(added_hand(k, opened.size) if k == side else hand for k, hand in enumerate(label.hands))
        self._answer(request, "label", label=_label_to_page(replace(label, hands=hands)), added=side)

    def _send_fit(self, request: dict) -> None:
        """Fit the hands of a label and send them with their masks; where that fails, send why."""
        opened = self._open(int(request["photo"]))
        try:
            if request["live"]:
                opened.fit, opened.untouched = self._refit(request, opened), False
            elif opened.fit is None or not opened.untouched:
                opened.fit, opened.untouched = fit_label(opened.label, opened.size), True
        except EthandError as error:
            self._answer(request, "fit", [], failure=failure_line(error))
        else:
            self._answer_fit(request, opened.fit, LIVE_SIZE if request["live"] else MASK_SIZE)

    def _save(self, request: dict) -> None:
        """Save a label with the fit of its joints, and send that; joints that give no hand are not saved."""
        index = int(request["photo"])
        opened = self._open(index)
        try:
            fit = self._refit(request, opened)
            if self._folder is None:
                raise EthandError(self._closed)
            self._folder.save(self.photos.file(index), fit.label, fit)
        except EthandError as error:
            self._answer(request, "fit", [], failure=failure_line(error))
            return
        opened.fit, opened.label, opened.untouched = fit, self._saved_label(index), True
        self._answer_fit(request, fit, MASK_SIZE, _clock(datetime.now().isoformat()))
        if index not in self._done:
            self._done = [*self._done, index]

    def _refit(self, request: dict, opened: _Opened) -> LabelFit:
        label, quick = self._from_page(opened, request), bool(request["quick"])
        return _fit_again(label, opened, quick, bool(request["follow"]))

    def _answer_fit(self, request: dict, fit: LabelFit, size: int, saved: str = "") -> None:
        """Send the fitted hands with their masks at `size` px a side; after a full fit, also what may be wrong."""
        content = {"hands": [_hand_to_page(fit, side) for side in (LEFT, RIGHT)], "saved": saved, "size": size}
        content |= {"answers": [hand and hand.answer for hand in fit.label.hands], "quick": bool(request["quick"])}
        crop, buffers = None, []
        if fit.label.sides:
            crop = crop_square(joints_box(fit.pixels))
            masks = label_masks(fit, crop, size, fit.size)
            buffers = [masks["masks"].tobytes(), masks["front"].tobytes()]
        self._answer(request, "fit", buffers, crop=crop and list(crop), **content)
        if not request["quick"]:
            self._answer(request, "warnings", warnings=fit.warnings)

    def _from_page(self, opened: _Opened, request: dict) -> PhotoLabel:
        """Return the label of a request. Raises EthandError or ValueError for one that is none."""
        value, earlier = request["label"], opened.label
        hands = tuple(None if hand is None else HandLabel.from_json(hand) for hand in value["hands"])
        seconds = float(request.get("seconds", earlier.seconds))
        return PhotoLabel(earlier.photo, hands, value["front"], labeller=earlier.labeller, seconds=seconds)


def _load_net(weights: str | Path | None) -> PhotoGraph | None:
    """Return the net for first guesses, the package's own by default; None where that one cannot be run."""
    if weights is None:
        return released_graph()
    from ethand_utils.training.inference import export_photo_graph
    from ethand_utils.training.models import load_net

    return PhotoGraph(export_photo_graph(*load_net(weights)))


def _fit_again(label: PhotoLabel, opened: _Opened, quick: bool, follow: bool) -> LabelFit:
    """Fit a label's joints: `quick` from the photo's last fit, else anew.

    With `follow`, the answer of each hand is the one nearest to the last fit, whichever is the likelier now.
    """
    if quick:
        return fit_label(label, opened.size, opened.fit)
    fit = fit_label(label, opened.size)
    if not follow or opened.fit is None:
        return fit
    before = opened.fit.chosen
    answers = [_nearest(fits, start) for fits, start in zip(fit.answers, before, strict=True)]
    hands = tuple(hand and replace(hand, answer=k) for hand, k in zip(label.hands, answers, strict=True))
    fit = replace(fit, label=replace(label, hands=hands))
    return replace(fit, hands=posed_hands(fit.joints, label.front))


def _nearest(fits: list[PhotoFit], start: PhotoFit | None) -> int:
    """Return which answer's joints are nearest in depth to those of an earlier fit; without that, the likelier one."""
    if start is None or len(fits) < 2:
        return 0
    depths = [fit.joints[:, 2] - fit.joints[:, 2].mean() for fit in (*fits, start)]
    return int(np.argmin([np.square(depth - depths[-1]).sum() for depth in depths[:-1]]))


def _hand_to_page(fit: LabelFit, side: int) -> dict | None:
    """Return what the page draws of a fitted hand; None for an absent one."""
    chosen = fit.chosen[side]
    if chosen is None:
        return None
    residual = [None if np.isnan(value) else value for value in chosen.residual.tolist()]
    return {"pixels": chosen.pixels.tolist(), "residual": residual, "answers": len(fit.answers[side])}


def _label_to_page(label: PhotoLabel) -> dict:
    return {"hands": [hand and hand.to_json() for hand in label.hands], "front": label.front}


def _clock(labelled_at: str) -> str:
    """Return the date and time of an ISO time for reading; empty for none."""
    return f"{datetime.fromisoformat(labelled_at):%Y-%m-%d %H:%M:%S}" if labelled_at else ""


def _page_labels(photos: list[str]) -> dict:
    """Return all names and colours that the page shows; the page itself defines none."""
    part_of = [parts[-1] for parts in JOINT_PARTS]  # the part beyond a joint: a fingertip's own, at the wrist the palm
    bones = [(WRIST, int(chain[0]), PALM) for chain in CHAINS]
    for chain, parts in zip(CHAINS, FINGERS.values(), strict=True):
        bones += [(int(a), int(b), part) for a, b, part in zip(chain, chain[1:], parts, strict=False)]
    return {
        "photos": photos,
        "hands": list(HANDS),
        "fronts": [(front, "as fitted" if front == FRONTS[0] else front) for front in FRONTS],
        "in_front": [FRONT_LEFT, FRONT_RIGHT],
        "joints": [{"name": joint_name(k), "part": part} for k, part in enumerate(part_of)],
        "bones": bones,
        "wrist": WRIST,
        "palettes": {
            "standard": {"parts": COLOURS.tolist()},
            "colour-blind safe": {"parts": SAFE_COLOURS.tolist()},
        },
    }


def _label_row(label: PhotoLabel) -> dict:
    """Return a label's row of the table."""
    hands = [label.hands[side] for side in label.sides]
    guessed = sum(int((hand.guessed & hand.placed).sum()) for hand in hands)
    return {
        "photo": label.photo,
        "hands": " and ".join(HANDS[side] for side in label.sides) or "none",
        "placed": sum(int(hand.placed.sum()) for hand in hands) - guessed,
        "guessed": guessed,
        "front": label.front,
        "labeller": label.labeller,
        "seconds": label.seconds,
        "labelled_at": label.labelled_at,
    }


@in_style
def _figure(photo: Photo, fit: LabelFit, title: str) -> Figure:
    """Draw a photo, and beside it each of its hands with mask and joints."""
    sides = fit.label.sides
    figure, axes = plt.subplots(1, 1 + len(sides), figsize=(4 * (1 + len(sides)), 4), squeeze=False)
    for axis in axes.flat:
        axis.imshow(photo.image, extent=(0, photo.width, photo.height, 0))
        axis.axis("off")
    axes[0, 0].set_title(title)
    for axis, side in zip(axes.flat[1:], sides, strict=True):
        _draw_hand(axis, fit, side)
    return figure


def _draw_hand(axis, fit: LabelFit, side: int) -> None:
    """Draw a hand's mask and joints over a photo that is drawn already."""
    crop = crop_square(joints_box(fit.pixels))
    mask = label_masks(fit, crop, MASK_SIZE, fit.size)["masks"][side]
    x, y, length = crop
    shades = np.dstack([COLOURS[mask], np.where(mask > 0, 140, 0).astype(np.uint8)])
    axis.imshow(shades, extent=(x, x + length, y + length, y), interpolation="nearest")
    for chain in CHAINS:
        axis.plot(*fit.pixels[side][[WRIST, *chain]].T, color="white", linewidth=1, marker="o", markersize=2)
    width, height = fit.size
    axis.set(xlim=(0, width), ylim=(height, 0), title=f"{HANDS[side]} hand")
