"""What is to be done as soon as somebody imports a module that is too slow to import for those who do not use it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, function: Callable[[], None]) -> None:
    """Call a function once a module is there: now, or right after the module has run, before its importer goes on."""
    if name in sys.modules:
        function()
        return
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.waiting[name] = function


class _Finder(MetaPathFinder):
    """Finds nothing itself: asks the others for the modules that are waited for."""

    def __init__(self) -> None:
        self.waiting: dict[str, Callable[[], None]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader, fullname)
        return spec

    def _follow(self, loader: Any, name: str) -> None:
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            function = self.waiting.pop(name, None) if module.__name__ == name else None
            if function is not None:
                function()

        loader.exec_module = exec_module  # of this one module's loader


_FINDER = _Finder()
