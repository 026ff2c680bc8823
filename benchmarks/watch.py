"""Follow 1,000 jobs from one process: llmtune's poller against a thread for each job over a vendor's SDK.

    python benchmarks/watch.py                          # 1,000 jobs of 240 seconds, about ten minutes
    python benchmarks/watch.py --runs 200 --seconds 20  # a quick look

Three processes: the vendor (a fake, on loopback), the naive loop, and llmtune; CPU seconds are those of the watching
process alone, from the moment the jobs exist to the moment the last one is known to have ended.

The naive loop is the one in vendors' own examples: a thread a job, `client.fine_tuning.jobs.retrieve(id)` through the
openai SDK (one client for all threads), `sleep(1)`. It keeps nothing. llmtune asks through its own poller, keeps every
metric, event and state in the store, looks once more at the end, and writes a report for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Threads:
    """The most threads seen at once."""

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, threading.active_count() - 1)  # not this one

    def stop(self) -> int:
        self._done.set()
        return self.most


def vendor(kind: str, runs: int, seconds: float) -> None:
    """Serve `runs` jobs that take `seconds` each, from when a line comes on standard input."""
    from llmtune.testing import Phase
    from llmtune.testing.serve import find_fake

    fake = find_fake(kind)()
    success = fake.walks["success"]
    training = next(at for at, phase in enumerate(success) if phase.training)
    walk = (Phase(success[training].word, looks=0, seconds=seconds, training=True), success[-1])
    fake.walks = {**fake.walks, "success": walk}  # type: ignore[misc]
    file = fake.new_file(b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}\n')
    fake.start()
    jobs = []
    for number in range(runs):
        body: dict[str, Any] = {"model": "gpt-4.1-mini-2025-04-14", "training_file": file.id}
        if kind == "fake":
            body = {"model": "m-1", "method": "sft", "adapter": "lora", "files": {"train": file.id}}
        job = fake.new_job(body, key=f"k{number}", prefix="ftjob-")
        job.data["epochs"] = 3  # what the openai fake notes down when a job comes in over the wire
        jobs.append(job.id)
    print(json.dumps({"url": fake.url, "jobs": jobs}), flush=True)
    sys.stdin.readline()
    for job in fake.jobs.values():
        job.created = job.since = fake.now()
    print("started", flush=True)
    sys.stdin.readline()
    print(json.dumps({"requests": len(fake.requests), "complaints": fake.complaints[:3]}), flush=True)


def naive(url: str, jobs: list[str], interval: float) -> dict[str, Any]:
    """A thread for each job, over the SDK."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-not-a-key", max_retries=5)
    ended: list[str] = []

    def watch(job: str) -> None:
        while True:
            status = client.fine_tuning.jobs.retrieve(job).status
            if status in ("succeeded", "failed", "cancelled"):
                ended.append(status)
                return
            time.sleep(interval)

    threads = Threads()
    began, used = time.monotonic(), cpu()
    watchers = [threading.Thread(target=watch, args=(job,), daemon=True) for job in jobs]
    for each in watchers:
        each.start()
    for each in watchers:
        each.join()
    return {
        "cpu": cpu() - used,
        "seconds": time.monotonic() - began,
        "threads": threads.stop(),
        "ended": len(ended),
        "succeeded": ended.count("succeeded"),
    }


