"""Bad arguments of the layers: each message names the argument, what it was and what it must be."""

from __future__ import annotations

import functools

import pytest
import torch

import lyra_kernels as lk

NAN, INF = float("nan"), float("inf")
CONSTRUCTORS = [
    (lk.RMSNorm, {"d_model": 0}, "d_model must be an integer of at least 1, got 0"),
    (lk.RMSNorm, {"d_model": 4, "eps": 0.0}, "eps must be a finite number above 0, got 0.0"),
    (lk.PGC, {"d_model": "8"}, "d_model must be an integer of at least 1, got '8'"),
    (lk.PGC, {"d_model": 8.0}, "d_model must be an integer of at least 1, got 8.0"),
    (lk.PGC, {"d_model": True}, "d_model must be an integer of at least 1, got True"),
    (lk.PGC, {"d_model": 8, "expansion_factor": 0}, "expansion_factor must be a finite number above 0, got 0"),
    (lk.PGC, {"d_model": 8, "expansion_factor": INF}, "expansion_factor must be a finite number above 0, got inf"),
    (lk.PGC, {"d_model": 8, "expansion_factor": 0.1}, r"expansion_factor \* d_model must be at least 1, got 0.1 \* 8"),
    (lk.PGC, {"d_model": 8, "kernel_size": 4}, "kernel_size must be odd unless causal=True, got 4"),
    (lk.PGC, {"d_model": 8, "kernel_size": 0}, "kernel_size must be an integer of at least 1, got 0"),
    (lk.PGC, {"d_model": 8, "dropout": 1.0}, r"dropout must be a probability in \[0, 1\), got 1.0"),
    (lk.PGC, {"d_model": 8, "dropout": NAN}, r"dropout must be a probability in \[0, 1\), got nan"),
    (lk.PGC, {"d_model": 8, "causal": 1}, "causal must be True or False, got 1"),
    (lk.PGC, {"d_model": 8, "eps": -1.0}, "eps must be a finite number above 0, got -1.0"),
    (lk.S4DKernel, {"d_model": 8, "d_state": 7}, r"d_state must be even \(conjugate pairs\), got 7"),
    (lk.S4DKernel, {"d_model": 8, "d_state": 0}, "d_state must be an integer of at least 1, got 0"),
    (lk.S4DKernel, {"d_model": 8, "N": -2}, "N must be an integer of at least 1, got -2"),
    (lk.S4DKernel, {"d_model": 8, "dt_min": 0}, "dt_min must be a finite number above 0, got 0"),
    (lk.S4DKernel, {"d_model": 8, "dt_min": 1.0}, "dt_min must not exceed dt_max, got 1.0 and 0.1"),
    (lk.S4DKernel, {"d_model": 8, "lr": -0.1}, "lr must be None or a finite number of at least 0, got -0.1"),
    (lk.S4DKernel, {"d_model": 8, "bidirectional": None}, "bidirectional must be True or False, got None"),
    (lk.S4D, {"d_model": -8}, "d_model must be an integer of at least 1, got -8"),
    (lk.S4D, {"d_model": 8, "d_state": 5}, "d_state must be even"),
    (lk.S4D, {"d_model": 8, "dropout": -0.1}, r"dropout must be a probability in \[0, 1\), got -0.1"),
    (lk.S4D, {"d_model": 8, "transposed": "no"}, "transposed must be True or False, got 'no'"),
    (lk.S4D, {"d_model": 8, "algorithm": "slow"}, "algorithm must be one of auto, fft, direct, scan, got 'slow'"),
]


