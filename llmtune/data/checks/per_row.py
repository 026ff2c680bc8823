"""What can be said of one row by itself: turns and their order, empty content, trained turns, tool calls."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats.row_features import texts_of
from llmtune.data.hashing import label_of

#: What chat templates write around turns, in the families that are about.
_MARKERS = re.compile(
    r"<\|(?:im_start|im_end|begin_of_text|start_header_id|end_header_id|eot_id|system|user|assistant|start|message"
    r"|channel|header_start)\|>|<\|?(?:start_of_turn|end_of_turn|turn)>|\[/?INST\]|<</?SYS>>"
    r"|<\uff5c(?:User|Assistant)\uff5c>"
)

_NOTHING: tuple[Finding, ...] = ()


def check_example(example: Example, method: str | None = None) -> Sequence[Finding]:
    """The faults of one row, without its place. `method` (sft, dpo, classification) adds what that one needs."""
    if method == "classification":
        if label_of(example) is None:
            what = "method classification needs a label, and the row has none"
            return [error("not-labelled", what, "give every row a label")]
        if example.label == ():  # none of several labels is an answer too, with no words for it
            return _NOTHING
    return _NOTHING if method != "dpo" and is_simple(example) else _closely(example, method)


#: A turn in the message of a finding, as checks and row formats name it: by its place in the canonical form.
_TURN = re.compile(r"\bmessages\[(\d+)\]")


def in_own_terms(findings: Sequence[Finding], example: Example, turns_key: str) -> Sequence[Finding]:
    """The findings with turns named as the row itself names them: under its own key, by their place in its list."""
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
    """A pattern that finds any of a tokenizer's control tokens; None where it has none."""
    if not tokens:
        return None
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))


def check_control_tokens(example: Example, tokens: re.Pattern[str]) -> Sequence[Finding]:
    """A warning for the first control token of the tokenizer inside a text, where it would become a real one."""
    for where, text in texts_of(example):
        found = tokens.search(text)
        if found is not None:
            what = f"{where}: {found.group()!r} is a control token of the tokenizer"
            return [
                warning(
                    "control-token",
                    f"{what}, and would be one here too: the model would see a turn begin or end",
                    "write it in another way, such as with a space in it, or take the row out",
                )
            ]
    return _NOTHING


def is_simple(example: Example) -> bool:
    """Whether a row is a plain conversation without fault: user and assistant in turn, words alone, the answer last.

    Nearly all rows are, and one short loop tells; only the others need a close look.
    """
    messages, _, _, preference, text, _, _, _ = example
    if preference is not None or text is not None:
        return False
    before = ""
    for role, content, calls, call_id, name, weight, raw_role, extra, reasoning in messages:
        if content.__class__ is not str or calls or call_id is not None or weight is not None:
            return False
        if name is not None or raw_role is not None or extra or reasoning is not None:
            return False
        if not content or content.isspace():
            return False
        if role == "user":
            if before == "user":
                return False
        elif role == "assistant":
            if before != "user":
                return False
        elif before or role != "system":
            return False
        before = role
    return before == "assistant"


def _closely(example: Example, method: str | None) -> Sequence[Finding]:
    found: list[Finding] = []
    if method == "dpo" and example.preference is None:
        found.append(
            error("not-preference", "method dpo learns from pairs, and the row has one answer", "give preference rows")
        )
    if example.text is not None:
        if not example.text.strip():
            found.append(error("empty-content", "the text is empty", "remove the row"))
        marker = _MARKERS.search(example.text)
        if marker is not None:
            what = f"the text is rendered by a chat template already: it holds its marker {marker.group()!r}"
            remedy = "give the turns themselves as chat rows: as text all of it is learned, the questions too"
            found.append(warning("rendered-text", what, remedy))
        return found
    if example.preference is not None:
        if method == "sft":
            found.append(
                error("preference-in-sft", "the row is a preference pair, which method sft does not learn from", "dpo")
            )
        _check_preference(example, found)
    else:
        _check_trained(example, found)
    _check_turns(example.messages, found, whole=example.preference is None)
    _check_tools(example, found)
    return found


def _check_preference(example: Example, found: list[Finding]) -> None:
    assert example.preference is not None
    preferred, rejected = example.preference
    if preferred == rejected:
        found.append(warning("same-answers", "both answers are the same: nothing is learned", "remove the row"))
    for name, turns in (("preferred", preferred), ("rejected", rejected)):
        if any(message.role == "assistant" and message.is_empty for message in turns):
            found.append(error("empty-content", f"the {name} answer is empty", "write the answer"))
        answers = [message for message in turns if message.role == "assistant"]
        if answers and not any(message.trained for message in answers):
            found.append(
                error("no-trained-turn", f"the {name} answer has weight 0: nothing is learned", "remove the row")
            )
    if example.messages and example.messages[-1].role == "assistant":
        found.append(warning("role-order", "the prompt ends in an assistant turn", "end it in the user's"))


