"""What a run would train, before it does: data, nets, and of every phase its steps, images, learning rate and loss."""

import textwrap
from dataclasses import asdict

from ethand_utils.data.augment import PHOTOMETRIC, Augmentation
from ethand_utils.data.datasets import open_dataset, require_stores
from ethand_utils.experiments.config import Profile
from ethand_utils.experiments.methods import (
    ROWS,
    PlannedPhase,
    adversary,
    cyclegan_phases,
    d_phases,
    discriminator_name,
    g1_phases,
    g2_phases,
)
from ethand_utils.experiments.run import Run
from ethand_utils.experiments.workflow import stages
from ethand_utils.labels import CLASS_WEIGHTS
from ethand_utils.training.cyclegan.variants import LOOSE, VARIANTS, cycle_nets
from ethand_utils.training.learner import lr_factor
from ethand_utils.training.losses import ADVERSARIAL_SHARE, CE_SHARE, D_CHANNELS, DICE_SHARE, SEGMENTATION_SHARE
from ethand_utils.training.pseudo_labels import kept_per_batch

NETS = {"baseline": "baseline", "g2": "G2"}  # of a row's MODEL

WIDTH = 100


def planned(run: Run) -> dict:
    """Everything a run would train, as JSON has it. Nothing is read but the length of stores, and nothing written.

    `trainings` come in the order of the chain, seeds of one row together; of each phase `epochs`, `bs`, `batches` an
    epoch, and over all epochs `steps`, `images` loaded, images `learned` from, and `lr`, the first and the last batch's
    of every epoch. `at_most` says that a count is a limit: of data that is still to be read, or where G1's confidence
    decides how much a filter keeps.

    Raises what `Run.source` does, and StoreError when the profile's `data` lacks a store.
    """
    p, data = run.profile, data_of(run)
    trainings = [_training(p, data, **one) for one in _trainings(p)]
    totals = {
        name: sum(one["seeds"] * phase[name] for one in trainings for phase in one["phases"])
        for name in ("epochs", "steps", "images", "learned")
    }
    at_most = any(phase["at_most"] for one in trainings for phase in one["phases"])
    return {
        "run": run.name,
        "data": data,
        "augmentation": asdict(Augmentation(photometric=PHOTOMETRIC[p.photometric])),
        "class_weights": CLASS_WEIGHTS.get(p.class_weights),
        "nets": nets(p),
        "trainings": trainings,
        "totals": {"trainings": sum(one["seeds"] for one in trainings), **totals, "at_most": at_most},
        "profile": asdict(p),
    }


def data_of(run: Run) -> dict:
    """Where a run's data set comes from, its px a side, and samples by store: `at_most` where they are still read."""
    p, source = run.profile, run.source
    size, counts = p.size, {"train": p.train, "val": p.val, "test": p.test, "unpaired_images": p.unpaired}
    counts |= {"unpaired_labels": p.unpaired} if source == "rendered" else {}
    if source == "stores":
        stores = require_stores(open_dataset(run.data_folder), run.data_folder, "train", "val", "unpaired_images")
        known = [name for name in (*counts, "unpaired_labels") if name in stores]
        size, counts = stores["train"].size, {name: len(stores[name]) for name in known}
    at_most = source not in ("rendered", "stores")
    return {"source": source, "folder": p.data, "size": size, "counts": counts, "at_most": at_most}


def nets(profile: Profile) -> dict[str, dict]:
    """Every net of a run, with the arguments that `models.create_model` is given; D by the folder of its training."""
    p = profile
    found = {
        "G1": {"arch": p.g1_arch, "encoder": p.g1_encoder, "widths": p.g1_widths, "pretrained": p.pretrained},
        "baseline": {"arch": "baseline", "encoder": None, "widths": p.baseline_widths, "pretrained": False},
        "G2": {"arch": p.g2_arch, "encoder": p.g2_encoder, "widths": p.g2_widths, "pretrained": p.pretrained},
    }
    for seen in dict.fromkeys(adversary(row["ADVERSARIAL"], p)[0] for row in ROWS):
        if seen in D_CHANNELS:
            shape = {"arch": p.d_arch, "encoder": None, "widths": p.d_widths, "pretrained": False}
            found[discriminator_name(p, seen)] = {**shape, "in_channels": D_CHANNELS[seen]}
    for row in (row for row in VARIANTS if row["ROW"] in p.cyclegan):
        for name, net in cycle_nets(p, row["REMEDIES"]).items():
            if found.setdefault(name, net) != net:
                found[f"{name} of {row['ROW']}"] = net
    return found


