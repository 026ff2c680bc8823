"""What OpenAI checks of a training row beyond its schema: reserved tokens, tools, images, the answers of a pair.

Sources, with the date on which they were read: the guides "Supervised fine-tuning", "Direct preference optimization"
and "Vision fine-tuning" (copies, 2026-11), FunctionObject and ChatCompletionTool of openai-openapi (2026-08), the
function calling and structured outputs guides (2026-11), tiktoken's encodings, and for Azure Microsoft's fine-tuning
how-to and vision page (2026-10). Azure checks the same, with another limit on images.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llmtune.data.example import Example, ImagePart
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats.row_features import texts_of

GUIDE = "OpenAI, Supervised fine-tuning guide, 2026-11"
DPO = "OpenAI, Direct preference optimization guide, 2026-11"
VISION = "OpenAI, Vision fine-tuning guide, 2026-11"
FUNCTIONS = "OpenAI, FunctionObject of its API, 2026-08"
CALLING = "OpenAI, Function calling guide, 2026-11"
STRICT = "OpenAI, Structured outputs guide, 2026-11"
#: The service's own words are "Invalid file format. Example 6174 message contains an invalid token: <|fim_suffix|>."
TOKENS = "OpenAI's answer to such a file: 'message contains an invalid token', 2026-02"
AZURE = "Microsoft, Customize a model with fine-tuning, 2026-10"

#: Special tokens of the encodings of the models that are tuned (cl100k_base, o200k_base), and of ChatML.
RESERVED = re.compile(r"<\|(?:endoftext|endofprompt|fim_prefix|fim_middle|fim_suffix|im_start|im_end|im_sep)\|>")
#: OpenAI's own models; a compatible service and Azure tune others, whose tokenizers have other tokens.
_OWN_MODELS = re.compile(r"(?:ft:)?(?:gpt-(?!oss)|o\d|davinci|babbage)")

MAX_TOOLS = 128
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TYPES = frozenset(("string", "number", "integer", "boolean", "object", "array", "null"))

MAX_IMAGES = 10
MAX_IMAGES_AZURE = 64
MAX_IMAGE_BYTES = 10_000_000
#: The most rows of a file that have images.
MAX_IMAGE_ROWS = 50_000
_IMAGE_TYPES = frozenset(("image/jpeg", "image/jpg", "image/png", "image/webp"))
_DETAILS = (None, "auto", "low", "high")
#: How files of images begin; those of WEBP after the length of the file.
_MAGIC_BYTES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF", "application/pdf"),
    (b"<svg", "image/svg+xml"),
)


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Yield what OpenAI refuses of a row."""
    yield from _check_common_rules(example, model, MAX_IMAGES)
    yield from _check_answers(example)


def azure_row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Yield what Azure refuses of a row: the same, but 64 images, and the last message is the assistant's."""
    yield from _check_common_rules(example, model, MAX_IMAGES_AZURE)
    if example.preference is None and example.messages and example.messages[-1].role != "assistant":
        yield error("vendor-last-turn", f"the last turn must be the assistant's ({AZURE})", "end the row in the answer")


def _check_common_rules(example: Example, model: str | None, max_images: int) -> Iterator[Finding]:
    if model is None or _OWN_MODELS.match(model):
        yield from _check_reserved_tokens(example)
    if example.tools:
        yield from _check_tools(example.tools)
    yield from _check_calls(example)
    yield from _check_images(example, max_images)
    is_parallel = _parallel_tool_calls(example)
    if is_parallel is not None and not isinstance(is_parallel, bool):
        what = f"parallel_tool_calls is {is_parallel!r}; expected true or false ({FUNCTIONS})"
        yield error("vendor-tools", what, "write it as a boolean, or remove it")


def _parallel_tool_calls(example: Example) -> Any:
    extra = example.extra or {}
    input_fields = extra.get("input")
    return (input_fields if isinstance(input_fields, dict) else extra).get("parallel_tool_calls")


def _check_reserved_tokens(example: Example) -> Iterator[Finding]:
    """Yield one error at most: the service reports one per row, too."""
    for where, text in texts_of(example):
        token = RESERVED.search(text) if "<|" in text else None
        if token is not None:
            what = f"{where}: {token.group()!r} is a reserved token, on which the job fails ({TOKENS})"
            yield error("vendor-reserved-word", what, "write it in another way, such as with a space in it")
            return


