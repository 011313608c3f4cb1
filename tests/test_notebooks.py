"""The form of the notebooks: short cells, prose between them, imports from the rooms, nothing executed."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MAX_LINES = 20  # of a cell
MAX_CODE_CELLS, MAX_PARAMETERS = 25, 10


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text())["cells"]


def code_of(cells):
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_cells_are_short_and_define_next_to_nothing(cells):
    code = code_of(cells)
    assert len(code) <= MAX_CODE_CELLS
    assert max(len(source.splitlines()) for source in code) <= MAX_LINES
    nodes = [node for source in code for node in ast.walk(ast.parse(source))]
    assert not any(isinstance(node, ast.ClassDef) for node in nodes)
    assert sum(isinstance(node, ast.FunctionDef) for node in nodes) <= 1


def test_prose_stands_between_code(cells):
    kinds = [cell["cell_type"] for cell in cells]
    assert (kinds[0], kinds[-1]) == ("markdown", "markdown")
    assert "code code code" not in " ".join(kinds)


def test_there_is_one_cell_of_parameters_literals_with_a_comment_each(cells):
    (parameters,) = (cell for cell in cells[:4] if cell["metadata"].get("tags") == ["parameters"])
    source = "".join(parameters["source"])
    assignments = ast.parse(source).body
    assert len(assignments) <= MAX_PARAMETERS
    for assignment in assignments:
        assert assignment.targets[0].id.isupper()
        ast.literal_eval(assignment.value)
        assert "  # " in source.splitlines()[assignment.lineno - 1]


def test_names_come_from_the_rooms_not_from_modules_inside_them(cells):
    package = Path(__file__).parents[1]
    for node in ast.walk(ast.parse("\n".join(code_of(cells)))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ethand_utils."):
            path = package.joinpath(*node.module.split("."))
            assert path.is_dir() or path.parent.name == "ethand_utils", node.module


def test_nothing_is_stored_but_the_source(cells):
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
