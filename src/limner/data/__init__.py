"""Data: sources of pictures, data sets, and the order in which training sees them."""

from limner.data.check import CheckReport, check
from limner.data.dataset import Dataset
from limner.data.hints import draw_hint
from limner.data.sources import open_data, source, source_kinds
from limner.data.stream import Stream

__all__ = [
    "CheckReport",
    "Dataset",
    "Stream",
    "check",
    "draw_hint",
    "open_data",
    "source",
    "source_kinds",
]
