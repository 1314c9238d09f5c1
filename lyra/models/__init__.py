"""The models, and what training and saving them needs."""

from .lyra import Lyra, LyraForTokenClassification
from .optim import parameter_groups
from .strands import LyraBothStrands, LyraBothStrandsForTokenClassification

__all__ = [
    "Lyra", "LyraBothStrands", "LyraBothStrandsForTokenClassification", "LyraForTokenClassification",
    "parameter_groups",
]  # fmt: skip
