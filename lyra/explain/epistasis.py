"""Pairwise epistasis: what two substitutions do together beyond what each does alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import InputError, argument
from ..prediction import Predictor
from ..settings.explain import ExplainOptions
from .subject import Progress, Score, Subject, no_progress

MAX_POSITIONS = 100  # 4,950 pairs


def epistasis(
    predictor: Predictor, sequence: str, options: ExplainOptions | None = None, *, progress: Progress = no_progress
) -> pd.DataFrame:
    """Epistasis of every pair of positions, summarised over the letters there.

    The epistasis of substitutions a and b is f(ab) - f(a) - f(b) + f(sequence), with f the model's prediction on the
    chosen scale. A saturating assay makes epistasis of its own on the target's scale; a model with a sigmoid at its
    end has `scale="latent"`, before it. Of the pairs of letters, `options.pair_samples` are drawn for each pair of
    positions, or all taken if there are no more.

    Args:
        sequence: text in the model's alphabet.
        options: positions (at most 100), numbering, samples, class and scale; see `ExplainOptions`. A model of a class
            per residue needs `at`.
        progress: called with the number of predictions made since the last call.

    Returns:
        one row a pair: position_1 < position_2, rms (root mean square over the pairs of letters), mean, strongest (the
        pair of substitutions with the greatest absolute epistasis, such as Y3A:F30L) and strongest_epistasis.
        `attrs["unit"]` says what the numbers are.

    Raises:
        InputError: as for `mutagenesis`, too many or fewer than 2 positions, and a model of a class per residue
            without `at`.
    """
    options = options or ExplainOptions()
    score = Score(predictor, options)
    check_output(score)
    return epistasis_table(Subject(score, sequence, options), progress)


def check_output(score: Score, name: str = "pairs") -> None:
    """Raises InputError, which names the argument, where two positions have no answer in common."""
    if score.per_position:
        raise InputError(
            f"{argument(name)}: this model gives a class to each residue; choose one of them with {argument('at')}"
        )


def count_positions(subject_sites: np.ndarray, where: str = "sequence") -> int:
    """How many positions are to be paired.

    Raises:
        InputError: too many, or fewer than two.
    """
    count = len(subject_sites)
    if count > MAX_POSITIONS:
        raise InputError(f"{argument('pairs')}: {where} has {count:,} positions, too many to pair; choose at most "
                         f"{MAX_POSITIONS} "
                         f"with {argument('positions')}, such as {argument('positions', '10-60')}")  # fmt: skip
    if count < 2:
        raise InputError(
            f"{argument('pairs')}: {where} has {count} position to pair; choose at least 2 that hold a letter"
        )
    return count


def count_doubles(positions: int, letters: int, options: ExplainOptions) -> int:
    """How many double mutants `epistasis` predicts."""
    return positions * (positions - 1) // 2 * min(options.pair_samples, (letters - 1) ** 2)


def draw_doubles(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The double mutants: sites (P, K, 2) and tokens (P, K, 2), and the same tokens as places (P, K, 2) among the
    alternatives of their position."""
    tokens = subject.tokens.cpu().numpy()
    others = np.array([[t for t in subject.alternatives if t != tokens[site]] for site in subject.open])
    first, second = np.triu_indices(len(subject.open), 1)
    letters = others.shape[1]
    samples = min(subject.options.pair_samples, letters**2)
    rng = np.random.default_rng(subject.options.seed)
    if samples == letters**2:
        drawn = np.tile(np.arange(samples), (len(first), 1))
    else:
        drawn = np.stack([rng.choice(letters**2, samples, replace=False) for _ in first])
    places = np.stack(np.divmod(drawn, letters), axis=-1)
    pairs = np.stack([first, second], axis=-1)[:, None, :]
    return np.tile(subject.open[pairs], (1, samples, 1)), others[pairs, places], places


def epistasis_table(subject: Subject, progress: Progress = no_progress) -> pd.DataFrame:
    """`epistasis` of a sequence that is already prepared."""
    count = count_positions(subject.open)
    sites, tokens, places = draw_doubles(subject)
    alone_sites, alone_tokens = subject.substitutions()
    alone = subject.score_mutants(alone_sites[:, None], alone_tokens[:, None], progress).reshape(count, -1)
    doubles = subject.score_mutants(sites.reshape(-1, 2), tokens.reshape(-1, 2), progress).reshape(places.shape[:2])
    first, second = np.triu_indices(count, 1)
    found = doubles - alone[first[:, None], places[..., 0]] - alone[second[:, None], places[..., 1]]
    found += subject.predicted[0]
    best = abs(found).argmax(1)
    names = [
        ":".join(subject.name(*one) for one in zip(sites[p, k], tokens[p, k], strict=True)) for p, k in enumerate(best)
    ]
    frame = pd.DataFrame(
        {
            "position_1": subject.open[first] + subject.options.offset,
            "position_2": subject.open[second] + subject.options.offset,
            "rms": np.sqrt(np.square(found).mean(1)),
            "mean": found.mean(1),
            "strongest": names,
            "strongest_epistasis": found[np.arange(len(best)), best],
        }
    )
    frame.attrs["unit"] = subject.score_of.unit
    return frame


def as_matrix(frame: pd.DataFrame, column: str = "rms") -> pd.DataFrame:
    """A column of an `epistasis` table as a symmetric matrix (positions x positions); the diagonal is NaN."""
    mirrored = frame.rename(columns={"position_1": "position_2", "position_2": "position_1"})
    both = pd.concat([frame, mirrored], ignore_index=True)
    matrix = both.pivot(index="position_1", columns="position_2", values=column)
    return matrix.rename_axis(index="position", columns=None)
