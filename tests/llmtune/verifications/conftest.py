"""A tuned `tiny`, its base and another one, and the reference that servers are verified against."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmtune.job.spec import TuningJob
from llmtune.runs.api import start
from llmtune.runs.run import Run
from llmtune.runs.verify_run import open_reference
from llmtune.verifications.verify import Reference
from tests.llmtune.verifications.serving import Model

THINGS = ("lamp", "kettle", "printer", "tent", "phone", "chair", "camera", "desk", "radio", "mixer")
DRINKS = ("café", "crème brûlée", "Öl", "jalapeño", "smørrebrød")
NAMES = ("Zoë", "José", "Ute", "Anaïs", "Tom")
CITIES = ("Köln", "Paris", "Rome", "Oslo", "Lima")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def make_rows(count: int) -> list[dict[str, Any]]:
    """Rows of four shapes: a question alone, one behind a system turn, the third turn of a conversation, and a tool."""
    rows = []
    for n in range(count):
        thing, drink, name, city = THINGS[n % 10], DRINKS[n // 2 % 5], NAMES[n // 3 % 5], CITIES[n // 4 % 5]
        shapes: list[dict[str, Any]] = [
            {
                "messages": [
                    {"role": "user", "content": f"My {thing} number {n} has not arrived."},
                    {"role": "assistant", "content": f"Team <shipping & parcels> looks for the {thing.upper()}."},
                ]
            },
            {
                "messages": [
                    {"role": "system", "content": "You turn orders into JSON."},
                    {"role": "user", "content": f"{n % 7 + 2} times {drink}, table {n}"},
                    {
                        "role": "assistant",
                        "content": json.dumps({"item": drink, "count": n % 7 + 2}, ensure_ascii=False),
                    },
                ]
            },
            {
                "messages": [
                    {"role": "user", "content": f"I am {name}, customer {n}."},
                    {"role": "assistant", "content": f"Hello {name}!", "weight": 0},
                    {"role": "user", "content": f"Where is my {thing}?"},
                    {"role": "assistant", "content": f"Your {thing} is on its way, {name}."},
                ]
            },
            {
                "tools": [TOOL],
                "messages": [
                    {"role": "user", "content": f"What is the weather in {city} on day {n}?"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "call_0",
                                "type": "function",
                                "function": {
                                    "name": "get_weather",
                                    "arguments": json.dumps({"city": city}, ensure_ascii=False),
                                },
                            }
                        ],
                    },
                ],
            },
        ]
        rows.append(shapes[n % 4])
    return rows


@contextmanager
def home_at(folder: Path) -> Iterator[None]:
    """Give llmtune a home that outlives one test."""
    before = {name: os.environ.get(name) for name in ("LLMTUNE_HOME", "HF_HUB_OFFLINE")}
    os.environ |= {"LLMTUNE_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def train(folder: Path, *, rows: int = 240, held_out: int = 16, **settings: Any) -> Run:
    """Train `tiny` on the rows; the last ones are held out."""
    made = make_rows(rows + held_out)
    paths = {}
    for part, lines in (("train", made[:rows]), ("test", made[rows:])):
        paths[part] = folder / f"{part}.jsonl"
        paths[part].write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    job = TuningJob.model_validate(
        {
            "name": "desk",
            "dataset": {name: str(path) for name, path in paths.items()},
            "model": "tiny",
            "hyperparameters": {"epochs": 6, "batch_size": 8} | settings,
            "evaluation": {"baselines": [], "max_tokens": 48, "fit_rows": 0, "metrics": ["exact_match"]},
            "seed": 1,
        }
    )
    run = start(job, "local")
    run.wait()
    return run


@dataclass(frozen=True)
class World:
    """The reference, and the models that servers answer with; `changed` are tuned models whose weights were changed."""

    reference: Reference
    tuned: Model
    base: Model
    changed: dict[str, Model]


def change_weights(generator: Any, change: Any) -> Model:
    """A model of its own whose matrices were changed; `change` takes a name and the matrix."""
    import torch

    model = Model(generator)
    with torch.no_grad():
        for name, weight in model.network.causal.named_parameters():
            if weight.dim() == 2:
                weight.copy_(change(name, weight))
    return model


def quantise(open_tuned: Callable[[], Any], reference: Reference) -> Model:
    """The tuned model with its weights rounded, row by row, as coarsely as changes some answer."""
    for steps in (7, 5, 4, 3, 2):

        def change(_: str, weight: Any, steps: int = steps) -> Any:
            scale = weight.abs().amax(dim=1, keepdim=True) / steps
            return (weight / scale).round() * scale

        model = change_weights(open_tuned(), change)
        for request, answer in zip(reference.requests, reference.answers, strict=True):
            made = model.generate(model.renderer.prompt_ids(request.messages, request.tools), 48)
            if answer.text and model.tokenizer.decode(made.tokens, skip_special_tokens=True).strip() != answer.text:
                return model
    raise AssertionError("rounding to five values changed no answer")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A tuned `tiny` as the reference, and as the model of servers."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("verified")
    with home_at(folder / "home"):
        run = train(folder)
        with open_reference(run, 16, lambda _: None) as reference:
            base = run.provider.base_model(run.record.plan)
            random = torch.Generator().manual_seed(3)

            def open_tuned() -> Any:
                return run.provider.generator(run.model_ref)

            untuned = Model(run.provider.generator(base))
            changes = {
                "half_precision": lambda _, weight: weight.half().float(),
                "foreign": lambda _, weight: weight + weight.std() * torch.randn(weight.shape, generator=random),
            }
            changed = {name: change_weights(open_tuned(), change) for name, change in changes.items()}
            changed["quantised"] = quantise(open_tuned, reference)
            yield World(reference, Model(open_tuned()), untuned, changed)
