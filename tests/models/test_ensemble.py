"""Ensembles and models with positions: what they compute, spelled out; saved, loaded, copied, differentiated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lyra.baselines import Ridge
from lyra.models import Ensemble, Lyra, LyraByPosition, LyraForTokenClassification
from lyra.models.ensemble import SHARED
from lyra.outputs import RegressionOutput, SeveralOutputs
from lyra.transforms import Log, Rank

LENGTH = 7


def network(seed: int, kind: type = Lyra, **options) -> Lyra:
    torch.manual_seed(seed)
    model = kind(d_input=4, d_model=8, d_state=4, num_pgc_layers=1, num_s4_layers=1, dropout=0.0, **options).eval()
    for parameter in model.parameters():  # nothing that starts at zero hides
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def ridge(seed: int) -> Ridge:
    torch.manual_seed(seed)
    model = Ridge(LENGTH, 4)
    model.weights.copy_(torch.randn(LENGTH, 4, dtype=torch.float64))
    model.intercept.fill_(0.3)
    return model


def mixed() -> tuple[Ensemble, list, list]:
    """Two networks with scales of their own, and a ridge that both share."""
    models = [network(0), network(1), ridge(2)]
    outputs = [RegressionOutput("sigmoid", 1.5, 2.0, -1.0, 3.0), RegressionOutput("linear", -0.5, 0.7), None]
    options = {"intercept": 0.25, "mean": 1.0, "std": 4.0}
    return Ensemble.of(models, outputs, [0.3, 0.3, 0.5], [0, 1, SHARED], **options), models, outputs


def tokens(count: int = 5, seed: int = 3) -> torch.Tensor:
    found = torch.randint(4, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    found[0, 2] = -1
    return found


def test_numbers_are_mixed_in_the_targets_units():
    ensemble, models, outputs = mixed()
    x = tokens()
    with torch.no_grad():
        each = [
            output.predict(model(x)[:, 0]) if output else model(x)[:, 0]
            for model, output in zip(models, outputs, strict=True)
        ]
        expected = 0.25 + 0.3 * each[0] + 0.3 * each[1] + 0.5 * each[2]
        torch.testing.assert_close(ensemble(x)[:, 0] * 4 + 1, expected, rtol=1e-6, atol=1e-6)
        replicates = ensemble.replicated(x)
    torch.testing.assert_close(replicates.mean(0), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(replicates[0] - replicates[1], 0.6 * (each[0] - each[1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
def test_probabilities_are_averaged(kind):
    models = [network(seed, kind, d_output=3) for seed in range(3)]
    ensemble = Ensemble.of(models, [None] * 3, [1 / 3] * 3, range(3), classes=True)
    x, lengths = tokens(), torch.tensor([7, 3, 1, 5, 7])
    with torch.no_grad():
        expected = torch.stack([model(x, lengths=lengths).double().softmax(-1) for model in models]).mean(0)
        torch.testing.assert_close(ensemble(x, lengths=lengths).softmax(-1), expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(ensemble.replicated(x, lengths=lengths).mean(0), expected, rtol=1e-6, atol=1e-9)


def test_scales_and_several_targets_are_averaged_in_their_units(tmp_path):
    """Each member comes back from its own scale first; so from a folder, too."""
    curve = Rank(np.array([1.0, 4.0, 9.0, 20.0]), np.array([-1.5, -0.2, 0.3, 1.1]))
    scales = [
        SeveralOutputs([RegressionOutput("linear", 0.3, 1.2, transform=Log()), RegressionOutput("sigmoid", 5.0, 2.0)]),
        SeveralOutputs([RegressionOutput("linear", 0.1, 0.7, transform=curve), RegressionOutput("linear", 4.0, 3.0)]),
    ]
    models = [network(seed, d_output=2) for seed in (0, 1)]
    ensemble = Ensemble.of(models, scales, [0.5, 0.5], [0, 1], mean=[2.0, 5.0], std=[3.0, 0.5])
    x = tokens()
    with torch.no_grad():
        raw = [model(x).double() for model in models]
        low, high = (float(end) for end in (scales[0].each()[1].low, scales[0].each()[1].high))
        first = [10 ** (raw[0][:, 0] * 1.2 + 0.3), (low + (high - low) * torch.sigmoid(raw[0][:, 1])) * 2 + 5]
        ranked = np.interp(raw[1][:, 0] * 0.7 + 0.1, curve.scores, curve.values)
        second = [torch.from_numpy(ranked), raw[1][:, 1] * 3 + 4]
        expected = (torch.stack(first, 1) + torch.stack(second, 1)) / 2
        units = torch.tensor([3.0, 0.5]), torch.tensor([2.0, 5.0])
        ensemble.save_pretrained(tmp_path)
        for each in (ensemble, Ensemble.from_pretrained(str(tmp_path))):
            torch.testing.assert_close(each(x) * units[0] + units[1], expected, rtol=1e-5, atol=1e-6)
            assert each(x).dtype == torch.float64


def test_probabilities_of_labels_are_averaged(tmp_path):
    models = [network(seed, d_output=3) for seed in range(3)]
    ensemble = Ensemble.of(models, [None] * 3, [1 / 3] * 3, range(3), labels=True)
    ensemble.save_pretrained(tmp_path)
    x = tokens()
    with torch.no_grad():
        expected = torch.stack([torch.sigmoid(model(x).double()) for model in models]).mean(0)
        for each in (ensemble, Ensemble.from_pretrained(str(tmp_path))):
            torch.testing.assert_close(torch.sigmoid(each(x)), expected, rtol=1e-9, atol=1e-9)
    assert torch.isfinite(ensemble.raw(torch.tensor([0.0, 1.0], dtype=torch.float64))).all()


def test_an_ensemble_is_saved_and_loaded(tmp_path):
    """Each member in its own dtype, and the metadata, to the bit."""
    ensemble, _, _ = mixed()
    ensemble.metadata = {"note": [1, "two"]}
    ensemble.save_pretrained(tmp_path)
    again = Ensemble.from_pretrained(str(tmp_path))
    assert again.metadata == ensemble.metadata and again.config == ensemble.config
    with torch.no_grad():
        torch.testing.assert_close(again(tokens()), ensemble(tokens()), rtol=0, atol=0)
        torch.testing.assert_close(copy.deepcopy(ensemble)(tokens()), ensemble(tokens()), rtol=0, atol=0)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32, torch.float64}
    with pytest.raises(ValueError, match="holds a Ensemble, which Lyra cannot load"):
        Lyra.from_pretrained(str(tmp_path))


def test_letters_as_features_give_what_tokens_give_and_gradients():
    ensemble, _, _ = mixed()
    x = tokens()
    features = torch.nn.functional.one_hot(x.clamp(min=0), 4).float() * (x >= 0).unsqueeze(-1)
    features.requires_grad_()
    torch.testing.assert_close(ensemble(features), ensemble(x), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(ensemble(features).sum(), features)
    shift = 1e-3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = (ensemble(features + shift) - ensemble(features - shift)).sum() / 2
    torch.testing.assert_close((gradient * shift).sum().double(), change, rtol=2e-3, atol=1e-6)


def test_what_makes_no_ensemble_is_refused():
    config = {"kind": "Ridge", "config": {"length": 7, "letters": 4}, "weight": 1.0, "replicate": 0}
    for members, says in (
        ([], "must not be empty"), ([config | {"kind": "Ridgeback"}], "hold a Ridgeback"),
        ([config | {"replicate": 1}], "numbered from 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            Ensemble(members)


def test_positions_have_embeddings_of_their_own():
    """What the plain model makes of the sum of both embeddings."""
    model = network(0, LyraByPosition, length=LENGTH, d_output=2)
    plain = Lyra(**{name: value for name, value in model.config.items() if name != "length"}).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != "positions.weight"})
    x = tokens()
    with torch.no_grad():
        table = model.positions.weight
        plain.encode = lambda x: Lyra.encode(plain, x) + table  # type: ignore[method-assign]
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
        assert (model(x.roll(1, 1)) - model(x)).abs().min() > 1e-5, "the model knows where a letter stands"
    assert 0.01 < LyraByPosition(d_input=4, length=LENGTH).positions.weight.std() < 0.03


def test_initial_values_are_those_of_the_seed_on_every_road():
    torch.manual_seed(5)
    made = LyraByPosition(d_input=4, d_model=8, d_state=4, length=LENGTH)
    other = LyraByPosition(d_input=4, d_model=8, d_state=4, length=LENGTH, device="meta").to_empty(device="cpu")
    torch.manual_seed(5)
    other.reset_parameters()
    for (name, value), again in zip(made.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(again, value, rtol=0, atol=0, msg=name)


def test_a_model_with_positions_is_saved_and_loaded(tmp_path):
    model = network(0, LyraByPosition, length=LENGTH)
    model.save_pretrained(tmp_path)
    for again in (LyraByPosition.from_pretrained(str(tmp_path)), Lyra.from_pretrained(str(tmp_path))):
        assert type(again) is LyraByPosition
        np.testing.assert_array_equal(again(tokens()).detach(), model(tokens()).detach())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: model(tokens()[:, :6]), "must have 7 tokens a sequence.*not 6"),
        (lambda model: model(tokens()[:1], cu_seqlens=[0, 7]), "need no packing"),
        (lambda model: model.initial_state(2), "has no state; give it the whole sequence"),
        (lambda model: LyraByPosition(4, length=7, causal=True), "causal must be False"),
        (lambda model: LyraByPosition(4, length=0), "length"),
    ],
)
def test_a_model_with_positions_says_what_it_cannot_do(call, says):
    with pytest.raises(ValueError, match=says):
        call(network(0, LyraByPosition, length=LENGTH))
