"""Clusters of similar sequences: by MMseqs2 where it is installed, else by the k-mers that sequences share."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..alphabets import Alphabet
from ..errors import InputError, argument
from .divisions import Material
from .kmers import choose_words, cluster_by_words, lowest_identity

MMSEQS = "mmseqs"
COVERED = "0.8"  # share of the shorter sequence that an alignment must span
WORDS = (6, 15)  # bases in a word that mmseqs looks for; 15 is its own, which short sequences hardly share
SHARED = 5  # words that two sequences at the threshold are expected to have in common
REPAIR = "put it right, or take it from PATH, and sequences are clustered by shared k-mers"


def find_clusters(material: Material, identity: float, warn: Callable[[str], None]) -> tuple[np.ndarray, str]:
    """(N,) int, the cluster of each row, and how it was found; copies of a sequence are in one cluster.

    Raises:
        InputError: mmseqs fails, or without it, the identity is too low for k-mers to tell.
    """
    first, of_row = np.unique(material.keys, return_index=True, return_inverse=True)[1:]
    sequences = residues(material, first)
    program = shutil.which(MMSEQS)
    if program is not None:
        return mmseqs_clusters(program, sequences, material.alphabet, identity)[of_row], f"by {MMSEQS}"
    letters = len(material.alphabet)
    rule = choose_words(sequences, identity, letters)
    if rule is None:
        lowest = lowest_identity(sequences, identity, letters)
        least = "longer sequences" if lowest is None else f"{argument('cluster', lowest)} or more"
        raise InputError(
            f"{material.where}: {argument('cluster')} {identity:g}: sequences this different share hardly more k-mers "
            f"than unrelated ones of this length, and {MMSEQS}, which aligns them, is not on PATH; install MMseqs2, or "
            f"give {least}"
        )
    warn(
        f"{MMSEQS} is not on PATH, so sequences are clustered by shared {rule.k}-mers: two count as {identity:.0%} "
        f"identical where at least {identity**rule.k:.2g} of the shorter one's are in the longer one"
    )
    lengths = np.array([len(tokens) for tokens in sequences])
    if (short := ~rule.tells(np.maximum(lengths - rule.k + 1, 0))).any():
        warn(
            f"{material.where}: {int(short.sum()):,} sequences, of {lengths[short].max()} letters or less, are too "
            f"short to be told from unrelated ones by shared {rule.k}-mers; similar ones may stand in several parts"
        )
    return cluster_by_words(sequences, rule, letters)[of_row], f"by shared {rule.k}-mers"


def residues(material: Material, rows: np.ndarray) -> list[np.ndarray]:
    """The tokens of some rows without gaps and stops."""
    letters = material.alphabet.letters
    left_out = [letters.index(letter) for letter in "-*" if letter in letters]
    spans = ((material.offsets[row], material.offsets[row + 1]) for row in rows)
    sequences = (material.tokens[start:stop] for start, stop in spans)
    return [tokens[~np.isin(tokens, left_out)] for tokens in sequences]


def word_length(sequences: list[np.ndarray], identity: float) -> int:
    """Bases in a word of which two sequences of median length, `identity` identical, share about `SHARED`."""
    length = float(np.median([len(tokens) for tokens in sequences if len(tokens)] or [1]))
    longest = WORDS[1] if identity >= 1 else math.floor(math.log(max(length / SHARED, 1)) / -math.log(identity))
    return min(max(longest, WORDS[0]), WORDS[1])


def mmseqs_clusters(program: str, sequences: list[np.ndarray], alphabet: Alphabet, identity: float) -> np.ndarray:
    """(S,) int, the clusters of `mmseqs easy-cluster`; what it leaves out is a cluster of its own.

    Each member is at least `identity` identical to its cluster's longest sequence, over 80% of the member or more.
    """
    letters = (alphabet.decode(tokens).replace("U", "T" if alphabet.name == "rna" else "U") for tokens in sequences)
    with tempfile.TemporaryDirectory(prefix="lyra-clusters-") as name:
        folder = Path(name)
        fasta = folder / "sequences.fasta"
        fasta.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(letters) if text))
        command = [
            program, "easy-cluster", str(fasta), str(folder / "found"), str(folder / "work"),
            "--min-seq-id", f"{identity:g}", "-c", COVERED, "--cov-mode", "1", "--cluster-mode", "2",
            "--dbtype", "1" if alphabet.name == "protein" else "2", "-v", "1",
        ]  # fmt: skip
        if alphabet.name != "protein":
            command += ["-k", str(word_length(sequences, identity))]
        try:
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise InputError(f"{program}: cannot be run: {error.strerror or error}; {REPAIR}") from None
        found = folder / "found_cluster.tsv"
        if run.returncode != 0 or not found.exists():
            last = (run.stderr.strip() or run.stdout.strip() or "it says nothing").splitlines()[-1]
            raise InputError(f"{program} easy-cluster: failed with exit code {run.returncode}: {last}; {REPAIR}")
        clusters = np.arange(len(sequences))
        for line in found.read_text().splitlines():
            chosen, member = line.split("\t")[:2]
            clusters[int(member)] = int(chosen)
    return np.unique(clusters, return_inverse=True)[1]
