"""Checks: of one row, over a whole file, over several, in one process and in several."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.checks import block_worker
from llmtune.data.checks import check as checking
from llmtune.data.checks.check import CheckReport, check
from llmtune.data.checks.duplicates import RowIndex
from llmtune.data.checks.per_row import check_example
from llmtune.data.checks.privacy import scan
from llmtune.data.checks.stats import Lengths
from llmtune.data.convert import write
from llmtune.data.example import Example, Message, Preference, ToolCall, chat
from llmtune.data.findings import FindingLog, warning
from llmtune.data.rendering.token_count import Counter, estimate_tokens
from llmtune.errors import UnknownName

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"x": {}, "y": {}}, "required": ["x"]},
    },
}


def called(*calls: ToolCall, answers: tuple[str, ...] = (), tools: tuple[Any, ...] = (TOOL,)) -> Example:
    tool_turns = tuple(Message("tool", "1", tool_call_id=id_) for id_ in answers)
    last = (Message("assistant", "done"),) if answers else ()
    return Example((Message("user", "q"), Message("assistant", None, calls), *tool_turns, *last), tools)


def user(text: str, **fields: Any) -> Message:
    return Message("user", text, **fields)


def said(text: str, **fields: Any) -> Message:
    return Message("assistant", text, **fields)


def pair(first: str, second: str) -> Example:
    return Example((user("q"),), preference=Preference((said(first),), (said(second),)))


CALL = ToolCall("1", "add", '{"x": 1}')
GOOD = [
    chat(("user", "q"), ("assistant", "a")),
    chat(("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q2"), ("assistant", "a2")),
    called(CALL, answers=("1",)),
    called(CALL, ToolCall("2", "add", '{"x": 1, "y": 2}'), answers=("2", "1")),
    called(CALL),
    Example(text="words"),
    pair("a", "b"),
    Example((user("q"), said("a", weight=0), user("r"), said("b"))),
]
FAULTY = [
    ("error", "distillation-row", chat(("user", "q"))),
    ("error", "distillation-row", chat(("system", "s"), ("user", "q"))),
    ("error", "reinforcement-row", chat(("user", "q"), extra={"reference_answer": "a"})),
    ("error", "no-trained-turn", Example((user("q"), said("a", weight=0)))),
    ("error", "empty-content", chat(("user", "q"), ("assistant", " \n"))),
    ("error", "empty-content", Example(text="  ")),
    ("error", "empty-content", pair("a", " ")),
    ("warning", "empty-content", chat(("user", ""), ("assistant", "a"))),
    ("warning", "empty-content", Example((user("q"), said("", weight=0), user("q"), said("a")))),
    ("warning", "role-order", chat(("user", "q"), ("user", "r"), ("assistant", "a"))),
    ("warning", "role-order", chat(("user", "q"), ("assistant", "a"), ("assistant", "b"))),
    ("warning", "role-order", chat(("assistant", "a"), ("user", "q"), ("assistant", "b"))),
    ("warning", "role-order", chat(("user", "q"), ("system", "s"), ("assistant", "a"))),
    ("warning", "trailing-turn", chat(("user", "q"), ("assistant", "a"), ("user", "r"))),
    ("warning", "prompt-weight", Example((user("q", weight=1), said("a")))),
    ("error", "tool-call-id", called(CALL, answers=("2",))),
    ("error", "tool-call-id", called(CALL, CALL, answers=("1",))),
    ("error", "tool-call-id", Example((user("q"), said("a"), Message("tool", "1"), said("b")))),
    ("warning", "tool-call-id", Example((*called(CALL).messages, user("q"), said("a")), (TOOL,))),
    ("warning", "unknown-tool", called(ToolCall("1", "sub", "{}"), answers=("1",))),
    ("warning", "tool-schema", called(ToolCall("1", "add", "{}"), answers=("1",))),
    ("warning", "tool-schema", called(ToolCall("1", "add", '{"x": 1, "z": 1}'), answers=("1",))),
    ("warning", "same-answers", pair("a", "a")),
]


@pytest.mark.parametrize("example", GOOD)
def test_sound_rows_have_no_findings(example: Example) -> None:
    assert list(check_example(example)) == []


@pytest.mark.parametrize(("severity", "code", "example"), FAULTY)
def test_faults_of_a_row(severity: str, code: str, example: Example) -> None:
    findings = check_example(example)
    assert (code, severity) in [(finding.code, finding.severity) for finding in findings]


def test_a_method_asks_for_its_own_rows() -> None:
    plain, pair = GOOD[0], GOOD[6]
    assert [finding.code for finding in check_example(plain, "dpo")] == ["not-preference"]
    assert [finding.code for finding in check_example(pair, "sft")] == ["preference-in-sft"]
    assert list(check_example(pair, "dpo")) == list(check_example(plain, "sft")) == []


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_duplicates_and_contradictions(rows_file: Any) -> None:
    path = rows_file(
        [row("one", "A"), row("two", "B"), row("ONE ", "A"), row("one", "C"), row("two", "a long story " * 20)]
    )
    report = check(path)
    assert [(finding.line, finding.code) for finding in report.findings] == [(3, "duplicate-row"), (4, "contradiction")]
    assert "line 1" in report.findings[0].message
    assert report.ok


def test_leaks_between_files_exact_and_near(rows_file: Any) -> None:
    numbers = random.Random(3)

    def words() -> str:
        return " ".join("".join(numbers.choices("abcdefghijklmnop", k=7)) for _ in range(12))

    train = [words() for _ in range(300)]
    held = [words() for _ in range(30)]
    similar = train[200].replace("a", "", 1) + "!"
    paths = [
        rows_file([row(text, "x" * 80) for text in texts], name)
        for name, texts in (
            ("train.jsonl", train),
            ("validation.jsonl", [*held[:10], train[5], similar]),
            ("test.jsonl", [*held[10:], held[3], f"{held[4]}."]),
        )
    ]
    report = check(*paths)
    findings = {(Path(finding.file or "").stem, finding.line, finding.code) for finding in report.findings}
    assert ("validation", 11, "leakage") in findings
    assert ("validation", 12, "near-leakage") in findings
    assert ("test", 21, "leakage") in findings
    assert any(code == "near-leakage" and {"4"} for stem, _, code in findings if stem in ("validation", "test"))
    assert len(findings) == 4
    near_finding = next(finding for finding in report.findings if finding.line == 12)
    assert "train.jsonl:201" in near_finding.message
    assert [file.role for file in report.files] == ["train", "validation", "test"]


def test_only_the_checks_asked_for_run(rows_file: Any) -> None:
    path = rows_file([row("q", ""), row("mail ann@company.com", "A"), row("mail ann@company.com", "A")])
    assert set(check(path).counts) == {"empty-content", "personal-data", "duplicate-row"}
    assert set(check(path, checks=("privacy",)).counts) == {"personal-data"}
    with pytest.raises(UnknownName, match="unknown check 'privcy'"):
        check(path, checks=("privcy",))


def test_token_limits_are_errors_only_when_counted(rows_file: Any) -> None:
    class Words:
        def encode(self, text: str) -> list[str]:
            return text.split()

    path = rows_file([row("w " * 50, "a"), row("w", "a")])
    guessed = check(path, max_tokens=20)
    assert [(finding.code, finding.severity) for finding in guessed.findings] == [("too-many-tokens", "warning")]
    assert "about" in guessed.findings[0].message
    counted = check(path, max_tokens=20, tokenizer=Words())
    assert [(finding.severity, finding.line) for finding in counted.findings] == [("error", 1)]
    assert "59 tokens" in counted.findings[0].message
    assert counted.files[0].stats.exact


def same(first: CheckReport, second: CheckReport) -> None:
    assert first.counts == second.counts
    assert first.findings == second.findings
    assert [file.as_dict() for file in first.files] == [file.as_dict() for file in second.files]


@pytest.mark.parametrize("packed", [False, True])
def test_several_processes_find_what_one_finds(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PARALLEL_BYTES", 1000)
    monkeypatch.setattr(block_worker, "BLOCK", 20_000)
    numbers = random.Random(1)
    lines = [b"\xef\xbb\xbf"]
    import orjson

    for number in range(3000):
        choice = numbers.random()
        if choice < 0.05:
            lines.append(numbers.choice([b"", b"{", b'{"messages": []}', b'{"text": 1}', b"\xff", b"[]"]) + b"\n")
        else:
            text = (
                f"question {numbers.randrange(2000)} write to x{number % 9}@company.com"
                if choice < 0.2
                else f"q{number}"
            )
            lines.append(orjson.dumps(row(text, f"label {numbers.randrange(3)}")) + b"\r\n")
    lines.insert(1, orjson.dumps(row("first", "label 0")) + b"\n")
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    import gzip

    data = b"".join(lines)
    path.write_bytes(gzip.compress(data) if packed else data)
    held = tmp_path / "held.jsonl"
    write([chat(("user", f"question {n} write to x1@company.com"), ("assistant", "label 1")) for n in range(40)], held)
    alone = check(path, held, provider="openai", jobs=1, keep=None)
    several = check(path, held, provider="openai", jobs=2, keep=None)
    size = alone.files[0].size
    assert size == path.stat().st_size
    same(alone, several)
    assert {"json", "encoding", "blank-line", "line-endings", "byte-order-mark", "leakage"} <= set(alone.counts)


def test_findings_are_counted_beyond_what_is_kept(rows_file: Any) -> None:
    path = rows_file([{"messages": []}] * 50 + [row("q", "a")])
    report = check(path, keep=5)
    assert report.errors == report.counts["empty-messages"] == 50
    assert len(report.findings) == 5
    assert report.as_dict()["counts"] == {"empty-messages": 50}


def test_logs_merge_with_what_was_let_go() -> None:
    first, second = FindingLog(2), FindingLog(2)
    for _ in range(5):
        first.add(warning("a", "m", ""))
        second.add(warning("b", "m", ""))
    second.add(warning("a", "m", ""))
    first.merge(second)
    assert first.counts == {"a": 6, "b": 5}
    assert first.warnings == 11
    assert len(first.kept) == 4


def test_the_row_index_on_disk_finds_what_memory_finds() -> None:
    numbers = random.Random(2)
    findings = []
    for spill in (10, 10_000):
        numbers.seed(2)
        index = RowIndex(["train", "test"], ["train", "test"], spill=spill)
        for line in range(1, 500):
            key = numbers.randrange(256) << 56
            index.add(key, numbers.randrange(3), line, int(line > 400), labelled=bool(key >> 57 & 1))
        findings.append(sorted(index.findings()))
    assert findings[0] == findings[1]
    assert {finding.code for finding in findings[0]} == {"duplicate-row", "contradiction", "leakage"}


def test_estimates_say_that_they_are(rows_file: Any) -> None:
    report = check(rows_file([row("é" * 8, "abcdefgh")]))
    stats = report.files[0].as_dict()
    assert stats["tokens"]["user"] == estimate_tokens("é" * 8) + 4
    assert stats["tokens"]["assistant"] == stats["tokens"]["trained"] == estimate_tokens("abcdefgh") + 4
    assert not stats["tokens"]["exact"]
    assert "estimate" in stats["tokens"]["rule"]


def test_percentiles_by_nearest_rank() -> None:
    lengths = Lengths()
    for number in range(1, 101):
        lengths.add(number)
    assert [lengths.percentile(percent) for percent in (0, 5, 50, 95, 100)] == [1, 5, 50, 95, 100]
    assert Lengths().percentile(50) == 0
    for number in range(5000, 10_000_000, 7000):
        lengths.add(number)
    assert len(lengths.counts) < 5000


def test_tokens_of_every_kind_of_row() -> None:
    count = Counter().row
    assert count(Example(text="x" * 40)).total == 7
    pair = count(GOOD[6])
    assert (pair.user, pair.assistant) == (5, 10)
    assert count(called(ToolCall("1", "add", '{"x": 1}'))).system > 20  # the definitions of tools
    masked = Example((Message("user", "q"), Message("assistant", "a" * 40, weight=0), Message("assistant", "b")))
    assert count(masked).trained == 5


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("key AKIAIOSFODNN7EXAMPLE here", "secret"),
        ("sk-proj-abcdefghijklmnopqrstuvwxyz", "secret"),
        ("ghp_" + "a1" * 18, "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
        ("hf_" + "a" * 34, "secret"),
        ("write to jane.doe+x@mail.company.co.uk!", "personal-data"),
        ("card 4111 1111 1111 1111", "personal-data"),
        ("card 4111111111111111.", "personal-data"),
        ("amex 3782 822463 10005", "personal-data"),
        ("ssn 123-45-6789", "personal-data"),
        ("call +49 30 901820 now", "personal-data"),
        ("call (212) 555-0199", "personal-data"),
        ("DE89 3704 0044 0532 0130 00", "personal-data"),
    ],
)
def test_secrets_and_personal_data_are_told_and_masked(text: str, kind: str) -> None:
    ((code, name, text_masked),) = scan(text)
    assert code == kind
    assert name
    assert "." * 4 in text_masked
    assert len(text_masked.rstrip(".")) <= 4


@pytest.mark.parametrize(
    "text",
    [
        "nothing here",
        "mail me at user@example.com or x@test.example",
        "an @mention and a@b",
        "4111 1111 1111 1112",
        "200 - 40 - 30 = 130 and 1234567890123456 rows",
        "order 0000-0000-0000-0000",
        "2024-01-02 10:11:12.345678",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
        "sk-learn and AKIA alone, ghp_ too short",
        "DE89 3704 0044 0532 0130 01",
        "$1,234,567.89 (2019-2020) 555-1234",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert list(scan(text)) == []


def test_a_backend_is_asked_about_the_method_the_rows_are_for(rows_file: Any) -> None:
    answer = {"role": "assistant", "content": "a"}
    pairs = rows_file(
        [{"prompt": f"q{number}", "chosen": "a", "rejected": [answer | {"content": "b"}]} for number in range(12)]
    )
    assert check(pairs, provider="openai").counts == {}
    assert check(pairs, provider="cohere").counts == {"vendor-method": 1}
    assert check(pairs, provider="bedrock").counts == {"vendor-method": 1}
    assert set(check(pairs, provider="openai", method="sft").counts) == {"lost-preference", "preference-in-sft"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_keys_a_backend_does_not_get_are_one_finding_a_file(
    rows_file: Any, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(checking, "PARALLEL_BYTES", 1000)
    monkeypatch.setattr(block_worker, "BLOCK", 2000)
    rows = [row(f"q{at}", "a") | {"owner": at} | ({"shelf": "x" * 50} if at % 2 else {}) for at in range(200)]
    rows[7]["messages"][0]["heard_at"] = 5
    report = check(rows_file(rows), provider="openai", jobs=jobs, checks=("structure",))
    assert (report.counts, report.errors) == ({"changed-extra": 1, "unused-key": 1}, 0)
    finding, unused = report.findings
    assert finding.line is None
    assert "'shelf' is not used: 100 rows, 50 characters on average" in unused.message
    assert "3 keys: 'owner' (200 rows), 'shelf' (100 rows), 'messages[].heard_at' (1 row)" in finding.message
    assert check(rows_file(rows)).counts.get("changed-extra") is None, "at no backend nothing is left out"


def test_what_a_backends_rows_cannot_hold_is_found_in_every_format_of_the_same_shape(rows_file: Any) -> None:
    """Rows are always written anew, so a file that looks like a backend's own is asked about as any other."""
    heard = rows_file([{"messages": [row("q", "a")["messages"][1], {"role": "user", "content": [{"type": "sound"}]}]}])
    for provider in ("openai", "azure", "nebius", "together", "vertex", "bedrock", "sagemaker", "cohere"):
        assert "lost-part" in check(heard, provider=provider, checks=("structure",)).counts, provider
    several = rows_file([{"text": f"q{at}", "label": ["a", "b"]} for at in range(5)])
    assert "lost-labels" not in check(several, provider="cohere", checks=("structure",)).counts
    assert "lost-labels" in check(several, provider="cohere", method="sft", checks=("structure",)).counts


