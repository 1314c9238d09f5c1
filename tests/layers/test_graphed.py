"""`lyra_kernels.graphed`: on a card against plain calls; on a pretended one with a stand-in for torch's recorder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lyra_kernels as lk
from lyra import Lyra, LyraBothStrands, LyraForTokenClassification
from lyra_kernels.graphs import CaptureError, Graphed

from ..card import pretended_card

SMALL = {"d_input": 5, "d_model": 8, "num_pgc_layers": 1, "num_s4_layers": 1, "d_state": 6}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "rms_norm": lambda: lk.RMSNorm(8),
    "pgc": lambda: lk.PGC(8),
    "s4d": lambda: lk.S4D(8, d_state=6, transposed=False),
    "s4d-bidirectional": lambda: lk.S4D(8, d_state=6, transposed=False, bidirectional=True),
    "s4d-fft": lambda: lk.S4D(8, d_state=6, transposed=False, algorithm="fft"),
    "s4d-direct": lambda: lk.S4D(8, d_state=6, transposed=False, algorithm="direct"),
    "lyra": lambda: Lyra(**SMALL),
    "lyra-tokens": lambda: LyraForTokenClassification(**SMALL, d_output=3),
    "lyra-both-strands": lambda: LyraBothStrands(**SMALL),
}
LAYOUTS = ("dense", "padded", "packed")
on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: CUDA graphs are recorded on one")


class Recorded:
    """What torch.cuda.make_graphed_callables gives, without a card: buffers that each call reads and overwrites."""

    made = 0

    def __init__(self, call: nn.Module, sample: tuple[Tensor, ...], **options: Any) -> None:
        assert options["allow_unused_input"] and not torch.is_autocast_enabled("cuda")
        type(self).made += 1
        self.sample, self.parameters = sample, tuple(call.parameters())
        self.training = call.training
        for _ in range(3):
            out = call(*sample)
        leaves, self.spec = pytree.tree_flatten(out)
        self.static = [x.detach().clone() for x in leaves]
        self.gradients: list[Tensor] = []
        self.call = call

    def __call__(self, *given: Tensor) -> Any:
        recorded = self

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
                with torch.no_grad():
                    for own, x in zip(recorded.sample, inputs, strict=False):
                        own.copy_(x)
                with torch.enable_grad() if torch.is_grad_enabled() else contextlib.nullcontext():
                    recorded.alive = pytree.tree_leaves(recorded.call(*recorded.sample))
                for own, x in zip(recorded.static, recorded.alive, strict=True):
                    own.copy_(x.detach())
                return tuple(x.detach() for x in recorded.static)

            @staticmethod
            def backward(ctx: Any, *grads: Tensor) -> Any:
                wanted = [x for x in (*recorded.sample, *recorded.parameters) if x.requires_grad]
                with torch.enable_grad():
                    alive = pytree.tree_leaves(recorded.call(*recorded.sample))  # what the last forward has left
                found = torch.autograd.grad(alive, wanted, grads, allow_unused=True)
                if not recorded.gradients:
                    recorded.gradients = [torch.zeros_like(x) for x in wanted]
                for own, x in zip(recorded.gradients, found, strict=True):
                    own.zero_() if x is None else own.copy_(x)
                given = iter(recorded.gradients)
                return tuple(
                    next(given).detach() if x.requires_grad else None for x in (*recorded.sample, *recorded.parameters)
                )

        with torch.enable_grad() if torch.is_grad_enabled() else contextlib.nullcontext():
            out = Replay.apply(*given, *self.parameters)
        return pytree.tree_unflatten(list(out), self.spec)


@pytest.fixture
def recorder() -> Iterator[type[Recorded]]:
    """Recording works on the CPU, and models there count as being on a card."""
    Recorded.made = 0

    @contextlib.contextmanager
    def fork(devices: Any) -> Iterator[None]:
        state = torch.get_rng_state()
        yield
        torch.set_rng_state(state)

    with contextlib.ExitStack() as stack:
        for where, name, other in (
            (torch.cuda, "make_graphed_callables", Recorded),
            (torch.cuda, "graph_pool_handle", lambda: (0, 1)),
            (torch.cuda, "current_stream", lambda device: None),
            (torch.cuda, "set_stream", lambda stream: None),
            (torch.cuda, "device", lambda device: contextlib.nullcontext()),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (torch.random, "fork_rng", fork),
            (lk.graphs, "_on_card", lambda model: True),
        ):
            stack.enter_context(mock.patch.object(where, name, other))
        yield Recorded


def arguments(module: nn.Module, layout: str, length: int = 20, device: str = "cpu") -> dict[str, Tensor]:
    """The input, and `lengths` or `cu_seqlens`."""
    batch, tokens = (1, 2 * length) if layout == "packed" else (2, length)
    shape = (batch, tokens) if isinstance(module, Lyra) else (batch, tokens, 8)
    x = torch.randint(5, shape) if isinstance(module, Lyra) else torch.randn(shape)
    given = {"x" if isinstance(module, (Lyra, lk.RMSNorm)) else "u": x}
    if layout == "padded":
        given["lengths"] = torch.tensor([length, 3])
    if layout == "packed":
        given["cu_seqlens"] = torch.tensor([0, 5, 2 * length])
    return {name: value.to(device) for name, value in given.items()}


def step(module: Any, given: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    y = module(**given)
    wanted = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(y.sin().sum(), wanted, allow_unused=True, materialize_grads=True)
    return y.detach(), tuple(g.clone() for g in gradients)


def assert_same(found: Any, wanted: Any, **bounds: float) -> None:
    torch.testing.assert_close(found[0], wanted[0], **bounds)
    for a, b in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(a, b, **bounds)


@pytest.mark.parametrize("name", ["pgc", "s4d", "lyra", "lyra-tokens"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_replays_take_the_values_of_their_call(name, layout, recorder):
    module = MODULES[name]().eval()
    calls = [arguments(module, layout) for _ in range(3)]
    fast = lk.graphed(module, (), calls[0])
    for given in calls:
        assert_same(step(fast, given), step(module, given))
    assert recorder.made == 1


def test_a_graph_for_each_signature_up_to_the_most(recorder):
    layer = lk.PGC(8)
    x = torch.randn(2, 9, 8)
    fast = lk.graphed(layer, x, max_graphs=3)
    assert recorder.made == 1
    fast(x)
    fast(x[:, :5])
    assert recorder.made == 2
    layer.eval()
    fast(x)
    assert recorder.made == 3
    with torch.no_grad():
        torch.testing.assert_close(fast(x), layer(x))
    fast(torch.randn(3, 9, 8))
    fast(x, lengths=torch.tensor([9, 2]))
    assert recorder.made == 3, "what is beyond the most runs as usual"


def test_arguments_that_are_no_tensors_are_part_of_the_signature(recorder):
    model = Lyra(**SMALL).eval()
    x = torch.randint(5, (2, 9))
    with torch.no_grad():
        fast = lk.graphed(model, (x,), {"lengths": None})
        torch.testing.assert_close(fast(x, lengths=None), model(x))
        torch.testing.assert_close(fast(x, True), model(x, True))
        fast(x, return_embeddings=True)
        assert recorder.made == 3
        torch.testing.assert_close(fast(x, lengths=[9, 4]), model(x, lengths=[9, 4]))
    assert recorder.made == 3, "a list is copied to the card by each call"


def test_no_call_overwrites_what_another_one_gave(recorder):
    layer = lk.PGC(8)
    a, b = torch.randn(2, 2, 9, 8).unbind()
    fast = lk.graphed(layer, a)
    first = fast(a)
    first.sum().backward()
    fast(b).sum().backward()
    torch.testing.assert_close(first, layer(a))


def test_a_forward_before_the_backward_of_another_one(recorder):
    """As with two calls of a model in one loss, whose first backward needs what the second call would overwrite."""
    layer = lk.PGC(8)
    a, b = torch.randn(2, 2, 9, 8).unbind()
    fast = lk.graphed(layer, a)
    wanted = torch.autograd.grad(layer(a).sin().sum() * layer(b).cos().sum(), list(layer.parameters()))
    found = torch.autograd.grad(fast(a).sin().sum() * fast(b).cos().sum(), list(layer.parameters()))
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y)
    fast(a)  # whose output nobody takes: nothing waits for its backward
    assert not fast._gradients.awaited()


@pytest.mark.parametrize("to_none", [False, True])
def test_gradients_add_up(recorder, to_none):
    """Replays write gradients to the same place each time, which may have become a parameter's grad."""
    layer = lk.PGC(8)
    parameters = list(layer.parameters())
    fast = lk.graphed(layer, torch.randn(2, 9, 8))
    for round in range(3):
        for p in parameters:
            if to_none or p.grad is None:
                p.grad = None
            else:
                p.grad.zero_()
        wanted = [torch.zeros_like(p) for p in parameters]
        for length in (9, 9, 5, 9):
            u = torch.randn(2, length, 8)
            fast(u).sin().sum().backward()
            gradients = torch.autograd.grad(layer(u).sin().sum(), parameters)
            for total, gradient in zip(wanted, gradients, strict=True):
                total += gradient
        for p, total in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(p.grad, total, msg=f"round {round}")


