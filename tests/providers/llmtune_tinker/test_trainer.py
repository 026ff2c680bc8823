"""The loop in a folder, with a service in memory: exact steps, and a kill at every arrow changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from llmtune.errors import InvalidData, InvalidJob, VendorError
from llmtune_local.training.progress import Diverged, Stopped
from llmtune_tinker.loop import LoopLimits
from llmtune_tinker.run_folder import LoopFolder
from llmtune_tinker.trainer import count_training_tokens, load_run_tokenizer, make_loop_row, read_run_rows
from tests.providers.llmtune_tinker.in_memory import InMemoryLoop, Runs, Service, curves


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


def test_a_row_that_is_longer_than_the_service_takes_is_refused_before_it_is_asked(runs: Runs) -> None:
    def change(loop: InMemoryLoop) -> None:
        loop.limits = LoopLimits(losses=frozenset({"cross_entropy"}), max_row_tokens=8)

    with pytest.raises(InvalidData, match="limit is 8"):
        runs.train("run", runs.request(), change=change)


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
