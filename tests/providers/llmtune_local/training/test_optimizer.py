"""Which parameter learns how fast, and by which rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmtune.errors import InvalidJob
from llmtune_local.run_state.schema import TrainingConfig
from llmtune_local.training.optimizer import OPTIMIZERS, check_optimizer, layer_scales, make_optimizer, set_rates

NAMES = [
    "model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.1.mlp.up_proj.lora_A.weight",
    "model.layers.12.mlp.up_proj.lora_A.weight",
    "model.norm.weight",
]


def recipe(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"epochs": 1, "batch_size": 1, "learning_rate": 0.1} | changes)


def test_layers_ranges_and_patterns() -> None:
    assert layer_scales(NAMES, {"0": 0.5})[NAMES[0]] == 0.5
    assert layer_scales(NAMES, {"1": 0.5})[NAMES[2]] == 1.0  # layer 12 is not layer 1
    assert [layer_scales(NAMES, {"0-11": 0.1})[name] for name in NAMES] == [0.1, 0.1, 1.0, 1.0]
    assert [layer_scales(NAMES, {"*.mlp.*": 2.0})[name] for name in NAMES] == [1.0, 2.0, 2.0, 1.0]
    assert [layer_scales(NAMES, {"mlp": 2.0, "12": 0.0})[name] for name in NAMES] == [1.0, 2.0, 0.0, 1.0]


@pytest.mark.parametrize("key", ["7", "20-30", "*.conv.*"])
def test_a_key_that_matches_nothing_is_refused(key: str) -> None:
    with pytest.raises(InvalidJob, match=r"matches no trained parameter \(trained layers are 0 to 12\)"):
        layer_scales(NAMES, {key: 0.5})


def parameters() -> list[tuple[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (NAMES[0], torch.nn.Parameter(torch.randn(4, 3, generator=generator))),
        (NAMES[1], torch.nn.Parameter(torch.randn(4, 3, generator=generator))),
        (NAMES[3], torch.nn.Parameter(torch.randn(4, generator=generator))),
    ]


def updated(chosen: TrainingConfig, steps: int = 3) -> dict[str, torch.Tensor]:
    named = parameters()
    optimizer = make_optimizer(named, chosen)
    for step in range(steps):
        for index, (_, parameter) in enumerate(named):
            parameter.grad = torch.full_like(parameter, 0.1 * (index + 1) * (-1) ** step) + parameter.detach() * 0.01
        set_rates(optimizer, chosen.learning_rate)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in named}


def test_each_optimizer_is_another_rule() -> None:
    results = {name: updated(recipe(optimizer=name)) for name in OPTIMIZERS}
    fused, plain = results.pop("adamw_torch_fused"), results["adamw_torch"]
    for name, tensor in plain.items():
        torch.testing.assert_close(fused[name], tensor)
    first = [result[NAMES[0]] for result in results.values()]
    for index, one in enumerate(first):
        for later in first[index + 1 :]:
            assert (one - later).abs().max() > 1e-4


def test_unknown_optimizer() -> None:
    with pytest.raises(InvalidJob, match="known: adamw_torch"):
        make_optimizer(parameters(), recipe(optimizer="lion"))


@pytest.mark.parametrize(
    ("optimizer", "change"),
    [
        ("adamw_torch", {"adam_beta1": 0.1}),
        ("adamw_torch", {"adam_beta2": 0.5}),
        ("adamw_torch", {"adam_epsilon": 0.5}),
        ("adamw_torch_fused", {"adam_beta1": 0.1}),
        *[(name, {"weight_decay": 0.5}) for name in OPTIMIZERS],
    ],
)
def test_settings_change_the_update(optimizer: str, change: dict[str, float]) -> None:
    default, changed = updated(recipe(optimizer=optimizer)), updated(recipe(optimizer=optimizer, **change))
    assert (default[NAMES[0]] - changed[NAMES[0]]).abs().max() > 1e-4
    if "weight_decay" in change:  # norms and biases are not decayed
        torch.testing.assert_close(default[NAMES[3]], changed[NAMES[3]])


def test_factors_scale_the_rate_and_zero_freezes() -> None:
    chosen = recipe(optimizer="sgd", layer_lr_multipliers={"0": 0.0, "1": 0.5})
    before, after = dict(parameters()), updated(chosen, steps=1)
    full = updated(recipe(optimizer="sgd"), steps=1)
    torch.testing.assert_close(after[NAMES[0]], before[NAMES[0]].detach())
    torch.testing.assert_close(
        after[NAMES[1]] - before[NAMES[1]].detach(), 0.5 * (full[NAMES[1]] - before[NAMES[1]].detach())
    )
    torch.testing.assert_close(after[NAMES[3]], full[NAMES[3]])


def test_an_optimizer_by_its_class_takes_its_arguments() -> None:
    named = parameters()
    optimizer = make_optimizer(
        named, recipe(optimizer="torch.optim.SGD", weight_decay=0.1), {"momentum": 0.9, "nesterov": True}
    )
    assert type(optimizer) is torch.optim.SGD
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in optimizer.param_groups)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}
    nadam = make_optimizer(named, recipe(optimizer="torch.optim.NAdam"), {"betas": [0.8, 0.99]})
    assert nadam.param_groups[0]["betas"] == (0.8, 0.99)
    rprop = make_optimizer(named, recipe(optimizer="torch.optim.Rprop"))
    assert all("weight_decay" not in group for group in rprop.param_groups)
    set_rates(rprop, 0.02)
    assert {group["lr"] for group in rprop.param_groups} == {0.02}


@pytest.mark.parametrize(
    ("changes", "arguments", "sentence"),
    [
        ({"optimizer": "torch.optim.Adamm"}, {}, "torch .* has no optimizer 'Adamm'; it has ASGD, "),
        ({"optimizer": "torch.optim.lr_scheduler"}, {}, "has no optimizer 'lr_scheduler'"),
        ({"optimizer": "torch.optim.LBFGS"}, {}, "computes the loss several times a step"),
        ({"optimizer": "torch.optim.SGD"}, {"momentun": 1}, "takes no argument 'momentun' here; it takes momentum"),
        ({"optimizer": "torch.optim.SGD"}, {"lr": 1}, "takes no argument 'lr' here"),
        ({"optimizer": "torch.optim.SGD"}, {"nesterov": True}, "requires a momentum"),
        ({"optimizer": "torch.optim.Rprop", "weight_decay": 0.1}, {}, "has no weight decay"),
        ({"optimizer": "adamw_torch"}, {"amsgrad": True}, "named by its class, and it is adamw_torch"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(
    changes: dict[str, Any], arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidJob, match=sentence):
        check_optimizer(recipe(**changes), arguments)
