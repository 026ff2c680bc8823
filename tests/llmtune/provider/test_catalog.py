"""Catalogues: facts with source and date, an overlay of the user's, and no refusal for an unknown model."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from llmtune.errors import InvalidSettings
from llmtune.provider import catalog
from llmtune.provider.limits import Lifecycle

OURS = """
[lifecycle]
status = "closing"
closes = 2027-01-06
source = "their page, 2026-09-08"

[default]
family = "big"

[models."big-1"]
family = "big"
methods = ["sft", "dpo"]
context_note = "a column of the vendor's own"
source = "their page"
checked = 2026-11-21
price = { training = 25.0, input = 3.0, source = "price page", checked = 2026-11-21 }
"""


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    path = tmp_path / "ours.toml"
    path.write_text(OURS)
    return path


def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    monkeypatch.setenv("LLMTUNE_CATALOG", str(path))


def test_facts_keep_their_source_and_date(catalog_file: Path) -> None:
    entry, warnings = catalog.load("v", catalog_file).model("big-1")
    assert warnings == ()
    assert entry.methods == ("sft", "dpo")
    assert (entry.price.training, entry.price.checked) == (25.0, date(2026, 11, 21))
    assert entry.facts["context_note"] == "a column of the vendor's own"


def test_an_unknown_model_is_a_warning_with_the_nearest(catalog_file: Path) -> None:
    entry, warnings = catalog.load("v", catalog_file).model("big-2")
    assert entry.id == "big-2"
    assert entry.family == "big"
    assert warnings == ("model 'big-2' is not in the catalogue of v; nearest known: big-1",)


def test_the_user_mends_a_price_and_a_date(catalog_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay(
        tmp_path,
        monkeypatch,
        '[v.lifecycle]\ncloses = 2027-03-01\n[v.models."big-1".price]\ntraining = 20.0\n'
        '[v.models."big-9"]\nsource = "our contract"\n[w.models."x"]\nfamily = "x"\n',
    )
    models = catalog.load("v", catalog_file)
    assert models.lifecycle.closes == date(2027, 3, 1)
    entry, _ = models.model("big-1")
    assert (entry.price.training, entry.price.input, entry.overlaid) == (20.0, 3.0, True)
    added, warnings = models.model("big-9")
    assert added.source == "your catalogue (our contract)"
    assert added.family == "big"
    assert warnings == ()
    assert "x" not in models.models


def test_a_broken_overlay_is_a_sentence(catalog_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay(tmp_path, monkeypatch, '[v.models."big-1".price]\ntrainig = 1\n')
    with pytest.raises(InvalidSettings, match=r"mine\.toml: unknown price key 'trainig'; did you mean 'training'"):
        catalog.load("v", catalog_file)
    overlay(tmp_path, monkeypatch, "[v\n")
    with pytest.raises(InvalidSettings, match="broken TOML"):
        catalog.load("v", catalog_file)


@pytest.mark.parametrize(
    ("life", "today", "closed", "sentence"),
    [
        (Lifecycle(), date(2026, 11, 21), False, "active"),
        (
            Lifecycle(status="closing", closes=date(2027, 1, 6)),
            date(2026, 11, 21),
            False,
            "takes no new jobs from 2027-01-06 on, 46 days left",
        ),
        (Lifecycle(status="closing", closes=date(2027, 1, 6)), date(2027, 1, 5), False, "1 day left"),
        (
            Lifecycle(status="closing", closes=date(2027, 1, 6)),
            date(2027, 1, 6),
            True,
            "closed to new jobs since 2027-01-06",
        ),
        (Lifecycle(status="retired", closes=date(2025, 9, 15)), date(2026, 11, 21), True, "retired 2025-09-15"),
        (
            Lifecycle(status="closing", closes=date(2027, 1, 6), answers_until=date(2027, 1, 14)),
            date(2027, 1, 20),
            True,
            "tuned models stopped answering on 2027-01-14",
        ),
    ],
)
def test_lifecycles_are_told_by_the_day(life: Lifecycle, today: date, closed: bool, sentence: str) -> None:
    assert life.closed_on(today) is closed
    assert sentence in life.sentence(today)
