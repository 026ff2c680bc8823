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
    AmbiguousRun,
    InvalidData,
    LlmtuneError,
    MissingCredentials,
    QuotaExceeded,
    RunNotFound,
    TransientError,
    VendorError,
)
from llmtune.job.spec import Hyperparameters, Method
from llmtune.provider.intake import download_file, fetch_job, list_models
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider, provider_names
from llmtune.provider.types import ModelRef, RemoteJob, RemoteModel
from llmtune.redaction.secrets import scrub
from llmtune.rescues.folder import Folder
from llmtune.rescues.results import DataFile, RescueSource
from llmtune.runs.backend import provider_of
from llmtune.runs.store.records import RunRecord
from llmtune.runs.store.store import Store

Say = Callable[[str], None]

#: The methods of a vendor's job that can be repeated. A job of reinforcement has a grader in the vendor's own terms,
#: which is not read back.
METHODS: tuple[str, ...] = tuple(method for method in get_args(Method) if method != "reinforcement")


@dataclass(frozen=True)
class OldModel:
    """The tuned model that was named: its provider, its job there, and its run where the store has one."""

    provider: Provider
    job: RemoteJob | None
    record: RunRecord | None
    model: str
    remote: RemoteModel | None = None
    """The model as its vendor lists it, where it was asked."""


def find(named: str, provider: str | None, store: Store) -> OldModel:
    """Find a tuned model by a run (id, its beginning, or name), or by a model or job id of a vendor.

    The store is asked first, then the provider that is named, else every one that has credentials here.

    Raises:
        LlmtuneError: it was not found; names the backends that were asked.
    """
    record = _find_run(named, store)
    if record is not None:
        model = store.ref(record.id, "model", ModelRef)
        if model is None:
            raise LlmtuneError(f"run {record.id} has no tuned model to rescue: it is {record.state}")
        backend = provider_of(record)
        return OldModel(backend, None, record, model.id)
    not_found: list[str] = []
    for name in [provider] if provider else provider_names():
        backend = get_provider(name)
        if not backend.hosted:
            continue
        ready = backend.ready()
        is_incomplete = ready.extra == "missing" or ready.credentials == "not found" or ready.missing_settings
        if provider is None and is_incomplete:
            not_found.append(f"{name} (not set up here)")
            continue
        remote = None
        try:
            remote = _find_remote(backend, named)
            job = fetch_job(backend, remote)
        except LlmtuneError as error:
            if provider is not None:
                raise
            not_found.append(f"{name} ({scrub(error.message)})")
            continue
        return OldModel(backend, job, None, job.model or named, remote)
    raise LlmtuneError(
        f"neither the store nor any backend knows {named!r}; asked: {', '.join(not_found) or 'none'}",
        hint="name the backend with --from, or list what your accounts own with: llmtune doctor --lifecycle",
    )


def _find_run(named: str, store: Store) -> RunRecord | None:
    try:
        return store.get(store.resolve(named))
    except AmbiguousRun:
        raise
    except RunNotFound:
        pass
    return next((record for record, model in store.tuned_models() if model.id == named), None)


def _find_remote(provider: Provider, named: str) -> RemoteModel:
    """Return the model as the vendor lists it, by its own id or its job's."""
    try:
        listed = next((model for model in list_models(provider) if named in (model.id, model.job)), None)
    except VendorError:
        listed = None
    return listed or RemoteModel(id=named)


