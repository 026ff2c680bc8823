"""The configuration of another trainer, read key by key: each key gets a line, so that none is lost silently."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from llmtune._models import FrozenModel
from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.job.spec import TuningJob

#: mapped: same meaning and value. converted: by a stated rule. left out: not in the job, with the reason.
#: default: not set there, but in effect there.
ImportOutcome = Literal["mapped", "converted", "left out", "default"]

#: Keys whose values are secrets (hub_token, wandb_api_key), unlike eos_token.
SECRET = re.compile(r"(api|access|secret)_?key|(hub|auth|access|hf)_token|secret|password|webhook", re.IGNORECASE)


def refuse_existing(path: Path, overwrite: bool, *, instead: str) -> None:
    """Raise `LlmtuneError` where the file exists and must not be replaced; `instead` is the alternative in the hint."""
    if not overwrite and (path.exists() or path.is_symlink()):
        raise LlmtuneError(f"{path} is already there", hint=f"{instead}, or pass --overwrite")


class ImportLine(FrozenModel):
    """The outcome of one key; `word` is the kind of outcome (`ImportOutcome`), `says` explains it."""

    key: str
    value: Any = None
    word: ImportOutcome
    field: str | None = None
    """The job's field, where there is one."""

    says: str = ""


class Imported(FrozenModel):
    """A job made from another tool's configuration; `lines` has a line about every key."""

    job: TuningJob
    source: str
    """The file, run or vendor's job that it was made from."""

    lines: tuple[ImportLine, ...] = ()

    @property
    def left_out(self) -> tuple[ImportLine, ...]:
        """The keys that are not in the job, each with its reason."""
        return tuple(line for line in self.lines if line.word == "left out")


#: How many rows are read before their format counts as unreadable.
_TRIED = 20


def _find_file(named: str, folder: Path) -> Path | None:
    """Return a file or folder of rows, relative to the working folder or the configuration; None if there is none."""
    if "://" in named:
        return None
    return next((path for path in (Path(named), folder / named) if path.exists()), None)


def _find_row_fault(path: Path, dataset: Mapping[str, Any], method: str) -> str | None:
    """Return why none of the first rows can be trained on; None where one can."""
    from llmtune.data.checks.per_row import check_example
    from llmtune.data.findings import Finding
    from llmtune.data.io.reading import Reading

    fault = None
    for number, row in enumerate(Reading(path, dataset.get("format", "auto"), columns=dataset.get("columns"))):
        if isinstance(row, Finding):
            errors = [row] if row.is_error else []
        else:
            errors = [finding for finding in check_example(row, method) if finding.is_error]
            if not errors:
                return None
        if errors and fault is None:
            fault = errors[0].message
        if number >= _TRIED:
            break
    return fault


