"""What a provider hands the core, looked through: the one gate for every provider, ours and anybody else's.

Texts are valid UTF-8 of bounded length and without secrets, integers have 64 bits, numbers are finite. What is not
becomes a warning and "not reported". A reference that cannot be kept, or an answer that is none, is an error in one
sentence: it must not look like a model, or like a wrong answer of one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from llmtune._safety.time_limit import TimeLimit
from llmtune.data.example import ToolCall
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.metrics.points import MetricPoint
from llmtune.provider.generation import Generation, GenerationRequest, Generator
from llmtune.provider.protocol import Provider
from llmtune.provider.types import (
    Billed,
    Cursor,
    Event,
    JobRef,
    ModelRef,
    Progress,
    Ref,
    RemoteJob,
    RemoteModel,
    Request,
    RunKey,
    Snapshot,
)
from llmtune.provider.vendor_json import clean_json, clean_text, collect_notes, note
from llmtune.redaction.secrets import scrub, scrub_leaves

R = TypeVar("R", bound=Ref)
T = TypeVar("T")

#: The `code` of an error that says: the answer came, and cannot be read.
UNREADABLE = "unreadable_answer"

#: What reading an answer that is not as expected may raise.
READING_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Characters of a vendor's message, of a name, and of an id.
_MESSAGE, _NAME, _ID = 20_000, 500, 2_000
_MOST_INTEGER = (1 << 63) - 1
#: The last second that a calendar has: 9999-12-31.
_LAST_SECOND = 253_402_300_799.0


def poll_job(provider: Provider, job: JobRef, since: Cursor | None) -> Snapshot:
    """Poll a job, and look through the answer.

    Raises as `Provider.poll` does; an answer that cannot be read is a `VendorError` with the code `UNREADABLE`.
    """
    with collect_notes() as notes, _readable(provider, "its answer about the job"):
        snapshot = clean_snapshot(_instance(provider.poll(job, since), Snapshot))
    if not notes:
        return snapshot
    warnings = tuple(f"{provider.name}: {sentence}" for sentence in notes)
    return snapshot.model_copy(update={"warnings": (*snapshot.warnings, *warnings)})


def clean_snapshot(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot without what cannot be kept; what that was is noted (`collect_notes`)."""
    clean = {
        "raw_state": _text(snapshot.raw_state, "the state", _NAME),
        "progress": _progress(snapshot.progress),
        "points": tuple(filter(None, map(_point, snapshot.points))),
        "events": tuple(filter(None, map(_event, snapshot.events))),
        "model": _usable(snapshot.model, "the tuned model"),
        "checkpoints": tuple(filter(None, (_usable(each, "a checkpoint") for each in snapshot.checkpoints))),
        "billed": _billed(snapshot.billed),
        "error": None if snapshot.error is None else _text(snapshot.error, "the reason", _MESSAGE),
        "warnings": tuple(_text(each, "a warning", _MESSAGE) for each in snapshot.warnings),
        "resolved": scrub_leaves(clean_json(snapshot.resolved, "a resolved value")),
        "not_reported": {
            _text(name, "", _NAME): _text(why, "", _MESSAGE) for name, why in snapshot.not_reported.items()
        },
    }
    if snapshot.cursor is not None and clean_json(snapshot.cursor, "the cursor") != snapshot.cursor:
        clean["cursor"] = None  # the next look goes on from where the last one did
    return snapshot.model_copy(update=clean)


def submit_job(provider: Provider, request: Request, key: RunKey) -> JobRef:
    """Submit, and look through the reference.

    Raises as `Provider.submit` does; a job whose reference cannot be kept may exist: `TransientError(sent=True)`.
    """
    job = provider.submit(request, key)
    usable = _usable(job, "the job") if isinstance(job, JobRef) else None
    if usable is None:
        raise TransientError(f"{provider.name} accepted the job and named none that can be followed", sent=True)
    return usable


def read_ref(provider: Provider, name: str, call: Callable[[], R | None]) -> R | None:
    """Return the reference that `call` gets from the provider; `name` says in errors what of.

    Raises as the call does; a reference that cannot be kept or read is a `VendorError`.
    """
    with _readable(provider, f"its answer about the {name}"):
        ref = call()
        if ref is None:
            return None
        _instance(ref, Ref)
        usable = _usable(ref, name)
        if usable is None:
            raise ValueError(f"the id of the {name} is none")
        return usable


def list_models(provider: Provider) -> Iterator[RemoteModel]:
    """Yield the tuned models of the account. Raises as `Provider.inventory` does."""
    with _readable(provider, "its list of models"):
        models: Iterable[RemoteModel] = provider.inventory()
        for model in models:
            yield _remote_model(_instance(model, RemoteModel))


def fetch_job(provider: Provider, remote: RemoteModel) -> RemoteJob:
    """Fetch the job behind a tuned model. Raises as `Provider.fetch` does."""
    with _readable(provider, f"the job of {remote.id}"):
        job = _instance(provider.fetch(remote), RemoteJob)
        return RemoteJob.model_validate(clean_json(job.model_dump(), "the job"))


