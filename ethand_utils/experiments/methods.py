"""The methods that are compared, one a row of Table 1 or beside it, and the phases of every training of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.experiments.config import Profile, ProfileError, brief, check_setting, concerning
from ethand_utils.training import semi
from ethand_utils.training.cyclegan.variants import REFERENCE_VARIANT, cycle_training

NETS = {"baseline": "baseline", "g2": "G2"}  # a method's nets, with the names that a dry run prints
# How unlabelled data are used, with the store that the unpaired phases read; beside these, the methods of `semi`.
UNLABELLED = {"none": None, "pseudo_labels": "unpaired_images", "generated_images": "unpaired_labels"}
ADVERSARIES = ("none", "profile", "released")
PSEUDO_LABEL_FACTS = ("labelling", "confidence", "pseudo_filter", "pseudo_threshold")  # settings in a result
GENERATED_IMAGES = f"{cycle_training(REFERENCE_VARIANT, 0)}/images"  # store that `generated_images` reads, in a run
SEMI_SETTINGS = concerning("semi")
# Methods with a part of their own in a run; those of the label fractions are trained on them, too.
BASELINE, FULL_METHOD, IMAGES_METHOD = "baseline", "unetpp_full", "unetpp_images"
FRACTION_METHODS = ("unetpp_dice", "unetpp_generated")
PEER_REFERENCES = FRACTION_METHODS  # pairs alone, and the report's two cycles


class MethodError(EthandError):
    """A method that does not exist, or asks for something that does not."""


@dataclass(frozen=True)
class Adversary:
    """D beside a training: what it sees of a mask, how it is trained (`frozen`, `alternating`), and its folder."""

    adversarial_input: str
    discriminator: str
    folder: str


@dataclass(frozen=True)
class Method:
    """A training of G2 or of the baseline: a row of Table 1, or beside it.

    `name` is its folder below `g2/`, `reported` the report's score (None: the report does not have it). `net` is one of
    NETS, `loss` of `training.losses.LOSSES`, with the settings' class weights if `weighted`; `unlabelled` is one of
    UNLABELLED, or a module of `training.semi`, of whose settings `constants` are its own. `adversary`: no D (`none`),
    the settings' (`profile`), or that of the released code, which sees arg-max ids and stays frozen (`released`;
    REFERENCE.md section 2); methods of `training.semi` have none. `compared_with` names the methods that its score is
    tested against, first the one that it adds an ingredient to. A method with `in_table` False is trained only where
    something else asks for it. Raises MethodError for an unknown net, use of unlabelled data, adversary or constant,
    and for ingredients that do not go together; `check` refuses an unknown loss, whose registry needs PyTorch.
    """

    name: str
    title: str
    net: str = "g2"
    loss: str = "ce_dice"
    weighted: bool = True
    unlabelled: str = "none"
    adversary: str = "none"
    reported: float | None = None
    compared_with: tuple[str, ...] = ("baseline",)
    in_table: bool = True
    constants: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        unlabelled = (*UNLABELLED, *semi.names())
        for key, names in {"net": NETS, "unlabelled": unlabelled, "adversary": ADVERSARIES}.items():
            require_known(f"method {self.name}: {key}", getattr(self, key), names, MethodError)
        if self.semi and self.adversary != "none":
            raise MethodError(
                f"method {self.name}: adversary {self.adversary!r}, expected 'none', as unlabelled {self.unlabelled!r} "
                "trains without D"
            )
        if self.constants and not self.semi:
            raise MethodError(
                f"method {self.name}: constants {brief(dict(self.constants))}, expected none, as unlabelled "
                f"{self.unlabelled!r} has no settings of its own; a module of training/semi/ has"
            )
        for key, value in self.constants.items():
            require_known(f"method {self.name}: constant", key, SEMI_SETTINGS, MethodError)
            try:
                check_setting(key, value)
            except ProfileError as error:
                raise MethodError(f"method {self.name}: constant {error}") from None

    @property
    def semi(self) -> bool:
        """Whether it is a method of `training.semi`, trained on joint batches."""
        return self.unlabelled not in UNLABELLED

    def check(self) -> "Method":
        """Return this method. Raises MethodError when its loss, or a method it is compared with, does not exist."""
        from ethand_utils.training.losses import LOSSES

        require_known(f"method {self.name}: loss", self.loss, LOSSES, MethodError)
        for name in self.compared_with:
            require_known(f"method {self.name}: compared_with", name, METHODS, MethodError)
        return self

    def phases(self, profile: Profile) -> tuple["PlannedPhase", ...]:
        """Return the phases of its training (section 3 of the report): pairs all the way, or two cycles.

        A method of `training.semi` has joint batches all the way, as large as those of pairs. Each cycle is `unpaired`,
        then `paired`; the profile's `cycles` are their epochs.
        """
        p, store = profile, UNLABELLED.get(self.unlabelled)
        paired = PlannedPhase("joint" if self.semi else "paired", "train", p.epochs, p.bs, p.lr)
        if store is None:
            return (paired,)
        unpaired = PlannedPhase("unpaired", store, p.epochs, p.bs_unpaired, p.lr_unpaired)
        return tuple(replace(phase, epochs=n) for phase, n in zip((unpaired, paired) * 2, p.cycles, strict=True))

    def class_weights(self, profile: Profile) -> str:
        """Return the name of its class weights: the profile's, or `none`, also where its loss takes none."""
        from ethand_utils.training.losses import LOSSES

        return profile.class_weights if self.weighted and LOSSES[self.loss].takes_weights else "none"

    def discriminator(self, profile: Profile) -> Adversary | None:
        """Return the D of its adversarial term, or None."""
        return adversary(self.adversary, profile)

    def net_options(self, profile: Profile) -> dict:
        """Return what `create_model` is given for its net."""
        p = profile
        if self.net == "baseline":
            return {"arch": "baseline", "encoder": None, "widths": p.baseline_widths, "pretrained": False}
        return {"arch": p.g2_arch, "encoder": p.g2_encoder, "widths": p.g2_widths, "pretrained": p.pretrained}

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that concern its training; another value of one of them makes its results stale."""
        groups = ["augment", "loss", "optimiser", "schedule", self.net]
        groups += ["semi"] if self.semi else ["unpaired"] if self.unlabelled != "none" else []
        groups += ["pseudo"] if self.unlabelled == "pseudo_labels" else []
        groups += ["adversary"] if self.adversary == "profile" else []
        unused = {*self.constants, *(() if self.weighted else ("class_weights",))}
        return tuple(key for key in concerning(*groups) if key not in unused)

    def semi_settings(self, profile: Profile) -> dict[str, float | None]:
        """Return the settings of a method of `training.semi`: its own constants, else the profile's; else None each."""
        values = {key: getattr(profile, key) if self.semi else None for key in SEMI_SETTINGS}
        return values | dict(self.constants)

    def facts(self, profile: Profile) -> dict:
        """Return what it is and the settings that its training uses, as `result.json` records them.

        Settings of pseudo-labels and of `training.semi` are None in a method without them, those of D are `none`
        without a D.
        """
        d, labelled = self.discriminator(profile), self.unlabelled == "pseudo_labels"
        return {
            "net": self.net,
            "loss": self.loss,
            "unlabelled": self.unlabelled,
            **{key: getattr(profile, key) if labelled else None for key in PSEUDO_LABEL_FACTS},
            "class_weights": self.class_weights(profile),
            "hands": profile.hands,
            "lr_schedule": profile.lr_schedule,
            "half_size_share": profile.half_size_share,
            "adversarial_input": d.adversarial_input if d else "none",
            "discriminator": d.discriminator if d else "none",
            **self.semi_settings(profile),
        }

    def training(self, seed: int) -> str:
        """Return the folder of its training with a seed, inside a run."""
        return f"g2/{self.name}/seed{seed}"

    def predictions(self, seed: int) -> str:
        """Return the folder of its predictions of the held-out store, inside a run."""
        return f"predictions/{self.name}_seed{seed}"


