"""Plan of what a run would train: data, nets, and every phase's steps, images, learning rate and loss."""

import textwrap
from dataclasses import asdict

from ethand_utils.data.augment import PHOTOMETRIC, Augmentation
from ethand_utils.data.dataloaders import labelled_count
from ethand_utils.data.datasets import open_dataset, require_stores
from ethand_utils.experiments.checks import check, planned_nets
from ethand_utils.experiments.config import Profile, fraction_name
from ethand_utils.experiments.methods import (
    NETS,
    PlannedPhase,
    adversary,
    cyclegan_phases,
    d_phases,
    g1_phases,
)
from ethand_utils.experiments.run import Run
from ethand_utils.experiments.workflow import Stage, stages
from ethand_utils.labels import CLASS_WEIGHTS
from ethand_utils.sources.detect import find_source
from ethand_utils.training import semi
from ethand_utils.training.adversarial import adversarial_text
from ethand_utils.training.cyclegan.model import cycle_text
from ethand_utils.training.learner import lr_factor
from ethand_utils.training.losses import LOSSES
from ethand_utils.training.pseudo_labels import kept_per_batch

WIDTH, NAME_WIDTH = 100, 17  # columns of the text, and of the name that begins a line
PHASE_COLUMNS = f"{{:<{NAME_WIDTH}}}{{:>3}} {{:<14}}{{:>6}}{{:>8}}{{:>10}}{{:>12}}{{:>12}}  {{}}"


def planned(run: Run) -> dict:
    """Return everything a run would train, as JSON has it. Reads nothing but the length of stores, writes nothing.

    `trainings` come in the order of the chain, seeds of one row together; of each phase `epochs`, `bs`, `batches` an
    epoch, and over all epochs `steps`, `images` loaded, images `learned` from, and `lr`, the first and the last batch's
    of every epoch. `at_most` says that a count is a limit: of data that is still to be read, or where G1's confidence
    decides how much a filter keeps.

    Raises what `checks.check` does, and StoreError when the profile's `data` lacks a store.
    """
    check(run)
    p, data = run.profile, _data(run)
    trainings = [_training(p, data, *training) for training in _trainings(p)]
    totals = {
        name: sum(training["seeds"] * phase[name] for training in trainings for phase in training["phases"])
        for name in ("epochs", "steps", "images", "learned")
    }
    at_most = any(phase["at_most"] for training in trainings for phase in training["phases"])
    return {
        "run": run.name,
        "data": data,
        "augmentation": asdict(Augmentation(photometric=PHOTOMETRIC[p.photometric])),
        "class_weights": CLASS_WEIGHTS.get(p.class_weights),
        "nets": planned_nets(p),
        "trainings": trainings,
        "totals": {"trainings": sum(training["seeds"] for training in trainings), **totals, "at_most": at_most},
        "profile": p.model_dump(),
    }


def _data(run: Run) -> dict:
    """Return source, folder, px a side, samples by store, and the `pairs` of each label fraction, by its folder.

    `at_most`: whether the data are still to be read, so that these are limits.
    """
    p, source = run.profile, run.source
    kind = find_source(source)
    size, counts = p.size, {"train": p.train, "val": p.val, "test": p.test, "unpaired_images": p.unpaired}
    counts |= {"unpaired_labels": p.unpaired} if kind.unpaired_labels else {}
    if kind.in_place:
        stores = require_stores(open_dataset(run.data_folder), run.data_folder, "train", "val", "unpaired_images")
        names = [name for name in (*counts, "unpaired_labels") if name in stores]
        size, counts = stores["train"].size, {name: len(stores[name]) for name in names}
    pairs = {fraction_name(fraction): labelled_count(counts["train"], fraction) for fraction in p.label_fractions}
    facts = {"source": source, "folder": p.data, "size": size, "counts": counts, "pairs": pairs}
    return facts | {"at_most": kind.reads_files}


