"""Launches that are remembered: what Triton would compile anew for is never taken for one of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import BaseBackend
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction, native_specialize_impl

from lyra_kernels.backends.triton import _autotune, _direct, _launch

from ..counts import python_calls

pytestmark = pytest.mark.interpreter


def a_kernel(x, weight, L, C, eps, HAS_WEIGHT, X):
    pass


class _Compiled(CompiledKernel):
    """Writes down what its launcher is given."""

    def __init__(self, calls: list) -> None:
        self.calls, self.function, self.packed_metadata = calls, "function", "metadata"

    @property
    def run(self) -> Any:
        return lambda *given: self.calls.append(given)


class _Kernel(JITFunction):
    """Counts what Triton is asked for; `calls` are launches past it."""

    def __init__(self) -> None:
        super().__init__(a_kernel, do_not_specialize=["L"])
        self.resolved: list = []
        self.calls: list = []

    def run(self, *values: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        self.resolved.append((values, grid, options))
        return _Compiled(self.calls)


class _Driver:
    @staticmethod
    def get_current_stream(device: int) -> str:
        return f"stream of {device}"


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """Tensors say that they are on the card that is the current one."""
    monkeypatch.setattr(Tensor, "get_device", lambda x: 3)
    monkeypatch.setattr(_direct, "current_device", lambda: 3)
    monkeypatch.setattr(_direct.driver, "_active", _Driver())
    monkeypatch.setattr(_direct, "_kernels", {})


@pytest.fixture
def kernel():
    return _Kernel()


BUFFER = torch.zeros(64)
CONFIG = _launch.Config({"X": 32}, 4, 2)
USUAL = {"x": BUFFER, "weight": BUFFER[16:], "L": 5, "C": 7, "eps": 1e-8}


def launch(kernel, changes=None, constants=None, configs=(CONFIG,), grid=lambda c: (3, 2)):
    _launch.launch(kernel, grid, {**USUAL, **(changes or {})}, {"HAS_WEIGHT": True, **(constants or {})}, configs)


def test_the_second_launch_is_direct(kernel):
    launch(kernel)
    assert kernel.resolved == [
        ((*USUAL.values(), True, 32), (3, 2), {"num_warps": 4, "num_stages": 2}),
    ]
    launch(kernel, {"x": BUFFER[4:], "L": 6, "C": 9, "eps": 0.5}, grid=lambda c: (c.blocks["X"],))
    (given,) = kernel.calls
    assert given[:9] == (32, 1, 1, "stream of 3", "function", "metadata", None, None, None)
    assert given[9].data_ptr() == BUFFER[4:].data_ptr() and given[11:] == (6, 9, 0.5, True, 32)
    assert len(kernel.resolved) == 1


def test_arguments_come_in_the_kernels_order(kernel):
    args = {"weight": BUFFER, "eps": 1.0, "C": 3, "x": None, "L": 2}
    for _ in range(2):
        _launch.launch(kernel, lambda c: (1,), args, {"HAS_WEIGHT": False}, [CONFIG])
    (given,) = kernel.calls
    assert given[9:] == (None, args["weight"], 2, 3, 1.0, False, 32) == kernel.resolved[0][0]


SAME = [
    {"L": 1},
    {"L": 16},
    {"L": 2**31 - 1},
    {"C": 9},
    {"eps": 0.0},
    {"eps": 1.0},
    {"x": torch.zeros(3)},
    {"x": torch.nn.Parameter(torch.zeros(3))},
    {"x": BUFFER[20:]},
    {"x": BUFFER[:0]},
]
OTHER = [
    {"L": 2**31},
    {"L": -(2**31) - 1},
    {"C": 1},
    {"C": 16},
    {"C": 0},
    {"C": 2**31 + 1},
    {"C": 2**31},
    {"x": BUFFER[1:]},
    {"x": BUFFER.half()},
    {"x": BUFFER.long()},
    {"x": None},
    {"weight": None},
    {"weight": BUFFER[17:]},
    {"C": True},
    {"C": False},
    {"C": 7.0},
    {"C": None},
    {"eps": 1},
]


@pytest.mark.parametrize("changes", SAME, ids=repr)
def test_the_same_compiled_kernel(kernel, changes):
    launch(kernel)
    launch(kernel, changes)
    assert len(kernel.resolved) == len(kernel.calls) == 1


@pytest.mark.parametrize("changes", OTHER, ids=repr)
def test_another_compiled_kernel(kernel, changes):
    for _ in range(2):
        launch(kernel)
        launch(kernel, changes)
    assert len(kernel.resolved) == len(kernel.calls) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"constants": {"HAS_WEIGHT": False}},
        {"constants": {"HAS_WEIGHT": 1}},
        {"constants": {"HAS_WEIGHT": "tf32"}},
        {"configs": [_launch.Config({"X": 64}, 4, 2)]},
        {"configs": [_launch.Config({"X": 32}, 8, 2)]},
        {"configs": [_launch.Config({"X": 32}, 4, 3)]},
    ],
    ids=repr,
)
def test_other_constants_and_options(kernel, options):
    for _ in range(2):
        launch(kernel)
        launch(kernel, **options)
    assert len(kernel.resolved) == len(kernel.calls) == 2


def test_another_kernel():
    first, second = _Kernel(), _Kernel()
    launch(first)
    launch(second)
    assert len(first.resolved) == len(second.resolved) == 1 and not second.calls


class _Other(Tensor):
    pass


@pytest.mark.parametrize("changes", [{"C": 2**63}, {"C": "text"}, {"x": BUFFER.as_subclass(_Other)}], ids=repr)
def test_what_is_not_known_is_for_triton(kernel, changes):
    for _ in range(3):
        launch(kernel, changes)
    assert len(kernel.resolved) == 3 and not kernel.calls


def test_tensors_on_another_card(kernel, monkeypatch):
    launch(kernel)
    monkeypatch.setattr(_direct, "current_device", lambda: 0)
    launch(kernel)
    assert len(kernel.resolved) == 2


def test_tensors_in_main_memory_ask_for_no_card(kernel, monkeypatch):
    monkeypatch.setattr(Tensor, "get_device", lambda x: -1)
    monkeypatch.setattr(_direct, "current_device", lambda: pytest.fail("asked"))
    launch(kernel)
    launch(kernel)
    assert len(kernel.resolved) == 2


VALUES = [
    *(None, True, False, 0.0, 1.0, 1e-8, 0, 1, 2, 15, 16, 17, 32, -1, -16, 2**31 - 1, 2**31, 2**31 + 16, -(2**31) - 1),
    *(2**40, 2**62, 2**62 + 1, -(2**62)),
    *(BUFFER.to(t)[i:] for i in (0, 1, 8, 16) for t in (torch.float32, torch.float16, torch.bfloat16, torch.float64)),
    *(BUFFER.to(t)[i:] for i in (0, 1, 8, 16) for t in (torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool)),
]


@pytest.mark.parametrize("name, specialized", [("C", True), ("L", False)])
def test_keys_differ_where_triton_specializes(kernel, name, specialized):
    """Pair by pair, by Triton's own function."""
    keys = [_direct.key(kernel, {"x": BUFFER, name: value}, {}, [CONFIG]) for value in VALUES]
    kinds = [native_specialize_impl(BaseBackend, value, False, specialized, True) for value in VALUES]
    assert None not in keys
    for (a, this), (b, that) in itertools.combinations(zip(keys, kinds, strict=True), 2):
        if this != that:
            assert a != b, (this, that)
        elif this[0] != "u1" and (specialized or this[0][0] != "*"):  # where there may be more keys than kernels
            assert a == b, (this, that)


