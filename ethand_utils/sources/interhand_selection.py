"""Which frames of InterHand2.6M a data set is made of, and into which of its stores each goes."""

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
    """Which frames to take: every `every`-th moment of a sequence, at most `limit` of an annotation, evenly spread.

    Only those of `captures` (None: all) and of `hand_types`; at most so many for each store, None being all:
    `unpaired` counts images beyond the `paired` ones. `seed` is of all draws.
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
        counts = [self.paired, self.unpaired, self.val, self.test, self.seed]
        if (
            self.every < 1
            or (self.limit is not None and self.limit < 1)
            or any(n is not None and n < 0 for n in counts)
        ):
            raise InterHandError("selection: expected every and limit of at least 1, counts and seed of at least 0")
        if not self.hand_types or not set(self.hand_types) <= set(HAND_TYPES):
            raise InterHandError(f"hand types {','.join(self.hand_types)}: expected some of {', '.join(HAND_TYPES)}")

    def budget(self, store: str) -> int | None:
        """Frames wanted of those that are assigned to a store, unpaired ones among them; None: all."""
        if store == "train":
            return None if self.unpaired is None else self.paired + self.unpaired
        return {"val": self.val, "test": self.test}[store]


def select(splits: Sequence[Frames], selection: Selection, official: bool) -> np.ndarray:
    """Frames to be checked, ROW [n], by annotation, capture, moment and camera; frames of a moment share a store.

    With `official`, every annotation is the store of its name. Else subjects are divided among STORES, or captures
    where there are fewer subjects than stores. Raises InterHandError when nothing is left.
    """
    rows, subjects, captures, codes = [], [], [], {}
    for split, frames in enumerate(splits):
        found = _candidates(frames, split, selection, codes)
        kept = stratified_sample(len(found[0]), selection.limit, np.random.default_rng([selection.seed, 0, split]))
        rows, subjects, captures = (
            [*whole, part[kept]] for whole, part in zip((rows, subjects, captures), found, strict=True)
        )
    rows, subjects, captures = (np.concatenate(parts) for parts in (rows, subjects, captures))
    if not len(rows):
        raise InterHandError(f"{splits[0].root}: no frame is left by these captures, hand types and --every")
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:]["scene"] != rows[:-1]["scene"]) | (rows[1:]["split"] != rows[:-1]["split"])
    rows["scene"] = np.cumsum(new)
    if official:
        rows["store"] = np.array([STORES.index(frames.annotation.split) for frames in splits])[rows["split"]]
    else:
        rows["store"] = split_by_subject(subjects if len(np.unique(subjects)) >= len(STORES) else captures)
    drawn = np.zeros(len(rows), bool)
    for code, store in enumerate(STORES):
        mine, wanted = np.flatnonzero(rows["store"] == code), selection.budget(store)
        spare = None if wanted is None else int(np.ceil(wanted * SPARE))
        drawn[mine[stratified_sample(len(mine), spare, np.random.default_rng([selection.seed, 1, code]))]] = True
    if not drawn.any():
        raise InterHandError(f"{splits[0].root}: paired, unpaired, val and test of 0 leave no frame; ask for some")
    return rows[drawn]


def assign_stores(rows: np.ndarray, selection: Selection) -> dict[str, np.ndarray]:
    """Sound frames as they go into the stores, ROW [n] by store name; those without frames are left out.

    Moments are shuffled, the frames of one stay together, so that their hands need making only once.
    """
    stores = {}
    for code, name in enumerate(STORES):
        mine = rows[rows["store"] == code]
        rng = np.random.default_rng([selection.seed, 2, code])
        if name == "train":
            paired = stratified_sample(len(mine), selection.paired, rng)
            rest = np.delete(mine, paired)
            stores["unpaired_images"] = rest[stratified_sample(len(rest), selection.unpaired, rng)]
            mine = mine[paired]
        else:
            mine = mine[stratified_sample(len(mine), selection.budget(name), rng)]
        stores[name] = mine
    stores = {name: mine for name, mine in stores.items() if len(mine)}
    for code, (name, mine) in enumerate(stores.items()):
        scenes, which = np.unique(mine["scene"], return_inverse=True)
        order = np.random.default_rng([selection.seed, 3, code]).permutation(len(scenes))
        stores[name] = mine[np.argsort(order[which], kind="stable")]
    return stores


def stratified_sample(count: int, wanted: int | None, rng: np.random.Generator) -> np.ndarray:
    """`wanted` of `count` things in order, int [wanted], one at random out of each of as many equal stretches.

    Evenly spaced ones could all be of the same camera. None, or more than there are: all.
    """
    if wanted is None or wanted >= count:
        return np.arange(count)
    edges = np.arange(wanted + 1) * count // max(wanted, 1)
    return rng.integers(edges[:-1], edges[1:])


def split_by_subject(units: np.ndarray) -> np.ndarray:
    """The store, an index of STORES, of every frame, int [n], by its unit (subject or capture) int [n].

    Units stay whole. The largest first, each goes to the store that lacks most of its share; none stays empty as long
    as there are units. One unit alone is for training.
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
    known, which = np.unique(units, return_inverse=True)
    return np.array([store_of[unit] for unit in known.tolist()], int)[which]


def _candidates(
    frames: Frames, split: int, selection: Selection, codes: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of one annotation, ROW [n], and the `codes` of their subjects and captures, int [n] each.

    Subjects of the same name are one person in all annotations, captures are not.
    """
    captures = selection.captures or ()
    marks = {"types": ", ".join("?" * len(selection.hand_types)), "captures": ", ".join("?" * len(captures))}
    sql = CANDIDATES.format(**marks, all_captures=int(selection.captures is None), every=selection.every)

    def code(*place: str) -> int:
        return codes.setdefault("/".join(place), len(codes))

    seen = (
        (row["number"], code(row["subject"]), code(f"annotation {split}", row["capture"]), row["moment"])
        for row in frames.query(sql, (*selection.hand_types, *captures))
    )
    table = np.fromiter(seen, np.dtype([(name, "i8") for name in ("number", "subject", "capture", "moment")]))
    rows = np.zeros(len(table), ROW)
    rows["split"], rows["number"] = split, table["number"]
    rows["scene"] = table["capture"] * (1 << 40) + table["moment"]
    return rows, table["subject"], table["capture"]
