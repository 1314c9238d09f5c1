"""In-silico mutagenesis: what the model predicts for every single substitution."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..prediction import Predictor
from ..settings.explain import ExplainOptions
from .spreads import change_spread
from .subject import Progress, Score, Subject, no_progress


def mutagenesis(
    predictor: Predictor, sequence: str, options: ExplainOptions | None = None, *, progress: Progress = no_progress
) -> pd.DataFrame:
    """Predictions for the sequence with each letter replaced by each other one.

    Letters are those of residues: 20 amino acids or 4 bases, no gap and no stop. Positions that hold no such letter
    themselves are left out. The class of a classifier is the same for all substitutions, that of a model of a class
    per residue the same for all substitutions of a position. Of numbers per residue it is the mean over the sequence
    that changes, or with `at` one of them.

    Args:
        sequence: text in the model's alphabet.
        options: positions, numbering, class and scale; see `ExplainOptions`.
        progress: called with the number of predictions made since the last call.

    Returns:
        one row a substitution: position (in the numbering of `options.offset`), wild_type and letter (the old and the
        new one), mutant (such as A24G), class (classifiers), predicted (in the scale's units), change (predicted
        minus that of the sequence itself), spread (of an ensemble, the standard deviation of the change over its
        members), probability (classifiers on the scale of log-odds). `attrs["unit"]`
        says what predicted and change are.

    Raises:
        InputError: a letter outside the alphabet, a position outside the sequence, a class or scale that the model
            does not have.
    """
    options = options or ExplainOptions()
    return mutagenesis_table(Subject(Score(predictor, options), sequence, options), progress)


def mutagenesis_table(subject: Subject, progress: Progress = no_progress) -> pd.DataFrame:
    """`mutagenesis` of a sequence that is already prepared."""
    sites, tokens = subject.substitutions()
    predicted = subject.score_mutants(sites[:, None], tokens[:, None], progress)
    score, letters = subject.score_of, subject.score_of.predictor.alphabet.letters
    table: dict[str, object] = {
        "position": sites + subject.options.offset,
        "wild_type": [subject.letters[site] for site in sites],
        "letter": [letters[token] for token in tokens],
        "mutant": [subject.name(site, token) for site, token in zip(sites, tokens, strict=True)],
    }
    if score.by_class:
        table["class"] = subject.class_names(sites)
    table |= {"predicted": predicted, "change": predicted - subject.unchanged(sites)}
    if score.predictor.members > 1:
        table["spread"] = change_spread(subject, sites, tokens, progress)
    if score.scale == "log-odds":
        table["probability"] = 1 / (1 + np.exp(-predicted))
    frame = pd.DataFrame(table)
    frame.attrs["unit"] = score.unit
    return frame


def sensitive_positions(frame: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The positions of a `mutagenesis` table whose substitutions change the prediction most.

    Returns:
        at most `count` rows: position, wild_type, mean (of the changes), rms (their root mean square, by which rows
        are sorted), lowest and highest (the substitutions), lowest_change and highest_change.
    """
    if frame.empty:
        return pd.DataFrame(columns=["position", "wild_type", "mean", "rms"])
    groups = frame.groupby("position", sort=True)
    changes = groups["change"]
    lowest, highest = frame.loc[changes.idxmin()], frame.loc[changes.idxmax()]
    table = pd.DataFrame(
        {
            "position": list(groups.groups),
            "wild_type": groups["wild_type"].first().to_numpy(),
            "mean": changes.mean().to_numpy(),
            "rms": changes.agg(rms).to_numpy(),
            "lowest": lowest["mutant"].to_numpy(),
            "lowest_change": lowest["change"].to_numpy(),
            "highest": highest["mutant"].to_numpy(),
            "highest_change": highest["change"].to_numpy(),
        }
    )
    return table.sort_values("rms", ascending=False, kind="stable").head(count).reset_index(drop=True)


def rms(values: pd.Series) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values.to_numpy()))))
