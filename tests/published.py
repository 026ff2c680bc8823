"""A vendor's published document (OpenAPI), and what is wrong with a request or an answer in its eyes."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

jsonschema = pytest.importorskip("jsonschema")

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
        sent = request.headers.get("content-type", "").startswith("application/json") and request.content
        template, operation = self.operation(method, path)
        kind = response.headers["content-type"].partition(";")[0]
        faults = self.check_request(method, path, json.loads(request.content) if sent else None)
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

    def check_request(self, method: str, path: str, body: Any, query: Mapping[str, str] | None = None) -> list[str]:
        """What is wrong with a request: its JSON body, and its query where one is passed."""
        template, operation = self.operation(method, path)
        faults = []
        if body is not None:
            if "requestBody" not in operation:
                return ["the operation takes no body"]
            faults += self.faults(operation["requestBody"]["content"]["application/json"]["schema"], body)
            self.checked.add((method, template, "request"))
        elif "application/json" in operation.get("requestBody", {}).get("content", {}):
            faults += ["the body is missing"] if operation["requestBody"].get("required") else []
        published = {entry["name"]: entry for entry in operation.get("parameters", []) if entry.get("in") == "query"}
        for name, value in (query or {}).items():
            entry = published.get(name) or published.get(name.partition("[")[0])
            if entry is None:
                faults.append(f"query {name}: not published")
            elif entry["schema"].get("type") == "integer":
                faults += self.faults(entry["schema"], int(value))
            elif entry["schema"].get("type") == "string":
                faults += self.faults(entry["schema"], value)
        return faults

    def check_answer(self, method: str, path: str, status: int, body: Any) -> list[str]:
        """What is wrong with a JSON answer."""
        template, operation = self.operation(method, path)
        if status >= 400:
            return self.faults({"$ref": "#/components/schemas/ErrorResponse"}, body)
        self.checked.add((method, template, "response"))
        return self.faults(operation["responses"]["200"]["content"]["application/json"]["schema"], body)


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


@contextlib.contextmanager
def prism_proxy(document: Path, upstream: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Run Prism before `upstream`; yield its address and its log. The test is skipped where it cannot be had."""
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "prism.log"
    copied = with_streams_as_text(document, folder)
    command = [npx, "--yes", PRISM, "proxy", str(copied), upstream, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        prism = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        deadline = time.monotonic() + 200
        while "listening" not in log.read_text():
            if prism.poll() is not None:
                pytest.skip(f"Prism cannot be had here: {log.read_text()[-300:]}")
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", log
    finally:
        prism.terminate()
        prism.wait(20)