def _trainings(profile: Profile) -> list[dict]:
    """Notebook, folder, parameters and number of seeds of every training, as the chain of stages has them."""
    found = {}
    for stage in stages(profile):
        if stage.notebook not in _BY_NOTEBOOK:
            continue
        folder = stage.makes[0].rpartition("/")[0].split("/seed")[0]
        known = found.setdefault(folder, {"notebook": stage.notebook, "folder": folder, "seeds": 0})
        known |= {"seeds": known["seeds"] + 1, "parameters": stage.parameters}
    return list(found.values())


def _training(p: Profile, data: dict, notebook: str, folder: str, seeds: int, parameters: dict) -> dict:
    """A training in full: what its notebook makes of the profile, and every phase counted."""
    told = _BY_NOTEBOOK[notebook](p, folder, parameters)
    phases, losses = told.pop("phases"), told.pop("losses")
    rates = learning_rates(phases, p.lr_schedule, data["counts"])
    described = []
    for phase, lr in zip(phases, rates, strict=True):
        described.append(_phase(p, phase, data) | {"loss": losses[phase.name], "lr": lr})
    return {"name": folder, "notebook": notebook, "seeds": seeds, **told, "phases": described}


def _g1(p: Profile, folder: str, parameters: dict) -> dict:
    losses = {"paired": segmentation_words("ce", p.class_weights)}
    return {"net": "G1", "phases": g1_phases(p, parameters.get("EPOCHS")), "losses": losses}


def _d(p: Profile, folder: str, parameters: dict) -> dict:
    seen, _ = adversary(parameters.get("ADVERSARIAL", "profile"), p)
    losses = {"discriminator": "BCE(D(G1's prediction), 0) + BCE(D(truth), 1)"}
    return {"net": folder, "adversarial_input": seen, "phases": d_phases(p), "losses": losses}


def _g2(p: Profile, folder: str, row: dict) -> dict:
    weights = p.class_weights if row["WEIGHTED"] else "none"
    seen, discriminator = adversary(row["ADVERSARIAL"], p)
    words = segmentation_words(row["LOSS"], weights)
    told = {"net": NETS[row["MODEL"]], "class_weights": weights}
    told |= {"adversarial_input": seen, "discriminator": discriminator}
    told |= {"judge": None if seen == "none" else discriminator_name(p, seen)}
    return told | {
        "phases": g2_phases(p, row["GENERATED"]),
        "losses": {"unpaired": words, "paired": words if seen == "none" else adversarial_words(words)},
    }


def _cyclegan(p: Profile, folder: str, row: dict) -> dict:
    told = {"net": "G_XY", "remedies": row["REMEDIES"]}
    words = cycle_words(p, row["CYCLES"], LOOSE if "loose_cycle" in row["REMEDIES"] else 1)
    return told | {"phases": cyclegan_phases(p), "losses": {"cycles": words}}


_BY_NOTEBOOK = {"04_train_g1": _g1, "05_train_discriminator": _d, "07_train_g2": _g2, "11_cyclegan": _cyclegan}


def segmentation_words(loss: str, class_weights: str) -> str:
    """What `losses.SegmentationLoss` computes of the two hands, whose sum or mean (`hands`) it takes."""
    ce = "CE" if class_weights == "none" else "weighted CE"
    return ce if loss == "ce" else f"{CE_SHARE} {ce} + {DICE_SHARE} Dice"


def adversarial_words(segmentation: str) -> str:
    """What `callbacks.Adversarial` makes of it."""
    return f"{SEGMENTATION_SHARE} ({segmentation}) + {ADVERSARIAL_SHARE} BCE(D(prediction), 1)"


