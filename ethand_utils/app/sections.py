"""The blocks of a run's report: each a function of its `Material` that gives HTML, or raises for what it lacks.

The first line of a block's docstring names it on the page where it has to be left out.
"""

import html
import json
from pathlib import Path

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
    HOW,
    METHOD,
    conclusions,
    fraction_display,
    fraction_steps,
    fraction_table,
    step_intervals,
    steps_display,
    table_display,
)
from ethand_utils.analysis.cyclegan_table import (
    cycle_results,
    cycle_table,
    shown_cycles,
    shown_effects,
    variant_effects,
    verdicts,
)
from ethand_utils.analysis.image_plots import five_panels, legend_of_parts
from ethand_utils.analysis.tables import row_intervals, row_label
from ethand_utils.app.html import figure_html, image_html, paragraph, table_html
from ethand_utils.app.results import RunResults
from ethand_utils.app.text import capital, duration, headline, setting_meanings, tiles
from ethand_utils.data.datasets import occlusion, report_table
from ethand_utils.experiments.methods import ROWS
from ethand_utils.experiments.workflow import stages
from ethand_utils.labels import HANDS
from ethand_utils.training.metrics import confusion

NOTEBOOK_FIGURES = {
    "figures/explore.png": "How often each part is seen (notebook 2).",
    "figures/augment.png": "One sample as the nets see it in training (notebook 3).",
    "figures/discriminator.png": "What the discriminator thinks of true and of predicted masks (notebook 5).",
    "figures/full_panels.png": "The full method where one hand hides much of the other (notebook 7).",
    "figures/errors.png": "Where the full method goes wrong (notebook 9).",
    "figures/predict.png": "The full method's masks of photos (notebook 10).",
}

NO_CYCLEGAN = "No CycleGAN was trained: ethand run --set 'cyclegan=[loose]' adds section 4's, with all its remedies."
STRIPS = {
    "figures/cyclegan_images.png": "There and back from images, by the row loose: X → Y → X (notebook 11).",
    "figures/cyclegan_masks.png": "There and back from masks: Y → X → Y (notebook 11).",
}


def summary(m: RunResults) -> str:
    """The summary."""
    boxes = "".join(
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span>'
        f"<small>{html.escape(detail)}</small></div>\n"
        for value, name, detail in tiles(m)
    )
    return "".join(map(paragraph, headline(m))) + f'<div class="tiles">{boxes}</div>\n'


def table_one(m: RunResults) -> str:
    """Table 1."""
    note = (
        "Course mIoU: for each hand the mean IoU of its parts, hidden pixels included, then the mean over all hands. "
        "Δ are relative, in percent. The report was scored on InterHand2.6M and this run on its own data: compare the "
        "differences, not the values. The best row of this run is bold."
    )
    if m.table1["seeds"].max() > 1:
        note += " ± is the standard deviation over the seeds, p of the step from the row that this one adds to."
    best = {} if m.table1["ours"].isna().all() else {int(m.table1["ours"].argmax()): "best"}
    figure = score_table(m.table1, m.results)
    alt = "Bars of the report's score and of this run's, with its interval, for each row of Table 1."
    return paragraph(note) + table_html(table_display(m.table1), "rows", best) + figure_html(figure, alt)


def step_table(m: RunResults) -> str:
    """What each step settles."""
    if m.steps.empty:
        return ""
    drawn = "samples" if m.people is None else f"{m.people.nunique():,} people with all their samples"
    note = (
        f"Two rows on the same samples, difference by difference. Intervals and p-values are over {drawn}; p is of a "
        f"sign-flip test, with Holm's correction for {len(m.steps)} steps. Below 0.05, the samples settle which of "
        "“these nets” is better on such images. They settle it of “the method” only if the seeds do as well: if "
        "Student's t interval of the seeds' differences leaves zero out on the same side."
    )
    figure = intervals(step_intervals(m.steps), "difference in course mIoU, 95 % interval", mark=0)
    alt = "Differences in course mIoU between neighbouring rows, with intervals, beside a line at zero."
    table = table_html(steps_display(m.steps), "says", dict(enumerate(m.steps["says"].map(_class))))
    says = "".join(map(paragraph, conclusions(m.steps, m.kept)))
    return f"<h3>What each step settles</h3>{paragraph(note)}{table}{figure_html(figure, alt)}{says}"


