"""Averaged weights: against a recursion over the weights of each step, in plain, resumed and recorded training."""

from __future__ import annotations

import copy

import pytest
import torch

from lyra.training.averaging import WeightAverages, put, trained
from lyra.training.module import LyraModule
from lyra.training.networks import Workshop

from .conftest import read_csv, regression_rows, token_rows, write_table
from .test_graphs import recorder  # noqa: F401
from .test_interrupts import assert_same_run, interrupt_after

BASE = ("--d-model", "8", "--d-state", "4", "--accelerator", "cpu", "--no-positions")
PLAIN = (*BASE, "--epochs", "3", "--mix", "none")


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.998])
def test_the_recursion(decay):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, dtype=torch.float64))
    module[0].bias.requires_grad_(False)
    averages = WeightAverages(decay)
    wanted = None
    for step in range(1, 40):
        for weight in module.parameters():
            weight.data += torch.randn_like(weight)
        averages.update(module)
        now = [w.detach().double().clone() for w in module.parameters() if w.requires_grad]
        d = min(decay, step / (step + 9))
        wanted = now if wanted is None else [d * a + (1 - d) * w for a, w in zip(wanted, now, strict=True)]
    assert averages.steps == 39 and len(averages.averages) == 3
    for found, value in zip(averages.averages, wanted, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-6)


