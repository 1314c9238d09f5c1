"""Bad input: every public op names the argument, what it was and what it must be; extreme input simply works."""

from __future__ import annotations

import re
import sys

import pytest
import torch

import lyra_kernels as lk

from . import cases

OPS = {
    "rms_norm": "rms_norm",
    "gated_conv": "gated_conv",
    "pgc": "pgc",
    "gelu_glu": "gelu_glu",
    "s4d_kernel": "s4d_kernel",
    "s4d_conv": "s4d_conv-scan-state",
    "causal_conv": "causal_conv",
    "fft_conv": "fft_conv",
    "gated_fft_conv": "gated_fft_conv",
}
"""Each public op, and the case with all of its tensors."""


def call(op: str, changes: dict, name: str | None = None):
    case = cases.make(name or OPS[op], length=12, batch=2)
    return case.function(**{**case.tensors, **case.options, **changes})


def arguments() -> list[tuple[str, str]]:
    return [(op, key) for op, name in OPS.items() for key in cases.make(name).tensors] + [("gelu_glu", "mask")]


def _value(op: str, key: str) -> torch.Tensor:
    case = cases.make(OPS[op], length=12, batch=2)
    return {**case.tensors, **case.options}[key]


ANY_SIZE = {("rms_norm", "x"), ("s4d_kernel", "log_dt")}
"""Arguments that the sizes of others are held against."""


@pytest.mark.parametrize("op, key", arguments())
def test_not_a_tensor(op, key):
    with pytest.raises(TypeError, match=rf"^{key} must be a .*tensor.*, not list"):
        call(op, {key: [1.0, 2.0]})


@pytest.mark.parametrize("op, key", arguments())
def test_wrong_dtype(op, key):
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=rf"^{key} must be .*float.*, not {dtype}"):
            call(op, {key: _value(op, key).to(dtype)})


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.parametrize("op", [op for op in OPS if op != "s4d_kernel"])
def test_nested_tensors(op, layout):
    key = next(iter(cases.make(OPS[op]).tensors))
    x = _value(op, key)
    rows = torch.nested.nested_tensor([x[0], x[1, :3]], layout=layout)
    with pytest.raises(TypeError, match=rf"^{key} must be an ordinary tensor, not a nested one: pad it"):
        call(op, {key: rows})


def test_sparse_tensors():
    with pytest.raises(TypeError, match=r"^x must be an ordinary tensor, not one of layout torch.sparse_coo.*to_dense"):
        lk.rms_norm(torch.rand(2, 3, 7).to_sparse())


@pytest.mark.parametrize("op, key", [a for a in arguments() if a != ("rms_norm", "x")])
def test_wrong_rank(op, key):
    value = _value(op, key)
    for bad in (value.unsqueeze(0), value[0]):
        shape = re.escape(str(tuple(bad.shape))).replace(r",\)", r"\)")
        with pytest.raises(ValueError, match=rf"^{key} must have shape \(.*\).*, not {shape}$"):
            call(op, {key: bad})


def test_rms_norm_of_a_number():
    with pytest.raises(ValueError, match=r"^x must have at least one dimension"):
        lk.rms_norm(torch.tensor(1.0))


@pytest.mark.parametrize("op, key", [a for a in arguments() if a not in ANY_SIZE])
def test_wrong_size(op, key):
    """One row, one column too many; the message tells the argument or the one that it is held against."""
    value = _value(op, key)
    free = {"kernel": [1], "reverse_kernel": [1], "conv_weight": [2], "u": [0, 1], "xv": [0, 1], "y": [0, 1]}
    skip = free.get(key, [])
    if op == "pgc":
        skip = {"out_weight": [0]}.get(key, skip)
    if op in ("s4d_kernel", "s4d_conv") and key == "log_A_real":
        skip = [1]  # the number of modes: then A_imag and C disagree
    for dim in range(value.dim()):
        if dim in skip:
            continue
        bad = torch.cat([value, value.narrow(dim, 0, 1)], dim)
        with pytest.raises(ValueError, match=r"^\w+ must have (shape|an even number) .*not ") as caught:
            call(op, {key: bad})
        assert key in str(caught.value) or "to match" in str(caught.value)


