"""The panel on real trainings of the model in the package: what is lost is found, and a harmless run is not blamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmtune._retry import RetryPolicy
from llmtune.evaluation.cache import MemoryCache
from llmtune.evaluation.panel import questions
from llmtune.evaluation.panel.measure import PanelRun
from llmtune.evaluation.panel.questions import load_panel
from llmtune.evaluation.predictions import ModelAccess
from llmtune.evaluation.results import PanelResult
from llmtune.job.spec import EvaluationSpec

if TYPE_CHECKING:
    from llmtune_local.inference.generator import LocalGenerator

pytest.importorskip("torch")
pytest.importorskip("peft")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: One question in so many of the shipped panel: every kind is among them.
EVERY = 40


def train(folder: Path, **hyperparameters: float) -> LocalGenerator:
    """Train on narrow rows, in this process, and return the tuned model."""
    from llmtune_local.inference.generator import LocalGenerator
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_local.training.registry import trainer_for

    folder.mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Order {n}: which crate?"},
                {"role": "assistant", "content": f"crate {n % 7} on shelf {n % 3}, row {n % 5}"},
            ]
        }
        for n in range(32)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    body = {
        "model": "tiny",
        "adapter": "full",
        "files": {"train": str(folder / "rows.jsonl")},
        "seed": 0,
        "options": {"device": "cpu", "num_threads": 1},
        "hyperparameters": {"epochs": 10, "batch_size": 8, **hyperparameters},
    }
    request = RunRequest.model_validate(body)
    run_dir = RunDir(folder / "run")
    run_dir.write_request(request)
    with StatusWriter(run_dir) as status_writer:
        trainer_for(request)(run_dir, request, status_writer, lambda: False).run()
    return LocalGenerator(model="tiny", artefact=run_dir.model)


def ask(path: Path, tuned: LocalGenerator, cache: MemoryCache) -> PanelResult:
    """Ask the base and a tuned model a panel; what the base has answered before comes from the cache."""
    from llmtune_local.inference.generator import LocalGenerator

    run = PanelRun(load_panel(str(path)), EvaluationSpec())
    for name, model in (("base", LocalGenerator(model="tiny")), ("tuned", tuned)):
        with model:
            run.ask(name, model, ModelAccess(f"{name} {model.artefact}", cache, RetryPolicy(), lambda *_: None))
    return run.build_result()


def test_forgetting_is_found_and_a_minimal_training_is_not_blamed(tmp_path: Path) -> None:
    shipped = (Path(questions.__file__).parent / "general.jsonl").read_text(encoding="utf-8").splitlines()
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join(shipped[::EVERY]), encoding="utf-8")
    cache = MemoryCache()
    lost = ask(some, train(tmp_path / "narrow", max_steps=15, learning_rate=5e-3), cache)
    same = ask(some, train(tmp_path / "minimal", max_steps=1, learning_rate=1e-5), cache)
    for panel in (lost, same):
        assert (panel.questions, panel.left_out) == (7, {})
    loss, no_loss = lost.test("log_likelihood"), same.test("log_likelihood")
    assert loss is not None
    assert no_loss is not None
    assert loss.comparison.a == no_loss.comparison.a  # one base, asked alike
    assert loss.comparison.difference < -1.0
    assert loss.verdict == lost.verdict == "worse"
    assert no_loss.verdict == "not worse"