def test_weights_go_in_and_out():
    module = torch.nn.Linear(3, 2)
    averages, before = WeightAverages(0.9), copy.deepcopy(module.state_dict())
    tensors = [id(weight) for weight in trained(module)]
    averages.swap_in(module)  # there are none yet
    averages.swap_out(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    averages.update(module)
    put(module, [torch.ones_like(weight) for weight in trained(module)])
    averages.update(module)
    averages.swap_in(module)
    assert not (module.weight == 1).all()
    averages.swap_out(module)
    assert (module.weight == 1).all() and (module.bias == 1).all()
    averages.swap_out(module)  # once is enough
    assert (module.weight == 1).all() and [id(weight) for weight in trained(module)] == tensors


class Spy:
    """The weights after each step, and those that each validation had."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[torch.Tensor]] = []
        self.starts: list[list[torch.Tensor]] = []
        self.validated: list[tuple[int, list[torch.Tensor]]] = []
        after_step, validation_step, batch_loss = (
            LyraModule.after_step,
            LyraModule.validation_step,
            LyraModule.batch_loss,
        )

        def stepped(module):
            self.steps.append(self.weights(module))
            after_step(module)

        def validating(module, batch, index):
            self.validated.append((len(self.steps), self.weights(module)))
            return validation_step(module, batch, index)

        def starting(module, batch):
            self.starts.append(self.weights(module))
            return batch_loss(module, batch)

        patch.setattr(LyraModule, "after_step", stepped)
        patch.setattr(LyraModule, "validation_step", validating)
        patch.setattr(LyraModule, "batch_loss", starting)

    @staticmethod
    def weights(module: torch.nn.Module) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in module.parameters() if weight.requires_grad]

    def averages(self, decay: float) -> list[list[torch.Tensor]]:
        found: list[list[torch.Tensor]] = []
        for n, now in enumerate(self.steps, 1):
            d = min(decay, n / (n + 9))
            found.append([d * a + (1 - d) * w for a, w in zip(found[-1] if found else now, now, strict=True)])
        return found


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("task", ["regression", "token"])
def test_validation_sees_averages_and_training_goes_on_from_the_latest(lyra, tmp_path, request, graphs, task):
    if graphs:
        request.getfixturevalue("recorder")
    rows = regression_rows(60, 6, 12) if task == "regression" else token_rows(60)
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    options = (*PLAIN, "--average", "0.8", "--dropout", "0", "--graphs" if graphs else "--no-graphs")
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        outcome = lyra("train", table, "--out", tmp_path / "run", *options)
    assert outcome.code == 0, outcome.err
    epoch = len(spy.steps) // 3
    assert len(spy.steps) == 3 * epoch and [at for at, _ in spy.validated] == [epoch, 2 * epoch, 3 * epoch]
    averages = spy.averages(0.8)
    for at, weights in spy.validated:
        close(weights, averages[at - 1])
        assert not all(torch.equal(a, b) for a, b in zip(weights, spy.steps[at - 1], strict=True))
    for before, start in zip(spy.steps, spy.starts[1:], strict=False):
        assert all(torch.equal(a, b) for a, b in zip(before, start, strict=True))
    # the model of the folder is one of those that were validated
    from lyra.models import Lyra, LyraForTokenClassification

    kind = Lyra if task == "regression" else LyraForTokenClassification
    saved = [weight.detach() for weight in kind.from_pretrained(str(tmp_path / "run" / "model")).parameters()]
    fits = [
        all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(saved, each[: len(saved)], strict=True))
        for _, each in spy.validated
    ]
    history = read_csv(tmp_path / "run" / "history.csv")
    name = "val_r2" if task == "regression" else "val_auroc"
    best = max(range(3), key=lambda i: (float(history[i][name]), -float(history[i]["val_loss"])))
    assert fits.index(True) == best


def test_recorded_steps_have_the_same_averages(lyra, tmp_path, recorder):  # noqa: F811
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(80))
    found = []
    for option in ("--no-graphs", "--graphs"):
        with pytest.MonkeyPatch.context() as patch:
            spy = Spy(patch)
            outcome = lyra("train", table, "--out", tmp_path / option, *PLAIN, "--average", "0.9", option)
        assert outcome.code == 0, outcome.err
        found.append(spy.validated)
    assert recorder.replayed > 0 and [at for at, _ in found[0]] == [at for at, _ in found[1]]
    for (_, plain), (_, graphed) in zip(*found, strict=True):
        for a, b in zip(plain, graphed, strict=True):
            torch.testing.assert_close(a, b, rtol=5e-3, atol=5e-4)


# ---- resumed -----------------------------------------------------------------------------------------------------
def interrupt_network(patch: pytest.MonkeyPatch, number: int, steps: int) -> list[str]:
    """Interrupts the network of that number in a step of it; returns the names of those that were trained."""
    fit, names = Workshop._fit, []
    count = [0]

    def fitting(self, trainer, module, loaders, checkpoint):
        count[0] += 1
        with pytest.MonkeyPatch.context() as inner:
            if count[0] == number:
                interrupt_after(inner, steps)
            fit(self, trainer, module, loaders, checkpoint)
        names.append(str(count[0]))

    patch.setattr(Workshop, "_fit", fitting)
    return names


def network_rows(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_csv(folder / "history.csv")]


@pytest.mark.parametrize("step", [3, 14])
@pytest.mark.parametrize(
    ("options", "number", "networks", "lengths"),
    [
        (("--mix", "none", "--average", "0.9"), 1, 1, (6, 12)),
        (("--mix", "none", "--ensemble", "2", "--average", "0.9", "--dropout", "0.1"), 2, 2, (6, 12)),
        (("--mix", "folds", "--average", "0.9"), 3, 5, (10, 10)),
        (("--mix", "none", "--folds", "3", "--average", "0.9"), 2, 3, (6, 12)),
    ],
    ids=["one", "ensemble", "mix", "folds"],
)
def test_a_resumed_run_is_the_whole_run(lyra, tmp_path, options, number, networks, lengths, step):
    """To the bit, averages included; networks that are finished are not trained again."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(75, *lengths))
    command = ("train", table, *BASE, "--epochs", "3", *options, "--out")
    assert lyra(*command, tmp_path / "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        done = interrupt_network(patch, number, step)
        outcome = lyra(*command, tmp_path / "halves")
    assert outcome.code == 130 and len(done) == number - 1, outcome.err
    assert "--resume" in outcome.err and not (tmp_path / "halves" / "model").exists()
    for path in (tmp_path / "halves").glob("checkpoints/*/last.ckpt"):  # of the last epoch, the best one or not
        last = torch.load(path, weights_only=True)
        rows = next(state["rows"] for state in last["callbacks"].values() if "rows" in state)
        written = network_rows(tmp_path / "halves")
        assert len(rows) == last["epoch"] + 1 == sum(row.get("network") == rows[0].get("network") for row in written)
    with pytest.MonkeyPatch.context() as patch:
        done = interrupt_network(patch, 0, 0)
        outcome = lyra(*command, tmp_path / "halves", "--resume")
    assert outcome.code == 0, outcome.err
    assert len(done) == networks - number + 1, "finished networks are not trained again"
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert not (tmp_path / "halves" / "checkpoints").exists()
    assert len({row.get("network") for row in network_rows(tmp_path / "halves")}) == networks
