"""The models, and what training and saving them needs."""

from .ensemble import Ensemble
from .lyra import Lyra, LyraForTokenClassification
from .optim import parameter_groups
from .positions import LyraByPosition
from .strands import LyraBothStrands, LyraBothStrandsForTokenClassification

__all__ = [
    "Ensemble", "Lyra", "LyraBothStrands", "LyraBothStrandsForTokenClassification", "LyraByPosition",
    "LyraForTokenClassification", "parameter_groups",
]  # fmt: skip
