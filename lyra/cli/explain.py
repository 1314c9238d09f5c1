"""`lyra explain`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import Contents, ExplainOptions, InputOptions
from ..settings.data import DEVICE
from .options import MODEL_FOLDER, given, shared

DATA, OUTPUT, MACHINE = "Data", "What is explained", "Machine"


def explain(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="CSV, TSV or FASTA, plain or gzip; - is standard input \\[the wild type].", show_default=False
        ),
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="Positions such as 10-60,72, in the numbering of --offset \\[all].")
    ] = None,
    mutagenesis: Annotated[
        bool, typer.Option("--mutagenesis/--no-mutagenesis", help="Every single substitution.")
    ] = Contents.mutagenesis,
    attributions: Annotated[
        bool, typer.Option("--attributions/--no-attributions", help="Contributions by integrated gradients.")
    ] = Contents.attributions,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Epistasis of every pair of positions, at most 100.")
    ] = Contents.pairs,
    pictures: Annotated[
        int, typer.Option(help="Draw pictures for so many sequences, the first ones.")
    ] = Contents.pictures,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier explanation in --out.")] = False,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Classifier: the class to explain \\[the predicted one].", rich_help_panel=OUTPUT),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            help="Class per residue: the position whose class is explained \\[where the substitution is].",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Regression: target or latent (before the sigmoid). Classes: log-odds or probability \\[the first].",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="Attributions compare with the average letter (average) or none at all (unknown).",
            rich_help_panel=OUTPUT,
        ),
    ] = ExplainOptions.baseline,
    steps: Annotated[
        int, typer.Option(help="Points of the attributions' integral.", rich_help_panel=OUTPUT)
    ] = ExplainOptions.steps,
    pair_samples: Annotated[
        int, typer.Option(help="Letter pairs drawn for each pair of positions.", rich_help_panel=OUTPUT)
    ] = ExplainOptions.pair_samples,
    seed: Annotated[int, typer.Option(help="Of that draw.", rich_help_panel=OUTPUT)] = ExplainOptions.seed,
    sequence: Annotated[str | None, shared("sequence", DATA)] = None,
    mutant: Annotated[str | None, shared("mutant", DATA)] = None,
    wild_type: Annotated[
        str | None,
        typer.Option(
            help="Sequence, or file with it, to explain if there is no DATA; the one that mutations "
            "refer to \\[the model's].",
            rich_help_panel=DATA,
        ),
    ] = None,
    offset: Annotated[
        int | None, typer.Option(help="Number of the first residue \\[the model's].", rich_help_panel=DATA)
    ] = None,
    separator: Annotated[str | None, shared("separator", DATA)] = None,
    on_invalid: Annotated[str, shared("on_invalid", DATA)] = InputOptions.on_invalid,
    batch_size: Annotated[int, shared("batch_size", MACHINE)] = InputOptions.batch_size,
    device: Annotated[str, shared("device", MACHINE)] = DEVICE,
) -> None:
    """Explain predictions: every substitution, contributions of positions, pairs of positions.

    Example: [bold]lyra explain dms/model -o explained --pairs[/bold]

    Example: [bold]lyra explain splicing/model sites.fasta --class high --positions 10-60 -o explained[/bold]

    Writes mutagenesis.csv, attributions.csv, epistasis.csv (with --pairs), heat maps and explanation.html.

    Without DATA it explains the wild type that the model was trained with.
    """
    from ..explain.folder import explain_file
    from ..prediction import Predictor
    from . import consoles
    from .progress import Bar
    from .tables import print_explanation

    options = ExplainOptions(
        positions=positions, class_name=class_name, at=at, scale=scale, baseline=baseline, steps=steps,
        pair_samples=pair_samples, seed=seed, batch_size=batch_size,
    )  # fmt: skip
    options.check()
    contents = Contents(mutagenesis=mutagenesis, attributions=attributions, pairs=pairs, pictures=pictures)
    inputs = InputOptions(
        sequence=sequence, mutant=mutant, wild_type=wild_type, offset=offset, separator=separator,
        on_invalid=on_invalid, batch_size=batch_size,
    )  # fmt: skip
    predictor = Predictor.from_pretrained(model, device)
    console = consoles.messages()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    try:
        with Bar(console, "explaining") as bar:
            explanations = explain_file(
                predictor, data, out, inputs, options, contents,
                overwrite=overwrite, given=given(ctx), title=str(model), say=say, progress=bar.update,
            )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; {out} is as it was")
        raise
    print_explanation(explanations, out)
