"""One series by step out of the three places where OpenAI tells metrics: events, checkpoints and the result file."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmtune.metrics.points import merge
from llmtune.provider import MetricPoint, read_number

#: The vendor's names in all their spellings -> ours. `valid_*` is one small batch at that step; `full_valid_*` is
#: the whole validation file, once an epoch.
SERIES = {
    "train_loss": "train/loss",
    "training_loss": "train/loss",
    "train_accuracy": "train/token_accuracy",
    "train_mean_token_accuracy": "train/token_accuracy",
    "valid_loss": "validation/loss",
    "valid_mean_token_accuracy": "validation/token_accuracy",
    "validation_mean_token_accuracy": "validation/token_accuracy",
    "train_reward_mean": "train/reward",
    "critic_rewards_mean": "train/reward",
    "valid_reward_mean": "validation/reward",
    "full_valid_reward_mean": "validation/full_reward",
    "full_valid_loss": "validation/full_loss",
    "full_valid_mean_token_accuracy": "validation/full_token_accuracy",
}

VALIDATION_SERIES = tuple(dict.fromkeys(name for name in SERIES.values() if name.startswith("validation/")))

#: What stands beside the numbers and is none of them.
_NOT_METRICS = frozenset({"step", "total_steps", "type", "step_number"})

_LINE = re.compile(r"^Step (?P<step>\d+)(?:/\d+)?: (?P<losses>.*loss=.*)$")
_LOSS = re.compile(r"(?P<name>training loss|full validation loss|validation loss)=(?P<value>[0-9.eE+-]+)")
_SPOKEN = {
    "training loss": "train_loss",
    "validation loss": "valid_loss",
    "full validation loss": "full_valid_loss",
}


def from_events(events: Iterable[Mapping[str, Any]]) -> list[MetricPoint]:
    """Read points from events: from their data, or from the sentence if an old event has no data."""
    points: list[MetricPoint] = []
    for event in events:
        data = event.get("data")
        time = float(event["created_at"]) if event.get("created_at") else None
        if isinstance(data, Mapping) and "step" in data:
            points += _points(data["step"], data, "vendor_api", time)
        elif match := _LINE.match(str(event.get("message") or "")):
            spoken = {_SPOKEN[match["name"]]: match["value"] for match in _LOSS.finditer(match["losses"])}
            points += _points(match["step"], spoken, "vendor_api", time)
    return points


def from_checkpoints(checkpoints: Iterable[Mapping[str, Any]]) -> list[MetricPoint]:
    """Read points from checkpoints; some services report metrics nowhere else."""
    points: list[MetricPoint] = []
    for checkpoint in checkpoints:
        values = checkpoint.get("metrics")
        if isinstance(values, Mapping):
            step = checkpoint.get("step_number", values.get("step"))
            created = checkpoint.get("created_at")
            points += _points(step, values, "vendor_api", float(created) if created else None)
    return points


def from_result_file(content: bytes) -> tuple[list[MetricPoint], str | None]:
    """Read points from a result file; also return what is wrong with it if not all of it can be read.

    The file is CSV, plain (old jobs, Azure) or as base64 text (OpenAI now).
    """
    text = decoded(content)
    if text is None:
        return [], "neither whole CSV nor whole CSV in base64, so its metrics are left out"
    points: list[MetricPoint] = []
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    names = [name.strip() for name in next(rows, [])]
    lines = list(rows)
    # A file that breaks off may break off inside a number: its last line is no measurement.
    cut = bool(lines) and not text.endswith("\n") and (len(lines[-1]) < len(names) or not _has_steps(content.lstrip()))
    for cells in lines[:-1] if cut else lines:
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if name}
        points += _points(row.get("step"), row, "vendor_file", None)
    return points, "it breaks off, so its last line is left out" if cut else None


def decoded(content: bytes) -> str | None:
    """Return the text of a result file, or None if it is none."""
    plain = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _has_steps(plain):
        return plain.decode("utf-8", "replace")
    try:
        inner = base64.b64decode(b"".join(plain.split()), validate=True).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (binascii.Error, ValueError):
        return None
    return inner.decode("utf-8", "replace") if _has_steps(inner) else None


def _has_steps(content: bytes) -> bool:
    """Return whether the first line is a header with a step: quoted or not, with blanks, or after an index column."""
    first = content.partition(b"\n")[0].decode("utf-8", "replace")
    names = [name.strip() for name in next(csv.reader([first], skipinitialspace=True), [])]
    return len(names) > 1 and "step" in names


def merged(points: Iterable[MetricPoint]) -> tuple[MetricPoint, ...]:
    """Merge to one point per series and step; of two readings the better source's (files are exact, events rounded)."""
    merged_points = [point for series in merge(points).values() for point in series.points]
    return tuple(sorted(merged_points, key=lambda point: point.step))


def _points(step: Any, values: Mapping[Any, Any], source: Any, time: float | None) -> list[MetricPoint]:
    at = read_number(step)
    if at is None or not math.isfinite(at) or at < 0:
        return []
    points = []
    for name, value in values.items():
        number = read_number(value)
        if name is None or str(name).strip() in _NOT_METRICS or number is None:
            continue
        raw = str(name).strip()
        points.append(
            MetricPoint(step=int(at), series=series_of(raw), value=number, time=time, source=source, raw_name=raw)
        )
    return points


def series_of(raw: str) -> str:
    """Return our name of a metric; one that has none keeps the vendor's, next to the training or validation series."""
    return SERIES.get(raw) or f"{'validation' if raw.startswith(('valid', 'full_valid')) else 'train'}/{raw}"
