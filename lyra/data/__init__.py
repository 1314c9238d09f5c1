"""Sequences and targets from files to padded batches."""

from ..settings.data import DataOptions, InputOptions
from .batches import Batch, BucketSampler, SequenceDataset, max_tokens_per_batch
from .loading import LabelledData, load_labelled
from .tables import read_table
from .targets import Targets

__all__ = [
    "Batch",
    "BucketSampler",
    "DataOptions",
    "InputOptions",
    "LabelledData",
    "SequenceDataset",
    "Targets",
    "load_labelled",
    "max_tokens_per_batch",
    "read_table",
]
