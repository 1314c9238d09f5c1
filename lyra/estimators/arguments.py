"""The arguments of the estimators: the fields of `Recipe` and `Hardware`, each stored under its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from sklearn.utils import check_random_state

from ..errors import InputError, argument, check_choice, in_python, shorten
from ..settings.data import DataOptions
from ..settings.training import Hardware, Recipe
from .inputs import plain

Kind = TypeVar("Kind", bound=type)

RECIPE = {one.name: one for one in fields(Recipe) if one.name != "seed"}
HARDWARE = {one.name: one for one in fields(Hardware) if one.name != "strategy"}
ON_INVALID = ("error", "unknown")  # a row that is skipped would have no prediction
OWN: dict[str, tuple[object, object]] = {
    "random_state": ("int | object | None", 0),
    "alphabet": ("str | None", None),
    "on_invalid": ("str", DataOptions.on_invalid),
    "val_fraction": ("float", DataOptions.val_fraction),
    "stratify": ("bool | None", None),
    "target_transform": ("str", DataOptions.transform),
    "verbose": ("bool | int", False),
}
CALLED = {"transform": "target_transform"}  # scikit-learn takes what has a `transform` for a transformer
DEFAULTS = {"devices": "1"}  # several processes would each run the caller's program


def arguments(*without: str) -> Callable[[Kind], Kind]:
    """Gives a class an `__init__` that stores its arguments; those named are left out, as they mean nothing there."""

    def give(cls: Kind) -> Kind:
        taken: list[Any] = [
            (name, one.type, field(default=DEFAULTS.get(name, one.default)))
            for name, one in (RECIPE | HARDWARE).items()
            if name not in without
        ]
        own = [(name, kind, field(default=default)) for name, (kind, default) in OWN.items() if name not in without]
        made = make_dataclass(cls.__name__, [*taken, *own], kw_only=True, eq=False, repr=False)
        made.__init__.__qualname__ = f"{cls.__qualname__}.__init__"  # type: ignore[misc]
        cls.__init__ = made.__init__  # type: ignore[misc]
        return cls

    return give


def settings_of(arguments: dict[str, Any]) -> tuple[Recipe, Hardware, DataOptions]:
    """The settings that an estimator's arguments stand for, checked.

    Raises:
        InputError: an argument is of another kind than it must be, or out of range.
    """
    given = {name: plain(value) for name, value in arguments.items()}
    given["devices"] = str(given["devices"])
    for kind, names in ((Recipe, RECIPE), (Hardware, HARDWARE), (DataOptions, OWN)):
        hints = get_type_hints(kind)
        for name in names:
            if name in given and name in hints:
                check_kind(name, given[name], hints[name])
    check_choice("on_invalid", given["on_invalid"], ON_INVALID)
    seed = seed_of(given["random_state"])
    recipe = Recipe(**{name: given[name] for name in RECIPE if name in given}, seed=seed)
    recipe.check()
    options = DataOptions(
        alphabet=given["alphabet"], on_invalid=given["on_invalid"], val_fraction=given["val_fraction"],
        stratify=given["stratify"], transform=given.get("target_transform", DataOptions.transform), seed=seed,
    )  # fmt: skip
    return recipe, Hardware(**{name: given[name] for name in HARDWARE}), options


def spelled(name: str, value: object) -> str:
    """An argument as who calls an estimator writes it; see `errors.argument`."""
    return in_python(CALLED.get(name, name), value)


def check_kind(name: str, value: object, hint: Any) -> None:
    """Raises InputError for a value of another type than its hint says; whole numbers may stand for any."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, kinds) or (float in kinds and isinstance(value, int)):
        return
    named = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise InputError(f"{argument(name)} {shorten(value)}: is {type(value).__name__}; must be {named}")


def seed_of(random_state: object) -> int:
    """The seed: a whole number as it is, else one drawn as scikit-learn does."""
    if isinstance(random_state, int):
        if not 0 <= random_state < 2**32:
            raise InputError(f"{argument('random_state')} {random_state}: must not be negative, and below {2**32:,}")
        return random_state
    if not isinstance(random_state, (np.random.RandomState, type(None))):
        raise InputError(f"{argument('random_state')} {shorten(random_state)}: must be a whole number, a RandomState "
                         "or None")  # fmt: skip
    return int(check_random_state(random_state).randint(2**31 - 1))
