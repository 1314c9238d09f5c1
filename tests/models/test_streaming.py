"""A causal model token by token gives what it gives for the sequence so far."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lyra import Lyra, LyraForTokenClassification


def make(kind=Lyra, **options):
    torch.manual_seed(0)
    sizes = {"d_input": 5, "d_model": 8, "d_output": 2, "num_s4_layers": 2, "d_state": 4, "causal": True}
    return kind(**(sizes | options)).eval()


@pytest.mark.parametrize("options", [{"prenorm": False}, {"pgc_residual": False}, {"pgc_kernel_size": 4}], ids=str)
@pytest.mark.parametrize("pool", ["mean", "max", "first"])
def test_steps_are_the_forward_of_the_prefix(pool, options):
    model, ids = make(pool=pool, **options), torch.randint(5, (3, 20))
    ids[0, 3] = -1
    state, features = model.initial_state(3), F.one_hot(ids.clamp(min=0), 5).float() * (ids >= 0).unsqueeze(-1)
    other = model.initial_state(3)
    for t in range(20):
        y, state = model.step(ids[:, t], state)
        z, other = model.step(features[:, t], other)
        wanted = model(ids[:, : t + 1])
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-5)
    assert state.tokens == 20


@pytest.mark.parametrize(
    "dtype, bound", [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)], ids=str
)
def test_each_token_is_labelled(dtype, bound):
    model, ids = make(LyraForTokenClassification).to(dtype), torch.randint(5, (2, 15))
    state, found = model.initial_state(2), []
    for token in ids.unbind(1):
        y, state = model.step(token, state)
        found.append(y)
    error = (torch.stack(found, 1) - model(ids)).double().norm() / model(ids).double().norm()
    assert error < bound and y.dtype == dtype


def test_gradients_go_through_the_steps():
    model, ids = make().double(), torch.randint(5, (2, 7))
    state = model.initial_state(2)
    for token in ids.unbind(1):
        y, state = model.step(token, state)
    parameters = list(model.parameters())
    found = torch.autograd.grad(y.sin().sum(), parameters)
    for a, b in zip(found, torch.autograd.grad(model(ids).sin().sum(), parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_models_that_cannot():
    for options in ({"causal": False}, {"causal": False, "bidirectional": True, "num_pgc_layers": 0}):
        with pytest.raises(ValueError, match="a model that is not causal has no state"):
            make(**options).initial_state(1)
    model = make(num_pgc_layers=0, causal=False)  # S4D alone looks only backwards
    assert model.step(torch.tensor([1]), model.initial_state(1))[0].shape == (1, 2)
    with pytest.raises(ValueError, match=r"x must be token ids \(B,\) or features \(B, 5\), got \(1, 2, 5\)"):
        model.step(torch.zeros(1, 2, 5), model.initial_state(1))
    state = model.initial_state(2)
    with pytest.raises(ValueError, match=r"one of \(2, 8\) \(B, d_model\), x and the model need \(1, 8\)"):
        make(num_pgc_layers=0, num_s4_layers=0).step(torch.tensor([1]), state._replace(s4=()))
    with pytest.raises(ValueError, match="it has 0 PGC layers and 2 S4D layers, this model has 2 and 2"):
        make().step(torch.tensor([1, 2]), state)
    with pytest.raises(TypeError, match=r"state must be a LyraState, of .* not tuple"):
        model.step(torch.tensor([1, 2]), tuple(state))
    model.s4_layers[0] = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity, which stands in the place of a S4D, has no initial_state"):
        model.initial_state(1)


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
@pytest.mark.parametrize("pool", ["mean", "max", "first"])
def test_pieces_of_any_length(kind, pool):
    """The prediction after each piece is that for the tokens so far, and a token classifier's the piece's own."""
    model, ids = make(kind, pool=pool).double(), torch.randint(5, (2, 40))
    state, at = None, 0
    for length in (0, 1, 7, 0, 2, 30):
        y, h, state = model(
            ids[:, at : at + length], return_embeddings=True, initial_state=state, return_final_state=True
        )
        at += length
        wanted, embeddings = model(ids[:, :at], return_embeddings=True)
        tokens = kind is LyraForTokenClassification
        torch.testing.assert_close(y, wanted[:, at - length :] if tokens else wanted)
        torch.testing.assert_close(h, embeddings[:, at - length :])
    assert state.tokens == 40
    assert torch.equal(model(ids[:, 39:], initial_state=state), model(ids[:, 39:], initial_state=state))


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
def test_a_long_sequence_in_pieces(kind):
    """100,000 tokens: no further from the whole in float64 than the whole in float32 is."""
    model, ids = make(kind, num_s4_layers=1), torch.randint(5, (1, 100_000))
    with torch.no_grad():
        exact = make(kind, num_s4_layers=1).double()(ids)
        whole, found, state = model(ids), [], None
        for piece in ids.split([1, 4_999, 30_000, 17, 64_983], dim=1):
            y, state = model(piece, initial_state=state, return_final_state=True)
            found.append(y)
    y = torch.cat(found, 1) if kind is LyraForTokenClassification else y
    errors = [(x.double() - exact).norm() / exact.norm() for x in (y, whole)]
    assert errors[0] < 2 * errors[1] + 1e-7 and errors[0] < 1e-5


def test_pieces_that_are_refused():
    model, ids = make(), torch.randint(5, (2, 9))
    _, state = model(ids, return_final_state=True)
    for batch in ({"lengths": [9, 3]}, {"cu_seqlens": [0, 9]}):
        with pytest.raises(ValueError, match="leave lengths and cu_seqlens out"):
            model(ids[:1] if "cu_seqlens" in batch else ids, initial_state=state, **batch)
    with pytest.raises(ValueError, match=r"call initial_state\(1\) before the first token"):
        model(ids[:1], initial_state=state)
    with pytest.raises(ValueError, match="a model that is not causal has no state"):
        make(causal=False)(ids, return_final_state=True)


LENGTHS = ([1] * 23, [0, 1, 0, 7, 2, 0, 13, 0], [23], [22, 1], [0] * 3 + [23])


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
@pytest.mark.parametrize("pool", ["mean", "max", "first"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_stream_of_pieces_is_the_whole(kind, pool, lengths):
    model, ids = make(kind, pool=pool).double(), torch.randint(-1, 5, (3, 23))
    whole, found = model(ids), list(model.stream(iter(ids.split(lengths, 1))))
    assert len(found) == len(lengths)
    if kind is LyraForTokenClassification:
        assert [y.shape[1] for y in found] == lengths
        torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-10)
    else:
        for y, end in zip(found, torch.tensor(lengths).cumsum(0).tolist(), strict=True):
            torch.testing.assert_close(y, model(ids[:, :end]), rtol=0, atol=1e-10)
        (last,) = model.stream(ids.split(lengths, 1), last_only=True)
        assert torch.equal(last, found[-1])


@pytest.mark.parametrize("piece_length", [1, 2, 3, 7, 100, 101, 1000, None])
@pytest.mark.parametrize("options", [{}, {"prenorm": False}, {"pgc_kernel_size": 6}, {"num_s4_layers": 0}], ids=str)
def test_a_stream_of_one_tensor_is_the_whole(piece_length, options):
    model, ids = make(LyraForTokenClassification, **options).double(), torch.randint(5, (2, 101))
    features = F.one_hot(ids, 5).double()
    for x in (ids, features):
        found = list(model.stream(x, piece_length))
        assert [y.shape[1] for y in found[:-1]] == [piece_length] * (len(found) - 1)
        torch.testing.assert_close(torch.cat(found, 1), model(ids), rtol=0, atol=1e-10)
        assert not found[0].requires_grad and torch.is_grad_enabled()
    assert [y.shape for y in model.stream(ids[:, :0])] == [(2, 0, 2)]
    (nothing,) = make().double().stream(ids[:, :0])
    torch.testing.assert_close(nothing, make().double()(ids[:, :0]))


def test_a_stream_reads_a_piece_when_its_prediction_is_taken():
    model, taken = make(), []

    def pieces():
        for at in range(3):
            taken.append(at)
            yield torch.full((1, 4), at)

    stream = model.stream(pieces())
    assert taken == []
    for at in range(3):
        next(stream)
        assert taken == list(range(at + 1)) and torch.is_grad_enabled()
    assert list(stream) == [] and list(model.stream([])) == [] == list(model.stream([], last_only=True))


def test_streams_that_are_refused():
    ids = torch.randint(5, (2, 9))
    with pytest.raises(ValueError, match=r"a model that is not causal has no state: .* build it with causal=True"):
        make(causal=False).stream(ids)  # at once, not with the first piece
    with pytest.raises(ValueError, match="last_only must be False: a token classifier"):
        make(LyraForTokenClassification).stream(ids, last_only=True)
    with pytest.raises(ValueError, match="piece_length must be None where pieces are given"):
        make().stream([ids], 3)
    with pytest.raises(ValueError, match=r"pieces must be token ids \(B, L\) or features \(B, L, 5\), got \(9,\)"):
        make().stream(ids[0])
    for length in (0, -1, 2.5):
        with pytest.raises(ValueError, match="piece_length must be"):
            make().stream(ids, length)
    with pytest.raises(ValueError, match=r"call initial_state\(1\)"):
        list(make().stream([ids, ids[:1]]))
