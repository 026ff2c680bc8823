"""Hugging Face Jobs as a vendor of machines: plain HTTP, by the routes of huggingface_hub 2.4.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, urlencode

from llmtune.errors import TransientError
from llmtune.provider.http import Client
from llmtune_hfjobs import requests, responses
from llmtune_hfjobs.files import Bucket, list_entries
from llmtune_hfjobs.settings import HfJobsSettings
from llmtune_local.rented.machines import Machine
from llmtune_local.rented.vendor import Launch, RentedJob, StoredFile


class HfJobs:
    """The machines and the bucket of one account."""

    def __init__(self, client: Client, name: str, settings: HfJobsSettings, key_env: str) -> None:
        self.client, self.name, self.settings, self._key_env = client, name, settings, key_env
        self._bucket_made = False

    @cached_property
    def namespace(self) -> str:
        """Whose jobs they are."""
        if self.settings.namespace:
            return self.settings.namespace
        answer = self.client.get("/api/whoami-v2")
        name = answer.get("name") if isinstance(answer, dict) else None
        if not isinstance(name, str) or not name:
            raise TransientError("the answer to whose token it is could not be read", sent=False, raw=str(answer)[:200])
        return name

    @cached_property
    def bucket(self) -> Bucket:
        """The private bucket."""
        return Bucket(self.client, f"{self.namespace}/{self.settings.bucket}", key_env=self._key_env)

    def list_machines(self) -> Sequence[Machine]:
        """Return the machines for rent, with today's prices."""
        answer = self.client.get("/api/jobs/hardware")
        if not isinstance(answer, list):
            raise TransientError("the list of machines could not be read", sent=True, raw=str(answer)[:200])
        entries = (responses.read_machine(entry) for entry in answer if isinstance(entry, dict))
        return [machine for machine in entries if machine is not None]

    def start_job(self, launch: Launch) -> RentedJob:
        """Start a job: one paid call."""
        body = requests.build_job(launch, image=self.settings.image, bucket=self.bucket.id)
        return responses.read_job(self.client.send("POST", self._jobs(), body), self.name)

    def find_jobs(self, labels: Mapping[str, str]) -> Sequence[RentedJob]:
        """Return the jobs with these labels, oldest first."""
        query = [("label", f"{name}={value}") for name, value in labels.items()]
        entries = list_entries(self.client, self._jobs() + (f"?{urlencode(query)}" if query else ""), "jobs")
        jobs = [responses.read_job(entry, self.name) for entry in entries]
        # The service filters; what it lets through all the same is not ours.
        matching = [job for job in jobs if all(job.labels.get(name) == value for name, value in labels.items())]
        return sorted(matching, key=lambda job: job.created)

    def read_job(self, job_id: str) -> RentedJob:
        """Return what is known of a job."""
        return responses.read_job(self.client.get(self._jobs(job_id)), self.name)

    def stop_job(self, job_id: str) -> None:
        """Stop a job."""
        self.client.send("POST", f"{self._jobs(job_id)}/cancel", safe=True)

    def list_files(self, folder: str) -> Sequence[StoredFile]:
        """Return the files below a folder of the bucket."""
        return self.bucket.list(folder)

    def put_files(self, files: Mapping[str, Path | bytes]) -> None:
        """Store files; the bucket is made where there is none, and must be private."""
        if not self._bucket_made:
            self.bucket.make()
            self.bucket.check_private()
            self._bucket_made = True
        self.bucket.put(files)

    def fetch_files(self, files: Mapping[StoredFile, Path]) -> None:
        """Bring files to this machine."""
        self.bucket.fetch(files)

    def remove_files(self, paths: Sequence[str]) -> None:
        """Remove files of the bucket."""
        self.bucket.remove(paths)

    def _jobs(self, job_id: str = "") -> str:
        return f"/api/jobs/{quote(self.namespace, safe='')}" + (f"/{quote(job_id, safe='')}" if job_id else "")
