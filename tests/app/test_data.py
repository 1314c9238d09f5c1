"""Alphabets, tables, targets, parts and batches, one function at a time."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lyra import datasets
from lyra.alphabets import DNA, PROTEIN, RNA
from lyra.data import BucketSampler, DataOptions, SequenceDataset, load_labelled, read_table
from lyra.data.batches import IGNORED, SortedSampler
from lyra.data.draws import draw_parts
from lyra.data.fasta import iterate_fasta
from lyra.data.guesses import guess_alphabet
from lyra.data.mutants import apply_mutations, matching_offsets
from lyra.data.tables import TableFile
from lyra.datasets import GB1_OFFSET, GB1_WILD_TYPE
from lyra.errors import InputError

from .conftest import write_table


def load(path, **options):
    return load_labelled(path, DataOptions(**options), warn=lambda text: None)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        (["ACGT", "acgtn"], DNA),
        (["ACGU"], RNA),
        (["AC-GU", "CCNN"], RNA),
        (["ACGA"], DNA),
        (["ACGU", "ACGT"], DNA),
        (["MKV"], PROTEIN),
        (["ACGT", "ACGE"], PROTEIN),
        ([], DNA),
    ],
)
def test_alphabet_is_found(sequences, expected):
    assert guess_alphabet(sequences)[0] is expected


def test_letters_become_tokens():
    assert PROTEIN.encode("ACDXacB*-.").tolist() == [0, 1, 2, -1, 0, 1, -1, 20, 21, 21]
    assert DNA.encode("ACGTUNR-").tolist() == RNA.encode("ACGUTNR-").tolist() == [0, 1, 2, 3, 3, -1, -1, 4]
    assert DNA.encode("AL1é").tolist() == [0, -2, -2, -2]
    assert DNA.encode("AL1é", unknown=True).tolist() == [0, -1, -1, -1]
    assert len("x" + chr(0x1F600)) == len(DNA.encode("A" + chr(0x1F600))), "one token a character, whatever it is"
    assert DNA.decode(DNA.encode("ACGTN-")) == "ACGTN-"


def test_the_same_table_in_every_wrapping(tmp_path):
    """Comma or tab, plain or gzip, with a byte order mark, Windows line ends, quotes, blank lines, spaces in names."""
    plain = "name,seq,label\na,ACGT,1.5\nb,ACGA,2.5\n"
    variants = {
        "plain.csv": plain.encode(),
        "tabs.tsv": plain.replace(",", "\t").encode(),
        "tabs.csv": plain.replace(",", "\t").encode(),
        "zipped.csv.gz": gzip.compress(plain.encode()),
        "misnamed.csv": gzip.compress(plain.encode()),
        "bom.csv": plain.encode("utf-8-sig"),
        "windows.csv": plain.replace("\n", "\r\n").encode(),
        "quotes.csv": plain.replace("ACGT", '"ACGT"').encode(),
        "header.csv": plain.replace("seq,", " seq ,").encode(),
    }
    for name, content in variants.items():
        (tmp_path / name).write_bytes(content)
        table = read_table(tmp_path / name)
        assert table.to_dict("list") == {"name": ["a", "b"], "seq": ["ACGT", "ACGA"], "label": ["1.5", "2.5"]}, name
        assert table.index.tolist() == [2, 3], name
    (tmp_path / "blank.csv").write_text(plain.replace("\nb", "\n\nb"))
    assert read_table(tmp_path / "blank.csv").index.tolist() == [2, 4], "rows keep the numbers that an editor shows"


def test_nothing_reads_as_missing(tmp_path):
    """Asparagine-alanine is a sequence, not a missing value."""
    (tmp_path / "t.csv").write_text("seq,label\nNA,1.5\nNAN,2.5\nNULL,3.5\n")
    assert read_table(tmp_path / "t.csv")["seq"].tolist() == ["NA", "NAN", "NULL"]


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), block=st.integers(1, 12))
def test_blocks_are_the_table(tmp_path_factory, rows, block):
    path = tmp_path_factory.mktemp("blocks") / "t.csv"
    path.write_text("seq\n" + "".join(f"AC{i}\n" for i in range(rows)))
    blocks = list(TableFile(path).blocks(block))
    assert all(len(part) <= block for part in blocks)
    assert [cell for part in blocks for cell in part["seq"]] == [f"AC{i}" for i in range(rows)]
    assert [row for part in blocks for row in part.index] == list(range(2, rows + 2))


@pytest.mark.parametrize("compress", [False, True])
def test_fasta(tmp_path, compress):
    text = ">one first record\nACG\n TT \n\n>two\n;comment\nAC GT\r\n>three\n"
    path = tmp_path / ("a.fa.gz" if compress else "a.fa")
    path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
    assert list(iterate_fasta(path)) == [("one", "ACGTT"), ("two", "ACGT"), ("three", "")]


@pytest.mark.parametrize(
    ("header", "cells", "task", "classes"),
    [
        ("label", ["1.5", "2.25", "-3", "1e-3"], "regression", []),
        ("DMS_score", ["1", "2", "3.5", "1"], "regression", []),
        ("y", ["0", "1", "1", "0"], "classification", ["0", "1"]),
        ("y", ["1.0", "0", "1", "0.0"], "classification", ["0", "1"]),
        ("target", ["10", "9", "2", "10"], "classification", ["2", "9", "10"]),
        ("label", ["low", "high", "low", "mid"], "classification", ["high", "low", "mid"]),
        ("label", ["0110", "0011", "1111", "0000"], "token", ["0", "1"]),
        ("label", ["0,1,1,0", "0,0,1,1", "1,1,1,1", "0,0,0,2"], "token", ["0", "1", "2"]),
        ("label", ["HHEE", "CCHH", "EEEE", "HCHC"], "token", ["C", "E", "H"]),
        ("label", ["a b a b", "a a a a", "b b b b", "a b b a"], "token", ["a", "b"]),
    ],
)
def test_task_is_found_from_the_target(tmp_path, header, cells, task, classes):
    rows = list(zip(["ACGT", "ACGA", "ACGC", "ACGG"], cells, strict=True))
    found = load(write_table(tmp_path / "t.csv", ["seq", header], rows), val_fraction=0.25, test_fraction=0)
    assert (found.targets.task, found.targets.classes) == (task, classes)


def test_task_can_be_given(tmp_path):
    rows = [("ACGT", "0"), ("ACGA", "1"), ("ACGC", "2"), ("ACGG", "3")]
    path = write_table(tmp_path / "t.csv", ["seq", "y"], rows)
    assert load(path, val_fraction=0.25, task="regression").targets.task == "regression"
    assert load(path, val_fraction=0.25).targets.task == "classification"


def test_columns_are_found_by_name_or_given(tmp_path):
    rows = [("ACGT", "GGGG", "1.5", "0.5"), ("ACGA", "GGGA", "2.5", "1.5"), ("ACGC", "GGGC", "3.5", "2.5")]
    path = write_table(tmp_path / "t.csv", ["Sequence", "other", "dms_score", "second"], rows)
    found = load(path, val_fraction=0.34, test_fraction=0)
    assert found.sequences == ["ACGT", "ACGA", "ACGC"] and found.source.target == "dms_score"
    found = load(path, val_fraction=0.34, test_fraction=0, sequence="other", target="second")
    assert found.sequences == ["GGGG", "GGGA", "GGGC"] and [float(v) for v in found.values] == [0.5, 1.5, 2.5]


def test_mutations():
    assert apply_mutations("A1G:C3T", "AACC") == "GATC"
    assert apply_mutations("A10G,C12*", "AACC", offset=10) == "GA*C"
    assert apply_mutations("WT", "AACC") == apply_mutations("", "AACC") == "AACC"
    assert matching_offsets(["A11G", "C13T"], "AACC") == [10, 11]
    assert matching_offsets(["A11G", "C13T", "A10C"], "AACC") == [10]
    for bad in ("A1", "1G", "A1G:", "A9G", "C1G", "AA1G"):
        with pytest.raises(ValueError, match=r"mutation|wild type"):
            apply_mutations(bad, "AACC")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 5))
def test_drawn_parts(count, val, test, seed):
    """Copies stay together, sizes are as asked, the same seed draws the same."""
    sequences = [f"s{i % max(1, count // 2)}" for i in range(count)]
    parts = draw_parts(sequences, val, test, seed)
    assert (parts == draw_parts(sequences, val, test, seed)).all()
    assert all(len({part for s, part in zip(sequences, parts, strict=True) if s == name}) == 1 for name in sequences)
    distinct = len(set(sequences))
    drawn = dict(zip(sequences, parts, strict=True))
    for name, share in (("val", val), ("test", test)):
        assert sum(part == name for part in drawn.values()) == round(share * distinct)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 16), st.integers(60, 300), st.integers(1, 3)
)
def test_batches(lengths, batch_size, max_tokens, world_size):
    """Every row comes, within both limits, and all processes get as many batches."""
    lengths = np.array(lengths)
    samplers = [BucketSampler(lengths, batch_size, max_tokens, 1, rank, world_size) for rank in range(world_size)]
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        batches = [list(sampler) for sampler in samplers]
        assert {len(part) for part in batches} == {len(samplers[0])}
        rows = [row for part in batches for batch in part for row in batch]
        assert set(rows) == set(range(len(lengths)))
        assert len(rows) < len(lengths) + world_size * batch_size, "only the last round is filled up"
        for batch in (batch for part in batches for batch in part):
            assert len(batch) <= batch_size and len(batch) * lengths[batch].max() <= max_tokens
    in_order = list(SortedSampler(lengths, batch_size, max_tokens))
    assert sorted(row for batch in in_order for row in batch) == list(range(len(lengths)))
    assert (np.diff(lengths[[row for batch in in_order for row in batch]]) <= 0).all()


def test_a_padded_batch():
    tokens, offsets = DNA.encode_many(["ACG", "T", "", "GGGGG"])
    values = [np.array(v) for v in ([0, 1, 1], [1], [], [0, 0, 0, 0, 1])]
    data = SequenceDataset(tokens, offsets, [3, 1, 0, 2], values)
    batch = data[[2, 0, 3]]
    assert batch.tokens.tolist() == [[0, 1, 2, 0, 0], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0]]
    assert batch.lengths.tolist() == [3, 5, 0]
    assert batch.targets.tolist() == [[0, 1, 1, IGNORED, IGNORED], [0, 0, 0, 0, 1], [IGNORED] * 5]
    assert batch.tokens.dtype == torch.int64
    same = data[[0]]
    assert same.lengths is None, "no padding, no lengths"


def test_the_data_that_ships():
    """As its README says: the subset's sizes, no double in two parts, every row a double mutant of the wild type."""
    assert datasets.path("gb1").stat().st_size < 1_500_000
    table = datasets.load("gb1")
    assert table["set"].value_counts().to_dict() == {"train": 20_000, "val": 5_000, "test": 25_000}
    assert table["mutant"].is_unique
    warnings: list[str] = []
    options = DataOptions(wild_type=GB1_WILD_TYPE, offset=GB1_OFFSET)
    data = load_labelled(datasets.path("gb1"), options, warn=warnings.append)
    assert warnings == [] and data.targets.task == "regression" and data.alphabet is PROTEIN
    tokens = data.tokens.reshape(-1, 55)
    assert ((tokens != PROTEIN.encode(GB1_WILD_TYPE)).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("name", "task", "rows"), [("mpsa", "regression", 30_483), ("solvent_accessibility", "token", 233)]
)
def test_other_data_that_ship_need_no_options(name, task, rows):
    data = load_labelled(datasets.path(name), DataOptions(), warn=lambda text: None)
    assert (data.targets.task, data.rows_read.used) == (task, rows)


