"""The long convolutions' public functions: which way they go, how memory lies, and what is refused with a remedy."""

from __future__ import annotations

import warnings

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels.ops import conv, cost_model
from lyra_kernels.schemas import OPS

from .cases import assert_close


def called(monkeypatch, function):
    """The ops that a call calls."""
    found = []
    for name in ("causal_conv_op", "fft_conv_op"):
        op = getattr(conv, name)
        monkeypatch.setattr(conv, name, lambda *a, op=op: found.append(op.name) or op(*a))
        getattr(conv, name).name = op.name
    function()
    return found


@pytest.mark.parametrize(
    ("length", "taps", "reverse_taps", "directly"),
    [(4096, 4, None, True), (4096, 64, None, True), (4096, 256, None, False), (4096, 200, 4000, False),
     (37, 37, 30, True), (37, 10**6, None, True), (0, 3, None, True)],
)  # fmt: skip
def test_few_taps_go_directly_on_a_cpu(length, taps, reverse_taps, directly, monkeypatch):
    u, kernel = torch.randn(2, length, 3), torch.randn(3, taps)
    reverse = None if reverse_taps is None else torch.randn(3, reverse_taps)
    wanted = "causal_conv" if directly else "fft_conv"
    function = lk.fft_conv
    assert called(monkeypatch, lambda: function(u, kernel, reverse_kernel=reverse)) == [wanted]
    monkeypatch.undo()
    said = lk.explain_choice(lk.fft_conv, u, kernel, reverse_kernel=reverse)
    assert [op.op for op in said.ops] == [wanted]


def test_both_ways_give_the_same_numbers():
    u, kernel, reverse = torch.randn(2, 300, 3), torch.randn(3, 9), torch.randn(3, 5)
    by_fft = conv.convolve(conv.fft_conv_op, u, kernel, reverse, None, None, None)
    assert_close(lk.fft_conv(u, kernel, reverse_kernel=reverse), by_fft, 1e-6)


def test_the_formulas_alone_never_make_a_matrix_of_all_pairs(monkeypatch):
    """The reference's direct product has length^2 numbers for each channel."""
    u, kernel = torch.randn(1, 50, 3), torch.randn(3, 4)
    with lk.use_backend("reference"):
        assert called(monkeypatch, lambda: lk.fft_conv(u, kernel)) == ["fft_conv"]


