"""`lyra explain`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import Contents, ExplainOptions, InputOptions
from ..settings.data import DEVICE
from ..settings.explain import parse_maps
from .options import HELP, MODEL_FOLDER, given, panel

PLAIN = panel(None)
DATA = panel("Data")
OUTPUT = panel("What is explained")
MEASURED = panel("Epistasis beside the measured one")
MACHINE = panel("Machine")


def explain(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    out: Annotated[Path, PLAIN("Folder to write.", "--out", "-o")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="CSV, TSV or FASTA, plain or gzip; - is standard input \\[the wild type].", show_default=False
        ),
    ] = None,
    positions: Annotated[str | None, PLAIN("Positions such as 10-60,72, in the numbering of --offset \\[all].")] = None,
    mutagenesis: Annotated[
        bool, PLAIN("Every single substitution.", "--mutagenesis/--no-mutagenesis")
    ] = Contents.mutagenesis,
    attributions: Annotated[
        bool, PLAIN("Contributions by integrated gradients.", "--attributions/--no-attributions")
    ] = Contents.attributions,
    pairs: Annotated[bool, PLAIN("Epistasis of every pair of positions, at most 100.", "--pairs")] = Contents.pairs,
    maps: Annotated[
        list[str] | None,
        PLAIN("Every pair of letters at two positions, such as 39,54; several as 39,54;7,9 or one by one.", "--map"),
    ] = None,
    logo: Annotated[bool, PLAIN("Sequence logos of substitutions and contributions.", "--logo")] = Contents.logo,
    pictures: Annotated[int, PLAIN("Draw pictures for so many sequences, the first ones.")] = Contents.pictures,
    overwrite: Annotated[bool, PLAIN("Replace an earlier explanation in --out.", "--overwrite")] = False,
    measured: Annotated[
        str | None,
        MEASURED("Table of single and double mutants of the sequence, whose epistasis is compared with the model's."),
    ] = None,
    target: Annotated[str | None, MEASURED("Its column of measurements \\[the training table's, or found].")] = None,
    wild_type_value: Annotated[
        float | None,
        MEASURED("Measurement of the sequence itself, if no row has it, such as 0 of log ratios."),
    ] = None,
    class_name: Annotated[
        str | None,
        OUTPUT("Classifier: the class to explain \\[the predicted one]; of several targets, which one.", "--class"),
    ] = None,
    at: Annotated[
        int | None,
        OUTPUT(
            "Class or number per residue: the position whose answer is explained \\[of classes where the substitution "
            "is, of numbers their mean]."
        ),
    ] = None,
    scale: Annotated[
        str | None,
        OUTPUT("Regression: target or latent (before the sigmoid). Classes: log-odds or probability \\[the first]."),
    ] = None,
    baseline: Annotated[
        str,
        OUTPUT("Attributions compare with the average letter (average) or none at all (unknown)."),
    ] = ExplainOptions.baseline,
    steps: Annotated[int, OUTPUT("Points of the attributions' integral.")] = ExplainOptions.steps,
    pair_samples: Annotated[
        int, OUTPUT("Letter pairs drawn for each pair of positions.")
    ] = ExplainOptions.pair_samples,
    seed: Annotated[int, OUTPUT("Of that draw.")] = ExplainOptions.seed,
    sequence: Annotated[str | None, DATA(HELP["sequence"])] = None,
    mutant: Annotated[str | None, DATA(HELP["mutant"])] = None,
    wild_type: Annotated[
        str | None,
        DATA(
            "Sequence, or file with it, to explain if there is no DATA; the one that mutations "
            "refer to \\[the model's]."
        ),
    ] = None,
    offset: Annotated[int | None, DATA("Number of the first residue \\[the model's].")] = None,
    separator: Annotated[str | None, DATA(HELP["separator"])] = None,
    on_invalid: Annotated[str, DATA(HELP["on_invalid"])] = InputOptions.on_invalid,
    batch_size: Annotated[int, MACHINE(HELP["batch_size"])] = InputOptions.batch_size,
    device: Annotated[str, MACHINE(HELP["device"])] = DEVICE,
) -> None:
    """Explain predictions: every substitution, contributions of positions, pairs of positions.

    Example: [bold]lyra explain dms/model -o explained --pairs[/bold]

    Example: [bold]lyra explain splicing/model sites.fasta --class high --positions 10-60 -o explained[/bold]

    Example: [bold]lyra explain dms/model -o explained --map 39,54 --measured doubles.csv --logo[/bold]

    Writes mutagenesis.csv, attributions.csv, epistasis.csv (with --pairs), map.csv (with --map),
    measured_epistasis.csv (with --measured), heat maps and explanation.html.

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
    contents = Contents(
        mutagenesis=mutagenesis, attributions=attributions, pairs=pairs, maps=parse_maps(maps or ()), logo=logo,
        measured=measured, target=target, wild_type_value=wild_type_value, pictures=pictures,
    )  # fmt: skip
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
