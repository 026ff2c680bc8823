"""Evaluation: did tuning help, by how much, and how sure are we.

`evaluate` answers the held-out rows with base and tuned model and scores both; `EvaluationResult` is what it finds.
"""

from __future__ import annotations

from llmtune.evaluation.cache import AnswerCache, FileCache, MemoryCache
from llmtune.evaluation.evaluate import evaluate, model_identity
from llmtune.evaluation.inference import Patience
from llmtune.evaluation.results import EvaluationResult, MetricValue, SystemResult, WorstRow
from llmtune.evaluation.scoring import check_metrics

__all__ = [
    "AnswerCache",
    "EvaluationResult",
    "FileCache",
    "MemoryCache",
    "MetricValue",
    "Patience",
    "SystemResult",
    "WorstRow",
    "check_metrics",
    "evaluate",
    "model_identity",
]
