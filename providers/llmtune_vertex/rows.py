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
from llmtune.data.formats.chat import (
    CHAT,
    ChatRows,
    ToolCallIds,
    json_type,
    note_unread,
    with_preferred_answer,
    write_messages,
)
from llmtune.data.formats.instruct import other_keys
from llmtune.data.formats.json_text import check_long_numbers, dump_json, find_long_number, load_json
from llmtune.data.formats.parts import TurnParts, image_source, read_list, system_message, write_content, write_turns
from llmtune.data.formats.preference import preference_problem
from llmtune.data.formats.reinforcement import list_prompt_problems
from llmtune_vertex.capabilities import (
    GEMINI_ROWS,
    MAX_BYTES,
    MAX_ROWS,
    MAX_TOKENS,
    MAX_VALIDATION_ROWS,
    OPEN_ROWS,
    PREFERENCE_ROWS,
    REINFORCEMENT_ROWS,
    find_family,
    load_catalog,
)
from llmtune_vertex.declarations import OPEN
from llmtune_vertex.graders import JSON_FIELDS, RIGHT_ANSWER, read_references, write_references

ABOUT = "Google Cloud, About supervised fine-tuning for Gemini, 2026"
PREFERENCE = "Google Cloud, Preference tuning, 2026"

#: Where tool rows were refused: an open report, and no limit that Google documents.
TOOLS_REPORT = "an open report, googleapis/python-aiplatform issue 6127, no documented limit"

MAX_IMAGE_ROWS = 300_000
MAX_VALIDATION_SHARE = 0.3

_ROLES = {"user": "user", "model": "assistant", "assistant": "assistant", "function": "tool", "tool": "tool"}
_NAMES = {"user": "user", "assistant": "model"}
_SYSTEM = ("systemInstruction", "system_instruction")
_THOUGHT_KEYS = frozenset(("text", "thought", "thoughtSignature", "thought_signature"))
_FUNCTION_KEYS = frozenset(("name", "description", "parameters"))


def _either(value: Mapping[str, Any], camel: str, snake: str) -> Any:
    return value.get(camel, value.get(snake))


def read_contents(contents: Any, where: str, faults: list[Finding], calls: ToolCallIds) -> list[Message]:
    """Convert a list of contents to canonical turns; answers to calls become turns of their own."""
    contents = read_list(contents, "row-shape", where, "a list of contents", "give it turns", faults)
    messages: list[Message] = []
    for index, content in enumerate(contents):
        messages += _read_content(content, f"{where}[{index}]", faults, calls)
    return messages


