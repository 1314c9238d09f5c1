"""What the estimators have in common: fitting, predictions as tables, explanations."""

from __future__ import annotations

import inspect
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..data.arrays import SEQUENCES, TARGETS, Arrays, encode_array, label_arrays
from ..data.batches import SequenceDataset
from ..data.labelled import check_counting
from ..data.loading import LabelledData
from ..data.weights import scaled
from ..errors import InputError, argument, arguments_spelled
from ..explain import ExplainOptions, attributions, epistasis, mutagenesis
from ..prediction import Predictor
from ..prediction_columns import Columns
from ..settings.training import Hardware, Recipe
from ..training import effects
from ..training.fitting import describe_model, fit_data
from ..training.mixing import Fitted
from ..training.networks import Workshop, make_trainer
from ..training.plan import plan
from ..training.run import describe
from .arguments import settings_of, spelled
from .inputs import Labels, Rows, entries, row_weights, texts
from .numbers import check_names, names_of
from .saved import SavedEstimator

Estimator = TypeVar("Estimator", bound="SequenceEstimator")


class SequenceEstimator(SavedEstimator, BaseEstimator):
    """An estimator of sequences; see `LyraRegressor` for the arguments and attributes."""

    on_invalid: str
    verbose: bool | int
    several = False  # whether there may be several targets

    def __init__(self, **arguments: Any) -> None:
        raise TypeError("take LyraRegressor, LyraClassifier, LyraTokenClassifier or LyraTokenRegressor")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _labels(self, rows: Rows) -> Labels:
        """The targets, read."""
        raise NotImplementedError

    def fit(
        self: Estimator, X: Any, y: Any, *, validation: tuple[Any, Any] | None = None, sample_weight: Any = None,
        groups: Any = None,
    ) -> Estimator:  # fmt: skip
        """Trains on sequences and their targets.

        Args:
            X: N sequences: a list, an array (N,) or (N, 1), a Series, or a table of one column.
            y: N targets; of a regressor (N, T) or a table for several.
            validation: (X, y) by which the best epoch is chosen; without, a share `val_fraction` of the rows is drawn,
                with copies of a sequence together. A mix by "folds" learns from these rows as well.
            sample_weight: (N,) how much each row counts in the loss.
            groups: (N,) of which equal ones are all for training or all for validation.

        Raises:
            InputError: anything that can be put right, in one line with the row, counted from 0.
        """
        recipe, hardware, options = settings_of(self.get_params(deep=False))
        arrays, labels = self._arrays(X, y, validation, groups)
        given = self._given()
        if validation is not None and "val_fraction" in given:
            raise InputError(f"{argument('val_fraction')}: has no effect, {argument('validation')} is given; leave it "
                             "out")  # fmt: skip
        weights = row_weights(sample_weight, len(arrays.sequences) - arrays.validation)
        said: list[str] = []
        spelling, seeds = arguments_spelled(spelled), own_random_state()
        with tempfile.TemporaryDirectory(prefix="lyra-") as folder, warnings.catch_warnings(), spelling, seeds:
            data = label_arrays(arrays, options, said.append, "fit")
            if weights is not None:
                set_weights(data, weights)
            effects.check_before_reading(given, recipe)
            effects.check_with_data(given, data, options)
            effects.check_strand(given, recipe, data)
            console = Console(stderr=True, quiet=not self.verbose)
            recipe, fitted, history = train(data, recipe, hardware, Path(folder), console, said.append)
        for text in said:
            warnings.warn(text, stacklevel=2)
        self.predictor_ = Predictor(fitted.model, describe_model(data, fitted))
        self.recipe_, self.shares_, self.history_ = recipe, fitted.shares, history
        if labels.classes is not None:
            self.classes_ = labels.classes
        return self

    def _given(self) -> list[str]:
        """The arguments that are not as they are by default."""
        default = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        return [name for name, value in self.get_params(deep=False).items() if value is not default[name]
                and value != default[name]]  # fmt: skip

    def _arrays(self, X: Any, y: Any, validation: tuple[Any, Any] | None, groups: Any) -> tuple[Arrays, Labels]:
        """The rows to learn from and behind them those to validate by, read."""
        sequences, targets = read_pair(X, y, "fit", self.several)
        columns = names_of(y, TARGETS) if self.several else []
        if len(sequences) == 1 and validation is None:
            raise InputError(
                "fit: there is one sample only; some are to learn from, others to choose the best epoch by"
            )
        names: list[Any] = list(range(len(sequences)))
        training = len(sequences)
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) != 2:
                raise InputError(f"{argument('validation')}: must be two things, the X and y of other rows")
            if groups is not None:
                raise InputError(f"{argument('groups')}: say how validation rows are drawn, and "
                                 f"{argument('validation')} is given; leave one out")  # fmt: skip
            more, their_targets = read_pair(*validation, "validation", self.several)
            if self.several:
                check_names(names_of(validation[1], TARGETS), columns, "validation", TARGETS)
            sequences, targets = sequences + more, targets + their_targets
            names += [f"{row} of validation" for row in range(len(more))]
        labels = self._labels(Rows(targets, names, "fit", TARGETS, training, columns))
        together = None
        if groups is not None:
            together = entries(groups, "groups", "groups")
            check_lengths(together, "groups", training)
        called = name_of(X, SEQUENCES), ", ".join(labels.targets.names) or name_of(y, TARGETS)
        return Arrays(sequences, labels.cells, labels.values, labels.targets, names, len(names) - training, together,
                      called, labels.limits), labels  # fmt: skip

    def _dataset(self, X: Any, where: str, stacklevel: int = 3) -> SequenceDataset:
        """Sequences as the model reads them; warns of those that are unlike its training."""
        check_is_fitted(self, "predictor_")
        predictor = self.predictor_
        dataset, said = encode_array(
            texts(X, SEQUENCES, where), predictor.alphabet, predictor.coverage, self.on_invalid, where
        )
        predictor.check_lengths(dataset.lengths, where=where)
        for text in said:
            warnings.warn(text, stacklevel=stacklevel)
        return dataset

    def _predictions(self, X: Any, where: str) -> Any:
        """What the model predicts for sequences; see `Predictor.predict`."""
        dataset = self._dataset(X, where, stacklevel=4)
        return self.predictor_.predict_dataset(dataset)

    def table(self, X: Any, *, coverage: float | None = None) -> pd.DataFrame:
        """The sequences with all columns that `lyra predict` writes.

        Args:
            coverage: of an ensemble of numbers, the share of measurements that its intervals are to cover; None is .9.

        Returns:
            one row a sequence: sequence; prediction; of classes the probability p_CLASS of each; of an ensemble sd,
            its members' standard deviation, for numbers lower and upper, the ends of the interval, and novel, what
            training never had; of several targets prediction_TARGET, sd_TARGET and so on. Rows have the index of X, if
            it has one.
        """
        dataset = self._dataset(X, "table")
        columns = Columns(self.predictor_, coverage)
        index = X.index if isinstance(X, (pd.Series, pd.DataFrame)) else None
        frame = pd.DataFrame(list(columns.cells(dataset)), columns=columns.names, index=index)
        targets = self.predictor_.targets
        texts_alone = {"novel"} | ({"prediction"} if targets.classes else set())
        texts_alone |= set(columns.names) if targets.per_residue else set()
        numeric = [name for name in frame.columns if name not in texts_alone]
        frame[numeric] = frame[numeric].astype(float)
        frame.insert(0, "sequence", texts(X, SEQUENCES, "table"))
        return frame

    def mutagenesis(self, sequence: str, options: ExplainOptions | None = None) -> pd.DataFrame:
        """Predictions for every single substitution of a sequence; see `lyra.explain.mutagenesis`."""
        check_is_fitted(self, "predictor_")
        return mutagenesis(self.predictor_, sequence, options)

    def epistasis(self, sequence: str, options: ExplainOptions | None = None) -> pd.DataFrame:
        """Epistasis of every pair of positions of a sequence; see `lyra.explain.epistasis`."""
        check_is_fitted(self, "predictor_")
        return epistasis(self.predictor_, sequence, options)

    def attributions(self, sequence: str, options: ExplainOptions | None = None) -> pd.DataFrame:
        """Contributions of the positions of a sequence; see `lyra.explain.attributions`."""
        check_is_fitted(self, "predictor_")
        return attributions(self.predictor_, sequence, options)


