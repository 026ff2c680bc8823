"""llmtune: one typed fine-tuning job, any backend, one report.

The names below are the public surface; each is loaded when it is first used, so that importing llmtune costs what
importing pydantic costs and no vendor's SDK is ever touched by it.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "TuningJob": "llmtune.job",
    "Hyperparameters": "llmtune.job",
    "DatasetSpec": "llmtune.job",
    "EvaluationSpec": "llmtune.job",
    "Settings": "llmtune.settings",
    "plan": "llmtune.planning",
    "plan_all": "llmtune.planning",
    "Receipt": "llmtune.translation",
    "tune": "llmtune.runs",
    "start": "llmtune.runs",
    "attach": "llmtune.runs",
    "Run": "llmtune.runs",
    "RunState": "llmtune.provider",
    "Provider": "llmtune.provider",
    "get_provider": "llmtune.registry",
    "Report": "llmtune.report",
    "rescue": "llmtune.rescuing",
    "compare": "llmtune.comparing",
    "Member": "llmtune.comparing",
    "probe": "llmtune.sweeping",
    "sweep": "llmtune.sweeping",
    "Sweep": "llmtune.sweeping",
    "Board": "llmtune.report.board",
    "import_job": "llmtune.importing",
    "Example": "llmtune.data.example",
    "Message": "llmtune.data.example",
    "Dataset": "llmtune.data.dataset",
    "LlmtuneError": "llmtune.errors",
    "UnsupportedHyperparameterWarning": "llmtune.errors",
}

__all__ = ["__version__", *sorted(_HOME)]

logging.getLogger("llmtune").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from llmtune.comparing import Member as Member
    from llmtune.comparing import compare as compare
    from llmtune.data.dataset import Dataset as Dataset
    from llmtune.data.example import Example as Example
    from llmtune.data.example import Message as Message
    from llmtune.errors import LlmtuneError as LlmtuneError
    from llmtune.errors import UnsupportedHyperparameterWarning as UnsupportedHyperparameterWarning
    from llmtune.importing import import_job as import_job
    from llmtune.job import DatasetSpec as DatasetSpec
    from llmtune.job import EvaluationSpec as EvaluationSpec
    from llmtune.job import Hyperparameters as Hyperparameters
    from llmtune.job import TuningJob as TuningJob
    from llmtune.planning import plan as plan
    from llmtune.planning import plan_all as plan_all
    from llmtune.provider import Provider as Provider
    from llmtune.provider import RunState as RunState
    from llmtune.registry import get_provider as get_provider
    from llmtune.report import Report as Report
    from llmtune.report.board import Board as Board
    from llmtune.rescuing import rescue as rescue
    from llmtune.runs import Run as Run
    from llmtune.runs import attach as attach
    from llmtune.runs import start as start
    from llmtune.runs import tune as tune
    from llmtune.settings import Settings as Settings
    from llmtune.sweeping import Sweep as Sweep
    from llmtune.sweeping import probe as probe
    from llmtune.sweeping import sweep as sweep
    from llmtune.translation import Receipt as Receipt


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name.startswith("__"):
        raise AttributeError(name)
    from llmtune.errors import did_you_mean

    near = did_you_mean(name, _HOME)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module 'llmtune' has no attribute {name!r}{meant}")


def __dir__() -> list[str]:
    return __all__
