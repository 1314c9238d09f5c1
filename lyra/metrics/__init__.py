"""Scores of predictions, how sure they are, and whether probabilities are what they say."""

from .bootstrap import Draws, differences, draw, interval
from .calibration import Calibration, calibration
from .scores import (
    COMPARED,
    METRICS,
    MONITORED,
    class_scores,
    epistasis_scores,
    evaluate,
    mean_of_sequences,
)

__all__ = [
    "COMPARED",
    "METRICS",
    "MONITORED",
    "Calibration",
    "Draws",
    "calibration",
    "class_scores",
    "differences",
    "draw",
    "epistasis_scores",
    "evaluate",
    "interval",
    "mean_of_sequences",
]
