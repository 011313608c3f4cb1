"""The sections of a run's report: titles, and functions that make page elements of a run's results."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from ethand_utils.analysis.charts import (
    binned_means,
    confusion_matrix,
    curves,
    curves_together,
    fraction_curves,
    intervals,
    part_bars,
    score_table,
)
from ethand_utils.analysis.comparison import (
    NO_LABEL_FRACTIONS,
    THE_METHOD,
    ablation_verdict,
    fraction_display,
    fraction_steps,
    fraction_table,
    step_intervals,
    steps_display,
)
from ethand_utils.analysis.cyclegan_table import (
    cycle_display,
    cycle_results,
    cycle_table,
    cyclegan_verdict,
    effects_display,
    variant_effects,
)
from ethand_utils.analysis.image_plots import five_panels, legend_of_parts
from ethand_utils.analysis.peers import peer_display, peer_steps, peer_steps_display, peer_table
from ethand_utils.analysis.tables import row_intervals, row_label, table1_display
from ethand_utils.app.html import Element, Heading, Links, Paragraph, Table, Tiles, figure_image, image
from ethand_utils.app.results import RunResults
from ethand_utils.app.text import duration, facts, headline, tiles
from ethand_utils.data.datasets import occlusion, report_table
from ethand_utils.experiments.config import Profile
from ethand_utils.experiments.methods import BASELINE, METHODS
from ethand_utils.experiments.workflow import stages
from ethand_utils.labels import HANDS
from ethand_utils.training.metrics import confusion

NOTEBOOK_FIGURES = {
    "figures/explore.png": "How often each part is visible (notebook 2).",
    "figures/augment.png": "One sample as the nets see it in training (notebook 3).",
    "figures/discriminator.png": "The discriminator's output on true and on predicted masks (notebook 5).",
    "figures/unetpp_full_seed0_panels.png": "The full method where one hand hides much of the other (notebook 7).",
    "figures/errors.png": "Where the full method goes wrong (notebook 9).",
    "figures/predict.png": "The full method's masks of photos (notebook 10).",
}

NO_CYCLEGAN = "No CycleGAN was trained: ethand run --set 'cyclegan=[loose]' adds section 4's, with all its remedies."
NO_PEERS = "No other method was trained: ethand run --set 'peers=[fixmatch, mean_teacher]' adds some of today's."
STRIPS = {
    "figures/cyclegan_loose_seed0_images.png": "There and back from images, by the row loose: X → Y → X (notebook 11).",
    "figures/cyclegan_loose_seed0_masks.png": "There and back from masks: Y → X → Y (notebook 11).",
}


@dataclass(frozen=True)
class Block:
    """A piece of a section. `title` names it on the page when `render` raises because the run lacks a file."""

    title: str
    render: Callable[[RunResults], list[Element]]


@dataclass(frozen=True)
class Section:
    """A section of the page: its heading and its blocks, in order."""

    title: str
    blocks: tuple[Block, ...]


def summary(results: RunResults) -> list[Element]:
    """Return the outcome in one line, key figures, and a table of what was trained and scored."""
    return [Paragraph(headline(results)), Tiles(tiles(results)), Table(facts(results), "words")]


def table_one(results: RunResults) -> list[Element]:
    """Return Table 1 with intervals and its bar chart."""
    table = results.table1
    note = (
        "Course mIoU: for each hand the mean IoU of its parts, hidden pixels included, then the mean over all hands. "
        "Δ are relative, in percent. The report was scored on InterHand2.6M and this run on its own data: compare the "
        "differences, not the values. The best row of this run is bold."
    )
    if table["seeds"].max() > 1:
        note += " ± is the standard deviation over the seeds, p of the step from the row that this one adds to."
    best = {} if table["ours"].isna().all() else {int(table["ours"].argmax()): "best"}
    alt = "Bars of the report's score and of this run's, with its interval, for each row of Table 1."
    figure = figure_image(score_table(table, results.trainings), alt)
    return [Paragraph(note), Table(table1_display(table), "rows", best), figure]


def step_table(results: RunResults) -> list[Element]:
    """Return the differences between neighbouring rows, their tests and their intervals; nothing for one row."""
    steps = results.steps
    if steps.empty:
        return []
    units = "samples" if results.people is None else f"{results.people.nunique():,} people with all their samples"
    note = (
        f"Paired differences of two rows on the same samples. Intervals and p-values are over {units}; p is of a "
        f"sign-flip test, with Holm's correction for {len(steps)} steps. Below 0.05, the samples settle which of "
        "“these nets” is better on such images. They settle it of “the method” only if the seeds do as well: if "
        "Student's t interval of the seeds' differences leaves zero out on the same side."
    )
    alt = "Differences in course mIoU between neighbouring rows, with intervals, beside a line at zero."
    figure = intervals(step_intervals(steps), "difference in course mIoU, 95 % interval", mark=0)
    return [
        Heading("What each step settles"),
        Paragraph(note),
        Table(steps_display(steps), "verdict", _verdict_classes(steps)),
        figure_image(figure, alt),
        Paragraph(ablation_verdict(steps)),
    ]


def _verdict_classes(steps: pd.DataFrame) -> dict[int, str]:
    """Return the CSS classes of rows by verdict: `higher`, `lower` or `open`, and `method` if it holds for that."""
    return {
        row: verdict.split()[-1] + (" method" if verdict.startswith(THE_METHOD) else "")
        for row, verdict in enumerate(steps["verdict"])
    }


def fewer_pairs(results: RunResults) -> list[Element]:
    """Return Table 2, scores by label fraction; or a line on how to get it."""
    if not results.run.profile.label_fractions:
        return [Paragraph(NO_LABEL_FRACTIONS)]
    table, steps = fraction_table(results.run), fraction_steps(results.run)
    note = (
        "As many images seen, but with a fraction of the pairs alone, each with its own G1 and its own pseudo-labels. "
        "What generated labels bring is the difference of G2's two scores, tested as above, all fractions together."
    )
    alt = "Course mIoU of G1 and G2 against the label fraction."
    caption = "Whiskers: 95 % intervals over samples; bands: ± the standard deviation over seeds, where there are some."
    return [
        Paragraph(note),
        Table(fraction_display(table, steps), row_classes=_verdict_classes(steps)),
        figure_image(fraction_curves(table), alt, caption),
    ]


def peers(results: RunResults) -> list[Element]:
    """Return the peers' scores by label fraction, and their tests; or a line on how to get them."""
    if not results.run.profile.peers:
        return [Paragraph(NO_PEERS)]
    table, steps = peer_table(results.run), peer_steps(results.run)
    note = (
        "Semi-supervised methods of today beside the report's: the same net and first weights, and as many "
        "images loaded, of which theirs are half pairs and half unpaired images (notebook 13). Each is tested against "
        "pairs alone and against the report's generated labels, FixMatch in its variants also against itself with a "
        "weight of 0, all fractions together."
    )
    alt = "Course mIoU of every method against the label fraction."
    return [
        Paragraph(note),
        Table(peer_display(table).reset_index(names="method"), "rows"),
        figure_image(fraction_curves(table), alt),
        Table(peer_steps_display(steps), "verdict", _verdict_classes(steps)),
    ]


