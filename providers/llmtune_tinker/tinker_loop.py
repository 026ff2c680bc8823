"""Tinker behind the protocol of `loop.py`: the SDK's training client, one session, and one model at a time.

The SDK numbers requests, repeats them for minutes, sends heartbeats, and splits large passes; none of that is done
here. A session is opened by one call of `client.py`, so that it can be found again by the run key. The SDK has no
public way to work in a session that is there already: `_enter_session` sets its session's holder, which the range of
versions in pyproject.toml and the tests against the real SDK hold in place.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmtune.errors import LlmtuneError, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.redaction.secrets import scrub
from llmtune_local.training.progress import Stopped
from llmtune_tinker.client import RUN_KEY, SDK, TORCH, TinkerClient
from llmtune_tinker.loop import CUSTOM, AdamSettings, LoopLimits, LoopRow, Outcome, PassResult, StepCounter, StepResult
from llmtune_tinker.run_folder import Session

if TYPE_CHECKING:
    from llmtune_tinker.loop import CustomLoss, Pending
    from llmtune_tinker.run_folder import LoopFolder, LoopRequest

_Value = TypeVar("_Value")
_Answer = TypeVar("_Answer")

#: The loss that supervised tuning uses, by Tinker's name.
CROSS_ENTROPY = "cross_entropy"
#: The losses of the SDK 0.38.0 (types/loss_fn_type.py).
LOSSES = frozenset({"cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", CUSTOM})
#: Seconds between two looks at whether a run that waits for the service was asked to stop.
STOP_POLL_SECONDS = 0.5
#: Seconds for which a stop waits for an answer where the service has not said that it has paused the run: the SDK says
#: of a lack of capacity only after a quarter of an hour.
STOP_SECONDS = 120.0
#: What a pass that waits for a bill to be paid begins with, in the SDK's log, and how long the SDK waits at most.
_BILLING = "The job is paused due to billing status"
BILLING_SENTENCE = (
    "Tinker has paused the run for billing: it waits for up to an hour by itself, then fails and can be resumed (add"
    " credit in Tinker's console)"
)


class _Converted(Generic[_Answer, _Value]):
    """A future of the SDK whose answer is converted, with errors as llmtune's. `wait` waits for it."""

    def __init__(
        self, future: Any, convert: Callable[[Any], _Value], action: str, wait: Callable[[Any], _Answer]
    ) -> None:
        self._future, self._convert, self._action, self._wait = future, convert, action, wait

    def result(self) -> _Value:
        with translate_errors(self._action):
            return self._convert(self._wait(self._future))


