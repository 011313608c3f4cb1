"""The `ethand data` commands."""

import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ethand_utils.exceptions import EthandError
from ethand_utils.outputs import claim_file, claim_folder, claim_shared_folder
from ethand_utils.rendering.options import SHARES, RenderOptions
from ethand_utils.sources.detect import SOURCES, find_source

app = typer.Typer(help="Build data sets and look them over.", no_args_is_help=True, rich_markup_mode=None)


READER_HELP = """Build a data set from {title}.

An interrupted build resumes where it stopped. Samples that are left out are counted here and in OUT/report.json, where
the source writes one.
"""


class Hands(StrEnum):
    """Sources of hands for InterHand2.6M."""

    RIG = "rig"
    MANO = "mano"


Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Out = Annotated[Path, typer.Option(help="folder of the data set")]
Size = Annotated[int, typer.Option(help="px a side")]
Seed = Annotated[int, typer.Option(help="of every random choice; the same seed gives the same bytes")]
Workers = Annotated[int, typer.Option(help="processes; 0: one a core")]
Part = Annotated[str | None, typer.Option(metavar="I/K", help="do only this share of the work, such as 2/8")]


@app.command("render")
def render(
    out: Out,
    train: Annotated[int, typer.Option(help="paired samples to train on")] = 4000,
    val: Annotated[int, typer.Option(help="paired samples to watch a training by")] = 400,
    test: Annotated[int, typer.Option(help="paired samples for scores")] = 400,
    unpaired: Annotated[int, typer.Option(help="images without masks, and as many masks without images")] = 4000,
    size: Size = 128,
    seed: Seed = 0,
    workers: Workers = 0,
    views: Annotated[str, typer.Option(help="cameras: round the whole dome, or in front of the person")] = "round",
    single_share: Annotated[float, typer.Option(help=SHARES["single_share"])] = RenderOptions.single_share,
    second_rig_share: Annotated[float, typer.Option(help=SHARES["second_rig_share"])] = RenderOptions.second_rig_share,
    rotation_share: Annotated[float, typer.Option(help=SHARES["rotation_share"])] = RenderOptions.rotation_share,
    occluder_share: Annotated[float, typer.Option(help=SHARES["occluder_share"])] = RenderOptions.occluder_share,
    photo_share: Annotated[float, typer.Option(help=SHARES["photo_share"])] = RenderOptions.photo_share,
    box_jitter: Annotated[float, typer.Option(help=SHARES["box_jitter"])] = RenderOptions.box_jitter,
    depth: Annotated[bool, typer.Option("--depth", help="store each limb's depth in metres, too")] = False,
    part: Part = None,
):
    """Render a data set of two hands with amodal masks.

    An interrupted build resumes where it stopped. With --part 1/K … K/K, K jobs on any hosts that see the folder share
    the work; when they have ended, the same command without --part merges what they made.
    """
    claim_shared_folder(out)
    from ethand_utils.data.store_builder import Shard
    from ethand_utils.sources.rendered import render_dataset

    shard, workers = None if part is None else Shard.parse(part), workers or _cores()
    shares = (single_share, second_rig_share, rotation_share, occluder_share, photo_share, box_jitter)
    options = RenderOptions(views, *shares)
    render_dataset(out, train, val, test, unpaired, size, seed, workers, depth=depth, options=options, shard=shard)
    _print_built(out, part)