def cycle_words(p: Profile, cycles: bool, back: float) -> str:
    """What `cyclegan.CycleLoss` and `opponents.Opponents` make of a batch; the image that comes back counts `back`."""
    masks = segmentation_words("ce_dice", p.class_weights)
    words = f"pairs: {masks} + {p.image_weight:g} L1(image) + BCE(order)"
    if cycles:
        words += f"; all: {p.cycle_weight:g} ({back * p.image_weight:g} L1(X→Y→X) + CE(Y→X→Y))"
        words += f" + {p.identity_weight:g} identity" if p.identity_weight else ""
        words += f" + {p.adversarial_weight:g} {p.gan} of D_X and D_Y"
    return words


def _phase(p: Profile, phase: PlannedPhase, data: dict) -> dict:
    count = count_of(data["counts"], phase.store)
    batch, batches = phase.batch(count), phase.batches(count)
    on_labels = phase.store == "unpaired_images"
    filtered = on_labels and p.pseudo_filter in ("dataset_half", "threshold")
    kept = kept_per_batch(batch) if on_labels and p.pseudo_filter == "batch_half" else batch
    steps = phase.epochs * batches
    return {
        "phase": phase.name,
        "store": phase.store,
        "filter": p.pseudo_filter if on_labels else None,
        "epochs": phase.epochs,
        "bs": batch,
        "batches": batches,
        "steps": steps,
        "images": steps * (batch + phase.beside),
        "learned": steps * (kept + phase.beside),
        "at_most": filtered or data["at_most"],
    }


def count_of(counts: dict[str, int], store: str) -> int:
    """Samples of a store; without labels that lack images, those of the pairs serve (`cycleloader.unpaired_labels`)."""
    return counts.get(store, counts["train"]) if store == "unpaired_labels" else counts[store]


def learning_rates(phases: tuple[PlannedPhase, ...], schedule: str, counts: dict[str, int]) -> list[list[list[float]]]:
    """Of each phase, for every epoch, the learning rate of its first and of its last batch."""
    total, done, found = sum(phase.epochs for phase in phases), 0, []
    for phase in phases:
        batches = phase.batches(count_of(counts, phase.store))
        ends = [
            [(done + epoch + batch / batches) / total for batch in (0, batches - 1)] for epoch in range(phase.epochs)
        ]
        found.append([[phase.lr * lr_factor(schedule, share) for share in pair] for pair in ends])
        done += phase.epochs
    return found


def text(planned: dict) -> str:
    """A `forecast.planned` for reading: data, nets, trainings phase by phase, their losses."""
    blocks = [_settings(planned), _nets(planned), _training_lines(planned), _losses(planned), _judges(planned)]
    head = f"{planned['run']}: what this run would train; nothing was started, nothing written"
    return "\n\n".join([head, *("\n".join(block) for block in blocks if block)])


def _settings(planned: dict) -> list[str]:
    data, p = planned["data"], planned["profile"]
    most = "at most " if data["at_most"] else ""
    counts = " · ".join(f"{name} {number:,}" for name, number in data["counts"].items())
    where = f"{data['source']}, from {data['folder']}" if data["folder"] else "rendered"
    weights = planned["class_weights"]
    told = "counted over the masks to train on" if weights is None else " ".join(f"{weight:g}" for weight in weights)
    return [
        _line("data", f"{where}, {data['size']}×{data['size']} px"),
        *_lines("", f"{most}{counts}"),
        _line("augmentation", _augmentation(planned["augmentation"], p["photometric"])),
        _line("optimiser", f"Adam, lr {p['lr_schedule']}"),
        _line("class weights", f"{p['class_weights']}: {told}"),
        _line("pseudo-labels", f"{p['labelling']}, filter {p['pseudo_filter']} by {p['confidence']}"),
    ]


def _augmentation(a: dict, photometric: str) -> str:
    more = "" if photometric == "report" else f" · light {photometric}"
    return (
        f"scale 1 ± {a['scale']:g} · rotation ≤ {2 * a['rotation']:g}°, p {a['rotation_p']:g} · "
        f"channels ± {a['intensity']:g} · flip, p {a['flip_p']:g}{more}"
    )


