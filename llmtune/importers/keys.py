"""A configuration of another trainer, read key by key: each key is answered, so that none can vanish."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from llmtune._models import FrozenModel
from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.job.spec import TuningJob

#: mapped: same meaning and value. converted: after a stated rule. left out: not in the job, and why.
Word = Literal["mapped", "converted", "left out", "default"]

#: Keys whose values are secrets (hub_token, wandb_api_key), unlike eos_token.
SECRET = re.compile(r"(api|access|secret)_?key|(hub|auth|access|hf)_token|secret|password|webhook", re.IGNORECASE)


def refuse_existing(path: Path, overwrite: bool, *, instead: str) -> None:
    """Raise `LlmtuneError` where the file is there and is not to be replaced; `instead` is the other way out."""
    if not overwrite and (path.exists() or path.is_symlink()):
        raise LlmtuneError(f"{path} is already there", hint=f"{instead}, or pass --overwrite")


class Line(FrozenModel):
    """What became of one key. `word` "default" is a value that was not written there but holds there all the same."""

    key: str
    value: Any = None
    word: Word
    field: str | None = None
    """The job's field, where there is one."""

    says: str = ""


class Imported(FrozenModel):
    """A job made from another tool's configuration, with the receipt of every key."""

    job: TuningJob
    source: str
    """What it was read from."""

    lines: tuple[Line, ...] = ()

    @property
    def left_out(self) -> tuple[Line, ...]:
        """The keys that are not in the job, each with its reason."""
        return tuple(line for line in self.lines if line.word == "left out")


#: How many rows are tried before their format is said not to be read.
_TRIED = 20


def _find_file(named: str, folder: Path) -> Path | None:
    """A file or folder of rows as it is named where the tool is run, or beside its configuration."""
    if "://" in named:
        return None
    return next((path for path in (Path(named), folder / named) if path.exists()), None)


def _fault_of_rows(path: Path, dataset: Mapping[str, Any], method: str) -> str | None:
    """Why none of the first rows can be trained on; None where one can."""
    from llmtune.data.checks.per_row import check_example
    from llmtune.data.findings import Finding
    from llmtune.data.io.reading import Reading

    fault = None
    for number, item in enumerate(Reading(path, dataset.get("format", "auto"), columns=dataset.get("columns"))):
        if isinstance(item, Finding):
            found = [item] if item.is_error else []
        else:
            found = [finding for finding in check_example(item, method) if finding.is_error]
            if not found:
                return None
        if found and fault is None:
            fault = found[0].message
        if number >= _TRIED:
            break
    return fault


class Keys:
    """The keys of one configuration, taken one after the other, and the job that grows from them."""

    def __init__(self, config: Mapping[str, Any], path: Path, tool: str) -> None:
        self.path, self.tool = path, tool
        self._rest = {key: value for key, value in config.items() if value is not None and value != ""}
        self._nulls = {key for key, value in config.items() if value is None}
        self.hyperparameters: dict[str, Any] = {}
        self.dataset: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.job: dict[str, Any] = {"adapter": "full"}
        self.lines: list[Line] = []

    def __contains__(self, key: str) -> bool:
        return key in self._rest

    def is_null(self, key: str) -> bool:
        """Whether the key is there with the value null, where that differs from a key that is not there."""
        return key in self._nulls

    def number(self, key: str, value: Any) -> float:
        """A value as a number; refused by its key when it is none."""
        try:
            return float(value)
        except (TypeError, ValueError):
            raise self.refuse(key, f"{value!r} is not a number") from None

    def get(self, key: str, default: Any = None) -> Any:
        """A value, without answering its key."""
        return self._rest.get(key, default)

    def take(self, key: str, default: Any = None) -> Any:
        """A value whose key is answered by the caller."""
        return self._rest.pop(key, default)

    def say(self, key: str, value: Any, word: Word, field: str | None = None, says: str = "") -> None:
        """Answer a key. What a key keeps secret is not repeated."""
        shown = "***" if SECRET.search(key) and value else value
        self.lines.append(Line(key=key, value=shown, word=word, field=field, says=says))

    def set(
        self, key: str, field: str, *, rule: Callable[[Any], tuple[Any, str]] | None = None, default: Any = None
    ) -> None:
        """Bring a key into a hyperparameter, as it is or by a rule; `default` is what the tool takes when unset."""
        if key not in self._rest:
            if default is not None and field not in self.hyperparameters:
                self.hyperparameters[field] = default
                self.say(key, default, "default", field, f"not set; {self.tool}'s default")
            return
        value = self.take(key)
        try:
            made, said = (value, "") if rule is None else rule(value)
        except (TypeError, ValueError):
            raise self.refuse(key, f"{value!r} cannot be read") from None
        if made is None:
            self.say(key, value, "left out", None, said)
            return
        self.hyperparameters[field] = made
        self.say(key, value, "converted" if said else "mapped", field, said)

    def refuse(self, key: str, message: str, hint: str | None = None) -> InvalidJob:
        """The error for a configuration that no job of ours can express."""
        return InvalidJob(f"{self.path}: {key}: {message}", where=key, hint=hint)

    def _try_rows(self) -> None:
        """Read the first rows of each file that is here, as the job would: a format that is not read is not mapped."""
        for role in ("path", "train", "validation"):
            named = self.dataset.get(role)
            found = None if named is None else _find_file(str(named), self.path.parent)
            fault = None if found is None else _fault_of_rows(found, self.dataset, str(self.job.get("method", "sft")))
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
                self.say(f"dataset.{role}", named, "left out", "dataset.format", says)

    def leave_rest(self, reasons: Mapping[str, str]) -> None:
        """Answer every key that is still there: by its reason, or as one that is not known."""
        for key in list(self._rest):
            value = self.take(key)
            prefixes = [name for name in reasons if name.endswith("*") and key.startswith(name[:-1])]
            reason = reasons.get(key) or next((reasons[name] for name in prefixes), None)
            self.say(
                key, value, "left out", None, reason or f"not known to llmtune: look up what it does in {self.tool}"
            )

    def finish(self, *, name: str, model: str) -> Imported:
        """The job. Raises `InvalidJob` naming the key's file when a value is out of range."""
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
