"""The error browser: a notebook widget for the predictions, ground truth and errors of thousands of samples."""

import base64
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import anywidget
import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure
from scipy.sparse import csr_array, vstack

from ethand_utils.analysis.confusion import ERROR_COLOURS, ERRORS, MATRICES, disagreement, sparse_counts
from ethand_utils.analysis.image_plots import contact_sheet, five_panels, save_figure
from ethand_utils.analysis.predictions import Predictions
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import COLOURS, FINGERS, FRONT_LEFT, FRONT_RIGHT, HANDS, PALM, PARTS, SAFE_COLOURS

PAGE = Path(__file__).parent / "page"
# JavaScript modules in the order of their imports; anywidget takes a single script.
MODULES = (
    *("dom", "samples", "pixels", "paint", "gallery", "detail", "confusion"),
    *("keys", "export", "controls", "filters", "help", "browser"),
)
WORST = 50  # samples kept in the widget's state, for pages without a kernel
WORST_SIZE = 64  # px a side of their images, at most
CHUNK = 128  # samples compared or counted for one request, so that other requests do not wait long
SHEET = 24  # samples of the gallery that `save_view` draws
TAGS = ("bad truth", "ambiguous")
# Columns to sort by: label, and whether the worst samples have the highest values.
NUMBERS = {
    "course_miou": ("course mIoU", False),
    "course_miou_left": ("mIoU, left hand", False),
    "course_miou_right": ("mIoU, right hand", False),
    "occluded_iou": ("occluded IoU", False),
    "visible_iou": ("visible IoU", False),
    "order_accuracy": ("order accuracy", False),
    "confidence": ("confidence", False),
    "occluded": ("occluded share", True),
    "compared": ("mIoU, other model", False),
    "difference": ("mIoU, difference", False),
    "disagreement": ("disagreement", True),
}
CATEGORIES = ("hand_type", "arrangement", "subject", "capture", "seq", "camera")


def page_script(modules: Sequence[str] = MODULES) -> str:
    """Return the modules joined to one ES module: without their imports and with the last module's export only."""
    texts = [(PAGE / f"{name}.js").read_text(encoding="utf-8") for name in modules]
    joined = "\n".join(re.sub(r'^import [^;]*? from "\./\w+\.js";\n', "", text, flags=re.MULTILINE) for text in texts)
    return re.sub(r"^export (?!default)", "", joined, flags=re.MULTILINE)