def ours(url: str, jobs: list[str]) -> dict[str, Any]:
    """The poller. The runs are in the store as `start` leaves them."""
    import asyncio

    from llmtune.job.spec import DatasetSpec, TuningJob
    from llmtune.planning.plan import plan
    from llmtune.provider.types import JobRef, RunState
    from llmtune.runs.ids import new_run_id, run_key
    from llmtune.runs.planned import dump_settings
    from llmtune.runs.run import Run
    from llmtune.runs.store.records import RunRecord, dump_receipt
    from llmtune.runs.store.store import open_store
    from llmtune.testing.fake_provider import FakeProvider, FakeSettings

    home = Path(os.environ["LLMTUNE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    rows = home / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    rows.write_text("".join(json.dumps(row) + "\n" for _ in range(20)))
    job = TuningJob(name="watched", model="m-1", dataset=DatasetSpec(train=str(rows), split=(1.0, 0.0, 0.0)))
    provider = FakeProvider("fake", FakeSettings(base_url=url))
    receipt = dump_receipt(plan(job, provider))
    store = open_store()
    runs = []
    for each in jobs:
        run_id = new_run_id()
        now = time.time()
        record = RunRecord(
            id=run_id,
            key=run_key(run_id),
            name=job.name,
            provider="fake",
            kind="fake",
            model="m-1",
            fingerprint=run_id,
            state=RunState.QUEUED,
            created=now,
            updated=now,
            job=job.to_dict(),
            receipt=receipt,
            settings=dump_settings(provider),
        )
        store.begin(record)
        store.keep_ref(record, "job", "job", JobRef(id=each))
        runs.append(Run(run_id, store=store, provider=provider))

    threads = Threads()
    began, used = time.monotonic(), cpu()

    async def follow() -> list[Any]:
        return await asyncio.gather(*(run.wait_async() for run in runs), return_exceptions=True)

    reports = asyncio.run(follow())
    told = {"cpu": cpu() - used, "seconds": time.monotonic() - began, "threads": threads.stop()}
    failed = [each for each in reports if isinstance(each, BaseException)]
    if failed:
        print(f"first failure: {failed[0]!r}", file=sys.stderr)
    points = sum(len(run.metrics()) for run in runs)
    return told | {"ended": len(reports) - len(failed), "succeeded": len(reports) - len(failed), "points": points}


def measure(side: str, kind: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own, with a vendor of its own."""
    here = [sys.executable, __file__]
    sizes = ["--runs", str(asked.runs), "--seconds", str(asked.seconds), "--interval", str(asked.interval)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        tempfile.TemporaryDirectory(prefix="llmtune-watch-") as home,
        subprocess.Popen([*here, "--side", "vendor", "--kind", kind, *sizes], **pipes) as served,
    ):
        assert served.stdin is not None
        assert served.stdout is not None
        told = json.loads(served.stdout.readline())
        (Path(home) / "jobs.json").write_text(json.dumps(told))
        environment = os.environ | {"LLMTUNE_HOME": home}
        environment.pop("LLMTUNE_STORE", None)
        with subprocess.Popen([*here, "--side", side, *sizes], env=environment, **pipes) as watching:
            assert watching.stdout is not None
            served.stdin.write("go\n")
            served.stdin.flush()
            served.stdout.readline()
            result: dict[str, Any] = json.loads(watching.stdout.read().splitlines()[-1])
        served.stdin.write("done\n")
        served.stdin.flush()
        seen = json.loads(served.stdout.readline())
    if seen["complaints"]:
        raise SystemExit(f"the vendor complains: {seen['complaints']}")
    return result | {"requests": seen["requests"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long each job takes")
    parser.add_argument("--interval", type=float, default=1.0, help="the naive loop's sleep")
    parser.add_argument("--side", choices=["vendor", "naive", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="fake", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side == "vendor":
        vendor(asked.kind, asked.runs, asked.seconds)
        return 0
    if asked.side:
        told = json.loads((Path(os.environ["LLMTUNE_HOME"]) / "jobs.json").read_text())
        result = naive(told["url"], told["jobs"], asked.interval) if asked.side == "naive" else ours(**told)
        print(json.dumps(result), flush=True)
        return 0

    results = {"naive": measure("naive", "openai", asked), "llmtune": measure("ours", "fake", asked)}
    print(f"{asked.runs} jobs of {asked.seconds:g} s; naive: a thread each, openai SDK, sleep({asked.interval:g})")
    print(f"{'':<8} {'CPU s':>8} {'wall s':>8} {'threads':>8} {'requests':>9} {'ended':>6}")
    for name, each in results.items():
        print(
            f"{name:<8} {each['cpu']:>8.1f} {each['seconds']:>8.1f} {each['threads']:>8} {each['requests']:>9}"
            f" {each['ended']:>6}"
        )
    share = results["llmtune"]["cpu"] / results["naive"]["cpu"]
    all_ended = all(each["succeeded"] == asked.runs for each in results.values())
    whole = results["llmtune"]["points"] == asked.runs * 10
    print(f"metric points kept: {results['llmtune']['points']} of {asked.runs * 10}")
    print(f"threads: {results['llmtune']['threads']} (at most 32)  CPU: {share:.3f} of naive (at most 0.2)")
    return 0 if all_ended and whole and share <= 0.2 and results["llmtune"]["threads"] <= 32 else 1


if __name__ == "__main__":
    sys.exit(main())
