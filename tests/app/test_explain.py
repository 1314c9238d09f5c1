"""`lyra.explain`: against explicit mutants, and against models known in closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from lyra.alphabets import DNA, PROTEIN
from lyra.errors import InputError
from lyra.explain import ExplainOptions, as_matrix, attributions, epistasis, mutagenesis, sensitive_positions
from lyra.prediction import Predictor

from .conftest import random_sequences

LENGTH = 7
ROUNDING = 2e-5


class Additive(nn.Module):
    """A weight for each letter at each position, and optionally one for a pair of letters at two positions."""

    def __init__(self, letters: int, pair: tuple[int, int, int, int, float] | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(LENGTH, letters, generator=generator, dtype=torch.float64))
        self.pair = pair

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if x.dim() == 2:
            x = nn.functional.one_hot(x.clamp(min=0), self.weight.shape[1]) * (x >= 0).unsqueeze(-1)
        x = x.to(self.weight.dtype)
        out = (x * self.weight).sum((1, 2))
        if self.pair is not None:
            i, a, j, b, strength = self.pair
            out = out + strength * x[:, i, a] * x[:, j, b]
        return out.unsqueeze(-1)


def predictor_of(model: nn.Module, alphabet=DNA, kind: str = "linear") -> Predictor:
    described = {name: getattr(alphabet, name) for name in ("name", "letters", "unknown", "aliases")}
    output = {"kind": kind, "mean": 1.5, "std": 2.0} | ({"low": 1.0, "high": -2.0} if kind == "sigmoid" else {})
    source = {"column": "seq", "mutant": False, "target": "binding"}
    return Predictor(
        model, {"alphabet": described, "targets": {"task": "regression"}, "output": output, "source": source}
    )


@pytest.fixture
def additive() -> tuple[Predictor, np.ndarray]:
    """A predictor and the weights (LENGTH, 4) of its bases in the target's units."""
    model = Additive(len(DNA))
    return predictor_of(model), 2.0 * model.weight.detach().numpy()[:, :4]


SEQUENCE = "ACGTTAC"
TOKENS = np.array([DNA.letters.index(letter) for letter in SEQUENCE])


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_mutagenesis_of_an_additive_model(additive, batch_size):
    predictor, weight = additive
    frame = mutagenesis(predictor, SEQUENCE, ExplainOptions(batch_size=batch_size))
    assert len(frame) == LENGTH * 3 and frame.attrs["unit"] == "binding"
    assert set(frame["letter"]) == set("ACGT"), "a gap is no substitution"
    for row in frame.itertuples():
        site = row.position - 1
        expected = weight[site, DNA.letters.index(row.letter)] - weight[site, TOKENS[site]]
        assert row.change == pytest.approx(expected, abs=ROUNDING)
        assert row.wild_type == SEQUENCE[site] != row.letter
        assert row.mutant == f"{row.wild_type}{row.position}{row.letter}"


@pytest.mark.parametrize("baseline", ["average", "unknown"])
def test_attributions_of_an_additive_model(additive, baseline):
    predictor, weight = additive
    frame = attributions(predictor, SEQUENCE, ExplainOptions(baseline=baseline, steps=3))
    expected = weight[np.arange(LENGTH), TOKENS]
    if baseline == "average":
        expected = expected - weight.mean(1)
    np.testing.assert_allclose(frame["attribution"], expected, atol=ROUNDING)
    assert list(frame["letter"]) == list(SEQUENCE)
    assert frame.attrs["completeness_error"] < ROUNDING
    difference = frame.attrs["predicted"] - frame.attrs["baseline_predicted"]
    assert expected.sum() == pytest.approx(difference, abs=ROUNDING)


@pytest.mark.parametrize("samples", [4, 1000])
def test_an_additive_model_has_no_epistasis(additive, samples):
    frame = epistasis(additive[0], SEQUENCE, ExplainOptions(pair_samples=samples))
    assert len(frame) == LENGTH * (LENGTH - 1) // 2
    assert frame[["rms", "mean", "strongest_epistasis"]].abs().max().max() < ROUNDING