@pytest.mark.parametrize("layer, arguments, message", CONSTRUCTORS)
def test_constructors(layer, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        layer(**arguments)


INPUTS = [
    (
        lambda: lk.RMSNorm(8)(torch.randn(2, 5, 7)),
        r"weight must have shape \(channels,\) = \(7\) to match x, not \(8\)",
    ),
    (lambda: lk.PGC(8)(torch.randn(2, 5, 7)), r"in_weight must have shape \(2 \* E, d_model\) = \(any, 7\)"),
    (lambda: lk.PGC(8)(torch.randn(5, 8)), r"u must have shape \(batch, length, d_model\), not \(5, 8\)"),
    (lambda: lk.S4D(8)(torch.randn(2, 5, 8)), r"u must be \(B, 8, L\) with transposed=True, got \(2, 5, 8\)"),
    (lambda: lk.S4D(8)(torch.randn(8, 5)), r"u must be \(B, 8, L\) with transposed=True, got \(8, 5\)"),
    (
        lambda: lk.S4D(8, transposed=False)(torch.randn(2, 8, 5)),
        r"u must be \(B, L, 8\) with transposed=False, got \(2, 8, 5\)",
    ),
    (
        lambda: lk.S4D(8)(torch.randn(2, 8, 5), lengths=torch.tensor([5, 6])),
        "lengths must lie between 0 and the length of u, 5; got 6",
    ),
    (
        lambda: lk.S4D(8)(torch.randn(2, 8, 5), residual=torch.randn(2, 5, 8)),
        r"residual must have shape \(batch, length, H\) = \(2, 5, 8\) to match y, not \(2, 8, 5\)",
    ),
    (
        lambda: lk.S4D(8, d_state=6)(torch.randn(2, 8, 5), initial_state=torch.randn(2, 8, 6)),
        r"initial_state must have shape \(sequences, H, M, 2\), not \(2, 8, 6\)",
    ),
    (
        lambda: lk.S4D(8, bidirectional=True)(torch.randn(2, 8, 5), return_final_state=True),
        "a bidirectional convolution has no state to carry",
    ),
    (lambda: lk.S4D(8, bidirectional=True).initial_state(2), "a bidirectional S4D has no state"),
    (
        lambda: lk.S4D(8, algorithm="fft")(torch.randn(2, 8, 5), return_final_state=True),
        "algorithm 'fft' carries no state",
    ),
    (lambda: lk.S4D(8).step(torch.randn(2, 1, 8), None), r"u must be \(B, 8\), got \(2, 1, 8\)"),
    (lambda: lk.S4D(8).step(torch.randn(2, 7), None), r"u must be \(B, 8\), got \(2, 7\)"),
    (lambda: lk.S4DKernel(8)(-1), "length must be 0 or more, not -1"),
]


@pytest.mark.parametrize("call, message", INPUTS)
def test_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("way", ["one op", "dropout", "state", "children"])
@pytest.mark.parametrize("kind", [lk.PGC, functools.partial(lk.S4D, transposed=False)], ids=["pgc", "s4d"])
def test_residuals_are_not_broadcast(kind, way):
    layer = kind(8, dropout=0.5 if way == "dropout" else 0.0, **({"causal": True} if kind is lk.PGC else {}))
    if way == "children":
        for child in layer.children():
            child.register_forward_hook(lambda *_: None)
    for shape in ((1, 5, 8), (2, 5, 1), (4, 5, 8)):
        with pytest.raises(ValueError, match=r"^residual must have shape \(batch, length, .* to match .*, not "):
            layer(torch.randn(2, 5, 8), residual=torch.randn(shape), return_final_state=way == "state")
    with pytest.raises(ValueError, match=r"^residual is on meta but .* is on cpu"):
        layer(torch.randn(2, 5, 8), residual=torch.randn(2, 5, 8, device="meta"), return_final_state=way == "state")


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("batch", [0, 1])
def test_little_and_nothing(batch, length):
    for layer in (
        lk.RMSNorm(8),
        lk.PGC(8),
        lk.S4D(8, transposed=False),
        lk.S4D(8, transposed=False, bidirectional=True),
    ):
        u = torch.randn(batch, length, 8, requires_grad=True)
        y = layer(u)
        assert y.shape == u.shape
        y.sum().backward()
        assert u.grad.shape == u.shape
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