def row_curves(results: RunResults) -> list[Element]:
    """Return the validation scores of all rows by epoch."""
    caption = "Course mIoU of every row on the validation store, by epoch (first seed)."
    figure = curves_together(results.histories, "course_miou")
    return [figure_image(figure, "Validation score of every row by epoch.", caption)]


def last_row_curves(results: RunResults) -> list[Element]:
    """Return the losses of the last row."""
    name, history = row_label(results.last_row), results.table(f"{METHODS[results.last_row].training(0)}/history.csv")
    caption = f"Losses of {name}, and its score on the validation store."
    if history["phase"].nunique() > 1:
        caption += " Shaded bands are its phases, on pseudo-labels and on true pairs."
    return [figure_image(curves(history), f"Losses and score of {name} by epoch.", caption)]


def g1_curves(results: RunResults) -> list[Element]:
    """Return the losses of G1."""
    caption = "Losses of G1, which labels the unpaired images, and its score on the validation store."
    return [figure_image(curves(results.table("g1/history.csv")), "Losses and score of G1 by epoch.", caption)]


def samples(results: RunResults) -> list[Element]:
    """Return the best, median and worst sample of the shown row, and the key of part colours."""
    examples = [_sample(results, kind, row) for kind, row in results.examples.items()]
    return [figure_image(legend_of_parts(), "The colour of every part, by name."), *examples]


