"""Datasets in Cloud Storage."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from llmtune.provider import EncodedFile, ObjectStore
from llmtune_vertex.client import Sdk

#: Files above this many bytes are sent in resumable pieces of this size (a multiple of 256 KiB).
PIECE = 8 * 1024 * 1024


class CloudStorage(ObjectStore):
    """The bucket of one configured instance."""

    scheme = "gs"
    title = "a Cloud Storage address"
    sdk: Sdk

    def size(self, bucket: str, key: str) -> int | None:
        """Return the bytes of an object; None if it does not exist."""
        with self.sdk.translate_errors(f"looking at {self.uri(bucket, key)}"):
            blob = self.sdk.storage.bucket(bucket).get_blob(key, retry=None, timeout=self.settings.timeout)
        return None if blob is None else int(blob.size)

    def put(self, file: EncodedFile, bucket: str, key: str) -> None:
        """Send a file; a large one in resumable pieces, checked by CRC32C.

        The generation precondition (0: only if there is none) makes two uploads at once harmless.
        """
        from google.api_core.exceptions import PreconditionFailed

        with self.sdk.translate_errors(f"uploading {file.path.name} to {self.uri(bucket, key)}"):
            blob = self.sdk.storage.bucket(bucket).blob(key, chunk_size=PIECE if file.bytes > PIECE else None)
            blob.metadata = {"sha256": file.sha256, "rows": str(file.rows)}
            with suppress(PreconditionFailed):  # somebody else was faster: same name, same content
                blob.upload_from_filename(
                    str(file.path),
                    content_type="application/jsonl",
                    if_generation_match=0,
                    checksum="crc32c",
                    retry=None,
                    timeout=self.settings.timeout,
                )

    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """Write an object to `path`."""
        with self.sdk.translate_errors(f"downloading {self.uri(bucket, key)}"):
            self.sdk.storage.bucket(bucket).blob(key).download_to_filename(str(path), retry=None)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; quietly done when it is gone."""
        with self.sdk.translate_errors(f"deleting {self.uri(bucket, key)}"):
            from google.api_core.exceptions import NotFound

            with suppress(NotFound):
                self.sdk.storage.bucket(bucket).blob(key).delete(retry=None)

    def look(self) -> Any:
        """Return the bucket; raises `InvalidSettings` if there is none of that name."""
        with self.sdk.translate_errors(f"looking at the bucket {self.bucket}"):
            return self.sdk.storage.get_bucket(self.bucket, retry=None, timeout=self.settings.timeout)
