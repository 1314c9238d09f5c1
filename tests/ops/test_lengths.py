"""Lengths and cu_seqlens as lists, tuples, tensors of any integer type, and one length for a whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lyra
import lyra_kernels as lk

from . import cases
from .test_bad_input import WITH_LAYOUT

WRITTEN = {
    "list": list,
    "tuple": tuple,
    "int32": lambda n: torch.tensor(n, dtype=torch.int32),
    "uint8": lambda n: torch.tensor(n, dtype=torch.uint8),
}


@pytest.fixture(params=WITH_LAYOUT)
def case(request):
    return cases.make(WITH_LAYOUT[request.param], length=12, batch=2)


def layers():
    torch.manual_seed(0)
    composed = lk.S4D(6, d_state=4, transposed=False)
    composed.output_linear.register_forward_hook(lambda *_: None)
    pgc = lk.PGC(6)
    pgc.out_norm.register_forward_hook(lambda *_: None)
    yield from (lk.S4D(6, d_state=4, transposed=False), lk.PGC(6), lk.PGC(6, causal=True), composed, pgc)


@pytest.mark.parametrize("written", WRITTEN)
def test_lengths_of_ops(case, written):
    wanted = case.function(**{**case.tensors, **case.options, "lengths": torch.tensor([3, 12])})
    found = case.function(**{**case.tensors, **case.options, "lengths": WRITTEN[written]([3, 12])})
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_one_length_for_all(case):
    wanted = case.function(**{**case.tensors, **case.options, "lengths": torch.tensor([7, 7])})
    for one in ([7], torch.tensor([7]), torch.tensor([7], dtype=torch.int16)):
        found = case.function(**{**case.tensors, **case.options, "lengths": one})
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("residual", [False, True])
def test_layers(layer, residual):
    u = torch.randn(2, 9, 6)
    other = {"residual": torch.randn(2, 9, 6)} if residual else {}
    for lengths in ([4, 9], [5]):
        wanted = layer(u, lengths=torch.tensor(lengths).expand(2), **other)
        torch.testing.assert_close(layer(u, lengths=lengths, **other), wanted, rtol=0, atol=0)
    rows, cuts = u.flatten(0, 1).unsqueeze(0), [0, 4, 4, 18]
    other = {"residual": rows} if residual else {}
    wanted = layer(rows, cu_seqlens=torch.tensor(cuts), **other)
    torch.testing.assert_close(layer(rows, cu_seqlens=cuts, **other), wanted, rtol=0, atol=0)


def test_with_states():
    u = torch.randn(2, 9, 6)
    for layer in (lk.S4D(6, d_state=4, transposed=False), lk.PGC(6, causal=True)):
        wanted = layer(u, lengths=torch.tensor([5, 5]), return_final_state=True)
        torch.testing.assert_close(layer(u, lengths=[5], return_final_state=True), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [lyra.Lyra, lyra.LyraForTokenClassification])
def test_models(kind):
    model = kind(5, 8, num_s4_layers=1, d_state=4).eval()
    ids = torch.randint(5, (2, 9))
    torch.testing.assert_close(model(ids, lengths=[6]), model(ids, lengths=torch.tensor([6, 6])), rtol=0, atol=0)
    torch.testing.assert_close(model(ids[:1], cu_seqlens=[0, 2, 9]), model(ids[:1], cu_seqlens=torch.tensor([0, 2, 9])))


def test_in_compiled_code():
    layer, u = lk.PGC(6), torch.randn(2, 9, 6)
    compiled = torch.compile(lambda u, n: layer(u, lengths=n), backend="eager", fullgraph=True)
    for lengths in ([4, 9], [5]):
        torch.testing.assert_close(compiled(u, lengths), layer(u, lengths=lengths))


@pytest.mark.parametrize(
    "written", [np.array, lambda n: [np.int64(i) for i in n], lambda n: [torch.tensor(i) for i in n]]
)
def test_lengths_of_other_kinds(written):
    layer, u = lk.PGC(6), torch.randn(2, 9, 6)
    assert torch.equal(layer(u, lengths=written([4, 9])), layer(u, lengths=[4, 9]))


@pytest.mark.parametrize("mask", [[True, False], np.array([True, False]), [torch.tensor(True), torch.tensor(False)]])
def test_a_mask_is_no_lengths(mask):
    with pytest.raises(TypeError, match="lengths must be an integer tensor or a list of integers"):
        lk.PGC(6)(torch.randn(2, 9, 6), lengths=mask)
