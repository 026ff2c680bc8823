"""llmtune: one typed fine-tuning job, any backend, one report.

The names below are the public surface; each is loaded when it is first used, so that importing llmtune costs what
importing pydantic costs and no vendor's SDK is ever touched by it.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from llmtune._version import __version__ as __version__

_HOME = {
    "TuningJob": "llmtune.job.spec",
    "Hyperparameters": "llmtune.job.spec",
    "DatasetSpec": "llmtune.job.spec",
    "EvaluationSpec": "llmtune.job.spec",
    "Settings": "llmtune.config",
    "plan": "llmtune.runs.plans",
    "plan_all": "llmtune.runs.plans",
    "Receipt": "llmtune.provider.receipt",
    "tune": "llmtune.runs.api",
    "start": "llmtune.runs.api",
    "start_async": "llmtune.runs.api",
    "tune_async": "llmtune.runs.api",
    "attach": "llmtune.runs.api",
    "list_runs": "llmtune.runs.api",
    "Run": "llmtune.runs.run",
    "RunState": "llmtune.provider.types",
    "Provider": "llmtune.provider.protocol",
    "get_provider": "llmtune.provider.registry",
    "Report": "llmtune.report.schema",
    "gate": "llmtune.report.gate",
    "diff": "llmtune.report.gate",
    "verify": "llmtune.runs.verify_run",
    "Verification": "llmtune.verifications.results",
    "rescue": "llmtune.rescues.rescue",
    "rescue_all": "llmtune.rescues.account",
    "compare": "llmtune.comparisons.compare",
    "Member": "llmtune.comparisons.members",
    "probe": "llmtune.sweeps.learning_curve",
    "sweep": "llmtune.sweeps.sweep",
    "Sweep": "llmtune.sweeps.results",
    "Board": "llmtune.report.leaderboard.board",
    "import_job": "llmtune.importers",
    "Example": "llmtune.data.example",
    "Message": "llmtune.data.example",
    "Dataset": "llmtune.data.dataset",
    "LlmtuneError": "llmtune.errors",
    "UnsupportedHyperparameterWarning": "llmtune.errors",
}

__all__ = ["__version__", *sorted(_HOME)]

logging.getLogger("llmtune").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from llmtune.comparisons.compare import compare as compare
    from llmtune.comparisons.members import Member as Member
    from llmtune.config import Settings as Settings
    from llmtune.data.dataset import Dataset as Dataset
    from llmtune.data.example import Example as Example
    from llmtune.data.example import Message as Message
    from llmtune.errors import LlmtuneError as LlmtuneError
    from llmtune.errors import UnsupportedHyperparameterWarning as UnsupportedHyperparameterWarning
    from llmtune.importers import import_job as import_job
    from llmtune.job.spec import DatasetSpec as DatasetSpec
    from llmtune.job.spec import EvaluationSpec as EvaluationSpec
    from llmtune.job.spec import Hyperparameters as Hyperparameters
    from llmtune.job.spec import TuningJob as TuningJob
    from llmtune.provider.protocol import Provider as Provider
    from llmtune.provider.receipt import Receipt as Receipt
    from llmtune.provider.registry import get_provider as get_provider
    from llmtune.provider.types import RunState as RunState
    from llmtune.report.gate import diff as diff
    from llmtune.report.gate import gate as gate
    from llmtune.report.leaderboard.board import Board as Board
    from llmtune.report.schema import Report as Report
    from llmtune.rescues.account import rescue_all as rescue_all
    from llmtune.rescues.rescue import rescue as rescue
    from llmtune.runs.api import attach as attach
    from llmtune.runs.api import list_runs as list_runs
    from llmtune.runs.api import start as start
    from llmtune.runs.api import start_async as start_async
    from llmtune.runs.api import tune as tune
    from llmtune.runs.api import tune_async as tune_async
    from llmtune.runs.plans import plan as plan
    from llmtune.runs.plans import plan_all as plan_all
    from llmtune.runs.run import Run as Run
    from llmtune.runs.verify_run import verify as verify
    from llmtune.sweeps.learning_curve import probe as probe
    from llmtune.sweeps.results import Sweep as Sweep
    from llmtune.sweeps.sweep import sweep as sweep
    from llmtune.verifications.results import Verification as Verification


def __getattr__(name: str) -> Any:
    if name in _HOME:
        try:
            value = getattr(importlib.import_module(_HOME[name]), name)
        except ImportError as error:
            from llmtune.installation.conflicts import explain_import_error

            explain_import_error(error)
            raise
        globals()[name] = value
        return value
    if name.startswith("__"):
        raise AttributeError(name)
    from llmtune.errors import did_you_mean

    suggestions = did_you_mean(name, _HOME)
    suggestion = f"; did you mean {suggestions[0]!r}?" if suggestions else ""
    raise AttributeError(f"module 'llmtune' has no attribute {name!r}{suggestion}")


def __dir__() -> list[str]:
    return __all__
