"""What `lyra explain` gives beside single substitutions: maps of two positions, measured epistasis, spreads, logos."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lyra.alphabets import DNA, PROTEIN
from lyra.data.targets import Targets
from lyra.errors import InputError
from lyra.explain import ExplainOptions, epistasis, mutagenesis, pair_map
from lyra.explain.folder import explain_file
from lyra.explain.page import with_certainty
from lyra.explain.spreads import scores
from lyra.settings import Contents, InputOptions
from lyra.settings.explain import parse_maps

from .conftest import random_sequences, write_table
from .test_bad_input import check
from .test_design import Ensemble, pairwise_predictor
from .test_explain import SEQUENCE, Additive, mutants, predictor_of


def changed(sequence: str, changes: dict[int, str]) -> str:
    return "".join(changes.get(site, letter) for site, letter in enumerate(sequence))


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1, -3])
def test_a_map_has_every_pair_of_letters(predictors, offset):
    predictor, (sequence,) = predictors["regression"], random_sequences(1, 11, 11, seed=3)
    frame = pair_map(predictor, sequence, (offset + 2, offset + 7), ExplainOptions(offset=offset, batch_size=5))
    assert len(frame) == 16 and frame[["letter_1", "letter_2"]].drop_duplicates().shape[0] == 16

    def f(**changes: str) -> float:
        return float(predictor.predict([changed(sequence, {int(name[1:]): to for name, to in changes.items()})])[0])

    for row in frame.itertuples():
        assert row.predicted == pytest.approx(f(_2=row.letter_1, _7=row.letter_2), rel=1e-4, abs=1e-5)
        expected = f(_2=row.letter_1, _7=row.letter_2) - f(_2=row.letter_1) - f(_7=row.letter_2) + f()
        assert row.epistasis == pytest.approx(expected, rel=1e-3, abs=1e-5)
        names = [f"{sequence[site]}{site + offset}{letter}" for site, letter in ((2, row.letter_1), (7, row.letter_2))
                 if letter != sequence[site]]  # fmt: skip
        assert row.mutant == ":".join(names)
    own = frame[(frame["letter_1"] == sequence[2]) | (frame["letter_2"] == sequence[7])]
    assert len(own) == 7 and (own["epistasis"] == 0).all()


def test_a_map_agrees_with_the_summary_of_pairs():
    """Root mean square over the pairs of other letters, of a protein: 19 x 19."""
    predictor = predictor_of(Additive(len(PROTEIN), (1, 2, 4, 5, 3.0)), PROTEIN)
    options = ExplainOptions(offset=10, pair_samples=361, positions="11,14")
    frame = pair_map(predictor, "MKTAYIA", (11, 14), options)
    assert len(frame) == 400
    others = frame[(frame["letter_1"] != "K") & (frame["letter_2"] != "Y")]
    summary = epistasis(predictor, "MKTAYIA", options).iloc[0]
    assert np.sqrt((others["epistasis"] ** 2).mean()) == pytest.approx(summary["rms"], rel=1e-5)
    assert others["epistasis"].mean() == pytest.approx(summary["mean"], rel=1e-4)
    with pytest.raises(InputError, match="maps 11: is there twice"):
        pair_map(predictor, "MKTAYIA", (11, 11), options)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["39,54"], [(39, 54)]),
        (["39,54;7, 9", "7,9"], [(39, 54), (7, 9)]),
        (["54,39", "-2,-7"], [(39, 54), (-7, -2)]),
        ([], []),
    ],
)
def test_maps_are_written_as_pairs(texts, found):
    assert parse_maps(texts) == found


@pytest.mark.parametrize(
    ("texts", "says"),
    [(["39"], "'39' is no pair"), (["1,2,3"], "no pair"), (["1,2;"], "'' is no pair"), (["4,4"], "4 is there twice")],
)
def test_maps_that_are_none(texts, says):
    with pytest.raises(InputError, match=says):
        parse_maps(texts)


@pytest.mark.pictures
def test_maps_in_the_folder(lyra, trained, tmp_path):
    (tmp_path / "s.fa").write_text(">a\nGATTACA\n>b\nGATNACATTG\n")
    out = tmp_path / "out"
    command = ("explain", trained["regression"], tmp_path / "s.fa", "-o", out, "--no-attributions", "--no-mutagenesis")
    check(lyra(*command, "--map", "2,8"), (r"--map 8: .*s\.fa, row 1 \(a\) has positions 1 to 7",), {})
    check(lyra(*command, "--map", "2,4"), (r"--map 4: .*row 2 \(b\) has no residue there, but N; choose another",), {})
    check(lyra(*command, "--map", "2"), ("--map '2': '2' is no pair of positions; write it like 39,54",), {})
    assert not out.exists()
    outcome = lyra(*command, "--map", "5,2;1,7", "--map", "2,5")
    assert outcome.code == 0 and "2 sequences: 64 double mutants" in outcome.err, outcome.err
    table = pd.read_csv(out / "map.csv")
    assert list(table.groupby(["id", "position_1", "position_2"]).size()) == [16] * 4
    assert {path.name for path in out.glob("*.png")} == {
        f"map_{name}_{pair}.png" for name in ("1_a", "2_b") for pair in ("2_5", "1_7")
    }
    assert lyra(*command, "--map", "1,2", "--overwrite").code == 0, "the folder knows its own files"
    check(lyra("explain", trained["token"], tmp_path / "s.fa", "-o", tmp_path / "t", "--map", "1,2"),
          ("--map: this model gives a class to each residue; choose one",), {})  # fmt: skip


# --- measured epistasis ----------------------------------------------------------------------------------------------


def measured_rows(seed: int = 0) -> tuple[list[tuple[str, float]], dict[str, float], list[str]]:
    """Rows (mutant, value) of singles and doubles of SEQUENCE in the numbering from 5, some of them twice or alone;
    the epistasis of each double that has both its singles, and all doubles."""
    rng = np.random.default_rng(seed)
    singles = {
        (site, letter): float(rng.normal()) for site in range(5) for letter in "ACGT" if SEQUENCE[site] != letter
    }
    name = {(site, letter): f"{SEQUENCE[site]}{site + 5}{letter}" for site, letter in singles}
    lost = {(0, "C"), (3, "A")}
    rows = [(name[key], value + more) for key, value in singles.items() if key not in lost for more in (-0.25, 0.25)]
    rows += [("WT", 0.5), ("WT", 1.5), ("A5C:C6A:G7A", 3.0)]
    expected, doubles = {}, []
    for a, b in combinations(singles, 2):
        if a[0] != b[0] and rng.random() < 0.4:
            value = float(rng.normal())
            text = f"{name[b]}:{name[a]}" if rng.random() < 0.5 else f"{name[a]}:{name[b]}"
            rows.append((text, value))
            doubles.append(text)
            if not lost & {a, b}:
                expected[f"{name[a]}:{name[b]}"] = value - singles[a] - singles[b] + 1.0
    return rows, expected, doubles


def explained(tmp_path, predictor, table, *, offset: int | None = 5, options: ExplainOptions | None = None, **contents):
    """The table that comes out, and what is said."""
    said: list[str] = []
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    explain_file(
        predictor, None, out, InputOptions(wild_type=SEQUENCE, offset=offset), options or ExplainOptions(),
        Contents(mutagenesis=False, attributions=False, measured=str(table), **contents), say=said.append,
    )  # fmt: skip
    return pd.read_csv(out / "measured_epistasis.csv"), said


@pytest.mark.parametrize("whole", [False, True])
def test_measured_epistasis_is_its_formula(tmp_path, whole):
    """Of mutation lists and of whole sequences; rows of one mutant count as their mean."""
    rows, expected, doubles = measured_rows()
    header, predictor = ["mutant", "score"], pairwise_predictor(2)
    if whole:
        header[0] = "sequence"
        rows = [(written(text), value) for text, value in rows]
    table = write_table(tmp_path / "m.csv", header, [*rows, (rows[0][0], "NA")])
    frame, said = explained(tmp_path, predictor, table)
    assert dict(zip(frame["mutant"], frame["measured_epistasis"], strict=True)) == pytest.approx(expected, abs=1e-6)
    line = f"{len(expected)} of {len(doubles)} double mutants have both their singles, too; rows set aside: "
    assert f"{line}1 without a value; 1 with more than two mutations" in "".join(said)
    own = predictor.predict([SEQUENCE])[0]
    for row in frame.itertuples():
        both = predictor.predict([written(row.mutant), *map(written, row.mutant.split(":"))])
        assert row.predicted_epistasis == pytest.approx(both[0] - both[1] - both[2] + own, abs=1e-4)
        assert row.predicted == pytest.approx(both[0], abs=1e-4)
        assert [row.position_1, row.position_2] == [int(one[1:-1]) for one in row.mutant.split(":")]


def written(text: str) -> str:
    """The sequence of a mutant in the numbering from 5."""
    changes = {} if text == "WT" else {int(one[1:-1]) - 5: one[-1] for one in text.split(":")}
    return changed(SEQUENCE, changes)


@pytest.mark.pictures
def test_the_command_compares(lyra, trained, tmp_path):
    import json

    rows, _, _ = measured_rows(1)
    table = write_table(tmp_path / "m.csv", ["mutant", "score", "other"], [(*row, i) for i, row in enumerate(rows)])
    command = ("explain", trained["regression"], "-o", tmp_path / "out", "--wild-type", SEQUENCE, "--offset", "5")
    command += ("--measured", table, "--no-attributions")
    outcome = lyra(*command, "--positions", "5-8")
    assert outcome.code == 0 and "at positions outside of --positions" in outcome.err, outcome.err
    frame = pd.read_csv(tmp_path / "out" / "measured_epistasis.csv")
    assert frame[["position_1", "position_2"]].max().max() <= 8
    pearson = stats.pearsonr(frame["measured_epistasis"], frame["predicted_epistasis"])[0]
    spearman = stats.spearmanr(frame["measured_epistasis"], frame["predicted_epistasis"])[0]
    facts = json.loads((tmp_path / "out" / "explanation.json").read_text())["sequences"][0]
    assert facts["measured_pearson"] == pytest.approx(pearson, abs=1e-4)
    assert facts["measured_spearman"] == pytest.approx(spearman, abs=1e-4)
    assert f"Pearson {pearson:.3f}, Spearman {spearman:.3f}" in outcome.out
    assert (tmp_path / "out" / "measured_epistasis_1_wild_type.png").stat().st_size > 3000
    assert lyra(*command, "--target", "other", "--overwrite").code == 0
    assert (pd.read_csv(tmp_path / "out" / "measured_epistasis.csv")["measured"] % 1 == 0).all()
    check(lyra(*command, "--target", "x", "--overwrite"), ("target column 'x' is missing; --target must be one",), {})


def test_what_measured_epistasis_lacks(lyra, trained, tmp_path):
    rows, expected, _ = measured_rows(2)
    doubles = [row for row in rows if ":" in row[0]]
    without = [row for row in rows if row[0] != "WT"]
    predictor = pairwise_predictor(1)
    few = write_table(tmp_path / "few.csv", ["mutant", "score"], doubles)
    with pytest.raises(
        InputError, match=r"few.csv: has \d+ double and 0 single mutants of the sequence, and no double"
    ):
        explained(tmp_path, predictor, few)
    lone = write_table(tmp_path / "lone.csv", ["mutant", "score"], without)
    with pytest.raises(InputError, match=r"and no row of the sequence itself; .*give its value with wild_type_value"):
        explained(tmp_path, predictor, lone)
    frame, _ = explained(tmp_path, predictor, lone, wild_type_value=1.0)
    assert dict(zip(frame["mutant"], frame["measured_epistasis"], strict=True)) == pytest.approx(expected, abs=1e-6)
    whole = write_table(tmp_path / "whole.csv", ["mutant", "score"], rows)
    with pytest.raises(InputError, match=r"wild_type_value: has no effect, .*has a row of the sequence itself"):
        explained(tmp_path, predictor, whole, wild_type_value=1.0)
    with pytest.raises(InputError, match=r"row 2, column mutant: .*\(every row fits offset=5\)"):
        explained(tmp_path, predictor, whole, offset=1)
    (tmp_path / "two.fa").write_text(f">a\n{SEQUENCE}\n>b\n{SEQUENCE}\n")
    command = ("explain", trained["regression"], tmp_path / "two.fa", "-o", tmp_path / "out")
    check(lyra(*command, "--measured", whole), ("has mutants of one sequence, and 2 are to be explained",), {})
    check(lyra(*command, "--target", "x"), ("--target: has no effect, without --measured",), {})
    check(lyra(*command, "--wild-type-value", "1"), ("--wild-type-value: has no effect, without --measured",), {})
    bad = write_table(tmp_path / "bad.csv", ["mutant", "score"], [("A5C", "fast")])
    with pytest.raises(InputError, match=r"bad.csv, row 2, column score: .*'fast'"):
        explained(tmp_path, predictor, bad)


# --- spreads and logos -----------------------------------------------------------------------------------------------


@pytest.fixture
def ensemble() -> Ensemble:
    return Ensemble([pairwise_predictor(seed) for seed in range(4)])


def test_a_single_model_has_no_spread(predictors):
    assert "spread" not in mutagenesis(predictors["regression"], "GATTACA")


def test_the_spread_is_of_the_change(ensemble):
    frame = mutagenesis(ensemble, SEQUENCE, ExplainOptions(offset=3, batch_size=4))
    changes = [one.predict(mutants(SEQUENCE, frame, 3)) - one.predict([SEQUENCE]) for one in ensemble.predictors]
    np.testing.assert_allclose(frame["spread"], np.std(changes, axis=0), atol=1e-4)
    doubtful = frame["change"].abs() < 2 * frame["spread"]
    assert 0 < doubtful.sum() < len(frame), "there are both"
    assert (with_certainty(frame)["certain"].str.startswith("no: below 2 spreads") == doubtful).all()


@pytest.mark.parametrize("scale", ["log-odds", "probability"])
@pytest.mark.parametrize("task", ["classification", "token"])
def test_spreads_of_classes(predictors, task, scale):
    """The class explained is that of the mean; residues have each their own, or that of one position."""
    one, sequence = predictors[task], "GATTGCGGAT"

    class Shifted(Ensemble):
        def predict_members(self, sequences):
            found = one.predict(sequences)
            return [np.stack([p, np.sqrt(p) / np.sqrt(p).sum(-1, keepdims=True)], axis=-2) for p in found]

        members = 2

    for at in (None, 4) if task == "token" else (None,):
        frame = mutagenesis(Shifted([one, one]), sequence, ExplainOptions(scale=scale, at=at))
        plain, changed = one.predict([sequence])[0], one.predict(mutants(sequence, frame))
        for row, p in zip(frame.itertuples(), changed, strict=True):
            index, site = one.targets.classes.index(row._5), (row.position if at is None else at) - 1
            q, before = (p[site], plain[site]) if task == "token" else (p, plain)
            values = []
            for shape in (lambda v: v, lambda v: np.sqrt(v) / np.sqrt(v).sum()):
                a, b = shape(q.astype(np.float64))[index], shape(before.astype(np.float64))[index]
                values.append(np.log(a / (1 - a)) - np.log(b / (1 - b)) if scale == "log-odds" else a - b)
            assert row.spread == pytest.approx(np.std(values), rel=1e-3, abs=1e-5)


def test_spreads_of_three_classes_are_each_of_its_own():
    """Of two classes the log-odds differ in sign alone, so that a mistake would not show."""
    rng = np.random.default_rng(4)
    values, explained = rng.dirichlet(np.ones(3), (5, 8, 2)), torch.tensor([2, 0, 1, 1, 2, 0, 0, 1])
    score = SimpleNamespace(by_class=True, per_position=True, mean=False, scale="probability")
    score.predictor = SimpleNamespace(targets=Targets("token", ["a", "b", "c"]))
    sites = np.array([3, 0, 7, 4, 1])
    found = scores(SimpleNamespace(score_of=score, at=None, classes=explained), list(values), sites)
    expected = [values[row, site, :, explained[site]] for row, site in enumerate(sites)]
    np.testing.assert_array_equal(found, expected)


def test_progress_of_an_ensemble_reaches_its_end(ensemble, tmp_path):
    seen: list[tuple[int, int]] = []
    rows, _, _ = measured_rows()
    table = write_table(tmp_path / "m.csv", ["mutant", "score"], rows)
    explain_file(
        ensemble, None, tmp_path / "out", InputOptions(wild_type=SEQUENCE, offset=5), ExplainOptions(steps=8),
        Contents(maps=[(5, 9)], pictures=0, measured=str(table)),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1


@pytest.mark.pictures
def test_pictures_of_an_ensemble_and_logos(ensemble, tmp_path):
    pytest.importorskip("logomaker")
    out = tmp_path / "out"
    explain_file(
        ensemble,
        None,
        out,
        InputOptions(wild_type=SEQUENCE),
        ExplainOptions(steps=8),
        Contents(logo=True, maps=[(1, 2)]),
    )
    names = ("mutagenesis", "attributions", "effect_logo", "attribution_logo")
    assert all((out / f"{name}_1_wild_type.png").stat().st_size > 2000 for name in names)
    assert "no: below 2 spreads" in (out / "explanation.html").read_text()
    assert "spread" in pd.read_csv(out / "mutagenesis.csv")


@pytest.mark.parametrize("alphabet", [DNA, PROTEIN], ids=lambda alphabet: alphabet.name)
def test_letters_of_a_logo_are_as_high_as_their_changes(monkeypatch, alphabet, tmp_path):
    """What logomaker is given: a row for each position, at most 100 of them together."""
    logomaker = pytest.importorskip("logomaker")
    from lyra.explain import logos

    given: list[pd.DataFrame] = []
    monkeypatch.setattr(logomaker, "Logo", lambda frame, **options: given.append(frame))
    sequence = random_sequences(1, 130, 130, alphabet.letters[:4], seed=2)[0]
    frame = pd.DataFrame(
        [(site + 1, old, new, float((7 * site + 31 * ord(new)) % 97 - 48)) for site, old in enumerate(sequence)
         for new in alphabet.letters[:20] if new.isalpha() and new != old],
        columns=["position", "wild_type", "letter", "change"],
    )  # fmt: skip
    frame.attrs["unit"] = "y"
    logos.draw_effects(tmp_path / "x.png", frame, "title")
    assert [len(part) for part in given] == [65, 65]
    whole = pd.concat(given, ignore_index=True)
    for row in frame.sample(50, random_state=1).itertuples():
        assert whole.loc[row.position - 1, row.letter] == row.change
        assert whole.loc[row.position - 1, row.wild_type] == 0


def test_logos_without_what_they_need(lyra, trained, one, tmp_path, monkeypatch):
    import sys

    command = ("explain", trained["regression"], one, "-o", tmp_path / "out", "--logo")
    check(lyra(*command, "--pictures", "0"), ("--logo: has no effect, without pictures",), {})
    monkeypatch.setitem(sys.modules, "logomaker", None)
    check(lyra(*command), (r'a sequence logo needs the package logomaker: pip install "lyra-bio\[bio\]"',), {})
    assert not (tmp_path / "out").exists()
