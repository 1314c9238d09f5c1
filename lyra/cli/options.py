"""What all commands do with their options."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand


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


OTHER_NAMES = {"class_name": "class"}  # arguments whose option has another name


def option(name: str, value: object = None) -> str:
    """An argument of the library as it is written here: --val-fraction, --split none, --pairs, --no-mutagenesis."""
    words = OTHER_NAMES.get(name, name).replace("_", "-")
    if value is False:
        return f"--no-{words}"
    if value is None or value is True:
        return f"--{words}"
    return f"--{words} {value}" if value != "" else f"--{words} ''"


def given(ctx: typer.Context) -> frozenset[str]:
    """Names of the parameters that stand on the command line."""
    sources = ((name, ctx.get_parameter_source(name)) for name in ctx.params)
    return frozenset(name for name, source in sources if source is not None and source.name == "COMMANDLINE")