def _class(says: str) -> str:
    """Of a table's row that says this: what it says, and of what."""
    return says.split()[-1] + (" method" if says.startswith(METHOD) else "")


def fewer_pairs(m: RunResults) -> str:
    """Table 2: fewer pairs."""
    if not m.run.profile.shares:
        return paragraph(HOW)
    table, found = fraction_table(m.run), fraction_steps(m.run)
    note = (
        "As many images seen, but with a share of the pairs alone, each with its own G1 and its own pseudo-labels. "
        "What generated labels bring is the difference of G2's two scores, tested as above, all shares together."
    )
    shown = table_html(fraction_display(table, found), "", dict(enumerate(found["says"].map(_class))))
    caption = "Whiskers: 95 % intervals over samples; bands: ± the standard deviation over seeds, where there are some."
    figure = figure_html(fraction_curves(table), "Course mIoU of G1 and G2 against the share of the pairs.", caption)
    return f"{paragraph(note)}{shown}{figure}"


def row_curves(m: RunResults) -> str:
    """Validation scores of the rows by epoch."""
    caption = "Every row's course mIoU on the validation store, by epoch (first seed)."
    return figure_html(curves_together(m.histories, "course_miou"), "Validation score of every row by epoch.", caption)


def shown_curves(m: RunResults) -> str:
    """Losses of the last row."""
    history, name = m.table(f"g2/{m.last}/seed0/history.csv"), row_label(m.last)
    phases = (
        " Shaded bands are its phases, on pseudo-labels and on true pairs." if history["phase"].nunique() > 1 else ""
    )
    caption = f"{capital(name)}: losses, and the score on the validation store.{phases}"
    return figure_html(curves(history), f"Losses and score of {name} by epoch.", caption)


def g1_curves(m: RunResults) -> str:
    """Losses of G1."""
    caption = "G1, which labels the unpaired images: losses, and the score on the validation store."
    return figure_html(curves(m.table("g1/history.csv")), "Losses and score of G1 by epoch.", caption)


def samples(m: RunResults) -> str:
    """Best, median and worst sample."""
    shown = "".join(_sample(m, kind, place) for kind, place in m.chosen.items())
    key = figure_html(legend_of_parts(), "The colour of every part, by name.")
    return f"{key}{shown}"


def _sample(m: RunResults, kind: str, place: int) -> str:
    row, scores = m.truth.index.iloc[place], m.metrics.iloc[place]
    share = occlusion(m.truth.index.iloc[[place]]).max(axis=1).iloc[0]
    hidden = f"; up to {100 * share:.0f} % of a hand is hidden" if share > 0 else ""
    caption = (
        f"{kind.capitalize()} sample of {m.name}: {row['id']} ({row['hand_type']}), course mIoU "
        f"{scores['course_miou']:.3f}, confidence {scores['confidence']:.2f}{hidden}."
    )
    alt = f"{kind.capitalize()} sample: input with prediction, prediction, truth, error map, input; left hand above."
    figure = five_panels(m.truth.images[place], m.predictions.masks[place], m.truth.masks[place])
    return figure_html(figure, alt, caption)


def confusion_of_parts(m: RunResults) -> str:
    """Confusion of parts."""
    counts = confusion(m.predictions.masks, m.truth.masks).sum((0, 1))
    caption = (
        f"{capital(m.name)}, both hands of {len(m.truth):,} samples. A row is a true part: what percentage of its "
        "pixels was called what. The first column is what was missed, the first row what was invented."
    )
    alt = "Confusion matrix of background and 16 parts, by name."
    return figure_html(confusion_matrix(counts), alt, caption, "tall")


