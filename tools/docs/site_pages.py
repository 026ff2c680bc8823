"""The site's hooks: pages from outside docs/, links that hold in the checkout and on the site, a tolerant navigation.

Links in the Markdown are written for the checkout (`docs/runs.md` in the README, `../benchmarks/RESULTS.md` in a page),
so that they also work where the files are read as they are; here they become the site's own.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: Pages that live outside docs/: their path in the checkout, and on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
    "providers/README.md": "providers/floor-plan.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```.*?^```$)", re.DOTALL | re.MULTILINE)
#: A block with a title (the tutorial's files): code hosts know it, the site's Markdown does not.
TITLED = re.compile(r'\A(```\w+) title="([^"]+)"\n')
#: Larger files of the examples stay in the checkout.
MOST_BYTES = 200_000


def outside() -> dict[str, str]:
    """Return every file of the site from outside docs/, by its path in the checkout."""
    uris = {path: uri for path, uri in OUTSIDE.items() if (ROOT / path).is_file()}
    for file in sorted((ROOT / "examples").rglob("*")):
        if file.is_file() and file.suffix in {".md", ".yaml", ".jsonl", ".py"} and file.stat().st_size <= MOST_BYTES:
            path = file.relative_to(ROOT).as_posix()
            uris[path] = path
    return uris


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what is not there (a page that another change brings)."""
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    config.nav = _existing(config.nav, there | set(outside().values()))
    return config


def _existing(nav: Any, there: set[str]) -> Any:
    if isinstance(nav, list):
        entries = [_existing(entry, there) for entry in nav]
        return [entry for entry in entries if entry]
    if isinstance(nav, dict):
        entries = {title: _existing(inner, there) for title, inner in nav.items()}
        return {title: inner for title, inner in entries.items() if inner}
    return nav if nav in there else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring the pages from outside docs/ in."""
    for path, uri in outside().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that hold in the checkout into links that hold on the site; code blocks stay as they are,
    with their title, where they have one, above them."""
    uri = page.file.src_uri
    joined = outside()
    homes = {site: path for path, site in joined.items()}
    home = homes.get(uri, f"docs/{uri}")

    def moved(match: re.Match[str]) -> str:
        target = match[2]
        if ":" in target or target.startswith("/"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
        if (ROOT / path).is_dir():
            path = _page_of(path)
        site = joined.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else path)
        return f"{match[1]}{posixpath.relpath(site, posixpath.dirname(uri) or '.')}{match[3] or ''}{match[4]}"

    parts = FENCE.split(markdown)
    return "".join(
        TITLED.sub(r"`\2`:\n\n\1\n", part) if part.startswith("```") else LINK.sub(moved, part) for part in parts
    )


def _page_of(folder: str) -> str:
    """Return the page of a folder: its README, or its first page."""
    if (ROOT / folder / "README.md").is_file():
        return f"{folder}/README.md"
    pages = sorted((ROOT / folder).glob("*.md"))
    return f"{folder}/{pages[0].name}" if pages else folder