def test_the_input_gets_its_gradient(recorder):
    layer = lk.PGC(8)
    u = torch.randn(2, 9, 8, requires_grad=True)
    fast = lk.graphed(layer, u)
    found = torch.autograd.grad(fast(u).sin().sum(), u)[0].clone()
    torch.testing.assert_close(found, torch.autograd.grad(layer(u).sin().sum(), u)[0])
    assert recorder.made == 1
    fast(u.detach())
    assert recorder.made == 2


def test_parameters_may_change_but_not_move(recorder):
    layer = lk.PGC(8)
    u = torch.randn(2, 9, 8)
    fast = lk.graphed(layer, u)
    layer.load_state_dict(lk.PGC(8).state_dict())
    torch.testing.assert_close(fast(u), layer(u))
    assert recorder.made == 1
    layer.double().float()
    torch.testing.assert_close(fast(u), layer(u))
    assert recorder.made == 2, "their memory is another"
    next(layer.parameters()).requires_grad_(False)
    fast(u)
    assert recorder.made == 3


def test_random_numbers_and_buffers_are_as_before(recorder):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x, before = torch.randn(8, 4), torch.get_rng_state()
    lk.graphed(model, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(model[1].num_batches_tracked) == 0


def test_the_model_is_otherwise_itself(recorder):
    model = Lyra(**SMALL)
    fast = lk.graphed(model, torch.randint(5, (2, 9)))
    assert "forward" not in vars(model), "torch replaces the forward of what it is given"
    assert fast.count_parameters() == model.count_parameters() and "Lyra" in repr(fast)
    fast.eval()
    assert not model.training
    assert fast.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(AttributeError, match="nonsense"):
        fast.nonsense  # noqa: B018


def test_calls_come_before_their_recording_where_that_is_asked(recorder):
    layer = lk.PGC(8)
    fast = Graphed(layer, after=2)
    for i in range(4):
        fast(torch.randn(2, 9, 8)).sum().backward()
        assert recorder.made == (i >= 2)


def test_what_cannot_be_recorded_says_why(recorder, monkeypatch):
    layer = lk.PGC(8)
    u = torch.randn(2, 9, 8)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    with pytest.raises(CaptureError, match=r"^a call with these arguments cannot be recorded: each must be a tensor"):
        lk.graphed(layer, u, {"lengths": [9, 4]})
    handle = layer.in_proj.register_forward_hook(lambda *args: None) if hasattr(layer, "in_proj") else None
    handle = handle or next(iter(layer.children())).register_forward_hook(lambda *args: None)
    with pytest.raises(CaptureError, match=r"has hooks, which a CUDA graph would run once and never again"):
        lk.graphed(layer, u)
    handle.remove()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    with pytest.raises(CaptureError, match=r"^no CUDA graph of PGC: RuntimeError: operation not permitted when stream"):
        lk.graphed(layer, u)


def test_bad_arguments():
    layer, u = lk.PGC(8), torch.randn(2, 9, 8)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, not function"):
        lk.graphed(lambda x: x, u)
    with pytest.raises(TypeError, match=r"example must be a tensor or a tuple of arguments, not list"):
        lk.graphed(layer, [u])
    with pytest.raises(ValueError, match=r"max_graphs must be an integer of at least 1, got 0"):
        lk.graphed(layer, u, max_graphs=0)


def test_without_a_card_it_is_the_model():
    layer = lk.PGC(8)
    assert lk.graphed(layer, torch.randn(2, 9, 8)) is layer


def test_tensors_elsewhere_meet_the_models_own_error():
    with pretended_card():
        layer = lk.PGC(8).to("cuda")
        fast = Graphed(layer)
        with pytest.raises(ValueError, match=r"is on cuda:0 but u is on cpu"):
            fast(torch.randn(2, 9, 8))
        with pytest.raises(CaptureError, match=r"each must be a tensor on cuda:0"):
            fast.record(torch.randn(2, 9, 8))


@on_a_card
@pytest.mark.parametrize("kind", ["triton", "cuda"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_card_graphs_give_what_plain_calls_give(name, layout, kind):
    if name == "rms_norm" and layout != "dense":
        pytest.skip("a norm looks at no lengths")
    if not lk.backends.availability()[kind][0]:
        pytest.skip(lk.backends.availability()[kind][1])
    with lk.use_backend(kind):
        module = MODULES[name]().to("cuda").eval()
        calls = [arguments(module, layout, device="cuda") for _ in range(3)]
        fast = lk.graphed(module, (), calls[0])
        for given in calls:
            assert_same(step(fast, given), step(module, given), rtol=1e-5, atol=1e-5)
        with torch.inference_mode():
            torch.testing.assert_close(fast(**calls[1]), module(**calls[1]), rtol=1e-5, atol=1e-5)


@on_a_card
@pytest.mark.parametrize("kind", ["triton", "cuda"])
def test_on_a_card_training_with_dropout_and_autocast(kind):
    if not lk.backends.availability()[kind][0]:
        pytest.skip(lk.backends.availability()[kind][1])
    losses = []
    for replayed in (False, True):
        torch.manual_seed(0)
        model = Lyra(**SMALL, dropout=0.2).to("cuda").train()
        x = torch.randint(5, (16, 24), device="cuda")
        lengths, y = torch.randint(1, 25, (16,), device="cuda"), torch.randn(16, 1, device="cuda")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        with lk.use_backend(kind):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                fast = lk.graphed(model, x, {"lengths": lengths}) if replayed else model
            torch.manual_seed(1)
            for _ in range(8):
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = (fast(x, lengths=lengths).float() - y).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses.append(float(loss))
    assert abs(losses[0] - losses[1]) < 0.05 * losses[0]
