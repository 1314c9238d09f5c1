"""`lyra explain`: its files, and what it says of bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lyra.explain import ExplainOptions, attributions, epistasis, mutagenesis
from lyra.prediction import Predictor

from .conftest import random_sequences, read_csv, write_table
from .test_bad_input import Case, check


def explained(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def test_a_folder_of_mixed_lengths(lyra, trained, predictors, tmp_path):
    """Each sequence of a file is explained as it is alone: neither its neighbours nor batches have a part in it."""
    sequences = ["GATTACA", "CCGTAGGCATCAGGACT", "TG"]
    fasta = tmp_path / "new.fa"
    fasta.write_text("".join(f">s${i % 2}$ text\n{sequence}\n" for i, sequence in enumerate(sequences)))
    out = tmp_path / "out"
    outcome = lyra("explain", trained["regression"], fasta, "-o", out, "--pairs", "--pictures", 2, "--batch-size", 7)
    assert outcome.code == 0, outcome.err
    assert "3 sequences: 78 substitutions, attributions in 128 steps, 1,422 double mutants" in outcome.err
    names = ["s$0$", "s$1$", "s$0$ (2)"]
    for function in (mutagenesis, attributions, epistasis):
        table = explained(out, function.__name__)
        assert list(table["id"].unique()) == names
        for name, sequence in zip(names, sequences, strict=True):
            alone = function(predictors["regression"], sequence)
            found = table[table["id"] == name].drop(columns="id").reset_index(drop=True)
            if function is epistasis:  # letters of noise alone may differ
                alone, found = alone.drop(columns=["strongest"]), found.drop(columns=["strongest"])
            pd.testing.assert_frame_equal(found, alone, rtol=1e-3, atol=1e-4, check_dtype=False)
    pictures = {
        f"{kind}_{stem}.png" for kind in ("mutagenesis", "attributions", "epistasis") for stem in ("1_s_0", "2_s_1")
    }
    tables = {"mutagenesis.csv", "attributions.csv", "epistasis.csv", "epistasis_1_s_0.csv", "epistasis_2_s_1.csv"}
    assert {path.name for path in out.iterdir()} == pictures | tables | {"explanation.json", "explanation.html"}
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    matrix = pd.read_csv(out / "epistasis_1_s_0.csv", index_col=0)
    assert matrix.shape == (7, 7) and list(matrix.columns) == [str(i) for i in range(1, 8)]
    summary = json.loads((out / "explanation.json").read_text())
    assert [item["id"] for item in summary["sequences"]] == names
    assert summary["explained"] == "label" and summary["baseline"] == "average"
    predicted = predictors["regression"].predict(sequences)
    np.testing.assert_allclose([item["predicted"] for item in summary["sequences"]], predicted, rtol=1e-4, atol=1e-5)
    page = (out / "explanation.html").read_text()
    assert page.count("data:image/png;base64,") == 6 and "s$0$ (2)" in page
    for forbidden in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert forbidden not in page
    assert "s$0$, 7 letters: predicted" in outcome.out and "most epistasis" in outcome.out


@pytest.fixture(scope="module")
def with_wild_type(tmp_path_factory) -> Path:
    """A run on mutants of MKTAYIAKQR, whose first residue is number 5."""
    from rich.console import Console

    from lyra.data import DataOptions
    from lyra.training import Hardware, Recipe, train

    folder = tmp_path_factory.mktemp("wild_type")
    wild = "MKTAYIAKQR"
    rows = [(f"{wild[i]}{i + 5}{new}", f"{i}.{j}") for i in range(10) for j, new in enumerate("ACDEFG")]
    table = write_table(folder / "dms.csv", ["mutant", "DMS_score"], rows)
    recipe = Recipe(d_model=8, d_state=4, epochs=1, mix="none", positions=False)
    train(table, folder / "run", DataOptions(wild_type=wild, offset=5), recipe, Hardware("cpu"),
          console=Console(quiet=True))  # fmt: skip
    return folder / "run"


def test_the_wild_type_is_explained_where_there_is_no_data(lyra, with_wild_type, tmp_path):
    out = tmp_path / "out"
    outcome = lyra("explain", with_wild_type, "-o", out, "--positions", "5-6,14", "--no-attributions")
    assert outcome.code == 0, outcome.err
    table = explained(out, "mutagenesis")
    assert list(table["mutant"][:3]) == ["M5A", "M5C", "M5D"] and set(table["position"]) == {5, 6, 14}
    assert len(table) == 3 * 19 and set(table["id"]) == {"wild type"}
    assert not (out / "attributions.csv").exists()
    outcome = lyra("predict", with_wild_type, out / "mutagenesis.csv", "-o", tmp_path / "p.csv")
    assert outcome.code == 0, "the mutants are in the notation that predict reads"
    again = [float(row["prediction"]) for row in read_csv(tmp_path / "p.csv")]
    np.testing.assert_allclose(again, table["predicted"], rtol=1e-4, atol=1e-5)


def test_where_numbers_and_names_come_from(lyra, with_wild_type, tmp_path):
    """Mutations have the model's numbering, other sequences of its length too, the rest begins at 1."""
    command = ("explain", with_wild_type, "--no-attributions", "--pictures", "0", "-o")
    mutant = write_table(tmp_path / "m.csv", ["mutant"], [("M5A",), ("WT",)])
    assert lyra(*command, tmp_path / "a", mutant, "--positions", "5").code == 0
    table = explained(tmp_path / "a", "mutagenesis")
    assert list(table["id"].unique()) == ["M5A", "WT"]
    assert set(table[table["id"] == "M5A"]["wild_type"]) == {"A"}, "each is compared with itself"
    plain = write_table(tmp_path / "s.csv", ["name", "seq"], [("one", "MKTAYIAKQK"), ("", "MKT")])
    assert lyra(*command, tmp_path / "b", plain).code == 0
    table = explained(tmp_path / "b", "mutagenesis")
    first = table.groupby("id", sort=False)["position"].min()
    assert dict(first) == {"one": 5, "row 3": 1}
    assert lyra(*command, tmp_path / "c", plain, "--offset", "100").code == 0
    assert set(explained(tmp_path / "c", "mutagenesis").groupby("id")["position"].min()) == {100}
    assert lyra(*command, tmp_path / "d", "--wild-type", "MKTA").code == 0
    assert list(explained(tmp_path / "d", "mutagenesis")["position"].unique()) == [1, 2, 3, 4]


