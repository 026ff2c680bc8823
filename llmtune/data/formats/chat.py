"""Chat rows (`{"messages": [{"role": ..., "content": ...}]}`), and what other formats share with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

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

#: Other names of the four roles that chat rows use.
_ALIASES = {"developer": "system", "function": "tool"}
#: Keys by which a turn says whether it is learned from: our own, and the flags of other trainers' rows.
_WEIGHTS = ("weight", "loss_weight", "loss_scale")
_FLAGS = ("train", "training", "trainable", "trained", "loss", "loss_mask", "compute_loss")
#: Their opposite: true says that the turn is not learned from.
_HIDES = ("masked",)
#: A mask keeps a turn in one tool and hides it in another; details train on a part of a turn.
_UNREADABLE = ("mask", "training_detail", "train_detail")
WEIGHT_KEYS = frozenset((*_WEIGHTS, *_FLAGS, *_HIDES, *_UNREADABLE))
_KNOWN = WEIGHT_KEYS | {"role", "content", "tool_calls", "tool_call_id", "name", "function_call"}
#: Names of a text part; the last two are those of the Responses API. No set: what a row has there may not be hashable.
_TEXTS = ("text", "input_text", "output_text")
_ROW_KEYS = frozenset(("messages", "tools", "functions"))
_new = tuple.__new__


def kind(value: Any) -> str:
    """A JSON value's type in words, for messages."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def shape(found: Any, expected: str, where: str) -> Finding:
    """The finding for a value of the wrong type."""
    return error("row-shape", f"{where} is {kind(found)}; expected {expected}", "give it that shape")


class Calls:
    """Numbers the tool calls of one row that have no id of their own, and answers them in order."""

    __slots__ = ("made", "waiting")

    def __init__(self) -> None:
        self.made = 0
        self.waiting: list[tuple[str, str]] = []

    def new(self, name: str) -> str:
        self.made += 1
        self.waiting.append((f"call_{self.made}", name))
        return f"call_{self.made}"

    def answered(self, name: str | None) -> str | None:
        for index, (call, called) in enumerate(self.waiting):
            if name is None or called == name:
                del self.waiting[index]
                return call
        return None


def read_messages(value: Any, faults: list[Finding], where: str = "messages") -> tuple[Message, ...]:
    """A list of chat messages in canonical form."""
    if value.__class__ is not list:
        faults.append(shape(value, "a list of messages", where))
        return ()
    if not value:
        faults.append(error("empty-messages", f"{where} is an empty list", "give it at least a user and an answer"))
        return ()
    out: list[Message] = []
    calls: Calls | None = None
    for item in value:
        if item.__class__ is dict:
            if len(item) == 2 and "role" in item and "content" in item:
                role = item["role"]
                content = item["content"]
                if content.__class__ is str and role.__class__ is str and role in ROLES:
                    out.append(_new(Message, (role, content, (), None, None, None, None, None, None)))
                    continue
            calls = calls or Calls()
            if "role" not in item:  # "Role", "ROLE"
                item = lower_keys(item)
            out.append(_read_message(item, f"{where}[{len(out)}]", faults, calls))
        else:
            faults.append(shape(item, 'an object such as {"role": "user", "content": "..."}', f"{where}[{len(out)}]"))
            out.append(Message("user", ""))
    return tuple(out)


