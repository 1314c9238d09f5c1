"""Genomes piece by piece are what they are as a whole, and only models that look backwards read them so."""

from __future__ import annotations

import gzip
from itertools import groupby

import numpy as np
import pytest
import torch

from lyra.data import InputOptions
from lyra.data.fasta import iterate_fasta
from lyra.data.sources import Source
from lyra.errors import InputError
from lyra.genomes import WindowOptions, pieces, predict_stream, predict_windows
from lyra.models import Ensemble, LyraByPosition
from lyra.prediction import Predictor
from lyra.prediction_files import predict_file
from lyra.settings import Recipe
from lyra.training.effects import check_before_reading
from lyra.training.networks import build_model

from .conftest import SMALL, random_sequences, read_csv, token_rows, write_table
from .genome_data import TARGETS, make_model

UGLY = {
    "plain": ">a x\nACGT\nAC\n>b\nGG\n",
    "no end": ">a\nACGTACG",
    "Windows": ">a\r\nACGT\r\nAC\r\n>b\r\nGG\r\n",
    "old Mac": ">a\rACGT\rAC\r>b\rGG\r",
    "blanks": "\n\n>a\n\nAC GT\t\n  A\n\n>\n>c\nT",
    "comments": ";x\n>a\n;AC>T\nAC\n ;G\nGT;\n",
    "long lines": f">{'n' * 50} y\n{'ACGTT' * 30}\n>b\n{'G' * 16}\n;{'A' * 40}\n{'C' * 15}\n",
}


@pytest.mark.parametrize("line", [1, 2, 3, 16, 1 << 16])
@pytest.mark.parametrize("name", UGLY)
def test_pieces_are_the_records(tmp_path, monkeypatch, name, line):
    monkeypatch.setattr(pieces, "LINE", line)
    (tmp_path / "a.fa").write_text(UGLY[name], newline="")
    wanted = list(iterate_fasta(tmp_path / "a.fa"))
    for length in (1, 2, 5, 16, 1000):
        records = []
        for _, group in groupby(pieces.iterate_pieces(Source(tmp_path / "a.fa"), length), lambda piece: piece.number):
            parts = list(group)
            assert [part.start for part in parts] == list(range(0, len(parts) * length, length))
            assert all(len(part.letters) == length and not part.last for part in parts[:-1])
            assert parts[-1].last and len(parts[-1].letters) <= length
            records.append((parts[0].name, "".join(part.letters for part in parts)))
        assert records == wanted
    (tmp_path / "a.fa").write_text("\nACGT\n>a\nAC\n")
    with pytest.raises(InputError, match=r"row 2: 'AC?G?T?' stands before the first '>'"):
        list(pieces.iterate_pieces(Source(tmp_path / "a.fa"), 9))


@pytest.mark.parametrize(
    ("task", "suffix"),
    [
        ("regression", ".csv"),
        ("classification", ".tsv"),
        ("token", ".tsv.gz"),
        ("long labels", ".csv"),
        ("token-regression", ".csv"),
    ],
)
def test_a_stream_is_the_whole_run(tmp_path, models, genome, task, suffix):
    predictor, said = Predictor.from_pretrained(models[task], "cpu"), []
    predictor.model.double()
    with pytest.MonkeyPatch.context() as patch:  # all of it in float64, where no rounding can change a digit or a class
        patch.setattr(torch.Tensor, "float", lambda x: x)
        predict_file(predictor, genome, tmp_path / f"whole{suffix}", InputOptions(), say=said.append)
        wanted = (tmp_path / f"whole{suffix}").read_bytes()
        for length in (1, 7, 17, 400, 401, 10_000):
            told: list[str] = []
            out = tmp_path / f"{length}{suffix}"
            counts = predict_stream(predictor, genome, out, piece_length=length, say=told.append)
            assert counts == (3, 0) and told == said
            found = out.read_bytes()
            assert found == wanted or (suffix == ".tsv.gz" and gzip.decompress(found) == gzip.decompress(wanted))
    assert any("far longer" in text for text in said) and any("letter N never occurred" in text for text in said)


