"""Rows of the local trainer: general formats, and what the model's own template and context refuse of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmtune.data.findings import error
from llmtune.data.formats.base import FileFacts, Rendering, VendorRows
from llmtune.data.formats.row_features import LABELS
from llmtune.errors import InvalidData, MissingExtra

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding


def open_rendering(model: str, options: Mapping[str, Any], offline: bool) -> Rendering | None:
    """The tokenizer of a model, and what training would refuse of a row: the same renderer and limit as the worker's.
    With `offline`, None where the model is not on this machine yet.

    Raises `InvalidJob` where there is no such model, `MissingExtra` where the libraries are not installed.
    """
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.hub import adapter_of, check_model
    from llmtune_local.models.loading import context_length, load_tokenizer
    from llmtune_local.models.shape import shape_of
    from llmtune_local.settings import LocalOptions

    given = LocalOptions.model_validate(dict(options))
    if offline and shape_of(adapter_of(model)[0], given.revision) is None:
        return None
    try:
        tokenizer = load_tokenizer(model, given.revision, given.chat_template)
    except ImportError as fault:
        library = fault.name or "transformers"
        raise MissingExtra("local", library, purpose="rendering rows by the model's template") from fault
    renderer = Renderer(tokenizer, template_options=given.template_options)
    provided = given.mask_empty_thinking or given.template_options.get("enable_thinking") is False
    limits: dict[tuple[str, int | None], int | None] = {}

    def problems(example: Example, method: str, asked: int | None) -> Iterable[Finding]:
        if (method, asked) not in limits:
            limits[method, asked] = context_length(check_model(model, given.revision, method), tokenizer, asked)
        limit = limits[method, asked]
        if method == "classification":  # the text alone is read
            return measure_text(tokenizer, example, limit)
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

    return Rendering(tokenizer, problems, reasons=renderer.template.reasons and not provided)


def measure_text(tokenizer: Any, example: Example, limit: int | None) -> Iterable[Finding]:
    """The finding for a text that an encoder cannot read to its end."""
    from llmtune_local.models.encoder import text_of

    if limit is None:
        return
    tokens = len(tokenizer(text_of(example), verbose=False)["input_ids"])
    if tokens > limit:
        what = f"the text has {tokens:,} tokens and the limit is {limit:,}"
        yield error("too_long", what, "shorten it, or set dataset.on_too_long to truncate or drop")


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Labels that can be told apart: two, or one where a row may have any number of them."""
    several = facts.features & LABELS
    if facts.method == "classification" and facts.role == "train" and not several and len(facts.labels) == 1:
        what = f"there is one label only, {next(iter(facts.labels))!r}: there is nothing to tell apart"
        yield error("vendor-labels", what, "add rows of another label")


LOCAL_ROWS = VendorRows(
    provider="local",
    defaults={"sft": "chat", "dpo": "preference", "classification": "labelled"},
    file_rules=file_rules,
    rendering=open_rendering,
    reasoning_remedy="give each answer its reasoning under reasoning_content, or leave the template's empty thought"
    " unlearned: provider_options.local.mask_empty_thinking: true",
)
