"""Checks of everything that a provider returns to the core, the same for our providers and any other.

Texts are valid UTF-8 of bounded length and without secrets, integers have 64 bits, numbers are finite. What is not
becomes a warning and "not reported". A reference that cannot be kept, or an answer that is none, is an error in one
sentence: it must not look like a model, or like a wrong answer of one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from llmtune._safety.time_limit import TimeLimit
from llmtune.data.example import ToolCall
from llmtune.errors import LlmtuneError, TransientError, VendorError
from llmtune.metrics.points import MetricPoint
from llmtune.metrics.samples import Sample
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
_MAX_MESSAGE, _MAX_NAME, _MAX_ID = 20_000, 500, 2_000
#: Characters of a text of a sample: it is to be looked at.
_MAX_SAMPLE = 2_000
_MAX_INTEGER = (1 << 63) - 1
#: The last second that a calendar has: 9999-12-31.
_LAST_SECOND = 253_402_300_799.0


def poll_job(provider: Provider, job: JobRef, since: Cursor | None) -> Snapshot:
    """Poll a job, and look through the answer.

    Raises as `Provider.poll` does; an answer that cannot be read is a `VendorError` with the code `UNREADABLE`.
    """
    with collect_notes() as notes, _translate_reading_errors(provider, "its answer about the job"):
        snapshot = clean_snapshot(_require_instance(provider.poll(job, since), Snapshot))
    if not notes:
        return snapshot
    warnings = tuple(f"{provider.name}: {sentence}" for sentence in notes)
    return snapshot.model_copy(update={"warnings": (*snapshot.warnings, *warnings)})


def clean_snapshot(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot without what cannot be kept; what that was is noted (`collect_notes`)."""
    clean = {
        "raw_state": _scrub_text(snapshot.raw_state, "the state", _MAX_NAME),
        "progress": _clean_progress(snapshot.progress),
        "points": tuple(filter(None, map(_clean_point, snapshot.points))),
        "events": tuple(filter(None, map(_clean_event, snapshot.events))),
        "samples": tuple(filter(None, map(_clean_sample, snapshot.samples))),
        "model": _clean_ref(snapshot.model, "the tuned model"),
        "checkpoints": tuple(
            filter(None, (_clean_ref(checkpoint, "a checkpoint") for checkpoint in snapshot.checkpoints))
        ),
        "billed": _clean_bill(snapshot.billed),
        "error": None if snapshot.error is None else _scrub_text(snapshot.error, "the reason", _MAX_MESSAGE),
        "warnings": tuple(_scrub_text(warning, "a warning", _MAX_MESSAGE) for warning in snapshot.warnings),
        "resolved": scrub_leaves(clean_json(snapshot.resolved, "a resolved value")),
        "not_reported": {
            _scrub_text(name, "", _MAX_NAME): _scrub_text(why, "", _MAX_MESSAGE)
            for name, why in snapshot.not_reported.items()
        },
    }
    if snapshot.cursor is not None and clean_json(snapshot.cursor, "the cursor") != snapshot.cursor:
        clean["cursor"] = None  # the next look goes on from where the last one did
    return snapshot.model_copy(update=clean)


def submit_job(provider: Provider, request: Request, key: RunKey) -> JobRef:
    """Submit, and look through the reference.

    Raises as `Provider.submit` does; a job whose reference cannot be kept may exist: `TransientError(sent=True)`.
    """
    try:
        job = provider.submit(request, key)
        usable = _clean_ref(job, "the job") if isinstance(job, JobRef) else None
    except READING_ERRORS as error:  # SDKs break on odd answers in ways of their own; the request may have arrived
        raise TransientError(
            f"{provider.name}: its answer to the new job cannot be read ({_describe(error)})",
            sent=True,
            code=UNREADABLE,
        ) from error
    if usable is None:
        raise TransientError(f"{provider.name} accepted the job and named none that can be followed", sent=True)
    return usable


def read_ref(provider: Provider, name: str, call: Callable[[], R | None]) -> R | None:
    """Return the reference that `call` gets from the provider; `name` says in errors what of.

    Raises as the call does; a reference that cannot be kept or read is a `VendorError`.
    """
    with _translate_reading_errors(provider, f"its answer about the {name}"):
        ref = call()
        if ref is None:
            return None
        _require_instance(ref, Ref)
        usable = _clean_ref(ref, name)
        if usable is None:
            raise ValueError(f"the id of the {name} is none")
        return usable


def list_models(provider: Provider) -> Iterator[RemoteModel]:
    """Yield the tuned models of the account. Raises as `Provider.inventory` does."""
    with _translate_reading_errors(provider, "its list of models"):
        models: Iterable[RemoteModel] = provider.inventory()
        for model in models:
            yield _clean_remote_model(_require_instance(model, RemoteModel))


def fetch_job(provider: Provider, remote: RemoteModel) -> RemoteJob:
    """Fetch the job behind a tuned model. Raises as `Provider.fetch` does."""
    with _translate_reading_errors(provider, f"the job of {remote.id}"):
        job = _require_instance(provider.fetch(remote), RemoteJob)
        return RemoteJob.model_validate(clean_json(job.model_dump(), "the job"))