def test_whoever_watches_launches_sees_them(kernel, monkeypatch):
    launch(kernel)
    hook = lambda *_: None  # noqa: E731
    chain = knobs.HookChain()
    chain.add(hook)
    for owner, attribute, value in (
        (knobs.runtime, "launch_enter_hook", chain),
        (knobs.runtime, "launch_exit_hook", hook),
        (knobs.runtime, "debug", True),
        (knobs.compilation, "instrumentation_mode", "x"),
        (kernel, "pre_run_hooks", [hook]),
    ):
        before = len(kernel.resolved)
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, value)
            launch(kernel)
            launch(kernel, {"x": None})
        assert len(kernel.resolved) == before + 2 and not kernel.calls, attribute
        knobs.compilation.__dict__.pop("instrumentation_mode", None)
    launch(kernel)
    assert len(kernel.calls) == 1
    launch(kernel, {"x": None})  # nothing was remembered under a hook
    assert len(kernel.calls) == 1
    with _launch.in_place_of_launches(lambda *_: None):
        launch(kernel)
    assert len(kernel.calls) == 1


def test_grids(kernel):
    launch(kernel, grid=lambda c: (0, 2))
    assert not kernel.resolved
    launch(kernel)
    launch(kernel, grid=lambda c: (3, 0))
    assert not kernel.calls
    with pytest.raises(ValueError, match="beyond a card's, which ends at 65535 in y and z"):
        launch(kernel, grid=lambda c: (1, 1, 65536))
    launch(kernel, grid=lambda c: (2**20, 65535, 3))
    assert kernel.calls[0][:3] == (2**20, 65535, 3)


