"""A request's fields become a job's, one by one, and every wrong one is refused by its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import InvalidJob, LlmtuneError, OverBudget, ProviderClosed
from llmtune.server.protocol import RequestError
from llmtune.server.tuning.models import Target
from llmtune.server.tuning.state import FileRecord, JobRecord, TuningState
from llmtune.server.tuning.translate import build_job, parse_create_request, to_request_error

MINIMAL: dict[str, Any] = {"model": "gpt-4o", "training_file": "file-a"}


def job_of(state: TuningState, **changes: Any) -> Any:
    request = parse_create_request(MINIMAL | changes)
    file = FileRecord(id="file-a", created=0, sha256="a" * 64, bytes=1, filename="a.jsonl", purpose="fine-tune")
    record = JobRecord(
        id="ftjob-abcdefghij",
        created=0,
        model="gpt-4o",
        target="fake:m-1",
        tuned_name="ft:gpt-4o:llmtune::ltabcdefghij",
        training_file=file,
        method=request.method,
        hyperparameters=request.hyperparameters,
        suffix=request.suffix,
        seed=request.seed,
        metadata=request.metadata,
    )
    return build_job(record, Target("fake", "m-1"), "fake", state)


def test_every_field_has_its_place_in_the_job(tmp_path: Path) -> None:
    state = TuningState(tmp_path)
    values = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5, "beta": 0.2}
    job = job_of(
        state,
        suffix="desk",
        seed=0,
        metadata={"a": "b"},
        method={"type": "dpo", "dpo": {"hyperparameters": values}},
        integrations=None,
        validation_file=None,
    )
    assert (job.name, job.seed, job.tags, job.method) == ("desk", 0, {"a": "b"}, "dpo")
    assert job.hyperparameters.model_dump(exclude_none=True) == {
        "epochs": 3,
        "learning_rate_multiplier": 0.5,
        "dpo_beta": 0.2,
    }
    assert job.dataset.train == str(tmp_path / "tuning" / "content" / f"{'a' * 64}.jsonl")
    assert job.dataset.split == (1, 0, 0)
    assert job.model_for("fake") == "m-1"
    older = job_of(state, hyperparameters={"n_epochs": 2}, method={"type": "supervised"})
    assert older.hyperparameters.epochs == 2
    assert job_of(state).name == "ftjob-abcdefghij"
    state.close()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"training_file": ""}, "training_file"),
        ({"n_epochs": 3}, "n_epochs"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(at): "" for at in range(17)}}, "metadata"),
        ({"method": "dpo"}, "method"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "dpo", "dpo": {"lr": 1}}}, "method.dpo.lr"),
        ({"method": {"type": "dpo", "dpo": []}}, "method.dpo"),
        ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta"),
        ({"hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"batch_size": 2.0}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}},
            "method.dpo.hyperparameters.beta",
        ),
        (
            {
                "hyperparameters": {"n_epochs": 1},
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            },
            "hyperparameters.n_epochs",
        ),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_create_request(MINIMAL | changes)
    assert caught.value.status == 400
    assert caught.value.body["error"]["param"] == param


def test_what_a_job_cannot_do_is_said_in_the_apis_words() -> None:
    for error, param, code in (
        (ProviderClosed("gone", provider="x"), "model", "model_not_available"),
        (OverBudget("too dear"), None, "over_budget"),
        (InvalidJob("no", where="name"), "suffix", None),
        (LlmtuneError("no"), None, "backend_not_ready"),
    ):
        body = to_request_error(error).body["error"]
        assert (body["param"], body["code"]) == (param, code)