def train(
    data: LabelledData, recipe: Recipe, hardware: Hardware, folder: Path, console: Console, warn: Callable[[str], None]
) -> tuple[Recipe, Fitted, pd.DataFrame]:
    """Trains in a folder that may go; the recipe with everything said, the model, and its history."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    if make_trainer(folder, recipe, hardware, 1, None, console).world_size > 1:
        raise InputError(f"{argument('devices')} {hardware.devices}: an estimator trains in one process; give "
                         f"{argument('devices', 1)}, or use lyra train")  # fmt: skip
    describe(data, say)
    recipe, chosen = plan(recipe, data)
    if chosen:
        say(f"recipe: {chosen}")
    workshop = Workshop(data, recipe, hardware, folder, console, warn, resume=False, first_callbacks=[])
    fitted = fit_data(workshop)
    history = pd.DataFrame(workshop.rows)
    scores = [name for name in history.columns if name != "network"]
    return recipe, fitted, history.astype({name: float for name in scores if history[name].dtype == object})


@contextmanager
def own_random_state() -> Iterator[None]:
    """While the block runs, seeds that are set are nobody else's: the caller's random numbers go on as before."""
    before = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


def set_weights(data: LabelledData, weights: np.ndarray) -> None:
    """Sets how much each row counts, 1 on average over the training part; validation rows handed in count 1 each.

    Raises:
        InputError: of the rows to train on or to validate by none counts, or those that do are too few to learn from.
    """
    data.weights = np.concatenate([weights, np.ones(len(data.sequences) - len(weights))])
    check_counting(data, data.rows("train"), data.rows("val"), "")
    data.weights = scaled(data.weights, data.rows("train"))


def read_pair(X: Any, y: Any, where: str, several: bool = False) -> tuple[list[str], list[Any]]:
    """Sequences and as many targets, or rows of `several`."""
    sequences = texts(X, SEQUENCES, where)
    targets = entries(y, TARGETS, "targets", several)
    check_lengths(targets, TARGETS, len(sequences), where)
    return sequences, targets


def check_lengths(found: list[Any], name: str, wanted: int, where: str = "fit") -> None:
    if len(found) != wanted:
        raise InputError(f"{where}: X has {wanted:,} rows and {name} {len(found):,}; there must be one for each")


def name_of(given: Any, otherwise: str) -> str:
    """What a column of a table, or a Series, is called."""
    if isinstance(given, pd.DataFrame):
        given = given.iloc[:, 0]
    name = getattr(given, "name", None)
    return name if isinstance(name, str) and name.strip() else otherwise