def test_a_wrong_name_is_an_error_after_a_right_launch(kernel):
    launch(kernel)
    with pytest.raises(TypeError, match="not its own: gone"):
        launch(kernel, {"gone": 1})
    with pytest.raises(TypeError, match="given twice: HAS_WEIGHT"):
        launch(kernel, {"HAS_WEIGHT": True})


def test_memory_has_a_bound(kernel, monkeypatch):
    monkeypatch.setattr(_direct, "MOST_LAUNCHES", 3)
    for constant in range(10):
        launch(kernel, constants={"HAS_WEIGHT": constant})
    assert len(_direct._kernels[id(kernel)].launches) <= 3


FIRST, SECOND = CONFIG, _launch.Config({"X": 64}, 8)


class _Choice:
    """Stands in for what times configurations."""

    def __init__(self, monkeypatch):
        self.asked, self.best, self.on = [], 1, True
        monkeypatch.setattr(_autotune, "enabled", lambda device: self.on)
        monkeypatch.setattr(_autotune, "fastest", self.fastest)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def fastest(self, what, device, configs, run):
        self.asked.append(what)
        return configs[self.best]


@pytest.fixture
def choice(monkeypatch):
    return _Choice(monkeypatch)


def test_the_choice_is_remembered_with_the_launch(kernel, choice):
    for _ in range(3):
        launch(kernel, configs=[FIRST, SECOND], grid=lambda c: (c.blocks["X"],))
    assert len(choice.asked) == 1 and kernel.resolved[0][1:] == ((64,), {"num_warps": 8, "num_stages": 2})
    assert [call[0] for call in kernel.calls] == [64, 64] and kernel.calls[0][-1] == 64


def test_the_choice_is_asked_for_where_it_may_be_another(kernel, choice, monkeypatch):
    both = [FIRST, SECOND]
    launch(kernel, configs=both)
    for changes in ({"L": 8}, {"L": 7}, {"eps": 1.0}):  # of the same power of two
        launch(kernel, changes, configs=both)
    assert len(choice.asked) == 1 and len(kernel.calls) == 3
    for changes in ({"L": 9}, {"C": 9}, {"x": BUFFER.half()}):
        launch(kernel, changes, configs=both)
    launch(kernel, constants={"HAS_WEIGHT": False}, configs=both)
    launch(kernel, configs=[SECOND, FIRST])
    assert len(choice.asked) == 6 and len(kernel.calls) == 3


def test_deterministic_algorithms_take_the_first_configuration(kernel, choice, monkeypatch):
    launch(kernel, configs=[FIRST, SECOND])
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    choice.on = False
    for _ in range(2):
        launch(kernel, configs=[FIRST, SECOND])
    assert kernel.resolved[-1][0][-1] == kernel.calls[-1][-1] == 32
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    launch(kernel, configs=[FIRST, SECOND])
    assert kernel.calls[-1][-1] == 64 and len(kernel.resolved) == 2


def test_a_capture_settles_nothing(kernel, choice, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(2):
        launch(kernel, configs=[FIRST, SECOND])
    assert len(choice.asked) == 2 and not kernel.calls
    launch(kernel, {"C": 8}, configs=[FIRST])
    launch(kernel, {"C": 8}, configs=[FIRST])
    assert len(kernel.calls) == 1


def test_python_calls_of_a_launch(kernel, choice):
    """Of which two are this test's, and five the card's that stands in."""
    assert python_calls(lambda: launch(kernel)) <= 12
    assert python_calls(lambda: launch(kernel, configs=[FIRST, SECOND])) <= 14


def test_what_triton_is_used_here_has_these_names():
    """The launcher is called as Triton's own `run` calls it."""
    assert triton.__version__.startswith(_direct.VERSIONS), "is the launcher still called so, and for the same kernels?"
    names = {"run", "launch_metadata", "function", "packed_metadata", "launch_enter_hook", "launch_exit_hook"}
    assert names <= set(JITFunction.run.__code__.co_names)
