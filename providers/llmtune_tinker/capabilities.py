"""Models that the account can tune, as the service says: asked live before a run, and kept with the day.

A plan sends nothing; it goes by what was read last, and says when that was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from llmtune import _clock
from llmtune.config import home
from llmtune.errors import did_you_mean


@dataclass(frozen=True)
class Model:
    """A model of the account; `context` is its longest row in tokens, None where the service does not say."""

    name: str
    context: int | None
    trainable: bool
    sampleable: bool


@dataclass(frozen=True)
class Seen:
    """The models as they were read on `day`."""

    models: tuple[Model, ...]
    day: date

    def find(self, name: str) -> Model | None:
        """Return a model; None where the service did not list it."""
        return next((model for model in self.models if model.name == name), None)

    def suggest(self, name: str) -> str:
        """Return the nearest names that can be trained, or all of them where they are few; "" for none."""
        names = [model.name for model in self.models if model.trainable]
        return ", ".join(did_you_mean(name, names, limit=3) or names[:5])


def read_models(entries: Sequence[dict[str, Any]]) -> Seen:
    """Return the service's answer as of today. A model that does not say whether it can be trained can be."""
    models = tuple(
        Model(
            name=str(entry["model_name"]),
            context=_read_context(entry.get("max_context_length")),
            trainable=entry.get("trainable") is not False,
            sampleable=entry.get("sampleable") is not False,
        )
        for entry in entries
    )
    return Seen(models, _clock.today())


def _read_context(value: Any) -> int | None:
    """Return a number of tokens; None for what can be none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 2 <= value < 10**9 else None


def _path() -> Path:
    return home() / "tinker" / "capabilities.json"


def keep(seen: Seen) -> None:
    """Keep what the service said; a disk that takes nothing is no fault of the job's."""
    data = {"day": str(seen.day), "models": [vars(model) for model in seen.models]}
    with suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        unfinished = _path().with_suffix(".part")
        unfinished.write_text(json.dumps(data), encoding="utf-8")
        unfinished.replace(_path())


def read_kept() -> Seen | None:
    """Return what was kept; None where there is nothing, or the file is damaged."""
    try:
        data = json.loads(_path().read_text(encoding="utf-8"))
        return Seen(tuple(Model(**entry) for entry in data["models"]), date.fromisoformat(data["day"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
