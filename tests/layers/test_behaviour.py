"""What the layers do: every layout, both directions, streaming, dropout, and life as a module of PyTorch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim
from torch.func import functional_call, grad, vmap

import lyra_kernels as lk

SPECTRUM = ("log_dt", "log_A_real", "A_imag")


def layers() -> dict[str, torch.nn.Module]:
    """One of each kind, all of them (B, L, 8) to the same."""
    return {
        "rms_norm": lk.RMSNorm(8),
        "pgc": lk.PGC(8, 1.5, kernel_size=5, dropout=0.2),
        "pgc-causal": lk.PGC(8, kernel_size=4, causal=True),
        "s4d": lk.S4D(8, d_state=6, dropout=0.2, transposed=False, lr=0.001),
        "s4d-bidirectional": lk.S4D(8, d_state=6, transposed=False, bidirectional=True),
        "s4d-frozen": lk.S4D(8, d_state=6, transposed=False, lr=0.0),
    }


NAMES = tuple(layers())


def make(name: str) -> torch.nn.Module:
    layer = layers()[name]
    for parameter in layer.parameters():  # so that ones and zeros hide nothing
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer.eval()


# ---- as functions ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bidirectional", [False, True])
def test_s4d_written_out(bidirectional):
    layer = lk.S4D(4, d_state=6, bidirectional=bidirectional).double()
    u = torch.randn(2, 4, 11, dtype=torch.float64)
    kernels = layer.kernel(11) if bidirectional else [layer.kernel(11)]
    y = layer.D[:, None] * u
    for t in range(11):
        for s in range(11):
            if s <= t:
                y[..., t] = y[..., t] + kernels[0][:, t - s] * u[..., s]
            elif bidirectional:
                y[..., t] = y[..., t] + kernels[1][:, s - t - 1] * u[..., s]
    torch.testing.assert_close(layer(u), layer.output_linear(F.gelu(y)))


@pytest.mark.parametrize("causal", [False, True])
def test_pgc_written_out(causal):
    layer = make("pgc-causal" if causal else "pgc").double()
    u = torch.randn(2, 9, 8, dtype=torch.float64)
    x, v = layer.in_norm(layer.in_proj(u)).chunk(2, -1)
    z = v * layer.conv(x.transpose(1, 2))[..., :9].transpose(1, 2)
    torch.testing.assert_close(layer(u), layer.out_norm(layer.out_proj(z)))


@pytest.mark.parametrize("name", ["pgc-causal", "s4d"])
def test_causal_layers_do_not_see_the_future(name):
    layer, u = make(name), torch.randn(1, 40, 8)
    before = layer(u)[:, :25]
    u[:, 25:] = torch.nan
    assert torch.equal(layer(u)[:, :25], before)


@pytest.mark.parametrize("name", ["pgc", "s4d-bidirectional"])
def test_the_others_do(name):
    layer, u = make(name), torch.randn(1, 40, 8)
    before = layer(u)[:, :25]
    u[:, 25:] = 0.0
    assert not torch.equal(layer(u)[:, :25], before)


def test_transposed():
    layer = lk.S4D(8, d_state=6)
    u = torch.randn(2, 8, 30)
    flat = lk.S4D(8, d_state=6, transposed=False)
    flat.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(u), flat(u.transpose(1, 2)).transpose(1, 2))
    y, state = layer(u, return_final_state=True, residual=u)
    torch.testing.assert_close(y, layer(u) + u)
    assert state.shape == (2, 8, 3, 2)


@pytest.mark.parametrize("training", [False, True])
def test_residual_of_pgc(training):
    """Added after dropout, and nothing at padded positions."""
    layer, u, lengths = make("pgc").train(training), torch.randn(2, 30, 8), torch.tensor([30, 7])
    torch.manual_seed(5)
    found = layer(u, lengths=lengths, residual=u)
    torch.manual_seed(5)
    wanted = layer(u, lengths=lengths) + u
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1, :7], wanted[1, :7])
    assert not found[1, 7:].any()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "rms_norm"])
def test_padded_and_packed_batches(name, backend_once, device):
    """Each sequence gives what it gives alone, gradients of the parameters included."""
    layer = make(name).to(device)
    lengths = [13, 0, 20, 1]
    sequences = [torch.randn(1, n, 8, device=device) for n in lengths]
    alone = [layer(s) for s in sequences]
    padded = torch.full((4, 20, 8), torch.nan, device=device)
    for i, s in enumerate(sequences):
        padded[i, : lengths[i]] = s[0]
    y = layer(padded, lengths=torch.tensor(lengths, device=device))
    cu_seqlens = torch.tensor([0, *lengths], device=device).cumsum(0)
    packed = layer(torch.cat(sequences, 1), cu_seqlens=cu_seqlens)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(y[i : i + 1, :n], alone[i])
        assert not y[i, n:].any()
    torch.testing.assert_close(packed, torch.cat(alone, 1))

    parameters = list(layer.parameters())
    wanted = torch.autograd.grad(torch.cat(alone, 1).sin().sum(), parameters)
    for result in (y, packed):
        for a, b in zip(torch.autograd.grad(result.sin().sum(), parameters), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# ---- streaming ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transposed", [False, True])
def test_steps_are_the_forward(transposed):
    layer = lk.S4D(8, d_state=6, transposed=transposed)
    u = torch.randn(3, 70, 8)
    whole, last = layer(u.transpose(1, 2) if transposed else u, return_final_state=True)
    state = layer.initial_state(3)
    outputs = []
    for t in range(70):
        y, state = layer.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, -1 if transposed else 1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["s4d", "pgc-causal"])
def test_pieces_are_the_forward(name):
    layer, u = make(name), torch.randn(2, 150, 8)
    state, outputs = None, []
    for piece in u.split([64, 1, 80, 0, 5], dim=1):
        y, state = layer(piece, initial_state=state, return_final_state=True)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), layer(u), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_steps_of_pgc(width):
    layer, u = lk.PGC(8, 1.5, kernel_size=width, causal=True), torch.randn(3, 20, 8)
    state, outputs = layer.initial_state(3), []
    for token in u.unbind(1):
        y, state = layer.step(token, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(u), rtol=1e-4, atol=1e-5)
    x = layer.in_norm(layer.in_proj(u)).chunk(2, -1)[0]
    torch.testing.assert_close(state, x[:, 21 - width :])


@pytest.mark.parametrize("name", ["s4d", "pgc-causal"])
def test_states_of_padded_and_packed_batches(name):
    """Each sequence's state is the one after its own last token."""
    layer, lengths = make(name), [5, 0, 9, 1]
    sequences = [torch.randn(1, n, 8) for n in lengths]
    start = torch.randn(4, *layer.initial_state(1).shape[1:])
    alone = [layer(s, initial_state=start[i : i + 1], return_final_state=True) for i, s in enumerate(sequences)]
    padded = torch.full((4, 9, 8), torch.nan)
    for i, s in enumerate(sequences):
        padded[i, : lengths[i]] = s[0]
    y, state = layer(padded, lengths=torch.tensor(lengths), initial_state=start, return_final_state=True)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    packed, after = layer(torch.cat(sequences, 1), cu_seqlens=cu_seqlens, initial_state=start, return_final_state=True)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(y[i : i + 1, :n], alone[i][0], rtol=1e-4, atol=1e-5)
        assert not y[i, n:].any()
    torch.testing.assert_close(packed, torch.cat([a for a, _ in alone], 1), rtol=1e-4, atol=1e-5)
    for found in (state, after):
        torch.testing.assert_close(found, torch.cat([s for _, s in alone]), rtol=1e-4, atol=1e-5)