@pytest.mark.parametrize("op, key", arguments())
def test_wrong_device(op, key):
    with pytest.raises(ValueError, match=r"^\w+ is on (meta|cpu) but \w+ is on (meta|cpu): move one of them"):
        call(op, {key: _value(op, key).to("meta")})


LAYOUT_ERRORS = {
    "both": (
        lambda n: {"lengths": torch.tensor([1, 2]), "cu_seqlens": torch.tensor([0, n])},
        ValueError,
        "give lengths .* or cu_seqlens .*, not both",
    ),
    "lengths-list": (
        lambda n: {"lengths": [1, 2.0]},
        TypeError,
        r"lengths must be an integer tensor or a list of integers, not \[1, 2.0\]",
    ),
    "lengths-float": (
        lambda n: {"lengths": torch.tensor([1.0, 2.0])},
        TypeError,
        "lengths must be an integer tensor, not torch.float32",
    ),
    "lengths-count": (
        lambda n: {"lengths": torch.tensor([1, 2, 3])},
        ValueError,
        r"lengths must have shape \(batch,\) = \(2,\) to match \w+, not \(3\)",
    ),
    "lengths-rank": (
        lambda n: {"lengths": torch.tensor([[1], [2]])},
        ValueError,
        r"lengths must have shape \(batch,\) = \(2,\) to match \w+, not \(2, 1\)",
    ),
    "lengths-negative": (
        lambda n: {"lengths": torch.tensor([-3, 2])},
        ValueError,
        r"lengths must lie between 0 and the length of \w+, 12; got -3",
    ),
    "lengths-long": (
        lambda n: {"lengths": torch.tensor([12, 13])},
        ValueError,
        r"lengths must lie between 0 and the length of \w+, 12; got 13",
    ),
    "lengths-device": (
        lambda n: {"lengths": torch.tensor([1, 2], device="meta")},
        ValueError,
        "lengths is on meta but .* is on cpu",
    ),
    "cu_seqlens-batch": (
        lambda n: {"cu_seqlens": torch.tensor([0, 12])},
        ValueError,
        r"with cu_seqlens \w+ must have shape \(1, tokens, channels\), not \(2, 12, \d+\)",
    ),
}
PACKED_ERRORS = {
    "descends": ([0, 7, 3, 12], "cu_seqlens must ascend; entry 2 is smaller than the one before it"),
    "begins": ([1, 12], "cu_seqlens must run from 0 to the number of tokens in .*, 12; it runs from 1 to 12"),
    "ends": ([0, 11], "cu_seqlens must run from 0 to the number of tokens in .*, 12; it runs from 0 to 11"),
    "beyond": ([0, 99], "it runs from 0 to 99"),
    "empty": ([], r"cu_seqlens must have shape \(sequences \+ 1,\), not \(0\)"),
    "rank": ([[0, 12]], r"cu_seqlens must have shape \(sequences \+ 1,\), not \(1, 2\)"),
}
WITH_LAYOUT = {"gated_conv": "gated_conv", "pgc": "pgc", "gelu_glu": "gelu_glu", "s4d_conv": "s4d_conv-scan",
               "causal_conv": "causal_conv", "fft_conv": "fft_conv"}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUT_ERRORS)
@pytest.mark.parametrize("op", WITH_LAYOUT)
def test_layouts(op, kind):
    changes, error, message = LAYOUT_ERRORS[kind]
    with pytest.raises(error, match=message):
        call(op, changes(12), WITH_LAYOUT[op])


@pytest.mark.parametrize("kind", PACKED_ERRORS)
@pytest.mark.parametrize("op", WITH_LAYOUT)
def test_packed(op, kind):
    cu_seqlens, message = PACKED_ERRORS[kind]
    case = cases.make(WITH_LAYOUT[op], length=12, batch=1)
    case.options.pop("mask", None)
    with pytest.raises(ValueError, match=message):
        case.function(**case.tensors, **{**case.options, "cu_seqlens": torch.tensor(cu_seqlens, dtype=torch.int64)})


