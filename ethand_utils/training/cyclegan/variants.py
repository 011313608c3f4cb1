"""CycleGAN's variants that a run can compare: the report's, and with options against what the report suspected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ethand_utils.labels import HANDS, N_CHANNELS

IMAGE_CHANNELS = 3
GANS = ("least_squares", "bce")
LOOSE = 0.2  # weight of the image cycle with the option `loose_cycle`
# The first five are against generators and discriminators of unequal strength, `front` against masks that do not say
# which hand is in front, `loose_cycle` against what masks never say: light, skin and background.
OPTIONS = {
    "replay_buffer": "the discriminators also see what was generated earlier",
    "two_rates": "the discriminators have a learning rate of their own",
    "spectral": "spectral norm in place of batch norm in the discriminators",
    "straight_through": "arg-max maps for D_Y and G_YX, with the gradient of the softmax",
    "warm_start": "G_XY begins as G1",
    "front": "G_YX is given which hand is in front",
    "loose_cycle": "the image cycle counts a fifth",
}
BALANCE, FRONT = tuple(OPTIONS)[:5], "front"


@dataclass(frozen=True)
class Variant:
    """A CycleGAN that a run can train: its folder's name, its title, whether it has cycles and discriminators."""

    name: str
    title: str
    cycles: bool = True
    options: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict:
        """The parameters of notebook 11 that make this variant."""
        return {"VARIANT": self.name, "CYCLES": self.cycles, "OPTIONS": list(self.options)}


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("pairs", "pairs alone: no cycles, no D", cycles=False),
        Variant("report", "CycleGAN as in the report"),
        Variant("buffer", "+ replay buffer", options=("replay_buffer",)),
        Variant("rates", "+ two time scales", options=("two_rates",)),
        Variant("spectral", "+ spectral norm", options=("spectral",)),
        Variant("straight", "+ straight-through masks", options=("straight_through",)),
        Variant("warm", "+ warm start from G1", options=("warm_start",)),
        Variant("balanced", "+ these five together", options=BALANCE),
        Variant("front", "+ which hand is in front", options=(FRONT,)),
        Variant("remedied", "+ all six", options=(*BALANCE, FRONT)),
        Variant("loose", "+ all six, looser image cycle", options=tuple(OPTIONS)),
    )
}
VARIANT_NAMES = tuple(VARIANTS)
REFERENCE_VARIANT = "loose"  # the one whose images are shown, and whose G_YX makes images for G2
G1_AS_LONG = "g1_as_long"  # folder of a G1 trained on as many images as the variants


class CycleGANSettings(Protocol):
    """What a CycleGAN needs of a run's settings, whose profile explains each."""

    g1_arch: str
    g1_encoder: str | None
    g1_widths: list[int] | None
    baseline_widths: list[int]
    d_widths: list[int]
    pretrained: bool
    class_weights: str
    hands: str
    gan: str
    image_weight: float
    cycle_weight: float
    adversarial_weight: float
    identity_weight: float
    replay_buffer: int
    d_rate: float


def cycle_training(variant: str, seed: int) -> str:
    """Return the folder of a training inside a run."""
    return f"cyclegan/{variant}/seed{seed}"


def cycle_nets(settings: CycleGANSettings, options: Sequence[str]) -> dict[str, dict]:
    """Return the arguments of `models.create_model` for the five nets of a training."""
    s = settings
    discriminator = {"arch": "discriminator_spectral" if "spectral" in options else "discriminator", "encoder": None}
    discriminator |= {"widths": s.d_widths, "pretrained": False}
    plain = {"arch": "baseline", "encoder": None, "pretrained": False}
    order_channels = len(HANDS) if FRONT in options else 0
    g_yx = {"widths": s.baseline_widths, "in_channels": N_CHANNELS + order_channels, "out_channels": IMAGE_CHANNELS}
    narrow = [max(width // 2, 1) for width in s.baseline_widths[: max(2, len(s.baseline_widths) - 1)]]
    return {
        "G_XY": {"arch": s.g1_arch, "encoder": s.g1_encoder, "widths": s.g1_widths, "pretrained": s.pretrained},
        "G_YX": plain | g_yx,
        "order": plain | {"widths": narrow, "out_channels": len(HANDS)},
        "D_X": discriminator | {"in_channels": IMAGE_CHANNELS},
        "D_Y": discriminator | {"in_channels": N_CHANNELS},
    }
