"""Predictions for windows of a genome, in a table or a BigWig file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from ..alphabets import INVALID, UNKNOWN
from ..data.batches import SequenceDataset
from ..data.blocks import BLOCK_LETTERS, BLOCK_ROWS
from ..data.coverage import Strangers
from ..data.rows import RowCount
from ..data.sequences import letter_error
from ..data.sources import Source
from ..errors import InputError, argument, check_choice, refuse_without_effect
from ..files import atomic_text, is_stream, table_separator
from ..prediction import Predictor
from ..settings.data import BATCH_SIZE, ON_INVALID
from .indexed import Genome, indexed
from .regions import Region, check_tiles, read_regions, tile
from .tracks import Interval, is_bigwig, track_of, write_bigwig

BED = (".bed", ".bed.gz")
COLUMNS = ("chrom", "start", "end", "name", "score", "strand")
Predicted = Iterator[tuple[Region, np.ndarray]]


@dataclass(kw_only=True)
class WindowOptions:
    """Which windows of a genome, and how they are read.

    Attributes:
        regions: a BED file; "-" is standard input.
        window, step: without one, windows of so many bases over all of the genome, and from one start to the next;
            None takes a step of the window's size.
        class_name: of a BigWig, the class whose probability it holds.
        on_invalid: letters outside the alphabet: "error", "skip" the window, or read them as "unknown".
    """

    regions: str | Path | None = None
    window: int | None = None
    step: int | None = None
    class_name: str | None = None
    on_invalid: str = "error"
    batch_size: int = BATCH_SIZE

    def check(self) -> None:
        """Raises InputError for options that make no sense, alone or together."""
        check_choice("on_invalid", self.on_invalid, ON_INVALID)
        check_tiles(self.window, self.step)
        if self.batch_size < 1:
            raise InputError(f"{argument('batch_size')} {self.batch_size}: must be above 0")
        if self.regions is not None:
            given = [name for name in ("window", "step") if getattr(self, name) is not None]
            refuse_without_effect(given, given, f"{argument('regions')} says where the windows are")
        elif self.window is None:
            raise InputError(f"{argument('regions')} or {argument('window')} must say where the windows are")


def predict_windows(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    options: WindowOptions,
    *,
    progress: Callable[[int], None] = lambda done: None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[int, int]:
    """Predicts for windows of a FASTA file, those on the reverse strand for the reverse complement.

    Args:
        path: the genome; see `indexed`.
        out: .csv, .tsv or .bed (.gz packs it), a row a window in their order: columns chrom, start, end, name, score,
            strand, and the prediction's; labels or numbers of bases are in the order in which the model read them. Or
            .bw, a BigWig: a number for each window, which must not overlap then, or of a class or number per base the
            mean of all windows over the base.
        progress: told how many windows are done; say: told warnings, and how many windows were used and set aside.

    Returns:
        how many windows were predicted, and how many skipped.

    Raises:
        InputError: anything that a user can put right.
    """
    options.check()
    if predictor.alphabet.name == "protein":
        raise InputError("the model reads proteins, and windows of a genome are DNA; give it the translated sequences")
    bigwig = is_bigwig(out)
    separator = "" if bigwig else _separator(out)
    given = [] if options.class_name is None else ["class_name"]
    if bigwig:
        track = track_of(predictor, options.class_name)
    else:
        refuse_without_effect(given, ["class_name"], "a table has all classes")
    source = Source(path)
    source.check_output(out)
    with indexed(source) as genome:
        where, regions = _regions(genome, options)
        windows = _Windows(predictor, genome, options, where)
        if bigwig:
            per_base = predictor.targets.per_residue
            ordered = _in_order(regions, genome)
            if not per_base:
                _check_apart(ordered, where)
            predicted = windows.predicted(ordered, progress)
            tracks = ((region, _forwards(region, track(found), per_base)) for region, found in predicted)
            write_bigwig(out, dict(genome.sizes), averaged(tracks) if per_base else _whole(tracks))
        else:
            with atomic_text(out) as file:
                writer = csv.writer(file, lineterminator="\n", delimiter=separator)
                header = [*COLUMNS, *predictor.columns]
                writer.writerow(["#" + header[0], *header[1:]] if _is_bed(out) else header)
                for region, found in windows.predicted(regions, progress):
                    (cells,) = predictor.cells([found])
                    writer.writerow([*region[1:], *cells.values()])
    if count := _short(genome, options):
        say(f"the last window of {count:,} records is shorter than {options.window:,} bases")
    for text in windows.strangers.warnings():
        say(f"warning: {where}: {text}")
    say(f"windows: {windows.count}")
    return windows.count.used, windows.count.set_aside


def _is_bed(out: str | Path) -> bool:
    return str(out).lower().endswith(BED) and not is_stream(out)


def _separator(out: str | Path) -> str:
    if _is_bed(out):
        return "\t"
    try:
        return table_separator(out)
    except InputError as error:
        raise InputError(str(error).replace("must end in", "must end in .bed, .bw,")) from None


def _regions(genome: Genome, options: WindowOptions) -> tuple[str, Iterable[Region]]:
    """What messages call them, and the windows."""
    if options.regions is not None:
        regions = read_regions(options.regions, genome.name, genome.sizes)
        name = "standard input" if str(options.regions) == "-" else str(options.regions)
        return name, regions
    assert options.window is not None
    return f"windows of {genome.name}", tile(genome.sizes, options.window, options.step or options.window)


def _short(genome: Genome, options: WindowOptions) -> int:
    """How many records end within a window."""
    if options.window is None:
        return 0
    tiles = tile(genome.sizes, options.window, options.step or options.window)
    return sum(region.end - region.start < options.window for region in tiles)


class _Windows:
    """Windows and their predictions; `count` and `strangers` are of what went through so far."""

    def __init__(self, predictor: Predictor, genome: Genome, options: WindowOptions, name: str) -> None:
        self.predictor, self.genome, self.options, self.name = predictor, genome, options, name
        self.alphabet = predictor.alphabet
        self.count, self.strangers = RowCount(), Strangers(predictor.alphabet, predictor.coverage)

    def predicted(self, regions: Iterable[Region], progress: Callable[[int], None]) -> Predicted:
        """The windows without letters outside the alphabet, and what the model says of each as it reads it."""
        for block in _blocks(regions):
            kept, encoded, texts = [], [], []
            for region in block:
                text = self.genome.fetch(region.chrom, region.start, region.end)
                tokens = self._encoded(region, text)
                if tokens is not None:
                    kept.append(region)
                    texts.append(text)
                    encoded.append(self.alphabet.reverse_complement(tokens) if region.reverse else tokens)
            if not kept:
                continue
            offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in encoded])])
            tokens = np.concatenate(encoded)
            rows = [region.row for region in kept]
            self.predictor.check_lengths(np.diff(offsets), rows, self.name)
            self.strangers.watch(texts, rows, tokens, offsets)
            dataset = SequenceDataset(tokens, offsets, np.arange(len(kept)))
            found = self.predictor.predict_dataset(dataset, self.options.batch_size)
            self.count.used += len(kept)
            progress(self.count.used)
            yield from zip(kept, found, strict=True)

    def _encoded(self, region: Region, text: str) -> np.ndarray | None:
        """Tokens, or None for a window to skip."""
        tokens = self.alphabet.encode(text)
        if self.options.on_invalid == "unknown":
            return np.maximum(tokens, UNKNOWN)
        bad = np.flatnonzero(tokens == INVALID)
        if not len(bad):
            return tokens
        if self.options.on_invalid == "error":
            where = f"{self.genome.name}, record {region.chrom}"
            if self.options.regions is not None:
                where = f"{self.options.regions}, row {region.row}: {where}"
            remedy = f"or give {argument('on_invalid')} skip or unknown"
            raise letter_error(where, text, int(bad[0]), self.alphabet, remedy, region.start)
        self.count.aside[f"with letters outside the {self.alphabet.name} alphabet"] += 1
        return None


def _blocks(regions: Iterable[Region]) -> Iterator[list[Region]]:
    """The regions, as many at a time as a block of sequences has."""
    block: list[Region] = []
    letters = 0
    for region in regions:
        block.append(region)
        letters += region.end - region.start
        if len(block) == BLOCK_ROWS or letters >= BLOCK_LETTERS:
            yield block
            block, letters = [], 0
    if block:
        yield block


def _in_order(regions: Iterable[Region], genome: Genome) -> list[Region]:
    """By record as in the genome, and by start."""
    place = {name: at for at, name in enumerate(genome.sizes)}
    return sorted(regions, key=lambda region: (place[region.chrom], region.start, region.end))


def _check_apart(regions: list[Region], where: str) -> None:
    """Raises InputError where two windows have a base in common, for which a BigWig has one number."""
    for before, region in pairwise(regions):
        if before.chrom == region.chrom and region.start < before.end:
            raise InputError(
                f"{where}, rows {min(before.row, region.row)} and {max(before.row, region.row)}: overlap in "
                f"{region.chrom} from {region.start} on, and a BigWig has one number for a base; write a table, or "
                "give windows that do not overlap"
            )


def _forwards(region: Region, values: np.ndarray, per_base: bool) -> np.ndarray:
    """Numbers in the order of the genome, of a window in that of its strand."""
    return values[::-1] if per_base and region.reverse else values


def _whole(tracks: Predicted) -> Iterator[Interval]:
    """Each window with its number."""
    return ((region.chrom, region.start, region.end, float(value)) for region, value in tracks)


def averaged(tracks: Predicted) -> Iterator[Interval]:
    """The mean, base by base, of all windows over it; the windows must come in order of their starts.

    Args:
        tracks: regions and their (end - start,) numbers.
    """
    end = object()  # behind all records
    chrom: object = end
    at, total, count = 0, np.zeros(0), np.zeros(0, dtype=np.int64)
    for region, values in chain(tracks, [(None, np.zeros(0))]):
        same = region is not None and region.chrom == chrom
        done = min(region.start - at, len(total)) if same and region is not None else len(total)
        means = total[:done] / count[:done]
        yield from ((str(chrom), base, base + 1, value) for base, value in enumerate(means.tolist(), at))
        if region is None:
            return
        at, total, count = at + done, total[done:], count[done:]
        if not len(total):
            chrom, at = region.chrom, region.start
        more = max(region.end - at - len(total), 0)
        total, count = np.pad(total, (0, more)), np.pad(count, (0, more))
        place = slice(region.start - at, region.end - at)
        total[place] += values
        count[place] += 1