def test_token_models_say_why_there_are_no_attributions(lyra, trained, tmp_path):
    fasta = tmp_path / "new.fa"
    fasta.write_text(">a\nGATTACA\n")
    outcome = lyra("explain", trained["token"], fasta, "-o", tmp_path / "out")
    assert outcome.code == 0 and "no attributions: this model gives a class to each residue; --at" in outcome.err
    assert not (tmp_path / "out" / "attributions.csv").exists()
    command = ("explain", trained["token"], fasta, "--pictures", 0, "--pairs", "--at", 3, "-o", tmp_path / "at")
    assert lyra(*command).code == 0
    assert len(explained(tmp_path / "at", "attributions")) == 7


def test_a_long_sequence_has_a_picture_of_a_part(lyra, trained, tmp_path, monkeypatch):
    """And a table of all of it."""
    from lyra.explain import pictures

    monkeypatch.setattr(pictures, "COLUMNS", 20)
    monkeypatch.setattr(pictures, "LINES", 2)
    fasta = tmp_path / "long.fa"
    fasta.write_text(">a\n" + random_sequences(1, 100, 100)[0] + "\n")
    outcome = lyra("explain", trained["regression"], fasta, "-o", tmp_path / "out", "--steps", 4)
    assert outcome.code == 0, outcome.err
    table = explained(tmp_path / "out", "mutagenesis")
    assert len(table) == 300
    shown, title = pictures.shown_stretch(table.pivot(index="letter", columns="position", values="change"), "a")
    assert shown.shape == (4, 40) and shown.columns[-1] - shown.columns[0] == 39
    assert table.loc[table["change"].abs().idxmax(), "position"] in shown.columns
    assert f"positions {shown.columns[0]} to {shown.columns[-1]}, where most happens, of 100" in title
    assert (tmp_path / "out" / "mutagenesis_1_a.png").exists()