def test_epistasis_is_the_pair_term():
    """One pair of letters that the sequence lacks: only the double mutant has the term."""
    i, j, strength = 1, 4, 3.0
    a, b = DNA.letters.index("G"), DNA.letters.index("A")
    predictor = predictor_of(Additive(len(DNA), (i, a, j, b, strength)))
    frame = epistasis(predictor, SEQUENCE, ExplainOptions(offset=10))
    hit = (frame["position_1"] == i + 10) & (frame["position_2"] == j + 10)
    assert hit.sum() == 1
    assert frame[~hit]["rms"].max() < ROUNDING
    found = frame[hit].iloc[0]
    assert found["strongest"] == "C11G:T14A"
    assert found["strongest_epistasis"] == pytest.approx(2 * strength, abs=ROUNDING)
    assert found["rms"] == pytest.approx(2 * strength / 3, abs=ROUNDING), "one of 9 pairs of letters"
    assert found["mean"] == pytest.approx(2 * strength / 9, abs=ROUNDING)
    matrix = as_matrix(frame)
    assert matrix.shape == (LENGTH, LENGTH) and matrix.loc[11, 14] == matrix.loc[14, 11] == found["rms"]
    assert np.isnan(np.diag(matrix)).all()


def test_epistasis_draws_the_same_pairs_again():
    """And different ones for another seed; every drawn double mutant is one."""
    predictor = predictor_of(Additive(len(PROTEIN), (1, 2, 4, 5, 3.0)), PROTEIN)
    first, again, other = (
        epistasis(predictor, "MKTAYIA", ExplainOptions(pair_samples=60, seed=seed)) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_the_latent_scale_undoes_the_sigmoid():
    """Through a falling sigmoid an additive model has epistasis in the target, none before it, and more stays more."""
    predictor = predictor_of(Additive(len(DNA)), kind="sigmoid")
    assert epistasis(predictor, SEQUENCE)["rms"].max() > 0.01
    latent = ExplainOptions(scale="latent")
    assert epistasis(predictor, SEQUENCE, latent)["rms"].max() < ROUNDING
    target, before = mutagenesis(predictor, SEQUENCE), mutagenesis(predictor, SEQUENCE, latent)
    assert (np.sign(target["change"]) == np.sign(before["change"])).all()
    assert before.attrs["unit"] == "binding before the sigmoid"


def test_numbering_and_positions(additive):
    predictor, _ = additive
    whole = mutagenesis(predictor, SEQUENCE, ExplainOptions(offset=-2))
    part = mutagenesis(predictor, SEQUENCE, ExplainOptions(offset=-2, positions="-1-1,4,0"))
    assert list(whole["position"].unique()) == [-2, -1, 0, 1, 2, 3, 4]
    assert list(part["position"].unique()) == [-1, 0, 1, 4]
    expected = whole[whole["position"].isin([-1, 0, 1, 4])].reset_index(drop=True)
    np.testing.assert_allclose(part["change"], expected["change"], atol=ROUNDING)
    assert list(part["mutant"]) == list(expected["mutant"])
    assert list(attributions(predictor, SEQUENCE, ExplainOptions(positions=[7, 2]))["position"]) == [2, 7]


def test_letters_that_are_none(additive):
    """Unknown letters and gaps are not substituted, have no features, and keep their attribution for the sum."""
    predictor, weight = additive
    sequence = "acNT-Uc"
    frame = mutagenesis(predictor, sequence)
    assert list(frame["position"].unique()) == [1, 2, 4, 6, 7]
    assert "".join(frame.groupby("position")["wild_type"].first()) == "ACTTC"
    found = attributions(predictor, sequence, ExplainOptions(steps=2))
    assert list(found["letter"]) == list("ACNT-TC") and found.attrs["completeness_error"] < ROUNDING
    assert found["attribution"][2] == pytest.approx(-weight[2].mean(), abs=ROUNDING)
    assert mutagenesis(predictor, "N" * LENGTH).empty and sensitive_positions(mutagenesis(predictor, "N" * 7)).empty


def test_sensitive_positions(additive):
    predictor, weight = additive
    table = sensitive_positions(mutagenesis(predictor, SEQUENCE, ExplainOptions(offset=5)), 3)
    change = weight - weight[np.arange(LENGTH), TOKENS][:, None]
    size = np.sqrt(np.square(change).sum(1) / 3)
    best = np.argsort(-size)[:3]
    assert list(table["position"]) == list(best + 5)
    np.testing.assert_allclose(table["rms"], size[best], atol=ROUNDING)
    np.testing.assert_allclose(table["mean"], change.sum(1)[best] / 3, atol=ROUNDING)
    for row, site in zip(table.itertuples(), best, strict=True):
        others = [token for token in range(4) if token != TOKENS[site]]
        assert row.lowest[-1] == DNA.letters[min(others, key=lambda token: change[site, token])]
        assert row.highest_change == pytest.approx(change[site, others].max(), abs=ROUNDING)


def mutants(sequence: str, frame: pd.DataFrame, offset: int = 1) -> list[str]:
    return [
        sequence[: position - offset] + letter + sequence[position - offset + 1 :]
        for position, letter in zip(frame["position"], frame["letter"], strict=True)
    ]


def log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("sequence", ["G", *random_sequences(3, 5, 40, seed=9)])
def test_mutagenesis_is_what_predict_says(predictors, sequence):
    predictor = predictors["regression"]
    frame = mutagenesis(predictor, sequence)
    np.testing.assert_allclose(frame["predicted"], predictor.predict(mutants(sequence, frame)), rtol=1e-4, atol=1e-5)
    own = float(predictor.predict([sequence])[0])
    np.testing.assert_allclose(frame["predicted"] - frame["change"], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_name", [None, "high", "low"])
def test_classes(predictors, class_name):
    """Log-odds and probabilities of the class named, or of the one predicted for the sequence itself."""
    predictor, sequence = predictors["classification"], "GATTGCGGATCA"
    own = predictor.predict([sequence])[0].astype(np.float64)
    index = own.argmax() if class_name is None else predictor.targets.classes.index(class_name)
    frame = mutagenesis(predictor, sequence, ExplainOptions(class_name=class_name))
    expected = predictor.predict(mutants(sequence, frame))[:, index].astype(np.float64)
    assert set(frame["class"]) == {predictor.targets.classes[index]}
    np.testing.assert_allclose(frame["probability"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(frame["predicted"], log_odds(expected), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(frame["change"], log_odds(expected) - log_odds(own[index]), rtol=1e-3, atol=1e-3)
    direct = mutagenesis(predictor, sequence, ExplainOptions(class_name=class_name, scale="probability"))
    np.testing.assert_allclose(direct["change"], expected - own[index], rtol=1e-4, atol=1e-5)


def test_a_class_per_residue(predictors):
    """Each substitution is scored where it happens, for the class predicted there; or all of them at one position."""
    predictor, sequence, offset = predictors["token"], "GATTGCGGATCA", 4
    own = predictor.predict([sequence])[0].astype(np.float64)
    classes = own.argmax(-1)
    frame = mutagenesis(predictor, sequence, ExplainOptions(offset=offset))
    probabilities = predictor.predict(mutants(sequence, frame, offset))
    sites = frame["position"].to_numpy() - offset
    expected = np.array([p[site, classes[site]] for p, site in zip(probabilities, sites, strict=True)])
    np.testing.assert_allclose(frame["probability"], expected, rtol=1e-4, atol=1e-6)
    change = log_odds(expected.astype(np.float64)) - log_odds(own[sites, classes[sites]])
    np.testing.assert_allclose(frame["change"], change, rtol=1e-3, atol=1e-3)
    assert list(frame["class"]) == [predictor.targets.classes[i] for i in classes[sites]]

    fixed = mutagenesis(predictor, sequence, ExplainOptions(offset=offset, at=6, class_name="1"))
    np.testing.assert_allclose(fixed["probability"], [p[2, 1] for p in probabilities], rtol=1e-4, atol=1e-6)
    found = attributions(predictor, sequence, ExplainOptions(offset=offset, at=6))
    assert found["attribution"].abs().idxmax() == 2, "the residue itself decides"
    assert len(epistasis(predictor, sequence, ExplainOptions(offset=offset, at=6, positions="5-8"))) == 6
    for function in (attributions, epistasis):
        with pytest.raises(InputError, match="a class to each residue; choose one of them with at"):
            function(predictor, sequence)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("baseline", ["average", "unknown"])
def test_integrated_gradients_are_complete(predictors, task, baseline):
    """The sum comes near the difference of the outputs, nearer with more steps, and the error is told."""
    errors = []
    for steps in (8, 512):
        options = ExplainOptions(baseline=baseline, steps=steps)
        frame = attributions(predictors[task], "GATTGCGGATCAGGCTA", options)
        difference = frame.attrs["predicted"] - frame.attrs["baseline_predicted"]
        error = abs(frame["attribution"].sum() - difference)
        assert error == pytest.approx(frame.attrs["completeness_error"], abs=1e-9)
        errors.append(error / frame["attribution"].abs().sum())
    assert errors[-1] < 0.005, errors
    part = attributions(predictors[task], "GATTGCGGATCAGGCTA", ExplainOptions(baseline=baseline, positions="3-5"))
    assert part.attrs["completeness_error"] < 0.1, "the error is of all positions, whichever are asked for"


@pytest.mark.parametrize("steps", [9, 300])
def test_integrated_gradients_are_captums(predictors, steps):
    """The same integral by the same midpoint rule, in float64 here and in float32 there."""
    captum = pytest.importorskip("captum.attr")
    predictor, sequence = predictors["regression"], "GATTGCGGATCAGGCTA"
    letters = nn.functional.one_hot(torch.from_numpy(DNA.encode(sequence)).long(), len(DNA)).float().unsqueeze(0)
    average = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0]).expand_as(letters)
    method = captum.IntegratedGradients(lambda x: predictor.output.predict(predictor.model(x)[..., 0]))
    expected = method.attribute(letters, average, n_steps=steps, method="riemann_middle").sum(-1)[0].numpy()
    found = attributions(predictor, sequence, ExplainOptions(steps=steps))
    np.testing.assert_allclose(found["attribution"], expected, rtol=1e-4, atol=1e-6)


def test_attributions_leave_the_model_alone(predictors):
    """No gradients stay behind, and whether weights have them is no matter."""
    model = predictors["regression"].model
    before = attributions(predictors["regression"], "GATTACA")
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    model.requires_grad_(False)
    pd.testing.assert_frame_equal(before, attributions(predictors["regression"], "GATTACA"))


def test_bad_sequences_in_python(additive):
    predictor, _ = additive
    with pytest.raises(InputError, match="sequence: letter 'L' at position 3 is not in the dna alphabet"):
        mutagenesis(predictor, "GAL")
    with pytest.raises(InputError, match="sequence: is empty"):
        attributions(predictor, "")
    with pytest.raises(InputError, match="positions 8: sequence has positions 1 to 7"):
        epistasis(predictor, SEQUENCE, ExplainOptions(positions=[1, 8]))
    with pytest.raises(InputError, match="scale latent: this model has no sigmoid"):
        mutagenesis(predictor, SEQUENCE, ExplainOptions(scale="latent"))
    predictor.model.weight.data[0] = float("nan")
    with pytest.raises(InputError, match="sequence: the prediction is not a finite number"):
        mutagenesis(predictor, SEQUENCE)
