"""Optimizers by their transformers names, and the rate of each parameter."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from llmtune_local.run_state.schema import TrainingConfig

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad")

_LAYER = re.compile(r"\.(?:layers|h|blocks|layer)\.(\d+)\.")


def make_optimizer(named: Iterable[tuple[str, torch.nn.Parameter]], recipe: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimizer over the trained parameters, one group per rate and decay.

    Each group carries `scale`, its factor on the schedule's rate. Weight decay is decoupled in AdamW and Adafactor and
    an L2 term in sgd, rmsprop and adagrad; biases and norms are never decayed. adafactor runs without relative steps,
    as in transformers' Trainer, so that the schedule holds; sgd has no momentum.
    """
    import torch

    groups = parameter_groups(named, recipe)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    for group in groups:
        group["lr"] = rate * group["scale"]
        group["weight_decay"] = decay if group.pop("decay") else 0.0
    adam: dict[str, Any] = {"betas": (recipe.adam_beta1, recipe.adam_beta2), "eps": recipe.adam_epsilon}
    if recipe.optimizer == "adamw_torch_fused" or all(
        parameter.is_cuda for group in groups for parameter in group["params"]
    ):
        adam["fused"] = True  # one kernel for all adapters; the same arithmetic, rounded in another order
    match recipe.optimizer:
        case "adamw_torch" | "adamw_torch_fused":
            return torch.optim.AdamW(groups, lr=rate, **adam)
        case "adafactor":
            from transformers.optimization import Adafactor

            make: Any = Adafactor
            adafactor: torch.optim.Optimizer = make(groups, lr=rate, scale_parameter=False, relative_step=False)
            return adafactor
        case "sgd":
            return torch.optim.SGD(groups, lr=rate)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=rate)
    raise InvalidJob(
        f"unknown optimizer {recipe.optimizer!r}; known: {', '.join(OPTIMIZERS)}", where="hyperparameters.optimizer"
    )


def parameter_groups(named: Iterable[tuple[str, torch.nn.Parameter]], recipe: TrainingConfig) -> list[dict[str, Any]]:
    """Group the trained parameters by (factor on the rate, decayed or not), in a stable order."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    scales = layer_scales([name for name, _ in trained], recipe.layer_lr_multipliers or {})
    groups: dict[tuple[float, bool], list[Any]] = {}
    for name, parameter in trained:
        # Biases and norms are vectors; so are DoRA's magnitudes.
        groups.setdefault((scales[name], parameter.ndim > 1), []).append(parameter)
    return [{"params": params, "scale": scale, "decay": decay} for (scale, decay), params in groups.items()]


def layer_scales(names: list[str], multipliers: Mapping[str, float]) -> dict[str, float]:
    """Return each parameter's factor. A key is a layer ("3"), a range ("0-3") or a pattern of names ("*.mlp.*").

    Of several keys that match, the last counts. Raises `InvalidJob` for a key that matches nothing.
    """
    scales = dict.fromkeys(names, 1.0)
    for key, factor in multipliers.items():
        matched = [name for name in names if _matches(key, name)]
        if not matched:
            layers = sorted({int(match.group(1)) for name in names if (match := _LAYER.search(name))})
            available = f"trained layers are {layers[0]} to {layers[-1]}" if layers else "no layer is trained"
            raise InvalidJob(f"{key!r} matches no trained parameter ({available})", where="layer_lr_multipliers")
        scales.update(dict.fromkeys(matched, factor))
    return scales


def _matches(key: str, name: str) -> bool:
    if span := re.fullmatch(r"(\d+)(?:-(\d+))?", key):
        layer = _LAYER.search(name)
        first = int(span.group(1))
        return layer is not None and first <= int(layer.group(1)) <= int(span.group(2) or first)
    return fnmatch.fnmatchcase(name, key) or fnmatch.fnmatchcase(name, f"*{key}*")


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set this step's rate, each group's by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
