"""What Nebius Token Factory takes: OpenAI's calls, with an absolute learning rate and the shape of the adapter.

Source: its create, get, events and checkpoints pages (API version 20260506), and the saved outputs of its cookbook
(token-factory-cookbook, 2026-08-20), whose jobs echo the values of the page as defaults. No ranges are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtune import provider as core
from llmtune_nebius.rows import CHAT_ROWS, MAX_BYTES, SOURCE
from llmtune_openai.declarations import METHODS as OPENAI_METHODS
from llmtune_openai.declarations import suffix

COOKBOOK = "Nebius, token-factory-cookbook, fine-tuning notebook (2026-08-20)"
PAGE = "Nebius Token Factory, Create a fine-tuning job (API version 20260506)"
SHOWN = "the default is the one that the vendor's own jobs echo (token-factory-cookbook, 2026-08-20); no range is given"

METHODS = {**OPENAI_METHODS, "dpo": core.NotOffered("only supervised tuning is documented")}

ADAPTERS: dict[str, core.Ability] = {
    **dict.fromkeys(("lora", "full"), True),
    **dict.fromkeys(
        ("qlora", "dora"), core.NotOffered("the service trains LoRA adapters or all weights, nothing else")
    ),
}

#: A suffix has 64 characters; thirteen are kept for the run key.
LONGEST_NAME = 64 - 13

_H = "hyperparameters."


def one_text(value: Mapping[str, Any], facts: core.ConversionContext) -> core.ConvertedValue | core.NotConvertible:
    """Convert tags to the single text that the service takes."""
    text = ",".join(f"{key}={value[key]}" for key in sorted(value))
    return core.ConvertedValue(text, f"the service takes one text: {text!r}")


def declarations() -> core.Declarations:
    """Declare the fields of a supervised job, with an adapter or in full."""
    unpublished = core.Unsupported(
        "the service does not publish its optimizer and has no parameter for it", source=PAGE
    )
    schedule = core.Unsupported("the service takes a warm-up share and no other shape of schedule", source=PAGE)
    own_dropout = core.Unsupported("only the adapter's dropout can be set", source=PAGE)
    to_the_end = core.Unsupported("the service trains for all epochs", source=PAGE)
    return core.Declarations(
        epochs=core.Sent(_H + "n_epochs", core.Int(1), default=3, source=PAGE, note=SHOWN),
        max_steps=core.max_steps_as_epochs(_H + "n_epochs", core.Int(1), PAGE, default=None),
        batch_size=core.Sent(_H + "batch_size", core.Int(1), default=8, source=PAGE, note=SHOWN),
        gradient_accumulation_steps=core.Unsupported("batch_size is the whole of it here", source=PAGE),
        learning_rate=core.Sent(_H + "learning_rate", core.Float(gt=0), default=1e-5, source=PAGE, note=SHOWN),
        learning_rate_multiplier=core.Unsupported(
            "an absolute rate is taken, and no published rate of a model is multiplied; the vendor's cookbook sends an"
            " absolute rate under this name too (2025-12), which the reference does not explain",
            source=PAGE,
        ),
        **dict.fromkeys(("min_lr_ratio", "lr_schedule", "lr_num_cycles"), schedule),
        warmup_ratio=core.Sent(_H + "warmup_ratio", core.Float(ge=0, le=1), default=0, source=PAGE, note=SHOWN),
        warmup_steps=core.Converted(
            _H + "warmup_ratio",
            core.Float(ge=0, le=1),
            core.ratio_from_steps(),
            description="as a share of all steps, from the number of rows, batch_size and epochs",
            default=0,
            source=PAGE,
        ),
        **dict.fromkeys(("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon"), unpublished),
        weight_decay=core.Sent(_H + "weight_decay", core.Float(ge=0), default=0, source=PAGE, note=SHOWN),
        max_grad_norm=core.Sent(_H + "max_grad_norm", core.Float(ge=0), default=1, source=PAGE, note=SHOWN),
        prompt_loss_weight=core.Unsupported("the service does not say on which tokens the loss is taken", source=PAGE),
        lora_rank=core.Sent(_H + "lora_r", core.Int(1), default=8, source=PAGE, note=SHOWN),
        lora_alpha=core.Converted(
            _H + "lora_alpha",
            core.Int(1),
            core.whole_number,
            description="as a whole number",
            default=8,
            source=PAGE,
            note=SHOWN,
        ),
        lora_dropout=core.Sent(_H + "lora_dropout", core.Float(ge=0, lt=1), default=0, source=PAGE, note=SHOWN),
        lora_target_modules=core.Unsupported("the service chooses the layers itself", source=PAGE),
        layer_lr_multipliers=core.Unsupported("the service trains all layers at one rate", source=PAGE),
        **dict.fromkeys(("dropout", "attention_dropout"), own_dropout),
        label_smoothing=core.Unsupported("the service has no label smoothing", source=PAGE),
        replay_share=core.Unsupported(
            "the service trains on the rows that it is sent, and replays none of the model's own answers", source=PAGE
        ),
        max_sequence_length=core.Sent(_H + "context_length", core.Int(1), default=8192, source=PAGE, note=SHOWN),
        packing=core.Sent(_H + "packing", core.Bool(), default=True, source=PAGE, note=SHOWN),
        **dict.fromkeys(("early_stopping_patience", "early_stopping_threshold"), to_the_end),
        eval_every=core.Unsupported("the service evaluates when it saves a checkpoint", source=PAGE),
        checkpoint_every=core.Unsupported("the service saves a checkpoint after each epoch", source=COOKBOOK),
        keep_checkpoints=core.Unsupported("the service keeps the checkpoint of every epoch", source=COOKBOOK),
        dpo_beta=core.NotApplicable("only supervised tuning is documented", source=PAGE),
        name=suffix(LONGEST_NAME, PAGE, more=" before llmtune's own key"),
        seed=core.Sent(
            "seed", core.Int(0, 2**31 - 1), default=None, source=PAGE, note="the page shows 42 (unverified)"
        ),
        tags=core.Converted(
            "tags", core.Text(), one_text, description="joined into one text", default=None, source=PAGE
        ),
        temperature=core.Sent("temperature", core.Float(ge=0, le=2), default=None, source=PAGE, where="generation"),
        top_p=core.Sent("top_p", core.Float(gt=0, le=1), default=None, source=PAGE, where="generation"),
        top_k=core.Unsupported("not among the documented fields of the chat API", source=PAGE),
        max_tokens=core.Sent("max_tokens", core.Int(1), default=None, source=PAGE, where="generation"),
    )


PARAMETERS = declarations()

LIMITS = core.Limits(
    format=CHAT_ROWS,
    max_bytes=MAX_BYTES,
    validation="used",
    source=SOURCE,
    note="rows of messages, of prompt and completion (base models), or of plain text, which is continued pre-training",
)
