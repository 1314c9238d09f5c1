"""Tables as people have them: each is read as they meant it, or refused in one line. A new case is one entry."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lyra.cli.options import option
from lyra.data import DataOptions, LabelledData, load_labelled
from lyra.data.batches import IGNORED
from lyra.errors import InputError, arguments_spelled

from .conftest import random_sequences

CASES = Path(__file__).parent / "cases"
DNA20 = random_sequences(20, 9, 9, seed=11)
NUMBERS = [f"{i / 4 - 2:.2f}" for i in range(1, 21)]


def table(
    column: list[str], sequences: list[str] = DNA20, header: str = "seq,label", more: list[str] | None = None
) -> str:
    """A CSV of sequences and a column, with `more` in a third."""
    rows = zip(sequences, column, more or [None] * len(column), strict=True)
    return header + "\n" + "".join(",".join(cell for cell in row if cell is not None) + "\n" for row in rows)


GOOD = table(NUMBERS)


@dataclass
class Case:
    """A table and what it is.

    Attributes:
        data: its text or bytes, or the name of a file in cases/.
        is_: attributes of the loaded data, as `facts` gives them.
        says: for a table that is refused, what the line must say (regular expression).
        warns: what must be warned of; "" for nothing at all.
        options: of DataOptions.
    """

    name: str
    data: str | bytes
    is_: dict[str, Any] = field(default_factory=dict)
    says: str | None = None
    warns: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def facts(data: LabelledData) -> dict[str, Any]:
    return {
        "task": data.targets.task, "classes": data.targets.classes, "alphabet": data.alphabet.name,
        "rows": (data.rows_read.read, data.rows_read.used), "aside": dict(+data.rows_read.aside),
        "positive": data.targets.positive, "unlabelled": data.targets.unlabelled, "target": data.source.target,
        "column": data.source.column, "sequences": data.sequences,
        "values": [np.asarray(value).tolist() for value in data.values],
        "parts": {part: len(data.rows(part)) for part in ("train", "val", "test")},
        "spread": len({float(value) for value in data.values}) if data.targets.task == "regression" else None,
    }  # fmt: skip


REAL = {"task": "regression", "rows": (20, 20), "values": [float(number) for number in NUMBERS]}
words = ["negative", "positive"] * 10
GUESS, YES = "may be", {"rows": (20, 20)}

READING = [
    Case("plain", GOOD, REAL, warns=""),
    Case("semicolons", GOOD.replace(",", ";"), REAL),
    Case("semicolons and decimal commas", GOOD.replace(",", ";").replace(".", ","), REAL, options={"decimal": "comma"}),
    Case("decimal commas unasked", GOOD.replace(",", ";").replace(".", ","), says="row 2, column label: .*decimal comma"),
    Case("tabs", GOOD.replace(",", "\t"), REAL),
    Case("pipes on request", GOOD.replace(",", "|"), REAL, options={"separator": "pipe"}),
    Case("Excel's first line", "sep=;\n" + GOOD.replace(",", ";"), REAL),
    Case("two separators fit", "seq;a,label\nAC;b,1.5\nAG;b,2.5\n", says="row 1: .*comma or semicolon; .*--separator"),
    Case("a comma in a name", table(NUMBERS, header='seq,"label, mean"'), REAL, options={"target": "label, mean"}),
    Case("Latin-1", table(NUMBERS, more=["\xe9t\xe9"] * 20, header="seq,label,note").encode("latin-1"), REAL),
    Case("Windows-1252", GOOD.replace("label", "label \x93").encode("latin-1"), says="byte 0x93, which is not UTF-8"),
    Case("UTF-8 mark", GOOD.encode("utf-8-sig"), REAL),
    Case("UTF-16", GOOD.encode("utf-16"), REAL),
    Case("UTF-16 without a mark", GOOD.encode("utf-16-le"), REAL),
    Case("UTF-16, other order", GOOD.encode("utf-16-be"), REAL),
    Case("gzip", gzip.compress(GOOD.encode()), REAL),
    Case("old Mac", GOOD.replace("\n", "\r"), REAL),
    Case("Windows line ends", GOOD.replace("\n", "\r\n"), REAL),
    Case("zeros", GOOD.encode() + b"\0\0\0", says="cannot be read as text: row 22 has a byte 0x00"),
    Case("Excel workbook", b"PK\x03\x04" + b"x" * 50, says="Excel workbook; save the table as CSV"),
    Case("FASTQ", "@read\nACGT\n+\nIIII\n", says="begins with '@' as FASTQ"),
    Case("FASTA", ">a\nACGT\n", says="FASTA has no targets"),
    Case("blank lines", GOOD.replace("\n", "\n\n"), REAL),
    Case("empty rows", GOOD + ",\n,\n", {**REAL, "rows": (22, 20), "aside": {"without anything in them": 2}}),
    Case("quotes", re.sub("([A-Z]{9})", r'"\1"', GOOD), REAL),
    Case("a cell of two lines", GOOD + 'ACGTACGTA,"1.\n5"\n', says="row 22, column label: .*not a finite number"),
    Case("a note of two lines", table(NUMBERS, more=['"good, but\nweak"'] * 20, header="seq,label,note"), REAL),
    Case("a quote that swallows", GOOD.replace("\n" + DNA20[3], '\n"' + DNA20[3]), says="row 5: a quotation mark"),
    Case("quotes that swallow and close", GOOD.replace(",-1.00\n", ',"-1.00\n').replace(",0.00\n", ',0.00"\n'),
         says="row 5: a quotation mark opens a cell that swallows row 6"),
    Case("a quote inside", table(NUMBERS, more=['5" cut'] * 20, header="seq,label,note"), REAL),
    Case("text behind a quote", table(NUMBERS, more=['"a"b'] * 20, header="seq,label,note"), says="row 2: a quotation"),
    Case("a field less", GOOD + "ACGTACGTA\n", says="row 22: has 1 field, the header 2"),
    Case("a field more", GOOD + "ACGTACGTA,1.5,\n", says="row 22: has 3 fields, the header 2"),
    Case("handed: decimal commas as fields", "decimal_comma_fields.csv", says="row 2: has 3 fields, the header 2"),
    Case("handed: stray quotes", "stray_quotes.tsv", says="row 7: a quotation mark"),
    Case("handed: one name twice", "same_name.csv", says="row 1: columns 2 and 3 are both called 'score'"),
    Case("unnamed columns", table(NUMBERS, more=[","] * 20, header="seq,label,,"), REAL),
    Case("no header", GOOD.split("\n", 1)[1], says="no sequence column .*name it with --sequence"),
]  # fmt: skip

READING += [
    Case("a cell of two lines in front", table(NUMBERS, [f'"line one\nline two",{s}' for s in DNA20], "note,seq,label"), REAL),
    Case("a nameless index", ";" + GOOD.replace(",", ";").replace("\n", "\n0;", 20), REAL),
    Case("odd lines among semicolons", GOOD.replace(",", ";").replace("label", "label (a, b)") + "   \n",
         REAL, options={"target": "label (a, b)"}),
    Case("a footer among semicolons", GOOD.replace(",", ";").replace("label", "label (a, b)") + "end\n", says="row 22: has 1 field"),
    Case("a header of two lines", GOOD.replace("label", '"label\n(nM)"'), REAL, options={"target": "label (nM)"}),
    Case("the header again", GOOD + GOOD, says="row 22: repeats the header"),
    Case("an empty name", GOOD, says="--target is empty", options={"target": ""}),
    Case("a bad byte in an old Mac file", GOOD.replace("\n", "\r").encode() + b"ACGT,\x93\r", says="row 22 has a byte 0x93"),
    Case("zeros in UTF-16", (GOOD + "\0").encode("utf-16"), says="row 22 has a byte 0x00"),
    Case("another encoding behind a mark", GOOD.encode("utf-8-sig") + b"\xe9", says="something else from about row 22 on"),
    Case("blank lines in one column", "seq,label\n" + GOOD[10:].replace("\n", "\n\n"), REAL),
]  # fmt: skip

TASKS = [
    Case("a word for no value", table(["ND"] * 12 + NUMBERS[:8]), says="value 'ND' is no number, as 8 different others.*--na 'ND'"),
    Case("a word for no value, said", table(["ND"] * 5 + NUMBERS[:15]), {"rows": (20, 15)}, options={"na": "ND", "on_missing": "skip"}),
    Case("a number for no value", table(["-999.0"] * 5 + NUMBERS[:15]), {"rows": (20, 15)}, options={"na": "-999", "on_missing": "skip"}),
    Case("signs and decimals", table(["-1", "-1.0", "1", "1.0"] * 5), {"classes": ["-1", "1"]}),
    Case("names alike", table(["Yes", "yes", "no", "no"] * 5), {"classes": ["Yes", "no", "yes"]}, warns="Yes, yes differ in spelling"),
    Case("numbers alike", table(["01", "1", "2", "2"] * 5), {"classes": ["01", "1", "2"]}, warns="01, 1 differ in spelling only"),
    Case("points beside decimal commas", GOOD.replace(",", ";").replace(".", ",") + "ACGTACGTA;1.234\n",
         says="row 22, column label: value '1.234' has a point", options={"decimal": "comma"}),
    Case("three decimals", table([f'"0,{i}00"' for i in range(100, 120)]), says="row 2, .*decimal comma; give --decimal comma"),
    Case("a list in quotes", table(["\"['" + "', '".join("HE-"[(i * j) % 3] for j in range(1, 10)) + "']\"" for i in range(1, 21)]),
         {"task": "token", "classes": ["E", "H"]}, options={"task": "token"}),
    *(Case(f"unit {cell}", table([cell] * 2 + [cell.replace("1", str(i % 8 + 1)) for i in range(18)]), says="not a finite number")
      for cell in ("1 mg/mL", "10 kDa", "1 d", "1-2", ">1 %", "1.5D-3", "'1.5")),
    Case("numbers", GOOD, {"task": "regression"}),
    Case("two words", table(words), {"task": "classification", "classes": ["negative", "positive"]}),
    Case("handed: words as long as sequences", "words_as_long.csv", {"task": "classification", "rows": (60, 60)}),
    Case("handed: half of them", "words_half_as_long.csv", {"task": "classification", "classes": ["binder", "nonbinder"]}),
    Case("handed: decimal commas", "decimal_comma.tsv", says="row 2, column score: .*'2,94'.*decimal comma"),
    Case("handed: thousands", "thousands.csv", says="row 2, column score: .*'7,940'.*thousands separator"),
    Case("handed: class names", "class_names.csv", {"classes": ["11", "0_1", "1_0", "1_1"], "rows": (60, 60)}),
    Case("names with zeros", table(["01", "1", "001", "10"] * 5), {"classes": ["001", "01", "1", "10"]}),
    Case("names like exponents", table(["1E3", "1000"] * 10), {"classes": ["1000", "1E3"], "positive": "1E3"},
         options={"task": "classification"}),
    Case("None is missing", table(["None", "mild"] * 10), says="row 2, column label: value is 'None'.*--na ''"),
    Case("None is a class", table(["None", "NA", "mild", "NA"] * 5), {"classes": ["NA", "None", "mild"]},
         options={"na": ""}),
    Case("1 and 1.0", table(["1", "0", "1.0", "0"] * 5), {"classes": ["0", "1"]}),
    Case("1.0 alone", table(["1.0", "0.0"] * 10), {"classes": ["0.0", "1.0"]}),
    *(Case(f"notation {cell}", table([f'"{cell}"', f'"{cell}"'] + [f'"{cell}"'.replace("5", str(i % 10)) for i in range(18)]),
           says="row 2, column label: .*not a finite number")
      for cell in ("1,5", "5%", "<5", "> 5.0", "~5", "1 500", "1'500", "5 nM", "\u22125", "5\u00b10.1", "5x10^-9", "1.500,2")),
    Case("one bad number", table([*NUMBERS[:19], "high"]), says="row 21, column label: value 'high' is not a finite number"),
    Case("infinite", table([*NUMBERS[:19], "-inf"]), says="row 21, column label: value '-inf' is not a finite number"),
    Case("underscores in numbers", table([*NUMBERS[:19], "1_0"]), says="row 21, column label: value '1_0'"),
    Case("names of rows", table([f"clone{i}" for i in range(20)]), says="20 different words in 20 rows.*hardly classes"),
    Case("names of rows, said", table([f"clone{i}" for i in range(20)]), {"task": "classification"},
         options={"task": "classification"}),
    Case("few whole numbers", table([str(i % 3) for i in range(20)]), {"task": "classification", "classes": ["0", "1", "2"]}),
    Case("nearly as many whole numbers", table([str(i) for i in range(20)]), says=r"20 different whole numbers.*--task"),
    Case("large whole numbers", table([str(1000 * i + 500) for i in range(20)]), {"task": "regression"}),
    Case("numbers for residues", table(['"' + ",".join(["0.5"] * 9) + f'{i}"' for i in range(20)]),
         {"task": "token-regression", "rows": (20, 20)}),
    Case("labels", table(["HHHHEEEEE"[i % 9 :] + "HHHHEEEEE"[: i % 9] for i in range(20)]), {"task": "token", "classes": ["E", "H"]}),
    Case("two words of two letters", table(["HHHHEEEEE", "EEEEEHHHH"] * 10), says="may be a word, or a letter for each"),
    Case("digits with a residue left out", table([f"{i:04b}-{i:04b}" for i in range(16)], DNA20[:16]),
         {"task": "token", "classes": ["0", "1"], "unlabelled": ["-"]}),
    Case("digits and commas with a residue left out", table([f'"{",".join(f"{i:04b}-{i:04b}")}"' for i in range(16)], DNA20[:16]),
         {"task": "token", "classes": ["0", "1"], "unlabelled": ["-"]}),
    Case("labels with spaces around", table([" " + " ".join("HE"[(i >> j) & 1] for j in range(9)) + "  " for i in range(20)]),
         {"task": "token", "classes": ["E", "H"]}),
    Case("long labels", table(["01" * 5000 + "-"] * 19 + ["10" * 5000 + "-"], [s + "A" * 9992 for s in DNA20]), {"task": "token", "unlabelled": ["-"]},
         options={"task": "token"}),
    Case("labels with commas", table(['"' + ",".join("01"[(i >> j) & 1] for j in range(9)) + '"' for i in range(20)]),
         {"task": "token", "classes": ["0", "1"]}),
    Case("a list of labels", table(['"[' + ", ".join("01"[(i >> j) & 1] for j in range(9)) + ']"' for i in range(20)]),
         {"task": "token", "classes": ["0", "1"]}),
    Case("names as long as sequences", table([f"sample_{i:02d}" for i in range(20)]), says="may be a word, or a letter for each"),
    Case("numbers as long as sequences", table([f"{123456789 + 10007 * i}" for i in range(20)]), says="may be a number"),
    Case("handed: residues without labels", "no_labels.csv", {"task": "token", "classes": ["E", "H"], "unlabelled": ["-"]}),
    Case("'-' is a class", "no_labels.csv", {"classes": ["-", "E", "H"], "unlabelled": []}, options={"unlabelled": ""}),
    Case("another letter", "no_labels.csv", {"classes": ["-", "H"], "unlabelled": ["E"]}, options={"unlabelled": "E"}),
    Case("no label between commas", table(['"0,1,,1,0,NA,1,0,' + f'{i % 2}"' for i in range(19)] + ['"1,1,,1,0,NA,1,0,1"']),
         {"task": "token", "classes": ["0", "1"], "unlabelled": ["", "NA"]}, options={"task": "token"}),
    Case("a row without labels", table(["-" * 9, *("HHHHEEEEE"[i % 9 :] + "HHHHEEEEE"[: i % 9] for i in range(19))]),
         {"task": "token", "rows": (20, 19), "aside": {"without a labelled residue": 1}}),
    Case("the rarer class is positive", table(["sick"] * 5 + ["well"] * 15), {"positive": "sick"}),
    Case("the positive class, said", table(["sick"] * 5 + ["well"] * 15), {"positive": "well"}, options={"positive": "well"}),
    Case("no such class", table(["sick"] * 5 + ["well"] * 15), says="--positive 'ill': must be one of sick, well",
         options={"positive": "ill"}),
    Case("positive of three", table(["a", "b", "c", "a"] * 5), says="--positive 'a': has no effect with 3 classes",
         options={"positive": "a"}),
]  # fmt: skip

PROTEINS = random_sequences(20, 9, 9, "ACDEFGHIKLMNPQRSTVWY", seed=2)
ALPHABETS = [
    Case("N in DNA", table(NUMBERS, [*DNA20[:19], "ACGTNNNGT"]), {"alphabet": "dna"}),
    Case("IUPAC in DNA", table(NUMBERS, [*DNA20[:19], "ACGTRYGTA"]), {"alphabet": "dna"}),
    Case("a typo in DNA", table(NUMBERS, [*DNA20[:19], "ACGTEAGTA"]), says=r"nucleotides, but E \(1 times\).*first is E in row 21, position 5.*--alphabet"),
    Case("a digit in DNA", table(NUMBERS, [*DNA20[:19], "ACGT5AGTA"]), says="row 21, .*'5' at position 5 .* dna alphabet"),
    Case("half IUPAC", table(NUMBERS, ["ACGTACRYK"] * 20), says="IUPAC codes that are amino acids, too.*--alphabet"),
    Case("RNA", table(NUMBERS, [s.replace("T", "U") for s in DNA20]), {"alphabet": "rna"}),
    Case("lower case", table(NUMBERS, [s.lower() for s in DNA20]), {"alphabet": "dna"}),
    Case("gaps", table(NUMBERS, [f"--{s[2:8]}." for s in DNA20]), {"alphabet": "dna"}),
    Case("proteins", table(NUMBERS, PROTEINS), {"alphabet": "protein"}),
    Case("stops at the end", table(NUMBERS, [f"{s}*" for s in PROTEINS]), {"sequences": PROTEINS},
         warns=r"20 sequences end in '\*'.*taken off"),
    Case("stops with labels", table([f"{'HE' * 4}{'HE'[i % 2]}S" for i in range(20)], [f"{s}*" for s in PROTEINS]),
         {"task": "token", "sequences": [f"{s}*" for s in PROTEINS]}, options={"task": "token"}),
    Case("stops inside, too", table(NUMBERS, [f"{s[:8]}*" for s in PROTEINS[:19]] + ["ACD*FGHIK"]),
         {"sequences": [f"{s[:8]}*" for s in PROTEINS[:19]] + ["ACD*FGHIK"]}, warns=""),
]  # fmt: skip

FLIP = ["train"] * 14 + ["test"] * 6
WILD = {"wild_type": "ACDEF"}
mutants = [f"{'ACDEF'[i % 5]}{i % 5 + 1}{'GHIK'[i // 5]}" for i in range(20)]
ROWS = [
    Case("a missing target", table([*NUMBERS[:19], ""]), says="row 21, column label: value is empty.*--on-missing skip"),
    Case("a missing target, skipped", table([*NUMBERS[:18], "", "NA"]),
         {"rows": (20, 18), "aside": {"without a target": 2}}, options={"on_missing": "skip"}),
    Case("a text for missing", table([*NUMBERS[:19], "-999"]), {"rows": (20, 19), "aside": {"without a target": 1}},
         options={"on_missing": "skip", "na": "-999,?"}),
    Case("handed: FLIP", "flip.csv", {"parts": {"train": 30, "val": 15, "test": 15}}),
    Case("FLIP", table(NUMBERS, more=[f"{p},{'True' if i < 3 else ''}" for i, p in enumerate(FLIP)],
                       header="sequence,target,set,validation"), {"parts": {"train": 11, "val": 3, "test": 6}}, warns=""),
    Case("FLIP, marked twice", table(NUMBERS, more=[f"{p},{i in (0, 15)}" for i, p in enumerate(FLIP)],
                                     header="sequence,target,set,validation"),
         {"parts": {"train": 13, "val": 1, "test": 6}}, warns="1 rows of the test part are marked"),
    Case("validation alone", table(NUMBERS, more=[str(i < 4) for i in range(20)], header="seq,y,validation"),
         says="column validation: does it say which rows.*--split validation if so, --split none if not"),
    Case("validation alone, said", table(NUMBERS, more=[str(i < 4) for i in range(20)], header="seq,y,validation"),
         {"parts": {"train": 14, "val": 4, "test": 2}}, options={"split": "validation"}),
    Case("FLIP, its split said", table(NUMBERS, more=[f"{p},{'True' if i < 3 else ''}" for i, p in enumerate(FLIP)],
                                       header="sequence,target,set,validation"),
         {"parts": {"train": 11, "val": 3, "test": 6}}, options={"split": "set"}),
    Case("a validation column too many", table(NUMBERS, more=[f"{p},{i < 2}" for i, p in enumerate(["val", *FLIP[1:]])],
                                               header="sequence,target,set,validation"),
         {"parts": {"train": 13, "val": 1, "test": 6}}, warns="column validation is not used: column set has a validation"),
    Case("ProteinGym", table(NUMBERS, more=[f"A1G,{i % 2}" for i in range(20)],
                             header="mutated_sequence,DMS_score,mutant,DMS_score_bin"),
         {"column": "mutated_sequence", "target": "DMS_score"}),
    Case("a set of something else", table(NUMBERS, more=["plate 7"] * 20, header="seq,label,set"),
         says="row 2, column set: value 'plate 7' names no part.*--split none"),
    Case("a set of something else, said", table(NUMBERS, more=["plate 7"] * 20, header="seq,label,set"),
         {"parts": {"train": 16, "val": 2, "test": 2}}, options={"split": "none"}),
    Case("two targets", table(NUMBERS, more=NUMBERS, header="seq,label,score"), says="label, score; choose one with --target"),
    Case("a coordinate that may be the target", table(NUMBERS, more=["3"] * 20, header="seq,y,x"), says="beside x, a coordinate"),
    Case("wild types beside mutations", table(NUMBERS, [DNA20[0]] * 20, "seq,label,mutant", mutants), says="are these wild types"),
    Case("wild types, said", table(NUMBERS[:4], [DNA20[0], *DNA20[:3]], "seq,label,mutant", mutants[:4]), {"rows": (4, 4)},
         options={"sequence": "seq", "val_fraction": 0.34}),
    Case("a sequence that is missing", table(NUMBERS, [*PROTEINS[:19], "NA"]), says="row 21, column seq: the sequence is missing"),
    Case("a sequence of gaps", table(NUMBERS, [*DNA20[:19], "---"]), says="row 21, column seq: the sequence is missing"),
    Case("missing sequences, skipped", table([*NUMBERS[:19], "NA"], [*PROTEINS[:17], "None", "", PROTEINS[18]]),
         {"rows": (20, 17), "aside": {"without a target": 1, "without a sequence": 2}}, options={"on_missing": "skip"}),
    Case("a dipeptide", table(NUMBERS, [s[:2] for s in PROTEINS[:19]] + ["NA"]), {"rows": (20, 20)}),
    Case("three-letter codes", table(NUMBERS, ["MetTrpSer"] * 20), says="row 2, column seq: 'MetTrpSer' is written in three"),
    Case("a mutation that is missing", table(NUMBERS, [*mutants[:19], ""], "mutant,y"), says="row 21, column mutant: .*write WT",
         options=WILD),
    Case("coordinates", table(NUMBERS, more=[f"{i},7" for i in range(20)], header="seq,label,x,y"), {"target": "label"}),
    Case("handed: upper and lower case", "two_cases.csv", {"rows": (300, 300)}, warns=""),
    Case("upper and lower case in two parts",
         table(NUMBERS[:6], [DNA20[0], DNA20[0].lower(), *DNA20[1:5]], "seq,label,set", ["train", "test", "train", "train", "val", "test"]),
         warns="1 sequences, .*stand in more than one"),
    Case("U and T in two parts",
         table(NUMBERS[:6], ["ACGTTG", "ACGUUG", *DNA20[1:5]], "seq,label,set", ["val", "test", "train", "train", "val", "test"]),
         warns="1 sequences, such as 'ACGTTG'"),
    Case("points and dashes, one kept", table([*NUMBERS[:19], "7.5"], ["AC--GT", *DNA20[1:19], "ac..gt"]),
         {"rows": (20, 19), "aside": {"copies of another row": 1}}, warns="removed 1 duplicate.*1 rows had another target",
         options={"deduplicate": True}),
    Case("mutations", table(NUMBERS, mutants, "mutant,y"), {"rows": (20, 20)}, options=WILD),
    *(Case(f"mutations {text}", table(NUMBERS, [*mutants[:19], f'"{text}"'], "mutant,y"), {"last": sequence}, options=WILD)
      for text, sequence in {
          "p.Ala1Gly": "GCDEF", "p.(A1G)": "GCDEF", "p.A1=": "ACDEF", "p.Phe5Ter": "ACDE*", "p.[Ala1Gly;Cys2Asp]": "GDDEF",
          "_wt": "ACDEF", "WT": "ACDEF", "A1A": "ACDEF", "A1G:C2D": "GDDEF", "A1G,C2D": "GDDEF", "A1G;C2D": "GDDEF",
          "A1G/C2D": "GDDEF", "A1G C2D": "GDDEF", "A1G + C2D": "GDDEF", "Ala1Gly": "GCDEF", "A1-": "-CDEF", "p.=": "ACDEF",
          "p.(Ala1Gly);p.(Cys2Asp)": "GDDEF", "p.[(Ala1Gly);(Cys2Asp)]": "GDDEF", "p.(A1G;C2D)": "GDDEF",
      }.items()),
    *(Case(f"mutations {text}", table(NUMBERS, [*mutants[:19], f'"{text}"'], "mutant,y"), says=f"row 21, column mutant: {says}",
           options=WILD)
      for text, says in {
          "A1G:A1C": "'A1G' and 'A1C' are two mutations at one position", "A1G:A1G": "'A1G' and 'A1G' are two",
          "p.Ala1del": "'Ala1del' is no mutation", "A1_C2insG": "'A1_C2insG' is no mutation", "c.76A>C": ".*is no mutation",
          "G1A": "G1A starts from G, but residue 1 of the wild type is A", "A9G": "A9G is outside", "A1G:": "'' is no mutation", "A1111111111C": ".*is no mutation",
          "M?": ".*is no mutation", "p.Abc1Gly": ".*is no mutation",
      }.items()),
    Case("a wild type with a gap", table(NUMBERS, [f"A1{c}" for c in "CDEFGHIKLMNPQRSTVWY"] + ["wt"], "mutant,y"), {"last": "A.DEF"},
         options={"wild_type": "A.DEF"}),
    Case("a wild type without mutations", GOOD, says="--wild-type has no effect without a column of mutations", options=WILD),
    Case("whole sequences as mutants", table(NUMBERS, header="mutant,y"), says="or --sequence mutant if these are whole"),
]  # fmt: skip


def loaded(case: Case, folder: Path) -> tuple[LabelledData, list[str]]:
    path = folder / "table.csv"
    if isinstance(case.data, str) and (CASES / case.data[:60]).is_file():
        path = CASES / case.data
    else:
        path.write_bytes(case.data if isinstance(case.data, bytes) else case.data.encode())
    warned: list[str] = []
    options = {"val_fraction": 0.1, "test_fraction": 0.1} | case.options
    with arguments_spelled(option):  # as `lyra train` says it
        return load_labelled(path, DataOptions(**options), warned.append), warned


@pytest.mark.parametrize("case", [*READING, *TASKS, *ALPHABETS, *ROWS], ids=lambda case: case.name)
def test_case(case, tmp_path):
    if case.says is not None:
        with pytest.raises(InputError) as caught:
            loaded(case, tmp_path)
        assert re.search(case.says, str(caught.value)), caught.value
        assert "\n" not in str(caught.value)
        return
    data, warned = loaded(case, tmp_path)
    found = facts(data)
    found["last"] = found["sequences"][-1]
    assert {name: found[name] for name in case.is_} == case.is_
    assert data.rows_read.read == data.rows_read.used + data.rows_read.set_aside
    if case.warns is not None:
        assert bool(warned) == bool(case.warns) and re.search(case.warns, " ".join(warned)), warned


def test_targets_far_from_zero_keep_their_digits(tmp_path):
    """45 different values around a million stay 45, which they did not in float32."""
    data, _ = loaded(Case("handed", "far_from_zero.csv"), tmp_path)
    assert facts(data)["spread"] == 45


def test_what_a_table_is_read_as_is_said(tmp_path):
    """One line with every guess and its reason; what was given is not in it."""
    data, _ = loaded(Case("", GOOD.replace(",", ";")), tmp_path)
    line = "; ".join(data.guesses)
    for text in ("semicolon between cells", "sequences in column 'seq'", "target in 'label' (by name)", "dna (letters ACGT)",
                 "regression (numbers)"):  # fmt: skip
        assert text in line
    options = {"separator": "semicolon", "sequence": "seq", "target": "label", "alphabet": "dna", "task": "regression"}
    assert loaded(Case("", GOOD.replace(",", ";"), options=options), tmp_path)[0].guesses == []


def test_unlabelled_residues_take_no_part(tmp_path):
    data, _ = loaded(Case("", "no_labels.csv"), tmp_path)
    cells = data.table["label"].tolist()
    for value, cell in zip(data.values, cells, strict=True):
        assert ((value == IGNORED) == np.array([label == "-" for label in cell])).all()
    assert set(np.unique(data.labels("train"))) == {0, 1}
