"""Training and prediction by CUDA graphs, with a stand-in for the card's recorder: what is recorded runs again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lyra.data.batches import IGNORED, Batch, SequenceDataset, bucket
from lyra.data.resident import ResidentDataset
from lyra.training import graphed, steps

from .conftest import classification_rows, read_csv, regression_rows, token_rows, write_table
from .test_interrupts import interrupt_after

OPTIONS = ("--d-model", "8", "--d-state", "4", "--epochs", "4", "--accelerator", "cpu",
           "--mix", "none", "--no-positions")  # fmt: skip


class Recorder:
    """In the place of `CudaGraphs`: a replay calls again."""

    recorded = ran = replayed = 0
    fails: Exception | None = None

    def run(self, step: Callable[[], None]) -> None:
        self.ran += 1
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        if self.fails is not None:
            raise self.fails
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Training on the CPU goes as on a card."""
    made = Recorder()
    monkeypatch.setattr(graphed, "why_not", lambda trainer: None)
    monkeypatch.setattr(graphed.GraphedLyraModule, "recorder", lambda self: made)
    monkeypatch.setattr(graphed, "BATCHES_AT_A_TIME", 5)
    monkeypatch.setattr(graphed, "Replayed", PlainCalls)
    yield made


class PlainCalls:
    """In the place of `Replayed`."""

    def __init__(self, model: torch.nn.Module, warn: Callable[[str], None]) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self.model(batch.tokens, lengths=batch.lengths)


def numbers(folder: Path) -> np.ndarray:
    """The history, without the clock."""
    rows = read_csv(folder / "history.csv")
    return np.array([[float(v or "nan") for k, v in row.items() if k != "seconds"] for row in rows])


TABLES: dict[str, tuple[list[tuple[str, str]], tuple[str, ...]]] = {
    "one length": (regression_rows(), ()),
    "lengths": (regression_rows(120, 6, 30), ()),
    "classes": (classification_rows(), ("--class-weights", "balanced")),
    "residues": (token_rows(), ("--dropout", "0")),
}


@pytest.mark.parametrize("name", TABLES)
def test_steps_by_graphs_train_what_plain_steps_train(lyra, tmp_path, recorder, name):
    """But for the rounding of the learning rate, which lies on the card in float32, and of padded sums."""
    rows, options = TABLES[name]
    command = ("train", write_table(tmp_path / "t.csv", ["seq", "label"], rows), *OPTIONS, *options)
    plain = lyra(*command, "--out", tmp_path / "plain", "--no-graphs")
    assert plain.code == 0 and recorder.ran == 0, plain.err
    outcome = lyra(*command, "--out", tmp_path / "graphs")
    assert outcome.code == 0, outcome.err
    assert recorder.recorded >= 1 and recorder.replayed > recorder.ran, "most steps are replayed"
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "plain"), rtol=2e-3, atol=2e-4)
    settings = [json.loads((tmp_path / run / "run.json").read_text())["graphs"] for run in ("graphs", "plain")]
    assert settings == [True, False]


def test_dropout_is_drawn_as_in_plain_steps(lyra, tmp_path, recorder):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    for run, option in (("plain", "--no-graphs"), ("graphs", "--graphs")):
        outcome = lyra("train", table, *OPTIONS, "--dropout", "0.2", "--out", tmp_path / run, option)
        assert outcome.code == 0, outcome.err
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "plain"), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("goes_on", ["--graphs", "--no-graphs"])
def test_a_run_by_graphs_is_resumed(lyra, tmp_path, recorder, goes_on):
    """With graphs it is the same run to the bit; without them to rounding: a checkpoint says nothing of graphs.

    But for dropout, which draws another mask where a batch is wider.
    """
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(120, 6, 12))
    command = ("train", table, *OPTIONS, "--dropout", "0.1" if goes_on == "--graphs" else "0", "--out")
    assert lyra(*command, tmp_path / "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        original = graphed.GraphedLyraModule.training_step

        def training_step(self: Any, batches: Any, index: int) -> None:
            if self.current_epoch == 2:
                raise KeyboardInterrupt
            original(self, batches, index)

        patch.setattr(graphed.GraphedLyraModule, "training_step", training_step)
        assert lyra(*command, tmp_path / "halves").code == 130
    outcome = lyra(*command, tmp_path / "halves", "--resume", goes_on)
    assert outcome.code == 0, outcome.err
    if goes_on == "--graphs":
        np.testing.assert_array_equal(numbers(tmp_path / "halves"), numbers(tmp_path / "whole"))
    else:
        np.testing.assert_allclose(numbers(tmp_path / "halves"), numbers(tmp_path / "whole"), rtol=2e-3, atol=2e-4)


def test_a_plain_run_goes_on_with_graphs(lyra, tmp_path, recorder):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    command = ("train", table, *OPTIONS, "--out")
    assert lyra(*command, tmp_path / "whole", "--no-graphs").code == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 26)
        assert lyra(*command, tmp_path / "halves", "--no-graphs").code == 130
    outcome = lyra(*command, tmp_path / "halves", "--resume", "--graphs")
    assert outcome.code == 0 and recorder.replayed, outcome.err
    np.testing.assert_allclose(numbers(tmp_path / "halves"), numbers(tmp_path / "whole"), rtol=2e-3, atol=2e-4)


