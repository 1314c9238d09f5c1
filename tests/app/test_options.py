"""Options that contradict each other, come twice, or change nothing: an error, not a wish that is lost."""

from __future__ import annotations

import re

import pytest

from lyra.cli.options import option
from lyra.data import DataOptions, load_labelled
from lyra.errors import InputError

from .conftest import SMALL, classification_rows, number_rows, regression_rows, token_rows, write_table

TABLES = {
    "numbers": (["seq", "label"], regression_rows(60)),
    "classes": (["seq", "label"], classification_rows(60)),
    "three": (["seq", "label"], [(s, "abc"[i % 3]) for i, (s, _) in enumerate(regression_rows(60))]),
    "residues": (["seq", "label"], token_rows(60)),
    "residue numbers": (["seq", "label"], number_rows(60)),
    "parts": (["seq", "label", "set"],
              [(s, y, ("train", "val", "test")[i % 3]) for i, (s, y) in enumerate(regression_rows(60))]),
    "flip": (["seq", "label", "set", "validation"],
             [(s, y, "train" if i < 40 else "test", str(i < 9)) for i, (s, y) in enumerate(regression_rows(60))]),
}  # fmt: skip

WITHOUT_EFFECT = [
    ("numbers", ("--s4-layers", "4"), "--s4-layers: has no effect, the paper's model has its own number of layers"),
    ("numbers", ("--pgc-layers", "2", "--model", "paper"), "--pgc-layers: has no effect"),
    ("numbers", ("--model", "layered", "--s4-layers", "0", "--s4-lr", "0.1"), "--d-state: has no effect, there are no"),
    ("numbers", ("--class-weights", "balanced"), "--class-weights: has no effect, the target is a number"),
    ("numbers", ("--class-weights", "none"), "--class-weights: has no effect"),
    ("numbers", ("--positive", "high"), "--positive 'high': has no effect with a number for a target"),
    ("numbers", ("--unlabelled", "x"), "--unlabelled: has no effect, the task is regression"),
    ("numbers", ("--offset", "5"), "--offset: has no effect, column seq holds whole sequences"),
    ("numbers", ("--wild-type", "ACGT"), "--wild-type has no effect without a column of mutations"),
    ("numbers", ("--sequence", "seq", "--mutant", "label"), "leave one out"),
    ("classes", ("--output", "linear"), "--output: has no effect, the task is classification"),
    ("classes", ("--decimal", "comma"), "--decimal: has no effect, the task is classification"),
    ("three", ("--positive", "a"), "--positive 'a': has no effect with 3 classes"),
    ("residues", ("--unlabelled", "x"), "--unlabelled: has no effect, no residue has the label 'x'"),
    ("residues", ("--pool", "max"), "--pool: has no effect, a class per residue needs no pooling"),
    ("residue numbers", ("--pool", "max"), "--pool: has no effect, a number per residue needs no pooling"),
    ("residue numbers", ("--class-weights", "balanced"), "--class-weights: has no effect, the target is a number"),
    ("residue numbers", ("--unlabelled", "x"), "--unlabelled: has no effect, no residue has the label 'x'"),
    (
        "parts",
        ("--test-fraction", "0.1"),
        "--test-fraction: has no effect, column set says which rows are the test part",
    ),
    (
        "parts",
        ("--val-fraction", "0.2"),
        "--val-fraction: has no effect, column set says which rows are the validation part",
    ),
    ("flip", ("--val-fraction", "0.2"), "--val-fraction: has no effect, column validation says"),
]


