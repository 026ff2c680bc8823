"""What becomes of each field of a job at Tinker: the loop is ours, so most of them are exact.

What the service decides by itself (how adapters are scaled, which matrices of a layer get one) is refused with the
reason, never left out in silence. Sources: the SDK 0.38.0 (types/optimizer.py, types/lora_config.py, read 2026-12-02).
"""

from __future__ import annotations

from typing import Any

import llmtune.provider as core
from llmtune_local.declarations import SCHEDULES

SDK = "tinker SDK 0.38.0"
OURS = "llmtune's own loop"
#: Recipes of the vendor's cookbook: a rate for LoRA of ten times that of all weights, linear decay; a tenth of it for
#: preferences.
COOKBOOK = "tinker-cookbook (2026-08-19)"
RATE, PAIRS_RATE = 1e-4, 1e-5

_H = "hyperparameters."


def _sent(type: Any, default: Any, note: str = "", source: str = OURS) -> dict[str, Any]:
    return {"type": type, "default": default, "note": note, "source": source}


#: Settings that go into the loop's request under their own name.
_SAME_NAME: dict[str, dict[str, Any]] = {
    "epochs": _sent(core.Int(1), 3),
    "max_steps": _sent(core.Int(1), None, "whichever of the two ends first"),
    "batch_size": _sent(core.Int(1), 16),
    "learning_rate": _sent(core.Float(gt=0), RATE, source=SDK),
    "min_lr_ratio": _sent(core.Float(ge=0, le=1), 0.0),
    "lr_schedule": _sent(core.Choice(*SCHEDULES), "linear", source=COOKBOOK),
    "lr_num_cycles": _sent(core.Float(gt=0), None, "unset: 0.5, restarts 1"),
    "warmup_ratio": _sent(core.Float(ge=0, le=1), 0.0),
    "warmup_steps": _sent(core.Int(0), None),
    "optimizer": _sent(core.Choice("adamw_torch"), None, "unset: that one, the service's AdamW", source=SDK),
    "adam_beta1": _sent(core.Float(ge=0, lt=1), 0.9, source=SDK),
    "adam_beta2": _sent(core.Float(ge=0, lt=1), 0.95, source=SDK),
    "adam_epsilon": _sent(core.Float(gt=0), 1e-12, source=SDK),
    "weight_decay": _sent(core.Float(ge=0), 0.0, source=SDK),
    "max_grad_norm": _sent(core.Float(ge=0), 0.0, "0: off", source=SDK),
    "prompt_loss_weight": _sent(core.Float(ge=0, le=1), 0.0, "fractions are exact"),
    "lora_rank": _sent(core.Int(1), 32, source=COOKBOOK),
    "max_sequence_length": _sent(core.Int(2), None, "unset: the context that the service says"),
    "early_stopping_patience": _sent(core.Int(1), None),
    "early_stopping_threshold": _sent(core.Float(ge=0), 0.0),
    "eval_every": _sent(core.Int(1), None, "unset: up to ten times over the run"),
    "checkpoint_every": _sent(core.Int(1), None, "unset: each epoch; a run that is resumed repeats the steps since"),
    "keep_checkpoints": _sent(core.Int(1), 2, "older states are deleted at the service"),
    "dpo_beta": _sent(core.Float(gt=0), 0.1, source="arXiv:2305.18290"),
}


def declarations(method: str = "sft") -> core.Declarations:
    """Declare the fields of a job of this method."""
    layers = core.Unsupported(
        "the service chooses the matrices; the options train_mlp, train_attn and train_unembed choose kinds of layers",
        source=SDK,
    )
    no_dropout = core.Unsupported("the service has no dropout", source=SDK)
    one_call = core.NotApplicable("the rows of a step go out in one call, and the service divides them", source=SDK)
    fields: dict[str, Any] = {name: core.Sent(_H + name, **facts) for name, facts in _SAME_NAME.items()}
    declared = core.Declarations(
        **fields,
        learning_rate_multiplier=core.multiplier_as_rate(_H + "learning_rate", core.Float(gt=0), RATE, "the loop", SDK),
        gradient_accumulation_steps=one_call,
        packing=one_call,
        lora_alpha=core.Unsupported(
            "the service scales adapters itself: a request for a model has no alpha", source=SDK
        ),
        lora_dropout=no_dropout,
        lora_target_modules=layers,
        layer_lr_multipliers=core.Unsupported("the service updates all layers at one rate", source=SDK),
        dropout=no_dropout,
        attention_dropout=no_dropout,
        replay_share=core.Unsupported("only the local trainer replays the model's own answers so far", source=OURS),
        label_smoothing=core.Unsupported("the service's cross-entropy has no smoothing", source=SDK),
        name=core.Sent("name", core.Text(), source=OURS, note="the session's display name"),
        seed=core.Sent("seed", core.Int(0), default=0, source=OURS, note="of the rows' order, and of the adapter"),
        tags=core.Sent("tags", core.MappingValue(), default=None, source=OURS, note="kept with the run, here"),
        temperature=core.Sent("temperature", core.Float(ge=0), default=0.0, source=OURS, where="generation"),
        top_p=core.Sent("top_p", core.Float(gt=0, le=1), default=None, source=OURS, where="generation"),
        top_k=core.Unsupported("not among the fields of the chat API", source=SDK),
        max_tokens=core.Sent("max_tokens", core.Int(1), default=None, source=OURS, where="generation"),
    )
    if method != "dpo":
        return declared
    pairs = "the share of pairs that may be the wrong way round"
    smoothing = _sent(core.Float(ge=0, lt=0.5), 0.0, pairs, source="arXiv:2305.18290v3")
    rate = core.Float(gt=0)
    return declared.replace(
        learning_rate=core.Sent(_H + "learning_rate", **_sent(rate, PAIRS_RATE, source=COOKBOOK)),
        learning_rate_multiplier=core.multiplier_as_rate(_H + "learning_rate", rate, PAIRS_RATE, "the loop", COOKBOOK),
        label_smoothing=core.Sent(_H + "label_smoothing", **smoothing),
        prompt_loss_weight=core.NotApplicable("the loss of a pair is over its two answers alone"),
    )


PARAMETERS = declarations()

METHODS: dict[str, core.Ability] = {
    **dict.fromkeys(("sft", "dpo"), True),
    "classification": core.NotOffered("there is no classification head here; use method sft with the label as answer"),
    **core.NOT_YET_METHODS,
}
#: The row format that the loop's process reads, by method.
FORMATS = {"sft": "chat", "dpo": "preference"}
ADAPTERS: dict[str, core.Ability] = {
    "lora": True,
    **dict.fromkeys(("full", "qlora", "dora"), core.NotOffered("the service trains LoRA adapters, nothing else")),
}
ABILITIES = core.Abilities(
    pause=core.NotOffered("cancel and attach again instead; a run continues from its last saved state"),
    checkpoints=core.NotOffered("states are saved to continue from, and only the final one answers"),
    base_serving=core.NotOffered("whether its chat endpoint answers for base models is not documented"),
    billed_cost=True,
)
