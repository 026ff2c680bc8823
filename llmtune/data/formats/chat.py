"""Chat rows (`{"messages": [{"role": ..., "content": ...}]}`), and functions that other formats use too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import orjson

from llmtune.data.example import (
    ROLES,
    Content,
    Example,
    ImagePart,
    Message,
    OtherPart,
    Part,
    TextPart,
    ToolCall,
    unlisted,
)
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.json_text import dump_json, find_long_number, load_json
from llmtune.data.formats.reasoning import take_reasoning

#: Other role names in chat rows, and their canonical ones.
_ALIASES = {"developer": "system", "function": "tool"}
#: Keys that say whether a turn is learned from: our own, and the flags of other trainers' rows.
_WEIGHTS = ("weight", "loss_weight", "loss_scale")
_FLAGS = ("train", "training", "trainable", "trained", "loss", "loss_mask", "compute_loss")
#: Flags that are true where a turn is not learned from.
_HIDES = ("masked",)
#: Refused: a mask keeps a turn in one trainer and hides it in another, and details train on a part of a turn.
_UNREADABLE = ("mask", "training_detail", "train_detail")
WEIGHT_KEYS = frozenset((*_WEIGHTS, *_FLAGS, *_HIDES, *_UNREADABLE))
_TURN_KEYS = WEIGHT_KEYS | {"role", "content", "tool_calls", "tool_call_id", "name", "function_call"}
#: Types of a text part; the last two are of the Responses API. A tuple: a row's value may not be hashable.
_TEXTS = ("text", "input_text", "output_text")
_ROW_KEYS = frozenset(("messages", "tools", "functions"))
_new = tuple.__new__


def json_type(value: Any) -> str:
    """Return a JSON value's type in words, for messages."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def wrong_type(value: Any, expected: str, where: str) -> Finding:
    """Build the finding for a value of the wrong type."""
    return error("row-shape", f"{where} is {json_type(value)}; expected {expected}", "give it that shape")


class ToolCallIds:
    """Ids for the tool calls of one row that have none of their own, and for the answers to them, in order."""

    __slots__ = ("made", "waiting")

    def __init__(self) -> None:
        self.made = 0
        self.waiting: list[tuple[str, str]] = []

    def new(self, name: str) -> str:
        """Return a new id for a call of the function `name`."""
        self.made += 1
        self.waiting.append((f"call_{self.made}", name))
        return f"call_{self.made}"

    def answer(self, name: str | None) -> str | None:
        """Return the id of the first call of `name` (None: of any) that has no answer yet, and mark it as answered."""
        for index, (call, called) in enumerate(self.waiting):
            if name is None or called == name:
                del self.waiting[index]
                return call
        return None


def read_messages(value: Any, faults: list[Finding], where: str = "messages") -> tuple[Message, ...]:
    """Read a list of chat messages into canonical form; `where` names the list in faults."""
    if value.__class__ is not list:
        faults.append(wrong_type(value, "a list of messages", where))
        return ()
    if not value:
        faults.append(error("empty-messages", f"{where} is an empty list", "give it at least a user and an answer"))
        return ()
    out: list[Message] = []
    calls: ToolCallIds | None = None
    for turn in value:
        if turn.__class__ is dict:
            if len(turn) == 2 and "role" in turn and "content" in turn:
                role = turn["role"]
                content = turn["content"]
                if content.__class__ is str and role.__class__ is str and role in ROLES:
                    out.append(_new(Message, (role, content, (), None, None, None, None, None, None)))
                    continue
            calls = calls or ToolCallIds()
            if "role" not in turn:  # "Role", "ROLE"
                turn = lower_keys(turn)
            out.append(_read_message(turn, f"{where}[{len(out)}]", faults, calls))
        else:
            faults.append(
                wrong_type(turn, 'an object such as {"role": "user", "content": "..."}', f"{where}[{len(out)}]")
            )
            out.append(Message("user", ""))
    return tuple(out)


