"""A service in memory that really learns, and runs of the loop in folders against it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from llmtune.errors import LlmtuneError, VendorError
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_tinker.fake.model import State
from llmtune_tinker.loop import (
    AdamSettings,
    CustomLoss,
    LoopLimits,
    LoopRow,
    Outcome,
    PassResult,
    StepCounter,
    StepResult,
)
from llmtune_tinker.preference_trainer import PreferenceLoopTrainer
from llmtune_tinker.run_folder import LoopFolder, LoopRequest, LoopResult
from llmtune_tinker.trainer import LoopTrainer


class Killed(BaseException):
    """The process is gone: whatever it would still do raises this too."""


@dataclass
class Service:
    """What outlives a process: saved states, and every update that was ever taken."""

    saved: dict[str, State] = field(default_factory=dict)
    passes: int = 0
    names: itertools.count[int] = field(default_factory=itertools.count)
    refuse_files: bool = False


@dataclass
class Answer:
    value: Any
    wait: Callable[[], None]

    def result(self) -> Any:
        self.wait()
        if isinstance(self.value, LlmtuneError):
            raise self.value
        return self.value


class InMemoryLoop:
    """A `TrainingLoop` that really learns. It dies at its call number `dies_at`, before or after that has an effect."""

    def __init__(self, service: Service, dies_at: float = float("inf")) -> None:
        self.limits = LoopLimits(losses=frozenset({"cross_entropy", "custom"}))
        self.service, self.dies_at = service, dies_at
        self.calls = 0.0
        self.steps = StepCounter()
        self.closed: list[tuple[str, str]] = []
        self.likelihood = 1.0
        self.refused: Answer | None = None

    def arrow(self) -> None:
        self.calls += 0.5
        if self.calls >= self.dies_at:
            raise Killed

    def open(self, state: str | None, step: int) -> None:
        self.arrow()
        self.state = State() if state is None else self.service.saved[state]
        self.gradient: Any = None
        self.model = next(self.service.names)
        self.steps = StepCounter(applied=step)
        assert len(self.state.updates) == step
        self.arrow()

    def forward_backward(self, step: int, rows: Sequence[LoopRow]) -> Answer:
        self.arrow()
        self.steps.start_gradient(step)
        assert self.gradient is None
        self._add_gradient(rows)
        loss = self._loss(rows) * self.likelihood
        self.arrow()
        return Answer(PassResult(loss), self.arrow)

    def forward_backward_custom(self, step: int, rows: Sequence[LoopRow], loss: CustomLoss) -> Answer:
        """By two passes, as a service does it; what the loss raises comes out of the answer."""
        self.arrow()
        self.steps.start_gradient(step)
        assert self.gradient is None
        likelihoods = [torch.tensor(values * self.likelihood, requires_grad=True) for values in self._likelihoods(rows)]
        self.arrow()
        try:
            value = loss(likelihoods)
        except LlmtuneError as problem:  # what was sent after it is never taken
            self.refused = Answer(problem, self.arrow)
            return self.refused
        value.backward()  # type: ignore[no-untyped-call]
        weights = [-values.grad.numpy() for values in likelihoods if values.grad is not None]
        self._add_gradient([replace(row, weights=part) for row, part in zip(rows, weights, strict=True)])
        self.arrow()
        return Answer(PassResult(float(value.detach())), self.arrow)

    def _add_gradient(self, rows: Sequence[LoopRow]) -> None:
        self.gradient = sum(self.state.gradient(row.targets, row.weights) for row in rows)
        self.rows = sum(int(target) * (place + 1) for row in rows for place, target in enumerate(row.targets))

    def optimizer_step(self, step: int, settings: AdamSettings) -> Answer:
        self.arrow()
        self.steps.start_update(step)
        if self.refused is not None:
            return self.refused
        values = {
            "learning_rate": settings.learning_rate,
            "beta1": settings.beta1,
            "beta2": settings.beta2,
            "eps": settings.epsilon,
            "weight_decay": settings.weight_decay,
            "grad_clip_norm": settings.grad_clip_norm,
        }
        self.state, self.gradient = self.state.update(self.gradient, self.rows, values), None
        self.arrow()
        return Answer(StepResult(1.0), self.arrow)

    def forward(self, rows: Sequence[LoopRow]) -> PassResult:
        self.arrow()
        self.service.passes += 1
        result = PassResult(self._loss(rows), self._likelihoods(rows))
        self.arrow()
        return result

    def _likelihoods(self, rows: Sequence[LoopRow]) -> tuple[Any, ...]:
        return tuple(self.state.log_likelihoods(row.targets) for row in rows)

    def _loss(self, rows: Sequence[LoopRow]) -> float:
        return float(sum(-(row.weights * self.state.log_likelihoods(row.targets)).sum() for row in rows))

    def save(self, name: str) -> str:
        self.arrow()
        address = f"tinker://{self.model}/weights/{name}"
        assert address not in self.service.saved, "the service takes no second state of one name"
        self.service.saved[address] = self.state
        self.arrow()
        return address

    def save_for_sampling(self, name: str) -> str:
        return self.save(f"sampler-{name}")

    def save_for_download(self, name: str) -> str:
        if self.service.refuse_files:
            raise VendorError("no files today")
        return self.save(f"files-{name}")

    def delete(self, address: str) -> None:
        self.arrow()
        self.service.saved.pop(address, None)

    def close(self, outcome: Outcome, detail: str) -> None:
        self.arrow()
        self.closed.append((outcome, detail))


def row(number: int) -> dict[str, Any]:
    answer = ("billing", "network", "sales")[number % 3]
    return {"messages": [{"role": "user", "content": f"ticket {number}"}, {"role": "assistant", "content": answer * 2}]}


def pair(number: int) -> dict[str, Any]:
    preferred, rejected = ("billing", "network") if number % 2 else ("sales team", "billing")
    return {
        "prompt": [{"role": "user", "content": f"ticket {number}"}],
        "chosen": [{"role": "assistant", "content": preferred}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


@dataclass
class Runs:
    """Runs of one dataset, each in a folder and at a service of its own."""

    root: Path

    def request(self, validation: bool = True, method: str = "sft", **recipe: Any) -> LoopRequest:
        files = {}
        for name, numbers in (("train", range(14)), ("validation", range(14, 18))):
            path = self.root / f"{name}.jsonl"
            make_row = pair if method == "dpo" else row
            path.write_text("".join(json.dumps(make_row(number)) + "\n" for number in numbers), encoding="utf-8")
            if validation or name == "train":
                files[name] = str(path)
        values = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05, "lr_schedule": "cosine", "warmup_steps": 2}
        return LoopRequest.model_validate(
            {
                "schema": 1,
                "model": "tiny",
                "method": method,
                "files": files,
                "seed": 7,
                "hyperparameters": values | recipe,
                "service": {"base_url": "http://127.0.0.1:9", "key_variable": "TINKER_API_KEY", "timeout": 1},
            }
        )

    def train(
        self,
        name: str,
        request: LoopRequest,
        *,
        kills: Sequence[float] = (),
        service: Service | None = None,
        stop: Callable[[], bool] = lambda: False,
        change: Callable[[InMemoryLoop], object] = lambda loop: None,
    ) -> tuple[LoopResult, LoopFolder, Service, InMemoryLoop]:
        folder = LoopFolder(self.root / name)
        if folder.find_request() is None:
            folder.write_request(request)
        service = service or Service()
        for dies_at in (*kills, float("inf")):
            loop = InMemoryLoop(service, dies_at)
            change(loop)
            resume = folder.last_attempt() > 0
            with StatusWriter(folder) as journal:
                trainer_class = PreferenceLoopTrainer if request.method == "dpo" else LoopTrainer
                trainer = trainer_class(folder, request, journal, stop, loop)
                try:
                    return trainer.run(resume=resume), folder, service, loop
                except Killed:
                    continue
        raise AssertionError("it was not trained to its end")


def curves(folder: LoopFolder) -> dict[tuple[str, int], float]:
    points = folder.read_metrics()[0]
    values = {(point.series, point.step): point.value for point in points if "tokens_per_second" not in point.series}
    assert len(values) == len([point for point in points if "tokens_per_second" not in point.series]), "no point twice"
    return values
