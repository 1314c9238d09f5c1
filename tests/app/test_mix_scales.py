"""Mixes of networks and simpler models of a target that is learned as a logarithm or a rank."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lyra.baselines import fit_ridge
from lyra.data import DataOptions, load_labelled
from lyra.models import Ensemble, Lyra
from lyra.outputs import RegressionOutput
from lyra.training import Recipe, fitting
from lyra.training.mixing import mixing_weights, simpler_models
from lyra.training.plan import plan
from lyra.training.rivals import ADDITIVE, fit_positions
from lyra.transforms import Log, Rank, read_transform

from .conftest import write_table
from .test_targets_together import SEQUENCES, affinities, numbers, run

PARTS = [("train", "val", "test")[(i % 3 > 0) + (i % 6 > 3)] for i in range(len(SEQUENCES))]
HEADER = ["seq", "y", "set"]
VALUES = [y for _, y in affinities()]


def rows_of(values=None) -> list[tuple]:
    cells = VALUES if values is None else values
    return list(zip(SEQUENCES, cells, PARTS, strict=True))


def additive_alone(data, train, val):
    return fit_positions(data, train, val, linear=True)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("kind", ["log", "rank"])
def test_a_mix_on_a_scale_by_its_formula(kind, each):
    """Two replicates of one network each, one shared, an intercept and, where there are folds, a curve for each."""
    torch.manual_seed(0)
    curves = [Rank.fit(np.exp(np.random.default_rng(seed).normal(size=30))) for seed in range(2)]
    scales = [Log(), Log()] if kind == "log" else curves if each else [curves[0]] * 2
    given = [scale.to_json() for scale in scales] if each else scales[0].to_json()
    models = [Lyra(4, d_model=8, d_state=4).eval() for _ in range(3)]
    outputs = [RegressionOutput("linear", 0.1, 0.8, transform=Log()) for _ in models]
    ensemble = Ensemble.of(
        models, outputs, [0.4, 0.5, 0.3], [0, 1, -1], intercept=[0.2, -0.1], scale=given, mean=2.0, std=4.0
    )
    x = torch.randint(4, (6, 12))
    with torch.no_grad():
        own = [10 ** (model(x)[:, 0].double() * 0.8 + 0.1) for model in models]
        first = scales[0].invert(0.8 * scales[0](own[0]) + 0.3 * scales[0](own[2]) + 0.2)
        second = scales[1].invert(scales[1](own[1]) + 0.3 * scales[1](own[2]) - 0.1)
        torch.testing.assert_close(ensemble.replicated(x), torch.stack([first, second]), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(ensemble(x)[:, 0] * 4 + 2, (first + second) / 2, rtol=1e-6, atol=1e-9)
    again = Ensemble(**json.loads(json.dumps(ensemble.config)))
    again.load_state_dict(ensemble.state_dict())
    torch.testing.assert_close(again.eval()(x), ensemble(x), rtol=0, atol=0)
    old = {name: value for name, value in ensemble.config.items() if name != "scale"}  # of earlier versions
    assert Ensemble(**old).scales == [None, None]


def test_simpler_models_learn_on_the_scale(tmp_path):
    """What a ridge regression of the logarithms predicts, as a power of ten."""
    data = load_labelled(write_table(tmp_path / "t.csv", HEADER, rows_of()), DataOptions(transform="log"), print)
    train, val = data.rows("train"), data.rows("val")
    tokens, values = data.tokens.reshape(len(SEQUENCES), -1), np.log10(np.array(data.values))
    ridge = fit_ridge(tokens[train], values[train], tokens[val], values[val], len(data.alphabet))
    found = next(each for each in simpler_models(fit_positions(data, train, val), 0, 0) if each.kind == ADDITIVE)
    predicted = found.output.predict(found.output.select(found.model(torch.from_numpy(tokens))))
    np.testing.assert_allclose(predicted, 10 ** ridge.predict(tokens), rtol=1e-6)


@pytest.mark.parametrize("transform", ["log", "rank"])
def test_weights_are_those_of_least_squares_on_the_scale(tmp_path, transform):
    """Of two networks and simpler models by the validation part, all from what the folder's members predict."""
    results, rows, predictor = run(tmp_path, HEADER, rows_of(), {"transform": transform}, mix="validation", ensemble=2)
    data = load_labelled(tmp_path / "t.csv", DataOptions(transform=transform), print)
    model, val = predictor.model, data.rows("val")
    curve = Log() if transform == "log" else Rank.fit(data.labels("train"))
    assert read_transform(model.config["scale"]).to_json() == curve.to_json()
    with torch.no_grad():
        each = curve(model.each(torch.from_numpy(data.tokens.reshape(len(SEQUENCES), -1)[val]).long())).numpy()
    kinds = [type(member).__name__ for member in model.members]
    assert sum(results.shares.values()) > 0.3 and (kinds.count("LyraByPosition") in (0, 2))
    together = [
        np.mean([x for x, name in zip(each, kinds, strict=True) if name == kind], 0) for kind in dict.fromkeys(kinds)
    ]
    weights, intercept = mixing_weights(np.stack(together, 1), curve(torch.from_numpy(data.labels("val"))).numpy())
    np.testing.assert_allclose(list(results.shares.values()), weights, rtol=1e-3, atol=1e-3)
    assert model.intercepts[0] == pytest.approx(intercept, rel=1e-3, abs=1e-3)
    predicted = numbers(rows, ["prediction"])[:, 0]
    sequences = [row["seq"] for row in rows]
    np.testing.assert_allclose(predictor.predict(sequences), predicted, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(predictor.predict_members(sequences)).mean(1), predicted, rtol=1e-5)
    assert (predicted > 0).all() and predicted.max() < 10 * max(float(np.max(v)) for v in data.values)


