"""InterHand2.6M as downloaded → a data set: frames are checked, selected, cropped, and given amodal masks."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ethand_utils.data.crops import crop_square
from ethand_utils.data.datasets import EXAMPLES, REPORT, SkippedSamples, claim_report
from ethand_utils.data.images import ImageError
from ethand_utils.data.store import BOX, OCCLUDED, Store, StoreError
from ethand_utils.data.store_builder import Shard, StorePlan, build_stores, kept_store
from ethand_utils.dependencies import module_files
from ethand_utils.files import write_json
from ethand_utils.hands.amodal import hand_masks, occluded_share
from ethand_utils.hands.mano import ManoHands
from ethand_utils.labels import HANDS, LEFT, RIGHT
from ethand_utils.sources.interhand_checks import CachedHandSource, Check, mean_residuals, open_rows, save_rows
from ethand_utils.sources.interhand_frames import FrameError, Frames, frame_crops
from ethand_utils.sources.interhand_index import MANO, InterHandError, find_annotations, index_annotation
from ethand_utils.sources.interhand_selection import STORES, Selection, assign_stores, select
from ethand_utils.sources.joint_annotations import RigHands
from ethand_utils.sources.request import ReadRequest

FOLDER = ".interhand"  # of the data set: indices of the annotation and results of the checks


def detect(folder: Path) -> bool:
    """Return whether an annotation lies in `folder`, but not in `images/`, which may hold millions of files."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "images"]
        starts = {name.removesuffix("data.json") for name in names if name.endswith("data.json")}
        if any(f"{start}joint_3d.json" in names for start in starts):
            return True
    return False


def read(root: Path, out: Path, request: ReadRequest) -> dict[str, Store]:
    """Build the stores that `request` describes; numbers of frames that are None are those of `Selection`."""
    r = request
    counts = {"paired": r.train, "unpaired": r.unpaired, "val": r.val, "test": r.test}
    counts = {name: count for name, count in counts.items() if count is not None}
    how = {"workers": r.workers, "shard": r.shard, "replace": r.replace}
    return read_interhand(root, out, size=r.size, hands=hand_source(r.mano_dir), seed=r.seed, **counts, **how)


def hand_source(mano_dir: Path | None):
    """Return what turns the annotation into hands: MANO with the files in `mano_dir`, without it the generic rig."""
    return RigHands() if mano_dir is None else ManoHands(mano_dir)


def read_interhand(
    root: str | Path,
    out: str | Path,
    splits: tuple[str, ...] | None = None,
    size: int = 128,
    hands: RigHands | ManoHands | None = None,
    workers: int = 1,
    shard: Shard | None = None,
    replace: bool = False,
    annotations: str | None = None,
    **selection,
) -> dict[str, Store]:
    """Build a data set of `size`×`size` px from InterHand2.6M at `root` in the folder `out`; return its stores by name.

    Stores `train`, `val` and `test` are paired, `unpaired_images` has the images of other training frames; the fields
    of `Selection` in `selection` say which frames, and how many. `annotations` is one of ANNOTATION_SETS
    (`find_annotations`). `hands` is the source of hands, `RigHands` if None. Annotations of the official splits each
    make the store of their name, if there are several or `splits` asks for them; otherwise subjects are divided among
    the stores. Every frame is checked before any is used, and `report.json` lists what was skipped and why.

    The index of the annotation and the results of the checks stay in a hidden folder of `out`, so that an interrupted
    call resumes where it stopped. With `shard`, the jobs share the checks, and each builds only its share of every
    store; a later call without `shard` merges them, as `render_dataset` does. Raises InterHandError when a file is
    missing or not of InterHand2.6M's layout, or no frame is sound, and StoreError as `build_stores` does.
    """
    out, root = Path(out), Path(root).expanduser()
    selection = Selection(**selection)
    if size < 16:
        raise InterHandError(f"{out}: images of {size} px a side; expected at least 16")
    claim_report(out, root)
    opened = _open_splits(root, out / FOLDER, splits, annotations, hands)
    check = _plan_check(out / FOLDER, opened, selection, splits is not None, hands)
    if not replace:
        _refuse_others(out, check, selection, size)
    check.run(workers, 0.0 if shard is None else (shard.number - 1) / shard.of, preload=[__name__])
    sound, report = _report(check)
    rows = assign_stores(open_rows(check.rows)[sound], selection)
    report |= {"source": "interhand", "root": str(root), "kept": {name: len(chosen) for name, chosen in rows.items()}}
    plans = {name: _plan_store(name, chosen, check, selection, size) for name, chosen in rows.items()}
    for name, plan in plans.items():
        kept_store(out / name, plan, replace)
    write_json(out / REPORT, report)  # only now, as the report of stores that are refused above must stay
    if not plans:
        raise InterHandError(f"{root}: no sound frame; {_worst_fault(check, report)}; see {out / REPORT}")
    stores = build_stores(out, plans, workers, replace, shard)
    if shard is None:
        write_json(out / REPORT, report | {"subjects_in_several_stores": _shared_subjects(stores)})
    return stores


