"""Data that ships with the package. Sources and licences: README.md in this folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Protein G B1 domain as Olson et al. measured it; their residue numbers start at 2.
GB1_WILD_TYPE = "QYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
GB1_OFFSET = 2


def gb1_path() -> Path:
    """The CSV of 50,000 GB1 double mutants: 20,000 to train on, 5,000 to validate, 25,000 to test."""
    return Path(str(files(__package__) / "gb1.csv.gz"))


def load_gb1() -> pd.DataFrame:
    """The table: mutant (such as Q2A:Y3S), DMS_score (log2 enrichment against the wild type), input_ct and
    selected_ct (sequencing counts), set (train, val, test)."""
    import pandas as pd

    return pd.read_csv(gb1_path())
