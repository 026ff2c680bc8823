"""Preferences in the loop: DPO's figures, a reference that is taken once, and a kill at every arrow."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from llmtune.errors import InvalidData, VendorError
from llmtune_local.training.progress import Diverged, Stopped
from llmtune_tinker.loop import LoopLimits, PassResult
from llmtune_tinker.run_folder import LoopFolder
from tests.providers.llmtune_tinker.in_memory import InMemoryLoop, Killed, Runs, Service, curves, row

SERIES = ("loss", "reward_margin", "reward_accuracy", "reward_preferred", "reward_rejected")


def test_a_run_learns_which_answer_is_preferred(runs: Runs) -> None:
    result, folder, service, loop = runs.train("run", runs.request(method="dpo", dpo_beta=0.5))
    points = curves(folder)
    assert result.steps == len(service.saved[result.model].updates) == 8  # 14 pairs in batches of 4, twice
    assert {series for series, _ in points} >= {f"{part}/{name}" for part in ("train", "validation") for name in SERIES}
    # before the first step model and reference are the same
    assert points["train/loss", 1] == pytest.approx(math.log(2))
    assert points["validation/loss", 0] == result.base_validation_loss == pytest.approx(math.log(2))
    assert points["validation/reward_margin", 0] == 0
    assert points["validation/loss", 8] < math.log(2)
    assert points["validation/reward_accuracy", 8] == 1
    margin = points["train/reward_preferred", 8] - points["train/reward_rejected", 8]
    assert points["train/reward_margin", 8] == pytest.approx(margin)
    assert loop.closed == [("success", "the run is complete")]


def test_beta_and_smoothing_shape_the_loss(runs: Runs) -> None:
    _, plain, _, _ = runs.train("plain", runs.request(method="dpo"))
    _, sharp, _, _ = runs.train("sharp", runs.request(method="dpo", dpo_beta=1.0))
    _, smooth, _, _ = runs.train("smooth", runs.request(method="dpo", dpo_beta=1.0, label_smoothing=0.2))
    assert curves(sharp)["train/reward_margin", 8] > curves(plain)["train/reward_margin", 8]
    assert curves(smooth)["train/loss", 8] > curves(sharp)["train/loss", 8]
    # validation is measured without smoothing
    assert curves(smooth)["validation/loss", 0] == pytest.approx(math.log(2))


def test_the_reference_is_taken_once_and_a_resumed_run_goes_by_the_same(runs: Runs) -> None:
    request, service = runs.request(method="dpo", checkpoint_every=2), Service()
    runs.train("run", request, service=service, kills=[30])
    reference = np.load(runs.root / "run" / "reference.npy")
    assert reference.shape == (18, 2)
    # one pass over all pairs; validation before the first step needs none, and the last is taken once
    undisturbed = Service()
    runs.train("undisturbed", request, service=undisturbed)
    assert np.array_equal(np.load(runs.root / "undisturbed" / "reference.npy"), reference)
    assert service.passes - undisturbed.passes <= 1


def test_a_lost_reference_is_taken_of_a_fresh_model_not_of_the_trained_one(runs: Runs) -> None:
    request, service = runs.request(method="dpo", checkpoint_every=1), Service()
    undisturbed, folder, other, _ = runs.train("undisturbed", request)
    losses = curves(folder)

    class Once(InMemoryLoop):
        def save(self, name: str) -> str:
            address = super().save(name)
            if name == "step-5":
                raise Killed
            return address

    folder = LoopFolder(runs.root / "run")
    folder.write_request(request)
    with pytest.raises(AssertionError, match="not trained to its end"):
        runs.train("run", request, service=service, change=lambda loop: setattr(loop, "__class__", Once))
    path = runs.root / "run" / "reference.npy"
    path.write_bytes(path.read_bytes()[:40])
    result, folder, _, _ = runs.train("run", request, service=service)
    assert curves(folder) == losses
    assert service.saved[result.model].updates == other.saved[undisturbed.model].updates


@pytest.mark.slow
def test_a_kill_at_every_arrow_takes_no_step_twice_and_changes_no_loss(runs: Runs) -> None:
    request = runs.request(method="dpo", checkpoint_every=2, eval_every=3, epochs=1)
    undisturbed, folder, service, loop = runs.train("undisturbed", request)
    updates, points = service.saved[undisturbed.model].updates, curves(folder)
    reference = np.load(folder.path / "reference.npy")
    arrows = int(loop.calls * 2)
    assert arrows > 35
    for arrow in range(1, arrows + 1):
        result, folder, service, _ = runs.train(f"killed-{arrow}", request, kills=[arrow / 2])
        assert service.saved[result.model].updates == updates, f"arrow {arrow}"
        assert curves(folder) == points, f"arrow {arrow}"
        assert np.array_equal(np.load(folder.path / "reference.npy"), reference)
        assert (result.train_loss, result.validation_loss) == (undisturbed.train_loss, undisturbed.validation_loss)


def test_several_kills_in_one_run_change_nothing_either(runs: Runs) -> None:
    request = runs.request(method="dpo", checkpoint_every=1)
    undisturbed, folder, service, _ = runs.train("undisturbed", request)
    updates, points = service.saved[undisturbed.model].updates, curves(folder)
    result, folder, service, _ = runs.train("killed", request, kills=[1, 1.5, 9, 7.5, 12, 3, 5.5])
    assert service.saved[result.model].updates == updates
    assert curves(folder) == points


def test_early_stopping_keeps_the_best_step(runs: Runs) -> None:
    settings = {"learning_rate": 1.0, "lr_schedule": "constant", "epochs": 6, "eval_every": 1, "dpo_beta": 5.0}
    result, folder, service, _ = runs.train("run", runs.request(method="dpo", early_stopping_patience=2, **settings))
    losses = {step: value for (series, step), value in curves(folder).items() if series == "validation/loss"}
    assert result.best_step is not None
    assert len(service.saved[result.model].updates) == result.best_step
    assert result.validation_loss == losses[result.best_step] == min(losses.values())


def test_a_stop_while_the_reference_is_taken_ends_before_a_step(runs: Runs) -> None:
    with pytest.raises(Stopped):
        runs.train("run", runs.request(method="dpo"), stop=lambda: True)
    folder = LoopFolder(runs.root / "run")
    assert folder.checkpoints() == {}
    assert not (folder.path / "reference.npy").exists()


def test_a_loss_that_is_no_number_is_never_sent(runs: Runs) -> None:
    loops: list[InMemoryLoop] = []

    def change(loop: InMemoryLoop) -> None:
        loop.likelihood = float("nan")
        loops.append(loop)

    with pytest.raises(Diverged, match="no longer a number at step 1"):
        runs.train("run", runs.request(method="dpo", validation=False), change=change)
    assert loops[0].gradient is None
    assert loops[0].closed[0][0] == "errored"


def test_a_service_without_likelihoods_is_said_before_anything_is_trained(runs: Runs) -> None:
    def change(loop: InMemoryLoop) -> None:
        loop.forward = lambda rows: PassResult(1.0)  # type: ignore[method-assign]

    with pytest.raises(VendorError, match="without the likelihood of each token, which DPO needs"):
        runs.train("run", runs.request(method="dpo"), change=change)


def test_a_service_that_takes_no_loss_of_ours_is_refused(runs: Runs) -> None:
    def change(loop: InMemoryLoop) -> None:
        loop.limits = LoopLimits(losses=frozenset({"cross_entropy"}))

    with pytest.raises(Exception, match="takes no gradient of a loss that is computed elsewhere"):
        runs.train("run", runs.request(method="dpo"), change=change)


def test_rows_that_are_no_pairs_are_named(runs: Runs) -> None:
    request = runs.request(method="dpo")
    (runs.root / "train.jsonl").write_text(json.dumps(row(1)) + "\n", encoding="utf-8")
    with pytest.raises(InvalidData, match=r"train\.jsonl"):
        runs.train("run", request)
