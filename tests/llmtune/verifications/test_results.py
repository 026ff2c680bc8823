"""The kinds of differences: one list, as a type, as a table of the page, and as exit codes of verdicts."""

from __future__ import annotations

import typing
from pathlib import Path

from llmtune.verifications.results import (
    EXIT_CODES,
    KINDS,
    PROMPT_KINDS,
    DifferenceKind,
    Verification,
    VerificationVerdict,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "verify.md"


def test_each_kind_has_its_meaning_and_its_line_on_the_page() -> None:
    assert set(typing.get_args(DifferenceKind)) == set(KINDS)
    page = PAGE.read_text(encoding="utf-8")
    for kind, meaning in KINDS.items():
        assert f"| `{kind}` | {meaning} |" in page
    assert "system_turn_added" in PROMPT_KINDS
    assert "answers_cut" not in PROMPT_KINDS


def test_each_verdict_has_its_exit_code() -> None:
    assert set(typing.get_args(VerificationVerdict)) == set(EXIT_CODES)
    for verdict, code in (("same", 0), ("drift", 5), ("unclear", 6)):
        result = Verification(
            endpoint="http://h/v1",
            model="m",
            source="s",
            rows=1,
            verdict=verdict,
            reason="",
            margin=5,  # type: ignore[arg-type]
        )
        assert result.exit_code == code
        assert Verification.model_validate_json(result.model_dump_json()) == result
