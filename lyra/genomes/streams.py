"""Predictions for sequences of any length, piece by piece, from file to file."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..alphabets import INVALID, UNKNOWN
from ..data.coverage import Strangers
from ..data.formats import format_of
from ..data.rows import RowCount
from ..data.sequences import letter_error
from ..data.sources import Source
from ..errors import InputError, argument, check_choice, refuse_without_effect, shorten
from ..files import atomic_text, table_separator
from ..models.streaming import PIECE
from ..prediction import Predictor, converter
from ..settings.data import ON_INVALID
from .pieces import Piece, iterate_pieces
from .tracks import Interval, is_bigwig, track_of, write_bigwig


@torch.inference_mode()
def predict_stream(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    *,
    class_name: str | None = None,
    on_invalid: str = "error",
    piece_length: int = PIECE,
    progress: Callable[[int], None] = lambda letters: None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[int, int]:
    """Predicts for the records of a FASTA file with a causal model, in memory that their length does not change.

    What is written is what `predict_file` writes. The file is read twice, first for letters that are none.

    Args:
        path: "-" is standard input.
        out: a table, .csv or .tsv; or .bw, a BigWig: of a class per base the probability of `class_name`, of a
            number per base these.
        on_invalid: letters outside the alphabet: "error", "skip" the record, or read them as "unknown".
        piece_length: letters that go through the model at a time.
        progress: told how many letters are done; say: told warnings, and how many records were used and set aside.

    Returns:
        how many records were predicted, and how many skipped.

    Raises:
        InputError: anything that a user can put right, a model that is not causal included.
    """
    check_choice("on_invalid", on_invalid, ON_INVALID)
    check_model(predictor)
    bigwig, per_base = is_bigwig(out), predictor.targets.per_residue
    if not bigwig:
        separator = table_separator(out)
        refuse_without_effect([] if class_name is None else ["class_name"], ["class_name"], "a table has all classes")
    elif not per_base:
        raise InputError(f"{out}: a BigWig needs a value a base, and the model predicts one a sequence; give a .csv")
    source = Source.of(path)
    if format_of(source).columns:
        raise InputError(f"{source}: is no FASTA file, which is what is read piece by piece")
    source.check_output(out)
    if source.remark:
        say(f"guessed: {source.remark}")
    stream = _Stream(predictor, source, on_invalid, piece_length, progress)
    if bigwig:
        track = track_of(predictor, class_name)
        write_bigwig(out, stream.sizes, stream.intervals(track))
    else:
        with atomic_text(out) as file:
            writer = csv.writer(file, lineterminator="\n", delimiter=separator)
            writer.writerow(["id", *predictor.columns])
            for name, predictions in stream.records():
                if per_base:
                    _write_long(file, writer, separator, name, predictor, predictions)
                    continue
                (prediction,) = predictions
                (cells,) = predictor.cells([prediction])
                writer.writerow([name, *cells.values()])
    for text in stream.strangers.warnings():
        say(f"warning: {source}: {text}")
    say(f"rows: {stream.count}")
    return stream.count.used, len(stream.skipped)


def check_model(predictor: Predictor) -> None:
    """Raises InputError for a model that cannot go through a sequence piece by piece."""
    if predictor.alphabet.name == "protein":
        raise InputError("the model reads proteins, and only DNA and RNA are read piece by piece; predict them whole")
    model: Any = predictor.model
    one_way, window = argument("bidirectional", False), argument("window")
    if not hasattr(model, "stream"):
        raise InputError(
            "the model is an ensemble, which cannot go through a sequence piece by piece; train a single one with "
            f"{one_way}, or cut the sequence with {window}"
        )
    if getattr(model, "length", None) is not None:
        raise InputError(f"the model reads sequences of {model.length:,} letters alone; cut such with {window}")
    if model.looks_ahead:
        remedy = f"train it anew, as {one_way} of earlier versions left some layers so"
        if model.config["bidirectional"]:
            remedy = f"train one with {one_way}"
        raise InputError(
            "the model looks at letters yet to come, so it cannot go through a sequence piece by piece; "
            f"{remedy}, or cut the sequence with {window}"
        )


class _Stream:
    """The records of a file and their predictions.

    Attributes:
        sizes: letters of each record, by name; skipped: numbers of records with letters that are none.
        count, strangers: of what went through so far.
    """

    def __init__(
        self, predictor: Predictor, source: Source, on_invalid: str, length: int, progress: Callable[[int], None]
    ) -> None:
        self.predictor, self.source, self.length, self.progress = predictor, source, length, progress
        self.alphabet = predictor.alphabet
        self.count, self.strangers = RowCount(), Strangers(predictor.alphabet, predictor.coverage)
        self.sizes: dict[str, int] = {}
        self.skipped: set[int] = set()
        self.letters = 0
        self.unique = True
        self._survey(on_invalid)

    def _survey(self, on_invalid: str) -> None:
        """Reads the file for what would otherwise come to light after hours."""
        for piece in iterate_pieces(self.source, self.length):
            self._check(piece, on_invalid)
            if piece.last:
                self.unique = self.unique and piece.name not in self.sizes
                self.sizes[piece.name] = piece.start + len(piece.letters)
        if not self.sizes:
            raise InputError(f"{self.source}: has no sequences; it needs FASTA records, or a header line and rows")
        self.count.aside[f"with letters outside the {self.alphabet.name} alphabet"] = len(self.skipped)

    def _check(self, piece: Piece, on_invalid: str) -> None:
        where = f"{self.source}, row {piece.number}, column sequence"
        if piece.last and not piece.start and not piece.letters:
            raise InputError(f"{where}: record {shorten(piece.name)} has no sequence; remove it")
        if on_invalid == "unknown":
            return
        bad = np.flatnonzero(self.alphabet.encode(piece.letters) == INVALID)
        if len(bad) and on_invalid == "error":
            remedy = f"or give {argument('on_invalid')} skip or unknown"
            raise letter_error(where, piece.letters, int(bad[0]), self.alphabet, remedy, piece.start)
        if len(bad):
            self.skipped.add(piece.number)

    def records(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Each record's name and its predictions: one for the record, or (L, classes) for each piece."""
        model: Any = self.predictor.model
        convert = converter(self.predictor.targets, self.predictor.output)
        all_pieces = iterate_pieces(self.source, self.length)
        for (number, name), pieces in groupby(all_pieces, lambda piece: (piece.number, piece.name)):
            if number not in self.skipped:
                outputs = model.stream(self._tokens(pieces), last_only=not model.per_token)
                yield name, (convert(raw)[0].cpu().numpy() for raw in outputs)
                self.count.used += 1

    def _tokens(self, pieces: Iterator[Piece]) -> Iterator[Tensor]:
        """A record's tokens, (1, L) of each piece."""
        device = next(self.predictor.model.parameters()).device
        for piece in pieces:
            tokens = np.maximum(self.alphabet.encode(piece.letters), UNKNOWN)
            length = len(tokens)
            self.strangers.watch_letters([piece.letters], [piece.number], tokens, np.array([0, length]))
            yield torch.from_numpy(tokens.astype(np.int64))[None].to(device)
            self.letters += length
            self.progress(self.letters)
            if piece.last:
                self.strangers.watch_lengths([piece.number], np.array([piece.start + length]))

    def intervals(self, track: Callable[[np.ndarray], np.ndarray]) -> Iterator[Interval]:
        """Each base's value."""
        if not self.unique:
            raise InputError(f"{self.source}: two records have the same name, which a BigWig cannot hold; rename one")
        for name, predictions in self.records():
            start = 0
            for prediction in predictions:
                values = track(prediction).tolist()
                yield from ((name, at, at + 1, value) for at, value in enumerate(values, start))
                start += len(values)


def _write_long(
    file: IO[str], writer: Any, separator: str, name: str, predictor: Predictor, predictions: Iterator[np.ndarray]
) -> None:
    """Writes a row whose second cell may be too long for memory, as csv would."""
    between, quoted = "", False
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="", prefix="lyra-cell-") as cell:
        for part in predictor.cells(predictions):
            text = between + part["prediction"]
            quoted = quoted or _row(["", text], separator) != separator + text
            cell.write(text)
            between = predictor.targets.separator
        cell.seek(0)
        file.write(_row([name, ""], separator))
        mark = '"' if quoted else ""
        file.write(mark)
        while text := cell.read(1 << 16):
            file.write(text.replace('"', '""') if quoted else text)
        file.write(mark + "\n")


def _row(cells: list[str], separator: str) -> str:
    """A row as csv writes it, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", delimiter=separator).writerow(cells)
    return line.getvalue()[:-1]