def generate(generator: Generator, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Ask a model, and look through its answers.

    Raises:
        VendorError: as the generator does; also for an answer that is none. It is no wrong answer of the model.
    """
    try:
        answers = list(generator.generate(requests))
        if len(answers) != len(requests):
            raise ValueError(f"{len(answers)} answers to {len(requests)} questions")
        return [clean_generation(answer) for answer in answers]
    except LlmtuneError:
        raise
    except READING_ERRORS as error:
        raise VendorError(f"the answer cannot be read ({_describe(error)})", code=UNREADABLE) from error


def clean_generation(answer: Generation) -> Generation:
    """Return an answer whose texts are valid and whose counts are counts. Raises `VendorError` for one that is none."""
    _instance(answer, Generation)
    text = clean_text(_instance(answer.text, str))
    calls = tuple(_tool_call(call) for call in answer.tool_calls)
    if not text and not calls and answer.finish_reason == "unknown":
        raise VendorError("the backend answered without an answer", code="no_answer")
    return Generation(
        text=text,
        finish_reason=answer.finish_reason,
        tool_calls=calls,
        prompt_tokens=_count(answer.prompt_tokens),
        completion_tokens=_count(answer.completion_tokens),
        seconds=_seconds(answer.seconds),
    )


# --- the parts -------------------------------------------------------------------------------------------------------
@contextmanager
def _readable(provider: Provider, title: str) -> Iterator[None]:
    try:
        yield
    except (LlmtuneError, TimeLimit):
        raise
    except Exception as error:  # raised again in one sentence: SDKs break on odd values in ways of their own
        raise VendorError(
            f"{provider.name}: {title} cannot be read ({_describe(error)})",
            hint="LLMTUNE_DEBUG=1 shows where; please report it",
            code=UNREADABLE,
        ) from error


def _describe(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _instance(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"the provider gave {type(value).__name__}, not {kind.__name__}")
    return value


def _text(text: str, where: str, most: int) -> str:
    return scrub(clean_text(text, where, most))


def _integer(value: int | None, where: str) -> int | None:
    if value is None or 0 <= value <= _MOST_INTEGER:
        return value
    note(f"{where} is no count of up to 64 bits, so it is not reported")
    return None


def _finite(value: float | None, where: str) -> float | None:
    if value is None or math.isfinite(value):
        return value
    note(f"{where} is not a finite number, so it is not reported")
    return None


def _moment(value: float | None, where: str) -> float | None:
    if value is None or 0 <= value <= _LAST_SECOND:
        return value
    note(f"{where} is no time, so it is not reported")
    return None


def _progress(progress: Progress) -> Progress:
    return Progress(
        step=_integer(progress.step, "the step"),
        total_steps=_integer(progress.total_steps, "the number of steps"),
        epoch=_finite(progress.epoch, "the epoch"),
        seconds_left=_finite(progress.seconds_left, "the time left"),
        tokens_per_second=_finite(progress.tokens_per_second, "the speed"),
    )


def _point(point: MetricPoint) -> MetricPoint | None:
    """The point; its value may be NaN or infinite, because a loss that diverged is a fact."""
    if _integer(point.step, "a step") is None:
        return None
    epoch, moment = _finite(point.epoch, "an epoch"), _moment(point.time, "the time of a point")
    series = _text(point.series, "a series", _NAME)
    raw = None if point.raw_name is None else _text(point.raw_name, "a series", _NAME)
    if (epoch, moment, series, raw) == (point.epoch, point.time, point.series, point.raw_name):
        return point
    return point.model_copy(update={"epoch": epoch, "time": moment, "series": series, "raw_name": raw})


def _event(event: Event) -> Event:
    moment = _moment(event.time, "the time of an event")
    return event.model_copy(
        update={
            "id": clean_text(event.id, "the id of an event", _NAME),
            "time": time.time() if moment is None else moment,
            "message": _text(event.message, "an event", _MESSAGE),
        }
    )


def _billed(billed: Billed | None) -> Billed | None:
    if billed is None:
        return None
    return Billed(
        tokens=_integer(billed.tokens, "the billed tokens"),
        amount=_finite(billed.amount, "the billed amount"),
        currency=_text(billed.currency, "the currency", 20),
        source=_text(billed.source, "the source of the bill", _NAME),
    )


def _usable(ref: R | None, name: str) -> R | None:
    """The reference where it can be kept and found again, None with a note where it cannot."""
    if ref is None:
        return None
    if not ref.id or len(ref.id) > _ID or clean_text(ref.id) != ref.id:
        note(f"the id of {name} cannot be kept")
        return None
    data = clean_json(ref.data, name)
    changed: dict[str, Any] = {} if data is ref.data else {"data": data}
    if isinstance(ref, JobRef) and ref.url is not None:
        changed["url"] = _text(ref.url, "the address of the job", _ID)
    if isinstance(ref, ModelRef) and ref.base is not None:
        changed["base"] = clean_text(ref.base, "the base model", _ID)
    return ref.model_copy(update=changed) if changed else ref


def _remote_model(model: RemoteModel) -> RemoteModel:
    data = clean_json(model.model_dump(exclude={"created"}), "a model of the list")
    return RemoteModel.model_validate(data | {"created": _moment(model.created, "the time of a model")})


def _tool_call(call: Any) -> ToolCall:
    values = (call.get("id"), call.get("name"), call.get("arguments")) if isinstance(call, dict) else tuple(call)[:3]
    return ToolCall(*(clean_text(_instance(value, str)) for value in values))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_INTEGER else None


def _seconds(value: Any) -> float | None:
    number: Literal[True, False] = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < math.inf else None