def _sample(results: RunResults, kind: str, row: int) -> Element:
    sample, scores, truth = results.truth.index.iloc[row], results.metrics.iloc[row], results.truth
    occluded = occlusion(truth.index.iloc[[row]]).max(axis=1).iloc[0]
    hidden = f"; up to {100 * occluded:.0f} % of a hand is hidden" if occluded > 0 else ""
    caption = (
        f"{kind.capitalize()} sample of {results.shown_label}: {sample['id']} ({sample['hand_type']}), course mIoU "
        f"{scores['course_miou']:.3f}, confidence {scores['confidence']:.2f}{hidden}."
    )
    alt = f"{kind.capitalize()} sample: input with prediction, prediction, truth, error map, input; left hand above."
    return figure_image(five_panels(truth.images[row], results.predictions.masks[row], truth.masks[row]), alt, caption)


def part_scores(results: RunResults) -> list[Element]:
    """Return the IoU of every part, the last row's beside the baseline's."""
    last = results.last_row
    reference = {} if last == BASELINE else {METHODS[BASELINE].title: results.part_ious(BASELINE)}
    figure = part_bars(results.part_ious(last), "", "IoU over the data set", reference)
    return [figure_image(figure, "Bars of each part's IoU.", f"IoU of every part by {row_label(last)}.")]


def part_confusion(results: RunResults) -> list[Element]:
    """Return the confusion matrix of the shown row."""
    counts = confusion(results.predictions.masks, results.truth.masks).sum((0, 1))
    caption = (
        f"Confusion of parts by {results.shown_label}, both hands of {len(results.truth):,} samples. A row is a true "
        "part: what percentage of its pixels was called what. The first column is what was missed, the first row what "
        "was invented."
    )
    alt = "Confusion matrix of background and 16 parts, by name."
    return [figure_image(confusion_matrix(counts), alt, caption, "tall")]


def regions(results: RunResults) -> list[Element]:
    """Return visible against occluded IoU of every row."""
    scores = {region: row_intervals(results.scores, f"{region}_iou") for region in ("visible", "occluded")}
    if scores["occluded"]["mean"].isna().all():
        return [Paragraph("These data do not say which hand is nearer, so what is occluded is unknown.")]
    caption = "IoU of the silhouette of a hand's visible pixels and of those that the other hand hides; 95 % intervals."
    alt = "Visible and occluded IoU of every row, with intervals."
    return [figure_image(intervals(scores, "IoU"), alt, caption)]


def occlusion_curve(results: RunResults) -> list[Element]:
    """Return the score of a hand against the share of it that is hidden; nothing where no hand is."""
    shares = pd.concat([occlusion(results.truth.index)[hand] for hand in HANDS])
    scores = pd.concat([results.metrics[f"course_miou_{hand}"] for hand in HANDS]).to_numpy(float)
    hidden = shares.to_numpy(float) > 0
    if not hidden.any():
        return []
    axes = ("share of a hand that is hidden", "course mIoU of that hand")
    caption = f"Scores of {results.shown_label} on the {int(hidden.sum()):,} hands that are partly hidden."
    alt = "Score of a hand against the share of it that is hidden."
    return [figure_image(binned_means(shares.to_numpy(float)[hidden], scores[hidden], *axes), alt, caption)]


