"""LoRA adapters through PEFT: added, continued, and which layers they are on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from llmtune_local.run_state.schema import Recipe, RunRequest
from llmtune_local.models.dropout import _set_lora_dropout
from llmtune_local.models.hub import adapter_of, first_line, locate

PRESETS = ("all-linear", "attention", "mlp")


def add_adapter(network: Any, request: RunRequest) -> Any:
    """The model with what is trained: a fresh adapter, an adapter to go on with, or (full) all its weights."""
    import peft

    recipe = request.hyperparameters
    _, folder = adapter_of(request.model)
    if request.adapter == "full":
        if folder is not None:
            network = peft.PeftModel.from_pretrained(network, folder).merge_and_unload()
        return network.float().requires_grad_(True)
    if folder is not None:
        return go_on(network, request, folder)
    return fresh_adapter(network, request, target_modules(network, recipe.lora_target_modules))


def go_on(network: Any, request: RunRequest, folder: Path) -> Any:
    """The model with the adapter in `folder`, to be trained on. Raises `InvalidJob` where the job's is another."""
    import peft

    recipe = request.hyperparameters
    alpha = _alpha(recipe)
    tuned = peft.PeftModel.from_pretrained(network, folder, is_trainable=True)
    settings: Any = tuned.peft_config["default"]
    if (settings.r, float(settings.lora_alpha)) != (recipe.lora_rank, alpha):
        raise InvalidJob(
            f"the adapter to go on with has rank {settings.r} and alpha {settings.lora_alpha:g}, the job asks for"
            f" rank {recipe.lora_rank} and alpha {alpha:g}",
            where="hyperparameters.lora_rank",
            hint="set lora_rank and lora_alpha to the adapter's own, or start from the base model",
        )
    settings.lora_dropout = recipe.lora_dropout
    _set_lora_dropout(tuned, recipe.lora_dropout)
    return tuned


def _alpha(recipe: Recipe) -> float:
    return 2.0 * recipe.lora_rank if recipe.lora_alpha is None else float(recipe.lora_alpha)


def fresh_adapter(
    network: Any, request: RunRequest, targets: list[str], *, task: str = "CAUSAL_LM", whole: Sequence[str] = ()
) -> Any:
    """The model with a new adapter on the layers `targets`; the modules `whole` are trained with all their weights."""
    import peft

    recipe = request.hyperparameters
    alpha = _alpha(recipe)
    fresh = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora_dropout,
        target_modules=targets,
        use_dora=request.adapter == "dora",
        use_rslora=request.options.rslora,
        modules_to_save=list(whole) or None,
        task_type=task,
    )
    try:
        tuned = peft.get_peft_model(network, fresh)
    except ValueError as problem:
        raise InvalidJob(first_line(problem), where="hyperparameters.lora_target_modules") from None
    base, _ = adapter_of(request.model)
    tuned.peft_config["default"].base_model_name_or_path = locate(base)
    tuned.peft_config["default"].revision = request.revision
    return tuned


def target_modules(network: Any, asked: str | tuple[str, ...], *, apart: Sequence[str] = ()) -> list[str]:
    """The linear layers that get an adapter, as PEFT takes them.

    A preset (`all-linear`; `attention`: linear layers inside attention blocks; `mlp`: the other linear layers of the
    transformer blocks), or names, each of which must match. The output head is in no preset, nor is anything inside
    the modules `apart`.
    """
    every = _linear_layers(network)
    linear = {name: inside for name, inside in every.items() if not set(apart) & set(name.split("."))}
    if isinstance(asked, str) and asked not in PRESETS:
        asked = (asked,)
    if isinstance(asked, str):
        wanted = {name for name, inside in linear.items() if asked == "all-linear" or (asked == "attention") == inside}
        if not wanted:
            raise InvalidJob(f"this model has no linear layer for the preset {asked!r}", where="lora_target_modules")
        leaves = {name.rpartition(".")[2] for name in wanted}
        others = {name.rpartition(".")[2] for name in every if name not in wanted} | {_head_leaf(network)}
        return sorted(leaves) if not leaves & others else sorted(wanted)
    names = [name for name, _ in network.named_modules() if name]
    for name in asked:
        if not any(full == name or full.endswith(f".{name}") for full in names):
            leaves = {full.rpartition(".")[2] for full in linear}
            near = difflib.get_close_matches(name, sorted(leaves), n=2) or sorted(leaves)
            raise InvalidJob(
                f"this model has no module {name!r}; there are {', '.join(near)}",
                where="hyperparameters.lora_target_modules",
                hint=f"name modules, or a preset: {', '.join(PRESETS)}",
            )
    return list(asked)


def _linear_layers(network: Any) -> dict[str, bool]:
    """Names of the linear layers inside transformer blocks, and whether each stands inside an attention block."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    attention = [name for name, module in network.named_modules() if "attention" in type(module).__name__.lower()]
    return {
        name: any(name.startswith(f"{block}.") for block in attention)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def _head_leaf(network: Any) -> str:
    head = network.get_output_embeddings()
    name = next((name for name, module in network.named_modules() if module is head), "")
    return name.rpartition(".")[2]
