"""Rows of Tinker: the general formats, rendered here by the model's own template and tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmtune.data.formats.base import Rendering, VendorRows
from llmtune.errors import MissingExtra
from llmtune_tinker.declarations import FORMATS

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.rendering.tokenize import OnTooLong
    from llmtune_local.batching.token_rows import TokenRows
    from llmtune_tinker.settings import TinkerOptions


def open_rendering(model: str, options: Mapping[str, Any], offline: bool) -> Rendering | None:
    """Return the tokenizer that a run would use, and a check of rows by the same renderer.

    With `offline`, None where the tokenizer is not on this machine yet. Raises `InvalidJob` where there is none,
    `MissingExtra` where the libraries are not installed.
    """
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.models.hub import split_adapter
    from llmtune_local.models.loading import load_tokenizer
    from llmtune_local.models.shape import read_shape
    from llmtune_local.rows import check_rendered
    from llmtune_tinker.settings import TinkerOptions

    settings = TinkerOptions.model_validate(dict(options))
    name = settings.tokenizer or model
    if offline and read_shape(split_adapter(name)[0], None) is None:
        return None
    try:
        tokenizer = load_tokenizer(name, None, settings.chat_template)
    except ImportError as fault:
        raise MissingExtra("tinker", fault.name or "transformers", purpose="rendering rows") from fault
    renderer = Renderer(tokenizer, template_options=settings.template_options)
    provided = settings.mask_empty_thinking or settings.template_options.get("enable_thinking") is False

    def count_tokens(
        examples: Iterable[Example], limit: int | None, on_too_long: OnTooLong, prompt_weight: float
    ) -> int:
        from llmtune_tinker.trainer import make_loop_row

        rows, are_pairs = tokenise_examples(tokenizer, examples, settings, limit=limit, on_too_long=on_too_long)
        if are_pairs:
            prompt_weight = 0.0  # the loss of a pair is over its answers
        pieces = (piece for row in rows.rows for piece in row)
        return sum(len(make_loop_row(piece, prompt_weight=prompt_weight).inputs) for piece in pieces)

    return Rendering(
        tokenizer,
        lambda example, _, max_length: check_rendered(renderer, example, max_length),
        reasons=renderer.template.reasons and not provided,
        count_tokens=count_tokens,
    )


def tokenise_examples(
    tokenizer: Any,
    examples: Iterable[Example],
    options: TinkerOptions,
    *,
    limit: int | None,
    on_too_long: OnTooLong,
    file: str | None = None,
) -> tuple[TokenRows, bool]:
    """Render rows as a run would, and return whether they are preference rows: each of those is two sequences.

    Raises `InvalidData` with file and line.
    """
    from llmtune_local.batching.token_rows import RowSettings, tokenise, tokenise_pairs

    row_settings: RowSettings = {
        "limit": limit,
        "on_too_long": on_too_long,
        "template_options": options.template_options,
        "mask_empty_thinking": options.mask_empty_thinking,
    }
    rows = iter(examples)
    first = list(itertools.islice(rows, 1))
    are_pairs = any(example.preference is not None for example in first)
    tokenise_all = tokenise_pairs if are_pairs else tokenise
    return tokenise_all(tokenizer, itertools.chain(first, rows), file=file, **row_settings), are_pairs


TINKER_ROWS = VendorRows(
    provider="tinker",
    defaults=FORMATS,
    text_format="text",
    rendering=open_rendering,
    reasoning_remedy="give each answer its reasoning under reasoning_content, or leave the template's empty thought"
    " unlearned: provider_options.tinker.mask_empty_thinking: true",
    billing="each step's tokens are billed as training tokens: those of the file times the epochs, up to the last"
    " trained token of a row; with method dpo both sides of a pair, and as many again in passes without a gradient",
)
