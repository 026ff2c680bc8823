"""The declarations and the row rules tell one story: formats, limits, unused validation sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.checks.check import check
from llmtune.data.dataset import Dataset
from llmtune.data.example import ImagePart
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import get_format
from llmtune.job.spec import DatasetSpec
from llmtune.provider.generation import GenerationRequest
from llmtune_bedrock import BedrockProvider
from llmtune_bedrock.capabilities import FAMILIES
from llmtune_bedrock.inference import converse
from llmtune_bedrock.rows import BEDROCK_ROWS
from tests.providers.llmtune_bedrock.conftest import receipt_for
from tests.providers.llmtune_bedrock.test_declarations import MODELS


@pytest.mark.parametrize("family", MODELS)
def test_formats_and_token_limits_are_the_same_on_both_sides(family: str) -> None:
    model = MODELS[family]
    assert BEDROCK_ROWS.format_for("sft", model) == FAMILIES[family].limits.format
    limit = BEDROCK_ROWS.token_limit("sft", model)
    declared = FAMILIES[family].limits.max_tokens_per_row
    if declared is not None:
        assert limit is not None
        assert limit.tokens == declared


@pytest.mark.parametrize("family", MODELS)
def test_rows_are_written_in_the_familys_own_format(family: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            f'{{"messages": [{{"role": "system", "content": "S"}}, {{"role": "user", "content": "q{n}"}},'
            f' {{"role": "assistant", "content": "a{n}"}}]}}\n'
            for n in range(300)
        )
    )
    provider = BedrockProvider()
    dataset = Dataset.from_spec(DatasetSpec(path=str(path)))
    files = provider.encode(dataset, receipt_for(provider, MODELS[family]), tmp_path / "out")
    assert {file.format for file in files.files} == {FAMILIES[family].limits.format}
    assert (files.file("validation") is None) is (family == "nova-2")
    first = (files.files[0].path).read_text().splitlines()[0]
    converse = '"schemaVersion"'
    mark = {
        "bedrock_converse": converse,
        "bedrock_nova_2": converse,
        "claude": '"system":"S"',
        "bedrock_prompt_completion": '"prompt"',
    }
    assert mark[FAMILIES[family].limits.format] in first


ROW = {
    "schemaVersion": "bedrock-conversation-2024",
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "Which flag?"},
                {
                    "image": {
                        "format": "png",
                        "source": {"s3Location": {"uri": "s3://pier/flag.png", "bucketOwner": "12"}},
                    }
                },
            ],
        },
        {"role": "assistant", "content": [{"text": "The pilot flag."}]},
    ],
}


def test_the_owner_of_the_bucket_is_kept() -> None:
    fmt = get_format("bedrock_converse")
    faults: list[Finding] = []
    example = fmt.read(orjson.loads(orjson.dumps(ROW)), None, faults)
    assert faults == []
    assert example.messages[0].images == (ImagePart("s3://pier/flag.png", "image/png", bucket_owner="12"),)
    assert fmt.problems(example) == []
    assert fmt.write(example) == ROW


def test_prompt_and_completion_rows_hold_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"q {n}", "completion": f"a {n}", "mail": "ann@pier.example"} for n in range(300)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    model = MODELS["llama-3.1"]
    (finding,) = [
        finding for finding in check(path, provider="bedrock", model=model).findings if "mail" in finding.message
    ]
    assert finding.code == "changed-extra"
    assert "leave out 1 key: 'mail' (300 rows)" in finding.message
    provider = BedrockProvider()
    dataset = Dataset.from_spec(DatasetSpec(train=str(path), split=(1.0, 0.0, 0.0)))
    (file, *_) = provider.encode(dataset, receipt_for(provider, model), tmp_path / "out").files
    assert file.path.read_bytes() == b"".join(
        orjson.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) + b"\n" for n in range(300)
    )


def test_a_result_keeps_its_status_and_nothing_of_other_rows() -> None:
    fmt = get_format("bedrock_converse")
    use = {"toolUse": {"toolUseId": "c", "name": "tide", "input": {}}}
    result = {"toolResult": {"toolUseId": "c", "content": [{"text": "no such place"}], "status": "error"}}
    row = {
        "schemaVersion": "bedrock-conversation-2024",
        "messages": [
            {"role": "user", "content": [{"text": "Tide?"}]},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": [{"text": "I do not know."}]},
        ],
    }
    example = fmt.read(row, None, [])
    assert fmt.write(example) == row
    assert fmt.problems(example) == []
    noted = tuple(turn.replace(extra={"user_id": "u4"}) for turn in example.messages)
    assert "u4" not in str(fmt.write(example.replace(messages=noted)))
    assert fmt.left_out(example.replace(messages=noted)) == ["messages[].user_id"]


def test_an_image_is_asked_with_as_it_was_trained_with() -> None:
    example = get_format("bedrock_converse").read(orjson.loads(orjson.dumps(ROW)), None, [])
    body = converse(GenerationRequest(messages=example.prompt(), max_tokens=5))
    assert body["messages"] == ROW["messages"][:1]


def answered(*blocks: Any) -> dict[str, Any]:
    use, result = {"toolUseId": "t1", "name": "tide", "input": {}}, {"toolUseId": "t1", "content": list(blocks)}
    turns: list[tuple[str, Any]] = [
        ("user", {"text": "Is it high?"}),
        ("assistant", {"toolUse": use}),
        ("user", {"toolResult": result}),
        ("assistant", {"text": "It is."}),
    ]
    return {
        "schemaVersion": "bedrock-conversation-2024",
        "messages": [{"role": role, "content": [block]} for role, block in turns],
    }


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([{"json": {"metres": 2.5}}], '{"metres":2.5}'),
        ([{"text": '{"metres":2.5}'}], '{"metres":2.5}'),
        ([{"text": "two"}, {"json": [2.5]}], "two\n[2.5]"),
        ([{"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/a.png"}}}}], ""),
        ([{"document": {"format": "pdf", "name": "n", "source": {"s3Location": {"uri": "s3://b/a.pdf"}}}}], ""),
    ],
)
def test_the_blocks_of_a_result_come_back_as_they_were(blocks: list[Any], text: str) -> None:
    faults: list[Finding] = []
    rows = get_format("bedrock_converse")
    example = rows.read(answered(*blocks), 1, faults)
    assert faults == rows.problems(example) == []
    assert example.messages[2].words == text
    assert rows.write(example)["messages"][2]["content"][0]["toolResult"]["content"] == blocks
