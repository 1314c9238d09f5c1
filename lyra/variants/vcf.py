"""The variants of a VCF, an allele at a time, with their line numbers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from ..data.sources import Source
from ..errors import InputError, shorten
from ..packages import optional

COLUMNS = 8  # CHROM to INFO; behind them stand genotypes, which say nothing of the variant itself
BASES = re.compile(r"[ACGTacgt]+")
REFERENCE = re.compile(r"[ACGTNacgtn]+")  # which may be unknown


class Allele(NamedTuple):
    """An alternative allele.

    Attributes:
        row: line number; position: from 1, of the first base of `ref`.
    """

    row: int
    contig: str
    position: int
    id: str
    ref: str
    alt: str

    @property
    def unspelt(self) -> str | None:
        """The allele that is not spelt out in bases, such as <DEL>, a breakend or N; None if both are."""
        if not BASES.fullmatch(self.alt):
            return self.alt
        return None if REFERENCE.fullmatch(self.ref) else self.ref


def is_vcf(source: Source) -> bool:
    """Whether a file begins as a VCF does."""
    with source.reading(), source.open() as file:
        return file.readline().lstrip("\ufeff").startswith("##fileformat=VCF")


def read_vcf(source: Source) -> Iterator[Allele]:
    """Every alternative allele of a VCF; records without one have none.

    Raises:
        InputError: a line that is no VCF; names its number.
    """
    vcfpy = optional("vcfpy", f"{source}: reading a VCF")
    parser, width, row, header = None, 0, 0, ""
    with source.reading(), source.open() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", vcfpy.exceptions.VCFPyWarning)  # of fields that nobody looks at here
        for row, line in enumerate(file, 1):
            cells = line.rstrip("\r\n").split("\t")
            if parser is not None and not line.strip():
                continue
            try:
                if parser is None:
                    names = line.startswith("#CHROM")
                    header += "\t".join(cells[:COLUMNS]) + "\n" if names else line
                    if names:
                        parser, width = vcfpy.Reader.from_stream(io.StringIO(header)).parser, len(cells)
                    elif not line.startswith("##"):
                        raise InputError(f"{source}, row {row}: the line that begins with #CHROM must come first")
                    continue
                if len(cells) != width:
                    raise InputError(
                        f"{source}, row {row}: has {len(cells)} fields between tabs, the #CHROM line {width}"
                    )
                record = parser.parse_line("\t".join(cells[:COLUMNS]))
                alternatives = [alternative.serialize() for alternative in record.ALT]
            except InputError:
                raise
            except (vcfpy.exceptions.VCFPyException, ValueError, KeyError, IndexError, AttributeError) as error:
                raise InputError(
                    f"{source}, row {row}: cannot be read as VCF ({type(error).__name__}: {error}); correct "
                    f"{shorten(line.strip())}"
                ) from None
            for alternative in alternatives:
                yield Allele(row, record.CHROM, record.POS, ";".join(record.ID), record.REF, alternative)
    if parser is None:
        raise InputError(f"{source}, row {row}: the file ends without a line that begins with #CHROM")
