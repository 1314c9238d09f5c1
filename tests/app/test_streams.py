"""Pipes, devices, links and standard streams: where input comes from and results go."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lyra.files import table_separator

from .conftest import (
    SMALL,
    read_csv,
    regression_rows,
)

ONE = "seq\nACGTACGTAC\n"


def test_a_pipe_is_written_to(lyra, trained, tmp_path, one):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    outcome = lyra("predict", trained["regression"], one, "-o", pipe)
    reader.join(30)
    assert outcome.code == 0, outcome.err
    assert got[0].startswith("seq,prediction\nACGTACGTAC,") and pipe.is_fifo()


def test_a_device_is_written_to(lyra, trained, one):
    assert lyra("predict", trained["regression"], one, "-o", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
def test_a_link_stays_one(lyra, trained, tmp_path, one, there):
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.csv", tmp_path / "link.csv"
    if there:
        real.write_text("old")
    link.symlink_to(real)
    assert lyra("predict", trained["regression"], one, "-o", link).code == 0
    assert link.is_symlink() and real.read_text().startswith("seq,prediction\n")
    assert [path.name for path in real.parent.iterdir()] == ["real.csv"]


def test_a_link_to_the_input_is_the_input(lyra, trained, tmp_path, one):
    (tmp_path / "link.csv").symlink_to(one)
    outcome = lyra("predict", trained["regression"], one, "-o", tmp_path / "link.csv")
    assert outcome.code == 2 and "is the file to read" in outcome.err
    assert one.read_text() == ONE


def test_standard_input_and_output(trained, tmp_path):
    """Packed input through a pipe; output behind what a file holds already, by each of its names."""
    (tmp_path / "one.csv").write_text(ONE)
    code = (
        "import sys\nfrom lyra.cli import main\nmodel, table = sys.argv[1:]\n"
        "for given, out in (('/dev/stdin', '-'), (table, '/dev/stdout'), (table, '/dev/fd/1')):\n"
        "    sys.argv = ['lyra', 'predict', model, given, '-o', out]\n"
        "    try:\n        main()\n    except SystemExit as stop:\n        assert not stop.code, stop.code\n"
    )
    command = f"gzip -c one.csv | '{sys.executable}' -c \"{code}\" '{trained['regression']}' one.csv >> all.csv"
    (tmp_path / "all.csv").write_text("kept\n")
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert lines[0] == "kept" and lines[1::2] == ["seq,prediction"] * 3
    assert len(set(lines[2::2])) == 1 and lines[2].startswith("ACGTACGTAC,")


def test_a_pipe_is_read(lyra, trained, tmp_path):
    """A pipe gives its content once; `explain` and the search for the separator read it several times."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for command, out in (("predict", "p.csv"), ("explain", "x")):
        writer = threading.Thread(target=lambda: pipe.write_text(ONE))
        writer.start()
        outcome = lyra(command, trained["regression"], pipe, "-o", tmp_path / out)
        writer.join(30)
        assert outcome.code == 0, outcome.err
    assert (tmp_path / "p.csv").read_text().startswith("seq,prediction\nACGTACGTAC,")
    assert len(read_csv(tmp_path / "x" / "mutagenesis.csv")) == 30


def test_a_wild_type_from_standard_input(lyra, trained, tmp_path, monkeypatch):
    """It can be read once."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b">wt\nACGTAC\n")))
    command = ("explain", trained["regression"], "--wild-type", "-", "-o", tmp_path / "x", "--pictures", "0")
    outcome = lyra(*command, "--no-attributions")
    assert outcome.code == 0, outcome.err
    assert len(read_csv(tmp_path / "x" / "mutagenesis.csv")) == 18


def test_training_from_standard_input(lyra, tmp_path, monkeypatch):
    rows = "seq,label\n" + "".join(f"{s},{y}\n" for s, y in regression_rows(60))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    outcome = lyra("train", "-", "--out", tmp_path / "run", *SMALL)
    assert outcome.code == 0 and "rows: 60 read, 60 used, 0 set aside" in outcome.err, outcome.err


@pytest.mark.parametrize(
    ("name", "separator"),
    [("a.csv", ","), ("a.TSV", "\t"), ("a.tab", "\t"), ("a", ","), ("a.csv.gz", ","), ("a.tsv.gz", "\t"), ("-", ",")],
)
def test_the_name_decides_the_format(name, separator):
    assert table_separator(name) == separator


@pytest.mark.parametrize("name", ["a.xlsx", "a.json", "a.parquet", "a.fasta", "a.csv.zip", "a.csv.bz2", "a.txt"])
def test_other_formats_are_refused(lyra, trained, tmp_path, one, name):
    outcome = lyra("predict", trained["regression"], one, "-o", tmp_path / name)
    assert outcome.code == 2 and "must end in .csv, .tsv" in outcome.err
    assert not (tmp_path / name).exists()


def test_tabs_are_written(lyra, trained, tmp_path, one):
    one.write_text('name,seq\n"a, b",ACGT\n')
    assert lyra("predict", trained["regression"], one, "-o", tmp_path / "p.tsv").code == 0
    lines = [line.split("\t") for line in (tmp_path / "p.tsv").read_text().splitlines()]
    assert lines[0] == ["name", "seq", "prediction"] and lines[1][:2] == ["a, b", "ACGT"]


@pytest.mark.parametrize("content", ["fasta", "letters"])
def test_a_wild_type_that_is_a_file_is_a_file(lyra, trained, tmp_path, monkeypatch, content):
    """Whatever it is called, even as a sequence might be."""
    monkeypatch.chdir(tmp_path)
    Path("ACGA").write_text(">wt\nGGTT\nAC\n" if content == "fasta" else "GGTTAC\n")
    assert lyra("explain", trained["regression"], "--wild-type", "ACGA", "-o", "x").code == 0
    facts = json.loads(Path("x/explanation.json").read_text())["sequences"]
    assert [fact["length"] for fact in facts] == [6]


def test_a_wild_type_file_has_one_sequence(lyra, trained, tmp_path):
    (tmp_path / "two.fa").write_text(">a\nACGT\n>b\nACGA\n")
    for given, says in ((tmp_path / "two.fa", "has 2 records"), ("there/is.none", "there is no such file")):
        outcome = lyra("explain", trained["regression"], "--wild-type", given, "-o", tmp_path / "x")
        assert outcome.code == 2 and says in outcome.err


def test_fasta_whatever_it_is_called(lyra, trained, tmp_path):
    for name in ("a.csv", "a.fsa", "a"):
        (tmp_path / name).write_text("\n>one\nACGTAC\n")
        assert lyra("predict", trained["regression"], tmp_path / name, "-o", tmp_path / "p.csv").code == 0
        assert [row["id"] for row in read_csv(tmp_path / "p.csv")] == ["one"]
    (tmp_path / "table.fa").write_text(ONE)
    assert lyra("predict", trained["regression"], tmp_path / "table.fa", "-o", tmp_path / "p.csv").code == 0
    assert [row["seq"] for row in read_csv(tmp_path / "p.csv")] == ["ACGTACGTAC"]
