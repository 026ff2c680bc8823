"""What `llmtune serve` adds to the time of an answer, over asking the backend itself, in turn in one run.

    python benchmarks/serve.py [--questions 100]

Backends: a vendor on loopback (the neutral fake, by its own adapter) and `tiny` on this machine, 16 tokens an answer.
Asked: the backend directly, the endpoint by OpenAI's client, and the endpoint as a stream to its end. Floor: one HTTP
request on loopback, GET /health by the library that the client stands on. Then what
`llmtune serve --tuning` takes to say how a job stands: `fine_tuning.jobs.retrieve`, over jobs that have ended, while as
many others are followed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmtune-serve-") as home:
        os.environ["LLMTUNE_HOME"] = home
        measure(Path(home), asked.questions)


def measure(home: Path, questions: int) -> None:
    import llmtune
    from llmtune import EvaluationSpec, Hyperparameters, TuningJob
    from llmtune.runs.api import attach
    from llmtune.runs.poller import PollInterval
    from llmtune.testing.generic_vendor import Fake

    rows = [
        {"messages": [{"role": "user", "content": f"case {n}"}, {"role": "assistant", "content": "yn"[n % 2]}]}
        for n in range(60)
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Fake() as vendor:
        os.environ["LLMTUNE_FAKE_BASE_URL"] = vendor.url
        for provider, model in (("fake", "m-1"), ("local", "tiny")):
            job = TuningJob(
                name=provider,
                dataset=str(home / "rows.jsonl"),
                model=model,
                hyperparameters=Hyperparameters(epochs=1, max_steps=2),
                evaluation=EvaluationSpec(max_rows=4),
            )
            llmtune.start(job, provider).wait(pace=PollInterval(first=0.05, most=0.2))
            compare(provider, attach(provider), questions)
        retrieve(questions)


def retrieve(questions: int) -> None:
    import openai

    from llmtune.runs.planned import StartOptions
    from llmtune.server.tuning.server import TuningServer

    key = os.environ["LLMTUNE_SERVE_KEY"] = "benchmark"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with (
        TuningServer({"base": "fake:m-1"}, port=0, spending=StartOptions(yes=True)) as server,
        openai.OpenAI(base_url=server.url, api_key=key) as api,
    ):
        content = (json.dumps(row) + "\n").encode() * 20
        file = api.files.create(file=("train.jsonl", content), purpose="fine-tune").id
        create = api.fine_tuning.jobs.create
        ids = [create(model="base", training_file=file, seed=number).id for number in range(20)]
        while any(job.status not in ("succeeded", "failed") for job in api.fine_tuning.jobs.list()):
            time.sleep(0.5)
        for number in range(20, 40):
            create(model="base", training_file=file, seed=number)
        times = []
        for number in range(questions * 3):
            began = time.perf_counter()
            api.fine_tuning.jobs.retrieve(ids[number % len(ids)])
            times.append(time.perf_counter() - began)
    ordered = sorted(times[3:])
    middle, late = statistics.median(ordered), ordered[int(0.95 * len(ordered))]
    print(f"fine_tuning.jobs.retrieve, {len(ordered)} times: p50 {1000 * middle:.1f} ms, p95 {1000 * late:.1f} ms")


def compare(name: str, run: Any, questions: int) -> None:
    import httpx
    import openai

    from llmtune.data.example import Message
    from llmtune.provider.generation import GenerationRequest
    from llmtune.server.server import Server

    found: dict[str, list[float]] = {}
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 16}

    def timed(way: str, ask: Callable[[], Any]) -> None:
        began = time.perf_counter()
        ask()
        found.setdefault(way, []).append(time.perf_counter() - began)

    server = Server([run], port=0)
    with server, openai.OpenAI(base_url=server.url, api_key="none") as api, httpx.Client() as plain:
        root = server.url.removesuffix("/v1")
        direct = server.queues[0].generator  # both ways meet the same backend
        for number in range(questions + 3):
            text = f"case {number}"
            request = GenerationRequest(messages=(Message("user", text),), temperature=0, max_tokens=16)
            body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": text}], **settings}
            ways: dict[str, Callable[[], Any]] = {
                "GET /health": lambda: plain.get(f"{root}/health"),
                "the backend": lambda request=request: direct.generate([request]),
                "the endpoint": lambda body=body: api.chat.completions.create(**body),
                "as a stream": lambda body=body: list(api.chat.completions.create(stream=True, **body)),
            }
            for way, ask in ways.items():
                timed(way, ask)
        with ThreadPoolExecutor(64) as pool:
            body = {"model": name, "messages": [{"role": "user", "content": "case 1"}], **settings}
            began = time.perf_counter()
            list(pool.map(lambda _: api.chat.completions.create(**body), range(256)))
            together = 256 / (time.perf_counter() - began)
    print(f"{name}, {questions} questions")
    print("| way | p50 ms | p95 ms | over the backend, p50 |")
    print("|---|---|---|---|")
    base = statistics.median(found["the backend"][3:])
    for way, times in found.items():
        ordered = sorted(times[3:])
        middle = statistics.median(ordered)
        over = "" if way == "GET /health" else f"{1000 * (middle - base):+.1f} ms"
        print(f"| {way} | {1000 * middle:.1f} | {1000 * ordered[int(0.95 * len(ordered))]:.1f} | {over} |")
    print(f"64 clients at once: {together:.0f} answers a second\n", flush=True)


if __name__ == "__main__":
    main()
