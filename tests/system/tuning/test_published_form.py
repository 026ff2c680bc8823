"""Every body, both ways, is valid in the API's published document; Prism says the same, where it can be had."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, KEY, client
from tests.published import Published, prism_proxy

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("httpx")  # openai looks into it at every answer, and the server's thread imports it late

#: Asked before the tests' own home takes the variable away.
REGISTRY = os.environ.get("LLMTUNE_TEST_REGISTRY")


@pytest.fixture
def document(shared: Path) -> Path:
    return shared / "specs" / "openai-finetune-subset.examples.yaml"


@pytest.mark.slow
def test_every_body_of_the_whole_scenario_is_valid_both_ways(
    server: TuningServer, vendor: Fake, document: Path
) -> None:
    published, faults = Published(document), []

    def look(response: Any) -> None:
        faults.extend(published.check(response))

    with httpx2.Client(event_hooks={"response": [look]}, timeout=60) as http:
        scenario.run(client(server, http_client=http), BASE, vendor=vendor)
    assert faults == []
    served = {(method, path) for method, path, _ in published.checked}
    assert served == {
        (method.upper(), path)
        for path, operations in published.document["paths"].items()
        for method in operations
        if method in ("get", "post", "delete")
        and path.startswith(("/files", "/fine_tuning/jobs", "/models", "/chat/completions", "/uploads"))
        and not path.endswith(("/cancel", "/pause", "/resume"))
        and (method, path) != ("get", "/chat/completions")
    } | {("POST", "/fine_tuning/jobs/{fine_tuning_job_id}/cancel"), ("POST", "/uploads/{upload_id}/cancel")}
    assert ("POST", "/fine_tuning/jobs", "request") in published.checked


def test_a_body_that_is_not_as_published_is_noticed(document: Path) -> None:
    published = Published(document)
    file = {"$ref": "#/components/schemas/OpenAIFile"}
    listed = {
        "id": "file-a",
        "object": "file",
        "bytes": 1,
        "created_at": 1,
        "filename": "a",
        "purpose": "fine-tune",
        "status": "processed",
    }
    assert published.faults(file, listed) == []
    assert published.faults(file, {name: value for name, value in listed.items() if name != "bytes"})
    assert published.faults(file, listed | {"purpose": "tuning"})


@pytest.mark.registry
@pytest.mark.skipif(REGISTRY is None, reason="LLMTUNE_TEST_REGISTRY is not set, and no test goes to a registry unasked")
@pytest.mark.timeout(300)
def test_prism_between_client_and_endpoint_sees_no_violation(
    server: TuningServer, vendor: Fake, document: Path, tmp_path: Path
) -> None:
    """The whole scenario; of a stream Prism sees that it is a text of events, the test above checks each event."""
    violations: list[Any] = []
    calls = streams = 0

    def look(response: Any) -> None:
        nonlocal calls, streams
        calls += 1
        streams += response.headers["content-type"].startswith("text/event-stream")
        if "sl-violations" in response.headers:
            violations.append((response.request.method, response.url.path, response.headers["sl-violations"]))

    with (
        prism_proxy(document, server.url, tmp_path) as (url, _),
        httpx2.Client(event_hooks={"response": [look]}, timeout=60) as http,
    ):
        api = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, http_client=http)
        scenario.run(api, BASE, vendor=vendor)
    assert calls > 40
    assert streams == 2
    assert violations == []