class Keys:
    """The keys of one configuration, which are taken one after the other, and the job that is made from them."""

    def __init__(self, config: Mapping[str, Any], path: Path, tool: str) -> None:
        self.path, self.tool = path, tool
        self._remaining = {key: value for key, value in config.items() if value is not None and value != ""}
        self._nulls = {key for key, value in config.items() if value is None}
        self.hyperparameters: dict[str, Any] = {}
        self.dataset: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.job: dict[str, Any] = {"adapter": "full"}
        self.lines: list[ImportLine] = []

    def __contains__(self, key: str) -> bool:
        return key in self._remaining

    def remaining(self) -> dict[str, Any]:
        """Return the keys that were not taken yet, those that are set to null among them."""
        return self._remaining | dict.fromkeys(self._nulls)

    def with_config(self, config: Mapping[str, Any]) -> Keys:
        """Return the keys of another form of the same configuration: sections opened, for a tool that has them."""
        return Keys(config, self.path, self.tool)

    def is_null(self, key: str) -> bool:
        """Return whether the key is set to null, which can differ from a key that is not set."""
        return key in self._nulls

    def to_number(self, key: str, value: Any) -> float:
        """Convert a value to a number. Raises `InvalidJob` naming the key when it is none."""
        try:
            return float(value)
        except (TypeError, ValueError):
            raise self.refuse(key, f"{value!r} is not a number") from None

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value and leave its key to be taken."""
        return self._remaining.get(key, default)

    def take(self, key: str, default: Any = None) -> Any:
        """Return a value and remove its key; the caller adds a line about it."""
        return self._remaining.pop(key, default)

    def add_line(self, key: str, value: Any, outcome: ImportOutcome, field: str | None = None, says: str = "") -> None:
        """Add a line about a key. The value of a secret is not repeated."""
        public_value = "***" if SECRET.search(key) and value else value
        self.lines.append(ImportLine(key=key, value=public_value, word=outcome, field=field, says=says))

    def map_field(
        self, key: str, field: str, *, rule: Callable[[Any], tuple[Any, str]] | None = None, default: Any = None
    ) -> None:
        """Map a key to a hyperparameter, unchanged or by a rule; `default` is the tool's own value for an unset key."""
        if key not in self._remaining:
            if default is not None and field not in self.hyperparameters:
                self.hyperparameters[field] = default
                self.add_line(key, default, "default", field, f"not set; {self.tool}'s default")
            return
        value = self.take(key)
        try:
            converted, reason = (value, "") if rule is None else rule(value)
        except (TypeError, ValueError):
            raise self.refuse(key, f"{value!r} cannot be read") from None
        if converted is None:
            self.add_line(key, value, "left out", None, reason)
            return
        self.hyperparameters[field] = converted
        self.add_line(key, value, "converted" if reason else "mapped", field, reason)

    def refuse(self, key: str, message: str, hint: str | None = None) -> InvalidJob:
        """Build the error for a setting that no job can express."""
        return InvalidJob(f"{self.path}: {key}: {message}", where=key, hint=hint)

    def _try_rows(self) -> None:
        """Read the first rows of each local file as the job would: a format that cannot be read counts as left out."""
        for role in ("path", "train", "validation"):
            named = self.dataset.get(role)
            path = None if named is None else _find_file(str(named), self.path.parent)
            fault = None if path is None else _find_row_fault(path, self.dataset, str(self.job.get("method", "sft")))
            if fault is None:
                continue
            says = f"no row of {named} can be read so: {fault}"
            fields = ("dataset.format", "dataset.columns")
            self.lines = [
                line.model_copy(update={"word": "left out", "says": says})
                if line.field is not None and line.field.startswith(fields) and line.word != "left out"
                else line
                for line in self.lines
            ]
            if not any(line.says == says for line in self.lines):
                self.add_line(f"dataset.{role}", named, "left out", "dataset.format", says)

    def leave_out_others(self, reasons: Mapping[str, str]) -> None:
        """Add a line about every key that was not taken: with its reason, or as unknown."""
        for key in list(self._remaining):
            value = self.take(key)
            prefixes = [name for name in reasons if name.endswith("*") and key.startswith(name[:-1])]
            reason = reasons.get(key) or next((reasons[name] for name in prefixes), None)
            self.add_line(
                key, value, "left out", None, reason or f"not known to llmtune: look up what it does in {self.tool}"
            )

    def finish(self, *, name: str, model: str) -> Imported:
        """Build the job. Raises `InvalidJob` naming the configuration when a value is out of range."""
        data: dict[str, Any] = {"name": name[:128] or "imported", "model": {"local": model}, "dataset": self.dataset}
        self._try_rows()
        data |= self.job
        data["hyperparameters"] = self.hyperparameters
        if self.options:
            data["provider_options"] = {"local": self.options}
        try:
            job = TuningJob.model_validate(data)
        except InvalidJob as error:
            raise InvalidJob(f"{self.path}: {error.message}", where=error.where, hint=error.hint) from None
        return Imported(job=job, source=f"{self.tool} ({self.path})", lines=tuple(self.lines))
