"""Dependencies of a piece of code on the package's source files."""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def module_files(*names: str, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the files of the package's modules by dotted name below the package, and of all that they import in turn.

    Names are of modules (`rendering.render`); a room alone (`rendering`) adds no file. Modules in `without` are left
    out, and so are those that only they import.
    """
    files, pending = set(), set(names)
    while pending:
        module = pending.pop()
        file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
        if file not in files and file.exists() and module not in without:
            files.add(file)
            pending |= _imports(file)
    return tuple(sorted(map(str, files)))


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return what `imported_modules` finds in a file."""
    return frozenset(imported_modules(file.read_text()))


def imported_modules(code: str) -> set[str]:
    """Return the dotted names, below the package, of the modules that a piece of Python imports.

    A name that a room offers counts as the module that defines it, so that code depends on what it uses and not on a
    whole room: both `from ethand_utils.hands import load_rig` and `hands.load_rig` after `from ethand_utils import
    hands`. A string that is a module's full name counts as an import: registries name modules in this way, to import
    them when they are used.
    """
    modules, rooms, nodes = set(), {}, list(ast.walk(ast.parse(code)))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            inside = node.module.split(".")[1:]
            modules |= {_defining_module(inside, alias.name) for alias in node.names}
            rooms |= {alias.asname or alias.name: [*inside, alias.name] for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(rf"{PACKAGE.name}(\.\w+)+", str(node.value)):
            modules.add(node.value.partition(".")[2])
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            inside = rooms.get(node.value.id, [])
            if inside and PACKAGE.joinpath(*inside).is_dir():
                modules.add(_defining_module(inside, node.attr))
    return modules


def _defining_module(inside: list[str], name: str) -> str:
    """Return the module that `from ethand_utils.<inside> import <name>` reads."""
    folder = PACKAGE.joinpath(*inside)
    if not folder.is_dir():
        return ".".join(inside)
    return ".".join([*inside, _offered(folder).get(name, name)])


@cache
def _offered(room: Path) -> dict[str, str]:
    """Return the module of each name in the lazy table of a room's `__init__`."""
    for node in ast.walk(ast.parse((room / "__init__.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            return {name: module for module, names in ast.literal_eval(node.value).items() for name in names}
    return {}
