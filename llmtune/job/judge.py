"""A model as the judge of open answers, as a job and a grader name it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator

from llmtune.job.base import StrictModel

#: Characters that a rubric may have.
LONGEST_RUBRIC = 20_000

#: What a judge's model may look like, for errors.
MODEL_FORMS = "PROVIDER:MODEL, run:ID or the address of a chat completions server"


class JudgeAddress(NamedTuple):
    """Where a judge is found: `kind` says whether `name` is a provider's model, a run's id or a server's address."""

    kind: Literal["provider", "run", "server"]
    provider: str
    """The provider's name; "" for the other kinds."""

    name: str


def parse_judge_model(text: str) -> JudgeAddress:
    """Read PROVIDER:MODEL, run:ID or an http(s) address. Raises ValueError with one sentence."""
    if text.startswith(("http://", "https://")):
        return JudgeAddress("server", "", text)
    provider, colon, name = text.partition(":")
    if not (provider and colon and name.strip()) or provider != provider.strip():
        raise ValueError(f"model: {text!r} is no model to ask; write {MODEL_FORMS}")
    return JudgeAddress("run", "", name) if provider == "run" else JudgeAddress("provider", provider, name)


class JudgePrice(StrictModel):
    """What a judge bills, in USD per million tokens: of its prompts (`input`) and of its replies (`output`)."""

    input: Annotated[float, Field(ge=0)]
    """Of prompts."""

    output: Annotated[float, Field(ge=0)]
    """Of replies."""


class JudgeModel(StrictModel):
    """A model that judges: which one, by which rubric, and what it bills."""

    model: str
    """PROVIDER:MODEL (any that llmtune asks for answers, so also local:FOLDER), run:ID (the tuned model of a run), or
    the address of a chat completions server, whose key is read from LLMTUNE_JUDGE_KEY."""

    served_model: str | None = None
    """For an address: the model's name there; None takes the server's only one."""

    rubric: Annotated[str, Field(min_length=1, max_length=LONGEST_RUBRIC)]
    """What makes an answer good, in words. 1 to 20,000 characters."""

    max_tokens: Annotated[int, Field(ge=32, le=8192)] = 300
    """Longest reply of the judge in tokens; its cost is estimated with replies of that length. 32..8192."""

    price: JudgePrice | None = None
    """What it bills, where the catalogue does not know or you pay another price; None takes the catalogue's."""

    def _check_rules(self) -> None:
        address = parse_judge_model(self.model)
        if self.served_model is not None and address.kind != "server":
            raise ValueError(f"served_model: it is the name of a model at an address, and model is {self.model!r}")
        if not self.rubric.strip():
            raise ValueError("rubric: say what makes an answer good")

    @property
    def address(self) -> JudgeAddress:
        """Where the judge is found."""
        return parse_judge_model(self.model)


class JudgeSpec(JudgeModel):
    """A model that judges open answers of base and tuned model, by a rubric."""

    mode: Literal["pairwise", "score"] = "pairwise"
    """pairwise: which of both answers is better, asked in both orders; a verdict that the order turns is a tie.
    score: 1 to 5 points for each answer alone."""

    max_rows: Annotated[int, Field(ge=1)] = 50
    """Test rows whose answers are judged at most; of more evaluated rows a sample, chosen by hash. Integer >= 1."""

    show_reference: bool = False
    """Show the judge the row's own answer, too."""

    labels: str | None = None
    """A file of answers with the verdict of a human, on which the judge's agreement is measured (docs/judge.md)."""

    max_labels: Annotated[int, Field(ge=1)] = 100
    """Labelled answers that the judge is asked at most; of more a sample, chosen by hash. Integer >= 1."""

    @field_validator("labels")
    @classmethod
    def _name_file(cls, labels: str | None) -> str | None:
        if labels is not None and not labels.strip():
            raise ValueError("labels is the path of a file, not an empty text")
        return labels

    def relative_to(self, folder: Path) -> JudgeSpec:
        """Return the same judge with the path of its labels resolved against `folder`."""
        if self.labels is None or Path(self.labels).expanduser().is_absolute():
            return self
        return self.model_copy(update={"labels": str(folder / self.labels)})
