"""Every body, both ways, is valid in the API's published document; Prism says the same, where it can be had."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmtune.server.tuning.server import TuningServer
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning import scenario
from tests.llmtune.server.tuning.conftest import BASE, KEY, client

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("httpx")  # openai looks into it at every answer, and the server's thread imports it late
jsonschema = pytest.importorskip("jsonschema")

#: Asked before the tests' own home takes the variable away.
REGISTRY = os.environ.get("LLMTUNE_TEST_REGISTRY")
PRISM = "@stoplight/prism-cli@5.14.2"


class Published:
    """The published document, and what is wrong with a body in its eyes."""

    def __init__(self, path: Path) -> None:
        self.document = _newer(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
        self.checked: set[tuple[str, str, str]] = set()

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        parts = path.strip("/").split("/")
        for template, operations in self.document["paths"].items():
            names = template.strip("/").split("/")
            fits = all(name == part or name.startswith("{") for name, part in zip(names, parts, strict=False))
            if len(names) == len(parts) and fits and method.lower() in operations:
                return template, operations[method.lower()]
        raise AssertionError(f"{method} {path} is not in the document")

    def faults(self, schema: dict[str, Any], body: Any) -> list[str]:
        document = {**schema, "components": self.document["components"]}
        validator = jsonschema.Draft202012Validator(document)
        return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(body)]

    def check(self, response: Any) -> list[str]:
        """What is wrong with one exchange."""
        request = response.request
        method, path = request.method, request.url.path.removeprefix("/v1")
        template, operation = self.operation(method, path)
        kind = response.headers["content-type"].partition(";")[0]
        faults = []
        if request.headers.get("content-type", "").startswith("application/json") and request.content:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            faults += self.faults(schema, json.loads(request.content))
            self.checked.add((method, template, "request"))
        if response.status_code >= 400:
            faults += self.faults({"$ref": "#/components/schemas/ErrorResponse"}, json.loads(response.read()))
        elif kind == "text/event-stream":
            schema = {"$ref": "#/components/schemas/CreateChatCompletionStreamResponse"}
            chunks = [line[6:] for line in response.read().decode().split("\n\n") if line.startswith("data: {")]
            assert len(chunks) > 2
            faults += [fault for chunk in chunks for fault in self.faults(schema, json.loads(chunk))]
        elif kind == "application/json":
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            faults += self.faults(schema, json.loads(response.read()))
        self.checked.add((method, template, "response"))
        return [f"{method} {path} -> {response.status_code}: {fault}" for fault in faults]


def _newer(node: Any) -> Any:
    """The document calls itself OpenAPI 3.1, whose schemas are JSON Schema, and has two words of 3.0 left."""
    if isinstance(node, list):
        return [_newer(child) for child in node]
    if not isinstance(node, dict):
        return node
    node = {name: _newer(child) for name, child in node.items()}
    if node.get("exclusiveMinimum") is True:
        node["exclusiveMinimum"] = node.pop("minimum")
    if node.get("nullable") is True:
        return {"anyOf": [node, {"type": "null"}]}
    return node


def with_streams_as_text(document: Path, folder: Path) -> Path:
    """Copy the document, with what a stream is on the wire: OpenAPI 3.1 can only give the schema of one event, and a
    proxy that reads it so takes the whole stream for that event."""
    yaml = YAML(typ="safe")
    content = yaml.load(document.read_text(encoding="utf-8"))
    answer = content["paths"]["/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(answer) == {"application/json", "text/event-stream"}
    answer["text/event-stream"]["schema"] = {"type": "string", "pattern": "^data: "}
    copied = folder / "document.yaml"
    yaml.dump(content, copied)
    return copied


@pytest.fixture
def document(shared: Path) -> Path:
    return shared / "specs" / "openai-finetune-subset.examples.yaml"


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
        and path.startswith(("/files", "/fine_tuning/jobs", "/models", "/chat/completions"))
        and not path.endswith(("/cancel", "/pause", "/resume"))
        and (method, path) != ("get", "/chat/completions")
    } | {("POST", "/fine_tuning/jobs/{fine_tuning_job_id}/cancel")}
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
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "prism.log"
    command = [
        npx,
        "--yes",
        PRISM,
        "proxy",
        str(with_streams_as_text(document, tmp_path)),
        server.url,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("w") as output:
        prism = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
    violations: list[Any] = []
    calls = streams = 0

    def look(response: Any) -> None:
        nonlocal calls, streams
        calls += 1
        streams += response.headers["content-type"].startswith("text/event-stream")
        if "sl-violations" in response.headers:
            violations.append((response.request.method, response.url.path, response.headers["sl-violations"]))

    try:
        deadline = time.monotonic() + 200
        while "listening" not in log.read_text():
            if prism.poll() is not None:
                pytest.skip(f"Prism cannot be had here: {log.read_text()[-300:]}")
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        with httpx2.Client(event_hooks={"response": [look]}, timeout=60) as http:
            api = openai.OpenAI(base_url=f"http://127.0.0.1:{port}", api_key=KEY, max_retries=0, http_client=http)
            scenario.run(api, BASE, vendor=vendor)
    finally:
        prism.terminate()
        prism.wait(20)
    assert calls > 40
    assert streams == 2
    assert violations == []