@pytest.mark.parametrize("more", [{"mix": "validation"}, {"mix": "folds"}, {"mix": "validation", "folds": 3}],
                         ids=["validation", "inner folds", "folds"])  # fmt: skip
def test_a_mix_of_logarithms_is_one_of_their_numbers(tmp_path, monkeypatch, more):
    """Of one epoch, and of simpler models the one in closed form: every replicate is ten to the power of it."""
    monkeypatch.setattr(fitting, "fit_positions", additive_alone)
    logarithms = np.round(np.log10([float(y) for y in VALUES]), 4)
    found = []
    for name, values, transform in (("log", 10**logarithms, "log"), ("none", logarithms, "none")):
        (tmp_path / name).mkdir()
        drawn = {"folds": 3, "split": "none", "stratify": False}  # by tenths of the numbers, folds would differ
        options = {"transform": transform} | (drawn if "folds" in more else {})
        cells = [repr(float(value)) for value in values]
        found.append(run(tmp_path / name, HEADER, rows_of(cells), options, epochs=1, output="linear", mix=more["mix"]))
    (logs, rows, of_logs), (plain, others, of_numbers) = found
    assert logs.shares.keys() == plain.shares.keys() and ADDITIVE in logs.shares
    np.testing.assert_allclose(list(logs.shares.values()), list(plain.shares.values()), rtol=1e-3, atol=1e-4)
    members = np.asarray(of_logs.predict_members(SEQUENCES))
    np.testing.assert_allclose(np.log10(members), of_numbers.predict_members(SEQUENCES), atol=1e-3)
    np.testing.assert_allclose(of_logs.predict(SEQUENCES), members.mean(1), rtol=1e-5)
    if more["mix"] == "validation":  # elsewhere a mean of numbers in other units
        left = [numbers(table, ["prediction"])[:, 0] for table in (rows, others)]
        np.testing.assert_allclose(np.log10(left[0]), left[1], atol=1e-3)
    if of_logs.calibrations:
        assert of_logs.calibrations[0].rows == of_numbers.calibrations[0].rows
        assert (of_logs.interval(members, 0.8) > 0).all()


@pytest.mark.parametrize("mix", ["validation", "folds"])
def test_a_row_left_out_is_predicted_by_its_folds_mix(tmp_path, monkeypatch, mix):
    """Of ranks, whose curve each fold has from its own rows: the run's table is that of the folder's replicates."""
    monkeypatch.setattr(fitting, "fit_positions", additive_alone)
    rows = [(*row[:2], i % 3) for i, row in enumerate(rows_of())]
    options = {"transform": "rank", "folds": "fold", "target": "y"}
    results, table, predictor = run(tmp_path, ["seq", "y", "fold"], rows, options, epochs=1, mix=mix)
    scales = predictor.model.config["scale"]
    assert predictor.members == 3 and len(scales) == 3 and scales[0] != scales[1]
    members = np.asarray(predictor.predict_members([row["seq"] for row in table]))
    fold = {sequence: number for sequence, _, number in rows}
    own = members[np.arange(len(table)), [fold[row["seq"]] for row in table]]
    np.testing.assert_allclose(numbers(table, ["prediction"])[:, 0], own, rtol=1e-4)
    assert len(results.folds["Lyra"]) == 3 and predictor.calibrations[0].rows == len(SEQUENCES)


@pytest.mark.parametrize("transform", ["none", "log", "rank"])
def test_the_plan_mixes_on_every_scale(tmp_path, transform):
    data = load_labelled(write_table(tmp_path / "t.csv", HEADER, rows_of()), DataOptions(transform=transform), print)
    recipe, said = plan(Recipe(), data)
    assert recipe.mix == "folds" and "mixed with simpler models" in said