def test_steps_that_cannot_be_recorded_run_without(lyra, tmp_path, recorder):
    recorder.fails = RuntimeError("operation not permitted when stream is capturing\nmore")
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    outcome = lyra("train", table, *OPTIONS, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: CUDA graphs")]
    why = "operation not permitted when stream is capturing more"
    assert warnings == [f"warning: CUDA graphs cannot be used, so it goes on without: {why}"]
    assert recorder.replayed == 0 and recorder.ran == 4 * 12


def test_graphs_want_a_card(lyra, trained, one, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    outcome = lyra("train", table, *OPTIONS, "--out", tmp_path / "run", "--graphs")
    assert outcome.code == 2 and outcome.err.splitlines()[-1] == (
        "lyra: error: --graphs: training needs a CUDA card for it, and runs on cpu; leave it out"
    )
    outcome = lyra("predict", trained["regression"], one, "-o", tmp_path / "p.csv", "--device", "cpu", "--graphs")
    assert outcome.code == 2 and outcome.err == (
        "lyra: error: --graphs: needs a CUDA card, and the device is cpu; leave it out\n"
    )
    assert lyra("predict", trained["regression"], one, "-o", tmp_path / "p.csv", "--no-graphs").code == 0


@pytest.mark.parametrize(
    ("width", "wanted"), [(0, 8), (1, 8), (8, 8), (9, 12), (12, 12), (13, 16), (17, 24), (48, 48), (49, 64), (65, 96)]
)
def test_buckets(width, wanted):
    assert bucket(width) == wanted


def test_there_are_few_buckets_and_none_is_much_too_wide():
    widths = range(9, 5000)
    assert all(width <= bucket(width) < 1.5 * width for width in widths)
    assert len({bucket(width) for width in widths}) < 20


def _dataset(widths: list[int], per_token: bool) -> SequenceDataset:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    tokens = rng.integers(-1, 20, size=offsets[-1]).astype(np.int8)
    values: Any = rng.random(len(widths)).astype(np.float32)
    if per_token:
        values = [rng.integers(0, 3, size=width) for width in widths]
    return SequenceDataset(tokens, offsets, np.array([4, 2, 0, 5, 3]), list(values))


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("widths", [[7] * 6, [3, 9, 12, 30, 1, 17], [0, 0, 4, 0, 9, 2]])
def test_batches_made_on_the_device_are_the_datasets(widths, per_token):
    dataset = _dataset(widths, per_token)
    groups = [[0, 3], [1, 2, 4], [2]]
    resident = ResidentDataset(dataset, torch.device("cpu"))
    for rows, (where, width) in zip(groups, resident.rows(groups), strict=True):
        found = resident.batch(where, width)
        wanted = dataset[rows]
        if len(set(widths)) > 1:
            lengths = torch.from_numpy(dataset.lengths[rows])
            wanted = Batch(wanted.tokens, lengths, wanted.targets).in_bucket()
        assert len(found.tensors()) == len(wanted.tensors())
        for a, b in zip(found.tensors(), wanted.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_batch_in_its_bucket():
    batch = Batch(torch.ones(2, 13, dtype=torch.int64), torch.tensor([13, 4]), torch.ones(2, 13, dtype=torch.int64))
    wide = batch.in_bucket()
    assert wide.tokens.shape == (2, 16) and wide.targets is not None
    assert not wide.tokens[:, 13:].any() and bool((wide.targets[:, 13:] == IGNORED).all())
    dense = Batch(batch.tokens, None, batch.targets)
    assert dense.in_bucket() is dense, "sequences of one length have one shape as it is"


def test_few_batches_are_not_worth_recording():
    recorder = Recorder()
    made: list[int] = []
    training = steps.RecordedSteps(lambda rows, width: made.append(int(rows[0]) * width), recorder, pytest.fail)
    for i in range(8):
        training(torch.full((2,), i), 1)
        training(torch.full((2,), 100), 3) if i < 3 else None
    assert (recorder.ran, recorder.recorded, recorder.replayed) == (6, 1, 5)
    assert [i for i in made if i != 300] == list(range(8)), "a replay takes the rows of its step"


def test_predictions_for_batches_in_their_buckets(predictors):
    """As on a card: padded to few widths, which changes no prediction."""
    sequences = ["ACGT"[: 1 + i % 4] * (1 + i % 9) for i in range(300)]
    for task, predictor in predictors.items():
        assert predictor.use_graphs(None, pytest.fail)._replayed is None, "there is no card"
        wanted = predictor.predict(sequences, batch_size=16)
        widths: set[int] = set()

        class Calls(PlainCalls):
            def __call__(self, batch: Batch) -> torch.Tensor:
                widths.add(batch.tokens.shape[1])  # noqa: B023
                return super().__call__(batch)

        predictor._replayed = Calls(predictor.model, pytest.fail)
        found = predictor.predict(sequences, batch_size=16)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=task)
        dense = {len(sequence) for sequence in sequences}  # a batch of one length has no other
        assert widths <= {8, 12, 16, 24, 32, 48} | dense and len(widths) < 12


def test_predictions_go_on_without_graphs(predictors, monkeypatch):
    from lyra import graphs

    class Fails:
        def __init__(self, model: torch.nn.Module, **options: Any) -> None:
            pass

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            raise graphs.CaptureError("no CUDA graph of Lyra: out of memory")

    monkeypatch.setattr(graphs, "Graphed", Fails)
    predictor, said = predictors["regression"], []
    wanted = predictor.predict(["ACGT"] * 40, batch_size=8)
    predictor._replayed = graphs.Replayed(predictor.model, said.append)
    np.testing.assert_array_equal(predictor.predict(["ACGT"] * 40, batch_size=8), wanted)
    assert said == ["CUDA graphs cannot be used, so it goes on without: no CUDA graph of Lyra: out of memory"]
