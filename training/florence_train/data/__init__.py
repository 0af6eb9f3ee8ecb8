"""Training and evaluation data: annotations of many forms as images with questions and answers.

data = load("train.jsonl")                       # or COCO, RefCOCO-style, ICDAR, WebDataset shards
for record in data.records: ...
"""

from __future__ import annotations

from .digest import digest
from .jsonl import write_jsonl
from .load import load
from .record import Dataset, Fault, Picture, Record
from .scenes import tabletop
from .shards import write_shards

__all__ = ["Dataset", "Fault", "Picture", "Record", "digest", "load", "tabletop", "write_jsonl", "write_shards"]
