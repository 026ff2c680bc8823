"""The layers of a model that get an adapter, and a description of those that do not.

A preset means the same in every family: linear layers of the text model, without the output head, without the routed
experts of a mixture and their router, and without what PEFT refuses. Any other layer has to be named: also those of an
image encoder and its projector, where rows have images.
"""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llmtune.errors import InvalidJob

PRESETS = ("all-linear", "attention", "mlp")

_WHERE = "hyperparameters.lora_target_modules"

#: Names under which checkpoints keep the matrices of each expert; in memory all experts of a layer are one tensor.
_EXPERT_ALIASES = {
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "w1": "gate_up_proj",
    "w3": "gate_up_proj",
    "w2": "down_proj",
}
_ROUTERS = ("router", "gate")


class Targets(NamedTuple):
    """Full names of the modules and the parameters that get an adapter, and notes on the choice for the user."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    notes: tuple[str, ...]


class _Layers(NamedTuple):
    linear: dict[str, bool]
    """Linear layers of the text model, and whether each stands in an attention block."""

    experts: tuple[str, ...]
    """The routed experts: parameters that hold all of a layer's, or linear layers of single ones."""

    routers: tuple[str, ...]
    outside: tuple[str, ...]
    """Linear layers outside of the text model (an image encoder, its projector)."""


def select_targets(
    network: Any,
    target_modules: str | Sequence[str],
    *,
    exclude: Sequence[str] = (),
    plain: bool = True,
    images: bool = False,
) -> Targets:
    """Choose the layers for a preset, or for names each of which must match; a list of names may have presets in it.

    Names match linear layers and routed experts (`experts`, or a matrix of theirs) by the end of their full name.
    A preset has nothing inside the modules `exclude`. `plain` adapters (no dropout, no DoRA) can also be put on
    layers whose names PEFT takes for those of experts. With `images`, which rows then have, a name that is none of the
    text model's matches linear layers outside of it, and all those inside of a module of that name (`vision_tower`).

    Raises:
        InvalidJob: the preset is empty, a name matches nothing, or PEFT takes no adapter there.
    """
    layers = _find_layers(network)
    parameters: set[str] = set()
    notes: list[str] = []
    if isinstance(target_modules, str) and target_modules in PRESETS:
        chosen, notes = _select_preset(network, layers, target_modules, exclude)
    else:
        listed = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)
        names = [name for name in listed if name not in PRESETS]
        chosen, parameters = _select_named(network, layers, names, plain=plain, images=images)
        for preset in set(listed) & set(PRESETS):
            inside, notes = _select_preset(network, layers, preset, exclude)
            chosen |= inside
    rewritten = {name for name in chosen if _is_rewritten(network, name)}
    chosen -= rewritten
    if plain:
        parameters |= {f"{name}.weight" for name in rewritten}
    elif rewritten:
        notes.append(f"{_leaf_names(rewritten)} (PEFT takes them for experts unless the adapter is plain LoRA)")
        if not chosen:
            raise InvalidJob(f"no layer is left for an adapter: {notes[-1]}", where=_WHERE)
    if untouched := [name for name in layers.outside if name not in chosen]:
        some = "some of " if len(untouched) < len(layers.outside) else ""
        notes.append(f"{some}what is outside of the text model ({_root_names(network, untouched)})")
    covered = _describe_layers(
        chosen | rewritten if plain else chosen, parameters - {f"{name}.weight" for name in rewritten}
    )
    summary = f"the adapter is on {covered}" + (f"; not on {'; not on '.join(notes)}" if notes else "")
    return Targets(tuple(sorted(chosen)), tuple(sorted(parameters)), (summary,))


