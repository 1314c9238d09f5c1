"""What is registered with slow modules costs nothing until somebody imports them, and is there then."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import subprocess
import sys
import threading
import time
import types

import pytest

from lyra_kernels import _imports
from lyra_kernels._imports import when_imported

CHECK = """
import sys
import lyra_kernels
from lyra_kernels.schemas import OPS
assert not {"torch.distributed.tensor", "torch.utils.flop_counter"} & set(sys.modules)
import torch.distributed.tensor
import torch.utils.flop_counter as counter
assert counter.__spec__.loader.get_source(counter.__name__)
strategies = torch.distributed.tensor.DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs
assert set(OPS.values()) <= set(strategies)
assert {getattr(torch.ops.lyra, name) for name in OPS} <= set(counter.flop_registry)
"""


def test_what_comes_later_is_told_of_every_op():
    run = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr, run.stderr


def test_loaders_of_every_kind(tmp_path, monkeypatch):
    """Those that take no attributes, as of Nuitka's programs, and those that have no exec_module."""
    calls, names = [], ("lyra_fixed", "lyra_legacy")

    class Fixed:
        __slots__ = ()

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            calls.append("run")

    class Legacy:
        def load_module(self, name):
            return sys.modules.setdefault(name, types.ModuleType(name))

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            kind = dict(zip(names, (Fixed, Legacy), strict=True)).get(name)
            return kind and importlib.machinery.ModuleSpec(name, kind())

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    for name in names:
        for number in (1, 2):
            when_imported(name, functools.partial(calls.append, number))
        module = importlib.import_module(name)
        assert type(module.__spec__.loader) in (Fixed, Legacy)
        del sys.modules[name]
    assert calls == ["run", 1, 2]
    del _imports._FINDER.waiting["lyra_legacy"]


def test_a_module_that_another_thread_is_importing(tmp_path, monkeypatch):
    (tmp_path / "lyra_half.py").write_text("import threading\nevent = threading.Event()\nevent.wait(10)\nVALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importer = threading.Thread(target=importlib.import_module, args=("lyra_half",))
    importer.start()
    while not hasattr(sys.modules.get("lyra_half"), "event"):
        time.sleep(0.001)
    half, calls = sys.modules["lyra_half"], []
    threading.Timer(0.05, half.event.set).start()
    when_imported("lyra_half", lambda: calls.append(half.VALUE))
    importer.join()
    assert calls == [1]
    del sys.modules["lyra_half"]


def test_a_module_that_fails_is_waited_for_again(tmp_path, monkeypatch):
    source = tmp_path / "lyra_slow_module.py"
    monkeypatch.syspath_prepend(tmp_path)
    calls = []
    when_imported("lyra_slow_module", lambda: calls.append(sys.modules["lyra_slow_module"].VALUE))
    source.write_text("raise RuntimeError")
    with pytest.raises(RuntimeError):
        import lyra_slow_module  # type: ignore[import-not-found]
    source.write_text("VALUE = 3  # another size of file, so that no compiled one is taken")
    import lyra_slow_module

    assert calls == [lyra_slow_module.VALUE]
    when_imported("lyra_slow_module", lambda: calls.append(4))
    assert calls == [3, 4]
    del sys.modules["lyra_slow_module"]
