"""S3 as far as an upload needs it: objects, parts, ranges, lists; for the fake of Bedrock."""

from __future__ import annotations

import email.utils
import hashlib
import re
import zlib
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.faults import Fault
from llmtune.testing.http import Call, Refusal, Reply, route

REGION = "us-east-1"


class FakeS3(FakeVendor):
    """S3 at `url + "/s3"`, in path style."""

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.buckets: dict[str, str] = {"my-bucket": REGION}
        """Buckets and their regions."""

        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}

    @property
    def storage_url(self) -> str:
        """Where S3 answers."""
        return f"{self.url}/s3"

    def answer_call(self, call: Call, fault: Fault | None) -> Reply:
        """Answer a call; S3's bodies are XML."""
        reply = super().answer_call(call, fault)
        if call.path.startswith("/s3/") and reply.status >= 400 and isinstance(reply.body, dict):
            body = reply.body
            code = {"ThrottlingException": "SlowDown"}.get(body.get("__type", ""), body.get("__type", "InternalError"))
            return _xml(
                f"<Error><Code>{code}</Code><Message>{escape(str(body.get('message', '')))}</Message></Error>",
                reply.status,
                reply.headers,
            )
        return reply

    def _put(self, bucket: str, key: str, content: bytes, meta: Mapping[str, str] | None = None) -> str:
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.objects[bucket, key] = {"content": content, "etag": etag, "meta": dict(meta or {}), "time": self.now()}
        return etag

    def _bucket(self, call: Call) -> str:
        bucket = call.params["bucket"]
        if bucket not in self.buckets:
            raise Refusal(404, "The specified bucket does not exist", code="NoSuchBucket")
        return bucket

    @route("HEAD", "/s3/{bucket}")
    def head_bucket(self, call: Call) -> Any:
        return Reply("", headers={"x-amz-bucket-region": self.buckets[self._bucket(call)]})

    @route("GET", "/s3/{bucket}")
    def list_objects(self, call: Call) -> Any:
        bucket = self._bucket(call)
        prefix = call.query.get("prefix", "")
        keys = sorted(key for where, key in self.objects if where == bucket and key.startswith(prefix))
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[bucket, key]['content'])}</Size></Contents>"
            for key in keys
        )
        return _xml(
            f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(keys)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        )

    @route("HEAD", "/s3/{bucket}/{key*}", role="find")
    def head_object(self, call: Call) -> Any:
        return self._object(call)

    @route("GET", "/s3/{bucket}/{key*}")
    def get_object(self, call: Call) -> Any:
        return self._object(call)

    def _object(self, call: Call) -> Reply:
        object_content = self.objects.get((self._bucket(call), call.params["key"]))
        if object_content is None:
            raise Refusal(404, "The specified key does not exist.", code="NoSuchKey")
        headers = {
            "ETag": f'"{object_content["etag"]}"',
            "Last-Modified": email.utils.formatdate(object_content["time"], usegmt=True),
            **{f"x-amz-meta-{name}": value for name, value in object_content["meta"].items()},
        }
        content: bytes = object_content["content"]
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
        if byte_range:
            last = int(byte_range[2]) if byte_range[2] else len(content) - 1
            headers["Content-Range"] = f"bytes {byte_range[1]}-{last}/{len(content)}"
            return Reply(content[int(byte_range[1]) : last + 1], 206, headers)
        return Reply(content, headers=headers)

    @route("PUT", "/s3/{bucket}/{key*}", role="upload")
    def put_object(self, call: Call) -> Any:
        bucket, key = self._bucket(call), call.params["key"]
        content = _unchunked(call)
        if "uploadId" in call.query:
            self._uploads[call.query["uploadId"]][int(call.query["partNumber"])] = content
            return Reply("", headers={"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'})
        prefix = "x-amz-meta-"
        meta = {name.removeprefix(prefix): value for name, value in call.headers.items() if name.startswith(prefix)}
        sent = call.headers.get("x-amz-checksum-crc32")
        if sent and b64encode(zlib.crc32(content).to_bytes(4, "big")).decode() != sent:
            raise Refusal(400, "The checksum does not match the content", code="BadDigest")
        self.new_file(content, name=key)
        return Reply("", headers={"ETag": f'"{self._put(bucket, key, content, meta)}"'})

    @route("POST", "/s3/{bucket}/{key*}", role="upload")
    def multipart(self, call: Call) -> Any:
        bucket, key = self._bucket(call), call.params["key"]
        if "uploads" in call.query:
            upload = self.new_id("upload")
            self._uploads[upload] = {}
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        parts = self._uploads.pop(call.query["uploadId"])
        content = b"".join(parts[number] for number in sorted(parts))
        self.new_file(content, name=key)
        etag = self._put(bucket, key, content)
        return _xml(
            f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key><ETag>{etag}</ETag>"
            "</CompleteMultipartUploadResult>"
        )

    @route("DELETE", "/s3/{bucket}/{key*}", role="delete")
    def delete_object(self, call: Call) -> Any:
        self.objects.pop((self._bucket(call), call.params["key"]), None)
        return Reply(None, 204)


def _xml(inner: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>{inner}'
    return Reply(text, status, {"Content-Type": "application/xml", **(headers or {})})


def _unchunked(call: Call) -> bytes:
    """Return the body without AWS's own chunk framing (a size line before each chunk, checksums after the last)."""
    if "aws-chunked" not in call.headers.get("content-encoding", ""):
        return call.body
    content, remainder = b"", call.body
    while remainder:
        size, _, remainder = remainder.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            break
        content, remainder = content + remainder[:length], remainder[length + 2 :]
    return content
