"""What PyTorch's counters say of every op: exact numbers, and the same however it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lyra_kernels as lk
from lyra_kernels.schemas import CONTRACTS, OPS

from . import cases

LENGTH, CHANNELS, BATCH, MODES = 32, 5, 3, 4
TOKENS = BATCH * LENGTH


def count(function: Callable[..., Any], *args: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


def by_op(function: Callable[..., Any], *args: Any) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return {str(op): flops for op, flops in counter.get_flop_counts().get("Global", {}).items()}


def case(name: str, layout: str = "dense", length: int = LENGTH) -> cases.Case:
    torch.manual_seed(0)
    return cases.make(name, layout, batch=BATCH, length=length, channels=CHANNELS)


SCAN = TOKENS * CHANNELS * MODES * 12
KERNEL = LENGTH * CHANNELS * MODES * 12
FFT = CHANNELS * (2 * BATCH + 1) * 5 * LENGTH * 6  # 5 / 2 of 64 points, log2 of 64
TAIL = 2 * TOKENS * CHANNELS * 2 * CHANNELS
PGC = 2 * TOKENS * ((CHANNELS + 3) * 2 * CHANNELS + 3 * (CHANNELS + 3) + CHANNELS * (CHANNELS + 3))
TRIANGLE = LENGTH * (LENGTH + 1) // 2
BELOW = sum(min(LENGTH - 1 - t, LENGTH - 3) for t in range(LENGTH))

WANTED = {
    "rms_norm": (0, 0),
    "gated_conv": (2 * TOKENS * CHANNELS * 5, 4 * TOKENS * CHANNELS * 5),
    "gated_conv-causal": (2 * TOKENS * CHANNELS * 4, 4 * TOKENS * CHANNELS * 4),
    "pgc": (PGC, 2 * PGC),
    "pgc-causal": (PGC, 2 * PGC),
    "gelu_glu": (TAIL, 2 * TAIL),
    "s4d_kernel": (KERNEL, 2 * KERNEL),
    "causal_conv": (2 * BATCH * CHANNELS * (TRIANGLE + BELOW), 4 * BATCH * CHANNELS * (TRIANGLE + BELOW)),
    "fft_conv": (FFT, FFT),
    "gated_fft_conv": (FFT, FFT),
    "short_conv": (2 * TOKENS * CHANNELS * 4, 4 * TOKENS * CHANNELS * 4),
    "s4d_conv-scan": (SCAN, 2 * SCAN),
    "s4d_conv-scan-state": (SCAN, 2 * SCAN),
    "s4d_conv-scan-bidirectional": (2 * SCAN, 4 * SCAN),
    "s4d_fft": (KERNEL + FFT, 2 * KERNEL + FFT),
    "s4d_fft-bidirectional": (2 * KERNEL + FFT, 4 * KERNEL + FFT),
    "s4d_conv-fft": (KERNEL + FFT, 2 * KERNEL + FFT),
    "s4d_block": (SCAN + TAIL, 2 * (SCAN + TAIL)),
}


@pytest.mark.parametrize("name", WANTED)
def test_forward_and_backward(name):
    for layout in ("dense", "padded") if name not in cases.WITHOUT_LAYOUT else ("dense",):
        leaves = case(name, layout).leaves()
        outputs: list[Tensor] = []
        assert count(lambda leaves=leaves, outputs=outputs: outputs.extend(leaves())) == WANTED[name][0]
        total = sum(o.sum() for o in outputs)
        assert count(total.backward) == WANTED[name][1]


@pytest.mark.parametrize("name", ["pgc", "s4d_conv-scan-state", "s4d_block", "causal_conv", "fft_conv"])
def test_packed_sequences_count_as_the_mean_one(name):
    given = case(name, "packed")
    given = cases.replace(given, tensors={**given.tensors})
    tokens = LENGTH * 2
    sizes = torch.tensor([0, tokens // 4, tokens // 2, tokens // 2, tokens])  # 4 sequences
    dense = cases.make(name, batch=4, length=tokens // 4, channels=CHANNELS)
    u = next(iter(given.tensors))
    tensors = {**dense.tensors, u: dense.tensors[u].reshape(1, tokens, -1)}
    options = {**dense.options, "cu_seqlens": sizes}
    assert count(lambda: given.function(**tensors, **options)) == count(dense)


def test_every_op_has_a_formula():
    with FlopCounterMode(display=False) as counter:
        assert {getattr(torch.ops.lyra, name) for name in OPS} <= set(counter.flop_registry)
    assert set(lk.flop_formulas()) == {f"lyra::{name}" for name in OPS}
    covered = {name.removeprefix("lyra.") for given in WANTED for name in by_op(case(given).leaves())}
    assert covered == set(CONTRACTS)


@pytest.mark.parametrize("name", [name for name in WANTED if "fft" not in name and name != "causal_conv"])
def test_twice_the_length_is_twice_the_work(name):
    assert count(case(name, length=2 * LENGTH)) == 2 * count(case(name))


def test_a_pgc_is_its_projections_and_its_convolution():
    """By PyTorch's own count of these modules, and of their gradients but for the convolution's weight.

    There it counts a depthwise convolution as a dense one, all channels by all.
    """
    layer, x = lk.PGC(64), torch.randn(2, 100, 64, requires_grad=True)
    y = layer(x)
    parts = [(nn.Linear(64, 128), (2, 100, 64)), (nn.Linear(64, 64), (2, 100, 64))]
    conv = nn.Conv1d(64, 64, 3, padding=1, groups=64)
    forward = count(conv, torch.randn(2, 64, 100))
    backward = 2 * forward
    for part, shape in parts:
        forward += count(part, torch.randn(shape))
        out = part(torch.randn(shape, requires_grad=True))
        backward += count(lambda out=out: out.sum().backward())
    assert count(layer, x) == forward == 2 * 200 * (64 * 128 + 64 * 64 + 64 * 3)
    assert count(lambda: y.sum().backward()) == backward


def test_layers_name_their_modules():
    model = nn.Sequential(lk.PGC(8), lk.S4D(8, transposed=False))
    with FlopCounterMode(display=False, depth=3) as counter:
        model(torch.randn(2, 10, 8))
    counts = counter.get_flop_counts()
    assert sum(counts["Sequential.0"].values()) == 2 * 20 * (8 * 16 + 8 * 8 + 8 * 3)
    assert sum(counts["Sequential.1"].values()) + sum(counts["Sequential.0"].values()) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["pgc", "s4d_conv-scan-state", "fft_conv"])
def test_the_same_however_it_is_called(name):
    """Without values, compiled, exported; and by the formulas themselves."""
    given = case(name)
    wanted = by_op(given)
    assert by_op(given.to("meta")) == wanted
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert by_op(given.map(mode.from_tensor)) == wanted
    compiled = torch.compile(given, backend="aot_eager")
    compiled(*given.values)
    assert by_op(compiled, *given.values) == wanted

    class Call(nn.Module):
        def forward(self, *values: Tensor) -> Any:
            return given(*values)

    assert by_op(torch.export.export(Call(), given.values).module(), *given.values) == wanted


def test_checkpointing_counts_what_it_computes_again():
    leaves = case("pgc").leaves()

    def run() -> None:
        y = torch.utils.checkpoint.checkpoint(leaves, *leaves.values, use_reentrant=False)
        y[0].sum().backward()

    assert count(run) == 4 * PGC


def test_formulas_read_shapes_alone():
    formula = lk.flop_formulas()["lyra::rms_norm_backward"]
    x = torch.empty(2, 3, device="meta")
    assert formula(x, x, None, 1e-8) == 0
    projection = torch.empty(6, 3, device="meta")
    y = torch.empty(2, 5, 3, device="meta")
    assert lk.flop_formulas()["lyra::gelu_glu"](y, projection, None, None, None, None, None) == 2 * 10 * 6 * 3