def download_file(provider: Provider, file_id: str, into: Path) -> Path:
    """Download a file of a fetched job into a folder; what the vendor calls it leads nowhere else.

    Raises as `Provider.download` does.
    """
    with _translate_reading_errors(provider, f"the file {file_id}"):
        path = _require_instance(provider.download(file_id, into), Path)
        if not path.is_file() or path.resolve().parent != into.resolve():
            raise ValueError("it is not in the folder that it was to be written to")
        return path


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
    _require_instance(answer, Generation)
    text = clean_text(_require_instance(answer.text, str))
    calls = tuple(_clean_tool_call(call) for call in answer.tool_calls)
    if not text and not calls and answer.finish_reason == "unknown":
        raise VendorError("the backend answered without an answer", code="no_answer")
    return Generation(
        text=text,
        finish_reason=answer.finish_reason,
        tool_calls=calls,
        prompt_tokens=_clean_count(answer.prompt_tokens),
        completion_tokens=_clean_count(answer.completion_tokens),
        seconds=_clean_seconds(answer.seconds),
    )


# --- the parts -------------------------------------------------------------------------------------------------------
@contextmanager
def _translate_reading_errors(provider: Provider, title: str) -> Iterator[None]:
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


def _require_instance(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"the provider gave {type(value).__name__}, not {kind.__name__}")
    return value


def _scrub_text(text: str, where: str, max_length: int) -> str:
    return scrub(clean_text(text, where, max_length))


def _clean_integer(value: int | None, where: str) -> int | None:
    if value is None or 0 <= value <= _MAX_INTEGER:
        return value
    note(f"{where} is no count of up to 64 bits, so it is not reported")
    return None


def _clean_float(value: float | None, where: str) -> float | None:
    if value is None or math.isfinite(value):
        return value
    note(f"{where} is not a finite number, so it is not reported")
    return None


def _clean_time(value: float | None, where: str) -> float | None:
    if value is None or 0 <= value <= _LAST_SECOND:
        return value
    note(f"{where} is no time, so it is not reported")
    return None


def _clean_progress(progress: Progress) -> Progress:
    return Progress(
        step=_clean_integer(progress.step, "the step"),
        total_steps=_clean_integer(progress.total_steps, "the number of steps"),
        epoch=_clean_float(progress.epoch, "the epoch"),
        seconds_left=_clean_float(progress.seconds_left, "the time left"),
        tokens_per_second=_clean_float(progress.tokens_per_second, "the speed"),
    )


def _clean_point(point: MetricPoint) -> MetricPoint | None:
    """Return the point if it can be kept. Its value may be NaN or infinite, because a loss that diverged is a fact."""
    if _clean_integer(point.step, "a step") is None:
        return None
    epoch, moment = _clean_float(point.epoch, "an epoch"), _clean_time(point.time, "the time of a point")
    series = _scrub_text(point.series, "a series", _MAX_NAME)
    raw = None if point.raw_name is None else _scrub_text(point.raw_name, "a series", _MAX_NAME)
    if (epoch, moment, series, raw) == (point.epoch, point.time, point.series, point.raw_name):
        return point
    return point.model_copy(update={"epoch": epoch, "time": moment, "series": series, "raw_name": raw})


def _clean_event(event: Event) -> Event:
    moment = _clean_time(event.time, "the time of an event")
    return event.model_copy(
        update={
            "id": clean_text(event.id, "the id of an event", _MAX_NAME),
            "time": time.time() if moment is None else moment,
            "message": _scrub_text(event.message, "an event", _MAX_MESSAGE),
        }
    )


def _clean_sample(sample: Sample) -> Sample | None:
    step, number = (_clean_integer(value, "a number of a sample") for value in (sample.step, sample.number))
    if step is None or number is None:
        return None
    return Sample(
        step=step,
        number=number,
        prompt=_scrub_text(sample.prompt, "a prompt", _MAX_SAMPLE),
        expected=_scrub_text(sample.expected, "a reference answer", _MAX_SAMPLE),
        answer=_scrub_text(sample.answer, "an answer", _MAX_SAMPLE),
    )


def _clean_bill(billed: Billed | None) -> Billed | None:
    if billed is None:
        return None
    return Billed(
        tokens=_clean_integer(billed.tokens, "the billed tokens"),
        amount=_clean_float(billed.amount, "the billed amount"),
        currency=_scrub_text(billed.currency, "the currency", 20),
        source=_scrub_text(billed.source, "the source of the bill", _MAX_NAME),
    )


def _clean_ref(ref: R | None, name: str) -> R | None:
    """Return the reference if it can be kept and found again, else None with a note."""
    if ref is None:
        return None
    if not ref.id or len(ref.id) > _MAX_ID or clean_text(ref.id) != ref.id:
        note(f"the id of {name} cannot be kept")
        return None
    data = clean_json(ref.data, name)
    changed: dict[str, Any] = {} if data is ref.data else {"data": data}
    if isinstance(ref, JobRef) and ref.url is not None:
        changed["url"] = _scrub_text(ref.url, "the address of the job", _MAX_ID)
    if isinstance(ref, ModelRef) and ref.base is not None:
        changed["base"] = clean_text(ref.base, "the base model", _MAX_ID)
    return ref.model_copy(update=changed) if changed else ref


def _clean_remote_model(model: RemoteModel) -> RemoteModel:
    data = clean_json(model.model_dump(exclude={"created"}), "a model of the list")
    return RemoteModel.model_validate(data | {"created": _clean_time(model.created, "the time of a model")})


def _clean_tool_call(call: Any) -> ToolCall:
    values = (call.get("id"), call.get("name"), call.get("arguments")) if isinstance(call, dict) else tuple(call)[:3]
    return ToolCall(*(clean_text(_require_instance(value, str)) for value in values))


def _clean_count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER else None


def _clean_seconds(value: Any) -> float | None:
    number: Literal[True, False] = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < math.inf else None
