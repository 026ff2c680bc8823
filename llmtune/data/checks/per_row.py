"""Checks of one row by itself: turns and their order, empty content, trained turns, tool calls."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from llmtune.data.example import ROLES, Example, Message
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats.row_features import PLAIN, features, texts_of
from llmtune.data.hashing import label_of

#: Markers that the chat templates of common model families write around turns.
_MARKERS = re.compile(
    r"<\|(?:im_start|im_end|begin_of_text|start_header_id|end_header_id|eot_id|system|user|assistant|start|message"
    r"|channel|header_start)\|>|<\|?(?:start_of_turn|end_of_turn|turn)>|\[/?INST\]|<</?SYS>>"
    r"|<\uff5c(?:User|Assistant)\uff5c>"
)

_NOTHING: tuple[Finding, ...] = ()


def check_example(example: Example, method: str | None = None, bits: int | None = None) -> Sequence[Finding]:
    """Return the findings of one row, without their place. `method` (sft, dpo, classification) adds its own checks.

    `bits` are the row's `features`, where they are known already.
    """
    if method == "classification":
        if label_of(example) is None:
            what = "method classification needs a label, and the row has none"
            return [error("not-labelled", what, "give every row a label")]
        if example.label == ():  # an empty set of several labels: its answer is an empty text
            return _NOTHING
    if method != "dpo" and not (features(example) if bits is None else bits) & ~PLAIN:
        return _NOTHING
    return _check_closely(example, method)


#: A turn in the message of a finding, as checks and row formats name it: by its index in the canonical form.
_TURN = re.compile(r"\bmessages\[(\d+)\]")


def rename_turns(findings: Sequence[Finding], example: Example, turns_key: str) -> Sequence[Finding]:
    """Return the findings with turns named as in the row itself: by its own key and their index in its list."""
    if not findings:
        return findings
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    turns = (*example.messages, *answers)
    if turns_key == "messages" and all(turn.listed == 1 for turn in turns):
        return findings

    def name_turn(match: re.Match[str]) -> str:
        before = turns[: int(match.group(1)) + 1]
        listed = sum(turn.listed for turn in before)
        return f"{turns_key}[{listed - 1}]" if listed else "system"

    return [finding._replace(message=_TURN.sub(name_turn, finding.message)) for finding in findings]


def compile_tokens(tokens: Collection[str]) -> re.Pattern[str] | None:
    """Compile a pattern that finds any of a tokenizer's control tokens; None where it has none."""
    if not tokens:
        return None
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))


def check_control_tokens(example: Example, tokens: re.Pattern[str]) -> Sequence[Finding]:
    """Return a warning for the first control token of the tokenizer in a text, where it would become a real one."""
    for where, text in texts_of(example):
        match = tokens.search(text)
        if match is not None:
            what = f"{where}: {match.group()!r} is a control token of the tokenizer"
            return [
                warning(
                    "control-token",
                    f"{what}, and would be one here too: the model would see a turn begin or end",
                    "write it in another way, such as with a space in it, or take the row out",
                )
            ]
    return _NOTHING


def _check_closely(example: Example, method: str | None) -> Sequence[Finding]:
    findings: list[Finding] = []
    if method == "dpo" and example.preference is None:
        findings.append(
            error("not-preference", "method dpo learns from pairs, and the row has one answer", "give preference rows")
        )
    if example.text is not None:
        if not example.text.strip():
            findings.append(error("empty-content", "the text is empty", "remove the row"))
        marker = _MARKERS.search(example.text)
        if marker is not None:
            what = f"the text is rendered by a chat template already: it holds its marker {marker.group()!r}"
            remedy = "give the turns themselves as chat rows: as text all of it is learned, the questions too"
            findings.append(warning("rendered-text", what, remedy))
        return findings
    if example.preference is not None:
        if method == "sft":
            findings.append(
                error("preference-in-sft", "the row is a preference pair, which method sft does not learn from", "dpo")
            )
        _check_preference(example, findings)
    else:
        _check_trained(example, findings, method)
    _check_turns(example.messages, findings, has_answer=example.preference is None)
    _check_tools(example, findings)
    return findings


def _check_preference(example: Example, findings: list[Finding]) -> None:
    assert example.preference is not None
    preferred, rejected = example.preference
    if preferred == rejected:
        findings.append(warning("same-answers", "both answers are the same: nothing is learned", "remove the row"))
    for name, turns in (("preferred", preferred), ("rejected", rejected)):
        if any(message.role == "assistant" and message.is_empty for message in turns):
            findings.append(error("empty-content", f"the {name} answer is empty", "write the answer"))
        answers = [message for message in turns if message.role == "assistant"]
        if answers and not any(message.trained for message in answers):
            findings.append(
                error("no-trained-turn", f"the {name} answer has weight 0: nothing is learned", "remove the row")
            )
    if example.messages and example.messages[-1].role == "assistant":
        findings.append(warning("role-order", "the prompt ends in an assistant turn", "end it in the user's"))


