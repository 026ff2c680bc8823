"""Requests and responses of `POST /v1/decisions`: a schema and inputs in; probabilities, and what is withheld, out.

    {"model": "router", "input": ["Where is my parcel?"], "schema": {"enum": ["billing", "shipping"]}}

`input` is a text, a conversation (a list of turns, as chat completions take them), or a list of these. `schema` may be
left out where the model has calibrated labels of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.data.example import Message
from llmtune.data.findings import Finding
from llmtune.data.formats.chat import read_messages
from llmtune.errors import InvalidData
from llmtune.metrics.decision_schema import DecisionPlan, plan_decisions
from llmtune.metrics.decisions import Decision, DecisionRules
from llmtune.provider.generation import GenerationRequest
from llmtune.server.protocol import RequestError

#: Inputs of one request.
MAX_INPUTS = 100

_PARAMETERS = ("model", "input", "schema")


@dataclass(frozen=True)
class DecisionRequest:
    """A parsed request: the model's name, one request for each input, and what is asked."""

    model: str
    requests: tuple[GenerationRequest, ...]
    plan: DecisionPlan


def read_model_name(body: Mapping[str, Any]) -> str:
    """Return the name of the model. Raises `RequestError` where there is none."""
    name = body.get("model")
    if not isinstance(name, str):
        raise RequestError(400, "model is missing: name one of GET /v1/models", param="model")
    return name


def parse_decision_request(body: Mapping[str, Any], rules: DecisionRules | None) -> DecisionRequest:
    """Parse a request's body, for a model with these rules. Raises `RequestError` with the parameter that is wrong."""
    for name in body:
        if name not in _PARAMETERS:
            raise RequestError(
                400, f"{name[:60]} is not supported by this endpoint", param=name[:60], code="unsupported_parameter"
            )
    try:
        plan = plan_decisions(body.get("schema"), rules)
    except InvalidData as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise RequestError(400, f"{error.message}{hint}", param="schema") from None
    requests = tuple(GenerationRequest(messages=messages) for messages in _read_inputs(body.get("input")))
    return DecisionRequest(read_model_name(body), requests, plan)


def _read_inputs(value: Any) -> list[tuple[Message, ...]]:
    if isinstance(value, str) or _is_conversation(value):
        return [_read_input(value, "input")]
    if not isinstance(value, list) or not value:
        raise RequestError(400, "input must be a text, a conversation, or a list of these", param="input")
    if len(value) > MAX_INPUTS:
        raise RequestError(400, f"input has {len(value):,} entries; one request takes {MAX_INPUTS}", param="input")
    return [_read_input(entry, f"input[{number}]") for number, entry in enumerate(value)]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _read_input(value: Any, where: str) -> tuple[Message, ...]:
    if isinstance(value, str) and value.strip():
        return (Message("user", value),)
    if not _is_conversation(value):
        raise RequestError(400, f"{where} must be a text that is not empty, or a list of turns", param="input")
    findings: list[Finding] = []
    messages = read_messages(value, findings, where)
    first_error = next((finding for finding in findings if finding.is_error), None)
    if first_error is not None:
        raise RequestError(400, first_error.message, param="input")
    if messages[-1].role == "assistant":
        raise RequestError(400, f"{where} ends with an assistant's turn: there is nothing to decide", param="input")
    return tuple(messages)


def write_decisions(request: DecisionRequest, scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the response: for each input, in order, the decision of every question."""
    data = [
        {
            "index": index,
            "decisions": {name: _write_decision(decision) for name, decision in request.plan.decide(row).items()},
        }
        for index, row in enumerate(scores)
    ]
    return {"object": "list", "model": request.model, "data": data}


def _write_decision(decision: Decision) -> dict[str, Any]:
    no_score = {"score"} if decision.score is None else set()
    return decision.model_dump(mode="json", exclude={"question"} | no_score)
