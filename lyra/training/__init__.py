"""Training with Lightning: settings, the run, and what it leaves."""

from ..settings.training import Hardware, Recipe
from .results import Results
from .run import train

__all__ = ["Hardware", "Recipe", "Results", "train"]