@app.command("interhand")
def interhand(
    root: Annotated[Path, typer.Option(help="InterHand2.6M: images/ and annotations/, or all in one folder")],
    out: Out,
    split: Annotated[
        list[str] | None, typer.Option(help="train, val, test; several with commas or repeated; default: all")
    ] = None,
    hands: Annotated[
        Hands, typer.Option(help="rig: fit a free hand to the joints; mano: parameters and --mano-dir")
    ] = Hands.RIG,
    mano_dir: Annotated[Path | None, typer.Option(help="folder of MANO_RIGHT.pkl and MANO_LEFT.pkl")] = None,
    annotations: Annotated[
        str | None,
        typer.Option(
            help="set of annotations, by its folder: all, human_annot or machine_annot; default: all, or the only one"
        ),
    ] = None,
    paired: Annotated[int, typer.Option(help="training frames with masks, at most; those beyond are unpaired")] = 68000,
    unpaired: Annotated[int | None, typer.Option(help="unpaired images, at most; default: all")] = None,
    val: Annotated[int | None, typer.Option(help="frames to watch a training by, at most; default: all")] = None,
    test: Annotated[int | None, typer.Option(help="frames for scores, at most; default: all")] = None,
    limit: Annotated[int | None, typer.Option(help="frames of each split, at most, spread over all of it")] = None,
    every: Annotated[int, typer.Option(help="take every N-th moment of a sequence")] = 1,
    captures: Annotated[str, typer.Option(help="only these, such as 0,3; default: all")] = "",
    hand_types: Annotated[str, typer.Option(help="only these")] = "right,left,interacting",
    size: Size = 128,
    seed: Seed = 0,
    workers: Workers = 0,
    part: Part = None,
):
    """Build a data set with amodal masks from InterHand2.6M as downloaded.

    Every frame is checked first; what is missing, damaged or contradictory is skipped, counted and listed in
    OUT/report.json. The official splits become the stores train, val and test; training frames beyond --paired become
    unpaired_images. A single annotation, unless asked for by --split, is divided by subjects, else by captures.

    An interrupted build resumes where it stopped. With --part 1/K … K/K, K jobs on any hosts that see the folder share
    the work; when they have ended, the same command without --part merges what they made.
    """
    if (hands is Hands.MANO) != (mano_dir is not None):
        raise EthandError("interhand: expected --hands mano and --mano-dir together, or neither")
    claim_shared_folder(out, (root, mano_dir))
    from ethand_utils.data.store_builder import Shard
    from ethand_utils.sources.interhand import hand_source, read_interhand

    shard, workers = None if part is None else Shard.parse(part), workers or _cores()
    read_interhand(
        root, out, _items(",".join(split or ())) or None, size, hand_source(mano_dir), workers, shard,
        paired=paired, unpaired=unpaired, val=val, test=test, every=every, limit=limit,
        captures=_items(captures) or None, hand_types=_items(hand_types), seed=seed, annotations=annotations,
    )  # fmt: skip
    _print_built(out, part)


@app.command("labels")
def labels(
    folder: Annotated[Path, typer.Argument(help="folder that the labeller writes to")],
    out: Out,
    train: Annotated[int | None, typer.Option(help="photos to train on, at most; those beyond are unpaired")] = None,
    val: Annotated[int | None, typer.Option(help="photos to watch a training by, at most; default: all")] = None,
    test: Annotated[int | None, typer.Option(help="photos for scores, at most; default: all")] = None,
    unpaired: Annotated[int | None, typer.Option(help="unpaired images, at most; default: all")] = None,
    size: Size = 128,
    workers: Workers = 0,
):
    """Build a data set from labels of one's own photos.

    The photos are divided among the stores train, val and test when they are labelled, three to one to one, and stay
    there. What gives no sample is counted here and in OUT/report.json.
    """
    claim_shared_folder(out, (folder,))
    from ethand_utils.sources.labels_dataset import read_labels

    read_labels(folder, out, size, train, val, test, unpaired, workers or _cores())
    _print_built(out)


