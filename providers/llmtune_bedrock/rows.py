"""Bedrock's row formats (Converse, and Claude 3 Haiku's own), and what each family demands of a dataset.

Sources, read 2026-11: AWS, "Prepare data for fine-tuning your models" and the Nova customization guide (2026);
Anthropic's fine-tuning cookbook for the order of turns in Claude's rows (2024). Titan Text, Cohere and Llama 3.1 take
prompt/completion rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from llmtune.data.example import Content, Example, ImagePart, Message, OtherPart, Part, TextPart, ToolCall
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, TokenLimit, VendorRows, count_findings
from llmtune.data.formats.chat import (
    CHAT,
    arguments_text,
    json_type,
    note_unread,
    with_preferred_answer,
    write_messages,
)
from llmtune.data.formats.instruct import PromptCompletion, other_keys, take_text
from llmtune.data.formats.json_text import check_long_numbers
from llmtune.data.formats.parts import TurnParts, image_source, read_list, system_message, write_content, write_turns
from llmtune.data.formats.reinforcement import list_prompt_problems
from llmtune_bedrock.capabilities import (
    CLAUDE_ROWS,
    CONVERSE_ROWS,
    NOVA_2_ROWS,
    PREPARE,
    PROMPT_ROWS,
    REINFORCEMENT_LIMITS,
    REINFORCEMENT_ROWS,
    RFT_GUIDE,
    TEXT_ROWS,
    Family,
    find_family,
)
from llmtune_bedrock.graders import REFERENCE_ANSWER, RIGHT_ANSWER, add_right_answer

NOVA = "AWS, Nova customization guide, 2026"

#: Words a Nova job fails on, wherever they stand in a row.
RESERVED = ("User:", "Bot:", "Assistant:", "System:", "<image>", "<video>", "[EOS]")

_ROLES = {"user": "user", "assistant": "assistant"}
SCHEMA = "bedrock-conversation-2024"
#: Keys of a result that are read and written.
_RESULT_KEYS = ("status",)
_BLOCKS = frozenset(
    ("text", "image", "video", "document", "audio", "toolUse", "toolResult", "reasoningContent", "cachePoint")
)


def _blocks(content: Any) -> bool:
    """Return whether a message's content is a list of Converse blocks, which name their kind by key and not by
    `type`."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and "type" not in content[0]
        and not _BLOCKS.isdisjoint(content[0])
    )


