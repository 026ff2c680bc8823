"""What the service answers, as machines and jobs. Fields are those of huggingface_hub 2.4.0 (`_jobs_api.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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


def read_bytes(text: Any) -> int:
    """Return the bytes that a text such as "16 GB" means; 0 for one that is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(MB|GB|TB)\s*", str(text))
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


def read_machine(entry: Mapping[str, Any]) -> Machine | None:
    """Return a machine of the price list; None for one without a price by time, or without a GPU of NVIDIA's."""
    minutes = _MINUTES.get(str(entry.get("unitLabel")))
    name, micro = entry.get("name"), entry.get("unitCostMicroUSD")
    if minutes is None or not isinstance(name, str) or not isinstance(micro, (int, float)):
        return None
    per_minute = micro / 1e6 / minutes
    accelerator = entry.get("accelerator")
    if not accelerator:
        return Machine(name=name, memory=read_bytes(entry.get("ram")), per_minute=per_minute)
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
    durations, owner = answer.get("durations") or {}, answer.get("owner") or {}
    seconds = durations.get("runningSecs")
    labels = answer.get("labels") or {}
    return RentedJob(
        id=str(answer["id"]),
        state=state,
        raw_state=stage,
        message=status.get("message"),
        seconds=float(seconds) if isinstance(seconds, (int, float)) else 0.0,
        machine=str(answer.get("flavor") or ""),
        url=f"https://huggingface.co/jobs/{owner['name']}/{answer['id']}" if owner.get("name") else None,
        created=str(answer.get("createdAt") or ""),
        labels={str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {},
        warnings=tuple(warnings),
    )
