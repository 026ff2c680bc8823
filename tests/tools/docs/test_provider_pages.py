"""A provider's page holds what the code declares, and one that lacks a part of it fails `make check`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from llmtune.planning import support_matrix
from llmtune.provider.registry import get_provider

ROOT = Path(__file__).resolve().parents[3]
PAGES = [path for path in sorted((ROOT / "docs/providers").glob("*.md")) if path.stem != "retired"]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    import provider_pages

    return provider_pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_every_part(page: Path, pages: ModuleType) -> None:
    assert pages.missing(page) == []
    text = page.read_text(encoding="utf-8")
    for name, block in pages.BLOCKS.items():
        assert block(page.stem) in text, name
    for field in support_matrix.get_capabilities(get_provider(page.stem)).parameters:
        assert f"| `{field}` |" in text


def test_a_page_without_a_part_or_with_an_old_one_is_refused(pages: ModuleType, tmp_path: Path) -> None:
    page = ROOT / "docs/providers/openai.md"
    text = page.read_text(encoding="utf-8")
    lacking = tmp_path / "openai.md"
    lacking.write_text(text.replace("## Troubleshooting", "## Trouble"), encoding="utf-8")
    assert pages.missing(lacking) == ["## Troubleshooting"]
    import generate_docs

    old = text.replace("5 USD per million training tokens", "4 USD per million training tokens")
    assert old != text
    assert generate_docs.fill(old) == generate_docs.fill(text) == text
