"""Inputs for the tests of the native S4D ops, and the comparison of the scan with the float64 reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lyra_kernels import reference

from .block_checks import STORED, SUMMED, compute_dtype, error, poisoned_outputs, real_rows

SCAN_ARGUMENTS = ("u", "log_dt", "log_A_real", "A_imag", "C", "D", "lengths", "cu_seqlens", "initial_state")
GRADIENTS = ("u", "log_dt", "log_A_real", "A_imag", "C", "D", "initial_state")  # in the backward op's order


def parameters(
    dtype: torch.dtype,
    channels: int,
    modes: int,
    directions: int = 1,
    log_A_real: float = math.log(0.5),
    dt: tuple[float, float] = (1e-3, 1e-1),
) -> dict[str, Tensor]:
    """S4D's usual initialisation, with some noise on the poles: steps log-uniform in dt, frequencies pi n."""
    low, high = math.log(dt[0]), math.log(dt[1])
    values = {
        "log_dt": low + (high - low) * torch.rand(channels),
        "log_A_real": log_A_real + 0.1 * torch.randn(channels, modes),
        "A_imag": math.pi * torch.arange(modes) + 0.1 * torch.randn(channels, modes),
        "C": torch.randn(directions, channels, modes, 2),
    }
    return {name: value.to(compute_dtype(dtype)) for name, value in values.items()}


def scan_arguments(
    dtype: torch.dtype,
    shape: tuple[int, int, Tensor | None, Tensor | None],
    channels: int,
    modes: int,
    directions: int = 1,
    skip: bool = True,
    state: bool = False,
    **parameter_options,
) -> dict[str, Tensor | None]:
    """Arguments of lyra::s4d_scan without `save`; shape is what block_checks.layout returns."""
    batch, length, lengths, cu_seqlens = shape
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    compute = compute_dtype(dtype)
    return {
        "u": torch.randn(batch, length, channels).to(dtype),
        **parameters(dtype, channels, modes, directions, **parameter_options),
        "D": torch.randn(channels, dtype=compute) if skip else None,
        "lengths": lengths,
        "cu_seqlens": cu_seqlens,
        "initial_state": torch.randn(sequences, channels, modes, 2, dtype=compute) if state else None,
    }


def scan(arguments: dict[str, Tensor | None], save: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.lyra.s4d_scan(*(arguments[name] for name in SCAN_ARGUMENTS), save)


def scan_backward(
    grad_y: Tensor, grad_final_state: Tensor | None, arguments: dict[str, Tensor | None], checkpoints: Tensor
) -> tuple[Tensor, ...]:
    given = (arguments[name] for name in SCAN_ARGUMENTS)
    return torch.ops.lyra.s4d_scan_backward(grad_y, grad_final_state, *given, checkpoints)


def check_scan(arguments: dict[str, Tensor | None], looser: float = 1.0) -> None:
    """Compares the op and its backward with the reference in float64; padding holds NaN, which must not matter.

    Args:
        looser: factor on the tolerances, for parameters that make the problem itself ill-conditioned.
    """
    u, lengths = arguments["u"], arguments["lengths"]
    assert u is not None
    dtype, compute = u.dtype, compute_dtype(u.dtype)
    exact = {
        name: x.double().requires_grad_() if x is not None and name in GRADIENTS else x for name, x in arguments.items()
    }
    expected, expected_state = reference.s4d_scan(**exact)
    causal = arguments["C"].shape[0] == 1
    grad = torch.randn(expected.shape).to(dtype)
    grad_state = torch.randn(expected_state.shape, dtype=compute) if causal else None
    wanted = [exact[name] for name in GRADIENTS if exact[name] is not None]
    outputs, grads = [expected], [grad.double()]
    if causal:
        outputs.append(expected_state)
        grads.append(grad_state.double())
    gradients = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))

    bad = {**arguments, "u": torch.where(real_rows(u, lengths), u, torch.nan)}
    bad_grad = torch.where(real_rows(grad, lengths), grad, torch.nan)
    with poisoned_outputs():
        y, state, checkpoints = scan(bad)
        unsaved = scan(bad, save=False)
        actual = scan_backward(bad_grad, grad_state, bad, checkpoints)

    assert y.dtype == dtype
    assert unsaved[2].shape == (0,) and torch.equal(unsaved[0], y) and torch.equal(unsaved[1], state)
    assert error(y, expected.detach()) <= looser * STORED[dtype], "y"
    assert (y.masked_select(~real_rows(y, lengths)) == 0).all()
    assert state.dtype == compute
    if causal:
        assert error(state, expected_state.detach()) <= looser * SUMMED[dtype], "final state"
    else:
        assert state.shape == (0,)
    for name, gradient in zip(GRADIENTS, actual, strict=True):
        if exact[name] is None:
            assert gradient.shape == (0,), name
            continue
        assert gradient.dtype == (dtype if name == "u" else compute), name
        want = next(gradients)
        want = torch.zeros_like(exact[name]) if want is None else want
        limit = STORED if name == "u" else SUMMED
        assert error(gradient, want) <= looser * limit[dtype], f"gradient of {name}"
    assert (actual[0].masked_select(~real_rows(u, lengths)) == 0).all()
