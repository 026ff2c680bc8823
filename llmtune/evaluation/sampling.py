"""Which rows are asked, how, and how they are shown to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from llmtune.data.example import Example, Message
from llmtune.data.hashing import answer_text, digest, label_of, place, prompt_text, turn_text
from llmtune.evaluation.results import Contradiction
from llmtune.provider.generation import GenerationRequest

if TYPE_CHECKING:
    from llmtune.job.spec import EvaluationSpec

#: Characters of a prompt or answer that a report shows.
SHOWN = 1000

#: Contradictions a report lists.
CONTRADICTIONS_LISTED = 20


def row_ids(rows: Sequence[Example]) -> list[str]:
    """One id a row, by prompt and answer; equal rows are numbered, so that ids are unique and stable."""
    seen: Counter[int] = Counter()
    ids = []
    for row in rows:
        key = digest(f"{prompt_text(row)}\0{answer_text(row)}")
        ids.append(blake2b(b"%d/%d" % (key, seen[key]), digest_size=8).hexdigest())
        seen[key] += 1
    return ids


def subsample(rows: Sequence[Example], most: int, seed: int = 0) -> list[int]:
    """Which rows are evaluated: all, or `most` of them chosen by a hash of their content, in their order.

    The choice depends on the rows alone: the same on every machine, and adding a row moves at most one other out.
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    ids = row_ids(rows)
    by_hash = sorted(range(len(rows)), key=lambda number: place(seed, int(ids[number], 16)))
    return sorted(by_hash[:most])


def expected_text(row: Example) -> str:
    """What the row wants to be answered."""
    return row.completion()


def calls_tools(row: Example) -> bool:
    """Whether the answer wanted is a tool call."""
    answer = row.answer()
    return answer is not None and bool(answer.tool_calls)


def requests_of(
    rows: Sequence[Example], spec: EvaluationSpec, *, max_tokens: int, seed: int
) -> list[GenerationRequest]:
    """The question each row asks, with the job's generation settings. A seed goes along where answers are sampled."""
    return [
        GenerationRequest(
            messages=tuple(row.prompt()),
            tools=tuple(dict(tool) for tool in row.tools),
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=spec.top_k,
            max_tokens=max_tokens,
            seed=seed if spec.temperature > 0 else None,
        )
        for row in rows
    ]


def token_limit(rows: Sequence[Example], spec: EvaluationSpec) -> int:
    """`spec.max_tokens`, or twice the longest reference answer and 16: room to be wrong in, not to ramble in. Around
    a tool call a template puts words of its own: 32 more for each."""
    if spec.max_tokens is not None:
        return spec.max_tokens
    from llmtune.data.rendering.token_count import Counter as TokenCounter

    count = TokenCounter().text
    answers = [answer for row in rows if (answer := row.answer()) is not None]
    longest = max((count(turn_text(answer)) for answer in answers), default=0)
    calls = max((len(answer.tool_calls) for answer in answers), default=0)
    return 2 * longest + 16 + 32 * calls


def shown_prompt(row: Example) -> str:
    """The prompt for people: a lone question as it stands, a conversation with its roles, system turns left out."""
    turns = [turn for turn in row.prompt() if turn.role != "system"] or list(row.prompt())
    if row.text is not None:
        return clip(row.text)
    if len(turns) == 1:
        return clip(turn_text(turns[0]))
    return clip("\n".join(f"{turn.role}: {turn_text(turn)}" for turn in turns))


def shown_answer(row: Example) -> str:
    """The reference answer for people, tool calls included."""
    answer: Message | None = row.answer()
    return clip(turn_text(answer) if answer is not None else row.completion())


def clip(text: str, most: int = SHOWN) -> str:
    """The text, or its beginning with a mark of how much was left out."""
    return text if len(text) <= most else f"{text[:most]} \u2026 ({len(text) - most:,} more characters)"


def contradictions(parts: dict[str, Sequence[Example]]) -> list[Contradiction]:
    """Prompts that stand with different labels, within a part or across two. At most 20."""
    groups: dict[int, list[tuple[str, str, Example]]] = {}
    for part, rows in parts.items():
        for number, row in enumerate(rows, start=1):
            label = label_of(row)
            if label is not None:
                where = f"{part} line {row.line}" if row.line is not None else f"{part} row {number}"
                groups.setdefault(digest(prompt_text(row)), []).append((label, where, row))
    found = []
    for group in groups.values():
        if len({label for label, _, _ in group}) > 1:
            answers = tuple((label, where) for label, where, _ in group)
            found.append(Contradiction(prompt=shown_prompt(group[0][2]), answers=answers))
        if len(found) == CONTRADICTIONS_LISTED:
            break
    return found
