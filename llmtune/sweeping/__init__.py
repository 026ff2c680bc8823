"""Search over hyperparameters, where every trial is an ordinary run of any backend."""

from __future__ import annotations

from llmtune.sweeping.joining import join
from llmtune.sweeping.model import Finalist, Prescreened, Sweep, TrialRow
from llmtune.sweeping.outlining import Outline, outline
from llmtune.sweeping.prescreen import Prescreen
from llmtune.sweeping.probing import Probe, Rung, probe
from llmtune.sweeping.running import sweep
from llmtune.sweeping.space import Choice, Range

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
