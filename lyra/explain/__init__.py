"""What a trained model makes of a sequence: every substitution, attributions to positions, pairs of positions.

    from lyra.explain import ExplainOptions, mutagenesis
    from lyra.prediction import Predictor

    effects = mutagenesis(Predictor.from_pretrained("run/model"), "MKTAYIAKQR", ExplainOptions(positions="3-8"))

These functions answer what the model has learned, which is what the sequence does only as far as the model is right.
"""

from ..settings.explain import ExplainOptions
from .attributions import attributions
from .epistasis import as_matrix, epistasis
from .mutagenesis import mutagenesis, sensitive_positions
from .pair_maps import pair_map

__all__ = ["ExplainOptions", "as_matrix", "attributions", "epistasis", "mutagenesis", "pair_map", "sensitive_positions"]
