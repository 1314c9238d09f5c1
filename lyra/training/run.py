"""A whole training run: data, model, fit, and the folder that it leaves."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from ..data.loading import LabelledData, load_with_wild_type
from ..data.sources import Source
from ..data.wild_types import read_wild_type
from ..errors import InputError, argument
from ..files import (
    check_folder,
    check_no_file,
    check_outside,
    claimed_folder,
    commit_replacement,
    remove_unfinished,
    replaced_content,
    write_json,
)
from ..scores import Results
from ..settings.data import DataOptions
from ..settings.training import Hardware, Recipe
from . import effects, selection
from .callbacks import AfterFirstEpoch
from .fitting import fit_data
from .graphed import use_graphs
from .networks import CHECKPOINTS, Workshop, make_trainer
from .plan import plan
from .results import REPORT, write_results

OWN = re.compile(  # all that a run leaves in its folder, and what is in there while it goes on
    r"model/(config\.json|model\.safetensors|README\.md|\.gitattributes)|"
    r"checkpoints/[^/]+/([^/]+\.ckpt|finished)|(run|metrics)\.json|(history|predictions)\.csv|report\.html|"
    r"(along_sequences|learning_curve|confusion|calibration|epistasis|summary|predicted_vs_measured)\.png"
)
SETTINGS = "run.json"


def train(
    path: str | Path,
    out: str | Path,
    data_options: DataOptions,
    recipe: Recipe,
    hardware: Hardware,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    title: str | None = None,
    given: Collection[str] = (),
) -> Results | None:
    """Trains on a table and writes model, scores, predictions, history, pictures and report into `out`.

    The best epoch is chosen on the validation part; the test part is first read when training is over.

    Args:
        resume: go on from the last finished epoch of the same run in `out`.
        overwrite: replace what is in `out`.
        title: heading of the report; the data's name by default.
        given: names of the settings that the user gave, of which each must have an effect.

    Returns:
        the results, or None in a process that is not the first of several.

    Raises:
        InputError: anything that a user can put right.
        KeyboardInterrupt: on interrupt; `resume` then goes on from the last finished epoch.
    """
    out, console = Path(out), console or Console(stderr=True)
    quiet = getattr(rank_zero_only, "rank", 0) != 0

    def say(text: str) -> None:
        if not quiet:
            console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def warn(text: str) -> None:
        say(f"warning: {text}")

    if resume and overwrite:
        raise InputError(
            f"{argument('resume', True)} {argument('overwrite', True)}: go on with the run in {argument('out')}, or "
            "replace it; leave one out"
        )
    recipe.check()
    data_options.check()
    wild_type = read_wild_type(data_options.wild_type, warn)
    effects.check_before_reading(given, recipe)
    check_no_file(out)
    with contextlib.nullcontext() if quiet else claimed_folder(out):
        if not quiet and not resume:
            check_folder(
                out,
                SETTINGS,
                OWN,
                overwrite,
                f"{argument('resume', True)} goes on with it, {argument('overwrite', True)} replaces it",
            )
        source = Source(path)
        settings = {
            "data": {"name": Path(source.name).name, "sha256": source.sha256()},
            # the wild type itself, in case that its file changes before the run is resumed
            "data_options": {**data_options.to_json(), "wild_type": wild_type},
            "recipe": recipe.to_json(),
        }
        if not quiet and resume:
            check_resumable(out, settings)
        data = load_with_wild_type(source, data_options, wild_type, warn)
        effects.check_with_data(given, data, data_options)
        effects.check_strand(given, recipe, data)
        describe(data, say)
        recipe, chosen = plan(recipe, data)
        if chosen:
            say(f"recipe: {chosen}")
        problem = selection.undefined_because(data.targets.task, data.labels("val"))
        if problem is not None and recipe.keep == "best":
            warn(f"{problem}, so the epoch to keep is chosen by the validation loss")
        machine = make_trainer(out, recipe, hardware, 1, None, console)
        if source.stream and machine.world_size > 1:
            raise InputError(f"{source}: can be read by one process only; give a file, or {argument('devices', 1)}")
        graphs = use_graphs(hardware.graphs, machine)
        after_first_epoch: list[Callback] = []
        workshop = Workshop(
            data, recipe, hardware, out, console, warn, resume=resume, first_callbacks=after_first_epoch
        )
        if quiet or resume:
            if not quiet:
                remove_unfinished(out)
                after_first_epoch.append(AfterFirstEpoch(lambda: commit_replacement(out)))
            fitted = fit_data(workshop)
        else:
            for name, read in ((None, source.file()), ("wild_type", data_options.wild_type or "")):
                check_outside(out, read, name)
            with replaced_content(out) as commit:
                after_first_epoch.append(AfterFirstEpoch(commit))
                write_json(out / SETTINGS, settings | {"graphs": graphs})
                fitted = fit_data(workshop)
        if quiet:
            return None
        results = write_results(out, fitted, data, recipe, title or Path(source.name).name, graphs, warn)
        for part, name in results.one_class.items():
            warn(
                f"on the {part} part every prediction is {name}, so MCC is 0 or undefined; AUROC and AUPRC "
                "tell whether the probabilities rank the classes all the same"
            )
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        return results


def check_resumable(out: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads((out / SETTINGS).read_text())
    except (OSError, ValueError):
        raise InputError(f"{out}: has no run to resume; leave {argument('resume', True)} out") from None
    if (out / REPORT).exists():
        raise InputError(
            f"{out}: the run is finished; give another {argument('out')}, or {argument('overwrite', True)} instead of "
            f"{argument('resume', True)}"
        )
    for group in settings:
        old, new = before.get(group), settings[group]
        if old != new:
            names = [name for name in new if old.get(name) != new[name]] if isinstance(new, dict) else [group]
            raise InputError(
                f"{out}: the run to resume had other settings ({', '.join(names)}); give the same ones, "
                f"or {argument('overwrite', True)} instead of {argument('resume', True)}"
            )


def describe(data: LabelledData, say: Callable[[str], None]) -> None:
    """Says what was read, what was guessed, and what there is to train on, a line each."""
    say(f"rows: {data.rows_read}")
    if data.guesses:
        say(f"guessed: {'; '.join(data.guesses)}")
    for note in data.notes:
        say(note)
    sizes = ", ".join(f"{len(data.rows(part)):,} {part}" for part in ("train", "val", "test"))
    lengths = np.diff(data.offsets)
    span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    classes = f" with {len(data.targets.classes)} classes" if data.targets.classes else ""
    say(f"data: {sizes}; {data.alphabet.name}, length {span}; {data.targets.task}{classes} of {data.source.target}")
