"""Datasets in Cloud Storage. Objects are named by their content and never overwritten."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from llmtune.errors import VendorError
from llmtune.provider import EncodedFile, UploadRef
from llmtune_vertex import settings
from llmtune_vertex.client import Sdk

#: Files above this many bytes are sent in resumable pieces of this size (a multiple of 256 KiB).
PIECE = 8 * 1024 * 1024


def parse(uri: str) -> tuple[str, str]:
    """gs://bucket/name as (bucket, name). Raises `VendorError` for anything else."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise VendorError(f"{uri!r} is not a Cloud Storage address (gs://bucket/name)")
    return bucket, name


class Storage:
    """The bucket of one configured instance."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    @property
    def bucket(self) -> str:
        """The bucket; raises `InvalidSettings` when none is set."""
        settings.require(self._sdk.name, self._sdk.settings, "bucket")
        return str(self._sdk.settings.bucket)

    @property
    def folder(self) -> str:
        """The folder in the bucket, with a slash at its end unless it is empty."""
        prefix = self._sdk.settings.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    def name(self, digest: str) -> str:
        """The name of the object with that content."""
        return f"{self.folder}data/{digest}.jsonl"

    def find(self, digest: str) -> UploadRef | None:
        """The object with that content, when it is there already."""
        bucket, name = self.bucket, self.name(digest)
        size = self.size(bucket, name)
        return None if size is None else UploadRef(id=f"gs://{bucket}/{name}", digest=digest, data={"bytes": size})

    def size(self, bucket: str, name: str) -> int | None:
        """Bytes of an object; None when it is not there."""
        with self._sdk.calling(f"looking at gs://{bucket}/{name}"):
            blob = self._sdk.storage.bucket(bucket).get_blob(name, retry=None, timeout=self._sdk.settings.timeout)
        return None if blob is None else int(blob.size)

    def upload(self, file: EncodedFile) -> UploadRef:
        """Put a file there unless it is there already; large ones in resumable pieces, checked by CRC32C.

        The generation precondition (0: only if there is none) makes two uploads at once harmless.
        """
        bucket, name = self.bucket, self.name(file.sha256)
        ref = UploadRef(id=f"gs://{bucket}/{name}", digest=file.sha256, role=file.role, data={"bytes": file.bytes})
        if self.size(bucket, name) == file.bytes:
            return ref
        from google.api_core.exceptions import PreconditionFailed

        with self._sdk.calling(f"uploading {file.path.name} to gs://{bucket}/{name}"):
            blob = self._sdk.storage.bucket(bucket).blob(name, chunk_size=PIECE if file.bytes > PIECE else None)
            blob.metadata = {"sha256": file.sha256, "rows": str(file.rows)}
            with suppress(PreconditionFailed):  # somebody else was faster: same name, same content
                blob.upload_from_filename(
                    str(file.path),
                    content_type="application/jsonl",
                    if_generation_match=0,
                    checksum="crc32c",
                    retry=None,
                    timeout=self._sdk.settings.timeout,
                )
        arrived = self.size(bucket, name)
        if arrived != file.bytes:
            raise VendorError(f"gs://{bucket}/{name} has {arrived} bytes instead of {file.bytes}: delete it, try again")
        return ref

    def download(self, uri: str, into: Path) -> Path:
        """Bring an object here, under its own name in the folder `into`."""
        bucket, name = parse(uri)
        if not name or name.endswith("/"):
            raise VendorError(f"{uri!r} names a folder, not a file")
        into.mkdir(parents=True, exist_ok=True)
        path = into / name.rsplit("/", 1)[-1]
        with self._sdk.calling(f"downloading {uri}"):
            self._sdk.storage.bucket(bucket).blob(name).download_to_filename(str(path), retry=None)
        return path

    def delete(self, uri: str) -> None:
        """Remove an object of ours; quietly done when it is gone. Anything outside our folder is refused."""
        bucket, name = parse(uri)
        if bucket != self.bucket or not name.startswith(f"{self.folder}data/"):
            raise VendorError(f"{uri} was not uploaded by llmtune: it is left alone")
        from google.api_core.exceptions import NotFound

        with self._sdk.calling(f"deleting {uri}"):
            with suppress(NotFound):
                self._sdk.storage.bucket(bucket).blob(name).delete(retry=None)

    def look(self) -> Any:
        """The bucket itself; raises `InvalidSettings` when there is none of that name."""
        with self._sdk.calling(f"looking at the bucket {self.bucket}"):
            return self._sdk.storage.get_bucket(self.bucket, retry=None, timeout=self._sdk.settings.timeout)