def lower_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row or turn with its keys in lower case; a key that is already in lower case has precedence."""
    return {key.lower(): value for key, value in row.items()} | {
        key: value for key, value in row.items() if key == key.lower()
    }


def take_messages(
    row: Mapping[str, Any], key: str, faults: list[Finding], where: str | None = None
) -> tuple[Message, ...]:
    """Read the messages under a key; a missing key is another fault than null."""
    if key in row:
        return read_messages(row[key], faults, where or key)
    have = ", ".join(map(repr, list(row)[:8])) or "no keys"
    faults.append(error("row-shape", f"there is no {where or key!r}; there is {have}", "add it"))
    return ()


def _read_message(turn: dict[str, Any], where: str, faults: list[Finding], calls: ToolCallIds) -> Message:
    role, raw_role = _read_role(turn, where, faults)
    calling = bool(turn.get("tool_calls") or turn.get("function_call"))
    unread: dict[str, Any] = {}
    content = _read_content(turn, role, calling, where, faults, unread)
    tool_calls = _read_calls(turn, where, faults, calls, unread)
    name = turn.get("name")
    if name is not None and not isinstance(name, str):
        faults.append(wrong_type(name, "a string", f"{where}.name"))
        name = None
    call_id = turn.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        faults.append(wrong_type(call_id, "a string", f"{where}.tool_call_id"))
        call_id = None
    if role == "tool" and call_id is None:  # matched by name where calls have no ids either
        call_id = calls.answer(name)
    if raw_role == "function":
        raw_role = None
    extra = {key: value for key, value in turn.items() if key not in _TURN_KEYS and value is not None} | unread
    weight = read_weight(turn, role, where, faults)
    return take_reasoning(Message(role, content, tool_calls, call_id, name, weight, raw_role, extra or None))


def note_unread(value: Mapping[str, Any], read_keys: Collection[str], where: str, unread: dict[str, Any]) -> None:
    """Add the keys of an object inside a turn that are not read to `unread`, each with its path, such as
    `content[].cache_control`: they become extra keys of the turn, so that they are reported and not lost."""
    for key, part in value.items():
        if key not in read_keys and part not in (None, "", [], {}):
            unread[f"{where}.{key}"] = part


def _read_role(turn: dict[str, Any], where: str, faults: list[Finding]) -> tuple[str, str | None]:
    role = turn.get("role")
    if isinstance(role, str) and role in ROLES:
        return role, None
    if role is None:
        what = "role is null" if "role" in turn else "there is no role"
        faults.append(error("role", f"{where}: {what}", "add one of: system, user, assistant, tool"))
        return "user", None
    if isinstance(role, str) and role in _ALIASES:
        return _ALIASES[role], role
    faults.append(
        error("role", f"{where}.role is {role!r}; expected system, user, assistant or tool", "rename the role")
    )
    return "user", None


def read_truth(value: Any) -> bool | None:
    """Read a value as true or false, also from 1, 0 or text, as tables have it; None if it is neither."""
    if isinstance(value, str):
        return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(value.lower())
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def _parse_weight(key: str, value: Any) -> int | None:
    if key == "weight":
        return value if value.__class__ is int and value in (0, 1) else None
    if key in _UNREADABLE or (key in _WEIGHTS and isinstance(value, bool)):
        return None
    truth = read_truth(value)
    return None if truth is None else int(truth != (key in _HIDES))


def read_weight(turn: Mapping[str, Any], role: str, where: str, faults: list[Finding]) -> int | None:
    """Return the weight of a turn: 1, 0, or None where no key sets it. All formats with turns use this function."""
    if WEIGHT_KEYS.isdisjoint(turn):
        return None
    weights: dict[str, int] = {}
    for key in (*_WEIGHTS, *_FLAGS, *_HIDES, *_UNREADABLE):
        value = turn.get(key)
        if value is None or (key in _UNREADABLE and role != "assistant"):
            continue
        weight = _parse_weight(key, value)
        if weight is None:
            expected = "the integer 0 or 1" if key in _WEIGHTS else "true or false"
            what = f"is {value!r}; expected {expected}"
            if key in _UNREADABLE:
                what = "does not say whether the whole turn is learned from"
            faults.append(error("weight", f"{where}.{key} {what}", "write weight 1 to learn from the turn, 0 not to"))
            return None
        weights[key] = weight
    if len(set(weights.values())) > 1:
        keys = " and ".join(f"{key} {turn[key]!r}" for key in weights)
        faults.append(error("weight", f"{where} has {keys}, which contradict each other", "keep one of them"))
        return None
    return next(iter(weights.values()), None)


def find_hidden_key(keys: Mapping[str, Any]) -> str | None:
    """Return the key, if any, that excludes a whole row from training."""
    return next(
        (key for key in (*_WEIGHTS, *_FLAGS, *_HIDES) if key in keys and _parse_weight(key, keys[key]) == 0), None
    )


def _read_content(
    turn: dict[str, Any], role: str, calling: bool, where: str, faults: list[Finding], unread: dict[str, Any]
) -> Content:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        if not calling:
            missing = "content is null" if "content" in turn else "there is no content"
            also = " and no tool_calls" if role == "assistant" else ""
            faults.append(error("content", f"{where}: {missing}{also}", 'add "content": "..."'))
        return None
    if isinstance(content, list):
        return read_parts(content, f"{where}.content", faults, unread)
    faults.append(
        error("content", f"{where}.content is {json_type(content)}; expected a string or a list of parts", "quote it")
    )
    return None


def read_parts(content: list[Any], where: str, faults: list[Finding], unread: dict[str, Any]) -> tuple[Part, ...]:
    """Read content parts (`{"type": "text", "text": ...}`, `{"type": "image_url", ...}`) into canonical form.

    Keys of a part that are not read are added to `unread`.
    """
    parts: list[Part] = []
    for index, part in enumerate(content):
        part_path = f"{where}[{index}]"
        if isinstance(part, str):
            parts.append(TextPart(part))
        elif not isinstance(part, dict):
            faults.append(
                error("content", f"{part_path} is {json_type(part)}; expected a part with a type", "fix the part")
            )
        else:
            parts.append(_read_part(part, part_path, faults, unread))
    if not content:
        faults.append(error("empty-content", f"{where} is an empty list", "give it text"))
    return tuple(parts)


def _read_part(part: dict[str, Any], where: str, faults: list[Finding], unread: dict[str, Any]) -> Part:
    type_ = part.get("type")
    if type_ in _TEXTS or (type_ is None and "text" in part):
        key = "text" if "text" in part else "value"
        text = part.get(key)
        if isinstance(text, str):
            if len(part) > 2 or "type" not in part:
                note_unread(part, ("type", key), "content[]", unread)
            return TextPart(text)
        faults.append(error("content", f"{where}.text is {json_type(text)}; expected a string", "quote it"))
        return TextPart("")
    if type_ in ("image_url", "image", "input_image"):
        key = next((key for key in ("image_url", "url", "image", "value", "path") if key in part), "image_url")
        image = part.get(key)
        detail = part.get("detail")
        note_unread(part, ("type", "detail", key), "content[]", unread)
        if isinstance(image, dict):
            note_unread(image, ("url", "detail"), f"content[].{key}", unread)
            detail = image.get("detail", detail)
            image = image.get("url")
        if isinstance(image, str) and image:
            return ImagePart(image, None, detail if isinstance(detail, str) else None)
        faults.append(
            error("content", f"{where} names no image", 'write {"type": "image_url", "image_url": {"url": ...}}')
        )
        return TextPart("")
    if not isinstance(type_, str):
        faults.append(error("content", f"{where} has no type", 'write {"type": "text", "text": "..."}'))
        return TextPart("")
    return OtherPart(type_, part)


def _read_calls(
    turn: dict[str, Any], where: str, faults: list[Finding], calls: ToolCallIds, unread: dict[str, Any]
) -> tuple[ToolCall, ...]:
    legacy = turn.get("function_call")
    if isinstance(legacy, dict):
        name = legacy.get("name")
        note_unread(legacy, ("name", "arguments"), "function_call", unread)
        if isinstance(name, str):
            return (ToolCall(calls.new(name), name, arguments_text(legacy.get("arguments"), where, faults)),)
        faults.append(error("tool-call", f"{where}.function_call has no name", "name the function"))
        return ()
    listed = turn.get("tool_calls")
    if not listed:
        return ()
    if not isinstance(listed, list):
        faults.append(wrong_type(listed, "a list of tool calls", f"{where}.tool_calls"))
        return ()
    out = []
    for index, call in enumerate(listed):
        call_path = f"{where}.tool_calls[{index}]"
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if function is None or not isinstance(name, str) or not name:
            faults.append(
                error("tool-call", f"{call_path} names no function", '{"id": .., "type": "function", "function": {..}}')
            )
            continue
        note_unread(
            call,
            ("id", "type", *(("name", "arguments") if function is call else ("function",))),
            "tool_calls[]",
            unread,
        )
        if function is not call:
            note_unread(function, ("name", "arguments"), "tool_calls[].function", unread)
        id_ = call.get("id")
        if id_ is not None and not isinstance(id_, str):
            faults.append(wrong_type(id_, "a string", f"{call_path}.id"))
            id_ = None
        out.append(ToolCall(id_ or calls.new(name), name, arguments_text(function.get("arguments"), call_path, faults)))
    return tuple(out)


def arguments_text(arguments: Any, where: str, faults: list[Finding]) -> str:
    """Return a call's arguments as JSON text; objects are serialised, text must be a JSON object."""
    if arguments is None or arguments == "":
        return "{}"
    if isinstance(arguments, dict):
        number = find_long_number(arguments)
        if isinstance(number, float):  # read with the row: its digits are lost
            what = f"{where}: the arguments hold a number above 64 bits, of which only {number!r} can be read"
            faults.append(error("tool-arguments", what, "write the arguments as JSON text, or the number as a string"))
        return dump_json(arguments)
    if isinstance(arguments, str):
        try:
            if isinstance(load_json(arguments), dict):
                return arguments
        except ValueError:
            pass
    faults.append(
        error("tool-arguments", f"{where}: the arguments are not a JSON object as text", "write them with json.dumps")
    )
    return "{}"


