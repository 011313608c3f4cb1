"""The `ethand data` commands."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ethand_utils.exceptions import EthandError

app = typer.Typer(help="Build data sets and look them over.", no_args_is_help=True)


class Hands(StrEnum):
    """Where hands come from."""

    RIG = "rig"
    MANO = "mano"


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
    from ethand_utils.data.store_builder import Shard
    from ethand_utils.sources.rendered import render_dataset

    shard = None if part is None else Shard.parse(part)
    workers = workers or len(os.sched_getaffinity(0))
    render_dataset(out, train, val, test, unpaired, size, seed, workers, depth=depth, views=views, shard=shard)
    if shard:
        print(f"{out}: part {shard} is there; when all are, the same command without --part joins them")
    else:
        info(out)


@app.command("interhand")
def interhand(
    root: Annotated[Path, typer.Option(help="InterHand2.6M: images/ and annotations/, or all in one folder")],
    out: Annotated[Path, typer.Option(help="folder of the data set")],
    split: Annotated[
        list[str] | None, typer.Option(help="train, val, test; several with commas or repeated; default: all")
    ] = None,
    hands: Annotated[
        Hands, typer.Option(help="rig: fit a free hand to the joints; mano: parameters and --mano-dir")
    ] = Hands.RIG,
    mano_dir: Annotated[Path | None, typer.Option(help="folder of MANO_RIGHT.pkl and MANO_LEFT.pkl")] = None,
    paired: Annotated[int, typer.Option(help="training frames with masks, at most; those beyond are unpaired")] = 68000,
    unpaired: Annotated[int | None, typer.Option(help="unpaired images, at most; default: all")] = None,
    val: Annotated[int | None, typer.Option(help="frames to watch a training by, at most; default: all")] = None,
    test: Annotated[int | None, typer.Option(help="frames for scores, at most; default: all")] = None,
    limit: Annotated[int | None, typer.Option(help="frames of each split, at most, spread over all of it")] = None,
    every: Annotated[int, typer.Option(help="take every N-th moment of a sequence")] = 1,
    captures: Annotated[str, typer.Option(help="only these, such as 0,3; default: all")] = "",
    hand_types: Annotated[str, typer.Option(help="only these")] = "right,left,interacting",
    size: Annotated[int, typer.Option(help="px a side")] = 128,
    seed: Annotated[int, typer.Option(help="of the draws; the same seed gives the same bytes")] = 0,
    workers: Annotated[int, typer.Option(help="processes; 0: one a core")] = 0,
    part: Annotated[str | None, typer.Option(metavar="I/K", help="do only this share of the work, such as 2/8")] = None,
):
    """Build a data set with amodal masks from InterHand2.6M as downloaded.

    Every frame is checked first; what is missing, damaged or contradictory is skipped, counted and listed in
    OUT/report.json. The official splits become the stores train, val and test; training frames beyond --paired become
    unpaired_images. A single annotation, unless asked for by --split, is divided by subjects, else by captures.

    An interrupted build goes on where it stopped. With --part 1/K … K/K, K jobs on any hosts that see the folder share
    the work; when they have ended, the same command without --part joins what they made.
    """
    from ethand_utils.data.store_builder import Shard
    from ethand_utils.sources.interhand import read_interhand

    shard = None if part is None else Shard.parse(part)
    read_interhand(
        out, root, _listed(",".join(split or ())) or None, paired, unpaired, val, test, size, _source(hands, mano_dir),
        every, limit, _listed(captures) or None, _listed(hand_types), seed, workers or len(os.sched_getaffinity(0)),
        shard,
    )  # fmt: skip
    if shard:
        print(f"{out}: part {shard} is there; when all are, the same command without --part joins them")
    else:
        _print_report(out)
        info(out)


def _source(hands: Hands, mano_dir: Path | None):
    """The source of hands that was chosen."""
    if (hands is Hands.MANO) != (mano_dir is not None):
        raise EthandError("interhand: expected --hands mano and --mano-dir together, or neither")
    if hands is Hands.MANO:
        from ethand_utils.hands.mano import ManoHands

        return ManoHands(mano_dir)
    from ethand_utils.sources.joint_annotations import RigHands

    return RigHands()


def _listed(text: str) -> tuple[str, ...]:
    """`0,3` → its parts."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _print_report(out: Path) -> None:
    """What a reader found: samples listed, skipped and kept, and how far fitted hands are from their joints."""
    from ethand_utils.data.datasets import REPORT, report_table

    report = json.loads((out / REPORT).read_text())
    print(report_table(report).reset_index().to_string(index=False))
    for hand, mean in report.get("residual_mm", {}).items():
        print(f"mean residual of the {hand} hand's joints: {'none' if mean is None else f'{mean:.2f} mm'}")
    shared = report.get("subjects_in_several_stores")
    if shared:
        print(f"subjects in several stores, as in the official splits: {' '.join(shared)}")
    print()


@app.command("course")
def course(
    root: Annotated[Path, typer.Option(help="folder of the course's LMDBs and lists, or the one that has data/")],
    out: Annotated[Path, typer.Option(help="folder of the data set")],
    size: Annotated[int, typer.Option(help="px a side")] = 128,
    train: Annotated[int | None, typer.Option(help="paired samples to train on, at most; default: all")] = None,
    val: Annotated[int | None, typer.Option(help="paired samples to watch a training by, at most")] = None,
    test: Annotated[int | None, typer.Option(help="images of the test set, at most; it has no masks")] = None,
    unpaired: Annotated[int | None, typer.Option(help="images without masks, and masks without, at most")] = None,
    workers: Annotated[int, typer.Option(help="processes; 0: one a core")] = 0,
):
    """Read the course's LMDBs and lists into a data set. An interrupted build goes on where it stopped.

    Images and masks are cropped by the boxes of the lists. Broken samples are left out and counted, here and in
    OUT/report.json. Fewer samples than there are, are taken evenly spread over the list.
    """
    from ethand_utils.sources.course import read_course

    read_course(root, out, size, train, val, test, unpaired, workers or len(os.sched_getaffinity(0)))
    _print_report(out)
    info(out)


@app.command("export-course")
def export_course(
    folder: Annotated[Path, typer.Argument(help="a data set or a store")],
    out: Annotated[Path, typer.Option(help="folder to write data/InterHand2.6M into")],
):
    """Write a data set in the course's layout (LMDBs and .pt lists), so that code made for it runs on our data.

    Images become JPEGs (quality 95, 4:4:4), every crop a frame with itself as box. The layout has no place for the
    masks of the test set. A single store of another name than a data set's counts as train, without masks as test,
    without images as unpaired labels.
    """
    from ethand_utils.data.datasets import open_dataset
    from ethand_utils.sources import course_export

    print(course_export.export_course(open_dataset(folder), out))


@app.command("info")
def info(folder: Annotated[Path, typer.Argument(help="a data set or a store")], as_json: Json = False):
    """What a data set or store holds. Refuses a damaged one, naming the file at fault."""
    import pandas as pd

    from ethand_utils.data.datasets import describe, open_dataset

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
    from ethand_utils.analysis import image_plots as plots
    from ethand_utils.analysis import real_frames as compare
    from ethand_utils.data.datasets import open_dataset
    from ethand_utils.sources.interhand_frames import read_frames

    store = compare.store_with_images(open_dataset(folder).values())
    sheet, places = compare.mixed_sheet(store, count, read_frames(frames) if frames is not None else [], seed)
    plots.save_image(sheet, out)
    print(out)
    for row, column, name in places:
        print(f"real: row {row}, column {column} ({name})")