def _check_answers(example: Example) -> Iterator[Finding]:
    if example.preference is None:
        return
    for name, turns in zip(("preferred_output", "non_preferred_output"), example.preference, strict=True):
        if len(turns) != 1:
            yield error(
                "vendor-preference", f"{name} holds {len(turns)} messages; exactly one is allowed ({DPO})", "keep one"
            )


#: Tools are read once for all rows that have the same; the tools are kept, so that no others get their id.
_checked_tools: dict[int, tuple[tuple[Mapping[str, Any], ...], tuple[Finding, ...]]] = {}


def _check_tools(tools: tuple[Mapping[str, Any], ...]) -> tuple[Finding, ...]:
    remembered = _checked_tools.get(id(tools))
    if remembered is None:
        if len(_checked_tools) >= 256:
            _checked_tools.clear()
        remembered = _checked_tools[id(tools)] = (tools, tuple(_find_tool_faults(tools)))
    return remembered[1]


def _find_tool_faults(tools: tuple[Mapping[str, Any], ...]) -> Iterator[Finding]:
    if len(tools) > MAX_TOOLS:
        yield error("vendor-tools", f"{len(tools)} tools; at most {MAX_TOOLS} are allowed ({CALLING})", "offer fewer")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool["function"]
        if tool.get("type", "function") != "function":
            what = f"{where}.type is {tool['type']!r}; only functions are taken ({FUNCTIONS})"
            yield error("vendor-tools", what, "take the tool out of the row")
        if not _TOOL_NAME.fullmatch(function["name"]):
            yield _wrong_name_error(where, function["name"])
        for key, expected in (("description", str), ("strict", bool)):
            if not isinstance(function.get(key), (expected, type(None))):
                what = f"{where}.function.{key} is {function[key]!r}; expected a {_WORDS[expected]} ({FUNCTIONS})"
                yield error("vendor-tools", what, "write it so, or remove it")
        strict = function.get("strict") is True
        fault = find_schema_fault(function.get("parameters") or {}, "parameters", strict=strict)
        if fault is not None:
            source = STRICT if strict else CALLING
            yield error("vendor-tools", f"{where}.function.{fault} ({source})", "correct the JSON schema")


_WORDS = {str: "string", bool: "boolean"}


def _wrong_name_error(where: str, name: str) -> Finding:
    return error(
        "vendor-tools",
        f"{where}: a function is named {name!r}; a name has 1 to 64 letters (a-z, A-Z), digits, underscores and dashes"
        f" ({FUNCTIONS})",
        "rename it in the tools and in the calls",
    )


def _check_calls(example: Example) -> Iterator[Finding]:
    """Find calls of functions that no API could offer, if the row does not define them (then that is reported)."""
    defined = {tool["function"]["name"] for tool in example.tools}
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for index, message in enumerate((*example.messages, *answers)):
        for call in message.tool_calls:
            if call.name not in defined and not _TOOL_NAME.fullmatch(call.name):
                yield _wrong_name_error(f"messages[{index}]", call.name)


def find_schema_fault(schema: Any, where: str, *, strict: bool = False) -> str | None:
    """Return the first fault of the JSON schema of a function's arguments, with its location, or None.

    `strict` adds what the API demands of a function that is marked so.
    """
    if isinstance(schema, bool) and where != "parameters":
        return None
    if not isinstance(schema, Mapping):
        return f"{where} is {schema!r}; expected a JSON schema"
    fault = _find_keyword_fault(schema, where)
    if fault is None and strict and schema.get("type") == "object":
        fault = _find_strict_fault(schema, where)
    if fault is not None:
        return fault
    faults = (find_schema_fault(part, f"{where}.{location}", strict=strict) for location, part in _subschemas(schema))
    return next((fault for fault in faults if fault is not None), None)


def _find_keyword_fault(schema: Mapping[str, Any], where: str) -> str | None:
    """Return the first keyword of this schema, not of those inside it, whose value JSON Schema does not allow."""
    types = schema.get("type")
    for name in types if isinstance(types, list) else [] if types is None else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            return f"{where}.type is {name!r}, which is no type of JSON schemas"
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        return f"{where}.properties is no object"
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return f"{where}.required is no list of names"
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        return f"{where}.enum is no list of values"
    if types == "array" and "items" not in schema and "prefixItems" not in schema:
        return f"{where} is an array without items"
    return None


