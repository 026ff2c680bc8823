"""Every Python block of README and docs, and every script of the examples, passes `mypy --strict`.

A page's blocks are checked together, as one module: later ones use the names of earlier ones, as a reader would.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from itertools import groupby
from pathlib import Path

import pytest

from tests.system.docs.test_blocks import GIVEN, ROOT, TINY_JOB, of

ACME = """
from llmtune.testing.fake_provider import FakeProvider, FakeSettings


class AcmeSettings(FakeSettings): ...


class AcmeProvider(FakeProvider): ...
"""

#: What a page's blocks take as given, beside what they take when they run.
TAKEN = {
    "docs/classification.md": 'folder = "sst2"\n',
    "docs/compare.md": TINY_JOB,
    "docs/fallback.md": TINY_JOB,
    "docs/page.md": TINY_JOB,
    "docs/runs.md": TINY_JOB,
    "docs/sweep.md": TINY_JOB,
    "docs/testing.md": f"{TINY_JOB}{ACME}",
}

#: A page may show two tools with the same variable, one after the other. A flag would make mypy forget its cache.
REDEFINING = "# mypy: allow-redefinition"

#: Libraries that pages of other tools import.
OTHER_TOOLS = ["litellm.*", "trl.*"]

#: A user's script: each line that is marked must be refused, and for this reason.
SCRIPT = """
from llmtune import Report, TuningJob, attach, compare, rescue, start, sweep, tune
from llmtune.metrics.points import NotReported
from llmtune.types import Update

job = TuningJob(name="a", dataset="rows.jsonl", model="tiny")
tune(job, provider="local", bugdet=20)  # call-arg
tune(job, provider="local", budget="20")  # arg-type
tune(job, provider="local", progress="yes")  # arg-type
start(job, bugdet=20)  # call-arg
compare(job, ["local"], bugdet=20)  # call-arg
sweep(job, bugdet=20)  # call-arg
rescue("ft:m", bugdet=20)  # call-arg


def show(update: Update) -> None:
    print(update)


report: Report = tune(job, "local", budget=20, timeout=3.0, progress=False, on_update=show)
billed = report.cost.billed
if billed:
    amount: float = billed
else:
    nothing: NotReported = billed  # assignment
with attach("a").model() as model:
    text: str = model.generate([{"role": "user", "content": "Hi"}]).text
    texts: list[str] = [answer.text for answer in model.generate([[{"role": "user", "content": "Hi"}]])]
    model.generate(5)  # call-overload
"""


def run_mypy(folder: Path, files: list[Path]) -> list[str]:
    """The errors of `mypy --strict` with the project's own settings, from whose folder its cache is read."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("$MYPY_CONFIG_FILE_DIR", str(ROOT))
    settings += f"\n[[tool.mypy.overrides]]\nmodule = {OTHER_TOOLS}\nignore_missing_imports = true\n"
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(folder / "pyproject.toml"), "--strict"]
    # transformers types its classes, not all of their methods.
    command += ["--untyped-calls-exclude", "transformers", "--no-error-summary", "--hide-error-context", "--cache-dir"]
    done = subprocess.run(
        [*command, str(ROOT / ".mypy_cache"), *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    return [Path(line.partition(":")[0]).name + ":" + line.partition(":")[2] for line in errors]


def write_pages(folder: Path) -> list[Path]:
    """One module for each page: what it takes as given, then its blocks."""
    files = []
    for page, blocks in groupby(of("python"), key=lambda block: block.page):
        given = TAKEN.get(page) or GIVEN.get(page, "")
        file = folder / f"{page.removesuffix('.md').replace('/', '_').replace('-', '_')}_page.py"
        parts = [REDEFINING, given, *(textwrap.dedent(block.text) for block in blocks)]
        file.write_text("\n".join(parts), encoding="utf-8")
        files.append(file)
    return files


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("types")
    pages = write_pages(folder)
    assert len(pages) > 15
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    scripts = []
    for source in sorted((ROOT / "examples").rglob("*.py")):
        scripts.append(folder / f"example_{'_'.join(source.relative_to(ROOT / 'examples').parts)}")
        shutil.copy(source, scripts[-1])
    assert len(scripts) > 5
    return run_mypy(folder, [*pages, script, *scripts])


@pytest.mark.slow
def test_every_block_and_example_is_typed(errors: list[str]) -> None:
    assert not "\n".join(error for error in errors if not error.startswith("script.py"))


@pytest.mark.slow
def test_a_wrong_keyword_or_value_is_refused_and_nothing_else(errors: list[str]) -> None:
    refused = {}
    for error in errors:
        file, line, _, rest = error.split(":", 3)
        if file == "script.py":
            refused[int(line)] = rest.rpartition("[")[2].rstrip("]")
    marked = {
        number: line.rpartition("  # ")[2] for number, line in enumerate(SCRIPT.splitlines(), start=1) if "  # " in line
    }
    assert refused == marked
