"""`lyra predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, argument, refuse_without_effect
from ..settings import InputOptions
from ..settings.data import DEVICE
from .options import HELP, MODEL_FOLDER, given, panel

PLAIN = panel(None)
GENOME = panel("Genomes")
TABLE_OPTIONS = ("sequence", "mutant", "wild_type", "offset", "separator")
WINDOW_OPTIONS = ("regions", "window", "step")


def predict(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    data: Annotated[str, typer.Argument(help="CSV, TSV or FASTA, plain or gzip; - is standard input.")],
    out: Annotated[
        str,
        PLAIN("File to write, .csv or .tsv (.gz packs it), of a genome .bed or .bw too; - is standard output.",
              "--out", "-o"),
    ],
    sequence: Annotated[str | None, PLAIN(HELP["sequence"])] = None,
    mutant: Annotated[str | None, PLAIN(HELP["mutant"])] = None,
    wild_type: Annotated[
        str | None,
        PLAIN("Sequence that the mutations refer to, or a file with it \\[the model's]."),
    ] = None,
    offset: Annotated[int | None, PLAIN("Number of the wild type's first residue \\[the model's].")] = None,
    separator: Annotated[str | None, PLAIN(HELP["separator"])] = None,
    on_invalid: Annotated[str, PLAIN(HELP["on_invalid"])] = InputOptions.on_invalid,
    interval: Annotated[
        float | None,
        PLAIN("Ensembles of numbers: share of measurements between the columns lower and upper \\[0.9]."),
    ] = None,
    batch_size: Annotated[int, PLAIN(HELP["batch_size"])] = InputOptions.batch_size,
    device: Annotated[str, PLAIN(HELP["device"])] = DEVICE,
    graphs: Annotated[bool | None, PLAIN(HELP["graphs"], "--graphs/--no-graphs")] = None,
    stream: Annotated[
        bool,
        GENOME("Read FASTA records piece by piece, of any length in little memory; for models trained with --one-way.",
               "--stream"),
    ] = False,
    regions: Annotated[
        str | None,
        GENOME("BED file of windows to predict for; those on strand - are read as their reverse complement."),
    ] = None,
    window: Annotated[
        int | None, GENOME("Without --regions: windows of so many bases over all records.")
    ] = None,
    step: Annotated[
        int | None, GENOME("Bases from the start of one such window to that of the next \\[those of --window].")
    ] = None,
    class_name: Annotated[str | None, GENOME("Of a .bw, the class whose probability it holds.", "--class")] = None,
) -> None:  # fmt: skip
    """Predict for the sequences of a file, in its order.

    Example: [bold]lyra predict splicing/model new.fasta.gz -o predictions.csv[/bold]

    Example: [bold]lyra predict enhancers/model genome.fa --regions peaks.bed -o peaks.csv[/bold]

    Example: [bold]lyra predict genes/model genome.fa --stream --class exon -o exons.bw[/bold]

    A table keeps its columns and gets `prediction` (and `p_CLASS` for each class of a classifier). The file is read
    in blocks, so it may be of any size. An ensemble adds `sd`, the spread of its members, for numbers `lower` and
    `upper`, the ends of an interval (of several targets `sd_TARGET` and so on), and `novel`, what about the sequence
    training never had. Classes or numbers of residues stand in one cell, separated as in training.

    Windows of a genome give columns chrom, start, end, name, score and strand, and the prediction's. A .bw (BigWig)
    holds a number for each window or, from a class or number per residue, for each base, the mean where windows
    overlap.
    """
    from ..genomes import WindowOptions, predict_stream, predict_windows
    from ..prediction import Predictor
    from ..prediction_files import predict_file
    from . import consoles

    names = given(ctx)
    windows = next((name for name in WINDOW_OPTIONS if name in names), None)
    if stream and windows is not None:
        raise InputError(
            f"{argument('stream', True)} {argument(windows)}: take whole records piece by piece, or windows; leave one "
            "out"
        )
    if stream or windows is not None:
        refuse_without_effect(names, TABLE_OPTIONS, "a genome is FASTA, which has no columns")
        refuse_without_effect(names, ("interval",), "predictions along a genome carry none")
    else:
        refuse_without_effect(names, ("class_name",), "only the .bw of a genome is of one class")
    if stream:
        refuse_without_effect(names, ("batch_size", "graphs"), "one piece of one sequence is read at a time")

    predictor = Predictor.from_pretrained(model, device)
    console = consoles.messages()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    predictor.use_graphs(False if stream else graphs, lambda text: say(f"warning: {text}"))
    what = "sequences" if windows is None else "windows"
    with console.status("reading") as status:
        if stream:
            count, _ = predict_stream(
                predictor, data, out, class_name=class_name, on_invalid=on_invalid, say=say,
                progress=lambda letters: status.update(f"predicted {letters:,} letters"),
            )  # fmt: skip
        elif windows is not None:
            options = WindowOptions(
                regions=regions, window=window, step=step, class_name=class_name, on_invalid=on_invalid,
                batch_size=batch_size,
            )  # fmt: skip
            count, _ = predict_windows(
                predictor, data, out, options, say=say,
                progress=lambda done: status.update(f"predicted {done:,} windows"),
            )  # fmt: skip
        else:
            inputs = InputOptions(
                sequence=sequence, mutant=mutant, wild_type=wild_type, offset=offset, separator=separator,
                on_invalid=on_invalid, batch_size=batch_size, interval=interval,
            )  # fmt: skip
            count, _ = predict_file(
                predictor, data, out, inputs, say=say,
                progress=lambda done: status.update(f"predicted {done:,} sequences"),
            )  # fmt: skip
    say(f"predicted {count:,} {what}: {out}")