@pytest.mark.parametrize("on_invalid", ["error", "skip", "unknown"])
def test_letters_outside_the_alphabet(lyra, tmp_path, models, on_invalid):
    (tmp_path / "a.fa").write_text(">a\nACGT\n>b\nACGTACGTACEGT\n>c\nRYTT\n")
    outcomes = []
    for out, how in (("whole.csv", ()), ("stream.csv", ("--stream",))):
        command = ("predict", models["token"], tmp_path / "a.fa", "-o", tmp_path / out, "--on-invalid", on_invalid)
        outcomes.append(lyra(*command, *how))
    assert outcomes[0].code == outcomes[1].code == (2 if on_invalid == "error" else 0)
    if on_invalid == "error":
        assert "row 2, column sequence: letter 'E' at position 11 is not in the dna" in outcomes[1].err
        assert not (tmp_path / "stream.csv").exists()
    else:
        assert outcomes[1].err.replace("stream.csv", "whole.csv") == outcomes[0].err
        assert read_csv(tmp_path / "whole.csv") == read_csv(tmp_path / "stream.csv")


@pytest.mark.parametrize("kind", ["paper", "layered"])
@pytest.mark.parametrize("task", ["token", "regression"])
def test_one_way_is_causal_in_every_layer(kind, task):
    """What comes later changes nothing, where it does in the model that looks both ways."""
    ids = torch.randint(5, (1, 30))
    other = torch.cat([ids[:, :20], (ids[:, 20:] + 1) % 5], 1)
    for bidirectional in (True, False):
        recipe = Recipe(model=kind, d_model=8, d_state=4, dropout=0.0, bidirectional=bidirectional)
        model = build_model(recipe, 5, TARGETS[task], None)
        before, after = (model.eval()(x, return_embeddings=True)[1][:, :20] for x in (ids, other))
        assert torch.equal(before, after) != bidirectional and model.looks_ahead == bidirectional


def test_a_model_that_an_earlier_version_trained_one_way(tmp_path, genome, models):
    """Its gated convolutions look ahead."""
    predictor = Predictor.from_pretrained(models["token"], "cpu")
    predictor.model.config["causal"] = False
    with pytest.raises(InputError, match="train it anew, as bidirectional=False of earlier versions"):
        predict_stream(predictor, genome, tmp_path / "o.csv")


def test_models_that_are_no_single_causal_network(tmp_path, genome, models):
    predictor = Predictor.from_pretrained(models["regression"], "cpu")
    for model, says in (
        (
            Ensemble.of([predictor.model], [predictor.output], [1.0], [0]),
            "is an ensemble, .*train a single one with bidirectional=False",
        ),
        (LyraByPosition(5, 8, d_state=4, length=9), "reads sequences of 9 letters alone; cut such with window"),
    ):
        predictor.model = model
        with pytest.raises(InputError, match=says):
            predict_stream(predictor, genome, tmp_path / "o.csv")


def test_one_way_has_an_effect_where_a_layer_looks_at_other_residues():
    for layers in ((0, 1), (1, 0)):
        recipe = Recipe(model="layered", pgc_layers=layers[0], s4_layers=layers[1], bidirectional=False)
        check_before_reading(["bidirectional"], recipe)
    with pytest.raises(InputError, match="bidirectional: has no effect, there are no layers that look at other"):
        check_before_reading(["bidirectional"], Recipe(model="layered", pgc_layers=0, s4_layers=0))


