"""The benchmark of streams runs, at a tiny size."""

from __future__ import annotations

import re

from benchmarks import stream


def test_it_measures_what_it_says(tmp_path, capsys):
    stream.main(["--lengths", "3001", "--no-lambda", "--out", str(tmp_path / "s.md")])
    text = (tmp_path / "s.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    rows = re.findall(r"\| made up \| 3,001 \| (\S+) \| ([\d,.]+) \| ([\d,]+) \|", text)
    assert [how for how, *_ in rows] == ["`--stream`", "whole"]
    assert all(float(number.replace(",", "")) > 0 for _, *numbers in rows for number in numbers)


def test_the_genome_has_as_many_bases_as_asked_for(tmp_path):
    stream.genome(tmp_path / "g.fa", 213)
    name, *lines = (tmp_path / "g.fa").read_text().splitlines()
    assert name.startswith(">") and [len(line) for line in lines] == [70, 70, 70, 3]
