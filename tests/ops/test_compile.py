"""The dispatcher ops by themselves, and under torch.compile, torch.export and autocast."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch.export import Dim

import lyra_kernels as lk
from lyra_kernels.backends import reference
from lyra_kernels.ops import _autograd
from lyra_kernels.schemas import OPS, SCHEMAS

from . import cases


def layout_of(name: str) -> str:
    return "padded" if name in cases.WITH_LAYOUT else "dense"


def raw_calls(case: cases.Case, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple]]:
    """The dispatcher ops that a case and its backward run, with their arguments."""
    found: list[tuple[str, tuple]] = []
    call = _autograd._call

    def recording(name, backend, args, *plain):
        fresh = tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
        found.append((name, fresh))
        return call(name, backend, args, *plain)

    with monkeypatch.context() as patch:  # calls that a test makes of the ops found are not recorded in turn
        patch.setattr(_autograd, "_call", recording)
        outputs = case.leaves()()
        torch.autograd.backward(outputs, cases.weights_like(outputs))
    return found


@pytest.mark.parametrize("name, layout", cases.combos(cases.ESSENTIAL))
def test_opcheck(name, layout, monkeypatch):
    case = cases.make(name, layout, batch=2, length=70, channels=4)
    calls = raw_calls(case, monkeypatch)
    assert {n for n, _ in calls} >= {n + s for n, _ in calls if not n.endswith("_backward") for s in ("", "_backward")}
    for op, args in calls:
        utils = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(OPS[op], args, test_utils=utils)
        # Reading cu_seqlens ends a trace of the reference; of checkpoints of padding the kernel writes nothing.
        if layout == "packed" or (layout == "padded" and op.startswith(("s4d_scan", "s4d_block"))):
            continue
        if not op.endswith("_backward"):
            args = tuple(a.requires_grad_() if _is_float(a) else a for a in args)
            if op == "gelu_glu":
                args[3].requires_grad_(False)  # the mask, which has no gradient
        torch.library.opcheck(OPS[op], args, test_utils="test_aot_dispatch_dynamic", rtol=1e-4, atol=1e-4)


def _is_float(x: object) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


@pytest.mark.parametrize(
    ("op", "name"), [("s4d_kernel", "s4d_kernel"), ("fft_conv", "fft_conv"), ("s4d_scan", "s4d_conv-scan-state")]
)
def test_reference_kernels_where_the_dispatcher_has_keys_switched_off(op, name, monkeypatch):
    """torch.compile runs kernels with lazy conjugation switched off, which complex formulas need."""
    kernels = reference.operations()
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.Conjugate) | torch._C.DispatchKeySet(
        torch._C.DispatchKey.AutogradCPU
    )
    for op_name, args in raw_calls(cases.make(name, batch=2, length=9), monkeypatch):
        if op_name.removesuffix("_backward") != op:
            continue
        wanted = OPS[op_name](*args)
        included = torch._C._dispatch_tls_local_include_set()
        excluded = torch._C._dispatch_tls_local_exclude_set() | keys
        with torch._C._ForceDispatchKeyGuard(included, excluded):
            found = kernels[op_name](*args)
        with torch.inference_mode():
            inside = kernels[op_name](*(a.clone() if isinstance(a, torch.Tensor) else a for a in args))
        wanted, found, inside = ((x,) if isinstance(x, torch.Tensor) else x for x in (wanted, found, inside))
        for a, b, c in list(zip(found, wanted, inside, strict=True))[:2]:  # not the checkpoints
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(a, c)


def test_every_dispatcher_op_is_among_the_cases(monkeypatch):
    seen = set()
    for name in cases.ESSENTIAL:
        seen |= {op for op, _ in raw_calls(cases.make(name, batch=1, length=4, channels=2), monkeypatch)}
    assert seen == set(SCHEMAS)


def _compiled() -> list:
    essential = {(n, kind) for n in cases.ESSENTIAL for kind in ("dense", "padded")} | {("s4d_conv-auto", "packed")}
    return [c if c in essential else pytest.param(*c, marks=pytest.mark.full) for c in cases.combos()]


@pytest.mark.parametrize("name, layout", _compiled())
def test_compile_with_dynamic_length(name, layout):
    """One graph without breaks, compiled once, right for other lengths and under autograd."""
    torch._dynamo.reset()
    compiles = 0

    def backend(graph, inputs):
        nonlocal compiles
        compiles += 1
        return aot_eager(graph, inputs)

    function = None
    for length in (33, 50, 71):
        case = cases.make(name, layout, length=length)
        before = compiles
        if function is None:
            options = {k: v for k, v in case.options.items() if not isinstance(v, (torch.Tensor, int)) or k == "causal"}
            function = torch.compile(
                lambda tensors, given, op=case.function, options=options: op(**tensors, **given, **options),
                fullgraph=True,
                dynamic=True,
                backend=backend,
            )
            keys = [k for k in case.options if k not in options]
        given = {k: case.options[k] for k in keys}
        cotangents = cases.weights_like(case())
        wanted_outputs, wanted = cases.gradients(case, cotangents)
        leaves = case.leaves()
        outputs = function(leaves.tensors, given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.backward(outputs, cotangents)
        for a, b in zip(outputs, wanted_outputs, strict=True):
            torch.testing.assert_close(a, b)
        for key, leaf in leaves.tensors.items():
            cases.assert_close(leaf.grad, wanted[key], 1e-5, key)
        assert length == 33 or compiles == before, "another length needed another compilation"


def test_inductor():
    """The default compiler, once, through ops with every layout argument."""
    torch._dynamo.reset()
    case = cases.make("pgc", "padded", length=40, channels=8)
    scan = cases.make("s4d_conv-scan", length=40, channels=8)

    @torch.compile(fullgraph=True, dynamic=True)
    def block(u, lengths):
        z = u + lk.pgc(u, **{k: v for k, v in case.tensors.items() if k != "u"}, lengths=lengths) * 2
        state = {k: v for k, v in scan.tensors.items() if k != "u"}
        y = lk.s4d_conv(z.transpose(0, 1).contiguous().transpose(0, 1), **state, algorithm="scan", lengths=lengths)
        return torch.nn.functional.silu(y)

    for length in (40, 57):
        u = torch.randn(3, length, 8, requires_grad=True)
        lengths = torch.tensor([length, 5, 0])
        y = block(u, lengths)
        (found,) = torch.autograd.grad(y.sum(), u)
        plain = block._torchdynamo_orig_callable(u, lengths)
        (wanted,) = torch.autograd.grad(plain.sum(), u)
        torch.testing.assert_close(y, plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


class Module(torch.nn.Module):
    """A case as a module: what torch.export takes."""

    def __init__(self, case: cases.Case) -> None:
        super().__init__()
        self.case = case
        first, *self.names = case.tensors
        self.first = first
        for key in self.names:
            self.register_buffer(key, case.tensors[key])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = {self.first: x, **{k: getattr(self, k) for k in self.names}}
        out = self.case.function(**tensors, **self.case.options)
        return out[0] if isinstance(out, tuple) else out


OTHERS_HAVE_A_LENGTH = ("gelu_glu", "pgc-causal", "causal_conv", "fft_conv", "gated_fft_conv")
EXPORTED = [n for n in cases.NAMES if n not in ("s4d_kernel", *OTHERS_HAVE_A_LENGTH)]


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_dynamic_length(name):
    case = cases.make(name)
    module = Module(case)
    program = torch.export.export(module, (case.values[0],), dynamic_shapes=({1: Dim("length", min=2, max=10_000)},))
    assert any("lyra." in str(node.target) for node in program.graph.nodes)
    other = torch.randn(3, 61, *case.values[0].shape[2:])
    torch.testing.assert_close(program.module()(other), module(other))


@pytest.mark.parametrize("name", OTHERS_HAVE_A_LENGTH)
def test_export_of_ops_whose_other_arguments_have_a_length(name):
    case = cases.make(name)
    program = torch.export.export(Module(case), (case.values[0],))
    torch.testing.assert_close(program.module()(case.values[0]), case()[0])


def test_exported_program_is_saved_and_loaded(tmp_path):
    case = cases.make("s4d_conv-auto")
    torch.export.save(torch.export.export(Module(case), (case.values[0],)), tmp_path / "op.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "op.pt2").module()(case.values[0]), case()[0])


@pytest.mark.parametrize("name", cases.NAMES)
def test_meta_tensors(name):
    """Shapes without memory: how large models are built and measured."""
    case = cases.make(name)
    wanted = case()
    found = case.to("meta")()
    for a, b in zip(found, wanted, strict=True):
        assert a.device.type == "meta" and a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", cases.NAMES)
def test_autocast(name, dtype):
    """Ops that are mostly matrix products store in autocast's dtype, the others keep what they get."""
    case = cases.make(name, layout_of(name))
    wanted = case()
    with torch.autocast("cpu", dtype):
        case = case.leaves()
        outputs = case()
        loss = sum(o.float().square().sum() for o in outputs)
    loss.backward()
    lower = name.startswith(("pgc", "gelu_glu"))
    wider = "residual" in case.tensors  # in float32, which the sum keeps
    assert outputs[0].dtype == (dtype if lower and not wider else torch.float32)
    for a, b in zip(outputs, wanted, strict=True):
        cases.assert_close(a, b, 2e-2 if lower else 1e-6, "output")
    for key, leaf in case.tensors.items():
        assert leaf.grad.dtype == torch.float32 and leaf.grad.isfinite().all(), key


def test_autocast_leaves_float64_alone():
    case = cases.make("pgc", dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(case()[0], cases.Case.__call__(case)[0]) and case()[0].dtype == torch.float64


@pytest.mark.parametrize("name", ["pgc", "s4d_conv-auto"])
def test_autocast_inside_compile(name):
    torch._dynamo.reset()
    case = cases.make(name)
    function = torch.compile(case, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = function()[0], case()[0]
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted)
