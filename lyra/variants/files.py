"""`lyra variants`: from a file of variants to a table of their scores."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..data.rows import RowCount
from ..data.sources import Source
from ..data.tables import TableFile, listed
from ..errors import InputError, argument, refuse_without_effect, shorten
from ..files import atomic_text, table_separator
from ..genomes.indexed import Genome, indexed
from ..member_scores import MemberScore
from ..packages import optional
from ..prediction import Predictor
from ..references import choose_wild_type
from ..settings.data import parse_separator
from ..settings.variants import VariantOptions
from .genome import MismatchError, find_record, windows
from .hgvs import apply_hgvs
from .vcf import Allele, is_vcf, read_vcf

BLOCK = 1024  # variants whose sequences are held at once
UNSCORED = "that cannot be scored"


@dataclass
class Pair:
    """A variant as it was read, its two sequences, or why it has none."""

    cells: list[str]
    reference: str = ""
    alternative: str = ""
    reason: str = ""


@dataclass
class Job:
    """What one kind of file is turned into.

    Attributes:
        columns: names of the variant's own columns.
        pairs: the variants in the order of the file.
        told: whether the reference's prediction is a column, or the same in every row.
        notes: to be told once, filled while `pairs` is read.
    """

    columns: list[str]
    pairs: Iterable[Pair]
    told: bool
    notes: list[str] = field(default_factory=list)


def score_file(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    options: VariantOptions,
    *,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] = lambda done: None,
) -> RowCount:
    """Scores every variant of a VCF, or of a table with a column of HGVS strings, and writes a table in its order.

    Of a VCF each alternative allele is a row: chrom, pos, id, ref, alt, reference and alternative (what is predicted
    for the window without and with it) and change, their difference. A table keeps its columns and gets prediction and
    change, the difference from the wild type. With an ensemble, spread is the standard deviation of the change over
    the members. Where `options.on_invalid` is "empty", note says why a variant has no score.

    Args:
        out: ends in .csv or .tsv, .gz behind it or not; "-" is standard output.
        say: told what was guessed, warnings and how many variants were scored.
        progress: called with the number of variants done.

    Raises:
        InputError: anything that a user can put right.
    """
    options.check()
    separator = table_separator(out)
    score = MemberScore(predictor, options.class_name)
    source = Source.of(path)
    source.check_output(out)
    job = (vcf_job if is_vcf(source) else table_job)(predictor, source, options, say)
    header = [*(("reference", "alternative") if job.told else ("prediction",)), "change"]
    header += ["spread"] if score.members > 1 else []
    header += ["note"] if options.on_invalid == "empty" else []
    if taken := [name for name in header if name in job.columns]:
        raise InputError(f"{source}: already has a column {taken[0]}; rename it, the scores take that name")
    say(f"scores are {score.unit}")
    count = RowCount()
    with atomic_text(out) as file:
        writer = csv.writer(file, lineterminator="\n", delimiter=separator)
        writer.writerow([*job.columns, *header])
        pairs = iter(job.pairs)
        while block := list(islice(pairs, BLOCK)):
            for pair, found in zip(block, scored(block, score), strict=True):
                numbers = [f"{number:.{predictor.digits}g}" for number in found] if found else [""] * 4
                cells = dict(zip(("reference", "alternative", "change", "spread"), numbers, strict=False))
                cells |= {"prediction": cells["alternative"], "note": pair.reason}
                writer.writerow([*pair.cells, *(cells[name] for name in header)])
                count.used += found is not None
                count.aside[UNSCORED] += found is None
            progress(count.read)
        if count.read == 0:
            raise InputError(f"{source}: has no variants; it needs at least one row")
    for note in job.notes:
        say(note)
    say(f"variants: {count}")
    return count


def scored(block: list[Pair], score: MemberScore) -> Iterator[list[float] | None]:
    """Reference, alternative and change of each pair, and with an ensemble the change's spread; None without any."""
    texts = dict.fromkeys(text for pair in block if not pair.reason for text in (pair.reference, pair.alternative))
    places, found = {text: place for place, text in enumerate(texts)}, score(list(texts)) if texts else None
    for pair in block:
        if pair.reason or found is None:
            yield None
            continue
        without, having = places[pair.reference], places[pair.alternative]
        change = found.predicted[having] - found.predicted[without]
        spread = [float((found.members[having] - found.members[without]).std())] if score.members > 1 else []
        yield [float(found.predicted[without]), float(found.predicted[having]), float(change), *spread]


def vcf_job(predictor: Predictor, source: Source, options: VariantOptions, say: Callable[[str], None]) -> Job:
    """The windows of the alleles of a VCF."""
    refuse_without_effect(options.given, ("hgvs", "wild_type", "offset", "separator"), f"{source} is a VCF")
    if predictor.alphabet.name == "protein":
        raise InputError(
            f"{source}: is a VCF, and this model reads proteins; give a table with {argument('hgvs')} COLUMN"
        )
    if options.genome is None:
        raise InputError(f"{source}: is a VCF; give the {argument('genome')} FASTA that its positions refer to")
    optional("vcfpy", f"{source}: reading a VCF")
    width, fasta = choose_window(predictor, options.window, say), Source.of(options.genome)
    job = Job(["chrom", "pos", "id", "ref", "alt"], (), True)

    def pairs() -> Iterator[Pair]:
        with indexed(fasta) as genome:
            for allele in read_vcf(source):
                yield vcf_pair(allele, genome, width, source, job, options)

    job.pairs = pairs()
    return job


