"""Cloud Storage as far as an upload needs it: objects, preconditions, resumable pieces; for the fake of Vertex AI."""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.http import Call, Refusal, Reply, route


class FakeCloudStorage(FakeVendor):
    """Cloud Storage at `url`."""

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.buckets = {"my-bucket"}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._sessions: dict[str, tuple[str, dict[str, Any], bytes]] = {}

    def put(self, bucket: str, name: str, content: bytes, meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Keep an object."""
        self.objects[bucket, name] = {"content": content, "meta": dict(meta or {}), "created": self.now()}
        return self._resource(bucket, name)

    def _resource(self, bucket: str, name: str) -> dict[str, Any]:
        content = self.objects[bucket, name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content["content"])),
            "generation": "1",
            "crc32c": b64encode(struct.pack(">I", _crc32c(content["content"]))).decode(),
            "metadata": content["meta"],
            "timeCreated": iso(content["created"]),
        }

    def _bucket(self, call: Call) -> str:
        if call.params["bucket"] not in self.buckets:
            raise Refusal(404, "The specified bucket does not exist.")
        return call.params["bucket"]

    @route("GET", "/storage/v1/b/{bucket}")
    def get_bucket(self, call: Call) -> Any:
        return {"kind": "storage#bucket", "name": self._bucket(call), "location": "US-CENTRAL1"}

    @route("GET", "/storage/v1/b/{bucket}/o/{name}", role="find")
    def get_object(self, call: Call) -> Any:
        bucket = self._bucket(call)
        if (bucket, call.params["name"]) not in self.objects:
            raise Refusal(404, f"No such object: {bucket}/{call.params['name']}")
        return self._resource(bucket, call.params["name"])

    @route("GET", "/download/storage/v1/b/{bucket}/o/{name}")
    def download(self, call: Call) -> Any:
        bucket = self._bucket(call)
        content = self.objects.get((bucket, call.params["name"]))
        if content is None:
            raise Refusal(404, f"No such object: {bucket}/{call.params['name']}")
        digest = b64encode(struct.pack(">I", _crc32c(content["content"]))).decode()
        return Reply(content["content"], headers={"X-Goog-Hash": f"crc32c={digest}"})

    @route("DELETE", "/storage/v1/b/{bucket}/o/{name}", role="delete")
    def delete_object(self, call: Call) -> Any:
        bucket = self._bucket(call)
        if self.objects.pop((bucket, call.params["name"]), None) is None:
            raise Refusal(404, f"No such object: {bucket}/{call.params['name']}")
        return Reply(None, 204)

    @route("POST", "/upload/storage/v1/b/{bucket}/o", role="upload")
    def upload(self, call: Call) -> Any:
        bucket = self._bucket(call)
        if call.query.get("uploadType") == "resumable":
            meta = json.loads(call.body or b"{}")
            name = meta.get("name") or call.query["name"]
            self._precondition(call, bucket, name)
            session = self.new_id("session")
            self._sessions[session] = (bucket, {**meta, "name": name}, b"")
            where = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={session}"
            return Reply({}, headers={"Location": where})
        meta, content = _related(call)
        self._precondition(call, bucket, meta["name"])
        self._verify(meta, content)
        self.new_file(content, name=meta["name"])
        return self.put(bucket, meta["name"], content, meta.get("metadata"))

    @route("PUT", "/upload/storage/v1/b/{bucket}/o", role="upload")
    def upload_piece(self, call: Call) -> Any:
        session = call.query["upload_id"]
        bucket, meta, content = self._sessions[session]
        content += call.body
        self._sessions[session] = (bucket, meta, content)
        total = call.headers.get("content-range", "").rsplit("/", 1)[-1]
        if not total.isdigit() or len(content) < int(total):
            return Reply(b"", 308, {"Range": f"bytes=0-{len(content) - 1}"})
        self.new_file(content, name=meta["name"])
        return self.put(bucket, meta["name"], content, meta.get("metadata"))

    def _precondition(self, call: Call, bucket: str, name: str) -> None:
        if call.query.get("ifGenerationMatch") == "0" and (bucket, name) in self.objects:
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")

    def _verify(self, meta: Mapping[str, Any], content: bytes) -> None:
        sent = meta.get("crc32c")
        if sent and sent != b64encode(struct.pack(">I", _crc32c(content))).decode():
            raise Refusal(400, "The CRC32C does not match the content.")


def _related(call: Call) -> tuple[dict[str, Any], bytes]:
    """Split a multipart/related upload into the object's metadata and its content."""
    boundary = re.search(rb'boundary="?([^";]+)"?', call.headers.get("content-type", "").encode())
    if not boundary:
        raise Refusal(400, "Expected a multipart/related body.")
    _, first, second, *_ = call.body.split(b"--" + boundary[1])
    meta = json.loads(first.partition(b"\r\n\r\n")[2])
    return meta, second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def _crc32c(content: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(content))


def iso(time: float) -> str:
    """Format a time as Google does."""
    return datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")
