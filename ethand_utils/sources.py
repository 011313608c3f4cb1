"""Which of the package's source files a piece of code depends on."""

import ast
from pathlib import Path


def module_sources(*names: str) -> tuple[str, ...]:
    """Files of the package's modules by name, and of those they import in turn."""
    package, found, todo = Path(__file__).parent, set(), set(names)
    while todo:
        module = package / f"{todo.pop()}.py"
        if module not in found and module.exists():
            found.add(module)
            todo |= imported_modules(module.read_text())
    return tuple(sorted(map(str, found)))


def imported_modules(code: str) -> set[str]:
    """Names of the package's modules that a piece of Python imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ethand_utils":
            inside = node.module.split(".")[1:]
            names |= {inside[0]} if inside else {alias.name for alias in node.names}
    return names
