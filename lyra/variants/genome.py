"""A genome in a FASTA file, and the windows of it around a variant."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import InputError, argument
from ..packages import optional


class MismatchError(ValueError):
    """The reference allele is not what the genome has there."""


class Genome:
    """Sequences of a FASTA file by name, read piece by piece.

    The index (FILE.fai, as samtools writes it) is made at the first use, beside the file or, where that cannot be
    written, in a folder that goes with this object.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises InputError: it cannot be read, is no FASTA, or has a name twice."""
        pyfaidx = optional("pyfaidx", argument("genome"))
        self.path, index = str(path), f"{path}.fai"
        if not os.path.isfile(path):
            raise InputError(f"{argument('genome')} {path}: there is no such file; give a FASTA file")
        self._folder = None
        if not os.path.exists(index) and not os.access(os.path.dirname(index) or ".", os.W_OK):
            self._folder = tempfile.TemporaryDirectory(prefix="lyra-index-")
            index = os.path.join(self._folder.name, "genome.fai")
        try:
            self._fasta = pyfaidx.Fasta(self.path, indexname=index, as_raw=True, sequence_always_upper=True)
        except ImportError:
            raise InputError(f"{self.path}: is compressed; unpack it, or install biopython for bgzip") from None
        except pyfaidx.UnsupportedCompressionFormat:
            raise InputError(f"{self.path}: is compressed, and not by bgzip; unpack it") from None
        except (pyfaidx.FastaIndexingError, ValueError, UnicodeError, OSError) as error:
            raise InputError(f"{self.path}: cannot be read as FASTA ({error})") from None
        if not self._fasta.keys():
            raise InputError(f"{self.path}: has no FASTA records; give the genome that the variants refer to")

    @property
    def contigs(self) -> list[str]:
        return list(self._fasta.keys())

    def find(self, contig: str) -> str | None:
        """The name that a contig has here, chr1 and 1 being the same; None if it is not here."""
        bare = contig.removeprefix("chr")
        names = [contig, bare, f"chr{bare}", *(("chrM", "MT") if bare in ("M", "MT") else ())]
        return next((name for name in names if name in self._fasta), None)

    def length(self, contig: str) -> int:
        return len(self._fasta[contig])

    def bases(self, contig: str, start: int, stop: int) -> str:
        """Upper-case letters from index `start`, from 0, up to before `stop`."""
        return str(self._fasta[contig][start:stop]) if stop > start else ""


def windows(genome: Genome, contig: str, start: int, ref: str, alt: str, width: int) -> tuple[str, str]:
    """The sequence around a variant without and with it, `width` bases both.

    The reference allele is in the middle, as far as the contig's ends allow. Both windows begin at the same base; where
    the variant makes the sequence longer or shorter, the second one ends earlier or later in the genome, so that the
    model reads as many bases.

    Args:
        contig: its name in the genome; start: index, from 0, of the first base of `ref`.

    Raises:
        MismatchError: the genome has something else there than `ref`.
        ValueError: the window does not fit, or the variant not into it.
    """
    length = genome.length(contig)
    if start < 0 or start + len(ref) > length:
        raise MismatchError(f"position {start + 1:,} is outside of {contig}, which has {length:,} bases")
    here = genome.bases(contig, start, start + len(ref))
    if here != ref.upper():
        raise MismatchError(f"REF is {ref}, and the genome has {here} at {contig}:{start + 1:,}")
    if max(len(ref), len(alt)) > width:
        raise ValueError(f"the variant is longer than the window of {width:,} bases; {argument('window')} widens it")
    more = max(0, len(ref) - len(alt))  # bases that come in at the right
    if width + more > length:
        raise ValueError(f"{contig} has {length:,} bases, fewer than the window needs; {argument('window')} narrows it")
    begin = min(max(0, start - (width - len(ref)) // 2), length - width - more)
    reference = genome.bases(contig, begin, begin + width + more)
    place = start - begin
    alternative = reference[:place] + alt.upper() + reference[place + len(ref) :]
    return reference[:width], alternative[:width]