class ErrorBrowser(anywidget.AnyWidget):
    """A widget to browse the errors of `predictions`, a folder that `evaluate.evaluate_store` wrote, or its store.

    `data` is the store of the images (None: the one that the predictions name), with masks and front where it has them;
    `compare` are another model's predictions of the same data. `selected` is the id of the selected sample, `filtered`
    the table of the samples that pass the filters, `view` the state of the page; setting `selected` or `view` changes
    the page. Tags are saved beside the predictions. Raises PredictionsError when predictions and data do not fit.
    """

    _esm = page_script()
    _css = (PAGE / "browser.css").read_text(encoding="utf-8")
    selected = traitlets.Unicode().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    _labels = traitlets.Dict().tag(sync=True)
    _worst = traitlets.Dict().tag(sync=True)
    _worst_bytes = traitlets.Bytes().tag(sync=True)
    _rows = traitlets.CBytes(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        predictions: str | Path | Store,
        data: str | Path | Store | None = None,
        compare: str | Path | Store | None = None,
    ):
        super().__init__()
        self.predictions = Predictions(predictions, data)
        self.compared = None if compare is None else Predictions(compare, self.predictions.data)
        self._numbers = _numbers(self.predictions, self.compared)
        self._counts = self.predictions.cached_counts() if self.predictions.truth is not None else None
        self._chunks: list[csr_array] = []
        self._order = _worst_first(self._numbers, len(self.predictions))
        self._labels = _labels(self.predictions, self.compared)
        self._worst, self._worst_bytes = self._static()
        self.on_msg(self._on_message)

    @property
    def filtered(self) -> pd.DataFrame:
        """The samples that pass the filters, in the page's order, with their tags; at first all, worst first."""
        rows = self._order if self._rows is None else np.frombuffer(self._rows, "<u4")
        table = self.predictions.table.assign(**self._numbers).iloc[rows]
        return table.assign(tags=["; ".join(self.tags.get(name, ())) for name in table["id"]])

    @property
    def tags(self) -> dict[str, list[str]]:
        """The saved tags of samples, by id."""
        return self.predictions.tags

    def tag(self, name: str, tag: str, on: bool = True) -> None:
        """Add a tag to the sample with id `name`, or remove it (`on` False); save it and show it in the page."""
        self._require(name)
        self.predictions.tag(name, tag, on)
        self.send({"kind": "tags", "tags": self.tags})

    def save_view(self, path: str | Path) -> None:
        """Write the view: `.csv` the filtered table, `.png` the selected sample if one is open, else the gallery.

        Raises EthandError for another suffix, and for a `.png` when no sample passes the filters.
        """
        path, table = Path(path), self.filtered
        if path.suffix == ".csv":
            with atomic_write(path) as temporary:
                table.to_csv(temporary, index=False)
        elif path.suffix != ".png":
            raise EthandError(f"{path}: expected a name that ends in .png (the view) or .csv (the filtered table)")
        elif self.view.get("mode") == "detail" and self.selected:
            save_figure(self._panels(self._require(self.selected)), path)
        elif len(table):
            rows, store, data = table.index[:SHEET].to_numpy(), self.predictions.store, self.predictions.data
            save_figure(contact_sheet(data.images[rows], store.masks[rows], 6, table["id"].tolist()[:SHEET]), path)
        else:
            raise EthandError(f"{path}: no sample is left by the filters, so there is nothing to draw")

    def save_page(self, path: str | Path) -> None:
        """Write one HTML file with the WORST samples that needs neither a kernel nor a network."""
        names = ("selected", "view", "_labels", "_worst")
        state = json.dumps({name: getattr(self, name) for name in names}).replace("</", "<\\/")
        script = self._esm.replace("export default", "const widget =")
        page = (PAGE / "static.html").read_text(encoding="utf-8")
        pixels = base64.b64encode(self._worst_bytes).decode()
        for key, text in {"CSS": self._css, "SCRIPT": script, "STATE": state, "BYTES": pixels}.items():
            page = page.replace(f"%{key}%", text)
        with atomic_write(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    @traitlets.validate("selected")
    def _validate_selected(self, proposal: dict) -> str:
        if proposal["value"]:
            self._require(proposal["value"])
        return proposal["value"]

    def _require(self, name: str) -> int:
        """Return the row of the sample with an id. Raises EthandError when there is none."""
        rows = np.flatnonzero(self.predictions.table["id"].to_numpy() == name)
        if not len(rows):
            raise EthandError(f"{name}: no sample of {self.predictions.store.path} has this id")
        return int(rows[0])

    def _panels(self, row: int) -> Figure:
        image, predicted = self.predictions.data.images[row], self.predictions.store.masks[row]
        title = f"{self.predictions.name}: {self.predictions.table['id'][row]}"
        if self.predictions.truth is None:
            return contact_sheet(image[None], predicted[None], 3, [title])
        return five_panels(image, predicted, self.predictions.truth[row], title)

    def _static(self) -> tuple[dict, bytes]:
        """Return the worst samples with small images: a header, and all arrays joined and compressed."""
        rows = np.sort(self._order[:WORST])
        step = -(-self.predictions.store.size // WORST_SIZE)
        header, arrays = self._columns(rows)
        pixels = [np.ascontiguousarray(array[:, ..., ::step, ::step]) for array in self._masks(rows)]
        pixels.insert(0, np.ascontiguousarray(self.predictions.data.images[rows][:, ::step, ::step]))
        counts = self._count(rows)
        header |= {"size": pixels[0].shape[1], "columns_end": len(arrays), "pixels_end": len(arrays) + len(pixels)}
        arrays += pixels + counts
        header["lengths"] = [array.nbytes for array in arrays]
        return header, zlib.compress(b"".join(array.tobytes() for array in arrays), 9)

    def _columns(self, rows: np.ndarray) -> tuple[dict, list[np.ndarray]]:
        """Return the table of some samples: a header, and an array for each of its columns."""
        table, numbers, categories, arrays = self.predictions.table, [], [], []
        for name, values in self._numbers.items():
            label, descending = NUMBERS[name]
            numbers.append({"name": name, "label": label, "descending": descending})
            arrays.append(values[rows].astype("<f4"))
        for name in CATEGORIES:
            if name in table and (name == "hand_type" or 1 < table[name].nunique() < len(table)):
                codes, levels = pd.factorize(table[name].astype(str), sort=True)
                categories.append({"name": name, "label": name.replace("_", " "), "levels": list(levels)})
                arrays.append(codes[rows].astype("<u4"))
        header = {"rows": rows.tolist(), "ids": table["id"].iloc[rows].tolist(), "tags": self.tags}
        return header | {"numbers": numbers, "categories": categories}, arrays

    def _masks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the masks of some samples: prediction, the other model's, ground truth, front, as far as available."""
        other = None if self.compared is None else self.compared.store.masks
        arrays = (self.predictions.store.masks, other, self.predictions.truth, self.predictions.front)
        return [np.ascontiguousarray(array[rows]) for array in arrays if array is not None]

    def _count(self, rows: np.ndarray) -> list[np.ndarray]:
        """Count the confusion of some samples, as arrays; nothing without ground truth."""
        if self.predictions.truth is None:
            return []
        return _arrays(sparse_counts(self.predictions.store.masks[rows], self.predictions.truth[rows]))

    def _on_message(self, _, message: dict, __) -> None:
        """Answer a request of the page; an error is shown in the page."""
        handlers = {"open": self._send_columns, "pixels": self._send_pixels, "counts": self._send_counts}
        handlers["tag"] = lambda request: self.tag(str(request["id"]), str(request["tag"]), bool(request["on"]))
        try:
            handlers[message["kind"]](message)
        except (EthandError, KeyError, IndexError, TypeError, ValueError) as error:
            self.send({"kind": "fault", "text": str(error)})

    def _send_columns(self, _: dict) -> None:
        header, arrays = self._columns(np.arange(len(self.predictions)))
        self.send({"kind": "samples", "header": header}, [array.tobytes() for array in arrays])

    def _send_pixels(self, request: dict) -> None:
        rows = np.array(request["rows"], dtype=int)
        arrays = [self.predictions.data.images[rows], *self._masks(rows)]
        self.send({"kind": "pixels", "rows": rows.tolist()}, [array.tobytes() for array in arrays])

    def _send_counts(self, request: dict) -> None:
        """Send the confusion, and the models' disagreement, of the CHUNK samples from `start` on."""
        start, count = int(request["start"]), len(self.predictions)
        stop = count if self._counts is not None and self.compared is None else min(start + CHUNK, count)
        arrays, rows = [], slice(start, stop)
        if self.predictions.truth is not None:
            arrays += _arrays(self._count_chunk(rows))
        if self.compared is not None:
            share = disagreement(self.predictions.store.masks[rows], self.compared.store.masks[rows])
            self._numbers["disagreement"][rows] = share
            arrays.append(share)
        self.send({"kind": "counts", "start": start, "stop": stop}, [array.tobytes() for array in arrays])

    def _count_chunk(self, rows: slice) -> csr_array:
        """Count the confusion of a chunk of samples; with the last chunk, write the file of all."""
        if self._counts is not None:
            return self._counts[rows]
        chunk = sparse_counts(self.predictions.store.masks[rows], self.predictions.truth[rows])
        self._chunks = [*self._chunks, chunk] if rows.start else [chunk]
        if rows.stop == len(self.predictions) == sum(chunk.shape[0] for chunk in self._chunks):
            self._counts = self.predictions.cache_counts(vstack(self._chunks, format="csr"))
        return chunk


def _arrays(counts: csr_array) -> list[np.ndarray]:
    return [counts.indptr.astype("<u4"), counts.indices.astype("<u2"), counts.data.astype("<u4")]


def _numbers(ours: Predictions, other: Predictions | None) -> dict[str, np.ndarray]:
    """Return the available columns [n] of NUMBERS; the disagreement is NaN until it is counted."""
    table = ours.table.dropna(axis="columns", how="all") if len(ours) else ours.table
    columns = {name: table[name].to_numpy(float) for name in NUMBERS if name in table}
    if other is not None and "course_miou" in columns:
        columns["compared"] = other.table["course_miou"].to_numpy(float)
        columns["difference"] = columns["course_miou"] - columns["compared"]
    if other is not None:
        columns["disagreement"] = np.full(len(ours), np.nan)
    return {name: columns[name] for name in NUMBERS if name in columns}


def _worst_first(numbers: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Return the rows sorted by the first column (course mIoU; confidence without ground truth), NaN last."""
    return np.argsort(next(iter(numbers.values())), kind="stable") if numbers else np.arange(count)


def _labels(ours: Predictions, other: Predictions | None) -> dict:
    """Return all names and colours that the page shows; the page itself defines none."""
    groups = [{"name": finger, "parts": list(parts)} for finger, parts in FINGERS.items()]
    return {
        "name": ours.name,
        "other": None if other is None else other.name,
        "size": ours.store.size,
        "count": len(ours),
        "truth": ours.truth is not None,
        "front": ours.front is not None,
        "in_front": [FRONT_LEFT, FRONT_RIGHT],
        "hands": list(HANDS),
        "parts": list(PARTS),
        "groups": [*groups, {"name": PARTS[PALM], "parts": [PALM]}],
        "errors": list(ERRORS),
        "matrices": list(MATRICES),
        "tags": list(TAGS),
        "palettes": {
            "standard": {"parts": COLOURS.tolist(), "errors": ERROR_COLOURS.tolist()},
            "colour-blind safe": {"parts": SAFE_COLOURS.tolist(), "errors": ERROR_COLOURS.tolist()},
        },
    }
