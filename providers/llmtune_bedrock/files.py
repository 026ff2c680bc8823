"""Datasets and results in S3. Objects are named by their content, so the same file is never uploaded twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmtune.errors import VendorError
from llmtune.provider import EncodedFile, MetricPoint, UploadRef
from llmtune_bedrock import responses, settings
from llmtune_bedrock.client import Sdk


def parse(uri: str) -> tuple[str, str]:
    """s3://bucket/key as (bucket, key). Raises `VendorError` for anything else."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise VendorError(f"{uri!r} is not an S3 address (s3://bucket/key)")
    return bucket, key


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

    def key(self, digest: str) -> str:
        """The name of the object with that content. Letters, digits and ._-/ only: Nova takes no others."""
        return f"{self.folder}data/{digest}.jsonl"

    def find(self, digest: str) -> UploadRef | None:
        """The object with that content, when it is there already."""
        bucket, key = self.bucket, self.key(digest)
        size = self.size(bucket, key)
        return None if size is None else UploadRef(id=f"s3://{bucket}/{key}", digest=digest, data={"bytes": size})

    def size(self, bucket: str, key: str) -> int | None:
        """Bytes of an object; None when it is not there, or when that may not be asked.

        Without the permission to list a bucket, S3 answers 403 for objects that are not there.
        """
        client = self._sdk.s3
        from botocore.exceptions import ClientError

        with self._sdk.calling(f"looking at s3://{bucket}/{key}"):
            try:
                return int(client.head_object(Bucket=bucket, Key=key)["ContentLength"])
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("404", "403", "NoSuchKey", "NotFound"):
                    return None
                raise

    def upload(self, file: EncodedFile) -> UploadRef:
        """Put a file there (in parts when it is large), and see that all of it arrived."""
        there = self.find(file.sha256)
        if there is not None and there.data["bytes"] == file.bytes:
            return there.model_copy(update={"role": file.role})
        bucket, key = self.bucket, self.key(file.sha256)
        doing = f"uploading {file.path.name} to s3://{bucket}/{key}"
        from boto3.exceptions import Boto3Error, S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        with self._sdk.calling(doing):
            try:
                self._sdk.s3.upload_file(
                    str(file.path),
                    bucket,
                    key,
                    ExtraArgs={"Metadata": {"sha256": file.sha256, "rows": str(file.rows)}},
                    Config=TransferConfig(max_concurrency=4),
                )
            except S3UploadFailedError as error:
                cause = error.__cause__ or error.__context__
                if isinstance(cause, Exception) and not isinstance(cause, Boto3Error):
                    raise cause from None
                raise VendorError(f"S3 did not take the file ({doing}): {error}", raw=str(error)) from None
        arrived = self.size(bucket, key)
        if arrived is not None and arrived != file.bytes:
            raise VendorError(f"s3://{bucket}/{key} has {arrived} bytes instead of {file.bytes}: upload it again")
        return UploadRef(id=f"s3://{bucket}/{key}", digest=file.sha256, role=file.role, data={"bytes": file.bytes})

    def download(self, uri: str, into: Path) -> Path:
        """Bring an object here, under its own name in the folder `into`."""
        bucket, key = parse(uri)
        if not key or key.endswith("/"):
            raise VendorError(f"{uri!r} names a folder, not a file")
        into.mkdir(parents=True, exist_ok=True)
        path = into / key.rsplit("/", 1)[-1]
        with self._sdk.calling(f"downloading {uri}"):
            self._sdk.s3.download_file(bucket, key, str(path))
        return path

    def delete(self, uri: str) -> None:
        """Remove an object of ours; quietly done when it is gone. Anything outside our folder is refused."""
        bucket, key = parse(uri)
        if bucket != self.bucket or not key.startswith(f"{self.folder}data/"):
            raise VendorError(f"{uri} was not uploaded by llmtune: it is left alone")
        with self._sdk.calling(f"deleting {uri}"):
            self._sdk.s3.delete_object(Bucket=bucket, Key=key)

    def bucket_region(self) -> str | None:
        """The region the bucket is in; None when S3 does not tell."""
        with self._sdk.calling(f"looking at the bucket {self.bucket}"):
            answer = self._sdk.s3.head_bucket(Bucket=self.bucket)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        found = answer.get("BucketRegion") or headers.get("x-amz-bucket-region")
        return str(found) if found else None

    def curves(self, output: str, job_id: str) -> Iterator[MetricPoint]:
        """The points of every metrics CSV under the job's folder, found by the ends of their names."""
        bucket, prefix = parse(output)
        prefix = prefix.strip("/")
        folder = f"{prefix}/" if prefix else ""
        with self._sdk.calling(f"reading the curves under {output}"):
            pages = self._sdk.s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{folder}model-customization-job-{job_id}/"
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
            for key in sorted(keys):
                kind = _kind(key)
                if kind is not None:
                    body = self._sdk.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                    yield from responses.curve(body.decode("utf-8", errors="replace"), kind)


def _kind(key: str) -> str | None:
    if key.endswith(responses.TRAIN_CSV):
        return "train"
    return "validation" if key.endswith(responses.VALIDATION_CSV) else None


def check_region(storage: Storage, region: str) -> str | None:
    """Why the bucket cannot be used from this region, or None."""
    where = storage.bucket_region()
    if where and where != region:
        return f"the bucket {storage.bucket} is in {where}, but jobs run in {region}: both must be in one region"
    return None
