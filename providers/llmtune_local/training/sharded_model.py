"""Builds the model of a run that is cut up over its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llmtune_local.models import loading, sharding
from llmtune_local.models.hub import load_config
from llmtune_local.models.peft_adapter import add_adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmtune_local.models.sharding import ShardedModel
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.training.distributed import WorkerGroup


def build_sharded(
    request: RunRequest, group: WorkerGroup, device: str, dtype: torch.dtype, report: Callable[[str], None]
) -> tuple[Any, ShardedModel]:
    """Build the model without weights, add what is trained, and fill it layer by layer with this process's part.

    `dtype` is what layers compute in. Where the weights cannot be read one by one, one process after the other loads
    the whole model. Returns the model and its root, by which it is to be run.
    """
    is_full, model = request.adapter == "full", request.model
    half, held = is_full and dtype == torch.bfloat16, torch.float32 if is_full else dtype
    base = loading.build_base(model, request.revision, dtype=held, recipe=request.hyperparameters)
    if half:  # the residual stream stays in float32
        base.get_input_embeddings().register_forward_hook(lambda _m, _i, output: output.float())
    base_names = {name for name, _ in sharding.named_weights(base)}
    files = loading.open_weights(model, request.revision, base)
    torch.manual_seed(request.seed)
    network = add_adapter(base, request, report)
    offload = request.options.offload
    if files is not None:
        return network, sharding.cut(network, files, base_names, device=device, half=half, offload=offload)
    root: ShardedModel | None = None
    for rank in range(group.size):
        if rank == group.rank:
            config = load_config(model, request.revision, request.method)
            whole = sharding.WholeModel(loading.read_base(model, request.revision, held, config))
            root = sharding.cut(network, whole, base_names, device=device, half=half, offload=offload)
        group.wait()
    assert root is not None  # every process had its turn
    return network, root
