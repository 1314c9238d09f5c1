"""Clusters: made families come out as they were made, and mmseqs is called as it wants to be."""

from __future__ import annotations

import os
import re
import stat
import sys
from itertools import combinations

import numpy as np
import pytest

from lyra.data import DataOptions, load_labelled
from lyra.data.clusters import word_length
from lyra.data.kmers import Words, chance_of_as_many, choose_words, cluster_by_words, word_table
from lyra.errors import InputError

from .conftest import read_csv, write_table

AMINO = "ACDEFGHIKLMNPQRSTVWY"
TOKENS = len(AMINO) + 2


@pytest.fixture
def no_mmseqs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def families(count: int, members: int, length: int, identity: float, letters: int = 20, seed: int = 0):
    """Founders, members that differ from theirs at exactly (1 - identity) of the positions, and the family of each."""
    rng = np.random.default_rng(seed)
    sequences, family = [], []
    for number in range(count):
        founder = rng.integers(letters, size=length)
        sequences.append(founder.astype(np.int8))
        for _ in range(members):
            changed = rng.choice(length, round((1 - identity) * length), replace=False)
            member = founder.copy()
            member[changed] = (member[changed] + rng.integers(1, letters, size=len(changed))) % letters
            sequences.append(member.astype(np.int8))
        family += [number] * (members + 1)
    order = rng.permutation(len(sequences))
    return [sequences[i] for i in order], np.array(family)[order]


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize(
    ("length", "letters", "made", "asked"),
    [(137, 20, 0.9, 0.6), (301, 20, 0.85, 0.5), (61, 20, 0.95, 0.7), (203, 4, 0.97, 0.85)],
)
def test_families_are_found(length, letters, made, asked):
    """Any two members of a family are at least 2 made - 1 identical, above what is asked; families are unrelated."""
    sequences, family = families(23, 7, length, made, letters)
    size = TOKENS if letters == 20 else 5
    rule = choose_words(sequences, asked, size)
    assert rule is not None
    assert same_partition(cluster_by_words(sequences, rule, size), family)


@pytest.mark.parametrize("made", [0.6, 0.7])
def test_members_below_the_threshold_stand_alone(made):
    sequences, _ = families(11, 5, 300, made)
    rule = choose_words(sequences, 0.9, TOKENS)
    assert rule is not None
    assert len(set(cluster_by_words(sequences, rule, TOKENS).tolist())) == len(sequences)


def test_clusters_are_those_of_the_definition():
    """The loop that the module's text describes, over sets of k-mers, with sequences of many lengths and unknowns."""
    rng = np.random.default_rng(5)
    sequences, _ = families(19, 6, 120, 0.8, seed=3)
    sequences = [tokens[: rng.integers(60, 121)] for tokens in sequences]
    for tokens in sequences[::7]:
        tokens[rng.integers(len(tokens), size=3)] = -1
    rule = choose_words(sequences, 0.6, TOKENS)
    assert rule is not None

    def words(tokens):
        found = (tuple(tokens[i : i + rule.k].tolist()) for i in range(len(tokens) - rule.k + 1))
        return {word for word in found if -1 not in word}

    sets = [words(tokens) for tokens in sequences]
    firsts: list[int] = []
    expected = np.zeros(len(sequences), dtype=int)
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
        scores = {}
        for j in firsts:
            shared, n, m = len(sets[i] & sets[j]), len(sets[i]), len(sets[j])
            chance = 1 - (1 - rule.agree**rule.k) ** m
            needed = n * (0.6**rule.k + (1 - 0.6**rule.k) * chance)
            if shared >= needed and chance_of_as_many(shared, n * chance, rule.agree) * len(sequences) <= 0.05:
                scores[j] = shared / needed
        expected[i] = max(scores, key=scores.__getitem__) if scores else i
        firsts += [] if scores else [i]
    assert len(firsts) < len(sequences), "some join"
    assert same_partition(cluster_by_words(sequences, rule, TOKENS), expected)


def test_blocks_make_no_difference(monkeypatch):
    """Clusters reach over the edges of blocks; of one length, so that the order is that of the table."""
    sequences, family = families(17, 5, 150, 0.9)
    rule = choose_words(sequences, 0.6, TOKENS)
    assert rule is not None
    for size in (1, 7, 1000):
        monkeypatch.setattr("lyra.data.kmers.BLOCK", size)
        assert same_partition(cluster_by_words(sequences, rule, TOKENS), family), size


