"""DSPy's own provider for OpenAI, which knows nothing of llmtune, tunes through the endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, KEY

#: Asked before the tests' own home takes the variable away.
REGISTRY = os.environ.get("LLMTUNE_TEST_REGISTRY")

SCRIPT = """
import time

import dspy
from dspy.clients import openai as provider
from dspy.clients.utils_finetune import TrainDataFormat

provider.time.sleep = lambda seconds, sleep=time.sleep: sleep(0.1)
rows = [
    {"messages": [{"role": "user", "content": f"case {at}"}, {"role": "assistant", "content": "yn"[at % 2]}]}
    for at in range(24)
]
OpenAIProvider = provider.OpenAIProvider
job = provider.TrainingJobOpenAI(model="openai/MODEL", train_data=rows, train_data_format=TrainDataFormat.CHAT)
name = OpenAIProvider.finetune(job, "openai/MODEL", rows, TrainDataFormat.CHAT, {"n_epochs": 2})
assert OpenAIProvider.is_provider_model(name)
print("tuned:", name)
print("status:", job.status())
"""


@pytest.mark.registry
@pytest.mark.skipif(REGISTRY is None, reason="LLMTUNE_TEST_REGISTRY is not set, and no test goes to a registry unasked")
@pytest.mark.timeout(900)
def test_dspys_provider_tunes_through_the_endpoint(server: TuningServer, vendor: Fake, tmp_path: Path) -> None:
    environment_folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment_folder)], check=True)
    python = str(environment_folder / "bin" / "python")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", "dspy", "openai"], capture_output=True, text=True, env=clean
    )
    if installed.returncode:
        pytest.skip(f"no index here: {installed.stderr[-300:]}")
    script = tmp_path / "tune.py"
    script.write_text(SCRIPT.replace("MODEL", BASE))
    environment = clean | {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "DSPY_CACHEDIR": str(tmp_path / "c")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run([python, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"tuned: ft:{BASE}:llmtune::lt" in done.stdout
    assert len(vendor.jobs) == 1