def _nets(planned: dict) -> list[str]:
    lines = []
    for name, net in planned["nets"].items():
        parts = [net["arch"]]
        parts += [f"encoder {net['encoder']}"] if net["encoder"] else []
        parts += [f"{net['in_channels']} channels in"] if "in_channels" in net else []
        parts += ["widths " + "-".join(map(str, net["widths"]))] if net["widths"] else []
        parts += ["ImageNet weights" if net["pretrained"] else "from scratch"]
        lines.append(_line(name, ", ".join(parts)))
    return lines


_COLUMNS = "{:<17}{:>3} {:<14}{:>6}{:>8}{:>10}{:>12}{:>12}  {}"  # of a table of phases


def _training_lines(planned: dict) -> list[str]:
    lines = [_COLUMNS.format("training", "", "phase", "epochs", "batches", "steps", "images", "learned", "lr")]
    for one in planned["trainings"]:
        name, seeds = one["name"].removeprefix("g2/"), f"×{one['seeds']}" if one["seeds"] > 1 else ""
        for phase in one["phases"]:
            numbers = [f"{phase[key]:,}" for key in ("epochs", "batches", "steps", "images", "learned")]
            lines.append(_COLUMNS.format(name, seeds, phase["phase"], *numbers, _rates(phase["lr"])))
            name = seeds = ""
    total = planned["totals"]
    numbers = [f"{total[key]:,}" for key in ("steps", "images", "learned")]
    lines.append(_COLUMNS.format(f"{total['trainings']} in all", "", "", f"{total['epochs']:,}", "", *numbers, ""))
    notes = ["batches: of an epoch; images: loaded; learned: images left by the filter, from which the net learns"]
    notes += ["these are limits: the data, or G1's confidence, may leave fewer"] if total["at_most"] else []
    return [line.rstrip() for line in lines] + notes


def _losses(planned: dict) -> list[str]:
    """A line for each loss, with the trainings and the phase that have it."""
    found: dict[tuple, list[str]] = {}
    for one in planned["trainings"]:
        for phase in one["phases"]:
            key = (phase["phase"], phase["loss"], phase["filter"])
            found.setdefault(key, [])
            found[key] += [one["name"]] if one["name"] not in found[key] else []
    lines = []
    for (phase, loss, kept), names in found.items():
        lines += _lines("loss", f"{loss}{f'; filter {kept}' if kept else ''}")
        lines.append(_line("", f"{phase}: " + ", ".join(name.removeprefix("g2/") for name in names)))
    hands = planned["profile"]["hands"]
    return [
        *lines,
        _line("", f"CE and Dice: the {hands} of the two hands'; Dice over {len(CLASS_WEIGHTS['none'])} classes"),
    ]


def _judges(planned: dict) -> list[str]:
    """What D sees and whether it is trained on, in every row that has one."""
    further = f"trained on at lr {_rate(planned['profile']['lr_d'])}"
    return [
        _line(
            one["name"].removeprefix("g2/"),
            f"D is {one['judge']} and sees {one['adversarial_input']}; "
            f"{further if one['discriminator'] == 'alternating' else one['discriminator']}",
        )
        for one in planned["trainings"]
        if one.get("judge")
    ]


def _lines(name: str, words: str) -> list[str]:
    """As many lines as the words need."""
    lines = textwrap.wrap(words, WIDTH - len(_line("", "")))
    return [_line("" if row else name, line) for row, line in enumerate(lines)]


def _line(name: str, words: str) -> str:
    return f"{name:<17}{words}"


def _rates(lr: list[list[float]]) -> str:
    """`1.5e-4`, or `1.2e-4→3e-6` where it changes; nothing for a phase without epochs."""
    if not lr:
        return ""
    first, last = lr[0][0], lr[-1][-1]
    return _rate(first) if {rate for pair in lr for rate in pair} == {first} else f"{_rate(first)}→{_rate(last)}"


def _rate(lr: float) -> str:
    digits, power = f"{lr:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