def fetch(old_model: OldModel, folder: Folder, *, data: str | None, store: Store, say: Say) -> RescueSource:
    """Fetch the rows into the folder. Returns how the model was made, with the origin of each file.

    `data` is a training file of the user's own, for when the vendor has none any more.
    """
    files: dict[str, DataFile] = {}
    gone: dict[str, str] = {}
    make_private_folder(folder.data)
    for unfinished in folder.data.glob(".fetched-*"):  # left by a kill
        shutil.rmtree(unfinished, ignore_errors=True)
    record, job = old_model.record, old_model.job
    if record is not None:
        try:
            files |= _write_run_rows(record, folder)
        except (LlmtuneError, OSError):  # its rows are gone here; the vendor may still have them
            if old_model.remote is None:
                raise
            record = None
    if record is None and job is None and old_model.remote is not None:
        job = fetch_job(old_model.provider, old_model.remote)
    if record is not None:
        hyperparameters = record.tuning_job.hyperparameters_for(record.provider)
        source = RescueSource(
            provider=record.provider,
            model=old_model.model,
            base=record.model,
            run=record.id,
            method=record.tuning_job.method,
            hyperparameters=hyperparameters.model_dump(mode="json", exclude_none=True),
            seed=record.tuning_job.seed,
        )
    else:
        assert job is not None
        for role, id in job.files.items():
            if role == "train" and data is not None:
                continue
            say(f"fetching the {role} file {id}")
            try:
                files[role] = _download_rows(old_model.provider, id, role, folder)
            except (TransientError, MissingCredentials, QuotaExceeded):
                raise  # it may be there all the same: the step is taken again
            except LlmtuneError as error:
                gone[role] = scrub(error.message)
        source = RescueSource(
            provider=old_model.provider.name,
            model=old_model.model,
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

        files["train"] = _write_rows(load(data), "train", data, folder)
    source = source.model_copy(update={"files": files, "gone": gone})
    return _hold_out_rows(source, folder)


def replace_training_rows(source: RescueSource, folder: Folder, data: str) -> RescueSource:
    """Return the source with training rows from the user's file, in place of those that are gone."""
    from llmtune.data.io.reading import load

    train = _write_rows(load(data), "train", data, folder)
    return _hold_out_rows(source.model_copy(update={"files": {**source.files, "train": train}}), folder)


def _download_rows(provider: Provider, id: str, role: str, folder: Folder) -> DataFile:
    from llmtune.data.io.reading import load

    with tempfile.TemporaryDirectory(dir=folder.data, prefix=".fetched-") as temporary:
        raw = download_file(provider, id, Path(temporary))
        try:
            return _write_rows(load(str(raw)), role, id, folder)
        except InvalidData as error:  # what a vendor will not show again is kept as it came
            saved = folder.data / f"{role}-as-fetched{raw.suffix}"
            raw.replace(saved)
            raise InvalidData(
                f"{saved} cannot be read: {error.message.replace(str(raw), saved.name)}", findings=error.findings
            ) from None


def download(provider: Provider, id: str, role: str, into: Path) -> Path:
    """Download a vendor's file into a folder, as rows named by their role. Returns its path."""
    from llmtune.data.convert import write
    from llmtune.data.io.reading import load

    make_private_folder(into)
    with tempfile.TemporaryDirectory(dir=into, prefix=".fetched-") as temporary:
        rows = load(str(download_file(provider, id, Path(temporary))))
    write(rows, into / f"{role}.jsonl", _choose_format(rows))
    return into / f"{role}.jsonl"


def _choose_format(rows: Sequence[Example]) -> str:
    """Return the general row format that holds these rows."""
    first = rows[0] if rows else Example()
    return "preference" if first.preference is not None else "text" if first.text is not None else "chat"


def _write_run_rows(record: RunRecord, folder: Folder) -> dict[str, DataFile]:
    from llmtune.runs.evaluation import load_same_dataset

    dataset = load_same_dataset(record)
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {role: _write_rows(rows, role, f"run {record.id}", folder) for role, rows in parts.items() if rows}


def _write_rows(rows: Sequence[Example], role: str, came_from: str, folder: Folder) -> DataFile:
    from llmtune.data.convert import write

    path = folder.data / f"{role}.jsonl"
    written = write(rows, path, _choose_format(rows))
    return DataFile(
        path=str(path.relative_to(folder.path)), rows=written.rows, sha256=written.sha256, came_from=came_from
    )


def _hold_out_rows(source: RescueSource, folder: Folder) -> RescueSource:
    """Choose the test rows: the run's own; else the validation rows, which the old model did not learn from.

    Else some of the training rows are held out, which it did learn from.
    """
    files = dict(source.files)
    if "test" in files:
        return source
    if "validation" in files:
        validation = files.pop("validation")
        path = folder.path / validation.path
        path.rename(folder.data / "test.jsonl")
        files["test"] = validation.model_copy(update={"path": "data/test.jsonl"})
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
    files["test"] = _write_rows(cut.test, "test", f"held out of {came_from}", folder)
    files["train"] = _write_rows(cut.train, "train", came_from, folder)
    return source.model_copy(update={"files": files, "seen_in_training": True})


def keep_rows(rows: Sequence[Example], path: Path) -> None:
    """Write rows to a file: completely, or not at all."""
    from llmtune.data.convert import write

    write(rows, path, _choose_format(rows))


def digest(text: str) -> str:
    """Return six hexadecimal digits of a text's hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


#: A longer name is cut.
LONGEST_NAME = 32


def short_name(text: str) -> str:
    """Return a short name of a model, a job or a run, for folders and jobs: the end of its id, which holds its name.

    `ft:BASE:ORGANISATION:router:abc123` is router-abc123, an ARN or a path its last part.
    """
    pieces = [piece for piece in text.rstrip("/").rpartition("/")[2].split(":") if piece]
    last = pieces[-2:] if len(pieces) > 3 else pieces
    plain = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(last)).strip("-").lower()
    return plain if 0 < len(plain) <= LONGEST_NAME else f"{plain[:20].rstrip('-') or 'model'}-{digest(text)}"


def valid_hyperparameters(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the hyperparameters that a job may have, and for each other one why not."""
    valid: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    for name, value in values.items():
        if name not in Hyperparameters.model_fields:
            continue
        try:
            Hyperparameters.model_validate({name: value})
        except (LlmtuneError, ValueError) as error:
            dropped[name] = str(error).splitlines()[0]
        else:
            valid[name] = value
    return valid, dropped
