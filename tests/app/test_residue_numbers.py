"""Numbers per residue in a table: read as they are meant, or refused in one line that names row and column."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lyra.cli.options import option
from lyra.data import DataOptions, load_labelled
from lyra.data.batches import SequenceDataset, known
from lyra.data.resident import ResidentDataset
from lyra.errors import InputError, arguments_spelled

from .conftest import number_rows, random_sequences, write_table

RNG = np.random.default_rng(12)
SEQUENCES = random_sequences(30, 6, 14, seed=5)
DECIMALS = [[f"{RNG.random():.3f}" for _ in s] for s in SEQUENCES]
FEW = [[str(RNG.integers(3)) for _ in s] for s in SEQUENCES]
MANY = [[str(RNG.integers(100)) for _ in s] for s in SEQUENCES]


def load(tmp_path, cells, options=None, header=("seq", "label"), delimiter=",", more=()):
    rows = list(zip(SEQUENCES, cells, *more, strict=True))
    table = write_table(tmp_path / "t.csv", list(header), rows, delimiter)
    with arguments_spelled(option):
        return load_labelled(table, DataOptions(**(options or {})), print)


def joined(rows, separator=","):
    return [separator.join(row) for row in rows]


# --- what is read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("brackets", [False, True])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("separator", [",", ";", " ", "|", ", ", "; ", " | ", "  "])
def test_numbers_are_guessed_whatever_stands_between_them(tmp_path, separator, delimiter, brackets):
    form = "[{}]" if brackets else "{}"
    data = load(tmp_path, [form.format(cell) for cell in joined(DECIMALS, separator)], delimiter=delimiter)
    assert data.targets.task == "token-regression" and data.targets.separator == (separator.strip() or " ")
    for value, row in zip(data.values, DECIMALS, strict=True):
        assert value.dtype == np.float64 and value.tolist() == [float(number) for number in row]
    assert "token-regression (decimal numbers, " in "; ".join(data.guesses)
    assert "for each residue in 30 of 30 rows" in "; ".join(data.guesses)


@pytest.mark.parametrize("separator", [";", "|", ",", " ", "; ", "| ", ""])
def test_labels_are_found_whatever_stands_between_them(tmp_path, separator):
    """Whole numbers of a few values are classes, as words are; also where a program wrote them with a point."""
    kinds = [FEW, [["HEC"[int(label)] for label in row] for row in FEW]]
    kinds += [[[f"{label}.0" for label in row] for row in FEW]] if separator else []
    for kind in kinds:
        data = load(tmp_path, joined(kind, separator))
        assert data.targets.task == "token" and data.targets.separator == (separator.strip() or separator)
        assert data.targets.classes == sorted({label for row in kind for label in row})


@pytest.mark.parametrize(
    ("rows", "why"),
    [(MANY, "different whole numbers"), ([[f"{n}000" for n in row] for row in FEW], "3 different whole")],
)
def test_many_or_large_whole_numbers_are_measurements(tmp_path, rows, why):
    data = load(tmp_path, joined(rows))
    assert data.targets.task == "token-regression" and why in "; ".join(data.guesses)


@pytest.mark.parametrize("separator", [",", ";", " ", "|"])
def test_few_whole_numbers_are_numbers_where_it_is_said(tmp_path, separator):
    data = load(tmp_path, joined(FEW, separator), {"task": "token-regression"})
    assert [value.tolist() for value in data.values] == [[float(n) for n in row] for row in FEW]
    assert data.targets.classes == [] and not any("token" in text for text in data.guesses)
    data = load(tmp_path, joined(DECIMALS, separator), {"task": "token"})
    assert data.targets.task == "token" and len(data.targets.classes) > 100, "and the other way round"


@pytest.mark.parametrize(
    ("word", "options"),
    [("NA", {}), ("-", {}), ("nan", {}), ("", {}), ("None", {}), ("-999", {"na": "-999"}), ("-999.0", {"na": "-999"}),
     ("x", {"unlabelled": "x"}), ("NULL", {})],
)  # fmt: skip
def test_residues_without_a_number_are_nan(tmp_path, word, options):
    rows = [[word if i and RNG.random() < 0.6 else number for i, number in enumerate(row)] for row in DECIMALS]
    data = load(tmp_path, joined(rows, ";"), options)
    missing = sum(row.count(word) for row in rows)
    for value, row in zip(data.values, rows, strict=True):
        assert np.array_equal(value, [np.nan if n == word else float(n) for n in row], equal_nan=True)
    shown = "empty" if word == "" else repr(word)
    assert f"{missing} residues have no number ({shown})" in "; ".join(data.guesses)
    assert data.targets.unlabelled == [word]
    assert len(data.labels("train")) == sum(known(data.values[i]).sum() for i in data.rows("train"))


def test_decimal_commas(tmp_path):
    """As spreadsheets of half the world write them, semicolons or bars between."""
    for separator in ("; ", "|", " "):
        cells = [cell.replace(".", ",") for cell in joined(DECIMALS, separator)]
        data = load(tmp_path, cells, {"decimal": "comma"}, delimiter="\t")
        assert [value.tolist() for value in data.values] == [[float(n) for n in row] for row in DECIMALS]
    with pytest.raises(InputError, match=r"row 3, column label: value .* has a point, and --decimal comma"):
        load(tmp_path, [cells[0], *joined(DECIMALS[1:], "|")], {"decimal": "comma"}, delimiter="\t")


def test_rows_without_any_number(tmp_path):
    cells = joined(DECIMALS, ";")
    cells[4] = ";".join(["NA"] * len(SEQUENCES[4]))
    with pytest.raises(InputError, match=r"row 6, column label: no residue has a number; .* --on-missing skip"):
        load(tmp_path, cells)
    data = load(tmp_path, cells, {"on_missing": "skip"})
    assert len(data.values) == 29 and data.rows_read.aside["without a number"] == 1
    cells[4] = ""
    with pytest.raises(InputError, match="row 6, column label: value is empty"):
        load(tmp_path, cells)
    assert len(load(tmp_path, cells, {"on_missing": "skip"}).values) == 29


def test_folds_groups_and_strata(tmp_path):
    """Strata are made of the means over residues, where these are skewed or where it is asked."""
    rows = [[f"{float(n) + 10 * (i % 10 == 0):.3f}" for n in row] for i, row in enumerate(DECIMALS)]
    data = load(tmp_path, joined(rows), {"folds": 3})
    assert any("of the target in equal shares (its skewness is" in text for text in data.guesses)
    high = np.array([np.nanmean(value) > 5 for value in data.values])
    assert [int(high[data.fold_of == fold].sum()) for fold in range(3)] == [1, 1, 1]
    data = load(tmp_path, joined(DECIMALS), {"group": "g"}, ("seq", "label", "g"), more=([i % 6 for i in range(30)],))
    assert {len(set(data.parts[np.arange(30) % 6 == g])) for g in range(6)} == {1}


def test_copies_with_the_same_missing_residues_are_one(tmp_path, capsys):
    rows = [(s, y) for s, y in number_rows(30)] * 2
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    load_labelled(table, DataOptions(deduplicate=True), print)
    assert "removed 30 duplicate rows" in (said := capsys.readouterr().out) and "; 0 rows had another target" in said


# --- what is refused ------------------------------------------------------------------------------------


def changed(row: int, cell: str, rows=DECIMALS, separator=",") -> list[str]:
    cells = joined(rows, separator)
    cells[row] = cell
    return cells


def one(row: int, at: int, text: str, rows=DECIMALS) -> list[str]:
    return changed(row, ",".join([*rows[row][:at], text, *rows[row][at + 1 :]]))


def same(text: str) -> list[str]:
    return joined([[text] * len(row) for row in DECIMALS])


GIVEN, GOOD = {"task": "token-regression"}, joined(DECIMALS)
BAD = {
    "one less": (changed(3, ",".join(DECIMALS[3][1:])), {}, "row 5, .*has {short} numbers for a sequence of {long} "),
    "one more": (changed(0, ",".join([*DECIMALS[0], "1"])), {}, "row 2, column label: has .* numbers for a sequence"),
    "all one less": ([",".join(row[1:]) for row in DECIMALS], {}, "row 2, column label: holds .* numbers"),
    "all one less, said": ([";".join(row[1:]) for row in DECIMALS], GIVEN, "row 2, column label: has .* numbers for"),
    "two numbers": (["0.5 0.7"] * 30, {}, "row 2, column label: holds 2 numbers for a sequence of"),
    "a word": (one(2, 4, "high"), {}, "row 4, column label: value 'high' of residue 5 is not a finite .*--na 'high'"),
    "infinite": (one(2, 0, "inf"), {}, "row 4, column label: value 'inf' of residue 1 is not a finite number"),
    "too large": (one(2, 3, "1e200"), {}, "row 4, column label: value '1e200' of residue 4 is beyond"),
    "decimal commas": ([cell.replace(".", ",") for cell in joined(DECIMALS, ";")], {},
                       "row 2, column label: value '0,.*' of residue 1 is not .*a decimal comma; give --decimal comma"),
    "percent": ([";".join(f"{float(n):.0%}" for n in row) for row in DECIMALS], {}, "row 2, .*with a percent sign"),
    "a limit": (one(7, 1, "<0.1"), {}, "row 9, column label: value '<0.1' of residue 2 is not a finite number"),
    "an unknown word": (one(7, 1, "-999x"), {}, "row 9, column label: value '-999x' of residue 2"),
    "words": (same("H"), GIVEN, "row 2, column label: value 'H' of residue 1"),
    "no separator": (joined(FEW, ""), GIVEN, "row 2, column label: has 1 numbers for a sequence of"),
    "one value": (same("0.5"), {}, "column label: the training part has one value only"),
    "one value, said": (same("1"), GIVEN, "column label: the training part has one value"),
    "no number at all": (same("NA"), GIVEN, "row 2, column label: no residue has a number"),
    "a positive class": (GOOD, {"positive": "1"}, "--positive '1': has no effect with a number for a target"),
    "limits": (GOOD, GIVEN | {"censored": True}, "--censored --task token-regression: the target is one number"),
    "several": (GOOD, GIVEN | {"target": ["label", "w"]}, "--task token-regression: several targets are numbers"),
    "errors": (GOOD, {"error": "w"}, "--error w: is for one number a sequence, and the task is token-regression"),
    "a logarithm": (one(5, 2, "0"), {"transform": "log"}, "row 7, column label: value 0 of residue 3 has no logarithm"),
    "no weight": (GOOD, {"weight": "zero"}, "every row of the training part has the weight 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_cells_are_one_line(tmp_path, name):
    cells, options, says = BAD[name]
    more = (["0.5"] * 30, ["0"] * 30)
    says = says.replace("{short}", str(len(DECIMALS[3]) - 1)).replace("{long}", str(len(DECIMALS[3])))
    with pytest.raises(InputError) as caught:
        load(tmp_path, cells, options, ("seq", "label", "w", "zero"), more=more)
    assert re.search(says, str(caught.value)) and "\n" not in str(caught.value), caught.value


# --- batches --------------------------------------------------------------------------------------------


def test_batches_are_padded_with_nothing(tmp_path):
    """On the host and on a device, with the width of a batch or of its bucket."""
    import torch

    data = load(tmp_path, one(2, 4, "NA"))
    values = [value.astype(np.float32) for value in data.values]
    dataset = SequenceDataset(data.tokens, data.offsets, np.arange(30), values)
    resident = ResidentDataset(dataset, torch.device("cpu"))
    rows = [2, 9, 4]
    plain, wide = dataset[rows], dataset[rows].in_bucket()
    (there,) = resident.rows([rows])
    for batch in (plain, wide, resident.batch(*there)):
        assert batch.targets.dtype == torch.float32 and batch.targets.shape == batch.tokens.shape
        for row, found in zip(rows, batch.targets.numpy(), strict=True):
            assert np.array_equal(found[: len(values[row])], values[row], equal_nan=True)
            assert np.isnan(found[len(values[row]) :]).all()
    assert wide.targets.shape == resident.batch(*there).targets.shape
