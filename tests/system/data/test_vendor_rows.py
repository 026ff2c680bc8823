"""The vendors' own rows and rules: what each refuses, with its source."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmtune.data.example import Example, ImagePart, Message, Preference, TextPart, ToolCall, chat
from llmtune.data.findings import Finding
from llmtune.data.formats.base import FileFacts, VendorRows
from llmtune.data.formats.registry import get_format, get_writer, vendor, vendors
from llmtune.errors import LlmtuneError, UnknownName

PROVIDERS = ("azure", "bedrock", "cohere", "nebius", "openai", "sagemaker", "tinker", "together", "vertex")


def test_every_vendor_registers() -> None:
    assert set(PROVIDERS) <= set(vendors())
    with pytest.raises(UnknownName, match="did you mean 'bedrock'"):
        vendor("bedrok")


def image(url: str, role: str = "user") -> Example:
    return Example((Message(role, (ImagePart(url), TextPart("what is it?"))), Message("assistant", "a cat")))


def pair(preferred: tuple[Message, ...], rejected: tuple[Message, ...]) -> Example:
    return Example((Message("user", "q"),), preference=Preference(preferred, rejected))


SAID = (Message("assistant", "a"),)
MANY = Example(
    (Message("user", tuple(ImagePart(f"https://a/{n}.png") for n in range(11))), Message("assistant", "cats"))
)

ROWS: list[tuple[str, str, str | None, Example, str | None]] = [
    ("openai", "sft", None, image("https://a/b.png"), None),
    ("openai", "sft", None, image("data:image/png;base64,AAAA"), None),
    ("openai", "sft", None, image("pictures/b.png"), "vendor-image"),
    ("openai", "sft", None, image("https://a/b.png", "assistant"), "vendor-image"),
    ("openai", "sft", None, image("data:image/png;base64," + "A" * 14_000_000), "vendor-image"),
    ("openai", "sft", None, MANY, "vendor-image"),
    ("azure", "sft", None, MANY, None),
    ("openai", "dpo", None, pair(SAID, SAID), None),
    ("openai", "dpo", None, pair(SAID * 2, SAID), "vendor-preference"),
    ("azure", "sft", None, chat(("user", "q"), ("assistant", "a"), ("user", "r")), "vendor-last-turn"),
    ("together", "sft", None, chat(("user", "q"), ("user", "r"), ("assistant", "a")), "vendor-role-order"),
    ("together", "sft", None, MANY, "vendor-image"),
    ("together", "dpo", None, pair(SAID, SAID * 2), "vendor-preference"),
    ("vertex", "sft", None, image("gs://bucket/b.png"), None),
    ("vertex", "sft", None, image("https://a/b.png"), "vendor-image"),
    ("vertex", "dpo", None, pair(SAID, SAID), None),
    ("vertex", "dpo", None, pair(SAID, SAID).replace(messages=SAID), "vendor-last-turn"),
    ("bedrock", "sft", None, chat(("user", "q"), ("assistant", "a")), None),
    ("bedrock", "sft", None, chat(("assistant", "a"), ("user", "q"), ("assistant", "a")), "vendor-role-order"),
    ("bedrock", "sft", None, chat(("user", "q"), ("assistant", "a"), ("user", "q")), "vendor-last-turn"),
    (
        "bedrock",
        "sft",
        "amazon.nova-lite-v1:0:300k",
        chat(("user", "User: q"), ("assistant", "a")),
        "vendor-reserved-word",
    ),
    ("bedrock", "sft", "meta.llama3-3-70b", chat(("user", "User: q"), ("assistant", "a")), None),
    ("bedrock", "sft", None, image("https://a/b.png"), "vendor-image"),
    ("cohere", "sft", None, chat(("user", "q"), ("assistant", "a")), None),
    ("cohere", "sft", None, chat(("system", "s"), ("assistant", "a")), "vendor-turns"),
    ("cohere", "sft", None, chat(("user", "q"), ("system", "s"), ("assistant", "a")), "vendor-role-order"),
]


@pytest.mark.parametrize(("provider", "method", "model", "example", "code"), ROWS)
def test_rules_on_rows(provider: str, method: str, model: str | None, example: Example, code: str | None) -> None:
    found = list(vendor(provider).row_rules(example, method, model))
    errors = {finding.code for finding in found if finding.is_error}
    assert errors == ({code} if code else set())
    if code:
        assert "(" in found[0].message  # the source stands behind the rule


def facts(**changes: Any) -> FileFacts:
    base: dict[str, Any] = {
        "role": "train",
        "path": "rows.jsonl",
        "rows": 1000,
        "size": 10_000_000,
        "tokens": 100_000,
        "exact_tokens": True,
        "format": "chat",
        "method": "sft",
        "model": None,
        "features": 0,
        "labels": {},
        "train_rows": None,
        "total_rows": 1000,
    }
    return FileFacts(**(base | changes))


FILES: list[tuple[str, dict[str, Any], str | None]] = [
    ("openai", {}, None),
    ("openai", {"rows": 9}, "vendor-rows"),
    ("openai", {"rows": 9, "role": "validation"}, None),
    ("openai", {"size": 9 * 1024**3}, "vendor-size"),
    ("azure", {"size": 600_000_000}, "vendor-size"),
    ("azure", {"rows": 3}, "vendor-rows"),
    ("together", {"rows": 0}, "vendor-rows"),
    ("together", {"size": 51 * 2**30}, "vendor-size"),
    ("vertex", {}, None),
    ("vertex", {"size": 1_000_000_001}, "vendor-size"),
    ("vertex", {"rows": 10_000_001}, "vendor-rows"),
    ("vertex", {"rows": 300_001, "features": 8}, "vendor-rows"),
    ("vertex", {"rows": 300_001}, None),
    ("vertex", {"role": "validation", "rows": 5001, "train_rows": 100_000}, "vendor-rows"),
    ("vertex", {"role": "validation", "rows": 1001, "train_rows": 2000}, "vendor-rows"),
    ("vertex", {"role": "validation", "rows": 900, "train_rows": 2000}, None),
    ("bedrock", {"rows": 5}, None),
    ("bedrock", {"rows": 31, "model": "anthropic.claude-3-haiku-20240307-v1:0:200k"}, "vendor-rows"),
    ("bedrock", {"rows": 10_001, "model": "anthropic.claude-3-haiku-20240307-v1:0:200k"}, "vendor-rows"),
    ("bedrock", {"rows": 199, "model": "amazon.nova-2-lite-v1:0:256k"}, "vendor-rows"),
    ("bedrock", {"rows": 50, "total_rows": 99, "model": "meta.llama3-1-8b-instruct-v1:0:128k"}, "vendor-rows"),
    ("bedrock", {"rows": 50, "total_rows": 100, "model": "meta.llama3-1-8b-instruct-v1:0:128k"}, None),
    ("bedrock", {"role": "validation", "rows": 1001, "model": "cohere.command-light-text-v14"}, "vendor-rows"),
    ("cohere", {"rows": 1}, "vendor-rows"),
    ("cohere", {"method": "classification", "rows": 100, "labels": {"a": 96, "b": 4}}, "vendor-labels"),
    ("cohere", {"method": "classification", "rows": 39, "labels": {"a": 20, "b": 19}}, "vendor-rows"),
    ("cohere", {"method": "classification", "rows": 100, "labels": {"a": 50, "b": 50}}, None),
]


@pytest.mark.parametrize(("provider", "changes", "code"), FILES)
def test_rules_on_files(provider: str, changes: dict[str, Any], code: str | None) -> None:
    found = {finding.code for finding in vendor(provider).file_rules(facts(**changes)) if finding.is_error}
    assert (code in found) if code else not {found_code for found_code in found if found_code != "vendor-labels"}


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [
        ("openai", "gpt-4.1-mini-2025-04-14", 65_536),
        ("openai", "gpt-3.5-turbo-0125", 16_385),
        ("vertex", "gemini-2.5-flash", 131_072),
        ("vertex", "qwen/qwen3@qwen3-32b", 8192),
        ("bedrock", "anthropic.claude-3-haiku-20240307-v1:0:200k", 32_000),
        ("bedrock", "meta.llama3-2-90b-instruct-v1:0:128k", 10_000),
        ("bedrock", "amazon.nova-pro-v1:0:300k", None),
        ("sagemaker", "huggingface-reasoning-qwen3-8b", 4096),
        ("sagemaker", "nova-textgeneration-lite-v2", None),
        ("cohere", None, 16_384),
        ("together", "any", None),
    ],
)
def test_token_limits(provider: str, model: str | None, tokens: int | None) -> None:
    limit = vendor(provider).token_limit("sft", model)
    assert (limit.tokens if limit else None) == tokens


@pytest.mark.parametrize(
    ("provider", "method", "model", "name"),
    [
        ("openai", "sft", None, "openai"),
        ("openai", "dpo", None, "openai_preference"),
        ("azure", "reinforcement", None, "openai_reinforcement"),
        ("vertex", "dpo", None, "gemini_preference"),
        ("bedrock", "sft", "amazon.nova-micro-v1:0:128k", "bedrock_converse"),
        ("bedrock", "sft", "anthropic.claude-3-haiku-20240307-v1:0:200k", "claude"),
        ("bedrock", "sft", "meta.llama3-1-8b-instruct-v1:0:128k", "bedrock_prompt_completion"),
        ("bedrock", "sft", "meta.llama3-3-70b-instruct-v1:0:128k", "bedrock_converse"),
        ("sagemaker", "sft", None, "sagemaker_chat"),
        ("sagemaker", "dpo", None, "sagemaker_preference"),
        ("sagemaker", "sft", "nova-textgeneration-lite-v2", "bedrock_nova_2"),
        ("cohere", "classification", None, "cohere_classification"),
        ("together", "sft", None, "together"),
    ],
)
def test_a_provider_names_its_format(provider: str, method: str, model: str | None, name: str) -> None:
    assert get_format(provider, method=method, model=model).name == name


def test_a_method_a_provider_does_not_take_is_answered() -> None:
    with pytest.raises(LlmtuneError, match="nebius takes no 'dpo' rows; it takes sft"):
        get_format("nebius", method="dpo")


TOOLED = Example(
    (
        Message("system", "s"),
        Message("user", "add 1 and 2, and 3 and 4"),
        Message("assistant", "gladly", (ToolCall("call_1", "add", '{"x":1}'), ToolCall("call_2", "add", '{"x":3}'))),
        Message("tool", '{"sum":3}', (), "call_1", "add"),
        Message("tool", "seven", (), "call_2", "add"),
        Message("assistant", "3 and 7"),
    ),
    ({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"x": {}}}}},),
)


def back(name: str, example: Example) -> tuple[dict[str, Any], Example]:
    fmt = get_format(name)
    row = fmt.write(example)
    faults: list[Finding] = []
    read = fmt.read(row, None, faults)
    assert faults == []
    return row, read


def test_calls_and_answers_in_gemini_rows() -> None:
    row, read = back("gemini", TOOLED)
    assert read == TOOLED
    assert row["systemInstruction"] == {"parts": [{"text": "s"}]}
    user, model, answers, last = row["contents"]
    assert model["parts"] == [
        {"text": "gladly"},
        {"functionCall": {"name": "add", "args": {"x": 1}}},
        {"functionCall": {"name": "add", "args": {"x": 3}}},
    ]
    assert answers == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "add", "response": {"sum": 3}}},
            {"functionResponse": {"name": "add", "response": {"content": "seven"}}},
        ],
    }
    assert row["tools"][0]["functionDeclarations"][0]["name"] == "add"
    assert (user["role"], last["role"]) == ("user", "model")


def test_calls_and_answers_in_converse_rows() -> None:
    plain = TOOLED.replace(messages=tuple(turn.replace(name=None) for turn in TOOLED.messages))
    row, read = back("bedrock_converse", plain)
    assert read == plain
    assert row["messages"][1]["content"][1] == {"toolUse": {"toolUseId": "call_1", "name": "add", "input": {"x": 1}}}
    assert [block["toolResult"]["toolUseId"] for block in row["messages"][2]["content"]] == ["call_1", "call_2"]
    assert row["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {
        "json": {"type": "object", "properties": {"x": {}}}
    }


@pytest.mark.parametrize(
    ("name", "url", "part"),
    [
        ("gemini", "gs://b/c.png", {"fileData": {"mimeType": "image/png", "fileUri": "gs://b/c.png"}}),
        ("gemini", "data:image/webp;base64,AAAA", {"inlineData": {"mimeType": "image/webp", "data": "AAAA"}}),
        ("bedrock_converse", "s3://b/c.jpg", {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://b/c.jpg"}}}}),
        ("bedrock_converse", "data:image/png;base64,AAAA", {"image": {"format": "png", "source": {"bytes": "AAAA"}}}),
        ("openai", "https://a/b.png", {"type": "image_url", "image_url": {"url": "https://a/b.png"}}),
    ],
)  # fmt: skip
def test_images_in_every_format_that_has_them(name: str, url: str, part: dict[str, Any]) -> None:
    row, read = back(name, image(url))
    turn = (row.get("contents") or row["messages"])[0]
    assert (turn.get("parts") or turn["content"])[0] == part
    assert read.messages[0].images[0].url == url


def test_parts_of_a_formats_own_come_back_and_others_refuse() -> None:
    row = {
        "messages": [
            {"role": "user", "content": [{"text": "q"}, {"video": {"format": "mp4", "source": {"bytes": "x"}}}]},
            {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "a"}]},
        ],
        "schemaVersion": "bedrock-conversation-2024",
    }
    converse, nova_2 = get_format("bedrock_converse"), get_format("bedrock_nova_2")
    example = converse.read(row, 1, [])
    assert example.messages[1] == Message("assistant", "a", reasoning="hm")
    assert nova_2.write(example) == row
    assert [finding.code for finding in nova_2.problems(example) if finding.is_error] == []
    assert [finding.code for finding in converse.problems(example)] == ["lost-reasoning"]
    assert converse.write(example)["messages"][1] == {"role": "assistant", "content": [{"text": "a"}]}
    for name in ("openai", "gemini", "chat", "claude"):
        assert "lost-part" in {finding.code for finding in get_format(name).problems(example)}


def test_openai_rows_hold_what_its_schema_knows() -> None:
    turns = (
        Message("user", "q", weight=0),
        Message("assistant", "a", weight=0),
        Message("user", "r"),
        Message("assistant", "b", weight=1),
    )
    example = Example(turns, extra={"parallel_tool_calls": False, "id": 3})
    fmt = get_format("openai")
    assert fmt.write(example) == {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "user", "content": "r"},
            {"role": "assistant", "content": "b", "weight": 1},
        ],
        "parallel_tool_calls": False,
    }
    (finding,) = fmt.problems(example)
    assert (finding.code, finding.severity) == ("changed-extra", "warning")
    assert "'id'" in finding.message


def test_preference_rows_leave_out_what_people_keep_beside_them() -> None:
    beside = {"annotator": "p-12", "parallel_tool_calls": True}
    asked = {"role": "user", "content": "q", "annotator": "p-12"}
    better, worse = ({"role": "assistant", "content": text, "mail": "ann@harbour.example"} for text in "ab")
    row = {
        "input": {"messages": [asked], **beside},
        "preferred_output": [better],
        "non_preferred_output": [worse],
        "ticket": 4,
    }
    example = get_format("preference").read(row, 1, [])
    for name in ("openai_preference", "together"):
        fmt = get_format(name)
        written = fmt.write(example)
        assert not {"annotator", "mail", "ticket"} & set(re.findall(r"\w+", str(written)))
        assert [written[key][0]["content"] for key in ("preferred_output", "non_preferred_output")] == ["a", "b"]
        assert {"ticket", "messages[].annotator", "messages[].mail"} < set(fmt.left_out(example))
    assert get_format("openai_preference").write(example)["input"]["parallel_tool_calls"] is True
    assert "input.annotator" in get_format("openai_preference").left_out(example)


def codes(name: str, example: Example) -> set[str]:
    return {finding.code for finding in get_format(name).problems(example)}


def test_what_each_format_cannot_carry_is_named() -> None:
    masked = Example(
        (*chat(("user", "q"), ("assistant", "a")).messages, Message("user", "r"), SAID[0].replace(weight=0))
    )
    for name in ("gemini", "claude", "bedrock_converse", "cohere_chat"):
        (finding,) = get_format(name).problems(masked)
        assert finding.code == "lost-weight"
        assert "messages[3]" in finding.message
    for name in ("openai", "together", "chat"):
        assert not codes(name, masked)
    text = Example(text="words")
    assert not codes("together", text)
    assert codes("openai", text) == {"cannot-text"}
    assert "cannot-prefer" in codes("openai_preference", masked)
    assert codes("cohere_classification", chat(("user", "q"), ("assistant", "x" * 99))) == {"cannot-label"}
    assert codes("claude", TOOLED) == {"lost-tools"}


def test_the_limits_of_rows_and_of_capabilities_agree() -> None:
    """Row counts and sizes are told twice, before a job is planned and when it is: they must say the same."""
    from llmtune.provider.registry import get_provider
    from llmtune.provider.types import Target

    models = {
        "openai": "gpt-4.1-mini-2025-04-14",
        "azure": "gpt-4.1-mini-2025-04-14",
        "vertex": "gemini-2.5-flash",
        "together": "Qwen/Qwen3-8B",
        "cohere": "command-r",
        "bedrock": "anthropic.claude-3-haiku-20240307-v1:0:200k",
    }
    for name, model in models.items():
        target = Target(provider=name, kind=name, model=model)
        limits = get_provider(name).capabilities(target).limits
        rules: VendorRows = vendor(name)

        def told(rules: VendorRows = rules, model: str = model, **changes: Any) -> bool:
            return any(finding.is_error for finding in rules.file_rules(facts(model=model, **changes)))

        if limits.min_rows is not None:
            assert told(rows=limits.min_rows - 1, total_rows=10_000), name
            assert not told(rows=limits.min_rows), name
        if limits.max_rows is not None:
            assert told(rows=limits.max_rows + 1), name
            assert not told(rows=limits.max_rows), name
        if limits.max_bytes is not None:
            assert told(size=limits.max_bytes + 1), name
            assert not told(size=limits.max_bytes), name
        written = get_format(limits.format)
        assert written.name == rules.format_for("sft", model), name


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_plan_and_a_check_ask_the_same_writer(method: str) -> None:
    from llmtune.provider.registry import get_provider
    from llmtune.provider.types import Target

    for name, rules in vendors().items():
        provider = get_provider(name)
        capabilities = provider.capabilities(Target(provider=name, kind=name, model="", method=method))
        if capabilities.methods.get(method) is True:
            assert get_writer(capabilities.limits.format) is get_writer(rules.format_for(method)), name
