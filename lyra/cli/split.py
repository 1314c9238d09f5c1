"""`lyra split`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import DataOptions
from .options import HELP, given, panel

PLAIN = panel(None)


def split(
    ctx: typer.Context,
    data: Annotated[str, typer.Argument(help="CSV or TSV, as `lyra train` reads it; - is standard input.")],
    out: Annotated[str, PLAIN("File to write, .csv or .tsv (.gz packs it); - is standard output.", "--out", "-o")],
    sequence: Annotated[str | None, PLAIN("Sequence column \\[found].")] = None,
    target: Annotated[str | None, PLAIN("Target column \\[found].")] = None,
    split: Annotated[
        str | None, PLAIN("Column that says train, val or test \\[found]; none ignores it and draws parts.")
    ] = None,
    mutant: Annotated[str | None, PLAIN("Column of mutations \\[found].")] = None,
    wild_type: Annotated[
        str | None,
        PLAIN("Sequence that the mutations refer to, or a file with it; with --holdout, of whole sequences, too."),
    ] = None,
    offset: Annotated[int, PLAIN("Number of the wild type's first residue.")] = DataOptions.offset,
    separator: Annotated[str | None, PLAIN(HELP["separator"])] = None,
    decimal: Annotated[str, PLAIN("Of numbers: point or comma.")] = DataOptions.decimal,
    alphabet: Annotated[str | None, PLAIN("protein, dna or rna \\[found].")] = None,
    task: Annotated[
        str | None, PLAIN("regression, classification, token or token-regression \\[found from the target].")
    ] = None,
    na: Annotated[str | None, PLAIN("Target cells without value, texts between commas \\[empty, NA, ...].")] = None,
    on_missing: Annotated[str, PLAIN("Rows without a target: error, or skip the row.")] = DataOptions.on_missing,
    on_invalid: Annotated[
        str, PLAIN("Letters outside the alphabet: error, skip the row, or read as unknown.")
    ] = DataOptions.on_invalid,
    val_fraction: Annotated[float, PLAIN("Validation share, where no column says.")] = DataOptions.val_fraction,
    test_fraction: Annotated[float, PLAIN("Test share, where no column says.")] = DataOptions.test_fraction,
    group: Annotated[str | None, PLAIN(HELP["group"])] = None,
    cluster: Annotated[float | None, PLAIN(HELP["cluster"])] = None,
    stratify: Annotated[bool | None, PLAIN(HELP["stratify"], "--stratify/--no-stratify")] = None,
    holdout: Annotated[str, PLAIN(HELP["holdout"])] = DataOptions.holdout,
    max_degree: Annotated[int, PLAIN(HELP["max_degree"])] = DataOptions.max_degree,
    folds: Annotated[str | None, PLAIN(HELP["folds"])] = None,
    deduplicate: Annotated[bool, PLAIN("Keep one copy of each sequence.", "--deduplicate")] = DataOptions.deduplicate,
    seed: Annotated[int, PLAIN("Of what is drawn.")] = DataOptions.seed,
    overwrite: Annotated[bool, PLAIN("Replace a file of that name.", "--overwrite")] = False,
) -> None:
    """Divide a table as `lyra train` would, and write it with a column that says how.

    Example: [bold]lyra split proteins.csv --cluster 0.5 -o divided.csv[/bold]

    Example: [bold]lyra split dms.csv --folds 5 --holdout position -o folds.csv[/bold]

    The column is `set` (train, val or test), or with --folds `fold` (the one that the row is test in), and takes the
    place of one that is called so. Rows that take part in nothing are left out. `lyra train` reads the file with the
    column as it stands, or with --folds fold, and then draws each fold's validation part itself.

    With --folds and --holdout position, the wild type and rows with mutations in several folds are test in none. Their
    fold is empty; take them out before `lyra train --folds fold`.
    """
    from ..data.loading import load_labelled
    from ..data.sources import Source
    from ..data.split_files import write_split
    from ..data.splits import check_effects
    from ..errors import InputError, argument
    from ..files import is_stream
    from . import consoles
    from .tables import print_split

    options = DataOptions(
        sequence=sequence, target=target, split=split, mutant=mutant, wild_type=wild_type, offset=offset,
        separator=separator, decimal=decimal, alphabet=alphabet, task=task, na=na, on_missing=on_missing,
        on_invalid=on_invalid, val_fraction=val_fraction, test_fraction=test_fraction, group=group, cluster=cluster,
        stratify=stratify, holdout=holdout, max_degree=max_degree, folds=folds, deduplicate=deduplicate, seed=seed,
    )  # fmt: skip
    source = Source(data)
    if not is_stream(out) and source.is_file(out):
        raise InputError(f"{out}: is the file to read; give another name with {argument('out')}")
    if not is_stream(out) and Path(out).exists() and not overwrite:
        raise InputError(f"{out}: exists; give another {argument('out')}, or {argument('overwrite', True)}")
    console = consoles.messages()
    loaded = load_labelled(source, options, lambda text: console.print(f"warning: {text}", soft_wrap=True))
    check_effects(given(ctx), options, loaded.source.split, loaded.source.val_column)
    console.print(f"rows: {loaded.rows_read}", soft_wrap=True)
    if loaded.guesses:
        console.print(f"guessed: {'; '.join(loaded.guesses)}", soft_wrap=True)
    for note in write_split(loaded, out):
        console.print(note, soft_wrap=True)
    print_split(loaded, console if out == "-" else consoles.results())
