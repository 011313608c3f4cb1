"""The `ethand` command."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ethand_utils.app import cli_data
from ethand_utils.app.cli_data import Json
from ethand_utils.exceptions import EthandError

app = typer.Typer(help="Amodal hand-part segmentation with few labels.", no_args_is_help=True, add_completion=False)
app.add_typer(cli_data.app, name="data")

Weights = Annotated[Path, typer.Option(help="weights.safetensors of a training")]


@app.command()
def run(
    profile: Annotated[str, typer.Argument(help="ci, tiny, small, paper, or a YAML file")] = "tiny",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a setting")] = None,
    name: Annotated[str, typer.Option(help="folder below outputs/; default: the profile's name")] = "",
    cores: Annotated[int, typer.Option(help="cores to use; 0: all")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be trained; start nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --dry-run: as JSON, every epoch's rate")] = False,
    snakemake: Annotated[list[str] | None, typer.Argument(help="after --: options and targets for Snakemake")] = None,
):
    """Run every notebook of a profile, skipping what is up to date, and write outputs/NAME/index.html."""
    from ethand_utils.experiments import config, workflow
    from ethand_utils.experiments.run import Run, RunError, project_root

    chosen = config.load_profile(profile, config.parse_changes(changes or []))
    folder = project_root() / "outputs" / (name or Path(profile).stem)
    if dry_run or as_json:
        _print_plan(Run(folder, chosen), dry_run, as_json)
        return
    config.write_profile(folder, chosen)
    with workflow.run_lock(folder):
        status = workflow.snakemake(folder, cores, snakemake or [])
    if status:
        raise RunError(f"run {folder.name} stopped: the messages above name the notebook; start again to go on")
    if (folder / "index.html").exists():  # not so after a target before it, or Snakemake's own --dry-run
        print(folder / "index.html")


def _print_plan(run, dry_run: bool, as_json: bool) -> None:
    """What a run would train, as text or JSON."""
    from ethand_utils.experiments.dry_run import planned, text

    if not dry_run:
        raise EthandError("run: --json is the form of --dry-run's answer; give both, or neither")
    plan = planned(run)
    print(json.dumps(plan, indent=1) if as_json else text(plan))


@app.command(hidden=True)
def stage(folder: Path, name: str):
    """Execute one stage of a run; the Snakefile calls this."""
    from ethand_utils.experiments import workflow
    from ethand_utils.experiments.run import open_run

    current = open_run(folder.name)
    chosen = next(s for s in workflow.stages(current.profile) if s.name == name)
    with workflow.reserve_gpus(folder, workflow.gpu_count() if chosen.trains else 0, chosen.gpus):
        workflow.execute(current, chosen)


@app.command(hidden=True)
def render_part(folder: Path, part: str, workers: int):
    """Render a part of a run's data set; the Snakefile calls this."""
    from ethand_utils.data.store_builder import Shard
    from ethand_utils.experiments.run import open_run

    open_run(folder.name).render_part(Shard.parse(part), workers)


@app.command(hidden=True)
def index(folder: Path):
    """Write a run's index.html; the Snakefile calls this."""
    from ethand_utils.app import report
    from ethand_utils.experiments.run import open_run

    report.write_index(open_run(folder.name))


