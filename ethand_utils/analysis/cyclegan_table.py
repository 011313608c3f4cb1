"""Tables of CycleGAN's variants: scores, what each remedy changes, and the nets beside Table 1."""

import json

import numpy as np
import pandas as pd

from ethand_utils.analysis.statistics import t_interval
from ethand_utils.analysis.tables import COMPANIONS
from ethand_utils.experiments.methods import IMAGES_METHOD, METHODS
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.style import mean_text
from ethand_utils.training.cyclegan.variants import G1_AS_LONG, VARIANTS

MEASURES = {
    "course_miou": "G_XY, course mIoU",
    "cycle_miou": "Y→X→Y, course mIoU",
    "psnr_cycle": "X→Y→X, dB",
    "psnr_hardened": "X→Y→X by arg-max, dB",
    "psnr_made": "Y→X, dB",
    "front_made": "right hand in front",
    "d_x_accuracy": "D_X right",
    "d_y_accuracy": "D_Y right",
}
# The accuracy on real images of the net that judges which hand is in front is the limit of `front_made`.
COLUMNS = MEASURES | {"front_real": "right hand in front, real images"}
# Variants that differ in one thing alone. Each group of remedies is compared with and without the other.
BALANCED, IN_FRONT, LOOSER = "all five for balance", "which hand is in front", "looser image cycle"
CONTRASTS = {
    "cycles and D": (("pairs", "report"),),
    "replay buffer": (("report", "buffer"),),
    "two time scales": (("report", "rates"),),
    "spectral norm": (("report", "spectral"),),
    "straight-through masks": (("report", "straight"),),
    "warm start from G1": (("report", "warm"),),
    BALANCED: (("report", "balanced"), ("front", "remedied")),
    IN_FRONT: (("report", "front"), ("balanced", "remedied")),
    LOOSER: (("remedied", "loose"),),
}
# What decides on the report's two suspicions (section 4), unequal strength and unknown order, and on a third.
DECISIVE = ((BALANCED, "course_miou"), (IN_FRONT, "front_made"), (LOOSER, "course_miou"))


def cycle_results(run: Run) -> pd.DataFrame:
    """Load every `result.json` of the run's CycleGAN as one table, a row a training, in the order of VARIANTS.

    Variants that a notebook has trained under another name come last. Raises RunError when there is none.
    """
    order = {variant: number for number, variant in enumerate(VARIANTS)}
    files = sorted((run.folder / "cyclegan").glob("*/seed*/result.json"))
    files.sort(key=lambda file: order.get(file.parts[-3], len(order)))
    if not files:
        raise RunError(
            f"{run.folder}/cyclegan: no result yet; run notebooks/11_cyclegan.ipynb, or `ethand run` with "
            "--set 'cyclegan=[loose]'"
        )
    trainings = pd.DataFrame([json.loads(file.read_text()) for file in files])
    return trainings.reindex(columns=[*trainings, *(name for name in COLUMNS if name not in trainings)])


def cycle_table(trainings: pd.DataFrame) -> pd.DataFrame:
    """Average `cycle_results` by variant: `row`, `model`, `seeds`, and of each of COLUMNS the mean and `_sd`."""
    rows, titles = trainings.groupby("row", sort=False), {name: variant.title for name, variant in VARIANTS.items()}
    table = pd.DataFrame({"model": [titles.get(row, row) for row in rows.groups], "seeds": rows.size()})
    for name in COLUMNS:
        table[name], table[f"{name}_sd"] = rows[name].mean(), rows[name].std()
    return table.rename_axis("row").reset_index()


def cycle_display(table: pd.DataFrame) -> pd.DataFrame:
    """Return `cycle_table` as text."""
    texts = {
        heading: [mean_text(*values, _digits(name)) for values in zip(table[name], table[f"{name}_sd"], strict=True)]
        for name, heading in COLUMNS.items()
    }
    return pd.DataFrame({"row": table["model"], "seeds": table["seeds"], **texts})


