"""Training reads prepared rows: tokenised once, found again, and the very rows that tokenising gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from llmtune.data.io.reading import load
from llmtune.data.rendering.prepared import prepared_home
from llmtune_local.batching import token_rows as local_rows
from llmtune_local.batching.packing import BatchesInParts, make_step
from llmtune_local.batching.step_order import epoch_order, rows_of_step
from llmtune_local.batching.token_rows import MappedRows, TokenRow, TokenRows, read_rows, tokenise
from llmtune_local.models.loading import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("tiny")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [
        [("user", "hello"), ("assistant", "good day")],
        [("system", "be brief"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")],
        [("user", "long " * 60), ("assistant", "yes")],
    ]
    lines = [{"messages": [{"role": role, "content": text} for role, text in row]} for row in rows]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")
    return path


def same(actual: TokenRows, expected: TokenRows) -> bool:
    return (actual.dropped, actual.truncated, len(actual)) == (
        expected.dropped,
        expected.truncated,
        len(expected),
    ) and all(
        len(a) == len(b)
        and all(
            np.array_equal(x.ids, y.ids) and np.array_equal(x.completion, y.completion)
            for x, y in zip(a, b, strict=True)
        )
        for a, b in zip(actual.rows, expected.rows, strict=True)
    )


@pytest.mark.parametrize(("limit", "on_too_long"), [(None, "error"), (64, "drop"), (64, "truncate")])
def test_rows_from_disk_are_the_rows_tokenised(limit: Any, on_too_long: Any, file: Path, tokenizer: Any) -> None:
    plain = tokenise(tokenizer, load(file), limit=limit, on_too_long=on_too_long)
    assert same(read_rows(tokenizer, str(file), limit=limit, on_too_long=on_too_long), plain)
    assert same(read_rows(tokenizer, str(file), limit=limit, on_too_long=on_too_long), plain)
    assert (plain.dropped, plain.truncated) == (on_too_long == "drop", on_too_long == "truncate")


def test_the_second_reading_tokenises_nothing(file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_rows(tokenizer, str(file), limit=None, on_too_long="error")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("rendered again")

    monkeypatch.setattr("llmtune.data.rendering.prepared.Renderer", refuse)
    monkeypatch.setattr(local_rows, "Renderer", refuse)
    assert same(read_rows(tokenizer, str(file), limit=None, on_too_long="error"), first)
    with pytest.raises(AssertionError, match="rendered again"):  # other settings are other rows
        read_rows(tokenizer, str(file), limit=50, on_too_long="drop")


def test_what_the_command_prepared_is_what_training_reads(file: Path, tokenizer: Any) -> None:
    from llmtune.cli.app import app

    done = CliRunner().invoke(app, ["data", "prepare", str(file), "--tokenizer", "tiny"])
    assert done.exit_code == 0, done.output
    before = sorted(prepared_home().iterdir())
    assert len(before) == 1
    read_rows(tokenizer, str(file), limit=None, on_too_long="error")
    assert sorted(prepared_home().iterdir()) == before


def test_damaged_rows_are_made_again(file: Path, tokenizer: Any) -> None:
    first = read_rows(tokenizer, str(file), limit=None, on_too_long="error")
    (shard,) = prepared_home().glob("*/*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-8] + b"\xff" * 8)
    assert same(read_rows(tokenizer, str(file), limit=None, on_too_long="error"), first)
    assert not shard.exists()
    read_rows(tokenizer, str(file), limit=None, on_too_long="error")
    assert shard.read_bytes() == content


def test_a_home_that_cannot_be_written_costs_only_the_tokenising(
    file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = read_rows(tokenizer, str(file), limit=None, on_too_long="error")
    (tmp_path / "taken").write_text("a file, no folder")
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "taken"))
    assert same(read_rows(tokenizer, str(file), limit=None, on_too_long="error"), first)


@pytest.mark.parametrize("fields", [{}, {"tools": [{"type": "function", "function": {"name": "look"}}]}])
def test_a_turn_flagged_as_not_trained_is_given_and_not_learned(fields: Any, tmp_path: Path, tokenizer: Any) -> None:
    def completions(flag: dict[str, Any]) -> list[str]:
        turns = [("user", "one"), ("assistant", "wrong"), ("user", "again"), ("assistant", "right")]
        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
        messages[1] |= flag
        path = tmp_path / "flagged.jsonl"
        path.write_bytes(orjson.dumps({"messages": messages, **fields}) + b"\n")
        rows = [
            row for pieces in read_rows(tokenizer, str(path), limit=None, on_too_long="error").rows for row in pieces
        ]
        assert any("wrong" in tokenizer.decode(row.ids) for row in rows)
        return [tokenizer.decode(row.ids[row.completion]) for row in rows]

    assert "wrong" in "".join(completions({}))
    for flag in ({"train": False}, {"loss": False}, {"weight": 0}):
        learned = "".join(completions(flag))
        assert "right" in learned
        assert "wrong" not in learned


def write_chats(path: Path, count: int) -> Path:
    turns = [
        [("user", f"say {number}"), ("assistant", "yes " * (number % 5 + 1)), ("user", "more"), ("assistant", "no")]
        for number in range(count)
    ]
    lines = [{"messages": [{"role": role, "content": text} for role, text in row]} for row in turns]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")
    return path


def test_rows_of_many_shards_are_read_where_they_are(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune.data.rendering.prepared.SHARD_TOKENS", 100)
    path = write_chats(tmp_path / "many.jsonl", 40)
    rows = read_rows(tokenizer, str(path), limit=None, on_too_long="error")
    assert len(list(prepared_home().glob("*/*.safetensors"))) > 5
    plain = tokenise(tokenizer, load(path))
    assert isinstance(rows.rows, MappedRows)
    assert same(rows, plain)
    assert (rows.tokens, rows.longest) == (plain.tokens, plain.longest)
    assert list(rows.row_tokens()) == list(plain.row_tokens())
    chosen = [31, 2, 2, 39]
    assert same(rows.select(chosen), plain.select(chosen))
    assert rows.select(chosen).longest == plain.select(chosen).longest
    assert same(rows.select(chosen).select([1]), plain.select([2]))
    rows.release()
    assert same(rows, plain)
    assert rows.rows[-1][0].ids.tolist() == plain.rows[-1][0].ids.tolist()
    with pytest.raises(IndexError):
        rows.rows[40]


def test_the_pieces_of_a_row_stay_together(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtune.data.rendering.prepared.SHARD_TOKENS", 30)
    template = (
        "{%- for m in messages -%}{%- if m.role == 'assistant' and not loop.last -%}{{- '<|im_start|>assistant\nseen"
        "<|im_end|>\n' -}}{%- else -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    )
    rewriting = load_tokenizer("tiny", None, template)
    path = write_chats(tmp_path / "pieces.jsonl", 9)
    rows = read_rows(rewriting, str(path), limit=None, on_too_long="error")
    assert {len(row) for row in rows.rows} == {2}
    assert same(rows, tokenise(rewriting, load(path)))


def test_the_order_of_an_epoch_is_an_exact_shuffle_that_needs_no_earlier_step() -> None:
    expected = list(range(1000))
    random.Random("7/2").shuffle(expected)
    assert list(epoch_order(1000, 7, 2)) == expected
    steps = [row for step in range(126, 189) for row in rows_of_step(1000, 16, 7, step)]
    assert steps == expected
    assert rows_of_step(1000, 16, 7, 150) == tuple(expected[24 * 16 : 25 * 16])


def test_batches_made_in_parts_hold_every_row_once() -> None:
    rows = [(TokenRow(np.arange(5, dtype=np.int32) + number, np.array([False, *[True] * 4])),) for number in range(10)]

    def make(part: Any) -> Any:
        return make_step(part, prompt_weight=0.0, packed=True, token_budget=12).batches

    parts = BatchesInParts(rows, make, 4)
    assert bool(parts)
    assert not BatchesInParts([], make, 4)
    for _ in range(2):
        targets = sorted(target for batch in parts for target in batch.targets.tolist())
        assert targets == sorted(target for (row,) in rows for target in row.ids[1:].tolist())
