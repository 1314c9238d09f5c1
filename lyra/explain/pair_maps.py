"""Every pair of letters at two positions: what the model predicts, and the epistasis in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import InputError, argument
from ..prediction import Predictor
from ..settings.explain import ExplainOptions
from .epistasis import check_output
from .subject import Progress, Score, Subject, no_progress


def pair_map(
    predictor: Predictor,
    sequence: str,
    positions: tuple[int, int],
    options: ExplainOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Predictions for all pairs of letters at two positions: 20 x 20 of a protein, 4 x 4 of bases.

    The epistasis of a pair of letters is f(ab) - f(a) - f(b) + f(sequence), with f the prediction on the chosen scale,
    a and b each alone in the sequence; where one of them is the sequence's own letter it is 0.

    Args:
        sequence: text in the model's alphabet.
        positions: two different ones, in the numbering of `options.offset`.
        options: numbering, class and scale; see `ExplainOptions`. A model of a class per residue needs `at`.
        progress: called with the number of predictions made since the last call.

    Returns:
        one row a pair of letters: position_1, position_2, letter_1, letter_2, mutant (such as A24G:D40N; empty for the
        sequence itself), predicted, epistasis. `attrs` holds unit and wild_type, the sequence's own two letters.

    Raises:
        InputError: as for `mutagenesis`, positions that hold no residue, and a model of a class per residue without
            `at`.
    """
    options = options or ExplainOptions()
    score = Score(predictor, options)
    check_output(score, "maps")
    return pair_map_table(Subject(score, sequence, options), positions, progress)


def check_positions(
    positions: tuple[int, int], options: ExplainOptions, letters: str, residues: Sequence[str], where: str
) -> list[int]:
    """The indices, from 0, of two positions; an InputError if they are one, or the sequence has no residue there."""
    if positions[0] == positions[1]:
        raise InputError(f"{argument('maps')} {positions[0]}: is there twice; give two positions")
    sites = [options.index("maps", position, len(letters), where) for position in positions]
    for position, site in zip(positions, sites, strict=True):
        if letters[site] not in residues:
            raise InputError(
                f"{argument('maps')} {position}: {where} has no residue there, but {letters[site]}; choose another"
            )
    return sites


def pair_map_table(subject: Subject, positions: tuple[int, int], progress: Progress = no_progress) -> pd.DataFrame:
    """`pair_map` of a sequence that is already prepared."""
    alphabet = subject.score_of.predictor.alphabet
    letters = [alphabet.letters[token] for token in subject.alternatives]
    sites = check_positions(positions, subject.options, subject.letters, letters, "sequence")
    count = len(letters)
    tokens = np.stack(np.meshgrid(subject.alternatives, subject.alternatives, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = subject.score_mutants(np.tile(sites, (len(tokens), 1)), tokens, progress).reshape(count, count)
    first, second = (letters.index(subject.letters[site]) for site in sites)
    epistasis = grid - grid[:, [second]] - grid[[first], :] + grid[first, second]
    epistasis[first, :], epistasis[:, second] = 0.0, 0.0  # free of the rounding of predictions
    names = [
        ":".join(
            subject.name(site, token)
            for site, token in zip(sites, pair, strict=True)
            if alphabet.letters[token] != subject.letters[site]
        )
        for pair in tokens.tolist()
    ]
    frame = pd.DataFrame(
        {
            "position_1": positions[0],
            "position_2": positions[1],
            "letter_1": np.repeat(letters, count),
            "letter_2": np.tile(letters, count),
            "mutant": names,
            "predicted": grid.reshape(-1),
            "epistasis": epistasis.reshape(-1),
        }
    )
    frame.attrs |= {"unit": subject.score_of.unit, "wild_type": (subject.letters[sites[0]], subject.letters[sites[1]])}
    return frame