def test_a_state_of_pgc_keeps_no_other_tokens():
    _, state = make("pgc-causal")(torch.randn(2, 500, 8), return_final_state=True)
    assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_states_that_pgc_refuses():
    with pytest.raises(ValueError, match="a PGC that is not causal has no state"):
        make("pgc").initial_state(2)
    layer, u = make("pgc-causal"), torch.randn(2, 5, 8)
    form = r"^initial_state must have shape \(S, kernel_size - 1, E\) = \(2, 3, 8\) to match u, not \(3, 3, 8\)$"
    with pytest.raises(ValueError, match=form):
        layer(u, initial_state=layer.initial_state(3))
    with pytest.raises(ValueError, match=r"^initial_state is on meta but u is on cpu"):
        layer(u, initial_state=layer.initial_state(2).to("meta"))
    with pytest.raises(TypeError, match=r"^u must be float32, float64, float16 or bfloat16, not torch.int64"):
        layer(u.long(), return_final_state=True)
    with pytest.raises(ValueError, match=r"u must be \(B, 8\), got \(2, 5, 8\)"):
        layer.step(u, layer.initial_state(2))


def test_initial_state_has_the_compute_dtype():
    assert lk.S4D(4).initial_state(2).dtype == torch.float32
    assert lk.S4D(4).double().initial_state(2).dtype == torch.float64
    assert lk.S4D(4).bfloat16().initial_state(2).dtype == torch.float32


