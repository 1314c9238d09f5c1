"""The command line in this process, and small tables with a pattern that a model can learn."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

PAIRS = ("--d-model", "8", "--d-state", "4", "--epochs", "3", "--accelerator", "cpu", "--mix", "none")
SMALL = (*PAIRS, "--no-positions")


@dataclass
class Outcome:
    """What a command left: exit code and output."""

    code: int
    out: str
    err: str


@pytest.fixture
def lyra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs `lyra ARGS` as the installed command would."""
    from lyra.cli import main

    def run(*args: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["lyra", *map(str, args)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = 0 if stop.code is None else int(stop.code)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture(autouse=True)
def one_thread():
    """Batches this small are not worth the talk between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a run are empty, unless the test is marked as one about pictures."""
    from PIL import Image

    from lyra import plots

    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(plots, "save_figure", lambda figure, path: Image.new("L", (1, 1)).save(path, format="png"))


def fail_second_replace(patch: pytest.MonkeyPatch, error: OSError) -> None:
    """The second os.replace from here on raises the error, every other one works."""
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise error
        real(source, target)

    patch.setattr(os, "replace", replace)


def random_sequences(count: int, shortest: int, longest: int, letters: str = "ACGT", seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, size=count)
    return ["".join(rng.choice(list(letters), size=length)) for length in lengths]


def write_table(path: Path, header: list[str], rows: list[tuple], delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def regression_rows(count: int = 120, shortest: int = 10, longest: int = 10) -> list[tuple[str, str]]:
    """(sequence, G minus C)"""
    return [(s, f"{s.count('G') - s.count('C')}.5") for s in random_sequences(count, shortest, longest)]


def classification_rows(count: int = 120) -> list[tuple[str, str]]:
    return [(s, "high" if s.count("G") > s.count("C") else "low") for s in random_sequences(count, 6, 14)]


def token_rows(count: int = 80) -> list[tuple[str, str]]:
    """Each residue is labelled 1 if it is G or C."""
    return [(s, "".join("01"[c in "GC"] for c in s)) for s in random_sequences(count, 6, 14)]


def number_rows(count: int = 80, separator: str = ";", seed: int = 0) -> list[tuple[str, str]]:
    """A number for each residue, larger of G or C and of what follows on G; some are missing."""
    rng, rows = np.random.default_rng(seed), []
    for s in random_sequences(count, 6, 14, seed=seed):
        numbers = [(c in "GC") + 0.5 * (i > 0 and s[i - 1] == "G") + 0.01 * rng.random() for i, c in enumerate(s)]
        cells = ["NA" if i and rng.random() < 0.1 else f"{number:.4f}" for i, number in enumerate(numbers)]
        rows.append((s, separator.join(cells)))
    return rows


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's folder for each task, trained once for all tests that only read it."""
    from rich.console import Console

    from lyra.data import DataOptions
    from lyra.training import Hardware, Recipe, train

    torch.set_num_threads(1)
    recipe = Recipe(d_model=8, d_state=4, epochs=3, mix="none", positions=False)  # what SMALL says
    folder = tmp_path_factory.mktemp("trained")
    tables = {"regression": regression_rows(), "classification": classification_rows(), "token": token_rows()}
    runs = {}
    for task, rows in tables.items():
        table = write_table(folder / f"{task}.csv", ["seq", "label"], rows)
        runs[task] = folder / task
        train(table, runs[task], DataOptions(), recipe, Hardware("cpu"), console=Console(quiet=True))
    return runs


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A file with one sequence."""
    path = tmp_path / "one.csv"
    path.write_text("seq\nACGTACGTAC\n")
    return path


@pytest.fixture
def predictors(trained: dict[str, Path]) -> dict[str, Any]:
    """The trained models, by task."""
    from lyra.prediction import Predictor

    return {task: Predictor.from_pretrained(folder, "cpu") for task, folder in trained.items()}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models with random weights for genomes: causal ones, and two that look ahead."""
    from .genome_data import TARGETS, make_model

    folder = tmp_path_factory.mktemp("models")
    made = {task: make_model(folder / task, task) for task in TARGETS}
    return made | {f"both ways {t}": make_model(folder / f"both {t}", t, False) for t in ("regression", "token")}


@pytest.fixture(scope="session")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FASTA of three records, soft-masked in places, with lines of 17 letters."""
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    with open(path, "w") as file:
        for name, size in (("chr2", 401), ("chr10", 96), ("chrM", 17)):
            text = "".join(rng.choice(list("ACGTacgtN"), size))
            file.write(f">{name} of a genome\n" + "".join(text[i : i + 17] + "\n" for i in range(0, size, 17)))
    return path
