"""Genomes: DNA and RNA too long to hold at once, or of which windows are of interest."""

from .streams import predict_stream
from .windows import WindowOptions, predict_windows

__all__ = ["WindowOptions", "predict_stream", "predict_windows"]
