"""From rows to one model: networks of several seeds or folds, and for a regression simpler models mixed with them."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any, cast

import numpy as np
from torch import nn

from ..data.batches import SequenceDataset
from ..data.labelled import check_counting
from ..data.loading import LabelledData
from ..errors import InputError, argument
from ..model_folder import ModelDescription
from ..models import Ensemble
from ..models.ensemble import SHARED
from ..outputs import Output
from ..prediction import converter, predict_encoded
from ..transforms import Transform
from .held_out import calibrations
from .mixing import LYRA, Candidate, Fitted, combine, kind_of_ensemble, simpler_models
from .networks import Network, Rows, Workshop
from .plan import FOLDS
from .rivals import Rival, fit_positions


def fit_data(workshop: Workshop) -> Fitted:
    """The model of the data's parts, or of its folds."""
    data = workshop.data
    return fit_folds(workshop) if data.folds else fit(workshop, data.rows("train"), data.rows("val"))


def fit(workshop: Workshop, train: np.ndarray, val: np.ndarray, prefix: str = "", seeds: int = 0) -> Fitted:
    """Trains what the recipe asks for on rows to learn from and rows to choose by.

    Args:
        prefix: of the networks' names, and seeds: how many seeds were used before, where a run has several fits.

    Raises:
        InputError: anything that a user can put right.
        KeyboardInterrupt: on interrupt.
    """
    recipe, data = workshop.recipe, workshop.data
    if recipe.mix == "folds":
        splits = inner_folds(data, np.sort(np.concatenate([train, val])), recipe.seed)
        check_inner_folds(data, splits)
    else:
        splits = [Rows(train, val)]
    networks: dict[str, Network] = {}
    candidates: list[Candidate] = []
    rivals: list[dict[str, Rival]] = []
    for fold, rows in enumerate(splits):
        for seed in range(recipe.ensemble):
            index = fold * recipe.ensemble + seed
            name = f"{prefix}{index + 1}"
            several = bool(prefix) or len(splits) * recipe.ensemble > 1
            networks[name] = workshop.train(name, rows, seeds + index, several)
            replicate = fold if len(splits) > 1 else seed
            candidates.append(Candidate(LYRA, networks[name].model, networks[name].output, fold, replicate))
        if recipe.mix != "none":
            rivals.append(fit_positions(data, data.counting(rows.train), data.counting(rows.val)))
            candidates += simpler_models(rivals[-1], fold, fold if len(splits) > 1 else SHARED)
    if len(candidates) == 1:
        (alone,) = networks.values()
        return Fitted(alone.model, alone.output, networks)
    fitted = combine(workshop, splits, candidates, networks)
    fitted.rivals = rivals if len(splits) == 1 else []  # those of inner folds have learned from other rows
    return fitted


def fit_folds(workshop: Workshop) -> Fitted:
    """A model for each of the data's folds, together an ensemble; what they predict for the folds left out is kept.

    Raises:
        InputError: anything that a user can put right.
        KeyboardInterrupt: on interrupt.
    """
    data, fits, tested, predicted = workshop.data, [], [], []
    for number, (name, parts) in enumerate(zip(data.fold_names, data.folds, strict=True)):
        train, val, test = (np.flatnonzero(parts == part) for part in ("train", "val", "test"))
        found = fit(workshop, train, val, f"fold {name}, network ", number * workshop.networks_a_fit)
        fits.append(as_replicate(data, found, np.concatenate([train, val])))
        tested.append(test)
        predicted.append(predictions_of(data, fits[-1], test))
    rows = np.concatenate(tested)
    whole = isinstance(predicted[0], np.ndarray)
    everything: Any = np.concatenate(predicted) if whole else list(chain.from_iterable(predicted))
    model, output = together(data, fits, np.sort(rows))
    networks = {name: network for each in fits for name, network in each.networks.items()}
    fitted = Fitted(model, output, networks, mean_shares(fits), rows, everything)
    if output is not None:
        fitted.calibrations = calibrations(data, rows, rows, everything)
    fitted.rivals = [rivals for each in fits for rivals in each.rivals]
    return fitted