def _by_name(*methods: Method) -> dict[str, Method]:
    """Return methods by their names. Raises MethodError for a name that two have."""
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise MethodError(f"method {name}: two methods have this name; expected another name for one of them")
    return dict(zip(names, methods, strict=True))


def _peer(name: str, title: str, unlabelled: str = "", control: str = "", **constants: float) -> Method:
    """Return a method of `training.semi` (that of its name, or `unlabelled`), compared with those of the report.

    `control` is a peer that it is compared with as well, one without a loss on unlabelled images.
    """
    compared_with = (*PEER_REFERENCES, *([control] if control else []))
    unlabelled = unlabelled or name
    return Method(name, title, unlabelled=unlabelled, compared_with=compared_with, in_table=False, constants=constants)


# To add a row, add a line. The report's scores are those of its Table 1.
METHODS = _by_name(
    Method("baseline", "Baseline model", net="baseline", loss="ce", weighted=False, reported=0.49801, compared_with=()),
    Method("unetpp_ce", "U-Net++ w/ CE", loss="ce", weighted=False, reported=0.53739),
    Method("unetpp_weighted", "w/ weighted CE (1)", loss="ce", reported=0.53916, compared_with=("unetpp_ce",)),
    Method("unetpp_dice", "w/ (1), Dice (2)", reported=0.54449, compared_with=("unetpp_weighted",)),
    Method(
        "unetpp_generated",
        "w/ (1), (2), gen. labels (3)",
        unlabelled="pseudo_labels",
        reported=0.55771,
        compared_with=("unetpp_dice",),
    ),
    Method(
        "unetpp_released",
        "w/ (1), (2), (3), adv. (as released)",
        unlabelled="pseudo_labels",
        adversary="released",
        compared_with=("unetpp_generated",),
    ),
    Method(
        "unetpp_full",
        "w/ (1), (2), (3), adv.",
        unlabelled="pseudo_labels",
        adversary="profile",
        reported=0.55804,
        compared_with=("unetpp_generated", "unetpp_released", "baseline"),
    ),
    # On images that a CycleGAN has made of masks; trained where the settings ask for that CycleGAN.
    Method(
        "unetpp_images",
        "w/ (1), (2), G_YX's images",
        unlabelled="generated_images",
        compared_with=("unetpp_dice",),
        in_table=False,
    ),
    # The peers (notebook 13), with the constants of their sources where those differ from the settings' defaults.
    _peer("mean_teacher", "Mean Teacher", ema_decay=0.99, unlabelled_weight=100.0),
    _peer("fixmatch_off", "FixMatch, weight 0", "fixmatch", unlabelled_weight=0.0),
    _peer("fixmatch", "FixMatch", control="fixmatch_off"),
    _peer("fixmatch_low", "FixMatch, threshold 0.6", "fixmatch", "fixmatch_off", semi_threshold=0.6),
    _peer("fixmatch_whole", "FixMatch w/o CutMix", "fixmatch", "fixmatch_off", cutmix_p=0.0),
    _peer("fixmatch_dice", "FixMatch, Dice", control="fixmatch_off"),
    _peer("cps", "CPS, CutMix", cutmix_p=1.0),
    _peer("unimatch_v2", "UniMatch V2"),
)


