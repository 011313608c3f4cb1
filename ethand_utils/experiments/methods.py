"""The phases of every training of a run, from its profile alone: what is trained on, how long and at which rate.

Notebook 07 trains in the phases that `ethand run --dry-run` prints.
"""

from dataclasses import dataclass

from ethand_utils.experiments.config import Profile, ProfileError
from ethand_utils.experiments.run import RunError

# The rows of the report's Table 1 with its scores, and one that it does not have; parameters of notebook 07.
_ROW_COLUMNS = ("ROW", "TITLE", "MODEL", "LOSS", "WEIGHTED", "GENERATED", "ADVERSARIAL", "reported")
ROWS = tuple(
    dict(zip(_ROW_COLUMNS, row, strict=True))
    for row in (
        ("baseline", "Baseline model", "baseline", "ce", False, "none", "none", 0.49801),
        ("unetpp_ce", "U-Net++ w/ CE", "g2", "ce", False, "none", "none", 0.53739),
        ("unetpp_weighted", "w/ weighted CE (1)", "g2", "ce", True, "none", "none", 0.53916),
        ("unetpp_dice", "w/ (1), Dice (2)", "g2", "ce_dice", True, "none", "none", 0.54449),
        ("unetpp_generated", "w/ (1), (2), gen. labels (3)", "g2", "ce_dice", True, "labels", "none", 0.55771),
        ("unetpp_released", "w/ (1), (2), (3), adv. (as released)", "g2", "ce_dice", True, "labels", "released", None),
        ("unetpp_full", "w/ (1), (2), (3), adv.", "g2", "ce_dice", True, "labels", "profile", 0.55804),
    )
)
FULL_ROW = ROWS[-1]["ROW"]
# A training that Table 1 does not have, where a CycleGAN has made the images.
_IMAGES = ("unetpp_images", "w/ (1), (2), G_YX's images", "g2", "ce_dice", True, "images", "none", None)
IMAGES_ROW = dict(zip(_ROW_COLUMNS, _IMAGES, strict=True))
SHARE_ROWS = ("unetpp_dice", "unetpp_generated")  # trained on a profile's `shares` of the pairs, too

GENERATED = ("none", "labels", "images")


def adversary(adversarial: str, profile: Profile) -> tuple[str, str]:
    """What D sees and how it is trained in a row with this ADVERSARIAL.

    `none`: there is no D. `profile`: by the profile's settings. `released`: arg-max ids and frozen (REFERENCE.md
    section 2). Raises RunError for anything else.
    """
    known = {
        "none": ("none", "none"),
        "profile": (profile.adversarial_input, profile.discriminator),
        "released": ("argmax", "frozen"),
    }
    if adversarial not in known:
        raise RunError(f"ADVERSARIAL: {adversarial!r}, expected one of {', '.join(known)}")
    return known[adversarial]


def discriminator_name(profile: Profile, adversarial_input: str) -> str:
    """Folder of a D's training inside a run: `d` of the one the profile asks for."""
    return "d" if adversarial_input == profile.adversarial_input else f"d_{adversarial_input}"


def training_name(row: str, seed: int) -> str:
    """Folder of a row's training inside a run."""
    return f"g2/{row}/seed{seed}"


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of a training: its name, the store it reads, epochs, samples a batch, learning rate.

    `beside` are samples of other stores in each batch.
    """

    name: str
    store: str
    epochs: int
    bs: int
    lr: float
    beside: int = 0

    def batch(self, count: int) -> int:
        """Samples of a batch, of a store of `count`."""
        return min(self.bs, count)

    def batches(self, count: int) -> int:
        """Batches of an epoch over a store of `count` samples; a rest smaller than a batch is dropped."""
        return count // self.batch(count)


def g1_phases(profile: Profile, epochs: int | None = None) -> tuple[PlannedPhase, ...]:
    """Phase 1 of the report: G1 on the pairs, for the profile's `g1_epochs` if nothing else is said."""
    return (PlannedPhase("paired", "train", epochs or profile.g1_epochs, profile.bs, profile.lr),)


def d_phases(profile: Profile) -> tuple[PlannedPhase, ...]:
    """Phase 1 of the report: D on G1's predictions of the pairs against their truth."""
    return (PlannedPhase("discriminator", "train", profile.d_epochs, profile.bs, profile.lr_d),)


def g2_phases(profile: Profile, generated: str) -> tuple[PlannedPhase, ...]:
    """A row of Table 1 (section 3 of the report): pairs all the way (`none`), or two cycles.

    Each cycle is `unpaired`, then `paired`; the profile's `cycles` are their epochs. Unpaired are images with `labels`
    that G1 has generated, or labels with `images` that G_YX has. Raises ProfileError for anything else.
    """
    p = profile
    if generated not in GENERATED:
        raise ProfileError(f"GENERATED: {generated!r}, expected one of {', '.join(GENERATED)}")
    if generated == "none":
        return (PlannedPhase("paired", "train", p.epochs, p.bs, p.lr),)
    store = {"labels": "unpaired_images", "images": "unpaired_labels"}[generated]
    cycle = (("unpaired", store, p.bs_unpaired, p.lr_unpaired), ("paired", "train", p.bs, p.lr))
    return tuple(
        PlannedPhase(name, store, epochs, bs, lr)
        for (name, store, bs, lr), epochs in zip(cycle * 2, p.cycles, strict=True)
    )


def cyclegan_phases(profile: Profile) -> tuple[PlannedPhase, ...]:
    """Section 4 of the report: pairs, and beside them in every batch as many unpaired images and labels."""
    p = profile
    half = max(1, p.bs // 2)
    return (PlannedPhase("cycles", "train", p.cyclegan_epochs, half, p.lr, beside=half),)
