"""What is to be done as soon as somebody imports a module that is too slow to import for those who do not use it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, function: Callable[[], None]) -> None:
    """Call a function once a module is there: now, or right after the module has run, before its importer goes on."""
    if sys.modules.get(name) is not None:
        importlib.import_module(name)  # waits for another thread that is at it
        function()
        return
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.waiting.setdefault(name, []).append(function)


class _Finder(MetaPathFinder):
    """Finds nothing itself: asks the others for the modules that are waited for."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callable[[], None]]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        others = (finder.find_spec for finder in tuple(sys.meta_path) if finder is not self)
        spec = next((spec for find in others if (spec := find(fullname, path, target)) is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Following(spec.loader, fullname)  # type: ignore[assignment]
        return spec


class _Following:
    """A module's own loader, which is back in its place when the module runs, and then what waits for the module.

    Around the loader, not set on it: there are loaders that take no attributes, and one may load several modules.
    """

    def __init__(self, loader: Any, name: str) -> None:
        self.loader, self.name = loader, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        for function in _FINDER.waiting.pop(self.name, ()):
            function()


_FINDER = _Finder()
