"""A small InterHand2.6M: annotation and images in the official tree, with hands that can be fitted."""

import json
import os

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ethand_utils.hands.joints import CHAINS, WRIST, landmarks
from ethand_utils.hands.raycast import Camera
from ethand_utils.hands.rig import MIRROR, Shape, pose_joints
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import N_JOINTS
from ethand_utils.rendering.poses import free_pose

SIZE = (96, 64)  # px
FOCAL = 160.0  # px at a width of 96
DISTANCE = 0.6  # m from the cameras to the hands
PICTURES = 4  # different images; frames share them


def annotated_joints(posed):
    """Return the joints [21, 3] m that data sets annotate, in the first of some poses of the generic hand."""
    rig, hanging = load_rig().hand, np.zeros(N_JOINTS, int)
    hanging[CHAINS[:, :3]], hanging[CHAINS[:, 3]] = rig.phalanges, rig.phalanges[:, -1]
    hanging[[WRIST, CHAINS[0, 0]]] = rig.joint("wrist")
    return (posed.linear[0, hanging] @ landmarks(load_rig())[..., None])[..., 0] + posed.shift[0, hanging]


def hand_joints(rng):
    """Return annotated joints [21, 3] m of a right hand in a random pose, the centre of its palm at the origin."""
    pose = free_pose(rng)
    joints = annotated_joints(pose_joints(load_rig().hand, pose.fingers[None], pose.wrist[None], Shape()))
    return (joints - joints[[WRIST, *CHAINS[1:, 0]]].mean(0)) @ Rotation.random(rng=rng).as_matrix().T


def two_hands(rng):
    """Return annotated joints [42, 3] mm of two hands side by side, right hand first."""
    apart = np.array([0.05, 0, 0])
    return 1000 * np.concatenate([hand_joints(rng) - apart, hand_joints(rng) * MIRROR + apart])


def camera_round(number, of, size):
    """Return the annotation of camera `number` of a circle around the origin."""
    rotation = Rotation.from_euler("y", 2 * np.pi * number / of).as_matrix()
    position = -1000 * DISTANCE * rotation[2]
    focal = FOCAL * max(size) / max(SIZE)
    centre = [size[0] / 2, size[1] / 2]
    return {"campos": position.tolist(), "camrot": rotation.tolist(), "focal": [focal, focal], "princpt": centre}


def annotate(captures, cameras=2, hand_types=("interacting", "right", "left"), size=SIZE, seed=0):
    """Return tables `data`, `camera` and `joint_3d` of captures {name: (subject, moments)}, all cameras at each moment.

    Hand types alternate from moment to moment; image ids do not begin at 0 and moments are 3 apart.
    """
    rng, images, annotations, views, poses = np.random.default_rng(seed), [], [], {}, {}
    for capture, (subject, moments) in captures.items():
        by_camera = {str(400000 + k): camera_round(k, cameras, size) for k in range(cameras)}
        names = next(iter(by_camera.values()))
        views[str(capture)] = {name: {camera: view[name] for camera, view in by_camera.items()} for name in names}
        poses[str(capture)] = {}
        for moment in range(0, 3 * moments, 3):
            hand_type, world = hand_types[moment // 3 % len(hand_types)], two_hands(rng)
            known = [[int(hand_type in (hand, "interacting"))] for hand in ("right", "left") for _ in range(N_JOINTS)]
            poses[str(capture)][str(moment)] = {"world_coord": world.tolist(), "joint_valid": known}
            for camera, view in by_camera.items():
                seq, number = f"ROM{moment // 6 % 2}", 1000 + len(images)
                name = f"Capture{capture}/{seq}/cam{camera}/image{moment}.jpg"
                record = {"id": number, "file_name": name, "width": size[0], "height": size[1], "capture": capture}
                record |= {"subject": subject, "seq_name": seq, "camera": camera, "frame_idx": moment}
                images.append(record)
                entry = {"id": number, "image_id": number, "bbox": box_of(world, known, view), "joint_valid": known}
                annotations.append(entry | {"hand_type": hand_type, "hand_type_valid": 1})
    return {"data": {"images": images, "annotations": annotations}, "camera": views, "joint_3d": poses}


def box_of(world, known, view):
    """Return the bounding box (x, y, w, h) px of the known joints in a view, a little wider."""
    joints = (world[np.array(known)[:, 0] > 0] - view["campos"]) @ np.array(view["camrot"]).T
    points = Camera(tuple(view["focal"]), tuple(view["princpt"])).project(joints)
    low, high = points.min(0) - 3, points.max(0) + 3
    return [*low.tolist(), *(high - low).tolist()]


def write_annotation(folder, tables, split):
    """Write the annotation files of one split."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, table in tables.items():
        (folder / f"InterHand2.6M_{split}_{kind}.json").write_text(json.dumps(table))


def write_tree(root, tables, split="train", flat=False):
    """Write annotation and images; if `flat`, all into `root` as the published sample, under other names."""
    write_annotation(root if flat else root / "annotations" / split, tables, split)
    records = tables["data"]["images"]
    pictures = [_picture(root / f".picture{k}.jpg", records[0], k) for k in range(PICTURES)]
    for number, record in enumerate(records):
        if flat:
            record["file_name"] = f"image{record['id']}.jpg"
        path = root / record["file_name"] if flat else root / "images" / split / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pictures[number % PICTURES], path)
    for picture in pictures:
        picture.unlink()
    if flat:
        write_annotation(root, tables, split)


def _picture(path, record, seed):
    """Write a JPEG of soft random shades; returns its path."""
    coarse = np.random.default_rng(seed).integers(30, 256, (8, 12, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((record["width"], record["height"]), Image.Resampling.BICUBIC).save(path)
    return path
