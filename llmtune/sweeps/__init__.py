"""Search over hyperparameters, where every trial is an ordinary run of any backend."""

from __future__ import annotations

from llmtune.sweeps.distributed import join
from llmtune.sweeps.learning_curve import Probe, Rung, probe
from llmtune.sweeps.prescreen import Prescreen
from llmtune.sweeps.results import Finalist, Prescreened, Sweep, TrialRow
from llmtune.sweeps.space import Choice, Range
from llmtune.sweeps.sweep import sweep
from llmtune.sweeps.sweep_plan import Outline, outline

__all__ = [
    "Choice",
    "Finalist",
    "Outline",
    "Prescreen",
    "Prescreened",
    "Probe",
    "Range",
    "Rung",
    "Sweep",
    "TrialRow",
    "join",
    "outline",
    "probe",
    "sweep",
]
