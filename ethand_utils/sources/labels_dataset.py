"""Labels of one's own photos → a data set: the photos divided among train, val and test."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ethand_utils.data.datasets import REPORT, SkippedSamples, claim_report
from ethand_utils.data.store import Store
from ethand_utils.data.store_builder import StorePlan, build_stores, kept_store
from ethand_utils.exceptions import EthandError
from ethand_utils.files import first_line, write_json
from ethand_utils.sources.course import evenly_spaced
from ethand_utils.sources.label_files import LABELS, SPLITS, LabelError, LabelRecord, read_records
from ethand_utils.sources.label_samples import index_row, kept_sample, make_sample
from ethand_utils.sources.photo_labels import ARRAYS, SMALLEST, is_label_folder
from ethand_utils.sources.request import ReadRequest

FEWEST = 5  # photos with hands, of which each of SPLITS gets one


def detect(folder: Path) -> bool:
    """Return whether `folder` is one of labels."""
    return is_label_folder(folder)


def read(root: Path, out: Path, request: ReadRequest) -> dict[str, Store]:
    """Build the stores that `request` describes with `read_labels`."""
    r = request
    return read_labels(root, out, r.size, r.train, r.val, r.test, r.unpaired, r.workers, r.replace)


def read_labels(
    root: str | Path,
    out: str | Path,
    size: int = 128,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    unpaired: int | None = None,
    workers: int = 1,
    replace: bool = False,
) -> dict[str, Store]:
    """Build a data set of `size`×`size` px from the folder of labels `root` in the folder `out`; return its stores.

    Each label file says which of the stores `train`, `val` and `test` its photo goes to. `train`, `val`, `test` and
    `unpaired` limit their samples (None: all); photos beyond `train` go without masks into `unpaired_images`. The
    photos are read where they are; of one that is gone the crop stored in `root` is resized. Labels without a sample
    are counted in `out`/report.json. `root` may be open for labelling meanwhile, and is not written to.

    Raises LabelError when there are fewer than FEWEST labelled photos with hands, OutputError and StoreError as
    `claim_report` and `build_stores` do; a complete store of other labels is replaced with `replace`, else refused.
    """
    root, out = Path(root).expanduser(), Path(out)
    if not is_label_folder(root):
        raise LabelError(f"{root}: no folder of labels; expected {LABELS}/ and meta.json, as the labeller writes them")
    if size < SMALLEST or any(limit is not None and limit < 0 for limit in (train, val, test, unpaired)):
        raise LabelError(f"{out}: images need at least {SMALLEST} px a side, a number of samples is 0 or more")
    claim_report(out, root)
    records, report = _check(root, size)
    if len(records) < FEWEST:
        reasons = [f"{entry['count']} skipped: {reason}" for reason, entry in report["skipped"].items()]
        why = "".join(f"; {reason}" for reason in reasons)
        raise LabelError(
            f"{root}: {len(records)} labelled photos with hands, expected at least {FEWEST}, for training, validation "
            f"and test{why}; label more"
        )
    chosen = _divide(records, {"train": train, "val": val, "test": test}, unpaired)
    plans = {name: _plan(root, name, rows, size) for name, rows in chosen.items() if rows}
    for name, plan in plans.items():
        kept_store(out / name, plan, replace)
    write_json(out / REPORT, report | {"root": str(root), "kept": {name: plan.count for name, plan in plans.items()}})
    return build_stores(out, plans, workers, replace)


def _check(root: Path, size: int) -> tuple[dict[str, LabelRecord], dict]:
    """Return the records with a sample, by id, and the report on all label files."""
    records, faults = read_records(root)
    skipped = SkippedSamples()
    for name in faults:
        skipped.add("damaged label file", name)
    sound = {}
    for name, record in records.items():
        if not record.label.sides:
            skipped.add("labelled as having no hand", name)
            continue
        try:
            if kept_sample(root, record) is None:
                make_sample(root, record, size)
            sound[name] = record
        except EthandError as error:
            skipped.add(first_line(error).removeprefix(f"{root}/"), name)
    listed = {LABELS: len(records) + len(faults)}
    return sound, {"source": LABELS, "listed": listed, "skipped": skipped.most_common()}


def _divide(
    records: dict[str, LabelRecord], limits: dict[str, int | None], unpaired: int | None
) -> dict[str, list[LabelRecord]]:
    """Return the records of each store. A split that lost all its photos takes one of the fullest."""
    splits = {name: [record for record in records.values() if record.split == name] for name in SPLITS}
    for name in SPLITS:
        if not splits[name]:
            fullest = max(splits.values(), key=len)
            splits[name].append(fullest.pop(_least(fullest)))
    chosen = {name: evenly_spaced(rows, limits[name]) for name, rows in splits.items()}
    paired = {record.id for record in chosen["train"]}
    rest = [record for record in splits["train"] if record.id not in paired]
    return chosen | {"unpaired_images": evenly_spaced(rest, unpaired)}


def _least(records: list[LabelRecord]) -> int:
    """Return the index of the record whose photo has the smallest SHA-256."""
    return min(range(len(records)), key=lambda i: records[i].sha256)


def _plan(root: Path, name: str, records: list[LabelRecord], size: int) -> StorePlan:
    """Return the plan of a store of these labels."""
    digest = hashlib.sha256("".join(f"{record.id} {record.digest}\n" for record in records).encode()).hexdigest()
    arrays = ("images",) if name == "unpaired_images" else ARRAYS
    meta = {"source": LABELS, "split": name, "labels": digest}
    return StorePlan(LabelledPhoto(root, tuple(records), size, name), len(records), size, arrays, meta)


@dataclass(frozen=True)
class LabelledPhoto:
    """Makes sample i of the store `split` of record i, the same in any process."""

    root: Path
    records: tuple[LabelRecord, ...]
    size: int
    split: str

    def __call__(self, i: int) -> dict:
        record = self.records[i]
        sample = make_sample(self.root, record, self.size)
        row = index_row(record, sample) | {"split": self.split}
        return {name: getattr(sample, name) for name in ARRAYS} | {"row": row}
