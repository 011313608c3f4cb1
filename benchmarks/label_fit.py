"""`python -m benchmarks.label_fit`: how good masks are that come from 21 marked joints of each hand in a photo.

Rendered photos stand in for real ones, as their joints and masks are exact. Joints as they are, and joints that are off
by a few pixels, are fitted by `hands.photo_fit` with a guessed camera; the masks of the fitted hands are scored against
the truth, beside those of a fit to the true joints in space. With --frames, the fit is compared with that to the
annotated joints in space on frames of InterHand2.6M, too.
"""

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from ethand_utils.data.crops import crop_square
from ethand_utils.experiments.run import write_table
from ethand_utils.hands.amodal import HandError, hand_masks
from ethand_utils.hands.photo_fit import PhotoFit, fit_photo_joints, guess_camera, likely_camera
from ethand_utils.hands.raycast import Camera
from ethand_utils.labels import HANDS, N_JOINTS
from ethand_utils.sources.interhand_frames import Frame, read_frames
from ethand_utils.sources.joint_annotations import RigHands, fit_hands
from ethand_utils.sources.rendered_photos import rendered_photo
from ethand_utils.training.metrics import confusion, hand_miou, joint_accuracy, nanmean, order_accuracy, region_iou

MASK = 128  # px a side of the masks that are compared


def both_answers(points: np.ndarray, camera: Camera) -> list[list[PhotoFit]]:
    """Return the answers to the joints [2, 21, 2] px of a left and a right hand; none for an absent one."""
    return [
        fit_photo_joints(points[side], side, camera) if np.isfinite(points[side]).any() else []
        for side in range(len(HANDS))
    ]


