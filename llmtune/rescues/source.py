"""Find the tuned model that was named, and fetch what made it while it can still be fetched."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from llmtune._safety.private_files import make_private_folder
from llmtune.data.example import Example
from llmtune.errors import (
    InvalidData,
    LlmtuneError,
    MissingCredentials,
    QuotaExceeded,
    RunNotFound,
    TransientError,
    VendorError,
)
from llmtune.job.spec import Hyperparameters, Method
from llmtune.provider.intake import fetch_job, list_models
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, provider_names
from llmtune.provider.types import ModelRef, RemoteJob, RemoteModel
from llmtune.redaction.secrets import scrub
from llmtune.rescues.folder import Folder
from llmtune.rescues.results import DataFile, Source
from llmtune.runs.run import provider_of
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

Say = Callable[[str], None]

#: The methods that a job may have; a vendor's job of another is not repeated.
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class Found:
    """What was named: a job at a provider, and the run that made it where the store knows one."""

    provider: Provider
    job: RemoteJob | None
    record: RunRecord | None
    model: str
    remote: RemoteModel | None = None
    """The model as its vendor lists it, where it was asked."""


def find(named: str, provider: str | None, store: Store) -> Found:
    """The tuned model behind a run (id, its beginning, or name), or a model or job id of a vendor.

    The store is asked first, then the provider that is named, else every one that has credentials here.

    Raises:
        LlmtuneError: nobody knows it; says who was asked.
    """
    record = _run(named, store)
    if record is not None:
        model = store.ref(record.id, "model", ModelRef)
        if model is None:
            raise LlmtuneError(f"run {record.id} has no tuned model to rescue: it is {record.state}")
        backend = provider_of(record)
        return Found(backend, None, record, model.id)
    unheard: list[str] = []
    for name in [provider] if provider else provider_names():
        backend = get_provider(name)
        if not backend.hosted:
            continue
        ready = backend.ready()
        lacking = ready.extra == "missing" or ready.credentials == "not found" or ready.missing_settings
        if provider is None and lacking:
            unheard.append(f"{name} (not set up here)")
            continue
        remote = None
        try:
            remote = _remote(backend, named)
            job = backend.fetch(remote)
        except LlmtuneError as error:
            if provider is not None:
                raise
            unheard.append(f"{name} ({scrub(error.message)})")
            continue
        return Found(backend, job, None, job.model or named, remote)
    raise LlmtuneError(
        f"neither the store nor any backend knows {named!r}; asked: {', '.join(unheard) or 'nobody'}",
        hint="name the backend with --from, or list what your accounts own with: llmtune doctor --lifecycle",
    )


def _run(named: str, store: Store) -> RunRecord | None:
    try:
        return store.get(store.resolve(named))
    except RunNotFound:
        pass
    return next((record for record, model in store.tuned() if model.id == named), None)


def _remote(provider: Provider, named: str) -> RemoteModel:
    """The model as the inventory lists it, under its own id or its job's."""
    try:
        listed = next((each for each in list_models(provider) if named in (each.id, each.job)), None)
    except VendorError:
        listed = None
    return listed or RemoteModel(id=named)


def fetch(found: Found, folder: Folder, *, data: str | None, store: Store, say: Say) -> Source:
    """Bring the rows into the folder and say where everything came from.

    `data` is a training file of the user's own, for when the vendor has none any more.
    """
    files: dict[str, DataFile] = {}
    gone: dict[str, str] = {}
    make_private_folder(folder.data)
    for torn in folder.data.glob(".fetched-*"):  # left by a kill
        shutil.rmtree(torn, ignore_errors=True)
    record, job = found.record, found.job
    if record is not None:
        try:
            files |= _rows_of_run(record, folder)
        except (LlmtuneError, OSError):  # its rows are gone here; the vendor may still have them
            if found.remote is None:
                raise
            record = None
    if record is None and job is None and found.remote is not None:
        job = fetch_job(found.provider, found.remote)
    if record is not None:
        asked = record.tuning_job.hyperparameters_for(record.provider)
        source = Source(
            provider=record.provider,
            model=found.model,
            base=record.model,
            run=record.id,
            method=record.tuning_job.method,
            hyperparameters=asked.model_dump(mode="json", exclude_none=True),
            seed=record.tuning_job.seed,
        )
    else:
        assert job is not None
        for role, id in job.files.items():
            if role == "train" and data is not None:
                continue
            say(f"fetching the {role} file {id}")
            try:
                files[role] = _downloaded(found.provider, id, role, folder)
            except (TransientError, MissingCredentials, QuotaExceeded):
                raise  # it may be there all the same: the step is taken again
            except LlmtuneError as error:
                gone[role] = scrub(error.message)
        source = Source(
            provider=found.provider.name,
            model=found.model,
            base=job.base,
            job=job.id,
            method=job.method,
            hyperparameters=job.hyperparameters,
            unmapped=job.unmapped,
            chosen=job.chosen,
            seed=job.seed,
        )
    if data is not None:
        from llmtune.data.io.reading import load

        files["train"] = _written(load(data), "train", data, folder)
    source = source.model_copy(update={"files": files, "gone": gone})
    return _held_out(source, folder)


