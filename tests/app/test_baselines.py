"""The models to beat, as torch modules, against brute force, closed forms and data that they can explain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lyra import baselines
from lyra.baselines import additive, kmers, latent, windows
from lyra.data import batches
from lyra.metrics import evaluate


def additive_data(rows: int = 600, length: int = 6, letters: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens, a few of them unknown, and an additive quantity of them."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(-1, letters, size=(rows, length))
    weights = rng.normal(size=(length, letters))
    return tokens, np.where(tokens >= 0, weights[np.arange(length), tokens], 0).sum(axis=1)


def test_ridge_is_ridge(monkeypatch):
    """The closed form against the stacked least-squares problem, at one penalty."""
    monkeypatch.setattr(additive, "PENALTIES", (3.0,))
    tokens, values = additive_data()
    values = values + np.random.default_rng(2).normal(size=len(values))
    model = baselines.fit_ridge(tokens, values, tokens, values, 4)
    x = baselines.one_hot(tokens, 4).toarray()
    x, y = x - x.mean(0), values - values.mean()
    stacked = np.vstack([x, np.sqrt(3.0) * np.eye(x.shape[1])])
    expected = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
    np.testing.assert_allclose(model.weights.numpy().ravel(), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.predict(tokens), x @ expected + values.mean(), rtol=1e-9, atol=1e-9)


def test_one_hot_leaves_unknown_residues_out():
    x = baselines.one_hot(np.array([[0, -1, 3], [2, 2, 2]]), 4).toarray()
    assert x.shape == (2, 12) and x.sum(axis=1).tolist() == [2, 3]
    assert np.flatnonzero(x[0]).tolist() == [0, 11] and np.flatnonzero(x[1]).tolist() == [2, 6, 10]


def test_a_sigmoid_is_found():
    """Data that are additive behind a sigmoid are fitted through it, and not by ridge."""
    tokens, latent = additive_data()
    values = 3 - 7 / (1 + np.exp(-2 * latent))
    parts = (tokens[:400], values[:400], tokens[400:500], values[400:500], 4)
    through, plain = baselines.fit_sigmoid_additive(*parts), baselines.fit_ridge(*parts)
    scores = [evaluate("regression", model.predict(tokens[500:]), values[500:])["r2"] for model in (through, plain)]
    assert scores[0] > 0.999 > 0.95 > scores[1]
    assert sorted([through.low.item(), through.high.item()]) == pytest.approx([-4, 3], abs=0.2)


@pytest.mark.parametrize("kind", [baselines.Ridge, baselines.AdditiveSigmoid, baselines.PairwiseSigmoid])
@pytest.mark.parametrize("seed", range(3))
def test_modules_by_their_definition(kind, seed):
    """Loops over positions and pairs of positions, for tokens and for features, rebuilt from config and state_dict."""
    rng = np.random.default_rng(seed)
    length, letters = int(rng.integers(1, 8)), int(rng.integers(2, 6))
    first = kind(length, letters)
    for parameter in first.parameters():
        parameter.copy_(torch.from_numpy(np.asarray(rng.normal(size=parameter.shape))))
    model = kind(**first.config)
    model.load_state_dict(first.state_dict())
    tokens = rng.integers(-1, letters, size=(7, length))
    w, b = model.weights.numpy(), model.intercept.item()
    expected = []
    for row in tokens:
        known = [(i, a) for i, a in enumerate(row) if a >= 0]
        hidden = b + sum(w[i, a] for i, a in known)
        if kind is baselines.PairwiseSigmoid:
            v = model.vectors.numpy()
            hidden += sum(v[i, a] @ v[j, c] for i, a in known for j, c in known if i < j)
        if kind is not baselines.Ridge:
            low, high = model.low.item(), model.high.item()
            hidden = low + (high - low) / (1 + np.exp(-hidden))
        expected.append(hidden)
    found = model(torch.from_numpy(tokens))
    assert found.shape == (7, 1) and found.dtype == torch.float64
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.predict(tokens.astype(np.int8)), expected, rtol=1e-12, atol=1e-12)
    features = torch.from_numpy(np.eye(letters + 1, dtype=np.float32)[tokens][..., :letters])
    np.testing.assert_allclose(model(features)[:, 0], expected, rtol=1e-12, atol=1e-12)
    lengths = torch.from_numpy(rng.integers(0, length + 1, size=7))
    cut = np.where(np.arange(length) < lengths.numpy()[:, None], tokens, -1)
    for x in (torch.from_numpy(tokens), features):
        np.testing.assert_allclose(model(x, lengths=lengths)[:, 0], model.predict(cut), rtol=1e-12)
    with pytest.raises(ValueError, match=f"have {length + 1} positions, the model is of {length}"):
        model(torch.zeros(2, length + 1, dtype=torch.int64))
    soft = torch.rand(3, length, letters, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (soft,))


def test_a_pairwise_model_is_found():
    """Products of pairs behind a sigmoid: the pairwise model finds them, the additive one does not; twice the same."""
    rng = np.random.default_rng(7)
    tokens = rng.integers(0, 3, size=(1500, 5))
    vectors = rng.normal(size=(5, 3, 2))[np.arange(5), tokens]
    hidden = ((vectors.sum(1) ** 2).sum(1) - (vectors**2).sum((1, 2))) / 2
    values = 100 + 5 / (1 + np.exp(-hidden))
    parts = (tokens[:900], values[:900], tokens[900:1200], values[900:1200], 3)
    pairs, single = baselines.fit_pairwise(*parts), baselines.fit_sigmoid_additive(*parts)
    scores = [evaluate("regression", model.predict(tokens[1200:]), values[1200:])["r2"] for model in (pairs, single)]
    assert scores[0] > 0.99 > 0.8 > scores[1]
    again = baselines.fit_pairwise(*parts)
    assert all(torch.equal(a, b) for a, b in zip(pairs.parameters(), again.parameters(), strict=True))
    other = baselines.fit_pairwise(*parts, seed=1)
    assert not torch.equal(pairs.vectors, other.vectors)


def test_a_weight_of_two_is_a_row_twice(monkeypatch):
    """And a weight of none is no row, in the fit and in the choice of penalties; the weights' unit does not matter."""
    tokens, values = additive_data(90, 3)
    values = values + np.random.default_rng(6).normal(size=90)
    twice = np.arange(90) % 3
    rows = np.repeat(np.arange(90), twice)
    one, other = rows[rows < 60], rows[rows >= 60]
    weighted = (tokens[:60], values[:60], tokens[60:], values[60:], 4, 7.0 * twice[:60], 0.1 * twice[60:])
    repeated = (tokens[one], values[one], tokens[other], values[other], 4)
    first, second = baselines.fit_ridge(*weighted), baselines.fit_ridge(*repeated)
    assert first.penalty == second.penalty
    np.testing.assert_allclose(first.predict(tokens), second.predict(tokens), rtol=1e-8)
    monkeypatch.setattr(additive, "LATENT_PENALTIES", (0.1,))  # strong enough for an optimum that L-BFGS gets to
    found = [baselines.fit_sigmoid_additive(*given).predict(tokens) for given in (weighted, repeated)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
    units = [latent.Units.of(values[:60], 7.0 * twice[:60]), latent.Units.of(values[one], np.ones(len(one)))]
    assert (units[0].mean, units[0].std) == pytest.approx((units[1].mean, units[1].std))
    problems = [
        latent.Problem(tokens[:60], values[:60], latent.row_weights(7.0 * twice[:60], 60), 4, units[0], 2),
        latent.Problem(tokens[one], values[one], latent.row_weights(None, len(one)), 4, units[1], 2),
    ]
    parameters = np.random.default_rng(7).normal(size=3 * problems[0].size + 3)
    (value, gradient), (other_value, other_gradient) = (each.objective(parameters, 0.1, 0.2) for each in problems)
    assert value == pytest.approx(other_value)
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_derivatives_of_the_fit(rank):
    """Against differences; sums over the mutations alone against one-hot features, unknown residues included."""
    rng = np.random.default_rng(rank)
    tokens = np.where(rng.random((30, 4)) < 0.6, 1, rng.integers(-1, 3, size=(30, 4)))
    tokens[:, 3] = -1
    rows = latent.row_weights(rng.random(30), 30)
    units = latent.Units(0.3, 2.0)
    problem = latent.Problem(tokens, rng.normal(size=30), rows, 3, units, rank)
    table = rng.normal(size=(4, 3, 2))
    np.testing.assert_allclose(problem.x.sums(table), baselines.one_hot(tokens, 3) @ table.reshape(12, 2), atol=1e-12)
    parameters = rng.normal(size=12 * (1 + rank) + 3)
    value, gradient = problem.objective(parameters, 0.1, 0.2)
    steps = 1e-5 * np.eye(len(parameters))
    numeric = [(problem.objective(parameters + s, 0.1, 0.2)[0] - problem.objective(parameters - s, 0.1, 0.2)[0]) / 2e-5
               for s in steps]  # fmt: skip
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-8)
    weights, vectors, _ = problem.split(parameters)
    penalties = 0.1 * (weights**2).sum() + 0.2 * (vectors**2).sum()
    assert value == pytest.approx(problem.error(parameters) + penalties)


