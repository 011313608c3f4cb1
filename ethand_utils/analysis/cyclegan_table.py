"""CycleGAN's rows beside one another: what each remedy changes, and what that says of the report's two suspicions."""

import json

import numpy as np
import pandas as pd

from ethand_utils.analysis.statistics import t_interval
from ethand_utils.analysis.tables import COMPANIONS
from ethand_utils.experiments.methods import IMAGES_ROW
from ethand_utils.experiments.run import Run, RunError
from ethand_utils.style import mean_text
from ethand_utils.training.cyclegan.discriminators import balance
from ethand_utils.training.cyclegan.variants import G1_AS_LONG, REFERENCE_VARIANT, VARIANT_TITLES, VARIANTS

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
_ORDER = {row: place for place, row in enumerate(VARIANT_TITLES)}
# What is compared: the rows of a pair differ in this alone. Each group of remedies is tried with and without the other.
BALANCED, IN_FRONT, WARM = "all five for balance", "which hand is in front", "warm start from G1"
CYCLES, LOOSER = "cycles and D", "looser image cycle"
CONTRASTS = {
    CYCLES: (("pairs", "report"),),
    "replay buffer": (("report", "buffer"),),
    "two time scales": (("report", "rates"),),
    "spectral norm": (("report", "spectral"),),
    "straight-through masks": (("report", "straight"),),
    WARM: (("report", "warm"),),
    BALANCED: (("report", "balanced"), ("front", "remedied")),
    IN_FRONT: (("report", "front"), ("balanced", "remedied")),
    LOOSER: (("remedied", "loose"),),
}


def cycle_results(run: Run) -> pd.DataFrame:
    """Every `result.json` of the run's CycleGAN as one table, a row a training, in the order of CYCLE_ROWS.

    Rows that a notebook has trained under another name come last. Raises RunError when there is none.
    """
    files = sorted((run.folder / "cyclegan").glob("*/seed*/result.json"))
    files.sort(key=lambda file: _ORDER.get(file.parts[-3], len(_ORDER)))
    if not files:
        raise RunError(
            f"{run.folder}/cyclegan: no result yet; run notebooks/11_cyclegan.ipynb, or `ethand run` with "
            "--set 'cyclegan=[loose]'"
        )
    found = pd.DataFrame([json.loads(file.read_text()) for file in files])
    return found.reindex(columns=[*found, *(name for name in MEASURES if name not in found)])


def cycle_table(found: pd.DataFrame) -> pd.DataFrame:
    """`cycle_results` by row as numbers: `row`, `model`, `seeds`, and of each of MEASURES the mean and `_sd`."""
    rows = found.groupby("row", sort=False)
    table = pd.DataFrame({"model": [VARIANT_TITLES.get(row, row) for row in rows.groups], "seeds": rows.size()})
    for name in MEASURES:
        table[name], table[f"{name}_sd"] = rows[name].mean(), rows[name].std()
    return table.rename_axis("row").reset_index()


def shown_cycles(table: pd.DataFrame) -> pd.DataFrame:
    """`cycle_table` as it is read."""
    texts = {
        heading: [
            mean_text(mean, sd, 1 if "dB" in heading else 3)
            for mean, sd in zip(table[name], table[f"{name}_sd"], strict=True)
        ]
        for name, heading in MEASURES.items()
    }
    return pd.DataFrame({"row": table["model"], "seeds": table["seeds"], **texts})


def variant_effects(found: pd.DataFrame) -> pd.DataFrame:
    """What each of CONTRASTS changes: a row a contrast and measure that some pair of trainings shows.

    Columns `contrast`, `measure`; `difference`, mean over pairs of trainings of one seed and as many images that differ
    in this alone, with the ends of its t interval, `low` and `high` (NaN for a single one); `count` of such pairs and
    `up`, in how many it is upwards.
    """
    scores = found.set_index(["row", "seed"])
    rows = []
    for contrast, pairs in CONTRASTS.items():
        shared = [
            ((one, seed), (other, seed))
            for one, other in pairs
            for seed in sorted(_seeds(found, one) & _seeds(found, other))
            if scores.loc[(one, seed), "images_seen"] == scores.loc[(other, seed), "images_seen"]
        ]
        for measure in MEASURES:
            each = np.array([scores.loc[after, measure] - scores.loc[before, measure] for before, after in shared])
            each = each[~np.isnan(each)]
            if len(each):
                mean, low, high, count = t_interval(each)
                rows.append((contrast, measure, mean, low, high, count, int((each > 0).sum())))
    return pd.DataFrame(rows, columns=["contrast", "measure", "difference", "low", "high", "count", "up"])


def _seeds(found: pd.DataFrame, row: str) -> set[int]:
    return set(found.loc[found["row"] == row, "seed"])


