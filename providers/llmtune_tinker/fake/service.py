"""The fake of Tinker, as the SDK 0.38.0 speaks to it: sessions, models that really learn, states, and usage.

Requests have numbers within a model: one that was seen before gets its first answer again, and one that comes too early
is refused, so that a step is never applied twice. Passes come and go as protobuf, all else as JSON. What must not
happen is a complaint: telemetry, a second open session of a run, a step in a session that has ended.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from llmtune.testing.fake_vendor import FakeJob, FakeVendor, Phase
from llmtune.testing.faults import Fault
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune_tinker.client import RUN_KEY
from llmtune_tinker.fake.model import State

#: Models of the account, with their context in tokens.
MODELS = {"Qwen/Qwen3-8B": 32768, "Qwen/Qwen3.5-4B": 65536}
#: USD for a million training tokens.
TRAINING_PRICE = 0.44

_LORA = Required({"rank": Required(int), "seed": int, "train_unembed": bool, "train_mlp": bool, "train_attn": bool})
_ADAM = {
    "learning_rate": Required(float),
    "beta1": float,
    "beta2": float,
    "eps": float,
    "weight_decay": float,
    "grad_clip_norm": float,
}


@dataclass
class FakeModel:
    """A model that is being trained in a session."""

    id: str
    session: str
    base: str
    rank: int
    state: State = field(default_factory=State)
    gradient: Any = None
    rows: int = 0
    """A hash of the targets whose gradient has been added up."""

    answered: dict[int, str] = field(default_factory=dict)
    """Requests by their number."""

    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeCheckpoint:
    """What was saved of a model."""

    address: str
    kind: str
    state: State
    model: FakeModel
    created: float


class FakeTinker(FakeVendor):
    """Tinker. `trained_tokens` are billed, by session; `unpaid` passes are answered 402 before one is taken."""

    name = "tinker"
    walks = {
        "success": (Phase("active"), Phase("client_finished")),
        "failure": (Phase("active"), Phase("client_finished")),
        "cancelled": (Phase("cancelled"),),
    }

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.trained: dict[str, FakeModel] = {}
        self.saved: dict[str, FakeCheckpoint] = {}
        self.futures: dict[str, Any] = {}
        self.trained_tokens: dict[str, int] = {}
        self.forward_tokens: dict[str, int] = {}
        """Tokens of passes without a gradient, by session."""

        self.bills_forward = False
        """Whether those are billed as training too: the service does not document it."""

        self.unpaid = 0
        self.exchanges_keys = False
        """Whether the key must be exchanged for a token, as the service may ask of any client."""

        self.drops_likelihoods = False
        """Whether passes are answered without the likelihood of each token."""

    def client_environment(self) -> dict[str, str]:
        """Return the key that the provider needs."""
        return {"TINKER_API_KEY": self.api_key or "tml-fake"}

    def error_body(self, refusal: Refusal) -> Any:
        """Return an error as the service has it."""
        return {"detail": refusal.message}

    def receive(self, call: Call) -> Fault | None:
        """Tell a look at one session from a search by the run key: they share a route."""
        if call.path.endswith("/sessions/search") and b'"session_id"' in call.body:
            call.path = "/api/v1/sessions/search/one"
        return super().receive(call)

    # --- the client --------------------------------------------------------------------------------------------------
    @route("POST", "/api/v1/client/config")
    def client_config(self, call: Call) -> Any:
        """Return the switches of the SDK: none but the exchange of keys."""
        return {"pjwt_auth_enabled": self.exchanges_keys}

    @route("POST", "/api/v1/client/dynamic_config")
    def client_dynamic_config(self, call: Call) -> Any:
        """Return nothing special."""
        return {}

    @route("POST", "/api/v1/auth/token")
    def exchange_key(self, call: Call) -> Any:
        """Exchange a key for a token. It names the key here, so that it is accepted."""
        return {"jwt": f"eyJ.{self.api_key or 'fake'}.{int(time.time()) + 3600}"}

    @route("POST", "/api/v1/telemetry")
    def telemetry(self, call: Call) -> Any:
        """Complain: llmtune sends no telemetry."""
        self.complaints.append("telemetry was sent")
        return {"status": "accepted"}

    @route("GET", "/api/v1/get_server_capabilities")
    def get_capabilities(self, call: Call) -> Any:
        """List the models."""
        return {
            "supported_models": [
                {"model_name": name, "max_context_length": context, "trainable": True, "sampleable": True}
                for name, context in MODELS.items()
            ]
        }

    # --- sessions ----------------------------------------------------------------------------------------------------
    @route("POST", "/api/v1/create_session", role="submit")
    def create_session(self, call: Call) -> Any:
        """Open a session."""
        shape = {
            "tags": Required([str]),
            "user_metadata": Required({RUN_KEY: str}),
            "sdk_version": Required(str),
            "project_id": str,
            "display_name": str,
            "type": Required({"create_session"}),
        }
        body = call.json(shape)
        key = body["user_metadata"].get(RUN_KEY)
        if any(self._is_active(job) for job in self.jobs_with(key)):
            self.complaints.append(f"a second session was opened for run {key}")
        job = self.new_job(body, key=key, prefix="session-")
        return {"type": "create_session", "session_id": job.id, "warning_message": None, "error_message": None}

    @route("POST", "/api/v1/session_heartbeat")
    def heartbeat(self, call: Call) -> Any:
        """Take a sign of life."""
        if not self._is_active(self.job(call.data["session_id"])):
            raise Refusal(410, "The session has finished.")
        return {"type": "session_heartbeat"}

    @route("POST", "/api/v1/sessions/search", role="find")
    def search_sessions(self, call: Call) -> Any:
        """Search sessions by their metadata, newest first."""
        body = call.json({"user_metadata": Required({RUN_KEY: str}), "limit": int})
        wanted = body["user_metadata"][RUN_KEY]
        jobs = [job for job in self.listed(self.jobs.values()) if job.key == wanted]
        return {"sessions": [self._summary(job) for job in reversed(jobs)], "next_cursor": None}

    @route("POST", "/api/v1/sessions/search/one", role="poll")
    def read_session(self, call: Call) -> Any:
        """Return one session as a search for its id finds it."""
        session = call.json({"session_id": Required(str), "limit": int})["session_id"]
        return {"sessions": [self._summary(self.jobs[session])] if session in self.jobs else [], "next_cursor": None}

    @route("POST", "/api/v1/sessions/{session}/finish")
    def finish_session(self, call: Call) -> Any:
        """End a session. The first reason stands."""
        body = call.json({"reason": Required({"type": Required({"success", "errored", "interrupted"})}), "detail": str})
        job = self.job(call.params["session"])
        job.data.setdefault(
            "ended", {"type": "client_finished", "reason": body["reason"], "detail": body.get("detail")}
        )
        return Reply({}, 200)

    def cancel_in_console(self, session: str) -> None:
        """End a session as a person does in the service's console."""
        self.jobs[session].data.setdefault("ended", {"type": "cancelled", "detail": "stopped in the console"})

    def _is_active(self, job: FakeJob) -> bool:
        return "ended" not in job.data

    def _summary(self, job: FakeJob) -> dict[str, Any]:
        status = dict(job.data.get("ended", {"type": "active"}))
        if job.override:
            status["type"] = job.override
        return {
            "session_id": job.id,
            "created_at": _time(job.created),
            "owner": "user:fake",
            "project_id": "default",
            "status": status,
            "checkpoints_count": sum(entry.model.session == job.id for entry in self.saved.values()),
            "display_name": job.body.get("display_name"),
            "user_metadata": job.body["user_metadata"],
        }

    # --- models ------------------------------------------------------------------------------------------------------
    @route("POST", "/api/v1/create_model")
    def create_model(self, call: Call) -> Any:
        """Make a new model in a session."""
        body = call.json(
            {
                "session_id": Required(str),
                "model_seq_id": Required(int),
                "base_model": Required(str),
                "lora_config": _LORA,
                "optimizer_config": {"type": Required({"adamw"})},
                "user_metadata": {RUN_KEY: str},
                "type": Required({"create_model"}),
            }
        )
        if body["base_model"] not in MODELS:
            raise Refusal(400, f"Model {body['base_model']} is not supported.")
        model = self._new_model(body, body["base_model"], body["lora_config"]["rank"], State())
        return self._answer({"type": "create_model", "model_id": model.id})

    @route("POST", "/api/v1/load_weights")
    def load_weights(self, call: Call) -> Any:
        """Make a new model from a saved state."""
        body = call.json(
            {
                "session_id": Required(str),
                "model_seq_id": Required(int),
                "path": Required(str),
                "optimizer": Required({True}),
                "user_metadata": {RUN_KEY: str},
                "type": Required({"load_weights"}),
            }
        )
        saved = self.saved.get(body["path"])
        if saved is None or saved.kind != "training":
            raise Refusal(404, f"No state at {body['path']}.")
        model = self._new_model(body, saved.model.base, saved.model.rank, saved.state)
        return self._answer({"type": "load_weights", "path": body["path"], "model_id": model.id})

    def _new_model(self, body: Mapping[str, Any], base: str, rank: int, state: State) -> FakeModel:
        self._need_active(body["session_id"])
        id = f"{body['session_id']}:train:{body['model_seq_id']}"
        if id in self.trained:
            raise Refusal(409, f"Model {id} exists already.")
        metadata = dict(body.get("user_metadata") or {})
        self.trained[id] = FakeModel(id, body["session_id"], base, rank, state, metadata=metadata)
        return self.trained[id]

    def _need_active(self, session: str) -> FakeJob:
        job = self.job(session)
        if not self._is_active(job):
            raise Refusal(410, "The session has finished.")
        return job

    @route("POST", "/api/v1/get_info")
    def get_info(self, call: Call) -> Any:
        """Describe a model."""
        model = self.trained[call.data["model_id"]]
        return {
            "type": "get_info",
            "model_data": {"arch": "fake", "model_name": model.base, "tokenizer_id": model.base},
            "model_id": model.id,
            "is_lora": True,
            "lora_rank": model.rank,
            "model_name": model.base,
        }

    # --- passes and steps --------------------------------------------------------------------------------------------
    @route("POST", "/api/v1/forward_backward")
    def forward_backward(self, call: Call) -> Any:
        """Take a pass over rows, with or without a gradient."""
        from tinker.proto import tinker_public_pb2 as messages

        if "protobuf" not in call.headers.get("content-type", ""):
            raise Refusal(415, "Passes are sent as protobuf.")
        request = messages.ForwardBackwardRequest()
        request.ParseFromString(call.body)
        if self.unpaid:
            self.unpaid -= 1
            raise Refusal(402, "Your balance is used up.")
        model, answered = self._take_turn(request.model_id, request.seq_id)
        if answered is not None:
            return {"request_id": answered}
        if request.loss_fn != "cross_entropy":
            raise Refusal(400, f"Loss {request.loss_fn} is not faked.")
        if self.job(model.session).outcome == "failure":
            return self._answer({"error": self.failure_message, "category": "user"}, model, request.seq_id)
        rows = [_read_datum(datum) for datum in request.data]
        outputs, loss, tokens = [], 0.0, 0
        for inputs, targets, weights in rows:
            likelihoods = model.state.log_likelihoods(targets)
            outputs.append(likelihoods)
            loss -= float((weights.astype(np.float64) * likelihoods).sum())
            tokens += len(inputs)
            if not request.forward_only:
                gradient = model.state.gradient(targets, weights)
                model.gradient = gradient if model.gradient is None else model.gradient + gradient
                model.rows += sum(int(target) * (place + 1) for place, target in enumerate(targets))
        counted = self.forward_tokens if request.forward_only else self.trained_tokens
        counted[model.session] = counted.get(model.session, 0) + tokens
        encoded = _encode_output([] if self.drops_likelihoods else outputs, loss)
        return self._answer(encoded, model, request.seq_id)

    @route("POST", "/api/v1/optim_step")
    def optim_step(self, call: Call) -> Any:
        """Update a model by the gradient that was added up since the last step."""
        shape = {"model_id": Required(str), "seq_id": Required(int), "adam_params": Required(_ADAM), "type": str}
        body = call.json(shape)
        model, answered = self._take_turn(body["model_id"], body["seq_id"])
        if answered is not None:
            return {"request_id": answered}
        if model.gradient is None:
            self.complaints.append(f"{model.id}: an update without a gradient")
            raise Refusal(400, "There is no gradient.")
        norm = float(np.linalg.norm(model.gradient))
        model.state = model.state.update(model.gradient, model.rows, body["adam_params"])
        model.gradient, model.rows = None, 0
        return self._answer({"metrics": {"grad_norm": norm}}, model, body["seq_id"])

    def _take_turn(self, model_id: str, number: int) -> tuple[FakeModel, str | None]:
        """Return the model, and the first answer to a request of that number."""
        if model_id not in self.trained:
            raise Refusal(404, f"No model {model_id}.")
        model = self.trained[model_id]
        self._need_active(model.session)
        return model, model.answered.get(number)

    def _answer(self, result: Any, model: FakeModel | None = None, number: int | None = None) -> dict[str, Any]:
        request = self.new_id("request-")
        self.futures[request] = result
        if model is not None and number is not None:
            model.answered[number] = request
        return {"request_id": request, "model_id": model.id if model is not None else None}

    @route("POST", "/api/v1/retrieve_future")
    def retrieve_future(self, call: Call) -> Any:
        """Return the result of a request."""
        request = call.data["request_id"]
        if request not in self.futures:
            raise Refusal(404, f"No request {request}.")
        result = self.futures[request]
        if isinstance(result, bytes):
            if "protobuf" not in call.headers.get("accept", ""):
                raise Refusal(406, "Passes are answered as protobuf.")
            return Reply(result, headers={"Content-Type": "application/x-protobuf"})
        return result

    # --- what is saved -----------------------------------------------------------------------------------------------
    @route("POST", "/api/v1/save_weights")
    @route("POST", "/api/v1/save_weights_for_sampler")
    @route("POST", "/api/v1/save_weights_external")
    def save(self, call: Call) -> Any:
        """Save a state, weights that answer, or files."""
        body = call.data
        kind, segment, word = {
            "save_weights": ("training", "weights", "save_weights"),
            "save_weights_for_sampler": ("sampler", "sampler_weights", "save_weights_for_sampler"),
            "save_weights_external": ("external", "external_weights", "save_weights_external"),
        }[call.path.rpartition("/")[2]]
        model, answered = self._take_turn(body["model_id"], body["seq_id"])
        if answered is not None:
            return {"request_id": answered}
        address = f"tinker://{model.id}/{segment}/{body['path']}"
        if address in self.saved and not body.get("overwrite"):
            return self._answer({"error": f"{address} exists already.", "category": "user"}, model, body["seq_id"])
        self.saved[address] = FakeCheckpoint(address, kind, model.state, model, self.now())
        return self._answer({"type": word, "path": address}, model, body["seq_id"])

    def updates_of(self, address: str) -> tuple[Any, ...]:
        """Return the updates that have led to what was saved: each step of a run once, and in order."""
        return self.saved[address].state.updates

    @route("GET", "/api/v1/checkpoints")
    def list_checkpoints(self, call: Call) -> Any:
        """List all checkpoints, oldest first."""
        query = call.fields({"limit": str, "offset": str})
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        entries = [
            {
                "checkpoint_id": entry.address.partition("//")[2].partition("/")[2],
                "checkpoint_type": entry.kind,
                "time": _time(entry.created),
                "tinker_path": entry.address,
                "size_bytes": 1 << 20,
                "public": False,
            }
            for entry in self.listed(self.saved.values())
        ]
        total = len(entries)
        return {
            "checkpoints": entries[offset : offset + limit],
            "cursor": {"offset": offset, "limit": limit, "total_count": total},
        }

    @route("GET", "/api/v1/training_runs/{run}")
    def get_training_run(self, call: Call) -> Any:
        """Describe a training run."""
        if (model := self.trained.get(call.params["run"])) is None:
            raise Refusal(404, f"No training run {call.params['run']}.")
        return {
            "training_run_id": model.id,
            "base_model": model.base,
            "model_owner": "user:fake",
            "is_lora": True,
            "lora_rank": model.rank,
            "last_request_time": _time(self.now()),
            "user_metadata": model.metadata,
        }

    @route("DELETE", "/api/v1/training_runs/{run}/checkpoints/{checkpoint*}", role="delete")
    def delete_checkpoint(self, call: Call) -> Any:
        """Delete what was saved."""
        address = f"tinker://{call.params['run']}/{call.params['checkpoint']}"
        if self.saved.pop(address, None) is None:
            raise Refusal(404, f"No checkpoint {address}.")
        return {}

    @route("GET", "/api/v1/training_runs/{run}/checkpoints/external_weights/{name}/external_weights_urls")
    def list_files(self, call: Call) -> Any:
        """Return an address for each file of exported weights."""
        address = f"tinker://{call.params['run']}/external_weights/{call.params['name']}"
        if address not in self.saved:
            raise Refusal(404, f"No checkpoint {address}.")
        names = ("adapter_config.json", "adapter_model.safetensors", "optimizer.bin")
        return {"urls": {name: f"{self.url}/files/{name}" for name in names}, "expires": _time(self.now() + 3600)}

    @route("GET", "/files/{name}")
    def get_file(self, call: Call) -> Any:
        """Return a file of an adapter: a small one that PEFT's readers open."""
        if call.params["name"] == "adapter_config.json":
            config = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "base_model_name_or_path": "Qwen/Qwen3-8B"}
            return Reply(json.dumps(config).encode())
        name = "base_model.model.lm_head.lora_A.weight"
        header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        return Reply(struct.pack("<Q", len(header)) + header + struct.pack("<f", 0.5))

    def authorised(self, call: Call) -> bool:
        """Return whether the request has the key; signed addresses need none."""
        return call.path.startswith("/files/") or super().authorised(call)

    # --- usage and answers -------------------------------------------------------------------------------------------
    @route("GET", "/api/v1/billing/usage/events")
    def list_usage(self, call: Call) -> Any:
        """Return what was billed, as one event a session."""
        call.fields({"starting_on": Required(str), "ending_before": Required(str)})
        return {
            "data": [
                {
                    "bucket_start": _time(self.now()),
                    "bucket_end": _time(self.now()),
                    "session_id": session,
                    "estimated_cost_usd": tokens / 1e6 * TRAINING_PRICE,
                    "event_info": {"type": "training", "token_count": tokens},
                }
                for session, tokens in self._billed_tokens().items()
            ],
            "sessions": {},
            "cost_data_through": None,
        }

    def _billed_tokens(self) -> dict[str, int]:
        """Return the training tokens that are billed, by session."""
        forward = self.forward_tokens if self.bills_forward else {}
        return {
            session: self.trained_tokens.get(session, 0) + forward.get(session, 0)
            for session in self.trained_tokens | forward
        }

    @route("POST", "/oai/api/v1/chat/completions", role="generate")
    def complete(self, call: Call) -> Any:
        """Answer as a tuned model."""
        body = call.json(
            {
                "model": Required(str),
                "messages": Required(list),
                "temperature": float,
                "top_p": float,
                "max_tokens": int,
                "seed": int,
                "tools": list,
            }
        )
        saved = self.saved.get(body["model"])
        if saved is None or saved.kind != "sampler":
            raise Refusal(404, f"No model {body['model']}.")
        prompt = body["messages"][-1]["content"]
        text = self.say(prompt if isinstance(prompt, str) else json.dumps(prompt), tuned=True)
        return {
            "id": self.new_id("chat-"),
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
        }


