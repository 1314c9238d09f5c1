"""The options that commands share, and what all commands do with theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

MODEL_FOLDER = "Model folder that `lyra train` wrote."
HELP = {  # of the options that several commands have
    "group": "Column whose equal values always stand in one part, such as a protein family.",
    "cluster": "Cluster sequences from this identity on (0 to 1) and keep each cluster in one part; by mmseqs if it is "
    "on PATH, else by shared k-mers.",
    "stratify": "Draw parts alike in classes, or in tenths of a numeric target \\[where every class has enough rows, "
    "or the target is skewed].",
    "holdout": "What sets the test part apart: random (nothing), position (mutations at other positions) or degree "
    "(more mutations than --max-degree).",
    "max_degree": "Mutations of training rows, at most, with --holdout degree.",
    "folds": "Cross-validation: a number of folds to draw, or the column that says the fold of each row.",
    "sequence": "Sequence column \\[found].",
    "mutant": "Column of mutations \\[the one of the training table].",
    "separator": "Between cells: comma, tab, semicolon, space, pipe \\[found].",
    "on_invalid": "Letters outside the model's alphabet: error, skip or unknown.",
    "batch_size": "Sequences a batch, at most.",
    "device": "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.",
    "graphs": "Replay CUDA graphs, a batch shape each \\[on a CUDA card]; the first batches of a shape run as usual.",
}


def panel(heading: str | None) -> Callable[..., OptionInfo]:
    """Makes options, `option(help, *flags)`, that stand under a heading of a command's help."""

    def make(help: str, *flags: str) -> OptionInfo:
        return typer.Option(*flags, help=help, rich_help_panel=heading)

    return make


class Command(TyperCommand):
    """A command that takes each option once: of two values the first would be lost without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        seen: set[str] = set()
        for parameter in order:
            if parameter.param_type_name != "option" or parameter.multiple:
                continue
            if parameter.name in seen:
                ctx.fail(f"{parameter.opts[0]} is given more than once; give it once")
            seen.add(parameter.name)
        return super().parse_args(ctx, args)


def one_or_several(values: list[str] | None) -> str | list[str] | None:
    """An option that may come several times, as the library takes it."""
    return values[0] if values and len(values) == 1 else values or None


OTHER_NAMES = {"class_name": "class", "maps": "map"}  # arguments whose option has another name
WHERE_FALSE = {"bidirectional": "--one-way"}  # options for False that are not called --no-NAME


def option(name: str, value: object = None) -> str:
    """An argument of the library as it is written here: --val-fraction, --split none, --pairs, --no-mutagenesis."""
    words = OTHER_NAMES.get(name, name).replace("_", "-")
    if value is False:
        return WHERE_FALSE.get(name, f"--no-{words}")
    if value is None or value is True:
        return f"--{words}"
    return f"--{words} {value}" if value != "" else f"--{words} ''"


def given(ctx: typer.Context) -> frozenset[str]:
    """Names of the parameters that stand on the command line."""
    sources = ((name, ctx.get_parameter_source(name)) for name in ctx.params)
    return frozenset(name for name, source in sources if source is not None and source.name == "COMMANDLINE")