class ConverseRows(RowFormat):
    """`{"schemaVersion": ..., "system": [{"text": ...}], "messages": [{"role": ..., "content": [{"text": ...}]}]}`."""

    name = CONVERSE_ROWS
    title = '{"schemaVersion": "bedrock-conversation-2024", "system": [...], "messages": [...]}'
    supports = f.BASIC | f.TOOLS | f.TOOL_IDS | f.IMAGES | f.PARTS
    plain_by_bits = True  # what `problems` adds is about calls

    def detect(self, row: Mapping[str, Any]) -> bool:
        turns = row.get("messages")
        if not isinstance(turns, list):
            return False
        if "schemaVersion" in row or isinstance(row.get("system"), list):
            return True
        return bool(turns) and isinstance(turns[0], dict) and _blocks(turns[0].get("content"))

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        messages: list[Message] = []
        system = row.get("system")
        if isinstance(system, list):
            texts = [block.get("text") for block in system if isinstance(block, dict)]
            if system and (len(texts) != len(system) or not all(isinstance(text, str) for text in texts)):
                faults.append(error("row-shape", "system holds more than texts", 'write [{"text": "..."}]'))
            elif texts:
                messages.append(system_message(texts))
        elif system is not None:
            faults.append(
                error("row-shape", f"system is {json_type(system)}; expected a list", 'write [{"text": "..."}]')
            )
        turns = row.get("messages")
        turns = read_list(turns, "row-shape", "messages", "a list of messages", "give it turns", faults)
        for index, turn in enumerate(turns):
            messages += self._read_turn(turn, f"messages[{index}]", faults)
        version = row.get("schemaVersion")
        known_keys = ["system", "messages", "toolConfig"]
        if version is None or version == SCHEMA:
            known_keys.append("schemaVersion")
        if version is not None and version != SCHEMA:
            faults.append(
                warning("vendor-schema", f"schemaVersion is {version!r}; the documents say {SCHEMA!r} ({PREPARE})", "")
            )
        extra = other_keys(row, *known_keys) or {}
        for block in system if isinstance(system, list) else ():
            if isinstance(block, dict):
                note_unread(block, ("text",), "system[]", extra)
        if isinstance(row.get("toolConfig"), dict):
            note_unread(row["toolConfig"], ("tools",), "toolConfig", extra)
        return Example(tuple(messages), self._read_tools(row, faults), line=line, extra=extra or None)

    def _read_turn(self, turn: Any, where: str, faults: list[Finding]) -> list[Message]:
        if not isinstance(turn, dict):
            faults.append(error("row-shape", f"{where} is {json_type(turn)}; expected an object", "fix it"))
            return [Message("user", "")]
        role = turn.get("role")
        if role not in ("user", "assistant"):
            faults.append(error("role", f"{where}.role is {role!r}; expected user or assistant", "rename the role"))
            role = "user"
        blocks = read_list(
            turn.get("content"), "content", f"{where}.content", "a list", 'write [{"text": "..."}]', faults
        )
        if not blocks:
            return [Message(role, "")]
        parts = TurnParts(faults)
        for index, block in enumerate(blocks):
            self._read_block(block, f"{where}.content[{index}]", parts)
            if isinstance(block, dict):
                _note_block(block, parts.unread)
        return parts.messages(role, turn, "content", where, _reasoning_text)

    def _read_block(self, block: Any, where: str, parts: TurnParts) -> None:
        if not isinstance(block, dict):
            parts.fault("content", f"{where} is {json_type(block)}; expected a block", 'write {"text": "..."}')
        elif "text" in block:
            parts.add_text(block["text"], where)
        elif isinstance(block.get("image"), dict):
            parts.content.append(_read_image(block))
        elif isinstance(block.get("toolUse"), dict):
            use = block["toolUse"]
            if isinstance(use.get("name"), str) and isinstance(use.get("toolUseId"), str):
                arguments = arguments_text(use.get("input"), where, parts.faults)
                parts.calls.append(ToolCall(use["toolUseId"], use["name"], arguments))
            else:
                parts.fault("tool-call", f"{where}.toolUse needs a name and a toolUseId", "add them")
        elif isinstance(block.get("toolResult"), dict):
            result = block["toolResult"]
            content = result.get("content")
            called = result.get("toolUseId")
            if not isinstance(called, str):
                parts.fault("tool-call-id", f"{where}.toolResult names no toolUseId", "name the call it answers")
                called = None
            extra = other_keys(result, "toolUseId", "content")
            parts.answers.append(Message("tool", _read_result(content), (), called, extra=extra))
        else:
            parts.content.append(OtherPart(next(iter(block), "empty"), block))

    def _read_tools(self, row: Mapping[str, Any], faults: list[Finding]) -> tuple[Mapping[str, Any], ...]:
        config = row.get("toolConfig")
        if config is None:
            return ()
        tools = config.get("tools") if isinstance(config, dict) else None
        out: list[Mapping[str, Any]] = []
        for index, tool in enumerate(tools if isinstance(tools, list) else [None]):
            spec = tool.get("toolSpec") if isinstance(tool, dict) else None
            if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
                faults.append(error("tools", f"toolConfig.tools[{index}] holds no toolSpec with a name", "fix it"))
                continue
            function = {key: value for key, value in spec.items() if key != "inputSchema"}
            schema = spec.get("inputSchema")
            if isinstance(schema, dict) and isinstance(schema.get("json"), dict):
                function["parameters"] = schema["json"]
            out.append({"type": "function", "function": function})
        return tuple(out)

    def write(self, example: Example) -> dict[str, Any]:
        extra = example.extra or {}
        row: dict[str, Any] = {"schemaVersion": extra.get("schemaVersion", SCHEMA)}
        messages = list(with_preferred_answer(example))
        if messages and messages[0].role == "system":
            system = messages.pop(0)
            parts = system.content if isinstance(system.content, tuple) else (TextPart(system.words),)
            row["system"] = [{"text": part.text} for part in parts if isinstance(part, TextPart)]
        row["messages"] = write_turns(messages, "content", _ROLES, self._write_parts, write_result)
        if example.tools:
            row["toolConfig"] = {"tools": [write_tool(tool) for tool in example.tools]}
        return row

    def _write_parts(self, message: Message) -> list[dict[str, Any]]:
        blocks = write_blocks(message)
        if message.reasoning is not None and self.supports & f.REASONING:
            blocks.insert(0, {"reasoningContent": {"reasoningText": {"text": message.reasoning}}})
        return blocks

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example) + check_long_numbers(example, self.name)
        if any(message.role == "system" and message.images for message in example.messages):
            what = f"{self.name} rows cannot carry images in a system turn"
            findings.append(error("lost-images", what, "put the image into a user turn"))
        extra_key = next((key for tool in example.tools for key in tool if key not in ("type", "function")), None)
        if extra_key is not None:
            findings.append(warning("changed-tools", f"{self.name} rows cannot carry {extra_key!r} of a tool", ""))
        return findings

    def takes_part(self, part: OtherPart) -> bool:
        return part.kind in _BLOCKS and "type" not in part.raw

    def without_own_keys(self, example: Example) -> Example:
        if example.extra and "schemaVersion" in example.extra:
            extra = {key: value for key, value in example.extra.items() if key != "schemaVersion"}
            example = example.replace(extra=extra or None)
        if any(message.role == "tool" and message.extra for message in example.messages):
            example = example.replace(messages=tuple(map(_without_result_keys, example.messages)))
        return example