def _read_content(content: Any, where: str, faults: list[Finding], calls: ToolCallIds) -> list[Message]:
    if not isinstance(content, dict):
        faults.append(
            error("row-shape", f"{where} is {json_type(content)}; expected an object with role and parts", "fix it")
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
            _note_part(part, read.unread)
    return read.messages(role, content, "parts", where, _reasoning_text)


def _reasoning_text(part: Part) -> str | None:
    """Return the text of a part that holds a thought and nothing unread; None for any other part."""
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


def _note_part(part: Mapping[str, Any], extra: dict[str, Any]) -> None:
    """Add the keys of a part that are not read to those beside its content; parts kept whole have none."""
    if "text" in part:
        if not part.get("thought"):
            note_unread(part, ("text",), "parts[]", extra)
        return
    key = next((key for key in _READ if isinstance(part.get(key), dict)), None)
    if key is not None:
        note_unread(part, (key,), "parts[]", extra)
        note_unread(part[key], _READ[key], f"parts[].{key}", extra)


def _read_part(part: Any, where: str, read: TurnParts, calls: ToolCallIds) -> None:
    if not isinstance(part, dict):
        read.fault("content", f"{where} is {json_type(part)}; expected a part such as {{'text': ...}}", "fix it")
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
        name, arguments = call["name"], call.get("args") or {}
        read.calls.append(ToolCall(calls.new(name), name, orjson.dumps(arguments).decode()))
        return
    answer = _either(part, "functionResponse", "function_response")
    if isinstance(answer, dict) and isinstance(answer.get("name"), str):
        response = answer.get("response")
        plain = response.get("content") if isinstance(response, dict) and len(response) == 1 else None
        text = plain if isinstance(plain, str) else orjson.dumps(response).decode()
        read.answers.append(Message("tool", text, (), calls.answer(answer["name"]), answer["name"]))
        return
    read.content.append(OtherPart(next(iter(part), "empty"), part))


def write_contents(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Write turns other than the system's as contents; answers to calls made in one turn share one content."""
    called: dict[str, str] = {}

    def write_parts(message: Message) -> list[dict[str, Any]]:
        called.update({call.id: call.name for call in message.tool_calls})
        return _write_parts(message)

    def write_answer(message: Message) -> dict[str, Any]:
        name = message.name or called.get(message.tool_call_id or "", "")
        return {"functionResponse": {"name": name, "response": _write_response(message.words)}}

    return write_turns(messages, "parts", _NAMES, write_parts, write_answer)


#: White space of a JSON text outside its strings, which are the group.
_LAYOUT = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


def _write_response(text: str) -> dict[str, Any]:
    """Return a result as the object that a response must be: what the text spells, or the text under `content`.

    A text is parsed only where nothing but its layout is lost: "1.50", a key given twice and integers above 64 bits
    would be.
    """
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
    """Return the system instruction as a turn."""
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


def _unread_keys(row: Mapping[str, Any], *known_keys: str) -> dict[str, Any]:
    """Return the keys of a row that are not read, and those of its system instruction and of its tools."""
    extra = other_keys(row, "tools", *_SYSTEM, *known_keys) or {}
    system, tools = _either(row, *_SYSTEM), row.get("tools")
    if isinstance(system, dict):
        note_unread(system, ("role", "parts"), "systemInstruction", extra)
        parts = system.get("parts")
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, dict):
                note_unread(part, ("text",), "systemInstruction.parts[]", extra)
    for tool in tools if isinstance(tools, list) else [tools]:
        if isinstance(tool, dict):
            note_unread(tool, ("functionDeclarations", "function_declarations"), "tools[]", extra)
    return extra


def read_tools(row: Mapping[str, Any], faults: list[Finding]) -> tuple[Mapping[str, Any], ...]:
    """Convert function declarations to tool definitions."""
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
    """Write tool definitions as one list of function declarations."""
    functions = [{key: value for key, value in tool["function"].items() if key in _FUNCTION_KEYS} for tool in tools]
    return [{"functionDeclarations": functions}]


def tool_problems(example: Example, name: str) -> list[Finding]:
    """Find what a function declaration has no place for."""
    for tool in example.tools:
        extra_keys = [key for key in tool.get("function", {}) if key not in _FUNCTION_KEYS]
        extra_keys += [key for key in tool if key not in ("type", "function")]
        if extra_keys:
            return [warning("changed-tools", f"{name} rows cannot carry {extra_keys[0]!r} of a tool", "")]
    return []


#: Kinds of parts that are kept as they were read.
_OWN_PARTS = frozenset(("thought", "fileData", "inlineData", "executableCode", "codeExecutionResult", "videoMetadata"))


class GeminiRows(RowFormat):
    """`{"systemInstruction": ..., "contents": [{"role": "user" | "model", "parts": [...]}], "tools": ...}`."""

    name = GEMINI_ROWS
    title = '{"contents": [{"role": "user", "parts": [{"text": "..."}]}, {"role": "model", "parts": [...]}]}'
    supports = f.BASIC | f.TOOLS | f.IMAGES | f.PARTS | f.REASONING
    plain_by_bits = True
    turns_key = "contents"

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "contents" in row and "completions" not in row and not isinstance(row.get("references"), dict)

    def takes_part(self, part: OtherPart) -> bool:
        return part.kind in _OWN_PARTS and "type" not in part.raw

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        messages = read_contents(row.get("contents"), "contents", faults, ToolCallIds())
        system = read_system(row, faults)
        if system is not None:
            messages.insert(0, system)
        return Example(tuple(messages), read_tools(row, faults), line=line, extra=_unread_keys(row, "contents") or None)

    def write(self, example: Example) -> dict[str, Any]:
        return self._row(example, with_preferred_answer(example), "systemInstruction")

    def _row(self, example: Example, messages: Sequence[Message], system_key: str) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if messages and messages[0].role == "system":
            row[system_key] = {"parts": _write_parts(messages[0])}
        row["contents"] = write_contents(messages)
        if example.tools:
            row["tools"] = write_tools(example.tools)
        return row

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        if example.tools:
            findings += tool_problems(example, self.name)
        if f.features(example) & f.REASONING:
            what = (
                f"{self.name} rows hold the reasoning as a part with thought: true; whether tuning reads it is not said"
            )
            findings.append(warning("changed-reasoning", f"{what} ({ABOUT})", "try a few rows first, or leave it out"))
        if any(message.role == "tool" and message.images for message in example.messages):
            what = f"{self.name} rows cannot carry images in the answer to a call"
            findings.append(error("lost-images", what, "put the image into a user turn"))
        return findings + check_long_numbers(example, self.name)


class GeminiPreferenceRows(GeminiRows):
    """`{"contents": [...], "completions": [{"score": 1, "completion": ...}, {"score": 0, "completion": ...}]}`."""

    name = PREFERENCE_ROWS
    title = '{"contents": [...], "completions": [{"score": 1.0, "completion": {...}}, {"score": 0.0, ...}]}'
    supports = f.BASIC | f.PREFERENCE | f.PARTS | f.REASONING
    plain_by_bits = False
    pairs = True

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "contents" in row and "completions" in row

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        calls = ToolCallIds()
        messages = read_contents(row.get("contents"), "contents", faults, calls)
        system = read_system(row, faults)
        if system is not None:
            messages.insert(0, system)
        scored: dict[float, tuple[Message, ...]] = {}
        unread: dict[str, Any] = {}
        completions = row.get("completions")
        for index, one in enumerate(completions if isinstance(completions, list) else []):
            where = f"completions[{index}]"
            score = one.get("score") if isinstance(one, dict) else None
            if score not in (0, 1) or isinstance(score, bool):
                faults.append(error("row-shape", f"{where}.score is {score!r}; expected 1 or 0", "fix it"))
                continue
            note_unread(one, ("score", "completion"), "completions[]", unread)
            scored[float(score)] = tuple(_read_content(one.get("completion"), f"{where}.completion", faults, calls))
        if set(scored) != {0.0, 1.0} or not isinstance(completions, list) or len(completions) != 2:
            faults.append(
                error("row-shape", "completions must hold one with score 1 and one with score 0, and no more", "fix it")
            )
        pair = Preference(scored.get(1.0, ()), scored.get(0.0, ()))
        extra = unread | _unread_keys(row, "contents", "completions")
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
        findings = super().problems(example)
        if example.preference is None:
            findings.insert(0, preference_problem(self.name))
        elif any(len(answer) != 1 for answer in example.preference):
            findings.append(error("lost-turns", f"{self.name} rows hold answers of one turn", "cut the answer"))
        return findings


class GeminiReinforcementRows(GeminiRows):
    """Prompts; the right answer and every other field of the row, which a grader reads, are `references`."""

    name = REINFORCEMENT_ROWS
    title = '{"contents": [..., user], "references": {"answer": "...", "right_answer": "..."}, "tools": [...]}'
    plain_by_bits = False

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "contents" in row and "completions" not in row and isinstance(row.get("references"), dict)

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        example = super().read({name: row[name] for name in row if name != "references"}, line, faults)
        references = row.get("references")
        if not isinstance(references, dict) or not all(isinstance(text, str) for text in references.values()):
            faults.append(error("row-shape", "references is no object of texts", 'write {"answer": "..."}'))
            return example
        try:
            fields, turn = read_references(references)
        except ValueError as fault:
            faults.append(error("row-shape", f"references holds JSON that cannot be read: {fault}", "fix it"))
            return example
        if isinstance(turn, dict):
            answer = CHAT.read({"messages": [turn]}, line, faults)
            example = example.replace(messages=(*example.messages, *answer.messages))
        unread = {name: value for name, value in (example.extra or {}).items() if name not in fields}
        return example.replace(extra={**fields, **unread} or None)

    def write(self, example: Example) -> dict[str, Any]:
        prompt = example.prompt()
        row = self._row(example, prompt, "systemInstruction")
        answer = example.messages[len(prompt) : len(prompt) + 1]
        row["references"] = write_references(example.extra or {}, write_messages(answer)[0] if answer else None)
        return row

    def problems(self, example: Example) -> list[Finding]:
        return super().problems(example) + list_prompt_problems(example, (RIGHT_ANSWER, JSON_FIELDS))

    def without_own_keys(self, example: Example) -> Example:
        return example.replace(extra=None) if example.extra else example


class OpenRows(ChatRows):
    """Chat rows of open models: roles and contents, and no keys beside them. Weights are documented nowhere, so an
    answer that is not to be learned is refused."""

    name = OPEN_ROWS
    title = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    supports = ChatRows.supports & ~(
        f.EXTRA | f.MESSAGE_EXTRA | f.RAW_ROLE | f.REASONING | f.WEIGHT_ZERO | f.PROMPT_WEIGHT
    )

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general format

    def write(self, example: Example) -> dict[str, Any]:
        turns = tuple(
            turn.replace(extra=None, raw_role=None, reasoning=None, weight=None)
            for turn in with_preferred_answer(example)
        )
        return super().write(Example(turns, example.tools))


@lru_cache(maxsize=64)
def _is_open(model: str | None) -> bool:
    return model is not None and find_family(model) == "open"


def choose(method: str, model: str | None) -> str:
    """Return the row format that a model takes: Gemini's own, or chat rows for open models."""
    if _is_open(model):
        return OPEN_ROWS
    return {"dpo": PREFERENCE_ROWS, "reinforcement": REINFORCEMENT_ROWS}.get(method, GEMINI_ROWS)


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Check that images are in Cloud Storage and that a preference prompt ends with the user's turn (pages of 2026)."""
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


def _may_refuse_tools(model: str | None) -> bool:
    """Return whether tool rows were reported as refused by this model: Gemini 2.5 and later."""
    version = re.search(r"gemini-(\d+)\.(\d+)", model or "")
    return version is not None and (int(version[1]), int(version[2])) >= (2, 5)


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check rows and bytes of a file for Gemini (pages of 2026); those on open models and on reinforcement tuning name
    no limit."""
    if _is_open(facts.model) or facts.method == "reinforcement":
        return
    if facts.role == "train" and facts.features & f.TOOLS and _may_refuse_tools(facts.model):
        yield warning(
            "vendor-tools",
            f"the rows hold tools or tool calls, and {facts.model} may refuse them: Gemini 2.5 and later ones were"
            f" reported to, where 2.0 took the same file ({TOOLS_REPORT})",
            "try it with a few rows first, or leave such rows out",
        )
    max_rows = MAX_IMAGE_ROWS if facts.features & f.IMAGES else MAX_ROWS
    if facts.role == "train":
        yield from count_findings(facts.rows, "rows", ABOUT, at_most=max_rows)
    if facts.size > MAX_BYTES:
        yield error("vendor-size", f"{facts.size / 1e6:,.0f} MB; at most 1,000 MB ({ABOUT})", "give fewer rows")
    if facts.role == "validation":
        yield from count_findings(facts.rows, "validation rows", ABOUT, at_most=MAX_VALIDATION_ROWS)
        share = facts.rows / facts.train_rows if facts.train_rows else 0.0
        if 1000 < facts.rows <= MAX_VALIDATION_ROWS and share > MAX_VALIDATION_SHARE:
            problem = f"{facts.rows:,} validation rows are above 30 % of the training rows ({ABOUT})"
            yield error("vendor-rows", problem, "give fewer")


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Return the limit of 131,072 tokens per row for Gemini; open models have their own, which the catalogue lists, and
    for reinforcement tuning none is published."""
    if method == "reinforcement":
        return None
    if model is not None and _is_open(model):
        max_tokens = load_catalog().model(model)[0].max_tokens_per_row
        return None if max_tokens is None else TokenLimit(max_tokens, refuses=False, source=OPEN)
    return TokenLimit(MAX_TOKENS, refuses=False, source=ABOUT)


VERTEX_ROWS = VendorRows(
    provider="vertex",
    formats=(GeminiPreferenceRows(), GeminiReinforcementRows(), GeminiRows(), OpenRows()),
    defaults={"sft": GEMINI_ROWS, "dpo": PREFERENCE_ROWS, "reinforcement": REINFORCEMENT_ROWS},
    row_rules=row_rules,
    file_rules=file_rules,
    token_limit=token_limit,
    choose=choose,
    billing="tokens of the training file x epochs (Google Cloud, pricing; copies of 2026)",
)