# ---- dropout -----------------------------------------------------------------------------------------------------
def test_dropout_of_s4d_takes_channels_of_a_sequence():
    layer = lk.S4D(64, dropout=0.5, transposed=False).train()
    u = torch.randn(1, 30, 64).expand(8, 30, 64)
    y = layer(u)
    assert not torch.equal(y[0], y[1])
    layer.output_linear[0].weight.data.zero_()
    layer.output_linear[0].weight.data[:64] = torch.eye(64).unsqueeze(-1)
    layer.output_linear[0].bias.data[:64].zero_()
    dropped = layer(u) == 0
    assert (dropped.all(1) | ~dropped.any(1)).all()
    assert 0.3 < dropped[:, 0].float().mean() < 0.7


def test_dropout_keeps_the_mean_and_repeats_with_the_seed():
    layer = lk.PGC(8, dropout=0.3).train()
    u = torch.randn(2, 5, 8)
    torch.manual_seed(1)
    first = layer(u)
    torch.manual_seed(1)
    assert torch.equal(layer(u), first)
    mean = torch.stack([layer(u) for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, layer.eval()(u), rtol=0.3, atol=0.3)


# ---- as modules --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies(name, duplicate):
    layer, u = make(name), torch.randn(2, 9, 8)
    twin = duplicate(layer)
    assert torch.equal(twin(u), layer(u))
    twin(u).sum().backward()
    assert all(p.grad is None for p in layer.parameters())
    for key, parameter in layer.named_parameters():
        assert getattr(dict(twin.named_parameters())[key], "_optim", None) == getattr(parameter, "_optim", None)


def test_marks_survive_moves_and_loading():
    layer = lk.S4D(4, lr=0.01)
    wanted = {"weight_decay": 0.0, "lr": 0.01}
    layer.double().to("cpu")
    assert all(getattr(layer.kernel, n)._optim == wanted for n in SPECTRUM)
    layer.load_state_dict(lk.S4D(4).double().state_dict(), assign=True)
    assert all(getattr(layer.kernel, n)._optim == wanted for n in SPECTRUM)
    layer.to("meta").to_empty(device="cpu")
    assert all(getattr(layer.kernel, n)._optim == wanted for n in SPECTRUM)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_and_half_precision_modules(name, dtype):
    layer, u = make(name), torch.randn(2, 30, 8)
    wanted = layer(u)
    with torch.autocast("cpu", dtype):
        found = layer(u)
        found.float().square().sum().backward()
    assert found.dtype == (torch.float32 if name == "rms_norm" else dtype)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())
    whole = layer.to(dtype)(u.to(dtype))
    assert whole.dtype == dtype
    for y in (found, whole):
        assert (y.float() - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("name", NAMES)
def test_functional_call_and_per_sample_gradients(name):
    layer, u = make(name), torch.randn(3, 12, 8)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, parameters, (x.unsqueeze(0),)).tanh().sum()

    samples = vmap(grad(loss), (None, 0))(parameters, u)
    for i in range(3):
        layer.zero_grad()
        loss(parameters, u[i]).backward()
        for key, parameter in parameters.items():
            torch.testing.assert_close(samples[key][i], parameter.grad, rtol=1e-4, atol=1e-5)


