"""Generators: requests to a model, its answers, and what some models report beyond them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from llmtune.metrics.points import TokenStats

if TYPE_CHECKING:
    from llmtune.data.example import Example, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One question. `None` leaves a setting to the backend; temperature 0 is greedy.

    `messages` end with the turn to be answered; `tools` are JSON schemas of functions. `top_p` is in (0, 1],
    `top_k` and `max_tokens` are >= 1, `seed` makes sampling repeatable where the backend can.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One answer. Token counts and seconds are None where the backend does not tell.

    `text` is the answer without markup of the template. `finish_reason` tells why it ends there; `tool_calls` are
    calls that the model asks for; `prompt_tokens` and `completion_tokens` are the backend's own counts.
    """

    text: str
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "unknown"] = "unknown"
    tool_calls: tuple[Any, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None


class Generator(Protocol):
    """An open model: base, tuned or checkpoint. Use as a context manager; closing frees what it holds."""

    max_concurrency: int
    """How many `generate` calls may run at once from several threads; 1 means: give all requests in one call."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Answer the requests, in order. Raises `TransientError` when trying again later is right."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Streaming(Protocol):
    """A generator that reports its answers piece by piece while they are generated."""

    def stream(self, requests: Sequence[GenerationRequest], tell: Callable[[int, str], bool]) -> Sequence[Generation]:
        """Answer like `generate`, and call `tell` with the index of a request and each piece of its answer.

        Where `tell` returns False, the rest of that answer is not generated. Raises as `generate` does.
        """
        ...


@runtime_checkable
class LabelScorer(Protocol):
    """A generator that also knows how likely it finds given answers."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """Return the log-likelihood in nats of each label as the whole answer, shape [requests][labels]."""
        ...


@runtime_checkable
class TokenScorer(Protocol):
    """A generator that also knows the loss of given rows."""

    def token_stats(self, examples: Sequence[Example]) -> TokenStats:
        """Return loss and accuracy over the trained tokens of these rows."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerLikelihood:
    """How likely a model finds a given answer, token by token, its end included.

    `logprobs` are the log-likelihoods of its tokens in nats; `gaps` how much likelier the likeliest token was at each
    place, in nats: all 0 for the greedy answer.
    """

    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]


@runtime_checkable
class AnswerScorer(Protocol):
    """A generator that also knows how likely it finds any answer."""

    def score_answers(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Generation]
    ) -> list[AnswerLikelihood]:
        """Return the likelihood of each answer to its request. Raises `InvalidData` where one cannot be rendered."""
        ...


@dataclass(frozen=True)
class Unavailable:
    """Why a model cannot be asked here ("the base model needs a paid deployment").

    `reason` is shown to the user as it stands.
    """

    reason: str
