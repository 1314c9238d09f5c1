"""Which element of a tensor each register of each lane of a warp holds, by Triton's distributed layouts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

LANES = 32


class UnknownLayout(ValueError):
    """A layout that is not read here."""


def coordinates(layout: str, shape: Sequence[int]) -> np.ndarray:
    """Of the element in a register of a lane: ``(registers, warps, lanes, dimensions)``.

    Args:
        layout: as Triton's GPU IR spells it, aliases resolved: ``#ttg.blocked<{sizePerThread = [1, 4], ...}>``.
        shape: of the tensor. Where it is smaller than what the threads cover, several hold the same element.

    Registers that hold neighbours along the fastest dimension follow each other, as a vector access takes them.

    Raises:
        UnknownLayout: neither blocked, nor of a matrix product's result, nor linear, nor a slice of one of these.
    """
    kind = re.match(r"#ttg\.(\w+)<\{(.*)\}>$", layout)
    if kind is None:
        raise UnknownLayout(layout)
    if kind[1] == "slice":
        return _slice(kind[2], shape)
    fields = _fields(kind[2])
    if kind[1] == "blocked":
        return _blocked(fields, shape)
    if kind[1] == "nvidia_mma":
        return _product(fields, shape)
    if kind[1] == "linear":
        return _linear(fields, shape)
    raise UnknownLayout(layout)


def _fields(text: str) -> dict[str, Any]:
    """``name = value`` pairs whose values are numbers or nested lists of them."""
    found = re.findall(r"(\w+) = (\d+|\[(?:[^\[\]]|\[[^\[\]]*\])*\])", text)
    return {name: _numbers(value) for name, value in found}


def _numbers(text: str) -> Any:
    if not text.startswith("["):
        return int(text)
    inner = text[1:-1]
    if "[" in inner:
        return [[int(n) for n in re.findall(r"-?\d+", part)] for part in re.findall(r"\[(.*?)\]", inner)]
    return [int(n) for n in re.findall(r"-?\d+", inner)]


def _slice(text: str, shape: Sequence[int]) -> np.ndarray:
    """A tensor of which the parent's layout has one dimension more."""
    match = re.match(r"dim = (\d+), parent = (.*)$", text)
    if match is None:
        raise UnknownLayout(text)
    dim = int(match[1])
    whole = coordinates(match[2], [*shape[:dim], 1, *shape[dim:]])
    kept = np.delete(whole, dim, axis=-1)
    # Registers that differ only along the dimension left out are one.
    _, first = np.unique(kept.reshape(kept.shape[0], -1), axis=0, return_index=True)
    return kept[np.sort(first)]


def _digits(count: int, sizes: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """Numbers below ``count`` in mixed base: ``(count, dimensions)``, dimension ``order[0]`` the fastest."""
    left, out = np.arange(count), np.zeros((count, len(sizes)), np.int64)
    for d in order:
        out[:, d] = left % sizes[d]
        left = left // sizes[d]
    return out


def _blocked(fields: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
    order, dims = fields["order"], range(len(shape))
    each, threads, warps = fields["sizePerThread"], fields["threadsPerWarp"], fields["warpsPerCTA"]
    each = [min(each[d], shape[d]) for d in dims]
    tile = [each[d] * threads[d] * warps[d] for d in dims]
    repeats = [-(-shape[d] // tile[d]) for d in dims]
    inside = _digits(int(np.prod(each)), each, order)
    tiles = _digits(int(np.prod(repeats)), repeats, order) * np.array(tile)
    registers = (tiles[:, None] + inside[None]).reshape(-1, len(shape))
    lane = _digits(LANES, threads, order) * np.array(each)
    warp = _digits(int(np.prod(warps)), warps, order) * np.array([each[d] * threads[d] for d in dims])
    return (registers[:, None, None] + warp[None, :, None] + lane[None, None]) % np.array(shape)


def _product(fields: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
    """The accumulator of mma (8 columns an instruction) and wgmma (as many as it says): 2 rows x 2 columns a lane."""
    warps, columns = fields["warpsPerCTA"], fields["instrShape"][1]
    tile = (16 * warps[0], columns * warps[1])
    repeats = [max(1, -(-shape[d] // tile[d])) for d in (0, 1)]
    registers = [
        (r * tile[0] + 8 * row, c * tile[1] + 8 * block + column)
        for r, c in itertools.product(range(repeats[0]), range(repeats[1]))
        for block, row, column in itertools.product(range(columns // 8), range(2), range(2))
    ]
    lane = np.array([(n // 4, n % 4 * 2) for n in range(LANES)])
    warp = _digits(warps[0] * warps[1], warps, (1, 0)) * np.array((16, columns))
    return (np.array(registers)[:, None, None] + warp[None, :, None] + lane[None, None]) % np.array(shape)


def _linear(fields: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
    """Each bit of a register's, lane's and warp's number has coordinates of its own, combined by exclusive or."""

    def combine(bases: list[list[int]]) -> np.ndarray:
        out = np.zeros((1 << len(bases), len(shape)), np.int64)
        for n in range(len(out)):
            for bit, base in enumerate(bases):
                if n >> bit & 1:
                    out[n] ^= np.array(base)
        return out

    registers, lane, warp = (combine(fields.get(k) or []) for k in ("register", "lane", "warp"))
    return registers[:, None, None] ^ warp[None, :, None] ^ lane[None, None]