def get_method(name: str, new_name: str = "", **changes) -> Method:
    """Return the method `name`, with `changes` to its fields under a `new_name` if there are any.

    Raises MethodError for an unknown method, field or choice, and for changes without a name of their own, which would
    take the place of the method's results. Raises RunError for a new name that is no folder's.
    """
    from ethand_utils.experiments.run import run_name

    new_name = run_name(new_name, "NAME") if new_name != "" else ""
    require_known("method", name, METHODS, MethodError)
    method = METHODS[name]
    for key in changes:
        require_known("field of a method", key, vars(method), MethodError)
    if changes and new_name in ("", *METHODS):
        raise MethodError(f"method {name}: changed in {', '.join(changes)}, expected a new name for it, not {name!r}")
    return replace(method, **{"name": new_name or name, **changes}).check()


def table_methods() -> list[Method]:
    """Return the rows of Table 1, in its order."""
    return [method for method in METHODS.values() if method.in_table]


def chosen_methods(profile: Profile) -> list[Method]:
    """Return the rows of Table 1 that a run trains: the settings' `methods`, in the table's order, or all of them.

    Raises MethodError for a name that is not in the table.
    """
    rows = table_methods()
    for name in profile.methods:
        require_known("method", name, [method.name for method in rows], MethodError)
    return [method for method in rows if method.name in profile.methods or not profile.methods]


