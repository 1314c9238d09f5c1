"""`lyra train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import DataOptions, Hardware, Recipe
from .options import given, shared

DATA, MODEL, FIT, MACHINE = "Data", "Model", "Training", "Machine"


def train(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(help="CSV or TSV, plain or gzip, with sequences and a target; - is standard input.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model, scores, predictions and pictures.")],
    sequence: Annotated[
        str | None,
        typer.Option(help="Sequence column \\[found: seq, sequence, mutated_sequence, x].", rich_help_panel=DATA),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Target column \\[found: label, DMS_score, target, score, y].", rich_help_panel=DATA),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Column that says train, val or test \\[found: set, split; and validation]; none ignores them.",
            rich_help_panel=DATA,
        ),
    ] = None,
    mutant: Annotated[
        str | None, typer.Option(help="Column of mutations such as A24G:T30K \\[found: mutant].", rich_help_panel=DATA)
    ] = None,
    wild_type: Annotated[
        str | None,
        typer.Option(help="Sequence that the mutations refer to, or a file with it.", rich_help_panel=DATA),
    ] = None,
    offset: Annotated[
        int, typer.Option(help="Number of the wild type's first residue.", rich_help_panel=DATA)
    ] = DataOptions.offset,
    separator: Annotated[str | None, shared("separator", DATA)] = None,
    decimal: Annotated[
        str, typer.Option(help="Of numbers: point or comma.", rich_help_panel=DATA)
    ] = DataOptions.decimal,
    alphabet: Annotated[
        str | None, typer.Option(help="protein, dna or rna \\[found from the letters].", rich_help_panel=DATA)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="regression, classification or token (a class per residue) \\[found from the target].",
            rich_help_panel=DATA,
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="Of two classes, the one of F1 and AUPRC \\[the rarer one].", rich_help_panel=DATA),
    ] = None,
    na: Annotated[
        str | None,
        typer.Option(
            help="Target cells without value, texts between commas \\[empty, NA, NaN, None, null]; '' is empty alone.",
            rich_help_panel=DATA,
        ),
    ] = None,
    on_missing: Annotated[
        str, typer.Option(help="Rows without a target: error, or skip the row.", rich_help_panel=DATA)
    ] = DataOptions.on_missing,
    unlabelled: Annotated[
        str, typer.Option(help="Label of residues without one; '' if all have one.", rich_help_panel=DATA)
    ] = DataOptions.unlabelled,
    on_invalid: Annotated[
        str,
        typer.Option(
            help="Letters outside the alphabet: error, skip the row, or read as unknown.", rich_help_panel=DATA
        ),
    ] = DataOptions.on_invalid,
    val_fraction: Annotated[
        float, typer.Option(help="Validation share, where no column says.", rich_help_panel=DATA)
    ] = DataOptions.val_fraction,
    test_fraction: Annotated[
        float, typer.Option(help="Test share, where no column says.", rich_help_panel=DATA)
    ] = DataOptions.test_fraction,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Keep one copy of each sequence.", rich_help_panel=DATA)
    ] = DataOptions.deduplicate,
    model: Annotated[
        str, typer.Option(help="paper (the published 47,000 parameters) or layered.", rich_help_panel=MODEL)
    ] = Recipe.model,
    d_model: Annotated[int, typer.Option(help="Channels.", rich_help_panel=MODEL)] = Recipe.d_model,
    d_state: Annotated[int, typer.Option(help="State size of each channel.", rich_help_panel=MODEL)] = Recipe.d_state,
    pgc_layers: Annotated[
        int, typer.Option(help="Gated convolution layers of the layered model.", rich_help_panel=MODEL)
    ] = Recipe.pgc_layers,
    s4_layers: Annotated[
        int, typer.Option(help="State space layers of the layered model.", rich_help_panel=MODEL)
    ] = Recipe.s4_layers,
    dropout: Annotated[float, typer.Option(help="Dropout.", rich_help_panel=MODEL)] = Recipe.dropout,
    pool: Annotated[str, typer.Option(help="mean, max or first.", rich_help_panel=MODEL)] = Recipe.pool,
    bidirectional: Annotated[
        bool,
        typer.Option("--bidirectional/--one-way", help="Whether state spaces look both ways.", rich_help_panel=MODEL),
    ] = Recipe.bidirectional,
    output: Annotated[
        str,
        typer.Option(help="Regression: linear, or sigmoid, which learns a saturating scale.", rich_help_panel=MODEL),
    ] = Recipe.output,
    epochs: Annotated[
        int | None, typer.Option(help="At most so many \\[as many as make about 4,000 steps].", rich_help_panel=FIT)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Sequences a batch \\[128, less for few sequences].", rich_help_panel=FIT)
    ] = None,
    lr: Annotated[
        float, typer.Option(help="Highest learning rate of the one-cycle schedule.", rich_help_panel=FIT)
    ] = Recipe.lr,
    s4_lr: Annotated[
        float, typer.Option(help="The same for the state spaces' dynamics.", rich_help_panel=FIT)
    ] = Recipe.s4_lr,
    weight_decay: Annotated[
        float, typer.Option(help="AdamW's weight decay.", rich_help_panel=FIT)
    ] = Recipe.weight_decay,
    class_weights: Annotated[str, typer.Option(help="none or balanced.", rich_help_panel=FIT)] = Recipe.class_weights,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a better validation score.", rich_help_panel=FIT)
    ] = Recipe.patience,
    seed: Annotated[
        int, typer.Option(help="Of the split, the weights, the order and dropout.", rich_help_panel=FIT)
    ] = Recipe.seed,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out.", rich_help_panel=FIT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in --out.", rich_help_panel=FIT)
    ] = False,
    accelerator: Annotated[
        str, typer.Option(help="Lightning's: auto, cpu, gpu, ...", rich_help_panel=MACHINE)
    ] = Hardware.accelerator,
    devices: Annotated[
        str, typer.Option(help="Lightning's: auto, a number, or a list such as 0,1.", rich_help_panel=MACHINE)
    ] = Hardware.devices,
    strategy: Annotated[
        str, typer.Option(help="Lightning's: auto, ddp, ...", rich_help_panel=MACHINE)
    ] = Hardware.strategy,
    precision: Annotated[
        str, typer.Option(help="Lightning's: 32-true, bf16-mixed, ...", rich_help_panel=MACHINE)
    ] = Hardware.precision,
) -> None:
    """Train a model on a table of sequences and targets.

    Example: [bold]lyra train splicing.csv --out splicing[/bold]

    Example: [bold]lyra train dms.csv.gz --wild-type QYKLILNGKTLK --offset 2 --target DMS_score --out dms[/bold]

    Writes model/, metrics.json, predictions.csv (the test part), history.csv, pictures and report.html. The best
    epoch is chosen on the validation part; the test part is read once, at the end.
    """
    from ..training import train as run
    from . import consoles
    from .tables import print_scores

    data_options = DataOptions(
        sequence=sequence, target=target, split=split, mutant=mutant, wild_type=wild_type, offset=offset,
        separator=separator, decimal=decimal, alphabet=alphabet, task=task, positive=positive, na=na,
        on_missing=on_missing, unlabelled=unlabelled, on_invalid=on_invalid, val_fraction=val_fraction,
        test_fraction=test_fraction, seed=seed, deduplicate=deduplicate,
    )  # fmt: skip
    recipe = Recipe(
        model=model, d_model=d_model, d_state=d_state, dropout=dropout, pgc_layers=pgc_layers, s4_layers=s4_layers,
        pool=pool, bidirectional=bidirectional, output=output, class_weights=class_weights, epochs=epochs,
        batch_size=batch_size, lr=lr, weight_decay=weight_decay, s4_lr=s4_lr, patience=patience, seed=seed,
    )  # fmt: skip
    hardware = Hardware(accelerator=accelerator, devices=devices, strategy=strategy, precision=precision)
    console = consoles.messages()
    try:
        results = run(
            data, out, data_options, recipe, hardware, resume=resume, overwrite=overwrite, console=console,
            given=given(ctx),
        )  # fmt: skip
    except KeyboardInterrupt:
        message = f"interrupted; the same command with --resume goes on after the last finished epoch in {out}"
        console.print(message, soft_wrap=True)
        raise
    if results is not None:
        print_scores(results)
