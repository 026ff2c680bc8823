"""What OpenAI refuses of a row beyond its schema: reserved tokens, tools, images; Azure alike, but for its limits."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llmtune.data.checks.check import check
from llmtune.data.example import Example, ImagePart, Message, Preference, TextPart, ToolCall
from llmtune.data.findings import Finding
from llmtune_openai.row_rules import azure_row_rules, find_schema_fault, row_rules

SAY = Message("assistant", "Until six.")


def errors(example: Example, *, model: str | None = None, rules: Any = row_rules) -> list[Finding]:
    return [finding for finding in rules(example, "sft", model) if finding.is_error]


def asked(text: str) -> Example:
    return Example((Message("user", text), SAY))


@pytest.mark.parametrize("rules", [row_rules, azure_row_rules])
@pytest.mark.parametrize(
    ("example", "where"),
    [
        (asked("Remove <|endoftext|> here"), "messages[0]"),
        (asked("<|fim_middle|>"), "messages[0]"),
        (Example((Message("user", (TextPart("a"), TextPart("<|endofprompt|>"))), SAY)), "messages[0]"),
        (Example((Message("system", "End with <|im_end|>"), Message("user", "q"), SAY)), "messages[0]"),
        (Example((Message("user", "q"), SAY.replace(content="a<|im_start|>"))), "messages[1]"),
        (
            Example((Message("user", "q"), Message("assistant", None, (ToolCall("c", "f", '{"a": "<|im_sep|>"}'),)))),
            "messages[1]: f",
        ),
        (
            Example(
                (Message("user", "q"), SAY),
                ({"function": {"name": "f", "description": "stops at <|endoftext|>"}},),
            ),
            "tools[0]",
        ),
        (
            Example((Message("user", "q"),), preference=Preference((SAY,), (Message("assistant", "<|fim_suffix|>"),))),
            "messages[2]",
        ),
    ],
)
def test_reserved_tokens_are_refused_wherever_they_stand(example: Example, where: str, rules: Any) -> None:
    (finding,) = errors(example, rules=rules)
    assert finding.code == "vendor-reserved-word"
    assert finding.message.startswith(f"{where}: '<|")
    assert "invalid token" in finding.message


@pytest.mark.parametrize("text", ["<|", "a <|b|> c", "<endoftext>", "<| endoftext |>", "endoftext"])
def test_what_only_looks_like_a_token_is_let_through(text: str) -> None:
    assert errors(asked(text)) == []


@pytest.mark.parametrize("model", ["gpt-4.1-mini-2025-04-14", "ft:gpt-4o:x", "o4-mini-2025-04-16", None])
def test_tokens_are_those_of_its_own_models(model: str | None) -> None:
    assert errors(asked("<|im_end|>"), model=model)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "gpt-oss-20b", "Ministral-3B"])
def test_models_of_others_have_other_tokens(model: str) -> None:
    assert errors(asked("<|im_end|>"), model=model) == []


def offering(**function: Any) -> Example:
    return Example((Message("user", "q"), SAY), ({"type": "function", "function": {"name": "find", **function}},))


@pytest.mark.parametrize("name", ["find", "f", "find-ship_2", "F" * 64])
def test_names_of_functions_that_are_taken(name: str) -> None:
    assert errors(offering(name=name)) == []


@pytest.mark.parametrize("name", ["find ship", "find!", "schiff.suchen", "", "F" * 65, "fähre", "a\nb", "find\n"])
def test_names_of_functions_that_are_not(name: str) -> None:
    (finding,) = errors(offering(name=name))
    assert finding.code == "vendor-tools"
    assert repr(name) in finding.message
    called = Example((Message("user", "q"), Message("assistant", None, (ToolCall("c", name, "{}"),))))
    (finding,) = errors(called)
    assert finding.message.startswith("messages[1]: a function is named")


def test_at_most_128_tools() -> None:
    tools = tuple({"type": "function", "function": {"name": f"f{number}"}} for number in range(129))
    turns = (Message("user", "q"), SAY)
    assert errors(Example(turns, tools[:128])) == []
    (finding,) = errors(Example(turns, tools))
    assert "129 tools; at most 128" in finding.message


STRICT = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"], "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"at": {"type": ["string", "null"]}, "all": True}},
        {"type": "object", "properties": {"at": {"$ref": "#/$defs/place"}}, "$defs": {"place": {"type": "string"}}},
        {"type": "object", "properties": {"type": {"type": "string"}, "items": {"type": "integer"}}},
        {"type": "object", "properties": {"all": {"type": "array", "items": {"anyOf": [{"type": "null"}, {}]}}}},
        STRICT,
    ],
)
def test_schemas_that_are_sound(schema: dict[str, Any]) -> None:
    assert find_schema_fault(schema, "parameters") is None
    assert errors(offering(parameters=schema)) == []


@pytest.mark.parametrize(
    ("schema", "location"),
    [
        ({"type": "object", "properties": {"at": {"type": "text"}}}, "parameters.properties.at.type is 'text'"),
        ({"type": "object", "properties": {"at": "string"}}, "parameters.properties.at is 'string'"),
        ({"type": "object", "properties": ["at"]}, "parameters.properties is no object"),
        ({"type": "object", "properties": {}, "required": "at"}, "parameters.required is no list"),
        ({"type": "object", "properties": {"all": {"type": "array"}}}, "parameters.properties.all is an array without"),
        ({"type": "object", "properties": {"at": {"enum": []}}}, "parameters.properties.at.enum"),
        ({"type": "object", "properties": {"at": {"anyOf": [{"type": "str"}]}}}, "at.anyOf[0].type is 'str'"),
        ({"type": "object", "additionalProperties": {"type": 1}}, "parameters.additionalProperties.type is 1"),
    ],
)
def test_schemas_that_are_not(schema: dict[str, Any], location: str) -> None:
    (finding,) = errors(offering(parameters=schema))
    assert finding.code == "vendor-tools"
    assert location in finding.message


def test_a_strict_function_is_held_to_more() -> None:
    assert errors(offering(parameters=STRICT, strict=True)) == []
    assert errors(offering(parameters={**STRICT, "required": []})) == []
    (finding,) = errors(offering(parameters={**STRICT, "required": []}, strict=True))
    assert "must name every property, and 'at' is missing" in finding.message
    (finding,) = errors(offering(parameters={**STRICT, "additionalProperties": True}, strict=True))
    assert "additionalProperties false" in finding.message


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\0\0\1" * 2 + b"\x08\2"
JPEG, GIF, WEBP = b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 "


def shown(url: str, **fields: Any) -> Example:
    return Example((Message("user", (ImagePart(url, **fields), TextPart("What is it?"))), SAY))


def data_url(content: bytes, type_: str) -> str:
    return f"data:{type_};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        data_url(PNG, "image/png"),
        data_url(JPEG, "image/jpeg"),
        data_url(JPEG, "image/jpg"),
        data_url(WEBP, "image/webp"),
        "https://pier.example/a.jpeg",
        "http://pier.example/picture?id=4",
        "https://pier.example/A.WEBP",
    ],
)
@pytest.mark.parametrize("rules", [row_rules, azure_row_rules])
def test_images_that_are_taken(url: str, rules: Any) -> None:
    assert list(rules(shown(url), "sft", None)) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (data_url(GIF, "image/gif"), "of type image/gif; JPEG, PNG and WEBP are taken"),
        (data_url(GIF, "image/png"), "of type image/gif"),
        (data_url(b"<svg xmlns=''/>", "image/svg+xml"), "of type image/svg+xml"),
        ("https://pier.example/a.gif", "of type image/gif"),
        ("https://pier.example/a.tiff?size=2", "of type image/tiff"),
        ("data:image/png;base64,AA*A", "base64 cannot be read"),
        ("data:image/png;base64,AAAAA", "base64 cannot be read"),
        ("data:image/png;base64,", "the image is empty"),
        ("data:image/png,AAAA", "holds no base64"),
        ("pictures/a.png", "neither an http address nor a data URL"),
        ("gs://pier/a.png", "neither an http address nor a data URL"),
        ("https:///a.png", "neither an http address nor a data URL"),
    ],
)
@pytest.mark.parametrize("rules", [row_rules, azure_row_rules])
def test_images_that_are_not(url: str, expected: str, rules: Any) -> None:
    (finding,) = errors(shown(url), rules=rules)
    assert finding.code == "vendor-image"
    assert finding.message.startswith("messages[0]: ")
    assert expected in finding.message


def test_an_image_that_is_of_another_type_than_it_says_is_a_warning() -> None:
    (finding,) = row_rules(shown(data_url(JPEG, "image/png")), "sft", None)
    assert (finding.severity, "is image/jpeg" in finding.message) == ("warning", True)


def test_a_png_in_grey_is_a_warning() -> None:
    (finding,) = row_rules(shown(data_url(PNG[:-1] + b"\0", "image/png")), "sft", None)
    assert (finding.severity, "neither RGB nor RGBA" in finding.message) == ("warning", True)


def test_detail_has_three_values() -> None:
    assert errors(shown("https://pier.example/a.png", detail="high")) == []
    assert "is '4k'; expected auto, low or high" in errors(shown("https://pier.example/a.png", detail="4k"))[0].message


def test_findings_name_the_turn_as_the_row_does(rows_file: Any) -> None:
    turns = [{"from": "human", "value": "What is <|endoftext|>?"}, {"from": "gpt", "value": "A token."}]
    path = rows_file([{"system": "Be brief.", "conversations": turns}] * 12)
    (finding, *_) = check(path, provider="openai").findings
    assert (finding.code, finding.line) == ("vendor-reserved-word", 1)
    assert finding.message.startswith("conversations[0]: '<|endoftext|>'")
