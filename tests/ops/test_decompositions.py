"""Every op in plain real arithmetic: the same numbers as the reference, and exports that other runtimes take."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import lyra_kernels as lk
from lyra import Lyra, LyraForTokenClassification
from lyra_kernels.schemas import OPS
from tests.ops import cases
from tests.ops.test_compile import Module

CASES = [(name, layout) for name, layout in cases.combos() if layout != "packed"]


def decomposed(module: torch.nn.Module, x: torch.Tensor, **options: torch.Tensor) -> torch.export.ExportedProgram:
    shapes = {"x": {1: Dim.AUTO}, **dict.fromkeys(options)}
    program = torch.export.export(module, (x,), options, dynamic_shapes=shapes)
    return program.run_decompositions(lk.decompositions())


def targets(program: torch.export.ExportedProgram) -> str:
    return " ".join(str(node.target) for node in program.graph.nodes)


def test_every_forward_has_one():
    forwards = {op for name, op in OPS.items() if not name.endswith("_backward")}
    assert set(lk.decompositions()) == forwards


@pytest.mark.parametrize("length", [1, 63, 64, 200])
@pytest.mark.parametrize("name, layout", CASES, ids=str)
def test_values(name, layout, length):
    """Called as the ops themselves are, in float64."""
    table = {op.name(): function for op, function in lk.decompositions().items()}
    case = cases.make(name, layout, torch.float64, length=length)
    with lk.use_backend("reference"):
        wanted = case()

    class Decomposed(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            function = table.get(func.name())
            assert function is not None or not func.name().startswith("lyra::")
            return (function or func)(*args, **(kwargs or {}))

    with Decomposed(), torch.no_grad():
        found = case()
    for i, (mine, other) in enumerate(zip(found, wanted, strict=True)):
        assert mine.dtype == other.dtype
        cases.assert_close(mine, other, 1e-11, f"output {i}")


def test_a_model_keeps_its_dynamic_length():
    model = LyraForTokenClassification(d_input=4, d_model=8, d_output=3, num_s4_layers=1).eval()
    program = decomposed(model, torch.randn(3, 40, 4), lengths=torch.tensor([40, 0, 7]))
    assert "lyra" not in targets(program)
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert not any(v.is_complex() for v in values if isinstance(v, torch.Tensor))
    for length in (2, 64, 65, 300):
        x, lengths = torch.randn(3, length, 4), torch.tensor([length, 1, 0])
        found, wanted = program.module()(x, lengths=lengths), model(x, lengths=lengths)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_packed_batches_are_refused():
    case = cases.make("pgc", "packed")
    program = torch.export.export(Module(case), (case.values[0],))
    with pytest.raises(ValueError, match="packed batches"):
        program.run_decompositions(lk.decompositions())


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = Lyra(d_input=20, d_model=16, d_output=1, num_s4_layers=1).eval()
    program = decomposed(model, torch.randint(20, (2, 30)))
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for length in (5, 64, 100):
        x = torch.randint(20, (2, length))
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(x), atol=1e-5, rtol=1e-4)