def peer_methods(profile: Profile) -> list[Method]:
    """Return the methods of `training.semi` that a run trains: the settings' `peers`, in the order of METHODS.

    Raises MethodError for a name that is none.
    """
    methods = [method for method in METHODS.values() if method.semi]
    for name in profile.peers:
        require_known("peer", name, [method.name for method in methods], MethodError)
    return [method for method in methods if method.name in profile.peers]


def fraction_methods(profile: Profile) -> list[Method]:
    """Return the methods that a run trains on each of its label fractions.

    These are FRACTION_METHODS, and in a run with peers the full method, if it trains that, and the peers.
    """
    return [*(METHODS[name] for name in FRACTION_METHODS), *full_method_of_peers(profile), *peer_methods(profile)]


def full_method_of_peers(profile: Profile) -> list[Method]:
    """Return the full method, with which peers are compared, if the run has peers and trains it; else nothing."""
    return [method for method in chosen_methods(profile) if method.name == FULL_METHOD and profile.peers]


def trained_methods(profile: Profile) -> list[Method]:
    """Return all methods that a run trains: rows, those of the label fractions, on generated images, and peers."""
    names = [method.name for method in (*chosen_methods(profile), *peer_methods(profile))]
    names += FRACTION_METHODS if profile.label_fractions else ()
    names += [IMAGES_METHOD] if REFERENCE_VARIANT in profile.cyclegan else []
    return [METHODS[name] for name in dict.fromkeys(names)]


def main_method(profile: Profile) -> str:
    """Return the method whose errors a run looks at: the full one, or the last that it trains."""
    names = [method.name for method in chosen_methods(profile)]
    return FULL_METHOD if FULL_METHOD in names else names[-1]


def adversary(name: str, profile: Profile) -> Adversary | None:
    """Return the D of one of ADVERSARIES, None of `none`. Raises MethodError for another name."""
    require_known("adversary", name, ADVERSARIES, MethodError)
    if name == "none":
        return None
    inputs = profile.adversarial_input if name == "profile" else "argmax"
    folder = "d" if inputs == profile.adversarial_input else f"d_{inputs}"
    return Adversary(inputs, profile.discriminator if name == "profile" else "frozen", folder)


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
        """Return the samples of a batch, of a store of `count`."""
        return min(self.bs, count)

    def batches(self, count: int) -> int:
        """Return the batches of an epoch over a store of `count` samples; a rest smaller than a batch is dropped."""
        return count // self.batch(count)


def g1_phases(profile: Profile, epochs: int | None = None) -> tuple[PlannedPhase, ...]:
    """Return phase 1 of the report: G1 on the pairs, for `epochs` or else the profile's `g1_epochs`."""
    return (PlannedPhase("paired", "train", epochs or profile.g1_epochs, profile.bs, profile.lr),)


def d_phases(profile: Profile) -> tuple[PlannedPhase, ...]:
    """Return phase 1 of the report: D on G1's predictions of the pairs against their ground truth."""
    return (PlannedPhase("discriminator", "train", profile.d_epochs, profile.bs, profile.lr_d),)


def cyclegan_phases(profile: Profile) -> tuple[PlannedPhase, ...]:
    """Return section 4 of the report: pairs, and beside them in every batch as many unpaired images and labels."""
    half = max(1, profile.bs // 2)
    return (PlannedPhase("cycles", "train", profile.cyclegan_epochs, half, profile.lr, beside=half),)
