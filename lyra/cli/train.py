"""`lyra train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import DataOptions, Hardware, Recipe
from .options import HELP, given, one_or_several, panel

PLAIN = panel(None)
DATA = panel("Data")
MODEL = panel("Model")
FIT = panel("Training")
MACHINE = panel("Machine")


def train(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(help="CSV or TSV, plain or gzip, with sequences and a target; - is standard input.")
    ],
    out: Annotated[Path, PLAIN("Folder for the model, scores, predictions and pictures.")],
    sequence: Annotated[str | None, DATA("Sequence column \\[found: seq, sequence, mutated_sequence, x].")] = None,
    target: Annotated[
        list[str] | None,
        DATA("Target column \\[found: label, DMS_score, target, score, y]; several if given several times."),
    ] = None,
    split: Annotated[
        str | None,
        DATA("Column that says train, val or test \\[found: set, split; and validation]; none ignores them."),
    ] = None,
    mutant: Annotated[str | None, DATA("Column of mutations such as A24G:T30K \\[found: mutant].")] = None,
    wild_type: Annotated[str | None, DATA("Sequence that the mutations refer to, or a file with it.")] = None,
    offset: Annotated[int, DATA("Number of the wild type's first residue.")] = DataOptions.offset,
    separator: Annotated[str | None, DATA(HELP["separator"])] = None,
    decimal: Annotated[str, DATA("Of numbers: point or comma.")] = DataOptions.decimal,
    alphabet: Annotated[str | None, DATA("protein, dna or rna \\[found from the letters].")] = None,
    task: Annotated[
        str | None,
        DATA(
            "regression, classification, token (a class per residue), token-regression (a number per residue) or "
            "multilabel (several targets of 0, 1) \\[found]."
        ),
    ] = None,
    positive: Annotated[str | None, DATA("Of two classes, the one of F1 and AUPRC \\[the rarer one].")] = None,
    weight: Annotated[
        str | None, DATA("Column of row weights in the loss, 0 or above; scores count every row alike.")
    ] = None,
    error: Annotated[
        str | None,
        DATA("Column of the target's standard errors, in its unit, by which rows are weighted in the loss."),
    ] = None,
    replicates: Annotated[
        str | None,
        DATA("Columns of the same quantity, such as rep1,rep2: the target is their mean, weighted by their agreement."),
    ] = None,
    censored: Annotated[
        bool, DATA("Targets may be limits, such as <0.5 or >1000: predictions beyond them are right.", "--censored")
    ] = DataOptions.censored,
    transform: Annotated[
        str,
        DATA("Scale on which numbers are learned: none, log (log10) or rank (normal scores); scores are in own units."),
    ] = DataOptions.transform,
    na: Annotated[
        str | None,
        DATA(
            "Target cells, or residues in them, without value, texts between commas \\[empty, NA, NaN, None, null]; "
            "'' is empty alone."
        ),
    ] = None,
    on_missing: Annotated[str, DATA("Rows without a target: error, or skip the row.")] = DataOptions.on_missing,
    unlabelled: Annotated[
        str, DATA("What stands for residues without a class or number; '' if all have one.")
    ] = DataOptions.unlabelled,
    on_invalid: Annotated[
        str,
        DATA("Letters outside the alphabet: error, skip the row, or read as unknown."),
    ] = DataOptions.on_invalid,
    val_fraction: Annotated[float, DATA("Validation share, where no column says.")] = DataOptions.val_fraction,
    test_fraction: Annotated[float, DATA("Test share, where no column says.")] = DataOptions.test_fraction,
    group: Annotated[str | None, DATA(HELP["group"])] = None,
    cluster: Annotated[float | None, DATA(HELP["cluster"])] = None,
    stratify: Annotated[bool | None, DATA(HELP["stratify"], "--stratify/--no-stratify")] = None,
    holdout: Annotated[str, DATA(HELP["holdout"])] = DataOptions.holdout,
    max_degree: Annotated[int, DATA(HELP["max_degree"])] = DataOptions.max_degree,
    folds: Annotated[str | None, DATA(HELP["folds"])] = None,
    deduplicate: Annotated[bool, DATA("Keep one copy of each sequence.", "--deduplicate")] = DataOptions.deduplicate,
    model: Annotated[str, MODEL("paper (the published 47,000 parameters) or layered.")] = Recipe.model,
    d_model: Annotated[int, MODEL("Channels.")] = Recipe.d_model,
    d_state: Annotated[int, MODEL("State size of each channel.")] = Recipe.d_state,
    pgc_layers: Annotated[int, MODEL("Gated convolution layers of the layered model.")] = Recipe.pgc_layers,
    s4_layers: Annotated[int, MODEL("State space layers of the layered model.")] = Recipe.s4_layers,
    dropout: Annotated[
        float | None, MODEL("Share of activations that are dropped in training \\[0; 0.3 for few labelled proteins].")
    ] = Recipe.dropout,
    pool: Annotated[str, MODEL("mean, max or first.")] = Recipe.pool,
    positions: Annotated[
        bool | None,
        MODEL(
            "Learn where in the sequence a letter stands, for sequences of one length \\[yes for a regression].",
            "--positions/--no-positions",
        ),
    ] = Recipe.positions,
    bidirectional: Annotated[
        bool,
        MODEL(
            "Whether a residue sees both sides of it, or only what came before, as `lyra predict --stream` needs.",
            "--bidirectional/--one-way",
        ),
    ] = Recipe.bidirectional,
    strand: Annotated[
        str,
        MODEL(
            "DNA and RNA: one, as written; both, a model with one answer for a sequence and its reverse complement; "
            "augment, which trains on the reverse complement of a random half of the sequences in each epoch."
        ),
    ] = Recipe.strand,
    output: Annotated[str, MODEL("Of numbers: linear, or sigmoid, which learns a saturating scale.")] = Recipe.output,
    epochs: Annotated[int | None, FIT("At most so many \\[as many as make about 4,000 steps].")] = None,
    batch_size: Annotated[int | None, FIT("Sequences a batch \\[128, less for few sequences].")] = None,
    lr: Annotated[float, FIT("Highest learning rate of the one-cycle schedule.")] = Recipe.lr,
    s4_lr: Annotated[float, FIT("The same for the state spaces' dynamics.")] = Recipe.s4_lr,
    weight_decay: Annotated[float, FIT("AdamW's weight decay.")] = Recipe.weight_decay,
    class_weights: Annotated[str, FIT("none or balanced.")] = Recipe.class_weights,
    average: Annotated[
        float | None,
        FIT(
            "Decay of the average over the steps that the weights kept are; 0 keeps the last \\[by the number of rows]."
        ),
    ] = Recipe.average,
    ensemble: Annotated[
        int, FIT("Networks, of a seed each, whose mean is the prediction; their spread gives it an interval.")
    ] = Recipe.ensemble,
    mix: Annotated[
        str | None,
        FIT(
            "Regression on sequences of one length: mix with ridge and sigmoid models by the validation part "
            "(validation), by folds, or not (none) \\[by the number of rows]."
        ),
    ] = Recipe.mix,
    keep: Annotated[
        str | None,
        FIT(
            "Weights of the best epoch by the validation part (best), or of the last of the whole schedule (last) "
            "\\[best; last with a mix by folds]."
        ),
    ] = Recipe.keep,
    patience: Annotated[
        int | None, FIT("Stop after so many epochs without a better validation score, where the best is kept \\[15].")
    ] = Recipe.patience,
    seed: Annotated[int, FIT("Of the split, the weights, the order and dropout.")] = Recipe.seed,
    resume: Annotated[bool, FIT("Go on with an interrupted run in --out.", "--resume")] = False,
    overwrite: Annotated[bool, FIT("Replace an earlier run in --out.", "--overwrite")] = False,
    accelerator: Annotated[str, MACHINE("Lightning's: auto, cpu, gpu, ...")] = Hardware.accelerator,
    devices: Annotated[str, MACHINE("Lightning's: auto, a number, or a list such as 0,1.")] = Hardware.devices,
    strategy: Annotated[str, MACHINE("Lightning's: auto, ddp, ...")] = Hardware.strategy,
    precision: Annotated[str, MACHINE("Lightning's: 32-true, bf16-mixed, ...")] = Hardware.precision,
    graphs: Annotated[bool | None, MACHINE(HELP["graphs"], "--graphs/--no-graphs")] = Hardware.graphs,
) -> None:
    """Train a model on a table of sequences and targets.

    Example: [bold]lyra train splicing.csv --out splicing[/bold]

    Example: [bold]lyra train dms.csv.gz --wild-type QYKLILNGKTLK --offset 2 --target DMS_score --out dms[/bold]

    Writes model/, metrics.json, predictions.csv (the test part), history.csv, pictures and report.html. The best
    epoch is chosen on the validation part (few rows: see --mix and --keep); the test part is read once, at the end.
    """
    from ..training import train as run
    from . import consoles
    from .tables import print_scores

    data_options = DataOptions(
        sequence=sequence, target=one_or_several(target), split=split, mutant=mutant, wild_type=wild_type,
        offset=offset, separator=separator, decimal=decimal, alphabet=alphabet, task=task, positive=positive,
        weight=weight, error=error, replicates=replicates, censored=censored, transform=transform, na=na,
        on_missing=on_missing, unlabelled=unlabelled, on_invalid=on_invalid, val_fraction=val_fraction,
        test_fraction=test_fraction, seed=seed, group=group, cluster=cluster, stratify=stratify, holdout=holdout,
        max_degree=max_degree, folds=folds, deduplicate=deduplicate,
    )  # fmt: skip
    recipe = Recipe(
        model=model, d_model=d_model, d_state=d_state, dropout=dropout, pgc_layers=pgc_layers, s4_layers=s4_layers,
        pool=pool, bidirectional=bidirectional, strand=strand, output=output, class_weights=class_weights,
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, s4_lr=s4_lr, patience=patience,
        seed=seed, positions=positions, average=average, ensemble=ensemble, mix=mix, keep=keep,
    )  # fmt: skip
    hardware = Hardware(
        accelerator=accelerator, devices=devices, strategy=strategy, precision=precision, graphs=graphs
    )  # fmt: skip
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
