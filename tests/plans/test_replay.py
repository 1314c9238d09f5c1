"""Plans give what the ops themselves give, bit for bit, for arguments that they were not made with."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import lyra_kernels as lk
from lyra_kernels.backends.triton import IMPLEMENTATIONS, _plans

from ..ops import cases

pytest.importorskip("triton")

from .stand_in import StandIn, planned

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a stand-in for the driver, where there is none"),
    pytest.mark.skipif(not hasattr(torch.ops.lyra_plans, "replay"), reason="the native library was not built"),
]


@pytest.fixture
def card(driver) -> Iterator[StandIn]:
    with planned(driver) as card:
        yield card


@pytest.fixture
def poisoned() -> Iterator[None]:
    """All that torch allocates is NaN at first, in a plan too."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def training(case: cases.Case, cotangents: tuple[Tensor, ...]) -> list[Tensor]:
    outputs, gradients = cases.gradients(case, cotangents)
    return [*outputs, *gradients.values()]


def other_values(case: cases.Case) -> cases.Case:
    """The same with values that no plan has seen, in other memory."""
    return case.map(lambda x: (x.double() * torch.empty(x.shape).uniform_(0.5, 1.0)).to(x.dtype))


LAYOUTS = [("gated_conv", "packed"), ("pgc", "packed"), ("pgc", "padded"), ("gelu_glu", "padded"),
           ("s4d_block", "packed"), ("s4d_conv-scan-state", "padded"),
           ("s4d_conv-scan-bidirectional", "packed")]  # fmt: skip
"""Of the cases that are not dense; in bf16."""
PLANNED = [name for name in cases.ESSENTIAL if name not in ("s4d_conv-auto", "gated_fft_conv")]
"""Of which the first left out is another one, and the products of the second are torch's."""


@pytest.mark.parametrize("name, layout", [*((name, "dense") for name in PLANNED), *LAYOUTS])
def test_bit_for_bit(name, layout, card, poisoned):
    dtype = torch.float32 if layout == "dense" else torch.bfloat16
    case = cases.make(name, layout, dtype, batch=2, length=10, channels=2)
    with torch.no_grad():
        cotangents = cases.weights_like(case())
    for _ in range(3):  # without gradients the first call was another one
        training(case, cotangents)
    new = other_values(case)
    card.direct = card.replayed = 0
    found = training(new, cotangents)
    by_plans, not_by_plans = card.replayed, card.direct
    with lk.use_backend(None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_plans.Planned, "__call__", lambda self, *args: self.function(*args))
        with lk.use_backend("triton"):
            wanted = training(new, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert by_plans and not not_by_plans
    assert by_plans == card.direct, "a plan launched more, or less, than the op"


def test_a_planned_op_says_of_itself_what_the_op_says():
    for name, launcher in IMPLEMENTATIONS.items():
        said = vars(_plans.Planned(name, launcher))
        assert said.items() >= vars(launcher).items()
    assert _plans.Planned("s4d_fft", IMPLEMENTATIONS["s4d_fft"]).why_not(torch.ones(1, 5000, 1), *[torch.ones(1)] * 3)


def calls_until_replayed(card: StandIn, call) -> int:
    """How many calls it takes."""
    for count in range(1, 7):
        card.direct = card.replayed = 0
        call()
        assert (card.direct > 0) != (card.replayed > 0)
        if card.replayed:
            return count
    return 0


def test_a_plan_is_made_at_the_second_call_of_a_signature(card):
    x, weight = torch.randn(2, 5, 16), torch.randn(16)
    assert calls_until_replayed(card, lambda: lk.rms_norm(x, weight)) == 3
    same = torch.randn(2, 5, 16), torch.randn(16)
    assert calls_until_replayed(card, lambda: lk.rms_norm(*same)) == 1
    with torch.no_grad():
        assert calls_until_replayed(card, lambda: lk.rms_norm(*same)) == 1


def shifted(*shape: int) -> Tensor:
    """Contiguous, four bytes beyond a multiple of sixteen."""
    return torch.randn(1 + torch.Size(shape).numel())[1:].view(shape)


@pytest.mark.parametrize(
    "x, weight, eps",
    [
        (torch.randn(2, 6, 16), torch.randn(16), 1e-6),
        (torch.randn(4, 5, 16), torch.randn(16), 1e-6),
        (torch.randn(2, 5, 16).bfloat16(), torch.randn(16), 1e-6),
        (shifted(2, 5, 16), torch.randn(16), 1e-6),
        (torch.randn(2, 5, 16), None, 1e-6),
        (torch.randn(2, 5, 16), torch.randn(16), 1e-5),
    ],
    ids=["length", "batch", "dtype", "alignment", "absent", "number"],
)
def test_what_differs_has_a_plan_of_its_own(x, weight, eps, card):
    known = torch.randn(2, 5, 16), torch.randn(16), 1e-6
    assert calls_until_replayed(card, lambda: lk.rms_norm(*known)) == 3
    wanted = lk.rms_norm(x.double(), None if weight is None else weight.double(), eps)
    assert calls_until_replayed(card, lambda: lk.rms_norm(x, weight, eps)) == 3
    assert cases.error(lk.rms_norm(x, weight, eps), wanted) < (1e-2 if x.dtype == torch.bfloat16 else 1e-6)


def test_one_tensor_in_two_places(card):
    """Which of the two a kernel read cannot be told then, so such calls have a plan of their own."""
    x = torch.randn(2, 5, 16)
    y, z, weight = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(32, 16)
    assert calls_until_replayed(card, lambda: lk.gelu_glu(x, weight, residual=x)) == 3
    assert calls_until_replayed(card, lambda: lk.gelu_glu(y, weight, residual=z)) == 3
    for a, b in ((y, z), (z, y), (y, y)):
        with lk.use_backend("reference"):
            wanted = lk.gelu_glu(a.double(), weight.double(), residual=b.double())
        assert cases.error(lk.gelu_glu(a, weight, residual=b), wanted) < 1e-5


MODES = (torch.full((3,), -3.0), torch.zeros(3, 2), torch.ones(3, 2), torch.randn(3, 2, 2))
TAKES_CHANNELS_FIRST = {
    "fft_conv": lambda u: lk.fft_conv(u, torch.ones(3, 7)),
    "s4d_fft": lambda u: lk.s4d_conv(u, *MODES, algorithm="fft"),
    "s4d_scan": lambda u: lk.s4d_conv(u, *MODES, algorithm="scan"),
    "gelu_glu": lambda u: lk.gelu_glu(u, torch.ones(6, 3)),
}


@pytest.mark.parametrize("call", TAKES_CHANNELS_FIRST.values(), ids=TAKES_CHANNELS_FIRST)
def test_channels_first_has_a_plan_of_its_own(call, card):
    u = torch.randn(2, 16, 3)
    first = u.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert calls_until_replayed(card, lambda: call(u)) == 3
    # In place, as autograd allows it of no view that a Function has made.
    assert calls_until_replayed(card, lambda: call(first).mul_(2.0)) == 3
    y = call(first).mul_(2.0)
    assert y.stride() == first.stride()
    assert torch.equal(y, call(u) * 2.0)


def test_tf32_has_a_plan_of_its_own(card):
    y, weight = torch.randn(2, 5, 16), torch.randn(32, 16)
    assert calls_until_replayed(card, lambda: lk.gelu_glu(y, weight)) == 3
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    try:
        assert calls_until_replayed(card, lambda: lk.gelu_glu(y, weight)) == 3
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_autocast_changes_nothing(card):
    """A backward inside of it would have products of halves, where a plan's kernels read fp32."""
    y, weight = torch.randn(2, 5, 16).requires_grad_(), torch.randn(32, 16).requires_grad_()

    def gradients(autocast: bool) -> tuple[Tensor, ...]:
        out = lk.gelu_glu(y, weight)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return torch.autograd.grad(out, [y, weight], torch.ones_like(out))

    wanted = gradients(False)
    for autocast in (True, True, True, False, True):
        assert all(torch.equal(a, b) for a, b in zip(gradients(autocast), wanted, strict=True))
    assert card.replayed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_plans.Planned, "__call__", lambda self, *args: self.function(*args))
        assert all(torch.equal(a, b) for a, b in zip(gradients(True), wanted, strict=True))


