"""Cohere's fine-tuning API through its SDK, for endpoints that still serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import orjson

import llmtune.provider as core
from llmtune.config import require_secret
from llmtune.data.findings import Finding
from llmtune.errors import InvalidData, MissingCredentials, TransientError, VendorError
from llmtune_cohere import responses
from llmtune_cohere.declarations import BASE_TYPES, DATASET_TYPES
from llmtune_cohere.provider import CohereProvider
from llmtune_cohere.settings import STORAGE_HOSTS

if TYPE_CHECKING:
    import cohere

    from llmtune.data.dataset import Dataset

#: The id under which validation rows are recorded: they travel inside the training file's dataset.
INSIDE = "in-the-training-dataset"

#: How many inputs one call of /v1/classify takes.
CLASSIFY_BATCH = 96

#: The fields of /v2/chat, by our names.
FIELDS = {**core.CHAT_FIELDS, "top_p": "p", "top_k": "k"}

_PAGE = 50
_FINISH: dict[str, Literal["stop", "length", "tool_calls"]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}


class Managed(CohereProvider, transport="api"):
    """Cohere's API at an endpoint of the user's own."""

    service = "an endpoint of your own that serves the API"

    @cached_property
    def sdk(self) -> cohere.ClientV2:
        """The SDK's client, its own retries off. Raises `MissingExtra`, or `MissingCredentials` without a key."""
        self.requirements[0].require(f"provider {self.name}")
        hint = f"export {self.key_variable}=...  (the key of the endpoint at {self.address})"
        key = require_secret(self.key_variable, f"provider {self.name}: no API key", hint=hint)
        import cohere
        import httpx

        timeout = self.settings.timeout
        # No connection is kept open: on a fresh one a failure says more about what has arrived.
        limits = httpx.Limits(max_keepalive_connections=0)
        hooks = {"response": [core.keep_redirects_home, core.bound_answer, core.read_within_bounds]}
        http = httpx.Client(timeout=timeout, follow_redirects=True, limits=limits, event_hooks=hooks)
        return cohere.ClientV2(api_key=key, base_url=self.address, timeout=timeout, max_retries=0, httpx_client=http)

    def ask(self, action: str, call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return what `call(sdk, *arguments)` answers, as plain data without unset fields."""
        with self.translate_errors(action):
            answer = call(self.sdk, *arguments)
            data: dict[str, Any] = answer.model_dump(mode="json", exclude_none=True, by_alias=True, warnings=False)
            return data

    def translate_errors(self, action: str) -> AbstractContextManager[None]:
        """Turn what the SDK raises inside into llmtune's errors; `action` says what was being done."""
        return core.translate_errors(lambda error: self._translate(error, action))

    def _translate(self, error: Exception, action: str) -> Exception | None:
        import httpx
        from cohere.core.api_error import ApiError

        if isinstance(error, ApiError):
            return core.refused_answer(self.name, action, error.status_code or 0, error.body, error.headers)
        sent = core.may_have_arrived(error)
        if isinstance(error, httpx.HTTPError):
            timed_out = sent and isinstance(error, httpx.TimeoutException)
            problem = "no answer in time" if timed_out else f"the connection failed ({error})"
        elif isinstance(error, ValueError):  # an answer that is no JSON, or not the JSON the SDK expects
            problem = "an answer that cannot be read"
        else:
            return None
        return TransientError(f"{self.name}: {action}: {problem}", sent=sent, raw=repr(error))

    def preflight(self, request: core.Request) -> list[Finding]:
        """Return whether the endpoint answers for fine-tuning at all."""
        self.ask("ask for the tuned models", lambda sdk: sdk.finetuning.list_finetuned_models(page_size=1))
        return []

    # --- datasets ----------------------------------------------------------------------------------------------------
    def encode(self, data: Dataset, receipt: core.Receipt, into: Path) -> core.EncodedDataset:
        """Write the rows; the training file's name says which validation file goes into the same dataset."""
        encoded = super().encode(data, receipt, into)
        train, validation = encoded.file("train"), encoded.file("validation")
        if train is None or validation is None:
            return encoded
        path = train.path.replace(train.path.with_name(pair_name(train.sha256, validation.sha256)))
        return encoded.model_copy(update={"files": (train.model_copy(update={"path": path}), validation)})

    def find_upload(self, digest: str) -> core.UploadRef | None:
        """Return None: a dataset holds training and validation rows, and one digest does not name both."""
        return None

    def upload(self, file: core.EncodedFile) -> core.UploadRef:
        """Make a dataset of the training rows (and the validation rows beside them) and wait until it is valid."""
        if file.role == "validation":
            return core.UploadRef(id=INSIDE, digest=file.sha256, role="validation")
        action = f"upload {file.path.name}"
        name, kind, validation = f"llmtune-{file.sha256[:32]}", dataset_type(file.path), partner(file.path)
        with ExitStack() as files:
            parts = {
                part: (path.name, files.enter_context(path.open("rb")), "application/jsonl")
                for part, path in (("data", file.path), ("eval_data", validation))
                if path is not None
            }
            answer = self.ask(action, lambda sdk: sdk.datasets.create(name=name, type=kind, **parts))
        id = self._require(answer.get("id"), action)
        metrics = self._wait_until_validated(id, file.path.name).get("metrics") or {}
        measured = metrics.get("finetune_dataset_metrics")
        data = {"trainable_tokens": measured.get("trainable_token_count")} if measured else {}
        return core.UploadRef(id=id, digest=file.sha256, data=data)

    def _wait_until_validated(self, id: str, filename: str) -> dict[str, Any]:
        """Wait for the dataset's validation. The SDK's own wait prints to the terminal and raises bare exceptions."""
        limit, pause = self.settings.dataset_wait, self.settings.poll_interval
        for _ in core.growing_pauses(limit, first=pause, longest=pause):
            dataset = self._dataset(id, f"look at {filename}")
            status = dataset.get("validation_status")
            if status in ("validated", "skipped"):
                return dataset
            if status == "failed":
                raise InvalidData(
                    f"{self.name}: Cohere refused {filename}: {dataset.get('validation_error') or 'no reason given'}",
                    hint="llmtune data check --provider cohere FILE",
                )
        raise TransientError(f"{self.name}: {filename} is still {status} after {limit:.0f} s")

    def _dataset(self, id: str, action: str) -> dict[str, Any]:
        return dict(self.ask(action, lambda sdk: sdk.datasets.get(id)).get("dataset") or {})

    def _require(self, value: Any, action: str) -> Any:
        """Return the part of an answer that must be there."""
        if not value:
            raise TransientError(f"{self.name}: {action}: an answer without what was asked for")
        return value

    # --- the job -----------------------------------------------------------------------------------------------------
    def submit(self, request: core.Request, key: core.RunKey) -> core.JobRef:
        """Start the job: one paid call, nothing retried."""
        from cohere.finetuning import FinetunedModel

        action = "create the fine-tuned model"
        body = request.body | {"name": f"{request.body['name']}-{key}"}
        if wandb := body["settings"].get("wandb"):
            body["settings"] = body["settings"] | {"wandb": wandb | {"api_key": self._secret(wandb.get("api_key"))}}
        model = FinetunedModel(**body)
        answer = self.ask(action, lambda sdk: sdk.finetuning.create_finetuned_model(request=model))
        created = answer.get("finetuned_model") or {}
        self._require(created.get("id"), action)
        return self._job(created)

    def _secret(self, reference: Any) -> str:
        variable = str(reference or "").removeprefix("${").removesuffix("}")
        hint = "name the variable that holds it: provider_options wandb_api_key_env"
        if not variable:
            raise MissingCredentials(f"{self.name}: Weights & Biases needs a key", hint=hint)
        return require_secret(variable, f"{self.name}: Weights & Biases needs a key", hint=hint)

    def _job(self, model: dict[str, Any]) -> core.JobRef:
        return core.JobRef(id=str(model["id"]), data={"name": model.get("name")})

    def find(self, key: core.RunKey) -> core.JobRef | None:
        """Find the fine-tuned model whose name ends with this key; the oldest, if there are several."""
        models = (model for model in self._models() if str(model.get("name")).endswith(f"-{key}"))
        return next(map(self._job, models), None)

    def poll(self, job: core.JobRef, since: core.Cursor | None) -> core.Snapshot:
        """Read the record, the evaluations and the changes of state."""
        action = f"look at {job.id}"
        try:
            model = self._model(job.id)
        except VendorError as error:
            if isinstance(error, TransientError) or error.status != 404 or since is None:
                raise
            # Seen before and gone now: deleting is the only way to stop a job here.
            return responses.snapshot({"id": job.id, "status": "STATUS_DELETED"}, since=since)
        optional = core.OptionalReads()
        metrics: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        with optional.reading("its metrics"):
            metrics = self._pages(
                action, "step_metrics", lambda sdk, page: sdk.finetuning.list_training_step_metrics(job.id, **page)
            )
        with optional.reading("its events"):
            events = self._pages(action, "events", lambda sdk, page: sdk.finetuning.list_events(job.id, **page))
        return optional.complete(responses.snapshot(model, metrics=metrics, events=events, since=since))

    def _model(self, id: str) -> dict[str, Any]:
        action = f"look at {id}"
        answer = self.ask(action, lambda sdk: sdk.finetuning.get_finetuned_model(id))
        return dict(self._require(answer.get("finetuned_model"), action))

    def _models(self) -> list[dict[str, Any]]:
        return self._pages(
            "list the tuned models",
            "finetuned_models",
            lambda sdk, page: sdk.finetuning.list_finetuned_models(order_by="created_at", **page),
        )

    def _pages(self, action: str, field: str, call: Callable[..., Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        page: dict[str, Any] = {"page_size": _PAGE}
        for _ in core.count_pages(f"{self.name}: {action}"):
            answer = self.ask(action, call, page)
            rows += answer.get(field) or ()
            if not answer.get("next_page_token"):
                break
            page["page_token"] = str(answer["next_page_token"])
        return rows

    def cancel(self, job: core.JobRef) -> None:
        """Delete the fine-tuned model: the API has no other way to stop a job."""
        self.delete(job)

    # --- what the account owns ---------------------------------------------------------------------------------------
    def inventory(self) -> Iterator[core.RemoteModel]:
        """Yield every tuned model that is ready or paused for inactivity."""

        def read(model: Mapping[str, Any]) -> core.RemoteModel | None:
            ready = model.get("status") == "STATUS_READY" or model.get("status") in responses.PAUSED_STATES
            return responses.remote_model(model) if ready else None

        yield from core.read_each(self._models(), read, self.name)

    def fetch(self, remote: core.RemoteModel) -> core.RemoteJob:
        """Fetch the job behind a tuned model."""
        return responses.remote_job(self._model(remote.job or remote.id.removesuffix("-ft")))

    def download(self, file_id: str, into: Path) -> Path:
        """Write the files of a dataset, joined in their order; `into` is a folder, or the file to write."""
        dataset = self._dataset(file_id, f"download the dataset {file_id}")
        parts = sorted(dataset.get("dataset_parts") or (), key=lambda part: part.get("index") or 0)
        addresses = [str(part.get("original_url") or part.get("url") or "") for part in parts]
        if not parts or not all(addresses):
            raise VendorError(f"{self.name}: the dataset {file_id} gives no address for its files")
        for address in addresses:
            core.check_vendor_url(address, base=self.address, hosts=(*STORAGE_HOSTS, *self.settings.storage_hosts))
        path = into / Path(str(parts[0].get("name") or file_id)).name if into.is_dir() else into
        with path.open("wb") as file:
            for address in addresses:  # signed addresses of the storage behind the API: no key goes there
                url = urlsplit(address)
                host = f"{url.scheme}://{url.netloc}"
                file.write(core.Client(host, timeout=self.settings.timeout).content(address.removeprefix(host)))
        return path

    def delete(self, ref: core.AnyRef) -> None:
        """Remove a dataset or a fine-tuned model; quietly done when it is gone already."""
        if ref.id == INSIDE:
            return
        with core.ignore_not_found(), self.translate_errors(f"delete {ref.id}"):
            if isinstance(ref, core.UploadRef):
                self.sdk.datasets.delete(ref.id)
            else:
                self.sdk.finetuning.delete_finetuned_model(str(ref.data.get("finetuned_model", ref.id)))

    def generator(self, ref: core.ModelRef | core.DeploymentRef) -> core.Generator | core.Unavailable:
        """Open the model over chat, or over classify for a classifier."""
        is_classifier = ref.data.get("base_type") == BASE_TYPES["classification"]
        return (ClassifyGenerator if is_classifier else ChatGenerator)(self, ref.id)


def pair_name(train: str, validation: str) -> str:
    """Return the name of a training file with validation rows: both hashes, so that a pair has one name."""
    return f"train-{train[:16]}-with-{validation[:16]}.jsonl"


def partner(train: Path) -> Path | None:
    """Return the validation file that `encode` wrote for this training file, or None."""
    _, _, digest = train.stem.partition("-with-")
    path = train.with_name(f"validation-{digest}.jsonl")
    if digest and not path.is_file():
        raise InvalidData(f"the validation rows that belong to {train.name} are gone ({path})", hint="plan again")
    return path if digest else None


def dataset_type(train: Path) -> str:
    """Return the dataset type of these rows: chat, or classification with one or several labels."""
    with train.open("rb") as file:
        first = orjson.loads(file.readline())
    if "label" not in first:
        return DATASET_TYPES["sft"]
    return DATASET_TYPES["multilabel" if isinstance(first["label"], list) else "classification"]


class ChatGenerator(core.BaseGenerator):
    """A chat model, over /v2/chat."""

    def __init__(self, provider: Managed, model: str) -> None:
        self._provider = provider
        self._model = model

    def answer(self, request: core.GenerationRequest) -> core.Generation:
        """Ask the model once."""
        settings = core.sampling_settings(request, FIELDS)
        turns = [{"role": turn.role, "content": turn.words} for turn in request.messages]
        answer = self._provider.ask(
            f"ask {self._model}", lambda sdk: sdk.chat(model=self._model, messages=turns, **settings)
        )
        tokens = (answer.get("usage") or {}).get("tokens") or {}
        counts = [None if tokens.get(name) is None else int(tokens[name]) for name in ("input_tokens", "output_tokens")]
        return core.Generation(
            text="".join(part.get("text") or "" for part in (answer.get("message") or {}).get("content") or ()),
            finish_reason=_FINISH.get(str(answer.get("finish_reason")), "unknown"),
            prompt_tokens=counts[0],
            completion_tokens=counts[1],
        )


class ClassifyGenerator(ChatGenerator):
    """A classifier, over /v1/classify: the answer is the label."""

    def generate(self, requests: Sequence[core.GenerationRequest]) -> Sequence[core.Generation]:
        """Return one label per request, in order; up to 96 inputs are sent in one call."""
        texts = [next(turn.words for turn in reversed(r.messages) if turn.role == "user") for r in requests]
        answers: list[core.Generation] = []
        for start in range(0, len(texts), CLASSIFY_BATCH):
            batch = texts[start : start + CLASSIFY_BATCH]
            reply = self._provider.ask(
                f"ask {self._model}", lambda sdk, batch: sdk.classify(model=self._model, inputs=batch), batch
            )
            for row in reply.get("classifications") or ():
                labels = row.get("predictions") or [row.get("prediction")]
                answers.append(core.Generation(text="\n".join(labels), finish_reason="stop"))
        return answers
