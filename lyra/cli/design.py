"""`lyra design`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings.data import DEVICE
from ..settings.design import DesignOptions
from .options import HELP, MODEL_FOLDER, panel

PLAIN = panel(None)
GOAL = panel("Goal and search")
SHOWN = 5  # designs that the terminal tells about


def design(
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    out: Annotated[str, PLAIN("File to write, .csv or .tsv (.gz packs it); - is standard output.", "--out", "-o")],
    wild_type: Annotated[
        str | None, PLAIN("Sequence to start from, or a file with it \\[the one that the model was trained with].")
    ] = None,
    offset: Annotated[int | None, PLAIN("Number of its first residue \\[the model's, or 1].")] = None,
    max_mutations: Annotated[int, PLAIN("Substitutions in a design, at most.")] = DesignOptions.max_mutations,
    positions: Annotated[
        str | None, PLAIN("Positions that may change, such as 10-60,72, in the numbering of --offset \\[all].")
    ] = None,
    keep: Annotated[str | None, PLAIN("Positions that must stay as they are, such as a motif's: 30-34.")] = None,
    letters: Annotated[
        str | None, PLAIN("Letters that may be put in, such as ADEKS \\[all that occurred in training].")
    ] = None,
    forbid: Annotated[str | None, PLAIN("Letters that may not be put in, such as CP.")] = None,
    top: Annotated[int, PLAIN("Designs to write, best first.")] = DesignOptions.top,
    minimise: Annotated[
        bool, GOAL("Look for the lowest prediction, or for the highest.", "--minimise/--maximise")
    ] = DesignOptions.minimise,
    class_name: Annotated[
        str | None, GOAL("Classifier: the class whose log-odds are the goal \\[the positive one of two].", "--class")
    ] = None,
    caution: Annotated[
        float | None,
        GOAL("Ensemble: standard deviations over its members that a prediction is worth less \\[1]."),
    ] = None,
    beam: Annotated[
        int, GOAL("Designs of each number of mutations that are mutated further; 1 is the greedy search.")
    ] = DesignOptions.beam,
    device: Annotated[str, PLAIN(HELP["device"])] = DEVICE,
) -> None:
    """Design sequences: the substitutions of a wild type with the best predictions.

    Example: [bold]lyra design dms/model --max-mutations 4 --keep 30-34 --forbid C -o designs.csv[/bold]

    Example: [bold]lyra design splicing/model --wild-type exon.fasta --class high -o designs.csv[/bold]

    A beam search: from the best designs with one mutation all with two are tried, and so on.

    With an ensemble, what its members disagree on is worth less. A prediction far from the training data is a guess.
    """
    from ..design import design_file
    from ..prediction import Predictor
    from . import consoles
    from .progress import Bar

    options = DesignOptions(
        max_mutations=max_mutations, positions=positions, keep=keep, letters=letters, forbid=forbid, top=top,
        minimise=minimise, class_name=class_name, caution=caution, beam=beam,
    )  # fmt: skip
    options.check()
    predictor = Predictor.from_pretrained(model, device)
    console = consoles.messages()
    with Bar(console, "designing") as bar:
        frame = design_file(
            predictor, wild_type, out, options, offset=offset,
            say=lambda text: console.print(text, soft_wrap=True), progress=bar.update,
        )  # fmt: skip
    digits = predictor.digits - 3
    console.print(f"wild type: {frame.attrs['unit']} {frame.attrs['wild_type']:.{digits}g}", soft_wrap=True)
    for row in frame.head(SHOWN).to_dict("records"):
        doubt = f" ± {row['spread']:.2g}" if "spread" in row else ""
        console.print(f"{row['mutant']}: {row['prediction']:.{digits}g}{doubt} ({row['change']:+.3g})", soft_wrap=True)
    console.print(f"{len(frame):,} designs: {out}", soft_wrap=True)
