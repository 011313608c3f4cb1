"""The `ethand data` commands."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build data sets and look them over.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("render")
def render(
    out: Annotated[Path, typer.Option(help="folder of the data set")],
    train: Annotated[int, typer.Option(help="paired samples to train on")] = 4000,
    val: Annotated[int, typer.Option(help="paired samples to watch a training by")] = 400,
    test: Annotated[int, typer.Option(help="paired samples for scores")] = 400,
    unpaired: Annotated[int, typer.Option(help="images without masks, and as many masks without images")] = 4000,
    size: Annotated[int, typer.Option(help="px a side")] = 128,
    seed: Annotated[int, typer.Option(help="the same seed gives the same bytes")] = 0,
    workers: Annotated[int, typer.Option(help="processes; 0: one a core")] = 0,
    views: Annotated[str, typer.Option(help="cameras: round the whole dome, or in front of the person")] = "round",
    depth: Annotated[bool, typer.Option("--depth", help="store each limb's depth in metres, too")] = False,
    part: Annotated[str | None, typer.Option(metavar="I/K", help="render only this share, such as 2/8")] = None,
):
    """Render a data set of two hands with amodal masks. An interrupted build goes on where it stopped.

    With --part 1/K … K/K, K jobs on any hosts that see the folder share the work; when they have ended, the same
    command without --part joins what they made.
    """
    from ethand_utils.datasets import render_dataset
    from ethand_utils.parts import Part

    share = None if part is None else Part.parse(part)
    workers = workers or len(os.sched_getaffinity(0))
    render_dataset(out, train, val, test, unpaired, size, seed, workers, depth=depth, views=views, part=share)
    if share:
        print(f"{out}: part {share} is there; when all are, the same command without --part joins them")
    else:
        info(out)


@app.command("info")
def info(folder: Annotated[Path, typer.Argument(help="a data set or a store")], as_json: Json = False):
    """What a data set or store holds. Refuses a damaged one, naming the file at fault."""
    import pandas as pd

    from ethand_utils.datasets import describe, open_dataset

    rows = {name: describe(store) for name, store in open_dataset(folder).items()}
    print(json.dumps(rows, indent=1) if as_json else pd.DataFrame(rows).T.to_string())


@app.command("sheet")
def sheet(
    folder: Annotated[Path, typer.Argument(help="a store; of a data set, the first with images")],
    out: Annotated[Path, typer.Option(help="picture to write, .png")],
    count: Annotated[int, typer.Option(help="images on the sheet")] = 64,
    frames: Annotated[
        Path | None, typer.Option(help="InterHand2.6M images with their annotation: mix these real frames in")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the choice and of the places")] = 0,
):
    """A contact sheet of random images. With --frames, real ones are among them: can you tell which?

    Where the real ones are is printed when the sheet is written, as row and column counted from 1.
    """
    from ethand_utils import compare, plots
    from ethand_utils.datasets import open_dataset
    from ethand_utils.interhand import read_frames

    store = compare.store_with_images(open_dataset(folder).values())
    sheet, places = compare.mixed_sheet(store, count, read_frames(frames) if frames is not None else [], seed)
    plots.save_image(sheet, out)
    print(out)
    for row, column, name in places:
        print(f"real: row {row}, column {column} ({name})")