def lower_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row or turn with its keys in lower case; where two become one, the one that was so already counts."""
    return {key.lower(): value for key, value in row.items()} | {
        key: value for key, value in row.items() if key == key.lower()
    }


def take_messages(
    row: Mapping[str, Any], key: str, faults: list[Finding], where: str | None = None
) -> tuple[Message, ...]:
    """The messages under a key; a fault when there is no such key, which is not the same as null."""
    if key in row:
        return read_messages(row[key], faults, where or key)
    have = ", ".join(map(repr, list(row)[:8])) or "no keys"
    faults.append(error("row-shape", f"there is no {where or key!r}; there is {have}", "add it"))
    return ()


def _read_message(item: dict[str, Any], where: str, faults: list[Finding], calls: Calls) -> Message:
    role, raw_role = _read_role(item, where, faults)
    calling = bool(item.get("tool_calls") or item.get("function_call"))
    beside: dict[str, Any] = {}
    content = _read_content(item, role, calling, where, faults, beside)
    made = _read_calls(item, where, faults, calls, beside)
    name = item.get("name")
    if name is not None and not isinstance(name, str):
        faults.append(shape(name, "a string", f"{where}.name"))
        name = None
    call_id = item.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        faults.append(shape(call_id, "a string", f"{where}.tool_call_id"))
        call_id = None
    if role == "tool" and call_id is None:  # by name, where calls have no ids either
        call_id = calls.answered(name)
    if raw_role == "function":
        raw_role = None
    extra = {key: value for key, value in item.items() if key not in _KNOWN and value is not None} | beside
    weight = read_weight(item, role, where, faults)
    return take_reasoning(Message(role, content, made, call_id, name, weight, raw_role, extra or None))


def note_beside(value: Mapping[str, Any], known: Collection[str], where: str, beside: dict[str, Any]) -> None:
    """Add to `beside` what an object inside a turn holds under keys that are not read, each under its place, such as
    `content[].cache_control`: it becomes an extra key of the turn, so that it is reported and not lost."""
    for key, found in value.items():
        if key not in known and found not in (None, "", [], {}):
            beside[f"{where}.{key}"] = found


def _read_role(item: dict[str, Any], where: str, faults: list[Finding]) -> tuple[str, str | None]:
    role = item.get("role")
    if isinstance(role, str) and role in ROLES:
        return role, None
    if role is None:
        what = "role is null" if "role" in item else "there is no role"
        faults.append(error("role", f"{where}: {what}", "add one of: system, user, assistant, tool"))
        return "user", None
    if isinstance(role, str) and role in _ALIASES:
        return _ALIASES[role], role
    faults.append(
        error("role", f"{where}.role is {role!r}; expected system, user, assistant or tool", "rename the role")
    )
    return "user", None


def read_truth(value: Any) -> bool | None:
    """Whether a value says true or false, also as 1 or 0 or as text, which tables make of it; None if neither."""
    if isinstance(value, str):
        return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(value.lower())
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def _weight_of(key: str, value: Any) -> int | None:
    if key == "weight":
        return value if value.__class__ is int and value in (0, 1) else None
    if key in _UNREADABLE or (key in _WEIGHTS and isinstance(value, bool)):
        return None
    truth = read_truth(value)
    return None if truth is None else int(truth != (key in _HIDES))


def read_weight(item: Mapping[str, Any], role: str, where: str, faults: list[Finding]) -> int | None:
    """The weight of a turn: 1, 0, or None where no key says it. Every format with turns asks this one function."""
    if WEIGHT_KEYS.isdisjoint(item):
        return None
    weights: dict[str, int] = {}
    for key in (*_WEIGHTS, *_FLAGS, *_HIDES, *_UNREADABLE):
        value = item.get(key)
        if value is None or (key in _UNREADABLE and role != "assistant"):
            continue
        weight = _weight_of(key, value)
        if weight is None:
            expected = "the integer 0 or 1" if key in _WEIGHTS else "true or false"
            what = f"is {value!r}; expected {expected}"
            if key in _UNREADABLE:
                what = "does not say whether the whole turn is learned from"
            faults.append(error("weight", f"{where}.{key} {what}", "write weight 1 to learn from the turn, 0 not to"))
            return None
        weights[key] = weight
    if len(set(weights.values())) > 1:
        keys = " and ".join(f"{key} {item[key]!r}" for key in weights)
        faults.append(error("weight", f"{where} has {keys}, which contradict each other", "keep one of them"))
        return None
    return next(iter(weights.values()), None)


def hiding_key(keys: Mapping[str, Any]) -> str | None:
    """The key, if any, by which a whole row says that it is not learned from."""
    return next((key for key in (*_WEIGHTS, *_FLAGS, *_HIDES) if key in keys and _weight_of(key, keys[key]) == 0), None)


def _read_content(
    item: dict[str, Any], role: str, calling: bool, where: str, faults: list[Finding], beside: dict[str, Any]
) -> Content:
    content = item.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        if not calling:
            missing = "content is null" if "content" in item else "there is no content"
            also = " and no tool_calls" if role == "assistant" else ""
            faults.append(error("content", f"{where}: {missing}{also}", 'add "content": "..."'))
        return None
    if isinstance(content, list):
        return read_parts(content, f"{where}.content", faults, beside)
    faults.append(
        error("content", f"{where}.content is {kind(content)}; expected a string or a list of parts", "quote it")
    )
    return None


def read_parts(content: list[Any], where: str, faults: list[Finding], beside: dict[str, Any]) -> tuple[Part, ...]:
    """Content parts (`{"type": "text", "text": ...}`, `{"type": "image_url", ...}`) in canonical form.

    Keys of a part that are not read are added to `beside`.
    """
    parts: list[Part] = []
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        if isinstance(part, str):
            parts.append(TextPart(part))
        elif not isinstance(part, dict):
            faults.append(error("content", f"{place} is {kind(part)}; expected a part with a type", "fix the part"))
        else:
            parts.append(_read_part(part, place, faults, beside))
    if not content:
        faults.append(error("empty-content", f"{where} is an empty list", "give it text"))
    return tuple(parts)


def _read_part(part: dict[str, Any], where: str, faults: list[Finding], beside: dict[str, Any]) -> Part:
    type_ = part.get("type")
    if type_ in _TEXTS or (type_ is None and "text" in part):
        key = "text" if "text" in part else "value"
        text = part.get(key)
        if isinstance(text, str):
            if len(part) > 2 or "type" not in part:
                note_beside(part, ("type", key), "content[]", beside)
            return TextPart(text)
        faults.append(error("content", f"{where}.text is {kind(text)}; expected a string", "quote it"))
        return TextPart("")
    if type_ in ("image_url", "image", "input_image"):
        key = next((key for key in ("image_url", "url", "image", "value", "path") if key in part), "image_url")
        image = part.get(key)
        detail = part.get("detail")
        note_beside(part, ("type", "detail", key), "content[]", beside)
        if isinstance(image, dict):
            note_beside(image, ("url", "detail"), f"content[].{key}", beside)
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
    item: dict[str, Any], where: str, faults: list[Finding], calls: Calls, beside: dict[str, Any]
) -> tuple[ToolCall, ...]:
    legacy = item.get("function_call")
    if isinstance(legacy, dict):
        name = legacy.get("name")
        note_beside(legacy, ("name", "arguments"), "function_call", beside)
        if isinstance(name, str):
            return (ToolCall(calls.new(name), name, arguments_text(legacy.get("arguments"), where, faults)),)
        faults.append(error("tool-call", f"{where}.function_call has no name", "name the function"))
        return ()
    made = item.get("tool_calls")
    if not made:
        return ()
    if not isinstance(made, list):
        faults.append(shape(made, "a list of tool calls", f"{where}.tool_calls"))
        return ()
    out = []
    for index, call in enumerate(made):
        place = f"{where}.tool_calls[{index}]"
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if function is None or not isinstance(name, str) or not name:
            faults.append(
                error("tool-call", f"{place} names no function", '{"id": .., "type": "function", "function": {..}}')
            )
            continue
        note_beside(
            call,
            ("id", "type", *(("name", "arguments") if function is call else ("function",))),
            "tool_calls[]",
            beside,
        )
        if function is not call:
            note_beside(function, ("name", "arguments"), "tool_calls[].function", beside)
        id_ = call.get("id")
        if id_ is not None and not isinstance(id_, str):
            faults.append(shape(id_, "a string", f"{place}.id"))
            id_ = None
        out.append(ToolCall(id_ or calls.new(name), name, arguments_text(function.get("arguments"), place, faults)))
    return tuple(out)


def arguments_text(arguments: Any, where: str, faults: list[Finding]) -> str:
    """A call's arguments as JSON text; objects are written out, text must hold an object."""
    if arguments is None or arguments == "":
        return "{}"
    if isinstance(arguments, dict):
        number = find_long_number(arguments)
        if isinstance(number, float):  # read with the row: what its digits were is not known any more
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
    """Tool definitions in chat form. Rows mostly repeat a few sets, so each set is checked and kept once."""
    if tools is None and functions is None:
        return ()
    key = orjson.dumps([tools, functions])
    known = _tools_cache.get(key)
    if known is None:
        if len(_tools_cache) >= 256:
            _tools_cache.clear()
        found: list[Finding] = []
        read = _read_tools(tools, functions, found)
        known = _tools_cache[key] = (read, tuple(found))
    faults.extend(known[1])
    return known[0]


