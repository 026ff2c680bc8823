"""Let every provider and the local trainer meet every fault of `llmtune.testing`, one at a time.

    python benchmarks/faults.py                 # all of them
    python benchmarks/faults.py --provider openai --fault echo
    python benchmarks/faults.py --provider local --fault "torn|killed"

Each trial of a hosted provider has a fake vendor of its own, at which one kind of request goes wrong a few times; or a
store that is away for a few transactions; or another command beside the wait. Each trial of the local trainer is one
real run of a few steps whose worker is killed or stopped, whose files are damaged, whose disk or store is full, away,
locked or damaged, or beside which another command runs (`faults_local.py`).

Survived means: one job (at the vendor, or in one run folder); one report, or one sentence that says what is wrong; and
after the fault the next command works: the same job, started again or resumed as its sentence says, ends with its
report, its model answers unless its own files were destroyed, and all runs can be listed. A leak is the vendor's key in
a message, an event, a report, the store or a run folder. A duplicate is a second job of one run. An orphan is a job
that no record leads to (unless its run is `lost`, which says so), a deployment left standing, or a worker still alive.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from faults_local import Outcome, list_local_trials, run_local_trials

from llmtune import testing
from llmtune.errors import LlmtuneError, SubmitUnknown
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.provider import http, sdk
from llmtune.provider.types import RunState
from llmtune.runs import poller, submission
from llmtune.runs.api import attach, start
from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.runs.store.store import Store, open_store
from llmtune.testing import FakeVendor, Fault
from llmtune.testing.faults import Role

#: What stands in every variable that holds a key; nobody may see it.
KEY = "canary-key-0123456789"

#: What another caller does while a run is waited for.
BESIDE = ("cancel", "attach", "adopt")

PACE = PollInterval(first=0.01, most=0.05)

#: Seconds after which a trial hangs. A poll that trickles is given up after POLL_SECONDS.
LONGEST, POLL_SECONDS = 120.0, 2.0

Make = Callable[[], Fault]

ANY: dict[str, Make] = {
    "rate_limit": testing.rate_limit,
    "server_error": testing.server_error,
    "server_error_handled": lambda: testing.server_error(503, handled=True),
    "reset": testing.reset,
    "accept_then_drop": testing.accept_then_drop,
    "truncated": testing.truncated,
    "garbled": testing.garbled,
    "empty_answer": testing.empty_answer,
    "echo": testing.echo,
    "forbidden": lambda: testing.refusal(403, "You may not do that.", "forbidden"),
    "odd_infinity": lambda: testing.odd_numbers("1e400"),
}
READING: dict[str, Make] = {
    "trickle": lambda: testing.trickle(0.02),
    "endless": lambda: testing.endless(16 * 1024**2),
    "endless_list": testing.endless_list,
    "unknown_state": testing.unknown_state,
    "odd_nan": lambda: testing.odd_numbers("NaN"),
    "odd_huge": lambda: testing.odd_numbers("1" + "0" * 400),
}


@dataclass(frozen=True)
class Place:
    """A provider, how its fake is made and how it is pointed at it."""

    name: str
    model: str
    fake: str
    provider: str
    settings: Callable[[Any], dict[str, Any]]
    options: dict[str, Any] | None = None


def _openai_style(vendor: FakeVendor) -> dict[str, Any]:
    return {"base_url": f"{vendor.url}/v1", "timeout": 5}


PLACES = (
    Place(
        "fake",
        "m-1",
        "llmtune.testing.generic_vendor:Fake",
        "llmtune.testing.fake_provider:FakeProvider",
        lambda vendor: {"base_url": vendor.url, "submit_safety": "searchable", "window": 0.2, "timeout": 5},
    ),
    Place(
        "openai",
        "gpt-4.1-mini-2025-04-14",
        "llmtune_openai.fake.service:FakeOpenAI",
        "llmtune_openai:OpenAIProvider",
        _openai_style,
    ),
    Place(
        "nebius",
        "meta-llama/Llama-3.3-70B-Instruct",
        "llmtune_nebius.fake.service:FakeNebius",
        "llmtune_nebius:NebiusProvider",
        _openai_style,
    ),
    Place(
        "azure",
        "gpt-4.1-mini-2025-04-14",
        "llmtune_azure.fake.service:FakeAzure",
        "llmtune_azure:AzureProvider",
        lambda vendor: {
            "endpoint": vendor.url,
            "management_url": vendor.url,
            "management_token_env": "ARM_TOKEN",
            "subscription_id": "11111111-2222-3333-4444-555555555555",
            "resource_group": "tuning",
            "account_name": "mine",
            "timeout": 5,
        },
        {"training_type": "GlobalStandard"},
    ),
    Place(
        "together",
        "Qwen/Qwen3-8B",
        "llmtune_together.fake.service:FakeTogether",
        "llmtune_together:TogetherProvider",
        lambda vendor: {"base_url": vendor.url, "project_id": "proj-1", "poll_interval": 0.01, "timeout": 5},
    ),
    Place(
        "cohere",
        "command-r-08-2024",
        "llmtune_cohere.fake.service:FakeCohere",
        "llmtune_cohere:CohereProvider",
        lambda vendor: {"base_url": vendor.url, "poll_interval": 0.01, "timeout": 5},
    ),
    Place(
        "vertex",
        "gemini-2.5-flash",
        "llmtune_vertex.fake.service:FakeVertex",
        "llmtune_vertex:VertexProvider",
        lambda vendor: {
            "project": "my-project",
            "location": "us-central1",
            "bucket": "my-bucket",
            "base_url": vendor.url,
            "storage_url": vendor.url,
            "token_env": "VERTEX_TOKEN",
            "timeout": 5.0,
        },
    ),
    Place(
        "bedrock",
        "amazon.nova-lite-v1:0:300k",
        "llmtune_bedrock.fake.service:FakeBedrock",
        "llmtune_bedrock:BedrockProvider",
        lambda vendor: {
            "region": "us-east-1",
            "bucket": "my-bucket",
            "role_arn": "arn:aws:iam::123456789012:role/tuning",
            "base_url": vendor.url,
            "storage_url": vendor.storage_url,
            "timeout": 5.0,
        },
    ),
    Place(
        "sagemaker",
        "huggingface-reasoning-qwen3-8b",
        "llmtune_sagemaker.fake.service:FakeSageMaker",
        "llmtune_sagemaker:SageMakerProvider",
        lambda vendor: {
            "region": "us-east-1",
            "bucket": "my-bucket",
            "role_arn": "arn:aws:iam::123456789012:role/tuning",
            "model_package_group": "llmtune",
            "base_url": vendor.url,
            "storage_url": vendor.storage_url,
            "timeout": 5.0,
        },
    ),
)

KEYS = ("OPENAI_API_KEY", "NEBIUS_API_KEY", "AZURE_OPENAI_API_KEY", "ARM_TOKEN", "TOGETHER_API_KEY", "CO_API_KEY")
OTHER_KEYS = ("VERTEX_TOKEN", "AWS_SECRET_ACCESS_KEY", "LLMTUNE_FAKE_API_KEY")


@dataclass(frozen=True)
class Trial:
    """One fault at one kind of request of one provider; without a role it is the store that is away."""

    place: Place
    fault: str
    role: Role | None
    number: int

    @property
    def title(self) -> str:
        """What is reported of it."""
        return f"{self.place.name}: {self.fault}" + (f" at {self.role}" if self.role else "")


def list_trials() -> Iterator[Trial]:
    """Every provider with every fault, at polls, submits and uploads, and with a store that is away."""
    number = 0
    for place in PLACES:
        pairs: list[tuple[str, Role | None]] = [(name, "poll") for name in ANY | READING]
        pairs += [(name, role) for role in ("submit", "upload") for name in ANY]
        pairs += [(f"store_away_{after}", None) for after in (3, 6, 12, 24)]
        pairs += [(f"beside_{action}", None) for action in BESIDE]
        for fault, role in pairs:
            number += 1
            yield Trial(place, fault, role, number)


def _named(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def run_trial(trial: Trial, folder: Path) -> Outcome:
    """Run one trial against a vendor of its own, and judge what came of it."""
    began = time.monotonic()
    place = trial.place
    with _named(place.fake)() as vendor:
        provider_class = _named(place.provider)
        name = f"{place.name}{trial.number}"  # an account of its own: every fake counts its jobs from 1
        provider = provider_class(name, provider_class.Settings.model_validate(place.settings(vendor)))
        with contextlib.suppress(AttributeError, TypeError):
            provider.submit_safety = replace(provider.submit_safety, window=0.2)
        rows = folder / f"rows-{trial.number}.jsonl"
        rows.write_text("".join(json.dumps(_row(n, trial.number)) + "\n" for n in range(120)), encoding="utf-8")
        job = TuningJob(
            name=f"trial-{trial.number}",
            dataset=str(rows),
            model={name: place.model},
            hyperparameters=Hyperparameters(epochs=2),
            provider_options={name: place.options} if place.options else {},
        )
        store = open_store()
        try:
            outcome = _meet(trial, vendor, provider, job, store)
        except Exception as error:  # noqa: BLE001 - what is not one of ours was not survived
            outcome = Outcome(trial.title, f"{type(error).__name__}: {str(error)[:160]!r}")
    return replace(outcome, seconds=time.monotonic() - began)


def _meet(trial: Trial, vendor: Any, provider: Any, job: TuningJob, store: Store) -> Outcome:
    sentences: list[str] = []
    beside: Callable[[Run], None] | None = None
    away: Any = contextlib.nullcontext()
    if trial.fault.startswith("beside_"):
        beside = partial(_act_beside, trial.fault.removeprefix("beside_"), provider, sentences)
    elif trial.role is None:
        away = testing.store_away(Store(store._url), times=3, after=int(trial.fault.rpartition("_")[2]))
    else:
        vendor.faults.add((ANY | READING)[trial.fault](), role=trial.role, times=3, after=trial.role == "poll")
    lost = False
    run: Run | None = None
    with away:
        try:
            run = start(job, provider, yes=True)
            with _act_in_thread(beside, run):
                run.wait(timeout=LONGEST, pace=PACE, on_update=lambda update: sentences.append(update.message or ""))
        except SubmitUnknown as error:
            lost = True
            sentences.append(error.message)
        except LlmtuneError as error:
            if isinstance(error, TimeoutError):
                return Outcome(trial.title, f"it hung: {error.message}")
            sentences.append(error.message)
    vendor.faults.clear()
    if not lost:  # the next command works
        run = start(job, provider, reuse=True, yes=True)
        run.wait(timeout=LONGEST, pace=PACE)
    runs = [record for record in store.runs() if record.name == job.name]
    problem = None if lost or runs[0].state is RunState.SUCCEEDED else f"it ended {runs[0].state}"
    if any("\n" in sentence for sentence in sentences):
        problem = "a message of more than one line"
    if vendor.complaints and trial.fault != "endless_list":  # whose cursors no fake has given
        problem = f"the vendor complains: {vendor.complaints[0]}"
    text = " ".join(sentences)
    for record in runs:
        handle = Run(record.id, store=store, provider=provider)
        text += record.model_dump_json() + " ".join(event.message for _, event in handle.events())
        if record.state.final and record.state is not RunState.LOST:
            text += handle.report().model_dump_json()
    known = {each.ref.id for record in runs for each in store.resources(record.id, standing=False)}
    per_run = max((len(vendor.jobs_with(record.key)) for record in runs), default=0)
    # A vendor may be asked by a longer name (projects/.../ID, an ARN) than its fake keeps the job under.
    orphans = 0 if lost else sum(not any(id in name for name in known) for id in vendor.jobs)
    return Outcome(trial.title, problem, text.count(KEY), max(0, per_run - 1), orphans + len(vendor.standing))


@contextlib.contextmanager
def _act_in_thread(beside: Callable[[Run], None] | None, run: Run) -> Iterator[None]:
    """Do something to the run beside the code inside; raises what it raises."""
    if beside is None:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(beside, run)
        yield
        done.result(LONGEST)


def _act_beside(action: str, provider: Any, sentences: list[str], run: Run) -> None:
    """Cancel the run, wait for it too, or try to adopt another job, as another process would."""
    other = Run(run.id, provider=provider)
    try:
        if action == "cancel":
            other.cancel()
        elif action == "attach":
            attach(run.id, provider=provider).wait(timeout=LONGEST, pace=PACE)
        else:
            other.adopt("another-job")
            raise AssertionError("a run that is not lost adopted a job")
    except LlmtuneError as error:
        sentences.append(error.message)


def _row(number: int, salt: int) -> dict[str, Any]:
    subject, team = ("invoice", "billing") if number % 2 else ("router", "network")
    return {
        "messages": [
            {"role": "user", "content": f"ticket {salt}-{number}: the {subject} is wrong"},
            {"role": "assistant", "content": team},
        ]
    }


@dataclass(frozen=True)
class Share:
    """The trials of one process: every `count`-th of those that were asked for, from `number` on."""

    folder: Path
    number: int
    count: int
    provider: str | None
    fault: str | None

    def select(self, trials: Iterable[Any]) -> list[Any]:
        """Select this share of some trials."""
        return [trial for position, trial in enumerate(trials) if position % self.count == self.number]


def run_share(share: Share, at_once: int, verbose: bool) -> list[Outcome]:
    """Run the trials of a share, and print the lines that are to be printed of each."""
    warnings.simplefilter("ignore")
    share.folder.mkdir()
    os.environ |= {"LLMTUNE_HOME": f"{share.folder}/home", "LLMTUNE_CONFIG": f"{share.folder}/no-config.toml"}
    os.environ |= dict.fromkeys((*KEYS, *OTHER_KEYS), KEY) | {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE"}
    os.environ["OMP_NUM_THREADS"] = "1"  # several train and answer at once
    os.environ.pop("LLMTUNE_STORE", None)
    poller.POLL_SECONDS = POLL_SECONDS
    http.ANSWER_BYTES, sdk.MOST_PAGES = 4 * 1024**2, 5
    submission.RETRIES = replace(submission.RETRIES, most=0.05)
    poller._poller = poller.Poller(polls_per_second=500)

    def say(outcome: Outcome) -> None:
        if verbose:
            print(f"{outcome.seconds:5.1f} s  {outcome.title}", flush=True)
        if outcome.problem or outcome.leaks or outcome.duplicates or outcome.orphans:
            counts = f"{outcome.leaks} leaks, {outcome.duplicates} duplicates, {outcome.orphans} orphans"
            print(f"{outcome.title}: {outcome.problem or 'survived'} ({counts})", flush=True)

    hosted = share.select(
        trial
        for trial in list_trials()
        if share.provider in (None, trial.place.name) and share.fault in (None, trial.fault)
    )
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(at_once) as pool:
        for outcome in pool.map(lambda trial: run_trial(trial, share.folder), hosted):
            outcomes.append(outcome)
            say(outcome)
    if share.provider in (None, "local"):
        local = share.select(list_local_trials(share.fault))
        outcomes += run_local_trials(share.folder, KEY, local, at_once=at_once, say=say)
    return outcomes


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", help="only this one (local: the trainer of this machine)")
    parser.add_argument("--fault", help="only this one; of the local trainer, those whose names match it")
    parser.add_argument("--at-once", type=int, default=4, help="trials side by side, each with a vendor of its own")
    parser.add_argument("--processes", type=int, default=2, help="that share the trials, each with a home of its own")
    parser.add_argument("--verbose", action="store_true", help="print a line for each trial")
    options = parser.parse_args()

    began, cpu_began = time.monotonic(), _cpu_seconds()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="llmtune-faults-") as folder:
        shares = [
            Share(Path(folder) / f"share-{number}", number, options.processes, options.provider, options.fault)
            for number in range(options.processes)
        ]
        with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            runs = [pool.submit(run_share, share, options.at_once, options.verbose) for share in shares]
            for run in runs:
                outcomes += run.result()
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    wall, cpu = time.monotonic() - began, _cpu_seconds() - cpu_began
    print(f"{wall:.0f} s, {cpu:.0f} s of CPU; the longest: {slowest.title}, {slowest.seconds:.0f} s")
    failed = sum(outcome.problem is not None for outcome in outcomes)
    leaks, duplicates, orphans = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in ("leaks", "duplicates", "orphans")
    )
    print(
        f"faults: {len(outcomes)} tried, {failed} not survived, {leaks} leaks, {duplicates} duplicates,"
        f" {orphans} orphans",
    )
    return 1 if failed or leaks or duplicates or orphans else 0


if __name__ == "__main__":
    sys.exit(main())
