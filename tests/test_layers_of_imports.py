"""Imports run downwards only: what a module needs stands below it, so that each layer can be read without those above.

Every import counts, those inside of functions and those for types alone as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From bottom to top, the modules and packages in each; those of one row know nothing of each other. The package's own
# __init__.py is above them all.
LAYERS = {
    "lyra_kernels": (
        ("version", "_torch", "_imports"),
        ("layout",),
        ("schemas", "reference"),
        ("backends",),
        ("ops", "decompositions", "environment", "graphs"),
        ("layers", "choice"),
        ("compat",),
    ),
    "lyra": (
        ("errors", "version", "alphabets", "metrics", "baselines"),
        ("files", "settings", "scores", "transforms", "datasets", "packages"),
        ("outputs", "uncertainty", "html", "plots"),
        ("models",),
        ("data",),
        ("model_folder", "graphs"),
        ("prediction", "scoring"),
        ("prediction_columns",),
        ("references", "member_scores"),
        ("prediction_files", "training", "explain", "design", "genomes"),
        ("variants", "estimators"),
        ("cli",),
    ),
}


def modules(package: str) -> dict[str, Path]:
    """Dotted names and files of a package's modules, its packages by the name of their folder."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, module) of each import of one of the modules that are `known`."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import x` names a module, or something that the package itself has
            names = [inner if (inner := f"{base}.{alias.name}") in known else base for alias in node.names]
        yield from ((node.lineno, module) for module in names if module in known)


def layer(name: str, package: str) -> tuple[int, str]:
    """The row of a module, and what it is part of there; the package's __init__ is above all rows."""
    if name == package:
        return len(LAYERS[package]), name
    part = name.split(".")[1]
    rows = [row for row, parts in enumerate(LAYERS[package]) if part in parts]
    assert len(rows) == 1, f"{name} must be in one row of LAYERS"
    return rows[0], part


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_downwards(package):
    known = modules(package)
    upwards = []
    for name, path in known.items():
        row, part = layer(name, package)
        for line, other in imported(name, path, known):
            other_row, other_part = layer(other, package)
            if other_part != part and other_row >= row:
                upwards.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert upwards == []


@pytest.mark.parametrize("package", LAYERS)
def test_inside_of_a_part_no_two_modules_need_each_other(package):
    known = modules(package)
    needs = {name: {other for _, other in imported(name, path, known)} - {name} for name, path in known.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")
