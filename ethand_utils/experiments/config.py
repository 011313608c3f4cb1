"""Profiles: every setting of a run, flat, checked before anything starts."""

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from ethand_utils.exceptions import EthandError, nearest
from ethand_utils.files import atomic_write
from ethand_utils.labels import CLASS_WEIGHTS, INVERSE_FREQUENCY
from ethand_utils.training.cyclegan.variants import GANS, VARIANT_NAMES

PROFILES = Path(__file__).parent / "profiles"
# Settings that change no training: how many there are, on what they run, how they are watched.
NO_EFFECT = ("seeds", "shares", "cyclegan", "processes", "tensorboard")
CHOICES = {
    "views": ("round", "front"),
    "photometric": ("report", "strong"),
    "class_weights": (*CLASS_WEIGHTS, INVERSE_FREQUENCY),
    "hands": ("sum", "mean"),
    "d_arch": ("discriminator", "discriminator_released", "discriminator_spectral"),
    "adversarial_input": ("softmax", "straight_through", "argmax"),
    "discriminator": ("frozen", "alternating"),
    "labelling": ("offline", "online"),
    "confidence": ("foreground_prob", "logit_sum"),
    "pseudo_filter": ("batch_half", "dataset_half", "threshold", "none"),
    "lr_schedule": ("constant", "one_cycle"),
    "gan": GANS,
}


class ProfileError(EthandError):
    """A profile or setting that does not fit."""


@dataclass(frozen=True)
class Profile:
    """The settings of a run: flat, each explained with its unit in `profiles/*.yaml`."""

    data: str | None
    mano_dir: str | None
    train: int
    val: int
    test: int
    unpaired: int
    size: int
    views: str
    seed: int
    render_parts: int
    processes: int
    tensorboard: bool
    g1_arch: str
    g1_encoder: str | None
    g1_widths: list[int] | None
    g2_arch: str
    g2_encoder: str | None
    g2_widths: list[int] | None
    baseline_widths: list[int]
    d_arch: str
    d_widths: list[int]
    pretrained: bool
    photometric: str
    class_weights: str
    hands: str
    adversarial_input: str
    discriminator: str
    labelling: str
    confidence: str
    pseudo_filter: str
    pseudo_threshold: float | None
    g1_epochs: int
    d_epochs: int
    epochs: int
    cycles: list[int]
    bs: int
    bs_unpaired: int
    lr: float
    lr_unpaired: float
    lr_d: float
    lr_schedule: str
    seeds: int
    shares: list[float]
    cyclegan: list[str]
    cyclegan_epochs: int
    gan: str
    image_weight: float
    cycle_weight: float
    adversarial_weight: float
    identity_weight: float
    replay_buffer: int
    d_rate: float

    def __post_init__(self):
        counts = ("train", "val", "test", "unpaired", "size", "render_parts", "processes")
        for name in (*counts, "epochs", "g1_epochs", "d_epochs", "cyclegan_epochs", "replay_buffer", "bs", "seeds"):
            if getattr(self, name) < 1:
                raise ProfileError(f"{name}: {getattr(self, name)}, expected at least 1")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ProfileError(f"{name}: {getattr(self, name)}, expected one of {', '.join(known)}")
        if self.pseudo_filter == "threshold" and self.pseudo_threshold is None:
            raise ProfileError("pseudo_threshold: null, expected the least confidence, as pseudo_filter is threshold")
        if len(self.cycles) != 4 or sum(self.cycles) != self.epochs:
            raise ProfileError(
                f"cycles: {self.cycles}, expected four numbers of epochs (unpaired, paired, unpaired, paired) that "
                f"add up to epochs ({self.epochs}), so that every row of the table trains equally long"
            )
        for name in ("bs", "bs_unpaired"):
            if getattr(self, name) % self.processes:
                expected = f"expected a multiple of processes ({self.processes})"
                raise ProfileError(f"{name}: {getattr(self, name)}, {expected}")
        self._check_shares()
        self._check_cyclegan()

    def _check_shares(self):
        for share in self.shares:
            if not isinstance(share, float) or not 0 < share < 1:
                raise ProfileError(
                    f"shares: {share!r}, expected numbers above 0 and below 1, as [0.05, 0.2]; all pairs come anyway"
                )
        if len(set(self.shares)) < len(self.shares):
            raise ProfileError(f"shares: {self.shares}, expected each share once")

    def _check_cyclegan(self):
        for name in self.cyclegan:
            if name not in VARIANT_NAMES:
                known = ", ".join(VARIANT_NAMES)
                raise ProfileError(f"cyclegan: {name!r}{nearest(str(name), VARIANT_NAMES)}, expected some of {known}")
        for name in ("image_weight", "cycle_weight", "adversarial_weight", "identity_weight", "d_rate"):
            if getattr(self, name) < 0:
                raise ProfileError(f"{name}: {getattr(self, name):g}, expected 0 or more")


