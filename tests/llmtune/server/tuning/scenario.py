"""Every call of the API that is served, as OpenAI's client makes it: what is held against the published document."""

from __future__ import annotations

import time
from typing import Any

from tests.llmtune.server.tuning.conftest import ENDED, rows

#: A function as clients describe it.
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"order": {"type": "string"}}}},
}


def run(api: Any, model: str, *, streams: bool = True) -> Any:
    """Call everything (streams too, unless whoever listens cannot read them); the finished job."""
    jobs = api.fine_tuning.jobs
    train = api.files.create(file=("train.jsonl", rows()), purpose="fine-tune")
    held_out = api.files.create(
        file=("valid.jsonl", rows(8, "other")),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    api.files.retrieve(train.id)
    api.files.content(train.id).read()
    list(api.files.list(limit=1))
    job = jobs.create(
        model=model,
        training_file=train.id,
        validation_file=held_out.id,
        suffix="desk",
        seed=3,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    )
    pairs = b"".join(_pair(number) for number in range(12))
    preferences = api.files.create(file=("pairs.jsonl", pairs), purpose="fine-tune")
    other = jobs.create(
        model=model,
        training_file=preferences.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": "auto"}}},
    )
    broken = api.files.create(file=("bad.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
    failed = jobs.create(model=model, training_file=broken.id)
    jobs.cancel(other.id)
    job, other, failed = (_ended(api, each.id) for each in (job, other, failed))
    assert (job.status, failed.status) == ("succeeded", "failed")
    assert len(list(jobs.list(limit=2))) == 3
    assert [each.id for each in jobs.list(metadata={"team": "a"})] == [job.id]
    for each in (job, other, failed):
        list(jobs.list_events(each.id, limit=50))
        list(jobs.checkpoints.list(each.id))
    for file in job.result_files:
        api.files.retrieve(file)
        api.files.content(file).read()
    list(api.models.list())
    api.models.retrieve(model)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "case 1"}]
    for name in (model, job.fine_tuned_model):
        api.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0)
    api.chat.completions.create(model=job.fine_tuned_model, messages=messages, tools=[TOOL], max_completion_tokens=8)
    if streams:
        for usage in (True, False):
            stream = api.chat.completions.create(
                model=job.fine_tuned_model,
                messages=messages,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": usage},
            )
            list(stream)
    api.models.delete(job.fine_tuned_model)
    for file in (train, held_out, preferences, broken):
        api.files.delete(file.id)
    return job


def _pair(number: int) -> bytes:
    return (
        b'{"input": {"messages": [{"role": "user", "content": "case %d"}]},'
        b' "preferred_output": [{"role": "assistant", "content": "yes"}],'
        b' "non_preferred_output": [{"role": "assistant", "content": "no"}]}\n' % number
    )


def _ended(api: Any, job_id: str) -> Any:
    deadline = time.monotonic() + 120
    while (job := api.fine_tuning.jobs.retrieve(job_id)).status not in ENDED:
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
    return job
