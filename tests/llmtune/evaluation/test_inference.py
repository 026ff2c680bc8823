"""Asking: bounded, patient, and never twice for one answer, also when the process is killed half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmtune._retry import RetryPolicy
from llmtune.data.example import Example, Message, ToolCall
from llmtune.errors import TransientError
from llmtune.evaluation.cache import FileCache, MemoryCache, answer_key
from llmtune.evaluation.evaluate import AnswerOptions, evaluate, model_identity
from llmtune.evaluation.inference import generate_answers
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.provider.types import ModelRef
from tests.llmtune.evaluation.conftest import LABELS, Likely, Scripted, limited, often, truth

QUICK = RetryPolicy(tries=3, first=0.0, most=0.0)
SPEC = EvaluationSpec(max_rows=500)


def request(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),), **settings)


def asked(model: Scripted, requests: list[GenerationRequest], **more: Any) -> list[Any]:
    options = {"model": "m", "cache": None, "patience": QUICK, "progress": lambda done, total: None} | more
    return generate_answers(model, requests, **options)


# --- concurrency ---------------------------------------------------------------------
def test_no_more_calls_run_at_once_than_the_generator_allows() -> None:
    model = Scripted(lambda prompt: prompt, max_concurrency=3)
    model.pause = 0.01
    answers = asked(model, [request(f"q {n}") for n in range(30)])
    assert 2 <= model.peak <= 3
    assert [answer.generation.text for answer in answers] == [f"q {n}" for n in range(30)]
    assert model.calls == 30


def test_a_generator_of_one_call_gets_its_requests_in_groups() -> None:
    model = Scripted(lambda prompt: prompt)
    answers = asked(model, [request(f"q {n}") for n in range(70)])
    assert model.calls == 3
    assert model.peak == 1
    assert [answer.generation.text for answer in answers] == [f"q {n}" for n in range(70)]


# --- patience ---------------------------------------------------------------------
def test_when_one_call_is_limited_all_wait() -> None:
    model = Scripted(lambda prompt: prompt, max_concurrency=4)
    model.faults = {"q 0": [limited(1.0)]}
    started = time.monotonic()
    times: list[float] = []
    asked(
        model,
        [request(f"q {n}") for n in range(40)],
        progress=lambda done, total: times.append(time.monotonic() - started),
    )
    assert len(model.asked) == 40
    assert max(times) >= 1.0
    during = [at for at in times if 0.5 < at < 0.98]
    assert during == []  # nothing was asked while the account was told to wait


def test_a_rate_limit_does_not_use_up_tries_while_others_get_through() -> None:
    model = Scripted(lambda prompt: prompt, max_concurrency=2)
    model.pause = 0.001
    model.faults = {"q 0": [limited(0.03) for _ in range(14)]}  # more refusals than tries
    patience = RetryPolicy(tries=6, first=0.0, most=0.0)
    answers = asked(model, [request(f"q {n}") for n in range(60)], patience=patience)
    assert all(answer.generation is not None for answer in answers)


def test_a_row_the_backend_always_breaks_on_is_that_rows_fault() -> None:
    model = Scripted(lambda prompt: prompt, max_concurrency=2)
    model.faults = {"q 3": [TransientError("internal error", status=500) for _ in range(50)]}
    answers = asked(model, [request(f"q {n}") for n in range(20)])
    assert [n for n, answer in enumerate(answers) if answer.refused] == [3]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_backend_that_is_down_stops_the_evaluation_and_loses_nothing(
    tickets: list[Example], concurrency: int
) -> None:
    cache = MemoryCache()
    model = Scripted(truth, max_concurrency=concurrency)
    model.faults = {f"ticket {n}": [TransientError("down", sent=False)] * 99 for n in range(100, 120)}
    with pytest.raises(TransientError, match="down"):
        evaluate(
            tickets,
            {"tuned": model},
            SPEC,
            scoring=ScoringOptions(labels=LABELS),
            answering=AnswerOptions(cache=cache, models={"tuned": "m"}, patience=QUICK),
        )
    before = list(model.asked)
    assert len(before) >= 90
    assert len(cache) == len(set(before))
    twice = len(before) - len(set(before))
    assert twice <= (31 if concurrency == 1 else 0)  # one group is gone through again, row by row
    model.faults = {}
    result = evaluate(
        tickets,
        {"tuned": model},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
        answering=AnswerOptions(cache=cache, models={"tuned": "m"}, patience=QUICK),
    )
    assert Counter(model.asked).keys() == Counter(before).keys() | {f"ticket {n}" for n in range(100, 120)}
    assert len(model.asked) == 120 + twice  # what there was is not asked again
    tuned = result.system("tuned")
    assert tuned is not None
    assert tuned["accuracy"].value == 1


# --- the cache ---------------------------------------------------------------------
def test_a_second_evaluation_asks_nothing(tickets: list[Example], tmp_path: Path) -> None:
    models = {"base": "provider base", "tuned": "provider tuned"}

    def run() -> tuple[Any, Scripted, Scripted]:
        base, tuned = Scripted(lambda _: "bug", max_concurrency=4), Scripted(often)
        result = evaluate(
            tickets,
            {"base": base, "tuned": tuned},
            SPEC,
            scoring=ScoringOptions(labels=LABELS),
            answering=AnswerOptions(cache=FileCache(tmp_path), models=models),
        )
        return result, base, tuned

    first, base, tuned = run()
    assert len(base.asked) == len(tuned.asked) == 120
    again, base, tuned = run()
    assert base.calls == tuned.calls == 0
    usage = again.system("tuned").usage
    assert (usage.asked, usage.cached, usage.completion_tokens) == (0, 120, 240)
    for name in ("base", "tuned"):
        assert again.system(name).metrics == first.system(name).metrics
        assert again.system(name).latency == first.system(name).latency


def test_likelihoods_and_losses_are_cached_too(tickets: list[Example], tmp_path: Path) -> None:
    for asks in (120, 0):
        model = Likely(often)
        evaluate(
            tickets,
            {"tuned": model},
            SPEC,
            scoring=ScoringOptions(labels=LABELS),
            answering=AnswerOptions(cache=FileCache(tmp_path), models={"tuned": "m"}),
        )
        assert len(model.scored) == asks
        assert len(model.lossy) == asks


def test_without_knowing_the_model_nothing_is_cached(tickets: list[Example]) -> None:
    cache = MemoryCache()
    evaluate(
        tickets,
        {"tuned": Likely(often)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
        answering=AnswerOptions(cache=cache),
    )
    evaluate(
        tickets,
        {"tuned": Scripted(often)},
        SPEC,
        scoring=ScoringOptions(labels=LABELS),
        answering=AnswerOptions(cache=cache),
    )
    assert len(cache) == 0


def test_whatever_could_change_an_answer_is_in_its_key() -> None:
    plain = answer_key("m", "text", request("hello"))
    assert plain == answer_key("m", "text", request("hello"))
    changed_keys = [
        answer_key("n", "text", request("hello")),
        answer_key("m", "labels", request("hello"), labels=["a"]),
        answer_key("m", "labels", request("hello"), labels=["b"]),
        answer_key("m", "text", request("hello!")),
        answer_key("m", "text", request("hello", temperature=0.5)),
        answer_key("m", "text", request("hello", top_p=0.5)),
        answer_key("m", "text", request("hello", top_k=5)),
        answer_key("m", "text", request("hello", max_tokens=5)),
        answer_key("m", "text", request("hello", seed=5)),
        answer_key("m", "text", request("hello", tools=({"type": "function"},))),
        answer_key("m", "text", GenerationRequest(messages=(Message("system", "x"), Message("user", "hello")))),
        answer_key("m", "text", GenerationRequest(messages=(Message("assistant", "hello"),))),
    ]
    assert len({plain, *changed_keys}) == len(changed_keys) + 1


def test_the_identity_of_a_model_is_everything_its_reference_says() -> None:
    one = model_identity("here", ModelRef(id="m", data={"b": 1, "a": 2}))
    assert one == model_identity("here", ModelRef(id="m", data={"a": 2, "b": 1}))
    assert one != model_identity("there", ModelRef(id="m", data={"a": 2, "b": 1}))
    assert one != model_identity("here", ModelRef(id="m", data={"a": 2, "b": 2}))


def test_the_cache_file_is_its_owners_and_survives_a_torn_line(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "run" / "answers")
    cache.put("one", {"text": "a\nb"})
    assert cache.path.stat().st_mode & 0o777 == 0o600
    with cache.path.open("ab") as file:
        file.write(b'{"key": "two", "value": {"te')  # killed in the middle of a line
    again = FileCache(tmp_path / "run" / "answers")
    assert len(again) == 1
    again.put("three", {"text": "c"})
    last = FileCache(tmp_path / "run" / "answers")
    assert last.get("one") == {"text": "a\nb"}
    assert last.get("two") is None
    assert last.get("three") == {"text": "c"}


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    threads = [
        threading.Thread(target=lambda start=start: [cache.put(f"{start}/{n}", {"n": n}) for n in range(50)])  # type: ignore[misc]
        for start in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(FileCache(tmp_path)) == 200


def test_tool_calls_come_back_from_the_cache_as_they_were() -> None:
    class Calls(Scripted):
        def _one(self, request: GenerationRequest) -> Generation:
            super()._one(request)
            return Generation(text="", tool_calls=(ToolCall("1", "f", '{"a": 1}'),), finish_reason="tool_calls")

    cache = MemoryCache()
    model = Calls(truth)
    first = asked(model, [request("ticket 1")], cache=cache)
    second = asked(model, [request("ticket 1")], cache=cache)
    assert len(model.asked) == 1
    assert second[0].generation == first[0].generation
    assert second[0].cached


# --- killed half-way ---------------------------------------------------------------------
KILLED = """
    import json, os, signal, sys, threading
    from pathlib import Path
    from llmtune.data.example import chat
    from llmtune.evaluation.cache import FileCache
    from llmtune.evaluation.evaluate import AnswerOptions, evaluate
    from llmtune.evaluation.task import ScoringOptions
    from llmtune.job.spec import EvaluationSpec
    from llmtune.provider import Generation

    folder, concurrency, kill_after = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    lock, answered = threading.Lock(), [0]

    class Paid:
        max_concurrency = concurrency
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def generate(self, requests):
            out = []
            for request in requests:
                with lock:
                    answered[0] += 1
                    with (folder / "paid.log").open("a") as log:
                        log.write(request.messages[-1].words + "\\n")
                    if answered[0] == kill_after:
                        os.kill(os.getpid(), signal.SIGKILL)
                out.append(Generation(text="even" if int(request.messages[-1].words) % 2 == 0 else "odd"))
            return out

    rows = [chat(("user", str(n)), ("assistant", "even" if n % 2 == 0 else "odd")) for n in range(150)]
    result = evaluate(rows, {"tuned": Paid()}, EvaluationSpec(max_rows=150), scoring=ScoringOptions(resamples=50),
                      answering=AnswerOptions(cache=FileCache(folder), models={"tuned": "m"}))
    print(json.dumps({"accuracy": result.system("tuned")["accuracy"].value}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_killed_evaluation_goes_on_without_asking_again(tmp_path: Path, concurrency: int) -> None:
    script = tmp_path / "evaluate_it.py"
    script.write_text(textwrap.dedent(KILLED), encoding="utf-8")

    def run(kill_after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(tmp_path), str(concurrency), str(kill_after)]
        return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120, check=False)

    first = run(kill_after=100)
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = run(kill_after=-1)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["accuracy"] == 1.0
    paid = Counter((tmp_path / "paid.log").read_text().split())
    assert len(paid) == 150
    twice = sum(count - 1 for count in paid.values())
    # Only what was under way when the process died: a group of 32 for one call at a time, else a call a thread.
    assert twice <= (32 if concurrency == 1 else concurrency)
    assert len(FileCache(tmp_path)) == 150
