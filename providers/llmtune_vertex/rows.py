"""Gemini's rows (`contents` of `parts`) and what Vertex demands of a dataset.

Sources, read 2026-11: Google Cloud, "About supervised fine-tuning for Gemini models", "Preference tuning", "Tune open
models"; the samples in GoogleCloudPlatform/generative-ai; and google-genai 2.34 and 3.4 for the parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from llmtune.data.example import Example, ImagePart, Message, OtherPart, Part, Preference, ToolCall, unlisted
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, TokenLimit, VendorRows, count_findings
from llmtune.data.formats.chat import Calls, ChatRows, answered, kind, note_beside
from llmtune.data.formats.instruct import rest
from llmtune.data.formats.json_text import check_long_numbers, dump_json, find_long_number, load_json
from llmtune.data.formats.parts import TurnParts, image_source, read_list, system_message, write_content, write_turns
from llmtune.data.formats.preference import cannot_prefer
from llmtune_vertex.capabilities import (
    GEMINI_ROWS,
    MAX_BYTES,
    MAX_ROWS,
    MAX_TOKENS,
    MAX_VALIDATION_ROWS,
    OPEN_ROWS,
    PREFERENCE_ROWS,
    find_family,
    load_catalog,
)
from llmtune_vertex.declarations import OPEN

ABOUT = "Google Cloud, About supervised fine-tuning for Gemini, 2026"
PREFERENCE = "Google Cloud, Preference tuning, 2026"

MAX_IMAGE_ROWS = 300_000
MAX_VALIDATION_SHARE = 0.3

_ROLES = {"user": "user", "model": "assistant", "assistant": "assistant", "function": "tool", "tool": "tool"}
_NAMES = {"user": "user", "assistant": "model"}
_SYSTEM = ("systemInstruction", "system_instruction")
_THOUGHT_KEYS = frozenset(("text", "thought", "thoughtSignature", "thought_signature"))
_FUNCTION_KEYS = frozenset(("name", "description", "parameters"))


def _either(value: Mapping[str, Any], camel: str, snake: str) -> Any:
    return value.get(camel, value.get(snake))


def read_contents(contents: Any, where: str, faults: list[Finding], calls: Calls) -> list[Message]:
    """A list of contents as canonical turns; answers to calls become turns of their own."""
    contents = read_list(contents, "row-shape", where, "a list of contents", "give it turns", faults)
    messages: list[Message] = []
    for index, content in enumerate(contents):
        messages += _read_content(content, f"{where}[{index}]", faults, calls)
    return messages


def _read_content(content: Any, where: str, faults: list[Finding], calls: Calls) -> list[Message]:
    if not isinstance(content, dict):
        faults.append(
            error("row-shape", f"{where} is {kind(content)}; expected an object with role and parts", "fix it")
        )
        return [Message("user", "")]
    role = _ROLES.get(str(content.get("role", "user")))
    if role is None:
        faults.append(error("role", f"{where}.role is {content.get('role')!r}; expected user or model", "rename it"))
        role = "user"
    parts = content.get("parts")
    if isinstance(parts, dict):
        parts = [parts]
    parts = read_list(parts, "content", f"{where}.parts", "a list of parts", 'write [{"text": "..."}]', faults)
    read = TurnParts(faults)
    for index, part in enumerate(parts):
        _read_part(part, f"{where}.parts[{index}]", read, calls)
        if isinstance(part, dict):
            _note_part(part, read.beside)
    return read.messages(role, content, "parts", where, _thought_of)


def _thought_of(part: Part) -> str | None:
    """The text of a part that holds a thought, and nothing else that is not read; None for any other."""
    if not isinstance(part, OtherPart) or part.kind != "thought":
        return None
    return str(part.raw["text"]) if {"text"} <= part.raw.keys() <= _THOUGHT_KEYS else None


#: What is read of the objects that a part holds.
_READ = {
    "fileData": ("mimeType", "mime_type", "fileUri", "file_uri"),
    "inlineData": ("mimeType", "mime_type", "data"),
    "functionCall": ("name", "args"),
    "functionResponse": ("name", "response"),
}
_READ |= {re.sub("[A-Z]", lambda capital: f"_{capital.group().lower()}", key): keys for key, keys in _READ.items()}


def _note_part(part: Mapping[str, Any], beside: dict[str, Any]) -> None:
    """Add the keys of a part that are not read to those beside its content; parts kept whole have none."""
    if "text" in part:
        if not part.get("thought"):
            note_beside(part, ("text",), "parts[]", beside)
        return
    key = next((key for key in _READ if isinstance(part.get(key), dict)), None)
    if key is not None:
        note_beside(part, (key,), "parts[]", beside)
        note_beside(part[key], _READ[key], f"parts[].{key}", beside)


def _read_part(part: Any, where: str, read: TurnParts, calls: Calls) -> None:
    if not isinstance(part, dict):
        read.fault("content", f"{where} is {kind(part)}; expected a part such as {{'text': ...}}", "fix it")
        return
    if "text" in part:
        if isinstance(part["text"], str) and part.get("thought"):
            read.content.append(OtherPart("thought", part))  # those at the beginning are the reasoning
        else:
            read.add_text(part["text"], where)
        return
    file = _either(part, "fileData", "file_data")
    if isinstance(file, dict):
        type_, uri = _either(file, "mimeType", "mime_type"), _either(file, "fileUri", "file_uri")
        if not isinstance(uri, str):
            read.fault("content", f"{where}.fileData names no file", 'add "fileUri": "gs://..."')
        elif str(type_).startswith("image/"):
            read.content.append(ImagePart(uri, type_))
        else:
            read.content.append(OtherPart("fileData", part))
        return
    inline = _either(part, "inlineData", "inline_data")
    if isinstance(inline, dict):
        type_, data = str(_either(inline, "mimeType", "mime_type")), inline.get("data")
        if type_.startswith("image/") and isinstance(data, str):
            read.content.append(ImagePart(f"data:{type_};base64,{data}", type_))
        else:
            read.content.append(OtherPart("inlineData", part))
        return
    call = _either(part, "functionCall", "function_call")
    if isinstance(call, dict) and isinstance(call.get("name"), str):
        name, given = call["name"], call.get("args") or {}
        read.calls.append(ToolCall(calls.new(name), name, orjson.dumps(given).decode()))
        return
    answer = _either(part, "functionResponse", "function_response")
    if isinstance(answer, dict) and isinstance(answer.get("name"), str):
        response = answer.get("response")
        plain = response.get("content") if isinstance(response, dict) and len(response) == 1 else None
        text = plain if isinstance(plain, str) else orjson.dumps(response).decode()
        read.answers.append(Message("tool", text, (), calls.answered(answer["name"]), answer["name"]))
        return
    read.content.append(OtherPart(next(iter(part), "empty"), part))


def write_contents(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Canonical turns without the system's as contents; answers to calls made in one turn stand in one content."""
    called: dict[str, str] = {}

    def write_parts(message: Message) -> list[dict[str, Any]]:
        called.update({call.id: call.name for call in message.tool_calls})
        return _write_parts(message)

    def write_answer(message: Message) -> dict[str, Any]:
        name = message.name or called.get(message.tool_call_id or "", "")
        return {"functionResponse": {"name": name, "response": _response(message.words)}}

    return write_turns(messages, "parts", _NAMES, write_parts, write_answer)


