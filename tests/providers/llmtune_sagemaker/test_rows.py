"""Rows for open models, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.data.example import Example, ImagePart, Message, Preference, TextPart
from llmtune.data.formats.base import FileFacts
from llmtune_sagemaker.rows import SAGEMAKER_ROWS, SageMakerPairs, SageMakerRows, row_rules
from tests.providers.llmtune_sagemaker.conftest import NOVA, QWEN

TURNS = (Message("system", "Name it."), Message("user", "q"), Message("assistant", "a"))


def test_supervised_rows_hold_roles_and_texts() -> None:
    row = SageMakerRows().write(Example((*TURNS[:2], Message("assistant", (TextPart("a"), TextPart("b"))))))
    assert [set(turn) for turn in row["messages"]] == [{"role", "content"}] * 3
    assert row["messages"][0] == {"role": "system", "content": "Name it."}
    assert all(isinstance(turn["content"], str) for turn in row["messages"])


def test_preference_rows_hold_lists_of_messages() -> None:
    pair = Preference((Message("assistant", "good"),), (Message("assistant", "bad"),))
    example = Example(TURNS[:2], preference=pair)
    assert SageMakerPairs().problems(example) == []
    assert SageMakerPairs().write(example) == {
        "prompt": [{"role": "system", "content": "Name it."}, {"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    assert "cannot-prefer" in [finding.code for finding in SageMakerPairs().problems(Example(TURNS))]


def test_what_is_written_is_read_back() -> None:
    for rows, example in (
        (SageMakerRows(), Example(TURNS)),
        (SageMakerPairs(), Example(TURNS[:2], preference=Preference((TURNS[2],), (Message("assistant", "b"),)))),
    ):
        faults: list[Any] = []
        assert rows.read(rows.write(example), None, faults) == example
        assert faults == []


def test_images_tools_and_reasoning_are_refused() -> None:
    image = Message("user", (ImagePart("https://a/b.png"), TextPart("what?")))
    tool = {"type": "function", "function": {"name": "f"}}
    for example, code in (
        (Example((image, TURNS[2])), "lost-images"),
        (Example(TURNS, (tool,)), "lost-tools"),
        (Example((*TURNS[:2], Message("assistant", "a", reasoning="because"))), "lost-reasoning"),
        (Example((*TURNS[:2], Message("assistant", "a", weight=0))), "lost-weight"),
    ):
        assert code in [finding.code for finding in SageMakerRows().problems(example)]


def test_a_row_ends_in_an_answer() -> None:
    (finding,) = row_rules(Example(TURNS[:2]), "sft", QWEN)
    assert finding.code == "vendor-last-turn"
    assert list(row_rules(Example(TURNS), "sft", QWEN)) == []


def test_novas_rows_are_checked_as_bedrocks() -> None:
    for turns, code in (
        (TURNS[:2], "vendor-last-turn"),
        ((TURNS[1], TURNS[1], TURNS[2]), "vendor-role-order"),
        ((TURNS[1], Message("assistant", "Bot: a")), "vendor-reserved-word"),
    ):
        assert code in [finding.code for finding in row_rules(Example(turns), "sft", NOVA)]
    assert list(row_rules(Example(TURNS), "sft", NOVA)) == []


def facts(**fields: Any) -> FileFacts:
    sizes = {"rows": 100, "size": 1000, "tokens": 1, "exact_tokens": False, "train_rows": 100, "total_rows": 110}
    names = {"role": "train", "path": "x", "format": "chat", "method": "sft", "model": QWEN}
    values: dict[str, Any] = {**names, **sizes, "features": 0, "labels": {}}
    return FileFacts(**(values | fields))


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"rows": 8}, 0),
        ({"rows": 7}, 1),
        ({"rows": 15, "method": "dpo"}, 1),
        ({"rows": 31, "model": NOVA}, 1),
        ({"rows": 3, "role": "validation"}, 0),
        ({"rows": 7, "model": None}, 1),
    ],
)
def test_fewer_rows_than_a_batch_are_warned_of(fields: dict[str, Any], count: int) -> None:
    findings = list(SAGEMAKER_ROWS.file_rules(facts(**fields)))
    assert len(findings) == count
    assert all(finding.severity == "warning" for finding in findings)


def test_longer_rows_are_cut_where_the_job_says_nothing() -> None:
    limit = SAGEMAKER_ROWS.token_limit("sft", QWEN)
    assert limit is not None
    assert (limit.tokens, limit.refuses) == (4096, False)
    assert "max_sequence_length" in limit.source
    assert SAGEMAKER_ROWS.token_limit("sft", NOVA) is None


def test_formats_by_method_and_model() -> None:
    assert SAGEMAKER_ROWS.format_for("sft", QWEN) == "sagemaker_chat"
    assert SAGEMAKER_ROWS.format_for("dpo", None) == "sagemaker_preference"
    assert SAGEMAKER_ROWS.format_for("sft", NOVA) == "bedrock_nova_2"
