"""`lyra explain`: from sequences to a folder of tables, pictures and a page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, argument
from ..files import atomic_path, check_folder, check_outside, write_json
from ..prediction import Predictor
from ..settings.data import InputOptions
from ..settings.explain import Contents, ExplainOptions
from . import logos
from .attributions import COST
from .epistasis import check_output, count_doubles, count_positions
from .items import Items
from .measured import Measurements, read_measured
from .one import Tables, explain_one
from .page import Explanation, write_explanation
from .pair_maps import check_positions
from .subject import Score, Subject, substitutable

OWN = re.compile(
    r"explanation\.(json|html)|"
    r"(mutagenesis|attributions|epistasis|map|measured_epistasis|effect_logo|attribution_logo)(_.*)?\.(csv|png)"
)
SUMMARY = "explanation.json"  # by which a folder is known as one of these
PAGE = "explanation.html"
SUMMARISED = 3  # sequences that are summed up even without pictures
TOLERANCE = 0.02  # of the attributions' absolute sum


@dataclass
class Work:
    """How much there is to do.

    Attributes:
        skipped: sequences left out for their letters.
        cost: all of it, in predictions.
    """

    sequences: int = 0
    skipped: int = 0
    substitutions: int = 0
    attributions: int = 0
    doubles: int = 0
    cost: int = 0

    def summary(self, options: ExplainOptions) -> str:
        parts = [f"{self.substitutions:,} substitutions"] if self.substitutions else []
        if self.attributions:
            parts.append(f"attributions in {options.steps:,} steps")
        if self.doubles:
            parts.append(f"{self.doubles:,} double mutants")
        many = f"{self.sequences:,} sequence" + "s" * (self.sequences != 1)
        note = f" ({self.skipped:,} skipped for letters outside the alphabet)" if self.skipped else ""
        return f"{many}{note}: {', '.join(parts)}"


def explain_file(
    predictor: Predictor,
    path: str | Path | None,
    out: str | Path,
    inputs: InputOptions,
    options: ExplainOptions,
    contents: Contents,
    *,
    overwrite: bool = False,
    given: Collection[str] = (),
    title: str = "model",
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Explanation]:
    """Explains every sequence of a CSV, TSV or FASTA file, or the wild type where `path` is None.

    All of the input is read and checked before the first prediction. The folder appears when it is complete.

    Args:
        out: the folder; `overwrite` replaces an earlier one of this kind.
        given: names of the settings that the user gave, of which each must have an effect.
        title: what the page calls the model.
        say: told how much there is to do, and what was left out.
        progress: called with the work done and the work in all, in predictions.

    Returns:
        what the page says about the first `contents.pictures` sequences.

    Raises:
        InputError: anything that a user can put right.
    """
    out = usable_folder(out, overwrite)
    for name, read in ((None, path), ("wild_type", inputs.wild_type), ("measured", contents.measured)):
        if read is not None:
            check_outside(out, str(read), name)
    score = Score(predictor, options)
    for name, wanted in (("pairs", contents.pairs), ("maps", contents.maps), ("measured", contents.measured)):
        if wanted:
            check_output(score, name)
    if contents.pictures < 0:
        raise InputError(f"{argument('pictures')} {contents.pictures}: must not be negative")
    if contents.attributions and score.per_position:
        say(f"no attributions: this model gives a class to each residue; {argument('at')} chooses the one to attribute")
        contents = replace(contents, attributions=False)
    if not contents.any():
        raise InputError(
            f"nothing to write; leave one of {argument('mutagenesis', False)} and {argument('attributions', False)} "
            f"out, or give {argument('pairs', True)}"
        )
    contents.check_effects(given)
    if contents.logo:
        logos.check_available()
    items = Items(predictor, path, inputs, options)
    work = count_work(items, predictor, contents)
    for note in items.notes:
        say(f"warning: {note}")
    if items.given is not None:
        if items.given.remarks:
            say(f"guessed: {'; '.join(items.given.remarks)}")
        for warning in items.given.warnings():
            say(f"warning: {warning}")
        say(f"rows: {items.given.count}")
    measured = measurements(score, items, contents, work, say)
    say(work.summary(options))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, work.cost)

    with atomic_path(out) as folder, ExitStack() as stack:
        folder.mkdir()
        tables = Tables(folder, stack, predictor.digits)
        shown, facts = [], []
        for number, item in enumerate(items, 1):
            explanation = explain_one(score, item, tables, contents, number, measured, advance)
            facts.append(explanation.facts)
            if number <= max(contents.pictures, SUMMARISED):
                shown.append(explanation)
        stack.close()
        settings = settings_of(score, options, contents)
        write_json(folder / SUMMARY, {**settings, "sequences": facts})
        write_explanation(folder / PAGE, folder, title, settings, work.sequences, shown)
    if contents.attributions:
        warn_of_errors(facts, say)
    return shown


def measurements(
    score: Score, items: Items, contents: Contents, work: Work, say: Callable[[str], None]
) -> Measurements | None:
    """The table of measured mutants, if there is one, its double mutants counted as work.

    Raises:
        InputError: there is more than one sequence that they could be mutants of, or as for `read_measured`.
    """
    if contents.measured is None:
        return None
    if work.sequences != 1:
        raise InputError(
            f"{argument('measured')} {contents.measured}: has mutants of one sequence, and {work.sequences:,} are to "
            "be explained; give that one"
        )
    item = next(iter(items))
    subject = Subject(score, item.sequence, item.options, item.where)
    found = read_measured(contents.measured, subject, contents.target, contents.wild_type_value)
    say(f"measured: {found}")
    work.doubles += len(found.usable)
    work.cost += len(found.usable) + len({change for pair in found.usable for change in pair})
    return found


def warn_of_errors(facts: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Tells of attributions whose sum is off by more than is read off a picture."""
    off = [fact for fact in facts if fact["completeness_error"] > TOLERANCE * fact["sum_of_absolutes"]]
    if off:
        whose = str(off[0]["id"]) if len(off) == 1 else f"{len(off):,} sequences, such as {off[0]['id']},"
        say(f"warning: the attributions of {whose} sum to the difference from the baseline within "
            f"{off[0]['completeness_error']:.2g} only; raise {argument('steps')}")  # fmt: skip


