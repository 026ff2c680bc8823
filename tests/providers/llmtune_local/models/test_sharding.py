"""A model that is cut up over processes learns what a whole one learns, wherever a process is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmtune.provider.types import JobRef, RunState
from llmtune_local import LocalProvider
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.settings import LocalSettings
from llmtune_local.worker.launch import launch
from llmtune_local.worker.supervisor import keep_alive
from tests.providers.llmtune_local.worker_groups import ended, members, rank_of, series, temporary_run, wait

if sys.platform != "linux":
    pytest.skip("who is at work is read from /proc", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("heavy"), pytest.mark.timeout(400)]

FLOAT32 = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunDir]:
    yield from temporary_run(tmp_path)


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """Save a model whose embeddings are its head's weights too."""
    from tests.providers.llmtune_local.conftest import build_model, family

    tokenizer = family("chatml")
    model = build_model(
        "llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True
    )
    model.save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    """Save a model whose experts are one tensor in memory and several in its file."""
    from tests.providers.llmtune_local.conftest import build_model, family

    tokenizer = family("chatml")
    settings = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    names = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.05}
    build_model("qwen3_moe", **settings, **names).save_pretrained(tmp_path / "experts")
    tokenizer.save_pretrained(tmp_path / "experts")
    return tmp_path / "experts"


def weights_of(folder: RunDir) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.artefact.glob("*.safetensors")
    return load_file(file)


def refused_checkpoints(folder: RunDir) -> list[str]:
    return [event.message for event in folder.read_events()[0] if "cannot be used" in event.message]


@pytest.mark.parametrize(
    ("adapter", "processes", "more"),
    [
        ("lora", 2, {"gradient_checkpointing": True}),
        ("full", 4, {}),
    ],
)
def test_the_losses_and_weights_are_those_of_one_process(
    make_request: Callable[..., Any],
    train: Callable[..., Any],
    tied: Path,
    folder: RunDir,
    adapter: str,
    processes: int,
    more: dict[str, Any],
) -> None:
    request = {"adapter": adapter, "model": str(tied)}
    settings = {"epochs": 2, "learning_rate": 1e-3, "eval_every": 2, "batch_size": 6, "early_stopping_patience": 3}
    alone = train(request | {"options": FLOAT32}, **settings)
    options = FLOAT32 | more | {"processes": processes, "sharding": "shard"}
    folder.write_request(make_request(request | {"options": options}, **settings))
    launch(folder.path)
    assert ended(folder) == "succeeded"
    for name in ("train/loss", "validation/loss", "validation/token_accuracy", "train/grad_norm"):
        assert series(folder, name) == pytest.approx(series(alone.folder, name), rel=1e-4), name
    result, expected = folder.read_result(), alone.folder.read_result()
    assert result is not None
    assert "the model cut up" in result.features
    assert (result.files, result.trainable_parameters, result.total_parameters) == (
        expected.files,
        expected.trainable_parameters,
        expected.total_parameters,
    )
    learned, wanted = weights_of(folder), weights_of(alone.folder)
    assert learned.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensor.dtype == learned[name].dtype
        assert (tensor - learned[name]).abs().max() < 1e-4, name
    assert any("no validation rows are answered" in event.message for event in folder.read_events()[0])


def test_a_model_whose_tensors_must_be_loaded_together_is_cut_up_too(
    make_request: Callable[..., Any], train: Callable[..., Any], experts: Path, folder: RunDir
) -> None:
    settings = {"epochs": 1, "learning_rate": 1e-3, "optimizer": "sgd"}
    alone = train({"model": str(experts), "options": FLOAT32}, **settings)
    options = FLOAT32 | {"processes": 2, "sharding": "shard"}
    folder.write_request(make_request({"model": str(experts), "options": options}, **settings))
    launch(folder.path)
    assert ended(folder) == "succeeded"
    assert series(folder, "train/loss") == pytest.approx(series(alone.folder, "train/loss"), rel=1e-4)


