"""A stateful stand-in for Hugging Face's jobs and buckets, whose machines are processes of this one.

Routes and fields are those that huggingface_hub 2.4.0 sends (`_jobs_api.py`, `hf_api.py`). Contents move by the real
hf_xet, whose store is a folder here. It takes exactly the fields that the provider sends; anything else is a complaint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from llmtune.testing.fake_vendor import FakeJob, FakeVendor, Phase
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune_hfjobs.fake.machine import Machine, copy_folder
from llmtune_hfjobs.fake.xet_store import XetStore

_VOLUME = {
    "type": Required({"bucket"}),
    "source": Required(str),
    "mountPath": Required(str),
    "readOnly": Required(bool),
    "path": Required(str),
}
#: The body of POST /api/jobs/{namespace}.
JOB_SHAPE: dict[str, Any] = {
    "dockerImage": Required(str),
    "command": Required([str]),
    "arguments": Required([str]),
    "environment": Required({...: str}),
    "secrets": {...: str},
    "flavor": Required(str),
    "timeoutSeconds": Required(int),
    "attempts": Required(int),
    "labels": Required({...: str}),
    "volumes": Required([_VOLUME]),
}


def _gpu(name: str, model: str, vram: int, micro: int, quantity: int = 1) -> dict[str, Any]:
    accelerator = {
        "type": "gpu",
        "model": model,
        "quantity": str(quantity),
        "vram": f"{vram} GB",
        "manufacturer": "Nvidia",
    }
    return _cpu(name, micro, 64) | {"accelerator": accelerator, "prettyName": f"Nvidia {model}"}


def _cpu(name: str, micro: int, ram: int) -> dict[str, Any]:
    return {
        "name": name,
        "prettyName": name,
        "cpu": "8 vCPU",
        "ram": f"{ram} GB",
        "ephemeralStorage": "100 GB",
        "unitCostMicroUSD": micro,
        "unitCostUSD": micro / 1e6,
        "unitLabel": "minute",
    }


#: Machines and prices of the fake: names as at the service, prices of its own.
HARDWARE = [
    _cpu("cpu-basic", 200, 16),
    _gpu("t4-small", "T4", 16, 7_000),
    _gpu("l4x1", "L4", 24, 14_000),
    _gpu("l40sx1", "L40S", 48, 30_000),
    _gpu("l4x4", "L4", 96, 63_000, quantity=4),
    _gpu("a100-large", "A100", 80, 42_000),
    _gpu("h200", "H200", 141, 84_000),
]


class FakeHfJobs(FakeVendor):
    """Hugging Face Jobs and buckets.

    Args:
        results: finished runs by the digest of request and rows, shared by fakes: a job of the same is not trained
            again, but its files are copied. None trains every job.
        options: as for every fake.
    """

    name = "hfjobs"
    walks: ClassVar[dict[str, tuple[Phase, ...]]] = {
        "success": (Phase("SCHEDULING"), Phase("RUNNING"), Phase("COMPLETED")),
        "failure": (Phase("SCHEDULING"), Phase("RUNNING"), Phase("ERROR")),
        "cancelled": (Phase("CANCELED"),),
    }

    def __init__(self, *, results: dict[str, Path] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.results = results
        self.page_size = 1000
        """Entries of a page of jobs or files; the answer names the next page."""
        self.root = Path(tempfile.mkdtemp(prefix="llmtune-fake-hfjobs-"))
        self.buckets: dict[str, str] = {}
        self.hardware = json.loads(json.dumps(HARDWARE))
        self.machines: dict[str, Machine] = {}
        self.store = XetStore(self.root / "xet")
        (self.root / "wheels").mkdir()

    def close(self) -> None:
        """Stop listening, end every machine, and remove all files."""
        super().close()
        for machine in self.machines.values():
            machine.end(grace=0)
        shutil.rmtree(self.root, ignore_errors=True)

    def client_environment(self) -> dict[str, str]:
        """Return the token that the provider needs."""
        return {"HF_TOKEN": self.api_key or "fake"}

    def error_body(self, refusal: Refusal) -> Any:
        """Return an error as the service words it."""
        return {"error": refusal.message}

    @property
    def running(self) -> list[FakeJob]:
        """Jobs that cost money now."""
        return [job for job in self.jobs.values() if self._stage(job) in ("SCHEDULING", "RUNNING")]

    # --- account, machines -------------------------------------------------------------------------------------------
    @route("GET", "/api/whoami-v2")
    def whoami(self, call: Call) -> Any:
        return {"type": "user", "name": "acme"}

    @route("GET", "/api/jobs/hardware")
    def list_hardware(self, call: Call) -> Any:
        return self.hardware

    # --- jobs --------------------------------------------------------------------------------------------------------
    @route("POST", "/api/jobs/{namespace}", role="submit")
    def create_job(self, call: Call) -> Any:
        body = call.json(JOB_SHAPE)
        if body["flavor"] not in {entry["name"] for entry in self.hardware}:
            raise Refusal(400, f"Invalid flavor: {body['flavor']}", field="flavor")
        for volume in body["volumes"]:
            if volume["source"] not in self.buckets:
                raise Refusal(404, f"Bucket {volume['source']} does not exist", field="volumes")
        job = self.new_job(body, key=body["labels"].get("llmtune-run"), prefix="job")
        job.data |= {"started": self.now(), "finished": None, "stage": "SCHEDULING", "message": None}
        if self.outcome == "success":
            self._start(job)
        return self._described(job)

    @route("GET", "/api/jobs/{namespace}", role="find")
    def list_jobs(self, call: Call) -> Any:
        labels = [value.partition("=") for name, value in call.pairs if name == "label"]
        jobs = [
            self._described(job)
            for job in self.listed(self.jobs.values())
            if all(job.body["labels"].get(name) == value for name, _, value in labels)
        ]
        return self._page(call, jobs)

    def _page(self, call: Call, entries: Sequence[Any]) -> Reply:
        """Answer with a page of a list, and with the address of the next one where there are more."""
        start = int(call.query.get("cursor", 0))
        end = start + self.page_size
        query = [(name, value) for name, value in call.pairs if name != "cursor"]
        address = f"{self.url}{call.path.partition('?')[0]}?{urlencode([*query, ('cursor', end)])}"
        return Reply(entries[start:end], headers={"Link": f'<{address}>; rel="next"'} if end < len(entries) else {})

    @route("GET", "/api/jobs/{namespace}/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        described = self._described(job)
        self._play(job)
        return described

    @route("POST", "/api/jobs/{namespace}/{job}/cancel", role="cancel")
    def cancel(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        if self._stage(job) in ("SCHEDULING", "RUNNING"):
            if machine := self.machines.get(job.id):
                machine.end()
            self._end(job, "CANCELED", None)
        return self._described(job)

    def preempt(self, job: FakeJob, *, grace: float = 0.0) -> None:
        """Take the machine of a job away; its next attempt starts when it is looked at again."""
        self.machines[job.id].end(grace=grace)

    def _start(self, job: FakeJob) -> None:
        machine = Machine(job.body, self.root / "buckets", self.root / "wheels")
        earlier = None if self.results is None else self.results.get(self._digest(machine))
        if earlier is not None:
            job.data["copy"] = (earlier, machine.mounts["/llmtune/run"])
            return
        self.machines[job.id] = machine
        machine.start()

    def _digest(self, machine: Machine) -> str:
        """Return the digest of what a job trains: its request, which names its rows by their content."""
        return hashlib.sha256((machine.mounts["/llmtune/run"] / "request.json").read_bytes()).hexdigest()

    def _stage(self, job: FakeJob) -> str:
        """Return the stage of a job by what its process does now."""
        data, machine = job.data, self.machines.get(job.id)
        if data["stage"] not in ("SCHEDULING", "RUNNING"):
            return str(data["stage"])
        if machine is None:
            return str(data["stage"])
        data["stage"] = "RUNNING"
        status = machine.exit_status
        if status is None:
            if self.now() - data["started"] > job.body["timeoutSeconds"]:
                machine.end()
                self._end(job, "ERROR", "Job timeout")
        elif status == 0:
            if self.results is not None:
                self._keep_result(machine)
            self._end(job, "COMPLETED", None)
        elif machine.attempts < job.body["attempts"]:
            machine.start()
        else:
            self._end(job, "ERROR", f"Job failed with exit code: {status}")
        return str(data["stage"])

    def _play(self, job: FakeJob) -> None:
        """Move a job on that has no machine: one whose result is copied, or that fails. Each look is a stage."""
        if job.id in self.machines or job.data["stage"] not in ("SCHEDULING", "RUNNING"):
            return
        if job.data["stage"] == "SCHEDULING":
            job.data["stage"] = "RUNNING"
        elif "copy" in job.data:
            copy_folder(*job.data["copy"])
            self._end(job, "COMPLETED", None)
        else:
            self._end(job, "ERROR", self.failure_message)

    def _keep_result(self, machine: Machine) -> None:
        assert self.results is not None
        run = machine.mounts["/llmtune/run"]
        if (run / "result.json").is_file():
            folder = Path(tempfile.mkdtemp(prefix="llmtune-fake-result-"))
            copy_folder(run, folder)
            self.results[self._digest(machine)] = folder

    def _end(self, job: FakeJob, stage: str, message: str | None) -> None:
        job.data |= {"stage": stage, "message": message, "finished": self.now()}

    def _described(self, job: FakeJob) -> dict[str, Any]:
        stage = job.override or self._stage(job)
        finished = job.data["finished"]
        seconds = math.ceil(finished - job.data["started"]) if finished else int(self.now() - job.data["started"])
        return {
            "id": job.id,
            "createdAt": _iso(job.created),
            "startedAt": _iso(job.data["started"]),
            "finishedAt": _iso(finished) if finished else None,
            **{name: value for name, value in job.body.items() if name != "secrets"},
            "secrets": list(job.body.get("secrets", {})),
            "status": {"stage": stage, "message": job.data["message"]},
            "durations": {"schedulingSecs": 0, "runningSecs": seconds, "totalSecs": seconds},
            "owner": {"id": "1", "name": "acme", "type": "user"},
        }

    # --- buckets -----------------------------------------------------------------------------------------------------
    @route("POST", "/api/buckets/{namespace}/{name}")
    def create_bucket(self, call: Call) -> Any:
        body = call.json({"visibility": Required({"private"})})
        id = f"{call.params['namespace']}/{call.params['name']}"
        if id in self.buckets:
            raise Refusal(409, "You already created this bucket")
        self.buckets[id] = body["visibility"]
        self._folder(id).mkdir(parents=True)
        return {"url": f"{self.url}/buckets/{id}"}

    @route("GET", "/api/buckets/{namespace}/{name}")
    def bucket_info(self, call: Call) -> Any:
        id = self._bucket(call)
        return {"id": id, "private": self.buckets[id] == "private", "visibility": self.buckets[id]}

    @route("GET", "/api/buckets/{namespace}/{name}/tree/{prefix}")
    def list_tree(self, call: Call) -> Any:
        call.fields({"recursive": Required({"true"}), "cursor": str})
        root = self._folder(self._bucket(call))
        folder = root / call.params["prefix"]
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return self._page(call, self._entries(root, paths))

    @route("POST", "/api/buckets/{namespace}/{name}/paths-info")
    def paths_info(self, call: Call) -> Any:
        root = self._folder(self._bucket(call))
        body = call.json({"paths": Required([str])})
        paths = [root / name for name in body["paths"] if (root / name).is_file()]
        return self._entries(root, paths)

    @route("POST", "/api/buckets/{namespace}/{name}/batch", role="upload")
    def change_files(self, call: Call) -> Any:
        root = self._folder(self._bucket(call))
        failed = []
        added: list[tuple[str, Path]] = []
        for line in call.body.splitlines():
            operation = json.loads(line)
            add = {
                "type": Required({"addFile"}),
                "path": Required(str),
                "xetHash": Required(str),
                "mtime": Required(int),
            }
            call.hold_to(operation, (add, {"type": Required({"deleteFile"}), "path": Required(str)}))
            path = root / operation["path"]
            if operation["type"] == "addFile":
                path.parent.mkdir(parents=True, exist_ok=True)
                added.append((operation["xetHash"], path))
            elif path.is_file():
                path.unlink()
            else:
                failed.append({"path": operation["path"], "error": "not found"})
        self.store.load(added)
        return {"success": not failed, "failed": failed}

    @route("GET", "/api/buckets/{namespace}/{name}/xet-write-token")
    def write_token(self, call: Call) -> Any:
        self._bucket(call)
        return self._token(self.store.open_upload())

    @route("GET", "/api/buckets/{namespace}/{name}/xet-read-token")
    def read_token(self, call: Call) -> Any:
        self._bucket(call)
        return self._token(self.store.open_download())

    def _token(self, address: str) -> dict[str, Any]:
        return {"casUrl": address, "accessToken": "xet", "exp": int(self.now()) + 3600}

    def _bucket(self, call: Call) -> str:
        id = f"{call.params['namespace']}/{call.params['name']}"
        if id not in self.buckets:
            raise Refusal(404, f"Bucket {id} does not exist")
        return id

    def _folder(self, id: str) -> Path:
        return self.root / "buckets" / id

    def _entries(self, root: Path, paths: list[Path]) -> list[dict[str, Any]]:
        """Return files as lists have them."""
        hashes = self.store.keep(paths)
        return [
            {"type": "file", "path": path.relative_to(root).as_posix(), "size": size, "xetHash": xet_hash}
            for path, (size, xet_hash) in hashes.items()
        ]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
