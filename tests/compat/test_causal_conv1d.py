"""The adapter of causal-conv1d against formulas in plain PyTorch, in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from lyra_kernels.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states

LIMIT = 1e-6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def formula(x, weight, bias, activation=None, before=None):
    """conv1d of the last tokens before x, zeros unless given, and x: (batch, dim, length)."""
    width = weight.shape[1]
    before = x.new_zeros(*x.shape[:2], width - 1) if before is None else before
    y = F.conv1d(torch.cat([before, x], dim=-1), weight.unsqueeze(1), bias, groups=x.shape[1])
    return y if activation is None else F.silu(y)


def arguments(batch, dim, length, width, bias=True, channels_last=False):
    x = torch.randn(batch, dim, length)
    if channels_last:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    return [x, torch.randn(dim, width), torch.randn(dim) if bias else None]


def compare(function, exact, tensors, dtype=torch.float32):
    """Values and the gradients of all tensors, of random sums of all outputs; relative RMS error."""
    found = [None if t is None else t.detach().to(dtype).clone(memory_format=torch.preserve_format) for t in tensors]
    wanted = [None if t is None else t.double() for t in found]
    results, sums = [], None
    for run, leaves in ((function, found), (exact, wanted)):
        present = [t.requires_grad_() for t in leaves if t is not None]
        out = run(*leaves)
        out = out if isinstance(out, tuple) else (out,)
        sums = [torch.randn(o.shape, dtype=torch.float64) for o in out] if sums is None else sums
        total = sum((o.double() * s).sum() for o, s in zip(out, sums, strict=True))
        results.append([*out, *torch.autograd.grad(total, present, materialize_grads=True)])
    for i, (one, other) in enumerate(zip(*results, strict=True)):
        assert one.shape == other.shape, i
        scale = other.detach().norm() if other.any() else 1.0
        assert float((one.double() - other).detach().norm() / scale) <= (LIMIT if dtype == torch.float32 else 1e-2), i
    return results[0]


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fn(activation, width, channels_last):
    tensors = arguments(3, 13, 37, width, width != 3, channels_last)
    y, *_ = compare(
        lambda x, w, b: causal_conv1d_fn(x, w, b, activation=activation),
        lambda x, w, b: formula(x, w, b, activation),
        tensors,
    )
    assert y.stride() == tensors[0].stride()


@pytest.mark.parametrize("length", [1, 2, 3, 21])
@pytest.mark.parametrize("initial", [False, True])
def test_states(length, initial):
    def exact(x, w, b, before=None):
        zeros = x.new_zeros(2, 5, 3) if before is None else before
        return formula(x, w, b, "silu", before), torch.cat([zeros, x], dim=-1)[..., length:]

    def found(x, w, b, before=None):
        return causal_conv1d_fn(x, w, b, initial_states=before, return_final_states=True, activation="silu")

    compare(found, exact, [*arguments(2, 5, length, 4), *([torch.randn(2, 5, 3)] if initial else [])])


def test_final_states_are_written_where_they_should_be():
    x, weight, bias = arguments(2, 5, 9, 4)
    out = torch.full((2, 5, 3), torch.nan)
    _, states = causal_conv1d_fn(x, weight, bias, return_final_states=True, final_states_out=out)
    assert states is out and torch.equal(out, x[..., 6:])
    half = causal_conv1d_fn(x.bfloat16(), weight, bias, initial_states=out, return_final_states=True)
    assert all(t.dtype == torch.bfloat16 for t in half)


def by_runs(index, x, w, b, activation, before=None):
    """Each run of equal indices by itself, the first of a row after what was before."""
    rows = []
    for n, (row, numbers) in enumerate(zip(x, index.tolist(), strict=True)):
        cuts = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1]), len(numbers)]
        starts = [None if i or before is None else before[n : n + 1] for i in cuts]
        parts = [
            formula(row[None, :, i:j], w, b, activation, start) * (numbers[i] >= 0)
            for (i, j), start in zip(pairwise(cuts), starts, strict=False)
        ]
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows)


@pytest.mark.parametrize("initial", [False, True], ids=["", "after others"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_seq_idx(channels_last, dtype, initial):
    index = torch.randint(0, 2, (3, 41)).cumsum(1, dtype=torch.int32)
    index[1] = 0  # one sequence, of the number that the row before may end with
    index[2, 30:] = -1  # padding
    tensors = [*arguments(3, 6, 41, 4, channels_last=channels_last), *([torch.randn(3, 6, 3)] if initial else [])]
    compare(
        lambda x, w, b, *before: causal_conv1d_fn(x, w, b, index, *before, activation="silu"),
        lambda x, w, b, *before: by_runs(index, x, w, b, "silu", *before),
        tensors,
        dtype,
    )


def test_a_compiled_function():
    """Of sequences by index and of states in a buffer, for all lengths."""
    _, weight, bias = arguments(2, 3, 5, 3)

    def call(x, index, state):
        return causal_conv1d_fn(x, weight, bias, seq_idx=index), causal_conv1d_update(x, state, weight, bias)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (5, 9):
        x, index = torch.randn(2, 3, length), torch.randint(0, 2, (2, length)).cumsum(1)
        states = torch.randn(2, 3, 4)
        mine, theirs = states.clone(), states.clone()
        torch.testing.assert_close(compiled(x, index, mine), call(x, index, theirs))
        assert torch.equal(mine, theirs) and not torch.equal(mine, states)


@pytest.mark.parametrize("empty", [(0, 3, 5), (2, 3, 0)])
def test_nothing(empty):
    x, weight, bias = torch.randn(empty), torch.randn(3, 4), torch.randn(3)
    assert causal_conv1d_fn(x, weight, bias).shape == empty
    assert causal_conv1d_fn(x, weight, bias, seq_idx=torch.zeros(empty[0], empty[2], dtype=torch.int32)).shape == empty


def scatter_once(x, dim, index, source):
    """A card writes in any order what goes to one place."""
    assert all(len(set(row)) == len(row) for row in index.flatten(0, 1).tolist())
    return torch.scatter(x, dim, index, source)


@pytest.mark.parametrize("length", [None, 1, 3, 8])
@pytest.mark.parametrize("state_len", [3, 5])
@pytest.mark.parametrize("circular", [False, True])
def test_update(length, state_len, circular, monkeypatch):
    """Pieces, with states in a buffer, give what the whole sequence gives."""
    monkeypatch.setattr(torch.Tensor, "scatter", scatter_once)
    pieces = [torch.randn(2, 5) if length is None else torch.randn(2, 5, length) for _ in range(4)]
    weight, bias = torch.randn(5, 4), torch.randn(5)
    state = torch.zeros(2, 5, state_len)
    seen = torch.tensor([0, 2], dtype=torch.int32)
    history = torch.zeros(2, 5, 3).double()
    for piece in pieces:
        at = seen.clone() if circular else None
        found = causal_conv1d_update(piece, state, weight, bias, "silu", cache_seqlens=at)
        tokens = (piece if length else piece.unsqueeze(-1)).double()
        wanted = formula(tokens, weight.double(), bias.double(), "silu", history)
        torch.testing.assert_close(found.double(), wanted if length else wanted.squeeze(-1), rtol=1e-5, atol=1e-5)
        history = torch.cat([history, tokens], dim=-1)
        latest = history[..., -min(state_len, history.shape[-1]) :][..., -tokens.shape[-1] :]
        for b in range(2):
            end = int(seen[b]) + tokens.shape[-1] if circular else state_len
            places = [(end - latest.shape[-1] + i) % state_len for i in range(latest.shape[-1])]
            assert torch.equal(state[b, :, places].double(), latest[b])
        history = history[..., -3:]
        seen += tokens.shape[-1]


@pytest.mark.parametrize("circular", [False, True])
def test_update_of_some_rows(circular):
    x, weight, bias = arguments(4, 5, 2, 3)
    states = torch.randn(7, 5, 4)
    at = torch.tensor([3, 9, 0, 5]) if circular else None
    for indices in ([6, -1, 0, 2], [0, -1, 6, 2], [-1, -1, -1, -1]):
        table, chosen = states.clone(), torch.tensor(indices, dtype=torch.int32)
        found = causal_conv1d_update(x, table, weight, bias, cache_seqlens=at, conv_state_indices=chosen)
        wanted = states.clone()
        for b, row in enumerate(indices):
            own = wanted[row : row + 1] if row >= 0 else torch.zeros(1, 5, 4)
            y = causal_conv1d_update(x[b : b + 1], own, weight, bias, cache_seqlens=at if at is None else at[b : b + 1])
            assert torch.equal(found[b], y[0] if row >= 0 else torch.zeros_like(y[0]))
        assert torch.equal(table, wanted)


def test_gradients_of_an_update():
    state = torch.randn(2, 3, 5).transpose(1, 2)  # which the convolution reads where it lies
    compare(
        lambda x, w, b: causal_conv1d_update(x, state.clone(), w, b, "silu"),
        lambda x, w, b: formula(x, w, b, "silu", state.double()),
        arguments(2, 5, 4, 4),
    )


def test_varlen_states():
    x, cu_seqlens = torch.randn(20, 5, requires_grad=True), torch.tensor([0, 2, 2, 9, 20], dtype=torch.int32)
    found = causal_conv1d_varlen_states(x, cu_seqlens, 4)
    wanted = [F.pad(part, (0, 0, 4, 0))[-4:].t() for part in x.split([2, 0, 7, 11])]
    assert torch.equal(found, torch.stack(wanted))


def test_what_is_refused():
    x, weight, bias = arguments(2, 5, 9, 4)
    index, state = torch.zeros(2, 9, dtype=torch.int32), torch.zeros(2, 5, 3)
    for error, message, call in [
        (NotImplementedError, "activation must be", lambda: causal_conv1d_fn(x, weight, activation="relu")),
        (
            ValueError,
            "does not go with seq_idx",
            lambda: causal_conv1d_fn(x, weight, seq_idx=index, return_final_states=True),
        ),
        (ValueError, "return_final_states=True", lambda: causal_conv1d_fn(x, weight, final_states_out=state)),
        (ValueError, r"= \(2, 9\)", lambda: causal_conv1d_fn(x, weight, seq_idx=index[:, 1:])),
        (TypeError, "integer", lambda: causal_conv1d_fn(x, weight, seq_idx=index.float())),
        (ValueError, r"weight.*\(dim, width\)", lambda: causal_conv1d_fn(x.transpose(1, 2), weight)),
        (ValueError, "initial_states", lambda: causal_conv1d_fn(x, weight, initial_states=state[..., 1:])),
        (ValueError, "bias", lambda: causal_conv1d_fn(x, weight, bias[1:])),
        (ValueError, "width - 1 = 3", lambda: causal_conv1d_update(x, state[..., 1:], weight)),
        (ValueError, "conv_state must", lambda: causal_conv1d_update(x, state[:1], weight)),
        (ValueError, "cache_seqlens", lambda: causal_conv1d_update(x, state, weight, cache_seqlens=index[0])),
    ]:
        with pytest.raises(error, match=message):
            call()
