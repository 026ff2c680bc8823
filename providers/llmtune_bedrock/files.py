"""Datasets and results in S3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import llmtune.provider as core
from llmtune.data.findings import Finding, error, warning
from llmtune.errors import InvalidSettings, VendorError
from llmtune.graders.job_trial import Sample, choose_sample
from llmtune.provider import EncodedFile, MetricPoint, ObjectStore, join_within_bounds
from llmtune_bedrock import responses
from llmtune_bedrock.client import Sdk
from llmtune_bedrock.graders import LambdaFunction

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.job.graders import Grader


class S3(ObjectStore):
    """The bucket of one configured instance."""

    scheme = "s3"
    title = "an S3 address"
    sdk: Sdk

    def size(self, bucket: str, key: str) -> int | None:
        """Return the bytes of an object; None if it does not exist, or if reading that is not allowed.

        Without the permission to list a bucket, S3 answers 403 for objects that are not there.
        """
        try:
            with self.sdk.translate_errors(f"looking at {self.uri(bucket, key)}"):
                return int(self.sdk.s3.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except VendorError as error:
            if error.status not in (403, 404):
                raise
            return None

    def put(self, file: EncodedFile, bucket: str, key: str) -> None:
        """Send a file, in parts when it is large."""
        action = f"uploading {file.path.name} to {self.uri(bucket, key)}"
        from boto3.exceptions import Boto3Error, S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        with self.sdk.translate_errors(action):
            try:
                self.sdk.s3.upload_file(
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
                raise VendorError(f"S3 did not take the file ({action}): {error}", raw=str(error)) from None

    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """Write an object to `path`."""
        with self.sdk.translate_errors(f"downloading {self.uri(bucket, key)}"):
            self.sdk.s3.download_file(bucket, key, str(path))

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object."""
        with self.sdk.translate_errors(f"deleting {self.uri(bucket, key)}"):
            self.sdk.s3.delete_object(Bucket=bucket, Key=key)

    def check_region(self) -> str | None:
        """Return why the bucket cannot be used from the region of the jobs; None when it can, or S3 does not tell."""
        with self.sdk.translate_errors(f"looking at the bucket {self.bucket}"):
            answer = self.sdk.s3.head_bucket(Bucket=self.bucket)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = answer.get("BucketRegion") or headers.get("x-amz-bucket-region")
        if not region or region == self.sdk.region:
            return None
        return f"the bucket {self.bucket} is in {region}, but jobs run in {self.sdk.region}: both must be in one region"

    def check_inputs(self, uris: Sequence[str]) -> list[Finding]:
        """Return what is wrong with the bucket and, where it can be used, with the files that a job reads from."""
        findings = []
        try:
            if problem := self.check_region():
                findings.append(error("region", problem, "use a bucket in the job's region"))
        except InvalidSettings as fault:
            return [error("bucket", fault.message, "fix it, or create the bucket")]
        except VendorError as fault:
            if fault.status != 403:
                raise
            findings.append(warning("bucket", fault.message, "s3:ListBucket would let its region be checked"))
        findings += [
            error("file", f"{uri} is not there, or may not be read", "upload it again")
            for uri in uris
            if self.size(*self.parse(uri)) is None
        ]
        return findings

    def curves(self, output: str, job_id: str) -> Iterator[MetricPoint]:
        """Yield the points of every metrics CSV in the job's folder; the files are found by the ends of their names."""
        bucket, prefix = self.parse(output)
        prefix = prefix.strip("/")
        folder = f"{prefix}/" if prefix else ""
        with self.sdk.translate_errors(f"reading the curves under {output}"):
            pages = self.sdk.s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{folder}model-customization-job-{job_id}/"
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
            for key in sorted(keys):
                kind = next((kind for ending, kind in responses.CSV_KINDS.items() if key.endswith(ending)), None)
                if kind is not None:
                    body = join_within_bounds(self.sdk.s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(65536))
                    yield from responses.curve(body.decode("utf-8", errors="replace"), kind)


class S3Provider(core.StoredUploads, core.BaseProvider):
    """Base of the providers in an account at AWS: one boto3 session, datasets in one bucket of S3."""

    #: A job is created with a token (or a name) that the service takes once.
    submit_safety = core.SubmitSafety(kind="token")
    sdk_class: ClassVar[type[Sdk]] = Sdk
    storage_class: ClassVar[type[S3]] = S3
    #: Whether a function that scores answers is given all that is not a turn as one JSON text.
    rows_in_one_field: ClassVar[bool] = False
    _sdk: Sdk
    _storage: S3

    def __init__(self, name: str = "", settings: Any = None) -> None:
        super().__init__(name, settings)
        self._sdk = self.sdk_class(self.name, self.settings)
        self._storage = self.storage_class(self.name, self.settings, self._sdk)
        self._sample: Sample | None = None

    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Write the rows; of a reinforcement job one is remembered, on which its function is tried in `preflight`."""
        encoded = super().encode(data, receipt, into)
        self._sample = choose_sample(receipt["grader"].requested, data.train)
        return encoded

    def open_function(self, grader: Grader, function: str, seconds: float = 60.0) -> LambdaFunction:
        """Open a Lambda function by its ARN, which scores answers as the grader does."""
        return LambdaFunction(self._sdk, grader, function, seconds, in_one_field=self.rows_in_one_field)
