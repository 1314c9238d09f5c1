"""The models to beat for a class or a number per residue: linear regressions of the residues around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from .kmers import Linear, Part, fit_linear, fit_logistic

WIDTH = 21  # residues: ten on either side
CS = (0.003, 0.03, 0.3)
MAX_RESIDUES = 150_000  # that are fitted: beyond, they are drawn


def windows(tokens: np.ndarray, lengths: np.ndarray, letters: int, width: int = WIDTH) -> sparse.csr_matrix:
    """(sum L, width * letters) ones at the letters of the window around each residue; none beyond the ends.

    Args:
        tokens: (sum L,) of all sequences end to end, -1 for unknown; lengths: (N,).
    """
    half, rows = width // 2, len(tokens)
    tokens = tokens.astype(np.int64)  # numbers of columns do not fit into a token's eight bits
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    pad = np.full(half, -1)
    padded, owner = (np.concatenate([pad, values, pad]) for values in (tokens, sequence))
    views = np.lib.stride_tricks.sliding_window_view
    letter = views(padded, width) if rows else np.zeros((0, width), np.int64)
    same = views(owner, width) == sequence[:, None] if rows else np.zeros((0, width), bool)
    known = same & (letter >= 0)
    columns = (letter + letters * np.arange(width))[known]
    ends = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(rows, width * letters))


class WindowModel:
    """A fitted logistic or ridge regression of windows."""

    def __init__(self, letters: int, linear: Linear) -> None:
        self.letters, self.linear = letters, linear
        self.chosen, self.rows = linear.chosen, linear.rows

    def predict(self, part: Part) -> np.ndarray:
        """(sum L, classes) probabilities, or (sum L,) numbers, of the residues of all sequences end to end."""
        return self.linear.predict(windows(part.tokens, part.lengths, self.letters))


def fit_windows(
    train: Part, validation: Part, letters: int, classes: int, known: Callable[[np.ndarray], np.ndarray]
) -> WindowModel:
    """Fits the labelled residues; the penalty is the one with the least validation log loss, or squared error.

    Args:
        train, validation: with a class, or a number, for each residue as values (sum L,). A residue has the weight of
            its sequence.
        classes: how many; 0 for numbers.
        known: which of the values are there.
    """
    x, val_x = (windows(part.tokens, part.lengths, letters) for part in (train, validation))
    labelled, checked = (np.flatnonzero(known(part.values)) for part in (train, validation))
    if len(labelled) > MAX_RESIDUES:
        labelled = np.sort(np.random.default_rng(0).choice(labelled, MAX_RESIDUES, replace=False))
    weights, val_weights = (
        None if part.weights is None else np.repeat(part.weights, part.lengths)[rows]
        for part, rows in ((train, labelled), (validation, checked))
    )
    fitted = x[labelled], train.values[labelled], val_x[checked], validation.values[checked]
    if not classes:
        return WindowModel(letters, fit_linear(*fitted, weights=weights, val_weights=val_weights)[1])
    _, linear = fit_logistic(
        *fitted, classes, tf_idf=False, candidates=CS, iterations=100, weights=weights, val_weights=val_weights
    )
    return WindowModel(letters, linear)
