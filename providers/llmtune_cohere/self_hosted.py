"""cohere-finetune, Cohere's open trainer in a container of one's own, over httpx.

Source: its README and services (github.com/cohere-ai/cohere-finetune 0533a2f, 2025-03-13, MIT). Its limits: one job at
a time; files travel through a folder shared with the container; no list of jobs, no metrics, no events; stopping a job
ends the service, which then has to be started again by hand.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llmtune.data.findings import Finding, error
from llmtune.errors import LlmtuneError, MissingExtra, NotTranslatable, QuotaExceeded, TransientError, VendorError
from llmtune.provider import (
    AnyRef,
    Cursor,
    EncodedFile,
    Generation,
    GenerationRequest,
    JobRef,
    ModelRef,
    RemoteJob,
    RemoteModel,
    Request,
    RunKey,
    RunState,
    Snapshot,
    Unavailable,
    UploadRef,
)
from llmtune_cohere import responses
from llmtune_cohere import settings as account

if TYPE_CHECKING:
    import httpx

    from llmtune_cohere.settings import CohereSettings

#: Where our uploads lie in the shared folder until a job takes them.
UPLOADS = "llmtune-uploads"

#: The body's key under which the uploaded files travel to `submit`; it is taken out before the body is sent.
FILES = "files"

#: What we write beside a job's data: what was asked for, and whether it was stopped.
NOTE = "llmtune.json"

#: Names of the service's request; it refuses others.
FIELDS = frozenset(
    {
        "finetune_name",
        "base_model_name_or_path",
        "parallel_strategy",
        "finetune_strategy",
        "use_4bit_quantization",
        "gradient_checkpointing",
        "gradient_accumulation_steps",
        "train_epochs",
        "train_batch_size",
        "validation_batch_size",
        "learning_rate",
        "eval_percentage",
        "lora_config",
        "wandb_config",
    }
)

#: Seconds after a start during which "idle" means "not begun yet".
BEGINNING = 60.0

_ROLES = {"train": "training", "validation": "evaluation"}
_MERGED = "output/merged_weights"
_MOST_TOKENS = 1024


class SelfHosted:
    """The calls to a container of one's own."""

    def __init__(self, name: str, settings: CohereSettings) -> None:
        self._name = name
        self._settings = settings
        self._made: httpx.Client | None = None

    def preflight(self, request: Request) -> list[Finding]:
        """Whether the shared folder is there and the service is free."""
        account.data_root(self._name, self._settings)
        word = self._status()["status"]
        if word == "in progress":
            return [error("busy", "the trainer is at work on another job, and does one at a time", "wait for it")]
        return []

    # --- files -------------------------------------------------------------------------------------------------------
    def find_upload(self, digest: str) -> UploadRef | None:
        """A file of ours with this content in the shared folder."""
        folder = account.data_root(self._name, self._settings) / UPLOADS
        for path in folder.glob(f"*-{digest[:16]}.jsonl"):
            if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                return UploadRef(id=f"{UPLOADS}/{path.name}", digest=digest, role=path.name.partition("-")[0])
        return None

    def upload(self, file: EncodedFile) -> UploadRef:
        """Put one file into the shared folder."""
        folder = account.data_root(self._name, self._settings) / UPLOADS
        folder.mkdir(exist_ok=True)
        target = folder / f"{file.role}-{file.sha256[:16]}.jsonl"
        shutil.copyfile(file.path, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)
        return UploadRef(id=f"{UPLOADS}/{target.name}", digest=file.sha256, role=file.role)

    # --- the job -----------------------------------------------------------------------------------------------------
    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Lay the files where the service looks for them and start it: one call, nothing retried."""
        body = {name: value for name, value in request.body.items() if name != FILES}
        unknown = sorted(set(body) - FIELDS)
        if unknown:
            raise NotTranslatable(
                f"{self._name} cannot run this job: cohere-finetune has no field {unknown[0]!r}", provider=self._name
            )
        body["finetune_name"] = f"{body['finetune_name']}-{key}"
        root = account.data_root(self._name, self._settings)
        folder = root / body["finetune_name"]
        for role, id in request.body[FILES].items():
            place = folder / "input" / "data" / _ROLES[role]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / id, place / f"{role}.jsonl")
        self._note(folder, {"request": body, "submitted": time.time()})
        answer = self._call("POST", "/finetune", "start the trainer", json=body)
        if answer.status_code == 409:
            raise QuotaExceeded(
                f"{self._name}: the trainer is at work on another job, and does one at a time",
                hint="try again when it has finished (its address: GET /status)",
            )
        self._read(answer, "start the trainer", accepted=(200, 202))
        (root / "llmtune-current").write_text(body["finetune_name"], encoding="utf-8")
        return JobRef(
            id=body["finetune_name"],
            data={"base": body.get("base_model_name_or_path"), "submitted": time.time()},
        )

    def find(self, key: RunKey) -> JobRef | None:
        """Never one: the service shows no jobs."""
        return None

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """The service's one status, read as this job's."""
        root = account.data_root(self._name, self._settings)
        if (self._noted(root / job.id)).get("stopped"):
            return Snapshot(state=RunState.CANCELLED, raw_state="terminated", cursor=since)
        told = self._status()
        word = str(told["status"])
        current = root / "llmtune-current"
        ours = not current.is_file() or current.read_text(encoding="utf-8") == job.id
        if not ours:
            done = (root / job.id / _MERGED).is_dir()
            word = "finished" if done else "error"
            told = {"message": "the trainer has begun another job, and this one left no weights"}
        now, problem, warnings = self._state(word, job)
        model = self._tuned(job) if now is RunState.SUCCEEDED else None
        return Snapshot(
            state=now,
            raw_state=word,
            model=model,
            error=(problem or str(told.get("message") or "no reason given")) if now is RunState.FAILED else None,
            warnings=warnings,
            not_reported=dict.fromkeys(
                ("train/loss", "validation/loss"),
                "cohere-finetune has no metrics endpoint; give it wandb_project to record its curves",
            ),
            cursor=since,
        )

    def _state(self, word: str, job: JobRef) -> tuple[RunState, str | None, tuple[str, ...]]:
        known = responses.SELF_HOSTED_STATES.get(word)
        if known is not None:
            return known, None, ()
        if word == "idle":
            if time.time() - float(job.data.get("submitted", 0)) < BEGINNING:
                return RunState.QUEUED, None, ()
            return RunState.FAILED, "the trainer is idle and knows of no job: it was started again meanwhile", ()
        return (
            RunState.RUNNING,
            None,
            (f"cohere-finetune reports a state that llmtune does not know: {word!r}; taken as running",),
        )

    def cancel(self, job: JobRef) -> None:
        """End the service, which is the only way to stop a job; it has to be started again by hand."""
        root = account.data_root(self._name, self._settings)
        noted = self._noted(root / job.id)
        if noted.get("stopped") or (root / job.id / _MERGED).is_dir():
            return
        try:
            self._read(self._call("GET", "/terminate", "stop the trainer"), "stop the trainer")
        except TransientError as problem:
            if problem.sent is False:
                raise  # it was never reached; otherwise it ended before it could answer
        self._note(root / job.id, noted | {"stopped": time.time()})

    # --- the model ---------------------------------------------------------------------------------------------------
    def _tuned(self, job: JobRef) -> ModelRef:
        path = f"{self._settings.container_root.rstrip('/')}/{job.id}/{_MERGED}"
        return ModelRef(id=path, base=job.data.get("base"), data={"finetune_name": job.id})

    def generator(self, model: ModelRef) -> InferenceGenerator | Unavailable:
        """The model over the inference container, where its address is set."""
        if self._settings.inference_url is None:
            return Unavailable("the inference container's address is not set (inference_url)")
        return InferenceGenerator(self, self._settings.inference_url, model.id)

    def inventory(self) -> Iterator[RemoteModel]:
        """Every job of ours in the shared folder that left weights."""
        root = account.data_root(self._name, self._settings)
        for note in sorted(root.glob(f"*/{NOTE}")):
            if (note.parent / _MERGED).is_dir():
                told = self._noted(note.parent)
                job = JobRef(id=note.parent.name, data={"base": told["request"].get("base_model_name_or_path")})
                tuned = self._tuned(job)
                yield RemoteModel(id=tuned.id, base=tuned.base, job=job.id, created=told.get("submitted"))

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job as we noted it down when it was started."""
        id = remote.job or ""
        told = self._noted(account.data_root(self._name, self._settings) / id)
        if "request" not in told:
            raise VendorError(f"{self._name}: nothing is noted of a job {id!r} in the shared folder")
        request = told["request"]
        lora = request.get("lora_config") or {}
        names = {
            "train_epochs": "epochs",
            "train_batch_size": "batch_size",
            "learning_rate": "learning_rate",
            "gradient_accumulation_steps": "gradient_accumulation_steps",
        }
        found = {ours: request[theirs] for theirs, ours in names.items() if theirs in request}
        found |= {f"lora_{name}": lora[name] for name in ("rank", "alpha") if name in lora}
        kept = ("parallel_strategy", "eval_percentage", "validation_batch_size", "gradient_checkpointing")
        return RemoteJob(
            id=id,
            model=remote.id,
            base=str(request.get("base_model_name_or_path")),
            hyperparameters=found,
            unmapped={name: request[name] for name in kept if name in request}
            | ({"lora_target_modules": lora["target_modules"]} if "target_modules" in lora else {}),
            files={"train": f"{id}/input/data/training/train.jsonl"},
        )

    def download(self, file_id: str, into: Path) -> Path:
        """A file of the shared folder; `into` is a folder, or the file to write."""
        source = account.data_root(self._name, self._settings) / file_id
        if not source.is_file():
            raise VendorError(f"{self._name}: there is no file {file_id} in the shared folder")
        path = into / source.name if into.is_dir() else into
        shutil.copyfile(source, path)
        return path

    def delete(self, ref: AnyRef) -> None:
        """Remove an upload, or a job's folder with its weights; quietly done when it is gone already."""
        root = account.data_root(self._name, self._settings)
        if isinstance(ref, UploadRef):
            (root / ref.id).unlink(missing_ok=True)
            return
        name = str(ref.data.get("finetune_name", ref.id))
        if name and (root / name / NOTE).is_file():
            shutil.rmtree(root / name)

    # --- pieces ------------------------------------------------------------------------------------------------------
    def _status(self) -> dict[str, Any]:
        told = self._read(self._call("GET", "/status", "look at the trainer"), "look at the trainer")
        if "status" not in told:
            raise TransientError(f"{self._name}: look at the trainer: an answer without a status")
        return told

    def _call(
        self, method: str, path: str, action: str, *, base: str | None = None, json: Any = None
    ) -> httpx.Response:
        try:
            import httpx
        except ImportError:
            raise MissingExtra("cohere", "httpx", purpose=f"provider {self._name}") from None
        address = (base or self._settings.service_url or "").rstrip("/") + path
        if self._made is None:
            self._made = account.http(self._settings)
        try:
            return self._made.request(method, address, json=json)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as problem:
            raise TransientError(
                f"{self._name}: {action}: no connection to {address} ({problem})", sent=False, raw=repr(problem)
            ) from problem
        except httpx.TimeoutException as problem:
            raise TransientError(f"{self._name}: {action}: no answer in time", raw=repr(problem)) from problem
        except httpx.HTTPError as problem:
            raise TransientError(
                f"{self._name}: {action}: the connection failed ({problem})", raw=repr(problem)
            ) from problem

    def _read(self, answer: httpx.Response, action: str, accepted: tuple[int, ...] = (200,)) -> dict[str, Any]:
        if answer.status_code not in accepted:
            problem: LlmtuneError = responses.refusal(
                self._name, action, answer.status_code, answer.content, dict(answer.headers)
            )
            raise problem
        try:
            told = answer.json()
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise TransientError(f"{self._name}: {action}: an answer that cannot be read", raw=answer.text[:500])
        return told

    def ask(self, base: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One question to the inference container."""
        action = "ask the inference container"
        told = self._read(self._call("POST", "/inference", action, base=base, json=dict(body)), action)
        if "text" not in told:
            raise VendorError(f"{self._name}: {action}: {told.get('message') or 'an answer without text'}")
        return told

    def _note(self, folder: Path, told: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{NOTE}.part"
        part.write_text(json.dumps(dict(told)), encoding="utf-8")
        part.replace(folder / NOTE)

    def _noted(self, folder: Path) -> dict[str, Any]:
        path = folder / NOTE
        if not path.is_file():
            return {}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


class InferenceGenerator:
    """A model in the inference container, which holds one at a time and answers one question at a time."""

    max_concurrency = 1
    _ROLES = {"system": "System", "user": "User", "assistant": "Chatbot"}

    def __init__(self, service: SelfHosted, address: str, model: str) -> None:
        self._service = service
        self._address = address
        self._model = model

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer per request, in order."""
        return [self._one(request) for request in requests]

    def _one(self, request: GenerationRequest) -> Generation:
        turns = [turn for turn in request.messages if turn.role in self._ROLES]
        preamble = turns[0].words if turns and turns[0].role == "system" else ""
        history = turns[1 if preamble else 0 :]
        body: dict[str, Any] = {
            "model_name_or_path": self._model,
            "chat_history": [{"role": self._ROLES[turn.role], "content": turn.words} for turn in history[:-1]],
            "message": history[-1].words if history else "",
            "preamble": preamble,
            # An answer that is cut off breaks the service, so the room is never small.
            "max_new_tokens": max(request.max_tokens or 0, _MOST_TOKENS),
            "do_sample": "true" if request.temperature > 0 else "false",
        }
        if request.temperature > 0:
            body["temperature"] = request.temperature
            body |= {
                name: value for name, value in (("top_p", request.top_p), ("top_k", request.top_k)) if value is not None
            }
        started = time.monotonic()
        told = self._service.ask(self._address, body)
        return Generation(text=str(told["text"]), finish_reason="stop", seconds=time.monotonic() - started)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""
