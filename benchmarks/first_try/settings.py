"""The settings that a job at defaults is measured against: a small sweep for each kind of model."""

from __future__ import annotations

from typing import Any

#: What a job sets: hyperparameters by name, and the adapter.
Setting = dict[str, Any]

#: The name under which a job without any hyperparameter stands in the results.
DEFAULTS = "defaults"


def _setting(adapter: str, rate: float, *, batch: int = 16, steps: int = 300, warmup: float = 0.06) -> Setting:
    return {
        "adapter": adapter,
        "learning_rate": rate,
        "batch_size": batch,
        "max_steps": steps,
        "warmup_ratio": warmup,
    }


def _named(*settings: Setting) -> dict[str, Setting]:
    return {
        f"{each['adapter']} {each['learning_rate']:g}, batch {each['batch_size']}, {each['max_steps']} steps": each
        for each in settings
    }


_SWEEPS: dict[str, dict[str, Setting]] = {
    "tiny": _named(
        _setting("full", 2e-3),
        _setting("full", 1e-3),
        _setting("full", 2e-3, steps=600),
        _setting("lora", 4e-3),
    ),
    "tiny-encoder": _named(
        _setting("full", 5e-4, steps=400, warmup=0.1),
        _setting("full", 1e-3, steps=400, warmup=0.1),
        _setting("full", 3e-4, steps=400, warmup=0.1),
        _setting("full", 1e-3, steps=800, warmup=0.1),
    ),
}
#: Models of 100 million parameters and more.
_LARGER = _named(
    _setting("lora", 5e-4, batch=8, steps=76),
    _setting("lora", 2e-3, batch=8, steps=76),
    _setting("full", 5e-5, batch=8, steps=76),
)


def sweep_of(model: str) -> dict[str, Setting]:
    """Return the sweep of a model by the names of its settings."""
    return _SWEEPS.get(model, _LARGER)
