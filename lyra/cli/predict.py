"""`lyra predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import InputOptions
from ..settings.data import DEVICE
from .options import HELP, MODEL_FOLDER, panel

PLAIN = panel(None)


def predict(
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    data: Annotated[str, typer.Argument(help="CSV, TSV or FASTA, plain or gzip; - is standard input.")],
    out: Annotated[str, PLAIN("File to write, .csv or .tsv (.gz packs it); - is standard output.", "--out", "-o")],
    sequence: Annotated[str | None, PLAIN(HELP["sequence"])] = None,
    mutant: Annotated[str | None, PLAIN(HELP["mutant"])] = None,
    wild_type: Annotated[
        str | None,
        PLAIN("Sequence that the mutations refer to, or a file with it \\[the model's]."),
    ] = None,
    offset: Annotated[int | None, PLAIN("Number of the wild type's first residue \\[the model's].")] = None,
    separator: Annotated[str | None, PLAIN(HELP["separator"])] = None,
    on_invalid: Annotated[str, PLAIN(HELP["on_invalid"])] = InputOptions.on_invalid,
    batch_size: Annotated[int, PLAIN(HELP["batch_size"])] = InputOptions.batch_size,
    device: Annotated[str, PLAIN(HELP["device"])] = DEVICE,
    graphs: Annotated[bool | None, PLAIN(HELP["graphs"], "--graphs/--no-graphs")] = None,
) -> None:
    """Predict for the sequences of a file, in its order.

    Example: [bold]lyra predict splicing/model new.fasta.gz -o predictions.csv[/bold]

    A table keeps its columns and gets `prediction` (and `p_CLASS` for each class of a classifier). The file is read
    in blocks, so it may be of any size.
    """
    from ..prediction import Predictor
    from ..prediction_files import predict_file
    from . import consoles

    predictor = Predictor.from_pretrained(model, device)
    options = InputOptions(
        sequence=sequence, mutant=mutant, wild_type=wild_type, offset=offset, separator=separator,
        on_invalid=on_invalid, batch_size=batch_size,
    )  # fmt: skip
    console = consoles.messages()
    predictor.use_graphs(graphs, lambda text: console.print(f"warning: {text}", markup=False, soft_wrap=True))
    with console.status("reading") as status:
        count, _ = predict_file(
            predictor, data, out, options,
            progress=lambda done: status.update(f"predicted {done:,} sequences"),
            say=lambda text: console.print(text, soft_wrap=True),
        )  # fmt: skip
    console.print(f"predicted {count:,} sequences: {out}", soft_wrap=True)
