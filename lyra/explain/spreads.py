"""How far the members of an ensemble are apart in what a substitution changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from ..member_scores import log_odds
from .subject import Progress, Subject, no_progress

CHUNK = 2048  # mutants whose texts are made at once
CERTAIN = 2.0  # standard deviations from which on a change is more than the members' disagreement


def change_spread(
    subject: Subject, sites: np.ndarray, tokens: np.ndarray, progress: Progress = no_progress
) -> np.ndarray:
    """(M,) the standard deviation over the members of the change that each substitution makes, on the scale in use.

    Args:
        sites, tokens: (M,) index of the position, and the new token.
        progress: called with the number of predictions made since the last call.
    """
    predictor, found = subject.score_of.predictor, np.zeros(len(sites))
    own = predictor.predict_members([subject.letters])[0]
    for start in range(0, len(sites), CHUNK):
        part = slice(start, start + CHUNK)
        texts = [
            subject.letters[:site] + predictor.alphabet.letters[token] + subject.letters[site + 1 :]
            for site, token in zip(sites[part].tolist(), tokens[part].tolist(), strict=True)
        ]
        having = scores(subject, predictor.predict_members(texts), sites[part])
        without = scores(subject, [own] * len(texts), sites[part])
        found[part] = (having - without).std(-1)
        progress(len(texts))
    return found


def scores(subject: Subject, predicted: Sequence[np.ndarray] | np.ndarray, sites: np.ndarray) -> np.ndarray:
    """(M, members) of the scale in use, from what the members predict for M sequences changed at `sites`."""
    score = subject.score_of
    if score.mean:
        predicted = [each.mean(0) for each in predicted]
    elif score.predictor.targets.per_residue:
        places = sites if subject.at is None else np.full(len(sites), subject.at)
        predicted = [each[place] for each, place in zip(predicted, places, strict=True)]
    values = np.asarray(predicted, dtype=np.float64)
    if score.predictor.targets.names:
        values = values[..., score.chosen]
        return special.logit(values) if score.scale == "log-odds" else values
    if not score.by_class:
        return values
    explained = subject.classes.cpu().numpy()
    classes = explained[sites] if score.per_position else np.broadcast_to(explained, sites.shape)
    found = np.empty(values.shape[:-1])
    for index in np.unique(classes):
        rows = classes == index
        probabilities = values[rows]
        found[rows] = probabilities[..., index] if score.scale == "probability" else log_odds(probabilities, int(index))
    return found


def uncertain(frame: pd.DataFrame) -> np.ndarray:
    """(N,) which rows of a `mutagenesis` table change less than their members' disagreement; none of a single model."""
    if "spread" not in frame:
        return np.zeros(len(frame), dtype=bool)
    return (frame["change"].abs() < CERTAIN * frame["spread"]).to_numpy()
