"""The `ethand` command."""

import contextlib
import json
import sys
from enum import StrEnum
from pathlib import Path
from signal import Signals
from typing import Annotated

import typer

import ethand_utils
from ethand_utils.app import cli_data
from ethand_utils.app.cli_data import Json
from ethand_utils.exceptions import EthandError
from ethand_utils.failures import report_failure
from ethand_utils.outputs import claim_export, claim_file

# Plain help texts: importing Rich to draw them costs three times what the command itself takes.
app = typer.Typer(
    help="Amodal hand-part segmentation with few labels.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(cli_data.app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ethand {ethand_utils.__version__}")
        raise typer.Exit


@app.callback()
def ethand(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that come before a command."""


RunFolder = Annotated[Path, typer.Argument(help="folder of the run")]
Weights = Annotated[Path, typer.Option(help="weights.safetensors of a training")]
OwnWeights = Annotated[
    Path | None, typer.Option("--weights", help="weights.safetensors of a training; default: the net of the package")
]


@app.command()
def run(
    profile: Annotated[
        str, typer.Argument(help="profile: ci, tiny, small, paper, peers, release, finetune, or a YAML file")
    ] = "tiny",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a setting; may be repeated"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="folder below outputs/; default: the profile's name")] = None,
    cores: Annotated[int, typer.Option(help="cores to use; 0: all", min=0)] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be trained; start nothing")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="with --dry-run: print JSON, with every epoch's rate")
    ] = False,
    snakemake: Annotated[
        list[str] | None, typer.Argument(help="after the profile and --: options and targets for Snakemake")
    ] = None,
):
    """Run the notebooks of a profile and write the report.

    Notebooks whose results are up to date are skipped. The report is outputs/NAME/index.html.
    """
    from ethand_utils.experiments import config, workflow
    from ethand_utils.experiments.checks import check, write_checked
    from ethand_utils.experiments.run import Run, RunError, run_folder

    chosen = config.load_profile(profile, config.parse_changes(changes or []))
    folder = run_folder(Path(profile).stem if name is None else name)
    options = snakemake or []
    workflow.check_gpus(chosen, options)
    workflow.check_targets(chosen, options)
    if dry_run and options:
        raise EthandError(
            f"run: --dry-run describes the whole run and takes no target, but got {options[0]!r}; put --dry-run after "
            "-- to see what would run for it"
        )
    if dry_run or as_json:
        _print_plan(Run(folder, chosen), dry_run, as_json)
        return
    check(Run(folder, chosen))
    unchanged = workflow.unchanged_settings(folder) if workflow.is_dry(options) else contextlib.nullcontext()
    with workflow.run_lock(folder), unchanged:
        config.write_profile(folder, chosen)
        write_checked(Run(folder, chosen))
        status, stopped = workflow.snakemake(folder, cores, options)
    if stopped:
        with contextlib.suppress(OSError):  # the terminal may be lost
            reason = Signals(stopped).name
            print(f"ethand: run {folder.name} was stopped ({reason}); start again to continue", file=sys.stderr)
        sys.exit(128 + stopped)
    if status:
        raise RunError(f"run {folder.name} stopped: the messages above name the notebook; start again to continue")
    if (folder / "index.html").exists():  # not so after a target before it, or Snakemake's own --dry-run
        print(folder / "index.html")


def _print_plan(run, dry_run: bool, as_json: bool) -> None:
    """Print what a run would train, as text or JSON."""
    from ethand_utils.experiments.dry_run import planned, text

    if not dry_run:
        raise EthandError("run: --json needs --dry-run; give both, or neither")
    plan = planned(run)
    print(json.dumps(plan, indent=1) if as_json else text(plan))


@app.command()
def demo(
    photo: Annotated[Path | None, typer.Argument(help="photo of hands; default: a rendered picture")] = None,
    name: Annotated[str, typer.Option(help="folder below outputs/")] = "demo",
):
    """Show what the package's net makes of eight rendered scenes and of a photo.

    Trains nothing, and takes less than a minute. Prints the path of a page to open in a browser: true and predicted
    masks, the photo with its masks, links to the error browser and to the notebook that made it all. An earlier demo in
    outputs/NAME is replaced, nothing else is.
    """
    from ethand_utils.app.demo import run_demo

    print(run_demo(photo, name))


@app.command(hidden=True)
def stage(folder: RunFolder, name: Annotated[str, typer.Argument(help="name of the stage")]):
    """Execute one stage of a run; the Snakefile calls this."""
    from ethand_utils.experiments import workflow
    from ethand_utils.experiments.run import open_run
    from ethand_utils.experiments.stage_failures import recorded_failure

    with recorded_failure(folder, name):
        current = open_run(folder.name)
        chosen = workflow.find_stage(current.profile, name)
        with workflow.reserve_gpus(folder, workflow.gpu_count() if chosen.trains else 0, chosen.gpus):
            workflow.execute(current, chosen)


@app.command(hidden=True)
def render_shard(
    folder: RunFolder,
    part: Annotated[str, typer.Argument(metavar="I/K", help="shard to render, such as 2/8")],
    workers: Annotated[int, typer.Argument(help="processes")],
):
    """Render a shard of a run's data set; the Snakefile calls this."""
    from ethand_utils.data.store_builder import Shard
    from ethand_utils.experiments.run import open_run

    open_run(folder.name).render_shard(Shard.parse(part), workers)


@app.command(hidden=True)
def index(folder: RunFolder):
    """Write the report of a run, index.html; the Snakefile calls this."""
    from ethand_utils.app import report
    from ethand_utils.experiments.run import open_run

    report.write_index(open_run(folder.name))


@app.command()
def compare(
    run: Annotated[str, typer.Argument(help="name of a run below outputs/, or a folder")],
    reference: Annotated[
        str | None, typer.Argument(help="the same of what to compare with; default: outputs/reference")
    ] = None,
    as_json: Json = False,
):
    """Show which numbers of a finished run lie within the spread of a reference.

    The numbers are the rows of Table 1, the steps between them, those of the label fractions, and the scores of G1. The
    spread is a 95 % interval: over seeds where the reference has several, else over its test samples. Of twenty numbers
    of a true repetition, about one lies outside.

    Settings and versions that differ are listed first: with other settings, a run is no repetition.
    """
    from ethand_utils.analysis import reference as references
    from ethand_utils.app.text import print_grouped

    ours = references.results_folder(run)
    other = references.results_folder(reference) if reference else references.reference_folder()
    comparison = references.compare_runs(ours, other)
    if as_json:
        print(json.dumps(references.comparison_json(comparison), indent=1))
        return
    print(f"ours: {ours}\nreference: {other}")
    for name in ("settings", "versions"):
        table = getattr(comparison, name)
        print(f"\n{name} that differ:{' none' if table.empty else f'{chr(10)}{table.to_string(index=False)}'}")
    print()
    print_grouped(references.comparison_display(comparison), "table")
    print(f"\n{comparison.verdict}")


@app.command("reference", hidden=True)
def make_reference(
    run: Annotated[str, typer.Argument(help="name of a finished run")],
    out: Annotated[Path | None, typer.Option(help="folder to write; default: outputs/reference")] = None,
):
    """Make the reference of a finished run: its report, tables and figures, without weights; `make reference`."""
    from ethand_utils.app.reference import write_reference
    from ethand_utils.experiments.run import REFERENCE, open_finished, project_root

    print(write_reference(open_finished(run), out or project_root() / "outputs" / REFERENCE))


@app.command()
def evaluate(
    weights: OwnWeights = None,
    store: Annotated[
        Path | None, typer.Option("--data", help="store with images and masks, such as outputs/tiny/data/test")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="folder of InterHand2.6M images with their annotation; scores use the annotated joints"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="with --data: folder for the predictions")] = None,
    as_json: Json = False,
):
    """Score a trained net on a store or on real frames.

    A store (--data) gives the course mIoU and its companions.

    Frames (--frames) have joints but no masks. They give joint_accuracy, the share of annotated joints where their
    hand's mask shows a part that meets there, and joint_on_hand, the share that lies on their hand's mask at all: over
    all joints, and frame by frame. The net sees every frame in seven slightly different crops, each also mirrored.
    """
    if (store is None) == (frames is None):
        raise EthandError("evaluate: expected either --data (a store with masks) or --frames (images with joints)")
    if frames is not None and out is not None:
        raise EthandError("evaluate: --out keeps the predictions of a store; give it with --data only")
    if frames is not None:
        _evaluate_frames(frames, weights, as_json)
    else:
        _evaluate_store(store, weights, out, as_json)