def test_shared_words_are_those_of_sets():
    sequences = [np.array(tokens, dtype=np.int8) for tokens in ([0, 1, 2, 0, 1, 2], [1, 2, 0, -1, 0, 1, 2], [2], [])]
    table = word_table(sequences, 3, TOKENS)
    assert (table @ table.T).toarray().tolist() == [[3, 2, 0, 0], [2, 2, 0, 0], [0] * 4, [0] * 4]


def test_chance_is_bounded():
    """Never below the distribution itself (its recursion; Johnson, Kemp and Kotz 2005, 9.7), nor far above it."""
    for mean, agree in ((0.03, 0.06), (1.3, 0.3), (20.0, 0.06)):
        rate = mean * (1 - agree)
        before, now, below = 0.0, np.exp(-rate), 0.0
        for n in range(60):
            tail = 1 - below
            bound = float(chance_of_as_many(np.array(n), np.array(mean), agree))
            if tail > 1e-11:
                assert tail <= bound * (1 + 1e-6)
                assert bound <= 40 * tail
            below += now
            before, now = now, ((rate * (1 - agree) + 2 * n * agree) * now - agree**2 * (n - 1) * before) / (n + 1)


def test_unrelated_sequences_are_told_apart_where_it_is_promised():
    """At the lowest identity that is taken, hardly one of 400 unrelated sequences joins another."""
    rng = np.random.default_rng(2)
    sequences = [rng.integers(20, size=length).astype(np.int8) for length in rng.integers(50, 1500, size=400)]
    rule = next(rule for p in np.arange(0.2, 1, 0.01) if (rule := choose_words(sequences, float(p), TOKENS)))
    clusters = cluster_by_words(sequences, rule, TOKENS)
    assert len(set(clusters.tolist())) >= 380


def test_survival_is_as_the_rule_says():
    """Of the k-mers of sequences p identical, p^k + (1 - p^k) c survive on average."""
    rule = Words(3, 0.7, 1 / 20, 100)
    sequences, family = families(60, 1, 400, 0.7)
    table = word_table(sequences, 3, TOKENS)
    shares = []
    for i, j in combinations(range(len(sequences)), 2):
        if family[i] == family[j]:
            words, others = table[[i]].nnz, table[[j]].nnz
            shares.append((table[[i]] @ table[[j]].T).sum() / rule.needed(np.array(words), np.array(others)))
    assert np.mean(shares) == pytest.approx(1, abs=4 * np.std(shares) / np.sqrt(len(shares)))


def protein_table(path, count: int = 12, members: int = 4, made: float = 0.9):
    sequences, family = families(count, members, 80, made)
    rows = [("".join(AMINO[i] for i in tokens), f"{i % 7}.5") for i, tokens in enumerate(sequences)]
    return write_table(path, ["seq", "label"], rows), family


def test_a_table_in_clusters(tmp_path, no_mmseqs):
    path, family = protein_table(tmp_path / "t.csv")
    warned: list[str] = []
    data = load_labelled(path, DataOptions(cluster=0.6, val_fraction=0.2, test_fraction=0.2), warned.append)
    assert same_partition(data.groups, family)
    assert all(len(set(data.parts[family == i])) == 1 for i in set(family.tolist()))
    assert len(warned) == 1 and re.search(r"mmseqs is not on PATH, .* by shared \d-mers", warned[0])
    assert re.search(r"12 clusters at 60% identity \(by shared \d-mers\)", "; ".join(data.guesses))


def test_some_sequences_too_short_to_be_told_apart(tmp_path, no_mmseqs):
    """That they may stand alone though they are alike is said; of those that are long enough nothing is."""
    path, family = protein_table(tmp_path / "t.csv")
    lines = path.read_text().splitlines()
    warned: list[str] = []
    for length in (12, 80):
        text = (AMINO * 4)[:length]
        pair = text, "".join("W" if i % 7 == 3 else letter for i, letter in enumerate(text))  # 6 of 7 are identical
        path.write_text("\n".join([*lines, *(f"{text},1.5" for text in pair)]) + "\n")
        warned.clear()
        data = load_labelled(path, DataOptions(cluster=0.6), warned.append)
        assert same_partition(data.groups[:-2], family)
        assert length == 12 or data.groups[-1] == data.groups[-2]
        said = [text for text in warned if "too short" in text]
        assert len(said) == (length == 12) and all(": 2 sequences, of 12 letters or less, are" in text for text in said)


