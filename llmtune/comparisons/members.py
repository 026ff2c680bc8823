"""Who takes part in a comparison: a backend, perhaps a model of its own, perhaps hyperparameters of its own."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidJob
from llmtune.job.spec import Hyperparameters, TuningJob


class Member(DocumentedModel):
    """One run of a comparison. What is None is the job's own.

    `model` is its base model's id.
    """

    provider: str
    """A provider's name or a configured instance's."""

    model: str | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    """Laid over the job's, field by field."""

    name: str | None = None
    """What it is called on the board."""

    @property
    def label(self) -> str:
        """What it is called on the board: its name, or what it is made of."""
        if self.name is not None:
            return self.name
        model = f":{self.model}" if self.model else ""
        own = self.hyperparameters.model_dump(exclude_none=True, mode="json")
        fields = ",".join(f"{field}={value}" for field, value in own.items())
        return f"{self.provider}{model}" + (f"[{fields}]" if fields else "")

    @classmethod
    def parse(cls, text: str) -> Member:
        """From PROVIDER, PROVIDER:MODEL, or either with [FIELD=VALUE,...] behind it.

        Raises `InvalidJob` for anything else.
        """
        found = re.fullmatch(r"(?P<provider>[\w.-]+)(?::(?P<model>[^\[\]]+))?(?:\[(?P<fields>[^\]]*)\])?", text.strip())
        if found is None:
            raise InvalidJob(
                f"{text!r} is no member of a comparison",
                where="provider",
                hint="write PROVIDER, PROVIDER:MODEL, or PROVIDER[lora_rank=8,epochs=2]",
            )
        fields: dict[str, Any] = {}
        for part in filter(None, (found["fields"] or "").split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise InvalidJob(f"{text!r}: {part!r} says no value", where="provider", hint="write FIELD=VALUE")
            fields[name.strip()] = value.strip()
        try:
            own = Hyperparameters.model_validate(fields, strict=False)
        except (InvalidJob, ValidationError) as error:
            raise InvalidJob(f"{text!r}: {getattr(error, 'message', error)}", where="provider") from None
        return cls(provider=found["provider"], model=found["model"], hyperparameters=own)

    def job(self, job: TuningJob) -> TuningJob:
        """The job as this member runs it."""
        changes: dict[str, Any] = {}
        if self.model is not None:
            changes["model"] = {self.provider: self.model}
        if self.hyperparameters != Hyperparameters():
            laid = job.hyperparameters_for(self.provider).merged(self.hyperparameters)
            changes["overrides"] = {**job.overrides, self.provider: laid}
        return job.model_copy(update=changes) if changes else job


def split_members(text: str) -> list[str]:
    """The members of a comma-separated list, whose brackets may hold commas."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)
    return [part.strip() for part in parts if part.strip()]
