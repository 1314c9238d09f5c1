"""New lengths and batch sizes take kernels that are there: what Triton's launcher compiles anew for stays the same."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
import torch
import triton.language as tl
from torch import Tensor

import lyra_kernels.backends.triton as triton_backend
from lyra_kernels.backends.triton import IMPLEMENTATIONS, _launch

from .test_s4d_kernel import parameters

MODES = 3


@contextlib.contextmanager
def _launched(run: bool = True) -> Iterator[list[tuple]]:
    """The keys of what is launched inside, with the first of several configurations; nothing runs without ``run``."""
    found: list[tuple] = []

    def note(kernel, grid, args, constants, configs):
        found.append(_key(kernel, args, {**constants, **configs[0].blocks}, configs[0]))
        if run:
            _launch.launch(kernel, grid, args, constants, configs)

    with _launch.in_place_of_launches(note):
        yield found


def _key(kernel, args, values, config):
    """What one compiled kernel serves: constants, types, and of integers whether they are 1 or multiples of 16."""
    parts = []
    for name, value in args.items():
        if isinstance(value, Tensor):
            parts.append((str(value.dtype), value.storage_offset() * value.element_size() % 16 == 0))
        elif isinstance(value, int) and not isinstance(value, bool):
            varies = name in _launch.unspecialized(kernel)
            parts.append((value >= 2**31, varies or (value == 1, value % 16 == 0)))
        else:
            parts.append(value if value is None else type(value).__name__)
    return (kernel.fn.__name__, *parts, tuple(values.items()), config.num_warps, config.num_stages)


def _calls(batch, length):
    u = torch.randn(batch, length, 4)
    space = parameters(4, MODES, directions=1)
    taps = torch.randn(4, length)
    scan = [u, *space, torch.randn(4), None, None, None]
    gated = [torch.randn(batch, length, 8), torch.randn(4, 1, 3), None, torch.randn(8), None, None, 1e-8, False]
    pgc = [
        u,
        torch.randn(8, 4),
        None,
        None,
        torch.randn(4, 1, 3),
        None,
        torch.randn(4, 4),
        None,
        None,
        None,
        None,
        None,
    ]
    yield "s4d_scan", [*scan, True], lambda out: [torch.randn_like(u), None, *scan, out[2]]
    yield "causal_conv", [u, taps, None, None, None, None], None
    yield "gated_conv", gated, None
    yield "pgc", [*pgc, 1e-8, False], None
    yield "rms_norm", [u, torch.randn(4), 1e-8], None
    yield "gelu_glu", [u, torch.randn(8, 4), None, None, u, None, None], None


def _compiled(batch, length) -> dict[str, set]:
    with _launched() as keys:
        for name, args, backward in _calls(batch, length):
            out = IMPLEMENTATIONS[name](*args)
            if backward is not None:
                IMPLEMENTATIONS[f"{name}_backward"](*backward(out))
    found: dict[str, set] = {}
    for key in keys:
        found.setdefault(key[0], set()).add(key)
    return found


def test_constants_stay_constants():
    """Triton refuses an argument that is both; its interpreter does not look."""

    def kernel(x, L, K: tl.constexpr):
        pass

    assert _launch.unspecialized(_launch.jit(kernel)) == ("L",)
    assert _launch.unspecialized(_launch.jit(also=("x", "K"))(kernel)) == ("L", "x")


def _kernels():
    """All that is launched, of every module of the backend."""
    for module in pkgutil.iter_modules(triton_backend.__path__):
        for name, value in vars(importlib.import_module(f"{triton_backend.__name__}.{module.name}")).items():
            if hasattr(value, "arg_names") and value.fn.__module__.endswith(f".{module.name}"):
                yield name, value


def empty_kernel(x, L):
    pass


def test_every_varying_name_is_an_argument():
    """One that no kernel has any longer was renamed there, and the kernel is compiled anew for each batch."""
    used = {name for _, kernel in _kernels() for name in _launch.unspecialized(kernel)}
    assert set(_launch.VARYING) <= used
    with pytest.raises(ValueError, match="empty_kernel has no argument 'gone'"):
        _launch.jit(also=("gone",))(empty_kernel)


def test_every_kernel_says_what_it_takes():
    found = dict(_kernels())
    assert len(found) > 70
    assert not [name for name, kernel in found.items() if not inspect.getdoc(kernel.fn)]


def test_the_transform_has_one_variant_for_all_channels_and_modes(device):
    with _launched(run=False) as keys:
        for channels, count in ((1, 1), (3, 2), (16, 16)):
            space = parameters(channels, count, directions=1)
            args = [p.to(device) for p in (torch.randn(2, 20, channels), *space)]
            out = IMPLEMENTATIONS["s4d_fft"](*args, None, None, None)
            IMPLEMENTATIONS["s4d_fft_backward"](torch.randn_like(out), *args, None, None, None)
    transforms = {key for key in keys if key[0] in ("_fft_conv", "_fft_correlate")}
    assert len(transforms) == 2


@pytest.mark.interpreter
def test_lengths_and_batch_sizes():
    """Of every kernel one variant, for lengths of 1, multiples of 16 and others; of what transposes, one for each."""
    first = _compiled(2, 33)
    first["_transpose"] |= _compiled(2, 48)["_transpose"]
    assert len(first["_transpose"]) == 4
    assert {"_scan", "_scan_backward", "_conv", "_gated_conv", "_pgc", "_rms_norm", "_gelu_glu", "_rows"} <= set(first)
    for batch, length in ((1, 48), (1, 1), (16, 5), (3, 64)):
        for name, keys in _compiled(batch, length).items():
            assert keys <= first[name], (name, batch, length)


def test_the_generated_kernel_has_a_few_variants(device):
    """Its tiles follow the length in two steps, and its stores are wide where rows are aligned: not more."""
    args = [p.to(device) for p in parameters(1, MODES)]
    with _launched() as keys:
        for length in (1, 16, 17, 100, 512, 1000, 1024, 1025, 1040, 1300):
            IMPLEMENTATIONS["s4d_kernel"](*args, length)
    assert len(set(keys)) == 5  # 1, aligned and others below, aligned and others above
