"""`lyra train --ensemble`: the mean of networks, what else is said of it, and what may go wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from lyra.baselines import Ridge
from lyra.data import DataOptions
from lyra.data.coverage import Coverage
from lyra.errors import InputError
from lyra.models import Ensemble, Lyra, LyraForTokenClassification
from lyra.outputs import RegressionOutput
from lyra.prediction import Predictor
from lyra.training import Hardware, Recipe, train

from .conftest import (
    PAIRS,
    SMALL,
    classification_rows,
    random_sequences,
    read_csv,
    regression_rows,
    token_rows,
    write_table,
)

TABLES = {"regression": regression_rows(90, 6, 14), "classification": classification_rows(90), "token": token_rows()}
NEW = random_sequences(11, 4, 17, seed=9)
TASKS = list(TABLES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Ensembles of two, by task, and one of sequences of one length."""
    folder, found = tmp_path_factory.mktemp("ensembles"), {}
    for task, rows in (TABLES | {"one length": regression_rows(90)}).items():
        table = write_table(folder / f"{task}.csv", ["seq", "label"], rows)
        recipe = Recipe(d_model=8, d_state=4, epochs=2, ensemble=2, mix="none")
        train(table, folder / task, DataOptions(), recipe, Hardware("cpu"), console=Console(quiet=True))
        found[task] = folder / task
    return found


def by_hand(run, sequences, task):
    """What each member says, from the files alone: a batch for each sequence."""
    config = json.loads((run / "model" / "config.json").read_text())
    state = load_file(run / "model" / "model.safetensors")
    letters = config["metadata"]["alphabet"]["letters"]
    found = []
    for number, member in enumerate(config["members"]):
        network = {"Lyra": Lyra, "LyraForTokenClassification": LyraForTokenClassification}[member["kind"]](
            **member["config"]
        )
        prefix = f"members.{number}."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        network.eval()
        values = []
        with torch.no_grad():
            for sequence in sequences:
                raw = network(torch.tensor([[letters.index(letter) for letter in sequence]]))[0].double()
                if task == "regression":
                    output = member["output"]
                    own = {k.removeprefix(f"outputs.{number}."): v for k, v in state.items()}
                    low, high = float(own["low"]), float(own["high"])
                    unit = low + (high - low) * torch.sigmoid(raw[0])
                    values.append(float(unit) * output["std"] + output["mean"])
                else:
                    values.append(torch.softmax(raw, -1).numpy())
        found.append(values)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_the_mean_of_members_loaded_by_hand(runs, task):
    predictor = Predictor.from_pretrained(runs[task], "cpu")
    assert predictor.members == 2
    first, second = by_hand(runs[task], NEW, task)
    members, predicted = predictor.predict_members(NEW), predictor.predict(NEW)
    assert len(members) == len(predicted) == len(NEW)
    for i, sequence in enumerate(NEW):
        # members stand behind the rows, or behind the residues
        pair = np.stack([first[i], second[i]], 1 if task == "token" else 0)
        np.testing.assert_allclose(members[i], pair, rtol=2e-4, atol=1e-5)
        mean = (np.asarray(first[i]) + np.asarray(second[i])) / 2
        np.testing.assert_allclose(predicted[i], mean, rtol=2e-4, atol=1e-5)
        assert task != "token" or members[i].shape == (len(sequence), 2, 2)
    assert not np.allclose(np.asarray(members[0]).ravel()[0], np.asarray(members[0]).ravel()[-1]), "two, not one twice"


@pytest.mark.parametrize("task", [*TASKS, "one length"])
def test_saved_and_loaded_again(runs, tmp_path, task):
    loaded = Ensemble.from_pretrained(str(runs[task] / "model"))
    loaded.save_pretrained(tmp_path / "again")
    again = Ensemble.from_pretrained(str(tmp_path / "again"))
    x = torch.randint(4, (5, 10))
    with torch.no_grad():
        assert torch.equal(loaded(x), again(x)) and torch.equal(loaded.each(x), again.each(x))
    states = [load_file(folder / "model.safetensors") for folder in (runs[task] / "model", tmp_path / "again")]
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    one, other = (json.loads((f / "config.json").read_text()) for f in (runs[task] / "model", tmp_path / "again"))
    assert one == other


