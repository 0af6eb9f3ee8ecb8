"""Evaluation: every metric of the Florence-2 paper, and how useful the scores are, for any bundle on any backend.

report = evaluate(Florence.load("tabletop"), load("val.jsonl"))
print(report.to_markdown())
"""

from __future__ import annotations

from .report import Metric, Report, Table, Worst
from .run import EvalOptions, evaluate

__all__ = ["EvalOptions", "Metric", "Report", "Table", "Worst", "evaluate"]