def _read_datum(datum: Any) -> tuple[Any, Any, Any]:
    """Return inputs, targets and weights of one row."""
    inputs = np.frombuffer(b"".join(chunk.encoded_text.tokens for chunk in datum.model_input), np.int32)
    targets = np.frombuffer(datum.loss_fn_inputs["target_tokens"].dense, np.int64)
    weights = np.frombuffer(datum.loss_fn_inputs["weights"].dense, np.float32)
    if not len(inputs) == len(targets) == len(weights):
        raise Refusal(400, "Inputs, targets and weights differ in length.")
    return inputs, targets, weights


def _encode_output(outputs: list[Any], loss: float) -> bytes:
    """Return the answer to a pass. Offsets count bytes."""
    from tinker.proto import tinker_public_pb2 as messages

    output = messages.ForwardBackwardOutput()
    output.loss_fn_output_type = "ArrayRecord"
    output.metrics["loss:sum"] = loss
    if outputs:
        record = output.loss_fn_outputs.add()
        record.num_datums = len(outputs)
        tensor = record.fields["logprobs"]
        tensor.data = b"".join(values.astype(np.float32).tobytes() for values in outputs)
        tensor.offsets = np.cumsum([0, *(4 * len(values) for values in outputs)]).astype(np.int64).tobytes()
        tensor.dtype = messages.DTYPE_FLOAT32
    return bytes(output.SerializeToString())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
