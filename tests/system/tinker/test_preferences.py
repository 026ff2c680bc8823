"""Losses of preferences at Tinker beside two other computations: plain torch, and the local trainer on a real model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import llmtune.provider as core
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune_local.batching import step_order
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.schema import RunRequest
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training.dpo_trainer import PreferenceTrainer
from llmtune_tinker.fake.model import BINS
from llmtune_tinker.fake.service import FakeTinker
from llmtune_tinker.loop import AdamSettings, CustomLoss, LoopLimits, LoopRow, Outcome, PassResult, StepResult
from llmtune_tinker.preference_trainer import PreferenceLoopTrainer
from llmtune_tinker.provider import TinkerProvider
from llmtune_tinker.run_folder import LoopFolder, LoopRequest
from llmtune_tinker.trainer import load_run_tokenizer, read_run_pairs
from tests.providers.llmtune_tinker.conftest import QWEN, Threads, threads, tinker, tinker_vendor
from tests.providers.llmtune_tinker.in_memory import pair

__all__ = ["threads", "tinker", "tinker_vendor"]

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05, "lr_schedule": "constant"}
BETA, SMOOTHING = 0.4, 0.1
#: The service answers and is sent float32; the sums over a step are of some hundred tokens.
TOLERANCE = 1e-5


def write_pairs(path: Path, numbers: Sequence[int]) -> str:
    path.write_text("".join(json.dumps(pair(number)) + "\n" for number in numbers), encoding="utf-8")
    return str(path)


def run_to_its_end(provider: TinkerProvider, ref: core.JobRef, threads: Threads) -> core.Snapshot:
    threads.join()
    return provider.poll(ref, None)


def test_through_the_sdk_every_figure_is_that_of_plain_torch(
    tinker: TinkerProvider, tinker_vendor: FakeTinker, threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    job = TuningJob(
        name="pairs",
        dataset={
            "train": write_pairs(tmp_path / "t.jsonl", range(14)),
            "validation": write_pairs(tmp_path / "v.jsonl", range(14, 18)),
        },  # type: ignore[arg-type]
        model={"tinker": QWEN},
        method="dpo",
        hyperparameters=Hyperparameters.model_validate(
            RECIPE
            | {
                "dpo_beta": BETA,
                "label_smoothing": SMOOTHING,
                "weight_decay": 0.1,
                "eval_every": 1,
                "adam_epsilon": 1e-8,
            }
        ),
        provider_options={"tinker": {"tokenizer": "tiny"}},
    )
    dataset: Any = read_dataset(job)
    receipt = plan(job, tinker, dataset=dataset)
    assert receipt.refusals == ()
    encoded = tinker.encode(dataset, receipt, tmp_path / "encoded")
    request = tinker.build(receipt, {str(file.role): tinker.upload(file) for file in encoded.files})
    end = run_to_its_end(tinker, tinker.submit(request, run_key(new_run_id())), threads)
    assert end.state is core.RunState.SUCCEEDED, end.error
    points = {(point.series, point.step): point.value for point in end.points}

    # the service's model again, a bias for each token, with autograd and torch's own AdamW
    run = LoopRequest.model_validate(request.body)
    tokenizer = load_run_tokenizer(run)
    train = read_run_pairs(run, tokenizer, run.files.train, None).rows
    validation = read_run_pairs(run, tokenizer, str(run.files.validation), None).rows
    bias = torch.zeros(BINS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([bias], lr=0.05, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)

    def likelihood(side: Any) -> torch.Tensor:
        targets = torch.from_numpy(side.ids[1:][side.completion[1:]].astype(np.int64) % BINS)
        return functional.log_softmax(bias, dim=0)[targets].sum()

    def margins(pairs: Sequence[Any], reference: Sequence[float]) -> torch.Tensor:
        policy = torch.stack([likelihood(good) - likelihood(bad) for good, bad in pairs])
        return BETA * (policy - torch.tensor(reference, dtype=torch.float64))

    with torch.no_grad():
        reference = [float(likelihood(good) - likelihood(bad)) for good, bad in train]
        reference_validation = [float(likelihood(good) - likelihood(bad)) for good, bad in validation]
    steps = 0
    for number in range(8):
        indices = step_order.rows_of_step(len(train), 4, run.seed, number)
        margin = margins([train[index] for index in indices], [reference[index] for index in indices])
        loss = (-(1 - SMOOTHING) * functional.logsigmoid(margin) - SMOOTHING * functional.logsigmoid(-margin)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
        assert points["train/loss", steps] == pytest.approx(loss.item(), abs=TOLERANCE)
        assert points["train/reward_margin", steps] == pytest.approx(margin.mean().item(), abs=TOLERANCE)
        with torch.no_grad():
            held_out = margins(validation, reference_validation)
        assert points["validation/loss", steps] == pytest.approx(
            float(-functional.logsigmoid(held_out).mean()), abs=TOLERANCE
        )
        assert points["validation/reward_accuracy", steps] == float((held_out > 0).double().mean())
    assert steps == receipt.request.body["hyperparameters"]["epochs"] * math.ceil(14 / 4)  # type: ignore[union-attr]


class _Answered:
    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


class NetworkLoop:
    """A service whose model is the local trainer's own network, adapter and optimizer, behind the loop's protocol."""

    limits = LoopLimits(losses=frozenset({"custom"}))

    def __init__(self, request: RunRequest, folder: RunDir, writer: Any) -> None:
        self.trainer = PreferenceTrainer(folder, request, writer, lambda: False)
        self.trainer.setup()

    def open(self, state: str | None, step: int) -> None:
        assert (state, step) == (None, 0)

    def _likelihoods(self, rows: Sequence[LoopRow]) -> list[torch.Tensor]:
        values = []
        for row in rows:
            ids = torch.from_numpy(row.inputs).unsqueeze(0)
            logits = self.trainer.model(input_ids=ids).logits[0].float()
            targets = torch.from_numpy(row.targets)
            values.append(functional.log_softmax(logits, dim=1).gather(1, targets.unsqueeze(1)).squeeze(1))
        return values

    def forward(self, rows: Sequence[LoopRow]) -> PassResult:
        self.trainer.model.eval()
        with torch.no_grad():
            return PassResult(0.0, tuple(values.numpy().astype(np.float64) for values in self._likelihoods(rows)))

    def forward_backward_custom(self, step: int, rows: Sequence[LoopRow], loss: CustomLoss) -> _Answered:
        """As the service does it: a pass without a gradient, then cross-entropy weighted by the loss's gradient."""
        forward = [
            torch.tensor(values, dtype=torch.float32, requires_grad=True)
            for values in self.forward(rows).log_likelihoods or ()
        ]
        value = loss(forward)
        value.backward()  # type: ignore[no-untyped-call]
        self.trainer.model.train()
        self.trainer.optimizer.zero_grad()
        weights = [-values.grad for values in forward if values.grad is not None]
        surrogate = torch.stack(
            [-(weight * values).sum() for weight, values in zip(weights, self._likelihoods(rows), strict=True)]
        )
        surrogate.sum().backward()
        return _Answered(PassResult(float(value.detach())))

    def optimizer_step(self, step: int, settings: AdamSettings) -> _Answered:
        norm = torch.nn.utils.clip_grad_norm_(self.trainer.trained, settings.grad_clip_norm)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = settings.learning_rate
        self.trainer.optimizer.step()
        return _Answered(StepResult(float(norm)))

    def save(self, name: str) -> str:
        return f"memory://{name}"

    save_for_sampling = save_for_download = save

    def delete(self, address: str) -> None:
        pass

    def close(self, outcome: Outcome, detail: str) -> None:
        pass


