"""Checks of a trained model: that training and inference render alike, and that answers end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidData
from llmtune.provider import CheckResult
from llmtune_local.images.reader import ModelImages
from llmtune_local.run_state.schema import WorkerOptions

if TYPE_CHECKING:
    from pathlib import Path

    from llmtune.data.example import Example, ImagePart

#: A reference answer's characters as tokens, with room to spare: a model that learned to stop has stopped by then.
_EXTRA_TOKENS = 32
#: Prompts of like length that are answered side by side.
_BATCH_ROWS = 8


def templates_agree(model: Mapping[str, Any], examples: Sequence[Example]) -> CheckResult:
    """Check that every trained turn follows exactly the tokens that inference would send."""
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.loading import load_images, load_tokenizer

    options = WorkerOptions.model_validate(model.get("options", {}))
    tokenizer = load_tokenizer(model["model"], model.get("revision"), options.chat_template)
    images = load_images(model["model"], model.get("revision"), tokenizer, max_pixels=options.image_max_pixels)
    renderer = Renderer(tokenizer, template_options=options.template_options, images=images)
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
    """Check that greedy answers end within the length of the longest reference answer and a margin.

    The folder of the tuned model is run as others will run it, through plain `transformers.generate`: only the tokens
    that this folder names end an answer.
    """
    import torch

    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models import loading
    from llmtune_local.models.shape import read_end_tokens

    options = WorkerOptions.model_validate(model.get("options", {}))
    network, tokenizer = loading.load_with_transformers(folder, model, options)
    images = loading.load_images(
        str(model["model"]), model.get("revision"), tokenizer, max_pixels=options.image_max_pixels
    )
    renderer = Renderer(tokenizer, template_options=options.template_options, images=images)
    prompts = sorted(
        ((renderer.prompt_ids(row.prompt(), tuple(map(dict, row.tools))), _images_of(row)) for row in examples),
        key=lambda prompt: len(prompt[0]),
    )
    max_tokens = max(len(example.completion()) for example in examples) + _EXTRA_TOKENS
    context = loading.context_length(network.config, tokenizer, None)
    ends = read_end_tokens(folder)
    # Generation with an adapter is given the end tokens, as in its snippet; a whole model's folder names them itself.
    stop = {"eos_token_id": ends} if ends and hasattr(network, "peft_config") else {}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    ended = 0
    # Rows with images go alone: their pixels are of no common size.
    rows = 1 if any(prompt_images for _, prompt_images in prompts) else _BATCH_ROWS
    for start in range(0, len(prompts), rows):
        batch = [prompt for prompt, _ in prompts[start : start + rows]]
        width = len(batch[-1])
        limit = max_tokens if context is None else min(max_tokens, context - width)
        if limit < 1:
            continue
        ids = torch.tensor([(pad,) * (width - len(prompt)) + prompt for prompt in batch], device=network.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch], device=ids.device)
        prompt_images = prompts[start][1]
        image_inputs = (
            images.inputs(ids, images.place(prompt_images, batch[0]))
            if isinstance(images, ModelImages) and prompt_images
            else {}
        )
        with torch.no_grad():
            answers = network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=pad,
                **stop,
                **image_inputs,
            )[:, width:]
        ended += sum(not set(ends).isdisjoint(answer) for answer in answers.tolist())
    return CheckResult(
        name="ends its turn",
        passed=ended == len(prompts),
        says=f"{ended} of {len(prompts)} answers ended by themselves within {max_tokens} tokens",
    )


def _images_of(example: Example) -> list[ImagePart]:
    return [image for message in example.prompt() for image in message.images]