#: What is read of the objects that a block holds; a result keeps what else it has.
_READ = {"text": (), "image": ("format", "source"), "toolUse": ("toolUseId", "name", "input"), "toolResult": None}


def _note_block(block: Mapping[str, Any], extra: dict[str, Any]) -> None:
    """Add the keys of a block that are not read to those beside its content; blocks kept whole have none."""
    key = next((key for key in _READ if key in block), None)
    if key is None or (key != "text" and not isinstance(block[key], dict)):
        return
    if key == "image" and isinstance(_read_image(block), OtherPart):
        return
    note_unread(block, (key,), "content[]", extra)
    if known_keys := _READ[key]:
        note_unread(block[key], known_keys, f"content[].{key}", extra)
    result = block[key].get("content") if key == "toolResult" else None
    for part in result if isinstance(result, list) else ():
        read = next((name for name in ("text", "json") if isinstance(part, dict) and name in part), None)
        if read is not None:
            note_unread(part, (read,), "content[].toolResult.content[]", extra)


def _without_result_keys(message: Message) -> Message:
    if message.role != "tool" or not message.extra:
        return message
    return message.replace(extra=other_keys(message.extra, *_RESULT_KEYS))


class NovaTwoRows(ConverseRows):
    """Converse rows whose answers may begin with a block of reasoning."""

    name = NOVA_2_ROWS
    title = '{"messages": [..., {"role": "assistant", "content": [{"reasoningContent": ...}, {"text": "..."}]}]}'
    supports = ConverseRows.supports | f.REASONING

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # such rows are read as Converse rows


def _reasoning_text(part: Part) -> str | None:
    """Return the text of a block that holds reasoning and nothing unread; None for any other block."""
    block = part.raw.get("reasoningContent") if isinstance(part, OtherPart) else None
    text = block.get("reasoningText") if isinstance(block, dict) and len(block) == 1 else None
    if not isinstance(text, dict) or not {"text", "signature"}.issuperset(text) or "text" not in text:
        return None
    return str(text["text"])


class _JsonPart(TextPart):
    """A result given as JSON, which is written back as such."""

    __slots__ = ()


def _read_result(blocks: Any) -> Content:
    """Return the content of a result: a text, or its blocks if one of them is something else."""
    parts: list[Part] = []
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            parts.append(TextPart(block["text"]))
        elif isinstance(block, dict) and "json" in block:
            parts.append(_JsonPart(orjson.dumps(block["json"]).decode()))
        elif isinstance(block, dict) and isinstance(block.get("image"), dict):
            parts.append(_read_image(block))
        else:
            raw = block if isinstance(block, dict) else {}
            parts.append(OtherPart(next(iter(raw), "empty"), raw))
    if all(part.__class__ is TextPart for part in parts):
        return "\n".join(part.text for part in parts if isinstance(part, TextPart))
    return tuple(parts)


def _read_image(block: Mapping[str, Any]) -> Part:
    image = block["image"]
    source = image.get("source")
    format_ = image.get("format")
    type_ = f"image/{format_}" if isinstance(format_, str) else None
    if isinstance(source, dict):
        location = source.get("s3Location")
        if (
            isinstance(location, dict)
            and set(location) <= {"uri", "bucketOwner"}
            and isinstance(location.get("uri"), str)
        ):
            return ImagePart(location["uri"], type_, bucket_owner=location.get("bucketOwner"))
        if isinstance(source.get("bytes"), str) and type_ is not None:
            return ImagePart(f"data:{type_};base64,{source['bytes']}", type_)
    return OtherPart("image", block)  # in a way not known here: kept as it is


def write_blocks(message: Message) -> list[dict[str, Any]]:
    """Return a turn as blocks."""
    calls = [
        {"toolUse": {"toolUseId": call.id, "name": call.name, "input": orjson.loads(call.arguments)}}
        for call in message.tool_calls
    ]
    return write_content(message, _write_image) + calls


