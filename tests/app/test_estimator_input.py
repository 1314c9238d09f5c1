"""What estimators refuse: one line that names the row, from 0, and says what would be right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from lyra import LyraClassifier, LyraRegressor, LyraTokenClassifier, LyraTokenRegressor
from lyra.data.arrays import label_arrays
from lyra.errors import InputError
from lyra.estimators import base
from lyra.settings import DataOptions

from .conftest import random_sequences
from .test_estimators import data, make

X = random_sequences(20, 9, 9)
CASES = {
    "no X": (LyraRegressor, [], [], "X: is empty; give a list of sequences"),
    "one text": (LyraRegressor, "ACGT", [1], "X: is the one text 'ACGT'; give a list of sequences"),
    "None": (LyraRegressor, None, [1], "X: is NoneType"),
    "y None": (LyraRegressor, X, None, "y: is NoneType; give a list of targets"),
    "numbers": (LyraRegressor, np.ones((20, 3)), [1] * 20, "X: has 3 columns; give a list"),
    "table": (LyraRegressor, pd.DataFrame({"a": X, "b": X}), [1] * 20, r"X: has 2 columns \(a, b\); choose one, such as X\['a'\]"),
    "three dimensions": (LyraRegressor, np.ones((2, 1, 1)), [1] * 2, "X: is ndarray of shape"),
    "lengths": (LyraRegressor, X, range(19), "fit: X has 20 rows and y 19; there must be one for each"),
    "no text": (LyraRegressor, [*X[:3], 5.0, *X[4:]], range(20), "fit, row 3, column X: is '5.0', float; a sequence is text"),
    "a gap": (LyraRegressor, [*X[:3], None, *X[4:]], range(20), "fit, row 3, column X: is nothing"),
    "nan text": (LyraRegressor, [*X[:3], np.nan, *X[4:]], range(20), "fit, row 3, column X: is nothing"),
    "empty text": (LyraRegressor, [*X[:3], " ", *X[4:]], range(20), "fit, row 3, column X: the sequence is empty"),
    "letter": (LyraRegressor(alphabet="dna"), [*X[:3], "ACGJ", *X[4:]], range(20), "fit, row 3, column X: letter 'J' at position 4"),
    "nan": (LyraRegressor, X, [1, np.nan, *range(18)], "fit, row 1, column y: value is missing"),
    "infinite": (LyraRegressor, X, [1, np.inf, *range(18)], "fit, row 1, column y: value inf is not a finite number"),
    "word": (LyraRegressor, X, [1, "high", *range(18)], "fit, row 1, column y: value 'high' is not a number"),
    "huge": (LyraRegressor, X, [1, 1e200, *range(18)], "fit, row 1, column y: value 1e\\+200 is beyond"),
    "one value": (LyraRegressor, X, [3] * 20, "fit, column y: the training part has one value only"),
    "two columns": (LyraClassifier, X, np.ones((20, 2)), "y: has 2 columns"),
    "constant": (LyraRegressor, X, np.ones((20, 2)), "fit, column y0: the training part has fewer than two different"),
    "a word of two": (LyraRegressor, X, [[1, 2]] * 3 + [[1, "x"]] * 17, "fit, row 3, column y1: value 'x' is not a number"),
    "all missing": (LyraRegressor, X, [[1, 2]] * 3 + [[None, np.nan]] * 17, "fit, row 3, column y: every value is missing"),
    "a limit of two": (LyraRegressor, X, [[1, 2]] * 3 + [[1, ">3"]] * 17, "fit, row 3, column y1: value '>3' is a limit, which are for one"),
    "ragged": (LyraRegressor, X, [[1, 2]] * 3 + [[1]] * 17, "fit, row 3, column y: has one value, and the first row 2 values"),
    "not in a list": (LyraRegressor, X, [[1, 2]] * 3 + [1] * 17, "fit, row 3, column y: has one value, and the first row 2"),
    "three of y": (LyraRegressor, X, np.ones((20, 2, 2)), "y: is ndarray of shape"),
    "twice": (LyraRegressor, X, pd.DataFrame(np.ones((20, 2)), columns=["a", "a"]), "y: has two columns 'a'"),
    "a limit of nothing": (LyraRegressor, X, ["<x", *range(19)], "fit, row 0, column y: value 'x' is not a number"),
    "limits alone": (LyraRegressor, X, [f">{i}" for i in range(20)], "fit, column y: the training part has one value that is no"),
    "no logarithm": (LyraRegressor(target_transform="log"), X, [0.5, -1, *range(1, 19)], "fit, row 1, column y: value -1 has no logarithm, .* leave target_transform='log' out"),
    "no scale": (LyraRegressor(target_transform="sqrt"), X, range(20), "target_transform 'sqrt': must be one of none, log, rank"),
    "one class": (LyraClassifier, X, ["a"] * 20, "fit, column y: there is one class only, 'a'; a classifier needs"),
    "missing class": (LyraClassifier, X, ["a", None] * 10, "fit, row 1, column y: label is missing"),
    "no word": (LyraClassifier, X, ["a", " "] * 10, "fit, row 1, column y: label is empty"),
    "mixed": (LyraClassifier, X, ["a", 1] * 10, "fit, column y: some labels are text and some are numbers"),
    "numbers for classes": (LyraClassifier, X, np.linspace(0, 1, 20), "fit, column y: Unknown label type: continuous"),
    "lists": (LyraClassifier, X, [["a"], ["b"]] * 10, "fit, row 0, column y: label .* is list"),
    "residues": (LyraTokenClassifier, X, ["010101010"] * 19 + ["01"], "fit, row 19, column y: has 2 labels for a sequence of 9"),
    "no labels": (LyraTokenClassifier, X, ["010101010"] * 19 + ["-" * 9], "fit, row 19, column y: no residue has a label"),
    "number": (LyraTokenClassifier, X, ["010101010"] * 19 + [4], "fit, row 19, column y: is '4'; give the labels"),
    "one label": (LyraTokenClassifier, X, ["0" * 9] * 20, "fit, column y: there is one class only, '0'"),
    "numbers of residues": (LyraTokenRegressor, X, [[0.5] * 9] * 19 + [[0.1, 0.2]], "fit, row 19, column y: has 2 numbers for"),
    "no numbers": (LyraTokenRegressor, X, [[0.5] * 9] * 19 + [[None] * 9], "fit, row 19, column y: no residue has a number"),
    "one number": (LyraTokenRegressor, X, [0.5] * 20, "fit, row 0, column y: is '0.5'; give the numbers"),
    "text": (LyraTokenRegressor, X, ["0.5,0.5"] * 20, "fit, row 0, column y: is '0.5,0.5'; give the numbers"),
    "a word": (LyraTokenRegressor, X, [[0.5] * 8 + ["high"]] * 20, "fit, row 0, column y: value 'high' of residue 8 is not a"),
    "an infinite one": (LyraTokenRegressor, X, [[0.5] * 8 + [np.inf]] * 20, "fit, row 0, column y: value inf of residue 8 is not"),
    "a huge one": (LyraTokenRegressor, X, [[0.5] * 8 + [1e200]] * 20, "fit, row 0, column y: value 1e\\+200 of residue 8 is bey"),
    "one value everywhere": (LyraTokenRegressor, X, [[0.5] * 9] * 20, "fit, column y: the training part has one value only"),
    "kind": (LyraRegressor(d_model="8"), X, range(20), "d_model '8': is str; must be int"),
    "range": (LyraRegressor(d_state=3), X, range(20), "d_state 3: must be even"),
    "seed": (LyraRegressor(random_state=-1), X, range(20), "random_state -1: must not be negative"),
    "skip": (LyraRegressor(on_invalid="skip"), X, range(20), "on_invalid 'skip': must be one of error, unknown"),
    "alphabet": (LyraRegressor(alphabet="greek"), X, range(20), "alphabet 'greek': must be one of"),
    "fraction": (LyraRegressor(val_fraction=0.0), X, range(20), "fit: the val part is empty"),
    "devices": (LyraRegressor(accelerator="cpu", devices=2), X, range(20), "devices 2: an estimator trains in one process"),
    "precision": (LyraRegressor(accelerator="cpu", precision="12"), X, range(20), "accelerator, devices, strategy or prec"),
    "layers": (LyraRegressor(s4_layers=7), X, range(20), "s4_layers: has no effect"),
    "strand": (LyraRegressor(strand="both"), ["MKWL" * 3 + c for c in "ACDEFGHIKLMNPQRSTVWY"], range(20), "strand: has no effect"),
    "mix": (LyraRegressor(mix="folds"), random_sequences(20, 7, 9), range(20), "mix='folds': needs sequences of one length"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_fit_refuses(name):
    made, sequences, targets, message = CASES[name]
    model = made() if isinstance(made, type) else made
    with pytest.raises(InputError, match=f"^{message}") as caught:
        model.fit(sequences, targets)
    assert "\n" not in str(caught.value)
    assert not hasattr(model, "predictor_")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"validation": (X, ["a", "c"] * 10)}, "fit, row 1 of validation, column y: class 'c' is unknown; .*: a, b"),
        ({"validation": (X[:3], ["a", "b"])}, "validation: X has 3 rows and y 2"),
        ({"validation": X}, "validation: must be two things"),
        ({"validation": ([*X[:2], "AC7"], ["a", "b", "a"])}, "fit, row 2 of validation, column X: letter '7'"),
        ({"validation": (X, [])}, "y: is empty"),
        ({"groups": [1, 2]}, "fit: X has 20 rows and groups 2"),
        ({"groups": [1, None] * 10}, "fit, row 1, column groups: the group is empty"),
        ({"groups": [1] * 20}, "fit: "),
        ({"sample_weight": [1] * 19}, "fit: X has 20 rows and sample_weight 19"),
        ({"sample_weight": [1, -1] * 10}, "fit, row 1, column sample_weight: -1 is below 0"),
        ({"sample_weight": [1, np.nan] * 10}, "fit, row 1, column sample_weight: value is missing"),
        ({"sample_weight": [0] * 20}, "fit: every sample_weight is zero"),
    ],
)
def test_what_else_fit_refuses(more, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        make("classification", alphabet="dna").fit(X, ["a", "b"] * 10, **more)
    assert "\n" not in str(caught.value)


def test_an_argument_without_effect_is_refused():
    with pytest.raises(InputError, match="val_fraction: has no effect, validation is given"):
        make("regression", val_fraction=0.2).fit(X, range(20), validation=(X, range(20)))
    with pytest.raises(TypeError, match="class_weights"):
        LyraRegressor(class_weights="balanced")


def test_equal_weights_change_nothing():
    y = list(range(20))
    one, other = (make("regression").fit(X, y, sample_weight=weight).predict(X) for weight in (None, [2.5] * 20))
    assert np.array_equal(one, other)


def test_what_predictions_refuse(trained, tmp_path):
    model = LyraRegressor.load(trained["regression"], device="cpu")
    for given, message in (
        ([], "X: is empty"),
        (["ACGT", 1], "predict, row 1, column X: is '1', int"),
        (["ACGT", "ACJ"], "predict, row 1, column X: letter 'J' at position 3"),
        (["ACGT", ""], "predict, row 1, column X: the sequence is empty"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            model.predict(given)
    with pytest.raises(InputError, match="the model is a single one"):
        model.predict_interval(["ACGT"])
    lenient = LyraRegressor.load(trained["regression"], device="cpu").set_params(on_invalid="unknown")
    assert np.array_equal(lenient.predict(["ACGJ"]), lenient.predict(["ACGN"]))
    for method in ("predict", "table", "mutagenesis", "epistasis", "attributions", "predict_interval"):
        with pytest.raises(NotFittedError):
            getattr(LyraRegressor(), method)(["ACGT"])


def test_what_loading_and_saving_refuse(trained, tmp_path):
    with pytest.raises(InputError, match="the task of this model is regression; load it with LyraRegressor"):
        LyraClassifier.load(trained["regression"])
    with pytest.raises(InputError, match="does not exist"):
        LyraClassifier.load(tmp_path / "nowhere")
    with pytest.raises(NotFittedError):
        LyraRegressor().save(tmp_path / "m")
    model = LyraClassifier.load(trained["classification"], device="cpu")
    model.save(tmp_path / "m")
    with pytest.raises(InputError, match="is not empty; overwrite=True replaces it"):
        model.save(tmp_path / "m")
    model.save(tmp_path / "m", overwrite=True)
    for text in ("[]", "{", '{"arguments": {"colour": 1}}', '{"classes": {"values": ["a", "b"], "dtype": "<U1"}}',
                 '{"classes": {"values": [1], "dtype": "nothing"}}', '{"recipe": {}}'):  # fmt: skip
        (tmp_path / "m" / "estimator.json").write_text(text)
        with pytest.raises(InputError, match=r"estimator.json: cannot be read"):
            LyraClassifier.load(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes.txt, which no run wrote"):
        model.save(tmp_path / "m", overwrite=True)


def test_an_interrupted_fit_leaves_the_former_model_and_the_random_state(monkeypatch):
    model = make("regression").fit(*data("regression", 30))
    before = model.predict(X)

    def stop(*_):
        np.random.seed(0)
        torch.manual_seed(0)
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "train", stop)
    np.random.seed(4)
    wanted = np.random.get_state()[1].copy()
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data("regression", 40))
    assert np.array_equal(np.random.get_state()[1], wanted)
    assert np.array_equal(model.predict(X), before)


def test_row_weights_have_mean_one_over_training_rows():
    rng = np.random.default_rng(2)
    sequences, y = data("regression", 40)
    weights = rng.random(40) + 0.1
    for validation in (None, data("regression", 55)):
        if validation is not None:
            validation = validation[0][40:], validation[1][40:]
        arrays, _ = make("regression")._arrays(sequences, y, validation, None)
        found = label_arrays(arrays, DataOptions(), lambda text: None, "fit")
        base.set_weights(found, weights)
        training = found.rows("train")
        assert found.weights is not None and found.weights.shape == found.parts.shape
        assert found.weights[training].mean() == pytest.approx(1)
        assert np.allclose(found.weights[:40] / found.weights[0], weights / weights[0])
    assert (found.weights[40:] == found.weights[40]).all()


def test_weights_of_zero_that_leave_nothing_to_learn_or_to_validate_by():
    X, y = data("regression", 40)
    arrays, _ = make("regression")._arrays(X, y, None, None)
    part = label_arrays(arrays, DataOptions(), lambda text: None, "fit").parts
    for kept, says in (
        (part == "train", "validation part has the weight 0"),
        (part == "val", "training part has the weight 0"),
        ((part == "val") | (np.arange(40) == np.flatnonzero(part == "train")[0]), "have one value only"),
    ):
        with pytest.raises(InputError, match=f"^fit: .*{says}"):
            make("regression").fit(X, y, sample_weight=kept.astype(float))
    labels = (np.asarray(y) > np.median(y)).astype(int)
    with pytest.raises(InputError, match="with a weight above 0 have one class only"):
        make("classification").fit(X, labels, sample_weight=labels)
