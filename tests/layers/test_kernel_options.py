"""The options of S4DKernel and S4D, against the formulas that they stand for, in float64."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lyra_kernels as lk
from lyra import parameter_groups

H, N = 6, 10
TRANSFORMS = {
    "exp": torch.exp,
    "softplus": F.softplus,
    "relu": lambda p: p.relu() + 1e-4,
    "sigmoid": torch.sigmoid,
    "none": lambda p: p,
}
OPTIONS = {
    "bilinear": {"disc": "bilinear"},
    "untied": {"dt_tie": False},
    "untied bilinear": {"dt_tie": False, "disc": "bilinear"},
    "fast": {"dt_fast": True},
    "fast softplus": {"dt_fast": True, "dt_transform": "softplus", "dt_tie": False},
    "sets": {"n_ssm": 3, "init": ("inv", "legs", "quad")},
    "one set": {"n_ssm": 1, "disc": "bilinear"},
    **{f"dt {name}": {"dt_transform": name} for name in ("softplus", "relu", "sigmoid", "none")},
    **{f"real {name}": {"real_transform": name} for name in ("softplus", "relu", "sigmoid", "none")},
    **{f"imag {name}": {"imag_transform": name} for name in ("exp", "softplus", "relu")},
    "imag sigmoid": {"imag_transform": "sigmoid", "init": "real"},
    "bandlimit": {"bandlimit": 0.3, "n_ssm": 2, "init": "quad", "dt_min": 0.04},
    "real": {"init": "real", "disc": "bilinear", "dt_max": 3.0, "dt_min": 0.5},  # beyond dt A = -2, where a < 0
    "end": {"l_max": 13},
    "channels": {"channels": 2, "disc": "bilinear"},
}


def discrete(kernel: lk.S4DKernel, rate: float = 1.0) -> tuple[Tensor, Tensor]:
    """``a (H, M)`` and ``c (..., H, M)`` in the plainest form."""
    dt = kernel.log_dt if kernel.log_dt.dim() == 2 else kernel.log_dt[:, None]
    dt = TRANSFORMS[kernel.dt_transform](dt.sinh() if kernel.dt_fast else dt) * rate
    real = TRANSFORMS[kernel.real_transform](kernel.log_A_real)
    imag = TRANSFORMS[kernel.imag_transform](kernel.A_imag)
    A = torch.cat([torch.complex(-real, imag)] * (kernel.d_model // kernel.n_ssm))
    C = torch.view_as_complex(kernel.C)
    if kernel.bandlimit is not None:
        C = C * (dt / rate * A.imag.abs() / (2 * math.pi) < kernel.bandlimit / 2)
    z = dt * A
    if kernel.disc == "bilinear":
        return (1 + z / 2) / (1 - z / 2), 2 * C * dt / (1 - z / 2)
    return torch.exp(z), 2 * C * (torch.exp(z) - 1) / A


def taps(kernel: lk.S4DKernel, length: int, rate: float = 1.0) -> Tensor:
    a, c = discrete(kernel, rate)
    powers = a.unsqueeze(-1) ** torch.arange(length)
    K = torch.einsum("...hn,hnl->...hl", c, powers).real
    end = length if kernel.l_max is None else round(kernel.l_max / rate)
    return K * (torch.arange(length) < end)


def convolved(layer: lk.S4D, u: Tensor, rate: float = 1.0) -> Tensor:
    """What the layer gives, ``u (B, L, H)``, by a matrix of the kernel's taps."""
    length = u.shape[1]
    K = taps(layer.kernel, length, rate)
    lag = torch.arange(length)[:, None] - torch.arange(length)
    if layer.bidirectional:
        K, back = K
        ahead = torch.where(lag < 0, back[:, (-lag - 1).clamp(min=0)], 0.0)
    else:
        ahead = 0.0
    matrix = torch.where(lag >= 0, K[:, lag.clamp(min=0)], 0.0) + ahead
    y = torch.einsum("hts,bsh->bth", matrix, u) + layer.D * u
    linear = layer.output_linear[0]
    return F.glu(F.linear(layer.activation(y), linear.weight[..., 0], linear.bias), dim=-1)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    assert found.shape == wanted.shape
    error = (found.double() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert error <= tolerance, float(error)


def shaken(module: nn.Module) -> nn.Module:
    """In float64, with no parameter at a special value."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    return module


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_are_their_formulas(name):
    torch.manual_seed(0)
    kernel = shaken(lk.S4DKernel(H, N, **OPTIONS[name]))
    assert kernel.transformed
    for rate in (1.0, 1.7):
        wanted = taps(kernel, 37, rate)
        found = kernel(37, rate)
        close(F.pad(found, (0, 37 - found.shape[-1])), wanted)
        weight = torch.randn_like(wanted)
        grads = [
            torch.autograd.grad((K * weight[..., : K.shape[-1]]).sum(), list(kernel.parameters()))
            for K in (found, wanted)
        ]
        for ours, theirs in zip(*grads, strict=True):
            close(ours, theirs, 1e-7)


def published(kernel: lk.S4DKernel, length: int) -> Tensor:
    """The kernel as it is published, in the dtype of the parameters: angles are those of powers."""
    a, c = discrete(kernel)
    return torch.einsum("hn,hnl->hl", c, torch.exp(a.log().unsqueeze(-1) * torch.arange(length))).real


@pytest.mark.parametrize("init", ["lin", "legs"])
@pytest.mark.parametrize("options", [{"disc": "bilinear"}, {"dt_tie": False}, {"n_ssm": 4}], ids=str)
def test_float32_over_many_lags(init, options):
    torch.manual_seed(0)
    kernel = lk.S4DKernel(8, 64, 1e-4, 0.1, init=init, **options)
    exact = copy.deepcopy(kernel).double()(8192)
    ours, plain = (((K - exact).norm() / exact.norm()).item() for K in (kernel(8192), published(kernel, 8192)))
    assert ours < 0.8 * plain and ours < (3e-4 if init == "legs" else 1e-5)


@pytest.mark.parametrize("algorithm", ["scan", "fft", "direct", "auto"])
@pytest.mark.parametrize(
    "options",
    [
        {"disc": "bilinear", "n_ssm": 2},
        {"dt_tie": False, "bidirectional": True},
        {"l_max": 7},
        {"l_max": 40},
        {"activation": "silu"},
        {},
    ],
    ids=str,
)
def test_layers_with_every_algorithm(algorithm, options):
    torch.manual_seed(1)
    layer = shaken(lk.S4D(H, N, transposed=False, algorithm=algorithm, **options))
    u = torch.randn(2, 29, H, dtype=torch.float64, requires_grad=True)
    for rate in (1.0, 0.8):
        wanted, found = convolved(layer, u, rate), layer(u, rate=rate)
        close(found, wanted)
        weight, inputs = torch.randn_like(wanted), [u, *layer.parameters()]
        ours, theirs = (torch.autograd.grad((y * weight).sum(), inputs) for y in (found, wanted))
        for mine, other in zip(ours, theirs, strict=True):
            close(mine, other, 1e-7)


def test_states_padding_and_packing_of_a_layer_with_options():
    layer = shaken(lk.S4D(H, N, transposed=False, disc="bilinear", dt_tie=False, n_ssm=3))
    u = torch.randn(3, 20, H, dtype=torch.float64)
    whole = convolved(layer, u)
    y, state = layer(u[:, :9], return_final_state=True)
    rest = []
    for t in range(9, 20):
        out, state = layer.step(u[:, t], state)
        rest.append(out)
    close(torch.cat([y, torch.stack(rest, 1)], 1), whole)
    lengths = torch.tensor([20, 0, 11])
    padded = layer(u.masked_fill((torch.arange(20) >= lengths[:, None])[..., None], math.nan), lengths=lengths)
    close(padded[2, :11], whole[2, :11])
    packed = layer(torch.cat([u[0], u[2, :11]])[None], cu_seqlens=torch.tensor([0, 20, 31]))
    close(packed[0], torch.cat([whole[0], whole[2, :11]]))


def test_a_kernel_with_options_is_read_with_them_whatever_was_done_to_it():
    layer = shaken(lk.S4D(H, N, transposed=False, disc="bilinear"))
    u = torch.randn(2, 12, H, dtype=torch.float64)
    wanted = convolved(layer, u)
    for copied in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        close(copied(u), wanted)
    nn.utils.parametrize.register_parametrization(layer.kernel, "C", nn.Identity())
    close(layer(u), wanted)
    close(layer(u, return_final_state=True)[0], wanted)
    handle = layer.kernel.register_forward_hook(lambda *_: None)
    close(layer(u), wanted)
    handle.remove()


def test_compiled():
    layer = lk.S4D(H, N, transposed=False, disc="bilinear", bandlimit=1.0)
    u = torch.randn(2, 12, H)
    close(torch.compile(layer, backend="aot_eager", fullgraph=True)(u), layer(u).double(), 1e-6)


def test_a_real_part_that_does_not_decay_is_no_number():
    kernel = lk.S4DKernel(H, N, real_transform="none")
    with torch.no_grad():
        kernel.log_A_real[2, 1] = -0.1
    K = kernel(5)
    assert K[2].isnan().all() and not K[3].isnan().any()


MODES = torch.arange(5.0)
EIGENVALUES = {
    "lin": (0.5, math.pi * MODES),
    "inv": (0.5, 10 / math.pi * (10 / (2 * MODES + 1) - 1)),
    "inv2": (0.5, 10 / math.pi * (10 / (MODES + 1) - 1)),
    "quad": (0.5, (1 + 2 * MODES) ** 2 / math.pi),
    "real": (1 + MODES, 0.0),
}


@pytest.mark.parametrize("init", EIGENVALUES)
def test_initial_eigenvalues(init):
    kernel = lk.S4DKernel(H, N, init=init)
    assert not kernel.transformed
    real, imag = (torch.as_tensor(x).expand(H, 5) for x in EIGENVALUES[init])
    torch.testing.assert_close(kernel.log_A_real.exp(), real)
    torch.testing.assert_close(kernel.A_imag, imag)


def test_legs_is_the_normal_part_of_hippo():
    """Its states see what those of the matrix see that is left when HiPPO-LegS has given up its part of rank one."""
    n = torch.arange(N, dtype=torch.float64)
    scale = (2 * n + 1).sqrt()
    A = -(scale[:, None] * scale).tril(-1) - torch.diag(n + 1)
    A = A + torch.outer(scale, scale) / 2
    kernel = lk.S4DKernel(H, N, init="legs", dtype=torch.float64)
    wanted = torch.linalg.eigvals(A)
    wanted = wanted[wanted.imag > 0]
    wanted = wanted[wanted.imag.argsort(descending=True)]
    torch.testing.assert_close(kernel.A_imag[1].detach(), wanted.imag)
    torch.testing.assert_close(kernel.log_A_real[1].exp().detach(), -wanted.real)
    first = lk.S4DKernel(H, 2, init="legs", deterministic=True, dtype=torch.float64).C[0, 0].detach()
    # Of two states: v = (1, -i) / sqrt 2 and B = v* (1, sqrt 3) = (1 + i sqrt 3) / sqrt 2; C = conj(B) / sqrt 2.
    torch.testing.assert_close(first, torch.tensor([0.5, -math.sqrt(3) / 2], dtype=torch.float64))
    both = lk.S4DKernel(H, 2, init=("legs", "lin"), n_ssm=2, deterministic=True, dtype=torch.float64).C[:, 0]
    torch.testing.assert_close(both[::2], first.expand(3, 2))  # channels take the sets in turn
    torch.testing.assert_close(both[1::2], torch.tensor([1.0, 0.0], dtype=torch.float64).expand(3, 2))
    vectors = torch.linalg.eigh(-1j * (A + torch.eye(N) / 2))[1][:, : N // 2]
    B = (vectors / vectors[0].sgn()).conj().T @ scale.to(vectors)
    power = B.real.square() + B.imag.clamp(-2, 2).square()
    weights = lk.S4DKernel(3000, N, init="legs", dtype=torch.float64).C.detach().square().sum(-1).mean(0)
    torch.testing.assert_close(weights, power, rtol=0.1, atol=0)
    assert B.imag.abs().max() > 2  # clipping matters


def test_inits_share_the_channels_and_random_ones_differ():
    kernel = lk.S4DKernel(H, N, init=("inv", "rand", "lin"))
    torch.testing.assert_close(kernel.A_imag[4:], EIGENVALUES["lin"][1].expand(2, 5))
    torch.testing.assert_close(kernel.A_imag[:2], EIGENVALUES["inv"][1].expand(2, 5))
    assert (kernel.A_imag[2] > 0).all() and (kernel.A_imag[2] != kernel.A_imag[3]).all()


def test_deterministic():
    one, two = (lk.S4DKernel(H, N, deterministic=True, init=("lin", "real")) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), two.parameters(), strict=True))
    torch.testing.assert_close(one.log_dt.exp().log(), torch.linspace(math.log(0.001), math.log(0.1), H))
    assert one.C.sum() == H and (one.C[:, 0, 0] == 1).all()


@pytest.mark.parametrize("transform", ["softplus", "relu", "sigmoid", "none"])
def test_initial_values_do_not_depend_on_the_transform(transform):
    options = dict.fromkeys(("dt_transform", "real_transform"), transform)
    torch.manual_seed(0)
    plain = lk.S4DKernel(H, N)(30)
    torch.manual_seed(0)
    close(lk.S4DKernel(H, N, **options)(30), plain.detach().double(), 0.3 if transform == "relu" else 1e-5)


def test_rates_and_decays_of_each_parameter():
    kernel = lk.S4DKernel(H, N, lr={"dt": 0.0, "A": 0.01}, wd={"C": 0.1, "A": None})
    assert dict(kernel.named_buffers()).keys() == {"log_dt"}
    asked = {"lr": 0.01}
    assert kernel.parameter_options() == {
        "log_dt": {"lr": 0.0},
        "log_A_real": asked,
        "A_imag": asked,
        "C": {"weight_decay": 0.1},
    }
    assert kernel.C._optim == {"weight_decay": 0.1} and kernel.A_imag._optim == asked
    groups = parameter_groups(kernel, lr=0.5, weight_decay=0.2)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found == {id(kernel.C): (0.5, 0.1), id(kernel.A_imag): (0.01, 0.2), id(kernel.log_A_real): (0.01, 0.2)}


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"init": "hippo"},
            "init must be one of lin, inv, inv2, quad, rand, real, legs, or several of them, got 'hippo'",
        ),
        ({"init": ("lin", "inv", "real", "quad")}, "6 sets of eigenvalues cannot be shared by 4 inits"),
        ({"disc": "dss"}, "disc must be one of zoh, bilinear, got 'dss'"),
        ({"n_ssm": 4}, "n_ssm must divide d_model, got 4 and 6"),
        ({"dt_transform": "tanh"}, "dt_transform must be one of exp, softplus, relu, sigmoid, none, got 'tanh'"),
        ({"imag_transform": "sigmoid"}, "a sigmoid is below 1, and the imaginary part begins at 12.5664"),
        ({"bandlimit": 0}, "bandlimit must be a finite number above 0, got 0"),
        ({"lr": {"B": 0.1}}, "lr may have the keys dt, A, C, got 'B'"),
        ({"wd": {"dt": -1}}, r"wd\['dt'\] must be None or a finite number of at least 0, got -1"),
        ({"channels": 2}, "S4D has one output a channel"),
        ({"activation": "glu"}, "activation must be one of gelu, silu"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        lk.S4D(H, N, **options)


def test_an_ended_kernel_carries_no_state():
    layer = lk.S4D(H, N, transposed=False, l_max=8)
    for length in (1, 9):
        with pytest.raises(ValueError, match="a kernel that ends, at l_max=8, has no state to carry"):
            layer(torch.randn(1, length, H), return_final_state=True)
    with pytest.raises(ValueError, match="rate must be a finite number above 0, got 0"):
        layer(torch.randn(1, 8, H), rate=0)


def test_extra_repr_tells_the_options():
    assert "disc='bilinear', bandlimit=0.5" in repr(lk.S4DKernel(H, N, disc="bilinear", bandlimit=0.5))


@pytest.mark.parametrize("name, value", [("bandlimit", 0.05), ("l_max", 3), ("disc", "bilinear")])
def test_an_option_that_is_set_later(name, value):
    torch.manual_seed(0)
    layer, given = lk.S4D(4, d_state=16), lk.S4D(4, d_state=16, **{name: value})
    given.load_state_dict(layer.state_dict())
    u = torch.randn(2, 4, 30)
    plain = layer(u)
    setattr(layer.kernel, name, value)
    torch.testing.assert_close(layer(u), given(u))
    assert not torch.allclose(layer(u), plain)
    setattr(layer.kernel, name, {"disc": "zoh"}.get(name))
    assert torch.equal(layer(u), plain)


def test_kernels_that_were_pickled_before_there_were_options():
    layer = lk.S4D(4, d_state=8)
    u = torch.randn(2, 4, 9)
    wanted, state = layer(u), layer.kernel.__dict__.copy()
    for name in (*lk.layers.s4d_kernel._DEFAULTS, "wd", "init", "deterministic", "n_ssm", "transformed"):
        del state[name]
    again = lk.S4DKernel.__new__(lk.S4DKernel)
    again.__setstate__(state)
    layer.kernel = again
    assert torch.equal(layer(u), wanted)
    layer.kernel.bandlimit = 0.01
    assert not torch.equal(layer(u), wanted)