def test_weights_are_read_one_by_one_where_they_have_the_names_they_have_in_memory(
    tied: Path, experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from llmtune_local.models import loading
    from llmtune_local.models.hub import load_config
    from llmtune_local.run_state.schema import TrainingConfig

    recipe = TrainingConfig(epochs=1, batch_size=1, learning_rate=1.0)

    def open_weights(model: str) -> Any:
        return loading.open_weights(model, None, loading.build_base(model, None, dtype=torch.float32, recipe=recipe))

    commit = tmp_path / "hub" / "models--me--tied" / "snapshots" / "abc"
    commit.parent.mkdir(parents=True)
    tied.rename(commit)
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for model in (str(commit), "me/tied"):
        weights = open_weights(model)
        network = loading.read_base(str(commit), None, torch.float32, load_config(str(commit), None))
        for name, tensor in network.named_parameters():
            assert torch.equal(weights.read(name), tensor), name
        weights.release()
    assert open_weights(str(experts)) is None
    file = commit / "model.safetensors"
    published = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    scaled = {name: published[name].to(torch.float8_e4m3fn)}
    for others in (scaled, {"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)}):
        save_file(published | others, file, metadata={"format": "pt"})
        assert open_weights(str(commit)) is None  # else a part of what the weights are would be left out


def test_a_run_whose_processes_are_killed_ends_as_an_undisturbed_one(
    make_request: Callable[..., Any], train: Callable[..., Any], folder: RunDir
) -> None:
    """One is killed before the first step, another while a checkpoint is written."""
    settings = {"epochs": 6, "checkpoint_every": 3, "dropout": 0.0}
    alone = train({"options": FLOAT32, "adapter": "full"}, **settings)
    request = {"options": FLOAT32 | {"processes": 2, "sharding": "shard"}, "adapter": "full"}
    folder.write_request(make_request(request, **settings))
    provider = LocalProvider("local", LocalSettings(runs=str(folder.path.parent)))
    job = JobRef(id=folder.path.name, url=None, data={"folder": str(folder.path)})

    def kill(rank: int, after: Callable[[], Any]) -> None:
        def ready() -> Any:
            provider.poll(job, None)
            return after() and [pid for pid in members(folder) if rank_of(pid) == rank]

        pids = wait(ready)
        assert pids
        os.kill(pids[0], signal.SIGKILL)

    keep_alive(folder)
    kill(1, lambda: (status := folder.read_status()) is not None and status.state == "starting")
    kill(0, lambda: list((folder.path / "checkpoints").glob("*step-*")))
    snapshot = wait(lambda: provider.poll(job, None), until=lambda polled: polled.state.final, seconds=240)
    assert snapshot.state is RunState.SUCCEEDED, snapshot.error
    status = folder.read_status()
    assert status is not None
    assert status.attempt in (2, 3)  # the first may have been killed before it wrote a status
    assert not refused_checkpoints(folder)
    assert series(folder, "train/loss") == pytest.approx(series(alone.folder, "train/loss"), rel=1e-3)
    checkpoint = max((folder.path / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    assert {path.name for path in checkpoint.iterdir()} == {"trainer.pt", "shard-0-of-2.pt", "shard-1-of-2.pt"}
    assert wait(lambda: members(folder), until=lambda pids: not pids) == []


def test_a_checkpoint_is_continued_by_another_number_of_processes(
    make_request: Callable[..., Any], train: Callable[..., Any], folder: RunDir
) -> None:
    """From two to four, in parts, then by one with the whole model."""
    settings = {"epochs": 3, "checkpoint_every": 4, "max_steps": 12}
    alone = train({"options": FLOAT32}, **settings)
    request = make_request({"options": FLOAT32 | {"processes": 2, "sharding": "shard"}}, **settings)
    folder.write_request(request)
    launch(folder.path)
    assert wait(lambda: folder.checkpoints())
    folder.cancel()
    assert ended(folder) == "cancelled"
    for options in ({"processes": 3, "sharding": "shard"}, {}):
        folder.uncancel()
        folder.write_request(make_request({"options": FLOAT32 | options}, **settings))
        launch(folder.path, resume=True)
        if options:
            steps = max(folder.checkpoints())
            if steps < 12:
                wait(lambda seen=steps: max(folder.checkpoints()) > seen)
            folder.cancel()
        assert ended(folder) in ("cancelled", "succeeded")
    assert not refused_checkpoints(folder)
    assert series(folder, "train/loss") == pytest.approx(series(alone.folder, "train/loss"), rel=1e-4)
