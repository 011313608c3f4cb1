"""Sampler of subjects: hand shapes within published adult ranges, skin, clothes."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ethand_utils.hands.rig import WEBXR, Rig, Shape
from ethand_utils.hands.rigs import load_rig

# m, mean and standard deviation over women and men (Gordon et al., 1988 Anthropometric Survey of U.S. Army Personnel).
HAND_LENGTH = ((0.1805, 0.0097), (0.1938, 0.0098))
CORRELATION = 0.55  # of length and breadth
HAND_BREADTH = ((0.0794, 0.0038), (0.0904, 0.0042))
# m, of the index finger at its middle joint (Pheasant and Haslegrave, Bodyspace, British adults aged 19 to 65).
FINGER_BREADTH = ((0.018, 0.0012), (0.021, 0.0012))
SLAB = 0.006  # m about a joint in which a rig is measured

# Linear RGB of skin from dark to light, about the range of the Monk scale.
SKIN_TONES = np.array(
    [[0.055, 0.028, 0.018], [0.16, 0.080, 0.048], [0.34, 0.19, 0.115], [0.58, 0.36, 0.24], [0.78, 0.55, 0.43]]
)
PATTERNS = ("plain", "plain", "checked", "striped", "print")


@dataclass(frozen=True)
class Subject:
    """A person. Colours are linear RGB in 0…1, all other looks are shares in 0…1.

    Hand `shape`, `skin` colour, how strongly the skin is `mottled`, shows `veins`, `creases`, `hair` on the forearm and
    a `gloss`; colour of the `nails`; `shirt` colour, a second `trim` colour, `pattern` (PATTERNS); bare skin ends
    `sleeve` m from the wrist.
    """

    shape: Shape
    skin: np.ndarray
    nails: np.ndarray
    mottled: float
    veins: float
    creases: float
    hair: float
    gloss: float
    shirt: np.ndarray
    trim: np.ndarray
    pattern: str
    sleeve: float


def sample_subject(rng: np.random.Generator, rig: str = WEBXR) -> Subject:
    """Sample a person's hand shape, skin and clothes; their hands are of a `rig` of `rigs.RIGS`."""
    tone = rng.beta(1.8, 1.2) * (len(SKIN_TONES) - 1)
    skin = np.array([np.interp(tone, range(len(SKIN_TONES)), channel) for channel in SKIN_TONES.T])
    skin = skin * np.exp(rng.normal(0, [0.08, 0.06, 0.10]))
    cloth = rng.uniform(0.01, 0.5, (2, 3)) * rng.uniform(0.1, 1, (2, 1))
    cloth = cloth.mean(1, keepdims=True) + (cloth - cloth.mean(1, keepdims=True)) * rng.uniform(0, 1, (2, 1))
    return Subject(
        shape=_sample_shape(rng, load_rig(rig), rig),
        skin=skin,
        nails=skin * rng.uniform([1.05, 1.0, 1.0], [1.3, 1.25, 1.3]),
        mottled=rng.beta(2, 3),
        veins=rng.beta(1.5, 3),
        creases=rng.beta(2, 2),
        hair=rng.beta(1, 2.5),
        gloss=rng.beta(2, 3),
        shirt=cloth[0],
        trim=cloth[1] if rng.random() < 0.7 else cloth[0] * rng.uniform(0.05, 3),
        pattern=str(rng.choice(PATTERNS)),
        sleeve=rng.uniform(0.05, 0.14) if rng.random() < 0.2 else np.inf,
    )


def _sample_shape(rng: np.random.Generator, rig: Rig, name: str) -> Shape:
    """Sample correlated length and breadth of a woman's or a man's hand; fingers vary together and each on its own."""
    man = int(rng.random() < 0.5)
    z = rng.normal(0, 1, 2)
    z[1] = CORRELATION * z[0] + np.sqrt(1 - CORRELATION**2) * z[1]
    z = np.clip(z, -2.2, 2.2)
    length, breadth = (mean + sd * v for (mean, sd), v in zip((HAND_LENGTH[man], HAND_BREADTH[man]), z, strict=True))
    rig_breadth, rig_finger = _breadths(rig)
    scale = length / rig.length
    broad = breadth / rig_breadth / scale
    mean, sd = FINGER_BREADTH[man]
    stout = (mean / HAND_LENGTH[man][0]) * length / (rig_finger * scale * broad)
    return Shape(
        scale=scale,
        breadth=broad,
        depth=np.clip(broad * rng.normal(1, 0.05), 0.85, 1.2),
        length=tuple(np.clip(rng.normal(1, 0.03) + rng.normal(0, 0.025, 5), 0.88, 1.12)),
        thickness=tuple(stout * np.clip(rng.normal(1, sd / mean) + rng.normal(0, 0.02, 5), 0.85, 1.2)),
        rig=name,
    )


@cache
def _breadths(rig: Rig) -> tuple[float, float]:
    """Return the breadth of a rig's hand at rest across the knuckles and of its index finger's middle joint, m."""
    knuckles, index = rig.phalanges[1:, 0], rig.phalanges[1, 1]
    of_thumb = rig.weights[:, rig.phalanges[0, 0] : rig.phalanges[0, -1] + 2].sum(1) > 0.5
    near = np.abs(rig.vertices[:, 2] - rig.rest[knuckles, 2, 3].mean()) < SLAB
    local = (rig.vertices - rig.rest[index, :3, 3]) @ rig.rest[index, :3, :3]
    own = (rig.weights[:, [index - 1, index]].sum(1) > 0.5) & (np.abs(local[:, 2]) < SLAB)
    return float(np.ptp(rig.vertices[near & ~of_thumb, 0])), float(np.ptp(local[own, 0]))
