"""Every variant of every Triton kernel that a call of the public functions can reach, by calling them on a fake card.

See :mod:`.axes` for what is combined with what. To compile all of what is found for every architecture takes hours; a
part is chosen without a list: :func:`most`, and :func:`reduced` for every change of the code.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

from torch._subclasses.fake_tensor import DataDependentOutputException

from lyra_kernels import reference
from lyra_kernels.backends.triton._launch import MOST_PROGRAMS

from .aot import Job, runs_on
from .axes import ops
from .calls import Op, Tensors, tf32
from .cover import Row, choose, cover, product
from .launches import fake_card
from .record import Launch


@dataclass
class Variant:
    """A launch as Triton specialises it, and the shortest call that leads to it."""

    launch: Launch
    call: str

    @property
    def text(self) -> str:
        """Constants, and how to get there."""
        constants = " ".join(f"{k}={v}" for k, v in self.launch.constants.items())
        return f"({constants}; {self.launch.num_warps} warps; reached by {self.call})"

    @property
    def front_end(self) -> Row:
        """What Triton's front end sees of it."""
        return {**self.launch.signature, **{f"{k} =": v for k, v in self.launch.constants.items()}}

    @property
    def whole(self) -> Row:
        """What all of the compiler sees."""
        divisible = {f"16 | {k}": k in self.launch.divisible for k in self.launch.signature}
        return {**self.front_end, **divisible, "warps": self.launch.num_warps, "stages": self.launch.num_stages}


def rows(op: Op, tiles: bool = True) -> list[Row]:
    """What each call takes: all that is crossed, and every pair of other values; without ``tiles`` not those."""
    return cover(op.axes, 2, [*product(op.crossed), *(product(op.tiles) if op.tiles and tiles else ())])


def describe(op: Op, row: Row, training: bool) -> str:
    """One call in words, what is common left out."""
    common = {name: values[0] for name, values in op.axes.items() if name in ("stored", "layout", "aligned")}
    parts = ["training"] if training else []
    for name, value in row.items():
        if isinstance(value, bool):
            parts += [name] if value else []
        elif value != common.get(name):
            parts.append(value if name in common else f"{name} {value}")
    return f"{op.name}: {', '.join(parts)}"


@contextlib.contextmanager
def _reference_may_read_values() -> Iterator[None]:
    """The reference formula asks how long packed sequences are, which nobody knows: what it would do is no kernel's."""
    try:
        yield
    except DataDependentOutputException as error:
        frames = traceback.walk_tb(error.__traceback__)
        if not any(Path(frame.f_code.co_filename).parent == Path(reference.__file__).parent for frame, _ in frames):
            raise


def variants(op: Op, tiles: bool = True) -> list[Variant]:
    """The distinct launches of every call of ``op``.

    Raises:
        ValueError: a grid is beyond a card's.
    """
    found: dict[tuple, Variant] = {}
    for training in op.training:
        with fake_card(2 if training else 0) as calls:
            for row in rows(op, tiles):
                call = describe(op, row, training)
                chosen = dict(row)
                stored, layout = chosen.pop("stored", "fp32"), chosen.pop("layout", "dense")
                with tf32(stored), _reference_may_read_values():
                    op.call(Tensors(stored, chosen.pop("aligned", "aligned"), layout), **chosen)
                for launch in calls.take():
                    if isinstance(launch, Launch):
                        if max(launch.grid[1:], default=0) > MOST_PROGRAMS:
                            raise ValueError(f"{call}: the grid of {launch.kernel} is {launch.grid}")
                        known = found.setdefault(launch.identity(), Variant(launch, call))
                        known.call = min(known.call, call, key=len)
    return list(found.values())


def _variants(name: str, tiles: bool) -> list[Variant]:
    return variants(next(op for op in ops() if op.name == name), tiles)


def every_variant(pool: Executor, only: str = "", tiles: bool = True) -> list[Variant]:
    """Of all public functions whose name contains ``only``, each variant once.

    Args:
        tiles: with every combination of block sizes, which is worth it where all of them go to machine code.
    """
    found: dict[tuple, Variant] = {}
    longest = sorted(ops(), key=lambda op: -len(product(op.crossed)))  # first
    names = [op.name for op in longest if only in op.name]
    for some in pool.map(_variants, names, [tiles] * len(names)):
        for variant in some:
            known = found.setdefault(variant.launch.identity(), variant)
            known.call = min(known.call, variant.call, key=len)
    return list(found.values())


def _of_each_kernel(found: Iterable[Variant], choice: Callable[[list[Variant]], list[int]]) -> list[Variant]:
    kernels: dict[str, list[Variant]] = {}
    for variant in sorted(found, key=lambda v: len(v.call)):
        kernels.setdefault(variant.launch.kernel, []).append(variant)
    return [some[i] for some in kernels.values() for i in choice(some)]


def jobs(found: list[Variant], architectures: Iterable[str], cache: Path | None) -> list[Job]:
    """Every variant to machine code, for every architecture that runs it."""
    return [
        Job(asdict(v.launch), v.text, arch, True, cache)
        for arch in architectures
        for v in found
        if runs_on(v.launch.kernel, v.launch.constants, arch)
    ]


def _single_values(found: list[Variant]) -> list[Variant]:
    """Every single value of constants, types and alignment at least once."""
    return _of_each_kernel(found, lambda some: choose([v.whole for v in some], 1))


def _front_end(found: Iterable[Variant], arch: str, cache: Path | None) -> list[Job]:
    return [Job(asdict(v.launch), v.text, arch, False, cache) for v in found]


def most(found: list[Variant], architectures: Iterable[str], cache: Path | None) -> list[Job]:
    """In some ten minutes: every variant through Triton's front end, which is where combinations of constants fail and
    which knows no architecture; every single value, with every alignment, to machine code for each."""
    architectures = list(architectures)
    distinct = list({repr(v.front_end): v for v in sorted(found, key=lambda v: -len(v.call))}.values())
    return [*jobs(_single_values(found), architectures, cache), *_front_end(distinct, architectures[0], cache)]


def reduced(found: list[Variant], arch: str, cache: Path | None) -> list[Job]:
    """For one architecture in minutes: every three values of constants and types that occur together through Triton's
    front end; every single value, with every alignment, to machine code."""
    front = _of_each_kernel(found, lambda some: choose([v.front_end for v in some], 3))
    return [*jobs(_single_values(found), [arch], cache), *_front_end(front, arch, cache)]
