"""What a user can get wrong: one line on standard error that says where and what would be right, and exit code 2."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field

import pytest

from .conftest import PAIRS, SMALL, Outcome, random_sequences, read_csv, write_table

GOOD = "seq,label\n" + "".join(f"{'ACGT' * 2}{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]},{i}.5\n" for i in range(16))


@dataclass
class Case:
    """A data file, options, and what the message must say (regular expressions, {data} is the file's path)."""

    name: str
    data: str | bytes | None
    says: tuple[str, ...]
    options: tuple[str, ...] = ()
    file: str = "data.csv"
    files: dict[str, str] = field(default_factory=dict)


def changed(line: int, text: str) -> str:
    """The good table with one line (numbered as in an editor) replaced."""
    lines = GOOD.splitlines()
    lines[line - 1] = text
    return "\n".join(lines) + "\n"


TRAIN = [
    Case("missing file", None, ("{data}: there is no such file",)),
    Case("empty file", "", ("{data}: the file is empty", "header")),
    Case("header only", "seq,label\n", ("{data}: has a header but no rows", "add at least one row")),
    Case("blank lines only", "\n\n", ("{data}",)),
    Case("folder", None, ("is a folder; give a CSV",), file="."),
    Case("FASTA", ">a\nACGT\n", ("{data}: FASTA has no targets", "CSV"), file="data.fa"),
    Case("irregular", changed(5, "ACGT,1,2,3"), ("{data}, row 5: has 4 fields, the header 2", "as many fields")),
    Case("not text", b"seq,label\n\xff\xfe\x80,1\n", ("{data}: cannot be read as text", "UTF-8")),
    Case("broken gzip", gzip.compress(GOOD.encode())[:60], ("{data}: cannot be read",), file="data.csv.gz"),
    Case("no sequence column", GOOD.replace("seq", "residues"),
         ("{data}: no sequence column", "--sequence", "residues")),
    Case("wrong --sequence", GOOD, ("{data}: sequence column 'dna' is missing", "seq, label"), ("--sequence", "dna")),
    Case("no target column", GOOD.replace("label", "result"), ("{data}: no target column", "--target", "result")),
    Case("wrong --target", GOOD, ("{data}: target column 'fitness' is missing",), ("--target", "fitness")),
    Case("wrong --split", GOOD, ("{data}: split column 'fold' is missing",), ("--split", "fold")),
    Case("unknown letter", changed(7, "ACGTA5GTAC,1.5"),
         ("{data}, row 7, column seq: letter '5' at position 6 is not in the dna alphabet ACGT",
          "--on-invalid skip")),
    Case("letter outside a given alphabet", changed(4, "ACGTLCGTAC,1.5"),
         ("{data}, row 4, column seq: letter 'L' at position 5 is not in the rna alphabet",), ("--alphabet", "rna")),
    Case("empty sequence", changed(3, ",1.5"), ("{data}, row 3, column seq: the sequence is empty; fill it in",)),
    Case("NaN target", changed(9, "ACGTACGTAC,NaN"), ("{data}, row 9, column label: value is 'NaN'; fill it in",)),
    Case("empty target", changed(9, "ACGTACGTAC,"), ("{data}, row 9, column label: value is empty",)),
    Case("infinite target", changed(9, "ACGTACGTAC,inf"), ("row 9, column label: value 'inf' is not a finite number",)),
    Case("text target", changed(9, "ACGTACGTAC,high"),
         ("{data}, row 9, column label: value 'high' is not a finite number", "correct it")),
    Case("one class", "seq,label\nACGT,yes\nACGA,yes\nACGG,yes\n", ("{data}, column label", "one class 'yes'", "two")),
    Case("one value", "seq,label\n" + "".join(f"{s},1.25\n" for s in random_sequences(20, 9, 9)),
         ("{data}, column label: the training part has one value only",)),
    Case("labels of another length", "seq,label\nACGT,0110\nACGTA,0110\nAC,01\n",
         ("{data}, row 3, column label: has 4 labels for a sequence of 5 residues; there must be one for each",)),
    Case("unknown split", "seq,label,set\nACGT,1.5,train\nACGA,2.5,fold3\n",
         ("{data}, row 3, column set: value 'fold3' names no part; it must be train, val or test",)),
    Case("no training part", "seq,label,set\nACGT,1.5,test\nACGA,2.5,val\n",
         ("{data}: the train part is empty", "column set")),
    Case("no validation part", GOOD, ("the val part is empty",), ("--val-fraction", "0")),
    Case("fractions", GOOD, ("must be below 1",), ("--val-fraction", "0.5", "--test-fraction", "0.5")),
    Case("negative fraction", GOOD, ("--test-fraction -0.1: must be at least 0",), ("--test-fraction", "-0.1")),
    Case("mutants without wild type", "mutant,y\nA1G,1.5\n", ("{data}, column mutant", "give --wild-type")),
    Case("mutant of another wild type", "mutant,y\nA1G,1.5\nK2R,2.5\n",
         ("{data}, row 3, column mutant: K2R starts from K, but residue 2 of the wild type is C",),
         ("--wild-type", "ACDEF")),
    Case("offset", "mutant,y\nA11G,1.5\nE14R,2.5\n",
         ("{data}, row 2, column mutant: A11G is outside", r"every row fits --offset 11"), ("--wild-type", "ACDEF")),
    Case("no mutation", "mutant,y\nA1G:xx,1.5\n",
         ("{data}, row 2, column mutant: 'xx' is no mutation; write it like A24G",), ("--wild-type", "ACDEF")),
    Case("wild type file without records", GOOD, ("{wt.fa}: has no records",), ("--wild-type", "{wt.fa}"),
         files={"wt.fa": "\n"}),
    Case("alphabet", GOOD, ("--alphabet 'klingon': must be one of protein, dna, rna",), ("--alphabet", "klingon")),
    Case("task", GOOD, ("--task 'guess': must be one of regression, classification, token",), ("--task", "guess")),
    Case("on-invalid", GOOD, ("--on-invalid 'ignore': must be one of error, skip, unknown",),
         ("--on-invalid", "ignore")),
    Case("all skipped", "seq,label\nA1,1.5\nA2,2.5\n", ("{data}: no row is left",), ("--on-invalid", "skip")),
    Case("learning rate", GOOD, ("--lr -1.0: must be above 0",), ("--lr", "-1")),
    Case("batch size", GOOD, ("--batch-size 0: must be above 0",), ("--batch-size", "0")),
    Case("odd state", GOOD, ("--d-state 5: must be even",), ("--d-state", "5")),
    Case("dropout", GOOD, ("--dropout 1.0: must be at least 0 and below 1",), ("--dropout", "1")),
    Case("pool", GOOD, ("--pool 'sum': must be one of mean, max, first",), ("--pool", "sum")),
    Case("model", GOOD, ("--model 'big': must be one of paper, layered",), ("--model", "big")),
    Case("output", GOOD, ("--output 'exp': must be one of",), ("--output", "exp")),
    Case("accelerator", GOOD, ("--accelerator", "cannot be used"), ("--accelerator", "abacus")),
    Case("devices", GOOD, ("--devices", "cannot be used"), ("--devices", "many")),
    Case("precision", GOOD, ("--precision", "cannot be used"), ("--precision", "3-bit")),
    Case("strategy", GOOD, ("--strategy", "cannot be used"), ("--strategy", "luck")),
    Case("nothing to resume", GOOD, ("has no run to resume; leave --resume out",), ("--resume",)),
]  # fmt: skip


def check(outcome: Outcome, says: tuple[str, ...], paths: dict[str, str]) -> None:
    assert outcome.code == 2, outcome
    lines = [line for line in outcome.err.splitlines() if line.startswith("lyra: error: ")]
    assert len(lines) == 1 and outcome.err.rstrip().endswith(lines[0]), outcome.err
    assert "Traceback" not in outcome.err
    for text in says:
        for name, path in paths.items():
            text = text.replace(f"{{{name}}}", re.escape(path))
        assert re.search(text, lines[0]), f"{text!r} is not in {lines[0]!r}"


@pytest.mark.parametrize("case", TRAIN, ids=[case.name for case in TRAIN])
def test_train(lyra, tmp_path, case):
    data = tmp_path / case.file
    paths = {"data": str(data)}
    if case.data is not None:
        data.write_bytes(case.data if isinstance(case.data, bytes) else case.data.encode())
    for name, text in case.files.items():
        (tmp_path / name).write_text(text)
        paths[name] = str(tmp_path / name)
    options = [paths.get(option.strip("{}"), option) for option in case.options]
    small = [option for pair in zip(PAIRS[::2], PAIRS[1::2], strict=True) if pair[0] not in options for option in pair]
    outcome = lyra("train", data, "--out", tmp_path / "run", *small, *options)
    check(outcome, case.says, paths)
    assert not (tmp_path / "run" / "model").exists()


def test_what_works_is_no_error(lyra, tmp_path):
    """The table that the cases above spoil is good."""
    (tmp_path / "data.csv").write_text(GOOD)
    assert lyra("train", tmp_path / "data.csv", "--out", tmp_path / "run", *SMALL).code == 0


@pytest.mark.parametrize(("policy", "rows"), [("skip", 16), ("unknown", 17)])
def test_invalid_letters_on_request(lyra, tmp_path, policy, rows):
    """A row with a digit is left out, or kept with an unknown letter; either way the user is told the numbers."""
    (tmp_path / "data.csv").write_text(GOOD + "ACGT9CGTAC,1.0\n")
    options = ("--on-invalid", policy, "--alphabet", "dna", *SMALL)
    outcome = lyra("train", tmp_path / "data.csv", "--out", tmp_path / "run", *options)
    assert outcome.code == 0, outcome.err
    sizes = re.search(r"data: (\d+) train, (\d+) val, (\d+) test", outcome.err)
    assert sum(map(int, sizes.groups())) == rows
    says = "rows: 17 read, 16 used, 1 set aside (1 with letters outside the dna alphabet)"
    assert (says in outcome.err) == (policy == "skip")


def test_duplicates_across_parts(lyra, tmp_path):
    rows = [(line.split(",")[0], line.split(",")[1], "train") for line in GOOD.splitlines()[1:]]
    rows = [(s, y, ("train", "val", "test")[max(0, i - 11) % 3]) for i, (s, y, _) in enumerate(rows)]
    rows += [(rows[0][0], "3.5", "test"), (rows[1][0], "3.5", "val"), (rows[2][0], "9.5", "train")]
    table = write_table(tmp_path / "data.csv", ["seq", "label", "split"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "warned", *SMALL)
    assert outcome.code == 0, outcome.err
    assert re.search(r"warning: .*data\.csv: 2 sequences, such as '[ACGT]+', stand in more than one of", outcome.err)
    assert "--deduplicate" in outcome.err
    outcome = lyra("train", table, "--out", tmp_path / "once", "--deduplicate", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "removed 3 duplicate rows" in outcome.err
    test = [row["seq"] for row in read_csv(tmp_path / "once" / "predictions.csv")]
    assert rows[0][0] in test, "the test part keeps its copy, so that test scores stay comparable"


def test_out_is_not_overwritten_by_accident(lyra, tmp_path):
    (tmp_path / "data.csv").write_text(GOOD)
    command = ("train", tmp_path / "data.csv", "--out")
    check(lyra(*command, tmp_path / "data.csv", *SMALL), ("data.csv: is a file; --out must name a folder",), {})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    check(lyra(*command, mine, *SMALL), ("is not empty; give another folder",), {})
    check(lyra(*command, mine, "--overwrite", *SMALL), ("is not empty; give another folder",), {})
    assert (mine / "thesis.txt").read_text() == "years of work"
    run = tmp_path / "run"
    assert lyra(*command, run, *SMALL).code == 0
    check(lyra(*command, run, *SMALL), ("is not empty; .*--overwrite replaces it",), {})
    check(lyra(*command, run, "--resume", *SMALL), ("the run is finished",), {})
    assert lyra(*command, run, "--overwrite", *SMALL).code == 0


PREDICT = [
    Case("missing file", None, ("{data}: there is no such file",)),
    Case("empty file", "", ("{data}: the file is empty",)),
    Case("header only", "seq\n", ("{data}: has no sequences",)),
    Case("missing column", "name,dna\na,ACGT\n", ("{data}: no sequence column", "name, dna")),
    Case("letter that the model lacks", "seq\nACGT\nACLT\n",
         ("{data}, row 3, column seq: letter 'L' at position 3 is not in the dna alphabet ACGT-N",)),
    Case("the same in FASTA", ">a\nACGT\n>b\nACGTL\n",
         ("{data}, row 2, column sequence: letter 'L' at position 5",), file="data.fasta"),
    Case("column taken", "seq,prediction\nACGT,1\n", ("{data}: already has a column prediction; rename it",)),
    Case("no FASTA", "ACGT\n", ("{data}, row 1: 'ACGT' stands before the first '>'",), file="data.fa"),
    Case("record without sequence", ">a\nACGT\n>b\n>c\nA\n",
         ("{data}, row 2, column sequence: record 'b' has no sequence",), file="data.fa"),
    Case("empty FASTA", "\n", ("{data}: has no sequences",), file="data.fa"),
    Case("device", "seq\nACGT\n", ("--device warp: cannot be used",), ("--device", "warp")),
    Case("batch size", "seq\nACGT\n", ("--batch-size 0: must be above 0",), ("--batch-size", "0")),
    Case("on-invalid", "seq\nACGT\n", ("--on-invalid 'x': must be one of",), ("--on-invalid", "x")),
]  # fmt: skip


@pytest.mark.parametrize("case", PREDICT, ids=[case.name for case in PREDICT])
def test_predict(lyra, trained, tmp_path, case):
    data = tmp_path / case.file
    if case.data is not None:
        data.write_text(case.data)
    outcome = lyra("predict", trained["regression"], data, "-o", tmp_path / "out.csv", *case.options)
    check(outcome, case.says, {"data": str(data)})
    assert {path.name for path in tmp_path.iterdir()} <= {case.file}, "nothing is left behind"


MODELS = [
    ("nothing", None, "does not exist"),
    ("a file", "text", "is a file"),
    ("an empty folder", {}, "has no config.json"),
    ("no JSON", {"config.json": "{"}, "config.json: cannot be read as JSON"),
    ("a list", {"config.json": "[]"}, "is not a model's configuration"),
    ("another model", {"config.json": '{"model_type": "bert", "architectures": ["Bert"]}'}, "holds no usable model"),
    ("no weights", {"config.json": '{"d_input": 5}'}, "model.safetensors"),
    ("broken weights", {"config.json": '{"d_input": 5}', "model.safetensors": "x"}, "holds no usable model"),
]


@pytest.mark.parametrize(("kind", "content", "says"), MODELS, ids=[kind for kind, *_ in MODELS])
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_no_model_folder(lyra, tmp_path, command, kind, content, says):
    model = tmp_path / "model"
    if isinstance(content, str):
        model.write_text(content)
    elif content is not None:
        model.mkdir()
        for name, text in content.items():
            (model / name).write_text(text)
    (tmp_path / "data.csv").write_text(GOOD)
    outcome = lyra(command, model, tmp_path / "data.csv", "-o", tmp_path / "out")
    check(outcome, (says, re.escape(str(model))), {})
    assert not (tmp_path / "out").exists()


def test_model_without_metadata(lyra, tmp_path):
    """A folder that `save_pretrained` wrote without the command line lacks what a prediction needs."""
    from lyra import Lyra

    Lyra(d_input=5, d_model=8, d_state=4).save_pretrained(tmp_path / "model")
    (tmp_path / "data.csv").write_text(GOOD)
    outcome = lyra("predict", tmp_path / "model", tmp_path / "data.csv", "-o", tmp_path / "out.csv")
    check(outcome, ("config.json: has no usable alphabet, targets and output", "`lyra train` wrote"), {})


@pytest.mark.parametrize("out", ["data.csv", "a_file/out.csv", "."])
def test_places_to_write(lyra, trained, tmp_path, out):
    """The data itself, a folder below a file, a folder: refused, and nothing is lost."""
    (tmp_path / "data.csv").write_text(GOOD)
    (tmp_path / "a_file").write_text("mine")
    outcome = lyra("predict", trained["regression"], tmp_path / "data.csv", "-o", tmp_path / out)
    check(outcome, (re.escape(str(tmp_path / out)),), {})
    assert (tmp_path / "data.csv").read_text() == GOOD and (tmp_path / "a_file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"data.csv", "a_file"}


def test_command_line_mistakes_have_the_same_code(lyra):
    for arguments in (
        ("train",),
        ("train", "x.csv"),
        ("predict", "m", "d.csv"),
        ("fly",),
        ("train", "x", "--lr", "fast"),
    ):
        assert lyra(*arguments).code == 2, arguments