def _read_tools(tools: Any, functions: Any, faults: list[Finding]) -> tuple[Mapping[str, Any], ...]:  # noqa: C901
    out: list[Mapping[str, Any]] = []
    if functions is not None:
        if isinstance(functions, list):
            tools = [*(tools or []), *({"type": "function", "function": function} for function in functions)]
            faults.append(
                warning("legacy-functions", "functions and function_call are read as tools and tool_calls", "")
            )
        else:
            faults.append(shape(functions, "a list of functions", "functions"))
    if isinstance(tools, str):  # some sets carry the list as text
        try:
            tools = orjson.loads(tools)
        except orjson.JSONDecodeError:
            faults.append(error("tools", "tools is text that is not JSON", "write the list itself"))
            return ()
    if not isinstance(tools, list):
        if tools is not None:
            faults.append(shape(tools, "a list of tools", "tools"))
        return ()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict):
            faults.append(shape(tool, '{"type": "function", "function": {...}}', where))
            continue
        if "function" not in tool and "name" in tool:
            tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            faults.append(error("tools", f"{where} names no function", 'add "function": {"name": ...}'))
            continue
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            faults.append(shape(parameters, "a JSON schema of type object", f"{where}.function.parameters"))
            continue
        if parameters and parameters.get("type", "object") != "object":
            faults.append(
                error("tools", f"{where}.function.parameters has type {parameters['type']!r}", "make it an object")
            )
        out.append(tool)
    return tuple(out)