def confidence(results: RunResults) -> list[Element]:
    """Return the score of samples against the net's confidence, with their correlation."""
    pairs = results.metrics[["confidence", "course_miou"]].dropna()
    correlation = pairs.corr().iloc[0, 1]
    text = "unknown" if pd.isna(correlation) else f"{correlation:.2f}"
    caption = (
        f"Confidence of {results.shown_label}, its mean probability over the pixels it calls a hand, against its "
        f"course mIoU. Correlation over {len(pairs):,} samples: {text}; near zero, a low confidence warns of nothing."
    )
    figure = binned_means(*pairs.to_numpy(float).T, "confidence", "course mIoU of a sample")
    return [figure_image(figure, "Course mIoU of samples against confidence, with means of ten bins.", caption)]


def pseudo_labels(results: RunResults) -> list[Element]:
    """Return how many pseudo-labels the filter keeps and, where the truth is known, how good they are."""
    scores = results.json("pseudo/result.json")
    heading = Heading("Pseudo-labels")
    rows = {
        "unpaired images that G1 labelled": f"{scores['images']:,}",
        "kept by the filter": f"{100 * scores['kept_share']:.0f} %",
    }
    if pd.isna(scores["precision"]):
        return [heading, _values(rows), Paragraph("There is no truth to judge the pseudo-labels by.")]
    rows |= {
        "true course mIoU of all": f"{scores['miou_all']:.3f}",
        "of those kept": f"{scores['miou_kept']:.3f}",
        "of those dropped": f"{scores['miou_dropped']:.3f}",
        "correlation of confidence and true course mIoU": f"{scores['correlation']:.2f}",
    }
    alt = "True quality of pseudo-labels against G1's confidence."
    return [heading, _values(rows), image(results.png("figures/pseudo_labels.png"), alt, "G1 on the unpaired images.")]


def _values(rows: dict[str, str]) -> Table:
    """Return a table of named values."""
    return Table(pd.DataFrame(rows.items(), columns=["fact", "value"]), "words")


def costs(results: RunResults) -> list[Element]:
    """Return sizes, training times and speeds of G1 and every row."""
    trainings = pd.concat([pd.DataFrame([results.json("g1/result.json")]), results.trainings], ignore_index=True)
    titles = {name: method.title for name, method in METHODS.items()} | {"g1": "G1"}
    speed = trainings["images_seen"] / trainings["seconds"].clip(lower=1e-9)
    table = pd.DataFrame(
        {
            "training": [titles.get(row, row) for row in trainings["row"]],
            "seed": trainings["seed"],
            "parameters": trainings["parameters"].map("{:,}".format),
            "epochs": trainings["epochs"],
            "images seen": trainings["images_seen"].map("{:,}".format),
            "training time": trainings["seconds"].map(duration),
            "images/s in training": speed.map("{:,.0f}".format),
            "images/s in prediction": trainings["images_per_s"].map("{:,.0f}".format),
            "device": trainings["device"],
        }
    )
    return [Table(table)]


def data(results: RunResults) -> list[Element]:
    """Return the stores of the data set and what was skipped in reading it."""
    stores = results.table("data_summary.csv")
    types = [name for name in ("right", "left", "interacting") if name in stores]
    columns = ["store", "samples", "size", "subjects", *types]
    table = stores[[*columns, "occluded_share", "arrays", "source"]].rename(columns={"size": "px"})
    shares = ["–" if pd.isna(share) else f"{100 * share:.1f} %" for share in table.pop("occluded_share")]
    table.insert(len(columns), "hidden, two hands", shares)
    skipped = report_table(results.run.report).reset_index()
    reading = [] if skipped.empty else [Heading("Read and skipped"), Table(skipped, "words")]
    return [Table(table), *reading]


