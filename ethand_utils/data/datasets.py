"""Data sets: opening a folder of stores, choosing and describing stores, and the reader's report."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.data.store import HOW_TO_BUILD, OCCLUDED, Store, StoreError
from ethand_utils.labels import HAND_TYPES, HANDS
from ethand_utils.outputs import OutputError, claim_shared_folder

HEAVY_OCCLUSION = 0.2  # share of a hand above which it counts as much occluded
COLUMNS = ("id", "hand_type", "subject")  # what the index of every store has, wherever it comes from

REPORT = "report.json"  # of a data set that was read, beside its stores
EXAMPLES = 10  # sample names kept for every reason


def open_dataset(path: str | Path) -> dict[str, Store]:
    """Open the stores of a data set, or a single store, by name. Raises StoreError when there is none."""
    path = Path(path)
    if (path / "meta.json").exists():
        return {path.name: Store(path)}
    stores = {p.parent.name: Store(p.parent) for p in sorted(path.glob("*/meta.json")) if p.parent.name[0] != "."}
    if not stores:
        raise StoreError(f"{path}: no data set here; check the path, or {HOW_TO_BUILD}")
    return stores


def require_stores(stores: dict[str, Store], folder: str | Path, *names: str) -> dict[str, Store]:
    """Return `stores`, of the data set `folder`, if it has all `names` with COLUMNS, else raise StoreError."""
    for name in names:
        if name not in stores:
            remedy = (
                "lower `train`, so that images are left over to go without masks"
                if name == "unpaired_images"
                else "take in more captures or splits, so that there are other people for it"
            )
            raise StoreError(f"{folder}: has no store {name}, which is needed here, only {', '.join(stores)}; {remedy}")
        for column in COLUMNS:
            if column not in stores[name].index:
                raise StoreError(f"{folder}/{name}/index.parquet: has no column {column}; build the store again")
    return stores


def held_out(stores: dict[str, Store], *arrays: str) -> Store:
    """Return the store to evaluate a net on: `test`, or `val` where `test` is missing or lacks one of `arrays`.

    The course does not publish the masks of its test images. Raises StoreError when there is neither.
    """
    for name in ("test", "val"):
        if name in stores and all(getattr(stores[name], array) is not None for array in arrays):
            return stores[name]
    raise StoreError(
        f"{next(iter(stores.values())).path.parent}: neither test nor val has {' and '.join(arrays)} to judge a net "
        f"on, only {', '.join(stores)}; take in more captures or splits, so that there are other people for one"
    )


def occlusion(index: pd.DataFrame) -> pd.DataFrame:
    """Return the occluded share of each hand, columns `left` and `right`; NaN where it is absent or not known."""
    return index.reindex(columns=list(OCCLUDED)).astype(float).set_axis(HANDS, axis=1)


def describe(store: Store) -> dict:
    """Describe a store in one row: samples, size (px), arrays, subjects, hand types, and of its two-hand samples:

    the mean occluded share of a hand, the share of samples with a hand occluded by more than HEAVY_OCCLUSION, and
    median and 95th percentile of the hands' penetration depth, in mm. None where the index lacks them.
    """
    two = store.index[store.index["hand_type"] == HAND_TYPES[-1]]
    occluded = occlusion(two).to_numpy()
    depth = two["penetration_mm"].to_numpy() if "penetration_mm" in two else np.zeros(0)
    types = store.index["hand_type"].value_counts()
    known = np.isfinite(occluded).any()
    return {
        "samples": len(store),
        "size": store.size,
        "arrays": ", ".join(store.meta["arrays"]),
        "subjects": int(store.index["subject"].nunique()),
        **{kind: int(types.get(kind, 0)) for kind in HAND_TYPES},
        "occluded_share": float(np.nanmean(occluded)) if known else None,
        "much_occluded": float((occluded > HEAVY_OCCLUSION).any(1).mean()) if known else None,
        "penetration_mm_median": float(np.median(depth)) if len(depth) else None,
        "penetration_mm_p95": float(np.percentile(depth, 95)) if len(depth) else None,
        "source": store.meta.get("source", ""),
    }


def claim_report(out: Path, root: str | Path) -> None:
    """Raise OutputError when a data set in `out`, read from `root`, must not be written.

    That is when `out` is `root`, or has a `report.json` that no data set wrote.
    """
    claim_shared_folder(out, (root,))
    file = out / REPORT
    try:
        ours = not os.path.lexists(file) or {"source", "kept", "listed"} <= json.loads(file.read_text()).keys()
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise OutputError(f"{file}: not the report of a data set, and so not replaced; choose another folder")


class SkippedSamples:
    """Skipped samples by reason: `reasons` has the `count` and the first EXAMPLES `names` of each."""

    def __init__(self):
        self.reasons: dict[str, dict] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count a sample or entry of this `name` under a reason."""
        entry = self.reasons.setdefault(reason, {"count": 0, "names": []})
        entry["count"] += count
        if len(entry["names"]) < EXAMPLES:
            entry["names"].append(name)

    def most_common(self) -> dict[str, dict]:
        """Return `reasons`, the most frequent first."""
        return dict(sorted(self.reasons.items(), key=lambda item: -item[1]["count"]))


def report_table(report: dict) -> pd.DataFrame:
    """Turn a `report.json` into a table with columns `what`, `of` (split, store or reason), `count` and `names`.

    Of the report, `listed` counts the entries of the lists or annotations, `passed_over` the faulty ones among them,
    `skipped` samples by reason, `kept` those in each store; `left_out` says why a store is missing.
    """
    rows = [("listed", split, count, []) for split, count in report.get("listed", {}).items()]
    for split, faults in report.get("passed_over", {}).items():
        rows += [("passed over", f"{split}: {why}", entry["count"], entry["names"]) for why, entry in faults.items()]
    rows += [("skipped", why, entry["count"], entry["names"]) for why, entry in report.get("skipped", {}).items()]
    rows += [("kept", store, count, []) for store, count in report.get("kept", {}).items()]
    rows += [("left out", f"{store}: {why}", 0, []) for store, why in report.get("left_out", {}).items()]
    table = pd.DataFrame(rows, columns=["what", "of", "count", "names"])
    return table.assign(names=table["names"].map(lambda names: " ".join(map(str, names[:2])))).set_index("what")
