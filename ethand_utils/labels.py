"""Hand parts: ids, names, colours, class weights and the order of the two hands, defined here alone."""

import numpy as np

PARTS = (
    "background",
    "ring proximal",
    "index middle",
    "pinky proximal",
    "middle proximal",
    "middle distal",
    "ring distal",
    "pinky distal",
    "thumb metacarpal",
    "palm",
    "thumb proximal",
    "index proximal",
    "index distal",
    "thumb distal",
    "pinky middle",
    "middle middle",
    "ring middle",
)
N_CLASSES = len(PARTS)
PALM = PARTS.index("palm")

# Each finger's parts from the palm outwards.
FINGERS = {
    "thumb": (8, 10, 13),
    "index": (11, 2, 12),
    "middle": (4, 15, 5),
    "ring": (1, 16, 6),
    "pinky": (3, 14, 7),
}

# The parts that meet at each joint InterHand2.6M annotates: of every finger the tip, the two joints between its parts
# and its base, then the wrist. A joint's pixel may show either part.
JOINT_PARTS = (
    *(
        parts
        for first, second, third in FINGERS.values()
        for parts in ((third,), (second, third), (first, second), (PALM, first))
    ),
    (PALM,),
)
N_JOINTS = len(JOINT_PARTS)

# Masks, logits and one-hot maps hold the left hand first.
HANDS = ("left", "right")
LEFT, RIGHT = 0, 1
N_CHANNELS = len(HANDS) * N_CLASSES
ORDER_CHANNEL = N_CHANNELS  # of a net that also says which hand is in front: the logit that the right one is
HAND_TYPES = ("right", "left", "interacting")

# Values of a store's `front` map.
FRONT_NONE, FRONT_LEFT, FRONT_RIGHT = 0, 1, 2

# The course's square crop: longer side of the hands' bounding box times this (REFERENCE.md section 4).
CROP_OVER_BOX = 1.25
BOX_OVER_JOINTS = 1.2  # InterHand2.6M's bounding box over that of the projected joints, measured

# REFERENCE.md section 1; both sets are the authors'.
CLASS_WEIGHTS = {
    "none": (1.0,) * N_CLASSES,
    "released": (0.1, 0.8, 0.8, 0.8, 0.8, 1.0, 1.0, 1.0, 0.35, 0.35, 0.8, 0.8, 1.0, 0.8, 0.8, 0.8, 0.8),
    "released_new": (0.07, *(4.2,) * 7, 0.4, 0.4, *(4.2,) * 7),
}
INVERSE_FREQUENCY = "inverse_frequency"  # another choice: `inverse_frequency` of the masks to train on

# A finger is a hue, its phalanges shades of it (light at the palm, strong at the tip); the palm is grey-blue.
COLOURS = np.zeros((N_CLASSES, 3), np.uint8)
COLOURS[PALM] = (134, 148, 178)
for _finger, _shades in {
    "thumb": ((255, 176, 160), (240, 110, 90), (200, 40, 40)),
    "index": ((255, 226, 150), (250, 190, 60), (222, 140, 0)),
    "middle": ((190, 232, 160), (120, 200, 90), (50, 145, 50)),
    "ring": ((160, 222, 240), (80, 176, 222), (20, 112, 180)),
    "pinky": ((224, 184, 244), (186, 120, 224), (130, 50, 180)),
}.items():
    COLOURS[list(FINGERS[_finger])] = _shades

# The same for readers who cannot tell red from green: Okabe and Ito's hues.
SAFE_COLOURS = np.zeros_like(COLOURS)
SAFE_COLOURS[PALM] = (150, 150, 150)
for _finger, _shades in {
    "thumb": ((246, 178, 122), (230, 126, 40), (190, 80, 0)),
    "index": ((250, 244, 160), (240, 228, 66), (200, 186, 20)),
    "middle": ((120, 214, 184), (0, 178, 130), (0, 118, 86)),
    "ring": ((150, 212, 246), (70, 164, 224), (0, 96, 160)),
    "pinky": ((234, 186, 212), (204, 121, 167), (156, 70, 118)),
}.items():
    SAFE_COLOURS[list(FINGERS[_finger])] = _shades


def inverse_frequency(counts: np.ndarray) -> tuple[float, ...]:
    """Return a weight per class, the inverse of its number of pixels [17], so that all classes weigh the same in total.

    The largest weight is 1. A class without pixels weighs as much as the rarest one with some.
    """
    rarest = counts[counts > 0].min(initial=counts.sum())
    return tuple((rarest / np.maximum(counts, rarest)).tolist())


def min_pixels(size: int) -> int:
    """Return the pixels of ground truth a part needs to be scored: 20 at 128×128, scaled (REFERENCE.md section 1)."""
    return max(1, round(20 * (size / 128) ** 2))


def slug(part: str) -> str:
    """Return a part's name as used in column names: `ring proximal` → `ring_proximal`."""
    return part.replace(" ", "_")
