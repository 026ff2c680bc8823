"""What Nebius Token Factory takes: OpenAI's calls, with an absolute learning rate and the shape of the adapter.

Source: its create, get, events and checkpoints pages (API version 20260506). The values shown there are taken for
defaults; they may be examples, and no ranges are given (unverified).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtune import provider as core
from llmtune.provider import Changed, Converted, Facts, Float, Int, No, Refused, Sent, Unsupported
from llmtune_openai.declarations import METHODS as OPENAI_METHODS
from llmtune_openai.declarations import suffix

PAGE = "Nebius Token Factory, Create a fine-tuning job (API version 20260506)"
SHOWN = "the default is the value shown on the page, which may be an example (unverified); no range is given"

METHODS = {**OPENAI_METHODS, "dpo": No("only supervised tuning is documented")}

ADAPTERS: dict[str, core.Ability] = {
    **dict.fromkeys(("lora", "full"), True),
    **dict.fromkeys(("qlora", "dora"), No("the service trains LoRA adapters or all weights, nothing else")),
}

#: A suffix has 64 characters; thirteen are kept for the run key.
LONGEST_NAME = 64 - 13

_H = "hyperparameters."


def one_text(value: Mapping[str, Any], facts: Facts) -> Changed | Refused:
    """Tags by name -> the one text that the service takes."""
    text = ",".join(f"{key}={value[key]}" for key in sorted(value))
    return Changed(text, f"the service takes one text: {text!r}")


def declarations() -> core.Declarations:
    """The fields of a supervised job, by adapter or in full."""
    untold = Unsupported("the service tells nothing of its optimizer and takes no knob for it", source=PAGE)
    schedule = Unsupported("the service takes a warm-up share and no other shape of schedule", source=PAGE)
    own_dropout = Unsupported("only the adapter's dropout can be set", source=PAGE)
    to_the_end = Unsupported("the service trains for all epochs", source=PAGE)
    return core.Declarations(
        epochs=Sent(_H + "n_epochs", Int(1), default=3, source=PAGE, note=SHOWN),
        max_steps=core.max_steps_as_epochs(_H + "n_epochs", Int(1), PAGE, default=None),
        batch_size=Sent(_H + "batch_size", Int(1), default=8, source=PAGE, note=SHOWN),
        gradient_accumulation_steps=Unsupported("batch_size is the whole of it here", source=PAGE),
        learning_rate=Sent(_H + "learning_rate", Float(gt=0), default=1e-5, source=PAGE, note=SHOWN),
        learning_rate_multiplier=Unsupported(
            "an absolute rate is taken; the 1e-5 on the page may be an example, so no multiplier is reckoned from it",
            source=PAGE,
        ),
        **dict.fromkeys(("min_lr_ratio", "lr_schedule", "lr_num_cycles"), schedule),
        warmup_ratio=Sent(_H + "warmup_ratio", Float(ge=0, le=1), default=0, source=PAGE, note=SHOWN),
        warmup_steps=Converted(
            _H + "warmup_ratio",
            Float(ge=0, le=1),
            core.ratio_from_steps(),
            says="as a share of all steps, from the number of rows, batch_size and epochs",
            default=0,
            source=PAGE,
        ),
        **dict.fromkeys(("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon"), untold),
        weight_decay=Sent(_H + "weight_decay", Float(ge=0), default=0, source=PAGE, note=SHOWN),
        max_grad_norm=Sent(_H + "max_grad_norm", Float(ge=0), default=1, source=PAGE, note=SHOWN),
        prompt_loss_weight=Unsupported("the service does not say on which tokens the loss is taken", source=PAGE),
        lora_rank=Sent(_H + "lora_r", Int(1), default=8, source=PAGE, note=SHOWN),
        lora_alpha=Converted(
            _H + "lora_alpha", Int(1), core.whole_number, says="as a whole number", default=8, source=PAGE, note=SHOWN
        ),
        lora_dropout=Sent(_H + "lora_dropout", Float(ge=0, lt=1), default=0, source=PAGE, note=SHOWN),
        lora_target_modules=Unsupported("the service chooses the layers itself", source=PAGE),
        layer_lr_multipliers=Unsupported("the service trains all layers at one rate", source=PAGE),
        **dict.fromkeys(("dropout", "attention_dropout"), own_dropout),
        label_smoothing=Unsupported("the service has no label smoothing", source=PAGE),
        max_sequence_length=Sent(_H + "context_length", Int(1), default=8192, source=PAGE, note=SHOWN),
        packing=Sent(_H + "packing", core.Bool(), default=True, source=PAGE, note=SHOWN),
        **dict.fromkeys(("early_stopping_patience", "early_stopping_threshold"), to_the_end),
        eval_every=Unsupported("the service evaluates when it saves a checkpoint", source=PAGE),
        checkpoint_every=Unsupported("the service saves checkpoints when it chooses to", source=PAGE),
        keep_checkpoints=Unsupported("the service does not say how many checkpoints it keeps", source=PAGE),
        dpo_beta=core.NotApplicable("only supervised tuning is documented", source=PAGE),
        name=suffix(LONGEST_NAME, PAGE, more=" before llmtune's own key"),
        seed=Sent("seed", Int(0, 2**31 - 1), default=None, source=PAGE, note="the page shows 42 (unverified)"),
        tags=Converted("tags", core.Text(), one_text, says="joined into one text", default=None, source=PAGE),
        temperature=Sent("temperature", Float(ge=0, le=2), default=None, source=PAGE, where="generation"),
        top_p=Sent("top_p", Float(gt=0, le=1), default=None, source=PAGE, where="generation"),
        top_k=Unsupported("not among the documented fields of the chat API", source=PAGE),
        max_tokens=Sent("max_tokens", Int(1), default=None, source=PAGE, where="generation"),
    )


PARAMETERS = declarations()

LIMITS = core.Limits(
    format="openai",
    max_bytes=50 * 1000**3,
    validation="used",
    source="Nebius Token Factory, Dataset formats for fine-tuning (copy, 2026)",
    note="an older copy of the page gives 5 GB instead of 50 GB a file",
)
