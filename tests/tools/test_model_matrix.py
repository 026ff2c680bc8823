"""docs/models.md says of every family what running it shows, and every "no" there has its reason."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

ROOT = Path(__file__).resolve().parents[2]


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("model_matrix", ROOT / "tools" / "model_matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_matrix"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture(scope="module")
def page() -> str:
    return str(tool.PAGE.read_text(encoding="utf-8"))


def test_the_page_has_every_shape_and_every_reason(page: str) -> None:
    assert len(tool.SHAPES) >= 25
    assert len({shape.title for shape in tool.SHAPES}) == len(tool.SHAPES)
    for shape in tool.SHAPES:
        (line,) = [text for text in page.splitlines() if text.startswith(f"| {shape.title} | yes |")]
        noes = [name for name, cell in zip(tool.COLUMNS, line.split(" | ")[1:], strict=True) if cell.startswith("no")]
        assert noes == list(shape.why)
        for column, reason in shape.why.items():
            assert f"- {shape.title}, {column}: {reason}." in page


@pytest.mark.slow
@pytest.mark.parametrize("shape", tool.SHAPES, ids=lambda shape: shape.title)
def test_running_a_family_shows_what_the_page_says(shape: Any, page: str, tmp_path: Path) -> None:
    row = tool.examine(shape, tmp_path)
    assert row.unexplained == [], row.measured
    assert tool.line(row) in page
    assert f"| {shape.title} | {row.covers} |" in page
