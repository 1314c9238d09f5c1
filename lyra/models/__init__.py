"""The models, and what training and saving them needs."""

from .lyra import Lyra, LyraForTokenClassification
from .optim import parameter_groups

__all__ = ["Lyra", "LyraForTokenClassification", "parameter_groups"]
