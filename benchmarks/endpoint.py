"""What the tuning endpoint of a team holds: kills, many clients, many jobs, a large file.

    python benchmarks/endpoint.py                      # all parts, under 30 minutes
    python benchmarks/endpoint.py --part kills         # one of kills, tiny, clients, pages, upload

kills: servers in front of fake vendors are killed by SIGKILL, 200 times, at each step of a job and of an upload, and
from outside at any moment; each trial has a home and a vendor of its own, one file and one job. Lost is a file, a job
or a result that is not there at the end; doubled is one that is there twice, above all a second job at the vendor.
tiny: the same, 20 times, while `tiny` really trains on this machine: before it, at moments of the worker (it loads, it
trains, it validates, it is between two checkpoints, it writes its result) and after it; in every second trial the
worker is killed with the server. Every step must have the loss that it has when nobody is killed. clients: 64 clients
at once, of eight keys, each with a file, a job and a question. pages: 1,000 jobs, listed in pages. upload: 1 GB in
parts of 64 MB; the server's memory is the peak that Linux counted, less what it had before.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from endpoint_kills import kill_on_fakes, kill_on_tiny, training_rows
from endpoint_server import KEY, MODEL, Endpoint, peak_memory, reset_peak

from llmtune.testing.fake_vendor import Phase
from llmtune.testing.generic_vendor import Fake


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--kills", type=int, default=200, help="kills on fakes")
    parser.add_argument("--tiny", type=int, default=20, help="kills on the local trainer")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that are listed in pages")
    parser.add_argument("--at-once", type=int, default=2, help="kill trials side by side")
    options = parser.parse_args()
    os.environ.pop("LLMTUNE_CONFIG", None)
    failed = False
    for part in options.part or PARTS:
        began = time.monotonic()
        passed = PARTS[part](options)
        failed |= not passed
        load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(f"{part}: {'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s{load}\n", flush=True)
    return 1 if failed else 0


# --- many clients, many jobs, a large file ---------------------------------------------------------------------------
@contextmanager
def served(*, keys: int = 0) -> Iterator[tuple[Endpoint, Fake, list[str]]]:
    """Serve before one quick vendor; yield the keys of so many members, or the one key."""
    from llmtune.server.tuning.keys import add_key

    vendor = Fake()
    vendor.walks = Fake.walks | {"success": (Phase("queued"), Phase("training", training=True), Phase("succeeded"))}
    with vendor, tempfile.TemporaryDirectory(prefix="llmtune-endpoint-") as home:
        path = Path(home) / "keys.yaml"
        made = [
            add_key(path, f"member-{number}", max_unfinished_jobs=64, requests_per_minute=100_000)
            for number in range(keys)
        ]
        endpoint = Endpoint(Path(home), vendor.url, keys=str(path) if made else None)
        try:
            yield endpoint, vendor, made or [KEY]
        finally:
            endpoint.close()


def measure_clients(_: argparse.Namespace) -> bool:
    """64 clients at once; return whether each has exactly its own."""
    clients = 64
    times: dict[str, list[float]] = {}
    with served(keys=8) as (endpoint, vendor, keys):

        def timed(name: str, call: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            answer = call()
            times.setdefault(name, []).append(time.perf_counter() - began)
            return answer

        def work(number: int) -> tuple[str, str, int]:
            key = keys[number % len(keys)]
            with openai.OpenAI(base_url=endpoint.url, api_key=key, max_retries=0, timeout=300) as api:
                content = ("train.jsonl", training_rows(24, f"case of {number}"))
                file = timed("upload", lambda: api.files.create(file=content, purpose="fine-tune"))
                job = timed("create", lambda: api.fine_tuning.jobs.create(model=MODEL, training_file=file.id))
                while job.status not in ("succeeded", "failed", "cancelled"):
                    time.sleep(1)
                    job = timed("retrieve", lambda job=job: api.fine_tuning.jobs.retrieve(job.id))
                ask = api.chat.completions.create
                question = [{"role": "user", "content": "case 1"}]
                timed("ask the base model", lambda: ask(model=MODEL, messages=question, max_tokens=8))
                return job.id, job.status, len(list(api.fine_tuning.jobs.list(limit=100)))

        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            results = list(pool.map(work, range(clients)))
        seconds = time.perf_counter() - began
        statuses = Counter(status for _, status, _ in results)
        print(
            f"{clients} clients of {len(keys)} keys, {seconds:.1f} s: {dict(statuses)}, {len(vendor.jobs)} jobs there"
        )
        print_times(times)
        own = all(count <= clients // len(keys) for _, _, count in results)
        return statuses["succeeded"] == clients == len(vendor.jobs) == len({job for job, _, _ in results}) and own


def measure_pages(options: argparse.Namespace) -> bool:
    """1,000 jobs, listed in pages; return whether each is listed once."""
    count = options.jobs
    with served() as (endpoint, vendor, keys):
        with openai.OpenAI(base_url=endpoint.url, api_key=keys[0], max_retries=0, timeout=300) as api:
            file = api.files.create(file=("train.jsonl", training_rows(24)), purpose="fine-tune").id

            def create(number: int) -> str:
                return str(api.fine_tuning.jobs.create(model=MODEL, training_file=file, seed=number).id)

            began = time.perf_counter()
            with ThreadPoolExecutor(4) as pool:
                ids = set(pool.map(create, range(count)))
            created = time.perf_counter() - began
            for job_id in ids:  # each until it has ended, rather than all of them again and again
                while api.fine_tuning.jobs.retrieve(job_id).status not in ("succeeded", "failed"):
                    time.sleep(1)
            ended = time.perf_counter() - began
            print(
                f"{count} jobs created in {created:.0f} s, ended after {ended:.0f} s, {len(vendor.jobs)} at the vendor"
            )
            times: dict[str, list[float]] = {}
            complete = True
            for size in (20, 100):
                listed, after = [], None
                while True:
                    began = time.perf_counter()
                    page = api.fine_tuning.jobs.list(limit=size, **({} if after is None else {"after": after}))
                    times.setdefault(f"a page of {size} jobs", []).append(time.perf_counter() - began)
                    listed += [job.id for job in page.data]
                    if not page.has_more:
                        break
                    after = page.data[-1].id
                complete &= len(listed) == count and set(listed) == ids
            began = time.perf_counter()
            models = len(list(api.models.list()))
            times["every model"] = [time.perf_counter() - began]
            print_times(times)
            return complete and models == count + 1 and len(vendor.jobs) == count


def measure_upload(_: argparse.Namespace) -> bool:
    """1 GB in parts; return whether it arrived whole, and in less memory than one part has."""
    part = 64 << 20
    with tempfile.TemporaryDirectory(prefix="llmtune-endpoint-") as folder, served() as (endpoint, _vendor, keys):
        path = Path(folder) / "train.jsonl"
        block = training_rows(20_000, "order " * 20)
        checksum = hashlib.md5(usedforsecurity=False)
        with path.open("wb") as file:
            while file.tell() < 1 << 30:
                file.write(block)
                checksum.update(block)
        size, pid = path.stat().st_size, endpoint.process.pid or 0
        with openai.OpenAI(base_url=endpoint.url, api_key=keys[0], max_retries=0, timeout=600) as api:
            api.uploads.upload_file_chunked(
                file=block, filename="a.jsonl", bytes=len(block), mime_type="text/jsonl", purpose="fine-tune"
            )
            before = reset_peak(pid)
            began = time.perf_counter()
            upload = api.uploads.create(
                bytes=size, filename="train.jsonl", purpose="fine-tune", mime_type="text/jsonl"
            ).id
            part_ids = []
            with path.open("rb") as source:
                while piece := source.read(part):
                    part_ids.append(api.uploads.parts.create(upload, data=piece).id)
            received = time.perf_counter() - began
            done = api.uploads.complete(upload, part_ids=part_ids, md5=checksum.hexdigest())
            seconds = time.perf_counter() - began
        grown = peak_memory(pid) - before
        print(
            f"{size / (1 << 20):,.0f} MB in {len(part_ids)} parts: {received:.1f} s to receive, {seconds:.1f} s in all"
            f" ({size / seconds / 1e6:.0f} MB a second); memory {before / (1 << 20):.0f} MB before,"
            f" {grown / (1 << 20):+.1f} MB at the peak"
        )
        return done.file is not None and done.file.bytes == size and grown < part // 2


def print_times(times: dict[str, list[float]]) -> None:
    """Print how long requests took."""
    print("| request | times | p50 ms | p95 ms | most ms |")
    print("|---|---|---|---|---|")
    for name, seconds in times.items():
        ordered = sorted(1000 * value for value in seconds)
        late = ordered[int(0.95 * (len(ordered) - 1))]
        print(f"| {name} | {len(ordered)} | {statistics.median(ordered):.0f} | {late:.0f} | {ordered[-1]:.0f} |")


PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "kills": lambda options: kill_on_fakes(options.kills, options.at_once),
    "tiny": lambda options: kill_on_tiny(options.tiny, options.at_once),
    "clients": measure_clients,
    "pages": measure_pages,
    "upload": measure_upload,
}


if __name__ == "__main__":
    sys.exit(main())
