"""What a user can ask of each public function: axes derived from the kernels' own configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lyra_kernels.backends.triton import (
    causal_conv,
    fft_conv,
    gated_conv,
    gelu_glu,
    pgc,
    rms_norm,
    s4d_block,
    s4d_kernel,
    s4d_scan,
    short_conv,
)
from lyra_kernels.backends.triton._launch import next_power_of_2

from .calls import (
    ALIGNED,
    BOTH,
    EVERY,
    HUGE,
    LAYERS,
    LAYOUTS,
    STATES,
    STORED,
    TYPES,
    Op,
    edges,
    gated_limit,
    run_block,
    run_by,
    run_convolution,
    run_fft,
    run_gated_conv,
    run_gelu_glu,
    run_kernel,
    run_layer,
    run_pgc,
    run_rms_norm,
    run_scan,
    run_short_conv,
)

CHANNELS = (64, 1, 5)
"""A multiple of 16, one (which Triton makes a constant), and neither."""


def _widths(last: int) -> tuple[tuple[int, bool], ...]:
    """(taps, causal); a centred convolution has an odd number of taps."""
    return tuple((width, causal) for width in range(1, last + 1) for causal in BOTH if causal or width % 2)


def _plateaus(choice: Callable[[int], Any], last: int) -> tuple[int, ...]:
    """One size for each different choice: the last before it changes."""
    return tuple(n for n in edges(choice, last) if n == last or repr(choice(n)) != repr(choice(n + 1)))


def _s4d_ops() -> list[Op]:
    modes = edges(lambda m: (s4d_scan.configurations(m), next_power_of_2(m)), s4d_scan.MAX_MODES)
    blocks = _plateaus(s4d_scan.configurations, s4d_scan.MAX_MODES)
    points = edges(fft_conv.points, fft_conv.MAX_POINTS)
    transforms = _plateaus(fft_conv.points, fft_conv.MAX_POINTS)
    lengths = edges(lambda n: [s4d_kernel.configurations(n, back) for back in BOTH], 4096)
    chains = edges(lambda m: max(32, min(128, next_power_of_2(m))), 200)  # as s4d_kernel_backward has it
    common = {"stored": STORED, "layout": LAYOUTS}
    scan = {"stored": STORED, "states": STATES, "skip": BOTH, "rows": ("one", "many")}
    fft = {"stored": EVERY, "layout": LAYOUTS, "states": ("none", "two directions"), "skip": BOTH}
    rows = (causal_conv.CONFIG.blocks["BLOCK_R"], causal_conv.CONFIG.blocks["BLOCK_R"] + 1)
    tail = {"channels": CHANNELS, "aligned": ALIGNED}
    lags = {"stored": STORED, "reverse": BOTH, "skip": BOTH}
    taps = {**lags, "taps": ("as many", "fewer", "more", "one")}
    return [
        Op(
            "s4d_conv by scan",
            {**scan, "layout": LAYOUTS, "rows": ("one", "many", "huge"), "modes": modes, **tail},
            {**scan, "layout": ("dense", "packed"), "modes": blocks},
            run_scan,
            training=BOTH,  # which keeps states
        ),
        Op(
            "s4d_conv by FFT",
            {**fft, "points": points, "modes": (32, 1, 5, 65), **tail},
            {**fft, "points": transforms},
            run_fft,
        ),
        Op(
            "s4d_kernel",
            {"modes": chains, "length": (*lengths, HUGE), "channels": CHANNELS, "aligned": ALIGNED[::2]},
            {"length": _plateaus(lambda n: [s4d_kernel.configurations(n, back) for back in BOTH], 4096)},
            run_kernel,
        ),
        Op(
            "s4d_conv",
            {
                **common,
                "algorithm": ("auto", "direct"),
                "states": ("none", "two directions"),
                "points": (70, 3000),
                "modes": (32, 5, 65),
                **tail,
            },
            {},
            run_by,
        ),
        Op(
            "fft_conv",
            {**taps, "stored": EVERY, "layout": LAYOUTS, "points": points, "sequences": (3, 40), **tail},
            {**lags, "stored": EVERY, "layout": ("dense", "packed"), "points": transforms},
            run_convolution("fft_conv"),
        ),
        Op(
            "causal_conv",
            {**taps, "layout": LAYOUTS, "points": (100, 1, 32), "sequences": rows, **tail},
            {**lags, "sequences": rows},
            run_convolution("causal_conv"),
        ),
    ]


def _local_ops() -> list[Op]:
    """What looks at one token or its neighbours."""
    stored = tuple(TYPES)  # no products: TF32 or not is nothing to them
    flags = {"stored": stored, "layout": LAYOUTS, "bias": BOTH, "norm": BOTH}
    widths = _widths(gated_conv.MAX_WIDTH)
    wide = tuple((width, causal) for width in (3, 7, gated_conv.MAX_WIDTH) for causal in BOTH)
    channels = sorted(
        {
            size
            for width, _ in widths
            for back in BOTH
            for size in edges(lambda c: gated_conv.configurations(c, width, back), gated_limit(width))  # noqa: B023
        }
    )
    weights = dict.fromkeys(("in_bias", "in_norm", "bias", "out_bias", "out_norm"), BOTH)
    sides = edges(
        lambda n: [pgc.configurations(*both, 3, exact) for both in ((n, 1), (1, n), (128, n)) for exact in BOTH],
        pgc.MAX_CHANNELS,
    )
    blocks = _plateaus(lambda n: next_power_of_2(max(n, 16)), pgc.MAX_CHANNELS)
    most = max(c.blocks["BLOCK_T"] for c in pgc.configurations(1, 1, 3, False)) // 2
    tails = {"stored": STORED, "layout": LAYOUTS, "bias": BOTH, "mask": BOTH, "residual": BOTH}
    heads = edges(lambda c: [gelu_glu.configurations(c, back) for back in BOTH], 200)
    norms = edges(s4d_block.configurations, s4d_block.MAX_CHANNELS)
    rows = edges(lambda c: [rms_norm.configurations(c, back) for back in BOTH], rms_norm.MAX_CHANNELS)
    return [
        Op(
            "gated_conv",
            {**flags, "geometry": widths, "channels": channels, "length": (100, HUGE), "aligned": ALIGNED},
            {**flags, "geometry": widths},
            run_gated_conv,
            tiles={"geometry": wide, "channels": channels, "layout": LAYOUTS, "norm": (True,)},
        ),
        Op(
            "pgc",
            {
                "stored": STORED,
                "layout": LAYOUTS,
                **weights,
                "residual": BOTH,
                "geometry": (*_widths(9), (most, True), (most + 1, True)),
                "inner": (*sides, pgc.MAX_CHANNELS + 1),
                "outputs": (*sides, pgc.MAX_CHANNELS + 1),
                "inputs": (*CHANNELS, pgc.MAX_CHANNELS + 1),
                "length": (100, HUGE),
                "aligned": ALIGNED,
            },
            {"stored": STORED, "layout": LAYOUTS, **weights},
            run_pgc,
            tiles={"stored": STORED, "layout": LAYOUTS, "inner": blocks, "outputs": blocks},
        ),
        Op(
            "gelu_glu",
            {**tails, "first": BOTH, "channels": heads, "length": (96, 100, HUGE), "aligned": ALIGNED},
            {**tails, "channels": _plateaus(lambda c: [gelu_glu.configurations(c, back) for back in BOTH], 200)},
            run_gelu_glu,
        ),
        Op(
            "s4d_block",
            {
                **tails,
                "norm": BOTH,
                "skip": BOTH,
                "first": BOTH,
                "channels": (*CHANNELS, *norms),
                "length": (96, 100, HUGE),
                "aligned": ALIGNED,
            },
            {"stored": STORED, "layout": LAYOUTS, "residual": BOTH, "norm": (True,)},
            run_block,
            tiles={"stored": STORED, "channels": _plateaus(s4d_block.configurations, s4d_block.MAX_CHANNELS)},
        ),
        Op(
            "short_conv",
            {
                "stored": stored,
                "layout": LAYOUTS,
                "silu": BOTH,
                "bias": BOTH,
                "state": BOTH,
                "first": BOTH,
                "width": (4, 1, 2, 3, 5, short_conv.MAX_WIDTH, short_conv.MAX_WIDTH + 1),
                "channels": edges(lambda c: [short_conv.configuration(c, 4, first) for first in BOTH], 200),
                "length": (100, HUGE),
                "aligned": ALIGNED,
            },
            {"stored": stored, "layout": LAYOUTS, "silu": BOTH, "first": BOTH},
            run_short_conv,
        ),
        Op(
            "rms_norm",
            {"stored": stored, "weight": BOTH, "channels": rows, "rows": (100, HUGE), "aligned": ALIGNED},
            {"stored": stored, "weight": BOTH, "channels": rows},
            run_rms_norm,
        ),
    ]


def ops() -> list[Op]:
    """Every public function, and the layers and models made of them."""
    layers = {
        "stored": STORED,
        "layout": LAYOUTS,
        "layer": tuple(LAYERS),
        "channels": (64, 5, 160),
        "length": (100, 3000),
        "aligned": ("aligned",),
    }
    return [*_s4d_ops(), *_local_ops(), Op("layer", layers, {}, run_layer)]
