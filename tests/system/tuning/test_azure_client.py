"""OpenAI's client for Azure, unchanged but for its endpoint: versions in the query, deployments as models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, KEY, client, rows, upload, wait

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
VERSION = "2025-04-01-preview"
HI = [{"role": "user", "content": "case 1"}]


@pytest.fixture
def azure(server: TuningServer) -> Iterator[Any]:
    root = server.url.removesuffix("/v1")
    with openai.AzureOpenAI(azure_endpoint=root, api_key=KEY, api_version=VERSION, max_retries=0, timeout=60) as opened:
        yield opened


def test_every_call_runs_with_the_client_for_azure(azure: Any, vendor: Fake) -> None:
    assert scenario.run(azure, BASE, vendor=vendor).status == "succeeded"


@pytest.mark.parametrize("query", [{}, {"api-version": "preview"}])
def test_the_newer_address_without_a_date_serves_the_same(
    server: TuningServer, vendor: Fake, query: dict[str, str]
) -> None:
    root = server.url.removesuffix("/v1")
    with openai.OpenAI(
        base_url=f"{root}/openai/v1", api_key=KEY, default_query=query, max_retries=0, timeout=60
    ) as api:
        assert scenario.run(api, BASE, vendor=vendor).status == "succeeded"


def test_a_deployment_is_a_model(server: TuningServer, azure: Any) -> None:
    job = wait(azure, azure.fine_tuning.jobs.create(model=BASE, training_file=upload(azure).id).id)
    root = server.url.removesuffix("/v1")
    with openai.AzureOpenAI(
        azure_endpoint=root,
        azure_deployment=job.fine_tuned_model,
        azure_ad_token=KEY,
        api_version=VERSION,
        max_retries=0,
    ) as deployed:
        answer = deployed.chat.completions.create(model="ignored", messages=HI, temperature=0)
        assert (answer.model, answer.choices[0].message.content) == (job.fine_tuned_model, "n")
        assert [file.id for file in deployed.files.list()]
    with pytest.raises(openai.NotFoundError) as caught:
        azure.chat.completions.create(model="nobody/knows it", messages=HI)
    assert caught.value.code == "model_not_found"


def test_the_async_client_for_azure(server: TuningServer) -> None:
    async def tune() -> Any:
        root = server.url.removesuffix("/v1")
        async with openai.AsyncAzureOpenAI(azure_endpoint=root, api_key=KEY, api_version=VERSION, max_retries=0) as api:
            file = await api.files.create(file=("a.jsonl", rows()), purpose="fine-tune")
            job = await api.fine_tuning.jobs.create(model=BASE, training_file=file.id)
            while (job := await api.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
                await asyncio.sleep(0.05)
            stream = await api.chat.completions.create(model=job.fine_tuned_model, messages=HI, stream=True)
            return job.status, [chunk async for chunk in stream]

    status, chunks = asyncio.run(tune())
    assert status == "succeeded"
    assert chunks[-1].choices[0].finish_reason


def test_keys_and_versions_are_asked_for(server: TuningServer) -> None:
    root = server.url.removesuffix("/v1")
    version = {"api-version": VERSION}
    with httpx.Client(base_url=root, timeout=60) as http:
        for headers in ({}, {"api-key": "wrong"}, {"authorization": "Bearer wrong", "api-key": KEY}):
            for path in ("/openai/files", "/openai/v1/files", "/openai/deployments/x/chat/completions"):
                response = http.request("POST", path, params=version, headers=headers)
                assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key"), path
        http.headers["api-key"] = KEY
        assert http.get("/openai/files", params=version).status_code == 200
        assert http.get("/openai/v1/files").status_code == 200
        for query in ({}, {"api-version": ""}, {"api-version": "new"}, {"api-version": "2025-04-01-other"}):
            error = http.get("/openai/files", params=query)
            assert (error.status_code, error.json()["error"]["param"]) == (400, "api-version"), query
        assert http.get("/v1/files", params=version).json()["error"]["param"] == "api-version"
        assert http.get("/openai/embeddings", params=version).status_code == 404


def test_what_one_client_makes_the_other_sees(server: TuningServer, azure: Any) -> None:
    file = upload(azure)
    with client(server) as api:
        assert api.files.retrieve(file.id) == azure.files.retrieve(file.id)
