"""The settings that the local trainer chooses where a job leaves them open, by model size, method and rows.

Peak rates fall as a power of the number of parameters between two fixed points: what was measured here on the
embedded models (benchmarks/first_try.py), and what is published for large ones: 2e-5 for all weights of 7 B (Stanford
Alpaca's recipe, 2023), 3e-5 for BERT base (2e-5 to 5e-5; arXiv:1810.04805, appendix A.3, 2018). Adapters get ten times
the rate of all weights (Thinking Machines, "LoRA Without Regret", 2025-09): 2e-4 at 7 B, as in QLoRA
(arXiv:2305.14314, table 9, 2023).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmtune.errors import LlmtuneError

if TYPE_CHECKING:
    from llmtune.job.spec import Adapter

#: Below it all weights are trained: LoRA is no faster there, and learns less.
FULL_BELOW = 50_000_000
#: The same for encoders, which are tuned whole up to the size of BERT large.
FULL_ENCODERS_BELOW = 500_000_000
#: What a model is taken for whose size is not known before it is downloaded.
ASSUMED_PARAMETERS = 1_000_000_000
#: Optimizer steps at least: small sets get them by more epochs. Small encoders begin to learn later than chat models.
STEPS = {"small": 400, "small encoder": 800, "large": 100}
#: Epochs at least and at most.
EPOCHS = {"small": (3, 30), "small encoder": (3, 30), "large": (3, 10)}
#: Fewer rows than this are trained in smaller batches, for more steps from the same rows.
FEW_ROWS = 500
#: Share of the steps over which the rate rises to its peak: without it small encoders learn no more than the majority.
WARMUP_RATIO = 0.1
#: Validation rows from which on a run stops by itself when they no longer improve.
VALIDATION_ROWS = 20
#: Evaluations without improvement after which it stops.
PATIENCE = 3


#: Rates for all weights: (parameters, rate) of a small and of a large model, and the lowest rate.
_FULL_RATES = {
    "text": ((3.4e6, 2e-3), (7e9, 2e-5), 1e-5),
    "labels": ((2.7e6, 5e-4), (110e6, 3e-5), 2e-5),
}
#: Lowest and highest rate for an adapter.
ADAPTER_RATES = (1e-4, 1e-2)


@dataclass(frozen=True)
class DefaultSettings:
    """Values for one model, method and dataset; `rule` says in words where they come from."""

    adapter: str
    learning_rate: float
    epochs: int
    batch_size: int
    warmup_ratio: float
    early_stopping_patience: int | None
    rule: str


def choose_adapter(model: str, method: str, revision: str | None = None) -> Adapter:
    """Return the adapter for a model: that of an adapter's folder, all weights of a small model, else LoRA."""
    if kind := _saved_adapter(model):
        return kind
    parameters = count_parameters(model, revision)
    if parameters is None:
        return "lora"
    return "full" if parameters < (FULL_ENCODERS_BELOW if method == "classification" else FULL_BELOW) else "lora"


def choose_settings(
    model: str, method: str, adapter: str, rows: Mapping[str, int], revision: str | None = None
) -> DefaultSettings:
    """Return the settings for a model, trained by `method` and `adapter` on `rows` rows by part (train, validation)."""
    counted = count_parameters(model, revision)
    parameters = counted or ASSUMED_PARAMETERS
    train = rows.get("train", 0)
    batch_size = 8 if 0 < train < FEW_ROWS else 16
    kind = "large" if parameters >= FULL_BELOW else "small encoder" if method == "classification" else "small"
    min_epochs, max_epochs = EPOCHS[kind]
    epochs = min(max_epochs, max(min_epochs, math.ceil(STEPS[kind] * batch_size / train))) if train else min_epochs
    size = f"{_format_count(parameters)} parameters" if counted else "a size that is not known yet, taken for 1 B"
    return DefaultSettings(
        adapter=adapter,
        learning_rate=peak_rate(parameters, method, adapter),
        epochs=epochs,
        batch_size=batch_size,
        warmup_ratio=WARMUP_RATIO,
        early_stopping_patience=PATIENCE if rows.get("validation", 0) >= VALIDATION_ROWS else None,
        rule=f"{'all weights' if adapter == 'full' else adapter} of {size}, {method}",
    )


def peak_rate(parameters: int, method: str, adapter: str) -> float:
    """Return the peak learning rate, with one digit."""
    (small, small_rate), (large, large_rate), min_rate = _FULL_RATES["labels" if method == "classification" else "text"]
    exponent = math.log(small_rate / large_rate) / math.log(small / large)
    rate = min(small_rate, max(min_rate, large_rate * (parameters / large) ** exponent))
    if adapter != "full":
        min_adapter_rate, max_adapter_rate = ADAPTER_RATES
        rate = min(max_adapter_rate, max(min_adapter_rate, 10 * rate))
    if method in ("dpo", "reinforcement"):
        # 1e-6 is the papers' rate for all weights (arXiv:2305.18290, appendix B; arXiv:2402.03300, section 4.2), a
        # twentieth of sft's
        rate /= 20
    return float(f"{rate:.0e}")


def count_parameters(model: str, revision: str | None = None) -> int | None:
    """Return how many parameters a model has: from its files on this machine, else as its name says ("Qwen3-0.6B")."""
    from llmtune_local.models.shape import read_shape

    try:
        shape = read_shape(model, revision)
    except (OSError, ValueError, KeyError, LlmtuneError):  # what is wrong with the files is said when they are loaded
        shape = None
    if shape is not None:
        return shape.parameters
    named = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([mMbB])(?![A-Za-z0-9])", model)
    return round(float(named[1]) * (1e6 if named[2] in "mM" else 1e9)) if named else None


def _saved_adapter(model: str) -> Adapter | None:
    """Return the kind of adapter that a model's folder holds, None where it is a whole model."""
    from llmtune_local.models.hub import split_adapter

    try:
        folder = split_adapter(model)[1]
        if folder is None:
            return None
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, LlmtuneError):
        return None
    return "dora" if settings.get("use_dora") else "lora"


def _format_count(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g} {unit}"
    return str(parameters)
