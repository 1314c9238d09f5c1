"""s4d_scan against float64: outputs, states and every gradient, over layouts, directions and rows of a sequence."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels.reference as reference
from lyra_kernels import _torch
from lyra_kernels.backends.triton import IMPLEMENTATIONS, _launch, _row_table, s4d_scan, s4d_scan_backward

from .support import TOLERANCE, doubled, guarded, padding, relative_error
from .test_s4d_kernel import parameters

WRT = (0, 1, 2, 3, 4, 5, 8)


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 64 tokens: states enter most of them from a row before, as they do where a card is hard to fill."""
    for module in (s4d_scan, s4d_scan_backward):
        monkeypatch.setattr(module, "segment_length", lambda *_: 64)


def _plain_error(args, grad, grad_state, wanted):
    """The fp32 formula's own error in the gradient of log_dt: a sum over modes that can cancel, whoever forms it."""
    args = [a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    args[0], grad = args[0].nan_to_num(), grad.float().nan_to_num()
    args[1] = args[1].requires_grad_()
    outputs = reference.s4d_scan(*args)
    gradients = [grad] if grad_state is None else [grad, grad_state]
    return relative_error(torch.autograd.grad(outputs[: len(gradients)], args[1], gradients)[0], wanted)


def check(
    device, batch, length, channels, modes, *,
    directions=1, dtype=torch.float32, state=False, skip=True, lengths=None, cu_seqlens=None, limit=None,
    channels_first=False,
):  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    u = torch.randn(batch, length, channels, generator=generator).to(dtype)
    spectrum = parameters(channels, modes, directions=directions)
    D = torch.randn(channels, generator=generator) if skip else None
    initial = torch.randn(sequences, channels, modes, 2, generator=generator) if state else None
    args = [a.to(device) if a is not None else None for a in (u, *spectrum, D, lengths, cu_seqlens, initial)]
    exact = doubled(args)
    present = [i for i in WRT if args[i] is not None]
    for i in present:
        exact[i].requires_grad_()
    wanted, wanted_state = reference.s4d_scan(*exact)
    grad = torch.randn(u.shape, generator=generator).to(device, dtype)
    outputs, gradients = [wanted], [grad.double()]
    if lengths is not None:
        hidden = padding(lengths, length).to(device)
        gradients[0] = gradients[0].masked_fill(hidden[..., None], 0.0)
        grad, args[0] = grad.clone(), args[0].clone()
        grad[hidden] = args[0][hidden] = float("nan")
    grad_state = None
    if directions == 1 and state:
        grad_state = torch.randn(wanted_state.shape, generator=generator).to(device)
        outputs.append(wanted_state)
        gradients.append(grad_state.double())
    wanted_gradients = torch.autograd.grad(outputs, [exact[i] for i in present], gradients)
    by_step = _plain_error(args, grad, grad_state, wanted_gradients[present.index(1)])

    limit = TOLERANCE[dtype] if limit is None else limit
    given = [guarded(a) if isinstance(a, torch.Tensor) else a for a in args]
    grad = guarded(grad)
    if channels_first:
        given[0], grad = (guarded(x.transpose(1, 2)).transpose(1, 2) for x in (given[0], grad))
    y, final, checkpoints = IMPLEMENTATIONS["s4d_scan"](*given, True)
    assert y.dtype == dtype and relative_error(y, wanted) <= limit
    assert final.dtype == torch.float32 and relative_error(final, wanted_state) <= limit
    again = IMPLEMENTATIONS["s4d_scan"](*given, False)
    assert torch.equal(again[0], y) and again[2].shape == (0,)
    found = IMPLEMENTATIONS["s4d_scan_backward"](grad, grad_state, *given, guarded(checkpoints))
    assert y.stride() == found[0].stride() == given[0].stride()
    if lengths is not None:
        assert not y[hidden].any() and not found[0][hidden].any()
    for i, gradient in zip(WRT, found, strict=True):
        if i not in present:
            assert gradient.shape == (0,)
            continue
        error = relative_error(gradient, wanted_gradients[present.index(i)])
        most = max(limit, by_step) if i == 1 else limit
        assert gradient.dtype == args[i].dtype and error <= most, f"gradient {i}: {error}"


@pytest.mark.parametrize(
    ("batch", "length", "channels", "modes"),
    [(2, 37, 3, 4), (1, 1, 1, 1), (18, 20, 1, 5), (1, 160, 2, 32), (2, 150, 1, 33), (300, 3, 1, 2)],
)
def test_dense(batch, length, channels, modes, device):
    check(device, batch, length, channels, modes)


@pytest.mark.parametrize("length", [64, 96])
def test_states(length, device):
    check(device, 2, length, 2, 5, state=True, skip=False)


def test_padded(device):
    check(device, 3, 70, 2, 4, state=True, lengths=torch.tensor([70, 0, 33]))


def test_packed(device):
    check(device, 1, 130, 2, 3, state=True, cu_seqlens=torch.tensor([0, 1, 1, 90, 130]))


@pytest.mark.parametrize("directions", [1, 2])
def test_channels_first(directions, device):
    check(device, 2, 40, 2, 3, lengths=torch.tensor([40, 11]), directions=directions, channels_first=True)


def test_channels_first_packed(device):
    cu_seqlens = torch.tensor([0, 1, 1, 90, 130])
    check(device, 1, 130, 2, 3, cu_seqlens=cu_seqlens, channels_first=True, dtype=torch.bfloat16)


def test_bidirectional(device):
    check(device, 2, 40, 2, 3, directions=2, lengths=torch.tensor([40, 11]))


@pytest.mark.usefixtures("short_rows")
class TestRows:
    def test_dense(self, device):
        check(device, 1, 200, 1, 4, state=True)

    def test_padded(self, device):
        check(device, 3, 150, 1, 4, state=True, lengths=torch.tensor([150, 70, 0]))

    def test_packed(self, device):
        check(device, 1, 300, 1, 4, state=True, cu_seqlens=torch.tensor([0, 5, 5, 200, 300]))

    def test_bidirectional(self, device):
        check(device, 1, 150, 1, 3, directions=2, cu_seqlens=torch.tensor([0, 20, 150]))

    def test_bidirectional_padded(self, device):
        check(device, 2, 130, 2, 3, directions=2, lengths=torch.tensor([70, 130]), dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check(device, 1, 50, 3, 4, dtype=dtype, directions=2 if dtype == torch.float16 else 1)


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e5])
def test_fp16_loses_little_more_than_its_storage(scale, device):
    """Taps of any size, although fp16 has few exponents. A TF32 product without rounding would be at four times."""
    generator = torch.Generator().manual_seed(5)
    u = torch.randn(2, 128, 1, generator=generator).half()
    log_dt, log_A_real, A_imag, C = parameters(1, 32, directions=1)
    args = [u * min(1.0, 1e2 / scale), log_dt, log_A_real, A_imag, C * scale, None, None, None, None]
    args = [a.to(device) if a is not None else None for a in args]
    wanted, _ = reference.s4d_scan(*doubled(args))
    y, _, _ = IMPLEMENTATIONS["s4d_scan"](*args, False)
    rounding = relative_error(wanted.half(), wanted)
    assert relative_error(y, wanted) <= 2.5 * rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_16_bit_activations_lose_nothing(dtype, device):
    args = [torch.randn(2, 100, 1).to(dtype), *parameters(1, 32, directions=1), None, None, None, None]
    args = [a.to(device) if a is not None else None for a in args]
    _, wanted = reference.s4d_scan(*doubled(args))
    _, state, _ = IMPLEMENTATIONS["s4d_scan"](*args, False)
    assert relative_error(state, wanted) <= (2e-6 if dtype == torch.float16 else 1e-5)


