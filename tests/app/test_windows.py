"""Windows of a genome are the sequences that they are."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from lyra.data.sources import Source
from lyra.errors import InputError
from lyra.genomes import WindowOptions, indexed, predict_windows, tracks
from lyra.genomes.regions import Region, tile
from lyra.genomes.windows import averaged
from lyra.prediction import Predictor

from .conftest import read_csv
from .genome_data import TARGETS, reversed_complement, sequences

BAD_BED = {
    "chr2\t0\t5\nchr3\t0\t5\n": "row 2: .*genome.fa has no record 'chr3'; it has chr2, chr10, chrM",
    "#x\nchr2\t9\t9\n": "row 2: the start, 9, must be below the end, 9",
    "chr2\t12\t9\n": "row 1: the start, 12, must be below",
    "chr10\t90\t97\n": "row 1: the end, 97, is beyond that of 'chr10', which has 96 bases",
    "chr2\t-1\t9\n": "row 1: the start '-1' is no position", "chrom\tstart\tend\n": "row 1: the start 'start'",
    "chr2\t1\t9.0\n": "the end '9.0' is no position", "chr2 5\n": "row 1: has 2 of the columns",
    "chr2\t1\t9\tx\t0\t*\n": r"row 1: the strand '\*' must be one of", "track x\n#\n\n": "has no regions",
    "": "w.bed: the file is empty; it needs lines of record, start and end",
    "chr2\t1\t90\tx\t0\t+\t1\t90\t0\t2\t3,4,\t0,20,\n": r"row 1: has 2 blocks \(BED12\)",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_BED)
def test_bad_regions(lyra, tmp_path, models, genome, text):
    (tmp_path / "w.bed").write_text(text)
    command = ("predict", models["token"], genome, "--regions", tmp_path / "w.bed", "-o", tmp_path / "out.csv")
    outcome = lyra(*command)
    with pytest.raises(InputError, match=BAD_BED[text]):
        raise InputError(outcome.err)
    assert outcome.code == 2 and "w.bed" in outcome.err and not (tmp_path / "out.csv").exists()


def random_bed(path: Path, genome: Path, count: int = 40, seed: int = 0) -> list[tuple]:
    """Regions of any size, on any strand, in any order, over all records."""
    rng, sizes, rows = np.random.default_rng(seed), {n: len(s) for n, s in sequences(genome).items()}, []
    for i in range(count):
        chrom = str(rng.choice(list(sizes)))
        start, end = sorted(rng.choice(sizes[chrom] + 1, 2, replace=False).tolist())
        rows.append((chrom, start, end, f"r{i}", str(i), str(rng.choice(["+", "-", "."]))))
    path.write_text("browser x\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return rows


def as_read(genome: Path, rows: list[tuple]) -> list[str]:
    whole = sequences(genome)
    cut = [(whole[chrom][start:end], strand) for chrom, start, end, _, _, strand in rows]
    return [reversed_complement(text) if strand == "-" else text for text, strand in cut]


@pytest.mark.parametrize(
    ("task", "suffix"), [("regression", ".csv"), ("both ways token", ".tsv"), ("classification", ".bed"), ("token", "")]
)
def test_windows_are_their_sequences(lyra, tmp_path, models, genome, task, suffix):
    rows, out = random_bed(tmp_path / "w.bed", genome), tmp_path / f"out{suffix}"
    outcome = lyra("predict", models[task], genome, "--regions", tmp_path / "w.bed", "-o", out, "--batch-size", "7")
    assert outcome.code == 0 and "windows: 40 read, 40 used" in outcome.err, outcome.err
    predictor = Predictor.from_pretrained(models[task], "cpu")
    wanted = list(predictor.cells(predictor.predict(as_read(genome, rows))))
    header, *lines = out.read_text().splitlines()
    tab = "\t" if suffix in (".tsv", ".bed") else ","
    columns = ["chrom", "start", "end", "name", "score", "strand", *wanted[0]]
    assert header.removeprefix("#").split(tab) == columns and header.startswith("#") == (suffix == ".bed")
    for line, row, cells in zip(lines, rows, wanted, strict=True):
        found = line.split(tab)
        assert found[:6] == [str(cell) for cell in row]
        if TARGETS[task.removeprefix("both ways ")].task == "regression":
            assert float(found[6]) == pytest.approx(float(cells["prediction"]), abs=1e-4)
        else:
            assert found[6] == cells["prediction"]


@pytest.mark.parametrize("step", [1, 3, 7, 8, 30])
def test_tiles_are_all_windows_that_start_before_the_end_is_reached(step):
    sizes = {"a": 20, "b": 7, "c": 1, "none": 0, "d": 23}
    wanted = []
    for name, size in sizes.items():
        covered = 0
        for start in range(0, size, step):
            if covered < size:
                covered = min(start + 7, size)
                wanted.append((name, start, covered))
    found = list(tile(sizes, 7, step))
    assert [region[1:4] for region in found] == wanted
    assert [region.row for region in found] == list(range(1, len(wanted) + 1))


def test_the_mean_over_a_base():
    rng, sums, counts = np.random.default_rng(3), np.zeros((2, 90)), np.zeros((2, 90))
    windows = []
    for start in sorted(rng.integers(0, 80, 25).tolist()):
        for chrom in rng.permutation(2)[: rng.integers(0, 3)]:
            values = rng.normal(size=rng.integers(1, 90 - start + 1 if start > 60 else 9))
            windows.append((Region(1, str(chrom), start, start + len(values)), values))
            sums[chrom, start : start + len(values)] += values
            counts[chrom, start : start + len(values)] += 1
    windows.sort(key=lambda pair: pair[0].chrom)
    found = list(averaged(iter(windows)))
    places = [(str(chrom), int(base), int(base) + 1) for chrom, base in np.argwhere(counts)]
    assert [interval[:3] for interval in found] == places
    np.testing.assert_allclose([interval[3] for interval in found], (sums / np.maximum(counts, 1))[counts > 0])


def values(bigwig, name: str, size: int) -> np.ndarray:
    """(size,) of a record, NaN where there is no value."""
    found = np.full(size, np.nan)
    for start, end, value in bigwig.records(name):
        assert np.isnan(found[start:end]).all()
        found[start:end] = value
    return found


def test_bigwig(lyra, tmp_path, models, genome):
    """A class per base, by windows of both strands and as a stream; numbers of windows."""
    pybigtools = pytest.importorskip("pybigtools")
    predictor = Predictor.from_pretrained(models["token"], "cpu")
    rows, whole = random_bed(tmp_path / "w.bed", genome), sequences(genome)
    sums, counts = ({name: np.zeros(len(text)) for name, text in whole.items()} for _ in range(2))
    for (chrom, start, end, *_, strand), found in zip(rows, predictor.predict(as_read(genome, rows)), strict=True):
        sums[chrom][start:end] += found[:: -1 if strand == "-" else 1, 2]
        counts[chrom][start:end] += 1
    command = ("predict", models["token"], genome, "--class", "c", "-o")
    assert lyra(*command, tmp_path / "w.bw", "--regions", tmp_path / "w.bed").code == 0
    assert lyra(*command, tmp_path / "s.bigWig", "--stream").code == 0
    assert lyra("predict", models["regression"], genome, "-o", tmp_path / "r.bw", "--window", "30").code == 0
    windows, stream, numbers = (pybigtools.open(str(tmp_path / name)) for name in ("w.bw", "s.bigWig", "r.bw"))
    assert windows.chroms() == stream.chroms() == {name: len(text) for name, text in whole.items()}
    for name, text in whole.items():
        means = np.where(counts[name] > 0, sums[name] / np.maximum(counts[name], 1), np.nan)
        np.testing.assert_allclose(values(windows, name, len(text)), means, rtol=1e-4)
        (direct,) = predictor.predict([text])
        np.testing.assert_allclose(values(stream, name, len(text)), direct[:, 2], rtol=1e-3)
        cut = [(at, min(at + 30, len(text))) for at in range(0, len(text), 30)]
        wanted = Predictor.from_pretrained(models["regression"], "cpu").predict([text[a:b] for a, b in cut])
        found = list(numbers.records(name))
        assert [(a, b) for a, b, _ in found] == cut
        np.testing.assert_allclose([value for *_, value in found], wanted, rtol=1e-4)


def test_a_bigwig_is_whole_or_absent(tmp_path):
    pytest.importorskip("pybigtools")
    out = tmp_path / "x.bw"

    def broken(error):
        yield "a", 0, 5, 1.0
        raise error

    for error in (InputError("no"), KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(error)):
            tracks.write_bigwig(out, {"a": 9}, broken(error))
    for intervals in ([], [("a", 0, 5, 1.0), ("a", 3, 6, 1.0)], [("a", 0, 10, 1.0)], [("b", 0, 1, 1.0)]):
        with pytest.raises(InputError, match=r"x\.bw: "):
            tracks.write_bigwig(out, {"a": 9}, intervals)
    assert list(tmp_path.iterdir()) == []


def test_the_index(lyra, tmp_path, models, genome, monkeypatch):
    """One beside the genome is used if it fits; none is written there, and folders without leave are no hindrance."""
    pyfaidx = pytest.importorskip("pyfaidx")
    (tmp_path / "w.bed").write_text("chr10\t5\t30\nchr2\t0\t401\nchrM\t1\t17\n")
    whole = sequences(genome)
    wanted = Predictor.from_pretrained(models["regression"], "cpu").predict(
        [whole["chr10"][5:30], whole["chr2"], whole["chrM"][1:]]
    )

    def found(path: Path) -> list[float]:
        out = tmp_path / "o.csv"
        outcome = lyra("predict", models["regression"], path, "--regions", tmp_path / "w.bed", "-o", out)
        assert outcome.code == 0, outcome.err
        return [float(row["prediction"]) for row in read_csv(out)]

    folder = tmp_path / "genomes"
    folder.mkdir()
    text = genome.read_text()
    odd = ">chr2\n" + whole["chr2"] + "\n;x\n\n>chr10 y\nA" + "\n>chr10\n".join([whole["chr10"][:1]])[1:]
    odd += whole["chr10"][1:50] + "\n" + whole["chr10"][50:] + "\n>chrM\n" + "\n".join(whole["chrM"]) + "\n"
    forms = {
        "a.fa": text.encode(), "b.fa.gz": gzip.compress(text.encode()), "c.fa": text.encode("utf-16"),
        "d.fa": text.replace("\n", "\r\n").encode(), "e.fa": text.replace("\n", "\r").encode(),
        "f.fa": odd.replace("\nA" + whole["chr10"][1:50], "\n" + whole["chr10"][:50]).encode(), "g.gz": text.encode(),
        "h.fa": text.replace("\n", " \n").encode(), "i.fa": text.replace("C", "C\t ").encode(),
    }  # fmt: skip
    for name, content in forms.items():
        (folder / name).write_bytes(content)
        folder.chmod(0o500)
        np.testing.assert_allclose(found(folder / name), wanted, rtol=1e-4, err_msg=name)
        folder.chmod(0o700)
    assert sorted(path.name for path in folder.iterdir()) == sorted(forms)

    pyfaidx.Faidx(str(folder / "a.fa")).close()
    index = folder / "a.fa.fai"
    with monkeypatch.context() as patch:
        patch.setattr(pyfaidx.Faidx, "build_index", lambda self: pytest.fail("there is an index"))
        np.testing.assert_allclose(found(folder / "a.fa"), wanted, rtol=1e-4)
    good = index.read_text()
    for bad in ("", good.replace("17", "16"), good.replace("chrM", "chrN"), good.replace("401", "400"), good[:40],
                good.replace("chr10", "chr2")):  # fmt: skip
        index.write_text(bad)
        np.testing.assert_allclose(found(folder / "a.fa"), wanted, rtol=1e-4)
        assert index.read_text() == bad, "it is somebody else's"


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 16, 1 << 20])
def test_positions_of_bytes_are_those_of_letters_only_where_lines_hold_nothing_else(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(indexed, "CHUNK", chunk)
    path = tmp_path / "g.fa"
    plain = ">a of a genome\nACGT\nAC\n>b x\tx\nACGT\n"
    for text, wanted in {
        plain: True, plain.replace("\n", "\r\n"): True, plain.replace("CGT", "C GT"): False,
        plain.replace("T\n", "T\t\n"): False, plain + ";x\n": False,
        plain.replace("T\n", "T\r\n").replace("C\n", "C\r"): False, plain + "\u00c4\n": False,
    }.items():  # fmt: skip
        path.write_text(text, encoding="utf-8", newline="")
        assert indexed._plain(Source(path)) is wanted, text


def test_genomes_that_no_window_can_be_cut_from(tmp_path, models, monkeypatch):
    predictor = Predictor.from_pretrained(models["regression"], "cpu")

    def refused(says: str, text: str, options: WindowOptions | None = None, out: str = "o.csv") -> None:
        (tmp_path / "g.fa").write_text(text)
        with pytest.raises(InputError, match=says):
            predict_windows(predictor, tmp_path / "g.fa", tmp_path / out, options or WindowOptions(window=3))
        assert not (tmp_path / out).exists()

    refused("two records are called 'a'; rename one", ">a\nACGT\n>a\nAC\n")
    refused("record 2 has no name", ">a\nACGT\n>\nAC\n")
    refused(r"record b: letter '\?' at position 2 is not in the dna", ">a\nACGT\n>b\nA\u00c4G\n")
    refused("record b: letter 'E' at position 6 is not in the dna", ">a\nACGT\n>b\nACG\nACE\nAC\n")
    (tmp_path / "w.bed").write_text("a\t0\t2\nb\t4\t6\n")
    bed = WindowOptions(regions=tmp_path / "w.bed")
    refused(r"w\.bed, row 2: .*g\.fa, record b: letter 'E' at position 6", ">a\nACGT\n>b\nACGACE\n", bed)
    for on_invalid, counts in (("skip", (3, 1)), ("unknown", (4, 0))):
        options = WindowOptions(window=3, on_invalid=on_invalid)
        assert predict_windows(predictor, tmp_path / "g.fa", tmp_path / "o.csv", options) == counts
    (tmp_path / "o.csv").unlink()
    for library, out in (("pyfaidx", "o.csv"), ("pybigtools", "o.bw")):
        monkeypatch.setitem(sys.modules, library, None)
        refused(rf'{library}: pip install "lyra-bio\[bio\]"', ">a\nACGT\n", out=out)
        monkeypatch.undo()
