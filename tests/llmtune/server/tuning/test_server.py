"""`llmtune serve --tuning`, as it is typed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, KEY, upload, wait

openai = pytest.importorskip("openai")
LLMTUNE = [sys.executable, "-m", "llmtune", "serve", "--tuning", "--port", "0"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(f"{BASE}: fake:m-1\n")
    return path


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(vendor: Fake, models: Path) -> None:
    command = [*LLMTUNE, "--models", str(models), "--budget", "5", "--organization", "acme"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with openai.OpenAI(base_url=url, api_key=KEY, timeout=60) as api:
            # Without a number of epochs the cost is not known, and counts as over the budget.
            create, file = api.fine_tuning.jobs.create, upload(api).id
            assert wait(api, create(model=BASE, training_file=file).id).error.code == "over_budget"
            job = wait(api, create(model=BASE, training_file=file, hyperparameters={"n_epochs": 1}).id)
            assert job.fine_tuned_model.startswith(f"ft:{BASE}:acme::lt")
            assert job.organization_id == "org-acme"
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == 0, printed
        assert f"models: {BASE}" in printed
        assert 'api_key=os.environ["LLMTUNE_SERVE_KEY"]' in printed
        assert KEY not in printed
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


@pytest.mark.parametrize(
    ("options", "environment", "code", "message"),
    [
        (["--models", "MODELS"], {}, 3, "jobs for fake:m-1 are billed"),
        (["--models", "MODELS", "--yes"], {"LLMTUNE_SERVE_KEY": ""}, 2, "it needs a key"),
        (["--models", "MODELS", "--yes", "--key-from", "NOT_SET"], {}, 2, "NOT_SET is not set"),
        (["--yes"], {}, 2, "--tuning needs a model map"),
        (["a-run", "--models", "MODELS"], {}, 2, "runs are named in the model map"),
        (["--models", "MODELS", "--yes", "--organization", "A:B"], {}, 2, "stands in models' names"),
        (["--models", "nowhere.yaml", "--yes"], {}, 2, "no such"),
    ],
)
def test_what_stands_against_it_is_one_sentence(
    models: Path, options: list[str], environment: dict[str, str], code: int, message: str
) -> None:
    arguments = [str(models) if option == "MODELS" else option for option in options]
    done = subprocess.run(
        [*LLMTUNE, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
