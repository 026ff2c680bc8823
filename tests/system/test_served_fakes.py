"""What `python -m llmtune.testing.serve NAME` prints is pasted, and a job goes to its report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmtune.testing.serve import list_fakes

#: A model that each vendor tunes.
MODELS = {
    "azure": "gpt-4.1-mini-2025-04-14",
    "bedrock": "amazon.nova-micro-v1:0:128k",
    "cohere": "command-r-08-2024",
    "fake": "m-1",
    "hfjobs": "tiny",
    "nebius": "meta-llama/Llama-3.3-70B-Instruct",
    "openai": "gpt-4.1-mini-2025-04-14",
    "sagemaker": "huggingface-reasoning-qwen3-8b",
    "tinker": "Qwen/Qwen3-8B",
    "together": "Qwen/Qwen3-8B",
    "vertex": "gemini-2.5-flash",
}


@contextmanager
def served(name: str, *options: str) -> Iterator[list[str]]:
    """The lines to paste, while the fake runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "llmtune.testing.serve", name, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert re.fullmatch(
                rf"{name} at http://127\.0\.0\.1:\d+; press Ctrl-C to stop\n", process.stdout.readline()
            )
            assert f"llmtune tune JOB --provider {name}" in process.stdout.readline()
            assert process.stdout.readline() == "\n"
            yield list(iter(lambda: process.stdout.readline().rstrip("\n"), ""))  # type: ignore[union-attr]
        finally:
            process.terminate()
            process.communicate(timeout=20)


#: Options that a job needs where no network is at hand.
OPTIONS = {"tinker": {"tokenizer": "tiny"}}


def write_job(folder: Path, model: str, options: dict[str, object] | None = None) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"team {n % 3}"}]}
        for n in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "job.yaml").write_text(
        f'name: pasted\ndataset: rows.jsonl\nmodel: "{model}"\nhyperparameters: {{epochs: 1}}\n'
        f"provider_options: {json.dumps(options or {})}\n",
        encoding="utf-8",
    )


def environment(home: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LLMTUNE_HOME": str(home),
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }


def test_each_fake_has_a_model_here() -> None:
    assert sorted(MODELS) == list_fakes()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_is_printed_works_when_it_is_pasted(name: str, tmp_path: Path) -> None:
    write_job(tmp_path, MODELS[name], {key: OPTIONS[key] for key in (name,) if key in OPTIONS})
    llmtune = f"{sys.executable} -m llmtune"
    with served(name) as lines:
        assert lines
        typed = [
            *lines,
            f"{llmtune} tune job.yaml --provider {name} --yes",
            f"{llmtune} report pasted --format markdown -o report.md",
        ]
        done = subprocess.run(
            ["sh", "-euc", "\n".join(typed)],
            cwd=tmp_path,
            env=environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout + done.stderr
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "pasted" in report
    assert MODELS[name] in report


def test_the_lines_for_powershell_set_the_same_variables() -> None:
    with served("azure") as sh, served("azure", "--shell", "powershell") as powershell:
        pass
    names = [re.match(r"export (\w+)=", line) for line in sh]
    others = [re.fullmatch(r"\$env:(\w+) = '.*'", line) for line in powershell]
    assert [match and match[1] for match in names] == [match and match[1] for match in others]
    assert len(others) == 10
    assert None not in others
