"""The parameters of OpenAI's fine-tuning API, field by field, and what it does where it has none.

Sources: the API reference (openapi.yaml 2.3.0 of 2026-08-21, which carries the ranges), the `openai` SDK 3.52.0
(which checks nothing itself), and the supervised fine-tuning and best-practices guides (copies, 2026).
"""

from __future__ import annotations

from llmtune import provider as core
from llmtune.provider import Ability, Converted, Declarations, Inherent, NotOffered, Sent, Text, Unsupported
from llmtune.provider.conversions import shortened

SPEC = "OpenAI API reference (openapi.yaml 2.3.0, 2026-08-21)"
GUIDE = "OpenAI supervised fine-tuning guide (copy, 2026)"
PRACTICE = "OpenAI fine-tuning best practices (copy, 2026)"

#: The key of a job's metadata that carries the run key; it takes one of the sixteen places.
KEY_TAG = "llmtune_run"

#: Our method -> the vendor's word for it.
METHOD_WORDS = {"sft": "supervised", "dpo": "dpo"}

METHODS: dict[str, Ability] = {
    "sft": True,
    "dpo": True,
    "classification": NotOffered("no classifier head is offered; method sft with the labels as answers comes closest"),
    **core.NOT_YET_METHODS,
}

_UNKNOWN_TRAINING = "the service does not publish how it trains and has no setting for it"
_OWN_CHOICE = "adapter lora stands for its own choice"

ADAPTERS: dict[str, Ability] = {
    "lora": True,
    **dict.fromkeys(("qlora", "dora"), NotOffered(f"{_UNKNOWN_TRAINING}; {_OWN_CHOICE}")),
    "full": NotOffered(f"the service has no setting to train all weights; {_OWN_CHOICE}"),
}

#: One checkpoint at the end of each epoch; the last three are kept.
KEPT_CHECKPOINTS = 3

TOKENS_PER_ROW = 65_536

TAGS = core.Tags(
    most=15,
    names=r"(?s).{0,64}",
    values=r"(?s).{0,512}",
    rule="names of at most 64 and values of at most 512 characters",
    own=KEY_TAG,
)


def suffix(longest: int, source: str, *, more: str = "", note: str = "") -> Converted:
    """Return the name of a job as the suffix of the tuned model's name, of at most `longest` characters (`more` says
    what the rest is for)."""
    return Converted(
        "suffix",
        Text(longest),
        shortened(longest, allowed="A-Za-z0-9_-"),
        description=f"as the suffix of the tuned model's name, at most {longest} characters{more}",
        default=None,
        source=source,
        note=note,
    )


def declarations(method: str) -> Declarations:
    """Declare the fields of a job with this method ("sft" or "dpo"); its parameters stand under the method's own
    name."""
    path = f"method.{METHOD_WORDS.get(method, 'supervised')}.hyperparameters."
    own_choice = Unsupported("the service chooses its own adapter and publishes nothing about it", source=SPEC)
    own_rate = Unsupported("the service chooses its own schedule and warm-up", source=SPEC)
    own_optimizer = Unsupported("the service chooses its own optimizer and publishes nothing about it", source=SPEC)
    own_dropout = Unsupported("the service chooses its own regularisation", source=SPEC)
    all_epochs = Unsupported("the service trains for all epochs; it keeps the last three checkpoints", source=GUIDE)
    return Declarations(
        epochs=Sent(path + "n_epochs", core.Int(1, 50), default="auto", source=SPEC),
        max_steps=core.max_steps_as_epochs(path + "n_epochs", core.Int(1, 50), SPEC, default=None),
        batch_size=Sent(path + "batch_size", core.Int(1, 256), default="auto", source=SPEC),
        gradient_accumulation_steps=Unsupported("batch_size is the whole of it here", source=SPEC),
        learning_rate=Unsupported(
            "only a multiplier of the service's own rate is taken, and that rate is not published", source=SPEC
        ),
        learning_rate_multiplier=Sent(path + "learning_rate_multiplier", core.Float(gt=0), default="auto", source=SPEC),
        **dict.fromkeys(("min_lr_ratio", "lr_schedule", "lr_num_cycles", "warmup_ratio", "warmup_steps"), own_rate),
        **dict.fromkeys(
            ("optimizer", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"), own_optimizer
        ),
        prompt_loss_weight=Inherent(
            0.0,
            "prompts are always masked: the loss is taken on answers alone (the old parameter is gone)",
            source=GUIDE,
        ),
        **dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"), own_choice),
        layer_lr_multipliers=Unsupported("the service trains all layers at one rate of its own", source=SPEC),
        **dict.fromkeys(("dropout", "attention_dropout", "label_smoothing"), own_dropout),
        replay_share=Unsupported(
            "the service trains on the rows that it is sent, and replays none of the model's own answers", source=SPEC
        ),
        max_sequence_length=Unsupported(
            f"rows longer than the model's {TOKENS_PER_ROW:,} tokens are cut at the end, whatever is asked",
            source=PRACTICE,
        ),
        packing=Unsupported("the service does not tell how it batches rows", source=SPEC),
        **dict.fromkeys(("early_stopping_patience", "early_stopping_threshold"), all_epochs),
        eval_every=Unsupported(
            "the service evaluates at steps of its own: a small batch as it goes, all validation rows once an epoch",
            source=GUIDE,
        ),
        checkpoint_every=Unsupported("one checkpoint at the end of each epoch, whatever is asked", source=GUIDE),
        keep_checkpoints=Inherent(KEPT_CHECKPOINTS, "the last three epochs' checkpoints are kept", source=GUIDE),
        dpo_beta=Sent("method.dpo.hyperparameters.beta", core.Float(gt=0, le=2), default="auto", source=SPEC),
        name=suffix(64, SPEC),
        seed=Sent(
            "seed", core.Int(0, 2**31 - 1), default=None, source=SPEC, note="unset: drawn by the service and reported"
        ),
        tags=Sent("metadata", TAGS, default=None, source=SPEC, note="the sixteenth place is llmtune's own"),
        temperature=Sent("temperature", core.Float(ge=0, le=2), default=1.0, source=SPEC, where="generation"),
        top_p=Sent("top_p", core.Float(ge=0, le=1), default=1.0, source=SPEC, where="generation"),
        top_k=Unsupported("the chat API has no top_k", source=SPEC),
        max_tokens=Sent("max_completion_tokens", core.Int(1), default=None, source=SPEC, where="generation"),
    )


SFT = declarations("sft")
DPO = declarations("dpo").replace(
    prompt_loss_weight=core.NotApplicable(
        "preference tuning compares two answers; no prompt token is trained", source=SPEC
    )
)


def limits(method: str, tokens_per_row: int | None) -> core.Limits:
    """Return the limits of a training file."""
    return core.Limits(
        format="openai_preference" if method == "dpo" else "openai",
        min_rows=10,
        max_bytes=8 * 1024**3,
        max_tokens_per_row=tokens_per_row,
        validation="used",
        source=f"{GUIDE}; {PRACTICE}; openai 3.52.0 (resources/files.py, resources/uploads)",
        note="files above 512 MB go up in parts; rows above the token limit are cut at the end, not refused",
    )


ABILITIES = core.Abilities(
    pause=True,
    billed_cost=NotOffered("the service reports the tokens it trained on, not what it billed"),
)