def test_identities_that_kmers_cannot_tell(tmp_path, no_mmseqs):
    path, _ = protein_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"cluster 0\.2: .*install MMseqs2, or give cluster=0\.\d+ or more$") as caught:
        load_labelled(path, DataOptions(cluster=0.2), print)
    lowest = float(re.search(r"cluster=(0\.\d+)", str(caught.value))[1])
    load_labelled(path, DataOptions(cluster=lowest), lambda text: None)
    with pytest.raises(InputError, match="clust"):
        load_labelled(path, DataOptions(cluster=round(lowest - 0.01, 2)), lambda text: None)


FAKE = """#!{python}
import sys
open({log!r}, "w").write(" ".join(sys.argv[1:]))
command, fasta, prefix = sys.argv[1:4]
if {fail}:
    sys.exit("the disk of mmseqs is full")
names, texts = [], []
for line in open(fasta):
    (names if line[0] == ">" else texts).append(line.strip().lstrip(">"))
first = {{}}
with open(prefix + "_cluster.tsv", "w") as out:
    for name, text in zip(names, texts):
        out.write(first.setdefault(text[:2], name) + "\\t" + name + "\\n")
"""


@pytest.fixture
def fake_mmseqs(tmp_path, monkeypatch):
    """A program on PATH that clusters by the first two letters; returns where it notes how it was called."""

    def make(fail: bool = False):
        folder = tmp_path / "bin"
        folder.mkdir()
        log = tmp_path / "called.txt"
        program = folder / "mmseqs"
        program.write_text(FAKE.format(python=sys.executable, log=str(log), fail=fail))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))
        return log

    return make


@pytest.mark.parametrize("letters", ["protein", "rna"])
def test_mmseqs_is_asked_where_it_is(tmp_path, fake_mmseqs, letters):
    log = fake_mmseqs()
    rng = np.random.default_rng(1)
    alphabet = "ACGU" if letters == "rna" else AMINO
    starts = ["GU", "AC", "GA", "CA", "UU", "CC"] if letters == "rna" else ["MK", "AC", "WW", "LI", "GV", "PP"]
    sequences = [start + "".join(rng.choice(list(alphabet), 20)) for start in starts for _ in range(5)]
    path = write_table(tmp_path / "t.csv", ["seq", "y"], [(s, f"{i}.5") for i, s in enumerate(sequences)])
    warned: list[str] = []
    options = DataOptions(cluster=0.4, val_fraction=0.2, test_fraction=0.2, alphabet=letters)
    data = load_labelled(path, options, warned.append)
    assert same_partition(data.groups, np.repeat(np.arange(6), 5)) and warned == []
    assert "6 clusters at 40% identity (by mmseqs)" in "; ".join(data.guesses)
    called = log.read_text().split()
    assert called[0] == "easy-cluster" and called[called.index("--min-seq-id") + 1] == "0.4"
    assert called[called.index("--dbtype") + 1] == ("1" if letters == "protein" else "2")
    assert not os.path.exists(called[1]), "what it read is gone"
    assert called[-2:] == (["-k", "6"] if letters == "rna" else ["-v", "1"])


@pytest.mark.parametrize(("length", "identity", "k"), [(60, 0.7, 6), (300, 0.9, 15), (300, 0.7, 11), (0, 0.5, 6),
                                                       (90, 0.99, 15), (90, 1.0, 15), (4, 1.0, 15)])  # fmt: skip
def test_words_that_mmseqs_looks_for(length, identity, k):
    """Of length 15 nobody would find relatives at 70 % in 60 bases: .7^15 is .005."""
    assert word_length([np.zeros(length, np.int8)] * 3, identity) == k


def test_what_mmseqs_complains_of_is_said(tmp_path, fake_mmseqs):
    fake_mmseqs(fail=True)
    path, _ = protein_table(tmp_path / "t.csv")
    with pytest.raises(
        InputError, match="mmseqs easy-cluster: failed with exit code 1: the disk of mmseqs is full; put"
    ):
        load_labelled(path, DataOptions(cluster=0.4), print)


def test_the_command(lyra, tmp_path, no_mmseqs):
    path, family = protein_table(tmp_path / "t.csv")
    outcome = lyra("split", path, "--cluster", "0.6", "-o", tmp_path / "out.csv", "--test-fraction", "0.2")
    assert outcome.code == 0 and "by shared" in outcome.err and "train" in outcome.out
    sets = np.array([row["set"] for row in read_csv(tmp_path / "out.csv")])
    assert all(len(set(sets[family == i])) == 1 for i in set(family.tolist()))
