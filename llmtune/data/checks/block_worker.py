"""What is done with the rows of one block, here or in another process: checks, counts, keys and sketches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.checks.duplicates import RowIndex
from llmtune.data.checks.left_out import LeftOut, UnusedKeys
from llmtune.data.checks.per_row import (
    check_control_tokens,
    check_example,
    compile_tokens,
    in_own_terms,
    is_simple,
)
from llmtune.data.checks.privacy import check_privacy
from llmtune.data.checks.reasoning import ReasoningCount
from llmtune.data.checks.stats import Stats
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, error, warning
from llmtune.data.formats.base import RowFormat, TokenLimit
from llmtune.data.formats.row_features import features, plain_features
from llmtune.data.hashing import answer_text, digest, label_of, prompt_text
from llmtune.data.io.base import Notes
from llmtune.data.io.json_lines import block_rows
from llmtune.data.io.reading import read_rows
from llmtune.data.rendering.token_count import Counter, RowTokens
from llmtune.redaction.secrets import known_secrets

if TYPE_CHECKING:
    from llmtune.data.checks.minhash import Sketcher

#: Every check by name, as `llmtune data check --only` takes them. What cannot be read is always told.
CHECKS: tuple[str, ...] = ("structure", "duplicates", "near", "tokens", "privacy")

#: Bytes of a block; with two processes working and three blocks waiting this decides the memory used.
BLOCK = 2 << 20


class Work(NamedTuple):
    """What is to be done with each row of one file."""

    fmt: RowFormat | None
    file: str
    part: int
    method: str | None
    rules: Callable[[Example], Iterable[Finding]] | None
    writer: RowFormat | None
    checks: frozenset[str]
    counter: Counter
    limit: TokenLimit | None
    max_tokens: int | None
    sketcher: Sketcher | None
    keep: int | None
    names_classes: Callable[[], bool]
    reasons: bool = False


class Sketches(NamedTuple):
    """Sketches of a block's prompts, with their lines and keys. `has` says which rows have a sketch."""

    sketches: Any
    has: Any
    lines: Sequence[int]
    keys: Sequence[int]


class Block(NamedTuple):
    """What came of one block."""

    log: FindingLog
    stats: Stats
    keys: bytes
    sketches: Sketches | None
    left_out: LeftOut
    unused: UnusedKeys
    reasoning: ReasoningCount


_work: Work | None = None


def begin(work: Work) -> None:
    """Set the work of this process."""
    global _work
    _work = work


def work_on_block(block: bytes, line: int) -> tuple[Block, Notes]:
    """The work of this process on one block of JSON lines; `line` is the number of the line before it."""
    assert _work is not None
    assert _work.fmt is not None
    notes = Notes()
    items = read_rows(block_rows(block, line, notes), _work.fmt, None, _work.file, _work.names_classes)
    return work_on(_work, items), notes


def work_on(work: Work, items: Iterable[Example | Finding]) -> Block:  # noqa: C901
    """Every check on every row of a block."""
    log = FindingLog(work.keep)
    stats = Stats(exact=work.counter.exact, rule=work.counter.rule)
    structure = "structure" in work.checks
    duplicates = "duplicates" in work.checks
    count = work.counter.row if "tokens" in work.checks else None
    private = "privacy" in work.checks
    known = known_secrets() if private else None
    sketching = work.sketcher is not None
    writer = work.writer
    left_out = LeftOut()
    unused = UnusedKeys()
    reasoning = ReasoningCount()
    turns_key = "messages" if work.fmt is None else work.fmt.turns_key
    takes = writer.takes_plain() if writer is not None else is_simple
    keys: list[tuple[int, int, int, bool]] = []
    texts: list[str] = []
    lines: list[int] = []
    prompts: list[int] = []
    control = compile_tokens(work.counter.control_tokens) if structure else None
    for item in items:
        if isinstance(item, Finding):
            log.add(item)
            continue
        line = item.line
        found: list[Finding] = []
        bits = 0
        if structure:
            simple = is_simple(item)
            if item.extra or not simple:
                unused.add(item if writer is None else writer.without_own_keys(item), turns_key)
            bits = plain_features(item) if simple else features(item)
            if not simple or work.method in ("dpo", "classification"):
                found += check_example(item, work.method)
            if writer is not None and not (simple and takes(item)):
                found += left_out.problems(writer, item)
            if work.rules is not None:
                found += work.rules(item)
            if work.reasons:
                reasoning.add(item)
            if control is not None:
                found += check_control_tokens(item, control)
            found = list(in_own_terms(found, item, turns_key))
        tokens = count(item) if count is not None else None
        if tokens is not None and (work.limit is not None or work.max_tokens is not None):
            found += _too_long(work, tokens)
        if private:
            found += check_privacy(item, known)
        for finding in found:
            log.add(finding.at(work.file, line))
        label = label_of(item)
        stats.add(tokens, label, bits, len(item.messages))
        if duplicates or sketching:
            text = prompt_text(item)
            prompt = digest(text)
            if duplicates:
                keys.append((prompt, digest(answer_text(item)), line or 0, label is not None))
            if sketching:
                texts.append(text)
                lines.append(line or 0)
                prompts.append(prompt)
    sketches = None
    if work.sketcher is not None and texts:
        sketches = Sketches(*work.sketcher.sketch(texts), lines, prompts)
    return Block(log, stats, RowIndex.pack(keys, work.part), sketches, left_out, unused, reasoning)


def _too_long(work: Work, tokens: RowTokens) -> list[Finding]:
    """The finding for a row above the limit: an error where it is refused and the count is exact, else a warning."""
    about = "" if work.counter.exact else "about "
    if work.max_tokens is not None:
        if tokens.total <= work.max_tokens:
            return []
        say = error if work.counter.exact else warning
        return [
            say(
                "too-many-tokens",
                f"the row has {about}{tokens.total:,} tokens; {work.max_tokens:,} are allowed",
                "shorten it, or say what to do with long rows (dataset.on_too_long)",
            )
        ]
    limit = work.limit
    if limit is None:
        return []
    length = tokens.longest_turn if limit.per == "turn" else tokens.total
    if length <= limit.tokens:
        return []
    say = error if limit.refuses and work.counter.exact else warning
    then = "is refused" if limit.refuses else "is cut at its end"
    return [
        say(
            "too-many-tokens",
            f"the {limit.per} has {about}{length:,} tokens; above {limit.tokens:,} it {then} ({limit.source})",
            "shorten it",
        )
    ]