#: White space of a JSON text outside its strings, which are the group.
_LAYOUT = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


def _response(text: str) -> dict[str, Any]:
    """A result as the object that a response must be: what the text spells, where nothing but its layout is lost by
    that ("1.50", a key given twice and integers above 64 bits would be); else the text itself under `content`."""
    try:
        value = load_json(text)
    except ValueError:
        return {"content": text}
    if isinstance(value, dict) and set(value) != {"content"} and find_long_number(value) is None:
        spelled = (dump_json(value), json.dumps(value, separators=(",", ":")))
        if _LAYOUT.sub(lambda match: match.group(1) or "", text) in spelled:
            return value
    return {"content": text}


def _write_parts(message: Message) -> list[dict[str, Any]]:
    thoughts = [] if message.reasoning is None else [{"text": message.reasoning, "thought": True}]
    calls = [{"functionCall": {"name": call.name, "args": orjson.loads(call.arguments)}} for call in message.tool_calls]
    return thoughts + write_content(message, _write_image) + calls


def _write_image(image: ImagePart) -> dict[str, Any]:
    media_type, data = image_source(image)
    if data is not None:
        return {"inlineData": {"mimeType": media_type, "data": data}}
    return {"fileData": {"mimeType": media_type, "fileUri": image.url}}


def read_system(row: Mapping[str, Any], faults: list[Finding]) -> Message | None:
    """The system instruction as a turn."""
    system = _either(row, *_SYSTEM)
    if system is None:
        return None
    if isinstance(system, str):
        return unlisted(Message("system", system))
    parts = system.get("parts") if isinstance(system, dict) else None
    if isinstance(parts, dict):
        parts = [parts]
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        faults.append(error("row-shape", "systemInstruction holds no text", 'write {"parts": [{"text": "..."}]}'))
        return None
    return system_message(texts)