def _items(text: str) -> tuple[str, ...]:
    """Return the items of a list such as `0,3`."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def add_readers(commands: typer.Typer) -> None:
    """Add a command for every source that reads files and has none yet."""
    own = {command.name for command in commands.registered_commands}
    for name, source in SOURCES.items():
        if source.reads_files and name not in own:
            commands.command(name, help=READER_HELP.format(title=source.title))(_reader(name))


def _reader(name: str) -> Callable:
    """Return the command that reads a source into a data set."""

    def read(
        root: Annotated[Path, typer.Option(help=f"folder with {find_source(name).layout}")],
        out: Out,
        train: Annotated[int | None, typer.Option(help="samples to train on, at most; default: all")] = None,
        val: Annotated[int | None, typer.Option(help="samples to watch a training by, at most; default: all")] = None,
        test: Annotated[int | None, typer.Option(help="samples for scores, at most; default: all")] = None,
        unpaired: Annotated[
            int | None, typer.Option(help="images without masks, and masks without images, at most; default: all")
        ] = None,
        size: Size = 128,
        seed: Seed = 0,
        workers: Workers = 0,
    ):
        claim_shared_folder(out, (root,))
        from ethand_utils.sources.request import ReadRequest

        request = ReadRequest(train, val, test, unpaired, size, seed, workers or _cores())
        find_source(name).read(root, out, request)
        _print_built(out)

    return read


add_readers(app)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _print_built(out: Path, part: str | None = None) -> None:
    """Print what is in a data set now, or what to do after one part of it."""
    from ethand_utils.data.datasets import REPORT

    if part:
        print(f"{out}: part {part} is there; when all are, the same command without --part merges them")
        return
    if (out / REPORT).exists():
        _print_report(out / REPORT)
    info(out)


def _print_report(path: Path) -> None:
    """Print a source's report: samples listed, skipped and kept, and how far fitted hands are from their joints."""
    from ethand_utils.data.datasets import report_table

    report = json.loads(path.read_text())
    print(report_table(report).reset_index().to_string(index=False))
    for hand, mean in report.get("residual_mm", {}).items():
        print(f"mean residual of the {hand} hand's joints: {'none' if mean is None else f'{mean:.2f} mm'}")
    shared = report.get("subjects_in_several_stores")
    if shared:
        print(f"subjects in several stores, as in the official splits: {' '.join(shared)}")
    print()


@app.command("export-course")
def export_course(
    folder: Annotated[Path, typer.Argument(help="a data set or a store")],
    out: Annotated[Path, typer.Option(help="folder to write data/InterHand2.6M into")],
):
    """Write a data set in the course's layout, LMDBs and .pt lists, for code that reads it.

    Images become JPEGs (quality 95, 4:4:4), every crop a frame with itself as box. The layout has no place for the
    masks of the test set. A single store of another name than a data set's counts as train, without masks as test,
    without images as unpaired labels.
    """
    from ethand_utils.data.datasets import open_dataset
    from ethand_utils.sources import course_export

    stores = open_dataset(folder)
    for store in stores.values():
        claim_folder(out / course_export.LAYOUT, [store.path])
    print(course_export.export_course(stores, out))


@app.command("info")
def info(folder: Annotated[Path, typer.Argument(help="a data set or a store")], as_json: Json = False):
    """Print what a data set or store holds. A damaged one is refused, with the name of the file at fault."""
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
    seed: Annotated[int, typer.Option(help="of the choice of images and their order")] = 0,
):
    """Save a contact sheet of random images.

    With --frames, real ones are mixed in: can you tell which? Their rows and columns, counted from 1, are printed when
    the sheet is written.
    """
    claim_file(out, (folder, frames), (".png",))
    from ethand_utils.data.datasets import open_dataset
    from ethand_utils.sources.interhand_frames import read_frames

    stores, real = open_dataset(folder), read_frames(frames) if frames is not None else []
    from ethand_utils.analysis import image_plots as plots
    from ethand_utils.analysis import real_frames as compare

    store = compare.store_with_images(stores.values())
    sheet, places = compare.mixed_sheet(store, count, real, seed)
    plots.save_image(sheet, out)
    print(out)
    for row, column, name in places:
        print(f"real: row {row}, column {column} ({name})")