def _trainings(p: Profile) -> list[tuple[str, Stage, int]]:
    """Return folder, stage and number of seeds of every training, in the order of the chain."""
    by_folder: dict[str, list[Stage]] = {}
    for stage in stages(p):
        if stage.notebook in DESCRIBE:
            folder = stage.makes[0].rpartition("/")[0].split("/seed")[0]
            by_folder.setdefault(folder, []).append(stage)
    return [(folder, seeds[-1], len(seeds)) for folder, seeds in by_folder.items()]


def _training(p: Profile, data: dict, folder: str, stage: Stage, seeds: int) -> dict:
    """Return a training in full: what its notebook makes of the profile, and every phase counted."""
    described, phases, losses = DESCRIBE[stage.notebook](p, folder, stage)
    rates = learning_rates(phases, p.lr_schedule, data["counts"])
    counted = [
        _phase(p, phase, data) | {"loss": losses[phase.name], "lr": lr} for phase, lr in zip(phases, rates, strict=True)
    ]
    return {"name": folder, "notebook": stage.notebook, "seeds": seeds, **described, "phases": counted}


# Of each notebook that trains: what describes the training, its phases, and the loss of each phase.


def _g1(p: Profile, folder: str, stage: Stage) -> tuple[dict, tuple, dict]:
    weighted = p.class_weights != "none"
    return {"net": "G1"}, g1_phases(p, stage.parameters.get("EPOCHS")), {"paired": LOSSES["ce"].text(weighted)}


def _d(p: Profile, folder: str, stage: Stage) -> tuple[dict, tuple, dict]:
    d = adversary(stage.parameters.get("ADVERSARY", "profile"), p)
    loss = "BCE(D(G1's prediction), 0) + BCE(D(truth), 1)"
    return {"net": folder, "adversarial_input": d.adversarial_input}, d_phases(p), {"discriminator": loss}


def _g2(p: Profile, folder: str, stage: Stage) -> tuple[dict, tuple, dict]:
    method, facts, d = stage.method, stage.method.facts(p), stage.method.discriminator(p)
    loss = LOSSES[method.loss].text(facts["class_weights"] != "none")
    described = {key: facts[key] for key in ("class_weights", "adversarial_input", "discriminator")}
    described |= {"net": NETS[method.net], "d": f"{folder.split('g2/')[0]}{d.folder}" if d else None}
    if method.semi:
        own = ", ".join(f"{name} {value:g}" for name, value in method.constants.items())
        formula = f"{semi.load(method.unlabelled).formula}; L: {loss}{f'; its own {own}' if own else ''}"
        return described, method.phases(p), {"joint": formula}
    return described, method.phases(p), {"unpaired": loss, "paired": adversarial_text(loss) if d else loss}


def _cyclegan(p: Profile, folder: str, stage: Stage) -> tuple[dict, tuple, dict]:
    options = stage.parameters["OPTIONS"]
    loss = cycle_text(p, options, stage.parameters["CYCLES"])
    return {"net": "G_XY", "options": options}, cyclegan_phases(p), {"cycles": loss}


def _release(p: Profile, folder: str, stage: Stage) -> tuple[dict, tuple, dict]:
    loss = f"{LOSSES['ce_dice'].text(p.class_weights != 'none')}; presence and the hand in front beside it"
    return {"net": "G1"}, g1_phases(p, stage.parameters.get("EPOCHS")), {"paired": loss}


DESCRIBE = {
    "04_train_g1": _g1,
    "05_train_discriminator": _d,
    "07_train_g2": _g2,
    "11_cyclegan": _cyclegan,
    "14_release": _release,
}


def _phase(p: Profile, phase: PlannedPhase, data: dict) -> dict:
    """Return a phase with its numbers of batches, steps, images loaded and images learned from."""
    count = count_of(data["counts"], phase.store)
    batch, batches = phase.batch(count), phase.batches(count)
    pseudo_labelled = phase.store == "unpaired_images"
    filtered = pseudo_labelled and p.pseudo_filter in ("dataset_half", "threshold")
    learned = kept_per_batch(batch) if pseudo_labelled and p.pseudo_filter == "batch_half" else batch
    steps = phase.epochs * batches
    return {
        "phase": phase.name,
        "store": phase.store,
        "filter": p.pseudo_filter if pseudo_labelled else None,
        "epochs": phase.epochs,
        "bs": batch,
        "batches": batches,
        "steps": steps,
        "images": steps * (batch + phase.beside),
        "learned": steps * (learned + phase.beside),
        "at_most": filtered or data["at_most"],
    }


