"""Help, `lyra env`, `lyra demo`, and memory that does not follow the file."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest

from .conftest import read_csv, regression_rows, write_table

COMMANDS = ("train", "predict", "explain", "data", "env", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(lyra, command):
    outcome = lyra(command, "--help")
    assert outcome.code == 0
    assert f"Example: lyra {command}" in " ".join(outcome.out.split()), outcome.out


@pytest.mark.parametrize("command", ("train", "predict", "explain"))
def test_help_shows_what_is_found_by_itself(lyra, command):
    """Brackets are text in there, no markup that vanishes."""
    text = " ".join(lyra(command, "--help").out.replace("│", " ").split())
    assert "Sequence column [found" in text
    assert not re.search(r"\w \.(?!\w)", text)


def test_help_lists_the_commands(lyra):
    outcome = lyra("--help")
    assert outcome.code == 0 and all(f" {command} " in outcome.out for command in COMMANDS)


def test_help_is_quick():
    """`lyra --help` imports neither torch nor lightning."""
    code = (
        "import sys\nsys.argv = ['lyra', '--help']\nfrom lyra.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'lightning', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_defaults_are_the_recipe():
    """What `lyra train` does without options is what the classes of settings say."""
    from dataclasses import asdict

    from lyra.cli.train import train
    from lyra.data import DataOptions
    from lyra.training import Hardware, Recipe

    options = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    for settings in (Recipe(), DataOptions(), Hardware()):
        for name, value in asdict(settings).items():
            if name not in ("warmup", "gradient_clip"):  # these have no option
                assert options[name] == value, name


def test_the_defaults_of_explain_are_those_of_its_functions():
    from dataclasses import asdict

    from lyra.cli.explain import explain
    from lyra.explain import ExplainOptions
    from lyra.settings import Contents

    options = {name: parameter.default for name, parameter in inspect.signature(explain).parameters.items()}
    for settings in (ExplainOptions(), Contents()):
        for name, value in asdict(settings).items():
            if name != "offset":  # the command finds it
                assert options[name] == value, name


def test_env_says_what_is_there_and_why_the_rest_is_not(lyra):
    outcome = lyra("env")
    assert outcome.code == 0
    facts = dict(line.split(None, 1) for line in outcome.out.splitlines() if not line.startswith("backend"))
    assert facts.keys() >= {"python", "torch", "threads", "processor", "lightning"}
    backends = {line.split()[1]: line.split(None, 2)[2] for line in outcome.out.splitlines() if "backend" in line}
    assert backends["reference"].startswith("yes")
    for name in ("cpu", "cuda", "triton"):
        assert backends[name].startswith(("yes: ", "no: ")) and len(backends[name]) > 8


def test_demo(lyra, tmp_path):
    """The demo's own command on all of its data, one epoch long."""
    outcome = lyra("demo", "--out", tmp_path / "demo", "--epochs", "1")
    assert outcome.code == 0, outcome.err
    assert "20,000 train, 5,000 val, 25,000 test" in outcome.err
    scores = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert scores["test"]["spearman"] > 0.3, "it learned something in one epoch"
    assert 0.85 < scores["baselines"]["one-hot ridge"]["test"]["r2"] < 0.87
    assert 0.93 < scores["baselines"]["one-hot sigmoid"]["test"]["r2"] < 0.94
    assert len(read_csv(tmp_path / "demo" / "predictions.csv")) == 25_000
    assert {"predicted_vs_measured.png", "summary.png"} <= {path.name for path in (tmp_path / "demo").iterdir()}
    again = lyra("demo", "--out", tmp_path / "demo")
    assert again.code == 2 and "--overwrite" in again.err


MEASURE = """
import re, sys
from lyra.prediction import Predictor
from lyra.prediction_files import predict_file
from lyra.settings import InputOptions
def memory(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
predictor = Predictor.from_pretrained(sys.argv[1], "cpu")
def run(path):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = memory("VmRSS")
    print(*predict_file(predictor, path, path + ".out.csv", InputOptions()))
    return memory("VmHWM") - before
run(sys.argv[2])
small, large = run(sys.argv[2]), run(sys.argv[3])
print(large - small)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read and reset in /proc")
@pytest.mark.parametrize("kind", ["csv", "fasta"])
def test_memory_is_bounded(trained, tmp_path, kind):
    """A file of 16 blocks takes hardly more memory than one of 2, far less than the 14 blocks' own 34 MB of text."""
    paths = []
    for count in (8_192, 65_536):
        path = tmp_path / f"{count}.{kind}"
        with open(path, "w") as file:
            file.write("name,seq\n" if kind == "csv" else "")
            for i in range(count):
                name = f"{i:0500d}"
                file.write(f"{name},{'ACGT' * 3}\n" if kind == "csv" else f">{name}\n{'ACGT' * 3}\n")
        paths.append(str(path))
    command = [sys.executable, "-c", MEASURE, str(trained["regression"]), *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = run.stdout.split("\n")
    assert lines[:3] == ["8192 0", "8192 0", "65536 0"]
    assert float(lines[3]) < 12, f"{lines[3]} MB more"


def test_order_is_kept_over_many_blocks(trained, lyra, tmp_path):
    rows = [(i, sequence) for i, (sequence, _) in enumerate(regression_rows(9000, 3, 12))]
    table = write_table(tmp_path / "t.csv", ["i", "seq"], rows)
    assert lyra("predict", trained["regression"], table, "-o", tmp_path / "out.csv.gz").code == 0
    import gzip

    with gzip.open(tmp_path / "out.csv.gz", "rt") as file:
        found = [line.split(",")[:2] for line in file.read().splitlines()[1:]]
    assert found == [[str(i), sequence] for i, sequence in rows]


def test_data_that_ship_are_written_once(lyra, tmp_path):
    """Listed without a name; written under their own name's ending; nothing is replaced unless asked."""
    from lyra import datasets

    listed = lyra("data")
    assert listed.code == 0 and all(f"{name}: " in listed.out for name in datasets.DATASETS)
    out = tmp_path / "sites.csv.gz"
    assert lyra("data", "mpsa", "-o", out).code == 0 and out.read_bytes() == datasets.path("mpsa").read_bytes()
    for arguments, says in (
        (("mpsa", "-o", out), "exists; give another --out, or --overwrite"),
        (("mpsa", "-o", tmp_path / "sites.csv"), "must end in .csv.gz"),
        (("mspa",), "must be one of gb1, mpsa"),
    ):
        outcome = lyra("data", *arguments)
        assert outcome.code == 2 and says in outcome.err
    assert lyra("data", "mpsa", "-o", out, "--overwrite").code == 0
