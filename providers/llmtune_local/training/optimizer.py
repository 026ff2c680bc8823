"""Optimizers by their transformers names or by their class in torch.optim, and the rate of each parameter."""

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


#: Before the name of a class that is an optimizer itself.
CLASSES = "torch.optim."
#: Classes that the training loop cannot call, and why.
_NOT_CALLED = {
    "LBFGS": "it computes the loss several times a step",
    "SparseAdam": "it takes sparse gradients alone",
    "Optimizer": "it is no optimizer itself",
}


def make_optimizer(
    named: Iterable[tuple[str, torch.nn.Parameter]], recipe: TrainingConfig, arguments: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """Make the optimizer over the trained parameters, one group per rate and decay.

    Each group carries `scale`, its factor on the schedule's rate. Weight decay is decoupled in AdamW and Adafactor and
    an L2 term in sgd, rmsprop and adagrad; biases and norms are never decayed. adafactor runs without relative steps,
    as in transformers' Trainer, so that the schedule holds; sgd has no momentum. An optimizer named by its class
    (torch.optim.NAdam) is made with `arguments`, and with that class's own defaults for all but rate and decay.
    """
    import torch

    groups = parameter_groups(named, recipe)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    for group in groups:
        group["lr"] = rate * group["scale"]
        group["weight_decay"] = decay if group.pop("decay") else 0.0
    if recipe.optimizer.startswith(CLASSES):
        return _make_by_class(recipe, arguments or {}, groups)
    if arguments:
        raise InvalidJob(
            f"optimizer_arguments go with an optimizer that is named by its class, and it is {recipe.optimizer}",
            where="provider_options.local.optimizer_arguments",
            hint="name the class (optimizer: torch.optim.SGD), or leave them out",
        )
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


def check_optimizer(recipe: TrainingConfig, arguments: Mapping[str, Any]) -> None:
    """Raise `InvalidJob` where torch has no such optimizer, or it does not take these arguments."""
    import torch

    make_optimizer([("weight", torch.nn.Parameter(torch.zeros(2, 2)))], _without_layers(recipe), arguments)


def _without_layers(recipe: TrainingConfig) -> TrainingConfig:
    return recipe.model_copy(update={"layer_lr_multipliers": None})


def _make_by_class(
    recipe: TrainingConfig, arguments: Mapping[str, Any], groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    import inspect

    import torch

    name = recipe.optimizer.removeprefix(CLASSES)
    kind: Any = getattr(torch.optim, name, None)
    is_optimizer = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    where = "hyperparameters.optimizer"
    if name in _NOT_CALLED:
        raise InvalidJob(f"{recipe.optimizer} cannot be used here: {_NOT_CALLED[name]}", where=where)
    if not is_optimizer:
        optimizers = sorted(
            class_name
            for class_name in dir(torch.optim)
            if isinstance(getattr(torch.optim, class_name), type) and class_name not in _NOT_CALLED
        )
        raise InvalidJob(
            f"torch {torch.__version__} has no optimizer {name!r}; it has {', '.join(optimizers)}", where=where
        )
    parameters = inspect.signature(kind).parameters
    refused = [argument for argument in arguments if argument not in parameters or argument in ("params", "lr")]
    if refused:
        taken = ", ".join(parameter for parameter in parameters if parameter not in ("params", "lr", "weight_decay"))
        raise InvalidJob(
            f"{recipe.optimizer} takes no argument {refused[0]!r} here; it takes {taken}",
            where="provider_options.local.optimizer_arguments",
        )
    if "weight_decay" not in parameters:
        if recipe.weight_decay:
            raise InvalidJob(f"{recipe.optimizer} has no weight decay", where="hyperparameters.weight_decay")
        for group in groups:
            group.pop("weight_decay")
    try:
        optimizer: torch.optim.Optimizer = kind(groups, lr=recipe.learning_rate, **_as_tuples(arguments))
    except (TypeError, ValueError, RuntimeError) as fault:
        raise InvalidJob(f"{recipe.optimizer}: {fault}", where="provider_options.local.optimizer_arguments") from fault
    return optimizer


def _as_tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with lists, as a job file has them, as the pairs that torch expects (betas)."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


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
