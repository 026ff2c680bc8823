"""The site builds strictly and offline, every page is in it, and nothing in it is fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra: docs)")

#: A script, style, picture, frame or font that a browser would fetch by itself.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|audio|video|embed)\b[^>]*\b(?:src|srcset)\s*=\s*["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|preload|preconnect|icon|shortcut))[^>]*href\s*=\s*["']?(?:https?:)?//"""
    r"""|url\(\s*["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
)


def build(into: Path, *, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "--site-dir", str(into)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("site")
    done = build(into)
    assert done.returncode == 0, done.stdout + done.stderr
    return into


@pytest.mark.slow
def test_every_page_of_the_docs_is_on_the_site(site: Path) -> None:
    for page in sorted((ROOT / "docs").rglob("*.md")):
        html = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert html.is_file(), page
    for name in ("index.html", "benchmarks/RESULTS.html", "search/search_index.json"):
        assert (site / name).is_file(), name


@pytest.mark.slow
def test_the_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    files = [file for file in site.rglob("*") if file.suffix in {".html", ".css"}]
    assert len(files) > 30
    for file in files:
        match = FETCHED.search(file.read_text(encoding="utf-8"))
        assert match is None, f"{file.relative_to(site)}: {match[0]}"


@pytest.mark.slow
def test_no_markdown_is_left_in_what_is_read(site: Path) -> None:
    """A fence, a link or stars that the reader sees are Markdown that the site did not understand."""
    for file in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        plain_text = unescape(re.sub(r"<[^>]+>", "", text))
        match = re.search(r".{0,40}(?:\*\*|\]\(|\\[\[\]*]|```).{0,40}", plain_text)
        assert match is None, f"{file.relative_to(site)}: {match[0]}"


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js">',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "<img alt=\"a\" src='http://x/y.png'>",
        "@font-face { src: url(https://fonts.example/a.woff2) }",
    ],
)
def test_what_would_be_fetched_is_recognised(text: str) -> None:
    assert FETCHED.search(text)
    assert not FETCHED.search('<a href="https://example.org">a link</a> <script src="js/base.js"></script>')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("stray.md", "# In no section\n", "stray.md"),
        ("runs.md", "# Runs\n\n[gone](nowhere.md)\n", "nowhere.md"),
        ("runs.md", "# Runs\n\n[gone](concepts.md#no-such-heading)\n", "no-such-heading"),
    ],
)
def test_a_stray_page_and_a_dead_link_fail_the_build(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    import shutil

    copy = tmp_path / "copy"
    for name in ("docs", "tools", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "llmtune-home"))
    (copy / "benchmarks").mkdir()
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "docs" / file).write_text(text, encoding="utf-8")
    done = build(tmp_path / "out", config=copy / "mkdocs.yml")
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr
