"""LlamaIndex's own fine-tune engine for OpenAI, which knows nothing of llmtune, tunes through the endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import BASE, KEY, rows

#: Asked before the tests' own home takes the variable away.
REGISTRY = os.environ.get("LLMTUNE_TEST_REGISTRY")

#: What the engine imports. Its package is installed without what it requires: that is torch, which the engine does not.
REQUIRED = ("llama-index-llms-openai", "llama-index-postprocessor-cohere-rerank")

SCRIPT = """
import importlib.machinery
import sys
import time
import types

import llama_index.core

# The package is entered beside its __init__, which imports the engines for embeddings, and torch with them.
package = types.ModuleType("llama_index.finetuning")
spec = importlib.machinery.PathFinder.find_spec(package.__name__, sys.modules["llama_index"].__path__)
package.__path__ = spec.submodule_search_locations
sys.modules[package.__name__] = package

from llama_index.finetuning.openai.base import OpenAIFinetuneEngine

engine = OpenAIFinetuneEngine("MODEL", "train.jsonl", validate_json=False)
engine.finetune()
while (job := engine.get_current_job()).status not in ("succeeded", "failed", "cancelled"):
    time.sleep(0.1)
print("status:", job.status)
print("tuned:", job.fine_tuned_model)
model = engine.get_finetuned_model(temperature=0)
print("answer:", model.complete("case 1"))
"""


@pytest.mark.slow
@pytest.mark.registry
@pytest.mark.skipif(REGISTRY is None, reason="LLMTUNE_TEST_REGISTRY is not set, and no test goes to a registry unasked")
@pytest.mark.timeout(900)
def test_llamaindexs_engine_tunes_through_the_endpoint(server: TuningServer, vendor: Fake, tmp_path: Path) -> None:
    environment_folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment_folder)], check=True)
    python = str(environment_folder / "bin" / "python")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for packages in (("--no-deps", "llama-index-finetuning"), REQUIRED):
        command = [python, "-m", "pip", "install", "-q", "--no-compile", *packages]
        installed = subprocess.run(command, capture_output=True, text=True, env=clean)
        if installed.returncode:
            pytest.skip(f"no index here: {installed.stderr[-300:]}")
    (tmp_path / "train.jsonl").write_bytes(rows())
    script = tmp_path / "tune.py"
    script.write_text(SCRIPT.replace("MODEL", BASE))
    # The engine's client reads the first address, LlamaIndex' model the second.
    addresses = {"OPENAI_BASE_URL": server.url, "OPENAI_API_BASE": server.url}
    environment = clean | addresses | {"OPENAI_API_KEY": KEY, "HOME": str(tmp_path)}
    done = subprocess.run([python, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "status: succeeded" in done.stdout
    assert f"tuned: ft:{BASE}:llmtune::lt" in done.stdout
    assert "answer: n" in done.stdout
    assert len(vendor.jobs) == 1