def _write_image(image: ImagePart) -> dict[str, Any]:
    media_type, data = image_source(image)
    location = {"uri": image.url} | ({"bucketOwner": image.bucket_owner} if image.bucket_owner else {})
    source = {"s3Location": location} if data is None else {"bytes": data}
    return {"image": {"format": media_type.removeprefix("image/"), "source": source}}


def _write_result_part(part: Part) -> dict[str, Any]:
    if isinstance(part, _JsonPart):
        return {"json": orjson.loads(part.text)}
    if isinstance(part, TextPart):
        return {"text": part.text}
    return _write_image(part) if isinstance(part, ImagePart) else dict(part.raw)


def write_result(message: Message) -> dict[str, Any]:
    """Return the answer to a call as a block."""
    return {
        "toolResult": {
            "toolUseId": message.tool_call_id or "",
            "content": [*map(_write_result_part, message.content)]
            if isinstance(message.content, tuple)
            else [{"text": message.words}],
            **{key: value for key, value in (message.extra or {}).items() if key in _RESULT_KEYS},
        }
    }


def write_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool's definition as Converse has it."""
    function = tool["function"]
    spec = {key: value for key, value in function.items() if key != "parameters"}
    spec["inputSchema"] = {"json": function.get("parameters") or {"type": "object", "properties": {}}}
    return {"toolSpec": spec}


class ClaudeRows(RowFormat):
    """`{"system": "...", "messages": [{"role": "user" | "assistant", "content": "..."}]}`, text only."""

    name = CLAUDE_ROWS
    title = '{"system": "...", "messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}'
    supports = f.BASIC

    def detect(self, row: Mapping[str, Any]) -> bool:
        return isinstance(row.get("system"), str) and set(row) == {"system", "messages"}

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        from llmtune.data.formats.chat import CHAT

        return CHAT.read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        messages = list(with_preferred_answer(example))
        row: dict[str, Any] = {}
        if messages and messages[0].role == "system":
            row["system"] = messages.pop(0).words
        row["messages"] = [
            {"role": message.role, "content": message.words}
            for message in messages
            if message.role in ("user", "assistant")
        ]
        return row


class BedrockPromptRows(PromptCompletion):
    """`{"prompt": "...", "completion": "..."}` and no other keys."""

    name = PROMPT_ROWS
    title = '{"prompt": "...", "completion": "..."}'
    supports = f.CHAT

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general format

    def write(self, example: Example) -> dict[str, Any]:
        return super().write(example.replace(extra=None))


class BedrockTextRows(RowFormat):
    """`{"input": ...}`: text to continue, for continued pre-training (an option of the job)."""

    name = TEXT_ROWS
    title = '{"input": "..."}'
    supports = f.TEXT

    def detect(self, row: Mapping[str, Any]) -> bool:
        return set(row) == {"input"}

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        return Example(text=take_text(row, "input", faults), line=line, extra=other_keys(row, "input"))

    def write(self, example: Example) -> dict[str, Any]:
        return {"input": example.text or ""}


@lru_cache(maxsize=64)
def _find_family(model: str | None) -> Family | None:
    """Return the family of a model; cached, because it is needed for every row."""
    return find_family(model) if model else None


def choose(method: str, model: str | None) -> str:
    """Return the row format of a model: Converse for Nova and Llama 3.2 and later, which is also the default."""
    if method == "reinforcement":
        return REINFORCEMENT_ROWS
    family = _find_family(model)
    return family.limits.format if family else CONVERSE_ROWS


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Check that user and assistant alternate, the user first and the assistant last, and Nova's reserved words."""
    if method == "reinforcement":
        if example.prompt() and example.prompt()[-1].role != "user":
            yield error("vendor-last-turn", f"the prompt must end in the user's turn ({RFT_GUIDE})", "cut it there")
        return
    family = _find_family(model)
    name = family.name if family else None
    if example.preference is not None or example.text is not None or choose(method, model) == PROMPT_ROWS:
        return
    turns = [(index, message) for index, message in enumerate(example.messages) if message.role != "system"]
    before = "assistant"
    for index, message in turns:
        role = "user" if message.role == "tool" else message.role
        if role == before and not (message.role == "tool" and example.messages[index - 1].role == "tool"):
            what = "the first turn must be the user's" if index == turns[0][0] else f"two {role} turns in a row"
            yield error("vendor-role-order", f"messages[{index}]: {what} ({PREPARE})", "user and assistant in turn")
        before = role
    if turns and turns[-1][1].role != "assistant":
        yield error("vendor-last-turn", f"the last turn must be the assistant's ({PREPARE})", "end in the answer")
    for index, message in turns:
        for image in message.images:
            if not image.url.startswith("s3://"):
                yield error(
                    "vendor-image",
                    f"messages[{index}]: {image.url[:60]!r} is not in S3 ({PREPARE})",
                    "copy it to the bucket of the training file, and name it s3://...",
                )
    if name == "nova-2" and example.tools:
        yield warning("vendor-tools", f"rows with tools may fail a Nova 2 job ({NOVA})", "try a few rows first")
    if name in (None, "nova", "nova-2"):
        yield from _check_reserved_words(example, sure=name is not None)


