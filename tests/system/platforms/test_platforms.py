"""Windows and macOS, as far as they can be played on another system: nothing that only Linux has is needed.

What this cannot show is how the libraries and the file system behave there (docs/versioning.md).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SYSTEMS = ("windows", "macos")


def run(system: str, commands: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the commands in a process that pretends to be `system`."""
    script = folder / "commands.json"
    script.write_text(json.dumps(commands), encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("pretend.py")), system, str(script)],
        cwd=folder,
        env=os.environ | {"LLMTUNE_HOME": str(folder / "home"), "NO_COLOR": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def write_rows(path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"{n % 3}"}]}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_each_module_can_be_imported(system: str, tmp_path: Path) -> None:
    done = run(system, "import everything", tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    # A module may need a library that is not installed here: here, too, not only there.
    faults = {name: error for name, error in outcomes.items() if error and not _fails_here(name)}
    assert faults == {}
    assert len(outcomes) > 250
    assert outcomes["llmtune.runs.store.leases"] is outcomes["llmtune_local.run_state.process"] is None


def _fails_here(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # noqa: BLE001
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_job_goes_from_its_rows_to_its_report(system: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "job.yaml").write_text("name: elsewhere\ndataset: rows.jsonl\nmodel: m-1\n", encoding="utf-8")
    done = run(
        system,
        [
            ["doctor"],
            ["data", "check", "rows.jsonl"],
            ["plan", "job.yaml", "--provider", "fake,local"],
            ["tune", "job.yaml", "--provider", "fake", "--yes"],
            ["runs", "list"],
            ["report", "elsewhere", "--format", "html", "-o", "run.html"],
            ["evaluate", "elsewhere"],
            ["runs", "cleanup", "elsewhere"],
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 errors" in done.stdout
    assert "succeeded" in done.stdout
    assert (tmp_path / "run.html").stat().st_size > 10_000


def test_the_masks_hide_what_they_should(tmp_path: Path) -> None:
    """What is tested above is only as good as the masks."""
    spec = importlib.util.spec_from_file_location("pretend", Path(__file__).with_name("pretend.py"))
    assert spec is not None
    assert spec.loader is not None
    check = tmp_path / "check.py"
    check.write_text(
        "import importlib.util, sys, types\n"
        f"spec = importlib.util.spec_from_file_location('pretend', {str(spec.origin)!r})\n"
        "pretend = importlib.util.module_from_spec(spec); spec.loader.exec_module(pretend)\n"
        "pretend.pretend('windows')\n"
        "ours = {'__name__': 'llmtune.anything', '__builtins__': __builtins__}\n"
        "exec('import os, signal, sys\\nfrom pathlib import Path', ours)\n"
        "assert ours['sys'].platform == 'win32' and sys.platform != 'win32'\n"
        "assert not hasattr(ours['os'], 'fork') and not hasattr(ours['signal'], 'SIGKILL')\n"
        "for line in ('import fcntl', 'from os import fork', 'import resource', 'Path(\"/proc/stat\").read_text()'):\n"
        "    try:\n"
        "        exec(line, ours)\n"
        "    except (ImportError, FileNotFoundError):\n"
        "        continue\n"
        "    raise SystemExit(line)\n"
        "import fcntl, resource\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(check)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