def write_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Canonical turns as chat messages."""
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
    """One turn as a chat message."""
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
    """One content part in chat form."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        image = {"url": part.url}
        if part.detail is not None:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    return dict(part.raw)


class ChatRows(RowFormat):
    """Chat rows, the shape most vendors and tools share."""

    name = "chat"
    title = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    carries = (1 << 20) - 1 & ~(f.PREFERENCE | f.TEXT | f.LABELS | f.OTHER_PARTS)

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
        if isinstance(system, str):  # some sets keep the system prompt beside the turns
            del extra["system"]
            messages = (unlisted(Message("system", system)), *messages)
        return Example(messages, tools, line=line, extra=extra or None)

    def write(self, example: Example) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": write_messages(answered(example))}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.extra:
            row.update(example.extra)
        return row


def place_images(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The row with the addresses under `images` put where its messages under `keys` say {"type": "image"}, in order.

    It is left as it is unless there is one address for each mark.
    """
    images = row.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        return row
    contents = [
        turn["content"] for key in keys for turn in _turns_of(row.get(key)) if type(turn.get("content")) is list
    ]
    if sum(_is_mark(part) for content in contents for part in content) != len(images):
        return row
    waiting = iter(images)
    placed = {key: value for key, value in row.items() if key != "images"}
    for key in keys:
        placed[key] = [
            turn
            | {
                "content": [
                    {"type": "image", "url": next(waiting)} if _is_mark(part) else part for part in turn["content"]
                ]
            }
            if isinstance(turn, dict) and type(turn.get("content")) is list
            else turn
            for turn in row.get(key) or ()
        ]
    return placed


def _turns_of(value: Any) -> list[dict[str, Any]]:
    return [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []


def _is_mark(part: Any) -> bool:
    """Whether a part only says that an image stands here, as rows do whose images are in a column of their own."""
    return (
        isinstance(part, dict)
        and part.get("type") == "image"
        and all(key == "type" or value is None for key, value in part.items())
    )


def answered(example: Example) -> tuple[Message, ...]:
    """The turns with the preferred answer behind them, where there is a preference pair."""
    if example.preference is None:
        return example.messages
    return example.messages + example.preference.preferred


CHAT = ChatRows()
