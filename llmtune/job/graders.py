"""A grader as it is written down: one mapping with a `kind`, in a YAML or JSON file.

    kind: match
    operation: numeric
    reference: answer

Every kind scores from 0 (wrong) to 1 (right), but for those with a range of their own. `weighted` combines several.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field

from llmtune.errors import InvalidJob, UnknownName
from llmtune.job.base import StrictModel
from llmtune.job.files import locate_faults, read_mapping, read_text
from llmtune.job.judge import JudgeModel
from llmtune.metrics.registry import list_names

#: Graders inside graders, at most: a `weighted` one may hold another.
DEEPEST = 4


class AnswerPart(StrictModel):
    """The part of an answer that is scored. Where an answer does not have it, the score is the lowest."""

    regex: str | None = None
    """A regular expression; its first group is taken, or the whole match where it has none. The last match counts."""

    json_path: str | None = None
    """Names of fields separated by dots, in the JSON object that the answer is or holds: `customer.city`."""

    def _check_rules(self) -> None:
        if (self.regex is None) == (self.json_path is None):
            raise ValueError("answer_from: give one of regex and json_path")
        if self.regex is not None:
            check_regex("answer_from.regex", self.regex)


class _Spec(StrictModel):
    answer_from: AnswerPart | None = None
    """What is taken from the answer before it is scored; by default all of it."""


class _WithReference(_Spec):
    reference: str | None = None
    """The row's field with the right answer (dots reach into objects); by default the row's last assistant turn."""

    right_answer: str = "{reference}"
    """How a right answer may look, for the trial: `The answer is #### {reference}`."""

    def _check_rules(self) -> None:
        if "{reference}" not in self.right_answer:
            raise ValueError("right_answer: it does not contain {reference}")


class MatchGrader(_WithReference):
    """Compares an answer with the row's reference: right or wrong."""

    kind: Literal["match"]
    """Which grader it is."""

    operation: Literal["exact", "normalised", "contains", "numeric", "json"] = "exact"
    """exact: outer blanks aside; normalised: case, blanks, quotes and final punctuation aside too; contains: the
    reference stands in the answer; numeric: both end in the same number; json: both are the same JSON value."""

    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """numeric: the largest difference that is right, in units of the number."""

    partial: bool = False
    """json: the share of the reference's fields that the answer has right, instead of all or nothing."""

    def _check_rules(self) -> None:
        super()._check_rules()
        if self.tolerance and self.operation != "numeric":
            raise ValueError(f"tolerance: it is of operation numeric, and the operation is {self.operation}")
        if self.partial and self.operation != "json":
            raise ValueError(f"partial: it is of operation json, and the operation is {self.operation}")


class RegexGrader(_Spec):
    """Pays 1 where a regular expression occurs in the answer."""

    kind: Literal["regex"]
    """Which grader it is."""

    pattern: str
    """The regular expression, of Python's kind."""

    def _check_rules(self) -> None:
        check_regex("pattern", self.pattern)


class SimilarityGrader(_WithReference):
    """Pays by how similar an answer is to the reference, from 0 to 1."""

    kind: Literal["similarity"]
    """Which grader it is."""

    metric: str = "rouge_l"
    """A metric of texts by its name (docs: metrics)."""

    def _check_rules(self) -> None:
        super()._check_rules()
        names = list_names("text")
        if self.metric not in names:
            raise ValueError(f"metric: {self.metric!r} is no metric of texts ({', '.join(names)})")


class ToolCallGrader(_WithReference):
    """Pays 1 where an answer calls the tools of the reference with the same arguments, in the same order."""

    kind: Literal["tool_call"]
    """Which grader it is."""

    names_only: bool = False
    """Compare the names of the tools, not their arguments."""


class SchemaGrader(_Spec):
    """Pays 1 where the answer is JSON that a JSON Schema allows."""

    kind: Literal["schema"]
    """Which grader it is."""

    json_schema: dict[str, Any]
    """The JSON Schema."""


