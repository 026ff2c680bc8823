"""The row formats of OpenAI's fine-tuning, and what it and Azure demand of a file; `row_rules` has rows.

Sources, with the date on which they were read: the row schemas of openai-openapi (revision of 2025-05-20; later ones
no longer hold them), the guides "Supervised fine-tuning", "Direct preference optimization" and "Fine-tuning best
practices" (copies, 2026-11), and Microsoft's fine-tuning how-to and quotas (2026-02 and 2026-10).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from llmtune.data.example import Example, ImagePart, Message, Preference, TextPart
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, TokenLimit, VendorRows
from llmtune.data.formats.chat import with_preferred_answer, write_messages
from llmtune.data.formats.preference import preference_problem
from llmtune.data.formats.reinforcement import list_prompt_problems
from llmtune_openai.graders import RIGHT_ANSWER
from llmtune_openai.row_rules import AZURE, GUIDE, MAX_IMAGE_ROWS, VISION, azure_row_rules, row_rules

PRACTICE = "OpenAI, Fine-tuning best practices, 2026-11"

MIN_ROWS = 10
#: Longest row in tokens of the models still listed; what is longer is cut at its end.
MAX_TOKENS = 65_536
MAX_TOKENS_OLD = 16_385
#: A file of one request; larger ones go up in parts, to 8 GB.
MAX_BYTES = 8 * 1024**3
MAX_BYTES_AZURE = 512 * 1024**2

_ROW_KEYS = ("parallel_tool_calls",)
_CARRIES = f.BASIC | f.TOOLS | f.IMAGES | f.WEIGHT_ZERO | f.NAMES | f.PARTS | f.TOOL_IDS | f.LATE_SYSTEM


def _write_turns(messages: Iterable[Message], *, images: bool = True) -> list[dict[str, Any]]:
    """Write messages with the keys the schema knows: a weight on assistant turns only, no other names of roles."""
    turns = []
    for message in messages:
        weight = message.weight if message.role == "assistant" else None
        if message[6:] != (None, None, None) or weight != message.weight:
            message = message.replace(raw_role=None, extra=None, reasoning=None, weight=weight)
        content = message.content
        if isinstance(content, tuple):
            takes = (TextPart, ImagePart) if images else TextPart
            parts = tuple(part for part in content if isinstance(part, takes))
            if message.role == "tool" and not message.images:  # a result is a text to the service, not a list
                message = message.replace(content=message.words)
            elif len(parts) < len(content):
                message = message.replace(content=parts or "")
        turns.append(message)
    return write_messages(turns)


def _write_tools(example: Example) -> list[dict[str, Any]]:
    return [{"type": "function", **tool} for tool in example.tools]


def write_tools(tools: Iterable[Mapping[str, Any]]) -> str:
    """Write tools as OpenAI's models are shown them: as types of a TypeScript namespace, not as JSON.

    The form is that of the Harmony format (OpenAI's cookbook, "OpenAI harmony response format", 2025-08). A recorded
    job on tools (gpt-3.5-turbo-0125, 2024-06) billed 379 tokens for tools that have 387 in this form and 916 as JSON.
    """
    lines = ["# Tools", "", "## functions", "", "namespace functions {", ""]
    for tool in tools:
        function = tool.get("function", tool)
        lines += _write_comment(function.get("description"))
        members = _write_members(function.get("parameters"))
        parameters = f"(_: {{\n{members}}})" if members else "()"
        lines += [f"type {function.get('name')} = {parameters} => any;", ""]
    return "\n".join([*lines, "} // namespace functions"])


#: Schemas that are nested deeper are written as `any`.
_MAX_DEPTH = 16


def _write_members(schema: Any, depth: int = 0) -> str:
    """Write the properties of a JSON schema as members of a TypeScript type, a line each."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return ""
    required = schema.get("required")
    lines: list[str] = []
    for name, member in properties.items():
        optional = "" if isinstance(required, list) and name in required else "?"
        lines += _write_comment(member.get("description") if isinstance(member, Mapping) else None)
        lines.append(f"{name}{optional}: {_write_type(member, depth)},")
    return "".join(f"{line}\n" for line in lines)


def _write_type(schema: Any, depth: int) -> str:
    if not isinstance(schema, Mapping) or depth >= _MAX_DEPTH:
        return "any"
    if isinstance(choices := schema.get("enum"), list):
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    kind = schema.get("type")
    if kind == "object":
        members = _write_members(schema, depth + 1)
        return f"{{\n{members}}}" if members else "object"
    if kind == "array":
        return f"{_write_type(schema.get('items'), depth + 1)}[]"
    if isinstance(kind, list):
        return " | ".join(_TYPES.get(str(name), "any") for name in kind)
    return _TYPES.get(str(kind), "any")


_TYPES = {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}


def _write_comment(text: Any) -> list[str]:
    return [f"// {line}" for line in text.splitlines()] if isinstance(text, str) else []


def _add_row_keys(row: dict[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    for key in _ROW_KEYS:
        if extra and key in extra:
            row[key] = extra[key]
    return row


def _unknown_keys(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (extra or {}).items() if key not in _ROW_KEYS}


def _collect_extra(example: Example) -> dict[str, Any]:
    """Return the extra keys of a preference row, with those of its `input`."""
    extra = dict(example.extra or {})
    input_extra = extra.pop("input", None) if isinstance(extra.get("input"), dict) else None
    return {**extra, **(input_extra or {})}


class OpenAIRows(RowFormat):
    """Chat rows with the keys OpenAI's schema knows and no others."""

    name = "openai"
    title = '{"messages": [...], "tools": [...], "parallel_tool_calls": ...}'
    supports = _CARRIES

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are told by the general chat format

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        from llmtune.data.formats.chat import CHAT

        return CHAT.read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": _write_turns(with_preferred_answer(example))}
        if example.tools:
            row["tools"] = _write_tools(example)
        return _add_row_keys(row, example.extra)

    def without_own_keys(self, example: Example) -> Example:
        return example.replace(extra=_unknown_keys(example.extra) or None) if example.extra else example


class OpenAIPreferenceRows(RowFormat):
    """Preference rows: one prompt, exactly one preferred and one rejected answer, text only."""

    name = "openai_preference"
    title = '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}'
    supports = (_CARRIES | f.PREFERENCE) & ~f.IMAGES
    pairs = True

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        from llmtune.data.formats.preference import FORMATS

        example = FORMATS[0].read(row, line, faults)
        input_extra = (example.extra or {}).get("input")
        if isinstance(input_extra, dict):  # the keys of `input` stand on the example itself, as in chat rows
            extra = {key: value for key, value in (example.extra or {}).items() if key != "input"}
            example = example.replace(extra={**extra, **input_extra})
        return example

    def write(self, example: Example) -> dict[str, Any]:
        input_fields: dict[str, Any] = {"messages": _write_turns(example.messages, images=False)}
        if example.tools:
            input_fields["tools"] = _write_tools(example)
        _add_row_keys(input_fields, _collect_extra(example))
        preferred, rejected = example.preference or Preference((), ())
        return {
            "input": input_fields,
            "preferred_output": _write_turns(preferred, images=False),
            "non_preferred_output": _write_turns(rejected, images=False),
        }

    def without_own_keys(self, example: Example) -> Example:
        extra = dict(example.extra or {})
        if isinstance(extra.get("input"), dict):
            extra |= {f"input.{key}": value for key, value in _unknown_keys(extra.pop("input")).items()}
        return example.replace(extra=_unknown_keys(extra) or None) if example.extra else example

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        if example.preference is None:
            findings.insert(0, preference_problem(self.name))
        return findings


class OpenAIReinforcementRows(OpenAIRows):
    """Prompts, with the right answer as a turn of its own and every other field of the row, which a grader reads."""

    name = "openai_reinforcement"
    title = '{"messages": [..., user], "right_answer": {...}, "tools": [...], ...}'

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        turn = row.get(RIGHT_ANSWER)
        if isinstance(turn, Mapping) and isinstance(row.get("messages"), list):
            row = {name: value for name, value in row.items() if name != RIGHT_ANSWER}
            row["messages"] = [*row["messages"], turn]
        return super().read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        turns = _write_turns(example.messages)
        prompt = len(example.prompt())
        row: dict[str, Any] = {**(example.extra or {}), "messages": turns[:prompt]}
        if len(turns) > prompt:
            row[RIGHT_ANSWER] = turns[prompt]
        if example.tools:
            row["tools"] = _write_tools(example)
        return row

    def problems(self, example: Example) -> list[Finding]:
        return super().problems(example) + list_prompt_problems(example, (RIGHT_ANSWER,))

    def without_own_keys(self, example: Example) -> Example:
        return example.replace(extra=None) if example.extra else example


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check rows and bytes of a file: ten rows at least, 8 GB at most (guides of 2026-11)."""
    yield from _size_rules(facts, GUIDE, MAX_BYTES)


def azure_file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check rows and bytes of a file on Azure: ten rows at least, below 512 MB (quotas of 2026-02-17)."""
    yield from _size_rules(facts, AZURE, MAX_BYTES_AZURE)


def _size_rules(facts: FileFacts, source: str, max_bytes: int) -> Iterable[Finding]:
    if facts.role == "train" and facts.rows < MIN_ROWS:
        yield error("vendor-rows", f"{facts.rows} training rows; at least {MIN_ROWS} are needed ({source})", "add rows")
    if facts.features & f.IMAGES and facts.rows > MAX_IMAGE_ROWS:
        what = f"{facts.rows:,} rows, some with images; at most {MAX_IMAGE_ROWS:,} with images are taken ({VISION})"
        yield warning("vendor-rows", what, "leave images out of some, if more have them")
    if facts.size > max_bytes:
        yield error(
            "vendor-size", f"{facts.size / 1e6:,.0f} MB; at most {max_bytes / 1e6:,.0f} MB ({source})", "cut it"
        )


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Return the longest row in tokens: 65,536, and 16,385 for gpt-3.5-turbo. Longer rows are cut at their end."""
    tokens = MAX_TOKENS_OLD if model is not None and "gpt-3.5" in model else MAX_TOKENS
    return TokenLimit(tokens, refuses=False, source=PRACTICE)


def azure_token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Return OpenAI's limit as a warning: Azure's depends on the model, and no page says how (2026-11)."""
    return token_limit(method, model)


_DEFAULTS = {"sft": "openai", "dpo": "openai_preference"}

OPENAI_ROWS = VendorRows(
    provider="openai",
    formats=(OpenAIRows(), OpenAIPreferenceRows(), OpenAIReinforcementRows()),
    defaults=_DEFAULTS,
    row_rules=row_rules,
    file_rules=file_rules,
    token_limit=token_limit,
    write_tools=write_tools,
    billing="tokens of the training file x epochs; validation is not counted (OpenAI's cookbook, 2024)",
)
AZURE_ROWS = VendorRows(
    provider="azure",
    defaults={**_DEFAULTS, "reinforcement": "openai_reinforcement"},
    row_rules=azure_row_rules,
    file_rules=azure_file_rules,
    token_limit=azure_token_limit,
    write_tools=write_tools,
)
