"""Whether each process of a run holds a whole model or a part of one, decided before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from llmtune_local.run_state.schema import RunRequest, WorkerOptions

Sharding = Literal["replicate", "shard"]

#: Share of the memory that whole models with gradients and optimizer may take: activations need the rest.
SHARE = 0.8

#: Optimizers whose update of a matrix needs all of it.
_WHOLE_MATRICES = ("adafactor", "torch.optim.Adafactor", "torch.optim.Muon")


def find_obstacle(*, method: str, adapter: str, optimizer: str | None, replay_share: float | None) -> str | None:
    """Return why the model of such a job cannot be cut up; None where it can."""
    if method != "sft":
        return f"method {method} needs the whole model in every process"
    if adapter not in ("lora", "full"):
        return f"adapter {adapter} is not trained in parts; lora and full are"
    if optimizer in _WHOLE_MATRICES:
        return f"optimizer {optimizer} needs whole matrices; adamw_torch, sgd, rmsprop and adagrad do not"
    if replay_share:
        return "replay_share has the model answer prompts before training, which needs all of it in one process"
    return None


def find_obstacle_of(request: RunRequest) -> str | None:
    """Return why the model of a request cannot be cut up; None where it can."""
    recipe = request.hyperparameters
    return find_obstacle(
        method=request.method,
        adapter=request.adapter,
        optimizer=recipe.optimizer,
        replay_share=recipe.replay_share,
    )


def check_sharding(request: RunRequest, device: str) -> None:
    """Raise `InvalidJob` where a model is to be cut up and cannot be, or is to be offloaded without being cut up."""
    options = request.options
    obstacle = "it takes several processes" if options.processes == 1 else find_obstacle_of(request)
    if options.sharding == "shard" and obstacle is not None:
        hint = "set processes" if options.processes == 1 else "set sharding: replicate, or leave it out"
        raise InvalidJob(f"shard: {obstacle}", where="provider_options.local.sharding", hint=hint)
    if options.offload and (device != "cuda" or obstacle is not None or options.sharding == "replicate"):
        raise InvalidJob(
            "offload is for a model that is cut up over several CUDA devices",
            where="provider_options.local.offload",
            hint="leave it out",
        )


def choose_sharding(options: WorkerOptions, obstacle: str | None, *, needed: int, available: int | None) -> Sharding:
    """Return what each process holds.

    `needed` are the bytes that whole models take with gradients and optimizer, `available` those that there are, None
    where that is not known; `obstacle` is why the model cannot be cut up.
    """
    if options.sharding is not None:
        return options.sharding
    if options.processes == 1 or obstacle is not None:
        return "replicate"
    return "shard" if options.offload or (available is not None and needed > SHARE * available) else "replicate"
