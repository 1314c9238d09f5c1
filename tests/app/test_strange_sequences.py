"""Sequences that a model does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import (
    SMALL,
    read_csv,
    regression_rows,
    token_rows,
    write_table,
)

CASES = Path(__file__).parent / "cases"


STRANGE = {
    "nucleotides": ("protein", "ACGTACGTACGTACGTACGTACGT", "the sequence in row 3 looks like nucleotides"),
    "proteins": ("dna", "MKVSYHRDWBMKVSYHRDWB", "look like proteins"),
    "letters": ("dna", "ACGTNACGT", "letter N never occurred in training; it is here once, in row 3"),
    "long": ("dna", "ACGT" * 30, "far longer than those of training (6 to 14 letters), such as row 3 with 120"),
    "short": ("dna", "AC", "far shorter than those of training"),
    "stop": ("protein", "MKVWY*", "1 sequences end in '*', a stop codon, which is taken off"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A DNA and a protein model."""
    from rich.console import Console

    from lyra.data import DataOptions
    from lyra.training import Hardware, Recipe, train

    folder = tmp_path_factory.mktemp("models")
    rows = [(s, f"{i / 8 + 0.01}") for i, (s, _) in enumerate(token_rows(60))]
    swap = str.maketrans("ACGT", "MKWY")
    for name, letters in {
        "dna": rows,
        "protein": [(s.translate(swap) + "DEFHIL"[i % 6], y) for i, (s, y) in enumerate(rows)],
    }.items():
        table = write_table(folder / f"{name}.csv", ["seq", "label"], letters)
        train(table, folder / name, DataOptions(), Recipe(d_model=8, d_state=4, epochs=1), Hardware("cpu"),
              console=Console(quiet=True))  # fmt: skip
    return {name: folder / name for name in ("dna", "protein")}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_what_a_model_does_not_know_is_said(lyra, models, tmp_path, kind, command):
    name, sequence, says = STRANGE[kind]
    usual = "ACGTACGT" if name == "dna" else "MKWYMKWYD"
    data = write_table(tmp_path / "t.csv", ["seq"], [(usual,), (sequence,)])
    quick = ("--no-attributions", "--pictures", "0") if command == "explain" else ()
    outcome = lyra(command, models[name], data, "-o", tmp_path / "out", *quick)
    assert outcome.code == 0, outcome.err
    warned = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert any(says in line for line in warned), outcome.err
    write_table(data, ["seq"], [(usual,), (usual[::-1],)])
    outcome = lyra(command, models[name], data, "-o", tmp_path / "known", *quick)
    assert outcome.code == 0 and "warning" not in outcome.err, outcome.err


@pytest.mark.parametrize("command", ["train", "predict", "explain"])
def test_a_stop_behind_the_wild_type_is_said(lyra, models, tmp_path, command):
    mutants = write_table(
        tmp_path / "m.csv", ["mutant", "y"], [(f"M1{c}", f"{i}.5") for i, c in enumerate("ACDEFGHIKL")]
    )
    (tmp_path / "wt.fa").write_text(">wt\nMKWY\nMKWYD*\n")
    out, model = tmp_path / "out", models["protein"]
    arguments = {
        "train": (mutants, "--out", out, *SMALL),
        "predict": (model, mutants, "-o", tmp_path / "out.csv", "--mutant", "mutant"),
        "explain": (model, "-o", out, "--no-attributions", "--pictures", "0"),
    }[command]
    outcome = lyra(command, *arguments, "--wild-type", tmp_path / "wt.fa")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("warning: --wild-type: ends in '*', a stop codon, which is taken off") == 1


def test_coverage_is_of_the_training_part(lyra, tmp_path):
    """A letter and a length of the test part alone were never trained on."""
    rows = [(s, y, "train" if i < 40 else "val") for i, (s, y) in enumerate(regression_rows(60))]
    data = write_table(tmp_path / "t.csv", ["seq", "label", "set"], [*rows, ("ACGTN" * 9, "0.5", "test")])
    assert lyra("train", data, "--out", tmp_path / "run", *SMALL).code == 0
    outcome = lyra("predict", tmp_path / "run", data, "-o", tmp_path / "p.csv")
    assert "letter N never occurred in training; it is here 9 times, first in row 62" in outcome.err
    assert "far longer than those of training (10 to 10 letters), such as row 62 with 45" in outcome.err


def test_explain_counts_rows_once(lyra, trained, tmp_path):
    """It reads its input twice."""
    (tmp_path / "t.csv").write_text("name,seq\na,ACGT\n,\nb,ACGA\n,\n")
    command = (
        "explain",
        trained["regression"],
        tmp_path / "t.csv",
        "-o",
        tmp_path / "x",
        "--no-attributions",
        "--pictures",
        "0",
    )
    outcome = lyra(*command)
    assert "rows: 4 read, 2 used, 2 set aside (2 without anything in them)" in outcome.err, outcome.err


def test_the_handed_nucleotides(lyra, models, tmp_path):
    outcome = lyra("predict", models["protein"], CASES / "nucleotides.fna", "-o", tmp_path / "p.csv")
    assert "warning" in outcome.err and "nucleotides" in outcome.err
    outcome = lyra(
        "explain", models["protein"], "--wild-type", CASES / "gb1.fsa", "-o", tmp_path / "x", "--positions", "1-2"
    )
    assert (
        outcome.code == 0
        and np.isfinite([float(r["change"]) for r in read_csv(tmp_path / "x" / "mutagenesis.csv")]).all()
    )