def _digits(measure: str) -> int:
    return 1 if "dB" in COLUMNS[measure] else 3


def variant_effects(trainings: pd.DataFrame) -> pd.DataFrame:
    """Compute what each of CONTRASTS changes: a row a contrast and measure that some pair of trainings shows.

    Columns `contrast`, `measure`; `difference`, mean over pairs of trainings of one seed and as many images that differ
    in this alone, with the ends of its t interval, `low` and `high` (NaN for a single one); `count` of such pairs and
    `up`, in how many it is upwards; `verdict`: `higher` or `lower` where the interval excludes zero, else `open`.
    """
    scores, rows = trainings.set_index(["row", "seed"]), []
    for contrast, variants in CONTRASTS.items():
        pairs = _paired_trainings(scores["images_seen"], variants)
        for measure in MEASURES:
            each = np.array([scores.loc[after, measure] - scores.loc[before, measure] for before, after in pairs])
            each = each[~np.isnan(each)]
            if len(each):
                mean, low, high, count = interval = t_interval(each)
                verdict = ("higher" if mean > 0 else "lower") if interval.excludes_zero else "open"
                rows.append((contrast, measure, mean, low, high, count, int((each > 0).sum()), verdict))
    columns = ["contrast", "measure", "difference", "low", "high", "count", "up", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _paired_trainings(images_seen: pd.Series, variants: tuple[tuple[str, str], ...]) -> list[tuple[tuple, tuple]]:
    """List (variant, seed) before and after a contrast, of one seed and as many images seen."""
    return [
        ((before, seed), (after, seed))
        for before, after in variants
        for variant, seed in sorted(images_seen.index)
        if variant == before and images_seen[before, seed] == images_seen.get((after, seed))
    ]


def effects_display(effects: pd.DataFrame) -> pd.DataFrame:
    """Return `variant_effects` as text: a row a contrast, a column a measure; * where the interval excludes zero."""
    table = {}
    for _, effect in effects.iterrows():
        star = "" if effect["verdict"] == "open" else "*"
        text = f"{effect['difference']:+.{_digits(effect['measure'])}f}{star} ({effect['up']}/{effect['count']})"
        table.setdefault(MEASURES[effect["measure"]], {})[effect["contrast"]] = text
    return pd.DataFrame(table).reindex([name for name in CONTRASTS if name in set(effects["contrast"])]).fillna("–")


def cyclegan_verdict(effects: pd.DataFrame) -> str:
    """Say in one line what the pairs of trainings settle of DECISIVE: `higher`, `lower`, `open`, or `unknown`."""
    verdict_of = effects.set_index(["contrast", "measure"])["verdict"].to_dict()
    return "; ".join(f"{pair[0]}, {MEASURES[pair[1]]}: {verdict_of.get(pair, 'unknown')}" for pair in DECISIVE) + "."


def companion_table(run: Run) -> pd.DataFrame:
    """Return the scores of nets that Table 1 has no row for: G1, the G_XY of CycleGAN, G2 on images that G_YX made.

    A row for each that was trained, means over its seeds; columns `tables.COMPANIONS`, `images_seen` and `seeds`.
    """
    files = {"G1": [run.folder / "g1/result.json"]}
    files["G1, as many images as G_XY"] = [run.folder / G1_AS_LONG / "result.json"]
    for name, variant in VARIANTS.items():
        files[f"G_XY, {variant.title}"] = sorted((run.folder / "cyclegan" / name).glob("seed*/result.json"))
    files[METHODS[IMAGES_METHOD].title] = sorted((run.folder / "g2" / IMAGES_METHOD).glob("seed*/result.json"))
    rows = {}
    for name, paths in files.items():
        results = [json.loads(path.read_text()) for path in paths if path.exists()]
        if results:
            means = pd.DataFrame(results)[[*COMPANIONS, "images_seen"]].astype(float).mean()
            rows[name] = [*means, len(results)]
    counts = {"images_seen": int, "seeds": int}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*COMPANIONS.values(), *counts]).astype(counts)
