"""The wild type that mutations refer to: its letters, or a file that holds them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import numpy as np

from ..alphabets import INVALID, Alphabet
from ..errors import InputError, argument
from .formats import format_of
from .sequences import letter_error, without_stop
from .sources import Source

FILE_NAME = re.compile(  # how one ends; a point alone may be a gap
    r"\.(fa|fasta|fna|faa|ffn|frn|fas|fsa|fst|mfa|pep|prot|seq|aa|nt|dna|rna|txt|csv|tsv|gb|gbk|gbff|embl|pdb|gz)$",
    re.I,
)


def read_wild_type(given: str | None, warn: Callable[[str], None]) -> str | None:
    """The wild type from itself or its file, without a stop codon's final '*', which is said.

    Whatever names an existing file is that file, and "-" is standard input, which gives its content once: who needs the
    sequence twice keeps it.

    Raises:
        InputError: it names a file that is not there, or one that does not hold exactly one sequence.
    """
    if given is None:
        return None
    sequence = _read_single_sequence(given, argument("wild_type"))
    if without_stop(sequence) != sequence:
        warn(f"{argument('wild_type')}: ends in '*', a stop codon, which is taken off")
    return without_stop(sequence)


def _read_single_sequence(given: str, name: str) -> str:
    if given == "-" or (os.path.exists(given) and not os.path.isdir(given)):
        source = Source(given)
        return format_of(source).single(source, name)
    if os.path.isdir(given):
        raise InputError(f"{name} {given}: is a folder; give a sequence, or a file with one")
    if os.sep in given or FILE_NAME.search(given):
        raise InputError(f"{name} {given}: there is no such file; check the name and the folder, or give the sequence")
    letters = "".join(given.split())
    if not letters:
        raise InputError(f"{name}: the sequence is empty; give its letters, or a FASTA file")
    return letters


def encode_wild_type(sequence: str, alphabet: Alphabet) -> np.ndarray:
    """(L,) its tokens; an InputError for a letter that is not in the alphabet."""
    tokens = alphabet.encode(sequence)
    if (bad := np.flatnonzero(tokens == INVALID)).size:
        name = argument("wild_type")
        raise letter_error(name, sequence, int(bad[0]), alphabet, f"{alphabet.unknown} is any letter")
    return tokens