def usable_folder(out: str | Path, overwrite: bool) -> Path:
    """The folder's full path; an InputError if it may not be written."""
    path = Path(os.path.realpath(out))  # behind a link, the folder that it leads to
    if Path.cwd().is_relative_to(path):
        raise InputError(f"{out}: is the folder you are in, or one above; {argument('out')} must name a new one")
    check_folder(path, SUMMARY, OWN, overwrite, f"{argument('overwrite', True)} replaces it")
    return path


def count_work(items: Items, predictor: Predictor, contents: Contents) -> Work:
    """Reads and checks everything, and counts the predictions to make."""
    work, letters = Work(), len(substitutable(predictor.alphabet))
    open_letters = {predictor.alphabet.letters[token] for token in substitutable(predictor.alphabet)}
    for item in items:
        options = item.options
        sites = options.sites(len(item.sequence), item.where)
        if options.at is not None:
            options.index("at", options.at, len(item.sequence), item.where)
        here = np.array([site for site in sites if item.sequence[site] in open_letters], dtype=np.int64)
        singles = len(here) * (letters - 1)
        work.sequences += 1
        if contents.mutagenesis:
            work.substitutions += singles
        if contents.attributions:
            work.attributions += 1
            work.cost += COST * options.steps
        for pair in contents.maps or ():
            check_positions(pair, options, item.sequence, sorted(open_letters), item.where)
            work.doubles += letters**2
        if contents.pairs:
            work.doubles += count_doubles(count_positions(here, item.where), letters, options)
            work.cost += singles
    if not work.sequences:
        where = argument("wild_type") if items.path is None else items.path
        raise InputError(
            f"{where}: no sequence is left; correct the letters or give {argument('on_invalid', 'unknown')}"
        )
    work.skipped = items.skipped
    passes = 1 if predictor.members == 1 else 2  # the members' spread is asked for by itself
    work.cost += passes * work.substitutions + work.doubles
    return work


def settings_of(score: Score, options: ExplainOptions, contents: Contents) -> dict[str, Any]:
    """The settings that the results depend on."""
    settings = {name: value for name, value in asdict(options).items() if value is not None}
    for name in ("offset", "batch_size"):  # each sequence has its own; of no influence
        settings.pop(name, None)
    if not contents.attributions:
        del settings["baseline"], settings["steps"]
    if not contents.pairs:
        del settings["pair_samples"], settings["seed"]
    if "positions" in settings and not isinstance(settings["positions"], str):
        settings["positions"] = [int(number) for number in settings["positions"]]
    return {"explained": score.unit, "task": score.predictor.targets.task, **settings, "scale": score.scale}
