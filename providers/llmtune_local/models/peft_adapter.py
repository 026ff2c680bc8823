"""LoRA adapters through PEFT: new or continued, and the layers they are on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from llmtune_local.run_state.schema import RunRequest, TrainingConfig
from llmtune_local.models.dropout import _set_lora_dropout
from llmtune_local.models.hub import LOADING, auto_class, first_line, load_config, locate, split_adapter
from llmtune_local.models.targets import Targets, select_targets
from llmtune_local.run_state.cache import stamp


def add_adapter(
    network: Any, request: RunRequest, report: Callable[[str], None] = lambda _: None, *, images: bool = False
) -> Any:
    """Return the model to train: with a new adapter, an adapter to continue with, or (full) all its weights.

    `report` is called with what the adapter covers and leaves out; `images` is whether rows have images.
    """
    import peft

    recipe = request.hyperparameters
    _, folder = split_adapter(request.model)
    if request.adapter == "full":
        if folder is not None:
            network = peft.PeftModel.from_pretrained(network, folder).merge_and_unload()
        return network.float().requires_grad_(True)
    if folder is not None:
        return load_adapter(network, request, folder)
    targets = select_targets(network, recipe.lora_target_modules, plain=is_plain(request), images=images)
    for note in targets.notes:
        report(note)
    return make_adapter(network, request, targets)


def is_plain(request: RunRequest) -> bool:
    """Return whether the adapter is LoRA on weights alone: no variant or dropout that needs a layer's input."""
    return request.adapter == "lora" and not request.hyperparameters.lora_dropout


def planned_targets(
    model: str,
    revision: str | None,
    target_modules: str | Sequence[str],
    *,
    adapter: str,
    dropout: float,
    images: bool = False,
) -> Targets | None:
    """Choose the layers that a new adapter will be on, from the model's configuration alone.

    `images` is whether rows have images. None where the run continues with an adapter, which has its own. Raises
    `InvalidJob` as `select_targets` does.
    """
    _, folder = split_adapter(model)
    if folder is not None or adapter == "full":
        return None
    network = _empty_model(model, revision, repr(stamp(locate(model))))
    return select_targets(network, target_modules, plain=adapter == "lora" and not dropout, images=images)


@functools.lru_cache(maxsize=4)
def _empty_model(model: str, revision: str | None, _state: str) -> Any:
    """Build the model without weights: its modules by name, and their shapes."""
    import torch

    config = load_config(model, revision)
    with LOADING, torch.device("meta"):
        return auto_class(config).from_config(config)


def load_adapter(network: Any, request: RunRequest, folder: Path) -> Any:
    """Load the adapter in `folder` into the model, to be trained on. Raises `InvalidJob` where the job asks for
    another."""
    import peft

    recipe = request.hyperparameters
    alpha = _lora_alpha(recipe)
    tuned = peft.PeftModel.from_pretrained(network, folder, is_trainable=True)
    settings: Any = tuned.peft_config["default"]
    if (settings.r, float(settings.lora_alpha)) != (recipe.lora_rank, alpha):
        raise InvalidJob(
            f"the adapter to continue with has rank {settings.r} and alpha {settings.lora_alpha:g}, the job asks for"
            f" rank {recipe.lora_rank} and alpha {alpha:g}",
            where="hyperparameters.lora_rank",
            hint="set lora_rank and lora_alpha to the adapter's own, or start from the base model",
        )
    if bool(settings.use_dora) != (request.adapter == "dora"):
        raise InvalidJob(
            f"the adapter to continue with is {'DoRA' if settings.use_dora else 'LoRA'},"
            f" the job asks for {request.adapter}",
            where="adapter",
            hint="set adapter to the earlier run's, or start from the base model",
        )
    if settings.target_parameters and recipe.lora_dropout:
        raise InvalidJob(
            "the adapter to continue with is on parameters, which takes no lora_dropout",
            where="hyperparameters.lora_dropout",
        )
    settings.lora_dropout = recipe.lora_dropout
    _set_lora_dropout(tuned, recipe.lora_dropout)
    return tuned


def _lora_alpha(recipe: TrainingConfig) -> float:
    return 2.0 * recipe.lora_rank if recipe.lora_alpha is None else float(recipe.lora_alpha)


def make_adapter(
    network: Any, request: RunRequest, targets: Targets, *, task: str = "CAUSAL_LM", modules_to_save: Sequence[str] = ()
) -> Any:
    """Return the model with a new adapter on the layers `targets`; `modules_to_save` are trained with all their
    weights."""
    import peft

    recipe = request.hyperparameters
    alpha = _lora_alpha(recipe)
    lora_config = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora_dropout,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        use_dora=request.adapter == "dora",
        use_rslora=request.options.rslora,
        modules_to_save=list(modules_to_save) or None,
        task_type=task,
    )
    try:
        tuned = peft.get_peft_model(network, lora_config)
    except ValueError as problem:
        raise InvalidJob(first_line(problem), where="hyperparameters.lora_target_modules") from None
    base, _ = split_adapter(request.model)
    tuned.peft_config["default"].base_model_name_or_path = locate(base)
    tuned.peft_config["default"].revision = request.revision
    return tuned