def _worst_fault(check: Check, report: dict) -> str:
    """Return the most frequent fault of the frames: how many have it, and the name and error of the first of them."""
    reason, worst = next(iter(report["skipped"].items()))
    text = f"{worst['count']} of {report['read']}: {reason}, such as {worst['names'][0]}"
    row = open_rows(check.rows)[int((check.results()["fault"] == reason).to_numpy().argmax())]
    try:
        check.splits[row["split"]].frame(int(row["number"]))
    except FrameError as error:
        return f"{text} ({error})"
    return text


def _open_splits(
    root: Path, folder: Path, splits: tuple[str, ...] | None, annotations: str | None, hands
) -> tuple[Frames, ...]:
    """Open the annotations to be read, indexed in `folder`."""
    available = {annotation.split: annotation for annotation in find_annotations(root, annotations)}
    missing = sorted(set(splits or ()) - available.keys())
    if missing:
        raise InterHandError(f"{root}: no annotation of split {missing[0]}; those there: {', '.join(available)}")
    chosen = [annotation for split, annotation in available.items() if splits is None or split in splits]
    for annotation in chosen if isinstance(hands, ManoHands) else ():
        if not annotation.file(MANO).exists():
            raise InterHandError(
                f"{annotation.file(MANO)}: not there; hands from MANO need it beside the other annotation files: fetch "
                "it, or have the generic hand fitted (--hands rig)"
            )
    return tuple(Frames(annotation, index_annotation(annotation, folder), root) for annotation in chosen)


def _plan_check(folder: Path, splits: tuple[Frames, ...], selection: Selection, asked: bool, source) -> Check:
    """Return the check of all frames that may be used; its folder is for these frames, hands and code alone."""
    names, hands = [frames.annotation.split for frames in splits], CachedHandSource(source or RigHands())
    rows = select(splits, selection, official=set(names) <= set(STORES) and (asked or len(names) > 1))
    made_by = [_version(hands), *(frames.digest() for frames in splits), hashlib.sha256(rows.tobytes()).hexdigest()]
    folder = folder / hashlib.sha256("".join(made_by).encode()).hexdigest()[:12]
    return Check(save_rows(folder, "frames", rows), splits, hands, folder / "checks")


def _version(hands: CachedHandSource) -> str:
    """Return a digest of the code that fits hands and makes their masks, and of the user's model files."""
    source = type(hands.source).__module__.removeprefix("ethand_utils.")
    files = [Path(file) for file in module_files("hands.amodal", "sources.interhand_checks", source)]
    code = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(code + hands.source.digest.encode()).hexdigest()[:12]


def _refuse_others(out: Path, check: Check, selection: Selection, size: int) -> None:
    """Raise StoreError if a store in `out` was made with other settings: before the hours that a check takes."""
    for name in (*STORES, "unpaired_images"):
        path, meta = out / name, {"size": size, **_store_meta(name, check, selection)}
        if (path / "meta.json").exists() and not Store(path).meta.items() >= meta.items():
            raise StoreError(f"{path}: holds a store made with other settings; choose another folder, or move it away")


