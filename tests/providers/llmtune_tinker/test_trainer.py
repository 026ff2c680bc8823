"""The loop in a folder, with a service in memory: exact steps, and a kill at every arrow changes nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtune.errors import InvalidJob, VendorError
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training.progress import Diverged, Stopped
from llmtune_tinker.fake.model import State
from llmtune_tinker.loop import AdamSettings, LoopLimits, LoopRow, Outcome, PassResult, StepCounter, StepResult
from llmtune_tinker.run_folder import LoopFolder, LoopRequest, LoopResult
from llmtune_tinker.trainer import (
    LoopTrainer,
    count_training_tokens,
    load_run_tokenizer,
    make_loop_row,
    read_run_rows,
)


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
        return self.value


class InMemoryLoop:
    """A `TrainingLoop` that really learns. It dies at its call number `dies_at`, before or after that has an effect."""

    limits = LoopLimits(losses=frozenset({"cross_entropy"}))

    def __init__(self, service: Service, dies_at: float = float("inf")) -> None:
        self.service, self.dies_at = service, dies_at
        self.calls = 0.0
        self.steps = StepCounter()
        self.closed: list[tuple[str, str]] = []
        self.likelihood = 1.0

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
        self.gradient = sum(self.state.gradient(row.targets, row.weights) for row in rows)
        self.rows = sum(int(target) * (place + 1) for row in rows for place, target in enumerate(row.targets))
        loss = self._loss(rows) * self.likelihood
        self.arrow()
        return Answer(PassResult(loss), self.arrow)

    def optimizer_step(self, step: int, settings: AdamSettings) -> Answer:
        self.arrow()
        self.steps.start_update(step)
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
        return PassResult(self._loss(rows))

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


@dataclass
class Runs:
    """Runs of one dataset, each in a folder and at a service of its own."""

    root: Path

    def request(self, validation: bool = True, **recipe: Any) -> LoopRequest:
        files = {}
        for name, numbers in (("train", range(14)), ("validation", range(14, 18))):
            path = self.root / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row(number)) + "\n" for number in numbers), encoding="utf-8")
            if validation or name == "train":
                files[name] = str(path)
        values = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05, "lr_schedule": "cosine", "warmup_steps": 2}
        return LoopRequest.model_validate(
            {
                "schema": 1,
                "model": "tiny",
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
                trainer = LoopTrainer(folder, request, journal, stop, loop)
                try:
                    return trainer.run(resume=resume), folder, service, loop
                except Killed:
                    continue
        raise AssertionError("it was not trained to its end")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    return Runs(tmp_path)


def curves(folder: LoopFolder) -> dict[tuple[str, int], float]:
    points = folder.read_metrics()[0]
    values = {(point.series, point.step): point.value for point in points if "tokens_per_second" not in point.series}
    assert len(values) == len([point for point in points if "tokens_per_second" not in point.series]), "no point twice"
    return values


def test_the_steps_are_those_of_the_request(runs: Runs) -> None:
    request = runs.request(weight_decay=0.1, max_grad_norm=0.5)
    result, folder, service, loop = runs.train("run", request)
    updates = service.saved[result.model].updates
    assert result.steps == len(updates) == 8  # 14 rows in batches of 4, twice
    assert [update.rate for update in updates[:3]] == [0.0, 0.025, 0.05]
    assert updates[3].rate > updates[7].rate > 0
    assert len({update.rows for update in updates}) == 8, "each step has rows of its own"
    losses = curves(folder)
    assert losses["validation/loss", 8] < losses["validation/loss", 0] == result.base_validation_loss
    assert loop.closed == [("success", "the run is complete")]
    assert result.tokens == count_training_tokens(
        request, read_run_rows(request, load_run_tokenizer(request), request.files.train, None)
    )


@pytest.mark.slow
def test_a_kill_at_every_arrow_takes_no_step_twice_and_changes_no_loss(runs: Runs) -> None:
    request = runs.request(checkpoint_every=2, eval_every=3)
    undisturbed, folder, service, loop = runs.train("undisturbed", request)
    updates, losses = service.saved[undisturbed.model].updates, curves(folder)
    arrows = int(loop.calls * 2)
    assert arrows > 60
    for arrow in range(1, arrows + 1):
        result, folder, service, _ = runs.train(f"killed-{arrow}", request, kills=[arrow / 2])
        assert service.saved[result.model].updates == updates, f"arrow {arrow}"
        assert curves(folder) == losses, f"arrow {arrow}"
        assert (result.train_loss, result.validation_loss) == (undisturbed.train_loss, undisturbed.validation_loss)


def test_several_kills_in_one_run_change_nothing_either(runs: Runs) -> None:
    request = runs.request(checkpoint_every=1)
    undisturbed, _, service, _ = runs.train("undisturbed", request)
    updates = service.saved[undisturbed.model].updates
    result, _, service, _ = runs.train("killed", request, kills=[9, 7.5, 12, 3, 5.5])
    assert service.saved[result.model].updates == updates


@pytest.mark.slow
def test_a_kill_while_early_stopping_watches_keeps_the_same_step(runs: Runs) -> None:
    settings = {"learning_rate": 3.0, "lr_schedule": "constant", "epochs": 4, "eval_every": 1}
    request = runs.request(early_stopping_patience=2, **settings)
    undisturbed, folder, service, loop = runs.train("undisturbed", request)
    assert 0 < undisturbed.steps < 16
    assert undisturbed.best_step is not None
    assert undisturbed.best_step < undisturbed.steps
    best = service.saved[undisturbed.model].updates
    assert len(best) == undisturbed.best_step
    assert undisturbed.validation_loss == min(
        value for (series, _), value in curves(folder).items() if series == "validation/loss"
    )
    for arrow in range(1, int(loop.calls * 2) + 1, 4):
        result, _, service, _ = runs.train(f"killed-{arrow}", request, kills=[arrow / 2])
        assert service.saved[result.model].updates == best, f"arrow {arrow}"
        assert result.best_step == undisturbed.best_step


def test_old_states_are_deleted_and_the_last_ones_stay(runs: Runs) -> None:
    result, folder, service, _ = runs.train("run", runs.request(validation=False, checkpoint_every=1))
    names = sorted(address.rpartition("/")[2] for address in service.saved)
    assert names == ["files-final", "sampler-final", "step-7", "step-8"]
    assert sorted(folder.checkpoints()) == [7, 8]
    assert result.state.endswith("step-8")


def test_a_request_to_stop_saves_the_state_and_the_run_continues_from_it(runs: Runs) -> None:
    request, service = runs.request(), Service()
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) == 4

    with pytest.raises(Stopped):
        runs.train("run", request, service=service, stop=stop)
    folder = LoopFolder(runs.root / "run")
    assert sorted(folder.checkpoints()) == [3]
    assert folder.resume_step() == 3
    result, *_ = runs.train("run", request, service=service)
    assert len(service.saved[result.model].updates) == 8
    undisturbed, _, other, _ = runs.train("undisturbed", request)
    assert service.saved[result.model].updates == other.saved[undisturbed.model].updates


def test_a_loss_that_is_no_number_ends_the_run_and_its_session(runs: Runs) -> None:
    loops: list[InMemoryLoop] = []

    def change(loop: InMemoryLoop) -> None:
        loop.likelihood = float("nan")
        loops.append(loop)

    with pytest.raises(Diverged, match="no longer a number at step 1"):
        runs.train("run", runs.request(), change=change)
    assert loops[0].closed[0][0] == "errored"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_session_that_cannot_be_ended_changes_no_outcome(runs: Runs, stopped: bool) -> None:
    def refuse(*_: str) -> None:
        raise VendorError("no such luck")

    def change(loop: InMemoryLoop) -> None:
        loop.close = refuse  # type: ignore[method-assign]

    if stopped:
        with pytest.raises(Stopped):
            runs.train("run", runs.request(), change=change, stop=lambda: True)
    else:
        assert runs.train("run", runs.request(), change=change)[0].steps == 8
    events = LoopFolder(runs.root / "run").read_events()[0]
    assert any("the session could not be ended: no such luck" in event.message for event in events)


def test_a_service_without_files_still_gives_a_model(runs: Runs) -> None:
    result, folder, *_ = runs.train("run", runs.request(), service=Service(refuse_files=True))
    assert result.files is None
    assert any("cannot be taken home: no files today" in event.message for event in folder.read_events()[0])


def test_early_stopping_without_validation_rows_is_refused_before_the_service_is_asked(runs: Runs) -> None:
    with pytest.raises(InvalidJob, match="early stopping needs validation rows"):
        runs.train("run", runs.request(validation=False, early_stopping_patience=1))


def test_a_tokenizer_that_is_not_there_names_the_option(runs: Runs) -> None:
    request = runs.request().model_copy(update={"tokenizer": str(runs.root / "none")})
    with pytest.raises(InvalidJob) as caught:
        load_run_tokenizer(request)
    assert "provider_options.tinker.tokenizer" in (caught.value.hint or "")


@pytest.mark.parametrize("prompt_weight", [0.0, 0.25, 1.0])
def test_weights_reach_the_tokens_that_they_belong_to(prompt_weight: float) -> None:
    from llmtune_local.batching.token_rows import TokenRow

    completion = np.array([False, False, True, True, False])
    sent = make_loop_row(TokenRow(np.arange(5, dtype=np.int32), completion), prompt_weight=prompt_weight, scale=0.5)
    if prompt_weight == 0:  # what comes after the last trained token is not sent
        assert sent.inputs.tolist() == [0, 1, 2]
        assert sent.targets.tolist() == [1, 2, 3]
        assert sent.weights.tolist() == [0.0, 0.5, 0.5]
    else:
        assert sent.targets.tolist() == [1, 2, 3, 4]
        assert sent.weights.tolist() == pytest.approx([prompt_weight / 2, 0.5, 0.5, prompt_weight / 2])


def test_tokens_are_counted_by_the_runs_own_steps(runs: Runs) -> None:
    request = runs.request(max_steps=5)
    result, *_ = runs.train("run", request)
    rows = read_run_rows(request, load_run_tokenizer(request), request.files.train, None)
    assert result.tokens == count_training_tokens(request, rows)