@app.command()
def evaluate(
    weights: Weights,
    store: Annotated[
        Path | None, typer.Option("--data", help="a store with masks, such as outputs/tiny/data/test")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="InterHand2.6M images with their annotation: score on the annotated joints"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="with --data: keep the predictions here as a store")] = None,
    as_json: Json = False,
):
    """Score a trained net on a store (--data) or on real frames that have joints but no masks (--frames).

    A store gives course mIoU and its companions.

    Frames give joint_accuracy, the share of annotated joints where their hand's mask shows a part that meets there,

    and joint_on_hand, the share that lies on their hand's mask at all: over all joints, and frame by frame.

    Every frame is seen in seven slightly different crops, each also mirrored.
    """
    from ethand_utils.analysis import evaluate as evaluation
    from ethand_utils.data.store import Store
    from ethand_utils.sources.interhand_frames import read_frames
    from ethand_utils.training.learner import best_device, to_device
    from ethand_utils.training.models import load_weights

    if (store is None) == (frames is None):
        raise EthandError("evaluate: expected either --data (a store with masks) or --frames (images with joints)")
    if frames is not None and out is not None:
        raise EthandError("evaluate: --out keeps the predictions of a store; give it with --data only")
    samples = read_frames(frames) if frames is not None else Store(store)
    model, notes = load_weights(weights)
    model = to_device(model, best_device())
    if frames is not None:
        _print_scores(*evaluation.score_frames(model, samples, notes["size"]), as_json=as_json)
    else:
        _print_scores(evaluation.evaluate_store(model, samples, out), as_json=as_json)


def _print_scores(scores: dict, rows=None, as_json: bool = False) -> None:
    """Scores, and a table with a row a frame where there is one."""
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
    images: Annotated[list[Path], typer.Argument(help="photos")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="folder for the masks; one below it for each of several photos")],
    box: Annotated[
        str, typer.Option(help="x,y,w,h of the hands in px, as in InterHand2.6M; default: the whole photo")
    ] = "",
):
    """Masks of photos: left.png, right.png (part ids 0…16 in the photo's own frame) and overlay.png."""
    from ethand_utils.analysis import evaluate as evaluation
    from ethand_utils.data.crops import read_image
    from ethand_utils.training.learner import best_device, to_device
    from ethand_utils.training.models import load_weights

    around = evaluation.parse_box(box) if box else None
    photos = {path: read_image(path) for path in images}
    model, notes = load_weights(weights)
    model = to_device(model, best_device())
    for path, photo in photos.items():
        found = evaluation.predict_photo(model, photo, notes["size"], around)
        folder = out if len(images) == 1 else out / path.stem
        evaluation.save_photo(folder, found)
        print(f"{folder}: left.png, right.png, overlay.png; confidence {found['confidence']:.2f}")


@app.command()
def submit(
    store: Annotated[Path, typer.Option("--data", help="a store with images, such as course/test")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="archive to write, such as test.lmdb.tar.gz")],
):
    """Predict a store and pack the masks as the course's server takes them.

    The archive has the folder test.lmdb, an LMDB with a PNG for each hand of each image: 128×128 px, part ids 0…16.

    Its keys are NAME__l and NAME__r, where NAME is the image's path after images/, without .jpg.

    In the folder, im_path.pt lists the images' paths. The course's server expects all 10,000 images of its test set.
    """
    from ethand_utils.analysis.evaluate import submit as submit_predictions
    from ethand_utils.data.store import Store
    from ethand_utils.training.learner import best_device, to_device
    from ethand_utils.training.models import load_weights

    images = Store(store)
    model, _ = load_weights(weights)
    count = submit_predictions(to_device(model, best_device()), images, out)
    print(f"{out}: masks of {count} images, left and right")


class ExportFormat(StrEnum):
    """What `ethand export` can write."""

    ONNX = "onnx"
    OPENVINO = "openvino"


@app.command()
def export(
    weights: Weights,
    out: Annotated[Path, typer.Option(help="file to write: .onnx, or .xml for OpenVINO")],
    format: Annotated[ExportFormat, typer.Option(help="onnx or openvino")] = ExportFormat.ONNX,
):
    """Export a trained net: normalised images [B, 3, H, W] → logits [B, 34, H, W], any B."""
    from ethand_utils.training.inference import export_model
    from ethand_utils.training.models import load_weights

    model, notes = load_weights(weights)
    export_model(model, notes["size"], out, format)
    print(out)


def main():
    """Entry point: a fault the user can mend is one line on stderr and exit status 1."""
    try:
        app()
    except EthandError as error:
        print(f"ethand: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