def test_ensemble_by_vmap():
    """Several layers at once, their parameters stacked."""
    members, u = [make("s4d") for _ in range(3)], torch.randn(2, 12, 8)
    parameters, buffers = torch.func.stack_module_state(members)
    found = vmap(lambda p, b: functional_call(members[0], (p, b), (u,)))(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([m(u) for m in members]))


@pytest.mark.parametrize("name", ["pgc", "s4d", "s4d-bidirectional"])
def test_integrated_gradients_in_evaluation_mode(name):
    """Attributions add up to the difference between the output and the baseline's."""
    captum = pytest.importorskip("captum.attr")
    layer, u = make(name).double(), torch.randn(1, 10, 8, dtype=torch.float64)

    def model(x: torch.Tensor) -> torch.Tensor:
        return layer(x).tanh().sum((1, 2))

    baseline = 0.3 * torch.randn_like(u)
    attributions = captum.IntegratedGradients(model).attribute(u, baseline, n_steps=200)
    torch.testing.assert_close(attributions.sum(), (model(u) - model(baseline))[0], rtol=1e-3, atol=1e-3)
    assert captum.Saliency(model).attribute(u.requires_grad_()).isfinite().all()


@pytest.mark.parametrize("name", ["pgc", "s4d", "s4d-bidirectional"])
def test_compile_in_training_and_evaluation(name):
    torch._dynamo.reset()
    layer = make(name)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (20, 31):
        u = torch.randn(2, length, 8, requires_grad=True)
        lengths = torch.tensor([length, 7])
        found, wanted = compiled(u, lengths=lengths), layer(u, lengths=lengths)
        torch.testing.assert_close(found, wanted)
        parameters = [u, *layer.parameters()]
        for a, b in zip(
            torch.autograd.grad(found.sin().sum(), parameters),
            torch.autograd.grad(wanted.sin().sum(), parameters),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    compiled.train()
    assert compiled(u).shape == u.shape


@pytest.mark.parametrize("name", ["pgc", "s4d", "s4d-bidirectional"])
def test_export_with_dynamic_batch_and_length(name):
    layer = make(name)
    shapes = ({0: Dim("batch", min=1, max=512), 1: Dim("length", min=2, max=100_000)},)
    program = torch.export.export(layer, (torch.randn(3, 20, 8),), dynamic_shapes=shapes)
    u = torch.randn(5, 77, 8)
    torch.testing.assert_close(program.module()(u), layer(u))


def test_export_of_a_step():
    layer = make("s4d")

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, u: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.layer.step(u, state)

    program = torch.export.export(Step(), (torch.randn(2, 8), layer.initial_state(2)))
    u, state = torch.randn(2, 8), torch.randn(2, 8, 3, 2)
    for a, b in zip(program.module()(u, state), layer.step(u, state), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torch_script_of_a_trace():
    layer, u = make("s4d"), torch.randn(2, 12, 8)
    with torch.no_grad():
        traced = torch.jit.trace(layer, u, check_trace=False)
    other = torch.randn(3, 15, 8)
    torch.testing.assert_close(traced(other), layer(other))


@pytest.mark.parametrize("name", NAMES)
def test_meta_device(name):
    layer = make(name).to("meta")
    assert layer(torch.empty(2, 9, 8, device="meta")).shape == (2, 9, 8)
