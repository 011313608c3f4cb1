"""The phases of every training of a run, from its profile alone: what is trained on, how long and at which rate.

Notebook 07 trains in the phases that `ethand run --dry-run` prints.
"""

from dataclasses import dataclass

from ethand_utils.settings import Profile, ProfileError

GENERATED = ("none", "labels", "images")


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
