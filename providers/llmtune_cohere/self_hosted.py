"""cohere-finetune, Cohere's open trainer in a container of one's own.

Source: its README and services (github.com/cohere-ai/cohere-finetune 0533a2f, 2025-03-13, MIT). Its limits: one job at
a time; files travel through a folder shared with the container; no list of jobs, no metrics, no events; stopping a job
ends the service, which then has to be started again by hand.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import llmtune.provider as core
from llmtune.data.findings import Finding, error
from llmtune.errors import InvalidSettings, QuotaExceeded, TransientError, VendorError
from llmtune.provider import RunState
from llmtune_cohere import declarations, requests
from llmtune_cohere.provider import CohereProvider

#: Where our uploads lie in the shared folder until a job takes them.
UPLOADS = "llmtune-uploads"

#: What we write beside a job's data: what was asked for, and whether it was stopped.
NOTE = "llmtune.json"

#: The file in the shared folder that names the job which was started last.
CURRENT = "llmtune-current"

#: Seconds after a start during which "idle" means "not begun yet".
BEGINNING = 60.0

_STATES = {
    "idle": RunState.QUEUED,
    "in progress": RunState.RUNNING,
    "finished": RunState.SUCCEEDED,
    "error": RunState.FAILED,
}
_BUSY = "the trainer is running another job, and runs one at a time"
_FOLDERS = {"train": "training", "validation": "evaluation"}
_MERGED = "output/merged_weights"
_MIN_NEW_TOKENS = 1024
_ROLES = {"system": "System", "user": "User", "assistant": "Chatbot"}


class SelfHosted(CohereProvider, transport="self-hosted"):
    """A container of the user's own, over HTTP; it holds one job at a time, and one model that answers."""

    service = "your own cohere-finetune"
    parameters = declarations.SELF_HOSTED
    limits = declarations.SELF_HOSTED_LIMITS
    methods = declarations.SELF_HOSTED_METHODS
    adapters = declarations.SELF_HOSTED_ADAPTERS
    abilities = declarations.SELF_HOSTED_ABILITIES
    requirements = (core.Requirement(extra="cohere", module="httpx", distribution="httpx"),)
    hosted = False
    submit_safety = core.SubmitSafety(kind="none")
    key_variable = ""

    @property
    def address(self) -> str:
        """Where the trainer is called."""
        return str(self.settings.service_url)

    # --- offline -----------------------------------------------------------------------------------------------------
    def capabilities(self, target: core.Target) -> core.Capabilities:
        """Return what this target supports. Pure."""
        capabilities = super().capabilities(target)
        if target.model.startswith("/"):  # a checkpoint of the user's own, by its path in the container
            capabilities = replace(capabilities, known_model=True, warnings=())
        return replace(capabilities, family="cohere-finetune", concurrency=1, concurrency_source=declarations.OPEN)

    def build(self, receipt: core.Receipt, files: core.Files) -> core.Request:
        """Build the exact body. Pure."""
        return core.Request(operation="POST /finetune", body=requests.self_hosted(receipt, files))

    # --- files -------------------------------------------------------------------------------------------------------
    @property
    def _root(self) -> Path:
        """The shared folder. Raises `InvalidSettings` when it is not named or not there."""
        self.settings.require(self.name, "data_root")
        root = Path(self.settings.data_root)
        if not root.is_dir():
            raise InvalidSettings(f"{self.name}: data_root {root} is not a folder on this machine")
        return root

    def preflight(self, request: core.Request) -> list[Finding]:
        """Return whether the shared folder is there and the service is free."""
        busy = self._root and self._status()["status"] == "in progress"
        return [error("busy", _BUSY, "wait for it")] if busy else []

    def find_upload(self, digest: str) -> core.UploadRef | None:
        """Find a file of ours with this content in the shared folder."""
        for path in (self._root / UPLOADS).glob(f"*-{digest[:16]}.jsonl"):
            if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                return core.UploadRef(id=f"{UPLOADS}/{path.name}", digest=digest, role=path.name.partition("-")[0])
        return None

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Put one file into the shared folder."""
        path = self._root / UPLOADS / f"{file.role}-{file.sha256[:16]}.jsonl"
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        shutil.copyfile(file.path, part)
        part.replace(path)
        return core.UploadRef(id=f"{UPLOADS}/{path.name}", digest=file.sha256, role=file.role)

    def download(self, file_id: str, into: Path) -> Path:
        """Copy a file from the shared folder; `into` is a folder, or the file to write."""
        source = self._root / file_id
        if not source.is_file():
            raise VendorError(f"{self.name}: there is no file {file_id} in the shared folder")
        path = into / source.name if into.is_dir() else into
        shutil.copyfile(source, path)
        return path

    def delete(self, ref: core.AnyRef) -> None:
        """Remove an upload, or a job's folder with its weights; quietly done when it is gone already."""
        if isinstance(ref, core.UploadRef):
            (self._root / ref.id).unlink(missing_ok=True)
            return
        name = str(ref.data.get("finetune_name", ref.id))
        if name and (self._root / name / NOTE).is_file():
            shutil.rmtree(self._root / name)

    # --- the job -----------------------------------------------------------------------------------------------------
    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Lay the files where the service looks for them and start it: one call, nothing retried."""
        body = dict(request.body)
        files = body.pop(requests.FILES)
        body["finetune_name"] = name = f"{body['finetune_name']}-{key}"
        submitted = time.time()
        for role, id in files.items():
            folder = self._root / name / "input" / "data" / _FOLDERS[role]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._root / id, folder / f"{role}.jsonl")
        self._write_note(name, {"request": body, "submitted": submitted})
        try:
            self.client.send("POST", "/finetune", body)
        except VendorError as problem:
            if problem.status != 409:
                raise
            hint = "try again when it has finished (its address: GET /status)"
            raise QuotaExceeded(f"{self.name}: {_BUSY}", hint=hint, limit="active_jobs") from problem
        (self._root / CURRENT).write_text(name, encoding="utf-8")
        return core.JobRef(id=name, data={"base": body["base_model_name_or_path"], "submitted": submitted})

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Return None: the service lists no jobs."""
        return None

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the service's only status as that of this job."""
        if self._read_note(job.id).get("stopped"):
            return core.Snapshot(state=RunState.CANCELLED, raw_state="terminated", cursor=since)
        status = self._status()
        current = self._root / CURRENT
        if current.is_file() and current.read_text(encoding="utf-8") != job.id:
            status = {
                "status": "finished" if (self._root / job.id / _MERGED).is_dir() else "error",
                "message": "the trainer has begun another job, and this one left no weights",
            }
        phase = str(status["status"])
        state, warnings = core.read_state(phase, _STATES, "cohere-finetune")
        if phase == "idle" and time.time() - float(job.data.get("submitted", 0)) >= BEGINNING:
            state = RunState.FAILED
            status["message"] = "the trainer is idle and knows of no job: it was started again meanwhile"
        return core.Snapshot(
            state=state,
            raw_state=phase,
            model=self._tuned(job) if state is RunState.SUCCEEDED else None,
            error=str(status.get("message") or "no reason given") if state is RunState.FAILED else None,
            warnings=warnings,
            not_reported=dict.fromkeys(
                ("train/loss", "validation/loss"),
                "cohere-finetune has no metrics endpoint; give it wandb_project to record its curves",
            ),
            cursor=since,
        )

    def _status(self) -> dict[str, Any]:
        status = self.client.get("/status")
        if not isinstance(status, dict) or "status" not in status:
            raise TransientError(f"{self.name}: look at the trainer: an answer without a status")
        return status

    def cancel(self, job: core.JobRef) -> None:
        """End the service, which is the only way to stop a job; it has to be started again by hand."""
        note = self._read_note(job.id)
        if note.get("stopped") or (self._root / job.id / _MERGED).is_dir():
            return
        try:
            self.client.get("/terminate")
        except TransientError as problem:
            if problem.sent is False:
                raise  # it was never reached; otherwise it ended before it could answer
        self._write_note(job.id, note | {"stopped": time.time()})

    def _write_note(self, job: str, note: Mapping[str, Any]) -> None:
        folder = self._root / job
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{NOTE}.part"
        part.write_text(json.dumps(note), encoding="utf-8")
        part.replace(folder / NOTE)

    def _read_note(self, job: str) -> dict[str, Any]:
        path = self._root / job / NOTE
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    # --- the model ---------------------------------------------------------------------------------------------------
    def _tuned(self, job: core.JobRef) -> core.ModelRef:
        path = f"{self.settings.container_root.rstrip('/')}/{job.id}/{_MERGED}"
        return core.ModelRef(id=path, base=job.data.get("base"), data={"finetune_name": job.id})

    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every job of ours in the shared folder that has weights."""
        yield from core.read_each(sorted(self._root.glob(f"*/{NOTE}")), self._remote_model, self.name)

    def _remote_model(self, path: Path) -> core.RemoteModel | None:
        if not (path.parent / _MERGED).is_dir():
            return None
        note = self._read_note(path.parent.name)
        base = note["request"].get("base_model_name_or_path")
        tuned = self._tuned(core.JobRef(id=path.parent.name, data={"base": base}))
        return core.RemoteModel(id=tuned.id, base=base, job=path.parent.name, created=note.get("submitted"))

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Return the job as recorded when it was started."""
        id = remote.job or ""
        request = self._read_note(id).get("request")
        if request is None:
            raise VendorError(f"{self.name}: nothing is noted of a job {id!r} in the shared folder")
        lora = {f"lora_{name}": value for name, value in (request.get("lora_config") or {}).items()}
        names = ("train_epochs", "train_batch_size", "learning_rate", "gradient_accumulation_steps")
        values = {name.removeprefix("train_"): request[name] for name in names if name in request}
        values |= {name: lora[name] for name in ("lora_rank", "lora_alpha") if name in lora}
        names = ("parallel_strategy", "eval_percentage", "validation_batch_size", "gradient_checkpointing")
        unmapped = {name: request[name] for name in names if name in request}
        if "lora_target_modules" in lora:
            unmapped["lora_target_modules"] = lora["lora_target_modules"]
        return core.RemoteJob(
            id=id,
            model=remote.id,
            base=str(request.get("base_model_name_or_path")),
            hyperparameters=values,
            unmapped=unmapped,
            files={"train": f"{id}/input/data/training/train.jsonl"},
        )

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open the model over the inference container, if its address is set."""
        if self.settings.inference_url is None:
            return core.Unavailable("the inference container's address is not set (inference_url)")
        client = core.Client(self.settings.inference_url, timeout=self.settings.timeout)

        def answer(request: core.GenerationRequest) -> core.Generation:
            reply = dict(client.send("POST", "/inference", _question(ref.id, request)))
            if "text" not in reply:
                problem = reply.get("message") or "an answer without text"
                raise VendorError(f"{self.name}: ask the inference container: {problem}")
            return core.Generation(text=reply["text"], finish_reason="stop")

        return core.FunctionGenerator(answer, max_concurrency=1)

    def snippet(self, ref: core.ModelRef | core.DeploymentRef) -> str:
        """Return a few lines of Python that ask the inference container."""
        address = self.settings.inference_url or "http://localhost:5001"
        return (
            "import httpx\n\n"
            f'answer = httpx.post("{address}/inference", timeout=600, json={{\n'
            f'    "model_name_or_path": "{ref.id}",\n'
            '    "message": "Hello!",\n'
            f'    "max_new_tokens": {_MIN_NEW_TOKENS},\n'
            '    "do_sample": "false",\n'
            '})\nprint(answer.json()["text"])\n'
        )


def _question(model: str, request: core.GenerationRequest) -> dict[str, Any]:
    """Build the body of POST /inference: the last turn is the message, a system turn before the first is the
    preamble."""
    turns = [turn for turn in request.messages if turn.role in _ROLES]
    preamble = turns.pop(0).words if turns and turns[0].role == "system" else ""
    sampling = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"} if request.temperature > 0 else {}
    return {
        "model_name_or_path": model,
        "chat_history": [{"role": _ROLES[turn.role], "content": turn.words} for turn in turns[:-1]],
        "message": turns[-1].words if turns else "",
        "preamble": preamble,
        # An answer that is cut off breaks the service, so the room is never small.
        "max_new_tokens": max(request.max_tokens or 0, _MIN_NEW_TOKENS),
        "do_sample": "true" if sampling else "false",
        **core.sampling_settings(request, sampling),
    }
