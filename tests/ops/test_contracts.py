"""The table of ops: what it says of each agrees with the dispatcher, the formulas and the backward ops."""

from __future__ import annotations

import inspect

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels import backends, reference
from lyra_kernels.schemas import CONTRACTS, OPS, SCHEMAS, Argument, Contract, Role

from . import cases

CONTRACT = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.name)


@CONTRACT
def test_the_dispatcher_has_the_schema(contract):
    for name, text in contract.schemas.items():
        assert str(OPS[name]._schema) == f"lyra::{name}{text}"
        assert SCHEMAS[name] == text


@CONTRACT
def test_the_formula_takes_the_arguments_by_their_names(contract):
    names = [argument.name for argument in contract.arguments]
    assert list(inspect.signature(getattr(reference, contract.name)).parameters) == list(
        contract.formula_arguments(names)
    )


def _by_position(function):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in kinds]


@CONTRACT
def test_the_public_function_takes_by_position_what_the_op_does(contract):
    """A call by position means the same of an op, its formula and its function; all else has to be named."""
    public = {"gated_fft_conv": "fft_conv", "s4d_fft": "s4d_conv", "s4d_scan": "s4d_conv"}
    found = _by_position(getattr(lk, public.get(contract.name, contract.name)))
    names = [argument.name for argument in contract.arguments]
    assert found == names[: len(found)]


@CONTRACT
def test_triton_takes_the_arguments_by_their_names(contract):
    pytest.importorskip("triton")
    for op, text in contract.schemas.items():
        names = [part.split()[1] for part in text[1 : text.index(")")].split(", ")]
        assert list(inspect.signature(backends.triton.IMPLEMENTATIONS[op]).parameters) == names


@CONTRACT
def test_the_backwards_arguments_are_taken_apart_as_they_were_put_together(contract):
    args = tuple(argument.name for argument in contract.arguments)
    grads = tuple(torch.empty(2, 7) for _ in contract.outputs)
    found_grads, found = contract.split(contract.backward_arguments(grads, args, contract.kept))
    assert found_grads == grads
    unseen = {Role.RESIDUAL: None, Role.EXTENT: 7, Role.SAVE: False}
    assert found == tuple(unseen.get(argument.role, argument.name) for argument in contract.arguments)


@pytest.mark.parametrize("name, layout", cases.combos(cases.ESSENTIAL))
def test_fakes_are_like_what_the_ops_return(name, layout, monkeypatch):
    from .test_compile import raw_calls

    for op, args in raw_calls(cases.make(name, layout, batch=2, length=9, channels=4), monkeypatch):
        contract = CONTRACTS[op.removesuffix("_backward")]
        fake = contract.fake_backward if op.endswith("_backward") else contract.fake
        for found, real in zip(*(backends.reference.as_tuple(f(*args)) for f in (fake, OPS[op])), strict=True):
            assert (found.shape, found.dtype, found.stride()) == (real.shape, real.dtype, real.stride())


def test_a_contract_by_itself():
    """Two gradients come back, of the activation and the weight; the residual's is the output's own."""
    rows = [Argument("Tensor?", "lengths", Role.LENGTHS)]
    contract = Contract(
        "add_rows",
        [Argument("Tensor", "x", Role.ACTIVATION), Argument("Tensor?", "weight", Role.PARAMETER),
         Argument("Tensor", "to", Role.RESIDUAL), *rows],
        fake=lambda x, *rest: torch.empty_like(x),
    )  # fmt: skip
    assert contract.schemas == {
        "add_rows": "(Tensor x, Tensor? weight, Tensor to, Tensor? lengths) -> Tensor",
        "add_rows_backward": "(Tensor grad, Tensor x, Tensor? weight, Tensor? lengths) -> (Tensor, Tensor)",
    }
    assert contract.differentiable == (0, 1, 2) and contract.returned == (0, 1) and contract.residuals == (2,)
    assert contract.per_sequence == (0, 2) and contract.lengths == 3 and contract.cu_seqlens is None
    x = torch.empty(2, 3, 4, dtype=torch.bfloat16)
    dx, dweight = contract.fake_backward(x, x, torch.empty(4), None)
    assert (dx.shape, dx.dtype, dweight.shape, dweight.dtype) == (x.shape, x.dtype, (4,), torch.float32)
    assert contract.fake_backward(x, x, None, None)[1].shape == (0,)