def count_of(counts: dict[str, int], store: str) -> int:
    """Return the samples of a store; without labels that lack images, the pairs' labels serve instead."""
    return counts.get(store, counts["train"]) if store == "unpaired_labels" else counts[store]


def learning_rates(phases: tuple[PlannedPhase, ...], schedule: str, counts: dict[str, int]) -> list[list[list[float]]]:
    """Return the learning rates of the first and the last batch of every epoch of each phase."""
    total, done, rates = sum(phase.epochs for phase in phases), 0, []
    for phase in phases:
        batches = phase.batches(count_of(counts, phase.store))
        ends = [[(done + epoch + k / batches) / total for k in (0, batches - 1)] for epoch in range(phase.epochs)]
        rates.append([[phase.lr * lr_factor(schedule, progress) for progress in pair] for pair in ends])
        done += phase.epochs
    return rates


def text(plan: dict) -> str:
    """Return a plan of `planned` for reading, in at most WIDTH columns: data, nets, trainings by phase, losses, Ds."""
    blocks = [_settings_lines(plan), _net_lines(plan), _training_lines(plan), _loss_lines(plan), _d_lines(plan)]
    head = f"{plan['run']}: what this run would train; nothing was started, nothing written"
    return "\n\n".join([head, *("\n".join(block) for block in blocks if block)])


def _settings_lines(plan: dict) -> list[str]:
    data, p, a = plan["data"], plan["profile"], plan["augmentation"]
    counts = " · ".join(f"{name} {number:,}" for name, number in data["counts"].items())
    origin = f"{data['source']}, from {data['folder']}" if data["folder"] else "rendered"
    light = "" if p["photometric"] == "report" else f" · light {p['photometric']}"
    augmentation = (
        f"scale 1 ± {a['scale']:g} · rotation ≤ {2 * a['rotation']:g}°, p {a['rotation_p']:g} · "
        f"channels ± {a['intensity']:g} · flip, p {a['flip_p']:g}{light}"
    )
    weights = plan["class_weights"]
    values = "counted over the masks to train on" if weights is None else " ".join(f"{weight:g}" for weight in weights)
    return [
        _line("data", f"{origin}, {data['size']}×{data['size']} px"),
        *_wrapped("", f"{'at most ' if data['at_most'] else ''}{counts}"),
        _line("augmentation", augmentation),
        _line("optimiser", f"Adam, lr {p['lr_schedule']}"),
        *([_line("label fractions", _fractions_text(data))] if data["pairs"] else []),
        *([_half_size_line(p["half_size_share"], data["size"])] if p["half_size_share"] else []),
        _line("class weights", f"{p['class_weights']}: {values}"),
        _line("pseudo-labels", f"{p['labelling']}, filter {p['pseudo_filter']} by {p['confidence']}"),
    ]


def _fractions_text(data: dict) -> str:
    limit = "at most " if data["at_most"] else ""
    return " · ".join(f"{folder}: {limit}{count:,} pairs" for folder, count in data["pairs"].items())


def _half_size_line(share: float, size: int) -> str:
    return _line(
        "half the size", f"{size // 2}×{size // 2} px for the first {share:.0%} of the epochs of G1 and of every row"
    )


def _net_lines(plan: dict) -> list[str]:
    lines = []
    for name, net in plan["nets"].items():
        facts = [net["arch"]]
        facts += [f"encoder {net['encoder']}"] if net["encoder"] else []
        facts += [f"{net['in_channels']} channels in"] if "in_channels" in net else []
        facts += ["widths " + "-".join(map(str, net["widths"]))] if net["widths"] else []
        start = "ImageNet weights" if net["pretrained"] else "from scratch"
        weights = plan["profile"].get(f"{name.lower()}_init")  # of G1 and G2
        start = f"from the weights {weights}" if weights else start
        lines.append(_line(name, ", ".join([*facts, start])))
    return lines


