"""The windows of a genome around a variant."""

from __future__ import annotations

from ..errors import argument
from ..genomes.indexed import Genome


class MismatchError(ValueError):
    """The reference allele is not what the genome has there."""


def find_record(genome: Genome, contig: str) -> str | None:
    """The name that a contig has in the genome, chr1 and 1 being the same; None if it is not there."""
    bare = contig.removeprefix("chr")
    names = [contig, bare, f"chr{bare}", *(("chrM", "MT") if bare in ("M", "MT") else ())]
    return next((name for name in names if name in genome.sizes), None)


def windows(genome: Genome, contig: str, start: int, ref: str, alt: str, width: int) -> tuple[str, str]:
    """The sequence around a variant without and with it, `width` bases both.

    The reference allele is in the middle, as far as the contig's ends allow. The window with the variant begins at the
    same base and ends earlier or later in the genome, where the variant makes the sequence longer or shorter; it begins
    elsewhere only where it would leave out some of the allele, or reach beyond the contig's end.

    Args:
        contig: its name in the genome; start: index, from 0, of the first base of `ref`.

    Raises:
        MismatchError: the genome has something else there than `ref`.
        ValueError: the window does not fit, or the variant not into it.
    """
    length = genome.sizes[contig]
    end = start + len(ref)
    if start < 0 or end > length:
        raise MismatchError(f"position {start + 1:,} is outside of {contig}, which has {length:,} bases")
    here = genome.fetch(contig, start, end).upper()
    if here != ref.upper():
        raise MismatchError(f"REF is {ref}, and the genome has {here} at {contig}:{start + 1:,}")
    if max(len(ref), len(alt)) > width:
        raise ValueError(f"the variant is longer than the window of {width:,} bases; {argument('window')} widens it")
    changed = length + len(alt) - len(ref)
    if width > min(length, changed):
        raise ValueError(f"{contig} has {length:,} bases, fewer than the window needs; {argument('window')} narrows it")
    begin = min(max(0, start - (width - len(ref)) // 2), length - width)
    reference = genome.fetch(contig, begin, begin + width).upper()
    begin = min(max(begin, start + len(alt) - width), changed - width)  # of the contig with the variant
    right = begin + width - start - len(alt)
    alternative = genome.fetch(contig, begin, start) + alt + genome.fetch(contig, end, end + right)
    return reference, alternative.upper()
