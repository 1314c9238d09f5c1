"""The sequence that changes are counted from, and the number of its first residue: those given, else the model's."""

from __future__ import annotations

from collections.abc import Callable

from .data.sequences import TableSource
from .data.wild_types import encode_wild_type, read_wild_type
from .errors import InputError, argument
from .prediction import Predictor


def own_offset(source: TableSource | None, length: int) -> int:
    """The number of the first residue where nobody says it: that of the model's wild type for a sequence as long, else
    1."""
    known = source is not None and source.wild_type is not None and len(source.wild_type) == length
    return source.offset if source is not None and known else 1


def as_read(predictor: Predictor, sequence: str) -> str:
    """A wild type as the model reads it; an InputError for a letter that is not in its alphabet."""
    return predictor.alphabet.decode(encode_wild_type(sequence, predictor.alphabet))


def choose_wild_type(
    predictor: Predictor, given: str | None, offset: int | None, warn: Callable[[str], None]
) -> tuple[str, int]:
    """The wild type as the model reads it, and the number of its first residue.

    Args:
        given: the sequence or a file with it; None takes the one that the model was trained with.
        offset: None takes the model's for its own wild type and for another one as long.

    Raises:
        InputError: there is none, or a letter in it is not in the model's alphabet.
    """
    sequence = read_wild_type(given, warn)
    if sequence is None:
        sequence = predictor.source.wild_type if predictor.source is not None else None
    if sequence is None:
        raise InputError(f"this model knows no wild type; give {argument('wild_type')} SEQUENCE")
    return as_read(predictor, sequence), own_offset(predictor.source, len(sequence)) if offset is None else offset