def test_trained_one_way_it_streams_from_standard_input(lyra, tmp_path, genome, monkeypatch):
    """`--one-way` makes the whole model causal, through the command line from the table to the stream."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], token_rows(60))
    assert lyra("train", table, "--out", tmp_path / "run", "--one-way", *SMALL).code == 0
    assert lyra("predict", tmp_path / "run", genome, "-o", tmp_path / "whole.csv").code == 0
    with open(genome) as file:
        monkeypatch.setattr("sys.stdin", file)
        outcome = lyra("predict", tmp_path / "run", "-", "--stream", "-o", tmp_path / "stream.csv")
    assert outcome.code == 0 and "predicted 3 sequences" in outcome.err
    for row, other in zip(*(read_csv(tmp_path / name) for name in ("stream.csv", "whole.csv")), strict=True):
        agree = [a == b for a, b in zip(row["prediction"], other["prediction"], strict=True)]
        assert row["id"] == other["id"] and np.mean(agree) > 0.99


REFUSED = [
    ("both ways token", "genome.fa", "a.csv", ("--stream",), "yet to come.*train one with --one-way, or cut"),
    ("token", "table.csv", "a.csv", ("--stream",), "table.csv: is no FASTA file"),
    ("token", "table.csv", "a.csv", ("--window", "9"), "table.csv: is no FASTA file"),
    ("token", "genome.fa", "a.csv", ("--stream", "--window", "9"), "--stream --window: take whole records"),
    ("token", "genome.fa", "a.csv", ("--stream", "--batch-size", "9"), "--batch-size: has no effect, one piece"),
    ("token", "genome.fa", "a.csv", ("--stream", "--sequence", "s"), "--sequence: has no effect, a genome is FASTA"),
    ("token", "genome.fa", "a.csv", ("--stream", "--class", "a"), "--class: has no effect, a table has all"),
    ("token", "genome.fa", "a.csv", ("--class", "a"), "--class: has no effect, only the .bw of a genome"),
    ("token", "genome.fa", "a.bw", ("--stream",), "give --class, one of: a, b, c"),
    ("token", "genome.fa", "a.bw", ("--stream", "--class", "d"), "--class 'd': is no class of the model; it has a, b"),
    ("token", "genome.fa", "a.bw", (), "a.bw: cannot be written as .bw"),
    ("regression", "genome.fa", "a.bw", ("--stream",), "a BigWig needs a value a base"),
    ("regression", "genome.fa", "a.bw", ("--window", "9", "--class", "a"), "--class: has no effect, the model"),
    ("regression", "genome.fa", "a.bw", ("--window", "9", "--step", "8"), "rows 1 and 2: overlap in chr2 from 8 on"),
    ("regression", "genome.fa", "a.csv", ("--step", "9"), "--regions or --window must say where"),
    ("regression", "genome.fa", "a.csv", ("--window", "0"), "--window 0: must be above 0"),
    ("regression", "genome.fa", "a.xlsx", ("--window", "9"), "must end in .bed, .bw, .csv"),
    ("regression", "genome.fa", "genome.fa", ("--window", "9"), "must end in|is the file to read"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "data", "out", "options", "says"), REFUSED)
def test_refused(lyra, tmp_path, models, genome, model, data, out, options, says):
    (tmp_path / "genome.fa").write_bytes(genome.read_bytes())
    (tmp_path / "table.csv").write_text("seq\nACGT\n")
    before = sorted(tmp_path.iterdir())
    outcome = lyra("predict", models[model], tmp_path / data, "-o", tmp_path / out, *options)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    with pytest.raises(InputError, match=says):
        raise InputError(outcome.err)
    assert sorted(tmp_path.iterdir()) == before, "nothing is left"


def test_proteins_are_refused(tmp_path):
    predictor = Predictor.from_pretrained(make_model(tmp_path / "m", "token", alphabet="protein"), "cpu")
    (tmp_path / "g.fa").write_text(">" + random_sequences(1, 9, 9)[0] + "\nACDE\n")
    with pytest.raises(InputError, match="the model reads proteins"):
        predict_stream(predictor, tmp_path / "g.fa", tmp_path / "o.csv")
    with pytest.raises(InputError, match="the model reads proteins"):
        predict_windows(predictor, tmp_path / "g.fa", tmp_path / "o.csv", WindowOptions(window=3))
