"""Models with random weights for genomes, and what windows of these are read as."""

from __future__ import annotations

from pathlib import Path

import torch

from lyra.alphabets import ALPHABETS
from lyra.data.coverage import Coverage
from lyra.data.fasta import iterate_fasta
from lyra.data.targets import Targets
from lyra.model_folder import ModelDescription, save_model
from lyra.models import Lyra, LyraForTokenClassification
from lyra.outputs import RegressionOutput

TARGETS = {
    "regression": Targets("regression"),
    "classification": Targets("classification", ["low", "high", "so, so"]),
    "token": Targets("token", list("abc")),
    "token-regression": Targets("token-regression", separator=";"),
    "long labels": Targets("token", ["a", 'b "2"', "c"], separator=","),
}
PAIRS = dict(zip("ACGTNacgtnRYKM-", "TGCANtgcanYRMK-", strict=True))


def make_model(folder: Path, task: str, causal: bool = True, alphabet: str = "dna") -> Path:
    """A model folder with random weights, large enough that predictions differ."""
    torch.manual_seed(1)
    targets, letters = TARGETS[task], ALPHABETS[alphabet]
    kind = LyraForTokenClassification if targets.per_residue else Lyra
    model = kind(len(letters), 8, targets.d_output, d_state=4, causal=causal, bidirectional=not causal, pool="max")
    with torch.no_grad():
        model.decoder.weight *= 5
    output = RegressionOutput("linear", 3.0, 2.0) if targets.numeric else None
    save_model(folder, model, ModelDescription(letters, targets, output, None, Coverage("ACGT", 5, 40)))
    return folder


def sequences(genome: Path) -> dict[str, str]:
    return dict(iterate_fasta(genome))


def reversed_complement(text: str) -> str:
    return "".join(PAIRS[letter] for letter in reversed(text))
