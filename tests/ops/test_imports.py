"""What is registered with slow modules costs nothing until somebody imports them, and is there then."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def test_a_module_that_fails_is_waited_for_again(tmp_path, monkeypatch):
    from lyra_kernels._imports import when_imported

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