def test_on_a_real_model_every_figure_is_that_of_the_local_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path / "home"))
    files = {
        "train": write_pairs(tmp_path / "t.jsonl", range(14)),
        "validation": write_pairs(tmp_path / "v.jsonl", range(14, 18)),
    }
    recipe = RECIPE | {
        "epochs": 1,
        "learning_rate": 4e-3,
        "lora_rank": 4,
        "dpo_beta": BETA,
        "label_smoothing": SMOOTHING,
        "eval_every": 2,
    }
    body = {
        "schema": 1,
        "model": "tiny",
        "method": "dpo",
        "adapter": "lora",
        "files": files,
        "seed": 3,
        "hyperparameters": recipe,
    }
    request = RunRequest.model_validate(body | {"options": {"device": "cpu", "dtype": "float32"}})

    local = RunDir(tmp_path / "local")
    local.write_request(request)
    with StatusWriter(local) as writer:
        PreferenceTrainer(local, request, writer, lambda: False).run()

    other = RunDir(tmp_path / "network")
    unpacked = request.hyperparameters.model_copy(update={"packing": False})
    other.write_request(request.model_copy(update={"hyperparameters": unpacked}))
    service = {"base_url": "http://127.0.0.1:9", "key_variable": "TINKER_API_KEY", "timeout": 1}
    loop_request = LoopRequest.model_validate(body | {"service": service})
    folder = LoopFolder(tmp_path / "loop")
    folder.write_request(loop_request)
    with StatusWriter(other) as unused, StatusWriter(folder) as writer:
        loop = NetworkLoop(other.read_request(), other, unused)
        PreferenceLoopTrainer(folder, loop_request, writer, lambda: False, loop).run()

    def curves(run: RunDir) -> dict[tuple[str, int], float]:
        return {(line.series, line.step): line.value for line in run.read_metrics()[0] if "second" not in line.series}

    expected, measured = curves(local), curves(folder)
    assert len([step for series, step in expected if series == "train/loss"]) == 4
    assert expected["train/loss", 4] < 0.65
    for key, value in measured.items():
        assert value == pytest.approx(expected[key], abs=2e-4), key
    assert set(expected) == set(measured)