@pytest.mark.parametrize("task", TASKS)
def test_predictions_of_the_run_are_those_of_the_folder(lyra, runs, tmp_path, task):
    rows = read_csv(runs[task] / "predictions.csv")
    table = write_table(tmp_path / "t.csv", ["seq"], [(row["seq"],) for row in rows])
    assert lyra("predict", runs[task], table, "-o", tmp_path / "p.csv", "--device", "cpu").code == 0
    again = read_csv(tmp_path / "p.csv")
    more = {"regression": ["sd", "lower", "upper", "novel"], "classification": ["sd", "novel"], "token": []}[task]
    assert list(again[0])[-len(more) or None :] == (more or ["seq", "prediction"])
    for row, one in zip(rows, again, strict=True):
        assert all(row[name] == one[name] for name in one)


@pytest.mark.parametrize("task", TASKS)
def test_no_sequences(runs, task):
    predictor = Predictor.from_pretrained(runs[task], "cpu")
    shape = {"regression": (0, 2), "classification": (0, 2, 2)}
    found = predictor.predict_members([])
    assert found == [] if task == "token" else found.shape == shape[task]


def test_a_single_model_has_one_member(predictors):
    for task, predictor in predictors.items():
        assert predictor.members == 1
        found, alone = predictor.predict_members(NEW), predictor.predict(NEW)
        for members, one in zip(found, alone, strict=True):
            np.testing.assert_array_equal(np.take(members, 0, axis=1 if task == "token" else 0), one)


# ---- explain -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", [*TASKS, "one length"])
def test_explanations_of_ensembles_are_complete(lyra, runs, tmp_path, task):
    table = write_table(tmp_path / "one.csv", ["seq"], [("ACGTTGCAAC",)])
    at = ("--at", "4") if task == "token" else ()
    outcome = lyra("explain", runs[task], table, "-o", tmp_path / "out", "--steps", "200", "--device", "cpu", *at)
    assert outcome.code == 0, outcome.err
    from lyra.explain import attributions
    from lyra.settings.explain import ExplainOptions

    predictor = Predictor.from_pretrained(runs[task], "cpu")
    options = ExplainOptions(steps=200, at=4 if at else None)
    frame = attributions(predictor, "ACGTTGCAAC", options)
    difference = frame.attrs["predicted"] - frame.attrs["baseline_predicted"]
    assert abs(difference) > 1e-4
    assert frame["attribution"].sum() == pytest.approx(difference, rel=0.02, abs=1e-4)
    probabilities = predictor.predict(["ACGTTGCAAC"])[0]
    if task in ("regression", "one length"):
        assert frame.attrs["predicted"] == pytest.approx(float(probabilities), rel=1e-5)
    else:
        p = (probabilities[3] if at else probabilities).max()
        assert frame.attrs["predicted"] == pytest.approx(np.log(p / (1 - p)), rel=1e-4, abs=1e-5)
    written = [float(row["attribution"]) for row in read_csv(tmp_path / "out" / "attributions.csv")]
    np.testing.assert_allclose(written, frame["attribution"], rtol=2e-2, atol=1e-3)


