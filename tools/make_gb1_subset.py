"""Makes lyra/datasets/gb1.csv.gz from the full GB1 table: a random subset with fixed splits.

    python tools/make_gb1_subset.py gb1_olson2014.csv.gz lyra/datasets/gb1.csv.gz

The full table (530,737 double mutants; columns mutant, DMS_score, input_ct, selected_ct) is that of Olson, Wu
and Sun 2014 as redistributed by MAVE-NN. Nothing is filtered: variants with few counts stay, in every part.
The same input and seed give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io

import numpy as np
import pandas as pd

SEED = 2014
PARTS = {"train": 20_000, "val": 5_000, "test": 25_000}


def subset(full: pd.DataFrame) -> pd.DataFrame:
    """Draws the parts without replacement; rows stay in the order of the full table."""
    rows = np.random.default_rng(SEED).permutation(len(full))[: sum(PARTS.values())]
    part = np.repeat(list(PARTS), list(PARTS.values()))
    table = full.iloc[rows][["mutant", "DMS_score", "input_ct", "selected_ct"]].assign(set=part)
    return table.sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full")
    parser.add_argument("out")
    arguments = parser.parse_args()
    text = io.StringIO()
    subset(pd.read_csv(arguments.full)).to_csv(text, index=False, float_format="%.4f", lineterminator="\n")
    with open(arguments.out, "wb") as file:
        file.write(gzip.compress(text.getvalue().encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