def _find_strict_fault(schema: Mapping[str, Any], where: str) -> str | None:
    """Return what a strict function does not allow of this object's schema, which is valid otherwise."""
    if schema.get("additionalProperties") is not False:
        return f"{where} of a strict function must have additionalProperties false"
    required = schema.get("required", [])
    optional = [name for name in schema.get("properties", {}) if name not in required]
    if optional:
        return f"{where}.required of a strict function must name every property, and {optional[0]!r} is missing"
    return None


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas inside a schema, each with its location."""
    for key in ("properties", "$defs", "definitions"):
        inner = schema.get(key)
        if isinstance(inner, Mapping):
            yield from ((f"{key}.{name}", part) for name, part in inner.items())
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        inner = schema.get(key)
        if isinstance(inner, list):
            yield from ((f"{key}[{index}]", part) for index, part in enumerate(inner))
    if "items" in schema and not isinstance(schema["items"], list):
        yield "items", schema["items"]
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield "additionalProperties", schema["additionalProperties"]


def _check_images(example: Example, max_images: int) -> Iterator[Finding]:
    count = 0
    for index, message in enumerate(example.messages):
        for image in message.images:
            count += 1
            if message.role != "user":
                yield error(
                    "vendor-image", f"messages[{index}]: images stand in user turns only ({VISION})", "move the image"
                )
            yield from _check_image(image, f"messages[{index}]")
    if count > max_images:
        source = VISION if max_images == MAX_IMAGES else AZURE
        yield error("vendor-image", f"{count} images in the row; {max_images} are allowed ({source})", "cut the row")


def _check_image(image: ImagePart, where: str) -> Iterator[Finding]:
    if image.detail not in _DETAILS:
        what = f"{where}: the detail of an image is {image.detail!r}; expected auto, low or high ({VISION})"
        yield error("vendor-image", what, "write one of them")
    if image.url.startswith("data:"):
        yield from _check_data_url(image.url, where)
        return
    address = urlsplit(image.url)
    if address.scheme not in ("http", "https") or not address.netloc:
        yield error(
            "vendor-image",
            f"{where}: {image.url[:60]!r} is neither an http address nor a data URL ({VISION})",
            "upload it, or write it as data:image/png;base64,...",
        )
        return
    type_ = image.media_type or mimetypes.guess_type(address.path)[0]
    if type_ is not None and type_.startswith("image/") and type_ not in _IMAGE_TYPES:
        yield _wrong_type_error(where, type_)


def _wrong_type_error(where: str, type_: str) -> Finding:
    what = f"{where}: the image is of type {type_}; JPEG, PNG and WEBP are taken ({VISION})"
    return error("vendor-image", what, "convert it, such as to PNG")


def _check_data_url(url: str, where: str) -> Iterator[Finding]:
    """Find faults of an image that is embedded in the row."""
    head, comma, text = url.partition(",")
    type_, *options = head.removeprefix("data:").lower().split(";")
    if not comma or "base64" not in options:
        yield error(
            "vendor-image", f"{where}: {url[:40]!r} holds no base64 ({VISION})", "write data:image/png;base64,..."
        )
        return
    if len(text) * 3 // 4 > MAX_IMAGE_BYTES:
        yield error("vendor-image", f"{where}: the image is above 10 MB ({VISION})", "make it smaller")
        return
    if type_ not in _IMAGE_TYPES:
        yield _wrong_type_error(where, type_ or "none")
        return
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        yield error("vendor-image", f"{where}: the image's base64 cannot be read ({VISION})", "encode the file again")
        return
    if not data:
        yield error("vendor-image", f"{where}: the image is empty ({VISION})", "take it out")
        return
    real = _detect_type(data)
    if real is not None and real not in _IMAGE_TYPES:
        yield _wrong_type_error(where, real)
    elif real is not None and real != type_.replace("jpg", "jpeg"):
        what = f"{where}: the image says {type_} and is {real}"
        yield warning("vendor-image", what, f"write data:{real};base64,...")
    if real == "image/png" and len(data) > 25 and data[25] not in (2, 6):
        what = f"{where}: the PNG is neither RGB nor RGBA; such images may be left out ({VISION})"
        yield warning("vendor-image", what, "convert it to RGB")


def _detect_type(data: bytes) -> str | None:
    """Return the image type that the first bytes show; None for an unknown one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return {b"avif": "image/avif", b"heic": "image/heic"}.get(data[8:12])
    return next((type_ for prefix, type_ in _MAGIC_BYTES if data.startswith(prefix)), None)
