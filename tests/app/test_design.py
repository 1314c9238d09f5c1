"""`lyra.design`: against every design that there is, and against a greedy loop."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest

from lyra.alphabets import DNA, PROTEIN
from lyra.data.coverage import Coverage
from lyra.data.sequences import TableSource
from lyra.design import DesignOptions, design
from lyra.errors import InputError
from lyra.member_scores import log_odds
from lyra.prediction import Predictor

from .conftest import read_csv
from .test_bad_input import check
from .test_explain import LENGTH, SEQUENCE, Additive, predictor_of

ROUNDING = 2e-5


class Ensemble(Predictor):
    """Several predictors that answer together."""

    def __init__(self, predictors: list[Predictor]) -> None:
        self.__dict__ |= predictors[0].__dict__
        self.predictors = predictors

    @property
    def members(self) -> int:
        return len(self.predictors)

    def predict_members(self, sequences):
        return np.stack([np.asarray(one.predict(sequences)) for one in self.predictors], axis=1)


def pairwise_predictor(seed: int, alphabet=DNA) -> Predictor:
    """Additive but for one pair of letters, so that the best double mutant is not made of the best single ones."""
    rng = np.random.default_rng(seed)
    i, j = sorted(rng.choice(LENGTH, 2, replace=False).tolist())
    model = Additive(len(alphabet), (i, int(rng.integers(4)), j, int(rng.integers(4)), float(rng.normal(0, 3))))
    model.weight.data += 0.3 * seed * np.cos(np.arange(model.weight.numel()).reshape(model.weight.shape) * (seed + 1))
    return predictor_of(model, alphabet)


def every_design(sequence: str, most: int, letters: str = "ACGT", sites: list[int] | None = None) -> list[str]:
    """All sequences with 1 to `most` substitutions."""
    found = []
    for count in range(1, most + 1):
        for places in combinations(range(len(sequence)) if sites is None else sites, count):
            for new in product(letters, repeat=count):
                if all(sequence[place] != letter for place, letter in zip(places, new, strict=True)):
                    changed = list(sequence)
                    for place, letter in zip(places, new, strict=True):
                        changed[place] = letter
                    found.append("".join(changed))
    return found


def test_every_design_is_counted_once():
    assert len(every_design(SEQUENCE, 2)) == len(set(every_design(SEQUENCE, 2))) == 21 + 21 * 9


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("minimise", [False, True])
def test_a_wide_beam_finds_what_trying_everything_finds(seed, minimise):
    predictor = pairwise_predictor(seed)
    frame = design(predictor, SEQUENCE, DesignOptions(max_mutations=3, beam=5000, top=17, minimise=minimise))
    everything = every_design(SEQUENCE, 3)
    values = dict(zip(everything, predictor.predict(everything), strict=True))
    best = sorted(values.values(), reverse=not minimise)[:17]
    np.testing.assert_allclose(frame["prediction"], best, atol=ROUNDING)
    for row in frame.itertuples():
        assert row.prediction == pytest.approx(values[row.sequence], abs=ROUNDING)
        differing = [place for place in range(LENGTH) if row.sequence[place] != SEQUENCE[place]]
        assert row.mutations == len(differing)
        assert row.mutant == ":".join(f"{SEQUENCE[place]}{place + 1}{row.sequence[place]}" for place in differing)
        assert row.change == pytest.approx(row.prediction - predictor.predict([SEQUENCE])[0], abs=ROUNDING)
    assert frame["sequence"].is_unique and "spread" not in frame


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_is_the_greedy_search(seed):
    """One step after the other, each the best single substitution, no position twice."""
    predictor = pairwise_predictor(seed)
    current, taken, path = SEQUENCE, set(), []
    for _ in range(4):
        steps = [
            current[:place] + letter + current[place + 1 :]
            for place in range(LENGTH)
            for letter in "ACGT"
            if place not in taken and letter != SEQUENCE[place]
        ]
        current = steps[int(np.argmax(predictor.predict(steps)))]
        taken = {place for place in range(LENGTH) if current[place] != SEQUENCE[place]}
        path.append(current)
    frame = design(predictor, SEQUENCE, DesignOptions(max_mutations=4, beam=1, top=10_000))
    assert set(path) <= set(frame["sequence"])
    assert frame[frame["mutations"] == 4]["sequence"].iloc[0] == path[-1]
    assert len(frame) == 21 + 18 + 15 + 12, "each number of mutations from one parent alone"
    assert (frame["prediction"].diff().dropna() <= ROUNDING).all()


def test_what_may_change():
    """Positions, those kept, and letters, in the numbering of the wild type."""
    predictor = pairwise_predictor(1)
    options = DesignOptions(max_mutations=2, positions="10-13,16", keep="11-12", forbid="t", beam=500, top=500)
    frame = design(predictor, SEQUENCE, options, offset=10)
    assert sorted(frame["sequence"]) == sorted(every_design(SEQUENCE, 2, "ACG", [0, 3, 6]))
    assert set(frame["mutant"].str.extractall(r"[A-Z](\d+)[A-Z]")[0]) == {"10", "13", "16"}
    frame = design(predictor, SEQUENCE, DesignOptions(max_mutations=9, letters="G,u", beam=500, top=9000))
    assert set(frame["mutant"].str.extractall(r"\d([A-Z])")[0]) == {"G", "T"}
    assert frame["mutations"].max() == LENGTH, "no more than there are"
    gap = design(predictor, "AC-NTAC", DesignOptions(max_mutations=1, top=99))
    assert len(gap) == 5 * 3 and all(sequence[2:4] == "-N" for sequence in gap["sequence"])


def test_letters_that_training_never_had_are_not_put_in():
    predictor = pairwise_predictor(1)
    predictor.coverage = Coverage("ACG", 7, 7)
    notes: list[str] = []
    frame = design(predictor, SEQUENCE, DesignOptions(max_mutations=1, top=99), warn=notes.append)
    assert set(frame["mutant"].str[-1]) == set("ACG") and "letters T never occurred in training" in notes[0]
    frame = design(predictor, SEQUENCE, DesignOptions(max_mutations=1, letters="T"), warn=notes.append)
    assert set(frame["mutant"].str[-1]) == {"T"} and notes[1] == "letters: T never occurred in training"


@pytest.mark.parametrize("caution", [None, 0.0, 0.4, 3.0])
@pytest.mark.parametrize("minimise", [False, True])
def test_what_an_ensemble_disagrees_on_is_worth_less(caution, minimise):
    ensemble = Ensemble([pairwise_predictor(seed) for seed in range(3)])
    options = DesignOptions(max_mutations=2, beam=500, top=500, caution=caution, minimise=minimise)
    frame = design(ensemble, SEQUENCE, options)
    everything = every_design(SEQUENCE, 2)
    members = np.stack([one.predict(everything) for one in ensemble.predictors])
    mean, deviation = members.mean(0), members.std(0)
    merit = (-mean if minimise else mean) - (1.0 if caution is None else caution) * deviation
    order = np.argsort(-merit)
    np.testing.assert_allclose(frame["prediction"], mean[order], atol=1e-4)
    np.testing.assert_allclose(frame["spread"], deviation[order], atol=1e-4)


def test_a_classifier_is_designed_by_log_odds(predictors):
    predictor, sequence = predictors["classification"], "GATTGCGG"
    options = DesignOptions(max_mutations=2, beam=1000, top=5, class_name="low")
    frame = design(predictor, sequence, options)
    everything = every_design(sequence, 2)
    found = predictor.predict(everything)[:, predictor.targets.classes.index("low")].astype(np.float64)
    best = np.sort(np.log(found) - np.log1p(-found))[::-1][:5]
    np.testing.assert_allclose(frame["prediction"], best, rtol=1e-3, atol=1e-3)
    assert frame.attrs["unit"] == "log-odds of low"
    own = design(predictor, sequence, DesignOptions(max_mutations=1))
    assert own.attrs["unit"] == f"log-odds of {predictor.targets.positive}"


def test_an_ensemble_of_classifiers_has_the_log_odds_of_its_mean(predictors):
    """The spread is that of the members' own log-odds."""
    one, sequence, odds = predictors["classification"], "GATTGC", lambda p: np.log(p) - np.log1p(-p)

    class Shifted(Ensemble):
        def predict_members(self, sequences):
            p = one.predict(sequences).astype(np.float64)
            return np.stack([p, np.square(p) / np.square(p).sum(-1, keepdims=True)], axis=1)

    frame = design(Shifted([one, one]), sequence, DesignOptions(max_mutations=1, class_name="low", top=99))
    p = Shifted([one, one]).predict_members(frame["sequence"])[..., one.targets.classes.index("low")]
    np.testing.assert_allclose(frame["prediction"], odds(p.mean(1)), rtol=1e-5)
    np.testing.assert_allclose(frame["spread"], odds(p).std(1), rtol=1e-5)