SPECIFIC = [
    ("gated_conv", {"conv_weight": torch.randn(5, 1, 4)}, ValueError, "conv_weight has 4 taps: .* odd .*causal=True"),
    ("gated_conv", {"conv_weight": torch.randn(5, 1, 0)}, ValueError, "conv_weight has 0 taps"),
    ("gated_conv", {"conv_weight": torch.randn(5, 1, 0), "causal": True}, ValueError, "conv_weight has 0 taps"),
    ("gated_conv", {"xv": torch.randn(2, 12, 9)}, ValueError, r"xv must have an even number of channels .*, not 9"),
    ("pgc", {"conv_weight": torch.randn(8, 1, 2)}, ValueError, "conv_weight has 2 taps"),
    ("pgc", {"in_weight": torch.randn(7, 5)}, ValueError, "in_weight must have an even number of rows .*, not 7"),
    (
        "pgc",
        {"residual": torch.randn(2, 12, 4)},
        ValueError,
        r"residual must have shape .* = \(2, 12, 5\) to match u and out_weight, not \(2, 12, 4\)",
    ),
    ("s4d_kernel", {"length": -1}, ValueError, "length must be 0 or more, not -1"),
    ("s4d_kernel", {"length": 3.0}, TypeError, "length must be an integer, not float"),
    ("s4d_kernel", {"length": True}, TypeError, "length must be an integer, not bool"),
    ("s4d_kernel", {"length": "3"}, TypeError, "length must be an integer, not str"),
    ("s4d_conv", {"algorithm": "quick"}, ValueError, "algorithm must be one of auto, fft, direct, scan, not 'quick'"),
    ("s4d_conv", {"algorithm": "fft"}, ValueError, "algorithm 'fft' carries no state: use 'scan' or 'auto'"),
    ("s4d_conv", {"algorithm": "direct"}, ValueError, "algorithm 'direct' carries no state"),
    ("s4d_conv", {"bidirectional": True}, ValueError, r"C must have shape \(2, H, M, 2\)"),
    (
        "s4d_conv",
        {"bidirectional": True, "C": torch.randn(2, 5, 4, 2)},
        ValueError,
        "a bidirectional convolution has no state to carry",
    ),
    ("s4d_conv", {"C": torch.randn(2, 5, 4, 2)}, ValueError, r"C must have shape \(H, M, 2\)"),
    ("rms_norm", {"eps": "small"}, TypeError, "eps must be a number of at least 0, not 'small'"),
    ("rms_norm", {"eps": -1.0}, ValueError, "eps must be a number of at least 0, not -1.0"),
    ("gated_conv", {"eps": float("nan")}, ValueError, "eps must be a number of at least 0, not nan"),
    ("pgc", {"eps": None}, TypeError, "eps must be a number of at least 0, not None"),
    ("pgc", {"causal": "no"}, TypeError, "causal must be True or False, not 'no'"),
    ("gated_conv", {"causal": 1}, TypeError, "causal must be True or False, not 1"),
    ("s4d_conv", {"bidirectional": "yes"}, TypeError, "bidirectional must be True or False, not 'yes'"),
]