def _select_preset(network: Any, layers: _Layers, preset: str, exclude: Sequence[str]) -> tuple[set[str], list[str]]:
    """Return the modules of a preset, and a note on each kind of layer that it leaves out."""
    linear = {name: inside for name, inside in layers.linear.items() if not set(exclude) & set(name.split("."))}
    notes: list[str] = []
    chosen = {name for name, inside in linear.items() if preset == "all-linear" or (preset == "attention") == inside}
    refused = {name for name in chosen if _peft_refuses(network, name)}
    chosen -= refused
    if refused:
        notes.append(f"{_leaf_names(refused)} (PEFT takes no adapter there in {network.config.model_type} models)")
    bypassed = {name for name in chosen if _is_bypassed(name)}
    chosen -= bypassed
    if bypassed:
        notes.append(f"{_leaf_names(bypassed)} (the model reads its weight past an adapter)")
    if preset != "attention" and layers.experts:
        count = _expert_count(network, layers.experts)
        notes.append(
            f"the routed experts ({count} per layer; lora_target_modules: [experts] names them)"
            + (" and their router" if layers.routers else "")
        )
    if not chosen:
        raise InvalidJob(
            f"this model has no linear layer for the preset {preset!r}"
            + (f" beside {' and '.join(notes)}" if notes else ""),
            where=_WHERE,
            hint=f"name modules, or another preset: {', '.join(PRESETS)}",
        )
    return chosen, notes


def _select_named(
    network: Any, layers: _Layers, names: Iterable[str], *, plain: bool, images: bool
) -> tuple[set[str], set[str]]:
    """Return the modules and expert parameters of these names. Raises `InvalidJob` where one takes no adapter."""
    chosen, parameters = _match_names(network, layers, names, images=images)
    refused = {name for name in chosen if _peft_refuses(network, name)}
    if refused:
        raise InvalidJob(
            f"PEFT takes no adapter on {_leaf_names(refused)} in {network.config.model_type} models",
            where=_WHERE,
            hint="leave it out; the preset all-linear does",
        )
    if bypassed := {name for name in chosen if _is_bypassed(name)}:
        raise InvalidJob(
            f"the model reads the weight of {_leaf_names(bypassed)} past an adapter, which would learn nothing there",
            where=_WHERE,
            hint="leave it out; the preset all-linear does",
        )
    if parameters and not plain:
        raise InvalidJob(
            "routed experts take an adapter without lora_dropout and of kind lora only",
            where=_WHERE,
            hint="set lora_dropout to 0 and adapter to lora, or leave the experts out",
        )
    return chosen, parameters


def zero_tensors(network: Any, weights: Mapping[str, Any] | None = None) -> list[str]:
    """Return the names of trained adapter matrices that are still all zero: they have learned nothing.

    `weights` are the trained ones of a network that is cut up, gathered.
    """
    if weights is None:
        weights = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    return [name.replace(".default.", ".") for name, tensor in weights.items() if "lora_B" in name and not tensor.any()]


