"""`lyra predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="Model folder that `lyra train` wrote.")],
    data: Annotated[str, typer.Argument(help="CSV, TSV or FASTA, plain or gzip; - is standard input.")],
    out: Annotated[str, typer.Option("--out", "-o", help="File to write, .csv or .tsv (.gz packs it); - is standard "
        "output.")],
    sequence: Annotated[str | None, typer.Option(help="Sequence column \\[found].")] = None,
    mutant: Annotated[str | None, typer.Option(help="Column of mutations \\[the one of the training "
        "table].")] = None,
    wild_type: Annotated[str | None, typer.Option(help="Sequence that the mutations refer to, or a file with it "
        "\\[the model's].")] = None,
    offset: Annotated[int | None, typer.Option(help="Number of the wild type's first residue \\[the "
        "model's].")] = None,
    separator: Annotated[str | None, typer.Option(help="Between cells: comma, tab, semicolon, space, pipe "
        "\\[found].")] = None,
    on_invalid: Annotated[str, typer.Option(help="Letters outside the model's alphabet: error, skip or "
        "unknown.")] = "error",
    batch_size: Annotated[int, typer.Option(help="Sequences a batch, at most.")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is "
        "one.")] = "auto",
) -> None:  # fmt: skip
    """Predict for the sequences of a file, in its order.

    Example: [bold]lyra predict splicing/model new.fasta.gz -o predictions.csv[/bold]

    A table keeps its columns and gets `prediction` (and `p_CLASS` for each class of a classifier). The file is read
    in blocks, so it may be of any size.
    """
    from ..prediction import Predictor
    from ..prediction_files import predict_file
    from ..prediction_inputs import InputOptions
    from . import consoles

    predictor = Predictor.from_pretrained(model, device)
    options = InputOptions(sequence, mutant, wild_type, offset, separator, on_invalid, batch_size)
    console = consoles.messages()
    with console.status("reading") as status:
        count, _ = predict_file(
            predictor, data, out, options, lambda done: status.update(f"predicted {done:,} sequences"),
            lambda text: console.print(text, soft_wrap=True),
        )  # fmt: skip
    console.print(f"predicted {count:,} sequences: {out}", soft_wrap=True)