class PythonGrader(_Spec):
    """Pays what a Python function returns: `def grade(row: dict, answer: str) -> float`.

    The function runs in a process of its own without network, without the environment's keys, and writes no files.
    """

    kind: Literal["python"]
    """Which grader it is."""

    file: str | None = None
    """The file that defines it, from the grader's own folder."""

    source: str | None = None
    """The Python text itself, instead of a file."""

    lowest: float = 0.0
    """The lowest score that it may give."""

    highest: float = 1.0
    """The highest score that it may give."""

    seconds: Annotated[float, Field(gt=0, le=120)] = 10.0
    """The longest that one answer may take, in seconds."""

    reference: str | None = None
    """The row's field with the right answer, for the trial; by default the row's last assistant turn."""

    right_answer: str = "{reference}"
    """How a right answer may look, for the trial."""

    def _check_rules(self) -> None:
        if (self.file is None) == (self.source is None):
            raise ValueError("python: give one of file and source")
        if self.lowest >= self.highest:
            raise ValueError(f"lowest: {self.lowest:g} is not below highest ({self.highest:g})")


class _Called(_Spec):
    """A grader that runs elsewhere, and is asked for each answer."""

    lowest: float = 0.0
    """The lowest score that it may give."""

    highest: float = 1.0
    """The highest score that it may give."""

    reference: str | None = None
    """The row's field with the right answer, for the trial; by default the row's last assistant turn."""

    right_answer: str = "{reference}"
    """How a right answer may look, for the trial."""

    def _check_rules(self) -> None:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest: {self.lowest:g} is not below highest ({self.highest:g})")


class HttpGrader(_Called):
    """Pays what an endpoint of the user's answers: `POST {"row", "answer", "tool_calls"}` -> `{"score": number}`."""

    kind: Literal["http"]
    """Which grader it is."""

    url: str
    """The address: https, or http on this machine; without a password in it."""

    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """The environment variable with the endpoint's key, which is sent as `Authorization: Bearer` and never stored."""

    seconds: Annotated[float, Field(gt=0, le=300)] = 30.0
    """The longest that one call may take, in seconds."""

    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a call is repeated that did not arrive, or was answered by 429 or 5xx."""

    def _check_rules(self) -> None:
        super()._check_rules()
        check_address(self.url)


#: An AWS Lambda function, or a version or alias of one.
_LAMBDA = r"^arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:[A-Za-z0-9_-]{1,64}(:[A-Za-z0-9$_-]{1,128})?$"


class LambdaGrader(_Called):
    """Pays what an AWS Lambda function returns: `[{"id", "messages", ...}]` -> `[{"id", "aggregate_reward_score"}]`.

    The function is the user's. It is asked with the credentials of AWS's own chain (docs/reinforcement.md).
    """

    kind: Literal["lambda"]
    """Which grader it is."""

    function: Annotated[str, Field(pattern=_LAMBDA)]
    """The ARN of the function."""

    seconds: Annotated[float, Field(gt=0, le=900)] = 60.0
    """The longest that one call may take, in seconds."""


class JudgeGrader(JudgeModel, _Spec):
    """Pays the 1 to 5 points that another model gives an answer, by a rubric."""

    kind: Literal["judge"]
    """Which grader it is."""

    reference: str | None = None
    """The row's field with a right answer, which the judge is shown; by default it is shown none."""

    right_answer: str = "{reference}"
    """How a right answer may look, for the trial."""


class WeightedPart(StrictModel):
    """One of several graders, and how much it counts."""

    weight: Annotated[float, Field(gt=0)]
    """How much it counts, beside the weights of the others. > 0."""

    grader: Grader
    """The grader."""


class WeightedGrader(StrictModel):
    """Pays the mean of several graders, each scaled to 0..1, by their weights."""

    kind: Literal["weighted"]
    """Which grader it is."""

    parts: Annotated[list[WeightedPart], Field(min_length=1)]
    """The graders with their weights."""