@pytest.mark.parametrize(
    ("table", "options", "says"),
    WITHOUT_EFFECT,
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_option_without_effect_is_an_error(lyra, tmp_path, table, options, says):
    data = write_table(tmp_path / "t.csv", *TABLES[table])
    outcome = lyra("train", data, "--out", tmp_path / "run", *SMALL, *options)
    assert outcome.code == 2 and says in outcome.err, outcome.err
    assert not (tmp_path / "run").exists()


WITH_EFFECT = [
    ("numbers", ("--model", "layered", "--s4-layers", "1", "--pgc-layers", "1")),
    ("numbers", ("--output", "linear", "--deduplicate", "--on-missing", "skip", "--on-invalid", "skip")),
    ("classes", ("--class-weights", "balanced", "--positive", "high", "--pool", "mean")),
    ("residues", ("--unlabelled", "", "--class-weights", "balanced")),
    ("parts", ("--split", "none", "--test-fraction", "0.2", "--val-fraction", "0.2")),
]


@pytest.mark.parametrize(
    ("table", "options"), WITH_EFFECT, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_an_option_with_effect_is_none(lyra, tmp_path, table, options):
    data = write_table(tmp_path / "t.csv", *TABLES[table])
    outcome = lyra("train", data, "--out", tmp_path / "run", *SMALL, *options)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("predict", ("--mutant", "m"), "--mutant: has no effect, .*is FASTA"),
        ("predict", ("--offset", "3"), "--offset: has no effect, .*is FASTA"),
        ("predict", ("--separator", "tab"), "--separator: has no effect, .*is FASTA"),
        ("explain", ("--wild-type", "ACGT"), "--wild-type: has no effect, .*is FASTA"),
        ("explain", ("--no-attributions", "--steps", "9"), "--steps: has no effect, without attributions"),
        ("explain", ("--no-attributions", "--baseline", "average"), "--baseline: has no effect"),
        ("explain", ("--pair-samples", "9"), "--pair-samples: has no effect, without --pairs"),
        ("explain", ("--seed", "1"), "--seed: has no effect, without --pairs"),
    ],
)
def test_the_same_in_the_other_commands(lyra, trained, tmp_path, command, options, says):
    (tmp_path / "a.fa").write_text(">a\nACGTAC\n")
    outcome = lyra(command, trained["regression"], tmp_path / "a.fa", "-o", tmp_path / "out", *options)
    assert outcome.code == 2 and re.search(says, outcome.err), outcome.err
    assert not (tmp_path / "out").exists()


def test_attributions_that_are_left_out_take_no_options(lyra, trained, tmp_path):
    (tmp_path / "a.fa").write_text(">a\nACGTAC\n")
    outcome = lyra("explain", trained["token"], tmp_path / "a.fa", "-o", tmp_path / "out", "--steps", "9")
    assert outcome.code == 2 and "--steps: has no effect, without attributions" in outcome.err


def test_columns_of_whole_sequences_know_no_wild_type(lyra, trained, tmp_path):
    (tmp_path / "t.csv").write_text("seq\nACGTAC\n")
    for name, value in (("--offset", 3), ("--wild-type", "ACGT")):
        outcome = lyra("predict", trained["regression"], tmp_path / "t.csv", "-o", tmp_path / "out.csv", name, value)
        assert outcome.code == 2 and f"{name}" in outcome.err and "has no effect" in outcome.err, outcome.err
    outcome = lyra("explain", trained["regression"], tmp_path / "t.csv", "-o", tmp_path / "x", "--offset", "3")
    assert outcome.code == 0, "there it numbers the positions"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "t.csv", "--out", "r", "--lr", "1e-3", "--lr", "1e-2"),
        ("train", "t.csv", "--out", "r", "--out", "r"),
        ("train", "t.csv", "--out", "r", "--overwrite", "--overwrite"),
        ("train", "t.csv", "--out", "r", "--bidirectional", "--one-way"),
        ("predict", "m", "t.csv", "-o", "a.csv", "--out", "b.csv"),
        ("explain", "m", "-o", "a", "--pairs", "--pairs"),
    ],
    ids=" ".join,
)
def test_an_option_comes_once(lyra, arguments):
    outcome = lyra(*arguments)
    assert outcome.code == 2 and "is given more than once; give it once; see lyra" in outcome.err, outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "t.csv", "--out", "r", "--lr", "fast"),
        ("train", "t.csv", "--out", "r", "--nosuch"),
        ("train", "t.csv", "--out", "r", "--seed", "1.5"),
        ("train", "t.csv", "--out"),
        ("predict", "m"),
        ("fly",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line(lyra, arguments):
    outcome = lyra(*arguments)
    assert outcome.code == 2 and outcome.err.startswith("lyra: error: ") and len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["--weight-decay nan", "--weight-decay inf", "--seed 99999999999999999999"])
def test_numbers_that_no_run_could_use(lyra, tmp_path, name):
    outcome = lyra("train", tmp_path / "t.csv", "--out", tmp_path / "r", *name.split())
    assert outcome.code == 2 and "must" in outcome.err, outcome.err


def test_the_library_names_arguments_where_the_command_line_names_options(lyra, tmp_path):
    """The same mistake, told to who writes Python and to who types a command."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], [("ACGT", "1.5"), ("AGGT", "")])
    with pytest.raises(InputError, match=r"is empty; fill it in or remove the row, or on_missing='skip'$"):
        load_labelled(table, DataOptions(), print)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL)
    assert outcome.err.endswith("is empty; fill it in or remove the row, or --on-missing skip\n")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (("val_fraction",), "--val-fraction"),
        (("class_name",), "--class"),
        (("split", "none"), "--split none"),
        (("na", ""), "--na ''"),
        (("offset", 3), "--offset 3"),
        (("pairs", True), "--pairs"),
        (("mutagenesis", False), "--no-mutagenesis"),
    ],
)
def test_arguments_as_options(argument, says):
    assert option(*argument) == says