def vcf_pair(allele: Allele, genome: Genome, width: int, source: Source, job: Job, options: VariantOptions) -> Pair:
    """The windows of an allele, or why it has none.

    Raises:
        InputError: the genome is not the one that the VCF was made with; or, as `options` say, there are no windows.
    """
    where = f"{source}, row {allele.row}"
    pair = Pair([allele.contig, str(allele.position), allele.id or ".", allele.ref, allele.alt])
    try:
        if (text := allele.unspelt) is not None:
            raise ValueError(f"{shorten(text)} is no sequence of bases; SNVs and short indels have scores")
        contig = find_record(genome, allele.contig)
        if contig is None:
            raise MismatchError(
                f"{shorten(allele.contig)} is not in {genome.name}, which has {listed(list(genome.sizes))}"
            )
        note = f"note: {allele.contig} is {contig} in {genome.name}"
        if contig != allele.contig and note not in job.notes:
            job.notes.append(note)
        pair.reference, pair.alternative = windows(genome, contig, allele.position - 1, allele.ref, allele.alt, width)
    except MismatchError as error:
        raise InputError(f"{where}: {error}; give the {argument('genome')} of this file") from None
    except InputError:  # of the genome itself
        raise
    except ValueError as error:
        refuse(pair, error, where, options)
    return pair


def choose_window(predictor: Predictor, given: int | None, say: Callable[[str], None]) -> int:
    """How many bases the model reads; the longest training sequence where nobody says it."""
    known = predictor.coverage
    if given is None and known is None:
        raise InputError(f"this model does not know how long its training sequences were; give {argument('window')}")
    if given is None:
        assert known is not None
        reason = "as in training" if known.shortest == known.longest else "the longest training sequence"
        say(f"guessed: windows of {known.longest:,} bases ({reason})")
        return known.longest
    if known is not None and not known.shortest <= given <= known.longest:
        say(f"warning: {argument('window')} {given}: the training sequences had {known.shortest:,} to "
            f"{known.longest:,} bases")  # fmt: skip
    return given


def table_job(predictor: Predictor, source: Source, options: VariantOptions, say: Callable[[str], None]) -> Job:
    """The wild type with the changes of each row."""
    if options.hgvs is None:
        raise InputError(
            f"{source}: is no VCF, which begins with ##fileformat=VCF; of a table, name the column of HGVS "
            f"strings with {argument('hgvs')}"
        )
    refuse_without_effect(options.given, ("genome", "window"), f"{source} is no VCF")
    optional("mavehgvs", argument("hgvs"))
    table = TableFile(source, parse_separator(options.separator))
    if options.hgvs not in table.columns:
        raise InputError(
            f"{source}: column {shorten(options.hgvs)} is missing; {argument('hgvs')} must be one of: "
            f"{listed(table.columns)}"
        )

    def warn(text: str) -> None:
        say(f"warning: {text}")

    wild_type, offset = choose_wild_type(predictor, options.wild_type, options.offset, warn)
    if table.remark:
        say(f"guessed: {table.remark}")
    column = table.columns.index(options.hgvs)

    def pairs() -> Iterator[Pair]:
        for block in table.blocks(BLOCK):
            for row, cells in zip(block.index, block.itertuples(index=False), strict=True):
                pair = Pair(list(cells), wild_type)
                try:
                    changed = apply_hgvs(cells[column], wild_type, offset, predictor.alphabet)
                    pair.alternative = as_known(predictor, changed, wild_type)
                except ValueError as error:
                    refuse(pair, error, f"{source}, row {row}, column {options.hgvs}", options)
                yield pair

    return Job(table.columns, pairs(), False)


def as_known(predictor: Predictor, changed: str, wild_type: str) -> str:
    """A changed sequence, if the model can say anything of it; a ValueError about a letter that it never read."""
    alphabet, known = predictor.alphabet, predictor.coverage
    if not changed:
        raise ValueError("nothing is left of the wild type")
    read = alphabet.decode(alphabet.encode(changed, unknown=True))
    for letter in sorted(set(read) - set(wild_type)):
        if letter == alphabet.unknown:
            raise ValueError(f"it puts in a letter that the {alphabet.name} alphabet lacks, {alphabet.describe()}")
        if not letter.isalpha() and (known is None or letter not in known.letters):
            what = "stop" if letter == "*" else "gap"
            raise ValueError(
                f"it puts in {shorten(letter)}; no training sequence had a {what}, so the model knows nothing of it"
            )
    return read


def refuse(pair: Pair, error: ValueError, where: str, options: VariantOptions) -> None:
    """Keeps the reason with the variant, or raises it."""
    if options.on_invalid == "error":
        raise InputError(f"{where}: {error} ({argument('on_invalid', 'empty')} goes on without a score)") from None
    pair.reason = " ".join(str(error).split())
