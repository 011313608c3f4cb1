"""`ethand demo`: notebook 00_start, executed, and a page of what it made."""

import json
from pathlib import Path

import pandas as pd

from ethand_utils.analysis.image_plots import legend_of_parts
from ethand_utils.app.html import Element, Links, Paragraph, Table, figure_image, image
from ethand_utils.app.report import write_page
from ethand_utils.data.images import read_photo
from ethand_utils.experiments.demo import open_demo
from ethand_utils.experiments.run import Run
from ethand_utils.experiments.workflow import execute_notebook
from ethand_utils.locks import hold_named

NOTEBOOK = "00_start"
SCORES = {
    "course_miou": "mean IoU of the parts of a hand, hidden pixels included (course mIoU)",
    "visible_iou": "IoU of a hand's outline where it is seen",
    "occluded_iou": "IoU of a hand's outline where the other hand hides it",
}


def run_demo(photo: Path | None = None, name: str = "demo") -> Path:
    """Execute notebook 00_start on `photo`, or on a rendered picture, and return the path of the page about it.

    Raises EthandError before anything is executed for a photo that cannot be read, and for a folder `outputs/<name>/`
    that holds anything but an earlier demo.
    """
    if photo is not None:
        read_photo(photo)
    demo = open_demo(name)
    with hold_named(demo.folder / ".demo.lock", "`ethand demo`"):
        parameters = {"RUN": name, "PHOTO": str(photo.absolute()) if photo else ""}
        execute_notebook(NOTEBOOK, demo.folder, NOTEBOOK, parameters)
        return write_demo_page(demo)


def write_demo_page(demo: Run) -> Path:
    """Write `index.html` of a demo whose notebook was executed: pictures, scores, and what to open and do next."""
    result = json.loads((demo.folder / "start/result.json").read_text())
    scenes, photo = ((demo.folder / f"figures/{name}.png").read_bytes() for name in ("scenes", "photo"))
    sections = [
        ("Truth and prediction", _scenes(scenes, result)),
        ("A photo", _photo(photo, result)),
        ("Look closer", _links()),
    ]
    return write_page(demo.folder / "index.html", "demo", sections, f"Made from the files of outputs/{demo.name}/.")


def _scenes(figure: bytes, result: dict) -> list[Element]:
    """Return the scenes, true and predicted masks beside each other, and the net's scores on them."""
    note = (
        f"{result['scored_samples']} scenes that the package's net has never seen, rendered just now, so that the true "
        "part of every pixel is known. For each hand: the true parts, then the predicted ones. A hand's mask goes on "
        "behind whatever hides it; a hand that is not there is black."
    )
    alt = "Scenes, each with the true and the predicted mask of the left and of the right hand."
    scores = {text: result[key] for key, text in SCORES.items() if pd.notna(result[key])}
    table = pd.DataFrame([(text, f"{score:.2f}") for text, score in scores.items()], columns=["score", "0 to 1"])
    legend = figure_image(legend_of_parts(), "The colour of every part, by name.")
    return [Paragraph(note), image(figure, alt), legend, Table(table, "words")]


def _photo(figure: bytes, result: dict) -> list[Element]:
    """Return the photo with the masks of both hands."""
    number = result["hands_found"]
    caption = "No hands were found in it." if not number else "The masks lie over the hands, left and then right."
    return [Paragraph(f"{result['photo']}. {caption}"), image(figure, "The photo, then with each hand's mask over it.")]


def _links() -> list[Element]:
    """Return links to the error browser and the notebook, and the commands that come next."""
    items = [
        ("Error browser: click a scene, press Enter; ? lists all keys", "errors.html"),
        ("The notebook that made all this, with its code", f"html/{NOTEBOOK}.html"),
    ]
    commands = {
        "ethand demo photo.jpg": "this page with a photo of yours",
        "ethand predict photo.jpg": "the masks of a photo, as files",
        "make run": "render a data set, train the report's nets on it, compare them",
    }
    table = pd.DataFrame(commands.items(), columns=["command", "what it does"])
    return [Links(items), Paragraph("What to do next:"), Table(table, "words")]
