"""Every call of the API that is served, as OpenAI's client makes it: what is held against the published document."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from llmtune.testing.fake_vendor import FakeVendor
from tests.llmtune.server.tuning.conftest import ENDED, rows

#: A function as clients describe it.
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"order": {"type": "string"}}}},
}


def run(api: Any, model: str, *, vendor: FakeVendor | None = None) -> Any:
    """Call everything, streams too; return the finished job.

    `vendor` is the fake behind the endpoint, which is made to hold the job that is cancelled.
    """
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
    with held(vendor):
        cancelled = jobs.create(model=model, training_file=train.id)
        jobs.cancel(cancelled.id)
        cancelled = _ended(api, cancelled.id)
    job = jobs.create(
        model=model,
        training_file=train.id,
        validation_file=held_out.id,
        suffix="desk",
        seed=3,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    )
    pairs = api.files.create(file=("pairs.jsonl", preferences()), purpose="fine-tune")
    preferred = jobs.create(
        model=model,
        training_file=pairs.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": "auto"}}},
    )
    broken = api.files.create(file=("bad.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
    failed = jobs.create(model=model, training_file=broken.id)
    job, preferred, failed = (_ended(api, started.id) for started in (job, preferred, failed))
    assert (job.status, failed.status, cancelled.status) == ("succeeded", "failed", "cancelled")
    assert len(list(jobs.list(limit=2))) == 4
    assert [listed.id for listed in jobs.list(metadata={"team": "a"})] == [job.id]
    for ended in (job, preferred, failed, cancelled):
        list(jobs.list_events(ended.id, limit=50))
        list(jobs.checkpoints.list(ended.id))
    for file in job.result_files:
        api.files.retrieve(file)
        api.files.content(file).read()
    parts = api.uploads.create(
        bytes=len(rows()),
        filename="parts.jsonl",
        purpose="fine-tune",
        mime_type="text/jsonl",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    part_ids = [api.uploads.parts.create(parts.id, data=piece).id for piece in (rows()[:99], rows()[99:])]
    joined = api.uploads.complete(parts.id, part_ids=part_ids).file
    unwanted = api.uploads.create(bytes=9, filename="a.jsonl", purpose="fine-tune", mime_type="text/jsonl")
    api.uploads.cancel(unwanted.id)
    list(api.models.list())
    api.models.retrieve(model)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "case 1"}]
    for name in (model, job.fine_tuned_model):
        api.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0)
    api.chat.completions.create(model=job.fine_tuned_model, messages=messages, tools=[TOOL], max_completion_tokens=8)
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
    for file in (train, held_out, pairs, broken, joined):
        api.files.delete(file.id)
    return job


@contextmanager
def held(vendor: FakeVendor | None) -> Iterator[None]:
    """Let the jobs that the vendor takes meanwhile train for ever. (On this machine training takes its time anyway.)"""
    if vendor is None:
        yield
        return
    before = vendor.outcome
    walk = tuple(replace(phase, looks=10**6) if phase.training else phase for phase in vendor.walks["success"])
    vendor.walks, vendor.outcome = {**vendor.walks, "held": walk}, "held"
    try:
        yield
    finally:
        vendor.outcome = before


async def run_async(url: str, key: str, model: str) -> Any:
    """The same with the async client, and the calls that are refused; the finished job."""
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=120) as api:
        train = await api.files.create(file=("train.jsonl", io.BytesIO(rows())), purpose="fine-tune")
        await api.files.wait_for_processing(train.id)
        job = await api.fine_tuning.jobs.create(model=model, training_file=train.id)
        while (job := await api.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
            await asyncio.sleep(0.05)
        assert job.status == "succeeded"
        assert job.id in [listed.id async for listed in api.fine_tuning.jobs.list(limit=1)]
        events = [event async for event in api.fine_tuning.jobs.list_events(job.id, limit=9)]
        assert events[0].message == "The job has successfully completed"
        checkpoints = [checkpoint async for checkpoint in api.fine_tuning.jobs.checkpoints.list(job.id)]
        assert checkpoints[0].fine_tuned_model_checkpoint == job.fine_tuned_model
        assert (await api.files.content(job.result_files[0])).read()
        stream = await api.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": "case 1"}], max_tokens=8, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason
        with pytest.raises(openai.BadRequestError, match="Job has already ended: it is succeeded"):
            await api.fine_tuning.jobs.cancel(job.id)
        assert (await api.models.retrieve(job.fine_tuned_model)).id == job.fine_tuned_model
        assert (await api.models.delete(job.fine_tuned_model)).deleted
        assert (await api.files.delete(train.id)).deleted
        for call in (
            api.fine_tuning.jobs.pause(job.id),
            api.fine_tuning.jobs.resume(job.id),
            api.fine_tuning.checkpoints.permissions.list("ft:x:y::z"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await call
            assert caught.value.code == "unsupported_endpoint"
        return job


def preferences() -> bytes:
    """Preference rows as JSON Lines."""
    return b"".join(_pair(number) for number in range(12))


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
