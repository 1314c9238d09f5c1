"""How the task is guessed that a user did not say: numbers or classes, of sequences or of residues.

As in `guesses`, a rule looks at the whole table, gives its reason, and refuses where the evidence is thin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..errors import InputError, argument, shorten

MAX_NUMERIC_CLASSES = 20  # whole numbers with more distinct values than this are measurements
LARGEST_CODE = 1000  # whole numbers beyond are no codes of classes
FEW = 4  # classes that a table of any size may have
MAX_RESIDUE_LABELS = 10  # distinct characters of labels without a separator; words have more
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
LONGEST_NUMBER = 100  # characters; cells of labels have thousands
RANGE = "a range"
ABOUT = "a sign for below, above or about"
LIMIT = re.compile(r"\s*([<>\u2264\u2265])=?\s*(\S.*)", re.DOTALL)  # of detection, and on which side of it a value lies
OTHER_NOTATIONS = (  # what looks like a number to people; the first that fits names it
    (re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"), "a thousands separator"),
    (re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+"), "a thousands separator and a decimal comma"),
    (re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"), "a decimal comma"),
    (re.compile(r"[+-]?\d{1,3}(?:[ '\u00a0\u202f\u2019]\d{3})+(?:[.,]\d+)?"), "a thousands separator"),
    (re.compile(r"[+-]?[\d.,]+\s*%"), "a percent sign"),
    (
        re.compile(r"[<>~\u2264\u2265\u2248=]+\s*[+-]?\d[\d.,]*(?:[eE][+-]?\d+)?\s*(?:%|[^\W\d_]\S{0,9})?"),
        ABOUT,
    ),
    (re.compile(r"[\u2212\u2013]\s*[\d.,]+(?:[eE][+-]?\d+)?"), "a minus sign that is a dash"),
    (re.compile(r"[+-]?[\d.,]+\s*(?:\u00b1|\+/-|\+-)\s*[\d.,]+"), "an error of measurement behind it"),
    (re.compile(r"[+-]?[\d.,]+\s*[x*\u00d7\u00b7]\s*10\s*(?:\^|\*\*)?\s*[-+\u2212]?\d+"), "a power of ten written out"),
    (re.compile(r"[+-]?[\d.,]+[eEdD][+\u2212-]?\d+[dDfF]?"), "an exponent that cannot be read"),
    (re.compile(r"\d+(?:\.\d+)?\s*[-\u2013]\s*\d+(?:\.\d+)?\s*%?"), RANGE),
    (re.compile(r"['`][+-]?[\d.,]+"), "a quotation mark before it"),
    (re.compile(r"[<>~\u2264\u2265]?\s*[+-]?\d[\d.,]*(?:[eE][+-]?\d+)?\s+[^\W\d_]\S{0,9}"), "a unit"),
    (
        re.compile(r"[+-]?[\d.,]+\s*(?:[pnum\u00b5\u03bc]?M|mol/l|kcal/mol|kJ/mol|h|min|s|\u00b0C|K|nm|AU|RFU)"),
        "a unit",
    ),
    (re.compile(r"[$\u20ac\u00a3]\s*[\d.,]+"), "a sign before it"),
)
LABEL_SEPARATORS = (",", ";", "|", " ", "")  # a space may stand behind each of the others; "" is the last
NUMBERS = "token-regression"  # the task of a number per residue


def is_number(cell: str) -> bool:
    text = cell.strip()
    return len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text) is not None


def other_notation(cell: str) -> str | None:
    """What keeps a cell from being read as the number that it looks like; None where it looks like none."""
    text = cell.strip()
    if is_number(text) or len(text) > LONGEST_NUMBER:
        return None
    return next((what for form, what in OTHER_NOTATIONS if form.fullmatch(text)), None)


def remedy_for(cell: str, notation: str) -> str:
    """What to do about a cell in another notation."""
    if notation == "a decimal comma":
        return f"give {argument('decimal', 'comma')}"
    if notation == ABOUT and LIMIT.fullmatch(cell):
        return f"give {argument('censored', True)} if it is a limit of detection, else write it like 1234.5"
    return "write it like 1234.5"


def split_labels(cell: str, separator: str) -> list[str]:
    """The labels of a cell; any white space where the separator is a space."""
    cell = cell.strip()
    if not separator:
        return list(cell)
    if cell.startswith("[") and cell.endswith("]"):  # as Python and JSON write lists
        return [label.strip().strip("'\"") for label in split_labels(cell[1:-1], separator)]
    if separator == " ":
        return cell.split()
    return [label.strip() for label in cell.split(separator)] if cell else []


def count_labels(cell: str, separator: str) -> int:
    """How many labels a cell has; the same as len(split_labels), but quick."""
    cell = cell.strip()
    if separator == " ":
        return len(split_labels(cell, separator))
    return cell.count(separator) + 1 if separator and cell else len(cell)


def label_counts(cells: Sequence[str], separator: str) -> Counter[str]:
    """How often each label occurs."""
    counts: Counter[str] = Counter()
    for cell in cells:
        counts.update(split_labels(cell, separator) if separator else cell.strip())
    return counts


@dataclass
class Target:
    """A target column without its missing cells.

    Attributes:
        cells: the text; rows: their line numbers; lengths: residues of their sequences.
        where: message prefix with a `{row}` in it.
    """

    cells: Sequence[str]
    rows: Sequence[int]
    lengths: Sequence[int]
    where: str

    def refuse(self, row: int | None, problem: str) -> InputError:
        """An error about one row, or about the column."""
        place = self.where.replace(", row {row}", "") if row is None else self.where.format(row=row)
        return InputError(f"{place}: {problem}")


def guess_task(target: Target) -> tuple[str, str | None, str]:
    """The task, of residues the separator of their labels or numbers, and the reason.

    In this order: numbers in another notation are refused; one label for each residue is "token", or "token-regression"
    where labels are numbers, but not few whole ones; numbers are "regression", or "classification" where they are few
    whole numbers; words are "classification".

    Raises:
        InputError: the cells do not say.
    """
    refuse_numbers_for_people(target)
    found = per_residue(target)
    if found is not None:
        return found
    refuse_other_counts(target)
    numbers = [float(cell) for cell in target.cells if is_number(cell)]
    if 2 * len(numbers) >= len(target.cells):
        return _numbers(target, numbers)
    return _words(target)


def refuse_numbers_for_people(target: Target) -> None:
    """Raises InputError where at least half of the cells are numbers, but not all as a program writes them."""
    odd = [
        (row, cell, what)
        for row, cell, length in zip(target.rows, target.cells, target.lengths, strict=True)
        if (what := other_notation(cell))
        and not (what == RANGE and len(cell.strip()) == length)  # labels such as 01-10
    ]
    plain = sum(map(is_number, target.cells))
    if odd and 2 * (len(odd) + plain) >= len(target.cells):
        row, cell, what = odd[0]
        if any(kind == "a decimal comma" for _, _, kind in odd) and what == "a thousands separator":
            what = "a decimal comma"
        raise target.refuse(
            row, f"value {shorten(cell)} is not a finite number to a program, but looks like one with {what}; "
            f"{remedy_for(cell, what)}, or give {argument('task', 'classification')} if these are names",
        )  # fmt: skip


def per_residue(target: Target) -> tuple[str, str, str] | None:
    """The task, the separator under which the cells hold one label for each residue, the reason; None if they do not.

    Words may be as long as sequences by chance, so it takes more than length: nearly every cell its own, or more
    different cells than labels, or lengths that differ and always agree.

    Raises:
        InputError: cells that could as well be words or numbers.
    """
    for separator in LABEL_SEPARATORS:
        counts = [count_labels(cell, separator) for cell in target.cells]
        fits = [i for i, count in enumerate(counts) if count == target.lengths[i] > 1]
        if separator == "":
            fits = [i for i in fits if not is_number(target.cells[i]) or target.cells[i].strip().isdigit()]
        if not fits or 2 * len(fits) < len(target.cells):
            continue
        names = label_counts([target.cells[i] for i in fits], separator)
        distinct, every = len({target.cells[i].strip() for i in fits}), len(fits) == len(target.cells)
        agree = every and len({target.lengths[i] for i in fits}) > 2
        if not (agree or 2 * distinct > len(fits) or (every and distinct > len(names))):
            if separator == "" and every and len(names) <= FEW:
                raise _word_or_labels(target, fits[0], len(names))
            continue
        where = f"for each residue in {len(fits):,} of {len(target.cells):,} rows"
        if separator == "":
            _refuse_thin_labels(target, fits, len(names), agree)
            return "token", separator, f"one character {where}"
        _refuse_odd_numbers(target, fits, separator, names)
        if what := _measured(names):
            return NUMBERS, separator, f"{what}, {shorten(separator)} between them, {where}"
        return "token", separator, f"{shorten(separator)} between labels, {where}"
    return None


def _refuse_odd_numbers(target: Target, fits: list[int], separator: str, names: Collection[str]) -> None:
    """Raises InputError where at least half of the labels are numbers, but not all as a program writes them."""
    odd = {name for name in names if other_notation(name) not in (None, RANGE)}
    if not odd or 2 * (len(odd) + sum(map(is_number, names))) < len(names):
        return
    for i in fits:
        for residue, label in enumerate(split_labels(target.cells[i], separator), 1):
            if label in odd:
                what = other_notation(label)
                decimal = argument("decimal", "comma")
                remedy = f"give {decimal}" if what == "a decimal comma" else "write it like 1234.5"
                raise target.refuse(
                    target.rows[i],
                    f"value {shorten(label)} of residue {residue} is not a finite number to a program, but looks like "
                    f"one with {what}; {remedy}, or give {argument('task', 'token')} if these are "
                    "classes",
                )


def _measured(names: Collection[str]) -> str:
    """What the distinct labels of residues are if they are measurements; "" for classes.

    As for one number a sequence, whole numbers are classes unless they are many or large; 1.0 is a whole number.
    """
    numbers = {float(name) for name in names if is_number(name)}
    if 2 * len(numbers) < len(names) or not numbers:
        return ""
    if not all(number.is_integer() for number in numbers):
        return "decimal numbers"
    if len(numbers) > MAX_NUMERIC_CLASSES or max(map(abs, numbers)) > LARGEST_CODE:
        return f"{len(numbers):,} different whole numbers"
    return ""


def refuse_other_counts(target: Target) -> None:
    """Raises InputError where most cells hold several numbers each, but not as many as their sequences have letters."""
    for separator in filter(None, LABEL_SEPARATORS):
        several = [
            i for i, cell in enumerate(target.cells)
            if len(pieces := split_labels(cell, separator)) > 1 and 2 * sum(map(is_number, pieces)) >= len(pieces)
        ]  # fmt: skip
        if 2 * len(several) > len(target.cells):
            counts = [(i, count_labels(target.cells[i], separator)) for i in several]
            for i, count in ((i, count) for i, count in counts if count != target.lengths[i]):
                raise target.refuse(
                    target.rows[i],
                    f"holds {count:,} numbers for a sequence of {target.lengths[i]:,} residues; give one number, or "
                    f"one for each residue ({argument('task', 'classification')} if these are names)",
                )


def _refuse_thin_labels(target: Target, fits: list[int], names: int, agree: bool) -> None:
    """Cells as long as their sequences that are perhaps numbers or words."""
    cells = [target.cells[i].strip() for i in fits]
    zeros = any(cell.startswith("0") for cell in cells) and names <= FEW
    if all(cell.isdigit() for cell in cells) and not agree and not zeros:
        raise target.refuse(
            target.rows[fits[0]],
            f"value {shorten(cells[0])} may be a number, or a digit for each residue; say which with "
            f"{argument('task')} regression, classification or token",
        )
    if names > MAX_RESIDUE_LABELS:
        raise _word_or_labels(target, fits[0], names)


def _word_or_labels(target: Target, at: int, names: int) -> InputError:
    return target.refuse(
        target.rows[at],
        f"value {shorten(target.cells[at])} may be a word, or a letter for each residue ({names} different ones); "
        f"say which with {argument('task')} classification or token",
    )


def _numbers(target: Target, numbers: list[float]) -> tuple[str, None, str]:
    whole = len(numbers) == len(target.cells) and all(number.is_integer() for number in numbers)
    distinct = len(set(numbers))
    if not whole or max(map(abs, numbers)) > LARGEST_CODE:
        return "regression", None, "numbers"
    if distinct > MAX_NUMERIC_CLASSES:
        return "regression", None, f"{distinct:,} different whole numbers"
    if distinct > max(FEW, len(numbers) / 2):
        raise target.refuse(
            None, f"{distinct} different whole numbers in {len(numbers)} rows may be measurements or classes; say "
            f"which with {argument('task')} regression or classification",
        )  # fmt: skip
    return "classification", None, f"{distinct} different whole numbers"


def _words(target: Target) -> tuple[str, None, str]:
    distinct = len({cell.strip() for cell in target.cells})
    numbers = {cell.strip() for cell in target.cells if is_number(cell)}
    if len(numbers) > FEW:
        row, word = next((r, c) for r, c in zip(target.rows, target.cells, strict=True) if not is_number(c))
        raise target.refuse(
            row,
            f"value {shorten(word)} is no number, as {len(numbers)} different others are; if it stands for none, give "
            f"{argument('na')} {shorten(word)} {argument('on_missing', 'skip')}, else "
            f"{argument('task', 'classification')}",
        )
    if distinct > max(FEW, len(target.cells) / 2):
        raise target.refuse(
            None, f"{distinct} different words in {len(target.cells)} rows, such as {shorten(target.cells[0])}, are "
            f"hardly classes; choose another {argument('target')}, or give {argument('task', 'classification')}",
        )  # fmt: skip
    return "classification", None, f"{distinct} different words"