_tools_cache: dict[bytes, tuple[tuple[Mapping[str, Any], ...], tuple[Finding, ...]]] = {}


def read_tools(tools: Any, functions: Any, faults: list[Finding]) -> tuple[Mapping[str, Any], ...]:
    """Return tool definitions in chat form. Rows mostly repeat a few sets, so each set is checked once and cached."""
    if tools is None and functions is None:
        return ()
    key = orjson.dumps([tools, functions])
    cached = _tools_cache.get(key)
    if cached is None:
        if len(_tools_cache) >= 256:
            _tools_cache.clear()
        tool_faults: list[Finding] = []
        read = _read_tools(tools, functions, tool_faults)
        cached = _tools_cache[key] = (read, tuple(tool_faults))
    faults.extend(cached[1])
    return cached[0]


def _read_tools(tools: Any, functions: Any, faults: list[Finding]) -> tuple[Mapping[str, Any], ...]:
    if functions is not None:
        if isinstance(functions, list):
            tools = [*(tools or []), *({"type": "function", "function": function} for function in functions)]
            faults.append(
                warning("legacy-functions", "functions and function_call are read as tools and tool_calls", "")
            )
        else:
            faults.append(wrong_type(functions, "a list of functions", "functions"))
    if isinstance(tools, str):  # some datasets have the list as JSON text
        try:
            tools = orjson.loads(tools)
        except orjson.JSONDecodeError:
            faults.append(error("tools", "tools is text that is not JSON", "write the list itself"))
            return ()
    if not isinstance(tools, list):
        if tools is not None:
            faults.append(wrong_type(tools, "a list of tools", "tools"))
        return ()
    definitions = [_read_tool(tool, f"tools[{index}]", faults) for index, tool in enumerate(tools)]
    return tuple(definition for definition in definitions if definition is not None)


