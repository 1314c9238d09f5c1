"""`lyra variants`: windows against whole mutated contigs, HGVS strings against sequences written out by hand."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lyra.alphabets import DNA, PROTEIN
from lyra.data.coverage import Coverage
from lyra.data.sequences import TableSource
from lyra.data.sources import Source
from lyra.errors import InputError
from lyra.genomes.indexed import indexed
from lyra.prediction import Predictor
from lyra.variants import VariantOptions, apply_hgvs, score_file, windows

from .conftest import random_sequences, read_csv, write_table
from .test_bad_input import check
from .test_design import Ensemble, pairwise_predictor
from .test_explain import Additive, predictor_of

for package in ("vcfpy", "pyfaidx", "mavehgvs"):
    pytest.importorskip(package)

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
CONTIGS = dict(zip(("chr1", "chr2", "short"), random_sequences(3, 61, 97, seed=5), strict=True))
CONTIGS["short"] = CONTIGS["short"][:13]


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    """Three contigs in lines of 10, some letters in lower case."""
    path = tmp_path / "genome.fa"
    folded = {name: text[:30].lower() + text[30:] for name, text in CONTIGS.items()}
    lines = {name: "\n".join(text[i : i + 10] for i in range(0, len(text), 10)) for name, text in folded.items()}
    path.write_text("".join(f">{name} a note\n{text}\n" for name, text in lines.items()))
    return path


def vcf(path: Path, records: list[tuple], header: str = HEADER) -> Path:
    lines = ("\t".join(map(str, (*record[:2], ".", *record[2:4], ".", ".", "."))) for record in records)
    path.write_text(header + "".join(f"{line}\n" for line in lines))
    return path


def random_variants(count: int, seed: int) -> list[tuple[str, int, str, str]]:
    """(contig, position, REF, ALT): SNVs, insertions, deletions and replacements, at the contigs' ends, too."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        contig = str(rng.choice(["chr1", "chr2"]))
        length = int(rng.integers(1, 5))
        start = int(rng.choice([0, 1, rng.integers(0, 60), len(CONTIGS[contig]) - length]))
        ref = CONTIGS[contig][start : start + length]
        alt = "".join(rng.choice(list("ACGT"), int(rng.integers(1, 5))))
        if alt != ref and len(ref) == length:
            found.append((contig, start + 1, ref, alt))
    return found


