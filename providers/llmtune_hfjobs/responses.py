"""What the service answers, as machines and jobs. Fields are those of huggingface_hub 2.4.0 (`_jobs_api.py`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from llmtune.errors import TransientError
from llmtune.provider import RunState
from llmtune.provider.reading import read_state
from llmtune_local.rented.machines import Machine
from llmtune_local.rented.vendor import RentedJob

STATES: Mapping[str, RunState] = {
    "SCHEDULING": RunState.QUEUED,
    "RUNNING": RunState.RUNNING,
    "COMPLETED": RunState.SUCCEEDED,
    "ERROR": RunState.FAILED,
    "CANCELED": RunState.CANCELLED,
    "DELETED": RunState.CANCELLED,
}
#: Units in which memory is written, in bytes.
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
#: Minutes of the units that prices are given in.
_MINUTES = {"minute": 1.0, "hour": 60.0, "second": 1 / 60}


def _is_amount(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number of something: money, or seconds."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def read_bytes(text: Any) -> int:
    """Return the bytes that a text such as "16 GB" means; 0 for one that is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(MB|GB|TB)\s*", str(text))
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


def read_machine(entry: Mapping[str, Any]) -> Machine | None:
    """Return a machine of the price list; None for one without a price by time, or without a GPU of NVIDIA's."""
    minutes = _MINUTES.get(str(entry.get("unitLabel")))
    name, micro = entry.get("name"), entry.get("unitCostMicroUSD")
    if minutes is None or not isinstance(name, str) or not _is_amount(micro):
        return None
    per_minute = micro / 1e6 / minutes
    accelerator = entry.get("accelerator")
    if not accelerator:
        return Machine(name=name, memory=read_bytes(entry.get("ram")), per_minute=per_minute)
    if not isinstance(accelerator, dict):
        return None
    if str(accelerator.get("manufacturer", "")).lower() != "nvidia" or accelerator.get("type") != "gpu":
        return None
    quantity = str(accelerator.get("quantity"))
    devices = max(1, int(quantity)) if quantity.isdecimal() else 1
    # The list gives the memory of all devices together.
    memory = read_bytes(accelerator.get("vram")) // devices
    model = str(accelerator.get("model") or "")
    return Machine(name=name, memory=memory, per_minute=per_minute, accelerator=model, devices=devices)


def read_job(answer: Any, name: str) -> RentedJob:
    """Return a job. Raises `TransientError` for an answer that is none."""
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or not answer.get("id") or not status.get("stage"):
        raise TransientError("the answer about the job could not be read", sent=True, raw=str(answer)[:200])
    stage = str(status["stage"])
    state, warnings = read_state(stage, STATES, name)
    # A job may have begun to cost money: what else cannot be read must not hide it.
    durations, owner, labels = (
        value if isinstance(value := answer.get(field), dict) else {} for field in ("durations", "owner", "labels")
    )
    seconds, message = durations.get("runningSecs"), status.get("message")
    return RentedJob(
        id=str(answer["id"]),
        state=state,
        raw_state=stage,
        message=None if message is None else str(message),
        seconds=float(seconds) if _is_amount(seconds) else 0.0,
        machine=str(answer.get("flavor") or ""),
        url=f"https://huggingface.co/jobs/{owner['name']}/{answer['id']}" if owner.get("name") else None,
        created=str(answer.get("createdAt") or ""),
        labels={str(key): str(value) for key, value in labels.items()},
        warnings=tuple(warnings),
    )