def test_one_tf32_product_where_torch_allows_it(device):
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    try:
        check(device, 1, 70, 2, 5, limit=6e-4)
        with pytest.raises(AssertionError):
            check(device, 1, 70, 2, 5, limit=1e-5)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_many_modes_take_the_reference(device):
    check(device, 1, 9, 2, 130, limit=1e-4)  # whose float32 is as good as that


def test_float64_takes_the_reference(device):
    args = [
        torch.randn(1, 9, 2).double(),
        *(p.double() for p in parameters(2, 3, directions=1)),
        None,
        None,
        None,
        None,
    ]
    found, wanted = IMPLEMENTATIONS["s4d_scan"](*args, False), reference.s4d_scan(*args)
    assert relative_error(found[0], wanted[0]) < 1e-14


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_empty(batch, length, device):
    args = [torch.randn(batch, length, 2), *parameters(2, 3, directions=1), None, None, None, None]
    y, state, checkpoints = IMPLEMENTATIONS["s4d_scan"](*args, True)
    assert y.shape == (batch, length, 2) and state.shape == (batch, 2, 3, 2) and not state.any()
    found = IMPLEMENTATIONS["s4d_scan_backward"](y, None, *args, checkpoints)
    assert all(not g.any() for g in found)


@pytest.mark.full
@pytest.mark.parametrize("modes", [16, 33, 64])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("length", [31, 129, 320])
def test_every_configuration(modes, directions, length, device):
    check(device, 2, length, 2, modes, directions=directions)


def test_segments_fill_a_card(monkeypatch):
    """Whole sequences where they fill a card, else rows as long as filling it takes, even, and not too short."""
    from types import SimpleNamespace

    monkeypatch.setattr(_launch, "_processors", lambda _: 132)

    def segment(batch, length, channels=64, dtype=torch.float32):
        u = SimpleNamespace(shape=(batch, length, channels), is_cuda=True, device=None, dtype=dtype)
        return _row_table.segment_length(u, batch, channels, 16)

    assert segment(128, 2048) == 2112  # one row a sequence, none left for a token more
    assert segment(8, 2048) == segment(8, 2048, dtype=torch.bfloat16) == 512
    assert segment(24, 2048) == 2112  # two rows, walked twice, take as long as one
    assert segment(1, 1 << 20) == 16384  # 4 programs of 16 rows for 64 channels: no more than there are places
    assert segment(1, 1 << 20, channels=512) == 65536


@pytest.mark.interpreter
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7FC00000, -1])
@pytest.mark.parametrize("op", ["s4d_scan", "fft_conv", "causal_conv"])
def test_a_cards_nan_survives_rounding(op, bits, monkeypatch):
    """An instruction on a card makes NaNs of all ones, which an addition to the bits would turn into 0."""
    monkeypatch.setattr(_torch, "tf32_allowed", lambda: True)
    u = torch.randn(1, 20, 2)
    u[0, 5, 0] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    assert u[0, 5, 0].isnan()
    if op == "s4d_scan":
        y = IMPLEMENTATIONS[op](u, *parameters(2, 4, directions=1), None, None, None, None, False)[0]
    else:
        y = IMPLEMENTATIONS[op](u, torch.randn(2, 20), None, None, None, None)
    assert y[0, 5:, 0].isnan().all() and not y[0, :, 1].isnan().any()
