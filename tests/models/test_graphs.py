"""Training and prediction by CUDA graphs, on a card: the numbers are those without."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lyra_kernels as lk

pytest.importorskip("lightning")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: CUDA graphs are recorded on one")


def table(path: Path, shortest: int) -> Path:
    """Random DNA of up to 30 letters, with the number of G minus that of C as target."""
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        file.write("seq,label\n")
        for length in rng.integers(shortest, 31, size=400):
            sequence = "".join(rng.choice(list("ACGT"), size=length))
            file.write(f"{sequence},{sequence.count('G') - sequence.count('C')}.5\n")
    return path


def history(folder: Path) -> np.ndarray:
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(value) for name, value in row.items() if name != "seconds"] for row in rows])


@pytest.mark.parametrize("kind", ["triton", "cuda"])
@pytest.mark.parametrize("shortest", [30, 6])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_graphs_train_and_predict_what_plain_calls_do(kind, shortest, precision, tmp_path):
    from rich.console import Console

    from lyra.data import DataOptions
    from lyra.prediction import Predictor
    from lyra.training import Hardware, Recipe, train

    if not lk.available_backends().count(kind):
        pytest.skip(f"backend {kind} does not work here")
    said = io.StringIO()
    recipe = Recipe(d_model=16, d_state=8, epochs=3, batch_size=32)
    data = table(tmp_path / "t.csv", shortest)
    with lk.use_backend(kind):
        for graphs in (False, True):
            hardware = Hardware("gpu", "1", precision=precision, graphs=graphs)
            console: Any = Console(file=said)
            train(data, tmp_path / str(graphs), DataOptions(), recipe, hardware, console=console)
        assert "CUDA graphs cannot be used" not in said.getvalue()
        found, wanted = history(tmp_path / "True"), history(tmp_path / "False")
        np.testing.assert_allclose(found, wanted, rtol=0.02 if precision == "32-true" else 0.2, atol=0.02)
        sequences = ["ACGT" * (1 + i % 7) for i in range(3000)]
        predictors = [
            Predictor.from_pretrained(tmp_path / "True", "cuda").use_graphs(on, pytest.fail) for on in (False, True)
        ]
        a, b = (np.asarray(predictor.predict(sequences)) for predictor in predictors)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
