"""`lyra data`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import panel

PLAIN = panel(None)


def data(
    name: Annotated[str | None, typer.Argument(help="Which data to write; all are listed without it.")] = None,
    out: Annotated[
        Path | None,
        PLAIN("File to write; its name ends as the data's own does \\[the data's own name].", "--out", "-o"),
    ] = None,
    overwrite: Annotated[bool, PLAIN("Replace a file of that name.", "--overwrite")] = False,
) -> None:
    """Write measurements and sequences that ship with the package, to try the other commands on.

    Example: [bold]lyra data mpsa[/bold]
    """
    from ..datasets import DATASETS, dataset, path
    from ..errors import InputError, argument
    from ..files import atomic_path
    from . import consoles

    if name is None:
        for known, entry in DATASETS.items():
            print(f"{known}: {entry.what}\n    {entry.source}")
        return
    chosen = dataset(name)
    out = Path(chosen.file) if out is None else out
    ending = "".join(Path(chosen.file).suffixes)
    if not out.name.endswith(ending):
        raise InputError(f"{argument('out')} {out}: must end in {ending}, as the content does")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists; give another {argument('out')}, or {argument('overwrite', True)}")
    with atomic_path(out) as unfinished:
        unfinished.write_bytes(path(name).read_bytes())
    console = consoles.messages()
    console.print(f"{out}: {chosen.what}", markup=False, soft_wrap=True)
    if chosen.options is not None:
        line = " ".join(f"lyra train {out} {chosen.options} --out {name}".split())
        console.print(f"train on it: {line}", markup=False, soft_wrap=True)
