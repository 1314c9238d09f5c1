"""Interrupts, resumed runs, several processes, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lyra.errors import InputError
from lyra.files import atomic_path, atomic_text, write_json

from .conftest import SMALL, fail_second_replace, read_csv, regression_rows, write_table

OPTIONS = ("--dropout", "0.1", "--d-model", "8", "--d-state", "4", "--epochs", "4", "--accelerator", "cpu",
           "--mix", "none", "--no-positions")  # fmt: skip


def history(folder: Path) -> list[dict[str, str]]:
    """The history without the clock."""
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in read_csv(folder / "history.csv")
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert history(one) == history(other)
    assert (one / "predictions.csv").read_text() == (other / "predictions.csv").read_text()
    weights, again = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert weights.keys() == again.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)


def interrupt_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, error: type[BaseException] = KeyboardInterrupt
) -> None:
    """Raises `error` in the middle of a run, in the training step of that number."""
    from lyra.training.module import LyraModule

    original = LyraModule.training_step

    def training_step(self, batch, index):
        if self.trainer.global_step == steps:
            raise error
        return original(self, batch, index)

    monkeypatch.setattr(LyraModule, "training_step", training_step)


@pytest.mark.parametrize("step", [5, 12, 30], ids=["first epoch", "between epochs", "third epoch"])
def test_a_resumed_run_is_the_same_run(lyra, tmp_path, step):
    """96 sequences in batches of 8: 12 steps an epoch. Weights, history and predictions are equal to the bit."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(120, 6, 12))
    command = ("train", table, *OPTIONS, "--out")
    assert lyra(*command, tmp_path / "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, step)
        outcome = lyra(*command, tmp_path / "halves")
    assert outcome.code == 130
    assert "--resume" in outcome.err
    assert not (tmp_path / "halves" / "model").exists()
    outcome = lyra(*command, tmp_path / "halves", "--resume")
    assert outcome.code == 0, outcome.err
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_every_epoch_has_an_order_of_its_own(lyra, tmp_path, monkeypatch):
    from lyra.data import BucketSampler

    orders = []
    original = BucketSampler.__iter__
    monkeypatch.setattr(BucketSampler, "__iter__", lambda self: iter(orders.append(list(original(self))) or orders[-1]))
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    assert lyra("train", table, "--out", tmp_path / "run", *SMALL).code == 0
    assert len(orders) == 3 and orders[0] != orders[1] != orders[2] != orders[0]
    for order in orders:
        assert sorted(row for batch in order for row in batch) == list(range(96))


def test_resume_refuses_other_settings_and_data(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    command = ("train", table, "--out", tmp_path / "run", *OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 14)
        assert lyra(*command).code == 130
    outcome = lyra(*command, "--resume", "--lr", "0.001")
    assert outcome.code == 2 and "other settings (lr)" in outcome.err
    write_table(table, ["seq", "label"], regression_rows()[1:])
    outcome = lyra(*command, "--resume")
    assert outcome.code == 2 and "(sha256)" in outcome.err


def test_an_interrupt_while_results_are_written(lyra, tmp_path):
    """Training is over, the report is not: --resume writes it without training again."""
    from lyra.training import report

    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    command = ("train", table, *OPTIONS, "--out")
    assert lyra(*command, tmp_path / "whole").code == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", interrupted)
        assert lyra(*command, tmp_path / "halves").code == 130
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 0, AssertionError)
        assert lyra(*command, tmp_path / "halves", "--resume").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert (tmp_path / "halves" / "report.html").exists()


def test_control_c_from_outside(tmp_path):
    """The signal itself, to the process: exit code 130, one line, no traceback, a checkpoint to go on from."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    command = [
        sys.executable,
        "-m",
        "lyra.cli",
        "train",
        table,
        "--out",
        tmp_path / "run",
        *SMALL[:4],
        *("--mix", "none"),
        "--epochs",
        "100000",
    ]
    command += ["--patience", "100000", "--accelerator", "cpu"]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs would not
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "0" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err and "the same command with --resume goes on" in err.splitlines()[-1]
    assert len(read_csv(tmp_path / "run" / "history.csv")) >= 1
    assert not list(tmp_path.rglob("*unfinished*"))


def test_two_processes(tmp_path):
    """Two CPU processes with gloo see all of the data between them and agree on one model, also of two networks."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(120, 6, 12))
    command = [sys.executable, "-m", "lyra.cli", "train", table, "--out", tmp_path / "run", *SMALL]
    command += ["--devices", "2", "--strategy", "ddp", "--ensemble", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment)
    assert run.returncode == 0, run.stderr
    assert [row["network"] for row in read_csv(tmp_path / "run" / "history.csv")] == ["1"] * 3 + ["2"] * 3
    assert run.stdout.count("parameters;") == 1, "the first process alone speaks"
    assert "2 networks of 3 epochs" in run.stdout and run.stderr.count("epoch 1/3") == 2
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["test"]["spearman"] > 0.5


def test_a_file_is_whole_or_absent(tmp_path):
    """The old file stays until the new one is complete, and nothing else is left."""
    path = tmp_path / "file.txt"
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_text(path) as file:
            file.write("half")
            file.flush()
            assert not path.exists()
            raise error
        assert list(tmp_path.iterdir()) == []
    with atomic_text(path) as file:
        file.write("whole")
    with pytest.raises(RuntimeError), atomic_text(path) as file:
        file.write("half of another")
        raise RuntimeError
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_whole_or_absent(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with atomic_path(path) as unfinished:
            unfinished.mkdir()
            (unfinished / "weights").write_text(content)
        assert (path / "weights").read_text() == content
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError), atomic_path(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "weights").write_text("third")
        raise RuntimeError
    assert (path / "weights").read_text() == "second" and list(tmp_path.iterdir()) == [path]
    with pytest.MonkeyPatch.context() as patch:
        fail_second_replace(patch, OSError(5, "Input/output error"))
        with pytest.raises(InputError, match="cannot be written: Input/output error"), atomic_path(path) as unfinished:
            unfinished.mkdir()
    assert (path / "weights").read_text() == "second" and list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk():
    """No file may grow beyond 4 kB, with the error that a full disk gives in its place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_out_of_disk_while_predicting(lyra, trained, tmp_path, small_disk):
    rows = [(sequence,) for sequence, _ in regression_rows(1000)]
    table = write_table(tmp_path / "data.csv", ["seq"], rows)
    small_disk()
    outcome = lyra("predict", trained["regression"], table, "-o", tmp_path / "out.csv")
    assert outcome.code == 2 and f"{tmp_path / 'out.csv'}: cannot be written: File too large" in outcome.err
    assert list(tmp_path.iterdir()) == [table]


def test_out_of_disk_while_training(lyra, tmp_path, small_disk):
    """The first checkpoint does not fit."""
    table = write_table(tmp_path / "data.csv", ["seq", "label"], regression_rows())
    small_disk()
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL)
    assert outcome.code == 2 and "cannot be written" in outcome.err, outcome.err
    assert "Traceback" not in outcome.err
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix == ".ckpt" or "unfinished" in path.name]


def test_refused_file_names_itself(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/out\.csv: cannot be written"),
        atomic_text(tmp_path / "file" / "out.csv"),
    ):
        pass
