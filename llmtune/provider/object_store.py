"""Datasets in a bucket of an object store (S3, Cloud Storage): named by their content, and never overwritten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from llmtune.errors import VendorError
from llmtune.provider.types import EncodedFile, UploadRef


class ObjectStore(ABC):
    """The bucket of one configured instance. A vendor gives the four calls; names, checks and refusals are here.

    Args:
        name: the configured instance, for sentences.
        settings: its account settings, with `bucket` and `prefix`.
        sdk: what the four calls go through.
    """

    scheme: str
    """How addresses begin: "s3" for s3://bucket/key."""

    title: str
    """What an address is called in a sentence: "an S3 address"."""

    def __init__(self, name: str, settings: Any, sdk: Any = None) -> None:
        self.name = name
        self.settings = settings
        self.sdk = sdk

    @abstractmethod
    def size(self, bucket: str, key: str) -> int | None:
        """Return the bytes of the object `key` in `bucket`; None when it is not there, or that may not be asked."""

    @abstractmethod
    def put(self, file: EncodedFile, bucket: str, key: str) -> None:
        """Send a file to `bucket` as `key`. An object that is there by now has the same content, and is no error."""

    @abstractmethod
    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """Write the content of the object `key` in `bucket` to `path`."""

    @abstractmethod
    def remove(self, bucket: str, key: str) -> None:
        """Remove the object `key` from `bucket`; one that is gone already is no error."""

    @property
    def bucket(self) -> str:
        """The bucket; raises `InvalidSettings` when none is set."""
        self.settings.require(self.name, "bucket")
        return str(self.settings.bucket)

    @property
    def folder(self) -> str:
        """The folder in the bucket, with a slash at its end unless it is empty."""
        prefix = self.settings.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    def key(self, digest: str) -> str:
        """Return the name of the object whose content has that `digest`: letters, digits and ._-/ only."""
        return f"{self.folder}data/{digest}.jsonl"

    def uri(self, bucket: str, key: str) -> str:
        """Return the address of the object `key` in `bucket`."""
        return f"{self.scheme}://{bucket}/{key}"

    def parse(self, uri: str) -> tuple[str, str]:
        """Split an address (`uri`) into bucket and key. Raises `VendorError` for anything else."""
        bucket, _, key = uri.removeprefix(f"{self.scheme}://").partition("/")
        if not uri.startswith(f"{self.scheme}://") or not bucket:
            raise VendorError(f"{uri!r} is not {self.title} ({self.scheme}://bucket/key)")
        return bucket, key

    def find(self, digest: str) -> UploadRef | None:
        """Return the object whose content has that `digest`, when it is there already."""
        bucket, key = self.bucket, self.key(digest)
        size = self.size(bucket, key)
        return None if size is None else UploadRef(id=self.uri(bucket, key), digest=digest, data={"bytes": size})

    def upload(self, file: EncodedFile) -> UploadRef:
        """Put a file there unless it is there already. Raises `VendorError` when not all of it has arrived."""
        bucket, key = self.bucket, self.key(file.sha256)
        uri = self.uri(bucket, key)
        if self.size(bucket, key) != file.bytes:
            self.put(file, bucket, key)
            size = self.size(bucket, key)
            if size is not None and size != file.bytes:
                raise VendorError(f"{uri} has {size} bytes instead of {file.bytes}: delete it and upload it again")
        return UploadRef(id=uri, digest=file.sha256, role=file.role, data={"bytes": file.bytes})

    def download(self, uri: str, into: Path) -> Path:
        """Download the object at `uri` into the folder `into`, under its own name. Raises `VendorError` for a
        folder."""
        bucket, key = self.parse(uri)
        if not key or key.endswith("/"):
            raise VendorError(f"{uri!r} names a folder, not a file")
        into.mkdir(parents=True, exist_ok=True)
        path = into / key.rsplit("/", 1)[-1]
        self.fetch(bucket, key, path)
        return path

    def delete(self, uri: str) -> None:
        """Remove the object at `uri`; quietly done when it is gone. Raises `VendorError` for one that is not ours."""
        bucket, key = self.parse(uri)
        if bucket != self.bucket or not key.startswith(f"{self.folder}data/"):
            raise VendorError(f"{uri} was not uploaded by llmtune: it is left alone")
        self.remove(bucket, key)


class StoredUploads:
    """The part of a provider whose datasets lie in a bucket of the user's own, for a class that has a `_storage`."""

    _storage: ObjectStore

    def find_upload(self, digest: str) -> UploadRef | None:
        """Find the object with this content (`digest`) in our folder of the bucket."""
        return self._storage.find(digest)

    def upload(self, file: EncodedFile) -> UploadRef:
        """Upload one `file`, named by its content."""
        return self._storage.upload(file)

    def download(self, file_id: str, into: Path) -> Path:
        """Download the object at the address `file_id` into the folder `into`."""
        return self._storage.download(file_id, into)
