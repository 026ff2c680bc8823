"""Which rows are evaluated, the requests they become, and their text in reports."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from llmtune.data.example import Example, Message
from llmtune.data.hashing import answer_text, digest, label_of, prompt_text, shown_text, split_position, turn_text
from llmtune.evaluation.results import Contradiction
from llmtune.provider.generation import GenerationRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmtune.job.spec import EvaluationSpec

#: Characters of a prompt or answer in a report.
SHOWN = 1000

#: Contradictions in a report.
CONTRADICTIONS_LISTED = 20


def row_ids(rows: Sequence[Example]) -> list[str]:
    """Return one id per row, derived from prompt and answer; equal rows are numbered, so that ids are unique."""
    return [f"{key:016x}" for key in hash_rows(rows)]


def hash_rows(rows: Sequence[Example]) -> NDArray[np.uint64]:
    """Return the ids of `row_ids` as numbers: eight bytes a row, however many there are."""
    import numpy as np

    keys = np.fromiter((digest(f"{prompt_text(row)}\0{answer_text(row)}") for row in rows), np.uint64, len(rows))
    order = np.argsort(keys, kind="stable")
    begins = np.concatenate(([True], keys[order[1:]] != keys[order[:-1]]))[: len(keys)]
    number_in_order = np.arange(len(keys))
    occurrences = np.empty(len(keys), dtype=np.int64)
    occurrences[order] = number_in_order - np.maximum.accumulate(np.where(begins, number_in_order, 0))
    return np.fromiter(
        (
            int.from_bytes(blake2b(b"%d/%d" % (key, occurrence), digest_size=8).digest(), "big")
            for key, occurrence in zip(keys, occurrences, strict=True)
        ),
        np.uint64,
        len(keys),
    )


def subsample(rows: Sequence[Example], limit: int, seed: int = 0) -> list[int]:
    """Return the indices of the rows to evaluate: all, or `limit` of them chosen by a hash of their content, in order.

    The choice depends on the rows and the seed only, so it is the same on every machine; adding a row displaces at most
    one other.
    """
    if len(rows) <= limit:
        return list(range(len(rows)))
    import numpy as np

    positions = np.fromiter((split_position(seed, int(key)) for key in hash_rows(rows)), np.uint64, len(rows))
    return sorted(np.argsort(positions, kind="stable")[:limit].tolist())


def expected_text(row: Example) -> str:
    """Return the reference answer of a row."""
    return row.completion()


def calls_tools(row: Example) -> bool:
    """Return whether the reference answer calls tools."""
    answer = row.answer()
    return answer is not None and bool(answer.tool_calls)


def build_requests(
    rows: Sequence[Example], spec: EvaluationSpec, *, max_tokens: int, seed: int
) -> list[GenerationRequest]:
    """Return one request per row, with the job's generation settings. The seed is sent where answers are sampled."""
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
    """Return `spec.max_tokens`, or else twice the longest reference answer plus 16, with a token for four bytes.

    That is room for a wrong answer, but not for endless text. Templates add text around tool calls: 32 more per call.
    The limit is a part of the key under which an answer is stored: with another rule here, stored answers would be
    asked, and paid for, again.
    """
    if spec.max_tokens is not None:
        return spec.max_tokens
    answers = [answer for row in rows if (answer := row.answer()) is not None]
    longest = max((-(-len(turn_text(answer).encode("utf-8", "surrogatepass")) // 4) for answer in answers), default=0)
    calls = max((len(answer.tool_calls) for answer in answers), default=0)
    return 2 * longest + 16 + 32 * calls


def format_prompt(row: Example) -> str:
    """Return the prompt as text: a single turn as it is, a conversation with its roles; system turns are left out."""
    turns = [turn for turn in row.prompt() if turn.role != "system"] or list(row.prompt())
    if row.text is not None:
        return clip(row.text)
    if len(turns) == 1:
        return clip(shown_text(turns[0]))
    return clip("\n".join(f"{turn.role}: {shown_text(turn)}" for turn in turns))


def format_answer(row: Example) -> str:
    """Return the reference answer as text, tool calls included."""
    answer: Message | None = row.answer()
    return clip(turn_text(answer) if answer is not None else row.completion())


def clip(text: str, limit: int = SHOWN) -> str:
    """Return the text; beyond `limit` characters, its beginning and how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]} \u2026 ({len(text) - limit:,} more characters)"


def find_contradictions(parts: dict[str, Sequence[Example]]) -> list[Contradiction]:
    """Return prompts that occur with different labels, in one part or in several: at most `CONTRADICTIONS_LISTED`."""
    groups: dict[int, list[tuple[str, str, Example]]] = {}
    for part, rows in parts.items():
        for number, row in enumerate(rows, start=1):
            label = label_of(row)
            if label is not None:
                where = f"{part} line {row.line}" if row.line is not None else f"{part} row {number}"
                groups.setdefault(digest(prompt_text(row)), []).append((label, where, row))
    contradictions = []
    for group in groups.values():
        if len({label for label, _, _ in group}) > 1:
            answers = tuple((label, where) for label, where, _ in group)
            contradictions.append(Contradiction(prompt=format_prompt(group[0][2]), answers=answers))
        if len(contradictions) == CONTRADICTIONS_LISTED:
            break
    return contradictions