def _check_trained(example: Example, found: list[Finding]) -> None:
    if any(message.trained for message in example.messages):
        return
    if any(message.role == "assistant" for message in example.messages):
        found.append(
            error("no-trained-turn", "every assistant turn has weight 0: nothing is learned", "give one weight 1")
        )
    elif example.extra:
        keys = ", ".join(map(repr, list(example.extra)[:4]))
        found.append(
            error(
                "reinforcement-row",
                f"there is no assistant turn to learn from; with {keys} it looks like a row of reinforcement tuning",
                "add the answer as an assistant turn; llmtune does not tune by reward",
            )
        )
    else:
        found.append(
            error(
                "distillation-row",
                "there is no assistant turn to learn from; it looks like a prompt of a distillation set, whose answers"
                " a teacher gives",
                "add the answer as an assistant turn",
            )
        )


def _check_turns(messages: Sequence[Message], found: list[Finding], *, whole: bool) -> None:  # noqa: C901
    before = ""
    for index, message in enumerate(messages):
        role = message.role
        if message.is_empty:
            if message.trained:
                found.append(
                    error("empty-content", f"messages[{index}]: the answer is empty", "write it, or give it weight 0")
                )
            else:
                found.append(warning("empty-content", f"messages[{index}]: the {role} turn is empty", "fill it"))
        if message.weight == 1 and role != "assistant":
            found.append(
                warning("prompt-weight", f"messages[{index}]: weight 1 on a {role} turn is not learned from", "drop it")
            )
        if role == "system":
            if before:
                found.append(warning("role-order", f"messages[{index}]: a system turn after others", "put it first"))
        elif role == "user":
            if before == "user":
                found.append(warning("role-order", f"messages[{index}]: two user turns in a row", "join them"))
        elif role == "assistant":
            if before == "assistant":
                found.append(warning("role-order", f"messages[{index}]: two assistant turns in a row", "join them"))
            elif before in ("", "system"):
                found.append(
                    warning("role-order", f"messages[{index}]: the first turn is the assistant's", "ask first")
                )
        elif before not in ("assistant", "tool"):
            found.append(
                warning("role-order", f"messages[{index}]: a tool turn without a call before it", "add the call")
            )
        before = role
    if whole and before != "assistant" and any(message.role == "assistant" for message in messages):
        found.append(
            warning("trailing-turn", f"the last turn is the {before}'s, which is not learned from", "end in the answer")
        )


def _check_tools(example: Example, found: list[Finding]) -> None:
    known = {}
    for tool in example.tools:
        function = tool.get("function")
        if isinstance(function, Mapping):
            known[function.get("name")] = function.get("parameters")
    open_calls: dict[str, int] = {}
    undefined: set[str] = set()
    for index, message in enumerate(example.messages):
        if message.role == "tool":
            if message.tool_call_id is None:
                found.append(
                    error(
                        "tool-call-id",
                        f"messages[{index}]: a tool turn has no tool_call_id",
                        "name the call it answers",
                    )
                )
            elif message.tool_call_id not in open_calls:
                found.append(
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
            found.append(
                warning(
                    "tool-call-id", f"messages[{open_calls[first]}]: call {first!r} has no answer", "add a tool turn"
                )
            )
            open_calls.clear()
        for call in message.tool_calls:
            if call.id in open_calls:
                found.append(error("tool-call-id", f"messages[{index}]: two calls have id {call.id!r}", "number them"))
            open_calls[call.id] = index
            if call.name in known:
                _check_arguments(call.arguments, known[call.name], f"messages[{index}]: {call.name}", found)
            elif call.name not in undefined:
                undefined.add(call.name)
                found.append(
                    warning(
                        "unknown-tool", f"messages[{index}]: {call.name!r} is not among the row's tools", "define it"
                    )
                )


def _check_arguments(arguments: str, schema: Any, where: str, found: list[Finding]) -> None:
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties")
    required = schema.get("required")
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return
    if isinstance(required, list):
        missing = [name for name in required if isinstance(name, str) and name not in given]
        if missing:
            found.append(
                warning("tool-schema", f"{where}: the required argument {missing[0]!r} is missing", "add the argument")
            )
    if isinstance(properties, Mapping) and (not schema.get("additionalProperties", False)):
        unknown = [name for name in given if name not in properties]
        if unknown and properties:
            found.append(
                warning(
                    "tool-schema", f"{where}: the argument {unknown[0]!r} is not in its schema", "rename or define it"
                )
            )