def _check_reserved_words(example: Example, *, sure: bool) -> Iterable[Finding]:
    for index, message in enumerate(example.messages):
        text = message.words
        for reserved in RESERVED:
            if reserved in text:
                say = error if sure else warning
                yield say(
                    "vendor-reserved-word",
                    f"messages[{index}]: {reserved!r} is a reserved word of Nova, on which the job fails ({NOVA})",
                    "write it another way",
                )


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check rows and bytes of a file against the model's family; nothing is reported if no model is named."""
    if facts.method == "reinforcement":
        if facts.role == "train":
            low, high = REINFORCEMENT_LIMITS.min_rows, REINFORCEMENT_LIMITS.max_rows
            yield from count_findings(facts.rows, "rows", RFT_GUIDE, at_least=low, at_most=high)
        return
    family = _find_family(facts.model)
    if family is None or facts.role == "test":
        return
    limits, max_bytes = family.limits, family.limits.max_bytes
    if facts.role == "train":
        yield from count_findings(facts.rows, "rows", PREPARE, at_least=limits.min_rows, at_most=limits.max_rows)
        total, min_rows = facts.total_rows, family.min_total_rows
        both = "training and validation rows"
        yield from count_findings(total, both, PREPARE, at_least=min_rows, at_most=limits.max_total_rows)
    else:
        max_bytes = family.max_validation_bytes
        yield from count_findings(facts.rows, "validation rows", PREPARE, at_most=limits.max_validation_rows)
    if max_bytes is not None and facts.size > max_bytes:
        yield error("vendor-size", f"{facts.size / 1e6:,.0f} MB; at most {max_bytes / 1e6:,.0f} MB", "give fewer")


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Return the family's limit for the tokens of prompt and answer together; none is published for reinforcement."""
    if method == "reinforcement":
        return None
    family = _find_family(model)
    tokens = family.limits.max_tokens_per_row if family else None
    return TokenLimit(tokens, refuses=True, source=PREPARE) if tokens is not None else None


class BedrockReinforcementRows(RowFormat):
    """Prompts as chat rows; the right answer as a turn of its own, and its text where AWS's own functions look for it.

    Every other field of the row stays as it is: the function that scores reads it.
    """

    name = REINFORCEMENT_ROWS
    title = '{"messages": [..., user], "reference_answer": "...", "right_answer": {...}, ...}'
    supports = f.BASIC | f.TOOLS | f.TOOL_IDS | f.NAMES | f.LATE_SYSTEM | f.PARTS

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general chat format

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        turn = row.get(RIGHT_ANSWER)
        if isinstance(turn, Mapping) and isinstance(row.get("messages"), list):
            row = {name: value for name, value in row.items() if name != RIGHT_ANSWER}
            row["messages"] = [*row["messages"], turn]
            if row.get(REFERENCE_ANSWER) == turn.get("content"):
                del row[REFERENCE_ANSWER]
        return CHAT.read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        turns = write_messages(
            [turn.replace(raw_role=None, extra=None, reasoning=None, weight=None) for turn in example.messages]
        )
        prompt = len(example.prompt())
        row: dict[str, Any] = {**(example.extra or {}), "messages": turns[:prompt]}
        if example.tools:
            row["tools"] = [{"type": "function", **tool} for tool in example.tools]
        return row | add_right_answer(row, turns[prompt] if len(turns) > prompt else None)

    def problems(self, example: Example) -> list[Finding]:
        return super().problems(example) + list_prompt_problems(example, (RIGHT_ANSWER,))

    def without_own_keys(self, example: Example) -> Example:
        return example.replace(extra=None) if example.extra else example


BEDROCK_ROWS = VendorRows(
    provider="bedrock",
    formats=(
        ConverseRows(),
        NovaTwoRows(),
        ClaudeRows(),
        BedrockPromptRows(),
        BedrockTextRows(),
        BedrockReinforcementRows(),
    ),
    defaults={"sft": ConverseRows.name, "reinforcement": REINFORCEMENT_ROWS},
    row_rules=row_rules,
    file_rules=file_rules,
    token_limit=token_limit,
    choose=choose,
)