class TinkerLoop:
    """The training loop of one run.

    Args:
        client: the account's other routes.
        folder: the run folder, whose sessions are read and written.
        request: what is trained.
        key: the run key.
        report: takes a sentence for the run's events, with its level.
        stop: says whether the run was asked to stop. While the service has paused it, every call then raises `Stopped`
            instead of waiting on, and otherwise after `STOP_SECONDS`; what it had sent may still be applied, to a model
            that no later attempt opens.
    """

    def __init__(
        self,
        client: TinkerClient,
        folder: LoopFolder,
        request: LoopRequest,
        key: str,
        report: Callable[[str, str], None] = lambda sentence, level: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.limits = LoopLimits(losses=LOSSES)
        self._client, self._folder, self._request, self._key = client, folder, request, key
        self._report, self._stop = report, stop
        self._service: Any = None
        self._training: Any = None
        self._steps = StepCounter()
        self._watcher = _LogWatcher(report)

    def open(self, state: str | None, step: int) -> None:
        """Open a new model, or one from a saved state with its optimizer, after `step` steps of the run."""
        SDK.require("training at Tinker")
        import tinker

        request = self._request
        if self._service is None:
            self._watcher.start()
            self._service = self._enter_session(tinker)
        number = self._count_model()
        self._service._session_holder._training_client_counter = number
        metadata = {RUN_KEY: self._key}
        with translate_errors("opening the model"):
            if state is None:
                future = self._service.create_lora_training_client(
                    base_model=request.model,
                    rank=request.hyperparameters.lora_rank,
                    seed=request.seed,
                    train_mlp=request.train_mlp,
                    train_attn=request.train_attn,
                    train_unembed=request.train_unembed,
                    user_metadata=metadata,
                )
            else:
                future = self._service.create_training_client_from_state_with_optimizer(state, user_metadata=metadata)
        with translate_errors("opening the model") if state is None else _missing_state_named(state, step):
            self._training = self._wait(future)
        self._steps = StepCounter(applied=step)

    def _enter_session(self, tinker: Any) -> Any:
        """Return the SDK's client in the run's session; where that has ended, in a new one."""
        from tinker.lib.internal_client_holder import InternalClientHolder

        sessions = self._folder.read_sessions()
        if sessions and sessions[-1].models and not self._is_active(sessions[-1].id):
            # its process died: what it holds open is ended first, so that a run never has two sessions
            self._client.finish_session(sessions[-1].id, "interrupted", "the process of the run ended")
            sessions = []
        if not sessions:
            self._open_session()
        session = self._folder.read_sessions()[-1].id
        service = tinker.ServiceClient(base_url=self._client.base_url, api_key=self._client.key)
        with translate_errors("entering the session"):
            holder = InternalClientHolder(session_id=session, base_url=self._client.base_url, api_key=self._client.key)
        holder._training_client_counter = holder._sampling_client_counter = holder._custom_loss_counter = 0
        service._session_holder = holder
        return service

    def _is_active(self, session: str) -> bool:
        try:
            return _has_active_status(self._client.read_session(session))
        except VendorError as problem:
            if problem.status != 404:
                raise
            return False  # the service has forgotten it: the run continues in another one

    def _open_session(self) -> None:
        """Open another session for this run, or take the one that an interrupted attempt has opened."""
        known = {session.id for session in self._folder.read_sessions()}
        session = next(
            (
                str(entry["session_id"])
                for entry in self._client.find_sessions(self._key)
                if entry["session_id"] not in known and _has_active_status(entry)
            ),
            None,
        ) or self._client.create_session({RUN_KEY: self._key}, self._request.name)
        self._folder.write_sessions([*self._folder.read_sessions(), Session(id=session)])
        self._report(f"continues in a new session at Tinker ({session})", "info")

    def _count_model(self) -> int:
        """Return the number of the next model in the session, written down before the model is asked for."""
        *before, last = self._folder.read_sessions()
        self._folder.write_sessions([*before, last.model_copy(update={"models": last.models + 1})])
        return last.models

    def _wait(self, future: Any) -> Any:
        """Return the answer to a call; raise `Stopped` where the run was asked to stop and no answer will come soon.

        The SDK waits for a bill to be paid for up to an hour, and for capacity without an end.
        """
        pending, latest = future.future(), float("inf")
        while not futures.wait([pending], timeout=STOP_POLL_SECONDS).done:
            if not self._stop():
                continue
            latest = min(latest, time.monotonic() + STOP_SECONDS)
            if self._watcher.paused or time.monotonic() >= latest:
                raise Stopped
        answer = future.result()
        self._watcher.paused = False
        return answer

    # --- steps -------------------------------------------------------------------------------------------------------
    def forward_backward(self, step: int, rows: Sequence[LoopRow]) -> Pending[PassResult]:
        """Send the rows of a step. Raises `StepOutOfOrder`."""
        self._steps.start_gradient(step)
        data = [self._datum(row) for row in rows]
        with translate_errors(f"the gradient of step {step}"):
            future = self._training.forward_backward(data, CROSS_ENTROPY)
        return _Converted(future, lambda output: read_loss(output, rows), f"the gradient of step {step}", self._wait)

    def forward_backward_custom(self, step: int, rows: Sequence[LoopRow], loss: CustomLoss) -> Pending[PassResult]:
        """Send the rows of a step for their likelihoods, then for the gradient of `loss`. Raises `StepOutOfOrder`."""
        TORCH.require("a loss that is computed on this machine")
        self._steps.start_gradient(step)
        action = f"the gradient of step {step}"
        data = [self._datum(row) for row in rows]
        with translate_errors(action):
            future = self._training.forward_backward_custom(data, lambda _, likelihoods: (loss(likelihoods), {}))
        return _Converted(future, lambda output: PassResult(float(output.metrics["loss:sum"])), action, self._wait)

    def optimizer_step(self, step: int, settings: AdamSettings) -> Pending[StepResult]:
        """Send the update of a step. Raises `StepOutOfOrder`."""
        from tinker import types

        self._steps.start_update(step)
        parameters = types.AdamParams(
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            grad_clip_norm=settings.grad_clip_norm,
        )
        with translate_errors(f"the update of step {step}"):
            future = self._training.optim_step(parameters)
        return _Converted(future, _read_step, f"the update of step {step}", self._wait)

    def forward(self, rows: Sequence[LoopRow]) -> PassResult:
        """Measure rows without a gradient."""
        with translate_errors("a pass without a gradient"):
            output = self._wait(self._training.forward([self._datum(row) for row in rows], CROSS_ENTROPY))
            return read_loss(output, rows)

    @staticmethod
    def _datum(row: LoopRow) -> Any:
        from tinker import types

        return types.Datum(
            model_input=types.ModelInput.from_ints(row.inputs.tolist()),
            loss_fn_inputs={
                "target_tokens": types.TensorData.from_numpy(row.targets),
                "weights": types.TensorData.from_numpy(row.weights),
            },
        )

    # --- what is saved -----------------------------------------------------------------------------------------------
    def save(self, name: str) -> str:
        """Save weights and optimizer; return `tinker://RUN/weights/NAME`."""
        with translate_errors("saving the state"):
            return str(self._wait(self._training.save_state(name)).path)

    def save_for_sampling(self, name: str) -> str:
        """Save weights that answer; return `tinker://RUN/sampler_weights/NAME`."""
        with translate_errors("saving the model"):
            return str(self._wait(self._training.save_weights_for_sampler(name)).path)

    def save_for_download(self, name: str) -> str:
        """Save the adapter as files to take home; return `tinker://RUN/external_weights/NAME`."""
        with translate_errors("saving the files"):
            return str(self._wait(self._training.save_weights_external(name)).path)

    def delete(self, address: str) -> None:
        """Remove a checkpoint; quietly done when it is gone."""
        self._client.delete_checkpoint(address)

    def close(self, outcome: Outcome, detail: str) -> None:
        """End the session, and the SDK's threads with it."""
        sessions = self._folder.read_sessions()
        if sessions:
            self._client.finish_session(sessions[-1].id, outcome, detail)
        self._watcher.stop()
        if self._service is not None:
            with suppress(Exception):  # the session is over: what remains are this process's own connections
                self._service.holder.run_coroutine_threadsafe(self._service._close_holders()).result(timeout=2)
            self._service = None


@contextmanager
def _missing_state_named(state: str, step: int) -> Iterator[None]:
    """Say what to do where the service does not have the state: it was deleted, or the key is another account's."""
    try:
        with translate_errors("opening the model"):
            yield
    except VendorError as problem:
        if problem.status != 404:
            raise
        raise VendorError(
            f"the state after step {step} is not at Tinker ({state}): resume with the key of the account that started"
            " the run or, where it was deleted, start anew: llmtune tune JOB --new",
            status=404,
        ) from problem


def _has_active_status(summary: Mapping[str, Any]) -> bool:
    status = summary.get("status")
    return isinstance(status, dict) and status.get("type") == "active"


class _LogWatcher(logging.Handler):
    """Turns what the SDK only logs (a pause for billing, or for want of capacity) into events of the run."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self.paused = False
        """Whether the SDK has said so since the last answer."""

        self._report_sentence = report
        self._logger = logging.getLogger("tinker")

    def start(self) -> None:
        self._logger.addHandler(self)

    def stop(self) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(_BILLING):
            self.paused = True
            detail = scrub(message.partition("Error: ")[2].strip())[:300]
            self._report_sentence(f"{BILLING_SENTENCE}: {detail}" if detail else BILLING_SENTENCE, "warning")
        elif "is paused" in message:
            self.paused = True
            self._report_sentence(f"Tinker: {scrub(message)[:300]}", "warning")


def read_loss(output: Any, rows: Sequence[LoopRow]) -> PassResult:
    """Return the weighted loss of a pass: from the likelihood of each token, or the service's own sum where it has left
    those out. Raises `VendorError` where it has neither."""
    outputs = list(output.loss_fn_outputs or ())
    if len(outputs) == len(rows) and all("logprobs" in entry for entry in outputs):
        total, log_likelihoods = 0.0, []
        for entry, row in zip(outputs, rows, strict=True):
            logprobs = entry["logprobs"].to_numpy()
            if len(logprobs) != len(row.weights):
                raise VendorError(f"Tinker answered {len(logprobs)} likelihoods for {len(row.weights)} tokens")
            log_likelihoods.append(logprobs.astype("float64"))
            trained = row.weights != 0  # an untrained token may have any likelihood, -inf among them
            total -= float((row.weights[trained].astype("float64") * logprobs[trained]).sum())
        return PassResult(total, tuple(log_likelihoods))
    value = (output.metrics or {}).get("loss:sum")
    if value is None:
        raise VendorError("Tinker answered a pass without likelihoods and without its loss")
    return PassResult(float(value))


def _read_step(output: Any) -> StepResult:
    metrics = output.metrics or {}
    norm = next((value for name, value in metrics.items() if name.partition(":")[0] in _NORMS), None)
    return StepResult(float(norm) if norm is not None and math.isfinite(norm) else None)


#: Names under which an optimizer step may report the gradient's norm.
_NORMS = ("grad_norm", "gradient_norm", "unclipped_grad_l2", "grad_l2")


#: What the SDK puts around the service's own words.
_REQUEST = re.compile(r"^Request failed: | for self\.request_id=.*$")


@contextmanager
def translate_errors(action: str) -> Iterator[None]:
    """Raise what the SDK raises inside as llmtune's errors; `action` is what was being done."""
    try:
        yield
    except LlmtuneError:
        raise
    except Exception as error:
        translated = _translate(error, action)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, action: str) -> LlmtuneError | None:
    import tinker

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, tinker.TinkerError):
        cause = cause.__cause__  # after one failure the SDK refuses every other call, for that reason
    # what is raised here goes to files of the run folder, and a service may repeat the key that it refuses
    message = scrub(_REQUEST.sub("", str(cause or error).replace("\n", " ").strip()))[:800]
    text = f"Tinker: {action}: {message}"
    if isinstance(cause, tinker.AuthenticationError):
        return MissingCredentials(f"Tinker did not accept the API key: {message}")
    if isinstance(cause, tinker.APIStatusError):
        if cause.status_code == 402:
            return QuotaExceeded(f"{text}: the bill was not paid while the run waited", limit="spending")
        return VendorError(text, status=cause.status_code, raw=message)
    if isinstance(cause, tinker.APIConnectionError):
        return TransientError(f"{text}: the service could not be reached")
    if isinstance(cause, tinker.TinkerError):
        return VendorError(text, raw=message)
    return None
