"""Acme's reference page as data: every field of a job, and what becomes of it there."""

from llmtune.provider import Converted, Declarations, Float, Inherent, Int, Limits, Sent, Text, nearest_size

PAGE = "Acme API reference, Create a tune, https://acme.example/docs/tunes (2026-11-01)"

PARAMETERS = Declarations.with_others_unsupported(
    "Acme publishes no such setting",
    epochs=Sent("settings.epochs", Int(1, 20), default=3, source=PAGE),
    learning_rate=Sent("settings.rate", Float(gt=0, le=1e-3), default=1e-4, source=PAGE),
    lora_rank=Converted("settings.rank", Int(8, 32), nearest_size([8, 16, 32]), description="next size", source=PAGE),
    prompt_loss_weight=Inherent(0.0, "prompts are always masked", source=PAGE),
    name=Sent("name", Text(64), default=None, source=PAGE),
    temperature=Sent("temperature", Float(ge=0, le=2), default=1.0, source=PAGE, where="generation"),
    max_tokens=Sent("max_tokens", Int(1, 4096), default=256, source=PAGE, where="generation"),
)

LIMITS = Limits(format="chat", min_rows=10, max_tokens_per_row=4096, validation="unused", source=PAGE)
