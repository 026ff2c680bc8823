"""Showing a row as the trainer sees it: every token, and whether it is learned from."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from llmtune.data.example import Example
from llmtune.data.rendering.tokenize import RenderedRow, Renderer
from llmtune.redaction.control_chars import escape_controls

#: White space that would not be seen otherwise.
_SHOWN = str.maketrans({"\n": "↵\n", "\t": "→\t", "\r": "␍"})


#: The marks that most templates put around reasoning.
_MARKED = re.compile(r"<think>.*?</think>", re.DOTALL)


class Piece(NamedTuple):
    """One token, or a few that only together are text (a character over several tokens).

    `reasoning` says that it belongs to what was thought before an answer, or to the marks around it.
    """

    text: str
    ids: tuple[int, ...]
    trained: bool
    reasoning: bool = False


class Peek(NamedTuple):
    """One rendering of a row. `name` tells preferred and rejected answers apart; `piece` counts renderings."""

    line: int | None
    name: str
    piece: int
    tokens: tuple[Piece, ...]
    total: int
    trained: int

    @property
    def reasoning(self) -> tuple[int, int]:
        """Tokens of reasoning: in all, and those of them that are learned."""
        thoughts = [piece for piece in self.tokens if piece.reasoning]
        return sum(len(piece.ids) for piece in thoughts), sum(len(piece.ids) for piece in thoughts if piece.trained)

    @property
    def counts(self) -> str:
        """The counts in words: "31 tokens, 12 learned; reasoning: 8, 8 learned"."""
        thoughts, learned = self.reasoning
        behind = f"; reasoning: {thoughts:,}, {learned:,} learned" if thoughts else ""
        return f"{self.total:,} tokens, {self.trained:,} learned{behind}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "line": self.line,
            "name": self.name,
            "piece": self.piece,
            "total": self.total,
            "trained": self.trained,
            "reasoning": dict(zip(("total", "trained"), self.reasoning, strict=True)),
            "tokens": [
                {"text": each.text, "ids": list(each.ids), "trained": each.trained, "reasoning": each.reasoning}
                for each in self.tokens
            ],
        }


def peek(
    examples: Iterable[Example], tokenizer: Any, *, file: str | None = None, mask_empty_thinking: bool = False
) -> Iterator[Peek]:
    """Each row as tokens, in order. `tokenizer` is a transformers fast tokenizer with a chat template.

    `mask_empty_thinking` shows the empty `<think></think>` of a template as training with that option has it.
    """
    renderer = Renderer(tokenizer, file=file, mask_empty_thinking=mask_empty_thinking)
    for example in map(renderer.template.split_reasoning, examples):
        if example.preference is not None:
            pair = renderer.render_pair(example)
            yield _peek(pair.preferred, tokenizer, "preferred", example)
            yield _peek(pair.rejected, tokenizer, "rejected", example)
            continue
        for row in renderer.render(example):
            yield _peek(row, tokenizer, "", example)


def _peek(row: RenderedRow, tokenizer: Any, name: str, example: Example) -> Peek:
    pieces = tuple(_with_reasoning([*_pieces(row.ids, row.completion_mask, tokenizer)], example))
    return Peek(row.line, name, row.piece, pieces, len(row.ids), row.trained_tokens)


def _pieces(ids: Sequence[int], mask: Sequence[bool], tokenizer: Any) -> Iterator[Piece]:
    held: list[int] = []
    for index, token in enumerate(ids):
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        ends = index + 1 == len(ids) or mask[index + 1] != mask[index] or len(held) >= 8
        if "\ufffd" not in text or ends:
            yield Piece(text, tuple(held), bool(mask[index]))
            held = []


def _with_reasoning(pieces: Sequence[Piece], example: Example) -> Iterator[Piece]:
    """The pieces, with those marked that lie in reasoning: between the usual marks, or the row's own words."""
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


def as_text(shown: Peek) -> Any:
    """For a terminal: learned tokens green and underlined, the rest dim, reasoning in italics; tokens are parted by
    alternate shades."""
    from rich.text import Text

    text = Text()
    for index, piece in enumerate(shown.tokens):
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
Every span is a token; its ids show when pointed at.</p>
{rows}
</body></html>
"""


_CLASSES = {
    (False, False): "",
    (True, False): " class=t",
    (False, True): " class=r",
    (True, True): ' class="t r"',
}


def as_html(shown: Iterable[Peek], title: str) -> str:
    """A page of its own, without scripts and without anything to fetch."""
    rows = []
    for each in shown:
        spans = "".join(
            f'<span{_CLASSES[piece.trained, piece.reasoning]} title="{", ".join(map(str, piece.ids))}">'
            f"{html.escape(piece.text.translate(_SHOWN))}</span>"
            for piece in each.tokens
        )
        name = f", {each.name}" if each.name else ""
        part = f", piece {each.piece + 1}" if each.piece else ""
        rows.append(
            f"<article><strong>line {each.line}{name}{part}</strong> <small>{each.counts}</small>"
            f"<pre>{spans}</pre></article>"
        )
    return _PAGE.format(title=html.escape(title), rows="\n".join(rows))
