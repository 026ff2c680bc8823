"""How fast runs on this machine were: a small file in llmtune's home, which a plan reads without opening the store.

One entry by model, method, adapter and device of this host.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder, open_private
from llmtune.config import home
from llmtune.provider.duration import MeasuredSpeed
from llmtune.provider.types import Ref, RunState

if TYPE_CHECKING:
    from llmtune.provider.types import Target
    from llmtune.runs.store.records import RunRecord
    from llmtune.runs.store.store import Store, Transition

log = logging.getLogger("llmtune")

#: A run replaces the speed of an earlier one unless it has trained less than this share of its tokens.
ENOUGH = 0.5


def find_speed(target: Target, device: str) -> MeasuredSpeed | None:
    """Return the speed of an earlier run of this model, method and adapter on the device; None where there was none."""
    entry = _read().get(_key(target, device))
    try:
        return None if entry is None else MeasuredSpeed.model_validate(entry)
    except ValueError:
        return None


def remember_speed(store: Store, run_id: str) -> None:
    """Note how fast a run on this machine was, once it has succeeded and was evaluated. It never fails."""
    try:
        record = store.get(run_id)
        evaluation = store.ref(run_id, "evaluation", Ref)
        speed = measure(record, store.transitions(run_id), evaluation.data if evaluation is not None else {})
        device = str(record.resolved.get("device", "")).split(" ")[0]
        if speed is None or not device:
            return
        key, entries = _key(record.plan.target, device), _read()
        earlier = find_speed(record.plan.target, device)
        if earlier is None or speed.tokens >= ENOUGH * earlier.tokens:
            _write(entries | {key: speed.model_dump()})
    except Exception as error:  # noqa: BLE001 - a plan without it says less, and nothing else depends on it
        log.info("the speed of run %s was not noted: %s", run_id, error)


def measure(
    record: RunRecord, transitions: Sequence[Transition], evaluation: Mapping[str, Any]
) -> MeasuredSpeed | None:
    """Return the speed of a run; None where its tokens or its time are not known, or it did not train here alone."""
    per_epoch, epochs = record.plan.data.tokens, record.progress.epoch
    began = [transition.time for transition in transitions if transition.state is RunState.RUNNING]
    ended = [transition.time for transition in transitions if transition.state is RunState.FINALIZING]
    if not per_epoch or not epochs or len(began) != 1 or len(ended) != 1 or ended[0] <= began[0]:
        return None
    tokens = per_epoch * epochs
    return MeasuredSpeed(
        run=record.id,
        tokens=round(tokens),
        tokens_per_second=tokens / (ended[0] - began[0]),
        seconds_per_question=_measure_questions(evaluation, record.progress.total_answers),
    )


def _measure_questions(evaluation: Mapping[str, Any], questions: int | None) -> float | None:
    """Return the seconds of an evaluation by question; None where many answers came from the cache."""
    result = evaluation.get("result", {})
    panel = (result.get("panel") or {}).get("systems") or {}
    systems = [*result.get("systems", {}).values(), *panel.values()]
    usages = [system["usage"] for system in systems if isinstance(system.get("usage"), dict)]
    cached = sum(int(usage.get("cached") or 0) for usage in usages)
    uncached, seconds = (questions or 0) - cached, evaluation.get("seconds")
    if not questions or seconds is None or uncached < ENOUGH * questions:
        return None
    return float(seconds) / uncached


def _key(target: Target, device: str) -> str:
    return " | ".join((platform.node(), target.provider, target.model, target.method, target.adapter, device))


def _file() -> Path:
    return home() / "speeds.json"


def _read() -> dict[str, Any]:
    try:
        entries = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(entries: dict[str, Any]) -> None:
    path = _file()
    make_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open_private(temporary, "wb") as file:
        file.write(json.dumps(entries, indent=1, sort_keys=True).encode())
    temporary.replace(path)
