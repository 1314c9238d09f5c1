"""`lyra train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import given

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
    offset: Annotated[int, typer.Option(help="Number of the wild type's first residue.", rich_help_panel=DATA)] = 1,
    separator: Annotated[
        str | None,
        typer.Option(help="Between cells: comma, tab, semicolon, space, pipe \\[found].", rich_help_panel=DATA),
    ] = None,
    decimal: Annotated[str, typer.Option(help="Of numbers: point or comma.", rich_help_panel=DATA)] = "point",
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
    ] = "error",
    unlabelled: Annotated[
        str, typer.Option(help="Label of residues without one; '' if all have one.", rich_help_panel=DATA)
    ] = "-",
    on_invalid: Annotated[
        str,
        typer.Option(
            help="Letters outside the alphabet: error, skip the row, or read as unknown.", rich_help_panel=DATA
        ),
    ] = "error",
    val_fraction: Annotated[
        float, typer.Option(help="Validation share, where no column says.", rich_help_panel=DATA)
    ] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Test share, where no column says.", rich_help_panel=DATA)] = 0.1,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Keep one copy of each sequence.", rich_help_panel=DATA)
    ] = False,
    model: Annotated[
        str, typer.Option(help="paper (the published 47,000 parameters) or layered.", rich_help_panel=MODEL)
    ] = "paper",
    d_model: Annotated[int, typer.Option(help="Channels.", rich_help_panel=MODEL)] = 64,
    d_state: Annotated[int, typer.Option(help="State size of each channel.", rich_help_panel=MODEL)] = 64,
    pgc_layers: Annotated[
        int, typer.Option(help="Gated convolution layers of the layered model.", rich_help_panel=MODEL)
    ] = 2,
    s4_layers: Annotated[int, typer.Option(help="State space layers of the layered model.", rich_help_panel=MODEL)] = 4,
    dropout: Annotated[float, typer.Option(help="Dropout.", rich_help_panel=MODEL)] = 0.0,
    pool: Annotated[str, typer.Option(help="mean, max or first.", rich_help_panel=MODEL)] = "max",
    bidirectional: Annotated[
        bool,
        typer.Option("--bidirectional/--one-way", help="Whether state spaces look both ways.", rich_help_panel=MODEL),
    ] = True,
    output: Annotated[
        str,
        typer.Option(help="Regression: linear, or sigmoid, which learns a saturating scale.", rich_help_panel=MODEL),
    ] = "sigmoid",
    epochs: Annotated[
        int | None, typer.Option(help="At most so many \\[as many as make about 4,000 steps].", rich_help_panel=FIT)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Sequences a batch \\[128, less for few sequences].", rich_help_panel=FIT)
    ] = None,
    lr: Annotated[
        float, typer.Option(help="Highest learning rate of the one-cycle schedule.", rich_help_panel=FIT)
    ] = 8e-3,
    s4_lr: Annotated[float, typer.Option(help="The same for the state spaces' dynamics.", rich_help_panel=FIT)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.", rich_help_panel=FIT)] = 0.01,
    class_weights: Annotated[str, typer.Option(help="none or balanced.", rich_help_panel=FIT)] = "none",
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a better validation score.", rich_help_panel=FIT)
    ] = 15,
    seed: Annotated[
        int, typer.Option(help="Of the split, the weights, the order and dropout.", rich_help_panel=FIT)
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out.", rich_help_panel=FIT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in --out.", rich_help_panel=FIT)
    ] = False,
    accelerator: Annotated[
        str, typer.Option(help="Lightning's: auto, cpu, gpu, ...", rich_help_panel=MACHINE)
    ] = "auto",
    devices: Annotated[
        str, typer.Option(help="Lightning's: auto, a number, or a list such as 0,1.", rich_help_panel=MACHINE)
    ] = "auto",
    strategy: Annotated[str, typer.Option(help="Lightning's: auto, ddp, ...", rich_help_panel=MACHINE)] = "auto",
    precision: Annotated[
        str, typer.Option(help="Lightning's: 32-true, bf16-mixed, ...", rich_help_panel=MACHINE)
    ] = "32-true",
) -> None:
    """Train a model on a table of sequences and targets.

    Example: [bold]lyra train splicing.csv --out splicing[/bold]

    Example: [bold]lyra train dms.csv.gz --wild-type QYKLILNGKTLK --offset 2 --target DMS_score --out dms[/bold]

    Writes model/, metrics.json, predictions.csv (the test part), history.csv, pictures and report.html. The best
    epoch is chosen on the validation part; the test part is read once, at the end.
    """
    from ..data.options import DataOptions
    from ..training import Hardware, Recipe
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
    hardware = Hardware(accelerator, devices, strategy, precision)
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