def test_log_odds_of_near_certainty():
    """Three classes; 1 - p of the first is 3e-20, which is lost where it is taken from p."""
    probabilities = np.array([[1.0, 1e-20, 2e-20], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(log_odds(probabilities, 0)[:2], [-np.log(3e-20), np.log(0.2 / 0.8)])
    assert np.isfinite(log_odds(probabilities, 0)).all()


BAD = [
    ({"max_mutations": 0}, "max_mutations 0: must be above 0"),
    ({"beam": 0}, "beam 0: must be above 0"),
    ({"caution": -1.0}, "caution -1: must be a number, 0 or above"),
    ({"caution": float("nan")}, "caution nan: must be a number"),
    ({"caution": 1.0}, "caution: has no effect, a single model"),
    ({"letters": "AC", "forbid": "G"}, "letters and forbid say the same"),
    ({"letters": "AL"}, "letters 'AL': 'L' is none of the residues ACGT"),
    ({"forbid": "-"}, "forbid '-': '-' is none of the residues"),
    ({"forbid": "ACGT"}, "nothing may be changed"),
    ({"positions": "3", "keep": "1-7"}, "nothing may be changed"),
    ({"positions": "8"}, "positions 8: the wild type has positions 1 to 7"),
    ({"keep": "0"}, "keep 0: the wild type has positions 1 to 7"),
    ({"keep": "x"}, "keep 'x': 'x' is no position"),
    ({"class_name": "high"}, "class_name 'high': this model predicts a number"),
]


@pytest.mark.parametrize(("options", "says"), BAD, ids=[str(options) for options, _ in BAD])
def test_bad_wishes(options, says):
    with pytest.raises(InputError, match=says):
        design(pairwise_predictor(0), SEQUENCE, DesignOptions(**options))


def test_models_and_wild_types_that_cannot_be_designed(predictors):
    with pytest.raises(InputError, match="gives a class to each residue"):
        design(predictors["token"], SEQUENCE)
    with pytest.raises(InputError, match="class_name 'x': must be one of"):
        design(predictors["classification"], SEQUENCE, DesignOptions(class_name="x"))
    with pytest.raises(InputError, match="wild_type: letter 'L' at position 3"):
        design(predictors["regression"], "GAL")
    broken = pairwise_predictor(0)
    broken.model.weight.data[0] = float("nan")
    with pytest.raises(InputError, match="not a finite number"):
        design(broken, SEQUENCE)


def test_the_command(lyra, trained, tmp_path):
    out = tmp_path / "designs.csv"
    command = ("design", trained["regression"], "-o", out, "--max-mutations", "2", "--top", "7")
    check(lyra(*command), ("knows no wild type; give --wild-type SEQUENCE",), {})
    check(lyra(*command, "--wild-type", "ACGTACGTAC", "--caution", "1"), ("--caution: has no effect",), {})
    check(lyra(*command, "--wild-type", "ACGTACGTAC", "--class", "x"), ("--class 'x': this model predicts",), {})
    check(lyra(*command[:3], tmp_path / "x.json", "--wild-type", "ACG"), ("cannot be written as .json",), {})
    assert not out.exists()
    fasta = tmp_path / "w.fa"
    fasta.write_text(">w\nACGTACGTAC\n")
    (tmp_path / "w.csv").write_bytes(fasta.read_bytes())
    own = lyra(*command[:3], tmp_path / "w.csv", "--wild-type", tmp_path / "w.csv")
    check(own, ("w.csv: is the file to read; give another name with --out",), {})
    assert (tmp_path / "w.csv").read_bytes() == fasta.read_bytes(), "nothing is lost"
    outcome = lyra(*command, "--wild-type", fasta, "--offset", "5", "--keep", "5-9")
    assert outcome.code == 0, outcome.err
    rows = read_csv(out)
    assert list(rows[0]) == ["mutant", "mutations", "sequence", "prediction", "change"] and len(rows) == 7
    assert all(row["sequence"].startswith("ACGTA") for row in rows)
    assert "wild type: label" in outcome.err and f"{rows[0]['mutant']}: " in outcome.err
    again = tmp_path / "again.csv"
    assert lyra("predict", trained["regression"], out, "-o", tmp_path / "p.csv").code == 2, "the column is taken"
    table = pd.read_csv(out).drop(columns="prediction")
    table.to_csv(again, index=False)
    assert lyra("predict", trained["regression"], again, "-o", tmp_path / "p.csv").code == 0
    np.testing.assert_allclose(
        pd.read_csv(tmp_path / "p.csv")["prediction"], [float(row["prediction"]) for row in rows], rtol=1e-4, atol=1e-5
    )


def test_the_models_own_wild_type_and_numbers():
    predictor = predictor_of(Additive(len(PROTEIN)), PROTEIN)
    predictor.source = TableSource("mutant", True, "MKTAYIA", 24, target="y")
    assert (
        design(predictor, "MKTAYIA", DesignOptions(max_mutations=1))["mutant"]
        .str.extract(r"(\d+)")[0]
        .astype(int)
        .between(24, 30)
        .all()
    )
    assert design(predictor, "MKTAYIG", DesignOptions(positions="24")).attrs["unit"] == "y", "another one as long"
