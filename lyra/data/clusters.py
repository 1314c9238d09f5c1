"""Clusters of similar sequences: by MMseqs2 where it is installed, else by the k-mers that sequences share.

The k-mer rule. If a share p of the residues of two sequences are identical and the others differ at places that are
independent of each other, a k-mer of the one survives in the other with probability p^k. So two sequences count as p
identical where at least p^k of the k-mers of the shorter one are in the longer one. Its limits: at exactly p identity it
finds about half of the pairs, since the number of k-mers that survive varies; substitutions that stand together leave
more k-mers whole than the formula says, spread ones fewer, and every insertion costs k k-mers; and unrelated sequences
share k-mers by chance, which is why k grows with length and why low identities are refused. Opposite strands of DNA are
different sequences.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from math import ceil
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from ..alphabets import Alphabet
from ..errors import InputError, argument
from .divisions import Material

MMSEQS = "mmseqs"
COVERED = "0.8"  # share of the shorter sequence that an alignment must span
SHORTEST, LONGEST = 2, 12  # k-mers
FEWEST = 3  # k-mers that two sequences must share, as fewer say nothing
BY_CHANCE = 0.05  # unrelated sequences, at most, that a sequence may be expected to be taken with
QUICK = 0.01  # share of k-mers that unrelated sequences have in common, from which counting them is quick
BLOCK = 1024  # sequences compared at once


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
    k = word_length(sequences, identity, len(material.alphabet), str(material.where))
    warn(
        f"{MMSEQS} is not on PATH, so sequences are clustered by shared {k}-mers: two are in one cluster where the "
        f"longer one has at least {identity**k:.2g} of the other's, as of {identity:.0%} identical ones is expected"
    )
    return kmer_clusters(sequences, identity, k, len(material.alphabet))[of_row], f"by shared {k}-mers"


def residues(material: Material, rows: np.ndarray) -> list[np.ndarray]:
    """The tokens of some rows without gaps and stops."""
    letters = material.alphabet.letters
    left_out = [letters.index(letter) for letter in "-*" if letter in letters]
    spans = ((material.offsets[row], material.offsets[row + 1]) for row in rows)
    sequences = (material.tokens[start:stop] for start, stop in spans)
    return [tokens[~np.isin(tokens, left_out)] for tokens in sequences]


# --- MMseqs2 ---------------------------------------------------------------------------------------------------------


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


REPAIR = "put it right, or take it from PATH, and sequences are clustered by shared k-mers"

# --- k-mers ----------------------------------------------------------------------------------------------------------


def word_length(sequences: list[np.ndarray], identity: float, letters: int, where: str) -> int:
    """The k by which sequences that are `identity` identical are told from unrelated ones.

    It is the smallest of which unrelated ones share less than 1%, if there is one, since what is shared takes time.

    Of two sequences of the usual (median) length L whose letters agree by chance with probability q, a k-mer of the
    one is in the other by chance with probability 1 - (1 - q^k)^(L - k + 1). That as many are as are asked for must be
    so rare (see `reached_by_chance`) that it does not happen to one sequence in twenty, with any of the others.

    Raises:
        InputError: there is no such k.
    """
    k = _word(sequences, identity, letters)
    if k is not None:
        return k
    higher = [percent / 100 for percent in range(ceil(100 * identity), 101)]
    lowest = next((other for other in higher if _word(sequences, other, letters)), None)
    least = "longer sequences" if lowest is None else f"{argument('cluster', lowest)} or more"
    raise InputError(
        f"{where}: {argument('cluster')} {identity:g}: sequences this different share hardly more k-mers than "
        f"unrelated ones of this length, and {MMSEQS}, which aligns them, is not on PATH; install MMseqs2, or give "
        f"{least}"
    )


def _word(sequences: list[np.ndarray], identity: float, letters: int) -> int | None:
    length = int(np.median([len(tokens) for tokens in sequences]))
    flat = np.concatenate(sequences)
    share = np.bincount(flat[flat >= 0], minlength=letters) / max(1, (flat >= 0).sum())
    agree = min(float((share**2).sum()), 1 - 1e-9)
    last = None
    for k in range(SHORTEST, min(LONGEST, length) + 1):
        words = length - k + 1
        needed = identity**k * words
        chance = words * -np.expm1(words * np.log1p(-(agree**k)))
        if needed >= FEWEST and reached_by_chance(ceil(needed), chance, agree) * len(sequences) <= BY_CHANCE:
            last = k
            if chance <= QUICK * words:
                return k
    return last


def reached_by_chance(needed: int, mean: float, agree: float) -> float:
    """The probability that unrelated sequences share `needed` k-mers or more, of which they share `mean` on average.

    A run of letters that agree has several k-mers in it, so they come in clumps: a Poisson number of clumps, whose
    sizes are geometric since a run goes on with probability `agree` (the Polya-Aeppli distribution; recursion of
    Johnson, Kemp and Kotz 2005, Univariate Discrete Distributions, 9.7).
    """
    rate = mean * (1 - agree)
    before, now = 0.0, float(np.exp(-rate))
    below = now
    for n in range(needed - 1):
        before, now = now, ((rate * (1 - agree) + 2 * n * agree) * now - agree**2 * (n - 1) * before) / (n + 1)
        below += now
    return max(0.0, 1 - below)


def kmer_table(sequences: list[np.ndarray], k: int, letters: int) -> csr_matrix:
    """(S, K) 0 or 1, which of the K different k-mers each sequence has; those with an unknown residue do not count."""
    lengths = np.array([len(tokens) for tokens in sequences])
    flat = np.concatenate([*sequences, np.full(k, -1, dtype=np.int8)]).astype(np.int64)
    count = len(flat) - k
    codes, known = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    for j in range(k):
        codes = codes * letters + flat[j : j + count]
        known &= flat[j : j + count] >= 0
    owner = np.repeat(np.arange(len(sequences)), lengths)
    ends = np.cumsum(lengths)[owner]
    known &= np.arange(count) + k <= ends
    words, columns = np.unique(codes[known], return_inverse=True)
    table = csr_matrix(
        (np.ones(len(columns), dtype=np.int32), (owner[known], columns)), shape=(len(sequences), max(1, len(words)))
    )
    table.data[:] = 1
    return table


def row_maxima(table: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """(S,) the largest entry of each row, and its column; 0 and 0 where there is none. (scipy's own sorts all rows.)"""
    counts = np.diff(table.indptr)
    filled = counts > 0
    most, best = np.zeros(len(counts), dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    if filled.any():
        most[filled] = np.maximum.reduceat(table.data, table.indptr[:-1][filled])
        places = np.flatnonzero(table.data == np.repeat(most, counts))
        best[np.repeat(np.arange(len(counts)), counts)[places[::-1]]] = table.indices[places[::-1]]  # the first wins
    return most, best


def kmer_clusters(sequences: list[np.ndarray], identity: float, k: int, letters: int) -> np.ndarray:
    """(S,) int, greedy clusters: from the longest sequence on, each joins the one it shares most k-mers with.

    It joins if that is enough (see this module), else it is the first of a new cluster; all members are compared with
    the first one. Counting runs over an inverted index (a sparse product), a block of sequences at a time. 10,000
    unrelated proteins of 300 residues, the slowest case, take SECONDS on one core; time grows with the square of
    the number of clusters.
    """
    order = np.argsort([-len(tokens) for tokens in sequences], kind="stable")
    table = kmer_table([sequences[i] for i in order], k, letters)
    needed = np.maximum(identity**k * np.diff(table.indptr), 1)
    cluster = np.full(len(order), -1, dtype=np.int64)
    firsts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(order), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(order)))
        if len(firsts):
            most, best = row_maxima(table[block] @ table[firsts].T)
            joins = most >= needed[block]
            cluster[block[joins]] = firsts[best[joins]]
            block = block[~joins]
        within = (table[block] @ table[block].T).toarray()
        new = np.zeros(0, dtype=np.int64)
        for i, row in enumerate(block):
            best_new = new[within[i, new].argmax()] if len(new) else i
            if best_new != i and within[i, best_new] >= needed[row]:
                cluster[row] = block[best_new]
            else:
                cluster[row] = row
                new = np.append(new, i)
        firsts = np.concatenate([firsts, block[new]])
    found = np.empty(len(order), dtype=np.int64)
    found[order] = cluster
    return np.unique(found, return_inverse=True)[1]