def _read_tool(tool: Any, where: str, faults: list[Finding]) -> dict[str, Any] | None:
    """Return one tool definition in chat form; None, with a fault, where it names no function or has no schema."""
    if not isinstance(tool, dict):
        faults.append(wrong_type(tool, '{"type": "function", "function": {...}}', where))
        return None
    if "function" not in tool and "name" in tool:
        tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        faults.append(error("tools", f"{where} names no function", 'add "function": {"name": ...}'))
        return None
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        faults.append(wrong_type(parameters, "a JSON schema of type object", f"{where}.function.parameters"))
        return None
    if parameters and parameters.get("type", "object") != "object":
        faults.append(
            error("tools", f"{where}.function.parameters has type {parameters['type']!r}", "make it an object")
        )
    return cast("dict[str, Any]", tool)


def write_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return canonical turns as chat messages."""
    out: list[dict[str, Any]] = []
    for message in messages:
        role, content, calls, call_id, name, weight, raw_role, extra, reasoning = message
        plain = content.__class__ is str and not calls and raw_role is None and not extra
        if plain and call_id is None and name is None and weight is None and reasoning is None:
            out.append({"role": role, "content": content})
        else:
            out.append(write_message(message))
    return out


def write_message(message: Message) -> dict[str, Any]:
    """Return one turn as a chat message."""
    out: dict[str, Any] = {"role": message.raw_role or message.role}
    content = message.content
    if isinstance(content, tuple):
        out["content"] = [write_part(part) for part in content]
    elif content is not None or not message.tool_calls:
        out["content"] = content
    if message.reasoning is not None:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    if message.weight is not None:
        out["weight"] = message.weight
    if message.extra:
        out.update(message.extra)
    return out


def write_part(part: Part) -> dict[str, Any]:
    """Return one content part in chat form."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        image = {"url": part.url}
        if part.detail is not None:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    return dict(part.raw)