def _report(check: Check) -> tuple[np.ndarray, dict]:
    """Return which frames are sound, bool [n], and the report on all of them."""
    rows, splits, results, faults = open_rows(check.rows), check.splits, check.results(), SkippedSamples()
    sound = (results["fault"] == "").to_numpy()
    for reason, indices in results[~sound].groupby("fault").groups.items():
        for k, row in enumerate(rows[indices]):
            faults.add(reason, splits[row["split"]].name(int(row["number"])) if k < EXAMPLES else "")
    residuals = {hand: results[hand].dropna() for hand in HANDS}
    mean = {hand: values.sum() / len(values) if len(values) else None for hand, values in residuals.items()}
    report = {
        "listed": {frames.annotation.split: frames.count() for frames in splits},
        "passed_over": {frames.annotation.split: frames.faults() for frames in splits},
        "read": len(rows),
        "sound": int(sound.sum()),
        "skipped": faults.most_common(),
        "residual_mm": mean,
    }
    return sound, report


def _plan_store(name: str, rows: np.ndarray, check: Check, selection: Selection, size: int) -> StorePlan:
    """Return the plan of a store of the frames `rows`."""
    masks = name != "unpaired_images"
    file = save_rows(check.folder.parent, name, rows)
    meta = {**_store_meta(name, check, selection), "frames": file.stem.rpartition("-")[2]}
    make = InterHandSample(file, check.splits, size, check.hands, masks)
    return StorePlan(make, len(rows), size, ("images", "masks", "front") if masks else ("images",), meta)


def _store_meta(name: str, check: Check, selection: Selection) -> dict:
    """Return the part of a store's `meta.json` that is known before any frame is checked."""
    return {
        "source": "interhand",
        "split": name,
        "hands": check.hands.source.name,
        "maker": _version(check.hands),
        "annotation": {frames.annotation.split: frames.digest() for frames in check.splits},
        **json.loads(json.dumps(asdict(selection))),
    }


def _shared_subjects(stores: dict[str, Store]) -> list[str]:
    """Return the subjects of more than one of the paired stores: the official splits may share some."""
    counts = Counter(subject for name in STORES if name in stores for subject in set(stores[name].index["subject"]))
    return sorted(subject for subject, count in counts.items() if count > 1)


@dataclass(frozen=True)
class InterHandSample:
    """Makes sample i of a store from row i of a file of `interhand_selection.ROW`, the same in any process."""

    rows: Path
    splits: tuple[Frames, ...]
    size: int
    hands: CachedHandSource
    with_masks: bool

    def __call__(self, i: int) -> dict:
        selected = open_rows(self.rows)[i]
        frames, number = self.splits[selected["split"]], int(selected["number"])
        try:
            frame = frames.frame(number)
            crop = crop_square(frame.bbox)
            sample = {"images": frame_crops(frame, [crop], self.size)[0]}
        except (FrameError, ImageError) as error:
            remedy = f"mend it, or remove {self.rows.parent} to have all frames checked again"
            raise InterHandError(f"{error}; it was sound when it was checked: {remedy}") from None
        occluded = residuals = (np.nan, np.nan)
        if self.with_masks:
            hands = self.hands.hands(frame)
            sample |= hand_masks(hands, frame.camera, frame.rotation, frame.translation, crop, self.size, frame.size)
            occluded = occluded_share(sample["masks"], sample["front"])
            residuals = mean_residuals(hands)
        split = frames.annotation.split
        row = {
            "id": f"{split}-{number:07d}",
            "hand_type": frame.hand_type,
            "subject": frame.subject,
            "capture": f"{split}/{frame.capture}",
            "seq": frame.seq,
            "camera": frame.camera_name,
            "frame": frame.moment,
            **dict(zip(BOX, frame.bbox, strict=True)),
            **dict(zip(OCCLUDED, occluded, strict=True)),
            "residual_left_mm": residuals[LEFT],
            "residual_right_mm": residuals[RIGHT],
            "source": frame.image.relative_to(frames.root).as_posix(),
        }
        return sample | {"row": row}
