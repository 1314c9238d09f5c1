"""Where windows are: regions of a BED file, or windows over all of a genome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..data.sources import Source
from ..errors import InputError, argument, shorten

STRANDS = ("+", "-", ".")
NOT_REGIONS = ("#", "track ", "track\t", "browser ", "browser\t")  # lines for people and for browsers
BLOCKS = 9  # the column of BED12 with the number of blocks, from 0


class Region(NamedTuple):
    """A window; start and end count from 0, the end is left out.

    Attributes:
        row: of the BED file, or of the windows in their order, from 1.
        name, score, strand: as a BED file has them; "-" is the reverse strand.
    """

    row: int
    chrom: str
    start: int
    end: int
    name: str = "."
    score: str = "0"
    strand: str = "."

    @property
    def reverse(self) -> bool:
        return self.strand == "-"


def read_regions(path: str | Path, genome: str, sizes: Mapping[str, int]) -> list[Region]:
    """The regions of a BED file of three to six columns, in its order; of more columns the first six count.

    Args:
        genome: what messages call it; sizes: the length of each of its records, by name.

    Raises:
        InputError: a line is no region, or one outside of the genome; names the row.
    """
    source = Source(path)
    regions = []
    with source.reading(), source.open() as lines:
        for row, line in enumerate(lines, 1):
            if line.strip() and not line.startswith(NOT_REGIONS):
                regions.append(_region(line, row, f"{source}, row {row}", genome, sizes))
    if not regions:
        raise InputError(f"{source}: has no regions; a BED file has lines of record, start and end")
    return regions


def _region(line: str, row: int, where: str, genome: str, sizes: Mapping[str, int]) -> Region:
    cells = [cell.strip() for cell in line.strip("\r\n").split("\t")] if "\t" in line else line.split()
    if len(cells) < 3:
        raise InputError(f"{where}: has {len(cells)} of the columns record, start and end, with tabs between them")
    chrom, numbers = cells[0], cells[1:3]
    for text, what in zip(numbers, ("start", "end"), strict=True):
        if not (text.isascii() and text.isdigit()):
            raise InputError(f"{where}: the {what} {shorten(text)} is no position; it must be a whole number from 0 up")
    start, end = map(int, numbers)
    if chrom not in sizes:
        some = ", ".join(list(sizes)[:5]) + (", ..." if len(sizes) > 5 else "")
        raise InputError(f"{where}: {genome} has no record {shorten(chrom)}; it has {some}")
    if start >= end:
        raise InputError(f"{where}: the start, {start}, must be below the end, {end}; a region has at least one base")
    if end > sizes[chrom]:
        raise InputError(
            f"{where}: the end, {end}, is beyond that of {shorten(chrom)}, which has {sizes[chrom]} bases in {genome}"
        )
    if len(cells) > BLOCKS and cells[BLOCKS].isdigit() and int(cells[BLOCKS]) > 1 and len(cells) >= 12:
        raise InputError(
            f"{where}: has {cells[BLOCKS]} blocks (BED12), and windows have no gaps; give each block a line of its own"
        )
    strand = cells[5] if len(cells) > 5 else "."
    if strand not in STRANDS:
        raise InputError(f"{where}: the strand {shorten(strand)} must be one of {' '.join(STRANDS)}")
    name, score = (cells[3:5] + [".", "0"][len(cells) - 3 :])[:2]
    return Region(row, chrom, start, end, name, score, strand)


def tile(sizes: Mapping[str, int], window: int, step: int) -> Iterator[Region]:
    """Windows over each record from its beginning, every `step` bases, up to the first that reaches its end.

    That one is shorter where the record ends before it does.
    """
    row = 0
    for chrom, size in sizes.items():
        for start in range(0, size, step):
            row += 1
            yield Region(row, chrom, start, min(start + window, size))
            if start + window >= size:
                break


def check_tiles(window: int | None, step: int | None) -> None:
    """Raises InputError for a size or a step that makes no windows."""
    for name, value in (("window", window), ("step", step)):
        if value is not None and value < 1:
            raise InputError(f"{argument(name)} {value}: must be above 0")