@pytest.mark.parametrize("taps", [1, 16, cost_model.FEW_TAPS])
def test_few_taps_are_always_cheaper(taps):
    for length in (1, 7, 100, taps, 2 * taps, 10**4, 10**6):
        assert cost_model.convolves_directly(length, taps, 0)
        assert cost_model.convolves_directly(length, taps - taps // 2, taps // 2)


def test_a_length_that_is_not_known_stays_so():
    """One program for all lengths, by the taps alone."""
    kernels = {"causal_conv": torch.randn(3, 40), "fft_conv": torch.randn(3, 4000)}
    for wanted, kernel in kernels.items():

        class Module(torch.nn.Module):
            def forward(self, u, kernel=kernel):
                return lk.fft_conv(u, kernel)

        shapes = {"u": {1: torch.export.Dim("length", min=2, max=10_000)}}
        program = torch.export.export(Module(), (torch.randn(2, 50, 3),), dynamic_shapes=shapes)
        targets = " ".join(str(node.target) for node in program.graph.nodes)
        assert f"lyra.{wanted}." in targets
        u = torch.randn(2, 301, 3)
        assert_close(program.module()(u), lk.fft_conv(u, kernel), 1e-5)


@pytest.mark.parametrize("gates", [{}, {"pregate": 1}, {"pregate": 1, "postgate": 1}])
@pytest.mark.parametrize("function", [lk.fft_conv, lk.causal_conv])
def test_results_lie_as_u_does(function, gates):
    if gates and function is lk.causal_conv:
        return
    x = torch.randn(2, 5, 2000)
    kernel = torch.randn(5, 2000)
    gates = {name: torch.randn(2, 2000, 5) for name in gates}
    u = x.transpose(1, 2).requires_grad_()
    y = function(u, kernel, **gates)
    assert y.transpose(1, 2).is_contiguous()
    (du,) = torch.autograd.grad(y.square().sum(), u)
    rows = x.transpose(1, 2).contiguous().requires_grad_()
    (wanted,) = torch.autograd.grad(function(rows, kernel, **gates).square().sum(), rows)
    assert_close(du, wanted, 1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_channels_first_is_not_copied_for_transforms(gated, monkeypatch):
    """On the way in, forward and backward: whoever copied would have called contiguous()."""
    x, kernel = torch.randn(2, 5, 2000), torch.randn(5, 2000)
    u = x.transpose(1, 2).requires_grad_()
    gate = torch.randn(2, 5, 2000).transpose(1, 2) if gated else None
    seen = []
    for name in ("fft_conv", "gated_fft_conv"):
        for op in (name, f"{name}_backward"):
            real = OPS[op]
            monkeypatch.setitem(OPS, op, lambda *args, real=real: seen.append(args) or real(*args))
    y = lk.fft_conv(u, kernel, pregate=gate, postgate=gate)
    grad = torch.randn(2, 5, 2000).transpose(1, 2)
    torch.autograd.grad(y, u, grad)
    (forward, backward) = seen
    assert forward[0].data_ptr() == backward[1].data_ptr() == x.data_ptr() and backward[0] is grad
    assert not gated or forward[4].data_ptr() == gate.data_ptr() == backward[6].data_ptr()


@pytest.mark.parametrize("function", [lk.fft_conv, lk.causal_conv])
def test_a_third_positional_argument_is_refused_with_what_to_write(function):
    u, kernel, third = torch.randn(2, 9, 3), torch.randn(3, 4), torch.randn(3)
    with pytest.raises(TypeError, match=r"\(u, kernel, D=D\).*weight.flip\(-1\)\) \+ bias"):
        function(u, kernel, third)


@pytest.mark.parametrize("taps", [39, 40])
def test_a_two_sided_kernel_is_warned_of_once(taps):
    u, kernel = torch.randn(2, 20, 3), torch.randn(3, taps)
    conv._check.__wrapped__(u, kernel[:, :20], None, None, None, None)
    with pytest.warns(
        UserWarning, match=r"kernel\[:, :20\], reverse_kernel=kernel\[:, (20|21):\].flip\(-1\)"
    ) as caught:
        lk.causal_conv(u, kernel)
        lk.causal_conv(u, kernel)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_what_the_warning_says_is_right():
    length = 20
    u, two_sided = torch.randn(2, length, 3).double(), torch.randn(3, 2 * length).double()
    circular = torch.fft.irfft(torch.fft.rfft(u, n=2 * length, dim=1) * torch.fft.rfft(two_sided).t(), dim=1)
    reverse = two_sided[:, length + 1 :].flip(-1)
    assert_close(lk.fft_conv(u, two_sided[:, :length], reverse_kernel=reverse), circular[:, :length], 1e-12)
    kernel = two_sided[:, :length]
    circular = torch.fft.irfft(torch.fft.rfft(u, dim=1) * torch.fft.rfft(kernel).t(), n=length, dim=1)
    assert_close(lk.fft_conv(u, kernel, reverse_kernel=kernel[:, 1:].flip(-1)), circular, 1e-12)


@pytest.mark.parametrize(("length", "taps"), [(20, 20), (20, 41), (20, 30), (8, 16), (1, 2)])
def test_other_kernels_are_not(length, taps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lk.fft_conv(torch.randn(2, length, 3), torch.randn(3, taps))


def test_channels_first_is_refused_where_sizes_tell():
    x, kernel = torch.randn(2, 3, 9), torch.randn(3, 9)
    for function in (lk.fft_conv, lk.causal_conv):
        with pytest.raises(
            ValueError, match=r"u must have shape \(batch, length, channels\).*give u.transpose\(1, 2\)"
        ):
            function(x, kernel)
    modes = torch.zeros(3), torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2, 2)
    with pytest.raises(ValueError, match=r"with log_dt's 3 channels, not \(2, 3, 9\).*give u.transpose\(1, 2\)"):
        lk.s4d_conv(x, *modes)


def test_a_gate_of_another_shape():
    u, kernel = torch.randn(2, 9, 3), torch.randn(3, 9)
    with pytest.raises(ValueError, match=r"postgate must have shape .* = \(2, 9, 3\) like u, not \(2, 3, 9\)"):
        lk.fft_conv(u, kernel, postgate=u.transpose(1, 2))