def parts_of(sequences: list[np.ndarray], values: np.ndarray) -> baselines.Part:
    return baselines.Part(np.concatenate(sequences), np.array([len(s) for s in sequences]), values)


def some_sequences(rng: np.random.Generator, count: int, letters: int) -> list[np.ndarray]:
    return [rng.integers(-1, letters, rng.integers(1, 25)).astype(np.int8) for _ in range(count)]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_kmers_are_counted(k, seed):
    """Against a loop: none runs from a sequence into the next, none has an unknown residue."""
    rng = np.random.default_rng(seed)
    letters = int(rng.integers(2, 22 if k < 5 else 5))
    sequences = some_sequences(rng, 20, letters)
    expected = np.zeros((20, letters**k))
    for row, sequence in enumerate(sequences):
        for start in range(len(sequence) - k + 1):
            if (word := sequence[start : start + k].astype(int)).min() >= 0:
                expected[row, int(word @ letters ** np.arange(k)[::-1])] += 1
    part = parts_of(sequences, np.zeros(20))
    np.testing.assert_array_equal(kmers.kmer_counts(part.tokens, part.lengths, letters, k).toarray(), expected)


@pytest.mark.parametrize("width", [1, 3, 21])
@pytest.mark.parametrize("seed", range(3))
def test_windows_are_cut(width, seed):
    rng = np.random.default_rng(seed)
    letters = int(rng.integers(2, 23))
    sequences = some_sequences(rng, 12, letters)
    expected = []
    for sequence in sequences:
        for centre in range(len(sequence)):
            around = np.zeros((width, letters))
            for place, position in enumerate(range(centre - width // 2, centre + width // 2 + 1)):
                if 0 <= position < len(sequence) and sequence[position] >= 0:
                    around[place, sequence[position]] = 1
            expected.append(around.ravel())
    part = parts_of(sequences, np.zeros(12))
    np.testing.assert_array_equal(windows.windows(part.tokens, part.lengths, letters, width).toarray(), expected)


def test_a_part_of_fewer_rows():
    """Sequences stay with their targets, and residues within the limit."""
    rng = np.random.default_rng(0)
    sequences = some_sequences(rng, 200, 4)
    part = parts_of(sequences, np.arange(200))
    for rows, residues in ((50, 10**6), (200, 300), (200, 1)):
        few = part.fewer(rows, residues)
        assert 0 < len(few.lengths) <= rows and (few.lengths.sum() <= residues or len(few.lengths) == 1)
        expected = np.concatenate([sequences[i] for i in few.values])
        np.testing.assert_array_equal(few.tokens, expected)
    assert part.fewer(200, 10**6) is part


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_count_of_pairs_is_found(scale):
    """A target made of dinucleotides, on sequences of several lengths: k of 2, whatever the unit."""
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 4, rng.integers(10, 60)) for _ in range(400)]
    hits = np.array([((s[:-1] == 1) & (s[1:] == 2)).sum() for s in sequences])
    values = scale * (hits + 0.01 * rng.normal(size=400) + 7)
    train, rest = parts_of(sequences[:200], values[:200]), parts_of(sequences[200:], values[200:])
    model = baselines.fit_kmers(train, rest, 5)
    assert model.chosen["k"] == 2
    assert evaluate("regression", model.predict(rest), rest.values)["r2"] > 0.99
    words = parts_of(sequences, (hits > np.median(hits)).astype(int))
    model = baselines.fit_kmers(words.take(np.arange(200)), words.take(np.arange(200, 400)), 5, classes=3)
    predicted = model.predict(words)
    assert predicted.shape == (400, 3) and (predicted[:, 2] == 0).all(), "a class that training never saw"
    np.testing.assert_allclose(predicted.sum(1), 1)
    assert evaluate("classification", predicted[200:, :2], words.values[200:])["auroc"] > 0.9