def supply(source: Source, folder: Folder, data: str) -> Source:
    """The same source with training rows from a file of the user's own, in the place of those that are gone."""
    from llmtune.data.io.reading import load

    train = _written(load(data), "train", data, folder)
    return _held_out(source.model_copy(update={"files": {**source.files, "train": train}}), folder)


def _downloaded(provider: Provider, id: str, role: str, folder: Folder) -> DataFile:
    from llmtune.data.io.reading import load

    with tempfile.TemporaryDirectory(dir=folder.data, prefix=".fetched-") as place:
        raw = provider.download(id, Path(place))
        try:
            return _written(load(str(raw)), role, id, folder)
        except InvalidData as error:  # what a vendor will not show again is kept as it came
            kept = folder.data / f"{role}-as-fetched{raw.suffix}"
            raw.replace(kept)
            raise InvalidData(
                f"{kept} cannot be read: {error.message.replace(str(raw), kept.name)}", findings=error.findings
            ) from None


def download(provider: Provider, id: str, role: str, into: Path) -> Path:
    """A vendor's file as chat rows in `into`, under the name of its role."""
    from llmtune.data.convert import write
    from llmtune.data.io.reading import load

    make_private_folder(into)
    with tempfile.TemporaryDirectory(dir=into, prefix=".fetched-") as place:
        rows = load(str(provider.download(id, Path(place))))
    write(rows, into / f"{role}.jsonl", _form(rows))
    return into / f"{role}.jsonl"


def _form(rows: Sequence[Example]) -> str:
    """The general row format that holds such rows."""
    first = rows[0] if rows else Example()
    return "preference" if first.preference is not None else "text" if first.text is not None else "chat"


def _rows_of_run(record: RunRecord, folder: Folder) -> dict[str, DataFile]:
    from llmtune.runs.evaluation import the_same_dataset

    dataset = the_same_dataset(record)
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {role: _written(rows, role, f"run {record.id}", folder) for role, rows in parts.items() if rows}


def _written(rows: Sequence[Example], role: str, came_from: str, folder: Folder) -> DataFile:
    from llmtune.data.convert import write

    path = folder.data / f"{role}.jsonl"
    made = write(rows, path, _form(rows))
    return DataFile(path=str(path.relative_to(folder.path)), rows=made.rows, sha256=made.sha256, came_from=came_from)


def _held_out(source: Source, folder: Folder) -> Source:
    """Rows to judge by: the run's own test rows; else the validation rows, which the old model did not learn from;
    else some of the training rows, which it did."""
    files = dict(source.files)
    if "test" in files:
        return source
    if "validation" in files:
        kept = files.pop("validation")
        path = folder.path / kept.path
        path.rename(folder.data / "test.jsonl")
        files["test"] = kept.model_copy(update={"path": "data/test.jsonl"})
        return source.model_copy(update={"files": files})
    if "train" not in files:
        return source
    from llmtune.data.io.reading import load
    from llmtune.data.split import split

    rows = load(str(folder.path / files["train"].path))
    cut = split(rows, (0.9, 0.0, 0.1), seed=0)
    if not cut.test:
        raise InvalidData(
            f"{len(rows)} training rows are too few to hold any out", hint="give --prompts a file of rows to judge by"
        )
    came_from = files["train"].came_from
    files["test"] = _written(cut.test, "test", f"held out of {came_from}", folder)
    files["train"] = _written(cut.train, "train", came_from, folder)
    return source.model_copy(update={"files": files, "seen_in_training": True})


def keep_rows(rows: Sequence[Example], path: Path) -> None:
    """Rows that were given, in the folder: whole, or not at all."""
    from llmtune.data.convert import write

    write(rows, path, _form(rows))


def digest(text: str) -> str:
    """Six letters that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


#: A longer name is cut.
LONGEST_NAME = 32


def short_name(text: str) -> str:
    """A short name for a model, a job or a run, for folders and jobs: the end of its id, where its own name stands.

    `ft:BASE:ORGANISATION:router:abc123` is router-abc123, an ARN or a path its last part.
    """
    pieces = [piece for piece in text.rstrip("/").rpartition("/")[2].split(":") if piece]
    last = pieces[-2:] if len(pieces) > 3 else pieces
    plain = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(last)).strip("-").lower()
    return plain if 0 < len(plain) <= LONGEST_NAME else f"{plain[:20].rstrip('-') or 'model'}-{digest(text)}"


def valid_hyperparameters(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Those of the hyperparameters that a job may have, and why the others are none."""
    known: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    for name, value in values.items():
        if name not in Hyperparameters.model_fields:
            continue
        try:
            Hyperparameters.model_validate({name: value})
        except (LlmtuneError, ValueError) as error:
            dropped[name] = str(error).splitlines()[0]
        else:
            known[name] = value
    return known, dropped