class ChatRows(RowFormat):
    """Chat rows, the format that most vendors and tools share."""

    name = "chat"
    title = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    supports = (1 << 20) - 1 & ~(f.PREFERENCE | f.TEXT | f.LABELS | f.OTHER_PARTS)

    def detect(self, row: Mapping[str, Any]) -> bool:
        return "messages" in row

    def takes_part(self, part: OtherPart) -> bool:
        return "type" in part.raw

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        if len(row) == 1 and "messages" in row:
            messages = read_messages(row["messages"], faults)
            return _new(Example, (messages, (), None, None, None, line, None, None))
        row = place_images(row, "messages")
        messages = take_messages(row, "messages", faults)
        tools = read_tools(row.get("tools"), row.get("functions"), faults)
        extra = {key: value for key, value in row.items() if key not in _ROW_KEYS}
        system = extra.get("system")
        if isinstance(system, str):  # some datasets have the system prompt in its own key
            del extra["system"]
            messages = (unlisted(Message("system", system)), *messages)
        return Example(messages, tools, line=line, extra=extra or None)

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": write_messages(with_preferred_answer(example))}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row


def place_images(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Replace the {"type": "image"} placeholders in the messages under `keys` by the URLs under `images`, in order.

    The row is returned unchanged unless there is one URL for each placeholder.
    """
    images = row.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        return row
    contents = [
        turn["content"] for key in keys for turn in _list_turns(row.get(key)) if type(turn.get("content")) is list
    ]
    if sum(_is_placeholder(part) for content in contents for part in content) != len(images):
        return row
    waiting = iter(images)
    placed = {key: value for key, value in row.items() if key != "images"}
    for key in keys:
        placed[key] = [
            turn
            | {
                "content": [
                    {"type": "image", "url": next(waiting)} if _is_placeholder(part) else part
                    for part in turn["content"]
                ]
            }
            if isinstance(turn, dict) and type(turn.get("content")) is list
            else turn
            for turn in row.get(key) or ()
        ]
    return placed


def _list_turns(value: Any) -> list[dict[str, Any]]:
    return [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []


def _is_placeholder(part: Any) -> bool:
    """Return whether a part is a placeholder for an image, as in rows whose images are in a column of their own."""
    return (
        isinstance(part, dict)
        and part.get("type") == "image"
        and all(key == "type" or value is None for key, value in part.items())
    )


def with_preferred_answer(example: Example) -> tuple[Message, ...]:
    """Return the turns, followed by the preferred answer where there is a preference pair."""
    if example.preference is None:
        return example.messages
    return example.messages + example.preference.preferred


CHAT = ChatRows()
