"""Tool calls in a model's answer, in the forms that open models are trained to write.

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
    """Return the answer with its tool calls parsed, where the request offered tools; all else stays text."""
    if not request.tools:
        return answer
    text, calls = read_calls(answer.text)
    if not calls:
        return answer
    reason = "tool_calls" if answer.finish_reason == "stop" else answer.finish_reason
    return replace(answer, text=text, tool_calls=calls, finish_reason=reason)


def read_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Return the text beside the calls, and the calls. Where one call cannot be parsed, the text stays as it is."""
    if tagged := _TAGGED.findall(text):
        return _read(_TAGGED.sub("", text).strip(), tagged) or (text, ())
    before, mark, after = text.partition(_MARK)
    if mark:
        return _read(before.strip(), [after]) or (text, ())
    return _read("", [text]) or (text, ())


def _read(text: str, parts: list[str]) -> tuple[str, tuple[ToolCall, ...]] | None:
    calls: list[ToolCall] = []
    for part in parts:
        try:
            parsed = json.loads(part)
        except ValueError:
            return None
        for raw_call in parsed if isinstance(parsed, list) else [parsed]:
            if (call := _call(raw_call, len(calls))) is None:
                return None
            calls.append(call)
    return (text, tuple(calls)) if calls else None


def _call(raw_call: Any, number: int) -> ToolCall | None:
    if not isinstance(raw_call, dict) or not isinstance(raw_call.get("name"), str):
        return None
    arguments = raw_call.get("arguments", raw_call.get("parameters"))
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{number}", raw_call["name"], arguments) if isinstance(arguments, str) else None
