"""Sampler of scenes: a person's hands before one camera of a capture dome, and the crop about them."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.raycast import Camera, vertex_normals
from ethand_utils.hands.rig import MIRROR, Rig
from ethand_utils.labels import BOX_OVER_JOINTS, CROP_OVER_BOX, HAND_TYPES, HANDS, LEFT, RIGHT
from ethand_utils.rendering.arrangements import ARRANGEMENTS, INTERLEAVED_SLACK, SLACK, Arm, hanging_arm
from ethand_utils.rendering.contact import first_contact, overlap, penetration
from ethand_utils.rendering.occluders import Occluder, find_grip, sample_occluder
from ethand_utils.rendering.options import DEFAULT_OPTIONS, VIEWS, RenderOptions, Views
from ethand_utils.rendering.subjects import Subject

FOCAL, FRAME = 1265.0, (334, 512)  # px of the capture's cameras; some lie on their side
MAX_PENETRATION = 0.0055  # m that one hand may run into the other
MAX_WIDTH = 200.0  # px that the hands take up


@dataclass(frozen=True)
class Limb:
    """One posed arm of a `rig`: `vertices` [V, 3], `joints` [J, 3] in m, the vertices' outward unit `normals`.

    `faces` [F, 3] are those of `Rig.arm`: the hand's, closed at its end, then the forearm's.
    """

    rig: Rig
    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    joints: np.ndarray

    @staticmethod
    def from_arm(arm: Arm) -> "Limb":
        """Create a right limb from an arm."""
        vertices, rig = arm.vertices(), arm.rig
        return Limb(rig, vertices, vertex_normals(vertices, rig.skin), rig.arm, arm.joints)

    def moved(self, shift: np.ndarray) -> "Limb":
        """Return the same limb shifted by [3] m."""
        return replace(self, vertices=self.vertices + shift, joints=self.joints + shift)

    def mirrored(self) -> "Limb":
        """Return the limb of the other side."""
        return Limb(self.rig, self.vertices * MIRROR, self.normals * MIRROR, self.faces[:, ::-1], self.joints * MIRROR)

    def rotated(self, rotation: Rotation) -> "Limb":
        """Return the same limb rotated about the origin."""
        vertices, normals, joints = map(rotation.apply, (self.vertices, self.normals, self.joints))
        return replace(self, vertices=vertices, normals=normals, joints=joints)


@dataclass(frozen=True)
class Scene:
    """A camera's view of the `limbs` left and right (None: absent) of a `subject`, in camera coordinates.

    `camera` and the size `frame` (width, height) px are the capture's, `bbox` (x, y, w, h) the hands' in its frame,
    `crop` (x, y, side) the square about it. `poses` names each hand's pose ("" if absent), `arrangement` the
    interaction type of both ("single": one hand); `penetration` is the depth in m to which they run into each other.
    The camera is rolled by `roll` rad about its optical axis; a `photo` has a photograph behind the hands.
    """

    limbs: tuple[Limb | None, Limb | None]
    camera: Camera
    frame: tuple[int, int]
    bbox: tuple[float, float, float, float]
    crop: tuple[float, float, float]
    subject: Subject
    arrangement: str = "single"
    poses: tuple[str, str] = ("", "")
    penetration: float = 0.0
    roll: float = 0.0
    occluder: Occluder | None = None
    photo: bool = False

    @property
    def hand_type(self) -> str:
        """One of HAND_TYPES: right, left or interacting."""
        present = [name for name, limb in zip(HANDS, self.limbs, strict=True) if limb is not None]
        return present[0] if len(present) == 1 else HAND_TYPES[-1]


def sample_scene(
    rng: np.random.Generator, subject: Subject, hand_type: str | None = None, options: RenderOptions = DEFAULT_OPTIONS
) -> Scene:
    """Sample a scene of a subject's hands before a camera, with what the `options` add to the capture's.

    `hand_type` is one of HAND_TYPES, sampled when None.
    """
    rolls, occluders, photos, boxes = rng.spawn(4)
    if hand_type is None:
        single = rng.random() < options.single_share
        hand_type = str(rng.choice(HAND_TYPES[:2])) if single else HAND_TYPES[-1]
    if hand_type == HAND_TYPES[-1]:
        arrangement, arms, limbs, depth = _sample_two_hands(rng, subject)
    else:
        arrangement, arm, depth = "single", hanging_arm(rng, subject.shape), 0.0
        arms = [arm if name == hand_type else None for name in HANDS]
        limbs = _limbs(arms)
    poses = tuple(arm.name if arm else "" for arm in arms)
    view = _sample_view(rng, VIEWS[options.views])
    roll = rolls.uniform(-np.pi, np.pi) if rolls.random() < options.rotation_share else 0.0
    view = Rotation.from_euler("Z", roll) * view if roll else view
    scene = _view_limbs(rng, subject, limbs, view, arrangement, poses, depth)
    scene = _jitter_box(boxes, scene, options.box_jitter) if options.box_jitter else scene
    occluder = _sample_occluder(occluders, scene) if occluders.random() < options.occluder_share else None
    return replace(scene, roll=roll, occluder=occluder, photo=photos.random() < options.photo_share)


def _jitter_box(rng: np.random.Generator, scene: Scene, jitter: float) -> Scene:
    """Return the scene with its box resized by a factor of up to 1 + `jitter` or its inverse, and moved."""
    x, y, w, h = scene.bbox
    grown = np.array([w, h]) * (1 + jitter) ** rng.uniform(-1, 1)
    centre = np.array([x + w / 2, y + h / 2]) + max(w, h) * jitter / 2 * rng.uniform(-1, 1, 2)
    return replace(scene, bbox=(*(centre - grown / 2), *grown), crop=_crop(centre, grown))


def _crop(centre: np.ndarray, extent: np.ndarray) -> tuple[float, float, float]:
    """Return the course's crop (x, y, side) of a box by its centre and extent [2], px."""
    side = extent.max() * CROP_OVER_BOX
    return (*(centre - side / 2), side)


