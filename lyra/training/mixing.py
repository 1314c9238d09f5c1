"""Networks, and simpler models, made one model: their mean, or a mix weighted by rows held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize
from torch import nn

from ..data.batches import SequenceDataset
from ..data.loading import LabelledData
from ..models import Ensemble, Lyra
from ..outputs import Output, RegressionOutput, SeveralOutputs
from ..prediction import converter, mean_of_members, predict_encoded, predict_replicates
from ..transforms import Transform, back, fit_transform, mapped
from ..uncertainty import Calibration
from .held_out import calibrations
from .networks import Network, Rows, Workshop
from .rivals import Rival

LYRA = "Lyra"


@dataclass
class Candidate:
    """A fitted model that may become part of the mix.

    Attributes:
        kind: "Lyra" or the name of a simpler model.
        fold: the split that it was fitted on; replicate: see `Ensemble`.
    """

    kind: str
    model: nn.Module
    output: Output | None
    fold: int
    replicate: int


@dataclass
class Fitted:
    """What a run has made of some rows.

    Attributes:
        model: a network, or an `Ensemble`; output: its scaling, for a regression.
        networks: their histories, by name.
        shares: of each kind of model in the mix, by the size of its weight; empty where nothing is mixed.
        held_out: rows that the predictions `predicted` are for, none of which was in the training rows of the models
            that predicted them: the validation part, or with folds every row.
        calibrations: of an ensemble of numbers, the errors of those for each target.
        rivals: the simpler models fitted to the training rows, their penalties chosen by the validation rows, of each
            fold where there are folds; none where such were not needed.
    """

    model: Lyra | Ensemble
    output: Output | None
    networks: dict[str, Network]
    shares: dict[str, float] = field(default_factory=dict)
    held_out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    predicted: Any = None
    calibrations: list[Calibration] = field(default_factory=list)
    rivals: list[dict[str, Rival]] = field(default_factory=list)


def kind_of_ensemble(data: LabelledData, rows: np.ndarray) -> tuple[dict[str, Any], Output | None]:
    """What `Ensemble` is to be told of the data's targets, and for numbers its scaling, from those of some rows.

    Its scaling is a linear one: members, on whatever scale they learned, predict in the targets' own units.
    """
    if not data.targets.numeric:
        return {"labels" if data.targets.names else "classes": True}, None
    if data.targets.names:
        several = SeveralOutputs.fit("linear", np.concatenate([data.values[i] for i in rows]))
        each = several.each()
        return {"mean": [one.mean for one in each], "std": [one.std for one in each]}, several
    scaling = RegressionOutput.fit("linear", data.labels_of(rows))
    return {"mean": scaling.mean, "std": scaling.std}, scaling


def simpler_models(rivals: dict[str, Rival], fold: int, replicate: int) -> list[Candidate]:
    """Fitted simpler models as parts of a mix."""
    found = []
    for kind, rival in rivals.items():
        if rival.model is not None:
            output = None if rival.scale is None else RegressionOutput("linear", 0.0, 1.0, transform=rival.scale)
            found.append(Candidate(kind, rival.model, output, fold, replicate))
    return found


def combine(
    workshop: Workshop, splits: list[Rows], candidates: list[Candidate], networks: dict[str, Network]
) -> Fitted:
    """One model from the candidates, with weights by what they predict for rows that they were not trained on."""
    data, recipe = workshop.data, workshop.recipe
    held_out = np.concatenate([rows.val for rows in splits])
    options, scaling = kind_of_ensemble(data, np.unique(np.concatenate([splits[0].train, splits[0].val])))
    if data.targets.per_residue or not isinstance(scaling, RegressionOutput):  # residues, classes, several targets
        count = len(candidates)
        models, outputs = [each.model for each in candidates], [each.output for each in candidates]
        model = Ensemble.of(models, outputs, [1 / count] * count, range(count), **options)
        fitted = Fitted(model, scaling, networks)
        if scaling is not None:
            found = replicates_of(model, data, held_out)
            fitted.calibrations = calibrations(data, splits[0].train, held_out, mean_of_members(found), found)
        return fitted
    values = np.array(data.values, dtype=np.float64)[held_out]
    known = np.isin(held_out, data.measured(held_out))
    kinds = list(dict.fromkeys(each.kind for each in candidates))
    learned = np.unique(np.concatenate([rows.train for rows in splits]))
    # Weights are found, and models mixed, where the squared errors are that they all have made small.
    scale = None if recipe.mix == "none" else fit_transform(data.transform, data.labels_of(learned))
    # (rows, kinds): the mean of a kind's models that did not see the row.
    predicted = np.concatenate(
        [
            np.stack(
                [
                    mean_of(data, rows.val, [c for c in candidates if (c.kind, c.fold) == (kind, fold)], scale)
                    for kind in kinds
                ],
                1,
            )
            for fold, rows in enumerate(splits)
        ]
    )
    weights, intercept = np.ones(1), 0.0
    if recipe.mix != "none":
        count_as = None if data.weights is None else data.weights[held_out][known]
        weights, intercept = mixing_weights(predicted[known], mapped(scale, values[known]), count_as)
        options |= {} if scale is None else {"scale": scale.to_json()}
    kept = {kind: float(weight) for kind, weight in zip(kinds, weights, strict=True) if weight > 0}
    if not kept:
        kept = {LYRA: 0.0}
        workshop.warn("no model predicts rows held out better than their mean does, so the mix predicts that mean")
    members = [each for each in candidates if each.kind in kept]
    counts = {kind: sum(each.kind == kind for each in members) for kind in kept}
    model = Ensemble.of(
        [each.model for each in members],
        [each.output for each in members],
        [kept[each.kind] / counts[each.kind] for each in members],
        [each.replicate for each in members],
        intercept=intercept, **options,
    )  # fmt: skip
    shares = {} if recipe.mix == "none" else kept
    fitted = Fitted(model, scaling, networks, shares, held_out, back(scale, predicted @ weights + intercept))
    if model.count > 1:
        # Of folds all replicates but one have seen a row, so that their spread there says nothing.
        replicates = None if len(splits) > 1 else replicates_of(model, data, held_out)
        own = fitted.predicted if replicates is None else replicates.mean(1)
        fitted.calibrations = calibrations(data, learned, held_out, own, replicates)
    return fitted


def mean_of(
    data: LabelledData, rows: np.ndarray, models: list[Candidate], scale: Transform | None = None
) -> np.ndarray:
    """The models' mean prediction of some rows, on a scale; None is the target's own."""
    dataset = SequenceDataset(data.tokens, data.offsets, rows)
    found = []
    for each in models:
        plain = each.output is None  # a simpler model, in the target's units
        convert = (lambda raw: raw[..., 0]) if plain else converter(data.targets, each.output)
        found.append(mapped(scale, np.asarray(predict_encoded(each.model, convert, dataset, per_token=False))))
    return np.mean(found, axis=0)


def replicates_of(model: Ensemble, data: LabelledData, rows: np.ndarray) -> Any:
    """(N, R) what the replicates predict for some rows; of several targets (N, R, T); of residues a list of (L, R)."""
    dataset = SequenceDataset(data.tokens, data.offsets, rows)
    return predict_replicates(model, dataset, data.targets.per_residue)


def mixing_weights(
    predicted: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Weights that are not negative, and an intercept, of the least squared error ("stacking", Breiman 1996).

    Args:
        predicted: (N, kinds); values: (N,); weights: (N,) of the rows' squared errors.
    """
    rows = np.ones(len(values)) if weights is None else weights / weights.max()
    centre, mean = np.average(predicted, axis=0, weights=rows), float(np.average(values, weights=rows))
    root = np.sqrt(rows)
    found, _ = optimize.nnls(root[:, None] * (predicted - centre), root * (values - mean))
    return found, mean - float(centre @ found)
