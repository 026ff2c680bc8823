"""Checking the rows of one block, in this process or another: findings, counts, duplicate keys and sketches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.checks.duplicates import RowIndex
from llmtune.data.checks.left_out import LeftOut, UnusedKeys
from llmtune.data.checks.per_row import (
    check_control_tokens,
    check_example,
    compile_tokens,
    rename_turns,
)
from llmtune.data.checks.privacy import check_privacy
from llmtune.data.checks.reasoning import ReasoningCount
from llmtune.data.checks.stats import Stats
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, error, warning
from llmtune.data.formats.base import RowFormat, TokenLimit
from llmtune.data.formats.row_features import PLAIN, features
from llmtune.data.hashing import answer_text, digest, label_of, prompt_text
from llmtune.data.io.base import Notes
from llmtune.data.io.json_lines import read_block
from llmtune.data.io.reading import read_rows
from llmtune.data.rendering.token_count import Counter, RowTokens
from llmtune.redaction.secrets import known_secrets

if TYPE_CHECKING:
    from llmtune.data.checks.minhash import Sketcher

#: Every check by name, as `llmtune data check --only` takes them. What cannot be read is always reported.
CHECKS: tuple[str, ...] = ("structure", "duplicates", "near", "tokens", "privacy")

#: Bytes of a block; with two processes working and three blocks waiting this decides the memory used.
BLOCK = 2 << 20


class BlockTask(NamedTuple):
    """The checks to run on each row of one file."""

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
    """The sketches of a block's prompts, with their lines and keys. `has` is True for rows that have a sketch."""

    sketches: Any
    has: Any
    lines: Sequence[int]
    keys: Sequence[int]


class BlockResult(NamedTuple):
    """The findings and counts of one block."""

    log: FindingLog
    stats: Stats
    keys: bytes
    sketches: Sketches | None
    left_out: LeftOut
    unused: UnusedKeys
    reasoning: ReasoningCount


_task: BlockTask | None = None


def init_worker(task: BlockTask) -> None:
    """Set the task of this process."""
    global _task
    _task = task


def check_block(block: bytes, line: int) -> tuple[BlockResult, Notes]:
    """Check one block of JSON lines by the task of this process; `line` is the number of the line before it."""
    assert _task is not None
    assert _task.fmt is not None
    notes = Notes()
    rows = read_rows(read_block(block, line, notes), _task.fmt, None, _task.file, _task.names_classes)
    return check_rows(_task, rows), notes


def check_rows(task: BlockTask, rows: Iterable[Example | Finding]) -> BlockResult:
    """Run every check of the task on every row of a block; what could not be read is logged as it is."""
    log = FindingLog(task.keep)
    stats = Stats(exact=task.counter.exact, rule=task.counter.rule)
    left_out, unused, reasoning = LeftOut(), UnusedKeys(), ReasoningCount()
    structure = _make_structure_check(task, left_out, unused, reasoning) if "structure" in task.checks else None
    index = "duplicates" in task.checks
    count = task.counter.row if "tokens" in task.checks else None
    has_limit = task.limit is not None or task.max_tokens is not None
    private = "privacy" in task.checks
    secrets = known_secrets() if private else None
    keys: list[tuple[int, int, int, bool]] = []
    texts: list[str] = []
    lines: list[int] = []
    prompts: list[int] = []
    for row in rows:
        if isinstance(row, Finding):
            log.add(row)
            continue
        line = row.line
        findings: list[Finding] = []
        bits = structure(row, findings) if structure is not None else 0
        tokens = count(row) if count is not None else None
        if tokens is not None and has_limit:
            findings += _check_length(task, tokens)
        if private:
            findings += check_privacy(row, secrets)
        for finding in findings:
            log.add(finding.at(task.file, line))
        label = label_of(row)
        stats.add(tokens, label, bits, len(row.messages))
        if index or task.sketcher is not None:
            text = prompt_text(row)
            prompt = digest(text)
            if index:
                keys.append((prompt, digest(answer_text(row)), line or 0, label is not None))
            if task.sketcher is not None:
                texts.append(text)
                lines.append(line or 0)
                prompts.append(prompt)
    sketches = None
    if task.sketcher is not None and texts:
        sketches = Sketches(*task.sketcher.sketch(texts), lines, prompts)
    return BlockResult(log, stats, RowIndex.pack(keys, task.part), sketches, left_out, unused, reasoning)


def _make_structure_check(
    task: BlockTask, left_out: LeftOut, unused: UnusedKeys, reasoning: ReasoningCount
) -> Callable[[Example, list[Finding]], int]:
    """Return the check of a row's turns and keys: it adds its findings to a list and returns the row's feature bits.

    The other arguments count over all rows. A closure, because reading attributes for every row would be slower.
    """
    writer, rules, method, counts_reasoning = task.writer, task.rules, task.method, task.reasons
    turns_key = "messages" if task.fmt is None else task.fmt.turns_key
    lossless = writer.lossless_features if writer is not None else 0
    control = compile_tokens(task.counter.control_tokens)

    def check(row: Example, findings: list[Finding]) -> int:
        bits = features(row)
        if row.extra or bits & ~PLAIN:
            unused.add(row if writer is None else writer.without_own_keys(row), turns_key)
        if bits & ~PLAIN or method in ("dpo", "classification"):
            findings += check_example(row, method, bits)
        if writer is not None and bits & ~lossless:
            findings += left_out.problems(writer, row)
        if rules is not None:
            findings += rules(row)
        if counts_reasoning:
            reasoning.add(row)
        if control is not None:
            findings += check_control_tokens(row, control)
        if findings:
            findings[:] = rename_turns(findings, row, turns_key)
        return bits

    return check


def _check_length(task: BlockTask, tokens: RowTokens) -> list[Finding]:
    """Return the finding for a row above the limit, if it is: an error where longer rows are refused and the count is
    exact, else a warning."""
    about = "" if task.counter.exact else "about "
    if task.max_tokens is not None:
        if tokens.total <= task.max_tokens:
            return []
        make_finding = error if task.counter.exact else warning
        return [
            make_finding(
                "too-many-tokens",
                f"the row has {about}{tokens.total:,} tokens; {task.max_tokens:,} are allowed",
                "shorten it, or choose what to do with long rows (dataset.on_too_long)",
            )
        ]
    limit = task.limit
    if limit is None:
        return []
    length = tokens.longest_turn if limit.per == "turn" else tokens.total
    if length <= limit.tokens:
        return []
    make_finding = error if limit.refuses and task.counter.exact else warning
    then = "is refused" if limit.refuses else "is cut at its end"
    return [
        make_finding(
            "too-many-tokens",
            f"the {limit.per} has {about}{length:,} tokens; above {limit.tokens:,} it {then} ({limit.source})",
            "shorten it",
        )
    ]
