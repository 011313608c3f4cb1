"""The package's rooms: which may import which, what each offers, and what importing one costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ethand_utils
from ethand_utils.dependencies import imported_modules, module_files

PACKAGE = Path(ethand_utils.__file__).parent
GROUND = ("exceptions", "failures", "files", "labels", "locks", "outputs", "style", "dependencies", "wheels")
# What each room may import beside the ground and itself (docs of each room's `__init__`).
MAY_IMPORT = {
    "hands": set(),
    "data": set(),
    "rendering": {"hands"},
    "sources": {"hands", "rendering", "data"},
    "training": {"data"},
    "experiments": {"hands", "rendering", "data", "sources", "training"},
    "analysis": {"hands", "rendering", "data", "sources", "training", "experiments"},
    "app": {"hands", "rendering", "data", "sources", "training", "experiments", "analysis"},
}
ROOMS = [*MAY_IMPORT, "training.cyclegan"]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_before_it(room):
    for file in (PACKAGE / room).rglob("*.py"):
        for module in imported_modules(file.read_text()):
            first = module.split(".")[0]
            assert first in {room, *MAY_IMPORT[room], *GROUND, "__version__"}, f"{file}: imports {module}"


@pytest.mark.parametrize("module", GROUND)
def test_the_ground_imports_no_room(module):
    assert {name.split(".")[0] for name in imported_modules((PACKAGE / f"{module}.py").read_text())} <= set(GROUND)


def test_every_module_has_a_room():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *GROUND}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_that_a_room_offers_is_there(room):
    module = importlib.import_module(f"ethand_utils.{room}")
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name).__class__.__name__ != "module", f"{room}.{name} is the name of a module too"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_may_import(room):
    tree = ast.parse((PACKAGE / room.replace(".", "/") / "__init__.py").read_text())
    assert "May import" in ast.get_docstring(tree)


def test_rooms_and_the_help_text_import_no_torch():
    rooms = ", ".join(f"ethand_utils.{room}" for room in [*ROOMS, "app.cli"])
    code = f"import sys, {rooms}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


HEAVY = ("torch", "torchvision", "timm", "fastai", "numba", "scipy.stats")
# What notebooks without training use of the rooms; kernels of the stages that run them load nothing else.
LIGHT = {
    "tables": "analysis.results, analysis.ablation_steps, analysis.metrics_table, analysis.cycle_table",
    "figures": "analysis.bars, analysis.histograms, analysis.score_table, analysis.contact_sheet, analysis.five_panels",
    "errors": "analysis.worst_parts, analysis.error_shares, analysis.hand_confusion, app.ErrorBrowser",
    "runs": "experiments.open_run, experiments.save_result, data.describe, data.held_out, sources.read_frames",
    "report": "app.write_index",
}


@pytest.mark.parametrize("names", LIGHT.values(), ids=LIGHT)
def test_what_reads_shows_and_compares_loads_nothing_that_trains(names):
    code = f"""
import sys
from ethand_utils import analysis, app, data, experiments, sources
{names}
print(*[name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_a_stage_loads_no_grammar_of_iris_with_papermill():
    code = """
import sys
from pathlib import Path
from ethand_utils.experiments import workflow
try:
    workflow.execute_notebook("no_such_notebook", Path("."), "no_such_notebook", {})
except FileNotFoundError:
    sys.exit("papermill" not in sys.modules or "lark" in sys.modules or "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_code_depends_on_the_module_that_defines_what_it_takes_from_a_room():
    assert imported_modules("from ethand_utils.hands import load_rig") == {"hands.rigs"}
    assert imported_modules("from ethand_utils.hands.rigs import load_rig") == {"hands.rigs"}
    assert imported_modules("from ethand_utils.hands import raycast") == {"hands.raycast"}
    by_room = "from ethand_utils import hands\nhands.load_rig()"
    assert imported_modules(by_room) == {"hands", "hands.rigs"}
    inner = "from ethand_utils.training import cyclegan\ncyclegan.Cycles()"
    assert imported_modules(inner) == {"training.cyclegan", "training.cyclegan.scores"}
    files = {Path(file).name for file in module_files("rendering.subjects")}
    assert {"subjects.py", "rig.py"} <= files
    assert "render.py" not in files