def scores_of_parts(m: RunResults) -> str:
    """Scores by part."""
    first = ROWS[0]
    reference = {first["TITLE"]: m.parts(first["ROW"])} if m.last != first["ROW"] else {}
    figure = part_bars(m.parts(m.last), "", "IoU over the data set", reference)
    return figure_html(figure, "Bars of each part's IoU.", f"{capital(row_label(m.last))}: every part in its colour.")


def regions(m: RunResults) -> str:
    """Occluded against visible."""
    found = {region: row_intervals(m.scores, f"{region}_iou") for region in ("visible", "occluded")}
    if found["occluded"]["mean"].isna().all():
        return paragraph("These data do not say which hand is nearer, so what is occluded is unknown.")
    caption = "IoU of the silhouette of what can be seen of a hand, and of what the other hand hides; 95 % intervals."
    return figure_html(intervals(found, "IoU"), "Visible and occluded IoU of every row, with intervals.", caption)


def by_occlusion(m: RunResults) -> str:
    """Score by how much is hidden."""
    hidden = occlusion(m.truth.index)
    scores = pd.concat([m.metrics[f"course_miou_{hand}"] for hand in HANDS]).to_numpy(float)
    shares = pd.concat([hidden[hand] for hand in HANDS]).to_numpy(float)
    some = shares > 0
    if not some.any():
        return ""
    figure = binned_means(shares[some], scores[some], "share of a hand that is hidden", "course mIoU of that hand")
    caption = f"{capital(m.name)}: the {int(some.sum()):,} hands of which something is hidden."
    return figure_html(figure, "Score of a hand against the share of it that is hidden.", caption)


def confidence(m: RunResults) -> str:
    """Confidence against quality."""
    known = m.metrics[["confidence", "course_miou"]].dropna()
    correlation = known.corr().iloc[0, 1]
    says = "unknown" if pd.isna(correlation) else f"{correlation:.2f}"
    caption = (
        f"{capital(m.name)}: its mean probability over the pixels it calls a hand, against the course mIoU it reaches. "
        f"Correlation over {len(known):,} samples: {says}; near zero, a low confidence warns of nothing."
    )
    figure = binned_means(*known.to_numpy(float).T, "confidence", "course mIoU of a sample")
    return figure_html(figure, "Course mIoU of samples against confidence, with means of ten bins.", caption)


def pseudo_labels(m: RunResults) -> str:
    """Pseudo-labels."""
    found = m.json("pseudo/result.json")
    words = (
        f"G1 labelled {found['images']:,} unpaired images; the filter keeps {100 * found['kept_share']:.0f} % of them."
    )
    if pd.isna(found["precision"]):
        return f"<h3>Pseudo-labels</h3>{paragraph(f'{words} There is no truth to judge them by.')}"
    words += (
        f" Their true course mIoU is {found['miou_all']:.3f}: {found['miou_kept']:.3f} of those kept, "
        f"{found['miou_dropped']:.3f} of those dropped. Confidence and quality correlate at {found['correlation']:.2f}."
    )
    png = m.read("figures/pseudo_labels.png", Path.read_bytes)
    alt = "True quality of pseudo-labels against G1's confidence."
    return f"<h3>Pseudo-labels</h3>{paragraph(words)}{image_html(png, alt, 'G1 on the unpaired images.')}"


def costs(m: RunResults) -> str:
    """Times and sizes."""
    found = pd.concat([pd.DataFrame([m.json("g1/result.json")]), m.results], ignore_index=True)
    names = {row["ROW"]: row["TITLE"] for row in ROWS} | {"g1": "G1"}
    shown = pd.DataFrame(
        {
            "training": [names.get(row, row) for row in found["row"]],
            "seed": found["seed"],
            "parameters": found["parameters"].map("{:,}".format),
            "epochs": found["epochs"],
            "images seen": found["images_seen"].map("{:,}".format),
            "training time": found["seconds"].map(duration),
            "images/s in training": (found["images_seen"] / found["seconds"].clip(lower=1e-9)).map("{:,.0f}".format),
            "images/s in prediction": found["images_per_s"].map("{:,.0f}".format),
            "device": found["device"],
        }
    )
    return table_html(shown)


