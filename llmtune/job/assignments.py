"""Single fields of a job changed by `FIELD=VALUE`, as on a command line: typed by the job's own schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from llmtune.errors import InvalidJob, UnknownName
from llmtune.job.base import suggest_field
from llmtune.job.files import parse_yaml
from llmtune.job.spec import EXCLUSIVE, Hyperparameters, TuningJob

_HYPERPARAMETERS = "hyperparameters"
#: A field that is a list, and has values with a name beside it (80/10/10).
_SPLIT = "dataset.split"


@dataclass(frozen=True)
class Assignment:
    """One field and its new value. `source` is the option that set it; a value of None leaves the field unset."""

    path: str
    value: Any
    source: str = "--set"


@dataclass(frozen=True)
class FieldChange:
    """What an assignment did to a field; None stands for "not set"."""

    path: str
    before: Any
    after: Any

    def describe(self) -> str:
        """Describe the change in one line."""
        before = "it is not set in the job file" if self.before is None else f"the job file has {self.before}"
        return f"{self.path} {'no longer set' if self.after is None else self.after} ({before})"


def parse_assignment(text: str) -> Assignment:
    """Parse `FIELD=VALUE`: a path in the job (`evaluation.max_rows`), or a hyperparameter's bare name.

    The value is written as in a job file; a list may be written `a,b`, and `null` leaves a field unset.

    Raises:
        UnknownName: there is no such field; with the nearest ones.
        InvalidJob: there is no `=`, or the value cannot be read.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InvalidJob(
            f"{text!r} is not FIELD=VALUE", where="--set", hint="write it as --set learning_rate=1e-3, without blanks"
        )
    first = name.partition(".")[0]
    if first in TuningJob.model_fields:
        path = name
    elif first in Hyperparameters.model_fields:
        path = f"{_HYPERPARAMETERS}.{name}"
    else:
        raise UnknownName(
            "field", name, list_paths(), where="--set", suggestion=suggest_field(TuningJob, TuningJob, first)
        )
    return Assignment(path, _read_value(path, value.strip()))


def change_job(job: TuningJob, assignments: Sequence[Assignment]) -> tuple[TuningJob, tuple[FieldChange, ...]]:
    """Return the job with the fields assigned, and what changed.

    A hyperparameter that is assigned holds for every provider: the job's `overrides` of it are removed, and so is the
    other member of a pair that excludes it (learning_rate and learning_rate_multiplier).

    Raises `InvalidJob` for a value that the field does not take; the sentence names option and field.
    """
    data = job.to_dict()
    before = dict(_flatten(data))
    paths = {assignment.path for assignment in assignments}
    for assignment in assignments:
        for path in _displaced(assignment.path, data):
            if path not in paths:
                _remove(data, path)
        if assignment.value is None:
            _remove(data, assignment.path)
        else:
            _insert(data, assignment)
    try:
        changed = TuningJob.model_validate(data)
    except InvalidJob as error:
        sources = ", ".join(dict.fromkeys(assignment.source for assignment in assignments))
        error.message = f"{sources}: {error.message}"
        error.args = (error.message,)
        raise
    after = dict(_flatten(changed.to_dict()))
    changes = tuple(
        FieldChange(path, before.get(path), after.get(path))
        for path in dict.fromkeys((*after, *before))
        if before.get(path) != after.get(path)
    )
    return changed, changes


def list_paths() -> list[str]:
    """Return every field that `FIELD=VALUE` takes: hyperparameters bare, the others by their path."""
    paths = list(Hyperparameters.model_fields)
    for name, field in TuningJob.model_fields.items():
        inner = _find_model(field.annotation) if name != "overrides" else None
        if name == _HYPERPARAMETERS:
            continue
        paths += [f"{name}.{part}" for part in inner.model_fields] if inner else [name]
    return paths


def _read_value(path: str, text: str) -> Any:
    """Read a value as the field at `path` means it: a name that looks like a number stays a text."""
    types = set(_list_types(_find_annotation(path)))
    value = parse_yaml(Path(f"--set {path}"), text) if text else None
    if path == _SPLIT and isinstance(value, str) and "/" in text:
        return text  # a split by its name
    if value is not None and isinstance(value, str) and tuple in types and (str not in types or "," in text):
        return [parse_yaml(Path(f"--set {path}"), part) for part in text.split(",")]
    if tuple in types and str not in types and isinstance(value, int | float):
        return [value]
    if not isinstance(value, str) and str in types and not types & _types_of(value):
        return text
    return value


def _types_of(value: Any) -> set[type]:
    return {tuple} if isinstance(value, list) else {type(value)}


def _find_annotation(path: str) -> Any:
    """Return the type of the field at `path`; Any where the schema says none."""
    annotation: Any = TuningJob
    for part in path.split("."):
        model = _find_model(annotation)
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            continue
        mapping = next((option for option in _options(annotation) if get_origin(option) is dict), None)
        annotation = get_args(mapping)[1] if mapping is not None else Any
    return annotation


def _options(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of a union, without what `Annotated` adds to them."""
    if hasattr(annotation, "__metadata__"):
        yield from _options(get_args(annotation)[0])
    elif get_origin(annotation) in (dict, tuple, None) or not get_args(annotation):
        yield annotation
    else:
        for option in get_args(annotation):
            yield from _options(option)


def _list_types(annotation: Any) -> Iterator[type]:
    for option in _options(annotation):
        if isinstance(option, str):  # a name of Literal
            yield str
        else:
            yield NoneType if option is None else get_origin(option) or option


def _find_model(annotation: Any) -> type[BaseModel] | None:
    return next(
        (option for option in _options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)), None
    )


def _displaced(path: str, data: dict[str, Any]) -> Iterable[str]:
    """Return the fields that would contradict or hide an assigned hyperparameter."""
    root, _, field = path.partition(".")
    if root != _HYPERPARAMETERS or not field:
        return []
    partners = [name for pair in EXCLUSIVE if field in pair for name in pair if name != field]
    overrides = [
        f"overrides.{provider}.{name}" for provider in data.get("overrides", {}) for name in (field, *partners)
    ]
    return [f"{_HYPERPARAMETERS}.{name}" for name in partners] + overrides


def _insert(data: dict[str, Any], assignment: Assignment) -> None:
    *parents, last = assignment.path.split(".")
    for depth, part in enumerate(parents):
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            parent = ".".join(parents[: depth + 1])
            raise InvalidJob(
                f"{assignment.source} {assignment.path}: {parent} is {inner!r}, not a mapping with a {last!r}",
                hint=f"set the whole of it: --set '{parent}={{{last}: {assignment.value}}}'",
            )
        data = inner
    data[last] = assignment.value


def _remove(data: dict[str, Any], path: str) -> None:
    first, _, remainder = path.partition(".")
    if not remainder:
        data.pop(first, None)
    elif isinstance(inner := data.get(first), dict):
        _remove(inner, remainder)
        if not inner:  # an empty mapping would be one more line of a job file
            del data[first]


def _flatten(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
