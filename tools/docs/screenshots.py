"""Take screenshots of the pages for the docs: `python tools/docs/screenshots.py OUT [BOARD.json] [SWEEP.json]`.

The longest run of the store that succeeded is the page of a run; the three newest stand side by side; board and sweep
are what `llmtune compare -o BOARD.json` and `llmtune sweep -o SWEEP.json` wrote. Widths are those of a desk and of a
phone.
"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

WIDTHS = (1440, 390)
HEIGHTS = {1440: 1500, 390: 1500}


def main() -> int:
    """Write OUT/run-1440.webp and the others."""
    from playwright.sync_api import sync_playwright

    from llmtune.cli import saved_results
    from llmtune.provider.types import RunState
    from llmtune.runs.store.queries import list_runs
    from llmtune.runs.store.store import open_store
    from llmtune.web.server import Server

    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img")
    out.mkdir(parents=True, exist_ok=True)
    done = list_runs(open_store(), only=(RunState.SUCCEEDED,))
    if not done:
        print("no finished run in the store")
        return 1
    longest = max(done, key=lambda run: run.step or 0)
    pages = {
        "run": f"runs/{longest.id}",
        "list": "",
        "compare": "compare?" + "&".join(f"run={run.id}" for run in done[:3]),
    }
    for argument in sys.argv[2:]:
        page_file = Path(argument).with_suffix(".html")
        page_file.write_text(saved_results.find(argument).to_html(), encoding="utf-8")
        pages["board" if "standings" in Path(argument).read_text(encoding="utf-8") else "sweep"] = (
            page_file.absolute().as_uri()
        )
    with Server(port=0) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, path in pages.items():
            for width in WIDTHS:
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
                page.goto(path if path.startswith("file:") else server.url + path)
                page.wait_for_timeout(800)
                height = min(HEIGHTS[width], page.evaluate("document.body.offsetHeight"))
                shot = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height}, full_page=True)
                print(out / f"{name}-{width}.webp", save(shot, out / f"{name}-{width}.webp"), "bytes")
                page.close()
        browser.close()
    return 0


def save(shot: bytes, path: Path) -> int:
    """Save a screenshot as WebP; return its size in bytes."""
    from PIL import Image

    picture: Any = Image.open(BytesIO(shot)).convert("RGB")
    picture.save(path, quality=80, method=6)
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
