"""`lyra train --strand`: models of both strands, training on either, and where neither makes sense."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lyra.alphabets import DNA, RNA
from lyra.data.batches import IGNORED, Batch
from lyra.errors import InputError
from lyra.models.strands import NUCLEOTIDES
from lyra.prediction import Predictor
from lyra.settings import Recipe
from lyra.training.strands import other_letters, turn_at_random

from .conftest import SMALL, classification_rows, random_sequences, read_csv, regression_rows, token_rows, write_table
from .test_graphs import numbers, recorder  # noqa: F401
from .test_interrupts import interrupt_after

TABLES = {"regression": regression_rows(90, 6, 14), "classification": classification_rows(90), "token": token_rows()}


def other_strand(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGTN-", "TGCAN-"))


@pytest.fixture
def table(tmp_path):
    return lambda task: write_table(tmp_path / "t.csv", ["seq", "label"], TABLES[task])


def test_the_models_know_the_alphabets_order():
    for alphabet in (DNA, RNA):
        assert tuple(alphabet.complement) == NUCLEOTIDES[len(alphabet)]


# ---- both --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TABLES)
@pytest.mark.parametrize("model", [("--model", "paper"), ("--model", "layered", "--pool", "mean", "--s4-layers", "1")])
def test_a_model_of_both_strands_predicts_the_same_of_both(lyra, tmp_path, table, task, model):
    model = tuple(word for word in model if task != "token" or word not in ("--pool", "mean"))
    outcome = lyra("train", table(task), "--out", tmp_path / "run", *SMALL, *model, "--strand", "both")
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    suffix = "ForTokenClassification" if task == "token" else ""
    assert config["architectures"] == [f"LyraBothStrands{suffix}"] and config["complement"] == [3, 2, 1, 0, 4]
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    sequences = [*random_sequences(9, 1, 20, "ACGTN-"), "", "A"]
    here, there = (predictor.predict(list(strand)) for strand in (sequences, map(other_strand, sequences)))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b[::-1] if task == "token" else b, a, rtol=1e-4, atol=1e-5)


def test_predict_and_explain_take_such_a_model(lyra, tmp_path, table):
    assert lyra("train", table("regression"), "--out", tmp_path / "run", *SMALL, "--strand", "both").code == 0
    (tmp_path / "a.fa").write_text(">a\nACGTTGCAAC\n>b\nGTTGCAACGT\n")
    outcome = lyra("predict", tmp_path / "run", tmp_path / "a.fa", "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    first, second = (float(row["prediction"]) for row in read_csv(tmp_path / "p.csv"))
    assert first == pytest.approx(second, rel=1e-4)
    outcome = lyra("explain", tmp_path / "run", tmp_path / "a.fa", "-o", tmp_path / "explained")
    assert outcome.code == 0, outcome.err
    rows = read_csv(tmp_path / "explained" / "attributions.csv")
    here, there = ([float(row["attribution"]) for row in rows if row["id"] == name] for name in "ab")
    np.testing.assert_allclose(there[::-1], here, rtol=1e-3, atol=1e-4)


# ---- augment -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("per_residue", [False, True])
@pytest.mark.parametrize("one_length", [False, True])
def test_about_half_of_a_batch_is_turned_with_its_labels(per_residue, one_length):
    count, width = 400, 11
    lengths = torch.full((count,), width) if one_length else torch.randint(0, width + 1, (count,))
    inside = torch.arange(width) < lengths.unsqueeze(-1)
    tokens = torch.where(inside, torch.randint(-1, 5, (count, width)), 0)
    targets = torch.where(inside, torch.randint(3, (count, width)), IGNORED) if per_residue else torch.randn(count)
    batch = Batch(tokens, None if one_length else lengths, targets)
    found = turn_at_random(batch, other_letters(DNA))
    turned = 0
    for i, length in enumerate(lengths.tolist()):
        sequence = DNA.decode(tokens[i, :length].tolist())
        other = DNA.decode(found.tokens[i, :length].tolist())
        assert other in (sequence, other_strand(sequence))
        assert not found.tokens[i, length:].any()
        if per_residue:
            labels = targets[i, :length]
            assert torch.equal(found.targets[i, :length], labels if other == sequence else labels.flip(0)) or (
                sequence == other_strand(sequence)
            )
            assert (found.targets[i, length:] == IGNORED).all()
        turned += other != sequence
    assert 0.4 * count * (0.8 if not one_length else 1) < turned < 0.6 * count
    if not per_residue:
        assert found.targets is targets
    assert found.lengths is batch.lengths


@pytest.mark.parametrize("task", ["regression", "token"])
def test_augmented_runs_are_the_same_for_the_same_seed_and_differ_from_others(lyra, tmp_path, table, task):
    runs = {"a": ("augment", 0), "again": ("augment", 0), "seed": ("augment", 1), "one": ("one", 0)}
    for name, (strand, seed) in runs.items():
        options = (*SMALL, "--strand", strand, "--seed", seed, "--val-fraction", "0.2")
        outcome = lyra("train", table(task), "--out", tmp_path / name, *options)
        assert outcome.code == 0, outcome.err
    found = {name: numbers(tmp_path / name) for name in runs}
    np.testing.assert_array_equal(found["a"], found["again"])
    assert not np.allclose(found["a"], found["seed"]) and not np.allclose(found["a"], found["one"])


def test_strands_are_drawn_by_graphs_as_in_plain_steps(lyra, tmp_path, recorder):  # noqa: F811
    """And anew in each replay: drawn once for all, the losses would be others."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    for run, option in (("plain", "--no-graphs"), ("graphs", "--graphs")):
        outcome = lyra("train", table, *SMALL, "--strand", "augment", "--out", tmp_path / run, option)
        assert outcome.code == 0, outcome.err
    assert recorder.replayed > 0
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "plain"), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("strand", ["augment", "both"])
def test_a_resumed_run_draws_what_the_whole_run_draws(lyra, tmp_path, table, strand):
    command = ("train", table("token"), *SMALL, "--strand", strand, "--out")
    assert lyra(*command, tmp_path / "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 12)
        assert lyra(*command, tmp_path / "halves").code == 130
    outcome = lyra(*command, tmp_path / "halves", "--resume")
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(numbers(tmp_path / "halves"), numbers(tmp_path / "whole"))


def test_training_on_either_strand_makes_the_two_alike(lyra, tmp_path):
    """The target is G minus C of one strand, so that the mean over both is 0."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(200))
    spread = {}
    for strand in ("one", "augment"):
        options = ("--d-model", "8", "--d-state", "4", "--epochs", "12", "--accelerator", "cpu", "--strand", strand)
        assert lyra("train", table, "--out", tmp_path / strand, *options).code == 0
        predictor, sequences = Predictor.from_pretrained(tmp_path / strand, "cpu"), random_sequences(60, 10, 10, seed=5)
        here, there = (predictor.predict(list(s)) for s in (sequences, map(other_strand, sequences)))
        spread[strand] = float(np.abs(here - there).mean())
    assert spread["augment"] < 0.3 * spread["one"]


# ---- where it makes no sense -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, says",
    [
        (("--strand", "two"), "--strand 'two': must be one of one, both, augment"),
        (("--strand", "both", "--one-way"), "--one-way: the other strand is read from the other end"),
        (("--strand", "both", "--pool", "first"), "--pool first: the first residue is the last one of the other"),
        (("--strand", "both", "--d-model", "12"), "--d-model 12: must be a multiple of 8 with --strand both"),
        (
            ("--strand", "both", "--model", "layered", "--d-model", "9"),
            "--d-model 9: must be a multiple of 2 with --strand both",
        ),
    ],
)
def test_what_cannot_be_the_same_for_both_strands(lyra, tmp_path, table, options, says):
    small = () if "--d-model" in options else ("--d-model", "8")
    outcome = lyra("train", table("regression"), "--out", tmp_path / "run", *small, *options)
    assert outcome.code == 2 and says in outcome.err and len(outcome.err.splitlines()) == 1, outcome.err


@pytest.mark.parametrize("strand", ["one", "both", "augment"])
def test_proteins_have_one_strand(lyra, tmp_path, strand):
    rows = [(s, str(i % 7)) for i, s in enumerate(random_sequences(60, 9, 9, "ACDEFGHIKLMNPQRSTVWY"))]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--strand", strand)
    assert outcome.code == 2 and "--strand: has no effect, the sequences are protein, which has" in outcome.err
    assert not (tmp_path / "run").exists()
    if strand != "one":
        from lyra.data import DataOptions
        from lyra.training import Hardware, train

        with pytest.raises(InputError, match=f"strand='{strand}': the sequences are protein"):
            train(table, tmp_path / "run", DataOptions(), Recipe(d_model=8, strand=strand), Hardware("cpu"))


def test_one_way_is_for_one_strand():
    Recipe(bidirectional=False, pool="first", d_model=9, strand="augment").check()
    for settings in ({}, {"model": "layered", "s4_layers": 0}):
        with pytest.raises(InputError, match="bidirectional=False: the other strand is read"):
            Recipe(bidirectional=False, strand="both", **settings).check()