def shown_effects(changes: pd.DataFrame) -> pd.DataFrame:
    """`effects` as they are read: a row a contrast, a column a measure; * where the t interval leaves zero out."""
    table = {}
    for _, change in changes.iterrows():
        heading = MEASURES[change["measure"]]
        difference = _number(change["measure"], change["difference"], "+")
        text = f"{difference}{'*' if excludes_zero(change) else ''} ({change['up']}/{change['count']})"
        table.setdefault(heading, {})[change["contrast"]] = text
    return pd.DataFrame(table).reindex([name for name in CONTRASTS if name in set(changes["contrast"])]).fillna("–")


def excludes_zero(change: pd.Series) -> bool:
    """Whether a row of `effects` leaves zero out of its interval."""
    return bool(change["low"] > 0 or change["high"] < 0)


def verdicts(found: pd.DataFrame, changes: pd.DataFrame) -> list[str]:
    """What the rows say of the report's two suspicions, and of a third, in sentences drawn from the numbers."""
    known = {(change["contrast"], change["measure"]): change for _, change in changes.iterrows()}
    return [_strength(found, known), _order(found, known), _nowhere(known)]


def _strength(found: pd.DataFrame, known: dict) -> str:
    words = ["Unequal strength:"]
    for name in ("report", REFERENCE_VARIANT):
        rates = found.loc[found["row"] == name, ["d_x_accuracy", "d_y_accuracy"]].mean()
        if rates.notna().all():
            words.append(f"In the row {name}, D_X {balance(rates.iloc[0])}; D_Y {balance(rates.iloc[1])}.")
    measures = ("d_x_accuracy", "d_y_accuracy", "course_miou", "cycle_miou")
    words += [_told(known, BALANCED, measure, "Using the five remedies for it") for measure in measures]
    words += [_told(known, WARM, "course_miou", "The warm start alone, which brings G1's training with it,")]
    words += [_told(known, CYCLES, "course_miou", "Adding cycles and discriminators to pairs alone")]
    return " ".join(filter(None, words))


def _order(found: pd.DataFrame, known: dict) -> str:
    words = ["Which hand is in front:"]
    if found["front_real"].isna().all():
        return f"{words[0]} unknown, as these data do not say which hand is nearer."
    for name in ("report", REFERENCE_VARIANT):
        row = found.loc[found["row"] == name, ["front_made", "front_real"]].mean()
        if row.notna().all():
            words.append(
                f"In the row {name}, images made of true masks show the right hand in front in {row['front_made']:.0%} "
                f"of the shared pixels (guessing: 50%; the judge on real images: {row['front_real']:.0%})."
            )
    measures = ("front_made", "psnr_made", "course_miou")
    words += [_told(known, IN_FRONT, measure, "Telling G_YX which hand it is") for measure in measures]
    return " ".join(filter(None, words))


def _nowhere(known: dict) -> str:
    words = ["What neither suspicion names: light, skin and background, which masks cannot carry, are asked back."]
    measures = ("course_miou", "cycle_miou", "psnr_made", "psnr_cycle")
    words += [_told(known, LOOSER, measure, "Counting the image that comes back a fifth") for measure in measures]
    return " ".join(filter(None, words))


def _told(known: dict, contrast: str, measure: str, subject: str) -> str:
    """A sentence on what a contrast does to a measure; of the first measures, that no rows show it."""
    change = known.get((contrast, measure))
    if change is None:
        return f"{subject}: no two rows of one seed show it yet." if measure in ("d_x_accuracy", "front_made") else ""
    name, size = MEASURES[measure], _number(measure, abs(change["difference"]))
    verb = "raises" if change["difference"] > 0 else "lowers"
    ends = ", one pair of trainings"
    if change["count"] > 1:
        sure = "beyond chance" if excludes_zero(change) else "within what chance may do"
        low, high = (_number(measure, change[end], "+") for end in ("low", "high"))
        ends = f", {change['up']} of {change['count']} pairs of trainings up, 95 % {low} to {high}: {sure}"
    return f"{subject} {verb} “{name}” ({size}{ends})."


def _number(measure: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.{1 if 'dB' in MEASURES[measure] else 3}f}"


def beside_table(run: Run) -> pd.DataFrame:
    """What Table 1 has no row for, scored in the same way: G1, the G_XY of CycleGAN, G2 on images that G_YX made.

    A row for each that is there, means over its seeds; columns ablation.COMPANIONS, `images_seen` and `seeds`.
    """
    files = {"G1": [run.folder / "g1/result.json"]}
    files["G1, as many images as G_XY"] = [run.folder / G1_AS_LONG / "result.json"]
    for row in VARIANTS:
        files[f"G_XY, {row['TITLE']}"] = sorted((run.folder / "cyclegan" / row["ROW"]).glob("seed*/result.json"))
    files[IMAGES_ROW["TITLE"]] = sorted((run.folder / "g2" / IMAGES_ROW["ROW"]).glob("seed*/result.json"))
    rows = {}
    for name, paths in files.items():
        results = [json.loads(path.read_text()) for path in paths if path.exists()]
        if results:
            means = pd.DataFrame(results)[[*COMPANIONS, "images_seen"]].astype(float).mean()
            rows[name] = [*means, len(results)]
    counts = {"images_seen": int, "seeds": int}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*COMPANIONS.values(), *counts]).astype(counts)
