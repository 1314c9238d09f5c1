"""Data that ships with the package. Sources and licences: README.md in this folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, argument, shorten

if TYPE_CHECKING:
    import pandas as pd

# Protein G B1 domain as Olson et al. measured it; their residue numbers start at 2.
GB1_WILD_TYPE = "QYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
GB1_OFFSET = 2


@dataclass(frozen=True)
class Dataset:
    """A file that ships with the package.

    Attributes:
        file: its name; what: what is in it, in a few words; source: who measured it, and under which licence it is
            here; options: of `lyra train`, beside the file and the folder, "" if none are needed; None for sequences
            without a target.
    """

    file: str
    what: str
    source: str
    options: str | None


DATASETS = {
    "gb1": Dataset(
        "gb1.csv.gz",
        "binding of 50,000 double mutants of protein G's B1 domain (55 residues): a regression",
        "Olson, Wu and Sun 2014, via MAVE-NN (MIT)",
        f"--wild-type {GB1_WILD_TYPE} --offset {GB1_OFFSET}",
    ),
    "mpsa": Dataset(
        "mpsa.csv.gz",
        "splicing (log10 of percent spliced in) at 30,483 5' splice sites (RNA, 9 letters): a regression",
        "Wong, Kinney and Krainer 2018, via MAVE-NN (MIT)",
        "",
    ),
    "solvent_accessibility": Dataset(
        "solvent_accessibility.csv.gz",
        "which residues of 233 proteins are exposed to the solvent: a class per residue",
        "AAanalysis 1.1.0 (BSD-3)",
        "",
    ),
    "lambda": Dataset(
        "lambda.fa.gz", "the genome of phage lambda, 48,502 bases, as FASTA", "NCBI NC_001416 (public domain)", None
    ),
}


def dataset(name: str) -> Dataset:
    """The entry of a name.

    Raises:
        InputError: no data of that name ship with the package.
    """
    if name not in DATASETS:
        raise InputError(f"{argument('name')} {shorten(name)}: must be one of {', '.join(DATASETS)}")
    return DATASETS[name]


def path(name: str) -> Path:
    """The file of a dataset, as `lyra train` and `lyra predict` read it.

    Raises:
        InputError: no data of that name ship with the package.

    Example:
        >>> path("gb1").name
        'gb1.csv.gz'
    """
    return Path(str(files(__package__) / dataset(name).file))


def load(name: str) -> pd.DataFrame:
    """The table of a dataset; its columns are described in README.md in this folder.

    Raises:
        InputError: no table of that name ships with the package.
    """
    import pandas as pd

    if dataset(name).options is None:
        raise InputError(f"{argument('name')} {shorten(name)}: is no table; its file is lyra.datasets.path({name!r})")
    return pd.read_csv(path(name))