def test_what_is_skipped_is_said(lyra, trained, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq"], [("GATTACA",), ("GAL",)])
    command = ("explain", trained["regression"], table, "--no-attributions", "--pictures", "0", "-o")
    outcome = lyra(*command, tmp_path / "skip", "--on-invalid", "skip")
    assert outcome.code == 0 and "1 sequence (1 skipped for letters outside the alphabet): 21" in outcome.err
    assert lyra(*command, tmp_path / "unknown", "--on-invalid", "unknown").code == 0
    assert list(explained(tmp_path / "unknown", "mutagenesis")["position"])[-3:] == [2, 2, 2]


GOOD = "seq\nGATTACA\nGGC\n"
LONG = "seq\n" + "ACGT" * 26 + "\n"
BAD = [
    Case("missing file", None, ("{data}: there is no such file",)),
    Case("empty file", "", ("{data}: the file is empty",)),
    Case("header only", "seq\n", ("{data}: has no sequences",)),
    Case("empty FASTA", "\n", ("{data}: has no sequences",), file="data.fa"),
    Case("unknown letter", "seq\nGATTACA\nGAL\n",
         ("{data}, row 3, column seq: letter 'L' at position 3 is not in the dna alphabet",)),
    Case("all skipped", "seq\nGAL\n", ("{data}: no sequence is left",), ("--on-invalid", "skip")),
    Case("position outside", GOOD, ("--positions 7: {data}, row 3 .*has positions 1 to 3", "--offset"),
         ("--positions", "2-7")),
    Case("position before the first", GOOD, ("--positions 2: {data}, row 2 .*has positions 10 to 16",),
         ("--positions", "2-11", "--offset", "10")),
    Case("positions that are none", GOOD, ("--positions '2,x': 'x' is no position",), ("--positions", "2,x")),
    Case("backward positions", GOOD, ("--positions '5-2': 5-2 runs backwards; write 2-5",), ("--positions", "5-2")),
    Case("pairs of too many", LONG, ("--pairs: {data}, row 2 .*has 104 positions, too many", "--positions 10-60"),
         ("--pairs",)),
    Case("pairs of one", "seq\nG\n", ("--pairs: {data}, row 2 .*at least 2",), ("--pairs",)),
    Case("class of a regression", GOOD, ("--class 'high': this model predicts a number",), ("--class", "high")),
    Case("position of a regression", GOOD, ("--at 2: .*leave --at out",), ("--at", "2")),
    Case("scale", GOOD, ("--scale 'log-odds': must be one of target, latent",), ("--scale", "log-odds")),
    Case("baseline", GOOD, ("--baseline 'zero': must be one of average, unknown",), ("--baseline", "zero")),
    Case("steps", GOOD, ("--steps 0: must be above 0",), ("--steps", "0")),
    Case("samples", GOOD, ("--pair-samples 0: must be above 0",), ("--pair-samples", "0")),
    Case("pictures", GOOD, ("--pictures -1: must not be negative",), ("--pictures", "-1")),
    Case("seed", GOOD, ("--seed -1: must not be negative",), ("--seed", "-1")),
    Case("batch size", GOOD, ("--batch-size 0: must be above 0",), ("--batch-size", "0")),
    Case("on-invalid", GOOD, ("--on-invalid 'x': must be one of",), ("--on-invalid", "x")),
    Case("device", GOOD, ("--device warp: cannot be used",), ("--device", "warp")),
    Case("nothing wanted", GOOD, ("nothing to write",), ("--no-mutagenesis", "--no-attributions")),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=[case.name for case in BAD])
def test_bad_input(lyra, trained, tmp_path, case):
    data = tmp_path / case.file
    if case.data is not None:
        data.write_text(case.data)
    outcome = lyra("explain", trained["regression"], data, "-o", tmp_path / "out", *case.options)
    check(outcome, case.says, {"data": str(data)})
    assert {path.name for path in tmp_path.iterdir()} <= {case.file}, "nothing is left behind"


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("classification", ("--class", "middling"), "--class 'middling': must be one of high, low"),
        ("classification", ("--scale", "latent"), "--scale 'latent': must be one of log-odds, probability"),
        ("token", ("--pairs",), "--pairs: this model gives a class to each residue; choose one of them with --at"),
        ("token", ("--at", "8"), "--at 8: .* has positions 1 to 7"),
        ("token", ("--class", "2"), "--class '2': must be one of 0, 1"),
    ],
)
def test_bad_questions(lyra, trained, tmp_path, task, options, says):
    (tmp_path / "data.csv").write_text("seq\nGATTACA\n")
    check(lyra("explain", trained[task], tmp_path / "data.csv", "-o", tmp_path / "out", *options), (says,), {})
    assert not (tmp_path / "out").exists()