def masks_of(joints: np.ndarray, camera: Camera, crop: tuple, frame: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return `masks` and `front` of the hands fitted to joints [2, 21, 3] m, NaN where absent, in a crop."""
    hands = fit_hands(joints, np.isfinite(joints).all(-1))
    return hand_masks(hands, camera, np.eye(3), np.zeros(3), crop, MASK, frame)


def chosen(answers: list[list[PhotoFit]], which: int) -> np.ndarray:
    """Return the joints [2, 21, 3] m of each hand's answer number `which`, or its only one; NaN where absent."""
    return np.stack([a[min(which, len(a) - 1)].joints if a else np.full((N_JOINTS, 3), np.nan) for a in answers])


def score_hands(name: str, result: dict, truth: dict) -> list[dict]:
    """Return a row of scores for every hand in a photo's truth."""
    masks, expected, front = result["masks"][None], truth["masks"][None], truth["front"][None]
    miou = hand_miou(confusion(masks, expected), MASK)[0]
    outline = region_iou(masks, expected, np.zeros_like(front), "visible")[0]
    order = order_accuracy(result["front"][None], expected, front)[0]
    kind = truth["hand_type"]
    return [
        {"fit": name, "hands": kind, "hand": HANDS[hand], "miou": miou[hand], "outline": outline[hand], "order": order}
        for hand in range(len(HANDS))
        if expected[0, hand].any()
    ]


def score_photo(i: int, seed: int, size: int, noise: float, cameras: bool = False) -> list[dict]:
    """Return rows of scores of every hand of a rendered photo, by each fit of it; with `cameras`, by other cameras."""
    photo, small = (rendered_photo(seed, i, pixels, with_image=False) for pixels in (size, MASK))
    truth = {"masks": small["masks"], "front": small["front"], "hand_type": photo["hand_type"]}
    frame = (size, size)
    exact = photo["joints"]
    noisy = exact + np.random.default_rng([seed, i]).normal(0, noise, exact.shape)
    rays = (exact - photo["camera"].centre) / photo["camera"].focal
    space = np.concatenate([rays, np.ones_like(rays[..., :1])], -1) * photo["depths"][..., None]
    rows = fit_rows("joints in space", space, photo["camera"], truth, size)
    fits = [(name, p, likely_camera(p, *frame)) for name, p in (("exact", exact), (f"{noise:g} px off", noisy))]
    if cameras:
        fits += [("exact, fixed guess of the camera", exact, guess_camera(*frame))]
        fits += [("exact, camera given", exact, photo["camera"])]
    for name, points, view in fits:
        answers = both_answers(points, view)
        first, second = (fit_rows(name, chosen(answers, which), view, truth, size) for which in range(2))
        better = [max(pair, key=lambda row: row["miou"]) for pair in zip(first, second, strict=True)]
        rows += first + [row | {"fit": f"{name}, better answer"} for row in better]
    return [row | {"photo": i} for row in rows]


def fit_rows(name: str, joints: np.ndarray, camera: Camera, truth: dict, size: int) -> list[dict]:
    """Return the scores of the hands fitted to joints [2, 21, 3] m; 0 where the joints are refused."""
    try:
        result = masks_of(joints, camera, (0.0, 0.0, float(size)), (size, size))
    except HandError as error:
        print(f"{name}: {error}", file=sys.stderr)
        result = {array: np.zeros_like(truth[array]) for array in ("masks", "front")}
    return score_hands(name, result, truth)


def time_fits(count: int, seed: int, size: int) -> dict[str, float]:
    """Return the median CPU ms of a fit from scratch, and of one from a near start after one joint moved by 5 px."""
    scratch, near = [], []
    camera = guess_camera(size, size)
    for i in range(count):
        photo = rendered_photo(seed, i, size, hand_type=HANDS[i % 2], with_image=False)
        points = photo["joints"][i % 2].copy()
        began = time.process_time()
        first = fit_photo_joints(points, i % 2, camera)[0]
        scratch.append(time.process_time() - began)
        points[i % len(points)] += 5
        began = time.process_time()
        fit_photo_joints(points, i % 2, camera, start=first)
        near.append(time.process_time() - began)
    return {
        "scratch": 1000 * np.median(scratch[1:]),
        "near start": 1000 * np.median(near[1:]),
        "scratch, slowest": 1000 * np.max(scratch[1:]),
        "near start, slowest": 1000 * np.max(near[1:]),
    }


def score_frame(frame: Frame) -> list[dict]:
    """Return rows of scores of the fit to a frame's joints in the image, against that to its joints in space."""
    crop = crop_square(frame.bbox)
    view, size = frame.camera, frame.size
    truth = hand_masks(RigHands().hands(frame), view, frame.rotation, frame.translation, crop, MASK, size)
    truth["hand_type"] = frame.hand_type
    points = np.where(frame.valid[..., None], frame.joints, np.nan)
    inside = (frame.joints - crop[:2]) * MASK / crop[2]
    right = joint_accuracy(truth["masks"], inside, frame.valid)["joint_accuracy"]
    rows = []
    for name, camera in (("camera guessed", likely_camera(points, *size)), ("camera given", view)):
        result = masks_of(chosen(both_answers(points, camera), 0), camera, crop, size)
        own = joint_accuracy(result["masks"], inside, frame.valid)["joint_accuracy"]
        more = {"frame": frame.name, "joints right": own, "in space": right}
        rows += [row | more for row in score_hands(name, result, truth)]
    return rows


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean scores of every fit by the photos' hands."""
    by = ["fit", "hands"]
    table = rows.groupby(by, sort=False)[["miou", "outline", "order"]].agg(nanmean)
    return table.assign(number=rows.groupby(by, sort=False).size()).reset_index()


def main(
    photos: Annotated[int, typer.Option(help="rendered photos to score")] = 200,
    first: Annotated[int, typer.Option(help="number of the first photo")] = 0,
    size: Annotated[int, typer.Option(help="px a side of a photo in which joints are marked")] = 256,
    noise: Annotated[float, typer.Option(help="px by which joints are off, as standard deviation")] = 3.0,
    seed: Annotated[int, typer.Option(help="seed of the photos")] = 0,
    cameras: Annotated[bool, typer.Option(help="score fits with the camera's focal length fixed, and given")] = False,
    timed: Annotated[int, typer.Option(help="photos to time")] = 30,
    frames: Annotated[Path | None, typer.Option(help="folder of InterHand2.6M")] = None,
    out: Annotated[Path | None, typer.Option(help="CSV of every hand's scores")] = None,
) -> None:
    """Score fits to joints of rendered photos and of frames, time them, and print the tables."""
    rows = []
    for i in range(first, first + photos):
        rows += score_photo(i, seed, size, noise, cameras)
        if out and (i % 5 == 4 or i == first + photos - 1):
            write_table(out, pd.DataFrame(rows))
    print(summarise(pd.DataFrame(rows)).to_string(index=False, float_format="%.3f"))
    print("\n".join(f"{name}: {ms:.0f} CPU ms" for name, ms in time_fits(timed, seed, size).items()))
    if frames:
        table = pd.DataFrame([row for frame in read_frames(frames) for row in score_frame(frame)])
        print(table.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    typer.run(main)