def _training_lines(plan: dict) -> list[str]:
    lines = [PHASE_COLUMNS.format("training", "", "phase", "epochs", "batches", "steps", "images", "learned", "lr")]
    for training in plan["trainings"]:
        seeds = f"×{training['seeds']}" if training["seeds"] > 1 else ""
        *line_of_name, name = _fitting(_short(training))
        lines += line_of_name
        for phase in training["phases"]:
            numbers = [f"{phase[key]:,}" for key in ("epochs", "batches", "steps", "images", "learned")]
            lines.append(PHASE_COLUMNS.format(name, seeds, phase["phase"], *numbers, _rates(phase["lr"])))
            name = seeds = ""
    total = plan["totals"]
    numbers = [f"{total[key]:,}" for key in ("steps", "images", "learned")]
    all_in = f"{total['trainings']} in all"
    lines.append(PHASE_COLUMNS.format(all_in, "", "", f"{total['epochs']:,}", "", *numbers, ""))
    notes = ["batches: of an epoch; images: loaded; learned: images left by the filter, from which the net learns"]
    notes += ["×: trainings with as many seeds"] if any(one["seeds"] > 1 for one in plan["trainings"]) else []
    notes += ["these are limits: the data, or G1's confidence, may leave fewer"] if total["at_most"] else []
    return [line.rstrip() for line in lines] + notes


def _loss_lines(plan: dict) -> list[str]:
    """Return a line for each loss, with the trainings and the phase that have it."""
    trainings: dict[tuple, list[str]] = {}
    for training in plan["trainings"]:
        for phase in training["phases"]:
            names = trainings.setdefault((phase["phase"], phase["loss"], phase["filter"]), [])
            names += [] if _short(training) in names else [_short(training)]
    lines = []
    for (phase, loss, filtered), names in trainings.items():
        lines += _wrapped("loss", f"{loss}{f'; filter {filtered}' if filtered else ''}")
        lines += _wrapped("", f"{phase}: {', '.join(names)}")
    classes = f"Dice over {len(CLASS_WEIGHTS['none'])} classes"
    return [*lines, _line("", f"CE and Dice: the {plan['profile']['hands']} of the two hands'; {classes}")]


def _d_lines(plan: dict) -> list[str]:
    """Return a line for each row with a D: what D sees, and whether it is trained on."""
    further = f"trained on at lr {_rate(plan['profile']['lr_d'])}"
    lines = []
    for training in (training for training in plan["trainings"] if training.get("d")):
        state = further if training["discriminator"] == "alternating" else training["discriminator"]
        *line_of_name, name = _fitting(_short(training))
        lines += [*line_of_name, _line(name, f"D is {training['d']} and sees {training['adversarial_input']}; {state}")]
    return lines


def _short(training: dict) -> str:
    return training["name"].removeprefix("g2/")


def _fitting(name: str) -> list[str]:
    """Return [name], or [name, ""] for one that is too long for the first column and gets a line of its own."""
    return [name] if len(name) < NAME_WIDTH else [name, ""]


def _wrapped(name: str, content: str) -> list[str]:
    """Return as many lines as the content needs."""
    lines = textwrap.wrap(content, WIDTH - len(_line("", "")))
    return [_line(name if number == 0 else "", line) for number, line in enumerate(lines)]


def _line(name: str, content: str) -> str:
    return f"{name:<{NAME_WIDTH}}{content}"


def _rates(lr: list[list[float]]) -> str:
    """Return `1.5e-4`, or `1.2e-4→3e-6` where it changes; nothing for a phase without epochs."""
    if not lr:
        return ""
    first, last = lr[0][0], lr[-1][-1]
    return _rate(first) if {rate for pair in lr for rate in pair} == {first} else f"{_rate(first)}→{_rate(last)}"


def _rate(lr: float) -> str:
    digits, power = f"{lr:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