# ---- lengths -----------------------------------------------------------------------------------------------------
def test_another_length_is_refused_with_its_row(lyra, runs, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq"], [("ACGTACGTAC",), ("ACGTACGTACG",), ("AC",)])
    outcome = lyra("predict", runs["one length"], table, "-o", tmp_path / "p.csv")
    assert outcome.code == 2 and not (tmp_path / "p.csv").exists()
    assert outcome.err.splitlines()[-1] == (
        f"lyra: error: {table}, row 3: has 11 letters, and the model reads sequences of 10 alone; give such, or train "
        "with --no-positions --mix none"
    )
    predictor = Predictor.from_pretrained(runs["one length"], "cpu")
    for call in (predictor.predict, predictor.predict_members):
        with pytest.raises(InputError, match="sequences, row 1: has 3 letters, and the model reads sequences of 10"):
            call(["ACGTACGTAC", "ACG"])


def test_a_folder_of_an_ensemble_is_no_lyra(runs):
    for kind in (Lyra, LyraForTokenClassification):
        with pytest.raises(ValueError, match=f"holds an? Ensemble, which {kind.__name__} cannot load"):
            kind.from_pretrained(str(runs["regression"] / "model"))


def test_a_folder_whose_members_are_unknown(lyra, runs, one, tmp_path):
    """Nothing but the known classes is built from a folder."""
    import shutil

    shutil.copytree(runs["regression"] / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    for change in ({"kind": "Linear"}, {"kind": "os.system"}, {"replicate": 7}, {"weight": "much"}):
        changed = [config["members"][0] | change, *config["members"][1:]]
        path.write_text(json.dumps(config | {"members": changed}))
        outcome = lyra("predict", tmp_path / "model", one, "-o", tmp_path / "p.csv")
        assert outcome.code == 2 and len(outcome.err.splitlines()) == 1, outcome.err
        assert "holds no usable model" in outcome.err
    for wrong in ([], [{}], "none", None):
        path.write_text(json.dumps(config | {"members": wrong}))
        outcome = lyra("predict", tmp_path / "model", one, "-o", tmp_path / "p.csv")
        assert outcome.code == 2 and len(outcome.err.splitlines()) == 1, outcome.err


# ---- the class ---------------------------------------------------------------------------------------------------
def test_replicates_shared_members_and_intercepts():
    """Against the formula, spelled out: two replicates of one network each, one shared, and an intercept for each."""
    torch.manual_seed(0)
    models = [Lyra(4, d_model=8, d_state=4).eval() for _ in range(3)]
    outputs = [RegressionOutput("linear", 3.0, 2.0) for _ in models]
    weights, intercepts = [0.4, 0.7, 0.3], [1.0, 5.0]
    ensemble = Ensemble.of(models, outputs, weights, [0, 1, -1], intercept=intercepts, mean=10.0, std=4.0)
    x = torch.randint(4, (6, 12))
    with torch.no_grad():
        own = [model(x)[:, 0].double() * 2 + 3 for model in models]
        whole = 0.4 * own[0] + 0.7 * own[1] + 0.3 * own[2] + 3.0
        torch.testing.assert_close(ensemble(x)[:, 0] * 4 + 10, whole, rtol=1e-6, atol=1e-6)
        replicates = torch.stack([0.8 * own[0] + 0.3 * own[2] + 1, 1.4 * own[1] + 0.3 * own[2] + 5])
        torch.testing.assert_close(ensemble.replicated(x), replicates, rtol=1e-6, atol=1e-6)
    assert ensemble.count == 2 and ensemble.to(torch.float64).to("cpu")(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replicates": [0, 2]}, "replicates must be numbered from 0"),
        ({"replicates": [0, -2]}, "replicates must be numbered from 0"),
        ({"intercept": [1.0, 2.0, 3.0]}, "intercept must be one number or 2"),
    ],
)
def test_ensembles_that_cannot_be(change, says):
    models = [Lyra(4, d_model=8, d_state=4) for _ in range(2)]
    arguments = {"replicates": [0, 1]} | change
    with pytest.raises(ValueError, match=says):
        Ensemble.of(models, [RegressionOutput("linear", 0.0, 1.0)] * 2, [0.5, 0.5], **arguments)
    with pytest.raises(ValueError, match="must not be empty"):
        Ensemble([])
    one = {"letters": Lyra(5, d_model=8, d_state=4), "outputs": Lyra(4, d_model=8, d_output=2, d_state=4)}
    for what, other in one.items():
        with pytest.raises(ValueError, match=f"members must all have the same {what}, got models of"):
            Ensemble.of([models[0], other], [None, None], [0.5, 0.5], [0, 1])
    with pytest.raises(ValueError, match="same letters, got models of 4 and 5"):
        Ensemble.of([models[0], Ridge(9, 5)], [None, None], [0.5, 0.5], [0, -1])


# ---- novelty -----------------------------------------------------------------------------------------------------
def test_what_is_new_about_a_sequence(runs):
    """By a loop over positions; nothing about a training sequence."""
    predictor = Predictor.from_pretrained(runs["one length"], "cpu")
    coverage = predictor.coverage
    assert coverage is not None and coverage.positions is not None
    parts = {row["seq"] for row in read_csv(runs["one length"] / "predictions.csv")}
    sequences = [*random_sequences(30, 10, 10, "ACGTN-", seed=3), *(s for s, _ in regression_rows(90))]
    found = predictor.novelty(predictor.encode(sequences))
    for sequence, novel in zip(sequences, found, strict=True):
        new = [f"{c}{i + 1}" for i, c in enumerate(sequence) if c not in coverage.positions[i]]
        assert novel == "; ".join(new)
    assert any(found[:30]) and not any(found[30:][i] for i, (s, _) in enumerate(regression_rows(90)) if s not in parts)


def test_lengths_and_letters_that_are_new(runs):
    predictor = Predictor.from_pretrained(runs["regression"], "cpu")
    coverage = predictor.coverage
    assert coverage == Coverage("ACGT", 6, 14), "the table has both ends in training"
    found = predictor.novelty(predictor.encode(["ACGTAC", "ACGTA", "ACGTACGTACGTACG", "ACNTACG", "A-"]))
    assert found == ["", "length 5", "length 15", "N3", "length 2; -2"]


def test_novelty_of_mutants_has_their_numbers(lyra, tmp_path):
    """Wild type QYKLI from residue 7 on: R at the second position is R8."""
    rng = np.random.default_rng(0)
    wild, rows = "QYKLI", []
    for _ in range(80):
        at, new = rng.integers(5), rng.choice(list("ACDEG"))
        rows.append((f"{wild[at]}{at + 7}{new}", f"{rng.normal() + at:.4f}"))
    rows = list(dict(rows).items())
    table = write_table(tmp_path / "t.csv", ["mutant", "score"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *PAIRS, "--ensemble", "2", "--wild-type", wild,
                   "--offset", "7")  # fmt: skip
    assert outcome.code == 0, outcome.err
    new = write_table(tmp_path / "n.csv", ["mutant"], [("Y8R",), ("Q7R:I11W",), (rows[0][0],)])
    outcome = lyra("predict", tmp_path / "run", new, "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    assert [row["novel"] for row in read_csv(tmp_path / "p.csv")][:2] == ["R8", "R7; W11"]


@pytest.mark.parametrize("number", ["0", "-1"])
def test_ensembles_of_none(lyra, tmp_path, number):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], TABLES["regression"])
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--ensemble", number)
    assert outcome.code == 2 and f"--ensemble {number}: must be above 0" in outcome.err
    assert not (tmp_path / "run").exists()


def test_an_ensemble_cannot_stream(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], TABLES["regression"])
    assert lyra("train", table, "--out", tmp_path / "run", *SMALL, "--ensemble", "2", "--one-way").code == 0
    (tmp_path / "g.fa").write_text(">a\nACGTACGTAC\n")
    outcome = lyra("predict", tmp_path / "run", tmp_path / "g.fa", "-o", tmp_path / "p.csv", "--stream")
    assert outcome.code == 2 and "is an ensemble, which cannot go through a sequence piece by piece" in outcome.err
