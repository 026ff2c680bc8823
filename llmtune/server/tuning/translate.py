"""Translation of the API's requests to jobs, and of receipts back to the API's fields and messages."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.errors import InvalidData, InvalidJob, LlmtuneError, NotTranslatable, OverBudget, ProviderClosed
from llmtune.job.spec import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob
from llmtune.provider.receipt import FieldReceipt, Receipt
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.models import Target
from llmtune.server.tuning.state import JobRecord, TuningState

#: The API's hyperparameters by method: our name, type, minimum and maximum. The minimum of a float is excluded.
_HYPERPARAMETERS: dict[str, dict[str, tuple[str, type, float, float]]] = {
    "supervised": {
        "n_epochs": ("epochs", int, 1, 50),
        "batch_size": ("batch_size", int, 1, 256),
        "learning_rate_multiplier": ("learning_rate_multiplier", float, 0, math.inf),
    }
}
_HYPERPARAMETERS["dpo"] = _HYPERPARAMETERS["supervised"] | {"beta": ("dpo_beta", float, 0, 2)}

_METHODS = {"supervised": "sft", "dpo": "dpo"}
_API_NAMES = {field: api_name for api_name, (field, *_) in _HYPERPARAMETERS["dpo"].items()} | {
    "name": "suffix",
    "tags": "metadata",
    "dataset.train": "training_file",
    "dataset.validation": "validation_file",
}
_FIELDS = (
    *("model", "training_file", "validation_file", "method", "hyperparameters"),
    *("suffix", "seed", "metadata", "integrations"),
)


@dataclass(frozen=True)
class CreateJob:
    """A parsed request for a job; its files and model have not been looked up yet."""

    model: str
    training_file: str
    validation_file: str | None
    method: str
    hyperparameters: dict[str, Any]
    suffix: str | None
    seed: int | None
    metadata: dict[str, str] | None


def parse_create_request(body: Mapping[str, Any]) -> CreateJob:
    """Parse the body of POST /fine_tuning/jobs. Raises `RequestError` (400) with the invalid or unsupported field."""
    for name in body:
        if name not in _FIELDS:
            raise _unknown(name)
    if body.get("integrations"):
        raise RequestError(
            400,
            "integrations are not supported; `llmtune runs attach --sink` sends the run's curves to a tracker",
            param="integrations",
            code="unsupported_parameter",
        )
    method, hyperparameters = _read_method(body)
    seed = body.get("seed")
    if seed is not None and not (_is_integer(seed) and 0 <= seed <= 2**31 - 1):
        raise _invalid("seed", "a whole number from 0 to 2147483647")
    suffix = body.get("suffix")
    if suffix is not None and not (isinstance(suffix, str) and 1 <= len(suffix) <= 64 and "\0" not in suffix):
        raise _invalid("suffix", "a text of 1 to 64 characters, none of them NUL")
    return CreateJob(
        model=_read_text(body, "model"),
        training_file=_read_text(body, "training_file"),
        validation_file=None if body.get("validation_file") is None else _read_text(body, "validation_file"),
        method=method,
        hyperparameters=hyperparameters,
        suffix=suffix,
        seed=seed,
        metadata=read_metadata(body.get("metadata")),
    )


def read_metadata(value: Any) -> dict[str, str] | None:
    """Read metadata: up to 16 texts by name. Raises `RequestError`."""
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or len(value) > 16
        or not all(isinstance(key, str) and 1 <= len(key) <= 64 for key in value)
        or not all(isinstance(text, str) and len(text) <= 512 for text in value.values())
        or any("\0" in text for pair in value.items() for text in pair)
    ):
        raise _invalid("metadata", "up to 16 texts of at most 512 characters, with names of at most 64, without NUL")
    return dict(value)


def _read_method(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    method = body.get("method")
    deprecated = _read_hyperparameters(body.get("hyperparameters"), "supervised", "hyperparameters")
    if method is None:
        return "supervised", deprecated
    if not isinstance(method, dict):
        raise _invalid("method", "an object with the method's type")
    type_name = method.get("type")
    if type_name == "reinforcement":
        raise RequestError(
            400,
            "the method 'reinforcement' is not supported: this endpoint trains by supervised and dpo",
            param="method.type",
            code="unsupported_value",
        )
    if not isinstance(type_name, str) or type_name not in _METHODS:
        raise _invalid("method.type", " or ".join(map(repr, _METHODS)))
    for name in method:
        if name not in ("type", type_name):
            raise _unknown(f"method.{name}")
    settings = method.get(type_name)
    if settings is not None and not isinstance(settings, dict):
        raise _invalid(f"method.{type_name}", "an object")
    for name in settings or {}:
        if name != "hyperparameters":
            raise _unknown(f"method.{type_name}.{name}")
    path = f"method.{type_name}.hyperparameters"
    values = _read_hyperparameters((settings or {}).get("hyperparameters"), type_name, path)
    for name, value in deprecated.items():
        if values.setdefault(name, value) != value:
            raise RequestError(
                400,
                f"hyperparameters.{name} is {value!r} and {path}.{name} is {values[name]!r}; set only the second one",
                param=f"hyperparameters.{name}",
            )
    return type_name, values


def _read_hyperparameters(values: Any, method: str, path: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise _invalid(path, "an object")
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _HYPERPARAMETERS[method]:
            raise _unknown(f"{path}.{name}")
        if value is None:
            continue
        _, kind, low, high = _HYPERPARAMETERS[method][name]
        if value != "auto":
            numeric = (
                _is_integer(value) if kind is int else isinstance(value, (int, float)) and not isinstance(value, bool)
            )
            high = min(high, sys.float_info.max)  # JSON may write larger numbers, even as whole ones
            if not numeric or not (low <= value if kind is int else low < value) or value > high:
                number = f"a whole number from {low:g} to {high:g}" if kind is int else f"a number above {low:g}"
                limit = f" and up to {high:g}" if kind is float and high < sys.float_info.max else ""
                raise _invalid(f"{path}.{name}", f"'auto' or {number}{limit}")
        read[name] = value
    return read


def build_job(job: JobRecord, target: Target, provider: str, state: TuningState) -> TuningJob:
    """Build the tuning job of a request, at that provider. It trains on every row of the training file."""
    fields = _HYPERPARAMETERS[job.method]
    values = {fields[name][0]: value for name, value in job.hyperparameters.items() if value != "auto"}
    validation = job.validation_file
    return TuningJob(
        name=job.suffix or job.id,
        dataset=DatasetSpec(
            train=str(state.path(job.training_file)),
            validation=None if validation is None else str(state.path(validation)),
            split=(1, 0, 0),
        ),
        model={provider: str(target) if target.run_id is not None else target.model},
        method=_METHODS[job.method],  # type: ignore[arg-type]
        hyperparameters=Hyperparameters(**values),
        evaluation=EvaluationSpec(baselines=()),
        seed=job.seed,
        tags=job.metadata or {},
    )


# --- receipts and errors -------------------------------------------------------------------------------------------
def receipt_lines(job: JobRecord, receipt: Receipt) -> list[tuple[FieldReceipt, str]]:
    """Return one sentence per field of the job that is not sent as requested. Files are named by the client's ids."""
    files = {"dataset.train": job.training_file, "dataset.validation": job.validation_file}
    lines = []
    for row in receipt.fields:
        if row.support != "sent":
            record = files.get(row.field)
            row = row if record is None else row.model_copy(update={"requested": record.id, "effective": record.id})
            lines.append((row, _sentence(row)))
    return lines


