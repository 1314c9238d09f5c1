"""What commands meet where results go: other runs, links, names of any kind, failures."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lyra.errors import InputError
from lyra.files import atomic_text, claimed_folder, commit_replacement, replaced_content

from .conftest import (
    SMALL,
    classification_rows,
    fail_second_replace,
    read_csv,
    regression_rows,
    write_table,
)

ONE = "seq\nACGTACGTAC\n"


@pytest.fixture
def table(tmp_path) -> Path:
    return write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(60))


def test_overwriting_through_a_link(lyra, tmp_path, table):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    for options in ((), ("--overwrite",)):
        assert lyra("train", table, "--out", link, *SMALL, *options).code == 0
    assert link.is_symlink() and (real / "report.html").exists()
    for options in ((), ("--overwrite",)):
        outcome = lyra("explain", link, "--wild-type", "ACGT", "-o", tmp_path / "x", *options)
        assert outcome.code == 0, outcome.err
        if not options:
            (tmp_path / "x").rename(tmp_path / "elsewhere")
            (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    assert (tmp_path / "x").is_symlink() and (tmp_path / "elsewhere" / "explanation.html").exists()
    (tmp_path / "nothing").symlink_to(tmp_path / "gone")
    outcome = lyra("train", table, "--out", tmp_path / "nothing", *SMALL)
    assert outcome.code == 2 and "is a symbolic link to nothing" in outcome.err


def test_bad_data_cost_no_earlier_run(lyra, tmp_path, table):
    run = tmp_path / "run"
    assert lyra("train", table, "--out", run, *SMALL).code == 0
    before = (run / "metrics.json").read_text()
    (tmp_path / "bad.csv").write_text("seq,label\nACGT,1.5\nACGT\n")
    assert lyra("train", tmp_path / "bad.csv", "--out", run, *SMALL, "--overwrite").code == 2
    assert (run / "metrics.json").read_text() == before
    outcome = lyra("train", run / "predictions.csv", "--target", "label", "--out", run, *SMALL, "--overwrite")
    assert outcome.code == 2 and "is in the folder that --overwrite replaces" in outcome.err
    assert (run / "predictions.csv").exists()


@pytest.mark.parametrize("options", [(), ("--overwrite",), ("--resume",)], ids=["plain", "overwrite", "resume"])
def test_one_run_in_a_folder(lyra, tmp_path, options):
    """The second is refused before it reads its data, which here are not even there."""
    with claimed_folder(tmp_path / "run"):
        outcome = lyra("train", tmp_path / "no.csv", "--out", tmp_path / "run", *SMALL, *options)
    assert outcome.code == 2 and "another run is writing here" in outcome.err
    assert not (tmp_path / "run").exists(), "nobody wrote anything"


def test_a_refused_run_leaves_no_folder(lyra, tmp_path):
    assert lyra("train", tmp_path / "no.csv", "--out", tmp_path / "run", *SMALL).code == 2
    assert list(tmp_path.iterdir()) == []


NAMES = [
    "growth rate [/h]",
    "[bold]x",
    "$a$ and $b",
    "x[/]",
    "\u03b1\u2192\u03b2 \U0001f9ec",
    "a" * 200,
    ":smile: $\\frac{$",
]


@pytest.mark.pictures
@pytest.mark.parametrize(
    ("task", "name"), [(("regression", "classification")[i % 2], name) for i, name in enumerate(NAMES)]
)
def test_names_are_text(lyra, tmp_path, task, name):
    """Column, class and folder names reach terminal, pictures, page and tables as they are."""
    rows = regression_rows(60) if task == "regression" else [(s, y + name) for s, y in classification_rows(60)]
    data = write_table(tmp_path / "t.csv", ["seq", name], rows)
    run = tmp_path / f"run {name[:30].replace('/', '|')}"
    outcome = lyra("train", data, "--target", name, "--out", run, *SMALL)
    assert outcome.code == 0, outcome.err
    assert f"of {name}" in outcome.err
    assert name in json.loads((run / "model" / "config.json").read_text())["metadata"]["source"]["target"]
    assert list(read_csv(run / "predictions.csv")[0])[2] == name
    quick = ("--steps", "4", "--positions", "1-2")
    assert lyra("explain", run, "--wild-type", "ACGTAC", "-o", tmp_path / "x", *quick).code == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_unicode(lyra, monkeypatch, tmp_path, table, encoding):
    from lyra.cli import main

    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.argv", ["lyra", "train", str(table), "--out", str(tmp_path / "\u03b1"), *SMALL])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    text = out.buffer.getvalue()
    assert b"\\u03b1" in text and b"R2" in text


def test_what_nobody_expected_is_one_line_and_a_file(lyra, tmp_path, table, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("a fault\nof two lines")

    monkeypatch.setattr("lyra.training.networks.build_module", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL)
    assert outcome.code == 1 and "Traceback" not in outcome.err
    line = outcome.err.splitlines()[-1]
    assert line.startswith("lyra: error: KeyError: 'a fault\\nof two lines' (this is a fault of lyra")
    kept = Path(re.search(r"the traceback is in (.+\.txt)\)", line)[1])
    assert "in broken" in kept.read_text() and "Traceback" in kept.read_text()


def test_output_that_cannot_be_written_is_one_line(trained, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq"], [(s,) for s, _ in regression_rows(9000)])
    command = f"'{sys.executable}' -m lyra.cli predict '{trained['regression']}' '{table}' -o - | head -c 10"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in run.stderr and "Broken pipe" in run.stderr and run.stderr.count("lyra: error") == 1
    if Path("/dev/full").exists():
        run = subprocess.run(
            ["bash", "-c", f"'{sys.executable}' -m lyra.cli --help > /dev/full"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 2 and run.stderr.splitlines() == [
            "lyra: error: standard output: cannot be written: No space left on device"
        ]


def test_the_input_is_never_the_output(lyra, trained, tmp_path, one):
    """Not by way of a folder that is not there, either."""
    outcome = lyra("predict", trained["regression"], one, "-o", tmp_path / "x" / ".." / "one.csv")
    assert outcome.code == 2 and "is the file to read" in outcome.err
    assert one.read_text() == ONE and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("n" * 240 + ".csv", 0, ""),
        ("n" * 260 + ".csv", 2, "cannot be written: File name too long"),
        ("", 2, "is no name of a file"),
        ("d.csv/", 2, "is no name of a file"),
    ],
    ids=["long", "too long", "empty", "folder"],
)
def test_names_of_files(lyra, trained, tmp_path, monkeypatch, one, name, code, says):
    monkeypatch.chdir(tmp_path)
    outcome = lyra("predict", trained["regression"], one, "-o", name)
    assert outcome.code == code and says in outcome.err, outcome.err
    assert len(list(tmp_path.iterdir())) == 1 + (code == 0)


def test_links_that_promise_two_things(lyra, trained, tmp_path, one):
    (tmp_path / "l.csv").symlink_to(tmp_path / "real.tsv")
    (tmp_path / "plain").symlink_to(tmp_path / "real.tsv.gz")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name, says in (("l.csv", "whose name promises another format"), ("loop.csv", "leads nowhere")):
        outcome = lyra("predict", trained["regression"], one, "-o", tmp_path / name)
        assert outcome.code == 2 and says in outcome.err
        assert (tmp_path / name).is_symlink()
    assert lyra("predict", trained["regression"], one, "-o", tmp_path / "plain").code == 0
    assert gzip.decompress((tmp_path / "real.tsv.gz").read_bytes()).startswith(b"seq\tprediction\n")


@pytest.mark.parametrize("name", ["notes.txt", "model/notes.txt", "checkpoints/0/best.txt", ".notes.old"])
def test_no_file_of_the_users_is_replaced(tmp_path, name):
    """Wherever it is in the folder of a run."""
    from lyra.files import check_folder
    from lyra.training.run import OWN, SETTINGS

    for own in (
        "run.json",
        "model/config.json",
        "checkpoints/0/best.ckpt",
        ".previous/run.json",
        ".x.csv.0123abcd.77.unfinished",
    ):
        (tmp_path / own).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / own).write_text("")
    check_folder(tmp_path, SETTINGS, OWN, True, "")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {re.escape(name)}, which no run wrote"):
        check_folder(tmp_path, SETTINGS, OWN, True, "")


def test_replacing_a_folder(tmp_path, monkeypatch):
    """Until the new content is committed the old one comes back, after a kill or half-way through moving it, too."""
    folder = tmp_path / "run"
    folder.mkdir()

    def write(text: str) -> None:
        for name in ("a", "b", "c"):
            (folder / name).write_text(text)

    def content() -> dict[str, str]:
        return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}

    def leave_as_killed() -> None:
        (folder / ".previous").mkdir()
        for path in [path for path in folder.iterdir() if path.is_file()]:
            path.rename(folder / ".previous" / path.name)

    old = dict.fromkeys("abc", "old")
    write("old")
    with pytest.raises(RuntimeError), replaced_content(folder):
        assert content() == {f".previous/{name}": "old" for name in "abc"}
        (folder / "a").write_text("new")
        (folder / "d").write_text("new")
        raise RuntimeError
    assert content() == old
    with monkeypatch.context() as patch:
        fail_second_replace(patch, PermissionError(1, "Operation not permitted"))
        with pytest.raises(InputError, match="cannot be emptied: Operation not permitted"), replaced_content(folder):
            pass
    assert content() == old
    leave_as_killed()
    (folder / "a").write_text("stub")
    with pytest.raises(RuntimeError), replaced_content(folder):
        raise RuntimeError
    assert content() == old, "the second attempt protects the run, not the first one's stub"
    with replaced_content(folder) as commit:
        (folder / "a").write_text("new")
        commit()
    assert content() == {"a": "new"}
    leave_as_killed()
    commit_replacement(folder)
    assert content() == {}


def test_a_resumed_replacement_keeps_no_earlier_run(lyra, tmp_path, table):
    """Killed in its second epoch, an --overwrite is resumed: what it replaced is gone with its first epoch."""
    run = tmp_path / "run"
    assert lyra("train", table, "--out", run, *SMALL).code == 0
    from lyra.training.module import LyraModule

    original = LyraModule.training_step

    def training_step(self, batch, index):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LyraModule, "training_step", training_step)
        assert lyra("train", table, "--out", run, *SMALL, "--overwrite").code == 130
    (run / ".previous").mkdir(exist_ok=True)  # as a kill in the first epoch would have left it
    (run / ".report.html.0123abcd.99.unfinished").write_text("")
    outcome = lyra("train", table, "--out", run, *SMALL, "--resume", "--overwrite")
    assert outcome.code == 2 and "--resume --overwrite" in outcome.err
    assert lyra("train", table, "--out", run, *SMALL, "--resume").code == 0
    assert not list(run.rglob(".*"))


def test_what_no_run_wrote_is_not_replaced(lyra, trained, tmp_path, table, one):
    """A user's file in the folder of a run or an explanation stays, and so does what is being read."""
    run, x = tmp_path / "run", tmp_path / "x"
    assert lyra("train", table, "--out", run, *SMALL).code == 0
    explain = ("explain", trained["regression"], one, "-o", x, "--no-attributions", "--pictures", "0")
    assert lyra(*explain).code == 0
    for folder, command in ((run, ("train", table, "--out", run, *SMALL)), (x, explain)):
        (folder / "notes.txt").write_text("mine")
        outcome = lyra(*command, "--overwrite")
        assert outcome.code == 2 and "holds notes.txt, which no run wrote" in outcome.err
        assert (folder / "notes.txt").read_text() == "mine"
        (folder / "notes.txt").unlink()
        assert lyra(*command, "--overwrite").code == 0
    (x / "mutagenesis.csv").write_text(ONE)
    outcome = lyra("explain", trained["regression"], x / "mutagenesis.csv", "-o", x, "--overwrite")
    assert outcome.code == 2 and "is in the folder that --overwrite replaces" in outcome.err
    mutants = write_table(
        tmp_path / "m.csv", ["mutant", "y"], [(f"A1{c}", f"{i}.5") for i, c in enumerate("CDEFGHIKLMNPQRSTVWY")]
    )
    (run / "history.csv").write_text("ACDEF\n")
    outcome = lyra("train", mutants, "--wild-type", run / "history.csv", "--out", run, *SMALL, "--overwrite")
    assert outcome.code == 2 and "--wild-type" in outcome.err and "is in the folder" in outcome.err


def test_a_run_that_fails_at_once_costs_no_earlier_one(lyra, tmp_path, table):
    run = tmp_path / "run"
    assert lyra("train", table, "--out", run, *SMALL).code == 0
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = lyra("train", table, "--out", run, *SMALL, "--overwrite", "--lr", "1e30", "--output", "linear")
    assert outcome.code == 2 and "the loss is not finite" in outcome.err
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert lyra("train", table, "--out", run, *SMALL, "--overwrite").code == 0
    assert not list(run.rglob(".*"))


def test_a_link_is_replaced_when_it_is_complete(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with pytest.raises(RuntimeError), atomic_text(tmp_path / "link.txt") as file:
        file.write("half")
        raise RuntimeError
    assert (tmp_path / "real.txt").read_text() == "old"
    with pytest.raises(InputError, match="cannot be written"), atomic_text(tmp_path / "real.txt" / "x.txt"):
        pass
