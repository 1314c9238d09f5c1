"""`lyra demo`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..settings import DataOptions, Hardware, Recipe


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs \\[the recipe's].")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights, the order and dropout.")] = Recipe.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
) -> None:
    """Train on 20,000 double mutants of protein GB1 and predict 25,000 others; takes a few minutes.

    Example: [bold]lyra demo --out demo[/bold]

    The same as `lyra train` with its defaults on the data that ships with the package.
    """
    start = time.monotonic()
    from ..datasets import GB1_OFFSET, GB1_WILD_TYPE, path
    from ..training import train
    from . import consoles
    from .tables import print_scores

    options = DataOptions(wild_type=GB1_WILD_TYPE, offset=GB1_OFFSET, seed=seed)
    title = "Protein G B1 domain: double mutants (Olson et al. 2014)"
    results = train(
        path("gb1"), out, options, Recipe(epochs=epochs, seed=seed), Hardware(),
        resume=resume, overwrite=overwrite, console=consoles.messages(), title=title,
    )  # fmt: skip
    if results is not None:
        print_scores(results)
        print(f"{time.monotonic() - start:.0f} s in all; open {out / 'report.html'}")
