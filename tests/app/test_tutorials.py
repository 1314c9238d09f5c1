"""What the tutorials show runs as it stands: every command and every piece of Python, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
SHORT = ("--d-model", "8", "--d-state", "4", "--epochs", "1", "--accelerator", "cpu")  # behind `lyra train`
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The words of each line, lines that end in a backslash joined, comments left out."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_runs(lyra, tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks, "a tutorial shows something to do"
    names: dict = {}
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, str(page), "exec"), names)
            continue
        for words in commands(block):
            assert words[0] == "lyra", f"{page.name} shows a command that is not ours: {words}"
            given = [word for word in words[1:] if word.startswith("--")]
            short = [
                word for pair in zip(SHORT[::2], SHORT[1::2], strict=True) if pair[0] not in given for word in pair
            ]
            outcome = lyra(*words[1:], *(short if words[1] == "train" else ()))
            assert outcome.code == 0, f"{page.name}: {shlex.join(words)}\n{outcome.err}"


def test_commands_are_read_as_a_shell_reads_them():
    block = "lyra data mpsa  # 30,483 rows\nlyra train mpsa.csv.gz \\\n  --target 'log PSI' --out run\n"
    assert commands(block) == [["lyra", "data", "mpsa"],
                               ["lyra", "train", "mpsa.csv.gz", "--target", "log PSI", "--out", "run"]]  # fmt: skip
