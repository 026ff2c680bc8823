"""LoRA adapters through PEFT: added, continued, and which layers they are on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from llmtune_local.run_state.schema import Recipe, RunRequest
from llmtune_local.models.dropout import _set_lora_dropout
from llmtune_local.models.hub import adapter_of, auto_class, check_model, first_line, locate
from llmtune_local.models.targets import Targets, select_targets
from llmtune_local.run_state.cache import stamp


def add_adapter(network: Any, request: RunRequest, report: Callable[[str], None] = lambda _: None) -> Any:
    """The model with what is trained: a fresh adapter, an adapter to go on with, or (full) all its weights. `report`
    is given what the adapter covers and leaves out."""
    import peft

    recipe = request.hyperparameters
    _, folder = adapter_of(request.model)
    if request.adapter == "full":
        if folder is not None:
            network = peft.PeftModel.from_pretrained(network, folder).merge_and_unload()
        return network.float().requires_grad_(True)
    if folder is not None:
        return go_on(network, request, folder)
    targets = select_targets(network, recipe.lora_target_modules, plain=is_plain(request))
    for note in targets.notes:
        report(note)
    return fresh_adapter(network, request, targets)


def is_plain(request: RunRequest) -> bool:
    """Whether the adapter is LoRA on weights, without what needs to see a layer's input."""
    return request.adapter == "lora" and not request.hyperparameters.lora_dropout


def planned_targets(
    model: str, revision: str | None, wanted: str | Sequence[str], *, adapter: str, dropout: float
) -> Targets | None:
    """The layers that a fresh adapter will be on, from the model's configuration alone; None where an adapter is gone
    on with, which has its own. Raises `InvalidJob` as `select_targets` does."""
    _, folder = adapter_of(model)
    if folder is not None or adapter == "full":
        return None
    network = _empty_model(model, revision, repr(stamp(locate(model))))
    return select_targets(network, wanted, plain=adapter == "lora" and not dropout)


@functools.lru_cache(maxsize=4)
def _empty_model(model: str, revision: str | None, _state: str) -> Any:
    """The model without weights: its modules by name, and their shapes."""
    import torch

    config = check_model(model, revision)
    with torch.device("meta"):
        return auto_class(config).from_config(config)


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
    if bool(settings.use_dora) != (request.adapter == "dora"):
        raise InvalidJob(
            f"the adapter to go on with is {'DoRA' if settings.use_dora else 'LoRA'},"
            f" the job asks for {request.adapter}",
            where="adapter",
            hint="set adapter to the earlier run's, or start from the base model",
        )
    if settings.target_parameters and recipe.lora_dropout:
        raise InvalidJob(
            "the adapter to go on with is on parameters, which takes no lora_dropout",
            where="hyperparameters.lora_dropout",
        )
    settings.lora_dropout = recipe.lora_dropout
    _set_lora_dropout(tuned, recipe.lora_dropout)
    return tuned


def _alpha(recipe: Recipe) -> float:
    return 2.0 * recipe.lora_rank if recipe.lora_alpha is None else float(recipe.lora_alpha)


def fresh_adapter(
    network: Any, request: RunRequest, targets: Targets, *, task: str = "CAUSAL_LM", whole: Sequence[str] = ()
) -> Any:
    """The model with a new adapter on the layers `targets`; the modules `whole` are trained with all their weights."""
    import peft

    recipe = request.hyperparameters
    alpha = _alpha(recipe)
    fresh = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora_dropout,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
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