def test_no_wild_type(lyra, trained, tmp_path):
    command = ("explain", trained["regression"], "-o", tmp_path / "out")
    check(lyra(*command), ("knows no wild type; give a file of sequences, or --wild-type",), {})
    check(lyra(*command, "--wild-type", ""), ("--wild-type: the sequence is empty",), {})
    check(lyra(*command, "--wild-type", "GA5"), ("--wild-type, row 1.*letter '5' at position 3",), {})
    check(lyra(*command, "--wild-type", str(tmp_path / "no.fa")), (r"no\.fa: there is no such file",), {})


def test_the_package_has_it_at_first_use():
    """`lyra.explain` and `lyra.Predictor` are there without an import of their own."""
    code = (
        "import sys, lyra\nassert 'torch' not in sys.modules\n"
        "print(lyra.explain.mutagenesis.__name__, lyra.Predictor.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["mutagenesis", "Predictor"]


def test_out_is_not_overwritten_by_accident(lyra, trained, tmp_path, monkeypatch):
    (tmp_path / "data.csv").write_text(GOOD)
    command = ("explain", trained["regression"], tmp_path / "data.csv", "--no-attributions", "--pictures", "0", "-o")
    check(lyra(*command, tmp_path / "data.csv"), ("data.csv: is a file; --out must name a folder",), {})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for more in ((), ("--overwrite",)):
        check(lyra(*command, mine, *more), ("mine: is not empty; give another folder",), {})
    assert (mine / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "out"
    out.mkdir()
    assert lyra(*command, out).code == 0
    check(lyra(*command, out), ("out: is not empty; --overwrite replaces it",), {})
    assert lyra(*command, out, "--overwrite", "--positions", "1").code == 0
    assert set(explained(out, "mutagenesis")["position"]) == {1}
    monkeypatch.chdir(mine)
    for here in (".", ".."):
        check(lyra(*command, here), (f"{re.escape(here)}: is the folder you are in",), {})


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_leaves_what_was_there(lyra, trained, tmp_path, monkeypatch, error):
    """Nothing half-written; an earlier explanation stays until the new one is complete."""
    from lyra.explain.subject import Subject

    (tmp_path / "data.csv").write_text(GOOD)
    command = ("explain", trained["regression"], tmp_path / "data.csv", "--pictures", "1", "-o", tmp_path / "out")
    calls = []
    original = Subject.score_mutants

    def interrupted(self, *arguments):
        calls.append(self)
        if len(calls) % 2 == 0:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(Subject, "score_mutants", interrupted)
    code = 130 if error is KeyboardInterrupt else 2
    assert lyra(*command).code == code
    assert {path.name for path in tmp_path.iterdir()} == {"data.csv"}
    monkeypatch.setattr(Subject, "score_mutants", original)
    assert lyra(*command).code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(Subject, "score_mutants", interrupted)
    outcome = lyra(*command, "--overwrite", "--positions", "1")
    assert outcome.code == code and "Traceback" not in outcome.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"data.csv", "out"}


def test_progress_reaches_its_end(trained, tmp_path):
    """The work counted beforehand is the work done."""
    from lyra.explain.folder import explain_file
    from lyra.settings import Contents, InputOptions

    (tmp_path / "data.csv").write_text(GOOD)
    seen: list[tuple[int, int]] = []
    predictor = Predictor.from_pretrained(trained["regression"], "cpu")
    explain_file(
        predictor, tmp_path / "data.csv", tmp_path / "out", InputOptions(), ExplainOptions(steps=10, batch_size=4),
        Contents(pairs=True, pictures=0), progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    done, totals = zip(*seen, strict=True)
    assert len(set(totals)) == 1 and done[-1] == totals[0] and list(done) == sorted(done)
    assert not list((tmp_path / "out").glob("*.png"))