def test_method_classification_asks_plain_conversations_for_a_label_too(rows_file: Any) -> None:
    turns = [*row("q", "a")["messages"], *row("again", "b")["messages"]]
    report = check(rows_file([{"messages": turns}]), method="classification")
    assert report.counts == {"not-labelled": 1}


def test_labelled_rows_are_held_against_what_a_backend_asks_of_a_labelled_file(rows_file: Any) -> None:
    few = rows_file([{"text": f"question {at} of {at * 31}", "label": "ab"[at % 2]} for at in range(12)])
    named = check(few, provider="cohere", method="classification")
    assert "vendor-rows" in named.counts
    assert check(few, provider="cohere").counts == named.counts


def test_tokens_of_reasoning_are_counted_of_what_is_learned(rows_file: Any) -> None:
    answer = {"role": "assistant", "content": "a" * 40, "reasoning_content": "b" * 80}
    rows = rows_file([{"messages": [{"role": "user", "content": f"q{at}"}, answer]} for at in range(3)])
    stats = check(rows).files[0].stats
    reasoning = 3 * estimate_tokens("b" * 80)
    assert stats.reasoning_tokens == reasoning
    assert stats.as_dict()["tokens"]["reasoning"] == reasoning
    assert stats.trained_tokens >= reasoning + 3 * estimate_tokens("a" * 40)