def test_a_window_is_found():
    """The class of a residue is the letter two before it; residues without a label take no part."""
    rng = np.random.default_rng(2)
    sequences = [rng.integers(0, 4, rng.integers(5, 60)) for _ in range(60)]
    labels = [np.where(rng.random(len(s)) < 0.2, -100, np.append([0, 0], s[:-2] % 2)) for s in sequences]
    train, rest = (parts_of(sequences[a:b], np.concatenate(labels[a:b])) for a, b in ((0, 40), (40, 60)))
    model = baselines.fit_windows(train, rest, 4, 2, batches.known)
    known = rest.values >= 0
    assert model.rows == (train.values >= 0).sum()
    assert evaluate("token", model.predict(rest)[known], rest.values[known])["auroc"] > 0.97


def test_the_ridge_regression_of_windows_is_that_of_the_normal_equations():
    """Numbers from the letters two before and one behind; residues without a number take no part."""
    rng = np.random.default_rng(3)
    sequences = [rng.integers(-1, 4, rng.integers(5, 60)) for _ in range(50)]
    effects = rng.normal(size=5)
    numbers = [np.append([0, 0], effects[s[:-2]]) - np.append(effects[s[1:]] / 2, 0) for s in sequences]
    numbers = [np.where(rng.random(len(y)) < 0.3, np.nan, 7 + 3 * y + rng.normal(size=len(y))) for y in numbers]
    train, rest = (parts_of(sequences[a:b], np.concatenate(numbers[a:b])) for a, b in ((0, 35), (35, 50)))
    model = baselines.fit_windows(train, rest, 4, 0, batches.known)
    x, others = (windows.windows(part.tokens, part.lengths, 4).toarray() for part in (train, rest))
    here, y = ~np.isnan(train.values), train.values[~np.isnan(train.values)]
    assert model.rows == here.sum()
    errors, there = {}, ~np.isnan(rest.values)
    for penalty in kmers.ALPHAS:
        centre = x[here].mean(0)
        gram = (x[here] - centre).T @ (x[here] - centre) + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (x[here] - centre).T @ (y - y.mean()))
        predicted = (others - centre) @ weights + y.mean()
        errors[penalty] = np.mean((predicted - rest.values)[there] ** 2)
        if penalty == model.chosen["penalty"]:
            np.testing.assert_allclose(model.predict(rest), predicted, rtol=1e-4, atol=1e-4)
    assert min(errors, key=errors.get) == model.chosen["penalty"]
