"""The section on CycleGAN of a run's report."""

from pathlib import Path

from ethand_utils.cycletable import cycle_results, cycle_table, effects, shown_cycles, shown_effects, verdicts
from ethand_utils.markup import image_html, paragraph, table_html
from ethand_utils.material import Material

HOW = "No CycleGAN was trained: ethand run --set 'cyclegan=[loose]' adds section 4's, with all its remedies."
STRIPS = {
    "figures/cyclegan_images.png": "There and back from images, by the row loose: X → Y → X (notebook 11).",
    "figures/cyclegan_masks.png": "There and back from masks: Y → X → Y (notebook 11).",
}


def cyclegan(m: Material) -> str:
    """CycleGAN."""
    if not m.run.profile.cyclegan:
        return paragraph(HOW)
    found = cycle_results(m.run)
    changes = effects(found)
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
