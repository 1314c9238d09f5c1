"""Sequences of one length as features: ones at their letters, and how they differ from the most common letters."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def one_hot(tokens: np.ndarray, letters: int) -> sparse.csr_matrix:
    """(N, L) tokens to a sparse (N, L * letters) matrix of ones; nothing at unknown residues."""
    return _ones(tokens, tokens >= 0, letters)


def _ones(tokens: np.ndarray, where: np.ndarray, letters: int) -> sparse.csr_matrix:
    """A sparse (N, L * letters) matrix with ones at the tokens `where` (N, L) says so."""
    rows, length = tokens.shape
    columns = (tokens + letters * np.arange(length))[where]
    ends = np.concatenate([[0], np.cumsum(where.sum(axis=1))])
    return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(rows, length * letters))


class Differences:
    """Sums over positions of a table's entries, from those positions alone where a sequence is not the consensus.

    What `one_hot(tokens) @ table` gives, for as many terms as there are mutations: of double mutants of a protein of
    55 residues a 27th part of the work. An unknown residue counts as a letter of its own, with zeros for entries.

    Attributes:
        consensus: (L,) the most common token of each position; `letters` where that is an unknown residue.
        matrix: (N, L * (letters + 1)) ones at the letters that differ from it; the last of each position is unknown.
    """

    def __init__(self, tokens: np.ndarray, letters: int) -> None:
        length, size = tokens.shape[1], letters + 1
        self.size = size
        known = np.where(tokens >= 0, tokens, letters).astype(np.int64)
        counts = np.bincount((known + size * np.arange(length)).ravel(), minlength=length * size)
        self.consensus, self.positions = counts.reshape(length, size).argmax(axis=1), np.arange(length)
        self.matrix = _ones(known, known != self.consensus, size)
        self._transposed = self.matrix.T.tocsr()

    def sums(self, table: np.ndarray) -> np.ndarray:
        """(N, R) sums of the entries (L, letters, R) of each sequence's letters."""
        entries = np.pad(table, ((0, 0), (0, 1), (0, 0)))
        common = entries[self.positions, self.consensus]
        return self.matrix @ (entries - common[:, None]).reshape(self.matrix.shape[1], table.shape[2]) + common.sum(
            axis=0
        )

    def gradient(self, slopes: np.ndarray) -> np.ndarray:
        """(L, letters, R) derivatives of something by the table, from those by the sums (N, R)."""
        changed = (self._transposed @ slopes).reshape(len(self.positions), self.size, slopes.shape[1])
        changed[self.positions, self.consensus] = slopes.sum(axis=0) - changed.sum(axis=1)
        return changed[:, :-1]
