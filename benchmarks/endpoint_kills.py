"""Kill trials on the tuning endpoint: one file and one job each, with servers that die, before fake vendors or `tiny`.

Lost is a file, a job, a result or a training step that is not there at the end; doubled is one that is there twice,
above all a second job at the backend.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import random
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endpoint_moments import (
    BETWEEN_CHECKPOINTS,
    ENDED,
    LOADING,
    MOMENTS,
    TRAINING,
    VALIDATING,
    WRITING,
    find_moment,
    kill_worker,
)
from endpoint_server import MODEL, Endpoint

from llmtune.testing.generic_vendor import Fake

#: Steps of an upload in parts and of a job, in their order.
UPLOAD_ARROWS = ("part-kept", "parts-joined", "upload-completed")
ARROWS = (
    "job-checked",
    "job-recorded",
    "planned",
    "after-upload",
    "submitting",
    "after-submit",
    "snapshot-kept",
    "finalizing",
    "reported",
    "settling",
    "results-written",
)
OUTSIDE = "outside"
#: What kills the servers before the local trainer: steps of the server before and after training, and what the worker
#: is doing. Each trial has one step of the first and one of the last, and two moments.
TINY_BEFORE = ("job-recorded", "planned", "after-submit", "snapshot-kept", LOADING)
TINY_DURING = ((TRAINING, VALIDATING), (TRAINING, BETWEEN_CHECKPOINTS), (VALIDATING, BETWEEN_CHECKPOINTS))
TINY_AFTER = (WRITING, "finalizing", "evaluated", "settling", "results-written")
#: What `tiny` trains on: 60 steps, so that each moment lasts, with a checkpoint at the end of each epoch.
TINY_ROWS, TINY_VALIDATION_ROWS = 80, 40
TINY_REQUEST: dict[str, Any] = {"hyperparameters": {"n_epochs": 3, "batch_size": 4}, "seed": 7}
#: Largest difference of a step's loss from that of a job that nobody disturbed, in nats.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: the kills, those of them that hit a moment of the worker, and what was lost and doubled."""

    arrows: tuple[str, ...]
    kills: int
    moments: tuple[str, ...] = ()
    workers: int = 0
    """Workers that were killed together with the server."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()


# --- plans -----------------------------------------------------------------------------------------------------------
def plan_trials(arrows: tuple[str, ...], each: int) -> Iterator[tuple[str, ...]]:
    """Yield what kills the servers of each trial: `each` steps in their order, every third time any moment at last."""
    generator = random.Random(7)
    for number in itertools.count():
        trial = [arrows[index] for index in sorted(generator.sample(range(len(arrows)), each))]
        if number % 3 == 2:
            trial[-1] = OUTSIDE
        yield tuple(trial)


def plan_tiny_trials() -> Iterator[tuple[str, ...]]:
    """Yield what kills the servers of each trial before the local trainer, every step and moment in turn."""
    for number in itertools.count():
        yield (
            TINY_BEFORE[number % len(TINY_BEFORE)],
            *TINY_DURING[number % len(TINY_DURING)],
            TINY_AFTER[number % len(TINY_AFTER)],
        )


def run_trials(
    count: int,
    trials: Iterator[tuple[str, ...]],
    at_once: int,
    run: Callable[[tuple[str, ...], int], Outcome],
    moments: tuple[str, ...] = (),
) -> bool:
    """Run trials until there were so many kills and one at each of `moments`; return whether nothing was lost."""
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def enough() -> bool:
        kills = sum(outcome.kills for outcome in outcomes)
        missing = set(moments) - {moment for outcome in outcomes for moment in outcome.moments}
        return (kills >= count and not missing) or sum(bool(outcome.lost) for outcome in outcomes) > 5

    def work() -> None:
        while True:
            with lock:
                if enough():
                    return
                number, trial = len(started), next(trials)
                started.append(trial)
            try:
                outcome = run(trial, number)
            except Exception as error:  # noqa: BLE001 - a trial that cannot be finished has lost its job
                traceback.print_exc()
                outcome = Outcome(trial, 0, lost=(f"{type(error).__name__}: {error}",))
            with lock:
                outcomes.append(outcome)
                kills = sum(outcome.kills for outcome in outcomes)
            if outcome.lost or outcome.doubled:
                print(f"FAULT {outcome}", flush=True)
            if len(outcomes) % 10 == 0:
                print(f"{kills} of {count} kills", flush=True)

    started: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kills = sum(outcome.kills for outcome in outcomes)
    lost, doubled = (sum(len(getattr(outcome, field)) for outcome in outcomes) for field in ("lost", "doubled"))
    steps = {arrow for trial in started for arrow in trial}
    print(f"{len(outcomes)} trials, {kills} kills at {len(steps)} steps: {lost} lost, {doubled} doubled")
    hit = Counter(moment for outcome in outcomes for moment in outcome.moments)
    if moments:
        workers = sum(outcome.workers for outcome in outcomes)
        print(f"killed while the worker was {', '.join(f'{moment}: {hit[moment]}' for moment in moments)}")
        print(f"{workers} times the worker was killed too, and another one did its work from the last checkpoint on")
    return kills >= count and not lost and not doubled and set(moments) <= set(hit)


# --- before fake vendors ---------------------------------------------------------------------------------------------
def kill_on_fakes(count: int, at_once: int) -> bool:
    """Kill servers before fake vendors; return whether nothing was lost or doubled."""
    return run_trials(count, plan_trials((*UPLOAD_ARROWS, *ARROWS), 3), at_once, run_fake_trial)


def run_fake_trial(trial: tuple[str, ...], number: int) -> Outcome:
    """Upload a file in parts and tune on it, with servers that die at these steps."""
    vendor = Fake(lag=0.1)
    generator = random.Random(number)
    with vendor, tempfile.TemporaryDirectory(prefix="llmtune-endpoint-") as home:
        endpoint = Endpoint(
            Path(home),
            vendor.url,
            arrows=[arrow for arrow in trial if arrow != OUTSIDE],
            LLMTUNE_FAKE_SUBMIT_SAFETY="searchable",
            LLMTUNE_FAKE_WINDOW="0.3",
        )

        def kill_any_time(_: str) -> None:
            if OUTSIDE in trial:
                time.sleep(generator.uniform(0, 0.5))
                endpoint.kill()
                endpoint.ask(lambda api, _: api.models.list())

        try:
            lost, doubled, _ = tune(
                endpoint,
                training_rows(24),
                {"hyperparameters": {"n_epochs": 1}},
                kill_any_time,
                lambda: len(vendor.jobs),
            )
            return Outcome(trial, endpoint.kills, lost=tuple(lost), doubled=tuple(doubled))
        finally:
            endpoint.close()


# --- before the local trainer ----------------------------------------------------------------------------------------
def kill_on_tiny(count: int, at_once: int) -> bool:
    """Kill servers, and every second time their worker too, while `tiny` trains."""
    calm = TinyTrial(())
    calm.run()
    if calm.lost or calm.doubled:
        print(f"FAULT the job that nobody disturbed lost {calm.lost}, doubled {calm.doubled}")
        return False
    print(f"a job that nobody disturbs: {len(calm.losses)} steps in {calm.seconds:.0f} s", flush=True)

    def run(trial: tuple[str, ...], number: int) -> Outcome:
        tiny = TinyTrial(trial, with_worker=number % 2 == 1)
        tiny.run()
        tiny.compare(calm.losses)
        return Outcome(
            trial, tiny.kills, tuple(tiny.moments), tiny.workers, lost=tuple(tiny.lost), doubled=tuple(tiny.doubled)
        )

    return run_trials(count, plan_tiny_trials(), at_once, run, MOMENTS)


class TinyTrial:
    """A job that is trained on this machine, with servers that die at steps of their own and at moments of the worker.

    Args:
        trial: the steps and moments, in the order in which they come.
        with_worker: whether the worker is killed too, while it trains.
    """

    def __init__(self, trial: tuple[str, ...], *, with_worker: bool = False) -> None:
        self._trial, self._with_worker = trial, with_worker
        self.moments: list[str] = []
        self.kills = self.workers = 0
        self.seconds = 0.0
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self.losses: dict[int, float] = {}

    def run(self) -> None:
        """Run the job to its end."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="llmtune-endpoint-") as home:
            self._folders = Path(home) / "local"
            self._endpoint = Endpoint(
                Path(home),
                "http://127.0.0.1:9",
                # A server that is killed at a moment of the worker dies at no step of its own.
                arrows=["" if arrow in MOMENTS else arrow for arrow in self._trial],
                model="local:tiny",
                OMP_NUM_THREADS="1",
            )
            try:
                self.lost, self.doubled, content = tune(
                    self._endpoint,
                    training_rows(TINY_ROWS),
                    TINY_REQUEST,
                    self._kill_at_moments,
                    lambda: len(list(self._folders.glob("lt*"))),
                    validation=training_rows(TINY_VALIDATION_ROWS, "other"),
                )
                self.losses = read_losses(content)
                self.kills += self._endpoint.kills
            finally:
                self._endpoint.close()
        self.seconds = time.monotonic() - began

    def compare(self, losses: dict[int, float]) -> None:
        """Note each step whose loss is not that of a job that nobody disturbed."""
        missing = sorted(losses.keys() - self.losses.keys())
        if missing:
            self.lost.append(f"the steps {missing}")
        different = [step for step, loss in self.losses.items() if abs(loss - losses.get(step, loss)) > TOLERANCE]
        if different:
            self.lost.append(f"the weights: other losses at the steps {different}")

    def _kill_at_moments(self, job_id: str) -> None:
        folder = self._folders / f"lt{job_id.removeprefix('ftjob-')}"
        for moment in self._trial:
            if moment in MOMENTS:
                self._kill_at(moment, folder, job_id)

    def _kill_at(self, moment: str, folder: Path, job_id: str) -> None:
        """Wait for this moment of the worker, and kill the server (and the worker) in it."""
        asked_at, deadline = 0.0, time.monotonic() + 200
        while (now := find_moment(folder)) != ENDED and time.monotonic() < deadline:
            if now == moment and not self._endpoint.arrow and self._endpoint.process.is_alive():
                break
            if time.monotonic() - asked_at > 0.2:  # which starts a server again that has died at a step of its own
                asked_at = time.monotonic()
                self._endpoint.ask(lambda api, _: api.fine_tuning.jobs.retrieve(job_id))
            time.sleep(0.002)
        self._endpoint.kill()
        if self._with_worker and now == moment and moment in (TRAINING, VALIDATING, BETWEEN_CHECKPOINTS):
            self.workers += kill_worker(folder)
        if find_moment(folder) == moment:
            self.moments.append(moment)
        else:  # over before the signal came: a kill, but none that counts
            self.kills -= 1
        self._endpoint.ask(lambda api, _: api.models.list())


