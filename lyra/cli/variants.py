"""`lyra variants`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings.data import DEVICE
from ..settings.variants import VariantOptions
from .options import HELP, MODEL_FOLDER, panel

PLAIN = panel(None)
VCF = panel("VCF")
TABLE = panel("Table of HGVS strings")


def variants(
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    file: Annotated[
        str,
        typer.Argument(help="VCF, or CSV or TSV with a column of HGVS strings, plain or gzip; - is standard input."),
    ],
    out: Annotated[str, PLAIN("File to write, .csv or .tsv (.gz packs it); - is standard output.", "--out", "-o")],
    class_name: Annotated[
        str | None, PLAIN("Classifier: the class whose log-odds are told \\[the positive one of two].", "--class")
    ] = None,
    on_invalid: Annotated[
        str,
        PLAIN("Variants without a sequence or unknown to the model: error, or empty (the column note says why)."),
    ] = VariantOptions.on_invalid,
    genome: Annotated[
        str | None, VCF("FASTA file that the positions refer to; NAME.fai beside it is used if it fits.")
    ] = None,
    window: Annotated[int | None, VCF("Bases around each variant that the model reads \\[as in training].")] = None,
    hgvs: Annotated[str | None, TABLE("Column of HGVS strings, such as p.Ala24Gly, p.A24G or n.[12A>G;15del].")] = None,
    wild_type: Annotated[str | None, TABLE("Sequence that they refer to, or a file with it \\[the model's].")] = None,
    offset: Annotated[int | None, TABLE("Number of the wild type's first residue \\[the model's, or 1].")] = None,
    separator: Annotated[str | None, TABLE(HELP["separator"])] = None,
    device: Annotated[str, PLAIN(HELP["device"])] = DEVICE,
) -> None:
    """Score variants: predictions without and with each of them, and the difference.

    Example: [bold]lyra variants mpra/model new.vcf.gz --genome hg38.fa -o scores.csv[/bold]

    Example: [bold]lyra variants dms/model clinvar.csv --hgvs hgvs_pro -o scores.csv[/bold]

    Of a VCF, each alternative allele (SNV or short indel) is a row, read in a window of the genome's plus strand.

    A REF that the genome does not have is an error. HGVS strings are applied to the wild type.
    """
    from ..prediction import Predictor
    from ..variants import score_file
    from . import consoles

    options = VariantOptions(
        genome=genome, window=window, hgvs=hgvs, wild_type=wild_type, offset=offset, separator=separator,
        class_name=class_name, on_invalid=on_invalid,
    )  # fmt: skip
    options.check()
    predictor = Predictor.from_pretrained(model, device)
    console = consoles.messages()
    with console.status("reading") as status:
        count = score_file(
            predictor, file, out, options,
            say=lambda text: console.print(text, soft_wrap=True),
            progress=lambda done: status.update(f"scored {done:,} variants"),
        )  # fmt: skip
    console.print(f"scored {count.used:,} variants: {out}", soft_wrap=True)