def _evaluate_frames(frames: Path, weights: Path | None, as_json: bool) -> None:
    """Score a net on real frames; what is read is checked before PyTorch is imported."""
    from ethand_utils.sources.interhand_frames import read_frames

    samples = read_frames(frames)
    from ethand_utils.analysis.evaluate import score_frames
    from ethand_utils.training.inference import Inference

    model, notes = _load_net(weights)
    _print_scores(*score_frames(model, samples, notes["size"], how=Inference.of(notes)), as_json=as_json)


def _evaluate_store(path: Path, weights: Path | None, out: Path | None, as_json: bool) -> None:
    """Score a net on a store; what is read and written is checked before PyTorch is imported."""
    from ethand_utils.data.store import Store

    store = Store(path).require("images", "masks")
    if out is not None:
        from ethand_utils.analysis.prediction_files import claim_predictions

        claim_predictions(out, store, weights)
    from ethand_utils.analysis.evaluate import evaluate_store
    from ethand_utils.training.inference import Inference

    model, notes = _load_net(weights)
    _print_scores(evaluate_store(model, store, out, Inference.of(notes), weights), as_json=as_json)


def _load_net(weights: Path | None) -> tuple:
    """Load a net for images on the best device, and its notes."""
    from ethand_utils.training.learner import best_device, to_device
    from ethand_utils.training.models import load_net

    model, notes = load_net(weights)
    return to_device(model, best_device()), notes


