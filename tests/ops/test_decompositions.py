"""Every op in plain real arithmetic: the same numbers as the reference, and exports that other runtimes take."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import lyra_kernels as lk
from lyra import Lyra, LyraForTokenClassification
from lyra_kernels.schemas import OPS, OPS_ON
from tests.ops import cases
from tests.ops.test_compile import Module

CASES = [(name, layout) for name, layout in cases.combos() if layout != "packed"]


def decomposed(
    module: torch.nn.Module, x: torch.Tensor, name: str = "x", **options: torch.Tensor
) -> torch.export.ExportedProgram:
    shapes = {name: {1: Dim.AUTO}, **dict.fromkeys(options)}
    program = torch.export.export(module, (x,), options, dynamic_shapes=shapes)
    return program.run_decompositions(lk.decompositions())


def targets(program: torch.export.ExportedProgram) -> str:
    return " ".join(str(node.target) for node in program.graph.nodes)


def test_every_forward_has_one():
    forwards = {op for ops in (OPS, OPS_ON) for name, op in ops.items() if not name.endswith("_backward")}
    assert set(lk.decompositions()) == forwards | {torch.ops.aten.expm1.default}


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


@pytest.mark.parametrize("algorithm", ["fft", pytest.param("direct", marks=pytest.mark.full)])
def test_no_convolution_is_as_long_as_an_unknown_length(algorithm):
    """Inductor takes a number of taps for a constant: with the length as such it computes one length alone."""
    layer = lk.S4D(3, d_state=4, transposed=False, algorithm=algorithm, bidirectional=True).eval()
    program = decomposed(layer, torch.randn(2, 40, 3), name="u")
    for node in program.graph.nodes:
        if "conv" in str(node.target):
            assert type(node.args[1].meta["val"].shape[-1]) is int
    for length in (2, 64, 100):
        u = torch.randn(2, length, 3)
        torch.testing.assert_close(program.module()(u), layer(u), atol=1e-5, rtol=1e-4)


def test_packed_batches_are_refused():
    case = cases.make("pgc", "packed")
    program = torch.export.export(Module(case), (case.values[0],))
    with pytest.raises(ValueError, match="packed batches"):
        program.run_decompositions(lk.decompositions())


class Padded(torch.nn.Module):
    """A padded batch as positional arguments, which is what an exported program's runtimes have."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.module(x, lengths=lengths)


def assert_onnx(folder, module, args, others=(), optimize=True, atol=1e-5) -> None:
    """What onnxruntime says, optimizing little and much, is what the module says."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module = module.eval()
    shapes = ({0: Dim.AUTO, 1: Dim.AUTO}, *({0: Dim.AUTO} for _ in args[1:]))
    program = torch.export.export(module, args, dynamic_shapes=shapes).run_decompositions(lk.decompositions())
    torch.onnx.export(program, dynamo=True, verbose=False, optimize=optimize).save(folder / "model.onnx")
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        options = runtime.SessionOptions()
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
        session = runtime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        for inputs in (args, *others):
            names = (put.name for put in session.get_inputs())
            (found,) = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
            with torch.no_grad():
                torch.testing.assert_close(torch.from_numpy(found), module(*inputs), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("pool", ["mean", *(pytest.param(how, marks=pytest.mark.full) for how in ("max", "first"))])
def test_onnx_of_padded_batches(tmp_path, pool):
    """A sequence of length 0 is a row of zeros, which only eps keeps from NaN."""
    model = Padded(Lyra(d_input=20, d_model=8, num_pgc_layers=1, num_s4_layers=1, pool=pool))
    batches = [
        (torch.randint(20, (len(lengths), max(lengths))), torch.tensor(lengths))
        for lengths in ([3, 40, 0], [1], [130, 0, 64, 65])
    ]
    assert_onnx(tmp_path, model, batches[0], batches[1:])


@pytest.mark.parametrize("eps", [1e-8, *(pytest.param(eps, marks=pytest.mark.full) for eps in (1e-12, 1e-5))])
@pytest.mark.parametrize("optimize", [False, True])
def test_onnx_keeps_eps(tmp_path, eps, optimize):
    rows = [torch.full((2, 3, 8), value) for value in (1e-4, 1e-6, 0.0)]
    assert_onnx(tmp_path, lk.RMSNorm(8, eps), (rows[0],), [(row,) for row in rows[1:]], optimize, atol=0.0)


@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.full)])
def test_onnx_of_tiny_activations(tmp_path, causal):
    """Without biases, beside which eps would be nothing."""
    u = torch.randn(2, 10, 4)
    layer = lk.PGC(4, causal=causal)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    assert_onnx(tmp_path, layer, (1e-3 * u,), [(1e-4 * u,), (0.0 * u,), (1e-4 * u[:, :1],)], atol=0.0)


def test_onnx_of_slow_modes(tmp_path):
    """Whose exp(dt A) is nearly 1: ONNX has no expm1."""
    layer = lk.S4D(4, d_state=4, transposed=False, algorithm="scan", dt_min=1e-6, dt_max=1e-6)

    class Convolution(torch.nn.Module):
        def forward(self, u: torch.Tensor) -> torch.Tensor:
            k = layer.kernel
            return 1e6 * lk.s4d_conv(u, k.log_dt, k.log_A_real, k.A_imag, k.C, None, algorithm="scan")

    assert_onnx(tmp_path, Convolution(), (torch.rand(2, 5, 4),), atol=1e-5)