def _check_trained(example: Example, findings: list[Finding], method: str | None) -> None:
    if method == "reinforcement" and all(message.role == "system" for message in example.prompt()):
        findings.append(error("no-question", "no question comes before the answer", "add the user's turn"))
    if any(message.trained for message in example.messages):
        return
    if method == "reinforcement":
        what = "the row has no right answer: neither an assistant turn nor the field that the grader's reference names"
        findings.append(
            error(
                "no-right-answer",
                what,
                f"name the field: reference ({', '.join(example.extra or ()) or 'the row has no other fields'})",
            )
        )
        return
    if any(message.role == "assistant" for message in example.messages):
        findings.append(
            error("no-trained-turn", "every assistant turn has weight 0: nothing is learned", "give one weight 1")
        )
    elif example.extra:
        keys = ", ".join(map(repr, list(example.extra)[:4]))
        findings.append(
            error(
                "reinforcement-row",
                f"there is no assistant turn to learn from; with {keys} it looks like a row of reinforcement tuning",
                "add the answer as an assistant turn, or tune with method reinforcement and a grader",
            )
        )
    else:
        findings.append(
            error(
                "distillation-row",
                "there is no assistant turn to learn from; it looks like a prompt of a distillation set, whose answers"
                " a teacher gives",
                "add the answer as an assistant turn",
            )
        )


#: (problem, remedy) of a turn's role by the role and the one before it ("" for the first turn).
_ROLE_ORDER = {
    **{("system", before): ("a system turn after others", "put it first") for before in ROLES},
    ("user", "user"): ("two user turns in a row", "join them"),
    ("assistant", "assistant"): ("two assistant turns in a row", "join them"),
    **{("assistant", before): ("the first turn is the assistant's", "ask first") for before in ("", "system")},
    **{("tool", before): ("a tool turn without a call before it", "add the call") for before in ("", "system", "user")},
}


def _check_turns(messages: Sequence[Message], findings: list[Finding], *, has_answer: bool) -> None:
    before = ""
    for index, message in enumerate(messages):
        role = message.role
        if message.is_empty:
            if message.trained:
                findings.append(
                    error("empty-content", f"messages[{index}]: the answer is empty", "write it, or give it weight 0")
                )
            else:
                findings.append(warning("empty-content", f"messages[{index}]: the {role} turn is empty", "fill it"))
        if message.weight == 1 and role != "assistant":
            findings.append(
                warning("prompt-weight", f"messages[{index}]: weight 1 on a {role} turn is not learned from", "drop it")
            )
        if (role, before) in _ROLE_ORDER:
            problem, remedy = _ROLE_ORDER[role, before]
            findings.append(warning("role-order", f"messages[{index}]: {problem}", remedy))
        before = role
    if has_answer and before != "assistant" and any(message.role == "assistant" for message in messages):
        findings.append(
            warning("trailing-turn", f"the last turn is the {before}'s, which is not learned from", "end in the answer")
        )


def _check_tools(example: Example, findings: list[Finding]) -> None:
    schemas = {}
    for tool in example.tools:
        function = tool.get("function")
        if isinstance(function, Mapping):
            schemas[function.get("name")] = function.get("parameters")
    open_calls: dict[str, int] = {}
    undefined: set[str] = set()
    for index, message in enumerate(example.messages):
        if message.role == "tool":
            if message.tool_call_id is None:
                findings.append(
                    error(
                        "tool-call-id",
                        f"messages[{index}]: a tool turn has no tool_call_id",
                        "name the call it answers",
                    )
                )
            elif message.tool_call_id not in open_calls:
                findings.append(
                    error(
                        "tool-call-id",
                        f"messages[{index}]: there is no open call {message.tool_call_id!r} before it",
                        "give the call's id",
                    )
                )
            else:
                del open_calls[message.tool_call_id]
            continue
        if open_calls:
            first = next(iter(open_calls))
            findings.append(
                warning(
                    "tool-call-id", f"messages[{open_calls[first]}]: call {first!r} has no answer", "add a tool turn"
                )
            )
            open_calls.clear()
        for call in message.tool_calls:
            if call.id in open_calls:
                findings.append(
                    error("tool-call-id", f"messages[{index}]: two calls have id {call.id!r}", "number them")
                )
            open_calls[call.id] = index
            if call.name in schemas:
                _check_arguments(call.arguments, schemas[call.name], f"messages[{index}]: {call.name}", findings)
            elif call.name not in undefined:
                undefined.add(call.name)
                findings.append(
                    warning(
                        "unknown-tool", f"messages[{index}]: {call.name!r} is not among the row's tools", "define it"
                    )
                )


def _check_arguments(arguments: str, schema: Any, where: str, findings: list[Finding]) -> None:
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties")
    required = schema.get("required")
    try:
        values = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return
    if isinstance(required, list):
        missing = [name for name in required if isinstance(name, str) and name not in values]
        if missing:
            findings.append(
                warning("tool-schema", f"{where}: the required argument {missing[0]!r} is missing", "add the argument")
            )
    if isinstance(properties, Mapping) and (not schema.get("additionalProperties", False)):
        unknown = [name for name in values if name not in properties]
        if unknown and properties:
            findings.append(
                warning(
                    "tool-schema", f"{where}: the argument {unknown[0]!r} is not in its schema", "rename or define it"
                )
            )