def _print_scores(scores: dict, rows=None, as_json: bool = False) -> None:
    """Print scores, and the table of frames where there is one."""
    import pandas as pd

    if as_json:
        table = {} if rows is None else {"frames": rows.to_dict("records")}
        print(json.dumps(scores | table, indent=1))
        return
    print(pd.Series(scores).to_string(float_format="{:.4f}".format))
    if rows is not None:
        print(f"\n{rows.to_string(index=False, float_format='{:.4f}'.format)}")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="photos of any format that Pillow reads, or folders of them")],
    weights: OwnWeights = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for the masks; several photos get a folder each below it; default: hands/PHOTO"),
    ] = None,
    box: Annotated[
        str,
        typer.Option(help="x,y,w,h of the hands' box in px, of every photo; default: the hands are looked for"),
    ] = "",
):
    """Predict the masks of photos.

    Writes left.png and right.png (part ids 0…16 in the photo's own size, hidden parts included), visible.png (what is
    seen: right hand 1…16, left hand 17…32), overlay.png to look at, and hands.json. Hands that are far apart get a
    numbered folder each. A photo without hands gets a hands.json that says so, and is no error.

    Results of the same photo are replaced, nothing else is. HEIC is read where the package pillow-heif is installed;
    photos of more than 50 megapixels are looked at at a half or a quarter of their size.

    The exit status is 1 if there was nothing to predict, or if a photo could not be predicted; the others are predicted
    all the same.
    """
    from ethand_utils.app.photo_command import predict_photos

    if not predict_photos(images, weights, out, box):
        sys.exit(1)


@app.command()
def submit(
    store: Annotated[Path, typer.Option("--data", help="store with images, such as course/test")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="archive to write, such as test.lmdb.tar.gz")],
):
    """Predict a store and pack the masks for the course's server.

    The archive has the folder test.lmdb, an LMDB with a PNG for each hand of each image: 128×128 px, part ids 0…16. Its
    keys are NAME__l and NAME__r, where NAME is the image's path after images/, without .jpg. In the folder, im_path.pt
    lists the images' paths. The course's server expects all 10,000 images of its test set.
    """
    from ethand_utils.data.store import Store

    images = Store(store).require("images")
    claim_file(out, (store, weights), (".tar.gz",))
    from ethand_utils.analysis.evaluate import submit as submit_predictions
    from ethand_utils.training.inference import Inference

    model, notes = _load_net(weights)
    count = submit_predictions(model, images, out, Inference.of(notes))
    print(f"{out}: masks of {count} images, left and right")


class ExportFormat(StrEnum):
    """Formats that `ethand export` writes."""

    ONNX = "onnx"
    OPENVINO = "openvino"


@app.command()
def export(
    weights: Weights,
    out: Annotated[Path, typer.Option(help="file to write: .onnx, or .xml for OpenVINO")],
    format: Annotated[ExportFormat, typer.Option(help="format of the file")] = ExportFormat.ONNX,
):
    """Export a trained net to ONNX or OpenVINO.

    The exported net takes normalised images [B, 3, H, W], any B, and returns logits [B, 34, H, W].
    """
    claim_export(out, format, (weights,))
    from ethand_utils.training.inference import export_model
    from ethand_utils.training.models import load_net

    model, notes = load_net(weights)
    export_model(model, notes["size"], out, format)
    print(out)


def main():
    """Run the command; `report_failure` turns a failure into a line on stderr and the exit status."""
    try:
        app()
    except Exception as error:
        sys.exit(report_failure(error))


if __name__ == "__main__":
    main()
