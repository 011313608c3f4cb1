"""What `ethand run --dry-run` prints: a run's forecast as text of at most 100 columns."""

import textwrap

from ethand_utils.labels import CLASS_WEIGHTS

WIDTH = 100


def text(planned: dict) -> str:
    """A `forecast.planned` for reading: data, nets, trainings phase by phase, their losses."""
    blocks = [_settings(planned), _nets(planned), _trainings(planned), _losses(planned), _judges(planned)]
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


def _trainings(planned: dict) -> list[str]:
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
