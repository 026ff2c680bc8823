"""What a provider may offer beyond what every one does, each a protocol of one or two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llmtune._models import FrozenModel

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.rendering.preview import Peek
    from llmtune.provider.memory import Footprint
    from llmtune.provider.receipt import Receipt
    from llmtune.provider.types import JobRef, ModelRef, Request


@runtime_checkable
class Continuing(Protocol):
    """A provider for which training on from a tuned model needs more than that model's id."""

    def continue_from(self, model: ModelRef) -> tuple[str, dict[str, Any]]:
        """The model id to name, and the options to set, to train on from this model or checkpoint."""
        ...


class CheckResult(FrozenModel):
    """Something that was looked at once a model was there: that templates agree, that the model ends its turn.

    `passed` is the verdict, `says` a sentence with what was seen.
    """

    name: str
    passed: bool
    says: str


@runtime_checkable
class SelfChecking(Protocol):
    """A provider that can look at its own results more closely than their scores do."""

    def check(self, model: ModelRef, examples: Sequence[Example]) -> Sequence[CheckResult]:
        """Look at a tuned model with some held-out rows."""
        ...


@runtime_checkable
class Pausable(Protocol):
    """A provider whose jobs can be paused and resumed."""

    def pause(self, job: JobRef) -> None:
        """Halt the job where it stands; `poll` tells when it has. Raises as `cancel` does."""
        ...

    def resume(self, job: JobRef) -> None:
        """Let a paused job go on. Raises as `cancel` does."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A provider whose jobs, failed or cancelled, can go on from what they have left behind."""

    def resume_point(self, job: JobRef) -> str | None:
        """Where such a job would go on ("the checkpoint of step 40"); None where it would only fail again."""
        ...

    def restart(self, job: JobRef, request: Request) -> str:
        """Let it go on, with what it was submitted with (`request`) wherever that was lost; from where, in words."""
        ...


@runtime_checkable
class Peeking(Protocol):
    """A provider that shows which tokens of a row it would train on, to stand beside llmtune's own view."""

    def peek(self, model: str, examples: Sequence[Example]) -> list[Peek]:
        """These rows as this base model is trained on them. May upload them for the look, and takes them away."""
        ...


@runtime_checkable
class Exporting(Protocol):
    """A provider whose tuned models can be had as files."""

    def export(self, model: ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """Write the model to a folder that is not there yet; how it is loaded and served, in sentences."""
        ...

    def serving_command(self, model: ModelRef, name: str) -> str | None:
        """The command of an inference server for many clients, which calls the model `name`; None where it cannot be
        served from where it lies."""
        ...


@runtime_checkable
class Weighed(Protocol):
    """A provider that trains on this machine, and can tell how much memory a run will take."""

    def footprint(self, receipt: Receipt, dataset: Dataset) -> Footprint:
        """An estimate of the peak, without loading anything."""
        ...


@runtime_checkable
class SupportsPlanNotes(Protocol):
    """A provider that can say before a run, from files on this machine, what its settings will not show."""

    def plan_notes(self, receipt: Receipt) -> Sequence[str]:
        """Sentences for the warnings of a plan. Loads no weights and reaches no network."""
        ...


@runtime_checkable
class Warming(Protocol):
    """A provider that starts many runs faster together than one by one."""

    def warm(self) -> AbstractContextManager[None]:
        """Until it is left, what runs have in common is kept ready. Raises `MissingExtra`."""
        ...


@runtime_checkable
class Equipped(Protocol):
    """A provider that trains on this machine, and can say what it finds here."""

    def machine(self) -> Mapping[str, str]:
        """Device, cores and memory it would use, in words. May import its libraries; sends nothing."""
        ...