def by_hand(contig: str, start: int, ref: str, alt: str, width: int) -> tuple[str, str]:
    """Of all windows with the whole allele the most central one; with the variant, the one nearest to that."""

    def nearest(text: str, allele: str, ideal: int) -> int:
        begins = range(max(0, start + len(allele) - width), min(start, len(text) - width) + 1)
        return min(begins, key=lambda begin: abs(begin - ideal))

    without = CONTIGS[contig]
    having = without[:start] + alt + without[start + len(ref) :]
    begin = nearest(without, ref, start - (width - len(ref)) // 2)
    other = nearest(having, alt, begin)
    return without[begin : begin + width], having[other : other + width]


@pytest.mark.parametrize("width", [5, 10, 31])
def test_windows_are_cut_from_the_mutated_contig(genome, width):
    with indexed(Source(genome)) as read:
        for contig, position, ref, alt in random_variants(200, width):
            pair = windows(read, contig, position - 1, ref, alt, width)
            assert pair == by_hand(contig, position - 1, ref, alt, width), (contig, position, ref, alt)
            assert len(pair[0]) == len(pair[1]) == width
        middle = windows(read, "chr1", 40, CONTIGS["chr1"][40], "T", width)[0]
        assert middle[(width - 1) // 2 :].startswith(CONTIGS["chr1"][40:42])


def test_a_vcf_is_scored(lyra, trained, predictors, genome, tmp_path):
    records = random_variants(40, 1)
    several = [("chr2", 50, CONTIGS["chr2"][49], ",".join(set("ACGT") - {CONTIGS["chr2"][49]}))]
    path = vcf(tmp_path / "v.vcf", records + several + [("chr1", 9, CONTIGS["chr1"][8].lower(), ".")])
    outcome = lyra("variants", trained["regression"], path, "--genome", genome, "-o", tmp_path / "o.csv")
    assert outcome.code == 0, outcome.err
    assert "windows of 10 bases (as in training)" in outcome.err and "scored 43 variants" in outcome.err
    rows = read_csv(tmp_path / "o.csv")
    names = ["chrom", "pos", "id", "ref", "alt", "reference", "alternative", "change"]
    assert list(rows[0]) == names and len(rows) == 43, "an allele a row; a record without an alternative has none"
    for row in rows:
        pair = by_hand(row["chrom"], int(row["pos"]) - 1, row["ref"], row["alt"], 10)
        expected = predictors["regression"].predict(pair)
        np.testing.assert_allclose([float(row["reference"]), float(row["alternative"])], expected, rtol=1e-4, atol=1e-5)
        assert float(row["change"]) == pytest.approx(expected[1] - expected[0], rel=1e-3, abs=1e-4)
    assert [row["alt"] for row in rows[40:]] == several[0][3].split(",")


def test_names_of_contigs_genotypes_and_gzip(lyra, trained, genome, tmp_path):
    """1 and chr1 are one; columns of samples are left aside; lines without anything, too."""
    base, other = CONTIGS["chr1"][19], "A" if CONTIGS["chr1"][19] != "A" else "C"
    text = HEADER.replace("INFO\n", "INFO\tFORMAT\tme\n")
    for before, behind in (("rs1;rs2", "50\tq10\tDP=3;XX=a\tGT:DP\t0/1:.\n\n"), (".", ".\t.\t.\tGT\t./.\n")):
        text += f"1\t20\t{before}\t{base}\t{other}\t{behind}"
    path = tmp_path / "v.vcf.gz"
    path.write_bytes(gzip.compress(text.encode()))
    command = ("variants", trained["regression"], path, "--genome", genome, "-o", tmp_path / "o.tsv", "--window", "25")
    outcome = lyra(*command)
    assert outcome.code == 0 and "note: 1 is chr1 in" in outcome.err, outcome.err
    assert "warning: --window 25: the training sequences had 10 to 10 bases" in outcome.err
    table = pd.read_csv(tmp_path / "o.tsv", sep="\t")
    assert list(table["id"]) == ["rs1;rs2", "."] and list(table["chrom"]) == [1, 1]


def test_a_classifier_and_an_ensemble(predictors, genome, tmp_path):
    records = random_variants(5, 3)
    path = vcf(tmp_path / "v.vcf", records)
    pairs = [by_hand(contig, position - 1, ref, alt, 7) for contig, position, ref, alt in records]
    options = VariantOptions(genome=str(genome), window=7, class_name="low")
    score_file(predictors["classification"], path, tmp_path / "o.csv", options)
    index = predictors["classification"].targets.classes.index("low")
    p = np.array([predictors["classification"].predict(pair)[:, index] for pair in pairs], dtype=np.float64)
    odds = np.log(p) - np.log1p(-p)
    found = pd.read_csv(tmp_path / "o.csv")
    np.testing.assert_allclose(found[["reference", "alternative"]], odds, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["change"], odds[:, 1] - odds[:, 0], rtol=1e-3, atol=1e-3)

    ensemble = Ensemble([pairwise_predictor(seed) for seed in range(3)])
    score_file(ensemble, path, tmp_path / "e.csv", VariantOptions(genome=str(genome), window=7))
    members = np.array([[one.predict(pair) for one in ensemble.predictors] for pair in pairs])
    changes = members[..., 1] - members[..., 0]
    found = pd.read_csv(tmp_path / "e.csv")
    np.testing.assert_allclose(found["change"], changes.mean(1), atol=1e-4)
    np.testing.assert_allclose(found["spread"], changes.std(1), atol=1e-4)


GOOD = ("chr1", 20, CONTIGS["chr1"][19], "A" if CONTIGS["chr1"][19] != "A" else "C")
WRONG = next(letter for letter in "ACGT" if letter != CONTIGS["chr1"][19])
BAD = [
    ([GOOD, ("chr1", 20, WRONG, "A")], f"v.vcf, row 4: REF is {WRONG}, and the genome has {GOOD[2]} at chr1:20"),
    ([("chr1", 2000, "A", "C")], "row 3: position 2,000 is outside of chr1"),
    ([("chr1", 0, "A", "C")], "row 3: position 0 is outside"),
    ([("chr9", 20, "A", "C")], "row 3: 'chr9' is not in .*genome.fa, which has chr1, chr2, short"),
    ([("chr1", 20, GOOD[2], "<DEL>")], "row 3: '<DEL>' is no sequence of bases.*--on-invalid empty"),
    ([("chr1", 20, GOOD[2], "AN")], "row 3: 'AN' is no sequence of bases"),
    ([("chr1", 20, "R", "A")], "row 3: 'R' is no sequence of bases"),
    ([("chr1", 20, GOOD[2], "*")], r"row 3: '\*' is no sequence of bases"),
    ([("chr1", 20, GOOD[2], f"{GOOD[2]}[chr2:5[")], "row 3: .*is no sequence of bases"),
    ([("chr1", 20, GOOD[2], "ACGTACGTACGT")], "row 3: the variant is longer than the window of 10 bases; --window"),
    ([("chr1", "x", "A", "C")], "row 3: cannot be read as VCF"),
    ([("chr1", 20, "A\tC", "C")], "row 3: has 9 fields between tabs, the #CHROM line 8"),
    ([], "v.vcf: has no variants"),
]  # fmt: skip


@pytest.mark.parametrize(("records", "says"), BAD, ids=[says[:40] for _, says in BAD])
def test_bad_vcf(lyra, trained, genome, tmp_path, records, says):
    path = vcf(tmp_path / "v.vcf", records)
    outcome = lyra("variants", trained["regression"], path, "--genome", genome, "-o", tmp_path / "o.csv")
    check(outcome, (says,), {})
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("name", ["v.vcf", "v.VCF"])
def test_an_empty_vcf(lyra, trained, genome, tmp_path, name):
    (tmp_path / name).write_text("")
    outcome = lyra("variants", trained["regression"], tmp_path / name, "--genome", genome, "-o", tmp_path / "o.csv")
    check(outcome, (f"{name}: the file is empty; it needs a header and a line for each variant",), {})


def test_variants_without_a_score_may_stay_empty(lyra, trained, genome, tmp_path):
    """But a REF that is not the genome's is an error in any case."""
    long = ("short", 3, CONTIGS["short"][2:8], CONTIGS["short"][2])
    path = vcf(tmp_path / "v.vcf", [GOOD, ("chr1", 20, GOOD[2], "<DEL>"), long, GOOD])
    command = ("variants", trained["regression"], path, "--genome", genome, "-o", tmp_path / "o.csv")
    command += ("--on-invalid", "empty")
    outcome = lyra(*command)
    assert outcome.code == 0 and "4 read, 2 used, 2 set aside (2 that cannot be scored)" in outcome.err, outcome.err
    rows = read_csv(tmp_path / "o.csv")
    assert [bool(row["change"]) for row in rows] == [True, False, False, True]
    assert rows[0] == rows[3] and "no sequence of bases" in rows[1]["note"] and "13 bases, fewer" in rows[2]["note"]
    vcf(path, [("chr1", 20, WRONG, GOOD[2])])
    check(lyra(*command), ("row 3: REF is",), {})


def test_bad_genomes_and_options(lyra, trained, genome, tmp_path, monkeypatch):
    path = vcf(tmp_path / "v.vcf", [GOOD])
    out = ("-o", tmp_path / "o.csv")
    dna = ("variants", trained["regression"], path, *out)
    check(lyra(*dna), ("is a VCF; give the --genome FASTA",), {})
    check(lyra(*dna, "--genome", tmp_path / "no.fa"), ("no.fa: there is no such file",), {})
    check(lyra(*dna, "--genome", genome, "--window", "0"), ("--window 0: must be above 0",), {})
    check(lyra(*dna, "--genome", genome, "--hgvs", "x"), ("--hgvs: has no effect, .*is a VCF",), {})
    check(
        lyra(*dna, "--genome", genome, "--on-invalid", "skip"), ("--on-invalid 'skip': must be one of error, em",), {}
    )
    check(lyra("variants", trained["token"], path, *out), ("gives a class to each residue",), {})
    for name, content in (("t.fa", "no fasta\n"), ("e.fa", ""), ("d.fa", ">a\nAC\n>a\nAC\n"), ("z.fa.gz", "x")):
        (tmp_path / name).write_text(content)
        outcome = lyra(*dna, "--genome", tmp_path / name)
        assert outcome.code == 2 and name in outcome.err.splitlines()[-1], outcome.err
    path.write_text("##fileformat=VCFv4.2\nchr1\t20\n")
    check(lyra(*dna, "--genome", genome), ("v.vcf, row 2: the line that begins with #CHROM must come first",), {})
    path.write_text("##fileformat=VCFv4.2\n")
    check(lyra(*dna, "--genome", genome), ("v.vcf, row 1: the file ends without",), {})
    vcf(path, [GOOD])
    monkeypatch.setitem(sys.modules, "vcfpy", None)
    check(lyra(*dna, "--genome", genome), (r'needs the package vcfpy: pip install "lyra-bio\[bio\]"',), {})
    with pytest.raises(InputError, match="reads proteins; give a table with hgvs COLUMN"):
        score_file(predictor_of(Additive(len(PROTEIN)), PROTEIN), path, tmp_path / "o.csv", VariantOptions())
    assert not (tmp_path / "o.csv").exists()


PROTEIN_WT, PROTEIN_OFFSET = "MKTAYIAW", 24  # M24 K25 T26 A27 Y28 I29 A30 W31
PROTEINS = {
    "p.Ala27Gly": "MKTGYIAW", "p.A27G": "MKTGYIAW", "p.(Ala27Gly)": "MKTGYIAW", "A27G:W31C": "MKTGYIAC",
    "p.[Ala27Gly;Trp31Cys]": "MKTGYIAC", "NP_1.2:p.Ala27Gly": "MKTGYIAW", "p.=": PROTEIN_WT, "_wt": PROTEIN_WT,
    "p.(=)": PROTEIN_WT, "p.Ala27=": PROTEIN_WT, "_sy": PROTEIN_WT, "p.Ala27del": "MKTYIAW",
    "p.Lys25_Ala27del": "MYIAW", "p.Ala27_Tyr28insProSer": "MKTAPSYIAW", "p.Ala27_Tyr28delinsPro": "MKTPIAW",
    "p.Ala27delinsProTrp": "MKTPWYIAW", "p.Lys25dup": "MKKTAYIAW", "p.Lys25_Thr26dup": "MKTKTAYIAW",
    "p.[Lys25dup;Ala27_Ile29del;Trp31Cys]": "MKKTAC",
    "p.[Lys25Arg;Ala27del]": "MRTYIAW", "p.[Ala27del;Lys25Arg]": "MRTYIAW", "p.Trp31Ter": "MKTAYIA*",
}  # fmt: skip
BASES = {
    "n.3G>T": "ACTTAC", "c.3G>T": "ACTTAC", "g.[1A>C;6C>G]": "CCGTAG", "n.2_4del": "AAC", "n.=": "ACGTAC",
    "n.3_4insGG": "ACGGGTAC", "n.3delinsTT": "ACTTTAC", "n.2_3dup": "ACGCGTAC", "c.[1A>C;5del]": "CCGTC",
    "r.3g>u": "ACTTAC", "n.[1_2del;5del]": "GTC", "G3T": "ACTTAC", "NM_1:c.4T>A": "ACGAAC",
}  # fmt: skip


@pytest.mark.parametrize("text", PROTEINS)
def test_hgvs_of_proteins(text):
    assert apply_hgvs(text, PROTEIN_WT, PROTEIN_OFFSET, PROTEIN) == PROTEINS[text]


@pytest.mark.parametrize("text", BASES)
def test_hgvs_of_bases(text):
    read = DNA.decode(DNA.encode(apply_hgvs(text, "ACGTAC", 1, DNA)))
    assert read == BASES[text]


BAD_HGVS = [
    (PROTEIN, "p.Gly27Ala", "starts from G, but residue 27 of the wild type is A"),
    (PROTEIN, "p.Gly27del", "names Gly27, but residue 27 of the wild type is A"),
    (PROTEIN, "p.Ala2Gly", "outside the wild type, which has residues 24 to 31"),
    (PROTEIN, "p.Ala2del", "outside the wild type, which has residues 24 to 31"),
    (PROTEIN, "p.Ala27fs", "shifts the frame"),
    (PROTEIN, "p.Met24ext-5", "is no MAVE-HGVS"),
    (PROTEIN, "p.[Ala27Gly;Ala27Ser]", "is no MAVE-HGVS .*same position"),
    (PROTEIN, "p.[Lys25_Ala27del;Thr26Ser]", "is no MAVE-HGVS .*overlapping changes"),
    (PROTEIN, "c.3G>T", "names nucleotides, and this model reads proteins"),
    (PROTEIN, "hello", "is no mutation"),
    (PROTEIN, "", "is empty"),
    (DNA, "p.Ala27Gly", "names residues of a protein, and this model reads nucleotides"),
    (DNA, "c.3A>T", "starts from A, but 3 of the wild type is G"),
    (DNA, "c.3+5A>T", "in an intron"),
    (DNA, "c.-3A>T", "outside of the coding sequence"),
    (DNA, "n.8A>T", "outside the wild type, which has residues 1 to 6"),
    (DNA, "n.1_2inv", "is no MAVE-HGVS"),
]


@pytest.mark.parametrize(("alphabet", "text", "says"), BAD_HGVS, ids=[text for _, text, _ in BAD_HGVS])
def test_bad_hgvs(alphabet, text, says):
    wild_type, offset = (PROTEIN_WT, PROTEIN_OFFSET) if alphabet is PROTEIN else ("ACGTAC", 1)
    with pytest.raises(ValueError, match=says):
        apply_hgvs(text, wild_type, offset, alphabet)


def protein_predictor(letters: str = "ACDEFGHIKLMNPQRSTVWY") -> Predictor:
    predictor = predictor_of(Additive(len(PROTEIN)), PROTEIN)
    predictor.source = TableSource("mutant", True, "MKTAYIA", 24, target="fitness")
    predictor.coverage = Coverage(letters, 7, 7)
    return predictor


def test_a_table_of_hgvs(tmp_path):
    """The difference from the model's wild type; a stop only where training had some."""
    texts = ["p.Ala27Gly", "p.=", "p.[Lys25Arg;Ala30Trp]", "p.Ala30Ter", "p.Ala30fs", "p.Ala30Xaa", "p.Ala30-"]
    table = write_table(tmp_path / "t.csv", ["hgvs_pro", "score"], [(text, i) for i, text in enumerate(texts)])
    options = VariantOptions(hgvs="hgvs_pro", on_invalid="empty")
    for letters, scored in (("AK", 3), ("AK*", 4)):
        count = score_file(protein_predictor(letters), table, tmp_path / "o.csv", options)
        assert count.used == scored
    rows = read_csv(tmp_path / "o.csv")
    assert list(rows[0]) == ["hgvs_pro", "score", "prediction", "change", "note"]
    sequences = ["MKTAYIA", "MKTGYIA", "MKTAYIA", "MRTAYIW", "MKTAYI*"]
    own, *values = protein_predictor().predict(sequences)
    for row, value in zip(rows, values, strict=False):
        assert float(row["prediction"]) == pytest.approx(value, abs=1e-4)
        assert float(row["change"]) == pytest.approx(value - own, abs=1e-4)
    assert float(rows[1]["change"]) == 0
    assert [row["note"][:18] for row in rows[4:]] == ["'p.Ala30fs' shifts", "it puts in a lette", "'p.Ala30-' is no M"]
    score_file(protein_predictor("AK"), table, tmp_path / "o.csv", options)
    assert read_csv(tmp_path / "o.csv")[3]["note"].startswith("it puts in '*'; no training sequence had a stop")


def test_tables_that_cannot_be_scored(lyra, trained, tmp_path):
    table = write_table(tmp_path / "t.csv", ["hgvs_nt", "note"], [("n.1A>C", ""), ("n.9A>C", "")])
    dna = ("variants", trained["regression"], table, "-o", tmp_path / "o.csv")
    check(lyra(*dna), ("is no VCF.*name the column of HGVS strings with --hgvs",), {})
    check(lyra(*dna, "--hgvs", "x"), ("column 'x' is missing; --hgvs must be one of: hgvs_nt, note",), {})
    check(lyra(*dna, "--hgvs", "hgvs_nt"), ("knows no wild type; give --wild-type",), {})
    dna += ("--hgvs", "hgvs_nt", "--wild-type", "ACGT")
    check(lyra(*dna, "--genome", "x"), ("--genome: has no effect, .*is no VCF",), {})
    check(lyra(*dna, "--on-invalid", "empty"), ("already has a column note",), {})
    check(lyra(*dna), ("t.csv, row 3, column hgvs_nt: 'n.9A>C' is outside the wild type",), {})
    assert not (tmp_path / "o.csv").exists()
    outcome = lyra(*dna, "--offset", "9")
    check(outcome, ("row 2, column hgvs_nt: 'n.1A>C' is outside",), {})