#: What scores an answer: one of the kinds.
Grader = Annotated[
    MatchGrader
    | RegexGrader
    | SimilarityGrader
    | ToolCallGrader
    | SchemaGrader
    | PythonGrader
    | HttpGrader
    | LambdaGrader
    | JudgeGrader
    | WeightedGrader,
    Field(discriminator="kind"),
]
WeightedPart.model_rebuild()
WeightedGrader.model_rebuild()


#: The classes by their `kind`.
KINDS: dict[str, type[Grader]] = {
    get_args(spec.model_fields["kind"].annotation)[0]: spec for spec in get_args(get_args(Grader)[0])
}


def make_grader(fields: Mapping[str, Any]) -> Grader:
    """Build a grader from plain data, as a file holds it.

    Raises:
        InvalidJob: a field is wrong; `UnknownName` for a kind or a field that does not exist.
    """
    kind = fields.get("kind")
    if kind is None:
        raise InvalidJob(f"a grader needs a kind: {', '.join(KINDS)}", where="kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UnknownName("kind of grader", str(kind)[:60], KINDS)
    grader: Grader = KINDS[kind].model_validate(dict(fields))
    return grader


def load_grader(path: str | os.PathLike[str]) -> Grader:
    """Read a grader from a YAML or JSON file. A Python grader's file is read too, from the grader's own folder.

    Raises:
        InvalidJob: with file and line: there is no such file, it is broken, or a field is wrong.
    """
    path = Path(path)
    try:
        grader = make_grader(read_mapping(path, "grader file"))
    except InvalidJob as error:
        if error.faults or not error.message.startswith(str(path)):
            error.message = locate_faults(path, error)
            error.args = (error.message,)
        raise
    return read_sources(grader, path.parent)


def list_parts(grader: Grader) -> list[Grader]:
    """Return the graders that compare and compute: those inside a `weighted` one, else the grader itself."""
    if isinstance(grader, WeightedGrader):
        return [inner for part in grader.parts for inner in list_parts(part.grader)]
    return [grader]


def list_judges(grader: Grader) -> list[JudgeGrader]:
    """Return the parts of a grader for which a model is asked."""
    return [part for part in list_parts(grader) if isinstance(part, JudgeGrader)]


def find_reference_field(grader: Grader) -> str | None:
    """Return the row's field with the right answer; None where it is the last assistant turn."""
    fields = (getattr(part, "reference", None) for part in list_parts(grader))
    return next((field for field in fields if field is not None), None)


def read_sources(grader: Grader, folder: Path, depth: int = 1) -> Grader:
    """Return the grader with the files of its Python graders read, so that it stands alone.

    Raises `InvalidJob` for a file that cannot be read, and for graders that are nested too deeply.
    """
    if depth > DEEPEST:
        raise InvalidJob(f"graders are nested more than {DEEPEST} deep")
    if isinstance(grader, WeightedGrader):
        parts = [
            part.model_copy(update={"grader": read_sources(part.grader, folder, depth + 1)}) for part in grader.parts
        ]
        return grader.model_copy(update={"parts": parts})
    if isinstance(grader, PythonGrader) and grader.file is not None:
        try:
            source = read_text(folder / grader.file, "Python grader")
        except InvalidJob as problem:
            raise InvalidJob(problem.message, where="file", hint=problem.hint) from None
        return grader.model_copy(update={"source": source, "file": None})
    return grader


def check_regex(where: str, pattern: str) -> None:
    """Refuse a text that is no regular expression of Python. Raises ValueError."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is no regular expression: {error}") from None


def check_address(url: str) -> None:
    """Refuse an address that is no https one (http on this machine), or that holds a password. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or parts.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("url: it is no address: write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url: it holds a user's name or password, which would be stored: use key_env")
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("url: rows and keys would travel unencrypted: write https://")