def test_what_is_still_to_be_negated(card):
    """Kernels read memory, in which it has not been."""
    x = torch.randn(2, 5, 16)
    wanted = lk.rms_norm(-x)
    for _ in range(4):
        assert torch.equal(lk.rms_norm(torch._neg_view(x)), wanted)
        assert torch.equal(lk.rms_norm(x), -wanted)


def test_whoever_watches_launches_sees_them(card):
    from lyra_kernels.backends.triton import _launch

    x = torch.randn(2, 5, 16)
    assert calls_until_replayed(card, lambda: lk.rms_norm(x)) == 3
    seen = []
    with _launch.in_place_of_launches(lambda kernel, *rest: seen.append(kernel)):
        lk.rms_norm(x)
    assert len(seen) == 1
    assert calls_until_replayed(card, lambda: lk.rms_norm(x)) == 1


def test_torch_compile_sees_no_plan(card, monkeypatch):
    """It traces a backend that was asked for, and a plan wants to know where tensors are."""
    x = torch.randn(2, 5, 16)
    assert calls_until_replayed(card, lambda: lk.rms_norm(x)) == 3
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert calls_until_replayed(card, lambda: lk.rms_norm(x)) == 0


def test_a_launch_that_fails_is_an_error_with_its_reason(card):
    x = torch.randn(2, 5, 16)
    assert calls_until_replayed(card, lambda: lk.rms_norm(x)) == 3
    card.fails = 719
    with pytest.raises(RuntimeError, match="CUDA driver error 719, the stand-in's own"):
        lk.rms_norm(x)
    card.fails = 0
    assert calls_until_replayed(card, lambda: lk.rms_norm(x)) == 1


def test_results_are_new_each_time(card):
    x = torch.randn(2, 5, 16)
    calls_until_replayed(card, lambda: lk.rms_norm(x))
    a, b = lk.rms_norm(x), lk.rms_norm(-x)
    assert a.data_ptr() != b.data_ptr()
    assert torch.equal(a, -b)
    assert not a.requires_grad and a.is_contiguous() and a._base is None


def test_more_signatures_than_are_kept():
    """Lengths may differ from batch to batch without end: what is known of them is dropped, and found out again."""
    plans = torch.ops.lyra_plans
    table, x = plans.open(), torch.zeros(600)

    def calls(length: int) -> int:
        return plans.replay(table, [x[:length]])[1]

    assert [calls(5), calls(5), calls(5)] == [1, 2, 3]
    assert all(calls(length) == 1 for length in range(6, 517))
    assert calls(5) == 4
    assert calls(599) == 1, "one too many"
    assert calls(5) == 1


def test_threads(card):
    """Each sees its own results, whoever makes the plan."""
    weight, wrong = torch.ones(16), []

    def work(k: int) -> None:
        x = torch.full((2, 5, 16), float(k))
        for _ in range(8):
            if not torch.allclose(lk.rms_norm(x, weight, eps=0.0), torch.ones(())):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    with lk.use_backend("triton"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