def _sample_occluder(rng: np.random.Generator, scene: Scene) -> Occluder:
    """Sample an object in or before the hands of a scene."""
    present = [(hand, limb) for hand, limb in enumerate(scene.limbs) if limb]
    grips = [find_grip(limb.rig, limb.joints, hand) for hand, limb in present]
    ends = [limb.rig.faces.max() for _, limb in present]  # the hands' skin, without the middle of the wall behind it
    skin = [(limb.vertices[:end], limb.normals[:end]) for (_, limb), end in zip(present, ends, strict=True)]
    return sample_occluder(rng, scene.subject.skin, grips, skin)


def _sample_two_hands(rng: np.random.Generator, subject: Subject) -> tuple[str, list[Arm], list[Limb], float]:
    """Sample an interaction type by its share, with each hand in either role, until limbs penetrate little enough."""
    arrangements = list(ARRANGEMENTS)
    while True:
        arrangement = str(rng.choice(arrangements, p=[ARRANGEMENTS[name][1] for name in arrangements]))
        arms = _separate_arms(ARRANGEMENTS[arrangement][0](rng, subject.shape))
        arms = arms[::-1] if rng.random() < 0.5 else arms
        limbs, depth = _separate_limbs(*_limbs(arms))
        if depth <= MAX_PENETRATION:
            return arrangement, arms, limbs, depth


def _separate_arms(arms: list[Arm]) -> list[Arm]:
    """Move the right arm away along the line between both middles where their spheres share space."""
    left, right = arms[LEFT].spheres() * MIRROR, arms[RIGHT].spheres()
    radii = arms[LEFT].radii
    if overlap(right, radii, left, radii).max() <= INTERLEAVED_SLACK:
        return arms
    line = left.mean(0) - right.mean(0)
    line /= np.linalg.norm(line)
    return [arms[LEFT], arms[RIGHT].moved(line * (first_contact(right, radii, left, radii, line) + SLACK))]


def _separate_limbs(left: Limb, right: Limb) -> tuple[list[Limb], float]:
    """Move the right limb away, a few times at most, while the limbs are too deep in each other; return their depth."""
    for _ in range(3):
        depth = penetration(left.vertices, left.normals, right.vertices, right.normals)
        if depth <= MAX_PENETRATION:
            break
        away = right.joints[:-1].mean(0) - left.joints[:-1].mean(0)
        right = right.moved(away / np.linalg.norm(away) * depth)
    return [left, right], depth


def _limbs(arms: list[Arm | None]) -> list[Limb | None]:
    """Return the limbs of both arms in one frame, the left one mirrored."""
    limbs = [arm and Limb.from_arm(arm) for arm in arms]
    return [limbs[LEFT] and limbs[LEFT].mirrored(), limbs[RIGHT]]


def _sample_view(rng: np.random.Generator, views: Views) -> Rotation:
    """Sample the rotation of a camera of the dome, together with that by which the arms hold the hands askew."""
    around = rng.random() < views.round_share
    yaw = rng.uniform(-180, 180) if around else rng.uniform(-views.yaw, views.yaw)
    pitch = rng.normal(15, 25) if around else rng.normal(0, 12)
    camera = Rotation.from_euler("ZXY", np.radians([rng.normal(0, 5), pitch, yaw]))
    return camera * Rotation.from_rotvec(rng.normal(0, np.radians(views.askew) * np.array([1, 1, 0.6])))


def _view_limbs(rng, subject, limbs, rotation: Rotation, arrangement: str, poses, depth: float) -> Scene:
    """Return the scene rotated before a camera at the capture's distance, with the course's crop about the hands."""
    joints = _hand_joints(limbs)
    middle = (joints.min(0) + joints.max(0)) / 2
    width = np.ptp(rotation.apply(joints)[:, :2], axis=0).max()
    away = np.array([*rng.normal(0, 0.015, 2), max(rng.uniform(0.95, 1.25), width * FOCAL / MAX_WIDTH)])
    limbs = tuple(limb and limb.moved(-middle).rotated(rotation).moved(away) for limb in limbs)
    frame = FRAME if rng.random() < 0.75 else FRAME[::-1]
    camera = Camera((FOCAL, FOCAL), tuple(np.array(frame) / 2 + rng.normal(0, 12, 2)))
    pixels = camera.project(_hand_joints(limbs))
    low, high = pixels.min(0), pixels.max(0)
    centre, extent = (low + high) / 2, (high - low) * BOX_OVER_JOINTS
    return Scene(
        limbs=limbs,
        camera=camera,
        frame=frame,
        bbox=(*(centre - extent / 2), *extent),
        crop=_crop(centre, extent),
        subject=subject,
        arrangement=arrangement,
        poses=poses,
        penetration=depth,
    )


def _hand_joints(limbs) -> np.ndarray:
    """Return the wrist and finger joints [n, 3] of the limbs there are, without the forearms'."""
    return np.concatenate([limb.joints[:-1] for limb in limbs if limb])
