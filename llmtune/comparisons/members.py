"""The members of a comparison: a backend, optionally with a model and hyperparameters of its own."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidJob
from llmtune.job.spec import Hyperparameters, TuningJob


class Member(DocumentedModel):
    """One run of a comparison. Fields that are None are taken from the job.

    `model` is the id of its base model.
    """

    provider: str
    """Name of a provider or of a configured instance."""

    model: str | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    """Override those of the job, field by field."""

    name: str | None = None
    """Label on the board; None builds it from the other fields."""

    @property
    def label(self) -> str:
        """The label on the board: the name, else PROVIDER:MODEL[FIELD=VALUE,...]."""
        if self.name is not None:
            return self.name
        model = f":{self.model}" if self.model else ""
        hyperparameters = self.hyperparameters.model_dump(exclude_none=True, mode="json")
        fields = ",".join(f"{field}={value}" for field, value in hyperparameters.items())
        return f"{self.provider}{model}" + (f"[{fields}]" if fields else "")

    @classmethod
    def parse(cls, text: str) -> Member:
        """Parse PROVIDER or PROVIDER:MODEL, optionally followed by [FIELD=VALUE,...].

        Raises `InvalidJob` for anything else.
        """
        match = re.fullmatch(r"(?P<provider>[\w.-]+)(?::(?P<model>[^\[\]]+))?(?:\[(?P<fields>[^\]]*)\])?", text.strip())
        if match is None:
            raise InvalidJob(
                f"{text!r} is not a member of a comparison",
                where="provider",
                hint="write PROVIDER, PROVIDER:MODEL, or PROVIDER[lora_rank=8,epochs=2]",
            )
        fields: dict[str, Any] = {}
        for part in filter(None, (match["fields"] or "").split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise InvalidJob(f"{text!r}: {part!r} has no value", where="provider", hint="write FIELD=VALUE")
            fields[name.strip()] = value.strip()
        try:
            hyperparameters = Hyperparameters.model_validate(fields, strict=False)
        except (InvalidJob, ValidationError) as error:
            raise InvalidJob(f"{text!r}: {getattr(error, 'message', error)}", where="provider") from None
        return cls(provider=match["provider"], model=match["model"], hyperparameters=hyperparameters)

    def job(self, job: TuningJob) -> TuningJob:
        """Return the job as this member runs it."""
        changes: dict[str, Any] = {}
        if self.model is not None:
            changes["model"] = {self.provider: self.model}
        if self.hyperparameters != Hyperparameters():
            merged = job.hyperparameters_for(self.provider).merged(self.hyperparameters)
            changes["overrides"] = {**job.overrides, self.provider: merged}
        return job.model_copy(update=changes) if changes else job


def split_members(text: str) -> list[str]:
    """Split a comma-separated list of members; commas in brackets do not separate."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)
    return [part.strip() for part in parts if part.strip()]