def _beside(row: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The keys of a row that are not read, and those of its system instruction and of its tools."""
    beside = rest(row, "tools", *_SYSTEM, *known) or {}
    system, tools = _either(row, *_SYSTEM), row.get("tools")
    if isinstance(system, dict):
        note_beside(system, ("role", "parts"), "systemInstruction", beside)
        parts = system.get("parts")
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, dict):
                note_beside(part, ("text",), "systemInstruction.parts[]", beside)
    for tool in tools if isinstance(tools, list) else [tools]:
        if isinstance(tool, dict):
            note_beside(tool, ("functionDeclarations", "function_declarations"), "tools[]", beside)
    return beside


def read_tools(row: Mapping[str, Any], faults: list[Finding]) -> tuple[Mapping[str, Any], ...]:
    """Function declarations as tool definitions."""
    tools = row.get("tools")
    if tools is None:
        return ()
    out: list[Mapping[str, Any]] = []
    for index, tool in enumerate(tools if isinstance(tools, list) else [tools]):
        declared = _either(tool, "functionDeclarations", "function_declarations") if isinstance(tool, dict) else None
        if not isinstance(declared, list):
            faults.append(error("tools", f"tools[{index}] holds no functionDeclarations", "add the list"))
            continue
        for function in declared:
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                out.append({"type": "function", "function": function})
            else:
                faults.append(error("tools", f"tools[{index}] declares a function without a name", "name it"))
    return tuple(out)


def write_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool definitions as one list of function declarations."""
    functions = [{key: value for key, value in tool["function"].items() if key in _FUNCTION_KEYS} for tool in tools]
    return [{"functionDeclarations": functions}]


def tool_problems(example: Example, name: str) -> list[Finding]:
    """What a function declaration has no place for."""
    for tool in example.tools:
        beside = [key for key in tool.get("function", {}) if key not in _FUNCTION_KEYS]
        beside += [key for key in tool if key not in ("type", "function")]
        if beside:
            return [warning("changed-tools", f"{name} rows cannot carry {beside[0]!r} of a tool", "")]
    return []


#: Kinds of parts that are kept as they were read.
_OWN_PARTS = frozenset(("thought", "fileData", "inlineData", "executableCode", "codeExecutionResult", "videoMetadata"))


class GeminiRows(RowFormat):
    """`{"systemInstruction": ..., "contents": [{"role": "user" | "model", "parts": [...]}], "tools": ...}`."""

    name = GEMINI_ROWS
    title = '{"contents": [{"role": "user", "parts": [{"text": "..."}]}, {"role": "model", "parts": [...]}]}'
    carries = f.BASIC | f.TOOLS | f.IMAGES | f.PARTS | f.REASONING
    plain_by_bits = True
    turns_key = "contents"

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "contents" in row and "completions" not in row

    def takes_part(self, part: OtherPart) -> bool:
        return part.kind in _OWN_PARTS and "type" not in part.raw

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        messages = read_contents(row.get("contents"), "contents", faults, Calls())
        system = read_system(row, faults)
        if system is not None:
            messages.insert(0, system)
        return Example(tuple(messages), read_tools(row, faults), line=line, extra=_beside(row, "contents") or None)

    def write(self, example: Example) -> dict[str, Any]:
        return self._row(example, answered(example), "systemInstruction")

    def _row(self, example: Example, messages: Sequence[Message], system_key: str) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if messages and messages[0].role == "system":
            row[system_key] = {"parts": _write_parts(messages[0])}
        row["contents"] = write_contents(messages)
        if example.tools:
            row["tools"] = write_tools(example.tools)
        return row

    def problems(self, example: Example) -> list[Finding]:
        found = super().problems(example)
        if example.tools:
            found += tool_problems(example, self.name)
        if f.features(example) & f.REASONING:
            what = (
                f"{self.name} rows hold the reasoning as a part with thought: true; whether tuning reads it is not said"
            )
            found.append(warning("changed-reasoning", f"{what} ({ABOUT})", "try a few rows first, or leave it out"))
        if any(message.role == "tool" and message.images for message in example.messages):
            what = f"{self.name} rows cannot carry images in the answer to a call"
            found.append(error("lost-images", what, "put the image into a user turn"))
        return found + check_long_numbers(example, self.name)


class GeminiPreferenceRows(GeminiRows):
    """`{"contents": [...], "completions": [{"score": 1, "completion": ...}, {"score": 0, "completion": ...}]}`."""

    name = PREFERENCE_ROWS
    title = '{"contents": [...], "completions": [{"score": 1.0, "completion": {...}}, {"score": 0.0, ...}]}'
    carries = f.BASIC | f.PREFERENCE | f.PARTS | f.REASONING
    plain_by_bits = False
    pairs = True

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "contents" in row and "completions" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        calls = Calls()
        messages = read_contents(row.get("contents"), "contents", faults, calls)
        system = read_system(row, faults)
        if system is not None:
            messages.insert(0, system)
        scored: dict[float, tuple[Message, ...]] = {}
        beside: dict[str, Any] = {}
        completions = row.get("completions")
        for index, one in enumerate(completions if isinstance(completions, list) else []):
            where = f"completions[{index}]"
            score = one.get("score") if isinstance(one, dict) else None
            if score not in (0, 1) or isinstance(score, bool):
                faults.append(error("row-shape", f"{where}.score is {score!r}; expected 1 or 0", "fix it"))
                continue
            note_beside(one, ("score", "completion"), "completions[]", beside)
            scored[float(score)] = tuple(_read_content(one.get("completion"), f"{where}.completion", faults, calls))
        if set(scored) != {0.0, 1.0} or not isinstance(completions, list) or len(completions) != 2:
            faults.append(
                error("row-shape", "completions must hold one with score 1 and one with score 0, and no more", "fix it")
            )
        pair = Preference(scored.get(1.0, ()), scored.get(0.0, ()))
        extra = beside | _beside(row, "contents", "completions")
        return Example(tuple(messages), read_tools(row, faults), preference=pair, line=line, extra=extra or None)

    def write(self, example: Example) -> dict[str, Any]:
        row = self._row(example, example.messages, "system_instruction")
        preferred, rejected = example.preference or Preference((), ())
        row["completions"] = [
            {"score": score, "completion": (write_contents(turns) or [{}])[0]}
            for score, turns in ((1.0, preferred), (0.0, rejected))
        ]
        return row

    def problems(self, example: Example) -> list[Finding]:
        found = super().problems(example)
        if example.preference is None:
            found.insert(0, cannot_prefer(self.name))
        elif any(len(answer) != 1 for answer in example.preference):
            found.append(error("lost-turns", f"{self.name} rows hold answers of one turn", "cut the answer"))
        return found


class OpenRows(ChatRows):
    """Chat rows of open models: roles and contents, and no keys beside them. Weights are documented nowhere, so an
    answer that is not to be learned is refused."""

    name = OPEN_ROWS
    title = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    carries = ChatRows.carries & ~(
        f.EXTRA | f.MESSAGE_EXTRA | f.RAW_ROLE | f.REASONING | f.WEIGHT_ZERO | f.PROMPT_WEIGHT
    )

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general format

    def write(self, example: Example) -> dict[str, Any]:
        turns = tuple(
            turn.replace(extra=None, raw_role=None, reasoning=None, weight=None) for turn in answered(example)
        )
        return super().write(Example(turns, example.tools))


@lru_cache(maxsize=64)
def _is_open(model: str | None) -> bool:
    return model is not None and find_family(model) == "open"


def choose(method: str, model: str | None) -> str:
    """Return the row format that a model takes: Gemini's own, or chat rows for open models."""
    if _is_open(model):
        return OPEN_ROWS
    return PREFERENCE_ROWS if method == "dpo" else GEMINI_ROWS


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Images lie in Cloud Storage; a preference prompt ends in the user's turn (pages of 2026)."""
    for index, message in enumerate(example.messages):
        for image in message.images:
            if not image.url.startswith(("gs://", "data:image/")):
                yield error(
                    "vendor-image",
                    f"messages[{index}]: {image.url[:60]!r} is not in Cloud Storage ({ABOUT})",
                    "copy it to a bucket, and name it gs://...",
                )
    if example.preference is not None and example.messages and example.messages[-1].role != "user":
        yield error("vendor-last-turn", f"the prompt must end in the user's turn ({PREFERENCE})", "cut it there")


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Rows and bytes of a file for Gemini (pages of 2026); the page on open models names no limit."""
    if _is_open(facts.model):
        return
    most = MAX_IMAGE_ROWS if facts.features & f.IMAGES else MAX_ROWS
    if facts.role == "train":
        yield from count_findings(facts.rows, "rows", ABOUT, most=most)
    if facts.size > MAX_BYTES:
        yield error("vendor-size", f"{facts.size / 1e6:,.0f} MB; at most 1,000 MB ({ABOUT})", "give fewer rows")
    if facts.role == "validation":
        yield from count_findings(facts.rows, "validation rows", ABOUT, most=MAX_VALIDATION_ROWS)
        share = facts.rows / facts.train_rows if facts.train_rows else 0.0
        if 1000 < facts.rows <= MAX_VALIDATION_ROWS and share > MAX_VALIDATION_SHARE:
            problem = f"{facts.rows:,} validation rows are above 30 % of the training rows ({ABOUT})"
            yield error("vendor-rows", problem, "give fewer")


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """131,072 tokens a row for Gemini; open models have their own, which the catalogue lists."""
    if model is not None and _is_open(model):
        most = load_catalog().model(model)[0].max_tokens_per_row
        return None if most is None else TokenLimit(most, refuses=False, source=OPEN)
    return TokenLimit(MAX_TOKENS, refuses=False, source=ABOUT)


VERTEX_ROWS = VendorRows(
    provider="vertex",
    formats=(GeminiPreferenceRows(), GeminiRows(), OpenRows()),
    defaults={"sft": GEMINI_ROWS, "dpo": PREFERENCE_ROWS},
    row_rules=row_rules,
    file_rules=file_rules,
    token_limit=token_limit,
    choose=choose,
    billing="tokens of the training file x epochs (Google Cloud, pricing; copies of 2026)",
)
