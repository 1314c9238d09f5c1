"""What torch does not promise to keep is used in one file."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "lyra_kernels"


def private_uses(text: str) -> list[str]:
    """Names such as torch._C or torch.autograd.x._y that a source has, and imports from such modules."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id == "torch":
                found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch._"):
            found.append(node.module)
    return found


def test_all_of_it_is_in_one_file():
    using = {path.name: names for path in PACKAGE.rglob("*.py") if (names := private_uses(path.read_text()))}
    assert list(using) == ["_torch.py"], using


def test_the_search_finds_them():
    assert private_uses("import torch\ntorch._C.f()\ntorch.autograd.forward_ad._current_level") == [
        "torch.autograd.forward_ad._current_level",
        "torch._C",
    ]
    assert private_uses("from torch._ops import OpOverload") == ["torch._ops"]
