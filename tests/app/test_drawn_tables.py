"""Tables drawn at random, in every wrapping: nothing is lost, and nothing depends on what should not matter."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lyra.data import DataOptions, load_labelled
from lyra.data.tables import read_table
from lyra.data.targets import MISSING
from lyra.prediction import Predictor
from lyra.prediction_files import predict_file
from lyra.settings import InputOptions

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")
text = st.text(st.characters(codec="latin-1", exclude_categories=("Cc",)), max_size=8)
drawn = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@st.composite
def wrapped(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    """A table as bytes: a separator, quotes, line ends, an encoding, packed or not."""
    out = io.StringIO()
    writer = csv.writer(
        out, delimiter=draw(st.sampled_from(",\t;")), lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
    )  # fmt: skip
    writer.writerows(rows)
    encoding = draw(st.sampled_from(ENCODINGS))
    raw = out.getvalue().encode(encoding)
    if encoding == "latin-1" and is_utf8(raw):  # by chance: nobody could tell
        raw = out.getvalue().encode("utf-8")
    return gzip.compress(raw) if draw(st.booleans()) else raw


@drawn
@given(st.data())
def test_every_cell_comes_back(tmp_path_factory, data):
    """Names and cells of any text, with separators and quotes in them, through any wrapping."""
    width = data.draw(st.integers(2, 4))
    names = data.draw(st.lists(st.text("abcxyz_ .", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=width,
                               max_size=width, unique=True))  # fmt: skip
    cells = st.lists(text.map(lambda t: t.replace("\x85", "").strip()), min_size=width, max_size=width)
    rows = [row for row in data.draw(st.lists(cells, min_size=1, max_size=12)) if any(row)]
    if not rows:
        return
    path = tmp_path_factory.mktemp("drawn") / "t.csv"
    path.write_bytes(data.draw(wrapped([names, *rows])))
    found = read_table(path)
    assert found.columns.tolist() == names
    assert [[cell.strip() for cell in row] for row in found.to_numpy().tolist()] == rows
    assert found.index.tolist() == list(range(2, 2 + len(rows)))


@st.composite
def labelled(draw: st.DrawFn) -> list[list[str]]:
    """Rows of sequences with copies in other notation, and numbers, a few of them missing."""
    count = draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale, shift = 10.0 ** draw(st.integers(-12, 12)), draw(st.sampled_from([0.0, 1.0, -1e3]))
    rows = []
    for _ in range(count):
        # A letter first: gaps alone are a missing sequence.
        sequence = rng.choice(list("ACGT")) + "".join(rng.choice(list("ACGT-"), size=5))
        rows.append([sequence, repr(float(scale * (rng.normal() + shift)))])
        for _ in range(rng.integers(0, 3)):
            other = [str.lower, lambda s: s.replace("T", "U"), lambda s: s.replace("-", "."), str][rng.integers(4)]
            rows.append([other(sequence), repr(float(scale * rng.normal()))])
    for i in rng.integers(0, len(rows), size=draw(st.integers(0, 3))):
        rows[i][1] = ["", "NA", "NaN"][rng.integers(3)]
    return rows


def as_read(sequence: str) -> str:
    return sequence.upper().replace("U", "T").replace(".", "-")


@drawn
@given(st.data(), labelled(), st.booleans(), st.integers(0, 5))
def test_rows_in_are_rows_used_and_set_aside(tmp_path_factory, data, rows, deduplicate, seed):
    path = tmp_path_factory.mktemp("drawn") / "t.csv"
    path.write_bytes(data.draw(wrapped([["seq", "label"], *rows])))
    options = DataOptions(on_missing="skip", deduplicate=deduplicate, seed=seed, val_fraction=0.2, test_fraction=0.2)
    found = load_labelled(path, options, lambda warning: None)
    present = [row for row in rows if row[1] not in ("", "NA", "NaN")]
    assert found.rows_read.read == len(rows) == found.rows_read.used + found.rows_read.set_aside
    assert found.rows_read.aside["without a target"] == len(rows) - len(present)
    distinct = {as_read(sequence) for sequence, _ in present}
    assert found.rows_read.used == len(found.sequences) == (len(distinct) if deduplicate else len(present))
    if not deduplicate:
        assert found.sequences == [sequence for sequence, _ in present]
        assert [float(value) for value in found.values] == [float(number) for _, number in present]
    where: dict[str, set[str]] = {}
    for sequence, part in zip(found.sequences, found.parts, strict=True):
        where.setdefault(as_read(sequence), set()).add(part)
    assert all(len(parts) == 1 for parts in where.values()), "a sequence is in one part only"
    assert where.keys() == distinct


@drawn
@given(labelled(), st.permutations(["zebra", "01", "1E3"]), st.integers(0, 5))
def test_parts_do_not_know_class_names(tmp_path_factory, rows, names, seed):
    """Other names, the same rows in the same parts, and each row keeps its own class."""
    folder, found = tmp_path_factory.mktemp("drawn"), []
    for kind in (["a", "b", "c"], names):
        table = [[sequence, kind[i % 3]] for i, (sequence, _) in enumerate(rows)]
        with open(folder / "t.csv", "w", newline="") as file:
            csv.writer(file).writerows([["seq", "label"], *table])
        data = load_labelled(
            folder / "t.csv", DataOptions(seed=seed, val_fraction=0.2, task="classification"), lambda warning: None
        )
        assert [data.targets.classes[int(value)] for value in data.values] == [row[1] for row in table]
        found.append(data.parts.tolist())
    assert found[0] == found[1]


# A cell that may stand for a missing sequence is refused, which is another test's business.
letters = st.text("ACGTacgtUN-.", min_size=1, max_size=12).filter(lambda s: s.strip("-.") and s.lower() not in MISSING)


@drawn
@given(st.data(), st.lists(letters, min_size=1, max_size=30))
def test_predict_keeps_order_and_count(trained, tmp_path_factory, data, sequences):
    folder = tmp_path_factory.mktemp("drawn")
    rows = [[data.draw(text), sequence] for sequence in sequences]
    (folder / "t.csv").write_bytes(data.draw(wrapped([["note", "seq"], *rows])))
    predictor = _predictor(trained["regression"])
    out = folder / data.draw(st.sampled_from(["p.csv", "p.tsv", "p.csv.gz"]))
    assert predict_file(predictor, folder / "t.csv", out, InputOptions()) == (len(rows), 0)
    opened = gzip.open(out, "rt", newline="") if out.suffix == ".gz" else open(out, newline="")
    with opened as file:
        written = list(csv.reader(file, delimiter="\t" if ".tsv" in out.name else ","))
    assert written[0] == ["note", "seq", "prediction"]
    assert [row[1] for row in written[1:]] == sequences
    alone = predictor.predict(sequences)
    np.testing.assert_allclose([float(row[2]) for row in written[1:]], alone, rtol=1e-4, atol=1e-5)
    same = Counter(map(as_read, sequences))
    for sequence, count in same.items():
        if count > 1:
            values = [float(row[2]) for row in written[1:] if as_read(row[1]) == sequence]
            assert np.ptp(values) < 1e-5, "upper and lower case, U and T are the same to the model"


_loaded: dict[Path, Predictor] = {}


def _predictor(folder: Path) -> Predictor:
    if folder not in _loaded:
        _loaded[folder] = Predictor.from_pretrained(folder, "cpu")
    return _loaded[folder]


pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
