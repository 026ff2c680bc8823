"""Calls of tools in what a model wrote, in the forms that open models are trained to write them.

<tool_call>{"name": ..., "arguments": {...}}</tool_call>    Hermes, Qwen, and `tiny`; any number of them
[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]       Mistral
{"name": ..., "parameters": {...}}                          Llama 3: the whole answer
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmtune.data.example import ToolCall

if TYPE_CHECKING:
    from llmtune.provider import Generation, GenerationRequest

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_MARK = "[TOOL_CALLS]"


def with_calls(answer: Generation, request: GenerationRequest) -> Generation:
    """The answer with its calls read, where the question offered tools; what is no call stays text."""
    if not request.tools:
        return answer
    text, calls = read_calls(answer.text)
    if not calls:
        return answer
    reason = "tool_calls" if answer.finish_reason == "stop" else answer.finish_reason
    return replace(answer, text=text, tool_calls=calls, finish_reason=reason)


def read_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The words beside the calls, and the calls. All or none: where one cannot be read, the text stays as it is."""
    if tagged := _TAGGED.findall(text):
        return _read(_TAGGED.sub("", text).strip(), tagged) or (text, ())
    before, mark, after = text.partition(_MARK)
    if mark:
        return _read(before.strip(), [after]) or (text, ())
    return _read("", [text]) or (text, ())


def _read(words: str, parts: list[str]) -> tuple[str, tuple[ToolCall, ...]] | None:
    calls: list[ToolCall] = []
    for part in parts:
        try:
            found = json.loads(part)
        except ValueError:
            return None
        for each in found if isinstance(found, list) else [found]:
            if (call := _call(each, len(calls))) is None:
                return None
            calls.append(call)
    return (words, tuple(calls)) if calls else None


def _call(given: Any, number: int) -> ToolCall | None:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    arguments = given.get("arguments", given.get("parameters"))
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{number}", given["name"], arguments) if isinstance(arguments, str) else None
