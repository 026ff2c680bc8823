"""Previews of rows as the trainer sees them: every token, and whether it is learned."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from llmtune.data.example import Example
from llmtune.data.rendering.tokenize import RenderedRow, Renderer
from llmtune.redaction.control_chars import escape_controls

#: Visible signs for white space.
_SHOWN = str.maketrans({"\n": "↵\n", "\t": "→\t", "\r": "␍"})


#: Reasoning in the marks that most templates put around it.
_MARKED = re.compile(r"<think>.*?</think>", re.DOTALL)


class Piece(NamedTuple):
    """One token, or several that only together are text (a character over several tokens).

    `ids` are the tokens' numbers in the vocabulary; `trained` is whether they are learned.
    `reasoning` is True where it belongs to the reasoning before an answer, or to the marks around it.
    """

    text: str
    ids: tuple[int, ...]
    trained: bool
    reasoning: bool = False


class TokenPreview(NamedTuple):
    """One rendering of a row.

    `line` is the row's line in the file; `name` is "preferred" or "rejected" for a pair; `piece` counts renderings.
    `tokens` are the tokens in order, `total` counts them and `trained` those that are learned.
    """

    line: int | None
    name: str
    piece: int
    tokens: tuple[Piece, ...]
    total: int
    trained: int

    @property
    def reasoning(self) -> tuple[int, int]:
        """The number of reasoning tokens, and of those that are learned."""
        thoughts = [piece for piece in self.tokens if piece.reasoning]
        return sum(len(piece.ids) for piece in thoughts), sum(len(piece.ids) for piece in thoughts if piece.trained)

    @property
    def counts(self) -> str:
        """The counts in words: "31 tokens, 12 learned; reasoning: 8, 8 learned"."""
        thoughts, learned = self.reasoning
        behind = f"; reasoning: {thoughts:,}, {learned:,} learned" if thoughts else ""
        return f"{self.total:,} tokens, {self.trained:,} learned{behind}"

    def as_dict(self) -> dict[str, Any]:
        """Return the values of the JSON output."""
        return {
            "line": self.line,
            "name": self.name,
            "piece": self.piece,
            "total": self.total,
            "trained": self.trained,
            "reasoning": dict(zip(("total", "trained"), self.reasoning, strict=True)),
            "tokens": [
                {"text": piece.text, "ids": list(piece.ids), "trained": piece.trained, "reasoning": piece.reasoning}
                for piece in self.tokens
            ],
        }


def preview(
    examples: Iterable[Example], tokenizer: Any, *, file: str | None = None, mask_empty_thinking: bool = False
) -> Iterator[TokenPreview]:
    """Yield each row as tokens, in order. `tokenizer` is a transformers fast tokenizer with a chat template.

    `mask_empty_thinking` shows the empty `<think></think>` of a template as not learned, as training with that option.
    """
    renderer = Renderer(tokenizer, file=file, mask_empty_thinking=mask_empty_thinking)
    for example in map(renderer.template.split_reasoning, examples):
        if example.preference is not None:
            pair = renderer.render_pair(example)
            yield _preview_row(pair.preferred, tokenizer, "preferred", example)
            yield _preview_row(pair.rejected, tokenizer, "rejected", example)
            continue
        for row in renderer.render(example):
            yield _preview_row(row, tokenizer, "", example)


def _preview_row(row: RenderedRow, tokenizer: Any, name: str, example: Example) -> TokenPreview:
    pieces = tuple(_mark_reasoning([*_split_pieces(row.ids, row.completion_mask, tokenizer)], example))
    return TokenPreview(row.line, name, row.piece, pieces, len(row.ids), row.trained_tokens)


def _split_pieces(ids: Sequence[int], mask: Sequence[bool], tokenizer: Any) -> Iterator[Piece]:
    held: list[int] = []
    for index, token in enumerate(ids):
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        ends = index + 1 == len(ids) or mask[index + 1] != mask[index] or len(held) >= 8
        if "\ufffd" not in text or ends:
            yield Piece(text, tuple(held), bool(mask[index]))
            held = []


def _mark_reasoning(pieces: Sequence[Piece], example: Example) -> Iterator[Piece]:
    """Mark the pieces in reasoning: those between the usual marks, and those of the row's own reasoning."""
    text = "".join(piece.text for piece in pieces)
    ranges = [match.span() for match in _MARKED.finditer(text)]
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for message in (*example.messages, *answers):
        thought = (message.reasoning or "").strip()
        at = text.find(thought) if thought else -1
        if at >= 0:
            ranges.append((at, at + len(thought)))
    start = 0
    for piece in pieces:
        end = start + len(piece.text)
        yield piece._replace(reasoning=any(start < stop and end > first for first, stop in ranges))
        start = end


def as_text(row: TokenPreview) -> Any:
    """Format a preview for a terminal: learned tokens green and underlined, others dim, reasoning in italics.

    Adjacent tokens have different shades.
    """
    from rich.text import Text

    text = Text()
    for index, piece in enumerate(row.tokens):
        shade = (" bold" if index % 2 else "") + (" italic" if piece.reasoning else "")
        style = f"green underline{shade}" if piece.trained else f"bright_black{shade}"
        text.append(escape_controls(piece.text.translate(_SHOWN)), style=style)
    return text


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --dim: #6b6b6b; --back: #fff; --row: #f6f6f4; --learn: #d9f2df;
  --learn2: #c3e8cd; --given: #efefec; --given2: #e4e4df; --line: #1f7a3a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #eee; --dim: #a5a5a5; --back: #161616; --row: #1f1f1f;
  --learn: #173d24; --learn2: #1d4d2d; --given: #2a2a2a; --given2: #333; --line: #62c27f; }} }}
body {{ font: 15px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }}
article {{ background: var(--row); border-radius: 8px; padding: 1rem; margin: 1rem 0; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.9 ui-monospace, monospace; margin: .5rem 0 0; }}
pre span {{ border-radius: 3px; color: var(--dim); background: var(--given); }}
pre span:nth-child(even) {{ background: var(--given2); }}
pre span.t {{ color: var(--ink); background: var(--learn); border-bottom: 2px solid var(--line); }}
pre span.t:nth-child(even) {{ background: var(--learn2); }}
pre span.r {{ font-style: italic; }}
small {{ color: var(--dim); }}
</style></head><body>
<h1>{title}</h1>
<p>Underlined on green: learned. Grey: given, not learned. Italic: reasoning.
Every span is a token; hover to see its ids.</p>
{rows}
</body></html>
"""


_CLASSES = {
    (False, False): "",
    (True, False): " class=t",
    (False, True): " class=r",
    (True, True): ' class="t r"',
}


def as_html(previews: Iterable[TokenPreview], title: str) -> str:
    """Format previews as a self-contained HTML page without scripts."""
    rows = []
    for row in previews:
        spans = "".join(
            f'<span{_CLASSES[piece.trained, piece.reasoning]} title="{", ".join(map(str, piece.ids))}">'
            f"{html.escape(escape_controls(piece.text.translate(_SHOWN)))}</span>"
            for piece in row.tokens
        )
        name = f", {row.name}" if row.name else ""
        part = f", piece {row.piece + 1}" if row.piece else ""
        rows.append(
            f"<article><strong>line {row.line}{name}{part}</strong> <small>{row.counts}</small>"
            f"<pre>{spans}</pre></article>"
        )
    return _PAGE.format(title=html.escape(escape_controls(title)), rows="\n".join(rows))