def describe_model(data: LabelledData, fitted: Fitted) -> ModelDescription:
    """What the model says about itself."""
    in_turn = bool(np.isin(data.rows("train"), fitted.held_out).any())  # each row left out once, and learned else
    seen = data.coverage(("train", "val") if in_turn else ("train",))
    return ModelDescription(data.alphabet, data.targets, fitted.output, data.source, seen, fitted.calibrations)


def predictions_of(data: LabelledData, fitted: Fitted, rows: np.ndarray) -> Any:
    """What a fit predicts for some rows."""
    dataset = SequenceDataset(data.tokens, data.offsets, rows)
    return predict_encoded(fitted.model, converter(data.targets, fitted.output), dataset, data.targets.per_residue)


def as_replicate(data: LabelledData, fitted: Fitted, rows: np.ndarray) -> Fitted:
    """A fit whose replicates are one, as they will be among those of other folds; that is the same without a scale."""
    if not isinstance(fitted.model, Ensemble) or fitted.model.scales == [None] * len(fitted.model.scales):
        return fitted
    model, output = together(data, [fitted], rows)
    return replace(fitted, model=model, output=output)


def together(data: LabelledData, fits: list[Fitted], rows: np.ndarray) -> tuple[Ensemble, Output | None]:
    """One ensemble of the models of several fits, each a replicate, and its scaling, from the targets of some rows."""
    models: list[nn.Module] = []
    outputs: list[Output | None] = []
    weights: list[float] = []
    replicates: list[int] = []
    intercepts: list[float] = []
    scales: list[Transform | None] = []
    for number, each in enumerate(fits):
        if isinstance(each.model, Ensemble):
            models += each.model.members
            outputs += [None if isinstance(out, nn.Identity) else cast(Output, out) for out in each.model.outputs]
            weights += [weight / len(fits) for weight in each.model.weights.tolist()]
            intercepts.append(float(np.mean(each.model.intercepts)))
            scales.append(each.model.scales[0])
        else:
            models, outputs, weights = [*models, each.model], [*outputs, each.output], [*weights, 1 / len(fits)]
            intercepts.append(0.0)
            scales.append(None)
        replicates += [number] * (len(models) - len(replicates))
    options, scaling = kind_of_ensemble(data, rows)
    options |= {"intercept": intercepts} if scaling is not None else {}
    if all(scales):  # mixes under a transform
        options["scale"] = [one.to_json() for one in scales if one is not None]
    return Ensemble.of(models, outputs, weights, replicates, **options), scaling


def mean_shares(fits: list[Fitted]) -> dict[str, float]:
    """The mean of the fits' weights of each kind of model."""
    kinds = list(dict.fromkeys(kind for each in fits for kind in each.shares))
    return {kind: float(np.mean([each.shares.get(kind, 0.0) for each in fits])) for kind in kinds}


def inner_folds(data: LabelledData, rows: np.ndarray, seed: int) -> list[Rows]:
    """The rows in `FOLDS` folds, each left out once; equal sequences, and rows of one group, stay together."""
    units, keys = np.unique(data.keys()[rows], return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(units))[keys] % FOLDS
    return [Rows(rows[folds != fold], rows[folds == fold]) for fold in range(FOLDS)]


def check_inner_folds(data: LabelledData, splits: list[Rows]) -> None:
    """Raises InputError for a fold that has nothing to learn from, or nothing to choose and to mix by."""
    for number, rows in enumerate(splits, 1):
        if len(data.counting(rows.val)):
            check_counting(data, rows.train, rows.val, f" of inner fold {number}")
            continue
        raise InputError(
            f"{data.path}: inner fold {number} of {len(splits)} has no row to mix by; give {argument('mix', 'none')}"
        )
