"""The run folder and the session as llmtune sees a run: states, snapshots, tuned models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import llmtune.provider as core
from llmtune.provider import RunState
from llmtune_local import responses as folder_responses
from llmtune_local.run_state.schema import Status, Verdict
from llmtune_tinker.run_folder import LoopFolder

#: States of a session, as types/session_status.py of the SDK 0.38.0 names them. "" is one that neither ended nor is
#: known to be running.
SESSION_STATES = ("active", "client_finished", "failed", "cancelled", "")


def job_ref(session: str, folder: LoopFolder) -> core.JobRef:
    """Return the reference of a run: its session, and its folder on this machine."""
    return core.JobRef(id=session, data={"folder": str(folder.path.absolute())})


def session_word(summary: Mapping[str, Any]) -> str:
    """Return the type of a session's status."""
    status = summary.get("status")
    return str(status.get("type") or "") if isinstance(status, Mapping) else ""


def session_message(summary: Mapping[str, Any]) -> str:
    """Return the service's own words about how a session ended; "" where it has none."""
    status = summary.get("status")
    words = (status.get("message") or status.get("detail")) if isinstance(status, Mapping) else None
    return str(words)[:1000] if words else ""


def snapshot(
    folder: LoopFolder, status: Status | None, verdict: Verdict, summary: Mapping[str, Any], since: core.Cursor | None
) -> core.Snapshot:
    """Return what is new in a folder since the cursor, with the state of its session.

    The folder says how far the run is, since the loop runs here; the session says what the service made of it. A word
    of the service's that is not known is running, with a warning.
    """
    seen = folder_responses.snapshot(folder, status, verdict, since, lambda _: tuned_model(folder))
    word = session_word(summary)
    update: dict[str, Any] = {"raw_state": f"{seen.raw_state} (session {word or 'without a state'})"}
    if word not in SESSION_STATES:
        warning = f"the service says that the session is {word!r}, which is not known here; taken for running"
        update |= {"state": RunState.RUNNING, "model": None, "warnings": (*seen.warnings, warning)}
    elif word in ("failed", "cancelled") and not seen.state.final:
        warning = f"the service has ended the session ({word}): {session_message(summary) or 'it does not say why'}"
        update["warnings"] = (*seen.warnings, warning)
    return seen.model_copy(update=update)


def tuned_model(folder: LoopFolder) -> core.ModelRef | None:
    """Return the model that the run in a folder has trained; None where there is none yet."""
    result, request = folder.read_loop_result(), folder.read_loop_request()
    if result is None:
        return None
    data = {"tuned": True, "state": result.state, "files": result.files, "folder": str(folder.path.absolute())}
    return core.ModelRef(id=result.model, base=request.model, data=data)


def remote_model(checkpoint: Mapping[str, Any], run: Mapping[str, Any]) -> core.RemoteModel | None:
    """Convert a checkpoint of the account; None for one that does not answer."""
    address = str(checkpoint.get("tinker_path") or "")
    if checkpoint.get("checkpoint_type") != "sampler" or not address:
        return None
    return core.RemoteModel(
        id=address,
        base=str(run.get("base_model") or ""),
        job=training_run_of(address),
        created=core.unix_seconds(checkpoint.get("time")),
        data={"training_run": training_run_of(address)},
    )


def training_run_of(address: str) -> str:
    """Return the id of the training run in `tinker://RUN/KIND/NAME`."""
    return address.removeprefix("tinker://").partition("/")[0]


def remote_job(run: Mapping[str, Any], model: str) -> core.RemoteJob:
    """Convert a training run: what the service remembers of it."""
    rank = core.read_number(run.get("lora_rank"))
    metadata = run.get("user_metadata")
    return core.RemoteJob(
        id=str(run.get("training_run_id") or training_run_of(model)),
        model=model,
        base=str(run.get("base_model") or ""),
        method="sft",
        hyperparameters={"lora_rank": int(rank)} if rank is not None and rank >= 1 else {},
        tags={str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, Mapping) else {},
    )
