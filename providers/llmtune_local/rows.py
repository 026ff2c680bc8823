"""Rows of the local trainer: general formats, and the limits of the model's own template and context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmtune.data.findings import error
from llmtune.data.formats.base import FileFacts, Rendering, VendorRows
from llmtune.data.formats.reinforcement import list_prompt_problems
from llmtune.data.formats.row_features import LABELS
from llmtune.errors import InvalidData, InvalidJob, MissingExtra

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.data.rendering.images import ImageReader
    from llmtune.data.rendering.tokenize import OnTooLong, Renderer


def open_rendering(model: str, options: Mapping[str, Any], offline: bool) -> Rendering | None:
    """Return the tokenizer of a model, and a check of rows by the same renderer and limit as the worker's.

    With `offline`, None where the model is not on this machine yet. Raises `InvalidJob` where there is no such model,
    `MissingExtra` where the libraries are not installed.
    """
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.hub import load_config, split_adapter
    from llmtune_local.models.loading import context_length, load_images, load_tokenizer
    from llmtune_local.models.shape import read_shape
    from llmtune_local.settings import LocalOptions

    settings = LocalOptions.model_validate(dict(options))
    if offline and read_shape(split_adapter(model)[0], settings.revision) is None:
        return None
    try:
        tokenizer = load_tokenizer(model, settings.revision, settings.chat_template)
    except ImportError as fault:
        library = fault.name or "transformers"
        raise MissingExtra("local", library, purpose="rendering rows by the model's template") from fault
    images: ImageReader | None = None
    with contextlib.suppress(InvalidJob):  # an encoder, which reads the text alone
        images = load_images(model, settings.revision, tokenizer, max_pixels=settings.image_max_pixels)
    renderer = Renderer(tokenizer, template_options=settings.template_options, images=images)
    pairs = Renderer(tokenizer, template_options=settings.template_options)  # method dpo trains on text
    provided = settings.mask_empty_thinking or settings.template_options.get("enable_thinking") is False
    limits: dict[tuple[str, int | None], int | None] = {}

    def problems(example: Example, method: str, max_length: int | None) -> Iterable[Finding]:
        if (method, max_length) not in limits:
            limits[method, max_length] = context_length(
                load_config(model, settings.revision, method), tokenizer, max_length
            )
        limit = limits[method, max_length]
        if method == "classification":  # the text alone is read
            return check_length(tokenizer, example, limit)
        if method == "reinforcement":
            return check_prompt(renderer, example, limit)
        return check_rendered(pairs if example.preference is not None else renderer, example, limit)

    def count_tokens(
        rows: Iterable[Example], max_length: int | None, on_too_long: OnTooLong, _prompt_weight: float
    ) -> int | None:
        rows = list(rows)
        if not any(turn.images for row in rows for turn in row.messages):
            return None
        limit = context_length(load_config(model, settings.revision), tokenizer, max_length)
        sizes = load_images(model, settings.revision, tokenizer, max_pixels=settings.image_max_pixels, decode=False)
        counting = Renderer(tokenizer, template_options=settings.template_options, images=sizes)
        return count_row_tokens(counting, rows, limit, on_too_long)

    return Rendering(tokenizer, problems, reasons=renderer.template.reasons and not provided, count_tokens=count_tokens)


def count_row_tokens(renderer: Renderer, rows: Iterable[Example], limit: int | None, on_too_long: OnTooLong) -> int:
    """Return the tokens of one pass over rows, those of their images among them. Raises `InvalidData`."""
    total = 0
    for pieces in renderer.render_all(rows):
        fitted = (piece if limit is None else renderer.fit(piece, limit, on_too_long) for piece in pieces)
        total += sum(len(piece.ids) for piece in fitted if piece is not None)
    return total


def check_rendered(renderer: Renderer, example: Example, limit: int | None) -> Iterable[Finding]:
    """Return what the renderer refuses of a row: it has nothing to learn, or is longer than the limit in tokens."""
    try:
        if example.preference is not None:
            pair = renderer.render_pair(example)
            rendered = [pair.preferred, pair.rejected]
        else:
            rendered = list(renderer.render(example))
        for row in rendered:
            if limit is not None:
                renderer.fit(row, limit, "error")
    except InvalidData as refused:
        return [finding.at(None, None) for finding in refused.findings]
    return ()


def check_prompt(renderer: Renderer, example: Example, limit: int | None) -> Iterable[Finding]:
    """Return what keeps a row from being a prompt that can be answered within the limit in tokens."""
    if problems := list_prompt_problems(example, ()):
        return problems
    try:
        tokens = len(renderer.prompt_ids(example.prompt(), example.tools))
    except InvalidData as refused:
        return [finding.at(None, None) for finding in refused.findings]
    if limit is None or tokens < limit:
        return ()
    what = f"the prompt has {tokens:,} tokens and the limit is {limit:,}, its answer included"
    return [error("too_long", what, "shorten it, or set dataset.on_too_long to drop")]


def check_length(tokenizer: Any, example: Example, limit: int | None) -> Iterable[Finding]:
    """Yield a finding for a text that is longer than an encoder can read."""
    from llmtune_local.models.encoder import extract_text

    if limit is None:
        return
    tokens = len(tokenizer(extract_text(example), verbose=False)["input_ids"])
    if tokens > limit:
        what = f"the text has {tokens:,} tokens and the limit is {limit:,}"
        yield error("too_long", what, "shorten it, or set dataset.on_too_long to truncate or drop")


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Yield a finding where there is only one label, although each row has exactly one."""
    several = facts.features & LABELS
    if facts.method == "classification" and facts.role == "train" and not several and len(facts.labels) == 1:
        what = f"there is one label only, {next(iter(facts.labels))!r}: there is nothing to tell apart"
        yield error("vendor-labels", what, "add rows of another label")


LOCAL_ROWS = VendorRows(
    provider="local",
    defaults={"sft": "chat", "dpo": "preference", "classification": "labelled", "reinforcement": "chat"},
    text_format="text",
    file_rules=file_rules,
    rendering=open_rendering,
    reasoning_remedy="give each answer its reasoning under reasoning_content, or leave the template's empty thought"
    " unlearned: provider_options.local.mask_empty_thinking: true",
)
