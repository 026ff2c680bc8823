"""Search over hyperparameters, where every trial is an ordinary run of any backend."""

from __future__ import annotations

from llmtune.sweeping.joining import join
from llmtune.sweeping.model import Finalist, Sweep, TrialRow
from llmtune.sweeping.running import sweep
from llmtune.sweeping.space import Choice, Range

__all__ = ["Choice", "Finalist", "Range", "Sweep", "TrialRow", "join", "sweep"]
