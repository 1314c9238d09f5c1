"""Training with Lightning: settings, the run, and what it leaves."""

from ..scores import Results
from ..settings.training import Hardware, Recipe
from .run import train

__all__ = ["Hardware", "Recipe", "Results", "train"]