def load_profile(name: str | Path, changes: dict | None = None) -> Profile:
    """A profile by name (`ci`, `tiny`, `small`, `paper`) or file, with `changes` to single keys.

    Raises ProfileError for an unknown profile or key (naming the nearest), a missing key, or a value of another type.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else PROFILES / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
        raise ProfileError(
            f"{name}: no such profile{nearest(str(name), known)}; expected one of {', '.join(known)} or a YAML file"
        )
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    values = {**values, **(changes or {})}
    fields = {field.name: field.type for field in dataclasses.fields(Profile)}
    for key, value in values.items():
        if key not in fields:
            raise ProfileError(f"{key}: no such setting{nearest(key, fields)}; see {path}")
        values[key] = _checked(key, value, fields[key])
    missing = sorted(set(fields) - set(values))
    if missing:
        raise ProfileError(f"{path}: {missing[0]} is missing; every setting must be given")
    return Profile(**values)


def _checked(key: str, value, kind):
    """`value` if it is of the type a Profile field asks for; whole numbers pass as float."""
    kinds = getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__origin__") else (kind,)
    for kind in kinds:
        plain = getattr(kind, "__origin__", kind)
        if plain is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
            return value
    expected = " or ".join(getattr(k, "__name__", str(k)).replace("NoneType", "null") for k in kinds)
    raise ProfileError(f"{key}: {value!r}, expected {expected}")


def parse_changes(pairs: list[str]) -> dict:
    """`["epochs=3", "lr=1e-3"]` → values as YAML reads them. Raises ProfileError for a pair without `=`."""
    changes = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ProfileError(f"--set {pair}: expected KEY=VALUE")
        value = yaml.safe_load(value)
        with contextlib.suppress(TypeError, ValueError):  # YAML 1.1 reads 1e-3 as text
            value = float(value) if isinstance(value, str) else value
        changes[key.strip()] = value
    return changes


def write_profile(folder: Path, profile: Profile) -> None:
    """Write the resolved profile of a run; what it does not concern shall not run again.

    A file that says the same is left untouched. One that differs in nothing but NO_EFFECT keeps its time: stages that
    are there stay up to date, those that are new run, and so does what is made from both.
    """
    path = folder / "profile.yaml"
    text = yaml.safe_dump(dataclasses.asdict(profile), sort_keys=False)
    if path.exists() and path.read_text() == text:
        return
    before = path.stat() if path.exists() and _trainings_alike(path.read_text(), text) else None
    with atomic_write(path) as temporary:
        temporary.write_text(text)
        if before:
            os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))


def _trainings_alike(one: str, other: str) -> bool:
    """Whether two profiles as YAML have the same settings but for those in NO_EFFECT."""
    try:
        settings = [dict(yaml.safe_load(text)) for text in (one, other)]
    except (yaml.YAMLError, TypeError, ValueError):
        return False
    for known in settings:
        for key in NO_EFFECT:
            known.pop(key, None)
    return settings[0] == settings[1]
