"""The page of concepts names the words, the states and the variables that the code has, and its settings work."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import get_args

import pytest

from llmtune import TuningJob, get_provider
from llmtune.metrics.points import SOURCE_ORDER
from llmtune.planning.plan import plan
from llmtune.provider.declarations import Support
from llmtune.provider.types import RunState

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The names in backticks in the first column of a section's table."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def toml(title: str) -> str:
    found = re.search(r"```toml\n(.*?)```", section(title), re.DOTALL)
    assert found
    return found[1]


def test_the_seven_words_are_those_of_the_code() -> None:
    assert first_cells(section("The seven words")) == list(get_args(Support))


def test_the_states_are_those_of_the_code() -> None:
    assert sorted(first_cells(section("The life of a run"))) == sorted(state.value for state in RunState)


def test_the_sources_are_in_their_order() -> None:
    told = re.findall(r"`(vendor_file|vendor_api|computed)`", section("Where a number comes from"))
    assert tuple(told) == SOURCE_ORDER


def test_the_variables_are_those_that_the_code_reads() -> None:
    read: set[str] = set()
    for file in (ROOT / "llmtune").rglob("*.py"):
        if "testing" not in file.parts:
            read |= set(re.findall(r"""["'](LLMTUNE_[A-Z]+(?:_[A-Z]+)*)["']""", file.read_text(encoding="utf-8")))
    assert set(first_cells(section("Names and settings"))) == read


def test_the_catalogue_of_ones_own_is_laid_over_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalog.toml").write_text(toml("Catalogues age"), encoding="utf-8")
    monkeypatch.setenv("LLMTUNE_CATALOG", str(tmp_path / "catalog.toml"))
    for model in ("gpt-4.1-mini-2025-04-14", "one-of-your-own"):
        job = TuningJob(name="t", dataset=str(ROOT / "examples/tickets/tickets.jsonl"), model=model)
        receipt = plan(job, get_provider("openai"), today=date(2026, 11, 27))
        assert receipt.lifecycle.closes == "2027-03-01", model
        if model.startswith("gpt"):
            assert "x 4 USD per million" in receipt.cost.formula
            assert "our contract" in receipt.cost.source
            assert str(receipt.cost.checked) == "2026-10-01"


def test_a_provider_with_a_name_of_its_own_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llmtune.toml").write_text(toml("Names and settings"), encoding="utf-8")
    provider = get_provider("azure-eu")
    assert (provider.name, provider.kind) == ("azure-eu", "azure")
