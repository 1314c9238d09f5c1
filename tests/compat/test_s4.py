"""compat.s4 against the published formulas, written out here in float64 with upstream's own parameters."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lyra_kernels as lk
from lyra_kernels.compat import s4

from .. import fixtures

H, N = 6, 8
M = N // 2
ACTIVATIONS = {
    None: lambda x: x,
    "id": lambda x: x,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "glu": lambda x: F.glu(x, dim=-1),
}


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    assert found.shape == wanted.shape
    error = ((found - wanted).abs().square().mean() / wanted.abs().square().mean()).sqrt().item()
    assert error <= tolerance, error


def upstream_kernel(outputs: int = 1, sets: int = H, tied: bool = True) -> dict[str, Tensor]:
    """A state_dict of a diagonal kernel of upstream's."""
    draw = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return {
        "C": normal(outputs, H, M, 2),
        "inv_dt": math.log(0.02) + 0.5 * normal(H, 1 if tied else M),
        "B": 1 + 0.5 * normal(1, sets, M, 2),
        "A_real": math.log(0.5) + 0.2 * normal(sets, M),
        "A_imag": math.pi * torch.arange(M) + 0.1 * normal(sets, M),
    }


def upstream_system(state: dict[str, Tensor], disc: str, rate: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """``dA``, ``dB (H, M)`` and ``C (outputs, H, M)`` of ``x' = dA x + dB u``, ``y = 2 Re C x``."""
    dt = state["inv_dt"].exp() * rate
    copies = H // state["A_real"].shape[0]
    A = (-state["A_real"].exp() - 1j * state["A_imag"]).repeat(copies, 1)
    B, C = torch.view_as_complex(state["B"])[0].repeat(copies, 1), torch.view_as_complex(state["C"])
    if disc == "zoh":
        return torch.exp(dt * A), B * (torch.exp(dt * A) - 1) / A, C
    return (1 + dt * A / 2) / (1 - dt * A / 2), B * dt / (1 - dt * A / 2), C


def upstream_conv(u: Tensor, state: dict[str, Tensor], D: Tensor, *, disc="zoh", rate=1.0, bidirectional=False,
                  l_max=None) -> Tensor:  # fmt: skip
    """``u (B, L, H)`` to ``(B, L, outputs, H)``, without activation."""
    length = u.shape[1]
    dA, dB, C = upstream_system(state, disc, rate)
    lags = torch.arange(length)
    K = 2 * torch.einsum("chn,hnl->chl", C * dB, dA.unsqueeze(-1) ** lags).real
    K = K * (lags < (length if l_max is None else round(l_max / rate)))
    lag = lags[:, None] - lags
    causal = K[: len(D)]
    matrix = torch.where(lag >= 0, causal[..., lag.clamp(min=0)], 0.0)
    if bidirectional:
        matrix = matrix + torch.where(lag < 0, K[len(D) :][..., (-lag - 1).clamp(min=0)], 0.0)
    return torch.einsum("chts,bsh->btch", matrix, u) + D * u.unsqueeze(2)


def loaded(module: nn.Module, kernel: dict[str, Tensor], prefix: str) -> nn.Module:
    """The module in float64 with upstream's entries for its kernel, and its own for the rest."""
    module = module.double()
    rest = {k: v for k, v in module.state_dict().items() if not k.startswith(prefix)}
    module.load_state_dict({**rest, **{prefix + k: v for k, v in kernel.items()}})
    return module


def test_the_small_layer_is_the_recorded_one_and_gives_a_pair():
    recorded = fixtures.load("s4d_layer")
    layer = s4.S4D(10, N=16, lr=0.001).double()

    layer.load_state_dict(recorded.state)
    y, state = layer(recorded.x)
    assert state is None
    close(y, recorded.y, 1e-12)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    for name, parameter in layer.named_parameters():
        close(parameter.grad, recorded.grads[name], 1e-10)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {k: v.shape for k, v in recorded.state.items()}


def test_the_small_layer_takes_states_padding_and_rates():
    layer = s4.S4D(H, N, transposed=False).double()
    native = lk.S4D(H, N, transposed=False).double()
    native.load_state_dict(layer.state_dict())
    u = torch.randn(2, 15, H, dtype=torch.float64)
    first, state = layer(u[:, :9], layer.default_state(2))
    second, state = layer(u[:, 9:14], state=state)
    last, state = layer.step(u[:, 14], state)
    close(torch.cat([first, second, last[:, None]], 1), native(u))
    lengths = torch.tensor([15, 4])
    close(layer(u, lengths=lengths, rate=0.5)[0], native(u, lengths=lengths, rate=0.5))
    y, final = layer(u, return_final_state=True)
    close(y, native(u))
    close(final, state)
    assert layer(u, mask=None)[1] is None
    with pytest.raises(TypeError, match=r"S4D.forward\(\) heeds no 'mask'; padding is told by lengths="):
        layer(u, mask=lengths)


def test_the_small_kernel():
    kernel = s4.S4DKernel(H, N=N, dt_min=0.01, dt_max=0.2, lr=0.001)
    assert kernel(L=9).shape == (H, 9) and kernel.log_dt._optim == {"weight_decay": 0.0, "lr": 0.001}


CONVOLUTIONS = {
    "plain": {},
    "bilinear": {"disc": "bilinear"},
    "rate": {"rate": 1.6, "disc": "bilinear"},
    "sets": {"n_ssm": 2},
    "untied": {"dt_tie": False, "disc": "bilinear"},
    "outputs": {"channels": 3},
    "swapped": {"channels": 2, "swap_channels": True},
    "both ways": {"bidirectional": True, "channels": 2, "rate": 0.7},
    "end": {"l_max": 9, "rate": 1.5, "bidirectional": True},
    "glu": {"activation": "glu", "channels": 2},
    "silu": {"activation": "silu"},
    "none": {"activation": None, "disc": "bilinear", "n_ssm": 1},
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_with_checkpoints_of_upstream(name, transposed):
    options = dict(CONVOLUTIONS[name])
    rate = options.pop("rate", 1.0)
    activation, swap = options.get("activation", "gelu"), options.get("swap_channels", False)
    outputs, both = options.get("channels", 1) * (2 if activation == "glu" else 1), options.get("bidirectional", False)
    state = upstream_kernel(outputs * (1 + both), options.get("n_ssm", H), options.get("dt_tie", True))
    conv = loaded(s4.FFTConv(H, mode="diag", d_state=N, transposed=transposed, **options), state, "kernel.")
    assert conv.D.shape == (outputs, H) and conv.d_output == options.get("channels", 1) * H
    u = torch.randn(2, 23, H, dtype=torch.float64, requires_grad=True)
    y = upstream_conv(
        u, state, conv.D, rate=rate, disc=options.get("disc", "zoh"), bidirectional=both, l_max=options.get("l_max")
    )
    wanted = ACTIVATIONS[activation]((y.transpose(2, 3) if swap else y).flatten(2))
    found, none = conv(u.transpose(1, 2) if transposed else u, rate=rate)
    found = found.transpose(1, 2) if transposed else found
    assert none is None
    close(found, wanted)
    weight = torch.randn_like(wanted)
    for ours, theirs in zip(
        *(torch.autograd.grad((x * weight).sum(), [u, conv.D]) for x in (found, wanted)), strict=True
    ):
        close(ours, theirs)


def test_gradients_of_the_state_space_are_those_of_the_published_formula():
    state = {k: v.requires_grad_() for k, v in upstream_kernel().items()}
    conv = loaded(
        s4.FFTConv(H, mode="diag", d_state=N, disc="bilinear", activation=None, transposed=False), state, "kernel."
    )
    u = torch.randn(2, 23, H, dtype=torch.float64)
    weight = torch.randn_like(u)
    (conv(u)[0] * weight).sum().backward()
    wanted = upstream_conv(u, state, conv.D.detach(), disc="bilinear")[:, :, 0]
    (wanted * weight).sum().backward()
    kernel = conv.kernel
    close(kernel.log_dt.grad, state["inv_dt"].grad[:, 0])
    close(kernel.log_A_real.grad, state["A_real"].grad)
    close(kernel.A_imag.grad, state["A_imag"].grad)
    # y = Re conj(g) C B: the gradient for C, conj(C B) here, is that for upstream's C over conj(B), conjugated
    B = torch.view_as_complex(state["B"].detach())
    theirs = torch.view_as_complex(state["C"].grad)
    close(torch.view_as_complex(kernel.C.grad), (theirs / B.conj())[0].conj())


BLOCKS = {
    "plain": {},
    "transposed": {"transposed": True},
    "gated": {"gate": 1, "gate_act": "silu", "mult_act": "tanh"},
    "wide gate": {"gate": 3, "gate_act": "sigmoid", "channels": 2},
    "bottleneck": {"bottleneck": 2, "gate": 2},
    "glu gate": {"gate": 2, "gate_act": "glu"},
    "no projection": {"final_act": None},
    "linear": {"final_act": "id", "channels": 2},
    "relu": {"final_act": "relu", "activation": "glu"},
    "both ways": {"bidirectional": True},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    """Around the convolution, which is tested above; with padding, whose contents nobody sees."""
    torch.manual_seed(0)
    options = {"transposed": False, **BLOCKS[name]}
    block = s4.S4Block(H, mode="diag", d_state=N, dropout=0.3, **options).double().eval()
    u = torch.randn(3, 17, H, dtype=torch.float64)
    lengths = [17, 1, 11]

    def linear(x, module, act):
        module = module[0] if isinstance(module, nn.Sequential) else module
        return ACTIVATIONS[act](F.linear(x, module.weight, module.bias))

    wanted = torch.zeros_like(u)
    for b, n in enumerate(lengths):
        x = u[b : b + 1, :n]
        y, _ = block.layer(linear(x, block.input_linear, None) if "bottleneck" in options else x)
        if "gate" in options:
            same = isinstance(block.output_gate, nn.Identity)
            assert same == (name == "gated")
            y = (y if same else linear(y, block.output_gate, None)) * linear(
                x, block.input_gate, options.get("gate_act")
            )
        y = ACTIVATIONS[options.get("mult_act")](y)
        final = options.get("final_act", "glu")
        wanted[b, :n] = y if final is None else linear(y, block.output_linear, final)
    dirty = u.masked_fill((torch.arange(17) >= torch.tensor(lengths)[:, None])[..., None], math.nan)
    for given in (lengths, torch.tensor(lengths)):
        found, _ = block(dirty.transpose(1, 2) if options["transposed"] else dirty, lengths=given)
        close(found.transpose(1, 2) if options["transposed"] else found, wanted)
        found.sum().backward()
        assert all(p.grad.isfinite().all() for p in block.parameters())
    if not options["transposed"]:
        close(block(u[:1], 17)[0], wanted[:1])
        close(block(u[:1], torch.tensor([17]))[0], wanted[:1])


def test_a_block_has_the_rate_of_its_convolution():
    block = s4.S4Block(H, mode="diag", d_state=N, final_act=None).double()
    u = torch.randn(2, H, 17, dtype=torch.float64)
    close(block(u, rate=0.5)[0], block.layer(u.transpose(1, 2), rate=0.5)[0].transpose(1, 2))
    assert not torch.allclose(block(u, rate=0.5)[0], block(u)[0])


def test_names_of_a_checkpoint():
    block = s4.S4Block(H, mode="diag", d_state=N, n_ssm=2, channels=2)
    shapes = {k: tuple(v.shape) for k, v in block.state_dict().items()}
    assert shapes == {
        "layer.D": (2, H),
        "layer.kernel.C": (2, H, M, 2),
        "layer.kernel.log_dt": (H,),
        "layer.kernel.log_A_real": (2, M),
        "layer.kernel.A_imag": (2, M),
        "output_linear.0.weight": (2 * H, 2 * H),
        "output_linear.0.bias": (2 * H,),
    }
    again = s4.S4Block(H, mode="diag", d_state=N, n_ssm=2, channels=2)
    again.load_state_dict(block.state_dict())
    u = torch.randn(1, H, 5)
    assert torch.equal(again(u)[0], block(u)[0])


def test_checkpoints_that_do_not_fit_are_refused():
    conv = s4.FFTConv(H, mode="diag", d_state=N)
    state = {"D": conv.D.detach(), **{f"kernel.{k}": v for k, v in upstream_kernel().items()}}
    with pytest.raises(RuntimeError, match=r"kernel\.P is of S4 with a low-rank term"):
        conv.load_state_dict({**state, "kernel.P": torch.zeros(1, H, M, 2)})
    with pytest.raises(RuntimeError, match=r"size mismatch for kernel\.C"):
        conv.load_state_dict({**state, "kernel.C": torch.zeros(2, H, M, 2)})
    with pytest.raises(RuntimeError, match=r"Missing key.*kernel\.log_A_real"):
        conv.load_state_dict({k: v for k, v in state.items() if k != "kernel.A_real"})


def test_dropout_is_of_numbers_or_of_whole_channels():
    u = torch.ones(4, H, 50)
    for tied in (False, True):
        conv = s4.FFTConv(H, mode="diag", d_state=N, activation=None, dropout=0.5, tie_dropout=tied)
        zero = conv(u)[0] == 0
        assert 0.2 < zero.float().mean() < 0.8
        assert bool((zero.all(-1) | ~zero.any(-1)).all()) == tied
        block = s4.S4Block(H, mode="diag", d_state=N, final_act=None, dropout=0.5, tie_dropout=tied)
        zero = block(u)[0] == 0
        assert bool((zero.all(-1) | ~zero.any(-1)).all()) == tied
        assert (block.eval()(u)[0] != 0).all()


@pytest.mark.parametrize(
    "init, names", [("diag", ("inv", "lin")), ("diag-lin", ("lin",)), ("diag-inverse", ("inv",)), ("legs", ("legs",)),
                    ("diag-hippo", ("legs",)), ("quad", ("quad",)), ("diag-random", ("rand",))]
)  # fmt: skip
def test_names_of_inits(init, names):
    assert s4.SSMKernelDiag(H, init=init).init == names
    assert s4.SSMKernelDiag(H).init == ("legs",)


def test_rates_of_the_optimizer():
    kernel = s4.SSMKernelDiag(H, lr=0.001)
    assert kernel.C._optim == {"lr": 0.001} and kernel.A_imag._optim == {"lr": 0.001, "weight_decay": 0.0}
    assert set(dict(s4.SSMKernelDiag(H, lr=0.0).named_buffers())) == {"C", "log_dt", "log_A_real", "A_imag"}
    assert set(dict(s4.SSMKernelDiag(H, lr={"dt": 0.0, "A": 0.1}).named_buffers())) == {"log_dt"}
    assert s4.SSMKernelDiag(H, wd={"C": 0.1}).parameter_options() == {"C": {"weight_decay": 0.1}}


def test_deterministic_kernels_are_alike():
    one, two = (s4.SSMKernelDiag(H, init="diag-lin", deterministic=True, dt_min=0.01, dt_max=1.0) for _ in range(2))
    assert torch.equal(one(9), two(9))
    torch.testing.assert_close(one.log_dt.detach(), torch.linspace(math.log(0.01), 0.0, H))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: s4.S4Block(H), "mode must be 'diag', got 'dplr', which has a low-rank term and is another model"),
        (lambda: s4.FFTConv(H, mode="ema"), "mode must be 'diag', got 'ema': pass mode='diag' for S4D"),
        (lambda: s4.FFTConv(H, mode="diag", drop_kernel=0.1), "drop_kernel, dropout of single taps, is not there"),
        (lambda: s4.FFTConv(H, mode="diag", activation="modrelu"), "activation must be one of gelu, silu"),
        (lambda: s4.S4Block(H, mode="diag", postact="glu"), "postact is not there: use final_act"),
        (lambda: s4.S4Block(H, mode="diag", weight_norm=True), "weight_norm is not there: use torch.nn.utils"),
        (lambda: s4.S4Block(H, mode="diag", bottleneck=4), "bottleneck must divide d_model, got 4 and 6"),
        (
            lambda: s4.S4Block(H, mode="diag", final_act=None, channels=2),
            "final_act=None leaves 12 channels, not d_model=6",
        ),
        (lambda: s4.S4Block(H, mode="diag", real_scale=2.0), "real_scale is no option of this SSMKernelDiag"),
        (lambda: s4.SSMKernelDiag(H, rank=2), "rank of state-spaces/s4 is not there: leave it at 1"),
        (lambda: s4.SSMKernelDiag(H, is_real=True), "is_real of state-spaces/s4 is not there: leave it at False"),
        (lambda: s4.SSMKernelDiag(H, init="hippo"), "init='hippo' is half 'legs' and half Fourier"),
        (lambda: s4.SSMKernelDiag(H, init="fout"), "init must be one of lin, inv"),
        (lambda: s4.SSMKernelDiag(H, disc="dss"), "disc must be one of zoh, bilinear, got 'dss'"),
        (lambda: s4.SSMKernelDiag(H, lr={"B": 0.1}), "B is part of C here and has no learning rate"),
        (lambda: s4.FFTConv(H, mode="diag")(torch.zeros(2, 5, H)), r"x must be \(B, H, L\) of 6 channels"),
        (
            lambda: (c := s4.FFTConv(H, mode="diag", bidirectional=True)).step(torch.zeros(2, H), c.default_state(2)),
            "a bidirectional convolution has no state",
        ),
        (
            lambda: (c := s4.FFTConv(H, mode="diag", l_max=3))(torch.zeros(2, H, 4), c.default_state(2)),
            "no state can be carried through 4 tokens: the kernel ends after l_max=3",
        ),
    ],
)
def test_what_is_not_there_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_hooked_kernel_is_called():
    conv = s4.FFTConv(H, mode="diag", d_state=N, channels=2, bidirectional=True, activation=None).double()
    u = torch.randn(2, H, 13, dtype=torch.float64)
    nn.init.zeros_(conv.D)
    once = conv(u)[0]
    conv.kernel.register_forward_hook(lambda kernel, given, taps: 2 * taps)
    close(conv(u)[0], 2 * once)


def test_initial_values_come_again():
    torch.manual_seed(1)
    block = s4.S4Block(H, mode="diag", d_state=N, gate=2, device="cpu", dtype=torch.float64)
    empty = s4.S4Block(H, mode="diag", d_state=N, gate=2, device="meta", dtype=torch.float64).to_empty(device="cpu")
    torch.manual_seed(1)
    empty.reset_parameters()
    assert all(torch.equal(p, q) for p, q in zip(empty.parameters(), block.parameters(), strict=True))


def test_compiled():
    block = s4.S4Block(H, mode="diag", d_state=N, disc="bilinear", channels=2).double()
    u = torch.randn(2, H, 13, dtype=torch.float64)
    close(torch.compile(block, backend="aot_eager", fullgraph=True)(u)[0], block(u)[0])