def data(m: RunResults) -> str:
    """The data set."""
    found = m.table("data_summary.csv")
    columns = ["store", "samples", "size", "subjects", *[c for c in ("right", "left", "interacting") if c in found]]
    shown = found[[*columns, "occluded_share", "arrays", "source"]].rename(columns={"size": "px"})
    shares = ["–" if pd.isna(share) else f"{100 * share:.1f} %" for share in shown.pop("occluded_share")]
    shown.insert(len(columns), "hidden, two hands", shares)
    read = report_table(m.run.report).reset_index()
    return table_html(shown) + ("" if read.empty else f"<h3>Read and skipped</h3>{table_html(read, 'words')}")


def settings(m: RunResults) -> str:
    """Settings and versions."""
    known, means = vars(m.run.profile), setting_meanings()
    rows = [(key, json.dumps(value).strip('"'), means.get(key, "")) for key, value in known.items()]
    return table_html(pd.DataFrame(rows, columns=["setting", "value", "meaning"]), "words")


def versions(m: RunResults) -> str:
    """Versions and commit."""
    rows = []
    for name in ("commit", "python", "versions", "device"):
        values = sorted({str(value) for value in m.results[name] if str(value)})
        rows.append((name, "; ".join(values) or "unknown"))
    return f"<h3>Versions</h3>{table_html(pd.DataFrame(rows, columns=['what', 'of the trainings']), 'words')}"


def notebook_figures(m: RunResults) -> str:
    """Figures of the notebooks."""
    there = {name: caption for name, caption in NOTEBOOK_FIGURES.items() if (m.run.folder / name).exists()}
    shown = [image_html(m.read(name, Path.read_bytes), caption, caption) for name, caption in there.items()]
    return "".join(shown) or paragraph("No figure of a notebook is there.")


def notebooks(m: RunResults) -> str:
    """Links to the executed notebooks."""
    items = []
    for stage in stages(m.run.profile):
        there = (m.run.folder / "html" / f"{stage.name}.html").exists()
        link = f'<a href="html/{stage.name}.html">{stage.name}</a>' if there else f"{stage.name} (has not run)"
        items.append(f"<li>{link}</li>")
    return f'<ul class="columns">{"".join(items)}</ul>\n'


def cyclegan(m: RunResults) -> str:
    """CycleGAN."""
    if not m.run.profile.cyclegan:
        return paragraph(NO_CYCLEGAN)
    found = cycle_results(m.run)
    changes = variant_effects(found)
    note = (
        "Section 4 of the report: G_XY makes masks of images, G_YX images of masks, and both learn from unpaired ones "
        "by two discriminators and by the way there and back. Its authors left it aside."
    )
    shown = paragraph(note) + table_html(shown_cycles(cycle_table(found)), "rows")
    there = {name: caption for name, caption in STRIPS.items() if (m.run.folder / name).exists()}
    shown += "".join(image_html(m.read(name, Path.read_bytes), caption, caption) for name, caption in there.items())
    if len(changes):
        shown += "<h3>What each remedy changes</h3>" + table_html(shown_effects(changes).reset_index(names="remedy"))
    return shown + "".join(map(paragraph, verdicts(found, changes)))


SECTIONS = {
    "Summary": (summary,),
    "Table 1": (table_one, step_table),
    "Fewer pairs": (fewer_pairs,),
    "CycleGAN": (cyclegan,),
    "Learning": (row_curves, shown_curves, g1_curves),
    "Samples": (samples,),
    "Parts": (scores_of_parts, confusion_of_parts),
    "Occlusion": (regions, by_occlusion),
    "Confidence": (confidence, pseudo_labels),
    "Cost": (costs,),
    "Data": (data,),
    "Notebooks": (notebooks, notebook_figures),
    "Settings": (settings, versions),
}