def _find_layers(network: Any) -> _Layers:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    text = _text_model(network)
    within = {id(module) for module in text.modules()}
    modules = list(network.named_modules())
    attention = [name for name, module in modules if "attention" in type(module).__name__.lower()]
    matrices = [
        (name, module) for name, module in modules if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    inside = [name for name, module in matrices if id(module) in within]
    experts = [name for name in inside if "experts" in name.split(".")[:-1]]
    for name, module in modules:
        if id(module) not in within or isinstance(module, nn.Linear | Conv1D):
            continue
        if "experts" not in type(module).__name__.lower() and name.rpartition(".")[2] != "experts":
            continue
        for short, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 3 or (parameter.ndim == 2 and "bias" not in short):
                experts.append(f"{name}.{short}")
    parents = {name.rpartition(".")[0] for name, _ in modules if name.rpartition(".")[2].endswith("experts")}
    routers = [
        name
        for name, module in modules
        if id(module) in within and name.rpartition(".")[2] in _ROUTERS and name.rpartition(".")[0] in parents
    ]
    return _Layers(
        {
            name: any(name.startswith(f"{block}.") for block in attention)
            for name in inside
            if name not in experts and not any(name == router or name.startswith(f"{router}.") for router in routers)
        },
        tuple(experts),
        tuple(routers),
        tuple(name for name, module in matrices if id(module) not in within),
    )


def _text_model(network: Any) -> Any:
    """Return the part that reads text: the decoder of a causal language model, else the whole model."""
    decoder = network.get_decoder() if hasattr(network, "get_decoder") else None
    return network if decoder is None or network.get_output_embeddings() is None else decoder


def _match_names(network: Any, layers: _Layers, names: Iterable[str], *, images: bool) -> tuple[set[str], set[str]]:
    """Return the modules and expert parameters that these names match."""
    every = [name for name, _ in network.named_modules() if name]
    head = network.get_output_embeddings()
    usable = {
        name
        for name in every
        if not any(name == outside or outside.startswith(f"{name}.") for outside in layers.outside)
    }
    usable -= set(layers.routers)
    stacked = [name for name in layers.experts if name not in every]
    chosen: set[str] = set()
    parameters: set[str] = set()
    for name in names:
        alias = _EXPERT_ALIASES.get(name.rpartition(".")[2])
        modules = {full for full in usable if full == name or full.endswith(f".{name}")}
        wide = {full for full in stacked if _matches_end(full, name) or _matches_end(full.rpartition(".")[0], name)}
        if alias is not None and "." not in name:
            wide |= {full for full in stacked if _matches_end(full, alias)}
        modules -= {full.rpartition(".")[0] for full in wide}
        if name.rpartition(".")[2] == "experts":  # a list of single experts
            modules = {full for full in layers.experts if full in every and f".{name}." in f".{full}"}
        if not modules and not wide and images:
            modules = {full for full in layers.outside if f".{name}." in f".{full}."}
        if not modules and not wide:
            _raise_no_match(network, layers, name)
        chosen |= modules
        parameters |= wide
    if head is not None:
        chosen |= {full for full, module in network.named_modules() if module is head and full in chosen}
    return chosen, parameters


def _matches_end(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _raise_no_match(network: Any, layers: _Layers, name: str) -> None:
    outside = [full for full in layers.outside if _matches_end(full, name) or f".{name}." in f".{full}."]
    if outside:
        raise InvalidJob(
            f"{name!r} is outside of the text model ({_root_names(network, outside)}), which rows of text do not train",
            where=_WHERE,
            hint=f"name modules of the text model, or a preset: {', '.join(PRESETS)}",
        )
    if any(_matches_end(full, name) for full in layers.routers):
        raise InvalidJob(f"{name!r} is the router of the experts, which takes no adapter", where=_WHERE)
    leaves = {full.rpartition(".")[2] for full in (*layers.linear, *layers.experts)}
    suggestions = difflib.get_close_matches(name, sorted(leaves), n=2) or sorted(leaves)
    raise InvalidJob(
        f"this model has no module {name!r}; there are {', '.join(suggestions)}",
        where=_WHERE,
        hint=f"name modules, or a preset: {', '.join(PRESETS)}",
    )


def _peft_refuses(network: Any, name: str) -> bool:
    """Return whether PEFT takes no adapter on this module of this model."""
    with contextlib.suppress(ImportError):
        from peft import LoraConfig
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

        try:
            _check_lora_target_modules_mamba(LoraConfig(), network, name.rpartition(".")[2])
        except ValueError:
            return True
    return False


def _is_bypassed(name: str) -> bool:
    """Return whether the model reads this layer's weight instead of calling the layer (the step size of Mamba)."""
    return name.rpartition(".")[2] == "dt_proj"


def _is_rewritten(network: Any, name: str) -> bool:
    """Return whether PEFT would take this module's name for one of a checkpoint's experts, and adapt those instead."""
    with contextlib.suppress(ImportError):
        from peft import LoraConfig
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

        config: Any = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, network, None)
        except ValueError:
            return True
        return set(config.target_modules or ()) != {name}
    return False


def _expert_count(network: Any, experts: Sequence[str]) -> int:
    config = network.config.get_text_config()
    for name in ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"):
        count = getattr(config, name, None)
        if isinstance(count, int):
            return count
    stacked = dict(network.named_parameters())
    return max((int(stacked[name].shape[0]) for name in experts if name in stacked), default=len(experts))


def _describe_layers(modules: Iterable[str], parameters: Iterable[str]) -> str:
    """Return "q_proj, v_proj (2 of each)" for the full names of layers."""
    counts = Counter(name.rpartition(".")[2] for name in modules)
    counts.update(f"experts.{name.rpartition('.')[2]}" for name in parameters)
    if len(set(counts.values())) == 1 and len(counts) > 1:
        return f"{', '.join(sorted(counts))} ({next(iter(counts.values()))} of each)"
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _leaf_names(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


def _root_names(network: Any, names: Iterable[str]) -> str:
    """Return the parts of the model that these modules are in, such as `vision_tower, multi_modal_projector`."""
    prefix = f"{network.base_model_prefix}."
    return ", ".join(sorted({name.removeprefix(prefix).partition(".")[0] for name in names}))
