"""What is written for OpenAI is what its published row schema allows, and what the schema refuses is refused here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from llmtune.data.checks.check import check
from llmtune.data.example import Example, Message, TextPart, ToolCall
from llmtune.data.formats.registry import get_format
from llmtune.data.io.reading import load, read
from tests.providers.llmtune_openai.test_requests import modern

ASK, SAY = {"role": "user", "content": "Open?"}, {"role": "assistant", "content": "Until six."}
CALL = {"id": "c1", "type": "function", "function": {"name": "hours", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "hours", "parameters": {"type": "object", "properties": {}}}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "6 pm"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "https://pier.example/a.png", "detail": "low"}}
#: Rows that people have, in formats that are read.
SOUND: dict[str, dict[str, Any]] = {
    "plain": {"messages": [ASK, SAY]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, ASK, SAY]},
    "weights": {"messages": [ASK, SAY | {"weight": 0}, ASK, SAY | {"weight": 1}]},
    "flag": {"messages": [ASK, SAY | {"train": False}, ASK, SAY]},
    "extras": {"messages": [ASK | {"user_id": 4}, SAY], "mail": "ann@harbour.example"},
    "responses": {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "Open?"}]}, SAY]},
    "picture": {"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "What?"}]}, SAY]},
    "tool": {"messages": [ASK, {"role": "assistant", "tool_calls": [CALL]}, RESULT, SAY], "tools": [TOOL]},
    "untyped tool": {"messages": [ASK, SAY], "tools": [{"function": {"name": "hours"}}]},
    "functions": {
        "messages": [
            ASK,
            {"role": "assistant", "content": None, "function_call": {"name": "hours", "arguments": "{}"}},
            {"role": "function", "name": "hours", "content": "6 pm"},
            SAY,
        ],
        "functions": [{"name": "hours", "parameters": {"type": "object", "properties": {}}}],
    },
    "no calls at once": {"messages": [ASK, SAY], "tools": [TOOL], "parallel_tool_calls": False},
    "sharegpt": {"conversations": [{"from": "human", "value": "Open?"}, {"from": "gpt", "value": "Until six."}]},
    "prompt and completion": {"prompt": "Open?", "completion": "Until six."},
    "lists of messages": {"prompt": [ASK, SAY, ASK], "completion": [SAY]},
    "lists of parts": {"prompt": [{"type": "text", "text": "What?"}, PICTURE], "completion": "A kite."},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]},
    "preference": {"input": {"messages": [ASK]}, "preferred_output": [SAY], "non_preferred_output": [SAY]},
    "pair": {"prompt": "Open?", "chosen": "Yes.", "rejected": "No.", "source": "desk"},
    "pair with a tool": {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY], "tools": [TOOL]},
}


@pytest.fixture(scope="module")
def schemas(shared: Path) -> Callable[[str], Draft202012Validator]:
    """Return a reader of the published row schemas. The key names of the guides replace older ones in them."""
    folder = shared / "specs"
    names = ("openai-finetune-row-schemas-2025-05-20.yaml", "openai-finetune-subset.examples.yaml")
    paths = [folder / name for name in names]
    if not all(path.is_file() for path in paths):
        pytest.skip("the published row schemas are not here")
    yaml = YAML(typ="safe")
    rows, spec = (modern(yaml.load(path.read_text(encoding="utf-8"))) for path in paths)
    pair = rows["FineTunePreferenceRequestInput"]
    older = pair["properties"]
    pair["properties"] = {key.replace("completion", "output"): schema for key, schema in older.items()}
    pair["required"] = ["input", "preferred_output", "non_preferred_output"]
    components = spec["components"]
    components["schemas"] |= {name: schema for name, schema in rows.items() if name.startswith("FineTune")}

    def find(name: str) -> Draft202012Validator:
        return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})

    return find


SCHEMAS = {"sft": "FineTuneChatRequestInput", "dpo": "FineTunePreferenceRequestInput"}


def write_for_openai(examples: list[Example]) -> list[tuple[str, dict[str, Any]]]:
    """Write the rows, each with its method, without those that cannot be written."""
    out = []
    for example in examples:
        method = "dpo" if example.preference is not None else "sft"
        fmt = get_format("openai", method=method)
        if not any(finding.is_error for finding in fmt.problems(example)):
            out.append((method, json.loads(orjson.dumps(fmt.write(example)))))
    return out


@pytest.mark.parametrize("name", SOUND)
def test_what_is_written_is_a_row_of_the_published_schema(name: str, schemas: Any, rows_file: Any) -> None:
    path = rows_file([SOUND[name]] * 12)
    assert {finding.code for finding in check(path, provider="openai").findings if finding.is_error} == set()
    ((method, row),) = write_for_openai(load(path)[:1])
    assert [error.message for error in schemas(SCHEMAS[method]).iter_errors(row)] == []


@pytest.mark.slow
def test_so_are_the_files_that_are_about(schemas: Any, shared: Path) -> None:
    count = 0
    for path in sorted((shared / "data" / "vendor_training").glob("*/*.jsonl")):
        examples = [row for row in read(path) if isinstance(row, Example)][:50]
        for method, row in write_for_openai(examples):
            assert [error.message for error in schemas(SCHEMAS[method]).iter_errors(row)] == [], path
            count += 1
    assert count > 100


#: Rows that the schema refuses. As they stand: how they would be written is another question.
BROKEN: dict[str, dict[str, Any]] = {
    "no messages": {"messages": []},
    "unknown role": {"messages": [ASK | {"role": "agent"}, SAY]},
    "no role": {"messages": [{"content": "Open?"}, SAY]},
    "content is a number": {"messages": [ASK | {"content": 4}, SAY]},
    "weight is no integer": {"messages": [ASK, SAY | {"weight": 0.5}]},
    "call without a name": {"messages": [ASK, {"role": "assistant", "tool_calls": [CALL | {"function": {}}]}]},
    "result of no call": {"messages": [ASK, {"role": "tool", "content": "6 pm"}, SAY]},
    "empty parts": {"messages": [ASK | {"content": []}, SAY]},
    "tools are text": {"messages": [ASK, SAY], "tools": "hours"},
    "tool without a name": {"messages": [ASK, SAY], "tools": [{"type": "function", "function": {}}]},
    "tool of another type": {"messages": [ASK, SAY], "tools": [TOOL | {"type": "retrieval"}]},
    "description is a number": {
        "messages": [ASK, SAY],
        "tools": [{"type": "function", "function": {"name": "hours", "description": 4}}],
    },
    "strict is text": {
        "messages": [ASK, SAY],
        "tools": [{"type": "function", "function": {"name": "hours", "strict": "yes"}}],
    },
    "parameters are a list": {
        "messages": [ASK, SAY],
        "tools": [{"type": "function", "function": {"name": "hours", "parameters": []}}],
    },
    "flag is text": {"messages": [ASK, SAY], "tools": [TOOL], "parallel_tool_calls": "no"},
    "detail": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b", "detail": "4k"}}]},
            SAY,
        ]
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_schema_refuses_is_refused(name: str, schemas: Any, rows_file: Any) -> None:
    assert list(schemas(SCHEMAS["sft"]).iter_errors(BROKEN[name]))
    path = rows_file([{"messages": [ASK, SAY]}, BROKEN[name]])
    assert {finding.line for finding in check(path, provider="openai").findings if finding.is_error} >= {2}


def test_a_result_of_a_tool_is_written_as_a_text() -> None:
    parts = (TextPart("Open until"), TextPart("six."))
    turns = (
        Message("user", "Open?"),
        Message("assistant", None, (ToolCall("c1", "hours", "{}"),)),
        Message("tool", parts, (), "c1"),
        Message("assistant", (TextPart("Yes."), TextPart("Until six."))),
    )
    written = get_format("openai").write(Example(turns))["messages"]
    assert written[2] == {"role": "tool", "content": "Open until\nsix.", "tool_call_id": "c1"}
    assert written[3]["content"] == [{"type": "text", "text": "Yes."}, {"type": "text", "text": "Until six."}]


def test_parallel_tool_calls_is_written_and_so_is_not_called_unused(rows_file: Any) -> None:
    path = rows_file([SOUND["no calls at once"]] * 12)
    assert [
        finding for finding in check(path, provider="openai").findings if "parallel_tool_calls" in finding.message
    ] == []
    ((_, row),) = write_for_openai(load(path)[:1])
    assert row["parallel_tool_calls"] is False
