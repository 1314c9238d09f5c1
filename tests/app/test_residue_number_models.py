"""What is asked of a model of a number per residue: explanations, FASTA files, genomes, designs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lyra.design import DesignOptions, design
from lyra.errors import InputError
from lyra.explain import ExplainOptions, attributions, epistasis, mutagenesis, pair_map
from lyra.member_scores import MemberScore
from lyra.prediction import Predictor

from .conftest import number_rows, random_sequences, read_csv, write_table
from .test_windows import as_read, random_bed, sequences, values

SEQUENCE, OFFSET = "GATTGCGGATCA", 4
FAST = ("--d-model", "8", "--d-state", "4", "--epochs", "3", "--accelerator", "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    """A single model that is one-way, and an ensemble of linear ones."""
    from rich.console import Console

    from lyra.data import DataOptions
    from lyra.training import Hardware, Recipe, train

    folder = tmp_path_factory.mktemp("numbers")
    table = write_table(folder / "t.csv", ["seq", "label"], number_rows())
    for name, more in (("single", {"bidirectional": False}), ("several", {"ensemble": 2, "output": "linear"})):
        recipe = Recipe(d_model=8, d_state=4, epochs=3, lr=0.02, **more)
        train(table, folder / name, DataOptions(), recipe, Hardware("cpu"), console=Console(quiet=True))
    return folder


@pytest.fixture(params=["single", "several"])
def predictor(request, folders) -> Predictor:
    return Predictor.from_pretrained(folders / request.param, "cpu")


def mutants(frame: pd.DataFrame) -> list[str]:
    return [
        SEQUENCE[: row.position - OFFSET] + row.letter + SEQUENCE[row.position - OFFSET + 1 :]
        for row in frame.itertuples()
    ]


@pytest.mark.parametrize("at", [None, 6])
def test_explanations_are_of_the_mean_or_of_one_residue(predictor, at):
    """What `predict` says of the mutants, and of how far the members are apart in it."""

    def number(predicted) -> np.ndarray:
        """Of each sequence (L, ...)."""
        return np.array([each.mean(0) if at is None else each[at - OFFSET] for each in predicted])

    options = ExplainOptions(offset=OFFSET, at=at)
    frame = mutagenesis(predictor, SEQUENCE, options)
    wanted, own = number(predictor.predict(mutants(frame))), number(predictor.predict([SEQUENCE]))
    np.testing.assert_allclose(frame["predicted"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(frame["change"], wanted - own, rtol=1e-3, atol=1e-5)
    assert len(frame) == 3 * len(SEQUENCE) and "class" not in frame
    assert frame.attrs["unit"] == ("mean label of the residues" if at is None else "label")
    if predictor.members > 1:
        apart = number(predictor.predict_members(mutants(frame))) - number(predictor.predict_members([SEQUENCE]))
        np.testing.assert_allclose(frame["spread"], apart.std(-1), rtol=1e-3, atol=1e-6)
    found = attributions(predictor, SEQUENCE, ExplainOptions(offset=OFFSET, at=at, steps=512))
    assert found.attrs["predicted"] == pytest.approx(float(own[0]), rel=1e-4)
    difference = found.attrs["predicted"] - found.attrs["baseline_predicted"]
    assert found["attribution"].sum() == pytest.approx(difference, abs=0.01 * found["attribution"].abs().sum())
    assert found["position"].tolist() == list(range(OFFSET, OFFSET + len(SEQUENCE)))
    pairs = epistasis(predictor, SEQUENCE, ExplainOptions(offset=OFFSET, at=at, positions="5-8"))
    grid = pair_map(predictor, SEQUENCE, (5, 6), options)
    assert len(pairs) == 6 and len(grid) == 16
    np.testing.assert_allclose(grid["predicted"][grid["mutant"] == ""], own, rtol=1e-4)


def test_the_mean_of_attributions_at_each_residue_is_that_of_the_mean(predictor):
    each = [attributions(predictor, SEQUENCE, ExplainOptions(at=i + 1))["attribution"] for i in range(len(SEQUENCE))]
    whole = attributions(predictor, SEQUENCE)["attribution"]
    np.testing.assert_allclose(np.mean(each, axis=0), whole, rtol=1e-4, atol=1e-6)


def test_a_one_way_model_does_not_explain_by_what_comes_later(folders):
    found = attributions(Predictor.from_pretrained(folders / "single", "cpu"), SEQUENCE, ExplainOptions(at=4))
    assert (found["attribution"][4:] == 0).all() and (found["attribution"][:4] != 0).all()


def test_the_latent_scale(folders):
    """Before the sigmoid: averaged over the residues."""
    single, several = (Predictor.from_pretrained(folders / name, "cpu") for name in ("single", "several"))
    frame = mutagenesis(single, SEQUENCE, ExplainOptions(offset=OFFSET, scale="latent", positions="7"))
    dataset = single.encode(mutants(frame))
    raw = single.model(dataset[list(range(3))].tokens)[..., 0].mean(1).detach()
    sign = np.sign((single.output.high - single.output.low).item())
    np.testing.assert_allclose(frame["predicted"], sign * raw, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="scale latent: this model has no sigmoid"):
        mutagenesis(several, SEQUENCE, ExplainOptions(scale="latent"))
    for options, says in (
        ({"class_name": "x"}, "predicts a number, no class"),
        ({"scale": "log-odds"}, "must be one of"),
    ):
        with pytest.raises(InputError, match=says):
            mutagenesis(single, SEQUENCE, ExplainOptions(**options))


@pytest.mark.pictures
def test_a_folder_of_explanations(lyra, folders, tmp_path):
    (tmp_path / "a.fa").write_text(f">one\n{SEQUENCE}\n")
    for name, options in (("mean", ()), ("residue", ("--at", "5"))):
        command = ("explain", folders / "several", tmp_path / "a.fa", "-o", tmp_path / name, "--steps", "8", *options)
        outcome = lyra(*command, "--pairs", "--map", "3,4")
        assert outcome.code == 0, outcome.err
        facts = json.loads((tmp_path / name / "explanation.json").read_text())
        assert facts["task"] == "token-regression" and facts["explained"] == f"{'mean ' * (not options)}label" + (
            " of the residues" * (not options)
        )
        assert len(read_csv(tmp_path / name / "mutagenesis.csv")) == 36
        assert len(read_csv(tmp_path / name / "attributions.csv")) == 12
        assert (tmp_path / name / "mutagenesis_1_one.png").stat().st_size > 2000


def test_fasta_in_and_a_table_out(lyra, folders, tmp_path, predictor):
    texts = random_sequences(9, 6, 14, seed=9)
    (tmp_path / "a.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(texts)))
    for name, columns in (("single", ["id", "prediction"]), ("several", ["id", "prediction", "sd", "novel"])):
        outcome = lyra("predict", folders / name, tmp_path / "a.fa", "-o", tmp_path / "p.tsv", "--device", "cpu")
        assert outcome.code == 0, outcome.err
        header, *lines = [line.split("\t") for line in (tmp_path / "p.tsv").read_text().splitlines()]
        assert header == columns
        wanted = Predictor.from_pretrained(folders / name, "cpu").predict(texts)
        for line, numbers in zip(lines, wanted, strict=True):
            np.testing.assert_allclose([float(text) for text in line[1].split(";")], numbers, rtol=1e-4, atol=1e-5)
    outcome = lyra("predict", folders / "single", tmp_path / "a.fa", "-o", tmp_path / "p.csv", "--interval", "0.8")
    assert outcome.code == 2 and "--interval: the model is a single one" in outcome.err


def test_what_needs_one_answer_for_a_sequence_is_refused(lyra, folders, tmp_path, predictor):
    for ask in (lambda: design(predictor, SEQUENCE, DesignOptions()), lambda: MemberScore(predictor)):
        with pytest.raises(InputError, match="this model gives a number to each residue; give one with one answer"):
            ask()


def test_trained_one_way_it_streams_a_genome(lyra, folders, tmp_path, genome):
    for name, options in (("whole.csv", ()), ("stream.csv", ("--stream",))):
        assert lyra("predict", folders / "single", genome, "-o", tmp_path / name, *options).code == 0
    for row, other in zip(*(read_csv(tmp_path / name) for name in ("stream.csv", "whole.csv")), strict=True):
        found, wanted = (np.array(each["prediction"].split(";"), dtype=float) for each in (row, other))
        assert row["id"] == other["id"]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_bigwig_of_a_number_per_base(lyra, tmp_path, models, genome):
    """By windows of both strands, whose mean it is, and as a stream."""
    pybigtools = pytest.importorskip("pybigtools")
    predictor = Predictor.from_pretrained(models["token-regression"], "cpu")
    rows, whole = random_bed(tmp_path / "w.bed", genome), sequences(genome)
    sums, counts = ({name: np.zeros(len(text)) for name, text in whole.items()} for _ in range(2))
    for (chrom, start, end, *_, strand), found in zip(rows, predictor.predict(as_read(genome, rows)), strict=True):
        sums[chrom][start:end] += found[:: -1 if strand == "-" else 1]
        counts[chrom][start:end] += 1
    command = ("predict", models["token-regression"], genome, "-o")
    assert lyra(*command, tmp_path / "w.bw", "--regions", tmp_path / "w.bed").code == 0
    assert lyra(*command, tmp_path / "s.bw", "--stream").code == 0
    assert lyra(*command, tmp_path / "w.csv", "--regions", tmp_path / "w.bed").code == 0
    windows, stream = (pybigtools.open(str(tmp_path / name)) for name in ("w.bw", "s.bw"))
    for name, text in whole.items():
        means = np.where(counts[name] > 0, sums[name] / np.maximum(counts[name], 1), np.nan)
        np.testing.assert_allclose(values(windows, name, len(text)), means, rtol=1e-4, atol=1e-5)
        (direct,) = predictor.predict([text])
        np.testing.assert_allclose(values(stream, name, len(text)), direct, rtol=1e-3, atol=1e-4)
    for row, numbers in zip(read_csv(tmp_path / "w.csv"), predictor.predict(as_read(genome, rows)), strict=True):
        found = [float(text) for text in row["prediction"].split(";")]
        np.testing.assert_allclose(found, numbers, rtol=1e-4, atol=1e-5)
    outcome = lyra(*command, tmp_path / "x.bw", "--stream", "--class", "a")
    assert outcome.code == 2 and "--class: has no effect, the model predicts numbers" in outcome.err
