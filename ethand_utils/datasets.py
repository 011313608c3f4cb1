"""Data sets: folders of stores. Render one, open one, look one over."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.amodal import occluded_share
from ethand_utils.building import store_meta
from ethand_utils.labels import HAND_TYPES, HANDS, LEFT, RIGHT
from ethand_utils.parts import Part, build_part, finished_parts, join_parts, remove_parts
from ethand_utils.rendering import render, render_masks
from ethand_utils.scenes import VIEWS, sample_scene
from ethand_utils.sources import module_sources
from ethand_utils.store import Store, StoreError
from ethand_utils.subjects import sample_subject

# Code of each split in the random seed. The truth of the unpaired images is kept apart, for judging pseudo-labels only.
SPLITS = {"train": 0, "val": 1, "test": 2, "unpaired_images": 3, "unpaired_labels": 4}
TRUTH = "unpaired_truth"
SAMPLES_PER_SUBJECT = 25
MUCH = 0.2  # share of a hand that is occluded
COLUMNS = ("id", "hand_type", "subject")  # what the index of every store has, wherever it comes from


@dataclass(frozen=True)
class RenderedSample:
    """Makes sample i of a rendered split: a function of (seed, split, i) alone, so that any process gives the same."""

    split: str
    subjects: int
    size: int
    seed: int
    with_image: bool
    views: str = "round"

    def __call__(self, i: int) -> dict:
        code, person = SPLITS[self.split], i % self.subjects
        subject = sample_subject(np.random.default_rng([self.seed, code, 0, person]))
        rng = np.random.default_rng([self.seed, code, 1, i])
        scene = sample_scene(rng, subject, views=self.views)
        sample = render(scene, self.size, rng) if self.with_image else render_masks(scene, self.size)
        left, right = occluded_share(sample["masks"], sample["front"])
        x, y, w, h = scene.bbox
        row = {
            "id": f"{self.split}-{i:07d}",
            "hand_type": scene.hand_type,
            "subject": f"{self.split}-{person:05d}",
            "capture": self.split,
            "seq": "rendered",
            "camera": f"{i:07d}",
            "frame": i,
            "bbox_x": x,
            "bbox_y": y,
            "bbox_w": w,
            "bbox_h": h,
            "occluded_left": left,
            "occluded_right": right,
            "arrangement": scene.arrangement,
            "pose_left": scene.poses[LEFT],
            "pose_right": scene.poses[RIGHT],
            "penetration_mm": 1000 * scene.penetration,
            "source": "",
        }
        truth = {name: sample[name] for name in ("masks", "front", "depth")}
        return {"images": sample.get("image"), **truth, "row": row}


def render_dataset(
    out: str | Path,
    train: int = 4000,
    val: int = 400,
    test: int = 400,
    unpaired: int = 4000,
    size: int = 128,
    seed: int = 0,
    workers: int = 1,
    replace: bool = False,
    depth: bool = False,
    views: str = "round",
    part: Part | None = None,
) -> dict[str, Store]:
    """Render a data set of `size`×`size` px into the folder `out` and open its stores by name.

    Stores `train`, `val`, `test` are paired; `unpaired_images` has images only, `unpaired_labels` masks of other
    scenes; `unpaired_truth` the masks that belong to `unpaired_images`. No two splits share a subject or a scene.
    `views` is one of `scenes.VIEWS`. With `depth`, every store that has masks has the depth of both limbs, too.
    Complete stores are kept, an interrupted one continues; one made with other settings is refused, or rendered anew
    if `replace`.

    With `part`, only that share of every store is rendered, into a hidden folder of `out`, and the stores made there
    are returned; as many jobs may be at work at once as there are parts. A later call without `part` joins those that
    are finished, renders the rest, and removes them: the bytes are the same. Raises StoreError as `build_part` and
    `join_parts` do.
    """
    counts = {"train": train, "val": val, "test": test, "unpaired_images": unpaired, "unpaired_labels": unpaired}
    if views not in VIEWS:
        raise StoreError(f"{out}: views {views}, expected one of {', '.join(VIEWS)}")
    if min(counts.values()) < 1 or size < 16 or seed < 0:
        raise StoreError(
            f"{out}: every split needs at least one sample, images at least 16 px a side, a seed 0 or more"
        )
    out, plans, how = Path(out), _plans(counts, size, seed, depth, views), {"workers": workers, "replace": replace}
    if part is not None:
        built = {name: build_part(out / name, part, **plan, **how) for name, plan in plans.items()}
        return {name: store for name, store in built.items() if store is not None}
    for name, plan in plans.items():  # parts that do not fit are refused before any work begins
        wanted = store_meta(plan["count"], plan["size"], plan["arrays"], plan["meta"])
        finished_parts(out / name, wanted, ignore=replace)
    stores = {name: join_parts(out / name, **plan, **how) for name, plan in plans.items()}
    remove_parts(out)
    return stores


def _plans(counts: dict[str, int], size: int, seed: int, depth: bool, views: str) -> dict[str, dict]:
    """Arguments of `build_store` for every store of a rendered data set, by name."""
    truth = ("masks", "front", "depth") if depth else ("masks", "front")
    stores = {name: (name, ("images", *truth)) for name in ("train", "val", "test")}
    stores["unpaired_images"] = ("unpaired_images", ("images",))
    stores[TRUTH] = ("unpaired_images", truth)
    stores["unpaired_labels"] = ("unpaired_labels", truth)
    plans = {}
    for name, (split, arrays) in stores.items():
        subjects = max(4, counts[split] // SAMPLES_PER_SUBJECT)
        plans[name] = {
            "make": RenderedSample(split, subjects, size, seed, "images" in arrays, views),
            "count": counts[split],
            "size": size,
            "arrays": arrays,
            "meta": {
                "source": "rendered",
                "split": split,
                "subjects": subjects,
                "seed": seed,
                "views": views,
                "renderer": renderer_version(),
            },
        }
    return plans


@cache
def renderer_version() -> str:
    """Digest of the code that makes rendered samples, so that a store says which renderer made it."""
    files = [Path(file) for file in module_sources("rendering", "subjects")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def open_dataset(path: str | Path) -> dict[str, Store]:
    """Every store of a data set by name; `path` may also be a single store. Raises StoreError when there is none."""
    path = Path(path)
    if (path / "meta.json").exists():
        return {path.name: Store(path)}
    stores = {p.parent.name: Store(p.parent) for p in sorted(path.glob("*/meta.json")) if p.parent.name[0] != "."}
    if not stores:
        raise StoreError(f"{path}: no data set here; build one with `ethand data render --out {path}`")
    return stores


def require_stores(stores: dict[str, Store], folder: str | Path, *names: str) -> dict[str, Store]:
    """`stores` of the data set in `folder`, if all of `names` are among them with COLUMNS; else StoreError."""
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
    """The store to judge a net on: `test`, or `val` where `test` is missing or lacks one of `arrays`.

    The course keeps the masks of its test images to itself. Raises StoreError when there is neither.
    """
    for name in ("test", "val"):
        if name in stores and all(getattr(stores[name], array) is not None for array in arrays):
            return stores[name]
    raise StoreError(
        f"{next(iter(stores.values())).path.parent}: neither test nor val has {' and '.join(arrays)} to judge a net "
        f"on, only {', '.join(stores)}; take in more captures or splits, so that there are other people for one"
    )


def occlusion(index: pd.DataFrame) -> pd.DataFrame:
    """Share of each hand that is occluded, columns `left` and `right`; NaN where it is absent or nobody can tell."""
    return index.reindex(columns=[f"occluded_{hand}" for hand in HANDS]).astype(float).set_axis(HANDS, axis=1)


def describe(store: Store) -> dict:
    """One row on a store: samples, size (px), arrays, subjects, hand types, and of its two-hand samples:

    the mean share of a hand that is occluded, the share of samples with a hand of which more than MUCH is, and median
    and 95th percentile of how deep the hands run into each other, in mm. None where the index does not know.
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
        "much_occluded": float((occluded > MUCH).any(1).mean()) if known else None,
        "penetration_mm_median": float(np.median(depth)) if len(depth) else None,
        "penetration_mm_p95": float(np.percentile(depth, 95)) if len(depth) else None,
        "source": store.meta.get("source", ""),
    }
