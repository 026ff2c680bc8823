"""What is looked at once a model is trained: that training and inference render alike, and that answers end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidData
from llmtune.provider import CheckResult
from llmtune_local.run_state.schema import WorkerOptions

if TYPE_CHECKING:
    from pathlib import Path

    from llmtune.data.example import Example

#: A reference answer's characters as tokens, with room to spare: a model that learned to stop has stopped by then.
_ROOM = 32
#: Prompts of like length that are answered side by side.
_TOGETHER = 8


def templates_agree(model: Mapping[str, Any], examples: Sequence[Example]) -> CheckResult:
    """Every trained turn must follow exactly the tokens that inference would send."""
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.loading import load_tokenizer

    options = model.get("options", {})
    tokenizer = load_tokenizer(model["model"], model.get("revision"), options.get("chat_template"))
    renderer = Renderer(tokenizer, template_options=options.get("template_options"))
    try:
        for example in examples:
            renderer.check_against_inference(example)
    except InvalidData as error:
        return CheckResult(name="chat template", passed=False, says=error.message)
    return CheckResult(
        name="chat template",
        passed=True,
        says=f"training and inference render {len(examples)} held-out rows to the same tokens",
    )


def answers_end(model: Mapping[str, Any], folder: Path, examples: Sequence[Example]) -> CheckResult:
    """Greedy answers must end by themselves within the length of the longest reference answer and a margin.

    The folder of the tuned model is asked as others will ask it, through plain `transformers.generate`: what ends an
    answer is what stands in that folder.
    """
    import torch

    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models import loading
    from llmtune_local.models.shape import end_tokens_of

    options = WorkerOptions.model_validate(model.get("options", {}))
    network, tokenizer = loading.load_as_others_do(folder, model, options)
    renderer = Renderer(tokenizer, template_options=options.template_options)
    prompts = sorted((renderer.prompt_ids(row.prompt(), tuple(map(dict, row.tools))) for row in examples), key=len)
    room = max(len(example.completion()) for example in examples) + _ROOM
    context = loading.context_length(network.config, tokenizer, None)
    ends = end_tokens_of(folder)
    # What is generated for an adapter is told to end as in its snippet; a whole model's folder says so by itself.
    stop = {"eos_token_id": ends} if ends and hasattr(network, "peft_config") else {}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    ended = 0
    for start in range(0, len(prompts), _TOGETHER):
        batch = prompts[start : start + _TOGETHER]
        width = len(batch[-1])
        most = room if context is None else min(room, context - width)
        if most < 1:
            continue
        ids = torch.tensor([(pad,) * (width - len(prompt)) + prompt for prompt in batch], device=network.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch], device=ids.device)
        with torch.no_grad():
            answers = network.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=pad, **stop
            )[:, width:]
        ended += sum(not set(ends).isdisjoint(answer) for answer in answers.tolist())
    return CheckResult(
        name="ends its turn",
        passed=ended == len(prompts),
        says=f"{ended} of {len(prompts)} answers ended by themselves within {room} tokens",
    )