def _sentence(row: FieldReceipt) -> str:
    api_name = _API_NAMES.get(row.field, row.field)
    name = row.field if api_name == row.field else f"{row.field} ({api_name})"
    values = [f"set to {row.requested!r}"] if row.is_set else []
    if row.effective is not None and row.effective != row.requested:
        values.append(f"used {row.effective!r}")
    parts = [", ".join(values), row.rule or "", row.reason or ""]
    return f"{name}: {row.support.replace('_', ' ')}" + "".join(f"; {part}" for part in parts if part)


def reported_hyperparameters(job: JobRecord, receipt: Receipt | None, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters as the API reports them: "auto" until the backend reports the value it uses."""
    fields = _HYPERPARAMETERS[job.method]
    values: dict[str, Any] = {}
    for name, (field, kind, low, high) in fields.items():
        value = job.hyperparameters.get(name, "auto")
        if receipt is not None:
            used = resolved.get(field, receipt.effective(field))
            numeric = isinstance(used, (int, float)) and not isinstance(used, bool)
            if numeric and low <= used <= high and (kind is float or used == int(used)):
                value = kind(used)
        values[name] = value
    return values


def to_request_error(error: LlmtuneError) -> RequestError:
    """Convert the error of a job that cannot run: status 400, and the field that it is about."""
    if isinstance(error, NotTranslatable):
        field = error.fields[0] if error.fields else None
        return RequestError(400, error.message, param=_API_NAMES.get(field or "", field), code="not_translatable")
    if isinstance(error, InvalidData):
        return RequestError(400, error.message, param="training_file", code="invalid_training_file")
    if isinstance(error, ProviderClosed):
        return RequestError(400, error.message, param="model", code="model_not_available")
    if isinstance(error, OverBudget):
        return RequestError(400, error.message, code="over_budget")
    if isinstance(error, InvalidJob):
        return RequestError(400, error.message, param=_API_NAMES.get(error.where or "", error.where))
    return RequestError(400, error.message, code="backend_not_ready")


# --- helpers -------------------------------------------------------------------------------------------------------
def _read_text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise _invalid(name, "a text, and is required") if value is None else _invalid(name, "a text")
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _invalid(field: str, expected: str) -> RequestError:
    return RequestError(400, f"{field} must be {expected}", param=field, code="invalid_value")


def _unknown(field: str) -> RequestError:
    return RequestError(400, f"{field} is not a parameter of this request here", param=field, code="unknown_parameter")
