"""The example notebook runs to its end, and each cell shows what its reader expects."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "examples" / "notebook" / "tickets.ipynb"

#: Bytes of a saved notebook, outputs included: it goes into a repository.
MOST_BYTES = 60_000


def text_of(cell: Any, kind: str) -> str:
    """The outputs of a cell of one kind: a MIME type, or the name of a stream."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text if output.name == kind else "")
        else:
            parts.append(output.get("data", {}).get(kind, ""))
    return "".join(parts)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_notebook_runs_and_shows_small_tables(tmp_path: Path, own_home: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    job, plan, tune, start, runs, answers, gate = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert "<th>hyperparameters</th><td>epochs: 2</td>" in text_of(job, "text/html")
    assert "ready to start" in text_of(plan, "text/html")

    progress = [output for output in tune.outputs if output.output_type == "display_data"]
    assert len(progress) == 1  # one output, which was replaced
    assert re.match(r"ticket-router  succeeded  step \d+/\d+", progress[0].data["text/plain"])
    assert "accuracy" in text_of(tune, "text/html")
    assert text_of(tune, "stdout") == text_of(tune, "stderr") == ""

    lines = text_of(start, "stdout").splitlines()
    assert lines[-1].startswith("ticket-router: succeeded")
    assert all(len(line) <= 160 for line in lines)
    assert "succeeded" in text_of(start, "text/html")
    assert text_of(runs, "text/plain").count("'ticket-router' at fake: succeeded") == 2
    assert text_of(answers, "text/plain").startswith("['")
    assert text_of(gate, "stdout")
    assert len(nbformat.writes(notebook).encode()) < MOST_BYTES


def test_the_notebook_is_stored_without_outputs() -> None:
    import json

    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
