"""What is trained where the user does not say: the recipe by the kind and the number of the data.

`python -m benchmarks.recipe` measures what it reaches; benchmarks/results/recipe.md has what was measured so far.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..baselines import MAX_FEATURES
from ..data.loading import LabelledData
from ..data.targets import PER_RESIDUE
from ..errors import InputError, argument
from ..settings.training import Recipe

FEW_ROWS = 1000  # rows to learn from up to which a validation part is too dear
FEW_SEQUENCES = 1000  # of labelled residues: so few sequences are learned by heart in some twenty epochs
AVERAGED_ROWS = 3000  # rows from which on averaged weights help
FOLDS = 5
PATIENCE = 15
FOLD_EPOCHS = 50  # from 100 to 500 rows of gb1 better than 20 and 100


def plan(recipe: Recipe, data: LabelledData) -> tuple[Recipe, str]:
    """The recipe with everything said.

    Returns:
        the recipe, and what was chosen because nobody said it, in words; "" if nothing.

    Raises:
        InputError: what was asked for cannot be done with these data.
    """
    task, chosen = data.targets.task, []
    learning = len(data.rows("train")) + len(data.rows("val"))  # of the first fold, where there are folds
    length = common_length(data)
    # The other strand is read from the other end, where positions are others; what is trained one way is to stream,
    # which neither a mix nor a model that knows positions can.
    plain = task == "regression" and recipe.strand == "one" and recipe.bidirectional
    uniform = plain and length is not None and length * len(data.alphabet) <= MAX_FEATURES
    units, problem = units_to_learn_from(data), no_mix_because(data)
    check_possible(recipe, task, length, len(data.alphabet), units, problem)
    changes: dict[str, object] = {}
    if recipe.positions is None:
        changes["positions"] = uniform
        if uniform:
            chosen.append(f"embeddings of positions, since all sequences have {length} letters")
    if recipe.mix is None:
        unmixed = problem is not None or not uniform
        changes["mix"] = "none" if unmixed else "folds" if learning < FEW_ROWS and units >= FOLDS else "validation"
        if changes["mix"] == "folds":
            chosen.append(
                f"{learning:,} rows are few, so {FOLDS} networks on four fifths of them each, mixed with simpler "
                "models by how all predict the fifth left out"
            )
        elif changes["mix"] == "validation":
            chosen.append("mixed with simpler models by the validation part")
    mix = recipe.mix or changes["mix"]
    keep = recipe.keep or ("last" if mix == "folds" and recipe.patience is None else "best")
    changes["keep"] = keep
    if recipe.patience is None and keep == "best":
        changes["patience"] = PATIENCE
    if recipe.dropout is None:
        few = data.targets.per_residue and learning < FEW_SEQUENCES
        changes["dropout"] = 0.3 if few else 0.0
        if few:
            chosen.append(f"dropout .3 for {learning:,} sequences")
    if recipe.keep is None and keep == "last":
        chosen.append("of each the last epoch is kept")
    if recipe.epochs is None and keep == "last" and mix == "folds":
        changes["epochs"] = FOLD_EPOCHS
        chosen.append(f"{FOLD_EPOCHS} epochs")
    if recipe.epochs is None and data.targets.per_residue and learning < FEW_SEQUENCES:
        changes["epochs"] = 25
        chosen.append("25 epochs")
    if recipe.average is None:
        averaged = task != "regression" or learning >= AVERAGED_ROWS
        changes["average"] = 0.998 if averaged else 0.0
    return replace(recipe, **changes), "; ".join(chosen)  # type: ignore[arg-type]


def common_length(data: LabelledData) -> int | None:
    """Letters of every sequence, if all have as many and there are any."""
    lengths = np.diff(data.offsets)
    return int(lengths[0]) if len(lengths) and lengths[0] > 0 and lengths.min() == lengths.max() else None


def no_mix_because(data: LabelledData) -> str | None:
    """Why networks cannot be mixed with simpler models of these targets; None where they can."""
    if data.targets.per_residue and data.targets.numeric:
        return "is for one number a sequence, and there is one for each residue"
    if data.targets.task != "regression":
        return f"is for a regression, and the task is {data.targets.task}"
    if data.targets.names:
        return f"is for one target, and there are {len(data.targets.names)}"
    if not all(len(data.counting(np.flatnonzero(parts == "val"))) for parts in data.folds or [data.parts]):
        return "needs rows of the validation part that are no limits and weigh something"
    return None


def units_to_learn_from(data: LabelledData) -> int:
    """How many different sequences, or groups that stay together, there are to learn from; of folds, in the least."""
    keys = data.keys()
    return min(len(np.unique(keys[np.isin(parts, ("train", "val"))])) for parts in data.folds or [data.parts])


def check_possible(recipe: Recipe, task: str, length: int | None, letters: int, units: int, no_mix: str | None) -> None:
    """Raises InputError for a mix, or embeddings of positions, that these data do not allow."""
    mixed = recipe.mix not in (None, "none")
    if mixed and no_mix is not None:
        raise InputError(f"{argument('mix', recipe.mix)}: {no_mix}; leave it out")
    if recipe.positions and task in PER_RESIDUE:
        what = "class" if task == "token" else "number"
        raise InputError(f"{argument('positions', True)}: a {what} per residue has none yet; leave it out")
    for name, value in (("mix", recipe.mix if mixed else None), ("positions", recipe.positions or None)):
        if value is not None and length is None:
            raise InputError(f"{argument(name, value)}: needs sequences of one length; leave it out")
    if mixed and length is not None and length * letters > MAX_FEATURES:
        raise InputError(
            f"{argument('mix', recipe.mix)}: is for at most {MAX_FEATURES:,} pairs of a position and a letter, and "
            f"{length:,} positions with {letters} letters have more; leave it out"
        )
    if recipe.mix == "folds" and units < FOLDS:
        raise InputError(
            f"{argument('mix', 'folds')}: needs {FOLDS} different sequences, or groups, to learn from, and there are "
            f"{units}; give {argument('mix', 'validation')}"
        )
    if recipe.strand != "one" and (mixed or recipe.positions):
        name, value = ("mix", recipe.mix) if mixed else ("positions", True)
        raise InputError(
            f"{argument(name, value)} {argument('strand', recipe.strand)}: a position of one strand is another of the "
            "other; leave one out"
        )
    if recipe.positions and not recipe.bidirectional:
        raise InputError(
            f"{argument('positions', True)} {argument('bidirectional', False)}: a model that knows positions has no "
            "state, which is what one way is for; leave one out"
        )
