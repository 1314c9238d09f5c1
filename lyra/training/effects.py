"""Options that have no effect in a run: an error, for who gave one expected something of it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..data import splits
from ..data.loading import LabelledData
from ..errors import InputError, argument, refuse_without_effect, shorten
from ..settings.data import DataOptions
from ..settings.training import Recipe

LAYERS = ("pgc_layers", "s4_layers")


def check_before_reading(given: Collection[str], recipe: Recipe) -> None:
    """Raises InputError for one of the options `given` that this recipe does not look at."""
    if recipe.model == "paper":
        refuse_without_effect(
            given, LAYERS, f"the paper's model has its own number of layers ({argument('model', 'layered')} has them)"
        )
    elif recipe.s4_layers == 0:
        refuse_without_effect(given, ("d_state", "s4_lr"), "there are no state space layers")
        if recipe.pgc_layers == 0:
            refuse_without_effect(given, ("bidirectional",), "there are no layers that look at other residues")


def check_strand(given: Collection[str], recipe: Recipe, data: LabelledData) -> None:
    """Raises InputError for a choice of strands of what has one only."""
    if data.alphabet.complement is None:
        reason = f"the sequences are {data.alphabet.name}, which has one strand"
        refuse_without_effect(given, ("strand",), reason)
        if recipe.strand != "one":
            raise InputError(f"{argument('strand', recipe.strand)}: {reason}; leave it out")


def check_with_data(given: Collection[str], data: LabelledData, options: DataOptions) -> None:
    """Raises InputError for one of the options `given` that makes no difference on these data."""
    task, source = data.targets.task, data.source
    if data.targets.numeric:
        refuse_without_effect(given, ("class_weights", "positive"), "the target is a number")
        if data.censored is None:
            refuse_without_effect(given, ("censored",), f"no cell of column {source.target} is a limit such as <0.5")
    else:
        refuse_without_effect(
            given, ("output", "decimal", "transform"), f"the task is {task}, whose target is no number"
        )
    if task == "multilabel":
        refuse_without_effect(given, ("class_weights", "positive"), "each target has a probability of its own")
    if not data.targets.per_residue:
        refuse_without_effect(given, ("unlabelled",), f"the task is {task}, without labels of residues")
    else:
        what = "number" if data.targets.numeric else "class"
        refuse_without_effect(given, ("pool",), f"a {what} per residue needs no pooling")
        if options.unlabelled and options.unlabelled not in data.targets.unlabelled:
            refuse_without_effect(given, ("unlabelled",), f"no residue has the label {shorten(options.unlabelled)}")
    if data.weights is not None and np.ptp(data.weights) == 0:
        refuse_without_effect(given, ("weight", "error"), "every row has the same weight")
    if not source.mutant:
        refuse_without_effect(given, ("offset",), f"column {source.column} holds whole sequences, no mutations")
    splits.check_effects(given, options, source.split, source.val_column)
