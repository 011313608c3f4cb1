"""Selection of InterHand2.6M's frames for a data set, and their assignment to its stores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ethand_utils.labels import HAND_TYPES
from ethand_utils.sources.interhand_frames import Frames
from ethand_utils.sources.interhand_index import InterHandError

STORES = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)  # of the frames, where one annotation is divided among STORES
SPARE = 1.1  # frames checked for each one asked for, as some will not be sound
# A frame: which annotation it is of, its number there, its store, and a number that all frames of a moment share.
ROW = np.dtype([("split", "i1"), ("store", "i1"), ("number", "i8"), ("scene", "i8")])

CANDIDATES = """
select number, subject, capture, moment from (
    select a.number, a.hand_type, i.subject, i.capture, i.moment, i.camera,
           dense_rank() over (partition by i.capture, i.seq order by i.moment) - 1 as place
    from annotations a join images i on i.id = a.image
    where a.hand_type in ({types}) and ({all_captures} or i.capture in ({captures}))
)
where place % {every} = 0 order by capture, moment, camera, number
"""


@dataclass(frozen=True)
class Selection:
    """The frames to take: every `every`-th moment of a sequence, at most `limit` of an annotation, evenly spread.

    Only those of `captures` (None: all) and of `hand_types`. The numbers are limits for each store (None: all);
    `unpaired` counts images beyond the `paired` ones. `seed` seeds every random choice.
    """

    paired: int = 68000
    unpaired: int | None = None
    val: int | None = None
    test: int | None = None
    every: int = 1
    limit: int | None = None
    captures: tuple[str, ...] | None = None
    hand_types: tuple[str, ...] = HAND_TYPES
    seed: int = 0

    def __post_init__(self):
        least = dict.fromkeys(("every", "limit"), 1) | dict.fromkeys(("paired", "unpaired", "val", "test", "seed"), 0)
        if any(getattr(self, name) is not None and getattr(self, name) < low for name, low in least.items()):
            raise InterHandError("selection: expected every and limit of at least 1, counts and seed of at least 0")
        if not self.hand_types or not set(self.hand_types) <= set(HAND_TYPES):
            raise InterHandError(f"hand types {','.join(self.hand_types)}: expected some of {', '.join(HAND_TYPES)}")

    def budget(self, store: str) -> int | None:
        """Return how many of the frames assigned to a store are to be used, unpaired ones included; None: all."""
        if store == "train":
            return None if self.unpaired is None else self.paired + self.unpaired
        return {"val": self.val, "test": self.test}[store]


def select(splits: Sequence[Frames], selection: Selection, official: bool) -> np.ndarray:
    """Return the frames to check, ROW [n], by annotation, capture, moment and camera; frames of a moment share a store.

    With `official`, every annotation is the store of its name. Else subjects are divided among STORES, or captures
    where there are fewer subjects than stores. Raises InterHandError when nothing is left.
    """
    rows, subjects, captures, codes = [], [], [], {}
    for split, frames in enumerate(splits):
        candidates = _candidates(frames, split, selection, codes)
        rng = np.random.default_rng([selection.seed, 0, split])
        chosen = stratified_sample(len(candidates[0]), selection.limit, rng)
        for values, added in zip((rows, subjects, captures), candidates, strict=True):
            values.append(added[chosen])
    rows, subjects, captures = map(np.concatenate, (rows, subjects, captures))
    if not len(rows):
        raise InterHandError(f"{splits[0].root}: no frame is left by these captures, hand types and --every")
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:]["scene"] != rows[:-1]["scene"]) | (rows[1:]["split"] != rows[:-1]["split"])
    rows["scene"] = np.cumsum(new)
    if official:
        rows["store"] = np.array([STORES.index(frames.annotation.split) for frames in splits])[rows["split"]]
    else:
        rows["store"] = split_by_subject(subjects if len(np.unique(subjects)) >= len(STORES) else captures)
    selected = np.zeros(len(rows), bool)
    for code, store in enumerate(STORES):
        of_store, budget = np.flatnonzero(rows["store"] == code), selection.budget(store)
        count, rng = len(of_store), np.random.default_rng([selection.seed, 1, code])
        selected[of_store[stratified_sample(count, budget and int(np.ceil(budget * SPARE)), rng)]] = True
    if not selected.any():
        raise InterHandError(f"{splits[0].root}: paired, unpaired, val and test of 0 leave no frame; ask for some")
    return rows[selected]


def assign_stores(rows: np.ndarray, selection: Selection) -> dict[str, np.ndarray]:
    """Return the sound frames of each store, ROW [n] by store name; stores without frames are left out.

    Moments are shuffled. The frames of one stay together, so that their hands are fitted only once.
    """
    stores = {}
    for code, name in enumerate(STORES):
        frames = rows[rows["store"] == code]
        rng = np.random.default_rng([selection.seed, 2, code])
        if name == "train":
            paired = stratified_sample(len(frames), selection.paired, rng)
            others = np.delete(frames, paired)
            stores["unpaired_images"] = others[stratified_sample(len(others), selection.unpaired, rng)]
            stores[name] = frames[paired]
        else:
            stores[name] = frames[stratified_sample(len(frames), selection.budget(name), rng)]
    stores = {name: frames for name, frames in stores.items() if len(frames)}
    for code, (name, frames) in enumerate(stores.items()):
        scenes, scene_of = np.unique(frames["scene"], return_inverse=True)
        order = np.random.default_rng([selection.seed, 3, code]).permutation(len(scenes))
        stores[name] = frames[np.argsort(order[scene_of], kind="stable")]
    return stores


def stratified_sample(count: int, limit: int | None, rng: np.random.Generator) -> np.ndarray:
    """Return `limit` indices below `count` in order, int [limit], a random one of each of as many equal intervals.

    Evenly spaced ones could all be of the same camera. A `limit` of None, or above `count`, takes all.
    """
    if limit is None or limit >= count:
        return np.arange(count)
    edges = np.arange(limit + 1) * count // max(limit, 1)
    return rng.integers(edges[:-1], edges[1:])


def split_by_subject(units: np.ndarray) -> np.ndarray:
    """Return the store of every frame, an index of STORES, int [n], by its unit (subject or capture), int [n].

    Units are not divided. From the largest on, each goes to the store that lacks most of its share; no store stays
    empty as long as there are units. A single unit is for training.
    """
    sizes = Counter(units.tolist())
    lacking = np.array(SHARES) * len(units)
    empty, store_of = list(range(len(STORES))), {}
    for done, (unit, size) in enumerate(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))):
        left = len(sizes) - done
        store = empty[0] if left <= len(empty) else int(lacking.argmax())
        store_of[unit] = store
        lacking[store] -= size
        if store in empty:
            empty.remove(store)
    unique, unit_of = np.unique(units, return_inverse=True)
    return np.array([store_of[unit] for unit in unique.tolist()], int)[unit_of]


def _candidates(frames: Frames, split: int, selection: Selection, codes: dict[str, int]) -> tuple[np.ndarray, ...]:
    """Return the frames of one annotation, ROW [n], and the `codes` of their subjects and captures, int [n] each.

    Subjects of the same name are one person in all annotations, captures are not.
    """
    captures = selection.captures or ()
    marks = {"types": ", ".join("?" * len(selection.hand_types)), "captures": ", ".join("?" * len(captures))}
    sql = CANDIDATES.format(**marks, all_captures=int(selection.captures is None), every=selection.every)

    def code(*names: str) -> int:
        return codes.setdefault("/".join(names), len(codes))

    values = (
        (row["number"], code(row["subject"]), code(f"annotation {split}", row["capture"]), row["moment"])
        for row in frames.query(sql, (*selection.hand_types, *captures))
    )
    table = np.fromiter(values, np.dtype([(name, "i8") for name in ("number", "subject", "capture", "moment")]))
    rows = np.zeros(len(table), ROW)
    rows["split"], rows["number"] = split, table["number"]
    rows["scene"] = table["capture"] * (1 << 40) + table["moment"]
    return rows, table["subject"], table["capture"]
