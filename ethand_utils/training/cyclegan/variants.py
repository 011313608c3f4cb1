"""The trainings of CycleGAN that a run can compare: the report's, and with remedies for what the report suspected."""

from ethand_utils.labels import HANDS, N_CHANNELS

IMAGE_CHANNELS = 3
GANS = ("least_squares", "bce")
# What each remedy does: the first five against generators and discriminators of unequal strength, one against masks
# that do not say which hand is in front, and the last one for what masks never say: light, skin and background.
OPTIONS = {
    "replay_buffer": "the discriminators also see what was made earlier",
    "two_rates": "the discriminators learn at a rate of their own",
    "spectral": "spectral norm in place of batch norm in the discriminators",
    "straight_through": "arg-max maps for D_Y and G_YX, with the gradient of the softmax",
    "warm_start": "G_XY begins as G1",
    "front": "G_YX is told which hand is in front",
    "loose_cycle": "the image that comes back counts a fifth",
}
BALANCE, FRONT = tuple(OPTIONS)[:5], "front"
LOOSE = 0.2
# Name, title, whether there are cycles and discriminators, remedies.
_COLUMNS = ("ROW", "TITLE", "CYCLES", "REMEDIES")
VARIANTS = tuple(
    dict(zip(_COLUMNS, row, strict=True))
    for row in (
        ("pairs", "pairs alone: no cycles, no D", False, ()),
        ("report", "CycleGAN as in the report", True, ()),
        ("buffer", "+ replay buffer", True, ("replay_buffer",)),
        ("rates", "+ two time scales", True, ("two_rates",)),
        ("spectral", "+ spectral norm", True, ("spectral",)),
        ("straight", "+ straight-through masks", True, ("straight_through",)),
        ("warm", "+ warm start from G1", True, ("warm_start",)),
        ("balanced", "+ these five together", True, BALANCE),
        ("front", "+ which hand is in front", True, (FRONT,)),
        ("remedied", "+ all six", True, (*BALANCE, FRONT)),
        ("loose", "+ all six, looser image cycle", True, tuple(OPTIONS)),
    )
)
VARIANT_TITLES = {row["ROW"]: row["TITLE"] for row in VARIANTS}
VARIANT_NAMES = tuple(VARIANT_TITLES)
REFERENCE_VARIANT = "loose"  # whose pictures are shown, and whose G_YX makes images for G2
G1_AS_LONG = "g1_as_long"  # folder of a G1 trained on as many images as they


def cycle_training(row: str, seed: int) -> str:
    """Folder of a training inside a run."""
    return f"cyclegan/{row}/seed{seed}"


def cycle_nets(profile, remedies: tuple[str, ...]) -> dict[str, dict]:
    """The five nets of a training, with the arguments that `models.create_model` is given."""
    p = profile
    judge = {"arch": "discriminator_spectral" if "spectral" in remedies else "discriminator", "encoder": None}
    judge |= {"widths": p.d_widths, "pretrained": False}
    plain = {"arch": "baseline", "encoder": None, "pretrained": False}
    told = len(HANDS) if FRONT in remedies else 0
    narrow = [max(width // 2, 1) for width in p.baseline_widths[: max(2, len(p.baseline_widths) - 1)]]
    return {
        "G_XY": {"arch": p.g1_arch, "encoder": p.g1_encoder, "widths": p.g1_widths, "pretrained": p.pretrained},
        "G_YX": plain | {"widths": p.baseline_widths, "in_channels": N_CHANNELS + told, "out_channels": IMAGE_CHANNELS},
        "order": plain | {"widths": narrow, "out_channels": len(HANDS)},
        "D_X": judge | {"in_channels": IMAGE_CHANNELS},
        "D_Y": judge | {"in_channels": N_CHANNELS},
    }