# --- one job ---------------------------------------------------------------------------------------------------------
def tune(
    endpoint: Endpoint,
    rows: bytes,
    request: dict[str, Any],
    meanwhile: Callable[[str], None],
    count_jobs: Callable[[], int],
    *,
    validation: bytes | None = None,
) -> tuple[list[str], list[str], bytes]:
    """Upload rows in two parts and tune on them; return what was lost, what was doubled, and the result file.

    `meanwhile` is called with the job's id as soon as the job is created, `count_jobs` counts those at the backend.
    """
    request = dict(request, model=MODEL, training_file=upload_in_parts(endpoint, rows))
    if validation is not None:
        request["validation_file"] = upload_in_parts(endpoint, validation)
    job_id = endpoint.ask(lambda api, headers: api.fine_tuning.jobs.create(**request, extra_headers=headers)).id
    meanwhile(job_id)
    job = endpoint.wait(job_id, 300)
    files = endpoint.ask(lambda api, _: list(api.files.list()))
    jobs = endpoint.ask(lambda api, _: list(api.fine_tuning.jobs.list()))
    stored = endpoint.ask(lambda api, _: api.files.content(request["training_file"]).read())
    results = [entry.id for entry in files if entry.purpose == "fine-tune-results"]
    expected = 1 if validation is None else 2
    uploaded = sum(entry.purpose == "fine-tune" for entry in files)
    counts = {"result": len(results), "job": len(jobs), "job at the backend": count_jobs()}
    lost = [name for name, count in counts.items() if count < 1] + ["file"] * (uploaded < expected)
    if job.status != "succeeded" or job.result_files != results:
        lost.append(f"the result: {job.status}, {job.error}")
    if stored != rows:
        lost.append("content")
    doubled = [name for name, count in counts.items() if count > 1] + ["file"] * (uploaded > expected)
    content = endpoint.ask(lambda api, _: api.files.content(results[0]).read()) if results else b""
    return lost, doubled, base64.b64decode(content)


def upload_in_parts(endpoint: Endpoint, content: bytes) -> str:
    """Upload a file in two parts, and return its id."""
    half = len(content) // 2
    upload = endpoint.ask(
        lambda api, headers: api.uploads.create(
            bytes=len(content),
            filename="train.jsonl",
            purpose="fine-tune",
            mime_type="text/jsonl",
            extra_headers=headers,
        )
    ).id
    part_ids = [
        endpoint.ask(lambda api, headers, piece=piece: api.uploads.parts.create(upload, data=piece)).id
        for piece in (content[:half], content[half:])
    ]
    return str(endpoint.ask(lambda api, _: api.uploads.complete(upload, part_ids=part_ids)).file.id)


def read_losses(content: bytes) -> dict[int, float]:
    """Return the training loss of each step in a result file."""
    lines = csv.DictReader(io.StringIO(content.decode()))
    return {int(line["step"]): float(line["train_loss"]) for line in lines if line["train_loss"]}


def training_rows(count: int, subject: str = "case") -> bytes:
    """Return chat rows as JSON Lines."""
    lines = (
        {"messages": [{"role": "user", "content": f"{subject} {at}"}, {"role": "assistant", "content": "yn"[at % 2]}]}
        for at in range(count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
