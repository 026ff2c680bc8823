"""Events, checkpoints and result files hold what the run store does."""

from __future__ import annotations

import base64
import math
from types import SimpleNamespace
from typing import Any

import pytest

from llmtune.metrics.points import MetricPoint
from llmtune.provider.types import ModelRef
from llmtune.runs.api import attach
from llmtune.runs.store.store import open_store
from llmtune.server.tuning.events import _replace_model_ids, metrics_by_step, result_csv
from tests.llmtune.server.tuning.conftest import BASE, KEY, upload, wait

openai = pytest.importorskip("openai")


def points(*values: tuple[str, int, float], **fields: Any) -> list[MetricPoint]:
    return [MetricPoint(series=series, step=step, value=value, **fields) for series, step, value in values]


def test_a_result_file_has_a_line_a_step_and_empty_cells_for_what_was_not_measured() -> None:
    measured = points(
        ("train/loss", 2, 1.5), ("train/loss", 1, 2.0), ("validation/loss", 2, 1.75), ("train/grad_norm", 3, 1.0)
    ) + points(("train/token_accuracy", 1, 0.5))
    assert result_csv(measured).decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.0,0.5,,\n2,1.5,,1.75,\n"
    )
    assert result_csv([]).decode().count("\n") == 1
    assert "nan" in result_csv(points(("train/loss", 1, math.nan))).decode()


def test_of_two_sources_the_vendors_file_is_believed() -> None:
    twice = points(("train/loss", 1, 1.234567), source="vendor_file") + points(
        ("train/loss", 1, 1.2), source="vendor_api"
    )
    assert metrics_by_step(twice)[1][1] == {"train_loss": 1.234567}
    assert metrics_by_step(twice[::-1])[1][1] == {"train_loss": 1.234567}


def test_a_message_of_the_backend_names_the_model_as_clients_know_it() -> None:
    checkpoint = ModelRef(id="ft:base:acme::a1:step-2", base="base", data={"step": 2})
    job: Any = SimpleNamespace(tuned_name="ft:asked:org::k")
    run: Any = SimpleNamespace(checkpoints=(checkpoint,), model_ref=ModelRef(id="ft:base:acme::a1", base="base"))
    named = _replace_model_ids("New fine-tuned model created: ft:base:acme::a1", job, run)
    assert named == "New fine-tuned model created: ft:asked:org::k"
    assert "acme" not in _replace_model_ids("Checkpoint: ft:base:acme::a1:step-2", job, run)


def test_the_events_tell_the_whole_story_newest_first_and_page_by_page(api: Any) -> None:
    job = wait(
        api,
        api.fine_tuning.jobs.create(
            model=BASE,
            training_file=upload(api).id,
            hyperparameters={"n_epochs": 2, "learning_rate_multiplier": "auto"},
        ).id,
    )
    events = list(api.fine_tuning.jobs.list_events(job.id, limit=7))
    assert len({event.id for event in events}) == len(events)
    assert events == list(api.fine_tuning.jobs.list_events(job.id, limit=100))
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    messages = [event.message for event in events]
    assert messages[0] == "The job has successfully completed"
    assert messages[1] == f"New fine-tuned model created: {job.fine_tuned_model}"
    assert messages[-1] == f"Created fine-tuning job: {job.id}"
    assert messages[-2].startswith(f"Model {BASE} is tuned as llmtune run {job.id.removeprefix('ftjob-')} at fake")
    # One line for each field of the job that is not sent, in the receipt's own words.
    receipt = attach(job.id.removeprefix("ftjob-")).record.plan
    fields = [event.data["field"] for event in events if "support" in event.data]
    assert fields[::-1] == [row.field for row in receipt.fields if row.support != "sent"]
    assert "epochs" not in fields
    assert "learning_rate_multiplier" in fields
    metrics = [event for event in events if event.type == "metrics"]
    assert {"step", "total_steps", "train_loss"} <= set(metrics[0].data)
    assert metrics[0].message == f"Step {metrics[0].data['step']}/{metrics[0].data['total_steps']}: training loss=" + (
        f"{metrics[0].data['train_loss']:.2f}"
    )
    csv = base64.b64decode(api.files.content(job.result_files[0]).read()).decode()
    assert len(csv.splitlines()) == 1 + len(metrics)
    plain = api.files.content(job.result_files[0], extra_headers={"Accept": "text/csv"}).read().decode()
    assert plain == csv
    checkpoint = api.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert checkpoint.step_number == metrics[0].data["step"]
    assert checkpoint.metrics.train_loss == metrics[0].data["train_loss"]


def test_a_loss_that_diverged_is_shown_and_breaks_nothing(api: Any) -> None:
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
    run = attach(job.id.removeprefix("ftjob-"))
    open_store().add_points(run.id, points(("train/loss", 99, math.inf), ("validation/loss", 99, math.nan)))
    events = list(api.fine_tuning.jobs.list_events(job.id, limit=100))
    diverged = next(event for event in events if event.data.get("step") == 99)
    assert (diverged.data["train_loss"], diverged.data["valid_loss"]) == ("inf", "nan")


def test_no_event_names_a_place_on_the_server_or_its_key(api: Any, own_home: Any) -> None:
    job = wait(api, api.fine_tuning.jobs.create(model=BASE, training_file=upload(api).id).id)
    for event in api.fine_tuning.jobs.list_events(job.id, limit=100):
        assert str(own_home) not in event.to_json()
        assert KEY not in event.to_json()
