"""`lyra explain`: from sequences to a folder of tables, pictures and a page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from ..errors import InputError, argument
from ..files import atomic_path, check_folder, check_outside, write_json
from ..prediction import Predictor
from ..settings.data import InputOptions
from ..settings.explain import Contents, ExplainOptions
from . import pictures
from .attributions import COST, integrated_gradients
from .epistasis import as_matrix, check_output, count_doubles, count_positions, epistasis_table
from .items import Item, Items
from .mutagenesis import mutagenesis_table, sensitive_positions
from .page import Explanation, write_explanation
from .subject import Progress, Score, Subject, substitutable

OWN = re.compile(r"explanation\.(json|html)|(mutagenesis|attributions|epistasis)(_.*)?\.(csv|png)")
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
    for name, read in ((None, path), ("wild_type", inputs.wild_type)):
        if read is not None:
            check_outside(out, str(read), name)
    score = Score(predictor, options)
    if contents.pairs:
        check_output(score)
    if contents.pictures < 0:
        raise InputError(f"{argument('pictures')} {contents.pictures}: must not be negative")
    if contents.attributions and score.per_position:
        say(f"no attributions: this model gives a class to each residue; {argument('at')} chooses the one to attribute")
        contents = replace(contents, attributions=False)
    if not (contents.mutagenesis or contents.attributions or contents.pairs):
        raise InputError(
            f"nothing to write; leave one of {argument('mutagenesis', False)} and {argument('attributions', False)} "
            f"out, or give {argument('pairs', True)}"
        )
    contents.check_effects(given)
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
            explanation = explain_one(score, item, tables, contents, number, advance)
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
        if contents.pairs:
            work.doubles += count_doubles(count_positions(here, item.where), letters, options)
            work.cost += singles
    if not work.sequences:
        where = argument("wild_type") if items.path is None else items.path
        raise InputError(
            f"{where}: no sequence is left; correct the letters or give {argument('on_invalid', 'unknown')}"
        )
    work.skipped = items.skipped
    work.cost += work.substitutions + work.doubles
    return work


class Tables:
    """The CSV files of a folder, written sequence by sequence."""

    def __init__(self, folder: Path, stack: ExitStack, digits: int) -> None:
        self.folder, self.stack = folder, stack
        self.numbers = f"%.{digits}g"
        self.files: dict[str, IO[str]] = {}

    def add(self, name: str, id: str, frame: pd.DataFrame) -> None:
        """Adds rows to NAME.csv, with the sequence's id before them."""
        first = name not in self.files
        if first:
            file = open(self.folder / f"{name}.csv", "w", encoding="utf-8", newline="", errors="backslashreplace")
            self.files[name] = self.stack.enter_context(file)
        frame.insert(0, "id", id)
        frame.to_csv(self.files[name], index=False, header=first, float_format=self.numbers, lineterminator="\n")


def explain_one(
    score: Score, item: Item, tables: Tables, contents: Contents, number: int, progress: Progress
) -> Explanation:
    """Everything about one sequence: rows into the tables, pictures, and what the summary says."""
    options = item.options
    subject = Subject(score, item.sequence, options, item.where)
    explanation = Explanation(
        {"id": item.id, "length": subject.length, "offset": options.offset}, score.unit, score.digits
    )
    if not score.per_position:
        if score.by_class:
            explanation.facts["class"] = subject.class_names(np.zeros(1, dtype=np.int64))[0]
        explanation.facts["predicted"] = float(subject.predicted[0])
    stem = f"{number}_{safe_name(item.id)}"

    def draw(kind: str, frame: pd.DataFrame, title: str, picture: Callable[..., None], *more: Any) -> None:
        if number <= contents.pictures and len(frame):
            name = f"{kind}_{stem}.png"
            picture(tables.folder / name, frame, title, *more)
            explanation.pictures[title] = name

    if contents.mutagenesis:
        frame = mutagenesis_table(subject, progress)
        order = frame.sort_values("change", kind="stable")
        explanation.sensitive = sensitive_positions(frame)
        explanation.lowest, explanation.highest = order.head(5), order.tail(5).iloc[::-1]
        draw("mutagenesis", frame, f"{item.id}: every substitution", pictures.draw_mutagenesis)
        tables.add("mutagenesis", item.id, frame)
    if contents.attributions:
        frame = integrated_gradients(subject, progress)
        for name in ("baseline_predicted", "completeness_error", "sum_of_absolutes"):
            explanation.facts[name] = frame.attrs[name]
        title = (
            f"{item.id}: what leads from {frame.attrs['baseline_predicted']:.{score.digits}g} (baseline: "
            f"{options.baseline}) to the predicted {frame.attrs['predicted']:.{score.digits}g}"
        )
        draw("attributions", frame, title, pictures.draw_attributions)
        tables.add("attributions", item.id, frame)
    if contents.pairs:
        frame = epistasis_table(subject, progress)
        explanation.pairs = frame.sort_values("rms", ascending=False, kind="stable").head(10)
        letters = {site + options.offset: subject.letters[site] for site in subject.open}
        draw("epistasis", frame, f"{item.id}: epistasis of pairs of positions", pictures.draw_epistasis, letters)
        if number <= contents.pictures:
            as_matrix(frame).to_csv(tables.folder / f"epistasis_{stem}.csv", float_format="%.7g", lineterminator="\n")
        tables.add("epistasis", item.id, frame)
    return explanation


def safe_name(id: str) -> str:
    """The id as a part of a file name, on any system."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", id)[:40].strip("._") or "sequence"


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
