"""Cohere's fine-tuning API through its SDK, for endpoints that still serve it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from llmtune.config import read_secret
from llmtune.data.findings import Finding
from llmtune.errors import InvalidData, MissingCredentials, TransientError, VendorError
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
    Snapshot,
    UploadRef,
)
from llmtune_cohere import responses
from llmtune_cohere import settings as account
from llmtune_cohere.declarations import BASE_TYPES, DATASET_TYPES

if TYPE_CHECKING:
    import cohere

    from llmtune_cohere.settings import CohereSettings

#: The id under which validation rows are recorded: they travel inside the training file's dataset.
INSIDE = "in-the-training-dataset"

_PAGE = 50
_FINISH: dict[str, Literal["stop", "length", "tool_calls"]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}


@contextmanager
def speaking(name: str, action: str) -> Iterator[None]:
    """Turn what the SDK raises inside into our errors; `action` says what was being done."""
    import httpx
    from cohere.core.api_error import ApiError

    try:
        yield
    except ApiError as error:
        status = error.status_code or 0
        raise responses.refusal(name, action, status, error.body, error.headers or {}) from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise TransientError(f"{name}: {action}: no connection ({error})", sent=False, raw=repr(error)) from error
    except httpx.TimeoutException as error:
        raise TransientError(f"{name}: {action}: no answer in time", raw=repr(error)) from error
    except httpx.HTTPError as error:
        raise TransientError(f"{name}: {action}: the connection failed ({error})", raw=repr(error)) from error
    except ValueError as error:  # an answer that is no JSON, or not the JSON the SDK expects
        raise TransientError(f"{name}: {action}: an answer that cannot be read", raw=repr(error)) from error


def plain(answer: Any) -> dict[str, Any]:
    """An SDK object as plain data, unset fields left out."""
    found: dict[str, Any] = answer.model_dump(mode="json", exclude_none=True, by_alias=True, warnings=False)
    return found


class Managed:
    """The calls, one client each: a job's client lives as long as the command that made it."""

    def __init__(self, name: str, settings: CohereSettings) -> None:
        self._name = name
        self._settings = settings
        self._made: cohere.ClientV2 | None = None

    @property
    def _client(self) -> cohere.ClientV2:
        if self._made is None:
            self._made = account.client(self._name, self._settings)
        return self._made

    def preflight(self, request: Request) -> list[Finding]:
        """Whether the endpoint answers for fine-tuning at all."""
        with speaking(self._name, "ask for the tuned models"):
            self._client.finetuning.list_finetuned_models(page_size=1)
        return []

    # --- datasets ----------------------------------------------------------------------------------------------------
    def find_upload(self, digest: str) -> UploadRef | None:
        """Never one: a dataset holds training and validation rows, and one digest does not name both."""
        return None

    def upload(self, file: EncodedFile) -> UploadRef:
        """Make a dataset of the training rows (and the validation rows beside them) and wait until it is valid."""
        if file.role == "validation":
            return UploadRef(id=INSIDE, digest=file.sha256, role="validation")
        beside = partner(file.path)
        kind = dataset_type(file.path)
        action = f"upload {file.path.name}"
        with speaking(self._name, action), file.path.open("rb") as rows:
            parts: dict[str, Any] = {"data": (file.path.name, rows, "application/jsonl")}
            if beside is not None:
                parts["eval_data"] = (beside.name, beside.read_bytes(), "application/jsonl")
            made = self._client.datasets.create(name=f"llmtune-{file.sha256[:32]}", type=kind, **parts)
        if not made.id:
            raise TransientError(f"{self._name}: {action}: an answer without an id")
        told = self._validated(made.id, file.path.name)
        measured = (told.get("metrics") or {}).get("finetune_dataset_metrics") or {}
        return UploadRef(
            id=made.id,
            digest=file.sha256,
            role="train",
            data={"trainable_tokens": measured.get("trainable_token_count")} if measured else {},
        )

    def _validated(self, id: str, filename: str) -> dict[str, Any]:
        """Our own wait: the SDK's prints to the terminal and raises bare exceptions."""
        deadline = time.monotonic() + self._settings.dataset_wait
        while True:
            with speaking(self._name, f"look at {filename}"):
                told = plain(self._client.datasets.get(id)).get("dataset") or {}
            status = told.get("validation_status")
            if status in ("validated", "skipped"):
                return told
            if status == "failed":
                raise InvalidData(
                    f"{self._name}: Cohere refused {filename}: {told.get('validation_error') or 'no reason given'}",
                    hint="llmtune data check --provider cohere FILE",
                )
            if time.monotonic() > deadline:
                raise TransientError(
                    f"{self._name}: {filename} is still {status} after {self._settings.dataset_wait:.0f} s"
                )
            time.sleep(self._settings.poll_interval)

    # --- the job -----------------------------------------------------------------------------------------------------
    def submit(self, request: Request, key: RunKey) -> JobRef:
        """Start the job: one paid call, nothing retried."""
        from cohere.finetuning import FinetunedModel

        action = "create the fine-tuned model"
        body = request.body | {"name": f"{request.body['name']}-{key}"}
        wandb = body["settings"].get("wandb")
        if wandb is not None:
            body["settings"] = body["settings"] | {"wandb": wandb | {"api_key": self._secret(wandb.get("api_key"))}}
        with speaking(self._name, action):
            answer = self._client.finetuning.create_finetuned_model(request=FinetunedModel(**body))
        made = answer.finetuned_model
        if made is None or not made.id:
            raise TransientError(f"{self._name}: {action}: an answer without an id")
        return self._job(plain(made))

    def _secret(self, reference: Any) -> str:
        variable = str(reference or "").removeprefix("${").removesuffix("}")
        value = read_secret(variable) if variable else None
        if not value:
            raise MissingCredentials(
                f"{self._name}: Weights & Biases needs a key"
                + (f": the environment variable {variable} is not set" if variable else ""),
                hint="name the variable that holds it: provider_options wandb_api_key_env",
            )
        return value

    def find(self, key: RunKey) -> JobRef | None:
        """The fine-tuned model whose name ends with this key; the oldest, if there were several."""
        for model in self._models():
            if str(model.get("name")).endswith(f"-{key}"):
                return self._job(model)
        return None

    def poll(self, job: JobRef, since: Cursor | None) -> Snapshot:
        """The record, the evaluations and the changes of state."""
        tuning = self._client.finetuning
        action = f"look at {job.id}"
        try:
            with speaking(self._name, action):
                answer = tuning.get_finetuned_model(job.id)
        except VendorError as error:
            if isinstance(error, TransientError) or error.status != 404 or since is None:
                raise
            # Seen before and gone now: deleting is the only way to stop a job here.
            return responses.snapshot({"id": job.id, "status": "STATUS_DELETED"}, since=since)
        if answer.finetuned_model is None:
            raise TransientError(f"{self._name}: {action}: an answer without a model")
        return responses.snapshot(
            plain(answer.finetuned_model),
            metrics=self._pages(lambda at: tuning.list_training_step_metrics(job.id, **at), "step_metrics", action),
            said=self._pages(lambda at: tuning.list_events(job.id, **at), "events", action),
            since=since,
        )

    def cancel(self, job: JobRef) -> None:
        """Delete the fine-tuned model: the API has no other way to stop a job."""
        self._delete_model(job.id)

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[RemoteModel]:
        """Every tuned model that is ready or resting."""
        for model in self._models():
            if model.get("status") == "STATUS_READY" or model.get("status") in responses.RESTING:
                yield responses.remote_model(model)

    def fetch(self, remote: RemoteModel) -> RemoteJob:
        """The job behind a tuned model."""
        id = remote.job or remote.id.removesuffix("-ft")
        with speaking(self._name, f"look at {id}"):
            answer = self._client.finetuning.get_finetuned_model(id)
        if answer.finetuned_model is None:
            raise TransientError(f"{self._name}: look at {id}: an answer without a model")
        return responses.remote_job(plain(answer.finetuned_model))

    def download(self, file_id: str, into: Path) -> Path:
        """The files of a dataset, joined in their order; `into` is a folder, or the file to write."""
        action = f"download the dataset {file_id}"
        with speaking(self._name, action):
            told = plain(self._client.datasets.get(file_id)).get("dataset") or {}
            parts = sorted(told.get("dataset_parts") or (), key=lambda part: part.get("index") or 0)
            if not parts:
                raise VendorError(f"{self._name}: the dataset {file_id} lists no files")
            path = into / Path(str(parts[0].get("name") or file_id)).name if into.is_dir() else into
            with path.open("wb") as file, account.http(self._settings) as http:
                for part in parts:
                    address = part.get("original_url") or part.get("url")
                    if not address:
                        raise VendorError(f"{self._name}: the dataset {file_id} gives no address for its files")
                    answer = http.get(address)
                    if answer.status_code != 200:
                        raise responses.refusal(
                            self._name, action, answer.status_code, answer.content, dict(answer.headers)
                        )
                    file.write(answer.content)
        return path

    def delete(self, ref: AnyRef) -> None:
        """Remove a dataset or a fine-tuned model; quietly done when it is gone already."""
        if isinstance(ref, UploadRef):
            if ref.id != INSIDE:
                self._quietly(lambda: self._client.datasets.delete(ref.id), f"delete the dataset {ref.id}")
        else:
            self._delete_model(str(ref.data.get("finetuned_model", ref.id)))

    def generator(self, model: ModelRef) -> ChatGenerator | ClassifyGenerator:
        """The model in hand: over chat, or over classify for a classifier."""
        client = account.client(self._name, self._settings)
        if model.data.get("base_type") == BASE_TYPES["classification"]:
            return ClassifyGenerator(self._name, client, model.id)
        return ChatGenerator(self._name, client, model.id)

    # --- pieces ------------------------------------------------------------------------------------------------------
    def _job(self, model: dict[str, Any]) -> JobRef:
        return JobRef(id=str(model["id"]), data={"name": model.get("name")})

    def _models(self) -> Iterator[dict[str, Any]]:
        tuning = self._client.finetuning
        yield from self._pages(
            lambda at: tuning.list_finetuned_models(order_by="created_at", **at),
            "finetuned_models",
            "list the tuned models",
        )

    def _pages(self, ask: Any, field: str, action: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        at: dict[str, Any] = {"page_size": _PAGE}
        while True:
            with speaking(self._name, action):
                answer = ask(at)
            found += [plain(each) for each in getattr(answer, field, None) or ()]
            token = getattr(answer, "next_page_token", None)
            if not token:
                return found
            at = {"page_size": _PAGE, "page_token": token}

    def _delete_model(self, id: str) -> None:
        self._quietly(lambda: self._client.finetuning.delete_finetuned_model(id), f"delete {id}")

    def _quietly(self, call: Any, action: str) -> None:
        try:
            with speaking(self._name, action):
                call()
        except VendorError as error:
            if error.status != 404:
                raise


def pair_name(train: str, validation: str) -> str:
    """The training file's name when validation rows go with it: both hashes, so that a pair is one name."""
    return f"train-{train[:16]}-with-{validation[:16]}.jsonl"


def partner(train: Path) -> Path | None:
    """The validation file that `encode` wrote to go with this training file."""
    _, _, digest = train.stem.partition("-with-")
    if not digest:
        return None
    found = train.with_name(f"validation-{digest}.jsonl")
    if not found.is_file():
        raise InvalidData(f"the validation rows that belong to {train.name} are gone ({found})", hint="plan again")
    return found


def dataset_type(train: Path) -> str:
    """The dataset type that these rows are: chat, or classification with one or several labels."""
    import orjson

    with train.open("rb") as file:
        first = orjson.loads(file.readline())
    if "label" not in first:
        return DATASET_TYPES["sft"]
    return DATASET_TYPES["multilabel" if isinstance(first["label"], list) else "classification"]


class ChatGenerator:
    """A chat model, over /v2/chat."""

    max_concurrency = 4

    def __init__(self, name: str, client: cohere.ClientV2, model: str) -> None:
        self._name = name
        self._client = client
        self._model = model

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer per request, in order."""
        return [self._one(request) for request in requests]

    def _one(self, request: GenerationRequest) -> Generation:
        asked = {
            "temperature": request.temperature,
            "p": request.top_p,
            "k": request.top_k,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        turns: Any = [{"role": turn.role, "content": turn.words} for turn in request.messages]
        started = time.monotonic()
        with speaking(self._name, f"ask {self._model}"):
            answer = plain(
                self._client.chat(
                    model=self._model,
                    messages=turns,
                    **{name: value for name, value in asked.items() if value is not None},  # type: ignore[arg-type]
                )
            )
        content = (answer.get("message") or {}).get("content") or ()
        tokens = (answer.get("usage") or {}).get("tokens") or {}
        return Generation(
            text="".join(part.get("text") or "" for part in content),
            finish_reason=_FINISH.get(str(answer.get("finish_reason")), "unknown"),
            prompt_tokens=_whole(tokens.get("input_tokens")),
            completion_tokens=_whole(tokens.get("output_tokens")),
            seconds=time.monotonic() - started,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


class ClassifyGenerator(ChatGenerator):
    """A classifier, over /v1/classify: the answer is the label."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One label per request, in order; up to 96 inputs go in one call."""
        found: list[Generation] = []
        for at in range(0, len(requests), 96):
            batch = requests[at : at + 96]
            texts = [next(turn.words for turn in reversed(each.messages) if turn.role == "user") for each in batch]
            with speaking(self._name, f"ask {self._model}"):
                answer = plain(self._client.classify(model=self._model, inputs=texts))
            for one in answer.get("classifications") or ():
                labels = one.get("predictions") or [one.get("prediction")]
                found.append(Generation(text="\n".join(str(label) for label in labels), finish_reason="stop"))
        return found


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