@pytest.mark.parametrize("op, changes, error, message", SPECIFIC)
def test_specific(op, changes, error, message):
    with pytest.raises(error, match=message):
        call(op, changes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
@pytest.mark.parametrize("op", WITH_LAYOUT)
def test_lengths_of_any_integer_dtype(op, dtype):
    case = cases.make(WITH_LAYOUT[op], length=12, batch=2)
    case.options["lengths"] = torch.tensor([12, 3])
    wide = case()[0]
    case.options["lengths"] = torch.tensor([12, 3], dtype=dtype)
    assert torch.equal(case()[0], wide)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize("name", cases.NAMES)
def test_what_is_not_finite_propagates(name, bad, backend_once, device):
    """Nothing hangs or crashes; the sequences beside are as without it; the gradient tells."""
    case = cases.make(name, length=30).to(device)
    plain = case()[0]
    first = next(iter(case.tensors))
    index = (1, 15, 2) if case.tensors[first].dim() == 3 else (1,)
    leaves = case.map(torch.Tensor.clone)
    leaves.tensors[first][index] = bad
    leaves = leaves.leaves()
    found = leaves()[0]
    torch.autograd.backward(found, torch.ones_like(found))
    if torch.isnan(torch.tensor(bad)):
        assert found[1].isnan().any()
    keep = [0] if name == "s4d_kernel" else [0, 2]
    torch.testing.assert_close(found[keep], plain[keep])


@pytest.mark.parametrize("batch, length", [(0, 9), (2, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("name, layout", cases.combos())
def test_little_and_nothing(name, layout, batch, length, backend_once, device):
    """No sequences, no tokens, one token: outputs of the right shape, gradients of zero where nothing was."""
    case = cases.make(name, layout, batch=batch, length=length).to(device)
    cases.assert_matches_reference(case, 1e-4)


@pytest.mark.parametrize("name", cases.WITH_LAYOUT)
def test_packed_without_any_sequence(name):
    case = cases.make(name, "packed", batch=0, length=5)
    assert case.options["cu_seqlens"].tolist() == [0]
    assert case()[0].shape[:2] == (1, 0)


def test_no_channels_and_no_modes():
    assert lk.rms_norm(torch.randn(2, 0), torch.randn(0)).shape == (2, 0)
    assert lk.s4d_kernel(torch.randn(3), torch.randn(3, 0), torch.randn(3, 0), torch.randn(3, 0, 2), 5).shape == (3, 5)
    for algorithm in ("scan", "direct", "fft", "auto"):
        u = torch.randn(2, 7, 3)
        none = torch.randn(3, 0)
        y = lk.s4d_conv(u, torch.randn(3), none, none, torch.randn(3, 0, 2), torch.ones(3), algorithm=algorithm)
        torch.testing.assert_close(y, u)


def _gigabytes_available() -> float:
    with open("/proc/meminfo") as info:
        return next(int(line.split()[1]) / 2**20 for line in info if line.startswith("MemAvailable"))


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how much memory is free is read in /proc")
@pytest.mark.parametrize("name", ["rms_norm", "gated_conv", "s4d_conv-scan", "gelu_glu", "pgc"])
def test_indices_beyond_2_to_the_31(name):
    """The last tokens of a tensor of more than 2^31 elements are what they are alone."""
    if _gigabytes_available() < 14:
        pytest.skip("needs 14 GB of memory")
    channels = 32 if name == "gated_conv" else 64
    case = cases.make(name, batch=1, length=1, channels=channels)
    first = next(iter(case.tensors))
    width = case.tensors[first].shape[-1]
    tokens = 2**31 // width + 50
    case.tensors.pop("residual", None)
    case.options.pop("mask", None)
    values = {k: v for k, v in case.tensors.items() if k != first}
    big = torch.zeros(2, tokens // 2, width, dtype=torch.bfloat16)
    big[-1, -200:] = torch.randn(200, width)
    with torch.no_grad():
        found = case.function(big, **values, **case.options)
        alone = case.function(big[-1:, -400:], **values, **case.options)
    assert big.numel() > 2**31
    torch.testing.assert_close(found[-1:, -100:], alone[:, -100:])


def test_huge_shapes_on_meta():
    """Sizes are 64 bits wide all the way."""
    u = torch.empty(3, 2**33, 8, device="meta", dtype=torch.bfloat16)
    vector, modes = torch.empty(8, device="meta"), torch.empty(8, 4, device="meta")
    y = lk.s4d_conv(u, vector, modes, modes, torch.empty(8, 4, 2, device="meta"), algorithm="scan")
    assert y.shape == u.shape
    assert lk.s4d_kernel(vector, modes, modes, torch.empty(8, 4, 2, device="meta"), 2**40).shape == (8, 2**40)