@pytest.mark.parametrize("name", list(datasets.DATASETS))
def test_the_page_beside_the_data_names_each(name):
    assert f"| {datasets.dataset(name).file} |" in (datasets.path(name).parent / "README.md").read_text(
        encoding="utf-8"
    )


def test_wild_type_from_a_file(tmp_path):
    (tmp_path / "wt.fasta").write_text(">wild type\nACDE\nF\n")
    path = write_table(tmp_path / "t.csv", ["mutant", "y"], [("A1G", "0.5"), ("F5W", "1.5"), ("wt", "0")])
    found = load(path, wild_type=str(tmp_path / "wt.fasta"), val_fraction=0.34, test_fraction=0)
    assert found.sequences == ["GCDEF", "ACDEW", "ACDEF"]


def test_a_sequence_column_beats_mutations_unless_asked(tmp_path):
    rows = [("A1G", "GCDE", "0.5"), ("E4W", "ACDW", "1.5"), ("C2A", "AADE", "2.5")]
    path = write_table(tmp_path / "t.csv", ["mutant", "mutated_sequence", "DMS_score"], rows)
    assert load(path, val_fraction=0.34, test_fraction=0).sequences == ["GCDE", "ACDW", "AADE"]
    with pytest.raises(InputError, match="give wild_type SEQUENCE"):
        load(path, mutant="mutant")