def settings(results: RunResults) -> list[Element]:
    """Return the run's settings with their meaning."""
    values, fields = vars(results.run.profile), Profile.model_fields
    rows = [(name, json.dumps(values[name]).strip('"'), field.description) for name, field in fields.items()]
    return [Table(pd.DataFrame(rows, columns=["setting", "value", "meaning"]), "words")]


def versions(results: RunResults) -> list[Element]:
    """Return the versions, commit and device that the trainings recorded."""
    rows = []
    for name in ("commit", "python", "versions", "device"):
        values = sorted({str(value) for value in results.trainings[name] if str(value)})
        rows.append((name, "; ".join(values) or "unknown"))
    return [Heading("Versions"), Table(pd.DataFrame(rows, columns=["what", "of the trainings"]), "words")]


def notebook_figures(results: RunResults) -> list[Element]:
    """Return the figures that notebooks saved."""
    return _saved_figures(results, NOTEBOOK_FIGURES) or [Paragraph("No figure of a notebook is there.")]


def _saved_figures(results: RunResults, captions: dict[str, str]) -> list[Element]:
    """Return the images of those files that are there."""
    names = [name for name in captions if (results.run.folder / name).exists()]
    return [image(results.png(name), captions[name], captions[name]) for name in names]


def notebooks(results: RunResults) -> list[Element]:
    """Return links to the executed notebooks."""
    links = []
    for stage in stages(results.run.profile):
        address = f"html/{stage.name}.html"
        exists = (results.run.folder / address).exists()
        links.append((stage.name, address) if exists else (f"{stage.name} (has not run)", ""))
    return [Links(links)]


def cyclegan(results: RunResults) -> list[Element]:
    """Return CycleGAN's table, its strips and what each remedy changes; or a line on how to get them."""
    if not results.run.profile.cyclegan:
        return [Paragraph(NO_CYCLEGAN)]
    trainings = cycle_results(results.run)
    effects = variant_effects(trainings)
    note = (
        "Section 4 of the report: G_XY makes masks of images, G_YX images of masks, and both learn from unpaired ones "
        "by two discriminators and by cycle consistency. Its authors left it aside."
    )
    elements = [Paragraph(note), Table(cycle_display(cycle_table(trainings)), "rows")]
    elements += _saved_figures(results, STRIPS)
    if len(effects):
        elements.append(Heading("What each remedy changes"))
        elements.append(Table(effects_display(effects).reset_index(names="remedy")))
    return [*elements, Paragraph(cyclegan_verdict(effects))]


NOTEBOOK_LINKS = Block("Links to the executed notebooks", notebooks)
SECTIONS = (
    Section("Summary", (Block("The summary", summary),)),
    Section("Table 1", (Block("Table 1", table_one), Block("What each step settles", step_table))),
    Section("Fewer pairs", (Block("Table 2", fewer_pairs),)),
    Section("Peers", (Block("Peers", peers),)),
    Section("CycleGAN", (Block("CycleGAN", cyclegan),)),
    Section(
        "Learning",
        (
            Block("Validation scores of the rows", row_curves),
            Block("Losses of the last row", last_row_curves),
            Block("Losses of G1", g1_curves),
        ),
    ),
    Section("Samples", (Block("Best, median and worst sample", samples),)),
    Section("Parts", (Block("Scores by part", part_scores), Block("Confusion of parts", part_confusion))),
    Section("Occlusion", (Block("Occluded against visible", regions), Block("Score by hidden share", occlusion_curve))),
    Section("Confidence", (Block("Confidence", confidence), Block("Pseudo-labels", pseudo_labels))),
    Section("Cost", (Block("Times and sizes", costs),)),
    Section("Data", (Block("The data set", data),)),
    Section(
        "Notebooks",
        (NOTEBOOK_LINKS, Block("Figures of the notebooks", notebook_figures)),
    ),
    Section("Settings", (Block("Settings", settings), Block("Versions and commit", versions))),
)
